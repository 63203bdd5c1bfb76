"""`mediant chat` with its input from a pipe."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from mediant.cli import _console, chat
from mediant.runtime import generate as generation

Folder = Callable[[str], Path]
Talk = Callable[..., str]


@pytest.fixture
def talk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Folder, capsys: pytest.CaptureFixture[str]
) -> Talk:
    app = typer.Typer()
    app.command()(chat.command)
    monkeypatch.chdir(tmp_path)

    def call(text: str, *arguments: str, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["chat", str(tiny_folder("llama")), "--max-tokens", "5", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        capsys.readouterr()
        assert _console.run(app) == code
        return capsys.readouterr().out

    return call


def test_each_line_is_answered_and_kept(talk: Talk) -> None:
    out = talk("the fox\n\nthe dog\n/save one.json\n", "--system", "be brief", "--temperature", "0")
    messages = json.loads(Path("one.json").read_text())
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert out.count("\n") >= 2
    assert messages[2]["content"] in out


def test_clear_forgets_and_exit_leaves(talk: Talk) -> None:
    talk("the fox\n/clear\nthe dog\n/save a.json\n/exit\nunread\n/save b.json\n")
    assert json.loads(Path("a.json").read_text())[0]["content"] == "the dog"
    assert not Path("b.json").exists()


def test_ctrl_c_stops_the_answer_and_not_the_program(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    original = generation.text_pieces

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            yield "half"
            raise KeyboardInterrupt
        yield from original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "text_pieces", interrupted)
    talk("the fox\nthe dog\n/save c.json\n")
    messages = json.loads(Path("c.json").read_text())
    assert messages[1]["content"] == "half"
    assert len(messages) == 4


def test_a_mistake_is_said_and_the_talk_goes_on(talk: Talk) -> None:
    talk("fox " * 300 + "\n/nothing\n/save\nthe dog\n/save d.json\n")
    assert [m["role"] for m in json.loads(Path("d.json").read_text())] == ["user", "assistant"]
