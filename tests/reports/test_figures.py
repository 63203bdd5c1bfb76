import re
import xml.etree.ElementTree as ElementTree

import pytest

from mediant.checkpoint.manifest import Manifest
from mediant.reports.figures import MOST_LETTERS, bits_by_layer, bytes_by_kind, cropped, short_names
from mediant.reports.summary import summarize

HOSTILE = "<script>alert('x')</script> $x^2$ & \"q\" {{ 7*7 }} --> ]]>"


@pytest.fixture
def charts(manifest: Manifest, file_sizes: dict[str, int]) -> list[str]:
    summary = summarize(manifest, file_sizes)
    bits = bits_by_layer(summary.tensors)
    assert bits is not None
    return [str(bits), str(bytes_by_kind(summary.bytes_by_kind()))]


def texts(svg: str) -> list[str]:
    """What a chart says; ElementTree refuses anything that is not well-formed."""
    tree = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    return ["".join(e.itertext()) for e in tree.iter("text")]


def test_labels_are_shown_as_they_are(charts: list[str]) -> None:
    assert all(cropped(HOSTILE) in texts(chart) for chart in charts)
    short = "<b>$x^2$ & --> {{7}}"
    sizes = str(bytes_by_kind({short: 10, "</text><script>": 5}))
    assert texts(sizes)[:2] == [short, "</text><script>"]
    assert all("<script" not in chart and "<b>" not in chart for chart in (*charts, sizes))


def test_long_labels_leave_room_for_the_chart(recwarn: pytest.WarningsRecorder) -> None:
    assert len(cropped(HOSTILE)) == MOST_LETTERS
    assert bytes_by_kind({f"{n}{'x' * 200}": n for n in range(9)})
    assert not recwarn.list


def test_cells_and_bars_show_their_figures(charts: list[str], manifest: Manifest, file_sizes: dict[str, int]) -> None:
    summary = summarize(manifest, file_sizes)
    cells = [f"{r.bits:.1f}" for r in summary.tensors if r.layer >= 0 and r.certificate]
    assert [t for t in texts(charts[0]) if re.fullmatch(r"\d+\.\d", t)] == cells
    shares = [float(t.split(",")[1].strip(" %")) for t in texts(charts[1]) if "," in t and t.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))  # each is rounded to 0.1


def test_a_chart_fits_into_any_page(charts: list[str]) -> None:
    for chart in charts:
        assert chart.startswith("<svg ")
        assert "<style" not in chart
        assert "http" not in chart
        assert "font-family" not in chart
        assert "currentColor" in chart
        assert not re.match(r"<svg [^>]*width=", chart)
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', chart))
        assert used <= set(re.findall(r'\bid="([^"]+)"', chart))
    ids = [set(re.findall(r'\bid="([^"]+)"', chart)) for chart in charts]
    assert not ids[0] & ids[1]


def test_a_chart_is_the_same_every_time(charts: list[str], manifest: Manifest, file_sizes: dict[str, int]) -> None:
    summary = summarize(manifest, file_sizes)
    assert str(bits_by_layer(summary.tensors)) == charts[0]
    assert str(bytes_by_kind(summary.bytes_by_kind())) == charts[1]


def test_without_layers_there_is_no_heat_map(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    assert bits_by_layer(row for row in summarize(manifest, file_sizes).tensors if row.layer < 0) is None


def test_equal_bit_widths_make_a_chart_too(manifest: Manifest, file_sizes: dict[str, int]) -> None:
    one = [row for row in summarize(manifest, file_sizes).tensors if row.layer == 0][:1]
    assert bits_by_layer(one) is not None


def test_names_are_shortened_only_where_they_stay_apart() -> None:
    kinds = ["attention.self.query", "attention.output.dense", "output.dense"]
    assert short_names(kinds) == ["query", "attention.output.dense", "output.dense"]
