"""One project: a folder with its sources, its taught task, its runs and its knowledge.

``project.json`` (small, sealed) names the sources, their roles and the files that list their pictures;
``sources/`` lists their pictures; ``labels.db`` is the journal of the taught task; ``blobs/`` holds pictures that came
without a file (pasted, captured); ``runs/``, ``knowledge/``, ``backups/``, ``lock``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.teach import Edit, TeachTask
from workbench.core.values import Problem, Role, Task, TaskId
from workbench.project import copying, sealed
from workbench.project.backups import back_up, restore_backup
from workbench.project.journal import Journal
from workbench.project.listing import ProjectRow, SourceRow, taken_back, with_sources
from workbench.project.lock import Taken, take
from workbench.project.records import absolute, raw, text
from workbench.project.sources import Sources

log = logging.getLogger(__name__)

KIND = "workbench project"
VERSION = 2
"""Of ``project.json``: 2 since it holds the changes that can be taken back; what 1 wrote is read as it is."""
FILE = "project.json"
LABELS = "labels.db"
_OURS = frozenset({"blobs", "runs", "knowledge", "backups", "sources", "models", "exports", "lock", ".lock-guard"})
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
_STRAY_SECONDS = 3600.0
_WAIT_SECONDS = 2.0


class Project:
    """An open project; made by :meth:`open`, ended by :meth:`close` (or ``with``).

    Any method may be called from any thread, one at a time.
    """

    def __init__(self, path: Path, lock: Taken, row: ProjectRow, journal: Journal) -> None:
        self._path = path
        self._taken = lock
        self._row = row
        self._journal = journal
        self._lock = threading.RLock()
        self._sources = Sources(path)
        self._tasks: tuple[Task, ...] | None = None
        self._damaged: tuple[Problem, ...] = ()

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Project:
        """Open a project, for reading only where another process holds it or its folder cannot be written.

        Args:
            path: its folder.
            create: make a new project where there is none.

        Raises:
            WorkbenchError: there is none and ``create`` is not set, or the folder holds something else.
            StorageError: it is damaged (the message names what it can be restored from) or of a newer version.
        """
        path = Path(absolute(str(path)))
        if not (path / FILE).exists():
            _check_free(path, create=create)
        lock = take(path)
        try:
            if not lock.reason and not (path / FILE).exists():
                _save(path, ProjectRow(text(path.name or "Project")))
            row = _read(path, wait=bool(lock.reason))
            journal = Journal(path / LABELS, str(path), read_only=bool(lock.reason), thorough=lock.stale)
        except BaseException:
            lock.release()
            raise
        project = cls(path, lock, row, journal)
        if not lock.reason:
            with contextlib.suppress(OSError):
                storage.sweep_strays(path, _STRAY_SECONDS, time.time())
            try:
                back_up(journal, path)
            except StorageError as error:
                log.warning("%s", error)
        return project

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal and let the next one write; safe to call twice."""
        self._journal.close()
        self._taken.release()

    # ---- what it is ------------------------------------------------------------------------------
    @property
    def path(self) -> Path:
        """Its folder, absolute."""
        return self._path

    @property
    def name(self) -> str:
        """For people."""
        return raw(self._row.name)

    @property
    def read_only(self) -> str:
        """Why nothing can be changed, in words, or "" when it can."""
        return self._taken.reason

    def rename(self, name: str) -> None:
        """Give it another name; the folder keeps its own.

        Raises:
            WorkbenchError: empty, over 100 characters, or read-only.
        """
        name = name.strip()
        if not name or len(name) > 100 or not name.isprintable():
            raise WorkbenchError(
                "The project was not renamed", "a name has 1 to 100 visible characters", "Type another one"
            )
        with self._lock:
            self._replace(msgspec.structs.replace(self._row, name=text(name)))

    def save_as(self, path: Path) -> Path:
        """Copy everything into a new folder, which stands whole or not at all; works for a read-only project too.

        Returns:
            The copy's folder, to be opened by the caller.

        Raises:
            WorkbenchError: there is something already, or it lies inside this project.
            StorageError: it could not be written.
        """
        with self._lock:
            return copying.copy_project(self._path, Path(absolute(str(path))), self._journal)

    # ---- sources ---------------------------------------------------------------------------------
    def tasks(self) -> tuple[Task, ...]:
        """The sources with their roles, as they were set last; nothing is scanned."""
        with self._lock:
            if self._tasks is None:
                tasks, damaged = [], []
                for row in self._row.sources:
                    try:
                        tasks.append(self._sources.load_task(row.pictures, Role(row.role)))
                    except (StorageError, ValueError) as error:
                        why = error.why if isinstance(error, StorageError) else str(error)
                        damaged.append(
                            Problem(raw(row.name), f"the list of its pictures cannot be read: {why}", "error")
                        )
                self._tasks, self._damaged = tuple(tasks), tuple(damaged)
            return self._tasks

    def set_tasks(self, tasks: Sequence[Task], words: str = "", undone: int = 0) -> None:
        """Replace the sources; of two with the same id the later one stands.

        Args:
            tasks: all of them.
            words: what the change is, e.g. ``remove garments``, where it is to be one that can be taken back.
            undone: how many of the last such changes these sources are without; they are forgotten.

        Raises:
            WorkbenchError: read-only.
            StorageError: it could not be written; the former ones stand.
        """
        with self._lock:
            self._check_writable()
            unique = {t.id: t for t in tasks}
            rows = tuple(
                SourceRow(text(t.id), text(t.name), t.role.value, self._sources.save_task(t)) for t in unique.values()
            )
            self._replace(with_sources(self._row, rows, words, undone))
            self._tasks, self._damaged = tuple(unique.values()), ()
            self._sweep()

    @property
    def sources_undo_text(self) -> str:
        """The change that :meth:`without_last_change` would take back, or ""; waits for nobody who reads or writes."""
        changes = self._row.changes
        return changes[-1].words if changes else ""

    def without_last_change(self) -> tuple[Task, ...]:
        """The sources without their last change that has words, whoever made it and when; nothing is written.

        ``set_tasks(..., undone=1)`` then makes it so.

        Raises:
            WorkbenchError: there is nothing to take back.
            StorageError: the list of a former source is damaged.
        """
        with self._lock:
            if not self._row.changes:
                raise WorkbenchError("Nothing was taken back", "no change of the sources is left", "Make one first")
            have = {t.id: t for t in self.tasks()}
            same = {s.id: s.pictures for s in self._row.sources if s.id in have}
            return tuple(
                have[TaskId(raw(s.id))].with_role(Role(s.role))
                if same.get(s.id) == s.pictures
                else self._sources.load_task(s.pictures, Role(s.role))
                for s in taken_back(self._row).sources
            )

    def problems(self) -> tuple[Problem, ...]:
        """What the scans of the sources could not take, and sources whose list is damaged."""
        with self._lock:
            self.tasks()
            if not self._row.problems:
                return self._damaged
            try:
                return (*self._damaged, *self._sources.load_problems(self._row.problems))
            except StorageError as error:
                return (*self._damaged, Problem(str(self._path / "sources"), error.why, "warning"))

    def set_problems(self, problems: Sequence[Problem]) -> None:
        """Replace what the scans could not take.

        Raises:
            WorkbenchError: read-only.
            StorageError: it could not be written.
        """
        with self._lock:
            self._check_writable()
            digest = self._sources.save_problems(problems) if problems else ""
            self._replace(msgspec.structs.replace(self._row, problems=digest))
            self._sweep()

    def add_blob(self, data: bytes, suffix: str) -> Path:
        """Keep the bytes of a picture that has no file of its own; equal bytes are kept once.

        Args:
            data: the encoded picture.
            suffix: e.g. ``.png``.

        Raises:
            ValueError: the suffix is not a dot and up to eight letters or digits.
            WorkbenchError: read-only.
            StorageError: it could not be written.
        """
        if not _SUFFIX.fullmatch(suffix.lower()):
            raise ValueError(f"{suffix!r} is not a suffix")
        self._check_writable()
        target = self._path / "blobs" / (hashlib.sha256(data).hexdigest() + suffix.lower())
        if not target.exists() or target.read_bytes() != data:
            storage.save(target, data, keep_previous=False)
        return target

    # ---- the taught task -------------------------------------------------------------------------
    def teach(self) -> TeachTask:
        """The taught task as it is now."""
        return self._journal.teach()

    def edit(self, edit: Edit) -> TeachTask:
        """Apply a person's edit; durable when this returns. See :meth:`Journal.edit`."""
        self._check_writable()
        return self._journal.edit(edit)

    def undo(self) -> TeachTask:
        """Take the last edit back; durable when this returns."""
        self._check_writable()
        return self._journal.undo()

    def redo(self) -> TeachTask:
        """Do again what was taken back last; durable when this returns."""
        self._check_writable()
        return self._journal.redo()

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to take back."""
        return self._journal.can_undo and not self.read_only

    @property
    def can_redo(self) -> bool:
        """Whether there is an edit to do again."""
        return self._journal.can_redo and not self.read_only

    @property
    def undo_text(self) -> str:
        """What undo would take back, e.g. ``add 3 pictures to shorts``, or ""."""
        return self._journal.undo_text

    @property
    def redo_text(self) -> str:
        """What redo would do again, or ""."""
        return self._journal.redo_text

    # ---- inside ----------------------------------------------------------------------------------
    def _check_writable(self) -> None:
        if self.read_only:
            raise WorkbenchError(
                "The change was not saved", self.read_only, "Close the other one, or save a copy of the project"
            )

    def _replace(self, row: ProjectRow) -> None:
        self._check_writable()
        _save(self._path, row)
        self._row = row

    def _sweep(self) -> None:
        """Drop lists that neither ``project.json`` nor the copy before it names."""
        used = self._row.lists
        with contextlib.suppress(StorageError):
            used |= sealed.load(self._path / f"{FILE}.prev", KIND, VERSION, ProjectRow).lists
        self._sources.sweep(used)


def restore(path: Path) -> tuple[str, ...]:
    """Put back what is damaged: ``project.json`` from the copy before it, the labels from their newest backup.

    Returns:
        What was restored, in words; empty if nothing was damaged.

    Raises:
        WorkbenchError: it is open elsewhere, or there is nothing to restore from.
    """
    path = Path(absolute(str(path)))
    lock = take(path)
    if lock.reason:
        raise WorkbenchError("The project was not restored", lock.reason, "Close the other one first")
    done = []
    try:
        try:
            sealed.load(path / FILE, KIND, VERSION, ProjectRow)
        except StorageError as error:
            _unless_newer(error)
            previous = path / f"{FILE}.prev"
            sealed.load(previous, KIND, VERSION, ProjectRow)
            storage.save(path / FILE, storage.load(previous), keep_previous=False)
            done.append("the list of sources, as it was before the last change")
        try:
            Journal(path / LABELS, str(path), thorough=True).close()
        except StorageError as error:
            _unless_newer(error)
            done.append(f"the labels, from {restore_backup(path).name}")
    finally:
        lock.release()
    return tuple(done)


def _unless_newer(error: StorageError) -> None:
    if "newer version" in error.why:
        raise error


def _save(path: Path, row: ProjectRow) -> None:
    sealed.save(path / FILE, KIND, VERSION, row)


def _read(path: Path, *, wait: bool) -> ProjectRow:
    """``project.json``; beside a writer that is just making it, wait a moment for it."""
    end = time.monotonic() + (_WAIT_SECONDS if wait else 0.0)
    while not (path / FILE).exists() and time.monotonic() < end:
        time.sleep(0.02)
    return sealed.load(path / FILE, KIND, VERSION, ProjectRow)


def _check_free(path: Path, *, create: bool) -> None:
    """Whether a project can be made here; the folder is made.

    Raises:
        WorkbenchError: no.
    """
    previous = path / f"{FILE}.prev"
    if previous.exists():
        raise StorageError(f"{path} was not opened", f"its {FILE} is missing", f"The copy before it is {previous.name}")
    if not create:
        raise WorkbenchError(f"{path} was not opened", "it is not a project", "Choose a project's folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = [
            p.name for p in path.iterdir() if p.name not in _OURS and not p.name.startswith((LABELS, "labels-", "."))
        ]
    except OSError as error:
        raise WorkbenchError(
            "The project was not made", f"{path}: {error.strerror or error}", "Choose another folder"
        ) from error
    if others:
        raise WorkbenchError(
            "The project was not made", f"{path} already holds {min(others)}", "Choose an empty folder"
        )
