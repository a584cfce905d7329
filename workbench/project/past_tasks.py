"""What was taught before and how well it went: one small file per task, from which the choice learns its own prior.

A record says where the task lay under the probe, what was tried on its examples, what was chosen, and how often each
was right on pictures that a person labelled afterwards. It holds no picture, no path and no name of a class.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from workbench.core import storage
from workbench.core.errors import StorageError
from workbench.core.values import EntryId, Problem
from workbench.project import sealed

T = TypeVar("T")
Stamp = tuple[int, int, int]
"""Of a file: when it was written (ns), its size and its number; every record that is written is a new file."""

KIND = "past task"
VERSION = 1
FOLDER = "tasks"
MOST = 500
"""Records of a project; the oldest go first."""
LARGEST = 400_000
"""Bytes of a record that is read at all; one of the probe's 64 features takes 30 KB."""
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Used:
    """What was made of an entry: its trunk as it is, up to a layer, with an adapter and a head; see the recipes.

    ``entry`` is ``None`` for the untrained network.
    """

    entry: EntryId | None
    layer: str = "last"
    adapter: str = "none"
    head: str = "own"


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate: what was expected of it before it was tried, and its leave-one-out log-loss, nats, if measured."""

    used: Used
    prior: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class Realised:
    """Of ``of`` pictures that had been asked about and were labelled by a person, it recognised ``right`` left out."""

    used: Used
    right: int
    of: int


@dataclass(frozen=True, slots=True)
class PastTask:
    """A task that was taught.

    Attributes:
        id: digest of its classes, see ``task_id``.
        when: of the last change, ISO 8601, UTC.
        shots: examples of each class, sorted.
        probe: digest of the network it is represented under, "" for none.
        representation: packed mean and covariance under the probe, or ().
        metafeatures: values and whether each was measured, or ().
        names: of the meta-features.
        tried: the candidates of the last choice.
        chosen: what is used.
        realised: of everything that was tried when pictures were labelled.
    """

    id: str
    when: str
    shots: tuple[int, ...]
    probe: str
    representation: tuple[float, ...]
    metafeatures: tuple[float, ...]
    names: tuple[str, ...]
    tried: tuple[Tried, ...]
    chosen: Used
    realised: tuple[Realised, ...] = ()

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.shots)

    def seen_right(self, used: Used, right: int, of: int) -> PastTask:
        """The same after a person labelled ``of`` more pictures, of which ``used`` recognises ``right`` left out."""
        if not 0 <= right <= of:
            raise ValueError(f"{right} of {of} pictures cannot be right")
        before = next((r for r in self.realised if r.used == used), Realised(used, 0, 0))
        others = tuple(r for r in self.realised if r.used != used)
        return replace(self, realised=(*others, Realised(used, before.right + right, before.of + of)))


class _UsedRow(msgspec.Struct, forbid_unknown_fields=True):
    entry: str | None
    layer: str
    adapter: str
    head: str


class _TriedRow(msgspec.Struct, forbid_unknown_fields=True):
    used: _UsedRow
    prior: float
    loss: float | None


class _RealisedRow(msgspec.Struct, forbid_unknown_fields=True):
    used: _UsedRow
    right: int
    of: int


class _TaskRow(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    when: str
    shots: tuple[int, ...]
    probe: str
    representation: tuple[float, ...]
    metafeatures: tuple[float, ...]
    names: tuple[str, ...]
    tried: tuple[_TriedRow, ...]
    chosen: _UsedRow
    realised: tuple[_RealisedRow, ...]


def task_id(classes: Iterable[str]) -> str:
    """Digest of what tells a task from others (ids of its classes, or their names and pictures), in any order."""
    h = hashlib.sha256()
    for one in sorted(classes):
        h.update(one.encode("utf-8", "surrogateescape") + b"\0")
    return h.hexdigest()[:16]


def save(project: Path, task: PastTask) -> Path:
    """Write a record; that of the same task is replaced, the oldest beyond ``MOST`` go.

    Raises:
        StorageError: it could not be written; the one before is untouched.
    """
    short = replace(task, representation=_rounded(task.representation), metafeatures=_rounded(task.metafeatures))
    folder = Path(project) / FOLDER
    file = folder / f"{task.id}.json"
    sealed.save(file, KIND, VERSION, msgspec.convert(msgspec.to_builtins(short), _TaskRow), keep_previous=False)
    files = _files(folder)
    if len(files) > MOST:
        for old in sorted(files, key=_age)[: len(files) - MOST]:
            if old != file:
                with contextlib.suppress(OSError):
                    storage.ops.unlink(old)
    return file


def find(project: Path, id_: str) -> PastTask | None:
    """The record of a task, ``None`` where there is none that can be read."""
    with contextlib.suppress(StorageError):
        return _read(Path(project) / FOLDER / f"{id_}.json")
    return None


def read(project: Path) -> tuple[tuple[PastTask, ...], tuple[Problem, ...]]:
    """All records, newest first, and those that could not be read with the reason."""
    found, problems = [], []
    for file in sorted(_files(Path(project) / FOLDER), key=_age, reverse=True)[:MOST]:
        try:
            found.append(_read(file))
        except StorageError as error:
            problems.append(Problem(str(file), error.why, "warning"))
    return tuple(sorted(found, key=lambda t: t.when, reverse=True)), tuple(problems)


def distilled(
    project: Path, make: Callable[[PastTask], T], had: dict[Path, tuple[Stamp, T | None]]
) -> dict[Path, tuple[Stamp, T | None]]:
    """Something of every record, made anew only of those that changed.

    Args:
        project: whose records.
        make: of a record what is wanted.
        had: what an earlier call with the same ``make`` returned.

    Returns:
        By file its stamp and what was made of it, newest first, ``None`` for one that cannot be read.
    """
    stamps = []
    for file in _files(Path(project) / FOLDER):
        with contextlib.suppress(OSError):
            status = file.stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino, file))
    found: dict[Path, tuple[Stamp, T | None]] = {}
    for *numbers, file in sorted(stamps, reverse=True)[:MOST]:
        stamp = (numbers[0], numbers[1], numbers[2])
        before = had.get(file)
        if before is not None and before[0] == stamp:
            found[file] = before
            continue
        found[file] = stamp, None
        with contextlib.suppress(StorageError):
            found[file] = stamp, make(_read(file))
    return found


def _read(file: Path) -> PastTask:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise StorageError(f"{file} cannot be read", error.strerror or str(error), "Teach the task again") from error
    if size > LARGEST:
        raise StorageError(f"{file} was not opened", f"it has {storage.len_text(size)}", "Teach the task again")
    row = sealed.load(file, KIND, VERSION, _TaskRow)
    if row.id != file.stem or any(not 0 <= r.right <= r.of for r in row.realised) or min(row.shots, default=0) < 1:
        raise StorageError(f"{file} was not opened", "its figures cannot be", "Teach the task again")
    return msgspec.convert(msgspec.to_builtins(row), PastTask)


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [p for p in folder.iterdir() if p.suffix == ".json" and not p.name.startswith(".")]
    return []


def _age(file: Path) -> float:
    with contextlib.suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(f"{v:.{_DIGITS}g}") for v in values)
