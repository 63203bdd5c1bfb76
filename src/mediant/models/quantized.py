"""Models that exist only quantized, dequantized once into the cache by the formula with which they were published.

- MXFP4 (gpt-oss): `X_blocks` has 16 bytes for 32 values of 4 bits, the low half of a byte first; `X_scales` an exponent
  e for each block: w = value · 2^(e − 127). Exact in bfloat16. Inputs come first in the network, so the last two axes
  change places.
- FP8 with one scale for the tensor, each row, or each block: w = value · scale in float32. DeepSeek and its kin call
  the scale `X_scale_inv` although it multiplies; compressed-tensors and FBGEMM `X_scale`.
- FP8 with no scales anywhere is what it says: the values themselves.

Weights are known by their types and the tensors beside them, whatever the configuration declares or forgets to. What
else is quantized is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mediant.claims import claimed
from mediant.errors import ModelError
from mediant.models import cached, folder
from mediant.models.dense_folder import write_folder
from mediant.models.lazy import LazyTensor
from mediant.models.stored import StoredTensor, opened, stored_tensors
from mediant.progress import SILENT, Progress

FORMAT = 2
"""Part of the cache key: raise it when the same files would give another folder."""

METHODS = ("fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors")
FORMATS = ("float-quantized", "naive-quantized", "dense")
"""Methods that are decoded, and of compressed-tensors the formats."""

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
USUAL_BLOCK = 128

OF_ACTIVATIONS = re.compile(r"(^|[._])(input|activation|output|k|v|q|kv_cache)_scale(_ub)?$|\.kv_scale$")
"""Scales by which inputs or keys and values are rounded while a model runs; weights do not depend on them."""

FOREIGN = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_shape|weight_zero_point|weight_global_scale|SCB|weight_format)$"
    r"|\.(absmax|quant_map|nested_absmax|nested_quant_map)$|\.quant_state\.|_packed$"
)
"""Companions of weights that are packed in ways not decoded here: GPTQ, AWQ, compressed-tensors, bitsandbytes."""


@dataclass(frozen=True)
class Decoding:
    """Which stored tensors make which weight, and those that no weight depends on."""

    fp4: dict[str, tuple[str, str]]
    fp8: dict[str, str | None]
    dropped: tuple[str, ...]

    @property
    def kinds(self) -> str:
        """The types in words."""
        return " and ".join(kind for kind, found in (("MXFP4", self.fp4), ("FP8", self.fp8)) if found)


def plain(path: Path, name: str, progress: Progress = SILENT, before: Callable[[], object] = lambda: None) -> Path:
    """Returns the folder itself if its weights are not quantized, else that of the dequantized model in the cache.

    `before` is called before anything is dequantized, and may refuse.

    Raises:
        ModelError: the weights are quantized in a way that is not decoded here, or damaged.
        StorageError: the cache folder cannot be written.
    """
    config, stored = folder.read_config(path), stored_tensors(path)
    declared = config.get("quantization_config")
    check_declared(path, declared)
    found = decoding(path, stored, bool(declared))
    if not (found.fp4 or found.fp8):
        if declared:
            raise ModelError(
                f"The config.json of {path} declares {_method(declared)!r}, but no weight is quantized so."
            )
        return path
    before()
    return _kept(path, name, config, stored, found, progress)


def is_ours(declared: Any) -> bool:
    """Returns True if the `quantization_config` of a `config.json` is that of a compressed model."""
    return isinstance(declared, dict) and declared.get("quant_method") == "mediant"


def check_declared(where: object, declared: Any) -> None:
    """Refuses the `quantization_config` of a model that is not decoded here; `where` is the model, for messages.

    Raises:
        ModelError: it names another method.
    """
    if not declared:
        return
    method = _method(declared)
    form = declared.get("format", "dense") if isinstance(declared, dict) else "dense"
    if method not in METHODS or (method == "compressed-tensors" and form not in FORMATS):
        raise ModelError(f"The model in {where} is already quantized by {method!r}; give the model it was made from.")


def decoding(path: Path, stored: Mapping[str, StoredTensor], declared: bool) -> Decoding:
    """Finds how the quantized weights among the stored tensors are decoded.

    Raises:
        ModelError: one is of a kind that is not decoded here, or its scale is missing.
    """
    fp4 = {
        name.removesuffix("_blocks"): (name, scales)
        for name, tensor in stored.items()
        if name.endswith("_blocks") and tensor.dtype == "uint8" and (scales := _scales(name)) in stored
    }
    fp8 = {
        name: next((name + end for end in ("_scale_inv", "_scale") if name + end in stored), None)
        for name, tensor in stored.items()
        if tensor.dtype.startswith("float8_e4m3") or tensor.dtype.startswith("float8_e5m2")
    }
    used = {n for pair in fp4.values() for n in pair} | {*fp8, *filter(None, fp8.values())}
    dropped = tuple(n for n in stored if n not in used and OF_ACTIVATIONS.search(n)) if used else ()
    _check_rest(path, stored, used.union(dropped))
    without = sorted(n for n, scale in fp8.items() if scale is None)
    if without and (declared or len(without) < len(fp8)):
        raise ModelError(f"The weights in {path} are FP8, but {without[0]} has no scale; download them again.")
    return Decoding(fp4, fp8, dropped)


def from_fp4(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Weights [experts, columns, rows] of blocks [experts, rows, groups, 16] and exponents [experts, rows, groups]."""
    levels = torch.tensor(FP4 + tuple(-level for level in FP4))
    values = torch.stack([levels[(blocks & 15).long()], levels[(blocks >> 4).long()]], dim=-1).flatten(-2)
    exponents = scales.to(torch.int32)[..., None] - 127
    return torch.ldexp(values, exponents).flatten(-2).transpose(-1, -2).contiguous().to(torch.bfloat16)


