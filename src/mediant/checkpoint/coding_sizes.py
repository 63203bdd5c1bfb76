"""How large a checkpoint would be in the other coding: fixed length against entropy-coded.

From fixed length, codes would take their entropy, that of each run by itself, -sum p log2 p bits a code (Shannon 1948);
a coder comes within a hundredth of it. From entropy-coded, the whole numbers of a row would all take the bits of the
largest. Nothing else changes. This is what the same weights would take; compressing for a coding from the start does
better with the same bytes.
"""

from __future__ import annotations

from mediant.checkpoint.reader import Checkpoint
from mediant.errors import CheckpointError
from mediant.progress import SILENT, Progress


def bytes_by_coding(checkpoint: Checkpoint, total: int, progress: Progress = SILENT) -> dict[str, int]:
    """Returns the bytes of the folder, which are `total` as it is, by coding: `fixed` and `entropy`.

    Hashes are not checked.

    Raises:
        CheckpointError: coded numbers cannot be decoded.
    """
    coded = [name for name, entry in checkpoint.tensors.items() if entry.plan.coding]
    entropy = any(checkpoint.tensors[name].plan.coding == "entropy" for name in coded)
    change = 0
    for name in progress.track(coded, "Counting codes", len(coded)):
        e = checkpoint.encoding(name, hashed=False)
        try:
            change += e.plan.other_coding(e.info, e.parts, e.side)
        except ValueError as problem:
            raise CheckpointError(f"The tensor {name!r} in {checkpoint.folder} is damaged: {problem}.") from None
    return {"fixed": total + change, "entropy": total} if entropy else {"fixed": total, "entropy": total + change}
