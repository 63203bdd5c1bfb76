"""Tiny random models of many architectures, in folders as they come from the hub, made once for a test run.

`architecture` runs a test for each of them; `tiny_folder(name)` gives the folder of one, `tiny_network(name)` the
network that was saved there, and `tokenizer` is the tokenizer in each. Nothing outside the temporary folder is
read or written, and the hub is never asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

import hypothesis
import pytest
from tests import tiny_models
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mediant import files

# A busy machine must not fail a test: examples have no deadline.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes `architecture` for each tiny model."""
    if "architecture" in metafunc.fixturenames:
        metafunc.parametrize("architecture", tiny_models.TINY)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["MEDIANT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    # Every test calibrates for itself, whatever ran before it; those of the cache allow it.
    os.environ["MEDIANT_CACHE_SIZE"] = "0"


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens, 0 = <s> and 1 = </s>."""
    return tiny_models.byte_tokenizer()


@pytest.fixture(scope="session")
def tiny_network() -> Callable[[str], PreTrainedModel]:
    """A new network of the tiny model of that name, with the same random weights each time."""
    return tiny_models.random_network


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the tiny model of that name: float32 safetensors, config, tokenizer. Not to be changed."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("models") / name
            tiny_models.save(name, made[name])
        return made[name]

    return folder


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """SHA-256 of every file in a folder, by name."""
    return lambda folder: {file.name: files.file_sha256(file) for file in sorted(folder.iterdir())}
