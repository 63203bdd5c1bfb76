"""Quantized sources are decoded as published, and said to be so; what is not decoded is refused by name."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from mediant.errors import ModelError
from mediant.models.opening import open_model
from mediant.models.quantized import from_fp4, from_fp8
from mediant.models.weights import WeightReader

FP8 = torch.float8_e4m3fn


class Listener:
    def __init__(self):
        self.said = []

    def track(self, items, what, total=None):
        yield from items

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def spoiled(tiny_network, tmp_path):
    """A folder whose matrices of projections are changed, with what the configuration declares."""

    def make(change, declared=None, name="llama", where="proj.weight"):
        folder, tensors = tmp_path / "model", {}
        network = tiny_network(name)
        network.save_pretrained(folder)
        for key, value in network.state_dict().items():
            tensors |= change(key, value) if where in key else {key: value}
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        if declared:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"quantization_config": declared}))
        return folder

    return make


def test_fp4_is_decoded_as_transformers_does():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 8, 5, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(0, 254, (3, 8, 5), generator=generator, dtype=torch.uint8)
    assert from_fp4(blocks, scales).equal(convert_moe_packed_tensors(blocks, scales))


def every_value():
    """All finite numbers of FP8."""
    codes = torch.arange(256, dtype=torch.uint8).view(FP8)
    return codes[codes.float().isfinite()][:252].reshape(12, 21)


@pytest.mark.parametrize("grid", [(1, 1), (12, 1), (1, 21), (4, 3), (12, 21), (2, 7)])
def test_blocks_of_fp8_are_decoded_as_transformers_does(grid):
    scales = torch.rand(grid, generator=torch.Generator().manual_seed(1)) + 0.01
    expected = Fp8Dequantize(None)._dequantize_one(every_value(), scales, torch.float32)
    assert from_fp8(every_value(), scales).equal(expected)


def test_blocks_at_the_edge_are_smaller():
    values = torch.ones(300, 130).to(FP8)
    scales = torch.arange(6.0).reshape(3, 2)
    assert from_fp8(values, scales, (128, 128)).equal(
        torch.tensor([[scales[r // 128, c // 128] for c in range(130)] for r in range(300)])
    )
    with pytest.raises(ValueError, match="do not fit"):
        from_fp8(values, torch.ones(7, 2))


def test_exponents_as_bytes():
    values, exponents = torch.ones(4, 4).to(FP8), torch.tensor([[120], [127], [128], [140]], dtype=torch.uint8)
    assert from_fp8(values, exponents)[:, 0].tolist() == [2.0**-7, 1.0, 2.0, 2.0**13]


def one_scale(key, value):
    scale = value.abs().max() / 448
    return {key: (value / scale).to(FP8), f"{key}_scale_inv": scale.reshape(1, 1)}


def scale_of_rows(key, value):
    scale = value.abs().amax(1, keepdim=True) / 448
    return {key: (value / scale).to(FP8), f"{key}_scale": scale.to(torch.bfloat16), f"{key[:-7]}.input_scale": scale[0]}


def vector_of_rows(key, value):
    scale = value.abs().amax(1) / 448
    return {key: (value / scale[:, None]).to(FP8), f"{key}_scale": scale}


def blocks(key, value):
    scale = value.abs().reshape(value.shape[0] // 8, 8, -1, 8).amax((1, 3)) / 448
    spread = scale.repeat_interleave(8, 0).repeat_interleave(8, 1)
    return {key: (value / spread).to(FP8), f"{key}_scale_inv": scale}


DECLARED = [
    None,
    {"quant_method": "fp8", "weight_block_size": [8, 8]},
    {"quant_method": "compressed-tensors", "format": "float-quantized"},
    {"quant_method": "fbgemm_fp8"},
]


@pytest.mark.parametrize("declared", DECLARED)
@pytest.mark.parametrize("change", [one_scale, scale_of_rows, vector_of_rows, blocks])
def test_fp8_is_decoded_declared_or_not(spoiled, tiny_network, change, declared):
    listener, original = Listener(), tiny_network("llama").state_dict()
    model = open_model(str(spoiled(change, declared)), listener)
    assert any("are FP8; they are dequantized once" in line for line in listener.said)
    assert any("scales of activations" in line for line in listener.said) == (change is scale_of_rows)
    assert "quantization_config" not in model.config
    assert model.name == "model"
    with WeightReader(model) as weights:
        for info in model.tensors:
            read, true = torch.from_numpy(weights.read(info.name)), original[info.name]
            if "proj" not in info.name:
                assert read.equal(true)
                continue
            stored = change(info.name, true)
            scale = next(v for k, v in stored.items() if "weight_scale" in k).float()
            if scale.ndim == 1:
                scale = scale[:, None]
            spread = scale.repeat_interleave(true.shape[0] // scale.shape[0], 0)
            spread = spread.repeat_interleave(true.shape[1] // scale.shape[1], 1)
            assert read.equal(stored[info.name].float() * spread)


def test_fp8_without_scales_is_what_it_says(spoiled, tiny_network):
    model = open_model(str(spoiled(lambda key, value: {key: value.to(FP8)})))
    name = "model.layers.0.mlp.up_proj.weight"
    with WeightReader(model) as weights:
        assert torch.from_numpy(weights.read(name)).equal(tiny_network("llama").state_dict()[name].to(FP8).float())


def test_gpt_oss_in_mxfp4(spoiled):
    generator = torch.Generator().manual_seed(2)
    expected = {}

    def change(key, value):
        experts, columns, rows = value.shape
        blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(118, 124, (experts, rows, columns // 32), generator=generator, dtype=torch.uint8)
        expected[key] = convert_moe_packed_tensors(blocks, scales).float()
        return {f"{key}_blocks": blocks, f"{key}_scales": scales}

    folder = spoiled(
        lambda k, v: change(k, v) if not k.endswith("bias") and v.shape[1] % 32 == 0 else {k: v},
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        "gpt_oss",
        "experts.gate_up_proj",
    )
    model = open_model(str(folder))
    assert expected
    with WeightReader(model) as weights:
        for name, values in expected.items():
            assert torch.from_numpy(weights.read(name)).equal(values)


def test_it_is_decoded_once_and_again_when_the_files_change(spoiled):
    folder = spoiled(one_scale)
    first = open_model(str(folder))
    assert open_model(str(folder)).path == first.path
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert open_model(str(folder)).fingerprint != first.fingerprint


def packed(key, value):
    return {key.replace("weight", "weight_packed"): torch.ones(4, 4, dtype=torch.int32)}


def gptq(key, value):
    return {
        key.replace("weight", "qweight"): torch.ones(4, 4, dtype=torch.int32),
        key.replace("weight", "g_idx"): value[0],
    }


def bitsandbytes_8(key, value):
    scale = value.abs().amax(1)
    return {key: (value / scale[:, None] * 127).round().to(torch.int8), key.replace("weight", "SCB"): scale}


def bitsandbytes_4(key, value):
    return {key: torch.ones(64, 1, dtype=torch.uint8), f"{key}.absmax": torch.ones(8)}


def integers(key, value):
    return {key: value.round().to(torch.int8)}


def scaled_floats(key, value):
    return {key: value, f"{key}_scale": torch.ones(1)}


def some_without_scale(key, value):
    return one_scale(key, value) if "q_proj" in key else {key: value.to(FP8)}


@pytest.mark.parametrize(
    "change", [packed, gptq, bitsandbytes_8, bitsandbytes_4, integers, scaled_floats, some_without_scale]
)
def test_other_ways_are_refused_by_name(spoiled, change):
    with pytest.raises(
        ModelError, match=r"does not decode: model\.layers.*give the model it was made from|has no scale"
    ):
        open_model(str(spoiled(change)))


@pytest.mark.parametrize(
    "declared",
    [
        {"quant_method": "gptq"},
        {"quant_method": "awq"},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "something",
    ],
)
def test_other_methods_are_refused(spoiled, declared):
    with pytest.raises(ModelError, match="already quantized by"):
        open_model(str(spoiled(one_scale, declared)))


def test_a_declaration_without_quantized_weights(spoiled):
    with pytest.raises(ModelError, match="declares 'fp8', but no weight is quantized so"):
        open_model(str(spoiled(lambda k, v: {k: v}, {"quant_method": "fp8"})))


def test_what_is_not_taken_is_refused_before_it_is_decoded(tmp_path):
    config = transformers.T5Config(vocab_size=320, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4)
    network = transformers.T5ForConditionalGeneration(config)
    network.save_pretrained(tmp_path / "model")
    tensors = {n: v.to(FP8) if v.ndim == 2 else v for n, v in load_file(tmp_path / "model/model.safetensors").items()}
    save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
    listener = Listener()
    with pytest.raises(ModelError, match="T5ForConditionalGeneration, which has an encoder and a decoder"):
        open_model(str(tmp_path / "model"), listener)
    assert listener.said == []
    assert not (tmp_path / "cache" / "models").exists()
