import inspect

import pytest

from mediant.cli import app

TAKES_MODELS = ("analyze", "bench", "chat", "compare", "compress", "distill", "evaluate", "experts", "export", "factor",
                "generate", "prune", "ranges")  # fmt: skip


@pytest.mark.parametrize("command", [c.name for c in app.registered_commands])
@pytest.mark.parametrize("option", ["merge_adapter", "trust_remote_code"])
def test_the_option_is_where_models_are_opened(command, option):
    callback = next(c.callback for c in app.registered_commands if c.name == command)
    assert (option in inspect.signature(callback).parameters) == (command in TAKES_MODELS)
