"""llama.cpp as a runner to compare with, through the package llama-cpp-python, which is not needed otherwise."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

from mediant.errors import MediantError, ModelError, UsageError
from mediant.runtime.speed import report

BATCH = 512


class LlamaCppRunner:
    """A GGUF file in llama.cpp."""

    def __init__(self, file: str, context: int = 1024):
        """Loads it.

        Raises:
            UsageError: llama-cpp-python is not installed.
            ModelError: llama.cpp cannot load the file.
        """
        if not os.path.isfile(file):
            raise ModelError(f"There is no file {file}; --against takes a GGUF file.")
        self._llama = library()
        self._model = self._llama.llama_model_load_from_file(file.encode(), self._llama.llama_model_default_params())
        if not self._model:
            raise ModelError(f"llama.cpp cannot load {file}.")
        settings = self._llama.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = context, BATCH, BATCH
        self._context = self._llama.llama_init_from_model(self._model, settings)
        if not self._context:
            raise ModelError(f"llama.cpp cannot make a context of {context} tokens for {file}.")
        self.vocabulary = int(self._llama.llama_vocab_n_tokens(self._llama.llama_model_get_vocab(self._model)))

    def set_threads(self, threads: int) -> None:
        """For single tokens and for batches."""
        self._llama.llama_set_n_threads(self._context, threads, threads)

    def prefill_seconds(self, tokens: list[int]) -> float:
        """In batches of 512."""
        self._clear()
        began = time.perf_counter()
        for start in range(0, len(tokens), BATCH):
            self._read(tokens[start : start + BATCH])
        return time.perf_counter() - began

    def decode_seconds(self, start: list[int], count: int) -> float:
        """Without choosing the tokens: the same one each time."""
        self._clear()
        self._read(start[:-1])
        began = time.perf_counter()
        for _ in range(count):
            self._read(start[-1:])
        return time.perf_counter() - began

    def _clear(self) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)

    def _read(self, tokens: list[int]) -> None:
        array = (self._llama.llama_token * len(tokens))(*tokens)
        if self._llama.llama_decode(self._context, self._llama.llama_batch_get_one(array, len(tokens))):
            raise ModelError("llama.cpp could not decode a batch.")


def library() -> Any:
    """llama-cpp-python, quiet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        llama = importlib.import_module("llama_cpp")
    except ImportError:
        raise UsageError(
            "--against needs llama.cpp: pip install llama-cpp-python, into the same environment."
        ) from None
    global _quiet
    _quiet = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(_quiet, None)
    llama.llama_backend_init()
    return llama


# llama.cpp keeps a pointer to this.
_quiet: Any = None


if __name__ == "__main__":
    try:
        report(lambda: LlamaCppRunner(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except MediantError as problem:
        sys.exit(str(problem))
