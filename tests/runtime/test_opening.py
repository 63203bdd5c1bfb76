"""What is checked when the native decoder opens a checkpoint, and what becomes of an entropy-coded one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.runtime.conftest import write_encoded

from mediant import files
from mediant.checkpoint.header import LENGTH_BYTES
from mediant.checkpoint.manifest import PAYLOAD_FILE
from mediant.checkpoint.reader import open_checkpoint
from mediant.errors import CheckpointError, ModelError, StorageError
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.forms.entropy_coded.coded_matrix import CodedMatrix, SideInformation
from mediant.forms.entropy_coded.form import EntropyCoded
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels import native
from mediant.methods.layer import prepare
from mediant.progress import What
from mediant.runtime import expansion
from mediant.runtime.decoder import Decoder
from mediant.runtime.expansion import expanded
from mediant.runtime.generate import NativeWriter
from mediant.runtime.generation import GenerationRequest
from mediant.runtime.tensor_source import dense
from mediant.values import RowSpan, TensorInfo

pytestmark = pytest.mark.skipif(native is None, reason="needs the native kernels")
TOKENS = [3, 14, 15, 9, 2, 6]
T = TypeVar("T")


class Heard:
    """What progress was told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def track(self, items: Iterable[T], what: What, total: int | None = None) -> Iterator[T]:
        yield from items


