"""What can be done with a model, and why not: the question that every command asks before any work.

The answer comes from the class of the network and its configuration, with no weights: whether it reads token ids and
nothing else, whether it has a decoder beside an encoder, and whether each place sees only what is before it. What
cannot be told from these is in `EXCEPTIONS`, with the reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mediant.errors import ModelError
from mediant.models import architecture, remote_code

Kind = Literal["language model", "encoder", "none"]

# Model types of which something is unlike what their class says.
EXCEPTIONS: Mapping[str, str] = {
    "blt": "reads bytes in patches that another network cuts",
    "bros": "needs the place of every word on its page",
    "canine": "reads characters, not tokens",
    "cpmant": "puts prompts of its own before a text, which it reads in both directions",
    "evolla": "needs proteins beside text",
    "funnel": "shortens a text on its way, so that tokens have no vectors of their own",
    "git": "needs pictures beside text",
    "ibert": "computes with whole numbers in layers of its own",
    "layoutlm": "needs the place of every word on its page",
    "layoutlmv3": "needs the place of every word on its page",
    "lilt": "needs the place of every word on its page",
    "markuplm": "needs the structure of the page beside text",
    "mra": "needs kernels of its own, which run on GPUs only",
    "musicgen_decoder": "reads codes of sounds, several at a time",
    "musicgen_melody_decoder": "reads codes of sounds, several at a time",
    "perceiver": "reads bytes, not tokens",
    "prophetnet": "predicts several tokens at each place, from streams of its own",
    "reformer": "reads texts of one length only, and hashes them anew at every reading",
    "tapas": "needs the rows and columns of a table beside text",
    "xlm": "is told what to predict with every text, and may read it in both directions",
    "xlnet": "predicts tokens in an order that it is told with every text",
    "xlstm": "needs kernels of its own for texts that are not whole chunks",
    "xmod": "needs the language of every text beside it",
    "yoso": "hashes a text anew at every reading, so that no two readings agree",
}
# Types that see only what is before, though their configurations say is_decoder false, which their code does not ask.
ONE_WAY = ("gpt_neox", "gpt_neox_japanese")
# Parts of a configuration that say that a model reads more than text.
SENSES = ("vision_config", "audio_config", "speech_config", "image_config", "video_config")


@dataclass(frozen=True)
class Abilities:
    """What a model is taken for, and why it is refused where it is: a clause behind "which"."""

    kind: Kind
    reason: str = ""

    @property
    def writes(self) -> bool:
        """True if the model predicts the next token: it is judged by its predictions and can write text."""
        return self.kind == "language model"


def abilities(network: PreTrainedModel) -> Abilities:
    """Finds what can be done with a network, which may be on the meta device.

    A language model is compressed, evaluated, exported, and writes. An encoder, and a decoder or masked language model
    with whatever head, is compressed by what its hidden states lose, evaluated by comparing them, and exported; its
    head stays. All else is refused.
    """
    config = network.config
    if reason := EXCEPTIONS.get(config.model_type, ""):
        return Abilities("none", reason)
    inputs = inspect.signature(network.forward).parameters
    if "decoder_input_ids" in inputs:
        return Abilities("none", "has an encoder and a decoder; its encoder alone can be compressed")
    if "shared_kv_states" in inputs:
        return Abilities("none", "drafts for another model, whose keys and values it needs")
    if "input_ids" not in inputs or network.main_input_name != "input_ids":
        return Abilities("none", f"reads {network.main_input_name}, not token ids")
    needed = [n for n, p in inputs.items() if n != "input_ids" and p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if needed := [n for n in needed if n not in ("args", "kwargs")]:
        return Abilities("none", f"needs {needed[0]} beside token ids")
    if predicts(network):
        if getattr(config, "is_decoder", None) is False and config.model_type not in ONE_WAY:
            return Abilities("none", "reads texts in both directions unless its config.json says is_decoder true")
        return Abilities("language model")
    if any(getattr(config, name, None) is not None for name in SENSES):
        return Abilities("none", "reads pictures or sound too, and predicts no tokens; give it with its language head")
    return Abilities("encoder")


def predicts(network: PreTrainedModel) -> bool:
    """Returns True if the class predicts tokens from those before, by transformers' lists or the `auto_map` of its own
    code.
    """
    lists = (
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
        transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING,
    )
    kind = remote_code.network_kind(getattr(network.config, "auto_map", None), [type(network).__name__])
    own = not type(network).__module__.startswith("transformers.")
    # A part of a larger model (Mllama's text model) stands in the list by its own name, but not by its configuration.
    named = type(network).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return (
        (own and kind in remote_code.WRITERS)
        or (not own and named)
        or any(type(network) in _classes(mapping, network.config) for mapping in lists)
    )


def check(network: PreTrainedModel, where: object) -> Abilities:
    """Returns the abilities of a network.

    Raises:
        ModelError: nothing can be done with it.
    """
    found = abilities(network)
    if found.kind == "none":
        raise ModelError(
            f"The model in {where} is a {type(network).__name__}, which {found.reason}; Mediant takes language models,"
            " and encoders with or without a head."
        )
    return found


def ask(folder: Path, where: object = "") -> Abilities:
    """Returns the abilities of the model in a folder by its `config.json` alone: no weights need be there.

    Args:
        folder: has the configuration.
        where: the model, for messages; the folder if not given.

    Raises:
        ModelError: nothing can be done with it, or transformers cannot read its configuration.
    """
    return check(architecture.empty_network(architecture.load_config(folder)), where or folder)


def position_offset(network: nn.Module) -> int:
    """Returns the number of positions that are never used: RoBERTa and its kin begin to count behind the padding token.

    Their embedding of positions has a padding index, and the first token has the position behind it.
    """
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def _classes(mapping: object, config: PretrainedConfig) -> tuple[type[PreTrainedModel], ...]:
    if type(config) not in mapping:  # type: ignore[operator]
        return ()
    found = mapping[type(config)]  # type: ignore[index]
    return found if isinstance(found, tuple) else (found,)
