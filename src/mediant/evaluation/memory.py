"""How much memory this process has needed."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

CLEAR = Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Returns the largest resident memory of this process so far, or since `forget_peak` where the system can forget,
    in bytes.

    `ru_maxrss` counts bytes on macOS and KiB elsewhere (getrusage(2) of either system).
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Lets `peak_bytes` begin anew; does nothing where the system cannot (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
