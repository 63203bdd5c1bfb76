"""The text that calibration reads: a file, or text that the model writes itself.

A model's own text needs no data set and no permission, and covers what the model knows (LLM-QAT, Liu et al. 2023,
arXiv 2305.17888, section 3.1): a first token drawn evenly from the vocabulary, four greedy tokens, then sampling
from the full distribution. Deviation: sequences go on after an end-of-text token, as in packed pretraining.

Held-out text for evaluation comes from the same procedure with another stream of the seed, so that the two never mix.
"""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from mediant import files
from mediant.errors import ModelError, TextError
from mediant.models.opening import positions
from mediant.models.reference import load_reference
from mediant.models.running import Steps
from mediant.models.special_tokens import check_ids, vocabulary
from mediant.models.tokenizer import open_tokenizer
from mediant.progress import SILENT, Progress
from mediant.values import Model
from mediant.workers import compute_alone, ordered

# Windows and their length: of a file, and of text that the model has to write first.
FROM_FILE = (48, 512)
WRITTEN = (32, 256)
# Text to learn from: shorter windows, so that a minute has more steps; as many of a file as there are, or so many.
LEARNING_WINDOW = 256
MOST_WINDOWS, WRITTEN_TO_LEARN = 4096, 96
GREEDY_TOKENS = 4
MOST_AT_ONCE = 16
STREAMS = {"calibration": 0, "held-out": 1, "tuning": 2}


@dataclass(frozen=True)
class CalibrationText:
    """Token windows [windows, window] (int64) and where they came from."""

    windows: torch.Tensor
    source: str

    @property
    def tokens(self) -> int:
        """Tokens in all windows."""
        return self.windows.numel()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(self.windows.numpy().tobytes()).hexdigest()


def calibration_tokens(
    model: Model,
    file: Path | None,
    seed: int,
    progress: Progress = SILENT,
    windows: int | None = None,
    window: int | None = None,
) -> CalibrationText:
    """Calibration windows from `file`, spread evenly over it, or written by the model.

    Without `windows` and `window`, 48 windows of 512 tokens are read, or 32 of 256 written; no window is longer than
    the model's positions.

    Raises:
        TextError: the file cannot be read as text or has fewer tokens than one window.
    """
    count, length = _shape(model, file, windows, window)
    if file is not None:
        return CalibrationText(_file_windows(model, file, count, length), f"file {file.name}")
    if not model.causal:
        return CalibrationText(_random_windows(model, count, length, seed), f"random tokens, seed {seed}")
    tokens = sampled_windows(model, count, length, seed, "calibration", progress)
    return CalibrationText(tokens, _written(seed))


def unwritten(model: Model, seed: int) -> CalibrationText:
    """Zeros in place of the text that the model would write: of the same source and size, but at once.

    What is said about either is as long, so that a size can be judged before any work.
    """
    return CalibrationText(torch.zeros(_shape(model, None), dtype=torch.int64), _written(seed))


def tokens_to_write(model: Model, seed: int) -> int:
    """Returns the number of tokens of calibration text that the model has yet to write; 0 if they are in the cache
    folder.
    """
    shape = _shape(model, None)
    return 0 if _cached(model, *shape, seed, "calibration").exists() else math.prod(shape)


def _shape(model: Model, file: Path | None, windows: int | None = None, window: int | None = None) -> tuple[int, int]:
    usual = WRITTEN if file is None else FROM_FILE
    return windows or usual[0], min(window or usual[1], positions(model) or usual[1])


def _written(seed: int) -> str:
    return f"written by the model, seed {seed}"


def held_out_windows(model: Model, windows: int, window: int, seed: int, progress: Progress = SILENT) -> torch.Tensor:
    """Returns token windows [windows, window] written by the model and never used for calibration."""
    return sampled_windows(model, windows, window, seed, "held-out", progress)


def text_to_learn(model: Model, file: Path | None, seed: int, progress: Progress = SILENT) -> torch.Tensor:
    """Returns windows to learn from [windows, tokens]: all of the calibration file, or more of the model's own text.

    Raises:
        TextError: the file is too short to hold any of it out.
    """
    length = min(LEARNING_WINDOW, positions(model) or LEARNING_WINDOW)
    if file is None:
        return sampled_windows(model, WRITTEN_TO_LEARN, length, seed, "tuning", progress)
    windows = calibration_tokens(model, file, seed, progress, MOST_WINDOWS, length).windows
    if len(windows) < 2:
        raise TextError(
            f"The text {file} has {len(windows)} window of {length} tokens; learning from it (tuning, or "
            "refitting pruned parts) needs at least 2."
        )
    return windows


