import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.runtime.conftest import write_encoded
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mediant.errors import ModelError, UsageError
from mediant.forms import Encoding
from mediant.forms.cast.form import Cast
from mediant.forms.quantize.encode import quantize
from mediant.forms.quantize.form import Quantize
from mediant.kernels import native
from mediant.methods.layer import prepare
from mediant.runtime import generate as generation
from mediant.runtime.activation_bits import USUAL
from mediant.values import RowSpan, TensorInfo, Truncation

Folder = Callable[[str], Path]
Run = Callable[..., int]
PROMPT = "the quick brown fox"


def written(run: Run, *arguments: object) -> dict[str, Any]:
    assert run(*arguments, "--json", "o.json") == 0
    found: dict[str, Any] = json.loads(Path("o.json").read_text())
    return found


def test_greedy_text_is_the_likeliest_token_each_time(
    run: Run, tiny_folder: Folder, tiny_network: Callable[[str], PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = written(run, tiny_folder("llama"), PROMPT, "--max-tokens", 12, "--kv-bits", 32)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    start = ids.shape[1]
    while ids.shape[1] < start + 12 and int(ids[0, -1]) != tokenizer.eos_token_id:
        ids = torch.cat([ids, tiny_network("llama")(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert data["text"] == tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    assert (data["tokens"], data["prompt_tokens"]) == (ids.shape[1] - start, start)
    assert data["text"].strip() in capsys.readouterr().out


def test_draws_follow_the_seed(run: Run, tiny_folder: Folder) -> None:
    draws = [
        written(run, tiny_folder("llama"), PROMPT, "--temperature", 1, "--seed", seed, "--max-tokens", 20)["text"]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_almost_no_temperature_or_mass_is_greedy(run: Run, tiny_folder: Folder) -> None:
    ask = (tiny_folder("llama"), PROMPT, "--max-tokens", 20)
    greedy = written(run, *ask)["text"]
    assert written(run, *ask, "--temperature", 1e-4)["text"] == greedy
    assert written(run, *ask, "--temperature", 1, "--top-p", 1e-6)["text"] == greedy


def test_standard_output_is_json_alone(run: Run, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_folder("llama"), PROMPT, "--max-tokens", 3, "--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["text"].strip() in captured.err


def test_a_chat_template_is_used_if_there_is_one(
    run: Run, tmp_path: Path, tiny_network: Callable[[str], PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = tmp_path / "chat"
    tiny_network("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m.content }} !{% endfor %}")
    plain = written(run, folder, PROMPT, "--no-chat", "--max-tokens", 2)
    chat = written(run, folder, PROMPT, "--max-tokens", 2)
    assert chat == {**written(run, folder, PROMPT, "--chat", "--max-tokens", 2), "seconds": chat["seconds"]}
    assert chat["prompt_tokens"] == len(tokenizer(f"<s>{PROMPT} !")["input_ids"]) != plain["prompt_tokens"]


def test_the_text_stops_where_the_positions_end(run: Run, tiny_folder: Folder) -> None:
    data = written(run, tiny_folder("gpt2"), "y " * 58, "--max-tokens", 500)
    assert 1 < data["tokens"] <= 128 - data["prompt_tokens"]


def test_mistakes_have_their_exit_codes(run: Run, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    llama = tiny_folder("llama")
    assert run(llama, "") == UsageError.exit_code
    assert run(llama, "fox " * 500) == UsageError.exit_code
    assert "fewer than 128" in capsys.readouterr().err
    assert run(llama, PROMPT, "--chat") == UsageError.exit_code
    assert run(llama, PROMPT, "--precision-policy", "speed") == UsageError.exit_code
    assert run(llama, PROMPT, "--precision-policy", "load", "--precision", 3) == UsageError.exit_code
    assert run(llama, PROMPT, "--precision-policy", "load") == UsageError.exit_code
    assert run(llama, PROMPT, "--draft", 2) == UsageError.exit_code
    assert run(llama, PROMPT, "--temperature", -1) == UsageError.exit_code
    assert run(llama, PROMPT, "--max-tokens", 0) == UsageError.exit_code
    assert run(tiny_folder("bert"), PROMPT) == ModelError.exit_code
    assert run("nowhere/at/all", PROMPT) == ModelError.exit_code


def test_ctrl_c_ends_the_line_and_the_run(
    run: Run, tiny_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = generation.NativeWriter.write

    def write(self: generation.NativeWriter, *arguments: Any) -> Iterator[int]:
        yield from list(original(self, *arguments))[:3]
        raise KeyboardInterrupt

    monkeypatch.setattr(generation.NativeWriter, "write", write)
    monkeypatch.setattr(generation.TransformersWriter, "write", write)
    assert run(tiny_folder("llama"), PROMPT, "--json", "o.json") == 130
    assert capsys.readouterr().out.endswith("\n")
    assert not Path("o.json").exists()


def test_the_runtime_is_chosen_and_told(run: Run, tiny_folder: Folder) -> None:
    ask = (PROMPT, "--max-tokens", 8, "--kv-bits", 32)
    ours = written(run, tiny_folder("llama"), *ask)
    theirs = written(run, tiny_folder("llama"), *ask, "--runtime", "transformers")
    assert (ours["runtime"], theirs["runtime"]) == ("native" if native else "transformers", "transformers")
    assert ours["text"] == theirs["text"]
    assert (ours["activation_bits"], theirs["activation_bits"]) == (USUAL if native else None, None)
    assert not native or written(run, tiny_folder("llama"), *ask, "--activations", 8)["activation_bits"] == 8
    assert written(run, tiny_folder("gpt2"), *ask)["runtime_reason"].startswith("its model_type 'gpt2'")
    assert run(tiny_folder("gpt2"), *ask, "--runtime", "native") == ModelError.exit_code
    assert run(tiny_folder("llama"), *ask, "--runtime", "vllm") == UsageError.exit_code
    assert run(tiny_folder("llama"), *ask, "--precision", "3", "--runtime", "transformers") == UsageError.exit_code


@pytest.mark.skipif(native is None, reason="needs the native kernels")
def test_bits_of_a_nested_model_are_chosen(run: Run, tiny_folder: Folder, tmp_path: Path) -> None:
    places = itertools.count()

    def nested(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
        if info.layout != "out_in":
            return Encoding(info, Cast("float32"), {"data": weights})
        plan = Quantize(
            grid={"name": "nested"}, scale={"name": "absmax"}, rounding={"name": "nearest"},
            runs=(RowSpan(len(weights), 4),), group=32, scale_bits=4, scale_signed=False, scale_steps=4,
            storage="nested",
            truncations=(Truncation(3, next(places)), Truncation(2, 1000 + next(places))),
        )  # fmt: skip
        found = quantize(prepare(weights, plan.rotation, None), plan)
        return Encoding(info, plan, found.parts, found.certificate)

    write_encoded(tiny_folder("llama"), tmp_path / "nested", nested)
    ask = (tmp_path / "nested", PROMPT, "--max-tokens", 12)
    whole = written(run, *ask)["text"]
    assert written(run, *ask, "--precision", 4)["text"] == whole
    assert written(run, *ask, "--draft", 2.5)["text"] == whole
    assert written(run, *ask, "--precision-policy", "confidence:1")["text"] == whole
    for fewer in (("--precision", 2.5), ("--precision-policy", "latency:0.000001ms"), ("--precision-policy", "load")):
        assert written(run, *ask, *fewer)["tokens"] > 0
    assert run(*ask, "--precision", 1.9) == UsageError.exit_code


def test_a_stop_ends_the_text_before_it(run: Run, tiny_folder: Folder) -> None:
    whole = written(run, tiny_folder("llama"), PROMPT, "--max-tokens", 20)["text"]
    stop = whole[5:8]
    short = written(run, tiny_folder("llama"), PROMPT, "--max-tokens", 20, "--stop", stop)
    assert short["text"] == whole.partition(stop)[0]
    assert short["tokens"] < 20


def test_it_starts_without_torch_and_transformers(tiny_folder: Folder, tmp_path: Path) -> None:
    """They take seconds to import, more than the text itself."""

    def cast(info: TensorInfo, weights: NDArray[np.float32]) -> Encoding:
        return Encoding(info, Cast("float32"), {"data": weights})

    write_encoded(tiny_folder("llama"), tmp_path / "small", cast)
    program = (
        "import sys; from mediant.cli import main\ntry: main()\nexcept SystemExit as end: code = end.code\n"
        "heavy = ('torch', 'transformers', 'scipy', 'huggingface_hub', 'mediant.cli.compress')\n"
        "print([name for name in heavy if name in sys.modules], code, file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, "generate", str(tmp_path / "small"), PROMPT, "--max-tokens", "2"]
    environment = os.environ | {"MEDIANT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip()
    assert done.stderr.strip() == "[] 0"
