"""Makes a Hugging Face folder of a GGUF file, with all but its weights, once; later runs take it from the cache.

Everything comes out of the file, the tokenizer too, whatever lies beside it (`mediant.models.gguf`). Weights stay in
the file, and are dequantized when they are read (`mediant.models.stored`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from mediant import files
from mediant.claims import claimed
from mediant.files import read_json
from mediant.models.dense_folder import write_folder
from mediant.models.file_hashes import file_hash
from mediant.models.folder import ORIGIN
from mediant.models.gguf.file import GGUFFile
from mediant.models.gguf.network import Network, network
from mediant.models.gguf.tokenizer import end_tokens, files_of, tokenizer
from mediant.progress import SILENT, Progress

FORMAT = 4
"""Part of the cache key: raise it when the same file would give another folder."""


def converted(file: Path, progress: Progress = SILENT) -> Path:
    """Returns the folder that stands for the model in `file`, made if it is not yet in the cache.

    Raises:
        ModelError: the file is damaged, is not a whole model, or something in it has no place in the network.
        StorageError: the cache folder cannot be written.
    """
    digest = file_hash(file)
    target = files.cache_folder() / "models" / f"{file.stem}-{digest[:16]}-{FORMAT}"
    if target.is_dir():
        _point(target, file)
        return target
    source = GGUFFile.open(file)
    found = network(source)
    with claimed(target, progress):
        if not target.is_dir():
            _write(target, source, found, digest, progress)
    return target


def _point(target: Path, file: Path) -> None:
    """Makes the folder take its weights from this file if the equal one that it knew has gone."""
    origin = read_json(target / ORIGIN)
    if not Path(origin["weights"]).is_file():
        files.write(target / ORIGIN, _json(origin | {"weights": str(file.resolve())}))


def _write(target: Path, source: GGUFFile, found: Network, digest: str, progress: Progress) -> None:
    file = source.path
    progress.say(f"reading the configuration and the tokenizer of {file.name}; they are kept in {target}")
    words = tokenizer(source, progress)
    beside = {} if words is None else files_of(words)
    beside["generation_config.json"] = _json(_generation(source, found.config))
    beside[ORIGIN] = _json(
        {
            "name": source.fields.get("general.name") or file.stem,
            "file": str(file.resolve()),
            "weights": str(file.resolve()),
            "sha256": digest,
            "architecture": source.architecture,
        }
    )
    config = json.loads(found.config.to_json_string())
    write_folder(target, config, {}, beside, progress)


def _generation(source: GGUFFile, config: Any) -> dict[str, Any]:
    said = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": end_tokens(source),
        "pad_token_id": config.pad_token_id,
    }
    known = {name: value for name, value in said.items() if value is not None}
    return {"_from_model_config": True, **known, "transformers_version": transformers.__version__}


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
