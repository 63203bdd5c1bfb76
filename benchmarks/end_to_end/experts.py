"""A dense model turned into a mixture of experts: what that costs, before and after tuning, and how fast it is.

    python benchmarks/end_to_end/experts.py demo --text wiki.test.raw --calibration wikitext-2-valid.txt --minutes 8

KL, perplexity and first choices against the dense model, whole windows of 512 tokens. Times are of transformers, for a
prompt of 512 tokens and for single tokens behind it, both models taking turns in one process: `prefill_ratio` and
`step_ratio` are how many times as fast the mixture is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from mediant.cli._console import RichProgress
from mediant.evaluation.divergence import compare
from mediant.evaluation.windows import cut
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.pipeline.experts import ExpertsRequest, convert
from mediant.statistics.calibration_text import token_ids

PROMPT, STEPS, ROUNDS = 512, 16, 5


def times(network: Any, ids: torch.Tensor) -> tuple[float, float]:
    """Seconds for a prompt, and for a token behind it."""
    begun = time.perf_counter()
    cache = network(input_ids=ids, use_cache=True).past_key_values
    read = time.perf_counter()
    for _ in range(STEPS):
        network(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    return read - begun, (time.perf_counter() - read) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True, help="for evaluation only")
    parser.add_argument("--calibration", type=Path, required=True, help="to sort neurons and learn by")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=8.0, help="of tuning")
    parser.add_argument("--active", type=float, default=0.5, help="share of the neurons that a token uses")
    parser.add_argument("--work", type=Path, default=Path("experts-output"), help="where the models go")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    dense = open_model(given.model)
    reference, windows = load_reference(dense), cut(token_ids(dense, given.text), given.windows, PROMPT)
    rows = []
    for name, minutes in {"converted": 0.0, "tuned": given.minutes}.items():
        out = given.work / name
        made = {} if out.exists() else convert(
            ExpertsRequest(given.model, out, active=given.active, calibration=given.calibration, tune=minutes),
            RichProgress(),
        )  # fmt: skip
        network = load_reference(open_model(str(out)))
        with torch.inference_mode():
            found = compare(
                *(lambda ids, n=n: n(input_ids=ids, use_cache=False).logits for n in (reference, network)), windows
            )
            taken = [[times(n, windows[:1]) for n in (reference, network)] for _ in range(ROUNDS)]
        rows.append(
            {
                "row": name, "kl": found.kl, "kl_se": found.kl_se, "perplexity": found.perplexity,
                "reference_perplexity": found.reference_perplexity, "top1": found.top1, "windows": len(windows),
                "prefill_ratio": statistics.median(a[0] / b[0] for a, b in taken),
                "step_ratio": statistics.median(a[1] / b[1] for a, b in taken),
                **{key: value for key, value in made.items() if key != "structure"},
            }
        )  # fmt: skip
        print(json.dumps(rows[-1], default=str), flush=True)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
