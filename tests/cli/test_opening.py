"""What a command opens: a file of the user's in the model's folder is never taken for one of ours."""

from __future__ import annotations

import shutil

import pytest

from mediant import files
from mediant.cli._opening import _bytes
from mediant.models.opening import open_model
from mediant.models.source import model_name


@pytest.mark.parametrize("said", ["[]", "1", "{}", '{"file": 1, "name": 2}', '{"file": "/nowhere"}', "[" * 100_000])
def test_a_file_that_has_the_name_of_where_a_model_came_from(said, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "own")
    (folder / "mediant-source.json").write_text(said)
    assert model_name(folder) in ("own", "2")
    assert _bytes(open_model(str(folder))) == files.folder_bytes(folder)
