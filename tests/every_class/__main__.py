"""Tries every class and writes docs/models.md: `python -m tests.every_class`; with names, only those, and no page.

Prints one line of JSON for each class as it is tried; exits with 1 where one has a fault, and then writes no page.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.every_class.maker import classes
from tests.every_class.page import PAGE, page
from tests.every_class.trial import Outcome, tried
from tests.forked_commands import import_all


def outcomes(names: list[str]) -> list[Outcome]:
    """Tries classes one after another, in a folder for the time being."""
    found = []
    with tempfile.TemporaryDirectory(prefix="every-class-") as place:
        os.environ |= {"MEDIANT_CACHE": f"{place}/cache", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        import_all()
        for name in names:
            found.append(tried(name, Path(place) / "one"))
            print(json.dumps(dataclasses.asdict(found[-1])), flush=True)
    return found


if __name__ == "__main__":
    found = outcomes(sys.argv[1:] or list(classes()))
    faulty = any(outcome.faults for outcome in found)
    if not faulty and not sys.argv[1:]:
        PAGE.write_text(page(found), encoding="utf-8")
    sys.exit(int(faulty))
