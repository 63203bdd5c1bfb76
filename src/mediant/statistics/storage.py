"""Statistics as one safetensors file, so that a run can stop after calibration and go on."""

from __future__ import annotations

import dataclasses
import json

from safetensors.numpy import load, save

from mediant.values import LayerStatistics, Statistics

ARRAYS = ("input_square", "input_mean", "output_fisher", "head_square", "head_fisher", "expert_tokens")


def to_bytes(statistics: Statistics) -> bytes:
    """Returns a safetensors file with the arrays as `<tensor>:<field>` and the rest as metadata."""
    arrays = {
        f"{name}:{field}": value
        for name, layer in statistics.layers.items()
        for field in ARRAYS
        if (value := getattr(layer, field)) is not None
    }
    head = {f.name: getattr(statistics, f.name) for f in dataclasses.fields(statistics) if f.name != "layers"}
    head["layers"] = {name: layer.tokens for name, layer in statistics.layers.items()}
    data: bytes = save(arrays, {"statistics": json.dumps(head)})
    return data


def from_bytes(data: bytes) -> Statistics:
    """Returns the inverse of `to_bytes`."""
    length = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["statistics"])
    arrays = load(data)
    layers = {
        name: LayerStatistics(tokens=tokens, **{f: arrays[f"{name}:{f}"] for f in ARRAYS if f"{name}:{f}" in arrays})
        for name, tokens in head.pop("layers").items()
    }
    return Statistics(layers=layers, **head)
