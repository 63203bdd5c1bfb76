"""The native kernel against its reference and both against `Fraction`."""

import math
import os
import shutil
import subprocess
import sys
import sysconfig
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediant.errors import UsageError
from mediant.kernels import limit_denominator as module
from mediant.kernels import native
from mediant.kernels.limit_denominator import limit_denominator
from mediant.numbers import continued_fractions

BOUNDS = [1, 2, 3, 7, 8, 10, 64, 1000, 10**6, 2**31, 2**52, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 10**25]
needs_native = pytest.mark.skipif(native is None, reason="the native kernels were not built")


def hard_values(seed=0, count=400):
    """Random bit patterns, all magnitudes, ties of neighbours, values beside fractions and integers; both signs."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(0, 2**64, count, np.uint64).view(np.float64)
    magnitudes = generator.standard_normal(count) * 10.0 ** generator.uniform(-20, 18, count)
    ties = generator.integers(-5, 6, count) + 2.0 ** -generator.integers(1, 40, count)
    denominators = generator.integers(1, 1200, count)
    fractions = generator.integers(-2000, 2000, count) / denominators
    beside = np.nextafter(fractions, generator.choice([-np.inf, np.inf], count))
    integers = generator.integers(-(10**6), 10**6, count) + generator.choice([0, 1e-9, 1e-15], count)
    golden = (1 + math.sqrt(5)) / 2 * 2.0 ** generator.integers(-8, 8, count)
    edges = [0.0, 5e-324, 2.0**-1022, 2.0**-62, 2.0**-63, 2.0**-64, 2.0**-65, 2.0**62, 2.0**63, 1e308]
    values = np.concatenate([patterns, magnitudes, ties, fractions, beside, integers, golden, edges])
    values = values[np.isfinite(values)]
    return np.concatenate([values, -values])


def same(a, b):
    """Equal in shape, type and every element."""
    return all(x.shape == y.shape and x.dtype == y.dtype and bool(np.all(x == y)) for x, y in zip(a, b, strict=True))


def expected(values, bound):
    best = [Fraction(v).limit_denominator(bound) for v in values.tolist()]
    return [f.numerator for f in best], [f.denominator for f in best]


@pytest.fixture(params=["native", "reference"])
def path(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setattr(module, "native", None)
    elif native is None:
        pytest.skip("the native kernels were not built")


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("bound", BOUNDS)
def test_hard_values_are_as_fraction_says(bound):
    values = hard_values(count=60)
    assert tuple(part.tolist() for part in limit_denominator(values, bound)) == expected(values, bound)


def natively(values, bound, lanes):
    p, q = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    native.limit_denominator(values, bound, p, q, 1, lanes)
    return p, q


@needs_native
@pytest.mark.parametrize("lanes", [True, False])
@pytest.mark.parametrize("bound", [b for b in BOUNDS if b < 2**63])
def test_native_is_the_reference(bound, lanes):
    values = hard_values(seed=bound % 1000, count=4001)
    values = values[np.abs(values) < 2**63]
    assert same(natively(values, bound, lanes), continued_fractions.limit_denominator(values, bound))


@needs_native
@given(
    st.lists(st.floats(-(2.0**62), 2.0**62), max_size=20),
    st.integers(1, 2**63 - 1) | st.sampled_from([2**51 - 1, 2**51, 2**51 + 1]),
    st.booleans(),
)
def test_native_is_the_reference_for_every_double(values, bound, lanes):
    x = np.array(values, np.float64)
    assert same(natively(x, bound, lanes), continued_fractions.limit_denominator(x, bound))


@needs_native
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 4095, 4097, 12289])
@pytest.mark.parametrize("threads", ["1", "3", "17"])
def test_threads_and_odd_sizes_change_nothing(monkeypatch, count, threads):
    monkeypatch.setenv("MEDIANT_THREADS", threads)
    values = np.random.default_rng(count).standard_normal(count)
    assert same(limit_denominator(values, 1000), continued_fractions.limit_denominator(values, 1000))


@pytest.mark.usefixtures("path")
def test_shapes_strides_and_kinds():
    values = np.random.default_rng(1).standard_normal((7, 12))
    whole = limit_denominator(values, 50)
    assert same(limit_denominator(values[::2, ::-3], 50), [part[::2, ::-3] for part in whole])
    assert same(limit_denominator(np.asfortranarray(values), 50), whole)
    assert same(
        limit_denominator(values.astype(np.float32), 50), limit_denominator(np.float32(values).astype(float), 50)
    )
    assert [part.shape for part in limit_denominator(0.3, 7)] == [(), ()]
    assert [part.shape for part in limit_denominator(np.zeros((0, 3)), 7)] == [(0, 3), (0, 3)]
    assert [part.tolist() for part in limit_denominator([1, -2], 7)] == [[1, -2], [1, 1]]
    assert limit_denominator([0.5, 1e300], 7)[0].dtype == object


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("values", "bound", "what"),
    [
        ([0.0, math.nan], 5, r"x\[1\] is nan"),
        ([[0.0], [-math.inf]], 5, r"x\[1, 0\] is -inf"),
        ([0.5], 0, "max_denominator is 0"),
        ([0.5], 2.0, "whole number"),
        (["a"], 2, "x has the type"),
    ],
)
def test_wrong_arguments_are_refused(values, bound, what):
    with pytest.raises(UsageError, match=what):
        limit_denominator(values, bound)


def test_the_comparison_can_fail():
    p, q = limit_denominator([math.pi, -0.3, 0.5], 10)
    assert same((p, q), (p, q))
    one = np.array([0, 0, 1])
    for wrong in ((p + one, q), (p, q + one), (-p, q), (2 * p, 2 * q), (p, q[:2]), (p.astype(float), q)):
        assert not same((p, q), wrong)
    assert not same((np.array([np.nan]),), (np.array([np.nan]),))


SANITIZED = """
import numpy as np, _native
generator = np.random.default_rng(0)
values = generator.integers(0, 2**64, 40000, np.uint64).view(np.float64)
scaled = generator.standard_normal(40000) * 2.0 ** generator.integers(-80, 70, 40000)
edges = [0.0, -0.0, 5e-324, -5e-324, 2.0**63, -(2.0**63), 1.5, -0.5]
values = np.concatenate([values[np.isfinite(values)], scaled, edges])
for bound in (1, 2, 1000, 2**51, 2**62, 2**63 - 1):
    for count, lanes in ((0, True), (1, True), (4097, False), (len(values), False), (len(values), True)):
        p, q = np.empty(count, np.int64), np.empty(count, np.int64)
        _native.limit_denominator(values[:count], bound, p, q, 3, lanes)
        assert np.all((1 <= q) & (q <= bound))
print("clean")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_sanitizers_find_nothing(tmp_path):
    """A module of this kernel alone, under the address and undefined-behaviour sanitizers, any finding fatal."""
    nanobind = pytest.importorskip("nanobind")
    # The sources as they are built; an editable install has them in the checkout.
    folder = Path(__file__).parents[2] / "src/mediant/kernels/native"
    root = Path(nanobind.__file__).parent
    includes = [root / "include", root / "ext/robin_map/include", sysconfig.get_paths()["include"]]
    sources = [folder / "module.cpp", folder / "limit_denominator.cpp", root / "src/nb_combined.cpp"]
    subprocess.run(
        ["g++", "-std=c++20", "-O1", "-g", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *(f"-I{i}" for i in includes), *map(str, sources),
         "-o", str(tmp_path / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}")],
        check=True,
    )  # fmt: skip
    runtime = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr[-3000:]
