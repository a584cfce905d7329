"""Which pictures the sources hold, as files that are named by their hash and never changed.

So a new role or a new source does not write the lists of the others again, and ``project.json``, which names the lists,
stays small and decides in one rename which of them count.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TypeVar

import msgspec

from workbench.core import storage
from workbench.core.values import Problem, Role, Severity, Task, TaskId
from workbench.project.records import TaskRow, raw, task_of, task_row, text

T = TypeVar("T")

_SOURCE = "source"
_PROBLEMS = "source problems"
_VERSION = 1


class _ProblemRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    path: str
    reason: str
    severity: Severity


class Sources:
    """The folder ``sources/`` of one project."""

    def __init__(self, project: Path) -> None:
        self._project = str(project)
        self._folder = project / "sources"
        self._known: dict[TaskId, tuple[Task, str]] = {}

    def save_task(self, task: Task) -> str:
        """Write the list of a source unless it is there; returns its hash.

        Raises:
            StorageError: it could not be written.
        """
        known = self._known.get(task.id)
        if known is not None and _same(known[0], task):
            return known[1]
        digest = self._save(_SOURCE, task_row(task, self._project))
        self._known[task.id] = (task, digest)
        return digest

    def load_task(self, digest: str, role: Role) -> Task:
        """The source whose list has this hash.

        Raises:
            StorageError: the list is missing or damaged.
        """
        task = task_of(self._load(digest, _SOURCE, TaskRow), self._project, role)
        self._known[task.id] = (task, digest)
        return task

    def save_problems(self, problems: Sequence[Problem]) -> str:
        """Write what could not be taken; returns the hash.

        Raises:
            StorageError: it could not be written.
        """
        return self._save(_PROBLEMS, [_ProblemRow(text(p.path), text(p.reason), p.severity) for p in problems])

    def load_problems(self, digest: str) -> tuple[Problem, ...]:
        """What could not be taken.

        Raises:
            StorageError: the list is missing or damaged.
        """
        rows = self._load(digest, _PROBLEMS, tuple[_ProblemRow, ...])
        return tuple(Problem(raw(r.path), raw(r.reason), r.severity) for r in rows)

    def sweep(self, used: AbstractSet[str]) -> None:
        """Drop the lists that are not used any more."""
        for file in self._folder.glob("*.json"):
            if file.stem not in used:
                with contextlib.suppress(OSError):
                    storage.ops.unlink(file)
        self._known = {id_: known for id_, known in self._known.items() if known[1] in used}

    def _save(self, kind: str, value: object) -> str:
        data = storage.encode_json(kind, _VERSION, value)
        digest = hashlib.sha256(data).hexdigest()
        file = self._folder / f"{digest}.json"
        if not file.exists() or file.read_bytes() != data:
            storage.save(file, data, keep_previous=False)
        return digest

    def _load(self, digest: str, kind: str, type_: type[T]) -> T:
        file = self._folder / f"{digest}.json"
        return storage.decode_json(storage.load(file, digest), kind, _VERSION, type_, str(file))


def _same(a: Task, b: Task) -> bool:
    """Whether two tasks have the same list, by a look that costs nothing for tens of thousands of pictures."""
    return a.classes is b.classes and a.unlabelled is b.unlabelled and (a.name, a.path) == (b.name, b.path)
