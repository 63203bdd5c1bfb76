"""Precision as a dial, its policies, and self-speculation, on a small packed model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mediant.errors import UsageError
from mediant.forms import Encoding, Views
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.forms.quantize.native import packed_matrix
from mediant.kernels import native
from mediant.methods.layer import prepare
from mediant.models.configuration import resolve
from mediant.runtime import reference_decoder
from mediant.runtime.decoder import Decoder
from mediant.runtime.families import describe
from mediant.runtime.generate import NativeWriter
from mediant.runtime.generation import GenerationRequest
from mediant.runtime.precision import Budget, Confidence, Load, divergence, own_text, policy_of, surest
from mediant.runtime.sampling import Sampling, sampler
from mediant.runtime.tensor_source import dense
from mediant.values import RowSpan, TensorInfo, Truncation

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")

VOCABULARY = 40
CONFIG = {
    "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}  # fmt: skip
PROMPT = [3, 14, 15, 9]


class Packed:
    """A random model whose matrices are stored nested, 4 bits a weight."""

    def __init__(self) -> None:
        self.truncations: dict[str, tuple[Truncation, ...]] = {}
        random, d = np.random.default_rng(2), describe(resolve(CONFIG))
        self.decoded: dict[str, NDArray[np.float32]] = {}
        self._encodings: dict[str, Encoding] = {}
        shapes = {
            "query": (64, 64), "key": (32, 64), "value": (32, 64), "out": (64, 64), "gate": (96, 64), "up": (96, 64),
            "down": (64, 96),
        }  # fmt: skip
        names = [(d.matrices[role].format(layer), shapes[role]) for layer in range(2) for role in shapes]
        for name, shape in [*names, ("model.embed_tokens", (VOCABULARY, 64))]:
            self._add(f"{name}.weight", np.float32(0.4 * random.standard_normal(shape)))
        for module in [norm.format(layer) for layer in range(2) for norm in d.norms.values()] + ["model.norm"]:
            self.decoded[f"{module}.weight"] = np.float32(1 + 0.1 * random.standard_normal(64))

    def _add(self, name: str, matrix: NDArray[np.float32]) -> None:
        plan = Quantize(grid={"name": "uniform"}, scale={"name": "absmax"}, rounding={"name": "nearest"},
            runs=(RowSpan(matrix.shape[0], 4),), group=32, scale_bits=6, scale_signed=False, scale_steps=8,
            storage="nested",
        )  # fmt: skip
        info = TensorInfo(name, matrix.shape, "float32", "linear", "out_in", name.removesuffix(".weight"), 0)
        found = quantize(prepare(matrix, plan.rotation, None), plan)
        self._encodings[name] = Encoding(info, plan, found.parts, found.certificate)
        self.decoded[name] = self._encodings[name].decode()

    def __contains__(self, name: str) -> bool:
        return name in self.decoded

    def name(self, name: str) -> str | None:
        return name if name in self.decoded else None

    def vector(self, name: str) -> NDArray[np.float32]:
        return self.decoded[name]

    def matrix(self, name: str) -> Views:
        e = self._encodings[name]
        views = [packed_matrix(e.plan, e.info, e.parts, e.side, bits) for bits in (None, 3, 2)]
        runs = self._encodings[name].plan.runs
        packed = tuple(native.packed_linear(view.handle) for view in views)
        return Views(packed, (4, 3, 2), runs, self.truncations.get(name, ()))


@pytest.fixture(scope="module")
def source() -> Packed:
    return Packed()


@pytest.fixture
def decoder(source: Packed) -> Decoder:
    return Decoder(describe(resolve(CONFIG)), source, threads=2, kv_bits=32, chunk=32)


def test_packed_logits_are_those_of_the_decoded_weights(source: Packed, decoder: Decoder) -> None:
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 50)
    expected = reference_decoder.logits(describe(resolve(CONFIG)), source, tokens)
    errors = []
    for bits in (15, 8):
        decoder.set_activation_bits(bits)
        errors.append(np.abs(decoder.logits(decoder.sequence(), tokens) - expected).max() / np.abs(expected).max())
    # Activations are off by half a step of 1 / 16319 or 1 / 127 of the largest of 32; some 14 products and sums of
    # random sign follow one another.
    assert errors[0] < 8 * 14 * 0.5 / 16319
    assert errors[0] < errors[1] < 8 * 14 * 0.5 / 127


def test_tokens_have_the_same_bits_in_a_batch(decoder: Decoder) -> None:
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 40)
    for bits in (15, 8):
        decoder.set_activation_bits(bits)
        together, alone = decoder.logits(decoder.sequence(), tokens), decoder.sequence()
        for place, token in enumerate(tokens):
            np.testing.assert_array_equal(decoder.step(alone, token), together[place])


def test_precision_changes_between_tokens(decoder: Decoder) -> None:
    assert decoder.precisions == (2, 3, 4)
    sizes = [decoder.bytes_at(bits) for bits in decoder.precisions]
    assert sizes == sorted(set(sizes))
    windows = own_text(decoder, windows=2, length=64)
    losses = [divergence(decoder, bits, windows) for bits in (4, 3, 2)]
    assert losses[0] == 0 < losses[1] < losses[2]
    decoder.set_precision(None)
    sequence = decoder.sequence()
    decoder.prefill(sequence, PROMPT)
    full = decoder.step(sequence, 7)
    sequence.truncate(4)
    decoder.set_precision(2)
    assert np.abs(decoder.step(sequence, 7) - full).max() > 0
    sequence.truncate(4)
    decoder.set_precision(None)
    np.testing.assert_array_equal(decoder.step(sequence, 7), full)
    with pytest.raises(UsageError, match="precisions 2, 3, 4"):
        decoder.set_precision(1)


def test_precision_follows_the_stored_order() -> None:
    source = Packed()
    names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(2) for part in ("up", "down")]
    source.truncations = {
        names[3]: (Truncation(3, 0), Truncation(2, 1)),
        names[0]: (Truncation(3, 2), Truncation(2, 3)),
    }
    decoder = Decoder(describe(resolve(CONFIG)), source, threads=1, kv_bits=32)
    order = [matrix for matrix in range(len(decoder.matrices)) if decoder.matrices[matrix].truncations]
    least, codes = decoder.precisions[0], sum(matrix.codes for matrix in decoder.matrices)
    assert decoder.precisions == (least, *(bits / 4 for bits in range(int(4 * least) + 1, 16)), 4)
    assert 0 <= least - (4 - 4 * 96 * 64 / codes) < 0.01
    one = 96 * 64 / codes
    found = [[decoder.views(4 - n * one + 0.01)[m] for m in order] for n in range(5)]
    assert found == [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2]]
    assert all(decoder.views(4)[m] == 0 for m in order)
    sizes = [decoder.bytes_at(bits) for bits in decoder.precisions]
    assert sizes == sorted(sizes)
    with pytest.raises(UsageError, match="it has the precisions"):
        decoder.views(least - 0.1)


def test_policies_have_names_on_the_command_line() -> None:
    assert policy_of("latency:0.5s").seconds == 0.5
    assert policy_of("energy:300mJ@15W").seconds == pytest.approx(0.02)
    assert isinstance(policy_of("load"), Load)
    assert (policy_of("confidence").least, policy_of("confidence:0.9").least) == (0.5, 0.9)
    for wrong in ("", "speed", "latency", "latency:30", "latency:0ms", "energy:3J", "energy:3J@0W", "confidence:2"):
        with pytest.raises(UsageError):
            policy_of(wrong)


@pytest.mark.parametrize("draft", [2, 3, 4])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_speculation_writes_the_same_text(draft: int, penalty: float, decoder: Decoder) -> None:
    for seed in range(6):
        prompt = np.random.default_rng(seed).integers(0, VOCABULARY, 5 + seed).tolist()
        sampling = Sampling(repetition_penalty=penalty)
        plain = list(NativeWriter(decoder).write(prompt, GenerationRequest(40, sampling)))
        request = GenerationRequest(40, sampling, draft=draft, draft_length=1 + seed)
        assert list(NativeWriter(decoder).write(prompt, request)) == plain
        stop = frozenset({plain[17]})
        short = plain[: plain.index(plain[17]) + 1]
        assert list(NativeWriter(decoder).write(prompt, GenerationRequest(40, sampling, stop, draft=draft))) == short
    assert 0 < decoder.drafts.accepted <= decoder.drafts.drafted


def test_all_bits_accept_their_own_drafts(decoder: Decoder) -> None:
    list(NativeWriter(decoder).write(PROMPT, GenerationRequest(40, draft=4)))
    assert decoder.drafts.accepted == decoder.drafts.drafted > 0


def test_drawn_speculation_has_the_same_distribution(decoder: Decoder) -> None:
    """Chi-square of the second and third token behind a prompt against the model's exact probabilities."""
    draws, prompt = 1500, [3]
    expected = _exact(decoder, prompt)
    counts = np.zeros((VOCABULARY, VOCABULARY))
    sequence = decoder.sequence()
    state = sampler(Sampling(temperature=1.0, seed=5), VOCABULARY)
    draft, whole = decoder.views(2), decoder.views(None)
    for _ in range(draws):
        sequence.truncate(0)
        first, second = decoder.native.speculate(sequence.cache, 3, 2, 1, draft, whole, state, [])[0]
        counts[first, second] += 1
    assert _chi_square_is_small(counts, draws * expected)
    # and the test sees the draft's own distribution
    decoder.set_precision(2)
    assert not _chi_square_is_small(counts, draws * _exact(decoder, prompt))