def sampled_windows(
    model: Model, windows: int, window: int, seed: int, stream: str, progress: Progress = SILENT
) -> torch.Tensor:
    """Text written by the model, [windows, window]; kept in the cache folder and the same for any thread count."""
    cached = _cached(model, windows, window, seed, stream)
    if cached.exists():
        tokens: torch.Tensor = load_file(cached)["tokens"]
        return tokens
    network = load_reference(model)
    # At least two batches for two threads; the choice must not depend on the number of threads.
    batch = min(MOST_AT_ONCE, -(-windows // 2))
    jobs = [
        (network, min(batch, windows - start), window, _generator(seed, stream, start))
        for start in range(0, windows, batch)
    ]
    steps = _Steps(progress, len(jobs) * (window - 1))
    written = torch.cat(list(ordered(lambda job: _write(*job, steps), jobs, compute_alone)))
    if not files.keep(cached, save({"tokens": written})):
        progress.say(f"The text cannot be kept in {cached.parent}, and is written anew at the next run.")
    return written


def _cached(model: Model, windows: int, window: int, seed: int, stream: str) -> Path:
    key = f"{model.fingerprint}-{windows}x{window}-{seed}-{stream}"
    return files.cache_folder() / "texts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


class _Steps:
    """Progress that several threads may report."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._lock = threading.Lock()
        self._items = progress.track(range(total), "Writing text with the model", total)
        next(self._items, None)

    def done(self) -> None:
        """Counts one more step as finished."""
        with self._lock:
            next(self._items, None)


def _generator(seed: int, stream: str, offset: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, STREAMS[stream], offset]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


@torch.inference_mode()
def _write(network: Any, count: int, window: int, generator: torch.Generator, steps: _Steps) -> torch.Tensor:
    tokens = torch.randint(network.config.get_text_config().vocab_size, (count, 1), generator=generator)
    step, newest = Steps(network), tokens
    for position in range(window - 1):
        logits = step(newest)
        if not torch.isfinite(logits).all():
            raise ModelError("The model's logits are not finite; its weights are damaged or overflow.")
        if position < GREEDY_TOKENS:
            newest = logits.argmax(-1, keepdim=True)
        else:
            newest = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, newest], dim=1)
        steps.done()
    return tokens


def _file_windows(model: Model, file: Path, windows: int, window: int) -> torch.Tensor:
    ids = torch.tensor(token_ids(model, file))
    whole = len(ids) // window
    if whole == 0:
        raise TextError(f"The text {file} has {len(ids)} tokens; calibration needs at least {window}.")
    chosen = np.unique(np.linspace(0, whole - 1, min(windows, whole)).round().astype(int))
    return torch.stack([ids[i * window : (i + 1) * window] for i in chosen])


def token_ids(model: Model | Path, file: Path) -> list[int]:
    """Returns token ids of a text file, by the tokenizer of a model or of the folder of one, without special tokens.

    Raises:
        TextError: the file is missing or is not UTF-8 text.
        ModelError: there is no tokenizer, or the model has no place for one of the tokens.
    """
    folder, text = model.path if isinstance(model, Model) else model, read_text(file)
    tokenizer = open_tokenizer(folder)
    ids = tokenizer.encode(text, add_special_tokens=False)
    check_ids(ids, folder, tokenizer, str(file))
    return ids


def read_text(file: Path) -> str:
    """Returns a text file, whole.

    Raises:
        TextError: the file is missing or is not UTF-8 text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TextError(f"There is no text file {file}.") from None
    except (UnicodeDecodeError, OSError) as problem:
        raise TextError(f"{file} cannot be read as UTF-8 text: {files.reason(problem)}.") from None


def _random_windows(model: Model, windows: int, window: int, seed: int) -> torch.Tensor:
    return torch.randint(vocabulary(model.path), (windows, window), generator=_generator(seed, "calibration", 0))
