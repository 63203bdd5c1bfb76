"""Every option that takes a whole number refuses one that no machine can count to."""

from __future__ import annotations

import pytest
import typer

from mediant.cli import app

GROUP = typer.main.get_command(app)
# Options whose values are checked by the command, where the sentence can say more, or may be of any size.
CHECKED_LATER = {
    ("analyze", "--attention"), ("approximate", "--max-denominator"), ("bench", "--prompt-tokens"),
    ("bench", "--tokens"), ("bench", "--activations"), ("chat", "--max-tokens"), ("chat", "--kv-bits"),
    ("chat", "--activations"), ("compare", "--windows"), ("compare", "--window"), ("compare", "--activation-bits"),
    ("distill", "--steps"), ("distill", "--lora"), ("distill", "--batch"), ("evaluate", "--windows"),
    ("evaluate", "--window"), ("experts", "--experts"), ("experts", "--shared"), ("generate", "--max-tokens"),
    ("generate", "--kv-bits"), ("generate", "--activations"), ("ranges", "--windows"), ("ranges", "--window"),
}  # fmt: skip
OPTIONS = [
    (name, parameter.opts[0], parameter.type)
    for name, command in sorted(GROUP.commands.items())
    for parameter in command.params
    if "int" in getattr(parameter.type, "name", "").lower()
]


@pytest.mark.parametrize(("command", "option", "kind"), OPTIONS)
def test_a_bound_or_a_check(command, option, kind):
    assert ((command, option) in CHECKED_LATER) is (getattr(kind, "max", None) is None)
