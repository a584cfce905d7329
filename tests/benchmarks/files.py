"""Results of benchmarks as files, ``results/<benchmark>/<key>.json``: one per command, so that none is measured twice.

A command is the line that measures one thing again (``python -m tests.benchmarks.lake ...``); it is the file's key, and
what is measured with another option lies in another file. Folders that differ between machines do not belong in it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench.core import storage

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[2] / "README.md"
_KIND, _VERSION = "benchmark result", 1


@dataclass(frozen=True, slots=True)
class Result:
    """What one command measured.

    Attributes:
        command: the line that measures it again.
        seed: of everything random in it.
        figures: numbers, texts, lists and dictionaries of them; finite.
        date: ISO 8601, UTC.
        versions: of Python and of the libraries that compute.
        machine: number of cores, threads of torch, kind of processor.
    """

    command: str
    seed: int
    figures: dict[str, Any]
    date: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


def path_of(benchmark: str, command: str) -> Path:
    """Where the result of a command lies: the beginning of its arguments, for people, and a hash of all of it."""
    arguments = re.sub(r"^(uv run )?python -m [\w.]+", "", command)
    words = re.sub(r"[^a-z0-9]+", "-", arguments.lower()).strip("-")[:48].strip("-")
    digest = hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return RESULTS / benchmark / f"{f'{words}-' if words else ''}{digest}.json"


def read(benchmark: str, command: str) -> Result | None:
    """The result of a command, or ``None`` where it was not measured yet.

    Raises:
        StorageError: the file is damaged.
    """
    path = path_of(benchmark, command)
    return _read(path) if path.exists() else None


def write(benchmark: str, command: str, seed: int, figures: dict[str, Any]) -> Result:
    """Keep what a command measured, whole or not at all; a former result of the same command is replaced.

    Raises:
        ValueError: a figure is not finite.
        StorageError: it could not be written.
    """
    versions = {name: version(name) for name in ("torch", "numpy")} | {"python": platform.python_version()}
    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    result = Result(command, seed, figures, now, versions, machine)
    storage.save(path_of(benchmark, command), storage.encode_json(_KIND, _VERSION, result), keep_previous=False)
    return result


def all_of(benchmark: str) -> tuple[Result, ...]:
    """Every result of a benchmark, in the order of the commands.

    Raises:
        StorageError: a file is damaged.
    """
    return tuple(sorted((_read(p) for p in (RESULTS / benchmark).glob("*.json")), key=lambda r: r.command))


def into_readme(benchmark: str, lines: Sequence[str]) -> None:
    """Put a table between its marks in the README.

    Raises:
        SystemExit: the README has no marks.
        StorageError: it could not be written; it is what it was.
    """
    begin, end = f"<!-- {benchmark}: made by tests.benchmarks.{benchmark} --table -->", f"<!-- /{benchmark} -->"
    text = README.read_text(encoding="utf-8")
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise SystemExit(f"The table was not put into {README.name}: it lacks the marks {begin} and {end}")
    written = "\n".join([before + begin, *lines, end + after]).encode("utf-8")
    storage.save(README, written, keep_previous=False)


def _read(path: Path) -> Result:
    return storage.decode_json(storage.load(path), _KIND, _VERSION, Result, str(path))
