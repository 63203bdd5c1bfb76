"""Gemma 1."""

from __future__ import annotations

from mediant.models.gguf.families import _llama_shaped as shaped
from mediant.models.gguf.families._gemma_shaped import less_one_in_norms
from mediant.models.gguf.parts import Family

FAMILY = Family(network="GemmaForCausalLM", settings=shaped.settings, parts=less_one_in_norms(shaped.PLAIN))
