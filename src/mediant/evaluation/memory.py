"""How much memory this process has needed."""

from __future__ import annotations

import resource
import sys


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes.

    `ru_maxrss` counts bytes on macOS and KiB elsewhere (getrusage(2) of either system).
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
