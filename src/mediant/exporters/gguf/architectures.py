"""Architectures that llama.cpp runs, and what it reads of each."""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from mediant.errors import ModelError

ATTENTION = frozenset(("q_proj", "k_proj", "v_proj"))


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures.

    `interleaved` says how it rotates queries and keys: transformers rotates the two halves of a head against each
    other; where this is True llama.cpp rotates neighbouring rows, so that the rows of these matrices must be
    interleaved. `biased` are the layers whose biases it reads, `factors` whether it reads factors of the rotary
    frequencies, and `free_heads` whether all heads together may be wider than the hidden state.
    """

    id: gguf.MODEL_ARCH
    interleaved: bool
    biased: frozenset[str]
    factors: bool = False
    free_heads: bool = True

    @property
    def name(self) -> str:
        """Its name in files."""
        return str(gguf.MODEL_ARCH_NAMES[self.id])


LLAMA = Architecture(
    gguf.MODEL_ARCH.LLAMA,
    interleaved=True,
    biased=ATTENTION | {"o_proj", "gate_proj", "up_proj", "down_proj"},
    factors=True,
)
QWEN2 = Architecture(gguf.MODEL_ARCH.QWEN2, interleaved=False, biased=ATTENTION, free_heads=False)
QWEN3 = Architecture(gguf.MODEL_ARCH.QWEN3, interleaved=False, biased=ATTENTION)

ARCHITECTURES = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
}


def architecture_of(names: list[str] | None) -> Architecture:
    """Returns the architecture for a configuration's `architectures`.

    Raises:
        ModelError: it is none of those known here.
    """
    name = (names or ["?"])[0]
    if name not in ARCHITECTURES:
        raise ModelError(f"A model of the architecture {name!r} cannot become GGUF; {', '.join(ARCHITECTURES)} can.")
    return ARCHITECTURES[name]
