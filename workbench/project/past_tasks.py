"""What was taught before and how well it went: one small file per task, from which the choice learns its own prior.

A record says where the task lay under the probe, what was tried on its examples, what was chosen, and how often each
was right on pictures that a person labelled afterwards. It holds no picture, no path and no name of a class. Records of
a project lie in it; those from which something was learnt are in the person's own folder too, for all other projects.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from workbench.core import paths, storage
from workbench.core.errors import StorageError
from workbench.core.values import EntryId, Problem
from workbench.project import lock, sealed

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
_MARK = re.compile(r"(?:[0-9a-f]{16})?")


class Used(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was made of an entry: its trunk as it is, up to a layer, with an adapter and a head; see the recipes.

    ``entry`` is ``None`` for the untrained network.
    """

    entry: EntryId | None
    layer: str = "last"
    adapter: str = "none"
    head: str = "own"


class Tried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A candidate: what was expected of it before it was tried, and its leave-one-out log-loss, nats, if measured."""

    used: Used
    prior: float
    loss: float | None


class Realised(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of ``of`` pictures that had been asked about and were labelled by a person, it recognised ``right`` left out.

    ``pictures`` is the mark of these pictures, see ``mark_of``: what has the same was judged by the very same ones.
    """

    used: Used
    right: int
    of: int
    pictures: str = ""


class PastTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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

    def seen_right(self, used: Used, right: int, of: int, pictures: str = "") -> PastTask:
        """The same after a person labelled ``of`` more pictures, of which ``used`` recognises ``right`` left out.

        Args:
            used: what was judged.
            right: negative, like ``of``, where labels were taken back.
            of: number of pictures.
            pictures: their mark; a picture that is taken back has the mark that it had.

        Raises:
            ValueError: more are right than were asked about, or more are taken back than there are.
        """
        before = next((r for r in self.realised if r.used == used), Realised(used, 0, 0))
        now = Realised(used, before.right + right, before.of + of, _together(before.pictures, pictures))
        if not 0 <= now.right <= now.of or abs(right) > abs(of):
            raise ValueError(f"{right} of {of} pictures cannot be right")
        others = tuple(r for r in self.realised if r.used != used)
        return msgspec.structs.replace(self, realised=(*others, now) if now.of else others)


def mark_of(task: str, pictures: Iterable[str]) -> str:
    """What tells sets of pictures of one task apart, in any order: 16 hex digits that name none of them.

    Args:
        task: its id.
        pictures: hashes, each once.
    """
    mark = ""
    for one in pictures:
        mark = _together(mark, hashlib.sha256(f"{task} {one}".encode()).hexdigest()[:16])
    return mark


def _together(mark: str, other: str) -> str:
    """Of what lies in exactly one of two sets."""
    both = int(mark or "0", 16) ^ int(other or "0", 16)
    return f"{both:016x}" if both else ""


def task_id(classes: Iterable[str]) -> str:
    """Digest of what tells a task from others (ids of its classes, or their names and pictures), in any order."""
    h = hashlib.sha256()
    for one in sorted(classes):
        h.update(one.encode("utf-8", "surrogateescape") + b"\0")
    return h.hexdigest()[:16]


def save(project: Path, task: PastTask) -> Path:
    """Write a record; that of the same task is replaced, the oldest beyond ``MOST`` go.

    Args:
        project: whose record it is, or a person's own folder, see ``folders``.
        task: to be kept.

    Raises:
        StorageError: it could not be written; the one before is untouched.
    """
    short = msgspec.structs.replace(
        task, representation=_rounded(task.representation), metafeatures=_rounded(task.metafeatures)
    )
    folder = Path(project) / FOLDER
    file = folder / f"{task.id}.json"
    sealed.save(file, KIND, VERSION, short, keep_previous=False)
    files = _files(folder)
    if len(files) > MOST:
        for old in sorted(files, key=_age)[: len(files) - MOST]:
            if old != file:
                with contextlib.suppress(OSError):
                    storage.ops.unlink(old)
    return file


@contextlib.contextmanager
def alone(project: Path) -> Iterator[None]:
    """While a record is read, changed and written: no other process does so in this project."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # nothing can be written there, which saving says
            Path(project).mkdir(parents=True, exist_ok=True)
            held.enter_context(lock.guard(Path(project)))
        yield


def folders(project: Path) -> tuple[Path, ...]:
    """Where records are read: in the project, and in the person's own folder, which has those of other projects."""
    return tuple(dict.fromkeys((Path(project), paths.data_home())))


def find(project: Path, id_: str) -> PastTask | None:
    """The record of a task, ``None`` where there is none that can be read."""
    with contextlib.suppress(StorageError):
        return _read(Path(project) / FOLDER / f"{id_}.json")
    return None


def read(project: Path) -> tuple[tuple[PastTask, ...], tuple[Problem, ...]]:
    """All records of a project and of others, newest first, and those that could not be read with the reason."""
    found, problems = [], []
    for file in sorted(_everywhere(project), key=_age, reverse=True)[:MOST]:
        try:
            found.append(_read(file))
        except StorageError as error:
            problems.append(Problem(str(file), error.why, "warning"))
    return tuple(sorted(found, key=lambda t: t.when, reverse=True)), tuple(problems)


def distilled(
    project: Path, make: Callable[[PastTask], T], had: dict[Path, tuple[Stamp, T | None]]
) -> dict[Path, tuple[Stamp, T | None]]:
    """Something of every record of a project and of others, made anew only of those that changed.

    Args:
        project: whose records stand for those of the same tasks elsewhere.
        make: of a record what is wanted.
        had: what an earlier call with the same ``make`` returned.

    Returns:
        By file its stamp and what was made of it, newest first, ``None`` for one that cannot be read.
    """
    stamps = []
    for file in _everywhere(project):
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
    task = sealed.load(file, KIND, VERSION, PastTask)
    if task.id != file.stem or any(not _possible(r) for r in task.realised) or min(task.shots, default=0) < 1:
        raise StorageError(f"{file} was not opened", "its figures cannot be", "Teach the task again")
    return task


def _possible(r: Realised) -> bool:
    return 0 <= r.right <= r.of and _MARK.fullmatch(r.pictures) is not None


def _everywhere(project: Path) -> list[Path]:
    """Files of records, one for each task."""
    found: dict[str, Path] = {}
    for folder in folders(project):
        for file in _files(folder / FOLDER):
            found.setdefault(file.name, file)
    return list(found.values())


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
