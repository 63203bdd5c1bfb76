"""How large a checkpoint would be in the other coding: fixed length against entropy-coded.

From fixed length, codes would take their entropy, that of each run by itself, -sum p log2 p bits a code (Shannon 1948);
a coder comes within a hundredth of it. From entropy-coded, the whole numbers of a row would all take the bits of the
largest. Nothing else changes. This is what the same weights would take; compressing for a coding from the start does
better with the same bytes.
"""

from __future__ import annotations

import numpy as np

from mediant.checkpoint.decoding import run_codes
from mediant.checkpoint.reader import Checkpoint
from mediant.errors import CheckpointError
from mediant.kernels.bit_planes import packed_bytes
from mediant.kernels.coded_matrix import CodedMatrix
from mediant.kernels.tiles import tile_bytes
from mediant.plans import Run
from mediant.progress import SILENT, Progress
from mediant.values import Array, Encoding


def bytes_by_coding(checkpoint: Checkpoint, total: int, progress: Progress = SILENT) -> dict[str, int]:
    """Bytes of the folder, which are `total` as it is, by coding: `fixed` and `entropy`.

    Hashes are not checked.

    Raises:
        CheckpointError: coded numbers cannot be decoded.
    """
    coded = [name for name, entry in checkpoint.tensors.items() if entry.plan.method in ("quantize", "lattice")]
    lattice = any(checkpoint.tensors[name].plan.method == "lattice" for name in coded)
    change = 0
    for name in progress.track(coded, "Counting codes", len(coded)):
        encoding = checkpoint.encoding(name, hashed=False)
        try:
            change += _if_fixed(encoding) if encoding.plan.method == "lattice" else _if_entropy_coded(encoding)
        except ValueError as problem:
            raise CheckpointError(f"The tensor {name!r} in {checkpoint.folder} is damaged: {problem}.") from None
    return {"fixed": total + change, "entropy": total} if lattice else {"fixed": total, "entropy": total + change}


def _if_entropy_coded(encoding: Encoding) -> int:
    change = 0.0
    for run, codes in zip(encoding.plan.runs, run_codes(encoding), strict=True):
        change += entropy_bytes(codes) - _stored(encoding, run)
    return round(change)


def _stored(encoding: Encoding, run: Run) -> int:
    columns = encoding.info.matrix_shape[1]
    if encoding.plan.storage == "rows":
        return packed_bytes(run.rows * columns, run.bits)
    return tile_bytes([run], columns)


def entropy_bytes(codes: Array) -> float:
    """The entropy of codes, uint8 of any shape, in bytes for all of them.

    >>> entropy_bytes(np.array([0, 1, 2, 3], np.uint8)), entropy_bytes(np.zeros(9, np.uint8))
    (1.0, 0.0)
    """
    counts = np.bincount(codes.reshape(-1))
    counts = counts[counts > 0].astype(np.float64)
    return max(0.0, float((counts * np.log2(counts.sum() / counts)).sum()) / 8)


def _if_fixed(encoding: Encoding) -> int:
    columns = encoding.info.matrix_shape[1]
    numbers = CodedMatrix.from_parts(encoding.parts, columns).numbers.astype(np.int64)
    spans = numbers.max(axis=1) - numbers.min(axis=1) + 1
    bits = np.ceil(np.log2(spans)).astype(np.int64)
    return int(-(-bits.sum() * columns // 8)) - int(encoding.parts["codes"].size)
