"""Compares what was written with the model: tensors one by one, and the logits of a few tokens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from mediant.errors import ExportError

# Enough that attention looks back, rotates by several positions and meets rare and common tokens.
TOKENS = 12
# A network, what one pass keeps beside it, and the tensor that is being read.
COPIES = 1.5
SAMPLED = 16


def tokens(vocabulary: int) -> torch.Tensor:
    """Returns token ids [1, TOKENS], spread over the vocabulary, the same each time.

    >>> tokens(100).tolist()
    [[0, 19, 38, 57, 76, 95, 14, 33, 52, 71, 90, 9]]
    """
    return torch.arange(TOKENS)[None] * 7919 % vocabulary


def outputs(network: PreTrainedModel) -> torch.Tensor:
    """Logits of the few tokens, or hidden states where the network has no logits."""
    settings: dict[str, Any] = {"input_ids": tokens(network.get_input_embeddings().num_embeddings)}
    if network.config.is_encoder_decoder:
        settings["decoder_input_ids"] = settings["input_ids"]
    with torch.inference_mode():
        found = network.eval()(**settings)
    result: torch.Tensor = found.logits if getattr(found, "logits", None) is not None else found[0]
    return result


def compare_outputs(expected: torch.Tensor, found: torch.Tensor, network: PreTrainedModel) -> None:
    """Refuses outputs that differ by more than the order of sums explains.

    Two sums of n float32 terms in different order differ by up to n epsilon of their size, and a network is a chain of
    such sums as long as its depth; n is the width of its widest layer.

    Raises:
        ExportError: they differ by more, or are not finite.
    """
    if not bool(torch.isfinite(found).all()):
        raise ExportError("The written model's outputs are not finite; nothing was kept.")
    widest = max(p.shape[-1] for p in network.parameters() if p.ndim > 1)
    depth = 8 * int(getattr(network.config.get_text_config(), "num_hidden_layers", 1) or 1)
    allowed = depth * widest**0.5 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    off = float((expected - found).abs().max())
    if expected.shape != found.shape or off > allowed:
        raise ExportError(
            f"The written model's outputs are off by {off:.3g}, where {allowed:.3g} is rounding; nothing was kept."
        )


def fits_memory(weights: int) -> bool:
    """Returns True if a float32 network of that many weights fits the memory that is free now."""
    return COPIES * 4 * weights < _free_memory()


def sample(names: Mapping[str, Any]) -> list[str]:
    """Returns some names, spread evenly: the first and last among them.

    >>> sample(dict.fromkeys("abc"))
    ['a', 'b', 'c']
    """
    known = list(names)
    return [known[i * (len(known) - 1) // (SAMPLED - 1)] for i in range(SAMPLED)] if len(known) > SAMPLED else known


def _free_memory() -> int:
    """Returns the bytes that can be taken without swapping; where the system does not say, half of all."""
    status = Path("/proc/meminfo")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
