"""Which stored tensor is which tensor of the network.

Files on the hub do not always use the names of the network: prefixes differ, old names are renamed, and
experts that lie in the file one by one are merged into one stack. transformers knows the rules, one list for
each architecture; here they only decide which tensors can be read straight from the file and which only
transformers can put together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)


@dataclass(frozen=True)
class Names:
    """The correspondence between a network and its files.

    `direct` maps a name of the network to the stored tensor that has the same content; `built` are names
    that transformers computes from the stored tensors `sources`; `missing` the names that nothing gives;
    `unused` the stored tensors that the network does not have.
    """

    direct: dict[str, str]
    built: tuple[str, ...]
    sources: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def match(network: PreTrainedModel, stored: Iterable[str], tied: Iterable[tuple[str, ...]]) -> Names:
    """Matches the stored names to those of `network`; the names of each group in `tied` are one tensor."""
    transforms = get_model_conversion_mapping(network)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    wanted = network.state_dict()
    prefix = network.base_model_prefix
    direct: dict[str, str] = {}
    sources: list[str] = []
    unused: list[str] = []
    for key in sorted(stored, key=dot_natural_key):
        name, converter = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, converter = rename_source_key(key, [], [], prefix, wanted)
        if converter is not None and name in wanted:
            sources.append(key)
        elif name in wanted:
            direct.setdefault(name, key)
        else:
            unused.append(key)
    absent = [n for group in tied if not any(n in direct for n in group) for n in group[:1]]
    built, missing = (absent, []) if sources else ([], _required(network, absent))
    return Names(direct, tuple(built), tuple(sources), tuple(missing), tuple(_known(network, unused)))


def _required(network: PreTrainedModel, names: list[str]) -> list[str]:
    """Leaves out names that the network can make by itself."""
    patterns = network._keys_to_ignore_on_load_missing or ()
    return [n for n in names if not any(re.search(p, n) for p in patterns)]


def _known(network: PreTrainedModel, names: list[str]) -> list[str]:
    """Leaves out names that are known leftovers of older versions."""
    patterns = [
        *(network._keys_to_ignore_on_load_unexpected or ()),
        r"rotary_emb\.inv_freq",
        r"(^|\.)position_ids$",
    ]
    return [n for n in names if not any(re.search(p, n) for p in patterns)]
