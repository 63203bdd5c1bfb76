"""Tries every command on a tiny model of one class: each works, or ends with one sentence before any work."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.every_class.maker import classes, tiny_network, usual_config
from tests.forked_commands import run, run_forked
from tests.tiny_models import TEXT, byte_tokenizer

from mediant.errors import ModelError, SizeError

WORKS = "works"
COMMANDS: Mapping[str, str] = {
    "compress": "compress {model} --size {size} --calibration {text} --out {small}",
    "evaluate": "evaluate {small} --reference {model} --text {text} --windows 2 --window 32 --json {scores}",
    "generate": "generate {small} the --max-tokens 3",
    "huggingface": "export {small} --out {folder}",
    "gguf": "export {small} --format gguf --type f32 --out {file}",
}
# Nats per token that weights of 8 bits may cost at most: in random mixtures they send tokens to other experts.
MOST_KL = 0.1


@dataclass(frozen=True)
class Outcome:
    """What came of a class: `works` or a sentence, by command; faults, which there should be none of."""

    name: str
    model_type: str
    lists: tuple[str, ...]
    kind: str
    native: str
    commands: Mapping[str, str]
    faults: tuple[str, ...]


def tried(name: str, place: Path) -> Outcome:
    """Makes the model and gives it to every command, in an empty folder that is removed."""
    model_type, lists = classes()[name]
    place.mkdir(parents=True)
    try:
        (place / "text").write_text(TEXT * 60)
        code, said, _ = run_forked(lambda: _make(name, place / "model"), place)
        if code:
            return _at_the_door(name, place, said)
        kind, native = (json.loads(said_of(part, place)) for part in (_kind, _native))
        found, faults = _through_commands(place)
        return Outcome(name, model_type, lists, kind, native, found, faults)
    finally:
        shutil.rmtree(place)


def _make(name: str, folder: Path) -> int:
    tiny_network(name).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return 0


def _through_commands(place: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """What each command ends with, and what is wrong."""
    found: dict[str, str] = {}
    faults: list[str] = []
    for command, line in COMMANDS.items():
        if command != "compress" and found["compress"] != WORKS:
            found[command] = found["compress"]
            continue
        code, said = _ended(line, place)
        found[command] = WORKS if code == 0 else sentence(said)
        if code and (problem := _fault(code, said, place, command)):
            faults.append(f"{command}: {problem}")
    if found["evaluate"] == WORKS and (problem := _too_far(place / "scores.json")):
        faults.append(f"evaluate: {problem}")
    return found, tuple(faults)


def _ended(line: str, place: Path) -> tuple[int, str]:
    """Exit code and words of a command; `compress` takes a size near the largest that there is."""
    names = {"scores": "scores.json", "file": "model.gguf"}
    paths = {n: place / names.get(n, n) for n in ("model", "text", "small", "scores", "folder", "file")}
    size = said_of(lambda folder: _size(folder, place / "text"), place) if "{size}" in line else ""
    code, said, _ = run(line.format(size=size, **paths).split(), place)
    return code, said


def _size(folder: Path, text: Path) -> int:
    """Prints a size in bytes in which the model can be stored, three quarters up; 40% where it is refused."""
    import sys

    from mediant.pipeline.compress import begun
    from mediant.pipeline.request import CompressRequest

    try:
        with begun(CompressRequest(str(folder), folder.with_name("none"), size="1", calibration=text)):
            found = "40%"
    except SizeError as refusal:
        found = str((refusal.smallest + 3 * refusal.largest) // 4)
    except Exception:  # the command will say it again
        found = "40%"
    print(found, file=sys.stderr)
    return 0


def _fault(code: int, said: str, place: Path, command: str) -> str:
    """What a refusal should not have been; empty if it is one sentence and left nothing."""
    if not 1 <= code <= 9 or "Traceback" in said or "mediant:" not in said:
        return f"ends with {code}: {said[-600:]}"
    if command == "compress" and code != ModelError.exit_code:
        return f"is refused, but not at the door: {sentence(said)}"
    left = {"compress": "small", "huggingface": "folder", "gguf": "model.gguf"}.get(command)
    return f"leaves {left}" if left and (place / left).exists() else ""


def _too_far(scores: Path) -> str:
    """What is wrong with the scores of a model at 8 bits or so; empty if nothing."""
    score = json.loads(scores.read_text(encoding="utf-8"))
    score = score["scores"][0] if "scores" in score else score
    if "kl" in score:
        return "" if 0 <= score["kl"] < MOST_KL else f"a KL of {score['kl']}"
    return "" if score["cosine"] > 1 - MOST_KL else f"a cosine of {score['cosine']}"


def sentence(said: str) -> str:
    """The last sentence that a command ended with, without what differs between runs."""
    found = " ".join(said[said.rfind("mediant:") + len("mediant:") :].split())
    return re.sub(r"\S*/one/(model|small)\b", "MODEL", found)


def said_of(part, place: Path) -> str:
    """What a function of a model's folder prints on standard error, in a fork."""
    code, said, _ = run_forked(lambda: part(place / "model"), place)
    assert code == 0, said
    return said.strip().splitlines()[-1]


def _kind(folder: Path) -> int:
    import sys

    from mediant.models import abilities

    try:
        found = abilities.ask(folder).kind
    except ModelError:
        found = "none"
    print(json.dumps(found), file=sys.stderr)
    return 0


def _native(folder: Path) -> int:
    import sys

    from mediant.runtime.choosing import choose

    try:
        found = choose(folder)
        print(json.dumps(WORKS if found.native else found.reason), file=sys.stderr)
    except ModelError as problem:
        print(json.dumps(str(problem)), file=sys.stderr)
    return 0


def _at_the_door(name: str, place: Path, said: str) -> Outcome:
    """The outcome of a class of which no tiny model can be made: its usual configuration alone has to be refused."""
    model_type, lists = classes()[name]
    folder = place / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(usual_config(name)), encoding="utf-8")
    code, words, _ = run_forked(lambda: _refused(folder), place)
    why = said.strip().splitlines()[-1]
    faults = (f"no tiny model was made ({why}), and the door says {words[-600:]}",) if code else ()
    found = dict.fromkeys(COMMANDS, sentence(words))
    return Outcome(name, model_type, lists, "none", sentence(words), found, faults)


def _refused(folder: Path) -> int:
    import sys

    from mediant.models import abilities

    try:
        abilities.ask(folder)
    except ModelError as problem:
        print(f"mediant: {problem}", file=sys.stderr)
        return 0
    return 1
