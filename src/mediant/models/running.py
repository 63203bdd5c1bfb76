"""A network of transformers on tokens: its hidden states, and its predictions one token after another."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def hidden_states(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """Returns the last hidden states [texts, tokens, width] of an encoder, or of what is below any other head."""
    states: torch.Tensor = network.base_model(input_ids=ids).last_hidden_state
    return states


class Steps:
    """Reads tokens and gives the logits behind the last; what was read stays, in the network's cache if it has one.

    A network without a cache of keys and values, as recurrent ones are, reads everything again at every step.
    """

    def __init__(self, network: Any):
        self._network, self._cache = network, None
        self._caches = "past_key_values" in inspect.signature(network.forward).parameters
        self._read: torch.Tensor | None = None

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [texts, vocabulary] behind tokens [texts, count] that follow on what was read before."""
        if self._caches:
            out = self._network(input_ids=tokens, past_key_values=self._cache, use_cache=True)
            self._cache = out.get("past_key_values")
            self._caches = self._cache is not None
            if self._caches:
                return self._last(out)
        self._read = tokens if self._read is None else torch.cat([self._read, tokens], dim=1)
        return self._last(self._network(input_ids=self._read))

    @staticmethod
    def _last(out: Any) -> torch.Tensor:
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits
