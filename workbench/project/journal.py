"""The journal of everything a person does to the taught task: durable before it is shown, undoable after a restart.

Edits, undos and redos are appended to ``labels.db`` and never changed; the state is what applying them gives, from the
last snapshot on. Only a person's edits come here - what a model predicts never does, so a human label can only be
changed by a human.

Every row's seal hashes the row and the seal before it, and a head row repeats the last one, so that a row that was
damaged, lost or put in is noticed; SQLite alone lets a third of all flipped bits pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.teach import Edit, TeachTask, apply
from workbench.project.edits import read_edit, read_task, write_edit, write_task
from workbench.project.history import History
from workbench.project.records import Places

VERSION = 1
_APPLICATION = 0x4D545742
_SEALED = "body BLOB NOT NULL, seal BLOB NOT NULL)"
_SCHEMA = (
    f"CREATE TABLE events (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, at TEXT NOT NULL, {_SEALED}",
    "CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, seal BLOB NOT NULL)",
    f"CREATE TABLE snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, {_SEALED}",
)
_GENESIS = b"\0" * 8
SNAPSHOT_EVERY = 256


class _Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    base: dict[str, Any]
    done: tuple[bytes, ...]
    undone: tuple[bytes, ...]


class Journal:
    """The taught task of one project, on disk.

    One connection, usable from any thread, one call at a time. ``read_only`` opens what is there and refuses edits.

    Raises:
        StorageError: the file is damaged, of a newer version, or cannot be opened.
    """

    def __init__(self, file: Path, project: str, *, read_only: bool = False, thorough: bool = False) -> None:
        self._file = file
        self._places = Places(project)
        self._lock = threading.RLock()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._history = History(TeachTask())
        self._seq, self._seal = 0, _GENESIS
        self._snapshot_seq = 0
        self._in_doubt = False
        self._read_only = read_only
        self._db: sqlite3.Connection | None = None
        if read_only and not file.exists():
            return
        try:
            self._db = self._open_read_only() if read_only else _connect(file)
            _check(self._db, thorough=thorough)
            self._load(self._db)
        except (sqlite3.Error, ValueError) as error:  # a damaged file's messages may not even be text
            self.close()
            raise damaged(file, str(error)) from error
        except StorageError:
            self.close()
            raise

    # ---- reading ---------------------------------------------------------------------------------
    def teach(self) -> TeachTask:
        """The task as it is now."""
        return self._history.task

    @property
    def seq(self) -> int:
        """Number of events ever written; grows with every edit, undo and redo."""
        return self._seq

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to take back."""
        return bool(self._history.done)

    @property
    def can_redo(self) -> bool:
        """Whether an edit was taken back last."""
        return bool(self._history.undone)

    @property
    def undo_text(self) -> str:
        """What ``undo`` would take back, e.g. ``add 3 pictures to shorts``, or ""."""
        return self._history.done[-1].words if self._history.done else ""

    @property
    def redo_text(self) -> str:
        """What ``redo`` would do again, or ""."""
        return self._history.undone[-1].words if self._history.undone else ""

    # ---- writing ---------------------------------------------------------------------------------
    def edit(self, edit: Edit) -> TeachTask:
        """Apply a person's edit; it is on disk when this returns. An edit that changes nothing leaves no trace.

        Raises:
            WorkbenchError: the edit does not fit the task; nothing changed.
            StorageError: it could not be written; nothing changed.
        """
        with self._lock:
            self._settle()
            after = apply(self._history.task, edit)
            if after == self._history.task:
                return after
            self._append("edit", write_edit(edit, self._places))
            self._history.push(edit, after)
            self._maybe_snapshot()
            return self._history.task

    def undo(self) -> TeachTask:
        """Take the last edit back; the task as it is where there is none."""
        with self._lock:
            self._settle()
            if self._history.done:
                self._append("undo", b"")
                self._history.undo()
                self._maybe_snapshot()
            return self._history.task

    def redo(self) -> TeachTask:
        """Do again what was taken back last; the task as it is where there is nothing."""
        with self._lock:
            self._settle()
            if self._history.undone:
                self._append("redo", b"")
                self._history.redo()
                self._maybe_snapshot()
            return self._history.task

    def copy_to(self, target: Path) -> None:
        """Write a compact copy of the database to a file that does not exist yet.

        Raises:
            StorageError: it could not be written.
        """
        with self._lock, _refusing(target):
            if self._db is None:
                return
            try:
                self._db.execute("VACUUM INTO ?", (str(target),))
            except UnicodeEncodeError:  # a folder's name that is not text
                with contextlib.closing(sqlite3.connect(target)) as copy:
                    self._db.backup(copy)

    def close(self) -> None:
        """Fold the write-ahead log in and close; safe to call twice."""
        with self._lock:
            if self._db is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                self._db = None
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    # ---- inside ----------------------------------------------------------------------------------
    def _append(self, kind: str, body: bytes) -> None:
        if self._read_only or self._db is None:
            raise WorkbenchError(
                "The change was not saved", "the project is open for reading only", "Save a copy of it"
            )
        seq, at = self._seq + 1, datetime.now(UTC).isoformat(timespec="seconds")
        seal = _link(self._seal, seq, kind, at, body)
        try:
            with _refusing(self._file), _transaction(self._db):
                self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", (seq, kind, at, body, seal))
                self._db.execute("REPLACE INTO head VALUES (1, ?, ?)", (seq, seal))
        except StorageError:
            self._in_doubt = True
            raise
        self._seq, self._seal = seq, seal

    def _settle(self) -> None:
        """After a failed write, learn from the file whether it got there after all."""
        if self._in_doubt and self._db is not None:
            with _refusing(self._file):
                self._load(self._db)
            self._in_doubt = False

    def _maybe_snapshot(self) -> None:
        if self._seq - self._snapshot_seq < SNAPSHOT_EVERY or self._db is None:
            return
        self._history.fold()
        body = msgspec.json.encode(
            {
                "base": write_task(self._history.base, self._places),
                "done": [write_edit(s.edit, self._places) for s in self._history.done],
                "undone": [write_edit(s.edit, self._places) for s in self._history.undone],
            }
        )
        seal = _link(self._seal, self._seq, "snapshot", "", body)
        # the edit itself is safe already: a snapshot that does not fit on the disk is made up for later
        with contextlib.suppress(sqlite3.Error), _transaction(self._db):
            self._db.execute("REPLACE INTO snapshot VALUES (1, ?, ?, ?)", (self._seq, body, seal))
            self._snapshot_seq = self._seq

    def _load(self, db: sqlite3.Connection) -> None:
        self._history = History(TeachTask())
        rows = db.execute("SELECT seq, kind, body, at, seal FROM events ORDER BY seq").fetchall()
        seals = [_GENESIS]
        for number, (seq, kind, body, at, seal) in enumerate(rows, 1):
            if seq != number or not isinstance(body, bytes) or seal != _link(seals[-1], seq, kind, at, body):
                raise damaged(self._file, f"event {number} is not what was saved")
            seals.append(seal)
        heads = db.execute("SELECT seq, seal FROM head").fetchall()
        if heads != ([(len(rows), seals[-1])] if rows else []):
            raise damaged(self._file, "its last events are missing")
        start = 0
        for seq, body, seal in db.execute("SELECT seq, body, seal FROM snapshot").fetchall():
            if (
                seq not in range(1, len(seals))
                or not isinstance(body, bytes)
                or seal != _link(seals[seq], seq, "snapshot", "", body)
            ):
                raise damaged(self._file, "its snapshot is not what was saved")
            start = seq
            self._restore(body)
        try:
            for _, kind, body, _, _ in rows[start:]:
                self._replay(kind, body)
        except (IndexError, WorkbenchError) as error:
            raise damaged(self._file, f"its events do not follow from one another ({error})") from error
        self._seq, self._seal, self._snapshot_seq = len(rows), seals[-1], start

    def _restore(self, body: bytes) -> None:
        snapshot = msgspec.json.decode(body, type=_Snapshot)
        self._history = History(read_task(snapshot.base, self._places))
        self._history.restore(
            [read_edit(e, self._places) for e in snapshot.done], [read_edit(e, self._places) for e in snapshot.undone]
        )

    def _replay(self, kind: str, body: bytes) -> None:
        match kind:
            case "undo":
                self._history.undo()
            case "redo":
                self._history.redo()
            case "edit":
                edit = read_edit(body, self._places)
                self._history.push(edit, apply(self._history.task, edit))
            case _:
                raise damaged(self._file, f"it holds an event of the unknown kind {kind}")

    def _open_read_only(self) -> sqlite3.Connection:
        """Open beside a writer; in a folder that cannot be written, a copy, since even reading needs a side file."""
        with contextlib.suppress(sqlite3.Error):
            db = sqlite3.connect(
                f"{self._file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except (sqlite3.Error, ValueError):
                db.close()
                raise
            return db
        self._copy = tempfile.TemporaryDirectory(prefix="workbench-")
        copied = Path(self._copy.name) / self._file.name
        for ending in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{self._file}{ending}", f"{copied}{ending}")
        return sqlite3.connect(copied, isolation_level=None, check_same_thread=False)


def damaged(file: Path, why: str) -> StorageError:
    """What is said of a damaged journal."""
    return StorageError(f"{file} is damaged", why, "Restore the newest backup of the labels")


def _link(before: bytes, seq: int, kind: str, at: str, body: bytes) -> bytes:
    h = hashlib.blake2b(before, digest_size=8)
    for part in (str(seq).encode(), str(kind).encode(), str(at).encode(), body):
        h.update(len(part).to_bytes(8, "little") + part)
    return h.digest()


def _connect(file: Path) -> sqlite3.Connection:
    """Open for writing; make the tables of a new file."""
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            with _transaction(db):
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, *, thorough: bool) -> None:
    """Refuse another application's file, a newer version, another schema, and a structure that does not hold."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application == _APPLICATION and version > VERSION:
        why = f"the labels were written by a newer version ({version}; this one knows {VERSION})"
        raise StorageError("The project was not opened", why, "Update the workbench; the file is untouched")
    schema = {row[0] for row in db.execute("SELECT sql FROM sqlite_master")}
    if application != _APPLICATION or version != VERSION or schema != set(_SCHEMA):
        raise sqlite3.DatabaseError("its tables are not those of the labels")
    found = db.execute("PRAGMA integrity_check" if thorough else "PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(str(found))


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _refusing(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        free = ""
        with contextlib.suppress(OSError):
            free = f" ({storage.len_text(shutil.disk_usage(file.parent).free)} free)"
        raise StorageError(
            "The change was not saved", f"{file}: {error}{free}", "Free some space or save a copy elsewhere"
        ) from error
