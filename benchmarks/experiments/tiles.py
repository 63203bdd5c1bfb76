"""One bit width for a whole matrix, or one for every chunk of columns? Predicted loss at equal bits, layer by layer.

    python benchmarks/experiments/tiles.py demo wikitext-2-valid.txt --layers 3,15,27

*Rotated* is the default recipe's form: one bit width. *Tiles* leaves the basis alone, sorts the columns by sensitivity,
H_jj times the mean square of the column, cuts them into chunks of 64, and gives each a bit width of 2 to 6 by reverse
water-filling on the conditional variances, with the same mean; the 3 bits that name a chunk's bit width are counted.
Both round by Babai with scales found on the way, in groups of 32 with 3 bits, and both are followed by nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from mediant.forms.quantize.form import Quantize
from mediant.kernels.babai import MetricFactors
from mediant.kernels.scale_codes import ScaleForm
from mediant.methods.grids.gaussian import Gaussian
from mediant.methods.layer import Layer, prepare
from mediant.models.matrix_form import to_matrix
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.planning.recipe import load_recipe
from mediant.statistics.calibration_text import calibration_tokens
from mediant.statistics.hessian import Accumulator
from mediant.statistics.metric_factors import damped, factorize
from mediant.statistics.sensitivity import collect

CHUNK, GROUP, ROWS = 64, 32, 96
BIT_WIDTHS = np.arange(2, 7)
FACTORS = ScaleForm(3, signed=False, steps=4).powers().astype(np.float64)
MATRICES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")


def rounded(w: np.ndarray, basis: MetricFactors, bit_widths: np.ndarray) -> np.ndarray:
    """Babai with a bit width for every column: the approximation [rows, columns], float64."""
    left, found = w.astype(np.float64).copy(), np.empty(w.shape)
    tables = {int(b): np.asarray(Gaussian().levels(int(b), None), np.float64) for b in np.unique(bit_widths)}
    row = np.max(
        [_best(left[:, g : g + GROUP], basis, g, tables[int(bit_widths[g])], None) for g in _starts(w)], axis=0
    )
    for g in _starts(w):
        table = tables[int(bit_widths[g])]
        scale = _best(left[:, g : g + GROUP], basis, g, table, row)
        for j in range(g, min(g + GROUP, w.shape[1])):
            found[:, j] = _nearest(left[:, j : j + 1], scale, table)[:, 0]
            left[:, j + 1 :] -= (left[:, j] - found[:, j])[:, None] * basis.feedback[j, j + 1 :]
    return found


def _starts(w: np.ndarray) -> range:
    return range(0, w.shape[1], GROUP)


def _best(part: np.ndarray, basis: MetricFactors, start: int, table: np.ndarray, row: np.ndarray | None) -> np.ndarray:
    """The scale of each row's group: any, or one that a code can express relative to the row's."""
    peak = np.abs(part).max(axis=1) / np.abs(table).max()
    trials = [peak * (0.45 + 0.06 * t) for t in range(12)] if row is None else [row * f for f in FACTORS]
    weights = basis.conditional[start : start + part.shape[1]]
    errors = [((part - _nearest(part, scale, table)) ** 2 * weights).sum(axis=1) for scale in trials]
    return np.asarray(trials)[np.argmin(errors, axis=0), np.arange(len(part))]


def _nearest(part: np.ndarray, scale: np.ndarray, table: np.ndarray) -> np.ndarray:
    middles = (table[1:] + table[:-1]) / 2
    safe = np.where(scale == 0, 1, scale)[:, None]
    return scale[:, None] * table[np.searchsorted(middles, part / safe)]


def filled(demand: np.ndarray, mean: float) -> np.ndarray:
    """Whole bit widths of the chunks by reverse water-filling, of at most this mean."""
    low, high = -60.0, 60.0
    for _ in range(60):
        water = (low + high) / 2
        bit_widths = np.clip(np.rint(0.5 * np.log2(demand) - water), BIT_WIDTHS[0], BIT_WIDTHS[-1])
        low, high = (water, high) if bit_widths.mean() > mean else (low, water)
    return np.clip(np.rint(0.5 * np.log2(demand) - high), BIT_WIDTHS[0], BIT_WIDTHS[-1])


def compared(plain: Layer, turned: Layer, bits: int) -> float:
    """Bits per weight that tiles save at equal predicted loss; negative where one bit width is better."""
    some = np.linspace(0, len(plain.matrix) - 1, ROWS).round().astype(int)
    turned_rows = turned.rows(some)
    one = rounded(turned_rows.matrix, turned.factored(0.01), np.full(turned.matrix.shape[1], bits))
    rotated_loss = turned_rows.loss(one.astype(np.float32))
    metric = np.asarray(sum(float(t.rows.sum()) * t.full() for t in plain.terms))
    order = np.argsort(-np.diag(metric) * np.square(plain.matrix, dtype=np.float64).mean(axis=0), kind="stable")
    basis = factorize(damped(metric[np.ix_(order, order)], 0.01))
    energy = basis.conditional * np.square(plain.matrix[:, order], dtype=np.float64).mean(axis=0)
    chunks = [np.exp(np.log(np.maximum(c, 1e-30)).mean()) for c in np.split(energy, range(CHUNK, len(energy), CHUNK))]
    bit_widths = np.repeat(filled(np.asarray(chunks), bits), CHUNK)[: len(energy)]
    tiled = np.empty((ROWS, len(energy)))
    tiled[:, order] = rounded(plain.matrix[some][:, order], basis, bit_widths)
    loss = plain.rows(some).loss(tiled.astype(np.float32))
    saved = 0.5 * np.log2(rotated_loss / loss) + bits - bit_widths.mean()
    return float(saved - 3 / (CHUNK * len(plain.matrix)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--layers", default="3,15,27")
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model = open_model(given.model)
    text = calibration_tokens(model, given.text, 0, windows=given.windows)
    with tempfile.TemporaryDirectory() as folder, WeightReader(model) as weights:
        sums = Accumulator()
        statistics = collect(model, text, hessians=sums)
        hessians = sums.store(Path(folder), statistics.tokens)
        rows = []
        for name in (f"model.layers.{i}.{m}.weight" for i in given.layers.split(",") for m in MATRICES):
            rows.append(measured(model, weights, statistics, hessians, name))
            print(rows[-1], flush=True)
    for bits in ("2", "3", "4"):
        print(f"{bits} bits: tiles save {np.mean([r[bits] for r in rows]):+.3f} bits per weight")
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def measured(model, weights, statistics, hessians, name) -> dict:
    info = model.tensor(name)
    matrix = to_matrix(weights.read(name), info)
    plans = (Quantize(), load_recipe("default").tensor_plan(()))
    plain, turned = (prepare(matrix, plan.rotation, statistics.layers[name], hessians.of(name)) for plan in plans)
    return {"tensor": name} | {str(bits): compared(plain, turned, bits) for bits in (2, 3, 4)}


if __name__ == "__main__":
    main()
