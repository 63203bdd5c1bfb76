"""The order in which planes go, against all cuts of small models."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mediant.allocation.knapsack import Unit
from mediant.allocation.plane_order import plane_order
from mediant.values import RowSpan, Truncation

BIT_WIDTHS = (2, 3, 4)
losses = st.tuples(*[st.floats(0.01, 10)] * 3)
models = st.lists(st.tuples(st.integers(1, 5), losses), min_size=1, max_size=4)


def units_of(model: list[tuple[int, tuple[float, ...]]], convex: bool) -> list[Unit]:
    """Units of 8 rows a part; losses at 2, 3 and 4 bits fall, by less and less if `convex`."""
    units = []
    for number, (parts, (a, b, c)) in enumerate(model):
        first, second = (max(a, b), min(a, b)) if convex else (a, b)
        found = {4: c, 3: c + second, 2: c + second + first}
        units.append(Unit(f"t{number}", 8 * parts, 32, {bits: 32 * parts * bits for bits in BIT_WIDTHS}, found))
    return units


def whole(units: list[Unit]) -> dict[str, list[RowSpan]]:
    return {unit.tensor: [RowSpan(unit.rows, 4)] for unit in units}


def total(units: list[Unit], bit_widths: tuple[int, ...]) -> tuple[int, float]:
    """Bytes and loss."""
    pairs = list(zip(units, bit_widths, strict=True))
    return sum(u.sizes[b] for u, b in pairs), sum(u.losses[b] for u, b in pairs)


def cuts(units: list[Unit]) -> list[tuple[int, str, int]]:
    order = plane_order(units, whole(units))
    return sorted((cut.place, name, cut.bits) for name, truncations in order.items() for cut in truncations)


@settings(max_examples=60)
@given(models)
@example([(3, (6.319891201398088,) * 3)])  # steps alike but for rounding
def test_no_choice_of_bit_widths_loses_less_with_as_many_bytes(model: list[tuple[int, tuple[float, ...]]]) -> None:
    units = units_of(model, convex=True)
    choices = [total(units, choice) for choice in itertools.product(BIT_WIDTHS, repeat=len(units))]
    now = dict.fromkeys((unit.tensor for unit in units), 4)
    for _, name, bits in cuts(units):
        assert bits == now[name] - 1
        now[name] = bits
        size, loss = total(units, tuple(now.values()))
        best = min(other for bytes_, other in choices if bytes_ <= size)
        assert loss <= best * (1 + 1e-9)


@settings(max_examples=60)
@given(models)
def test_a_tensor_is_cut_from_deep_to_shallow_however_losses_fall(model: list[tuple[int, tuple[float, ...]]]) -> None:
    units = units_of(model, convex=False)
    order = plane_order(units, whole(units))
    assert all([cut.bits for cut in truncations] == [3, 2] for truncations in order.values())
    assert all(truncations[0].place < truncations[1].place for truncations in order.values())
    assert sorted(cut.place for truncations in order.values() for cut in truncations) == list(range(2 * len(units)))


def test_shallow_rows_cost_and_save_nothing() -> None:
    """A tensor of which half is at 2 bits already: the other half alone counts."""
    found = {4: 0.0, 3: 1.0, 2: 3.0}
    sizes = {bits: 32 * bits for bits in BIT_WIDTHS}
    a, b = Unit("a", 8, 32, sizes, found), Unit("b", 8, 32, sizes, {4: 0.0, 3: 0.9, 2: 9.0})
    units = [a, a, b]
    order = plane_order(units, {"a": [RowSpan(8, 3), RowSpan(8, 2)], "b": [RowSpan(8, 4)]})
    assert order == {"a": (Truncation(2, 1),), "b": (Truncation(3, 0), Truncation(2, 2))}
