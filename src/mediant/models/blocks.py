"""Where a transformer block keeps its neurons, heads and hidden width: which axis of which tensor.

transformers names these parts alike in most families, so that a handful of schemes serve all; what none of them fits is
refused and not guessed. Names are those of the network's state dict, behind the number of the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mediant.errors import PlanError

_IN_LAYER = re.compile(r"(?:^|(?<=\.))(?:layers|h|blocks|layer)\.(\d+)\.")

# Configurations call the number of neurons by one of these names.
NEURON_COUNTS = ("intermediate_size", "ffn_dim", "n_inner")


@dataclass(frozen=True)
class Scheme:
    """Modules of a block by what they do.

    Neurons are outputs of `into` and inputs of `out_of`; heads outputs of `query`, `key`, `value` and inputs of
    `output`. `norms` scale the hidden width and nothing else. `transposed` weights are [inputs, outputs]. `free_heads`
    says that the size of a head does not follow from the hidden width.
    """

    into: tuple[str, ...]
    out_of: str
    query: str = ""
    key: str = ""
    value: str = ""
    output: str = ""
    norms: tuple[str, ...] = ()
    transposed: bool = False
    free_heads: bool = False


_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")

SCHEMES = (
    # Llama, Mistral, Qwen 2 and 3, SmolLM, Gemma.
    Scheme(
        into=("mlp.gate_proj", "mlp.up_proj"),
        out_of="mlp.down_proj",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        norms=_NORMS,
        free_heads=True,
    ),
    # OPT.
    Scheme(("fc1",), "fc2"),
    # Phi.
    Scheme(("mlp.fc1",), "mlp.fc2"),
    # GPT-2.
    Scheme(("mlp.c_fc",), "mlp.c_proj", transposed=True),
)


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor, and the block it is in (-1 outside)."""

    tensor: str
    axis: int
    layer: int


@dataclass(frozen=True)
class Blocks:
    """The blocks of one model: their scheme, and the names before and behind the number of a block."""

    scheme: Scheme
    tensors: tuple[str, ...]

    @classmethod
    def of(cls, tensors: Iterable[str]) -> Blocks:
        """Returns the blocks of a model with these tensors.

        Raises:
            PlanError: no scheme fits all blocks.
        """
        names = tuple(tensors)
        layers = {layer for name in names if (layer := layer_of(name)) >= 0}
        for scheme in SCHEMES:
            modules = (*scheme.into, scheme.out_of)
            found = [[n for n in names if layer_of(n) >= 0 and n.endswith(f".{m}.weight")] for m in modules]
            if layers and all(len(of_module) == len(layers) for of_module in found):
                return cls(scheme, names)
        raise PlanError("The blocks of this model have no plain MLP of a known form, so their parts cannot be pruned.")

    @property
    def count(self) -> int:
        """Number of blocks."""
        return 1 + max(layer_of(name) for name in self.tensors)

    def neurons(self) -> Iterator[Axis]:
        """Yields the axes along which neurons lie."""
        yield from self._outputs(self.scheme.into)
        yield from self._inputs((self.scheme.out_of,))

    def queries(self) -> Iterator[Axis]:
        """Yields the axes along which query heads lie."""
        yield from self._outputs((self.scheme.query,))
        yield from self._inputs((self.scheme.output,))

    def groups(self) -> Iterator[Axis]:
        """Yields the axes along which key and value heads lie."""
        yield from self._outputs((self.scheme.key, self.scheme.value))

    def hidden(self) -> Iterator[Axis]:
        """Yields the axes along which the hidden width lies."""
        s = self.scheme
        yield from self._inputs((*s.into, s.query, s.key, s.value))
        yield from self._outputs((s.out_of, s.output, *s.norms))
        for name in self.tensors:
            if layer_of(name) < 0:
                yield Axis(name, name.endswith("weight") and not name.endswith("norm.weight"), -1)

    def name(self, layer: int, module: str, leaf: str = "weight") -> str:
        """Returns the full name of a module's tensor in a block."""
        return next(n for n in self.tensors if layer_of(n) == layer and n.endswith(f".{module}.{leaf}"))

    def _outputs(self, modules: Iterable[str]) -> Iterator[Axis]:
        for module in modules:
            yield from (Axis(n, int(self.scheme.transposed), layer_of(n)) for n in self._of(module, "weight"))
            yield from (Axis(n, 0, layer_of(n)) for n in self._of(module, "bias"))

    def _inputs(self, modules: Iterable[str]) -> Iterator[Axis]:
        for module in modules:
            yield from (Axis(n, 1 - self.scheme.transposed, layer_of(n)) for n in self._of(module, "weight"))

    def _of(self, module: str, leaf: str) -> list[str]:
        return [n for n in self.tensors if module and layer_of(n) >= 0 and n.endswith(f".{module}.{leaf}")]


def layer_of(name: str) -> int:
    """Returns the index of the block that a tensor is in, or -1.

    >>> layer_of("model.layers.12.mlp.up_proj.weight"), layer_of("lm_head.weight")
    (12, -1)
    """
    match = _IN_LAYER.search(name)
    return -1 if match is None else int(match[1])


def block_path(name: str) -> str:
    """Returns the path of the block that a tensor is in; empty outside.

    >>> block_path("model.layers.12.mlp.up_proj.weight"), block_path("lm_head.weight")
    ('model.layers.12', '')
    """
    match = _IN_LAYER.search(name)
    return "" if match is None else name[: match.end() - 1]


def neuron_count(config: Mapping[str, Any]) -> str:
    """Finds the configuration's name for its number of neurons.

    Raises:
        PlanError: none of the known names.
    """
    name = next((name for name in NEURON_COUNTS if name in config), None)
    if name is None:
        raise PlanError("The model's configuration does not say how many neurons its blocks have.")
    return name
