"""Methods that approximate each weight by itself, and what they honestly cost.

A method turns a matrix [rows, columns] into values p/q, times a scale for each group of 64 neighbouring columns or
none. Every bit is counted, in two ways:

    fixed length:  ceil(log2 K), K the number of values that can occur
    by entropy:    the empirical entropy of the values over the whole model, plus (K - 1)/2 log2 n for n weights, what
                   an adaptive code spends on learning the frequencies of K values (Krichevsky and Trofimov 1981)

and to both 16/64 for a bfloat16 scale where there is one, and the tables that a reader cannot derive. log2 p + log2 q
is no such count: it forgets where one number ends and the next begins.

Shift-and-add form: additions that a multiplication by the integer code takes in canonical signed digits. The integer
is the numerator over the common denominator of a matrix's values where that is at most 127; otherwise it is the
numerator alone, and a weight whose denominator is no power of two counts as a division. The addition that sums up a
dot product, and the product with the scale of a group of 64, are not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mediant.discovery import make
from mediant.kernels.bfloat16 import from_float32, to_float32
from mediant.kernels.dequantize import dequantize
from mediant.kernels.limit_denominator import limit_denominator
from mediant.kernels.nearest_code import nearest_code
from mediant.numbers import dyadic, farey
from mediant.numbers.stern_brocot import simplest_within

Floats = NDArray[np.float32]
Int64 = NDArray[np.int64]
Spec = Mapping[str, Any]

GROUP = 64
SCALE_BITS = 16
NUMBER_BITS = 32  # of one number of a table that has to be stored
INT8 = 127
LLOYD_SAMPLE = 1 << 16  # groups of weights that a table is fitted to, at most
EXACT, ABSMAX = {"name": "exact"}, {"name": "absmax", "end": "outer"}


class Coded(NamedTuple):
    """A matrix as indices [rows, columns] into K fractions [K], and what it decodes to."""

    index: NDArray[Any]
    numerators: Int64
    denominators: Int64
    decoded: Floats


class Method(Protocol):
    """What the methods below have in common."""

    @property
    def scaled(self) -> bool:
        """Whether each group stores a scale."""

    @property
    def own_table(self) -> bool:
        """Whether every matrix has values of its own, so that codes are counted by index."""

    def encode(self, matrix: Floats) -> Coded:
        """Approximates a matrix whose columns divide by the group."""

    def possible(self, peak: float) -> int | None:
        """How many values can occur where no weight is larger than `peak`; None: only those that did."""

    def table_bits(self, occurring: int, matrices: int) -> int:
        """Bits of the tables that have to be stored."""


@dataclass(frozen=True)
class Table:
    """The nearest of some levels, times a scale for each group."""

    levels: tuple[float, ...]
    scale: Spec = field(default_factory=lambda: EXACT)
    scaled = True
    own_table = False

    def encode(self, matrix: Floats) -> Coded:
        levels = np.array(self.levels)
        groups = matrix.reshape(-1, GROUP)
        fit = make("scales", self.scale).fit(groups, None, levels, False)
        scale = to_float32(from_float32(fit.scale))
        codes = nearest_code(groups, scale, fit.zero, levels).reshape(matrix.shape)
        decoded = dequantize(codes, scale.reshape(len(matrix), -1), None, levels.astype(np.float32), GROUP)
        # Levels are fractions of small denominator, or dyadic, that were rounded to float64 once.
        exact = [Fraction(v).limit_denominator(10**9) for v in self.levels]
        return Coded(codes, *(np.array(x) for x in zip(*(f.as_integer_ratio() for f in exact), strict=True)), decoded)

    def possible(self, peak: float) -> int:
        return len(self.levels)

    def table_bits(self, occurring: int, matrices: int) -> int:
        return 0


@dataclass(frozen=True)
class Lloyd:
    """A table of 2^bits levels in int8, fitted to each matrix, times a scale for each group."""

    bits: int
    scale: Spec = field(default_factory=lambda: EXACT)
    scaled = True
    own_table = True

    def encode(self, matrix: Floats) -> Coded:
        groups = matrix.reshape(-1, GROUP)
        groups = groups[:: max(1, groups.size // LLOYD_SAMPLE)]
        peaks = np.abs(groups).max(1, keepdims=True)
        levels = make("grids", {"name": "lloyd"}).levels(self.bits, (groups / np.where(peaks == 0, 1, peaks)).ravel())
        return Table(tuple(np.unique(np.rint(levels * INT8)).tolist()), self.scale).encode(matrix)

    def possible(self, peak: float) -> int:
        return 2**self.bits

    def table_bits(self, occurring: int, matrices: int) -> int:
        return matrices * 8 * 2**self.bits


@dataclass(frozen=True)
class BoundedDenominator:
    """The continued fraction of each weight, ended where the denominator would exceed N: `limit_denominator`.

    With `scaled`, of w over the largest magnitude of its group, so within -1 .. 1; otherwise of the weight as it is.
    """

    max_denominator: int
    scaled: bool
    own_table = False

    def encode(self, matrix: Floats) -> Coded:
        return fractions(matrix, self.scaled, lambda x: limit_denominator(x, self.max_denominator))

    def possible(self, peak: float) -> int:
        largest = Fraction(peak).limit_denominator(self.max_denominator)
        return fractions_within(self.max_denominator, Fraction(1) if self.scaled else largest)

    def table_bits(self, occurring: int, matrices: int) -> int:
        return 0


@dataclass(frozen=True)
class BoundedError:
    """The simplest fraction within `eps` of each weight, or of w over the largest magnitude of its group.

    Which fractions occur cannot be told from `eps` in closed form, so their table is stored.
    """

    eps: float
    scaled: bool
    own_table = False

    def encode(self, matrix: Floats) -> Coded:
        return fractions(matrix, self.scaled, lambda x: simplest_within(x, self.eps))

    def possible(self, peak: float) -> None:
        return None

    def table_bits(self, occurring: int, matrices: int) -> int:
        return NUMBER_BITS * occurring


@dataclass(frozen=True)
class Step:
    """Multiples of one step for the whole model: what the unscaled fractions compete with."""

    step: float
    scaled = False
    own_table = False

    def encode(self, matrix: Floats) -> Coded:
        codes = np.rint(matrix / np.float64(self.step)).astype(np.int64)
        low = int(codes.min())
        values = np.arange(low, int(codes.max()) + 1)
        return Coded(codes - low, values, np.ones_like(values), (codes * self.step).astype(np.float32))

    def possible(self, peak: float) -> int:
        return 2 * round(peak / self.step) + 1

    def table_bits(self, occurring: int, matrices: int) -> int:
        return NUMBER_BITS


def fractions(matrix: Floats, scaled: bool, approximate: Callable[[NDArray[Any]], tuple[Int64, Int64]]) -> Coded:
    """A fraction for each weight, or for each weight over its group's largest magnitude, kept as bfloat16."""
    groups = matrix.reshape(-1, GROUP).astype(np.float64)
    scale = np.ones((1, 1))
    if scaled:
        peaks = np.abs(groups).max(1, keepdims=True).astype(np.float32)
        scale = to_float32(from_float32(peaks)).astype(np.float64)
    ratio = np.divide(groups, scale, out=np.zeros(groups.shape), where=scale != 0)
    p, q = approximate(np.clip(ratio, -1, 1) if scaled else ratio)
    # Different fractions with denominators below 2^26 are different doubles.
    values, first, index = np.unique((p / q).ravel(), return_index=True, return_inverse=True)
    decoded = (values[index].reshape(groups.shape) * scale).astype(np.float32)
    return Coded(index.reshape(matrix.shape), p.flat[first], q.flat[first], decoded.reshape(matrix.shape))


def fractions_within(order: int, peak: Fraction) -> int:
    """The number of fractions in -peak .. peak with denominators up to `order`; so is the peak's."""
    whole, rest = divmod(peak, 1)
    p, q = farey.sequence(order)
    beyond = int(np.count_nonzero((p > 0) & (p * rest.denominator <= rest.numerator * q)))
    return 1 + 2 * (whole * (len(p) - 1) + beyond)


def shift_add(coded: Coded) -> tuple[Int64, NDArray[np.bool_]]:
    """For each value: additions of its integer, and whether a division is left."""
    p, q = coded.numerators, coded.denominators
    common = math.lcm(*q.tolist())
    if common <= INT8:
        return dyadic.adders(p * (common // q)), np.zeros(len(p), np.bool_)
    return dyadic.adders(p), (q & (q - 1)) != 0


@dataclass
class Totals:
    """Sums over the matrices of a model."""

    squared: float = 0.0
    energy: float = 0.0
    adders: int = 0
    divisions: int = 0
    weights: int = 0
    matrices: int = 0
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, matrix: Floats, coded: Coded, own_table: bool) -> None:
        """Counts one matrix."""
        exact = matrix.astype(np.float64)
        self.squared += float(np.square(exact - coded.decoded).sum())
        self.energy += float(np.square(exact).sum())
        counts = np.bincount(coded.index.ravel(), minlength=len(coded.numerators))
        adders, divided = shift_add(coded)
        self.adders += int(counts @ adders)
        self.divisions += int(counts @ divided)
        keys = enumerate([0] * len(counts)) if own_table else zip(*coded[1:3], strict=True)
        self.counts.update({(int(a), int(b)): int(n) for (a, b), n in zip(keys, counts, strict=True) if n})
        self.weights += matrix.size
        self.matrices += 1

    def entropy(self) -> float:
        """Bits per weight of an ideal code that knows the frequencies."""
        share = np.array(list(self.counts.values())) / self.weights
        return float(-(share * np.log2(share)).sum())


def measure(method: Method, matrices: Iterable[Floats], weights: int, peak: float) -> dict[str, Any]:
    """Error and cost of a method on matrices that stand for a model of `weights` weights up to `peak`."""
    totals = Totals()
    for matrix in matrices:
        totals.add(matrix, method.encode(matrix), method.own_table)
    return figures(method, totals, weights, peak)


def figures(method: Method, totals: Totals, weights: int, peak: float) -> dict[str, Any]:
    """The honest counts, in bits per weight of a model of `weights` weights."""
    occurring = len(totals.counts)
    values = method.possible(peak) or occurring
    side = method.table_bits(occurring, totals.matrices) / weights
    side += SCALE_BITS / GROUP if method.scaled else 0
    learning = (occurring - 1) / 2 * math.log2(weights) / weights
    return {
        "values": values,
        "fixed_bits": math.ceil(math.log2(values)) + side,
        "entropy_bits": totals.entropy() + learning + side,
        "decibels": 10 * math.log10(totals.energy / totals.squared) if totals.squared else math.inf,
        "adders": totals.adders / totals.weights,
        "divisions": totals.divisions / totals.weights,
    }
