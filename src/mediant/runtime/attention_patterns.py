"""Attention patterns in the models of transformers: `attn_implementation="mediant_sliding_window"` and its sisters.

Every file of methods/attention is registered with the attention interface and with the mask interface of
transformers under its name with `mediant_` in front; without the second a function is given no mask, not even a causal
one. Its parameters are the method's defaults. `mediant_attention` gives every layer the pattern that the configuration
has for it in `mediant_attention_layers`, a list with a spec such as {"name": "sliding_window", "window": 512} or null,
which means dense, for each layer; `from_pretrained` turns it on where the configuration has that list
(runtime/transformers_hook.py).

In place of a mask goes a small table: for each row of the batch the position of the first query and of the first key,
counted from the row's first real token, which is all that left padding and caches change, and the layer's own window.

A layer that has a window of its own keeps it, and a sliding window makes it narrower; its cache forgets the first
tokens, so it has no sinks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mediant import discovery
from mediant.errors import ModelError, UsageError
from mediant.kernels.attention_tile import check_shapes
from mediant.methods.attention import Attention
from mediant.methods.attention.sliding_window import SlidingWindow

PREFIX = "mediant_"
PLANNED = "mediant_attention"
LAYERS = "mediant_attention_layers"

# A window that no text is longer than.
ENDLESS = 1 << 40


def register(modeling_utils: ModuleType) -> None:
    """Registers all patterns with the `transformers.modeling_utils` that is given."""
    from transformers.masking_utils import AttentionMaskInterface

    for name in (*(PREFIX + n for n in discovery.names("attention")), PLANNED):
        modeling_utils.AttentionInterface.register(name, functools.partial(attention_forward, name))
        AttentionMaskInterface.register(name, places)


def turn_on(network: Any) -> None:
    """Makes a network compute the patterns that its configuration has, if it has any."""
    if getattr(network.config.get_text_config(), LAYERS, None):
        network.set_attn_implementation(PLANNED)


def places(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Tensor] | None = None,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Tensor:
    """Builds a mask's substitute: [batch, 1, 1, 3] of first query and key position, and the own window or 0.

    The arguments are those of the mask functions of transformers.

    Raises:
        UsageError: the mask is not causal with at most a window, or tokens are padded in the midst of a row.
    """
    offset = int(q_offset)
    if use_vmap:
        raise UsageError("Mediant's attention patterns take causal masks; this model or call adds to its mask.")
    if mask_function is not None:
        _check_causal(mask_function, batch_size, q_length, offset, local_size, device)
    starts = torch.zeros(batch_size, dtype=torch.int64, device=device)
    if attention_mask is not None:
        starts = _starts(attention_mask[:, : offset + q_length].bool())
    table = torch.stack([offset - starts, kv_offset - starts, torch.full_like(starts, local_size or 0)], 1)
    return table[:, None, None]


def attention_forward(
    name: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Returns the attention of one layer, [batch, queries, heads, size], as transformers asks for it, without its
    weights.

    Raises:
        UsageError: the layer wants something that the patterns do not offer.
    """
    _refuse(name, module, dropout, others)
    own = sliding_window
    if attention_mask is None:
        check_shapes(query, key, value)
        start = key.shape[2] - query.shape[2]
        rows = [(start, 0)] * len(query)
    else:
        if attention_mask.shape[1:] != (1, 1, 3) or attention_mask.dtype != torch.int64:
            raise UsageError(f"{name} takes an attention mask of (batch, tokens), not {tuple(attention_mask.shape)}.")
        table = attention_mask[:, 0, 0].expand(len(query), 3).tolist()
        rows, own = [(q, k) for q, k, _ in table], own or table[0][2] or None
    pattern = _pattern(name, module, own)
    out = _by_row(pattern, query, key, value, rows, scaling, softcap)
    return out.transpose(1, 2).contiguous(), None


