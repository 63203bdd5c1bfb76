"""A float32 encoder at 3 and 4 bits by several recipes: mean cosine of sentence embeddings to the original's.

    python benchmarks/end_to_end/compare_encoder.py MODEL wiki.test.raw --calibration wiki.valid.txt --json out.json

The sizes are those of round-to-nearest folders with 3 and with 4 bits everywhere, so that every recipe has the same
bytes. Sentences are the first of a text that calibration did not see: pieces of its lines between full stops.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from mediant import files
from mediant.allocation.sizing import Sizing
from mediant.allocation.units import outline
from mediant.cli._console import RichProgress
from mediant.pipeline.compare import CompareRequest, compare
from mediant.pipeline.compress import begun
from mediant.pipeline.request import CompressRequest
from mediant.reports.comparison import columns, lines, notes

BIT_WIDTHS = (3, 4)
FEWEST_WORDS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--recipes", default="default,rtn,hqq,gptq")
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("compare-encoder"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    chosen = given.out / "sentences.txt"
    files.write(chosen, "\n".join(sentences(given.text, given.sentences)).encode())
    sizes = tuple(str(plain_bytes(given.model, given.calibration, given.out, bits)) for bits in BIT_WIDTHS)
    asked = CompareRequest(
        given.model, given.out, sizes, tuple(given.recipes.split(",")), given.calibration, chosen,
        windows=50, window=64,
    )  # fmt: skip
    table = dataclasses.asdict(compare(asked, RichProgress()))
    for line in (columns(table), *lines(table)):
        print("  ".join(f"{cell:>18}" for cell in line))
    print(notes(table))
    if given.json is not None:
        given.json.write_text(json.dumps(table, indent=1) + "\n")


def sentences(text: Path, count: int) -> list[str]:
    """The first so many sentences of a text with spaces around its full stops, headings left out."""
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
    pieces = [piece.strip() for line in lines if line and not line.startswith("=") for piece in line.split(" . ")]
    return [piece for piece in pieces if len(piece.split()) >= FEWEST_WORDS][:count]


def plain_bytes(model: str, calibration: Path | None, out: Path, bits: int) -> int:
    """Bytes of the folder of round-to-nearest with the same bit width everywhere."""
    # Any size will do that can be met.
    request = CompressRequest(model, out / "plain", size="5bpw", recipe="rtn", calibration=calibration)
    with begun(request, kept=out / "calibration") as run:
        recipe = dataclasses.replace(run.recipe, bit_widths=(bits,))
        return Sizing(run.model, recipe, outline(run.model, recipe), run.folder_bytes, run.seed).range()[0]


if __name__ == "__main__":
    main()
