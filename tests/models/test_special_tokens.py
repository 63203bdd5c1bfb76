"""Which tokens end a text, from three files that may disagree, and tokens that a model has no place for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mediant.errors import ModelError
from mediant.models.special_tokens import check_ids, special_tokens
from mediant.models.tokenizer import open_tokenizer
from mediant.statistics.calibration_text import token_ids


@pytest.fixture
def model(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> Callable[..., Path]:
    """The tiny Llama (320 tokens, </s> = 1) with other entries in two files; `...` leaves the file out."""

    def changed(config: dict[str, Any], generation: Any = ...) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_folder("llama"), folder)
        given = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(given))
        (folder / "generation_config.json").unlink()
        if generation is not ...:
            (folder / "generation_config.json").write_text(json.dumps(generation))
        return folder

    return changed


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": 1}, ..., {1}),
        ({"eos_token_id": [1, 7]}, ..., {1, 7}),
        ({"eos_token_id": 5}, {}, {1, 5}),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 9]}, {1, 7, 9}),
        ({"eos_token_id": None}, {"eos_token_id": 7}, {1, 7}),
        ({"eos_token_id": -1}, {"eos_token_id": None}, {1}),
    ],
)
def test_a_text_ends_where_any_file_in_force_says(
    model: Callable[..., Path], config: dict[str, Any], generation: Any, ends: set[int]
) -> None:
    found = special_tokens(model(config, generation))
    assert (found.ends, found.end) == (ends, 1)
    assert (found.begin, found.padding, found.begins) == (0, 1, False)


@pytest.mark.parametrize("token", [320, -2, "1", True, 1.5, [1, 99999]])
def test_an_end_that_is_no_token_is_one_sentence(model: Callable[..., Path], token: Any) -> None:
    with pytest.raises(ModelError, match=r"eos_token_id as .*; the model has the tokens 0 to 319"):
        special_tokens(model({}, {"eos_token_id": token}))


def test_tokens_without_a_row_are_named(
    tmp_path: Path, model: Callable[..., Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = model({})
    longer = PreTrainedTokenizerFast.from_pretrained(folder)
    longer.add_tokens([*map("<unused{}>".format, range(320 - len(longer))), "<image>"])
    longer.save_pretrained(folder)
    (tmp_path / "text").write_text("the quick <image> fox")
    with pytest.raises(ModelError, match=r"gives '<image>' in .*text the id 320, but .* the tokens 0 to 319 alone"):
        token_ids(folder, tmp_path / "text")
    ours = open_tokenizer(folder)
    check_ids(ours.encode("the quick fox"), folder, ours)
