"""Head and loss for some positions at a time give what whole logits give, to the rounding of sums."""

from __future__ import annotations

import copy

import pytest
import torch

from mediant.evaluation.divergence import compare
from mediant.methods.training.distillation import Distillation
from mediant.models import head_in_pieces
from mediant.models.head_in_pieces import HeadInPieces, SomeLogits, logits_of
from mediant.models.opening import open_model
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.hessian import Accumulator
from mediant.statistics.sensitivity import collect

# Of sums of float32 in another order, relative to the largest: some hundred terms, each rounded by 2^-24.
ROUNDING = 512 * 2.0**-24
WINDOWS = torch.randint(3, 300, (4, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of five positions, for any window."""
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    monkeypatch.setattr(head_in_pieces, "PIECE", 5 * 320)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= ROUNDING * expected.abs().max())


def test_pieces_are_the_logits_of_a_plain_pass(architecture, tiny_network, small_pieces) -> None:
    network = tiny_network(architecture)
    if network.get_output_embeddings() is None:
        pytest.skip("an encoder has no logits")
    expected = network(input_ids=WINDOWS[:1], use_cache=False).logits[0]
    head = HeadInPieces(network)
    assert head.works
    some = SomeLogits(head, head.outputs(WINDOWS[:1]).last_hidden_state)
    assert some.shape == tuple(expected.shape)
    assert close(torch.cat([some[at] for at in head.pieces(24)]), expected)
    assert torch.equal(network(input_ids=WINDOWS[:1], use_cache=False).logits[0], expected)


@pytest.mark.parametrize("with_hessians", [False, True])
@pytest.mark.parametrize("name", ["gemma2", "opt"])
def test_statistics_agree(tiny_folder, name, with_hessians, tmp_path, monkeypatch) -> None:
    model, text = open_model(str(tiny_folder(name))), CalibrationText(WINDOWS, "a test")

    def found(folder):
        hessians = Accumulator() if with_hessians else None
        statistics = collect(model, text, hessians=hessians)
        return statistics, hessians and hessians.store(tmp_path / folder, text.tokens)

    whole, of_whole = found("whole")
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    monkeypatch.setattr(head_in_pieces, "PIECE", 5 * 320)
    pieces, of_pieces = found("pieces")
    assert whole.layers.keys() == pieces.layers.keys()
    # Activations that are kept as bfloat16 round a gradient that differs in a last bit another way.
    slack = 2.0**-8 if with_hessians else 100 * ROUNDING
    for layer, expected in whole.layers.items():
        for part, value in vars(expected).items():
            if value is not None and not isinstance(value, int):
                got = getattr(pieces.layers[layer], part)
                assert abs(got - value).max() <= slack * abs(value).max(), (layer, part)
    if with_hessians:
        assert of_whole.inputs == of_pieces.inputs
        for tensor in of_whole.inputs:
            assert (of_whole.read(tensor) == of_pieces.read(tensor)).all()


def test_comparisons_agree(tiny_network, monkeypatch) -> None:
    networks = tiny_network("llama"), tiny_network("mistral")
    whole = compare(*map(logits_of, networks), WINDOWS)
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    pieces = compare(*map(logits_of, networks), WINDOWS)
    assert isinstance(logits_of(networks[0])(WINDOWS[:1])[0], SomeLogits)
    assert pieces.kl == pytest.approx(whole.kl, rel=ROUNDING)
    assert pieces.perplexity == pytest.approx(whole.perplexity, rel=ROUNDING)


@pytest.mark.parametrize(
    "method",
    [Distillation(), Distillation(alpha=0.3, temperature=2.0), Distillation(alpha=1.0), Distillation(hidden=0.5)],
    ids=str,
)
def test_losses_and_their_gradients_agree(tiny_network, method, monkeypatch) -> None:
    teacher, student = tiny_network("gemma3").requires_grad_(False), tiny_network("gemma3")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.9)
    expected = method.loss(student, teacher, WINDOWS[0])
    gradients = torch.autograd.grad(expected, list(student.parameters()))
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    monkeypatch.setattr(head_in_pieces, "PIECE", 5 * 320)
    found = method.loss(student, teacher, WINDOWS[0])
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=100 * ROUNDING)
    for one, other in zip(torch.autograd.grad(found, list(student.parameters())), gradients, strict=True):
        assert (one - other).abs().max() <= 100 * ROUNDING * other.abs().max()


def test_a_network_that_uses_more_than_the_states_of_its_trunk_is_left_whole(tiny_network, monkeypatch) -> None:
    class Peculiar(type(tiny_network("llama"))):
        def forward(self, input_ids, **options):
            out = super().forward(input_ids=input_ids, **options)
            out.logits = out.logits + input_ids.shape[1]
            return out

    network = tiny_network("llama")
    network.__class__ = Peculiar
    monkeypatch.setattr(head_in_pieces, "WHOLE", 0)
    assert not HeadInPieces(copy.deepcopy(network)).works
    assert torch.is_tensor(logits_of(network)(WINDOWS[:1]))
