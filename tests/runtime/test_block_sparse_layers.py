"""A model pruned in blocks: the same logits without the zero blocks, in transformers and in the native decoder."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mediant.checkpoint.reader import open_checkpoint
from mediant.checkpoint.writer import write
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.forms.sparse.form import Sparse
from mediant.kernels import native
from mediant.models.opening import open_model
from mediant.models.sidecar_files import sidecar_files
from mediant.models.weights import WeightReader
from mediant.planning.plan import Plan
from mediant.runtime.decoder import Decoder
from mediant.runtime.loading import load

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(2, 320, (2, 40)))
PATTERN = {"name": "blocks", "sparsity": 0.5, "height": 8, "width": 8}


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """Llama's linear layers with every second block of 8 x 8 kept, by chance; biases and all else as it was."""
    model, target = open_model(str(tiny_folder("llama"))), tmp_path_factory.mktemp("blocks") / "llama"
    sparse = Sparse(Cast("float32"), pattern=PATTERN, score={"name": "random"})
    plans = {t.name: sparse if t.role == "linear" else Cast("float32") for t in model.tensors}
    generator, encodings = np.random.default_rng(1), []
    with WeightReader(model) as weights:
        for info in model.tensors:
            values, parts = weights.read(info.name), {}
            if info.role == "linear":
                positions = sparse.positions(info)
                blocks = generator.random((positions.rows // 8, positions.columns // 8)).argsort(1) < positions.row // 8
                mask = blocks.repeat(8, 0).repeat(8, 1)
                parts, values = {"positions": positions.encode(mask)}, values[mask]
            encodings.append(Encoding(info, plans[info.name], parts | {"data": values}))
    plan = Plan(model.fingerprint, "prune", 0, plans)
    write(target, model, plan, None, encodings, sidecar_files(model, "a test"))
    return target


def dense(folder):
    """The same network with layers that multiply by zeros too."""
    network, checkpoint = load(folder), open_checkpoint(folder)
    for name in checkpoint.tensors:
        module = network.get_submodule(name.rpartition(".")[0])
        entry = checkpoint.tensors[name]
        if entry.plan.in_blocks(entry.info, entry.side):
            assert torch.equal(module.weight, torch.from_numpy(checkpoint.encoding(name).decode()))
            del module.forward
    return network


def logits(network):
    with torch.no_grad():
        return network(input_ids=TOKENS).logits


def test_logits_are_those_of_the_dense_network(folder):
    # Sums of at most 48 products in another order, through two blocks.
    torch.testing.assert_close(logits(load(folder)), logits(dense(folder)), rtol=1e-4, atol=1e-5)


def test_zero_blocks_are_not_multiplied(folder, monkeypatch):
    network, seen = load(folder), []
    multiply = type(network.model.layers[0].mlp.up_proj.forward.__self__.blocks).multiply
    monkeypatch.setattr(
        "mediant.kernels.block_sparse_matrix.BlockSparse.multiply", lambda s, x: seen.append(s) or multiply(s, x)
    )
    logits(network)
    assert len(seen) == 14
    assert all(2 * blocks.values.size == blocks.columns * len(blocks.values) for blocks in seen)


def test_changed_weights_and_gradients_take_the_dense_way(folder):
    network, plain = load(folder), dense(folder)
    for one in (network, plain):
        with torch.no_grad():
            one.model.layers[0].mlp.up_proj.weight += 0.5
    assert torch.equal(network.model.layers[0].mlp.up_proj.weight, plain.model.layers[0].mlp.up_proj.weight)
    torch.testing.assert_close(logits(network), logits(plain), rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(n(input_ids=TOKENS).logits.sum(), [*n.parameters()]) for n in (network, plain)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    # A copy has forwards of its own.
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.zero_()
    assert not torch.equal(logits(other), logits(network))


def test_saving_writes_all_weights(folder, tmp_path):
    load(folder).save_pretrained(tmp_path / "dense")
    again = type(load(folder)).from_pretrained(tmp_path / "dense")
    torch.testing.assert_close(logits(again), logits(dense(folder)), rtol=0, atol=0)


@pytest.mark.skipif(native is None, reason="needs the native kernels")
def test_the_native_decoder_skips_them_too(folder, tmp_path):
    """Against the decoder on the same weights in an ordinary folder."""
    load(folder).save_pretrained(tmp_path / "dense")
    for threads in (1, 2):
        decoders = [Decoder.open(f, threads=threads) for f in (folder, tmp_path / "dense")]
        one, two = (d.logits(d.sequence(), TOKENS[0].numpy()) for d in decoders)
        np.testing.assert_array_equal(one, two)
    assert decoders[0].native.weight_bytes < 0.8 * decoders[1].native.weight_bytes
