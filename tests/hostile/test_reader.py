"""Attacks on the reader: whatever the bytes, it gives the weights that were written, or one `CheckpointError`."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mediant import discovery
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import CheckpointError

Sample = Any
MANIFEST, PAYLOAD = "mediant.json", "mediant.safetensors"
SLOW_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


class Forgery:
    """The two files of a checkpoint taken apart. `save` puts them together with the right hash of the manifest."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        raw = (folder / PAYLOAD).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        self.header: Any = json.loads(raw[8 : 8 + length])
        self.data = bytearray(raw[8 + length :])
        self.text: str | None = None

    def entry(self, name: str = "embed.weight") -> Any:
        return self.manifest["tensors"][name]

    def save(self, folder: Path) -> Path:
        text = (self.text or json.dumps(self.manifest)).encode()
        if isinstance(self.header.get("__metadata__"), dict) and "manifest_sha256" in self.header["__metadata__"]:
            self.header["__metadata__"]["manifest_sha256"] = hashlib.sha256(text).hexdigest()
        header = json.dumps(self.header).encode()
        header += b" " * (-len(header) % 8)
        (folder / MANIFEST).write_bytes(text)
        (folder / PAYLOAD).write_bytes(len(header).to_bytes(8, "little") + header + self.data)
        return folder


def read_all(folder: Path) -> dict[str, np.ndarray]:
    return dict(open_checkpoint(folder).state(aliases=True))


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """Bit for bit."""
    return list(left) == list(right) and all(
        left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes() for n in left
    )


@pytest.fixture
def forgery(sample_checkpoint: Sample) -> Forgery:
    return Forgery(sample_checkpoint.folder)


def test_an_honest_forgery_is_read(sample_checkpoint: Sample, forgery: Forgery, tmp_path: Path) -> None:
    """So that every refusal below is due to the attack and not to the forging."""
    assert same(read_all(forgery.save(tmp_path)), read_all(sample_checkpoint.folder))


def test_the_comparison_sees_a_single_wrong_bit(sample_checkpoint: Sample) -> None:
    right = read_all(sample_checkpoint.folder)
    for name in right:
        wrong = dict(right)
        wrong[name] = (right[name].reshape(-1).view(np.uint32) ^ 1).view(np.float32).reshape(right[name].shape)
        assert not same(wrong, right)
    assert not same(dict(reversed(right.items())), right)


def put(value: Any, *path: str | int) -> Callable[[Forgery], None]:
    """An attack on the manifest: `value` at a path in it."""

    def attack(forgery: Forgery) -> None:
        place = forgery.manifest
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return attack


def drop(*path: str | int) -> Callable[[Forgery], None]:
    """An attack on the manifest: nothing at a path in it."""

    def attack(forgery: Forgery) -> None:
        place = forgery.manifest
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return attack


EMBED = ("tensors", "embed.weight")
PLAN = (*EMBED, "plan")
BIAS = ("tensors", "layers.0.in.bias")
TABLE = ("tensors", "layers.1.up")
CODED = ("tensors", "layers.2.down.weight")
FACTORED = ("tensors", "layers.3.up.weight")
RESIDUAL = ("tensors", "layers.3.down.weight")
COMPANDED = ("tensors", "layers.4.up.weight")
MASKED = ("tensors", "layers.5.mask_cast.weight")
ORDERED = ("tensors", "layers.5.ordered_quantized.weight")
COMBINED = ("tensors", "layers.5.combinations_cast.weight")
BLOCKS = ("tensors", "layers.5.blocks_quantized.weight")
OUTLIERS = ("tensors", "layers.6.up.weight")
BALANCED = ("tensors", "layers.6.down.weight")
PAIRED = ("tensors", "layers.7.up.weight")

