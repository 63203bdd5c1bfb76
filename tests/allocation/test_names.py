"""No file outside `allocation` asks which strategy there is: it asks the strategy for what it can do."""

from __future__ import annotations

import ast
from pathlib import Path

import mediant
from mediant import discovery
from mediant.allocation import STRATEGIES

SOURCE = Path(mediant.__file__).parent


def compared(tree):
    """The texts that a file compares with, or looks up in a dictionary, a tuple or a match."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue | ast.Subscript):
            yield from (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def asking(files):
    names = set(discovery.names(STRATEGIES))
    return [file.name for file in files if names & set(compared(ast.parse(file.read_text(encoding="utf-8"))))]


def test_no_file_tests_a_strategy_name():
    outside = [file for file in SOURCE.rglob("*.py") if SOURCE / "allocation" not in file.parents]
    assert len(outside) > 200
    assert asking(outside) == ["stages.py"] or asking(outside) == []


def test_a_file_that_does_would_be_found(tmp_path):
    for number, source in enumerate(
        ('recipe.allocation == "ranks"', 'strategy in ("global_step", "x")', '{"same_everywhere": 1}[name]')
    ):
        (tmp_path / f"{number}.py").write_text(f"found = {source}\n")
    (tmp_path / "fine.py").write_text('recipe = Recipe(allocation="ranks")\n')
    assert asking(sorted(tmp_path.iterdir())) == ["0.py", "1.py", "2.py"]
