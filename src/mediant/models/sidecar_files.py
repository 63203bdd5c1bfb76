"""The files that travel with the weights: configuration, tokenizer, processors, templates, pooling, code, licence.

What belongs to a model is not known beforehand, so everything in its folder travels but what is listed here: weights,
which are written anew; the same weights for other programs; what a download or a training left behind; what is as large
as weights. Bytes count towards the size a person names, so JSON is written without white space, and older forms of a
tokenizer's vocabulary stay where the tokenizer is the same without them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from mediant.errors import ModelError
from mediant.models.configuration import sealed
from mediant.models.folder import CHECKPOINT, ORIGIN
from mediant.models.tokenizer import seal
from mediant.values import Model

CARD = "README.md"
CONFIG = "config.json"
# Written anew, or about this folder alone.
OWN = (CONFIG, CARD, CHECKPOINT, "mediant.safetensors", ORIGIN, ".gitattributes", ".gitignore")
LARGEST = 100_000_000

# Endings of files, and what they are.
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz"), "weights as pickles or arrays"),
    **dict.fromkeys(
        (".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ggml", ".tflite", ".ot", ".mlmodel", ".mlpackage",
         ".engine", ".nemo"),
        "weights for another program",
    ),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".mp4", ".mp3", ".wav", ".pdf"), "illustration"),
    **dict.fromkeys((".lock", ".incomplete", ".tmp", ".log", ".metadata", ".pyc"), "left by a program"),
}  # fmt: skip
# Folders, and what is in them.
OTHER_FOLDERS: Mapping[str, str] = {
    **dict.fromkeys(
        ("onnx", "openvino", "coreml", "tensorrt", "tf", "tensorflow", "flax", "rust", "gguf", "ggml", "mlx",
         "original", "metal"),
        "weights for another program",
    ),
    **dict.fromkeys(("runs", "logs", "__pycache__"), "left by a program"),
    **dict.fromkeys(("assets", "figures", "images"), "illustration"),
}  # fmt: skip
TRAINING = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "training_args.bin", "all_results.json")
# What tokenizer.json may hold already.
VOCABULARIES = (
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
SPARE = "already in tokenizer.json"
# Files that are named when they stay.
NAMED = 5
PROBE = "The 12 naïve bees' café, costs\n\n  €3.50: naïve 自然 и т.д. 🙂 <s>[MASK]\tend</s>"


def sidecar_files(model: Model, card: str) -> dict[str, bytes]:
    """Path in the folder and content of every file beside the weights, in a fixed order.

    Raises:
        ModelError: a file of the tokenizer that should be JSON is not.
    """
    contents = {name: _content(file) for name, file in travelling(model.path).items()}
    contents[CONFIG] = _compact(sealed(model.config, model.name, seal(model.path, model.config, contents), model.path))
    contents[CARD] = card.encode()
    return dict(sorted(contents.items()))


def travelling(folder: Path) -> dict[str, Path]:
    """Returns the files that belong to the model in a folder, by their paths in it, in alphabetical order.

    Weights, `config.json` and the model card are not among them.
    """
    return {name: folder / name for name, reason in _judged(folder).items() if not reason}


def staying(folder: Path) -> dict[str, str]:
    """Returns the files of a folder that do not travel, each with the reason; not those that are written anew."""
    found = _judged(folder)
    return {name: reason for name, reason in found.items() if reason and reason != "written anew"}


def parting_words(folder: Path) -> str | None:
    """Returns one sentence on what does not travel though it may be missed; None where there is nothing.

    Vocabularies that tokenizer.json has too are not missed.
    """
    left = {name: reason for name, reason in staying(folder).items() if reason != SPARE}
    if not left:
        return None
    named = ", ".join(f"{name} ({reason})" for name, reason in [*left.items()][:NAMED])
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"Of the files in {folder}, these do not go with the weights: {named}{more}."


def download_filter() -> list[str]:
    """Patterns of files that `snapshot_download` skips, by the rule for sidecar files, but sizes are unknown.

    A folder whose name begins with a digit is a module of sentence-transformers.
    """
    endings = [f"*{ending}" for ending in ELSEWHERE]
    folders = [pattern for name in OTHER_FOLDERS for pattern in (f"{name}/*", f"*/{name}/*")]
    leftovers = [".*", "*/.*", "checkpoint-*/*", "events.out.tfevents*", *TRAINING]
    return [*endings, *folders, *leftovers, "[!0-9]*/*.safetensors", "consolidated*"]


def stays(name: str, size: int, modules: Iterable[str] = ()) -> str:
    """Says why a file does not travel with a model; nothing where it does.

    Args:
        name: its path in the model's folder.
        size: its bytes.
        modules: folders of the model's own modules behind the network, as sentence-transformers has them.

    >>> stays("additional_chat_templates/rag.jinja", 900), stays("onnx/model.onnx", 900)
    ('', 'weights for another program')
    """
    path = PurePosixPath(name)
    if name in OWN:
        return "written anew"
    if path.parts[0] in modules and path.suffix == ".safetensors":
        return ""
    if path.suffix == ".safetensors" or name.endswith((".safetensors.index.json", ".bin.index.json", ".h5.index.json")):
        return "written anew" if len(path.parts) == 1 else "weights of something else"
    if any(part.startswith(".") for part in path.parts):
        return "left by a program"
    for part in path.parts[:-1]:
        if (reason := OTHER_FOLDERS.get(part.lower())) or part.startswith("checkpoint-"):
            return reason or "left by a training"
    if path.name in TRAINING or path.name.startswith("events.out.tfevents"):
        return "left by a training"
    if reason := ELSEWHERE.get(path.suffix.lower(), ""):
        return reason
    return f"larger than {LARGEST // 10**6} MB" if size > LARGEST else ""


def _judged(folder: Path) -> dict[str, str]:
    files = sorted((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.relative_to(folder).as_posix())
    modules = _modules(folder)
    found = {}
    for file in files:
        name = file.relative_to(folder).as_posix()
        found[name] = stays(name, file.stat().st_size, modules)
    spare = [name for name in VOCABULARIES if name in found]
    if spare and "tokenizer.json" in found:
        state = tuple((name, (folder / name).stat().st_mtime_ns) for name, reason in found.items() if not reason)
        if _same_without(folder, state, tuple(spare)):
            found |= dict.fromkeys(spare, SPARE)
    return found


def _modules(folder: Path) -> list[str]:
    """Returns the folders that `modules.json` of sentence-transformers names."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        return [PurePosixPath(entry["path"]).parts[0] for entry in listed if entry.get("path")]
    return []


