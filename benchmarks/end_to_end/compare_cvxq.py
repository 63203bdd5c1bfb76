"""CVXQ beside our default and its own baselines at 4, 3 and 2.5 bits, its overhead charged and not.

    python benchmarks/end_to_end/compare_cvxq.py demo --calibration wiki.valid.txt --text wiki.test.raw --windows 60

Sizes are whole folders, so every overhead is charged; the column "codes" has the bits of the codes alone over the
weights they stand for, which is what the paper counts. `cvxq-once` takes all gradients at the original weights: the
difference is what re-estimation brings. What is finished is kept in --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from mediant import files
from mediant.checkpoint.reader import open_checkpoint
from mediant.cli._console import RichProgress
from mediant.pipeline.compare import CompareRequest, compare
from mediant.planning.recipe import load_recipe
from mediant.reports.comparison import notes

BITS = (4, 3, 2.5)
COMPARED = ("default", "cvxq", "cvxq-once", "gptq", "rtn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--second-text", type=Path)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--bits", type=float, nargs="+", default=BITS)
    parser.add_argument("--recipes", nargs="+", default=COMPARED)
    parser.add_argument("--out", type=Path, default=Path("compare-cvxq"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    once = given.out / "cvxq-once.yaml"
    files.write(once, without_renewal().encode())
    recipes = tuple(str(once) if name == "cvxq-once" else name for name in given.recipes)
    sizes = tuple(f"{bits:g}bpw" for bits in given.bits)
    asked = CompareRequest(
        given.model, given.out, sizes, recipes, given.calibration, given.text, given.second_text, given.windows
    )
    table = dataclasses.asdict(compare(asked, RichProgress()))
    for row in table["rows"]:
        name = Path(row["recipe"]).stem
        row["code_bits"] = code_bits(given.out / f"{name}-{row['size']}") if not row["refusal"] else None
        scores = "  ".join(f"KL {c['kl']:.4f} ± {c['kl_se']:.4f} ({c['text']})" for c in row["scores"])
        print(f"{name:>10} {row['size']:>7} {row['bits_per_weight']:6.3f} codes {row['code_bits']}  {scores}")
    print(notes(table))
    if given.json is not None:
        given.json.write_text(json.dumps(table, indent=1) + "\n")


def without_renewal() -> str:
    """The recipe cvxq with gradients taken once."""
    recipe = load_recipe("cvxq")
    fields = ("method", "cluster", "sequences", "bias_correction")
    lines = [f"{name}: {json.dumps(getattr(recipe, name))}" for name in fields]
    return "\n".join(["description: CVXQ without re-estimation.", *lines, "renewal: 0"]) + "\n"


def code_bits(folder: Path) -> float:
    """Bits of the codes alone over the weights they stand for."""
    sizes = [
        (e.parts[part].shape[0], e.info.size)
        for e in open_checkpoint(folder).tensors.values()
        for part in ("codes", "tiles")
        if part in e.parts
    ]
    return 8 * sum(size for size, _ in sizes) / sum(weights for _, weights in sizes)


if __name__ == "__main__":
    main()
