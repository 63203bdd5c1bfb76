"""Compares two encoders (BERT and its kin): the cosine between the sentence vectors they give.

A sentence's vector is the mean of the last hidden states over its tokens (mean pooling: Reimers and Gurevych,
arXiv 1908.10084, section 3). The figure is the mean over sentences of the cosine of the candidate's vector to
the reference's: 1 where they point the same way. A change of length alone does not show; no search by cosine
sees it either.

Sentences go through the models one by one, so there is no padding to mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mediant import files
from mediant.errors import ModelError, TextError
from mediant.progress import SILENT, Progress

Embed = Callable[[torch.Tensor], torch.Tensor]
"""Token ids [1, length], int64, to last hidden states [1, length, width]."""


@dataclass(frozen=True)
class EmbeddingScorecard:
    """The cost of compressing an encoder, on the sentences that `text` names."""

    cosine: float
    cosine_se: float
    bytes: int
    bits_per_weight: float
    sentences: int
    text: str


@torch.inference_mode()
def cosines(
    reference: Embed, candidate: Embed, sentences: Sequence[torch.Tensor], progress: Progress = SILENT
) -> NDArray[np.float64]:
    """Cosine of the candidate's sentence vector to the reference's, float64 [sentences].

    Args:
        reference: the encoder that counts as the truth.
        candidate: the encoder that is judged.
        sentences: token ids, int64 [length] each.
        progress: told after each sentence.

    Raises:
        ModelError: hidden states that are not finite, or of different width.
    """
    steps = progress.track(sentences, "Comparing the encoders", len(sentences))
    return np.array([_cosine(_vector(reference, s), _vector(candidate, s)) for s in steps])


def lines(path: Path) -> list[str]:
    """Returns the sentences of a file: its lines that are not blank.

    Raises:
        TextError: the file is missing, is not UTF-8 text, or has no sentence.
    """
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise TextError(f"There is no text file {path}.") from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as problem:
        raise TextError(f"{path} cannot be read as UTF-8 text: {files.reason(problem)}.") from None
    if not found:
        raise TextError(f"{path} has no sentence; one a line is needed.")
    return found


def random_sentences(vocabulary: int, sentences: int, length: int, seed: int) -> list[torch.Tensor]:
    """Returns tokens drawn evenly from the vocabulary, where there is no text: int64 [length] each.

    They are no language, but they reach every part of the embedding. Calibration draws from other streams.
    """
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]))
    return list(torch.randint(vocabulary, (sentences, length), generator=generator))


def _vector(embed: Embed, sentence: torch.Tensor) -> torch.Tensor:
    vector = embed(sentence.unsqueeze(0))[0].to(torch.float64).mean(dim=0)
    if not torch.isfinite(vector).all():
        raise ModelError("An encoder's hidden states are not finite; its weights are damaged or overflow.")
    return vector


def _cosine(p: torch.Tensor, q: torch.Tensor) -> float:
    if p.shape != q.shape:
        raise ModelError(
            f"The reference's vectors have {len(p)} components and the candidate's {len(q)}; "
            "only encoders of the same width can be compared."
        )
    return float(torch.nn.functional.cosine_similarity(p, q, dim=0))
