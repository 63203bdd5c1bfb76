"""KL divergence between the native decoder and transformers, on the same packed weights: what the kernels' arithmetic
costs.

    python benchmarks/end_to_end/native_kl.py smol-60 wikitext-2-valid.txt 4
    python benchmarks/end_to_end/native_kl.py smol-60 wiki.test.raw 16 --ranges min-max.ranges kl.ranges

Prints KL(transformers with decoded weights, float32 || native) at activations of 8 and of 15 bits, over the second
halves of windows of 512 tokens, and how much perplexity rises; with files of `mediant ranges`, at 8 bits within these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mediant import load
from mediant.evaluation.divergence import compare
from mediant.evaluation.windows import cut
from mediant.models.reference import load_tokenizer
from mediant.runtime import static_ranges
from mediant.runtime.activation_bits import CHOICES
from mediant.runtime.decoder import Decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("windows", type=int)
    parser.add_argument("--kv-bits", type=int, default=16)
    parser.add_argument("--ranges", type=Path, nargs="*", default=[], help="files of fixed ranges")
    given = parser.parse_args()
    ids = load_tokenizer(given.checkpoint)(given.text.read_text(encoding="utf-8")[: 6000 * given.windows])["input_ids"]
    windows = cut(ids, given.windows, 512)
    network, decoder = load(given.checkpoint), Decoder.open(given.checkpoint, kv_bits=given.kv_bits)
    kept: dict[bytes, torch.Tensor] = {}

    def reference(tokens: torch.Tensor) -> torch.Tensor:
        key = tokens.numpy().tobytes()
        if key not in kept:
            kept[key] = network(tokens).logits
        return kept[key]

    def native(tokens: torch.Tensor) -> torch.Tensor:
        logits = decoder.logits(decoder.sequence(), np.asarray(tokens[0]))
        return torch.from_numpy(logits)[None]

    def judge(what: str) -> None:
        found = compare(reference, native, windows)
        rise = 100 * (found.perplexity / found.reference_perplexity - 1)
        print(
            f"{what}: KL {found.kl:.2e} ± {found.kl_se:.1e}, same first choice {100 * found.top1:.2f} %, "
            f"perplexity {found.reference_perplexity:.3f} -> {found.perplexity:.3f} ({rise:+.2f} %)",
            flush=True,
        )

    for bits in CHOICES:
        decoder.set_activation_bits(bits)
        judge(f"{bits}-bit activations")
    decoder.set_activation_bits(8)
    for file in given.ranges:
        decoder.set_ranges(static_ranges.read(file))
        judge(f"8-bit activations, {file.name}")


if __name__ == "__main__":
    main()
