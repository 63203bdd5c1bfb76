"""How much each transformer block changes the stream that goes through it: 1 − cos(in, out), mean over tokens.

A block whose output points where its input does can be dropped at little cost (Men et al. 2024, ShortGPT, 2403.03853,
eq. 1). It is a measure of size, not of use: two blocks in a row may each be small only while the other is there.
Cost: one forward pass over the text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.errors import ModelError
from mediant.progress import SILENT, Progress


@torch.inference_mode()
def block_influence(network: Any, windows: torch.Tensor, progress: Progress = SILENT) -> NDArray[np.float64]:
    """Returns the influence of every block, in order.

    Args:
        network: a model of transformers whose blocks are a list of modules.
        windows: tokens [windows, window], int64.

    Raises:
        ModelError: it has no such list.
    """
    blocks = next((m for m in network.modules() if isinstance(m, torch.nn.ModuleList)), None)
    if blocks is None:
        raise ModelError("This model has no list of blocks that could be compared.")
    totals = np.zeros(len(blocks))

    def hook(at: int) -> Any:
        def add(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            totals[at] += 1 - float(torch.nn.functional.cosine_similarity(before.double(), after.double(), -1).mean())

        return add

    handles = [block.register_forward_hook(hook(at), with_kwargs=True) for at, block in enumerate(blocks)]
    try:
        for window in progress.track(windows, "Measuring blocks", len(windows)):
            network.base_model(input_ids=window[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return totals / max(1, len(windows))
