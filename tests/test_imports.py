"""No module is reached from what it imports: imports for type checking and those within functions count too."""

from __future__ import annotations

import grimp
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


def circles(package):
    """Sets of modules that import one another, however indirectly."""
    graph = grimp.build_graph(package, cache_dir=None)
    modules = sorted(graph.modules)
    pairs = [(modules.index(a), modules.index(b)) for a in modules for b in graph.find_modules_directly_imported_by(a)]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    imports = csr_array((np.ones(len(pairs)), (rows, columns)), shape=(len(modules), len(modules)))
    _, labels = connected_components(imports, connection="strong")
    together = [{m for m, label in zip(modules, labels, strict=True) if label == one} for one in np.unique(labels)]
    return [found for found in together if len(found) > 1]


def test_there_is_no_circle():
    assert circles("mediant") == []


@pytest.mark.parametrize(
    "back",
    [
        "from {p}.first import one",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {p}.first import one",
        "def late():\n    from {p}.first import one",
        "from {p} import name",
    ],
)
def test_a_circle_would_be_found(back, tmp_path, monkeypatch):
    package = f"round_{abs(hash(back))}"
    folder = tmp_path / package
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "__init__.py").write_text("name = 1\n" + (f"from {package}.first import one\n" if "name" in back else ""))
    (folder / "first.py").write_text(f"from {package}.second import two\none = 1\n")
    (folder / "second.py").write_text(back.format(p=package) + "\ntwo = 2\n")
    (found,) = circles(package)
    assert {f"{package}.first", f"{package}.second"} <= found
