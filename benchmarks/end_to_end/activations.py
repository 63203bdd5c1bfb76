"""What rounding activations to 8 bits costs beyond what rounding the weights does.

    python benchmarks/end_to_end/activations.py demo wiki.test.raw 60 --calibration valid.txt --json out.json
    python benchmarks/end_to_end/activations.py demo wiki.test.raw 60 --weights small-75 --calibration valid.txt

Without --weights the weights are those of the model. All rows are compared with the network of the same weights and
plain activations; perplexity is of the same tokens.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

from mediant import load
from mediant.evaluation.divergence import compare
from mediant.evaluation.windows import cut
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.runtime.activations import Activations, Recorder, logits, round_inputs, static_steps
from mediant.statistics.calibration_text import calibration_tokens, token_ids

CALIBRATION_WINDOWS = 8
# Windows whose plain logits are in memory together.
AT_ONCE = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("windows", type=int)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = open_model(given.model)
    windows = cut(token_ids(model, given.text), given.windows, 512)
    network = load_reference(model) if given.weights is None else load(given.weights)
    text = calibration_tokens(model, given.calibration, 0, windows=CALIBRATION_WINDOWS)
    ways = {n: a for n, a in _ways(Recorder(network).record(text.windows)) if not given.only or n in given.only}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for start in range(0, given.windows, AT_ONCE):
        some = windows[start : start + AT_ONCE]
        with torch.inference_mode():
            plain = {w.numpy().tobytes(): network(input_ids=w[None], use_cache=False).logits for w in some}
        for name, activations in ways.items():
            undo = round_inputs(network, activations) if activations.bits else lambda: None
            c = compare(lambda ids, p=plain: p[ids.numpy().tobytes()], logits(network, activations), some)
            undo()
            found[name] += [(c.kl, math.log(c.perplexity), math.log(c.reference_perplexity))] * len(some)
        rows = [_row(name, parts) for name, parts in found.items()]
        print(*rows, sep="\n", flush=True)
        if given.json is not None:
            given.json.write_text(json.dumps(rows, indent=1) + "\n")


def _row(name: str, parts: list[tuple[float, float, float]]) -> dict[str, float | str]:
    """Means over windows, which all have as many scored tokens."""
    kl, nll, plain = (sum(column) / len(parts) for column in zip(*parts, strict=True))
    return {
        "activations": name,
        "kl": kl,
        "perplexity": math.exp(nll),
        "reference_perplexity": math.exp(plain),
        "rise_per_cent": 100 * math.expm1(nll - plain),
        "windows": len(parts),
    }


def _ways(inputs):
    yield "dynamic", Activations()
    for method in ("min_max", "percentile", "kl"):
        yield f"static {method} balanced", Activations(8, static_steps(inputs, {"name": method}, 8, per_channel=True))
    yield "static min_max", Activations(8, static_steps(inputs, {"name": "min_max"}, 8))
    yield "static kl", Activations(8, static_steps(inputs, {"name": "kl"}, 8))
    for bits in (8, 4):
        yield f"cache {bits}", Activations(0, cache_bits=bits)


if __name__ == "__main__":
    main()
