"""Llama 1 to 3, SmolLM and SmolLM2, and whatever else calls itself `llama`."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import llama_shaped

MODEL_TYPES = ("llama",)


def describe(config: Config) -> Description:
    """Llama itself."""
    return llama_shaped(config, "llama")
