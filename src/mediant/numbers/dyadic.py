"""Fractions p/2^k: every finite double is one, and a multiplication by one is a sum of shifts.

Minimality of canonical signed digits: G. W. Reitwiesner, Binary Arithmetic, Advances in Computers 1 (1960).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mediant.errors import UsageError
from mediant.numbers.arrays import Doubles, Integers, finite_doubles, integers, objects, whole_number

# Beyond this, a sum of two powers of two and the midpoint of two of them are not always doubles.
_EXACT_SUM = 2**51


def split(x: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integers with x = odd * 2^exponent exactly; odd is 0, and so is the exponent, where x is 0.

    Args:
        x: finite doubles of any shape.

    Raises:
        UsageError: a value is not a finite double.

    >>> [int(part) for part in split(-0.75)]
    [-3, -2]
    """
    fraction, exponent = np.frexp(finite_doubles(x))
    scaled = np.ldexp(fraction, 53).astype(np.int64)
    trailing = np.bitwise_count((scaled & -scaled) - 1).astype(np.int64)
    return scaled >> trailing, np.where(scaled == 0, 0, exponent - 53 + trailing)


def ratio(x: ArrayLike | Fraction) -> tuple[Integers, Integers]:
    """Numerator and denominator of x in lowest terms: int64 if all |x| < 2^63 are multiples of 2^-62, else objects.

    Raises:
        UsageError: a value is neither a finite double nor a Fraction.
    """
    if isinstance(x, Fraction):
        return objects([x.numerator], ()), objects([x.denominator], ())
    doubles = finite_doubles(x)
    odd, exponent = split(doubles)
    if np.all((np.abs(doubles) < 2**63) & (exponent >= -62)):
        return odd << np.maximum(exponent, 0), np.int64(1) << np.maximum(-exponent, 0)
    pairs = [v.as_integer_ratio() for v in doubles.ravel().tolist()]
    return objects([n for n, _ in pairs], doubles.shape), objects([d for _, d in pairs], doubles.shape)


def nearest(x: ArrayLike, places: int) -> Integers:
    """Integers p with p / 2^places nearest to x, ties to even p; int64, or objects where some |p| >= 2^63.

    Raises:
        UsageError: a value is not a finite double, or `places` is not from 0 to 1074.

    >>> int(nearest(0.3, 4))
    5
    """
    doubles, places = finite_doubles(x), whole_number(places, "places", 0, 1074)
    if np.all(np.abs(doubles) < np.ldexp(1.0, 63 - places)):
        return np.rint(np.ldexp(doubles, places)).astype(np.int64)
    return objects([round(Fraction(v) * 2**places) for v in doubles.ravel().tolist()], doubles.shape)


def multiplier(x: ArrayLike, bits: int = 31) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Integers p of `bits` bits and k with p / 2^k nearest to x: multiply, then shift by k (left if k < 0).

    The relative error is at most 2^-bits. For 0 both are 0. With 31 bits this is the int32 multiplier M_0 and
    the shift of Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference (2018), section 2.2, equation 6, but with ties to even.

    Returns:
        p and k in x's shape; 2^(bits-1) <= |p| < 2^bits, and p has x's sign.

    Raises:
        UsageError: a value is not a finite double, or `bits` is not from 1 to 53.

    >>> [int(part) for part in multiplier(0.3, 8)]
    [154, 9]
    """
    bits = whole_number(bits, "bits", 1, 53)
    fraction, exponent = np.frexp(finite_doubles(x))
    p = np.rint(np.ldexp(fraction, bits)).astype(np.int64)
    overflow = np.abs(p) == 1 << bits
    p = np.where(overflow, p >> 1, p)
    return p, np.where(p == 0, 0, bits - exponent - overflow).astype(np.int64)


def canonical_signed_digits(p: ArrayLike) -> NDArray[np.int8]:
    """Digits -1, 0, 1 of integers, the least significant first, no two neighbours nonzero.

    Of all signed binary forms this one has the fewest nonzero digits (Reitwiesner 1960).

    Args:
        p: integers of any shape [...], within ±(2^63 - 1).

    Returns:
        int8 [..., digits], as many digits as the longest needs; p = Σ digit_i 2^i.

    Raises:
        UsageError: a value is not such an integer.

    >>> canonical_signed_digits(7).tolist()
    [-1, 0, 0, 1]
    """
    rest = integers(p, "p")
    digits = []
    while np.any(rest):
        odd = rest & 1
        digit = odd * (2 - (rest & 3))
        digits.append(digit.astype(np.int8))
        # (rest - digit) / 2 without leaving int64.
        rest = (rest >> 1) + (digit < 0)
    return np.stack(digits, axis=-1) if digits else np.zeros((*rest.shape, 0), np.int8)


def adders(p: ArrayLike) -> NDArray[np.int64]:
    """Additions and subtractions that a multiplication by p takes: nonzero signed digits less one, at least 0.

    Shifts are free; sharing between several constants is not considered.

    Raises:
        UsageError: a value is not an integer within ±(2^63 - 1).

    >>> adders([0, 8, 7, 23]).tolist()
    [0, 0, 1, 2]
    """
    weight = np.count_nonzero(canonical_signed_digits(p), axis=-1)
    return np.maximum(np.asarray(weight, np.int64) - 1, 0)


def two_powers(x: ArrayLike, places: int) -> NDArray[np.int64]:
    """Integers p = ±2^i ± 2^j, or a single power, or 0, with p / 2^places nearest to x; ties to the smaller |p|.

    The levels of Additive Powers-of-Two quantization (Li, Dong, Wang, ICLR 2020, equation 5) are such sums.

    Raises:
        UsageError: a value is not a finite double, |x| 2^places exceeds 2^51, or `places` is not from 0 to 1074.

    >>> (two_powers([0.7, -0.3], 4) / 16).tolist()
    [0.75, -0.3125]
    """
    doubles, places = finite_doubles(x), whole_number(places, "places", 0, 1074)
    # Compared before scaling, which could overflow.
    if np.any(np.abs(doubles) > np.ldexp(float(_EXACT_SUM), -places)):
        raise UsageError(
            f"x reaches {np.abs(doubles).max()}; with {places} places it must stay within ±2^{51 - places}."
        )
    scaled = np.ldexp(np.abs(doubles), places)
    levels = _two_power_levels()
    level = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, scaled)]
    return np.where(np.signbit(doubles), -level, level).astype(np.int64)


def _two_power_levels() -> Doubles:
    """0 and all 2^i, 2^i + 2^j, 2^i - 2^j up to 2^51, ascending, as doubles."""
    powers = 2.0 ** np.arange(52)
    sums = np.concatenate(
        [[0], powers, np.add.outer(powers, powers).ravel(), np.subtract.outer(powers, powers).ravel()]
    )
    return np.unique(sums[(sums >= 0) & (sums <= _EXACT_SUM)])
