"""Quality of several checkpoints of one model on the same text, with the reference run only once.

    python benchmarks/end_to_end/quality.py demo wiki.test.raw 60 small-92 small-75 small-60 --json out.json

Prints and writes what `mediant evaluate` would say of each; the reference's logits are kept in memory (6 GB for 60
windows of SmolLM2), not on disk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from mediant import files, load
from mediant.evaluation.divergence import compare
from mediant.evaluation.windows import cut
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.statistics.calibration_text import token_ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("windows", type=int)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = open_model(given.model)
    windows = cut(token_ids(model, given.text), given.windows, 512)
    reference = load_reference(model)
    kept: dict[bytes, torch.Tensor] = {}

    def remembered(ids: torch.Tensor) -> torch.Tensor:
        key = ids.numpy().tobytes()
        if key not in kept:
            kept[key] = reference(input_ids=ids, use_cache=False).logits
        return kept[key]

    rows = []
    for folder in given.checkpoints:
        candidate = load(folder)
        found = compare(remembered, lambda ids, c=candidate: c(input_ids=ids, use_cache=False).logits, windows)
        rows.append(
            {
                "checkpoint": folder.name,
                "bytes": files.folder_bytes(folder),
                "bits_per_weight": 8 * files.folder_bytes(folder) / model.weights,
                "kl": found.kl,
                "kl_se": found.kl_se,
                "perplexity": found.perplexity,
                "reference_perplexity": found.reference_perplexity,
                "top1": found.top1,
                "windows": given.windows,
                "window": 512,
            }
        )
        print(rows[-1], flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
