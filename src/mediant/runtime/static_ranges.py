"""Fixed ranges for the activations of packed matrices: static quantization, beside the usual dynamic one.

Dynamic ranges are the largest magnitude of every 32 activations of a token. Static ones are found once, on a text, by a
method of `methods/activations`, and what is beyond them is clipped: no pass over the token, as integer hardware wants
it, at the price of whatever the text did not show. They are ranges of rotated activations where the matrix is rotated.

The first four tokens of a sequence stay dynamic. Attention rests on the first, and now and then the second, where
there is nothing to attend to (Xiao et al. 2023, arXiv 2309.17453, section 3.1, who keep four), and what they carry for
that is up to thousands of times as large as that of any other (Sun et al. 2024, arXiv 2402.17762): a range that holds
both has few steps for either.

A file of ranges is a safetensors file with one float32 array [blocks] for every packed matrix, by the tensor's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mediant import discovery, files
from mediant.checkpoint.reader import Checkpoint, open_checkpoint
from mediant.errors import UsageError
from mediant.kernels.rotation import rotate
from mediant.kernels.tiles import BLOCK
from mediant.progress import SILENT, Progress
from mediant.runtime.loading import load as load_network

Floats = NDArray[np.float32]
Ranges = Mapping[str, Floats]

# Bits that thresholds are found for; with 15, only what is clipped matters.
BITS = 8
# Tokens at the beginning of a sequence that have ranges of their own; the native decoder has the same constant.
FIRSTS = 4
# Tokens of a window that are kept as a sample, evenly spread, the last among them.
SAMPLED_TOKENS = 32


def measure(
    folder: Path, windows: torch.Tensor, method: Mapping[str, Any], progress: Progress = SILENT
) -> dict[str, Floats]:
    """Ranges for the packed matrices of a compressed model, from what it computes on windows [windows, tokens].

    Args:
        folder: of the compressed model.
        windows: of the text, of more than `FIRSTS` tokens.
        method: of `methods/activations`, by name, with its parameters.
        progress: told of windows and matrices.

    Raises:
        CheckpointError: the model is damaged.
        UsageError: it has no packed matrices, or the windows have too few tokens.
        PlanError: there is no such method.
    """
    thresholds = discovery.make("activations", method).thresholds
    if windows.shape[1] <= FIRSTS:
        raise UsageError(f"Ranges are found behind the first {FIRSTS} tokens of a window; it takes more than these.")
    checkpoint, network = open_checkpoint(folder), load_network(folder)
    seen: dict[str, list[Floats]] = {name: [] for name in packed(checkpoint)}
    if not seen:
        raise UsageError(f"{folder} has no matrices in the kernels' layout, so there are no ranges to fix.")
    modules = dict(network.named_modules())
    for name, samples in seen.items():
        for alias in (name, *checkpoint.tensors[name].info.aliases):
            module = modules.get(alias.removesuffix(".weight"))
            if module is not None and not isinstance(module, torch.nn.Embedding):
                module.register_forward_pre_hook(_recorder(samples, checkpoint.tensors[name].plan.rotation))
    with torch.inference_mode():
        for window in progress.track(windows, "Running the model on text", len(windows)):
            network(input_ids=window[None], use_cache=False)
    # An embedding that is not also the head multiplies nothing.
    used = {name: np.concatenate(samples) for name, samples in seen.items() if samples}
    return {
        name: thresholds(np.ascontiguousarray(sample.swapaxes(0, 1)).reshape(sample.shape[1], -1), BITS)
        for name, sample in progress.track(used.items(), "Finding ranges", len(used))
    }


def packed(checkpoint: Checkpoint) -> list[str]:
    """Returns the tensors that kernels multiply by as they are stored."""
    return [name for name, entry in checkpoint.tensors.items() if entry.plan.packs]


def write(file: Path, ranges: Ranges) -> None:
    """Keeps ranges in a file.

    Raises:
        StorageError: it cannot be written.
    """
    files.write(file, save(dict(ranges)))


def read(file: Path) -> dict[str, Floats]:
    """Ranges from a file.

    Raises:
        UsageError: there is none, or it is no file of ranges.
    """
    try:
        found: dict[str, Floats] = load(file.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"There is no file of ranges {file}; `mediant ranges` writes one.") from None
    except (SafetensorError, OSError) as problem:
        raise UsageError(f"{file} is not a file of ranges: {files.reason(problem)}.") from None
    return found


def _recorder(samples: list[Floats], seed: int | None) -> Callable[..., None]:
    """Keeps magnitudes [tokens, blocks, 32] of a sample of the tokens behind a sequence's first, and the largest."""

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].reshape(-1, inputs[0].shape[-1])[FIRSTS:].numpy()
        turned = np.abs(x if seed is None else rotate(x, seed))
        some = np.linspace(0, len(x) - 1, min(len(x), SAMPLED_TOKENS)).round().astype(int)
        kept = np.concatenate([turned[some], turned.max(axis=0)[None]])
        padded = np.pad(kept, ((0, 0), (0, -kept.shape[1] % BLOCK)))
        samples.append(padded.reshape(len(kept), -1, BLOCK))

    return record