def from_fp8(values: torch.Tensor, scale: torch.Tensor | None, block: tuple[int, int] | None = None) -> torch.Tensor:
    """Weights in float32 of values and the scale of the tensor, of its rows, or of blocks of so many rows and columns.

    Scales in whole bytes are exponents. Blocks at the right and lower edge may be smaller. Without `block`, they are of
    128 where that gives as many, else all of one size.

    Raises:
        ValueError: the shapes do not fit.
    """
    numbers = values.to(torch.float32)
    if scale is None:
        return numbers
    if scale.dtype == torch.uint8:
        scale = torch.ldexp(torch.ones(scale.shape), scale.to(torch.int32) - 127)
    scale = scale.to(torch.float32)
    if scale.numel() == 1:
        return numbers * scale.reshape(())
    if scale.ndim == 1 and numbers.ndim == 2 and len(scale) == len(numbers):
        scale = scale[:, None]
    if scale.ndim != numbers.ndim or scale.shape[:-2] != numbers.shape[:-2]:
        raise ValueError(f"scales {tuple(scale.shape)} do not fit weights {tuple(numbers.shape)}")
    for axis, size in ((-2, block and block[0]), (-1, block and block[1])):
        scale = _spread(scale, axis, numbers.shape[axis], size)
    return numbers * scale


