"""Gives some layers an attention pattern, so that reading a long text costs less; no weight changes.

With a pattern of w keys a query (`mediant.methods.attention`), a layer's attention over n tokens costs O(n w) in place
of O(n²), and its cache need hold no more than w tokens. A sister of `drop_layers`, which takes the layer's attention
away altogether. `mediant analyze --attention` shows which layers look nearby anyway. Not for a layer that finds things
far back, unless a training follows.

Configuration: a sliding window without sinks goes into `sliding_window` and `layer_types` (and `use_sliding_window`)
where the architecture has them and no layer has another window, and any program that knows the model honours it. All
else goes into `mediant_attention_layers`, a spec or null for each layer, which `mediant.load`, and transformers after
`import mediant`, honour; other programs compute dense attention. Cost: none beside copying the tensors.

>>> config, _ = AttentionPattern({"name": "local", "block": 64}, [1]).edited({"num_hidden_layers": 2}, {})
>>> config["mediant_attention_layers"]
[None, {'name': 'local', 'block': 64, 'before': 1}]
>>> qwen = {"num_hidden_layers": 2, "sliding_window": None, "layer_types": ["full_attention"] * 2}
>>> config, _ = AttentionPattern({"name": "sliding_window", "window": 512, "sinks": 0}, [1]).edited(qwen, {})
>>> config["sliding_window"], config["layer_types"]
(512, ['full_attention', 'sliding_attention'])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediant import discovery
from mediant.errors import PlanError
from mediant.methods.structure import Config, Tensors
from mediant.methods.structure.drop_layers import layer_count

REFERENCES = (
    "Beltagy, Peters and Cohan 2020, Longformer: The Long-Document Transformer, arXiv:2004.05150",
    "Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, arXiv:2309.17453",
)
NEEDS: tuple[str, ...] = ()

LAYERS = "mediant_attention_layers"
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class AttentionPattern:
    """`pattern` is a spec of a method of attention; `layers` get it, counted from 0, or all if there are none."""

    pattern: Mapping[str, Any] = field(default_factory=lambda: {"name": "sliding_window"})
    layers: Sequence[int] = ()

    def edited(self, config: Config, tensors: Tensors) -> tuple[Config, Tensors]:
        """Returns the tensors unchanged, and a configuration that says how these layers attend."""
        count = layer_count(config)
        layers = set(self.layers) or set(range(count))
        if not all(type(n) is int and 0 <= n < count for n in layers):
            raise PlanError(
                f"The layers that get an attention pattern are {sorted(layers)}; there are 0 to {count - 1}."
            )
        spec = discovery.spec(discovery.make("attention", self.pattern))
        specs = list(config.get(LAYERS) or [None] * count)
        if spec["name"] == "sliding_window" and not spec["sinks"] and not any(specs):
            own = _with_own_window(config, layers, spec["window"], count)
            if own is not None:
                return own, tensors
        for n in layers:
            specs[n] = spec
        return {**config, LAYERS: specs}, tensors


METHOD = AttentionPattern


def _with_own_window(config: Config, layers: set[int], window: int, count: int) -> Config | None:
    """Returns the configuration in the architecture's own fields; None where they cannot say it."""
    if "sliding_window" not in config:
        return None
    switch = {"use_sliding_window": True} if "use_sliding_window" in config else {}
    own, types = config["sliding_window"], config.get("layer_types")
    if types is None:
        # Such an architecture has one window for all layers, and a narrower one stays.
        narrower = own is None or own >= window
        return {**config, **switch, "sliding_window": window} if len(layers) == count and narrower else None
    slides = {n for n, kind in enumerate(types) if kind == SLIDING}
    if not set(types) <= {FULL, SLIDING} or (slides and (own < window or (own > window and slides - layers))):
        return None
    kinds = [SLIDING if n in layers else kind for n, kind in enumerate(types)]
    return {**config, **switch, "sliding_window": window, "layer_types": kinds}
