"""A linear router that sends a token to the experts that would add most to it, without training.

For tokens x and experts whose outputs are f_e(x), minimises E (r_e x - c_e(x))^2 + damping over the rows r_e, where
c_e = ||f_e||^2 / sum_e' ||f_e'||^2 - 1 / experts: ridge regression, solved once for all experts. Rows are then scaled
so that logits spread by `SPREAD`: small enough that all experts in use count almost alike, large enough to tell them
apart in any number format.

CMoE (Pei et al. 2025, arXiv 2502.04416, section 3.4) takes the hidden activation of one representative neuron an
expert, which is not linear. On SmolLM2 at 50 % active the regression is also better: docs/log.md.

Cost: the experts' own forward pass on every token, and hidden^3 once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPREAD = 1 / 32
DAMPING = 1e-2


def fitted(x: Tensor, energies: Tensor) -> Tensor:
    """Returns the router [experts, hidden] for tokens [tokens, hidden] with energies ||f_e(x)||^2 [tokens, experts]."""
    inputs = x.double()
    gram = inputs.T @ inputs
    damping = DAMPING * float(gram.diagonal().mean())
    gram.diagonal().add_(damping if damping > 0 else 1.0)
    shares = energies.double() / energies.double().sum(1, keepdim=True).clamp(min=1e-300)
    rows = torch.linalg.solve(gram, inputs.T @ (shares - 1 / energies.shape[1]))
    spread = float((inputs @ rows).std())
    router: Tensor = (rows * (SPREAD / spread if spread > 0 else 0.0)).T.to(x.dtype)
    return router


def energies(experts: nn.Module, x: Tensor) -> Tensor:
    """||f_e(x)||^2 of every one of transformers' fused experts, [tokens, experts]."""
    count = len(experts.down_proj)  # type: ignore[arg-type]
    ones = torch.ones(len(x), 1, dtype=x.dtype)
    parts = [experts(x, torch.full((len(x), 1), e), ones).square().sum(1) for e in range(count)]
    return torch.stack(parts, dim=1)
