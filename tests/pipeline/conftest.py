"""A short calibration text, and checkpoints of the tiny models made from it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mediant.checkpoint.reader import Checkpoint
from mediant.errors import SizeError
from mediant.pipeline.compress import begun
from mediant.pipeline.request import CompressRequest

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "runs", "away", "from", "angry", "bees"]


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words at random, a few windows of the tiny models long."""
    generator = random.Random(0)
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(generator.choice(WORDS) for _ in range(400)), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def feasible(tiny_folder: Callable[[str], Path], text: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """The smallest and the largest size of a tiny model with a recipe."""
    nowhere = tmp_path_factory.mktemp("refused") / "out"
    found: dict[tuple[str, str], tuple[int, int]] = {}

    def offered(name: str, recipe: str = "default") -> tuple[int, int]:
        if (name, recipe) not in found:
            request = CompressRequest(str(tiny_folder(name)), nowhere, size="1", recipe=recipe, calibration=text)
            found[name, recipe] = sizes_on_offer(request)
        return found[name, recipe]

    return offered


def sizes_on_offer(request: CompressRequest) -> tuple[int, int]:
    """The smallest and the largest size that can be met, as the refusal of a request says."""
    with pytest.raises(SizeError) as refusal, begun(request):
        pass
    return refusal.value.smallest, refusal.value.largest


@pytest.fixture(scope="session")
def compressed(
    tiny_folder: Callable[[str], Path], text: Path, feasible: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Checkpoint]:
    """The checkpoint of a tiny model at a size in the middle of what it offers. Not to be changed."""
    made: dict[str, Checkpoint] = {}

    def checkpoint(name: str) -> Checkpoint:
        if name not in made:
            out = tmp_path_factory.mktemp("compressed") / name
            size = str(sum(feasible(name)) // 2)
            with begun(CompressRequest(str(tiny_folder(name)), out, size=size, calibration=text)) as run:
                made[name] = run.pack(run.plan())
        return made[name]

    return checkpoint


@pytest.fixture(scope="session")
def stopped() -> Callable:
    """What a look at a run finds that is then interrupted."""

    def run_until(request: CompressRequest, look: Callable) -> object:
        found = []

        def interrupted() -> None:
            with begun(request) as run:
                found.append(look(run))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        return found[0]

    return run_until