@cache
def _same_without(folder: Path, state: tuple[tuple[str, int], ...], spare: tuple[str, ...]) -> bool:
    """Returns True if the tokenizer is the same without some of its files: its class, special tokens, and ids of a
    text.

    `state` is all that travels, with times of change, so that what changes is looked at again.
    """
    from transformers import AutoTokenizer

    names = [name for name, _ in state if "/" not in name and name.endswith((".json", ".model", ".txt", ".jinja"))]
    seen = []
    with tempfile.TemporaryDirectory() as place:
        for left_out in ((), spare):
            copy = Path(place) / str(len(left_out))
            copy.mkdir()
            for name in {*names, CONFIG} - set(left_out):
                shutil.copyfile(folder / name, copy / name)
            try:
                tokenizer = AutoTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
                ids = tokenizer(PROBE)["input_ids"], tokenizer(PROBE, add_special_tokens=False)["input_ids"]
            except Exception:  # the tokenizers library raises bare Exception; then everything travels
                return False
            seen.append((type(tokenizer), tokenizer.special_tokens_map, tokenizer.get_vocab(), ids))
    return seen[0] == seen[1]


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".json":
        return data
    try:
        return _compact(json.loads(data))
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"The file {path} is not JSON: {problem}.") from None


def _compact(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
