"""The table of `mediant analyze --attention`, and the edit of a plan that it suggests."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from mediant.cli._analysis_tables import table_of
from mediant.statistics.attention_distance import LOCAL_SHARE, Reach, local_layers


def show_reaches(console: Console, reaches: Sequence[Reach], window: int) -> None:
    """Prints where each layer's attention goes."""
    table = table_of("Attention", ("layer",), ("mean distance", "first 4", f"last {window}", "beyond", ""))
    for reach in reaches:
        shares = (f"{100 * share:.1f} %" for share in (reach.sinks, reach.near, reach.beyond))
        table.add_row(str(reach.layer), f"{reach.distance:.0f}", *shares, "local" if reach.local else "")
    console.print()
    console.print(table)
    console.print(f"local: at most {100 * LOCAL_SHARE:.0f} % of the attention goes beyond", style="dim")
    if layers := local_layers(reaches):
        edit = {"edit": "attention", "pattern": {"name": "sliding_window", "window": window}, "layers": layers}
        console.print(escape(f"In a plan's structure: {json.dumps(edit)}"), style="dim", soft_wrap=True)
