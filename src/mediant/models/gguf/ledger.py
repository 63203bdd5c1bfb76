"""What a GGUF header may say without the network hearing of it, each with the reason; all else is taken or refused."""

from __future__ import annotations

import fnmatch

IRRELEVANT = {
    "GGUF.*": "sizes of the header itself",
    "general.*": "who made the file, of what, under which licence, and in which types",
    "split.*": "a file that is whole",
    "quantize.imatrix.*": "how the types were chosen",
    "mradermacher.*": "who made the file",
    "tokenizer.*": "read with the tokenizer, which has a ledger of its own",
    "*.tensor_data_layout": "the order of rotary rows, which is that of the architecture",
    "*.rope.scaling.finetuned": "whether training knew of the scaling",
    "*.attention.group_norm_epsilon": "of norms that these networks do not have",
    "*.attention.group_norm_groups": "of norms that these networks do not have",
}
"""Keys, by pattern, that say nothing about what the network computes."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.value_length_mla": (0,),
    "attention.key_length_mla": (0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.sliding_window": (0,),
    "attention.scale": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "leading_dense_block_count": (0,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "embedding_scale": (0.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.alpha": (0.0,),
    "swin_norm": (False,),
}
"""Numbers, by key without the architecture, that change nothing when they have one of these values."""

TENSORS = {
    "rope_freqs.weight": "the factors of rotary frequencies, taken into the configuration",
    "rope_factors_long.weight": "the factors of rotary frequencies, taken into the configuration",
    "rope_factors_short.weight": "the factors of rotary frequencies, taken into the configuration",
    "blk.*.rope_freqs.weight": "copies of rope_freqs.weight",
    "blk.*.attn_rot_embd.weight": "rotary frequencies of old files, which follow from rope.freq_base",
    "blk.*.attn_rot_embd": "rotary frequencies of old files, which follow from rope.freq_base",
}
"""Tensors, by pattern, that are not weights of the network."""


def irrelevant(key: str) -> bool:
    """Says whether a key of the header is listed as irrelevant."""
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in IRRELEVANT)


def neutral(name: str, value: object) -> bool:
    """Says whether a number of the architecture changes nothing.

    >>> neutral("expert_count", 0), neutral("expert_count", 8)
    (True, False)
    """
    return value in NEUTRAL.get(name, ())


def not_a_weight(tensor: str) -> bool:
    """Says whether a tensor is listed as no weight of the network."""
    return any(fnmatch.fnmatchcase(tensor, pattern) for pattern in TENSORS)