def cast(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
    return Encoding(info, Cast("float32"), {"data": weights})


def coded(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
    if info.layout != "out_in":
        return cast(info, weights)
    rows, columns = weights.shape
    classes = np.zeros(rows, np.uint8), np.zeros(columns, np.uint8)
    scales = np.full(rows, 2.0**-8, np.float32)
    numbers = np.rint(weights * 2**8).astype(np.int16)
    found = CodedMatrix(numbers, SideInformation(scales, np.arange(columns, dtype=np.uint8) % 3, *classes))
    return Encoding(info, EntropyCoded(step=1.0), found.parts())


def tiled(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
    if info.layout != "out_in":
        return cast(info, weights)
    plan = Quantize(grid={"name": "gaussian_int"}, scale={"name": "absmax"}, rounding={"name": "nearest"},
        runs=(RowSpan(len(weights), 4),), group=32, scale_bits=4, scale_signed=False, scale_steps=4, storage="tiles",
    )  # fmt: skip
    found = quantize(prepare(weights, plan.rotation, None), plan)
    return Encoding(info, plan, found.parts, found.certificate)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDIANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "expanded"


def logits(folder: Path) -> NDArray[np.float32]:
    decoder = Decoder.open(folder, threads=1)
    return decoder.logits(decoder.sequence(), TOKENS)


def spoil(folder: Path, part: str, pattern: bytes) -> None:
    """Overwrites the beginning of a part in the file."""
    slot, file = open_checkpoint(folder).slots[part], folder / PAYLOAD_FILE
    with file.open("r+b") as payload:
        start = LENGTH_BYTES + int.from_bytes(payload.read(LENGTH_BYTES), "little")
        payload.seek(start + slot.begin)
        payload.write(pattern)


def test_an_entropy_coded_model_is_expanded_once(
    tiny_folder: Callable[[str], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings = write_encoded(tiny_folder("llama"), tmp_path / "coded", coded)
    heard = Heard()
    first = expanded(open_checkpoint(tmp_path / "coded"), heard)
    assert first.folder.parent == cache
    assert len(heard.said) == 1
    for name, encoding in encodings.items():
        exact = encoding.decode()
        stored = exact.astype(np.float16) if encoding.plan.method == "entropy_coded" else exact
        np.testing.assert_array_equal(first.weight(name), stored)
    monkeypatch.setattr(expansion, "_expand", None)
    again = expanded(open_checkpoint(tmp_path / "coded"), heard)
    assert (again.folder, len(heard.said)) == (first.folder, 1)
    np.testing.assert_array_equal(logits(tmp_path / "coded"), logits(first.folder))
    assert expanded(open_checkpoint(first.folder)).folder == first.folder


def test_another_file_has_another_expansion(tiny_folder: Callable[[str], Path], tmp_path: Path, cache: Path) -> None:
    write_encoded(tiny_folder("llama"), tmp_path / "one", coded)
    write_encoded(tiny_folder("llama"), tmp_path / "two", lambda info, weights: coded(info, weights * np.float32(2)))
    one, two = expanded(open_checkpoint(tmp_path / "one")), expanded(open_checkpoint(tmp_path / "two"))
    assert one.folder != two.folder
    name = "model.embed_tokens.weight"
    np.testing.assert_array_equal(two.weight(name), expanded(open_checkpoint(tmp_path / "two")).weight(name))
    assert not np.array_equal(one.weight(name), two.weight(name))


def test_expansions_used_longest_ago_go(
    tiny_folder: Callable[[str], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("one", "two", "three")):
        factor = np.float32(2.0**number)
        write_encoded(tiny_folder("llama"), tmp_path / name, lambda info, weights, f=factor: coded(info, weights * f))
    monkeypatch.setenv("MEDIANT_CACHE_SIZE", str(10**9))
    one, two = (expanded(open_checkpoint(tmp_path / name)).folder for name in ("one", "two"))
    for age, folder in enumerate((one, two)):
        os.utime(folder, (1000 - age, 1000 - age))
    expanded(open_checkpoint(tmp_path / "two"))
    monkeypatch.setenv("MEDIANT_CACHE_SIZE", str(5 * files.folder_bytes(one) // 2))
    three = expanded(open_checkpoint(tmp_path / "three")).folder
    assert {f.name for f in cache.iterdir()} == {two.name, three.name}


def test_half_an_expansion_is_never_used(
    tiny_folder: Callable[[str], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoded(tiny_folder("llama"), tmp_path / "coded", coded)
    whole = expansion._encodings

    def stopped(checkpoint: expansion.Checkpoint) -> Iterator[Encoding]:
        yield next(whole(checkpoint))
        raise KeyboardInterrupt

    monkeypatch.setattr(expansion, "_encodings", stopped)
    with pytest.raises(KeyboardInterrupt):
        expanded(open_checkpoint(tmp_path / "coded"))
    monkeypatch.setattr(expansion, "_encodings", whole)
    assert list(cache.glob("*")) == []
    made = expanded(open_checkpoint(tmp_path / "coded")).folder
    with (made / PAYLOAD_FILE).open("r+b") as payload:
        payload.truncate(1000)
    assert expanded(open_checkpoint(tmp_path / "coded")).folder == made
    assert (made / PAYLOAD_FILE).stat().st_size > 1000


def test_damage_in_a_coded_file_is_found_and_leaves_nothing(
    tiny_folder: Callable[[str], Path], tmp_path: Path, cache: Path
) -> None:
    write_encoded(tiny_folder("llama"), tmp_path / "coded", coded)
    spoil(tmp_path / "coded", "model.embed_tokens.weight.codes", b"\x12\x34\x56\x78")
    with pytest.raises(CheckpointError, match="SHA-256"):
        expanded(open_checkpoint(tmp_path / "coded"))
    assert list(cache.glob("*")) == []


def test_without_a_cache_the_model_runs_all_the_same(
    tiny_folder: Callable[[str], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_encoded(tiny_folder("llama"), tmp_path / "coded", coded)

    def full(*_: object) -> None:
        raise StorageError("There is no space left.")

    monkeypatch.setattr(expansion, "_expand", full)
    heard = Heard()
    assert expanded(open_checkpoint(tmp_path / "coded"), heard).folder == tmp_path / "coded"
    assert "no space" in heard.said[-1]
    assert np.isfinite(logits(tmp_path / "coded")).all()


def test_opening_needs_neither_torch_nor_transformers(tiny_checkpoint: Callable[..., Path]) -> None:
    """They would take two seconds and 200 MB, more than a small model itself."""
    program = (
        "import sys; from mediant.runtime.decoder import Decoder; d = Decoder.open(sys.argv[1]);"
        "d.prefill(d.sequence(), [1, 2]); print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_checkpoint("llama"))], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_halves_are_used_as_they_are() -> None:
    random = np.random.default_rng(0)
    for dtype, words in (("float16", "<f2"), ("bfloat16", "<u2")):
        stored = random.standard_normal((7, 24)).astype(np.float32)
        patterns = stored.astype(words) if dtype == "float16" else (stored.view(np.uint32) >> 16).astype(words)
        wide = patterns.astype(np.float32) if dtype == "float16" else (patterns.astype(np.uint32) << 16).view("f4")
        info = TensorInfo("w", stored.shape, "float32", "linear", "out_in")
        found = Cast(dtype).views(info, {"data": patterns}, None)
        assert found is not None
        (narrow,), (plain,) = found.linears, dense(wide).linears
        assert (narrow.rows, narrow.columns) == (plain.rows, plain.columns)
        assert 2 * narrow.bytes == plain.bytes


def test_opening_checks_structure_and_scales_and_verifying_all(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    write_encoded(tiny_folder("llama"), tmp_path / "sound", tiled)
    name = "model.layers.0.mlp.up_proj.weight"
    sound = logits(tmp_path / "sound")

    def spoilt(kind: str, part: str, pattern: bytes) -> Path:
        folder = tmp_path / kind
        shutil.copytree(tmp_path / "sound", folder)
        spoil(folder, part, pattern)
        return folder

    codes = spoilt("codes", f"{name}.tiles", b"\xff\x00" * 40)
    assert not np.array_equal(logits(codes), sound)
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(codes).encoding(name)
    with pytest.raises(CheckpointError, match=r"row_scales.*not finite"):
        logits(spoilt("scales", f"{name}.row_scales", b"\x80\x7f"))
    with pytest.raises(CheckpointError, match="ascend"):
        logits(spoilt("levels", f"{name}.levels.4", np.float32([9e9]).tobytes()))
    with pytest.raises(CheckpointError, match="SHA-256"):
        logits(spoilt("norm", "model.norm.weight.data", b"\x01"))
    with (codes / PAYLOAD_FILE).open("r+b") as payload:
        payload.truncate(files.folder_bytes(codes) // 3)
    with pytest.raises(CheckpointError, match="header says"):
        logits(codes)


def test_a_text_from_numbers_that_are_not_finite_is_refused(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    def halved(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
        return Encoding(info, Cast("float16"), {"data": weights.astype(np.float16)})

    write_encoded(tiny_folder("llama"), tmp_path / "model", halved)
    spoil(tmp_path / "model", "model.layers.0.mlp.up_proj.weight.data", b"\x00\x7e" * 8)
    with pytest.raises(ModelError, match="--verify"):
        list(NativeWriter(Decoder.open(tmp_path / "model", threads=1)).write(TOKENS, GenerationRequest(4)))
