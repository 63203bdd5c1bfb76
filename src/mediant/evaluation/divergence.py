"""Compares two language models token by token: KL divergence, perplexity, top-1 agreement.

With p the reference's and q the candidate's distribution of the next token, the divergence at a scored token
is

    KL(p || q) = sum over the vocabulary of p (log p - log q), in nats,

0 exactly when the two distributions agree. Perplexity is exp of the mean of -log q(token).

Standard errors: tokens of one window share their context and are not independent, so the standard error of a
mean is that of the window means: their sample standard deviation over the square root of the number of
windows. The figure that treats all tokens as independent is given beside it; it is usually too small.

Cost: one forward pass of each model a window; beside the logits of one window, which a large vocabulary computes in
pieces (models/head_in_pieces.py), memory for a few blocks of `chunk` x vocabulary float64. Nothing is written to disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mediant.errors import ModelError
from mediant.evaluation.windows import predicting, scored
from mediant.progress import SILENT, Progress


class Logits(Protocol):
    """Logits [window, vocabulary], such as a tensor; of a large vocabulary they may be computed when they are read."""

    @property
    def shape(self) -> Sequence[int]:
        """Positions and vocabulary."""

    def __getitem__(self, positions: slice) -> torch.Tensor: ...


Forward = Callable[[torch.Tensor], torch.Tensor | Sequence[Logits]]
"""Token ids [1, window], int64, to logits [1, window, vocabulary]."""


CHUNK = 32
Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What was found at each scored token, float64 [windows, scored tokens of a window], and the means of it.

    `token_kl` is KL(reference || candidate); `token_nll` and `token_reference_nll` are the negative
    log-likelihood that the candidate and the reference give the token that the text has there, all in nats;
    `token_agreement` is 1 where both models rank the same token first, else 0.
    """

    token_kl: Figures
    token_nll: Figures
    token_reference_nll: Figures
    token_agreement: Figures

    @property
    def kl(self) -> float:
        """Mean KL(reference || candidate) in nats per token."""
        return float(self.token_kl.mean())

    @property
    def kl_se(self) -> float:
        """Standard error of `kl`, from the window means."""
        return standard_error(self.token_kl)

    @property
    def kl_se_tokens(self) -> float:
        """Standard error of `kl` if tokens were independent."""
        return token_standard_error(self.token_kl)

    @property
    def perplexity(self) -> float:
        """The candidate's perplexity; ModelError where it is beyond float64."""
        return _perplexity(self.token_nll, "candidate")

    @property
    def reference_perplexity(self) -> float:
        """The reference's perplexity; ModelError where it is beyond float64."""
        return _perplexity(self.token_reference_nll, "reference")

    @property
    def top1(self) -> float:
        """Share of the tokens at which both models rank the same token first."""
        return float(self.token_agreement.mean())

    @property
    def top1_se(self) -> float:
        """Standard error of `top1`, from the window means."""
        return standard_error(self.token_agreement)

    def per_window(self) -> list[dict[str, float]]:
        """Returns the means of each window: kl, nll, reference_nll, top1."""
        names = ("kl", "nll", "reference_nll", "top1")
        figures = (self.token_kl, self.token_nll, self.token_reference_nll, self.token_agreement)
        means = zip(*(f.mean(axis=1).tolist() for f in figures), strict=True)
        return [dict(zip(names, row, strict=True)) for row in means]


def compare(
    reference: Forward,
    candidate: Forward | None,
    windows: torch.Tensor,
    progress: Progress = SILENT,
    chunk: int = CHUNK,
) -> Comparison:
    """Scores the second half of every window with both models.

    Args:
        reference: the model whose distribution counts as the truth.
        candidate: the model that is judged; None compares the reference with itself, in one pass.
        windows: token ids, int64 [windows, window].
        progress: told after each window.
        chunk: positions whose distributions are held at once.

    Raises:
        ModelError: logits that are not finite, or two vocabularies of different size.
    """
    rows = [
        _window(reference, candidate, ids.unsqueeze(0), f"window {number}", chunk)
        for number, ids in enumerate(progress.track(windows, "Comparing the models", len(windows)))
    ]
    return Comparison(*torch.stack(rows, dim=1).numpy())


def standard_error(figures: Figures) -> float:
    """Returns standard error of the mean of all figures [windows, tokens], from the window means.

    One window has no such error; then its tokens are taken as independent.
    """
    return token_standard_error(figures if len(figures) == 1 else figures.mean(axis=1))


def token_standard_error(figures: Figures) -> float:
    """Returns standard error of the mean of figures that are taken as independent; 0 for a single one."""
    return float(figures.std(ddof=1) / math.sqrt(figures.size)) if figures.size > 1 else 0.0


@torch.inference_mode()
def _window(reference: Forward, candidate: Forward | None, ids: torch.Tensor, where: str, chunk: int) -> torch.Tensor:
    """Returns the rows kl, candidate's nll, reference's nll, agreement; each [scored tokens], float64."""
    expected = reference(ids)[0]
    found = expected if candidate is None or candidate is reference else candidate(ids)[0]
    if expected.shape[-1] != found.shape[-1]:
        raise ModelError(
            f"The reference has a vocabulary of {expected.shape[-1]} tokens and the candidate one of "
            f"{found.shape[-1]}; only models of the same vocabulary can be compared."
        )
    pieces = zip(
        _distributions(expected, chunk, f"The reference's logits in {where}"),
        _distributions(found, chunk, f"The candidate's logits in {where}"),
        torch.split(ids[0, scored(ids.shape[1])], chunk),
        strict=True,
    )
    return torch.cat([_tokens(*piece) for piece in pieces], dim=1)


def _distributions(logits: Logits, chunk: int, what: str) -> Iterator[torch.Tensor]:
    """Log-probabilities of the scored positions, `chunk` at a time, float64 [chunk, vocabulary]."""
    positions = range(logits.shape[0])[predicting(logits.shape[0])]
    for begin in positions[::chunk]:
        piece = logits[begin : min(begin + chunk, positions.stop)]
        if not torch.isfinite(piece).all():
            raise ModelError(f"{what} are not finite; the model's weights are damaged or overflow.")
        yield torch.log_softmax(piece, dim=-1, dtype=torch.float64)


def _tokens(log_p: torch.Tensor, log_q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    target = targets.unsqueeze(-1)
    agreement = (log_p.argmax(-1) == log_q.argmax(-1)).to(torch.float64)
    return torch.stack([kl, -log_q.gather(-1, target)[:, 0], -log_p.gather(-1, target)[:, 0], agreement])


def _perplexity(nll: Figures, whose: str) -> float:
    mean = float(nll.mean())
    if mean > math.log(np.finfo(np.float64).max):
        raise ModelError(f"The {whose} is broken: it gives the text {mean:.0f} nats a token.")
    return math.exp(mean)