def _spread(scale: torch.Tensor, axis: int, length: int, block: int | None) -> torch.Tensor:
    """Repeats scales along an axis so that each of its `length` entries has its own."""
    count = scale.shape[axis]
    if count in (1, length):
        return scale
    sizes = [block, USUAL_BLOCK, -(-length // count)]
    size = next((s for s in sizes if s and -(-length // s) == count), None)
    if size is None or (size not in (block, USUAL_BLOCK) and size * count != length):
        raise ValueError(f"{count} scales do not fit {length} rows or columns")
    return scale.repeat_interleave(size, axis).narrow(axis, 0, length)


def _scales(blocks: str) -> str:
    return blocks.removesuffix("_blocks") + "_scales"


def _method(declared: Any) -> str:
    return str(declared.get("quant_method") if isinstance(declared, dict) else declared)


def _check_rest(path: Path, stored: Mapping[str, StoredTensor], known: set[str]) -> None:
    """Refuses what looks quantized among the tensors that are not known."""
    for name, tensor in stored.items():
        weight = re.sub(r"_scale(_inv)?$", "", name)
        scaled = weight != name and weight in stored
        integers = tensor.dtype in ("int8", "uint8", "int32") and len(tensor.shape) > 1 and name.endswith(".weight")
        if name not in known and (FOREIGN.search(name) or scaled or integers):
            raise ModelError(
                f"The weights in {path} are quantized in a way that Mediant does not decode: {name} is {tensor.dtype}"
                f" {list(tensor.shape)} in {tensor.file.name}; give the model it was made from."
            )


def _kept(
    path: Path,
    name: str,
    config: dict[str, Any],
    stored: Mapping[str, StoredTensor],
    found: Decoding,
    progress: Progress,
) -> Path:
    beside = cached.sidecar_files(path)
    sources = [*folder.weight_files(path), path / "config.json", *(f for f in beside.values() if isinstance(f, Path))]
    target = cached.place(name.replace("/", "--"), sources, {"dequantized": FORMAT})
    if target.is_dir():
        return target
    progress.say(f"the weights of {name} are {found.kinds}; they are dequantized once and kept in {target}")
    if found.dropped:
        progress.say(f"not taken: {len(found.dropped)} scales of activations, such as {found.dropped[0]}")
    declared = config.get("quantization_config")
    block = declared.get("weight_block_size") if isinstance(declared, dict) else None
    beside[folder.ORIGIN] = cached.origin(name, path)
    clean = {key: value for key, value in config.items() if key != "quantization_config"}
    with claimed(target, progress):
        if not target.is_dir():
            write_folder(target, clean, _lazy(stored, found, tuple(block) if block else None), beside, progress)
    return target


def _lazy(stored: Mapping[str, StoredTensor], found: Decoding, block: tuple[int, int] | None) -> dict[str, LazyTensor]:
    """Returns every weight by the name it has without quantization, decoded when it is read."""
    companions = {n for pair in found.fp4.values() for n in pair} | {n for n in found.fp8.values() if n}
    tensors = {}
    for name, entry in stored.items():
        if name in found.fp8:
            scale = found.fp8[name]
            read = partial(_decoded, [entry, stored[scale]] if scale else [entry], block)
            tensors[name] = LazyTensor(entry.shape, torch.float32, read)
        elif name not in companions and name not in found.dropped:
            tensors[name] = LazyTensor(entry.shape, getattr(torch, entry.dtype), partial(_values, entry))
    for name, (blocks, scales) in found.fp4.items():
        experts, rows, groups, half = stored[blocks].shape
        shape = (experts, groups * half * 2, rows)
        tensors[name] = LazyTensor(shape, torch.bfloat16, partial(_unpacked, stored[blocks], stored[scales]))
    return tensors


def _values(entry: StoredTensor) -> torch.Tensor:
    with opened(entry.file) as tensors:
        values: torch.Tensor = tensors.get_tensor(entry.name)
        return values


def _unpacked(blocks: StoredTensor, scales: StoredTensor) -> torch.Tensor:
    return from_fp4(_values(blocks), _values(scales))


def _decoded(entries: list[StoredTensor], block: tuple[int, int] | None) -> torch.Tensor:
    values = [_values(entry) for entry in entries]
    try:
        return from_fp8(values[0], values[1] if len(values) > 1 else None, block)
    except ValueError as problem:
        named = f"The tensor {entries[0].name!r} in {entries[0].file}"
        raise ModelError(f"{named} cannot be dequantized: {problem}.") from None
