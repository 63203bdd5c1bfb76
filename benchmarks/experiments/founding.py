"""The founding experiment: fractions, uniform, logarithmic and fitted grids for single weights at equal honest bits.

    python benchmarks/experiments/founding.py [--text FILE] [--windows 8] [--window 512]

SmolLM2, a copy of it off its file's 4-bit grid, and the float32 encoder all-MiniLM-L6-v2 have every linear layer and
embedding replaced. First the error of each method on random rows of every matrix; then, for methods of the
same honest cost, the whole model: KL and perplexity, or the cosine of sentence vectors. The text is FILE, or written
by the model.

Rewrites benchmarks/results/founding.json, the tables in docs/experiments.md and docs/figures/founding.svg; figures of
other texts are kept. A run that was stopped goes on where it was. About 15 minutes of one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from founding_methods import ABSMAX, BoundedDenominator, BoundedError, Lloyd, Method, Step, Table, measure
from founding_models import Judge, Subject, matched, replaced, sampled, subjects
from founding_page import write_figure, write_tables

from mediant import files
from mediant.discovery import make
from mediant.numbers import farey

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "founding.json"
PAGE = ROOT / "docs" / "experiments.md"
FIGURE = ROOT / "docs" / "figures" / "founding.svg"

SAMPLE = 1 << 20
DENOMINATORS = (2, 3, 4, 5, 8, 16, 32, 64)
STEPS = (
    *(0.7, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.035, 0.025, 0.0175, 0.0125),
    *(0.006, 0.003, 0.0015, 0.0007, 0.0003),
)
TOLERANCES = (0.2, 0.1, 0.05, 0.025, 0.0125)
BITS = 4.25  # of 4-bit codes with a bfloat16 scale for 64 weights: where whole models are compared
# What the copy off the grid is judged with: enough to see whether the grid decides.
CONTROL = ("uniform, absmax 4", "Lloyd 4", "continued fractions, absmax 4", "one step, entropy-coded")

Named = dict[str, Method]


def grid(spec: dict[str, Any], bits: int, scale: dict[str, str] | None = None) -> Table:
    levels = tuple(make("grids", spec).levels(bits).tolist())
    return Table(levels) if scale is None else Table(levels, scale)


def odd_uniform(values: int, scale: dict[str, str] | None = None) -> Table:
    """Equal steps with as many values as a Farey set has, an odd number."""
    levels = tuple(float(k) for k in range(-(values // 2), values // 2 + 1))
    return Table(levels) if scale is None else Table(levels, scale)


def grids() -> Named:
    """Tables at every bit width, `family bits`; Farey sets `Farey N`."""
    methods: Named = {"binary 1": grid({"name": "binary"}, 1)}
    for bits in range(2, 7):
        methods[f"uniform, absmax {bits}"] = grid({"name": "uniform"}, bits, ABSMAX)
        methods[f"uniform {bits}"] = grid({"name": "uniform"}, bits)
        methods[f"Lloyd {bits}"] = Lloyd(bits)
    for bits in range(2, 6):
        methods[f"powers of two {bits}"] = grid({"name": "log2"}, bits)
    for bits in range(3, 7):
        methods[f"sums of two powers {bits}"] = grid({"name": "log2", "terms": 2}, bits)
    for order in (1, 2, 3, 4, 5, 6, 8, 9):
        bits = max(2, (2 * farey.length(order) - 2).bit_length())
        methods[f"Farey {order}"] = grid({"name": "farey", "order": order}, bits)
    return methods


def fractions() -> Named:
    """Element-wise fractions, and uniform grids with as many values."""
    methods: Named = {}
    for n in DENOMINATORS:
        methods[f"continued fractions, absmax {n}"] = BoundedDenominator(n, True)
        methods[f"continued fractions, raw {n}"] = BoundedDenominator(n, False)
        values = 2 * farey.length(n) - 1
        if values <= 256:
            methods[f"as many equal steps, absmax {n}"] = odd_uniform(values, ABSMAX)
            methods[f"as many equal steps {n}"] = odd_uniform(values)
    methods |= {f"one step {step}": Step(step) for step in STEPS}
    methods |= {f"error bound, absmax {eps}": BoundedError(eps, True) for eps in TOLERANCES}
    return methods | {f"error bound, raw {eps}": BoundedError(eps, False) for eps in TOLERANCES}


def equals(tune: Callable[[Callable[[float], Method]], Method]) -> dict[str, Callable[[], Method]]:
    """Methods of at most BITS bits per weight by fixed length or, tuned to them, by entropy."""
    tables = ("uniform, absmax 4", "uniform 4", "Lloyd 4", "powers of two 4", "sums of two powers 4", "Farey 4")
    return {name: lambda name=name: grids()[name] for name in tables} | {
        "continued fractions, absmax 4": lambda: BoundedDenominator(4, True),
        "continued fractions, raw": lambda: tune(lambda x: BoundedDenominator(max(1, int(1 / x)), False)),
        "error bound, raw": lambda: tune(lambda eps: BoundedError(eps, False)),
        "one step, entropy-coded": lambda: tune(Step),
    }


class Journal:
    """Rows that are done, kept in the cache folder until the run is whole; other code or settings start anew."""

    def __init__(self, settings: str) -> None:
        code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("founding*.py")))
        key = hashlib.sha256(settings.encode() + code).hexdigest()[:16]
        self.path = files.cache_folder() / "experiments" / f"founding-{key}.json"
        self.rows: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def row(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row of that key, made now if it is not there."""
        if key not in self.rows:
            started = time.process_time()
            self.rows[key] = work() | {"seconds": round(time.process_time() - started, 1)}
            files.write(self.path, json.dumps(self.rows).encode())
            print(f"{key}: {shown(self.rows[key])}", flush=True)
        return self.rows[key]


