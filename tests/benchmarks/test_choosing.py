"""The benchmark of choosing: what it times is what it says, and its figures go where they belong."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import choosing, files
from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError
from workbench.learn import features
from workbench.project import past_tasks
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services import looks, mixtures, teaching

FIGURES = {f"{n}{kind}": 0.1 for n in choosing.FIGURES for kind in ("", "_computing")}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with ten entries for pictures of 20 pixels."""
    monkeypatch.setattr(choosing, "SIZE", 20)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "before"))
    return tmp_path / "project"


def test_each_figure_times_what_it_says(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choosing.library(small, "metric", 10)
    choosing.past(small, 3)
    passes: list[int] = []
    real, clock = features.embed, choosing.timed
    monkeypatch.setattr(features, "embed", lambda *a: passes.append(a[2]) or real(*a))
    seen: dict[int, tuple[int, int]] = {}

    def timed(work):  # type: ignore[no-untyped-def]
        before, had = len(passes), len(looks._remembered.looks)
        found = clock(work)
        seen[len(seen)] = (len(passes) - before, had)
        return found

    monkeypatch.setattr(choosing, "timed", timed)
    monkeypatch.setattr(choosing, "_command", lambda *_: None)
    figures = choosing.one_round(small, tmp_path / "round", 0)
    assert set(figures) == set(choosing.FIGURES)
    assert all(wall >= 0 and computing >= 0 for wall, computing in figures.values())
    cold, cached, unchanged, labelled, *_ = (seen[n] for n in range(len(seen)))
    assert cold[0] >= 10, "eight entries, no transfer and the probe look at the pictures"
    assert (cold[1], cached[1]) == (0, 0), "no look is remembered"
    assert (cached[0], unchanged[0]) == (0, 0), "all features are known"
    assert unchanged[1] > 9
    assert 0 < labelled[0] <= 9, "what was labelled is new to the networks that did not answer"
    assert set(passes[-labelled[0] :]) == {1}
    assert len(past_tasks.read(small)[0]) > 3, "the task has a record"
    chosen = teaching._last.taught
    assert chosen is not None
    tried = {c.entry for c in chosen.candidates if c.weight > 0}
    own = {entry.id for entry in Library(small).entries() if entry.name.startswith("entry ")}
    assert len(tried & own) >= 7, "the short list is full of entries of the library"


def test_a_family_is_mixed(small: Path, tmp_path: Path) -> None:
    choosing.library(small, "family", 3)
    classes, queries = choosing.pictures(tmp_path / "pictures", 0)
    assert [len(c.images) for c in classes] == [choosing.SHOTS] * choosing.WAYS
    assert len(queries) == choosing.QUERIES
    found = teaching.adapt_to(classes, small, "auto", known.feature_cache(), Context())
    assert mixtures.NETWORKS in {c.entry for c in found.candidates}


def test_the_command_chooses_and_writes_a_model(small: Path, tmp_path: Path) -> None:
    small.mkdir()
    choosing.pictures(tmp_path / "pictures", 0)
    assert os.environ["WORKBENCH_HOME"] == str(tmp_path / "before")
    choosing._command(small, tmp_path, "model")
    assert (tmp_path / "model").exists()


def test_what_was_promised_is_missed_in_the_window_and_by_the_command_and_by_every_conv4() -> None:
    slow = dict.fromkeys(FIGURES, 9.0)
    for kind in ("metric", "family", "heads", "steps"):
        assert choosing.missed({"library": kind} | FIGURES) == []
        assert choosing.missed({"library": kind} | slow) == ["cold", "cached", "labelled", "command", "command_again"]
        assert choosing.missed({"library": kind} | FIGURES | {"command": 3.1}) == ["command"]
    assert choosing.missed({"library": "deep"} | slow) == []


def test_it_can_be_imported_where_nobody_counts_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no such module."""
    monkeypatch.setitem(sys.modules, "resource", None)
    spec = importlib.util.spec_from_file_location("choosing_again", choosing.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    _, worked = again.timed(lambda: sum(range(1_000_000)))
    assert worked > 0


@pytest.mark.skipif(sys.platform == "win32", reason="children's seconds are not known there")
def test_what_a_child_computes_counts() -> None:
    line = "import time\nwhile time.process_time() < 0.3: pass"
    wall, worked = choosing.timed(lambda: subprocess.run([sys.executable, "-c", line], check=True))
    assert 0.25 < worked < wall + 0.25


def test_the_table_lies_in_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(files, "README", tmp_path / "README.md")
    for kind, slow in (("steps", {}), ("metric", {}), ("steps", {"cached": 11.0, "command_again": 12.0})):
        about = {"library": kind, "entries": 30, "tasks": 500, "examples": 25, "threads": 2}
        files.write("choosing", choosing.command(kind, 30, 500, 5), 0, about | FIGURES | slow)
        lines = choosing.table()
        if not slow:
            assert lines[-2:] == ["", "No limit is exceeded."]
    assert [line.split("|")[1].strip() for line in lines[3:5]] == [
        "30 entries, metric; 25 examples; 500 past tasks",
        "30 entries, steps; 25 examples; 500 past tasks",
    ]
    assert lines[5:] == ["", "Limits that are exceeded:", "", "- steps, 25 examples: cached, command again"]
    assert lines[2].count("<= 3 s") == 2, "of the window and of the command"
    with pytest.raises(FileNotFoundError):
        files.into_readme("choosing", lines)
    files.README.write_text("a\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the marks"):
        files.into_readme("choosing", lines)
    marks = "<!-- choosing: made by tests.benchmarks.choosing --table -->", "<!-- /choosing -->"
    files.README.write_text(f"a\n{marks[0]}\nold\n{marks[1]}\nz\n", encoding="utf-8")
    assert choosing.main(["--table"]) == 0
    text = files.README.read_text(encoding="utf-8")
    assert text.splitlines() == ["a", marks[0], *lines, marks[1], "z"]


def test_the_readme_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "README", tmp_path / "README.md")
    old = "a\n<!-- choosing: made by tests.benchmarks.choosing --table -->\nold\n<!-- /choosing -->\n"
    files.README.write_text(old, encoding="utf-8")

    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(storage.ops, "write", full)
    with pytest.raises(StorageError):
        files.into_readme("choosing", ["new"])
    assert files.README.read_text(encoding="utf-8") == old
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]