def _exact(decoder: Decoder, prompt: list[int]) -> NDArray[np.float64]:
    """Probabilities [first, second] of the two tokens behind a prompt."""
    sequence = decoder.sequence()
    first = _softmax(decoder.prefill(sequence, prompt))
    rows = []
    for token in range(VOCABULARY):
        sequence.truncate(len(prompt))
        rows.append(first[token] * _softmax(decoder.step(sequence, token)))
    return np.array(rows)


def _softmax(logits: Any) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def _chi_square_is_small(counts: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Cells expected less than five times are one. The statistic has mean n and deviation sqrt(2 n); four of them."""
    often = expected >= 5
    found = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    degrees = len(found) - 1
    return bool(((found - wanted) ** 2 / wanted).sum() < degrees + 4 * np.sqrt(2 * degrees))


def test_a_budget_is_kept_by_fewer_bits(decoder: Decoder) -> None:
    class Clock:
        """Each token takes as long as it has bytes."""

        time = 0.0
        calls = 0

        def __call__(self) -> float:
            self.calls += 1
            self.time += decoder.bytes_per_token if self.calls % 2 == 0 else 0
            return self.time

    for share, settled in ((2.0, 4), (0.9, 3), (0.1, 2)):
        policy = Budget(share * decoder.bytes_at(4), Clock())
        list(NativeWriter(decoder).write(PROMPT, GenerationRequest(40, policy=policy)))
        assert policy._precision == settled


def test_load_and_confidence_choose_bits(decoder: Decoder) -> None:
    def bits_under(load: float) -> int | None:
        policy = Load(load=lambda: load)
        list(NativeWriter(decoder).write(PROMPT, GenerationRequest(1, policy=policy)))
        return policy._precision

    assert [bits_under(load) for load in (0.0, 0.6, 5.0)] == [4, 3, 2]
    sure, unsure = Confidence(least=0.0), Confidence(least=1.0)
    full = list(NativeWriter(decoder).write(PROMPT, GenerationRequest(20)))
    assert list(NativeWriter(decoder).write(PROMPT, GenerationRequest(20, policy=unsure))) == full
    list(NativeWriter(decoder).write(PROMPT, GenerationRequest(20, policy=sure)))
    assert (sure.again, unsure.again) == (0, 20)
    assert surest(np.zeros(4, np.float32)) == 0.25
    for wrong in (lambda: Budget(0), lambda: Confidence(2)):
        with pytest.raises(UsageError):
            wrong()


def test_a_dense_model_has_one_precision() -> None:
    matrix = dense(np.ones((2, 2), np.float32))
    assert matrix.bits == ()
