"""Self-speculation against plain decoding: the same greedy text on 50 prompts, and how long both take.

    mediant compress demo --recipe nested --size 68MB --out smol-nested
    python benchmarks/end_to_end/speculation.py smol-nested --draft 2 3 --length 2 4
    python benchmarks/runtime/random_model.py random-7b --storage nested
    python benchmarks/end_to_end/speculation.py random-7b --prompts 2 --tokens 8

Prompts are the beginnings of ten sentences at five lengths; a model without a tokenizer gets random tokens instead.
Plain decoding and all drafts take turns on every prompt. Prints, for every draft, in how many prompts the texts are
equal, the share of drafted tokens that all bits agree with, tokens a round, and the time of plain decoding divided by
its own: of all prompts together, and of the best repeat of each. Exits with 1 if a text differs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import numpy as np

from mediant.models.reference import load_tokenizer
from mediant.runtime.decoder import Decoder, Drafts
from mediant.runtime.generate import NativeWriter
from mediant.runtime.generation import GenerationRequest

SENTENCES = (
    "The harbour was quiet that morning, and only two of the boats had come back with anything to sell at the market.",
    "To bake a good loaf of bread you need flour, water, salt and yeast, a warm kitchen, and above all enough time.",
    "The theorem says that every bounded sequence of real numbers has a subsequence that converges to some limit.",
    "In the autumn the river rises slowly, the meadows turn to shallow lakes, and the cranes stop for a few weeks.",
    "She opened the letter at last, read the first line twice, and sat down on the stairs without a single word.",
    "A computer keeps its programs in memory, where they are numbers like any others and can be changed by programs.",
    "The city council decided on Tuesday to close the old bridge to cars, but to leave it open to people on foot.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen, and almost all life depends on it.",
    "My grandfather repaired clocks, and his workshop was full of their ticking, each of them at a pace of its own.",
    "When the orchestra had tuned its instruments, the conductor raised both hands and waited until all was silent.",
)
WORDS = (4, 7, 10, 13, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft", type=float, nargs="+", default=[2.0])
    parser.add_argument("--length", type=int, nargs="+", default=[4])
    parser.add_argument("--prompts", type=int, default=len(SENTENCES) * len(WORDS))
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--activations", type=int, default=15)
    given = parser.parse_args()
    decoder = Decoder.open(given.model, activation_bits=given.activations)
    texts = prompts(given.model, decoder)[: given.prompts]
    drafts = list(itertools.product(given.draft, given.length))
    requests = [GenerationRequest(given.tokens)]
    requests += [GenerationRequest(given.tokens, draft=bits, draft_length=length) for bits, length in drafts]
    seconds = np.zeros((len(requests), given.repeats, len(texts)))
    same = np.ones((len(requests), len(texts)), bool)
    counts = [Drafts() for _ in requests]
    for repeat, (place, text) in itertools.product(range(given.repeats), enumerate(texts)):
        expected: list[int] = []
        for number, request in enumerate(requests):
            decoder.drafts = counts[number]
            found, seconds[number, repeat, place] = written(decoder, text, request)
            expected = expected or found
            same[number, place] &= found == expected
    best = seconds.min(axis=1).sum(axis=1)
    print(f"{len(texts)} prompts of {given.tokens} tokens; plain: {given.tokens * len(texts) / best[0]:.1f} tokens/s")
    for number, (bits, length) in enumerate(drafts, 1):
        c = counts[number]
        ratios = seconds[0].sum() / seconds[number].sum(), best[0] / best[number]
        print(
            f"draft of {length} at {bits:g} bits: the same text on {same[number].sum()},"
            f" {c.accepted / c.drafted:.0%} accepted, {1 + c.accepted / c.rounds:.2f} tokens a round,"
            f" time ratio {ratios[0]:.2f}, of the best repeats {ratios[1]:.2f}"
        )
    sys.exit(0 if same.all() else 1)


def prompts(folder: Path, decoder: Decoder) -> list[list[int]]:
    """Token ids of the beginnings of the sentences, the shortest of all sentences first."""
    beginnings = [" ".join(sentence.split()[:words]) for words in WORDS for sentence in SENTENCES]
    if (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(folder)
        return [tokenizer(text)["input_ids"] for text in beginnings]
    random = np.random.default_rng(0)
    return [random.integers(3, decoder.vocabulary, len(text.split())).tolist() for text in beginnings]


def written(decoder: Decoder, text: list[int], request: GenerationRequest) -> tuple[list[int], float]:
    """The tokens behind a text, and the seconds for them; reading the text is not counted."""
    writer = NativeWriter(decoder)
    list(writer.write(text, GenerationRequest(1)))
    began = time.perf_counter()
    found = list(writer.write(text, request))
    return found, time.perf_counter() - began


if __name__ == "__main__":
    main()