MANIFEST_ATTACKS: dict[str, tuple[Callable[[Forgery], None], str]] = {
    "another format": (put("gguf", "format"), "not the manifest of a Mediant checkpoint"),
    "a later version": (put(3, "version"), "has version 3; this Mediant reads version 2"),
    "an older version": (put(1, "version"), "Methods and grids had other names before it; compress the model again"),
    "a version that is true": (put(True, "version"), "has version True"),
    "a version that is a float": (put(2.0, "version"), "has version 2.0"),
    "a missing field": (drop("seed"), "lacks the field 'seed'"),
    "an unknown field": (put(1, "run_me"), "unknown field 'run_me'"),
    "a seed that is a text": (put("3", "seed"), "'seed' is of the wrong kind"),
    "negative weights": (put(-1.5, "model", "weights"), "'weights' is of the wrong kind"),
    "a name that steers the terminal": (put("\x1b[2J", "model", "name"), "cannot be printed"),
    "a loss below nothing": (put(-0.5, "predicted_loss"), "outside 0 to 1e100"),
    "a huge loss": (put(10**4000, "predicted_loss"), "outside 0 to 1e100"),
    "a file elsewhere": (put(["../../.bashrc"], "files"), "names of files beside the manifest"),
    "an absolute file": (put(["/etc/passwd"], "files"), "names of files beside the manifest"),
    "a file twice": (put(["a", "a"], "files"), "names of files beside the manifest"),
    "a file that is a number": (put([7], "files"), "not a list of printable texts"),
    "tensors in a list": (put([], "tensors"), "'tensors' is of the wrong kind"),
    "a missing tensor": (drop(*EMBED), "are not those that"),
    "an alias that is a tensor": (put(["norm.weight"], *EMBED, "aliases"), "the name 'norm.weight' to two tensors"),
    "an alias twice": (put(["a", "a"], *EMBED, "aliases"), "the name 'a' to two tensors"),
    "a role of its own": (put("admin", *EMBED, "role"), "the role 'admin'"),
    "a layout of its own": (put("diagonal", *EMBED, "layout"), "the layout 'diagonal'"),
    "a layer below -1": (put(-2, *EMBED, "layer"), "the layer is -2"),
    "a shape with a minus": (put([-37, 24], *EMBED, "shape"), "whole numbers from 0"),
    "a shape with a point": (put([37.0, 24], *EMBED, "shape"), "whole numbers from 0"),
    "a shape with true": (put([True, 888], *EMBED, "shape"), "whole numbers from 0"),
    "a shape that overflows": (put([1 << 63, 1 << 63], *EMBED, "shape"), "cannot have the shape"),
    "a shape of zeros and infinity": (put([0, 1 << 62], *BIAS, "shape"), "cannot have the shape"),
    "a shape of many axes": (put([1] * 1000, *BIAS, "shape"), "1000 axes"),
    "another shape of as many": (put([24, 37], *EMBED, "shape"), "do not add up"),
    "the other layout": (put("in_out", *EMBED, "layout"), "do not add up"),
    "an unknown method": (put("eval", *PLAN, "method"), "there is no method 'eval'"),
    "a method with another's fields": (put("quantize", *BIAS, "plan", "method"), "the field 'dtype' is unknown"),
    "a step of nothing": (put(0.0, *CODED, "plan", "step"), "takes a positive number"),
    "a negative price": (put(-0.5, *CODED, "plan", "price"), "takes 0 or a positive number"),
    "a step that is a text": (put("1", *CODED, "plan", "step"), "the field 'step' is '1', not a number"),
    "coded numbers with a grid": (put({"kind": "zero_point"}, *CODED, "grid"), "has the unknown field 'grid'"),
    "a codebook without columns": (put([8], *CODED, "parts", "codebook", "shape"), "are not those that"),
    "a rank of nothing": (put(0, *FACTORED, "plan", "rank"), "it takes 1 to 9"),
    "a rank beyond the matrix": (put(10, *FACTORED, "plan", "rank"), "it takes 1 to 9"),
    "a rank that is true": (put(True, *FACTORED, "plan", "rank"), "not a whole number"),
    "another rank": (put(4, *FACTORED, "plan", "rank"), "not those of the plan"),
    "a factor that is missing": (drop(*FACTORED, "plan", "left"), "how its left factor is stored"),
    "a factor that is nothing": (put(None, *FACTORED, "plan", "left"), "the field 'left' is 'None'"),
    "a factor that is coded": (
        put(
            {"method": "entropy_coded", "step": 1.0, "damping": 0.01, "price": 0.0, "floor": 0.0},
            *FACTORED,
            "plan",
            "left",
        ),
        "has the method 'entropy_coded'",
    ),
    "factors of factors": (
        put({"method": "factors", "low_rank": {}, "rank": 1, "left": {}}, *FACTORED, "plan", "left"),
        "the left has the method 'factors'",
    ),
    "a base that is cast": (
        put({"method": "cast", "dtype": "float16"}, *RESIDUAL, "plan", "base"),
        "one grid for each",
    ),
    "a factor of another type": (put("float32", *FACTORED, "plan", "left", "dtype"), "not those of the plan"),
    "a factor's runs that are none": (put(3, *RESIDUAL, "plan", "left", "runs"), "the field 'runs' is '3', not a list"),
    "a factor's run of a text": (put([["1", 2]], *RESIDUAL, "plan", "left", "runs"), "not pairs of whole numbers"),
    "a factor with more": (put(1, *RESIDUAL, "plan", "left", "hook"), "unknown"),
    "a factor without a grid": (drop(*RESIDUAL, "grid", "left"), "one grid for each quantized factor"),
    "a grid of a factor that is cast": (
        put({"left": {"kind": "table"}}, *FACTORED, "grid"),
        "has the unknown field 'grid'",
    ),
    "a factor's grid that is a text": (put("table", *RESIDUAL, "grid", "left"), "one grid for each quantized factor"),
    "a factor's other grid": (
        put({"2": 0.0, "3": 0.0}, *RESIDUAL, "grid", "base", "first"),
        "is not what this Mediant",
    ),
    "codes of two axes": (put([10, 8], *CODED, "parts", "codes", "shape"), "the parts are not those of the plan"),
    "a grid that is cast": (put({"kind": "zero_point"}, *BIAS, "grid"), "has the unknown field 'grid'"),
    "a method without a grid": (drop(*EMBED, "grid"), "lacks the field 'grid'"),
    "a plan without a group": (drop(*PLAN, "group"), "lacks a field"),
    "a plan with a dtype too": (put("float16", *PLAN, "dtype"), "the field 'dtype' is unknown"),
    "a plan with more": (put(1, *PLAN, "hook"), "the field 'hook' is unknown"),
    "a group of nothing": (put(0, *PLAN, "group"), "it takes a whole number from 1"),
    "a negative group": (put(-16, *PLAN, "group"), "it takes a whole number from 1"),
    "a group that is true": (put(True, *PLAN, "group"), "not a whole number"),
    "a group that is a float": (put(16.0, *PLAN, "group"), "not a whole number"),
    "scales of two bits": (put(2, *PLAN, "scale_bits"), "scales take 16 bits or 3 to 8"),
    "scales of too many bits": (put(17, *PLAN, "scale_bits"), "scales take 16 bits or 3 to 8"),
    "a run of no bits": (put([[37, 0]], *PLAN, "runs"), "first level a bit width"),
    "a run of nine bits": (put([[5, 9], [20, 3], [12, 1]], *PLAN, "runs"), "first level a bit width"),
    "runs that end early": (put([[5, 8], [19, 3], [12, 1]], *PLAN, "runs"), "do not add up"),
    "a run of fewer than no rows": (put([[-5, 8], [30, 3], [12, 1]], *PLAN, "runs"), "do not add up"),
    "a run of no rows": (put([[0, 8], [25, 3], [12, 1]], *PLAN, "runs"), "do not add up"),
    "a run of three": (put([[5, 8, 1], [20, 3], [12, 1]], *PLAN, "runs"), "not pairs of whole numbers"),
    "a run with a point": (put([[5, 8.0], [20, 3], [12, 1]], *PLAN, "runs"), "not pairs of whole numbers"),
    "a grid of its own": (put({"kind": "spiral"}, *EMBED, "grid"), "the grid is none of"),
    "a grid without a bit width": (drop(*EMBED, "grid", "first", "3"), "first level a bit width"),
    "a first level between": (put(0.25, *EMBED, "grid", "first", "3"), "multiple of 1/2"),
    "a first level far away": (put(1e300, *EMBED, "grid", "first", "3"), "multiple of 1/2 of at most 65536"),
    "a first level that is true": (put(True, *EMBED, "grid", "first", "3"), "multiple of 1/2"),
    "another first level": (put(0.0, *EMBED, "grid", "first", "3"), "is not what this Mediant finds"),
    "a zero point from nowhere": (put({"kind": "zero_point"}, *EMBED, "grid"), "not those of the plan"),
    "a table from nowhere": (put({"kind": "table"}, *EMBED, "grid"), "a table grid needs 1 to 2^1 levels"),
    "an empty table": (put([0], *TABLE, "parts", "levels.3", "shape"), "needs 1 to 2^3 levels"),
    "a table too long": (put([9], *TABLE, "parts", "levels.3", "shape"), "needs 1 to 2^3 levels"),
    "a table in rows": (put([2, 3], *TABLE, "parts", "levels.3", "shape"), "needs 1 to 2^3 levels"),
    "a table that is shorter": (put([3], *TABLE, "parts", "levels.3", "shape"), "is not what this Mediant finds"),
    "a part too many": (
        put({"dtype": "uint8", "shape": [1], "sha256": "0" * 64}, *EMBED, "parts", "pickle"),
        "not those of the plan",
    ),
    "a missing part": (drop(*EMBED, "parts", "row_scales"), "not those of the plan"),
    "a part of another type": (put("uint8", *EMBED, "parts", "row_scales", "dtype"), "not those of the plan"),
    "a part of another shape": (put([36], *EMBED, "parts", "row_scales", "shape"), "not those of the plan"),
    "a part of a type unknown": (put("object", *BIAS, "plan", "dtype"), "cannot be cast to 'object'"),
    "a hash in capitals": (put("A" * 64, *EMBED, "parts", "codes", "sha256"), "64 hexadecimal digits"),
    "a short hash": (put("a" * 63, *EMBED, "parts", "codes", "sha256"), "64 hexadecimal digits"),
    "the hash of something else": (put("a" * 64, *EMBED, "parts", "codes", "sha256"), "is damaged"),
    "a cluster of no rows": (put(0, *COMPANDED, "plan", "cluster"), "it is at least 1"),
    "clusters of other sizes": (put(1, *COMPANDED, "plan", "cluster"), "not those of the plan"),
    "a cluster that is a float": (
        put(4.0, *COMPANDED, "plan", "cluster"),
        "not a whole number",
    ),
    "sequences of nothing": (put(0, *COMPANDED, "plan", "sequences"), "it is at least 1"),
    "a negative renewal": (put(-1, *COMPANDED, "plan", "renewal"), "it is at least 0"),
    "a rate of nothing": (put(0.0, *COMPANDED, "plan", "rate"), "takes a positive number"),
    "an endless multiplier": (put(1e99, *COMPANDED, "plan", "multiplier"), "takes a positive number"),
    "companded numbers with a grid": (put({"kind": "table"}, *COMPANDED, "grid"), "has the unknown field 'grid'"),
    "companded numbers without centres": (drop(*COMPANDED, "parts", "centres"), "not those of the plan"),
    "companded codes of two axes": (put([10, 8], *COMPANDED, "parts", "codes", "shape"), "not those of the plan"),
    "positions of their own kind": (put("spiral", *MASKED, "positions", "kind"), "the kind is unknown"),
    "positions of no kind": (drop(*MASKED, "positions", "kind"), "the kind is unknown"),
    "positions of a number": (put(7, *MASKED, "positions", "kind"), "the kind is unknown"),
    "positions in a list": (put([], *MASKED, "positions"), "'positions' is of the wrong kind"),
    "a sparse tensor without positions": (drop(*MASKED, "positions"), "lacks the field 'positions'"),
    "positions of a tensor that is whole": (
        put({"kind": "mask", "stored": 9}, *EMBED, "positions"),
        "has the unknown field 'positions'",
    ),
    "positions of more": (put(1, *MASKED, "positions", "hook"), "a field that is unknown"),
    "nothing stored": (put(0, *MASKED, "positions", "stored"), "not a positive whole number"),
    "more stored than there is": (put(385, *MASKED, "positions", "stored"), "numbers of weights do not fit"),
    "a number stored that is true": (put(True, *MASKED, "positions", "stored"), "not a positive whole number"),
    "another number stored": (put(191, *MASKED, "positions", "stored"), "numbers of weights do not fit"),
    "rows that do not add up": (put(11, *MASKED, "positions", "row"), "numbers of weights do not fit"),
    "a row of quantized weights that is not said": (drop(*ORDERED, "positions", "row"), "so these are only cast"),
    "a mask in place of an order": (put("mask", *ORDERED, "positions", "kind"), "not those of the plan"),
    "all of m": (put(4, *COMBINED, "positions", "keep"), "n of m do not fit"),
    "none of m": (put(0, *COMBINED, "positions", "keep"), "not a positive whole number"),
    "n of m that do not fit": (put(5, *COMBINED, "positions", "of"), "n of m do not fit"),
    "n of far too many": (put(10**9, *COMBINED, "positions", "of"), "n of m do not fit"),
    "blocks that do not divide": (put(5, *BLOCKS, "positions", "height"), "the blocks do not fit"),
    "blocks without a width": (drop(*BLOCKS, "positions", "width"), "the blocks do not fit"),
    "a block of far too many": (put(1 << 70, *BLOCKS, "positions", "width"), "the blocks do not fit"),
    "a sparse tensor that is rotated": (
        put({"name": "rotation", "seed": 1}, *ORDERED, "plan", "basis"),
        "no other basis, outliers or storage",
    ),
    "a sparse tensor with outliers": (put(1, *ORDERED, "plan", "outliers"), "no other basis, outliers or storage"),
    "sparse weights quantized and cast": (
        put("float16", *ORDERED, "plan", "dtype"),
        "the field 'dtype' is unknown",
    ),
    "sparse weights of another type": (put("float32", *MASKED, "plan", "dtype"), "not those of the plan"),
    "a sparse group of nothing": (put(0, *ORDERED, "plan", "group"), "it takes a whole number from 1"),
    "nothing but outliers": (put(19, *OUTLIERS, "plan", "outliers"), "its columns are 19"),
    "fewer outliers": (put(2, *OUTLIERS, "plan", "outliers"), "not those of the plan"),
    "a negative number of outliers": (put(-1, *OUTLIERS, "plan", "outliers"), "its columns are 19"),
    "outliers that are true": (put(True, *OUTLIERS, "plan", "outliers"), "not a whole number"),
    "outliers without a mask": (drop(*OUTLIERS, "parts", "outlier_mask"), "not those of the plan"),
    "outliers of another type": (put("float32", *OUTLIERS, "parts", "outliers", "dtype"), "not those of the plan"),
    "a basis of its own": (
        put("fourier", *BALANCED, "plan", "basis", "name"),
        "a rotation with a seed, or 'columns' with 'by'",
    ),
    "a basis without a name": (
        drop(*BALANCED, "plan", "basis", "name"),
        "a rotation with a seed, or 'columns' with 'by'",
    ),
    "columns found by nothing": (drop(*BALANCED, "plan", "basis", "by"), "or 'columns' with 'by'"),
    "columns found by a text": (put("awq", *BALANCED, "plan", "basis", "by"), "or 'columns' with 'by'"),
    "columns with a seed": (put(3, *BALANCED, "plan", "basis", "seed"), "or 'columns' with 'by'"),
    "columns without factors": (drop(*BALANCED, "parts", "column_scales"), "not those of the plan"),
    "factors of other columns": (put([5], *BALANCED, "parts", "column_scales", "shape"), "not those of the plan"),
    "half a codebook": (put([16], *PAIRED, "parts", "levels.2", "shape"), "needs 1 to 2^2 levels"),
    "a codebook in rows": (put([2, 16], *PAIRED, "parts", "levels.2", "shape"), "needs 1 to 2^2 levels"),
    "a codebook of three bits": (put([32], *PAIRED, "parts", "levels.3", "shape"), "needs 1 to 2^3 levels"),
    "a codebook that is nested": (put("nested", *PAIRED, "plan", "storage"), "as nested with a codebook of pairs"),
    "a codebook that is affine": (
        put({"kind": "affine", "first": {"2": 0, "3": 0}}, *PAIRED, "grid"),
        "not those of the plan",
    ),
    "a certificate below nothing": (put(-1, *EMBED, "certificate", "bound"), "outside 0 to 1e100"),
    "half a certificate": (put(None, *EMBED, "certificate", "bound"), "only in part"),
    "a certificate that is a text": (put("0", *EMBED, "certificate", "bound"), "wrong kind"),
}


