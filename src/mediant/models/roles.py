"""What each tensor of a network is for, read from the classes of its modules and never from their names."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mediant.values import Layout, Role, TensorInfo


def describe(network: PreTrainedModel) -> dict[str, TensorInfo]:
    """Returns every parameter and persistent buffer by its name in the state dict, in that order.

    A tied tensor appears under each of its names; `ties` says which names are one. The `dtype` is that of
    the network. Works on the meta device.
    """
    modules = dict(network.named_modules(remove_duplicate=False))
    head = output_embeddings(network)
    infos = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        path, _, leaf = name.rpartition(".")
        role, layout = role_and_layout(modules[path], leaf, tensor, head)
        dtype = str(tensor.dtype).removeprefix("torch.")
        infos[name] = TensorInfo(name, tuple(tensor.shape), dtype, role, layout, path, layer_index(path, modules))
    return infos


def ties(network: PreTrainedModel) -> list[tuple[str, ...]]:
    """Returns the names of the state dict, those of one tensor together; the first of them is its canonical name."""
    groups: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        groups.setdefault(id(tensor), []).append(name)
    return [tuple(group) for group in groups.values()]


def output_embeddings(network: PreTrainedModel) -> nn.Module | None:
    """Returns the module that turns the last hidden state into logits over the vocabulary, if there is one."""
    try:
        head: nn.Module | None = network.get_output_embeddings()
    except NotImplementedError:
        return None
    return head


def role_and_layout(module: nn.Module, leaf: str, tensor: Tensor, head: nn.Module | None) -> tuple[Role, Layout]:
    """Returns the role and layout of the tensor that `module` holds under the attribute `leaf`."""
    if leaf == "bias":
        return "bias", "none"
    if isinstance(module, nn.Linear) and tensor.ndim == 2 and _multiplies(module):
        return ("head" if module is head else "linear"), "out_in"
    if isinstance(module, Conv1D):
        return "linear", "in_out"
    if isinstance(module, nn.Embedding):
        return "embedding", "out_in"
    if _is_experts(module):
        return _in_experts(module, tensor)
    return ("norm" if _is_norm(module) else "other"), "none"


def layer_index(path: str, modules: dict[str, nn.Module]) -> int:
    """Returns the index of the transformer block on the path: the first that counts along a ModuleList; else -1."""
    parts = path.split(".")
    for depth in range(1, len(parts)):
        if isinstance(modules[".".join(parts[:depth])], nn.ModuleList):
            return int(parts[depth])
    return -1


def _multiplies(module: nn.Linear) -> bool:
    """Returns True if the module returns the product with its weights; a router may return what it makes of that."""
    return type(module).forward is nn.Linear.forward or "Router" not in type(module).__name__


def _is_norm(module: nn.Module) -> bool:
    """Returns True if a module only scales and shifts its input: it has no children, and vectors as parameters."""
    parameters = list(module.parameters(recurse=False))
    return bool(parameters) and not any(module.children()) and all(p.ndim == 1 for p in parameters)


def _is_experts(module: nn.Module) -> bool:
    """Returns True if a module stacks the matrices of several experts.

    transformers marks the experts whose forward pass can be exchanged with `is_transposed`; the few others
    have 'Experts' in the name of their class.
    """
    stacked = any(p.ndim == 3 for p in module.parameters(recurse=False))
    return stacked and (hasattr(module, "is_transposed") or "Experts" in type(module).__name__)


def _in_experts(module: nn.Module, tensor: Tensor) -> tuple[Role, Layout]:
    if tensor.ndim != 3:
        return ("bias" if tensor.ndim == 2 else "other"), "none"
    return "expert", ("experts_in_out" if _inputs_first(module) else "experts_out_in")


def _inputs_first(module: nn.Module) -> bool:
    """Returns True if stacked matrices are [experts, in, out].

    Where the module does not say, its shapes do: the first matrix reads the hidden state and the last one
    writes it, so one axis of each has the same size: axes 2 and 1 when outputs come first, 1 and 2 when
    inputs do. If both fit, outputs come first, as in torch.
    """
    if hasattr(module, "is_transposed"):
        return bool(module.is_transposed)
    stacks = [p.shape for p in module.parameters(recurse=False) if p.ndim == 3]
    first, last = stacks[0], stacks[-1]
    return first[1] == last[2] and first[2] != last[1]
