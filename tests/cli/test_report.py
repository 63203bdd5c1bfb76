import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mediant import files
from mediant.checkpoint.writer import write
from mediant.errors import CheckpointError, UsageError
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.models.opening import open_model
from mediant.models.weights import WeightReader
from mediant.planning.plan import Plan
from mediant.values import Scorecard

Run = Callable[..., int]


@pytest.fixture
def compressed(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Path:
    model = open_model(str(tiny_folder("llama_tied")))
    cast = Cast(dtype="float16")

    def encodings() -> Iterator[Encoding]:
        with WeightReader(model) as weights:
            for info in model.tensors:
                yield Encoding(info, cast, {"data": weights.read(info.name).astype("float16")})

    plan = Plan(model.fingerprint, "cast", 0, {t.name: cast for t in model.tensors})
    write(tmp_path / "small", model, plan, None, encodings(), {"config.json": b"{}"})
    return tmp_path / "small"


def scores(folder: Path, size: int) -> Path:
    card = Scorecard(0.0604, 0.0021, 30.2, 28.74, 0.869, size, 16.4, 60, 512, 15360, "text.txt")
    path = folder / f"scores-{size}.json"
    path.write_text(json.dumps({**dataclasses.asdict(card), "candidate": "small", "reference": "tiny"}))
    return path


def test_the_page_lies_beside_the_model(run: Run, compressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files.folder_bytes(compressed)
    assert run("small") == 0
    page = Path("small-report.html")
    assert str(page) in capsys.readouterr().out
    assert f"{before:,} bytes" in page.read_text()
    assert files.folder_bytes(compressed) == before


def test_scores_are_shown(run: Run, compressed: Path, tmp_path: Path) -> None:
    own, other = scores(tmp_path, files.folder_bytes(compressed)), scores(tmp_path, 7)
    assert run(compressed, "--scores", other, "--scores", own, "--out", "page.html") == 0
    text = Path("page.html").read_text()
    assert "86.9 % of the places" in text
    assert "7 bytes" in text


def test_mistakes_have_their_exit_codes(run: Run, compressed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("empty") == CheckpointError.exit_code
    assert run("small", "--scores", "missing.json") == UsageError.exit_code
    assert run("small", "--out", "small/report.html") == UsageError.exit_code
    assert not list(tmp_path.glob("*.html"))
    assert not list(compressed.glob("*.html"))
