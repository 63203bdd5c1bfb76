"""The time of a sparse mixture of experts against running all of its experts, forward and with gradients.

    python benchmarks/kernels/experts.py [--experts 8] [--top 2] [--tokens 512] [--hidden 576] [--neurons 768]

All experts are run on every token and weighted, zero for those that were not chosen: what a mixture without sparse
dispatch does, with the same results, which is checked first. Beside it stand a dense MLP of all the experts' neurons,
and transformers' own experts (`grouped_mm`). Times are the least of rounds in which all take turns, in float32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mediant.methods.experts.mixture import Expert, Mixture, Settings

ROUNDS = 9


def layer_of(experts: int, top: int, hidden: int, neurons: int) -> Mixture:
    """A random mixture of gated experts; its gated dense twin has all their neurons."""
    generator = torch.Generator().manual_seed(0)

    def random(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) / columns**0.5

    parts: list[nn.Module] = [
        Expert(random(neurons, hidden), random(hidden, neurons), random(neurons, hidden)) for _ in range(experts)
    ]
    return Mixture(random(experts, hidden), parts, settings=Settings(k=top))


def everywhere(layer: Mixture, x: Tensor) -> Tensor:
    """All experts on all tokens."""
    routing = layer.routing(x)
    weights = torch.zeros_like(routing.scores).scatter(1, routing.experts, routing.weights)
    return sum((weights[:, e, None] * expert(x) for e, expert in enumerate(layer.experts)), torch.zeros_like(x))


def dense_of(layer: Mixture) -> Expert:
    """The MLP of all neurons of all experts."""
    parts = [dict(part.named_parameters()) for part in layer.experts]
    up, gate = (torch.cat([p[name].detach() for p in parts]) for name in ("up", "gate"))
    return Expert(up, torch.cat([p["down"].detach() for p in parts], dim=1), gate)


def grouped_of(layer: Mixture) -> Callable[[Tensor], Tensor]:
    """The same mixture in transformers."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    parts = [dict(part.named_parameters()) for part in layer.experts]
    neurons, hidden = parts[0]["up"].shape
    config = MixtralConfig(hidden_size=hidden, intermediate_size=neurons, num_local_experts=len(layer.experts))
    config._experts_implementation = "grouped_mm"
    module = MixtralExperts(config)
    with torch.no_grad():
        for e, p in enumerate(parts):
            module.gate_up_proj[e].copy_(torch.cat([p["gate"], p["up"]]))
            module.down_proj[e].copy_(p["down"])

    def forward(x: Tensor) -> Tensor:
        routing = layer.routing(x)
        y: Tensor = module(x, routing.experts, routing.weights)
        return y

    return forward


def timed(forms: Mapping[str, Callable[[Tensor], Tensor]], x: Tensor, gradients: bool) -> dict[str, float]:
    """Milliseconds of a pass of each form: the least of the rounds, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS + 1):
        for name, forward in forms.items():
            start = time.perf_counter()
            with torch.set_grad_enabled(gradients):
                y = forward(x)
                if gradients:
                    y.sum().backward()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(found[1:]) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("experts", 8), ("top", 2), ("tokens", 512), ("hidden", 576), ("neurons", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    layer = layer_of(given.experts, given.top, given.hidden, given.neurons)
    x = torch.randn(given.tokens, given.hidden, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, expected = layer(x), everywhere(layer, x)
        error = float((y - expected).norm() / expected.norm())
    # Sums of `hidden` and of `neurons` terms, twice the bound on their rounding.
    if error > 2 * (given.hidden + given.neurons) * torch.finfo(x.dtype).eps:
        raise SystemExit(f"The sparse mixture differs from the dense one by {error:.1e}.")
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "all experts": lambda x: everywhere(layer, x),
        "mixture": layer,
        "dense MLP": dense_of(layer),
        "transformers grouped_mm": grouped_of(layer),
    }
    rows = {}
    for gradients in (False, True):
        times = timed(forms, x, gradients)
        kind = "forward and backward" if gradients else "forward"
        rows[kind] = times
        for name, found in times.items():
            print(f"{kind:22}{name:26}{found:9.2f} ms{found / times['all experts']:8.3f} of all experts")
    if given.json:
        given.json.write_text(
            json.dumps({**{k: v for k, v in vars(given).items() if k != "json"}, "ms": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
