"""Pruning, low rank and their combination with quantization: what each costs, plain and after recovery, and how fast.

    python benchmarks/end_to_end/pruning.py demo --text wiki.test.raw --calibration wikitext-2-valid.txt --windows 6
    python benchmarks/end_to_end/pruning.py demo ... --rows neurons --minutes 5
    python benchmarks/end_to_end/pruning.py demo ... --rows equal --size 50MB

Rows: `unstructured` (half of each row, SparseGPT), `two_of_four`, `neurons` (a quarter of the MLPs), `layers` (four
fewer), `rank` (80 % of the bytes of 16-bit weights, whitened SVD), `blocks` (half of all 8 x 32 blocks), and `equal`:
one size reached by quantization alone, after pruning, by factors, and as the allocator chooses among these.

With `--minutes`, each row is followed by the same after recovery: distillation, in which zeros stay zeros; of `rank`,
whose factors a distilled model would lose, scale tuning. A row that `--json` already has is not done again. Bytes are
those of the folder, whole; a dense row keeps the type of the model. Speeds are of the native decoder on one thread,
interleaved with the unpruned model in the same process; `decode` and `prefill` are in tokens a second, and
`decode_ratio` and `prefill_ratio` relative to the unpruned model.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mediant import files, load
from mediant.checkpoint.manifest import MANIFEST_FILE
from mediant.evaluation.divergence import compare
from mediant.evaluation.windows import cut
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.pipeline.compress import compress
from mediant.pipeline.distill import DistillRequest, distill
from mediant.pipeline.prune import PruneRequest, prune
from mediant.pipeline.request import CompressRequest
from mediant.runtime.speed import NativeRunner, measure, middle, ratio
from mediant.statistics.calibration_text import token_ids

N_OF_M = {"name": "n_of_m", "n": 2, "m": 4}
PATTERNS = {
    "unstructured": {"name": "unstructured", "sparsity": 0.5},
    "two_of_four": N_OF_M,
    "blocks": {"name": "blocks", "sparsity": 0.5, "height": 8, "width": 32},
}
PARTS = {"neurons": {"neurons": "25%"}, "layers": {"layers": "4"}}
EQUAL = {
    "quantize": "default",
    "prune + quantize": "prune-quantize",
    "free": "free",
    "factor + quantize": "factor-quantize",
}
ROWS = (*PATTERNS, *PARTS, "rank", "equal")
PROMPT, COUNT, ROUNDS = 128, 24, 3
# Four fifths of 16 bits.
RANKED = "12.8bpw"


class Says:
    """Progress as lines."""

    def say(self, text: str) -> None:
        print(text, flush=True)

    def track(self, items: Any, *_: Any) -> Iterator[Any]:
        return iter(items)


class Judge:
    """KL, perplexity, bytes and speed against one model, on one text."""

    def __init__(self, model: str, text: Path, windows: int) -> None:
        self.model = open_model(model)
        self.windows = cut(token_ids(self.model, text), windows, 512)
        self.reference = load_reference(self.model)
        self.kept: dict[bytes, torch.Tensor] = {}

    def remembered(self, ids: torch.Tensor) -> torch.Tensor:
        key = ids.numpy().tobytes()
        if key not in self.kept:
            self.kept[key] = self.reference(input_ids=ids, use_cache=False).logits
        return self.kept[key]

    def row(self, name: str, folder: Path, **more: Any) -> dict[str, Any]:
        """What is to be said of a folder."""
        stored = (folder / MANIFEST_FILE).is_file()
        network = load(folder) if stored else load_reference(open_model(str(folder)))
        with torch.inference_mode():
            found = compare(
                self.remembered,
                lambda ids, network=network: network(input_ids=ids, use_cache=False).logits,
                self.windows,
            )
        return {
            "row": name, **more, "bytes": files.folder_bytes(folder), "kl": found.kl, "kl_se": found.kl_se,
            "perplexity": found.perplexity, "reference_perplexity": found.reference_perplexity, "top1": found.top1,
            "windows": len(self.windows), "window": 512, **self.speeds(folder),
        }  # fmt: skip

    def speeds(self, folder: Path) -> dict[str, float]:
        """Tokens a second, and relative to the unpruned model."""
        runners = [NativeRunner(str(f)) for f in (folder, self.model.path)]
        ours, theirs = measure(runners, [1], PROMPT, COUNT, ROUNDS)
        return {
            "decode": middle(ours.decode[1]), "prefill": middle(ours.prefill[1]),
            "decode_ratio": ratio(ours.decode[1], theirs.decode[1]),
            "prefill_ratio": ratio(ours.prefill[1], theirs.prefill[1]),
        }  # fmt: skip


class Table:
    """Rows made one by one in a folder; a row that is known already is left out."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.work
        self.rows: list[dict[str, Any]] = json.loads(given.json.read_text()) if given.json.is_file() else []
        self.judge: Judge | None = None

    def add(self, name: str, folder: Path, **more: Any) -> None:
        """Judges a folder and writes the table."""
        self.judge = self.judge or Judge(self.given.model, self.given.text, self.given.windows)
        self.rows.append(self.judge.row(name, folder, **more))
        print(json.dumps(self.rows[-1]), flush=True)
        self.given.json.write_text(json.dumps(self.rows, indent=1) + "\n")

    def has(self, name: str) -> bool:
        """Whether the row is there."""
        return any(row["row"] == name for row in self.rows)

    def request(self, out: Path, **more: Any) -> CompressRequest:
        return CompressRequest(self.given.model, out, calibration=self.given.calibration, **more)

    def pruned(self, name: str) -> Path:
        """The plain folder of a row."""
        out = self.folder / name
        if not out.exists():
            wanted = (
                PruneRequest(PARTS[name]) if name in PARTS else PruneRequest(pattern=PATTERNS[name], score="sparsegpt")
            )
            prune(self.request(out), wanted, Says())
        return out

    def ranked(self, tuned: bool) -> Path:
        out = self.folder / ("rank-tuned" if tuned else "rank")
        if not out.exists():
            minutes = self.given.minutes if tuned else 0.0
            compress(self.request(out, size=RANKED, recipe="svd-llm", tune=minutes), Says())
        return out

    def recovered(self, name: str) -> tuple[Path, dict[str, Any]]:
        """The folder of a row after distillation, sparse ones stored sparse again."""
        student, taught = self.pruned(name), self.folder / f"{name}-taught"
        shutil.rmtree(taught, ignore_errors=True)
        g = self.given
        limit = {"steps": g.steps} if g.steps else {"minutes": g.minutes}
        found = distill(DistillRequest(str(student), g.model, taught, text=g.calibration, **limit), Says())
        said = {"steps": found.steps, "held_out_before": found.kl_before, "held_out_after": found.kl_after}
        if name in PARTS:
            return taught, said
        again = self.folder / f"{name}-sparse"
        request = CompressRequest(str(taught), again, calibration=g.calibration)
        prune(request, PruneRequest(pattern=PATTERNS[name], score="magnitude"), Says())
        return again, said

    def make(self, name: str) -> None:
        """A row and its recovery."""
        if name == "equal":
            return self.equal()
        plain = (lambda: self.ranked(False)) if name == "rank" else (lambda: self.pruned(name))
        if not self.has(name):
            self.add(name, plain())
        after = f"{name} + recovery"
        if (self.given.minutes or self.given.steps) and not self.has(after):
            folder, said = (self.ranked(True), {}) if name == "rank" else self.recovered(name)
            self.add(after, folder, minutes=self.given.minutes, **said)
        return None

    def equal(self) -> None:
        """One size, three ways."""
        for name, recipe in EQUAL.items():
            row, out = f"{name} at {self.given.size}", self.folder / f"{recipe}-{self.given.size}"
            if not self.has(row):
                if not out.exists():
                    compress(self.request(out, size=self.given.size, recipe=recipe), Says())
                self.add(row, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True, help="for evaluation only")
    parser.add_argument("--calibration", type=Path, required=True, help="to choose by and to learn from")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=0.0, help="of recovery; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=0, help="of distillation, instead of minutes")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--size", default="50MB", help="of the row equal")
    parser.add_argument("--work", type=Path, default=Path("pruning-output"), help="where the models go")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/pruning.json"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    table = Table(given)
    for name in given.rows:
        table.make(name)


if __name__ == "__main__":
    main()
