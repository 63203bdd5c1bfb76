"""Spoils good inputs and gives them to every command that takes them: `python -m tests.hostile.mutate [COUNT] [SEED]`.

A folder, file or option is spoilt in one place by a seeded draw. Then each command has to work, or to end with one
sentence and an exit code of its own: no traceback, no signal, no hang, and nothing beside what it was to write. Every
run is a fork of one process that has imported everything, with an end to its time and memory. Findings are printed as
JSON lines; without COUNT all mutations are tried.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.forked_commands import WALL, import_all, run

TEXT = "the quick brown fox jumps over the lazy dog and runs away from 12 angry bees . "
HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
WRONG = (
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 300,
    "\ud800",
    [],
    {},
    [1, 2],
    {"a": 1},
)
NASTY = (
    "",
    " ",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "9" * 400,
    "🙂",
    "../..",
    "/proc/none/x",
    "/",
    "a,b,,c",
    "{}",
    "x" * 300,
)

# The largest exit code that an error has (`mediant.errors`), and words that no sentence for a person has.
LAST_CODE = 9
INNARDS = re.compile(r"\w+Error: |NoneType|object has no attribute|object is not|<class '|Errno|0x[0-9a-f]{8}")

# Inputs by name: what stands for each in a command line. {out} is where a command writes.
FAST = "--windows 1 --window 16"
COMMANDS = {
    "model": (
        "compress {model} --size 30% --calibration {text} --out {out}",
        "compress {model} --size 30% --coding entropy --calibration {text} --out {out}",
        f"evaluate {{model}} --reference {{model}} --text {{text}} {FAST}",
        f"compare {{model}} --size 30% --recipes rtn --calibration {{text}} --text {{text}} {FAST} --out {{out}}",
        "generate {model} the --max-tokens 2",
        "chat {model} --max-tokens 2",
        "bench {model} --rounds 1 --prompt-tokens 16 --tokens 1 --threads 1",
        "prune {model} --neurons 25% --calibration {text} --out {out}",
        "prune {model} --pattern 2:4 --score magnitude --calibration {text} --out {out}",
        "factor {model} --rank-budget 80% --calibration {text} --out {out}",
        "distill {model} --teacher {good} --steps 1 --text {text} --out {out}",
        "distill {good} --teacher {model} --steps 1 --text {text} --out {out}",
        "experts {model} --experts 2 --calibration {text} --out {out}",
        "export {model} --out {out}",
        "export {model} --format gguf --out {out}",
        "analyze {model}",
    ),
    "small": (
        "inspect {small} --verify --tensors",
        f"evaluate {{small}} --reference {{good}} --text {{text}} {FAST}",
        "generate {small} the --max-tokens 2",
        "bench {small} --rounds 1 --prompt-tokens 16 --tokens 1 --threads 1",
        "export {small} --out {out}",
        "export {small} --format gguf --out {out}",
        "report {small} --out {out}",
        "ranges {small} --calibration {text} --windows 1 --window 16 --out {out}",
        "distill {small} --teacher {good} --steps 1 --text {text} --out {out}",
        "compress {small} --size 30% --calibration {text} --out {out}",
        "analyze {small}",
    ),
    "plan": ("compress {good} --plan {plan} --calibration {text} --out {out}",),
    "recipe": (
        "compress {good} --recipe {recipe} --size 30% --calibration {text} --out {out}",
        f"compare {{good}} --size 30% --recipes {{recipe}} --calibration {{text}} --text {{text}} {FAST} --out {{out}}",
    ),
    "text": (
        "compress {good} --size 30% --calibration {text} --out {out}",
        f"evaluate {{good}} --reference {{good}} --text {{text}} {FAST}",
        "prune {good} --neurons 25% --calibration {text} --out {out}",
        "distill {good} --teacher {good} --steps 1 --text {text} --out {out}",
        "ranges {small} --calibration {text} --windows 1 --window 16 --out {out}",
    ),
    "scores": ("report {small} --scores {scores} --out {out}",),
    "ranges": ("generate {small} the --max-tokens 2 --activations 8 --activation-ranges {ranges}",),
    "good": ("approximate 3.14159", "inspect {small}"),
}
COMMANDS["gguf"] = tuple(
    line.replace("{model}", "{gguf}") for line in COMMANDS["model"] if line.split()[0] not in ("factor", "experts")
)
# How many mutations of each kind of input.
SHARES = {
    "model": 100,
    "gguf": 30,
    "small": 70,
    "plan": 25,
    "recipe": 20,
    "text": 12,
    "scores": 12,
    "ranges": 11,
    "option": 120,
}


def make_inputs(place: Path) -> dict[str, Path]:
    """Good inputs of every kind, in a folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator([TEXT] * 50, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="</s>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    network = transformers.LlamaForCausalLM(config)
    for parameter in network.parameters():
        parameter.data = float(parameter.ndim == 1) + 0.1 * torch.randn(parameter.shape)
    network.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    (place / "text").write_text(TEXT * 300)
    (place / "recipe.yaml").write_text("summary: an own recipe\ngrid: uniform\nscale: exact\nrounding: babai\n")
    names = {"model": "model", "good": "model", "text": "text", "recipe": "recipe.yaml"}
    inputs = {kind: place / name for kind, name in names.items()}
    for line, made in (
        ("compress {good} --size 30% --calibration {text} --save-plan {plan} --out {small}", ("plan", "small")),
        ("export {good} --format gguf --out {gguf}", ("gguf",)),
        (f"evaluate {{small}} --reference {{good}} --text {{text}} {FAST} --json {{scores}}", ("scores",)),
        ("ranges {small} --calibration {text} --windows 1 --window 16 --out {ranges}", ("ranges",)),
    ):
        endings = {"gguf": "model.gguf", "plan": "plan.json", "scores": "scores.json"}
        inputs |= {kind: place / endings.get(kind, kind) for kind in made}
        code, said, _ = run(line.format(**inputs).split(), place)
        if code:
            raise SystemExit(f"{line} failed: {said}")
    return inputs


def spoil(path: Path, draw: random.Random) -> str:
    """Spoils a file, or one in a folder; says how."""
    if path.is_dir():
        path = draw.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    inside = {".json": _spoil_json, ".safetensors": _spoil_tensors, ".gguf": _spoil_bytes, ".yaml": _spoil_yaml}
    change = draw.choice((_spoil_file, inside.get(path.suffix, _spoil_file), inside.get(path.suffix, _spoil_bytes)))
    return f"{path.name}: {change(path, draw)}"


def _spoil_file(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    kinds: dict[str, Callable[[], Any]] = {
        "emptied": lambda: path.write_bytes(b""),
        "cut in half": lambda: path.write_bytes(data[: len(data) // 2]),
        "cut at its end": lambda: path.write_bytes(data[:-1]),
        "longer": lambda: path.write_bytes(data + b"\0" * 64),
        "random bytes": lambda: path.write_bytes(draw.randbytes(len(data))),
        "zeros": lambda: path.write_bytes(bytes(len(data))),
        "an HTML page": lambda: path.write_bytes(HTML),
        "a pointer": lambda: path.write_bytes(POINTER),
        "UTF-16": lambda: path.write_bytes(data.decode("latin-1").encode("utf-16")),
        "a byte-order mark": lambda: path.write_bytes(b"\xef\xbb\xbf" + data),
        "deep": lambda: path.write_bytes(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        "a long list": lambda: path.write_bytes(b"[" * 100_000),
        "removed": path.unlink,
        "renamed": lambda: path.rename(path.with_name(f"x{path.name}")),
        "a folder": lambda: (path.unlink(), path.mkdir()),
        "a link to itself": lambda: (path.unlink(), path.symlink_to(path.name)),
        "a link to nowhere": lambda: (path.unlink(), path.symlink_to("nowhere")),
        "locked": lambda: path.chmod(0),
        "a number": lambda: path.write_bytes(b"1"),
        "null": lambda: path.write_bytes(b"null"),
    }  # fmt: skip
    name = draw.choice(sorted(kinds))
    kinds[name]()
    return name


def _spoil_bytes(path: Path, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    places = [draw.randrange(min(len(data), 4096)) for _ in range(draw.choice((1, 1, 8)))]
    for place in places:
        data[place] = draw.randrange(256)
    path.write_bytes(data)
    return f"bytes {places}"


def _spoil_json(path: Path, draw: random.Random) -> str:
    data = json.loads(path.read_text())
    said = _spoil_tree(data, draw)
    path.write_text(json.dumps(data))
    return said


def _spoil_yaml(path: Path, draw: random.Random) -> str:
    import yaml

    data = yaml.safe_load(path.read_text())
    said = _spoil_tree(data, draw)
    path.write_text(yaml.safe_dump(data, allow_unicode=False))
    return said


def _spoil_tree(data: Any, draw: random.Random) -> str:
    """Changes or removes one value somewhere in nested lists and objects, shallow ones as often as deep ones."""
    places = [*_places(data, ())]
    depth = draw.choice(sorted({len(place) for place in places}))
    place = draw.choice([place for place in places if len(place) == depth])
    holder = data
    for step in place[:-1]:
        holder = holder[step]
    if draw.random() < 0.25:
        del holder[place[-1]]
        return f"{place} removed"
    value = draw.choice(WRONG)
    holder[place[-1]] = value
    return f"{place} = {value!r}"[:200]


def _places(data: Any, before: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    steps = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for step, value in steps:
        yield (*before, step)
        yield from _places(value, (*before, step))


def _spoil_tensors(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    kind = draw.choice(("length", "header", "header", "numbers", "header byte"))
    if kind == "length":
        wrong = draw.choice((0, 1, length - 8, length + 8, 2**31, 2**63, 2**64 - 1))
        path.write_bytes(wrong.to_bytes(8, "little") + data[8:])
        return f"header length {wrong}"
    if kind == "header":
        header = json.loads(data[8 : 8 + length])
        said = _spoil_tree(header, draw)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        return f"header {said}"
    changed = bytearray(data)
    if kind == "numbers":
        start = 8 + length + 4 * draw.randrange((len(data) - 8 - length) // 4)
        changed[start : start + 4] = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"))
    else:
        start = 8 + draw.randrange(length)
        changed[start] = draw.randrange(256)
    path.write_bytes(changed)
    return f"{kind} at {start}"


def options() -> list[tuple[str, str]]:
    """Every option that takes a value, of every command, with the first good command line of that command."""
    import typer

    from mediant.cli import app

    group = typer.main.get_command(app)
    lines: dict[str, str] = {}
    for line in itertools.chain(*COMMANDS.values()):
        lines.setdefault(line.split()[0], line.replace("{model}", "{good}"))
    found = []
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag and name in lines:
                found.append((lines[name], parameter.opts[0]))
    return found


def jobs(count: int | None, seed: int) -> list[tuple[str, int]]:
    """Kind and seed of every mutation, or of a sample of them."""
    every = [(kind, seed * 10_000 + number) for kind, many in SHARES.items() for number in range(many)]
    return every if count is None else random.Random(seed).sample(every, count)


def trial(kind: str, number: int, inputs: dict[str, Path], work: Path) -> Iterator[dict[str, Any]]:
    """What is wrong with what the commands do on one mutation."""
    draw = random.Random(number)
    mine = dict(inputs)
    if kind == "option":
        line, option = draw.choice(options())
        how = draw.choice(NASTY)
        lines = [f"{line} {option}"]
    else:
        source = inputs[kind]
        mine[kind] = work / "in" / source.name
        mine[kind].parent.mkdir()
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, mine[kind])
        how = spoil(mine[kind], draw)
        lines = list(COMMANDS[kind])
        if os.environ.get("MUTATE_ONE"):
            # One command for each mutation, so that a sample is quick.
            lines = [draw.choice(lines)]
    for line in lines:
        out = work / "place" / "out"
        out.parent.mkdir()
        arguments = line.format(**mine, out=out).split() + ([how] if kind == "option" else [])
        before = _contents(work / "in")
        code, said, seconds = run(arguments, work)
        wrong = _wrong(code, said, seconds, sorted(p.name for p in out.parent.iterdir()))
        wrong = wrong or ("changes its input" if _contents(work / "in") != before else "")
        if wrong:
            yield {
                "kind": kind,
                "seed": number,
                "how": how,
                "line": line,
                "wrong": wrong,
                "code": code,
                "said": said[-2500:],
            }
        shutil.rmtree(out.parent)


def _contents(folder: Path) -> dict[str, bytes | str]:
    """What is in a folder: bytes of files, and where links lead."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = "a folder"
    return found


def _wrong(code: int, said: str, seconds: float, left: list[str]) -> str:
    """What a run should not have done; empty if all is well."""
    if code == -signal.SIGXCPU or seconds > WALL:
        return "hangs"
    if not 0 <= code <= LAST_CODE or "Traceback" in said:
        return "traceback" if "Traceback" in said else f"ends with {code}"
    if code and (found := INNARDS.search(said)):
        return f"speaks of its own innards: {found[0]}"
    if code and "mediant:" not in said and "Usage" not in said and "Error" not in said:
        return "fails without a word"
    if code and len(said[said.rfind("mediant:") :]) > 1200 and "Usage" not in said:
        return "more than a sentence"
    allowed = [] if code else ["out"]
    return f"leaves {left}" if [name for name in left if name not in allowed] else ""


def main() -> int:
    """Tries the mutations and prints what is wrong."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] != "all" else None
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kinds = sys.argv[3].split(",") if len(sys.argv) > 3 else [*SHARES]
    place = Path(tempfile.mkdtemp(prefix="mutate-"))
    os.environ |= {"MEDIANT_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    import_all()
    wrong = runs = 0
    try:
        (place / "good").mkdir()
        inputs = make_inputs(place / "good")
        for kind, number in jobs(count, seed):
            if kind not in kinds:
                continue
            work = place / "work"
            work.mkdir()
            for finding in trial(kind, number, inputs, work):
                wrong += 1
                print(json.dumps(finding), flush=True)
            runs += 1
            print(f"{runs} {kind} {number}", file=sys.stderr, flush=True)
            shutil.rmtree(work)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps({"mutations": runs, "wrong": wrong}), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
