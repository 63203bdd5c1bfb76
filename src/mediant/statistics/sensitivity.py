"""Diagonal sensitivities: what an error in each weight costs, to second order.

With y = W x and l the log-likelihood of a label sampled from the model itself, the expected rise of KL(model ||
compressed) per token is 1/2 sum_ij g_i^2 h_j (w_ij - w^_ij)^2 with g_i^2 = E[(dl/dy_i)^2] and h_j = E[x_j^2]: the
Kronecker diagonal of the Fisher information (Martens & Grosse 2015, arXiv 1503.05671, section 3; sampled labels,
not the training labels, as Kunstner et al. 2019, arXiv 1905.12558, insist).

Deviations: 1. A token whose inputs are massive (the first of a window, on which heads rest their attention) counts
with at most MOST_ENERGY times the median energy: it would own h otherwise; and left out, its direction would look free
to be spoilt, although every later token attends to it. 2. An encoder has no labels: l is a random Gaussian projection
of the last hidden state, so g^2 measures squared output error. Cost: one forward and one backward pass through
activations; memory of one window a thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from mediant.errors import ModelError
from mediant.models.head_in_pieces import HeadInPieces, pieces_for
from mediant.models.reference import load_reference
from mediant.models.running import hidden_states
from mediant.progress import SILENT, Progress
from mediant.statistics import expert_inputs
from mediant.statistics.calibration_text import CalibrationText
from mediant.statistics.hessian import Accumulator
from mediant.values import Array, LayerStatistics, Model, Statistics, TensorInfo
from mediant.workers import Turns, compute_alone, ordered, return_memory

# An embedding row's frequency is half what calibration saw, half what the model expects, with a tenth spread
# evenly so that a token that never came up is not starved.
EVEN_SHARE = 0.1

# Times the median energy of a window's inputs with which one token counts at most. 4 to 1000 differ by 3 % in KL.
MOST_ENERGY = 64

# With Hessians, whose forward pass sees all windows, one window in so many is also run backwards.
BACKWARD_SHARE = 4

# Tokens whose probabilities are in memory together.
AT_ONCE = 128

# What only windows that run backwards tell.
BACKWARD_PARTS = ("fisher", "columns", "expected", "variance")

Sums = dict[tuple[str, str], Array]


def collect(
    model: Model, text: CalibrationText, progress: Progress = SILENT, hessians: Accumulator | None = None
) -> Statistics:
    """Returns statistics of every linear layer, embedding and head of `model` over the calibration windows.

    Hessians are added to `hessians` in the same pass, if it is given. The result does not depend on the number of
    threads: every window is computed by one thread, and windows are added in order.
    """
    network = load_reference(model)
    network.requires_grad_(False)
    pieces = pieces_for(network, text.windows.shape[1]) if model.causal else None
    recorder = Recorder(network, model, hessians, pieces)
    windows = list(enumerate(text.windows))
    totals: Sums = {}
    for sums in progress.track(ordered(recorder.run, windows, compute_alone), "Measuring sensitivity", len(windows)):
        for key, value in sums.items():
            totals[key] = totals[key] + value if key in totals else value
    length = text.windows.shape[1]
    tokens, backward = len(windows) * length, len(windows[:: recorder.stride]) * length
    layers = {t.name: s for t in model.tensors if (s := layer_statistics(t, totals, tokens, backward)) is not None}
    if (few := expert_inputs.warning(layers)) is not None:
        progress.say(few)
    return Statistics(layers, model.fingerprint, text.fingerprint, tokens, text.source)


class _Given(NamedTuple):
    """Inputs [..., features] of a layer; the sum of their tokens; these tempered, and the sum of their squares."""

    inputs: torch.Tensor
    total: torch.Tensor
    tempered: torch.Tensor
    squares: torch.Tensor


class Recorder:
    """Hooks that add up, per thread, what passes through each module of interest.

    Args:
        network: what `model` runs as; it gets the hooks.
        model: whose tensors are looked at.
        hessians: gets Hessians of inputs, if they are wanted.
        pieces: the head of the network, where whole logits of a window would take too much memory.
    """

    def __init__(
        self, network: Any, model: Model, hessians: Accumulator | None, pieces: HeadInPieces | None = None
    ) -> None:
        self.network, self.causal, self.hessians = network, model.causal, hessians
        self.stride = 1 if hessians is None else BACKWARD_SHARE
        self.local = threading.local()
        self.backward = Turns()
        self.fixed = {_place(p) for p in (*network.parameters(), *network.buffers())}
        network.config.use_cache = False
        self.pieces, self.head_name = pieces, ""
        if self.stride > 1:
            _spare_logits(network.get_output_embeddings())
        modules = dict(network.named_modules())
        expert_inputs.watch(network, model, tempered, self._add, self._add_inputs)
        for info in model.tensors:
            for name in (info.name, *info.aliases):
                module = modules.get(name.rpartition(".")[0])
                if isinstance(module, torch.nn.Embedding):
                    if module is network.get_input_embeddings() or reads_rows(module):
                        module.register_forward_hook(self._embedding_hook(info.name))
                elif module is not None and info.role in ("linear", "head", "embedding") and name.endswith(".weight"):
                    module.register_forward_hook(self._linear_hook(info.name))
                    if module is network.get_output_embeddings():
                        self.head_name = info.name

    def run(self, job: tuple[int, torch.Tensor]) -> Sums:
        """Sums over one window.

        A backward pass holds all activations, so beside Hessians, which fill memory too, there is one at a time, and it
        holds them as bfloat16; the other threads go on with windows that only run forward.
        """
        index, window = job
        backward = index % self.stride == 0
        with self.recording(index) as sums:
            alone = backward and self.hessians is not None
            turn = self.backward.take(index // self.stride) if alone else contextlib.nullcontext()
            held = saved_tensors_hooks(self._held, _unheld) if alone else contextlib.nullcontext()
            with turn, held, torch.set_grad_enabled(backward):
                self.through(window, backward, torch.Generator().manual_seed(index))
            if backward:
                # Two thirds of a gigabyte of SmolLM2 would stay with the allocator, beside what other threads free.
                return_memory()
        return dict(sums)

    def through(self, window: torch.Tensor, backward: bool, generator: torch.Generator) -> None:
        """Runs a window [tokens] forward, and backward too if it is to run there, while it is `recording`."""
        if backward and self.pieces is not None:
            self._differentiate_in_pieces(self.pieces, window, generator)
            return
        out = self._run(window[None])
        if backward:
            self._differentiate(out, generator)

    @contextlib.contextmanager
    def recording(self, window: int) -> Iterator[Sums]:
        """Sums to which hooks add what passes through modules in this thread, until the window is finished."""
        self.local.sums, self.local.window, self.local.given = defaultdict(float), window, None
        self.local.piece = False
        failed = True
        try:
            yield self.local.sums
            failed = False
        finally:
            if self.hessians is not None:
                self.hessians.finish(window, failed)

    def _differentiate(self, out: Any, generator: torch.Generator) -> None:
        """Runs the network backwards from its output for labels that it draws itself."""
        if not self.causal:
            hidden = out if isinstance(out, torch.Tensor) else out.last_hidden_state
            (hidden * torch.randn(hidden.shape, generator=generator)).sum().backward()
            return
        _differentiate_logits(out.logits[0], generator)

    def _differentiate_in_pieces(self, pieces: HeadInPieces, window: torch.Tensor, generator: torch.Generator) -> None:
        """Finds the gradients of a whole pass for some positions at a time, to the rounding of other shapes."""
        states = pieces.outputs(window[None]).last_hidden_state
        if self.head_name:
            self._add_linear(self.head_name, states)
        gradient = torch.empty_like(states)
        self.local.piece = True
        for at in pieces.pieces(len(window)):
            piece = states[:, at].detach().requires_grad_()
            _differentiate_logits(pieces.logits(piece), generator)
            gradient[:, at] = piece.grad
        states.backward(gradient)

    def _run(self, ids: torch.Tensor) -> Any:
        """Returns the output of a language model, or the hidden states of anything else, whatever its head."""
        return self.network(input_ids=ids) if self.causal else hidden_states(self.network, ids)

    def _held(self, x: torch.Tensor) -> tuple[bool, torch.Tensor]:
        """Keeps an activation for the backward pass, float32 as bfloat16: noise of 2^-9 of a square, averaged out."""
        halved = x.dtype == torch.float32 and _place(x) not in self.fixed
        return halved, x.bfloat16() if halved else x

    def _given(self, inputs: torch.Tensor) -> _Given:
        """Prepares a layer's inputs; once for consecutive layers that are given the same."""
        if self.local.given is None or self.local.given.inputs is not inputs:
            x = _tokens(inputs.detach())
            calmed = tempered(x)
            self.local.given = _Given(inputs, x.sum(0), calmed, calmed.square().sum(0))
        given: _Given = self.local.given
        return given

    def _add(self, name: str, part: str, value: torch.Tensor) -> None:
        self.local.sums[name, part] += value.detach().double().numpy()

    def _add_inputs(self, name: str, parts: list[torch.Tensor], alike: bool) -> None:
        self.local.sums[name, "alike"] = float(alike)
        if self.hessians is not None:
            self.hessians.add_experts(name, self.local.window, parts, alike)

    def _add_linear(self, name: str, inputs: torch.Tensor) -> None:
        given = self._given(inputs)
        self._add(name, "mean", given.total)
        self._add(name, "square", given.squares)
        if self.hessians is not None:
            self.hessians.add(name, self.local.window, inputs, given.tempered)

    def _embedding_hook(self, name: str) -> Callable[..., torch.Tensor]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            ids = inputs[0].reshape(-1)
            self._add(name, "rows", torch.bincount(ids, minlength=module.num_embeddings))
            if torch.is_grad_enabled():
                if output.is_leaf:
                    # A copy, as some families (CTRL) change it in place, which a leaf does not allow.
                    output = output.requires_grad_(True).clone()
                # Some families scale inside the module: y = scale w, so that dl/dw = scale dl/dy.
                scale = float(getattr(module, "embed_scale", 1))
                output.register_hook(lambda g: self._add(name, "columns", _tokens(scale * g).square().sum(0)))
            return output

        return hook

    def _linear_hook(self, name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            if not inputs or not isinstance(output, torch.Tensor):
                return
            if not self.local.piece:
                self._add_linear(name, inputs[0])
            if module is self.network.get_output_embeddings():
                if self.stride > 1 and not torch.is_grad_enabled():
                    return
                # In parts, as logits are the largest arrays there are. E[p - p^2]: rounding may take it below 0.
                for logits in _tokens(output.detach()).split(AT_ONCE):
                    p = logits.float().softmax(-1)
                    expected = p.sum(0)
                    self._add(name, "expected", expected)
                    self._add(name, "variance", (expected - p.square_().sum(0)).clamp(min=0))
            elif output.requires_grad:
                output.register_hook(lambda g: self._add(name, "fisher", _tokens(g).square().sum(0)))

        return hook


def _differentiate_logits(logits: torch.Tensor, generator: torch.Generator) -> None:
    """Runs the log-likelihood of labels drawn from logits [tokens, vocabulary] backwards."""
    if not torch.stack(logits.aminmax()).isfinite().all():
        raise ModelError("The model's logits are not finite; its weights are damaged or overflow.")
    p = logits.detach().float().softmax(-1)
    labels = sampled(p, generator)
    # d log p(label) / d logits = [label] - p, in the memory of p: logits are the largest arrays there are.
    gradient = p.neg_().scatter_add_(1, labels, torch.ones_like(labels, dtype=p.dtype))
    logits.backward(gradient.to(logits.dtype))


def _spare_logits(head: Any) -> None:
    """Lets windows that only run forward do without logits: a fourth of the work on a small model."""
    if head is not None:
        forward = head.forward
        head.forward = lambda x: forward(x) if torch.is_grad_enabled() else x[..., :1]


def sampled(p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns a class [rows, 1] for every row of probabilities [rows, classes], ten times as fast as
    torch.multinomial.
    """
    labels = []
    for row in p:
        total = row.cumsum(0)
        drawn = torch.rand(1, generator=generator) * total[-1]
        labels.append(torch.searchsorted(total, drawn, right=True).clamp_(max=len(row) - 1))
    return torch.stack(labels)


def reads_rows(module: torch.nn.Embedding) -> bool:
    """Returns True if a module's input says which rows come out; OPT and BART compute positions inside the module."""
    return type(module).forward is torch.nn.Embedding.forward


def _unheld(kept: tuple[bool, torch.Tensor]) -> torch.Tensor:
    halved, x = kept
    return x.float() if halved else x


def _place(x: torch.Tensor) -> int:
    """Returns the address of a tensor's storage, which all its views share."""
    return x.untyped_storage().data_ptr()


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """[tokens, features]."""
    return x.reshape(-1, x.shape[-1])


def tempered(x: torch.Tensor) -> torch.Tensor:
    """Inputs [tokens, features], where none has more than so many times the median energy of its window."""
    energy = x.square().sum(1, keepdim=True)
    return x * (MOST_ENERGY * energy.median() / energy.clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1).sqrt()


def layer_statistics(info: TensorInfo, totals: Sums, tokens: int, backward: int) -> LayerStatistics | None:
    """Means over the tokens that went forward, and over those that went backward too."""
    raw: dict[str, Array] = {k: v for (name, k), v in totals.items() if name == info.name}
    part: dict[str, Array] = {k: v / (backward if k in BACKWARD_PARTS else tokens) for k, v in raw.items()}
    if info.role == "expert":
        alike = bool(totals.get((info.name, "alike"), 0))
        return expert_inputs.by_expert(raw, alike, tokens) if "fisher" in part else None
    # The Fisher of a logit is known without sampling.
    fisher = part.get("variance", part.get("fisher"))
    if "columns" in part:
        rows = part["rows"]
        expected = part.get("expected", rows)
        frequency = (1 - EVEN_SHARE) * (rows + expected) / 2 + EVEN_SHARE / len(rows)
        return LayerStatistics(
            input_square=part["columns"],
            input_mean=np.zeros_like(part["columns"]),
            output_fisher=frequency,
            tokens=tokens,
            head_square=part.get("square"),
            head_fisher=fisher,
        )
    if "square" not in part or fisher is None:
        return None
    return LayerStatistics(part["square"], part["mean"], fisher, tokens)
