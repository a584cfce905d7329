"""What is printed where: one object on standard output, the rest on standard error, whatever becomes of the pipes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.__main__ import main
from workbench.cli import parser
from workbench.cli.learn_commands import step_lines
from workbench.cli.output import Terminal, emit, say, say_problems, table
from workbench.core import paths
from workbench.core.context import Context
from workbench.core.values import Problem

FOLDER = str(paths.samples() / "teach" / "characters" / "support")


class Gone(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


class Old(io.TextIOWrapper):
    """A stream that cannot hold every character."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


def test_a_terminal_that_is_gone_does_not_end_the_job() -> None:
    ctx = Context(on_change=Terminal(Gone()))
    ctx.status("training")
    ctx.progress(1, 2, "episodes")
    ctx.status("validating")


def test_without_a_terminal_there_is_one_line_per_status() -> None:
    out = io.StringIO()
    ctx = Context(on_change=Terminal(out))
    for text in ("training", "training", "validating"):
        ctx.status(text)
        ctx.progress(1, 2, "episodes")
    assert out.getvalue() == "training\nvalidating\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    terminal = Terminal(out)
    ctx = Context(on_change=terminal)
    ctx.status("training")
    ctx.progress(3, 10, "episodes")
    terminal.clear()
    assert "training" in out.getvalue()
    assert "/10 " in out.getvalue()


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ({"name": "caf\u00e9 \u4e2d"}, {"name": "caf\u00e9 \u4e2d"}),
        ({"name": "a\udcff"}, {"name": "a\ufffd"}),
        ({"x": float("nan"), "y": float("inf")}, {"x": None, "y": None}),
        ({"t": (1, [2.5])}, {"t": [1, [2.5]]}),
    ],
)
def test_json_is_json_on_every_stream(monkeypatch, value, printed) -> None:
    out = Old()
    monkeypatch.setattr(sys, "stdout", out)
    emit(value, True, lambda _: ())
    assert json.loads(out.text()) == printed


def test_lines_are_readable_on_every_stream(monkeypatch) -> None:
    out, err = Old(), Old()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    emit({"a": 0.5}, False, lambda v: [f"{v['a']} \u00b1 \u4e2d"])
    say("caf\u00e9")
    assert out.text() == "0.5 ? ?\n"
    assert err.text() == "caf?\n"


def test_problems_are_counted_and_the_first_is_named(capsys) -> None:
    say_problems((Problem("a", "ignore me", "ignored"),))
    assert capsys.readouterr().err == ""
    say_problems((Problem("a", "is empty", "warning"), Problem("b", "is broken", "error")))
    assert capsys.readouterr().err == "warning: a: is empty and 1 more ('workbench tasks' lists them)\n"


def test_tables_put_numbers_to_the_right() -> None:
    assert table([("a", 1), ("bb", 10)], ("name", "n")) == ["name   n", "a      1", "bb    10"]


def test_a_bug_is_shown_as_one_and_the_object_is_still_printed(capsys, monkeypatch) -> None:
    def broken(*_a: object) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(parser, "command_of", lambda _name: broken)
    assert main(["tasks", FOLDER, "--json"]) == 1
    said = capsys.readouterr()
    assert "ZeroDivisionError" in json.loads(said.out)["error"]
    assert "Traceback" in said.err


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_pipe_is_no_traceback(more) -> None:
    """As in ``workbench tasks FOLDER | head -0``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "workbench", "tasks", FOLDER, *more],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian", FOLDER], "did you mean 'train'"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--ways", "1"], "at least two classes"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--ways", "5-3"], "does not run from"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--image-size", "4"], "between 8 and 1024"),
        (["train", "x", "--algorithm", "a", "--episodes", "0"], "above 0"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--minutes", "1"], "not allowed with"),
        (["train", "x", "--algorithm", "a", "--minutes", "nan"], "above 0"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--seed", "-1"], "whole number"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--seed", str(1 << 63)], "whole number"),
        (["train", "x", "--algorithm", "a", "--episodes", "3", "--set", "lr"], "NAME=VALUE"),
        (["evaluate", "e", "x", "--ways", "1"], "at least two classes"),
        (["export", "m", "--out", "o", "--format", "tflite"], "invalid choice"),
    ],
)
def test_usage_says_what_was_wrong(capsys, arguments, said) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_called_like_a_command_can_be_opened_by_its_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("trains").mkdir()
    assert parser.parse(["trains"]).target == Path("trains")
    assert parser.parse([]).command == "window"
    assert parser.parse(["--open", "a", "b"]).open == ["a", "b"]


def test_accuracy_by_step_is_printed_with_the_episodes_that_it_is_of() -> None:
    of = {"ci95": 0.1, "episodes": 100, "episodes_sha256": 32 * "bc"}
    row = {"episodes": 600, "episodes_sha256": 64 * "a"}
    row["by_step"] = [{"step": j, "accuracy": 0.25 + j / 4, **of} for j in range(2)]
    assert list(step_lines(row)) == ["  after step 0: 0.2500, 1: 0.5000; first 100 episodes, bcbcbcbcbcbc"]
    assert list(step_lines({**row, "by_step": []})) == []
