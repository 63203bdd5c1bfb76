"""Which family of distributions describes a tensor's values best: Gaussian, Laplace, Student t or uniform.

Each family is fitted by maximum likelihood; the lowest Bayesian information criterion
BIC = k ln n - 2 Σ ln f(x) wins, so the third parameter of Student t has to pay for itself. The family
says which grid fits: uniform values want even levels, heavy tails want clipping or outliers kept apart.

Sources:
    Schwarz: Estimating the dimension of a model, Annals of Statistics 6(2), 1978.
    Lange, Little, Taylor: Robust statistical modeling using the t distribution, JASA 84(408), 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from mediant.values import Array

SAMPLE = 1 << 16
# Beyond 1000 degrees of freedom a t is a Gaussian to every digit that a sample shows; below 1/4 only ties
# remain.
DEGREES = (0.25, 1000.0)
# In units of the sample's own spread; a t on values with many ties would otherwise shrink onto them
# without end.
SCALES = (1e-4, 1e4)

Family = Literal["gaussian", "laplace", "student_t", "uniform"]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """One family at its maximum-likelihood parameters.

    `log_likelihood` is the mean of ln f(x), in nats per weight. `bic` belongs to the whole sample.
    `distance` is the Kolmogorov-Smirnov distance sup |F_n - F|; as the parameters come from the same
    sample, it has no p-value.
    """

    family: Family
    parameters: Mapping[str, float]
    log_likelihood: float
    bic: float
    distance: float


@dataclass(frozen=True)
class Families:
    """All fits, best first, and the number of values they saw; no fits for a constant sample."""

    fits: tuple[Fit, ...]
    sample: int

    @property
    def best(self) -> Family | Literal["constant"]:
        """Name of the best-fitting family."""
        return self.fits[0].family if self.fits else "constant"


def families(array: Array, seed: int = 0, size: int = SAMPLE) -> Families:
    """Fits every family to at most `size` values of an array of any shape, in float64.

    The same array and seed give the same fits.

    >>> families(np.linspace(-1, 1, 1001)).best
    'uniform'
    """
    x = np.sort(sample(array, seed, size))
    if not x.size or x[0] == x[-1]:
        return Families((), x.size)
    fits = sorted((fit(x) for fit in FITS), key=lambda f: f.bic)
    return Families(tuple(fits), x.size)


def sample(array: Array, seed: int, size: int) -> Float:
    """Returns one value from each of `size` equal stretches of the array; all values where there are no more.

    The place within a stretch is random, so that no period of the tensor (its columns) can alias with the
    stride.
    """
    flat = np.ravel(array, order="K")
    if flat.size <= size:
        return flat.astype(np.float64)
    places = np.arange(size) + np.random.default_rng(seed).random(size)
    return flat[np.minimum((places * (flat.size / size)).astype(np.int64), flat.size - 1)].astype(np.float64)


def fit_gaussian(x: Float) -> Fit:
    """Returns the mean and standard deviation."""
    mean, std = float(x.mean()), float(x.std())
    return _fit("gaussian", {"mean": mean, "std": std}, stats.norm(mean, std), x)


def fit_laplace(x: Float) -> Fit:
    """Median and mean deviation from it."""
    location = float(np.median(x))
    scale = float(np.abs(x - location).mean())
    return _fit("laplace", {"location": location, "scale": scale}, stats.laplace(location, scale), x)


def fit_uniform(x: Float) -> Fit:
    """Smallest and largest value."""
    low, high = float(x.min()), float(x.max())
    return _fit("uniform", {"low": low, "high": high}, stats.uniform(low, high - low), x)


def fit_student_t(x: Float) -> Fit:
    """Location, scale and degrees of freedom: Newton steps from median and quartiles."""
    location, spread = float(np.median(x)), _spread(x)
    z = (x - location) / spread
    start = np.array([0.0, np.log(0.85), np.log(5.0)])
    bounds = [(None, None), tuple(np.log(SCALES)), tuple(np.log(DEGREES))]
    # TNC brings its own vector code; L-BFGS-B calls the threaded BLAS for its 3 parameters and waits on it
    found = optimize.minimize(
        _student_t_loss, start, args=(z,), jac=True, method="TNC", bounds=bounds, options={"ftol": 1e-12}
    )
    degrees, scale = float(np.exp(found.x[2])), float(np.exp(found.x[1]) * spread)
    location += float(found.x[0]) * spread
    parameters = {"location": location, "scale": scale, "degrees": degrees}
    return _fit("student_t", parameters, stats.t(degrees, location, scale), x)


FITS: tuple[Callable[[Float], Fit], ...] = (fit_gaussian, fit_laplace, fit_student_t, fit_uniform)


def distance(x: Float, cdf: Callable[[Float], Float]) -> float:
    """Kolmogorov-Smirnov distance between ascending values and a continuous distribution."""
    expected, steps = cdf(x), np.arange(x.size + 1) / x.size
    return float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))


def _fit(family: Family, parameters: Mapping[str, float], law: stats.rv_frozen, x: Float) -> Fit:
    total = float(law.logpdf(x).sum())
    bic = len(parameters) * float(np.log(x.size)) - 2 * total
    return Fit(family, parameters, total / x.size, bic, distance(x, law.cdf))


def _spread(x: Float) -> float:
    """Returns a standard deviation that a few huge values cannot move, unless half of all values are equal."""
    low, high = np.quantile(x, (0.25, 0.75))
    return float((high - low) / 1.349) or float(x.std())  # 1.349: quartile distance of the unit Gaussian


def _student_t_loss(theta: Float, z: Float) -> tuple[float, Float]:
    """Returns the mean of -ln f(z), and its gradient by location, ln scale and ln degrees."""
    location, scale, nu = theta[0], np.exp(theta[1]), np.exp(theta[2])
    u = (z - location) / scale
    u2 = u * u
    tail = float(np.log1p(u2 / nu).mean())
    pull = (nu + 1) / (nu + u2)
    norm = special.gammaln(nu / 2) - special.gammaln((nu + 1) / 2) + 0.5 * np.log(nu * np.pi) + theta[1]
    pulled = float((pull * u2).mean())
    by_nu = 0.5 * (special.psi(nu / 2) - special.psi((nu + 1) / 2) + 1 / nu + tail - pulled / nu)
    gradient = np.array([-float((pull * u).mean()) / scale, 1 - pulled, nu * by_nu])
    return float(norm + (nu + 1) / 2 * tail), gradient
