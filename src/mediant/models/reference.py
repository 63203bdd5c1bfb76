"""The model as transformers runs it: for calibration, for evaluation, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mediant import files
from mediant.errors import ModelError
from mediant.models import architecture, folder, generation_settings, remote_code, stored
from mediant.values import Model

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def load_reference(model: Model, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Returns the whole model in memory, in evaluation mode.

    Raises:
        ModelError: transformers cannot load it, or finds a tensor missing.
    """
    return load_network(model.path, dtype)


def load_network(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Returns the network in a folder with its weights, in evaluation mode; errors as for `load_reference`."""
    if folder.behind(path) is not None:
        return _filled(path, dtype)
    network_class = architecture.network_class(architecture.load_config(path))
    try:
        network, report = network_class.from_pretrained(
            path, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, KeyError) as problem:
        raise ModelError(f"transformers cannot load the model in {path}: {files.reason(problem)}") from problem
    check_complete(report, f"The weights in {path}")
    loaded: PreTrainedModel = network.eval()
    return loaded


def _filled(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Returns the network of a folder that stands for a GGUF file, each tensor dequantized into its place."""
    config = architecture.load_config(path)
    with init_empty_weights(include_buffers=False):
        network = architecture.network_class(config)(config)
    for file in folder.weight_files(path):
        with stored.opened(file) as tensors:
            state = {name: tensors.get_tensor(name).to(dtype) for name in stored.stored_tensors(path)}
    network.load_state_dict(state, strict=False, assign=True)
    network.tie_weights()
    if left := [name for name, values in network.state_dict().items() if values.is_meta]:
        raise ModelError(f"The weights in {path} lack tensors of the network, {len(left)} in all, such as {left[0]}.")
    generation_settings.restore(network, path)
    loaded: PreTrainedModel = network.eval()
    return loaded


def check_complete(report: dict[str, Any], whose: str) -> None:
    """Raises ModelError if transformers had to invent a tensor while loading, which it would only log."""
    invented = sorted(report["missing_keys"]) + sorted(str(k[0]) for k in report["mismatched_keys"])
    if invented:
        raise ModelError(f"{whose} lack tensors of the network, {len(invented)} in all, such as {invented[0]}.")


def load_tokenizer(model: Model | Path) -> PreTrainedTokenizerBase:
    """Returns the tokenizer in the folder of a model or checkpoint.

    Raises:
        ModelError: there is none, or transformers cannot read it.
    """
    place = model.path if isinstance(model, Model) else model
    if not any((place / name).is_file() for name in TOKENIZER_FILES):
        raise ModelError(
            f"The folder {place} has no tokenizer; put the tokenizer files of the model there, such as tokenizer.json."
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, local_files_only=True, trust_remote_code=remote_code.trusted()
        )
    except Exception as problem:  # the tokenizers library raises bare Exception
        if not remote_code.trusted() and _has_code(place):
            raise ModelError(remote_code.refusal(place, "tokenizer")) from None
        raise ModelError(f"The tokenizer in {place} cannot be read: {files.reason(problem)}") from problem
    return tokenizer


def _has_code(place: Path) -> bool:
    """Returns True if the configuration of the tokenizer in a folder, or of the model, names classes in code beside
    it.
    """
    return any(b'"auto_map"' in file.read_bytes() for file in place.glob("*config.json"))


def parameters_to_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Returns the module that owns each tensor, by its name in the state dict; tied ones under each name."""
    modules = dict(network.named_modules(remove_duplicate=False))
    return {name: modules[name.rpartition(".")[0]] for name in network.state_dict(keep_vars=True)}
