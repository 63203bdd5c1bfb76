r"""Rounding alone: every linear layer at the same bit width, all else as it was. No allocation, no tuning, no
embedding.

    python benchmarks/end_to_end/linears_only.py demo wikitext-2-valid.txt wiki.test.raw --json out.json

Prints the bits per weight of the linear layers, every stored bit of them counted, and the KL on the second text, as
`mediant evaluate` measures it. `--rounding '{"name": "k_best"}'` and `--no-rotation` change how it is rounded, and
`--bits`, `--group`, `--scale-bits` and `--scale-steps` what is stored. One file for several bit widths against one
each:

    ... --group 32 --scale-bits 3 --scale-steps 4 --bits 4 --grid '{"name": "nested"}' --rounding '{"name": "nested"}' \
        --read 3
    ... --group 32 --scale-bits 3 --scale-steps 4 --bits 3 --grid '{"name": "gaussian_int"}'
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mediant.evaluation.divergence import compare
from mediant.evaluation.windows import cut
from mediant.forms import Encoding, Form
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.methods.layer import prepare
from mediant.models.matrix_form import to_matrix
from mediant.models.opening import open_model
from mediant.models.reference import load_reference
from mediant.models.weights import WeightReader
from mediant.statistics import storage
from mediant.statistics.calibration_text import calibration_tokens, token_ids
from mediant.statistics.hessian import Accumulator, Hessians
from mediant.statistics.sensitivity import collect
from mediant.values import Model, RowSpan, Statistics, TensorInfo
from mediant.workers import compute_alone, ordered


def main() -> None:
    given = _arguments()
    model = open_model(given.model)
    statistics, hessians = _calibrated(model, given)
    linears = [info for info in model.tensors if info.role == "linear" and info.name in statistics.layers]
    plans = {info.name: _plan(info, given) for info in linears}
    network = load_reference(model)
    with WeightReader(model) as weights:

        def rounded(info: TensorInfo) -> tuple[str, torch.Tensor]:
            matrix, plan = to_matrix(weights.read(info.name), info), plans[info.name]
            layer = prepare(matrix, plan.rotation, statistics.layers[info.name], hessians.of(info.name))
            found = quantize(layer, plan)
            return info.name, torch.from_numpy(Encoding(info, plan, found.parts).decode(given.read))

        network.load_state_dict(dict(ordered(rounded, linears, compute_alone)), strict=False)
    stored = sum(plans[info.name].nbytes(info) for info in linears)
    windows = cut(token_ids(model, given.text), given.windows, 512)
    reference = load_reference(model)
    found = compare(
        lambda ids: reference(input_ids=ids, use_cache=False).logits,
        lambda ids: network(input_ids=ids, use_cache=False).logits,
        windows,
    )
    figures = {
        "bits_per_weight": 8 * stored / sum(info.size for info in linears),
        "kl": found.kl,
        "kl_se": found.kl_se,
        "perplexity": found.perplexity,
        "reference_perplexity": found.reference_perplexity,
        "top1": found.top1,
        "windows": given.windows,
        "calibration_tokens": statistics.tokens,
        "command": " ".join(sys.argv),
    }
    print(json.dumps(figures, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--calibration-windows", type=int, default=None)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--read", type=int, default=None, help="leading bits of nested codes to read; default: all")
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--scale-bits", type=int, default=5)
    parser.add_argument("--scale-steps", type=int, default=8)
    parser.add_argument("--grid", type=json.loads, default={"name": "gaussian"})
    parser.add_argument("--rounding", type=json.loads, default={"name": "babai"})
    parser.add_argument("--no-rotation", action="store_true")
    parser.add_argument("--statistics", type=Path, help="a folder to keep statistics in, or to take them from")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _plan(info: TensorInfo, given: argparse.Namespace) -> Form:
    return Quantize(
        grid=given.grid,
        scale={"name": "exact"},
        rounding=given.rounding,
        runs=(RowSpan(info.matrix_shape[0], given.bits),),
        group=given.group,
        scale_bits=given.scale_bits,
        scale_signed=False,
        scale_steps=given.scale_steps,
        basis={} if given.no_rotation else {"name": "rotation", "seed": 0},
    )


def _calibrated(model: Model, given: argparse.Namespace) -> tuple[Statistics, Hessians]:
    folder = given.statistics or Path(TemporaryDirectory(delete=False).name)
    if not (folder / "statistics").exists():
        text = calibration_tokens(model, given.calibration, 0, windows=given.calibration_windows)
        accumulator = Accumulator()
        found = collect(model, text, hessians=accumulator)
        inputs = accumulator.store(folder, found.tokens).inputs
        (folder / "hessians.json").write_text(json.dumps(inputs))
        (folder / "statistics").write_bytes(storage.to_bytes(found))
    inputs = json.loads((folder / "hessians.json").read_text())
    return storage.from_bytes((folder / "statistics").read_bytes()), Hessians(folder, inputs)


if __name__ == "__main__":
    main()
