"""Chat templates, rendered as transformers renders them, by Jinja alone.

A template is a program from whoever made the model, so it runs in a sandbox and can change nothing. Source: the
documentation of transformers, "Chat templates", and its `chat_template_utils`. Beside plain Jinja, templates may use
`raise_exception`, `strftime_now`, a `tojson` that leaves HTML's characters alone, loop controls, and a tag `generation`
around what the model wrote, which matters in training only.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mediant.errors import ModelError

Message = Mapping[str, str]


def render(template: str, messages: Sequence[Message], tokens: Mapping[str, str]) -> str:
    """Returns the text of a conversation, up to where the model answers.

    Args:
        template: in Jinja's language.
        messages: each with a `role` and its `content`.
        tokens: special tokens by the names that templates give them, such as `bos_token`.

    Raises:
        ModelError: the template is not one, or refuses such a conversation.
    """
    import jinja2

    try:
        plain = [dict(message) for message in messages]
        given = {"messages": plain, "tools": None, "documents": None, "add_generation_prompt": True, **tokens}
        return str(_compiled(template).render(**given))
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as problem:
        raise ModelError(f"The model's chat template refuses this conversation: {problem}.") from None


@cache
def _compiled(template: str) -> Any:
    from jinja2 import ext, nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(ext.Extension):
        """The tag `generation`, whose content is rendered as if the tag were not there."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

        def _content(self, caller: Any) -> str:
            return str(caller())

    class OpenNamespace(Namespace):
        """Jinja's namespace without names that begin with an underscore, which reach into Python."""

        def __init__(*arguments: Any, **named: Any) -> None:
            for name in (given := dict(*arguments[1:], **named)):
                _refuse(name)
            Namespace.__init__(arguments[0], given)

        def __setitem__(self, name: str, value: Any) -> None:
            _refuse(name)
            super().__setitem__(name, value)

    def _refuse(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"it stores the underscored name {name!r} in a namespace")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda layout: datetime.datetime.now().strftime(layout),
        "dict": _Dict(),
        "namespace": OpenNamespace,
    }
    return environment.from_string(template)


class _Dict:
    """What templates may do with `dict`: make one."""

    def __call__(self, *arguments: Any, **named: Any) -> dict[Any, Any]:
        return dict(*arguments, **named)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        """Builds a dictionary with one value for all keys, as Python's `dict.fromkeys` does."""
        return dict.fromkeys(*arguments)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