def shown(row: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())


def errors(subject: Subject, journal: Journal) -> Iterator[dict[str, Any]]:
    """Rows of the error of every method on a sample."""
    model = subject.open()
    rows, peak = sampled(subject, model, SAMPLE)
    weights = sum(info.size for info in replaced(model))
    for name, method in (grids() | fractions()).items():
        row = journal.row(f"{subject.name}: {name}", lambda m=method: measure(m, rows, weights, peak))
        yield {"model": subject.name, "method": name, **row}


def quality(subject: Subject, journal: Journal, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of what whole models keep at BITS bits."""
    model = subject.open()
    rows, peak = sampled(subject, model, SAMPLE)
    weights = sum(info.size for info in replaced(model))
    methods = equals(lambda maker: matched(maker, rows, weights, peak, BITS))
    judge = Judge(subject, arguments.text, arguments.windows, arguments.window, arguments.seed)
    for name, method in methods.items():
        if not subject.off_grid or name in CONTROL:
            yield {"model": subject.name, "method": name} | journal.row(
                f"{subject.name} judged: {name}", lambda m=method: judged(judge, m())
            )


def judged(judge: Judge, method: Method) -> dict[str, Any]:
    return {"parameters": repr(method)} | judge.judge(method)


def merged(old: dict[str, Any], new: dict[str, Any], text: str) -> dict[str, Any]:
    """The new results, with those of other texts from the old ones."""
    kept = [row for row in old.get("quality", []) if row["text"] != text]
    return new | {"quality": sorted(kept + new["quality"], key=lambda row: row["text"] != text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="UTF-8 text to judge with; without it the model writes some")
    parser.add_argument("--windows", type=int, default=8, help="windows; the encoder gets 8 sentences for each")
    parser.add_argument("--window", type=int, default=512, help="tokens in a window")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    text = arguments.text.name if arguments.text else f"written by the model, seed {arguments.seed}"
    settings = {"text": text, "windows": arguments.windows, "window": arguments.window, "sample": SAMPLE}
    journal = Journal(json.dumps(settings))
    found = list(subjects())
    error_rows = [row for subject in found for row in errors(subject, journal)]
    judged_rows = [
        {"text": text, "windows": arguments.windows, "window": arguments.window, **row}
        for subject in found
        for row in quality(subject, journal, arguments)
    ]
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = merged(old, {"settings": settings, "errors": error_rows, "quality": judged_rows}, text)
    files.write(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    write_tables(PAGE, results)
    write_figure(FIGURE, results)
    journal.path.unlink()


if __name__ == "__main__":
    main()