@pytest.mark.parametrize("attack", MANIFEST_ATTACKS)
def test_a_manifest_that_lies_is_refused_though_its_hash_is_right(
    forgery: Forgery, tmp_path: Path, attack: str
) -> None:
    change, message = MANIFEST_ATTACKS[attack]
    change(forgery)
    with pytest.raises(CheckpointError) as refusal:
        read_all(forgery.save(tmp_path))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def moved(key: str, by: int) -> Callable[[Forgery], None]:
    def attack(forgery: Forgery) -> None:
        forgery.header[key]["data_offsets"] = [offset + by for offset in forgery.header[key]["data_offsets"]]

    return attack


def header_put(key: str, field: str, value: Any) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.header[key].update({field: value})


def swapped(first: str, second: str) -> Callable[[Forgery], None]:
    def attack(forgery: Forgery) -> None:
        header = forgery.header
        header[first], header[second] = header[second], header[first]

    return attack


CODES = "embed.weight.codes"

HEADER_ATTACKS: dict[str, tuple[Callable[[Forgery], None], str]] = {
    "a part over its neighbour": (moved(CODES, -1), "begins at"),
    "a hole": (moved(CODES, 1), "begins at"),
    "a part behind the end": (moved("layers.1.down.scale_codes", 1 << 40), "begins at"),
    "an end before the beginning": (header_put(CODES, "data_offsets", [9, 3]), "do not fit the shape"),
    "a negative offset": (header_put(CODES, "data_offsets", [-8, 8]), "whole numbers from 0"),
    "an offset with a point": (header_put(CODES, "data_offsets", [0.0, 8]), "whole numbers from 0"),
    "one offset": (header_put(CODES, "data_offsets", [0]), "do not fit the shape"),
    "a huge shape": (header_put(CODES, "shape", [1 << 62, 1 << 62]), "do not fit the shape"),
    "a type of other size": (header_put(CODES, "dtype", "F32"), "do not fit the shape"),
    "a type of the same size": (header_put("embed.weight.row_scales", "dtype", "F16"), "are not those that"),
    "a type unknown": (header_put(CODES, "dtype", "PICKLE"), "the type 'PICKLE' is none of"),
    "another shape of as many": (header_put("layers.0.in.weight.scales", "shape", [3, 10]), "are not those that"),
    "two parts for each other": (swapped("layers.0.in.bias.data", "norm.weight.data"), "are not those that"),
    "a field more": (header_put(CODES, "callback", 1), "unknown field 'callback'"),
    "a part more": (
        lambda f: f.header.update({"x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
        "are not those that",
    ),
    "a part less": (lambda f: f.header.pop("layers.2.gate.codebook"), "aligned, is right"),
    "a part that is a text": (lambda f: f.header.update({CODES: "here"}), "not a JSON object"),
    "no metadata": (lambda f: f.header.pop("__metadata__"), "metadata"),
    "metadata of another format": (header_put("__metadata__", "format", "pt"), "not the file of a Mediant"),
    "metadata of a later version": (header_put("__metadata__", "version", "3"), "not the file of a Mediant"),
    "metadata of a number": (header_put("__metadata__", "version", 2), "wrong kind"),
    "metadata of more": (header_put("__metadata__", "loader", "os.system"), "unknown field"),
    "data behind the end": (lambda f: f.data.extend(b"\0"), "bytes of data"),
    "data cut": (lambda f: f.data.pop(), "bytes of data"),
}


@pytest.mark.parametrize("attack", HEADER_ATTACKS)
def test_a_header_that_lies_is_refused(forgery: Forgery, tmp_path: Path, attack: str) -> None:
    change, message = HEADER_ATTACKS[attack]
    change(forgery)
    with pytest.raises(CheckpointError) as refusal:
        read_all(forgery.save(tmp_path))
    assert message in str(refusal.value)


PART_ATTACKS: dict[str, tuple[str, bytes, str]] = {
    "an infinite row scale": ("embed.weight.row_scales", b"\x80\x7f", "not finite"),
    "a row scale that is no number": ("embed.weight.row_scales", b"\xc0\xff", "not finite"),
    "an infinite scale": ("layers.0.in.weight.scales", b"\x80\xff", "not finite"),
    "a scale that overflows": ("layers.0.in.weight.scales", b"\x7f\x7f", "too large for finite weights"),
    "a level that is no number": ("layers.1.up.levels.3", b"\x00\x00\xc0\x7f", "not finite"),
    "levels out of order": ("layers.1.up.levels.3", b"\x00\x00\xc8\x42", "do not ascend"),
    "a code without a level": ("layers.1.up.codes", b"\xff" * 15, "but only 6 levels"),
    "an infinite cast weight": ("norm.weight.data", b"\x00\x00\x80\x7f", "not finite"),
    "an infinite factor": ("layers.3.up.weight.left.data", b"\x00\x7c", "not finite"),
    "factors that overflow": ("layers.3.up.weight.right.data", b"\x7f\x7f", "too large for finite weights"),
    "a factor's scale that overflows": (
        "layers.3.down.weight.right.scales",
        b"\x7f\x7f",
        "too large for finite weights",
    ),
    "an infinite scale of a cluster": ("layers.4.up.weight.scales", b"\x80\x7f", "not finite"),
    "a centre that is no number": ("layers.4.up.weight.centres", b"\xc0\x7f", "not finite"),
    "a cluster's scale that overflows": ("layers.4.up.weight.scales", b"\x7f\x7f", "too large for finite weights"),
    "a bit width beyond a byte": ("layers.4.up.weight.bit_widths", b"\xff" * 8, "a group has 15 bits"),
    "bit widths for fewer codes": ("layers.4.up.weight.bit_widths", b"\x00" * 11, "not as many codes"),
    "a cluster without a row": ("layers.4.up.weight.clusters", b"\x00\x00", "the clusters of rows are not those"),
    "a mask of fewer weights": ("layers.5.mask_cast.weight.positions", b"\x00\x00\x00", "positions are not as many"),
    "a mask of other rows": (
        "layers.5.mask_quantized.weight.positions",
        b"\xff\xff\xff" + b"\x00" * 3,
        "positions are not as many",
    ),
    "an order of fewer weights": ("layers.5.ordered_cast.weight.positions", b"\x00" * 200, "positions are not as many"),
    "an order of more weights": ("layers.5.ordered_cast.weight.positions", b"\xff" * 200, "positions are not as many"),
    "an order of equal positions": ("layers.5.ordered_cast.weight.positions", b"\x00" * 18, "do not ascend"),
    "a combination beyond the last": (
        "layers.5.combinations_cast.weight.positions",
        b"\xff" * 36,
        "beyond the last combination",
    ),
    "blocks of more weights": ("layers.5.blocks_quantized.weight.positions", b"\xff", "positions are not as many"),
    "an infinite weight among zeros": ("layers.5.mask_cast.weight.data", b"\x00\x7c", "not finite"),
    "an infinite scale among zeros": ("layers.5.ordered_quantized.weight.row_scales", b"\x80\x7f", "not finite"),
    "levels among zeros out of order": (
        "layers.5.blocks_quantized.weight.levels.2",
        b"\x00\x00\xc8\x42",
        "do not ascend",
    ),
    "a code among zeros without a level": (
        "layers.5.combinations_quantized.weight.codes",
        b"\xff" * 40,
        "but only 3 levels",
    ),
    "more outliers marked": ("layers.6.up.weight.outlier_mask", b"\xff\xff\x07", "does not have 3 outliers"),
    "no outliers marked": ("layers.6.up.weight.outlier_mask", b"\x00\x00\x00", "does not have 3 outliers"),
    "an infinite outlier": ("layers.6.up.weight.outliers", b"\x00\x7c", "not finite"),
    "an infinite factor of a column": ("layers.6.down.weight.column_scales", b"\x80\x7f", "not finite"),
    "a factor of a column that overflows": (
        "layers.6.down.weight.column_scales",
        b"\x7f\x7f",
        "too large for finite weights",
    ),
    "an outlier that overflows by its factor": (
        "layers.6.gate.weight.column_scales",
        b"\x00\x79",
        "too large for finite weights",
    ),
    "a pair that is no number": ("layers.7.up.weight.levels.2", b"\x00\x00\xc0\x7f", "not finite"),
    "a pair that overflows": ("layers.7.down.weight.levels.2", b"\x00\x00\x7f\x7f", "too large for finite weights"),
    "an infinite half": ("positions.data", b"\x00\x7c", "not finite"),
}


@pytest.mark.parametrize("attack", PART_ATTACKS)
def test_a_part_that_lies_is_refused_though_its_hash_is_right(forgery: Forgery, tmp_path: Path, attack: str) -> None:
    key, content, message = PART_ATTACKS[attack]
    name = next(n for n in forgery.manifest["tensors"] if key.startswith(f"{n}."))
    begin, end = forgery.header[key]["data_offsets"]
    forgery.data[begin : min(end, begin + len(content))] = content[: end - begin]
    part = forgery.entry(name)["parts"][key.removeprefix(f"{name}.")]
    part["sha256"] = hashlib.sha256(forgery.data[begin:end]).hexdigest()
    with pytest.raises(CheckpointError) as refusal:
        read_all(forgery.save(tmp_path))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "{" * 100_000,
        "[" * 1_000_000,
        '{"format":"mediant","format":"mediant"}',
        '{"format":"mediant","version":NaN}',
        '{"format":"mediant","version":' + "1" * 10_000 + "}",
        "\ufeff{}",
        '{"format":"mediant","version":2' + ',"x":1e999}',
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(forgery: Forgery, tmp_path: Path, text: str) -> None:
    forgery.text = text or " "
    with pytest.raises(CheckpointError):
        open_checkpoint(forgery.save(tmp_path))
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("file", [MANIFEST, PAYLOAD])
def test_a_file_cut_anywhere_is_refused(sample_checkpoint: Sample, forgery: Forgery, tmp_path: Path, file: str) -> None:
    whole = (forgery.save(tmp_path) / file).read_bytes()
    points = {*range(40), *range(0, len(whole), 173), *range(len(whole) - 40, len(whole))}
    for point in points:
        (tmp_path / file).write_bytes(whole[:point])
        with pytest.raises(CheckpointError):
            read_all(tmp_path)


def test_a_header_length_that_lies_allocates_nothing(forgery: Forgery, tmp_path: Path) -> None:
    whole = (forgery.save(tmp_path) / PAYLOAD).read_bytes()
    for length in (0, 7, len(whole), 1 << 31, 99_999_992, 1 << 62, (1 << 64) - 8):
        (tmp_path / PAYLOAD).write_bytes(length.to_bytes(8, "little") + whole[8:])
        tracemalloc.start()
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 * len(whole)


def test_a_manifest_of_a_gigabyte_is_not_read(forgery: Forgery, tmp_path: Path) -> None:
    with (forgery.save(tmp_path) / MANIFEST).open("r+b") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="too many for a manifest"):
        open_checkpoint(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_files_of_two_checkpoints_do_not_mix(sample_checkpoint: Sample, forgery: Forgery, tmp_path: Path) -> None:
    forgery.manifest["seed"] += 1
    forgery.save(tmp_path)
    (tmp_path / PAYLOAD).write_bytes((sample_checkpoint.folder / PAYLOAD).read_bytes())
    with pytest.raises(CheckpointError, match=r"belongs to another mediant\.json"):
        open_checkpoint(tmp_path)


def attempt(folder: Path, right: dict[str, np.ndarray]) -> bool:
    """Whether damaged files were read; True must mean read right."""
    try:
        found = read_all(folder)
    except CheckpointError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017
        return False
    assert same(found, right)
    return True


@pytest.mark.parametrize("file", [MANIFEST, PAYLOAD])
@pytest.mark.parametrize("step", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_a_wrong_bit_in_any_byte_is_refused(sample_checkpoint: Sample, tmp_path: Path, file: str, step: int) -> None:
    """Each byte in turn loses or gains one bit; no file survives that, as even white space is hashed or fixed."""
    right = read_all(sample_checkpoint.folder)
    contents = {name: (sample_checkpoint.folder / name).read_bytes() for name in (MANIFEST, PAYLOAD)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    generator = np.random.default_rng(11)
    whole = bytearray(contents[file])
    for position in range(0, len(whole), step):
        bit = int(generator.integers(8))
        whole[position] ^= 1 << bit
        (tmp_path / file).write_bytes(whole)
        assert not attempt(tmp_path, right)
        whole[position] ^= 1 << bit


@SLOW_FIXTURE
@given(st.data())
def test_random_damage_is_refused_or_does_not_matter(
    sample_checkpoint: Sample, tmp_path: Path, data: st.DataObject
) -> None:
    right = read_all(sample_checkpoint.folder)
    for file in (MANIFEST, PAYLOAD):
        whole = bytearray((sample_checkpoint.folder / file).read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            position = data.draw(st.integers(0, len(whole) - 1))
            piece = data.draw(st.binary(max_size=9))
            whole[position : position + data.draw(st.integers(0, 9))] = piece
        (tmp_path / file).write_bytes(whole)
    attempt(tmp_path, right)


@SLOW_FIXTURE
@given(st.data())
def test_random_lies_with_right_hashes_are_refused_or_are_sound(
    sample_checkpoint: Sample, tmp_path: Path, data: st.DataObject
) -> None:
    """Any value of the manifest is exchanged for any other; what is still accepted decodes to finite weights."""
    forgery = Forgery(sample_checkpoint.folder)
    place, steps = forgery.manifest, 0
    while steps < 6:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        steps += 1
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 4)) == 0:
            place[key] = data.draw(LIES)
            break
        place = place[key]
    try:
        found = read_all(forgery.save(tmp_path))
    except CheckpointError:
        return
    assert all(np.isfinite(weight).all() for weight in found.values())


PARAMETERS = [
    (grid, field.name)
    for grid in discovery.names("grids")
    for field in dataclasses.fields(importlib.import_module(f"mediant.methods.grids.{grid}").METHOD)
]


@pytest.mark.parametrize(("grid", "parameter"), PARAMETERS)
@pytest.mark.parametrize("value", [None, True, -1, 0.5, 10**9, 10**30, 1e300, "x", [], {}])
def test_a_grid_of_ours_with_an_absurd_parameter_is_refused_or_does_not_matter(
    sample_checkpoint: Sample, forgery: Forgery, tmp_path: Path, grid: str, parameter: str, value: object
) -> None:
    forgery.entry()["plan"]["grid"] = {"name": grid, parameter: value}
    try:
        found = read_all(forgery.save(tmp_path))
    except CheckpointError:
        return
    assert same(found, read_all(sample_checkpoint.folder))


LIES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([1 << 31, 1 << 63, 1 << 64, 10**400, 0.5, 1e300])
    | st.text(max_size=9)
    | st.sampled_from(["float16", "uint8", "quantize", "cast", "in_out", "table"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
