"""Docstrings of functions stand alone in `help()`: a verb first, or a noun for what is a value."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mediant

SOURCE = Path(mediant.__file__).parent
CLAUSE = re.compile(
    r"(What|Whether|How|Which|Where|When|Why|Whose|Who|The same|The others?|It|As|Those|These|That|Such|Like)\b"
)
ONE_WORD = re.compile(r"\w+\.")


def _functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, str]]:
    """Names and docstrings of functions, methods and properties, those within others too."""
    for node in ast.iter_child_nodes(tree):
        name = f"{outer}{getattr(node, 'name', '')}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            yield name, text
        yield from _functions(node, f"{name}." if name != outer else outer)


def _stands_alone(text: str) -> bool:
    return not CLAUSE.match(text) and not ONE_WORD.fullmatch(text.split("\n")[0])


def test_riddles_are_found():
    source = 'class A:\n    def f(self):\n        """Whether it is."""\n        def g():\n            """Decoded."""'
    found = list(_functions(ast.parse(source)))
    assert found == [("A.f", "Whether it is."), ("A.f.g", "Decoded.")]
    assert not any(_stands_alone(text) for _, text in found)
    assert all(map(_stands_alone, ["Whetstones, by name.", "True if it is."]))


def test_docstrings_stand_alone():
    riddles = [
        f"{file.relative_to(SOURCE)}: {name}: {text.splitlines()[0]}"
        for file in sorted(SOURCE.rglob("*.py"))
        for name, text in _functions(ast.parse(file.read_text()))
        if not _stands_alone(text)
    ]
    assert not riddles, "\n".join(riddles)
