"""Llama 1 to 3, SmolLM and SmolLM2, and whatever else calls itself `llama`."""

from __future__ import annotations

from mediant.runtime.description import Config, Description
from mediant.runtime.families._llama_shaped import ATTENTION, MLP, biased, llama_shaped

MODEL_TYPES = ("llama",)
ARCHITECTURE = "LlamaForCausalLM"


def describe(config: Config) -> Description:
    """Llama itself."""
    roles = biased(config, "attention_bias", ATTENTION) | biased(config, "mlp_bias", MLP)
    return llama_shaped(config, "llama", biased=roles)