def _by_row(
    pattern: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: list[tuple[int, int]],
    scale: float | None,
    softcap: float | None,
) -> Tensor:
    """Returns attention of rows that start at their own positions; padding before the first real token gets zeros."""
    out = query.new_zeros(*query.shape[:3], value.shape[3])
    for q_position, k_position in set(rows):
        alike = [i for i, row in enumerate(rows) if row == (q_position, k_position)]
        padding, first = max(0, -q_position), max(0, -k_position)
        last = q_position - k_position + query.shape[2]
        if padding >= query.shape[2]:
            continue
        if k_position > 0 and not _forgets(pattern):
            raise UsageError("The cache has dropped the first tokens; only a sliding window without sinks goes on so.")
        every = len(alike) == len(rows)
        q, k, v = (x if every else x[alike] for x in (query, key, value))
        found = pattern.attend(q[:, :, padding:], k[:, :, first:last], v[:, :, first:last], scale, softcap)
        if every and not padding:
            return found
        out[alike, :, padding:] = found
    return out


def _forgets(pattern: Attention) -> bool:
    return isinstance(pattern, SlidingWindow) and not pattern.sinks


def _pattern(name: str, module: nn.Module, own: int | None) -> Attention:
    """Returns the pattern of one layer."""
    spec: dict[str, Any] | None = {"name": name.removeprefix(PREFIX)}
    if name == PLANNED:
        spec = _planned(module)
    pattern: Attention = SlidingWindow(ENDLESS, 0) if spec is None else discovery.make("attention", spec)
    if own is None:
        return pattern
    return SlidingWindow(min(own, pattern.window) if isinstance(pattern, SlidingWindow) else own, 0)


def _planned(module: nn.Module) -> dict[str, Any] | None:
    layer = getattr(module, "layer_idx", None)
    specs = getattr(getattr(module, "config", None), LAYERS, None)
    if layer is None or not specs or layer >= len(specs):
        raise ModelError(f"The configuration has no pattern for layer {layer} in {LAYERS}: one entry for each layer.")
    found: dict[str, Any] | None = specs[layer]
    return found


def _refuse(name: str, module: nn.Module, dropout: float, others: dict[str, Any]) -> None:
    causal = others.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise UsageError(
            f"{name} is causal, and this model's attention looks both ways; leave attn_implementation out."
        )
    if dropout:
        raise UsageError(f"{name} has no dropout; set the model's attention dropout to 0 for training.")
    for extra, what in (("s_aux", "learned sinks"), ("position_bias", "a bias by position")):
        if others.get(extra) is not None:
            raise UsageError(f"{name} does not take {what}, which this model's attention has.")


def _check_causal(
    mask_function: Callable[..., Tensor],
    batch: int,
    queries: int,
    offset: int,
    window: int | None,
    device: torch.device | str,
) -> None:
    """Looks at each query's next token and at the farthest one that it should see; packed texts and such
    differ.
    """
    rows, head = torch.arange(batch, device=device)[:, None], torch.zeros(1, dtype=torch.int64, device=device)
    i = torch.arange(offset, offset + queries, device=device)[None]
    farthest = (i - window + 1).clamp(min=0) if window else torch.zeros_like(i)
    sees_past = bool(mask_function(rows, head, i, farthest).all())
    sees_next = queries > 1 and bool(mask_function(rows, head, i[:, :-1], i[:, 1:]).any())
    if not sees_past or sees_next:
        raise UsageError(
            "Mediant's attention patterns take causal masks over one text a row;"
            " this mask is packed, in chunks or not causal."
        )


def _starts(real: Tensor) -> Tensor:
    """Returns the first real token of each row [batch, tokens]; padding after the last one makes no difference."""
    before = torch.nn.functional.pad(real, (1, 0))[:, :-1]
    if bool(((real & ~before).sum(1) > 1).any()):
        raise UsageError(
            "The attention mask has padding between real tokens of a row; pad on the left or on the right."
        )
    return torch.where(real.any(1), real.int().argmax(1), real.shape[1])
