"""Sensitivities against sums taken by hand and against the loss they predict."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from tests.tiny_models import byte_tokenizer

from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.statistics import storage
from mediant.statistics.calibration_text import CalibrationText, calibration_tokens
from mediant.statistics.hessian import Accumulator
from mediant.statistics.sensitivity import MOST_ENERGY, collect, sampled, tempered


@pytest.fixture(scope="module")
def model(tiny_folder):
    return open_model(str(tiny_folder("llama")))


def random_text(model, windows, window, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config["vocab_size"]
    return CalibrationText(torch.randint(vocabulary, (windows, window), generator=generator), "random")


@pytest.fixture(scope="module")
def statistics(model):
    return collect(model, random_text(model, 24, 16))


def test_every_matrix_that_runs_has_statistics(model, statistics):
    matrices = {t.name for t in model.tensors if t.role in ("linear", "embedding", "head")}
    assert set(statistics.layers) == matrices
    for info in model.tensors:
        if info.name in matrices:
            rows, columns = info.matrix_shape
            layer = statistics.layers[info.name]
            assert layer.output_fisher.shape == (rows,)
            assert layer.input_square.shape == layer.input_mean.shape == (columns,)
            assert (layer.input_square >= 0).all()
            assert (layer.output_fisher >= 0).all()


def test_input_moments_are_those_of_the_inputs(model, statistics):
    network = load_reference(model)
    name = next(t.name for t in model.tensors if t.role == "linear")
    seen = []
    module = network.get_submodule(name.rpartition(".")[0])
    module.register_forward_hook(lambda m, x, y: seen.append(x[0].reshape(-1, x[0].shape[-1])))
    with torch.inference_mode():
        network(input_ids=random_text(model, 24, 16).windows)
    inputs = torch.cat(seen).double().numpy()
    layer = statistics.layers[name]
    # The same float32 forward in another batch shape: each activation within a few hundred epsilons.
    tolerance = 512 * np.finfo(np.float32).eps
    np.testing.assert_allclose(layer.input_square, (inputs**2).mean(0), rtol=tolerance)
    np.testing.assert_allclose(layer.input_mean, inputs.mean(0), atol=tolerance * np.abs(inputs).max())


def test_activations_held_as_bfloat16_hardly_change_the_fisher(model):
    """A window's gradients with and without Hessians beside it, which is when activations are held so."""
    text = random_text(model, 1, 64)
    exact, held = collect(model, text).layers, collect(model, text, hessians=Accumulator()).layers
    differ = [
        np.abs(held[name].output_fisher - layer.output_fisher).sum() / layer.output_fisher.sum()
        for name, layer in exact.items()
    ]
    assert 0 < max(differ) < 0.01


def test_no_token_owns_the_inputs_and_none_is_lost():
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    massive = torch.zeros(8)
    massive[3] = 1e4
    inputs[0] = massive
    limited = tempered(inputs)
    assert torch.equal(limited[1:], inputs[1:])
    median = inputs.square().sum(1).median()
    torch.testing.assert_close(limited[0], massive / massive.norm() * (MOST_ENERGY * median).sqrt())
    assert torch.equal(tempered(torch.zeros(4, 8)), torch.zeros(4, 8))


def test_threads_do_not_change_a_bit(model, monkeypatch):
    found = []
    for count in ("1", "2"):
        monkeypatch.setenv("MEDIANT_THREADS", count)
        found.append(storage.to_bytes(collect(model, random_text(model, 6, 12))))
    assert found[0] == found[1]


def test_predicts_the_divergence_that_noise_in_the_head_causes(tiny_folder):
    """In the last layer there is nothing between weight and logits: the diagonal prediction is exact on average."""
    model = open_model(str(tiny_folder("llama")))
    text = random_text(model, 32, 16)
    name = next(t.name for t in model.tensors if t.role == "head")
    layer = collect(model, text).layers[name]
    network = load_reference(model)
    head = network.get_output_embeddings()
    original = head.weight.detach().clone()
    noise = np.sqrt((original**2).mean().item()) * 0.05
    with torch.inference_mode():
        reference = network(input_ids=text.windows).logits.log_softmax(-1)
        measured = []
        for seed in range(40):
            shift = torch.randn(original.shape, generator=torch.Generator().manual_seed(seed)) * noise
            head.weight.copy_(original + shift)
            changed = network(input_ids=text.windows).logits.log_softmax(-1)
            measured.append((reference.exp() * (reference - changed)).sum(-1).mean().item())
    predicted = 0.5 * noise**2 * layer.output_fisher.sum() * layer.input_square.sum()
    error = np.std(measured) / np.sqrt(len(measured))
    # Four standard errors, and 2 % for the terms beyond second order.
    assert abs(np.mean(measured) - predicted) < 4 * error + 0.02 * predicted


def test_embedding_rows_that_never_came_up_still_count(model, statistics):
    embedding = statistics.layers[next(t.name for t in model.tensors if t.role == "embedding")]
    assert (embedding.output_fisher >= 0.1 / len(embedding.output_fisher)).all()
    assert embedding.output_fisher.sum() == pytest.approx(1)


def test_storage_round_trip(statistics):
    again = storage.from_bytes(storage.to_bytes(statistics))
    assert again.tokens == statistics.tokens
    assert again.source == statistics.source
    for name, layer in statistics.layers.items():
        other = again.layers[name]
        for field in storage.ARRAYS:
            one, two = getattr(layer, field), getattr(other, field)
            assert (one is None) == (two is None)
            if one is not None:
                np.testing.assert_array_equal(one, two)


def test_an_encoder_without_text_reads_random_tokens(tiny_folder):
    model = open_model(str(tiny_folder("bert")))
    text = calibration_tokens(model, None, 0, windows=4, window=16)
    assert "random" in text.source
    layers = collect(model, text).layers
    assert any(".attention." in name for name in layers)


def test_a_family_that_changes_its_embeddings_in_place(tmp_path):
    """CTRL multiplies what its embedding gives by sqrt(width) in place, which a leaf would not allow."""
    transformers.set_seed(0)
    config = transformers.CTRLConfig(vocab_size=320, n_embd=16, dff=24, n_layer=2, n_head=2, n_positions=64)
    transformers.CTRLLMHeadModel(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model = open_model(str(tmp_path))
    found = collect(model, random_text(model, 4, 16)).layers["transformer.w.weight"].input_square
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_classes_are_drawn_as_often_as_they_are_probable():
    p = torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0]).repeat(4000, 1)
    counts = torch.bincount(sampled(p, torch.Generator().manual_seed(1))[:, 0], minlength=5)
    assert counts[1] == counts[4] == 0
    # Six standard deviations of a binomial count.
    assert ((counts - 4000 * p[0]).abs() <= 6 * (4000 * p[0] * (1 - p[0])).sqrt()).all()
