"""Every mixture of experts goes through the network's names and comes back as its files have it."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mediant.models import architecture
from mediant.models.file_names import as_in_files
from mediant.models.opening import open_model
from mediant.models.stored import stored_tensors
from mediant.models.weights import WeightReader

# Names of the same numbers in different families.
MIXTURE = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": None, "kv_lora_rank": 8, "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4, "v_head_dim": 8, "decoder_sparse_step": 1, "moe_layer_start_index": 0, "moe_topk": 2,
    "n_shared_experts": 1,
}  # fmt: skip
FAMILIES = ("mixtral", "qwen2_moe", "gpt_oss", "granitemoe", "deepseek_v3", "llama")
MORE = (
    "qwen3_moe", "olmoe", "deepseek_v2", "jetmoe", "phimoe", "minimax", "dots1", "ernie4_5_moe", "glm4_moe",
    "hunyuan_v1_moe", "flex_olmo", "granitemoeshared", "qwen3_next", "minimax_m2", "gpt_neox", "gemma3_text",
)  # fmt: skip


def random_folder(model_type, path):
    config = transformers.CONFIG_MAPPING[model_type](**MIXTURE)
    network = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    network.save_pretrained(path)
    return path


def outline(path):
    return architecture.empty_network(architecture.load_config(path))


@pytest.mark.parametrize("model_type", [*FAMILIES, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE)])
def test_the_files_come_back(model_type, tmp_path):
    path = random_folder(model_type, tmp_path)
    before = load_file(path / "model.safetensors")
    for keys in (stored_tensors(path), None):
        with WeightReader(open_model(str(path))) as weights:
            found = as_in_files(weights.lazy(), outline(path), keys)
            assert found.keys() == before.keys()
            for name, tensor in found.items():
                assert tensor.shape == tuple(before[name].shape)
                assert torch.equal(tensor.read(), before[name]), name
            save_file({name: tensor.read() for name, tensor in found.items()}, tmp_path / "again.safetensors")


def test_stacked_files_stay_stacked(tmp_path):
    """Files that transformers need not convert are not converted on the way back."""
    path = random_folder("mixtral", tmp_path)
    with WeightReader(open_model(str(path))) as weights:
        stacked = {name: tensor.read() for name, tensor in weights.lazy().items()}
    (path / "model.safetensors").unlink()
    save_file(stacked, path / "model.safetensors")
    with WeightReader(open_model(str(path))) as weights:
        assert as_in_files(weights.lazy(), outline(path), weights.keys).keys() == stacked.keys()
