"""Cuts a text's tokens into the windows that are scored.

The protocol: the whole text is tokenised once, without special tokens; consecutive windows are taken from its
start; of each window only the second half is scored, so that every scored token has at least half a window of
context.
llama.cpp's perplexity tool halves its windows the same way, but leaves out the first token of the second half
(255 scored tokens of 512 where we have 256).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mediant.errors import TextError, UsageError


def predicting(window: int) -> slice:
    """Returns positions whose logits are scored: token i is predicted by the logits at i - 1, for i from window // 2.

    >>> predicting(512)
    slice(255, 511, None)
    """
    return slice(window // 2 - 1, window - 1)


def scored(window: int) -> slice:
    """Returns positions of the tokens that are scored.

    >>> scored(512)
    slice(256, 512, None)
    """
    return slice(window // 2, window)


def cut(tokens: Sequence[int] | torch.Tensor, windows: int, window: int) -> torch.Tensor:
    """Returns the first `windows` windows of `window` tokens, int64 [windows, window].

    Raises:
        UsageError: fewer than one window, or a window of fewer than two tokens.
        TextError: the text is too short; the message says how many windows it has.

    >>> cut(range(7), windows=2, window=3).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    check(windows, window)
    if len(tokens) < windows * window:
        raise TextError(_too_short(len(tokens), windows, window))
    return torch.as_tensor(tokens[: windows * window], dtype=torch.int64).reshape(windows, window)


def check(windows: int, window: int) -> None:
    """Refuses a number or a length of windows that cannot be scored.

    Raises:
        UsageError: fewer than one window, or a window of fewer than two tokens.
    """
    if windows < 1:
        raise UsageError(f"{windows} windows cannot be scored; at least 1 can.")
    if window < 2:
        raise UsageError(f"A window of {window} tokens has nothing to predict; at least 2 tokens are needed.")


def _too_short(tokens: int, windows: int, window: int) -> str:
    need = f"The text has {tokens} tokens, but {windows} windows of {window} need {windows * window}"
    if tokens >= window:
        return f"{need}; --windows {tokens // window} would work."
    return f"{need}; not even one window fits, so a longer text is needed."
