"""Balancing of inputs folded into what comes before them: the same network, with inputs of alike ranges.

Input j of the layers that read a normed hidden state is divided by s_j in the norm's weights, and their columns are
multiplied by it; the inputs of a gated MLP's last layer likewise in the rows of its up projection, whose outputs they
are proportional to. The network computes what it did.

s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) as in SmoothQuant (Xiao et al. 2022, arXiv 2211.10438, section 4), the
maxima over the columns of all layers that read the input. Powers of two are taken, so that folding itself rounds
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from mediant.errors import PlanError

Tensors = Mapping[str, torch.Tensor]

# Norms of these multiply by their weight as it stands.
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
INPUTS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
}
TINY = 1e-12


def readers(tensors: Tensors, architecture: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For every folded input the module that makes it and the modules that read it, by their paths.

    Raises:
        PlanError: it is not known where inputs of such a network come from.
    """
    if architecture not in ARCHITECTURES:
        raise PlanError(f"Balancing folds into {', '.join(ARCHITECTURES)}; this model is a {architecture}.")
    for name in tensors:
        path, _, last = name.removesuffix(".weight").rpartition(".layers.")
        layer, _, module = last.partition(".")
        if path and module in INPUTS and name.endswith(".weight"):
            stem = f"{path}.layers.{layer}."
            yield stem + module, tuple(stem + reader for reader in INPUTS[module])


def folded(
    tensors: Tensors, maxima: Mapping[str, torch.Tensor], architecture: str, alpha: float
) -> dict[str, torch.Tensor]:
    """Returns the tensors of the balanced network, by their names.

    Args:
        tensors: of the network.
        maxima: largest magnitude of every input [columns] by the path of a module that reads it.
        architecture: its class.
        alpha: the share of the inputs' range that the weights take over, 0 to 1.

    Raises:
        PlanError: as for `readers`.
    """
    changed = dict(tensors)
    for maker, names in readers(tensors, architecture):
        weights = torch.stack([changed[f"{name}.weight"].abs().amax(0) for name in names]).amax(0)
        s = factors(maxima[names[0]], weights, alpha)
        for name in names:
            changed[f"{name}.weight"] = changed[f"{name}.weight"] * s
        made = changed[f"{maker}.weight"]
        changed[f"{maker}.weight"] = made / (s if made.ndim == 1 else s[:, None])
        if f"{maker}.bias" in changed:
            changed[f"{maker}.bias"] = changed[f"{maker}.bias"] / s
    return changed


def factors(inputs: torch.Tensor, weights: torch.Tensor, alpha: float) -> torch.Tensor:
    """Returns the powers of two nearest to inputs^alpha / weights^(1 - alpha); 1 where an input never moves.

    >>> factors(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 1.0]), 0.5).tolist()
    [4.0, 1.0]
    """
    s = alpha * inputs.clamp(min=TINY).log2() - (1 - alpha) * weights.clamp(min=TINY).log2()
    return torch.where((inputs > TINY) & (weights > TINY), s.round().exp2(), 1.0)
