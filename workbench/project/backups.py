"""Dated copies of the labels: made when a project opens, seven kept, put back on request."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.project.journal import Journal

KEPT = 7
_EVERY = timedelta(days=1)


def now() -> datetime:
    """The time, UTC; a function so that clocks that jump can be tried."""
    return datetime.now(UTC)


def backups(project: Path) -> tuple[Path, ...]:
    """The copies of a project's labels, newest first; their order comes from a number, not from the clock."""
    folder = project / "backups"
    found = [p for p in folder.glob("labels-*.db") if _number(p)] if folder.is_dir() else []
    return tuple(sorted(found, key=_number, reverse=True))


def back_up(journal: Journal, project: Path, *, force: bool = False) -> Path | None:
    """Copy the labels if the newest copy is not of the last day (nor empty labels), and drop all but seven copies.

    A newest copy from the future means that the clock was set back: that is no reason to wait.

    Returns:
        The copy, or ``None`` if none was due.

    Raises:
        StorageError: it could not be written.
    """
    there = backups(project)
    today = now()
    if not force and (journal.seq == 0 or (there and abs(today - _date(there[0], today)) < _EVERY)):
        return None
    number = _number(there[0]) + 1 if there else 1
    target = project / "backups" / f"labels-{number:04d}-{today:%Y%m%d-%H%M%S}.db"
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(exist_ok=True)
        temporary.unlink(missing_ok=True)
        journal.copy_to(temporary)
        storage.save(target, temporary.read_bytes(), keep_previous=False)
    except OSError as error:
        raise StorageError("The labels were not backed up", error.strerror or str(error), "Free some space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    for old in there[KEPT - 1 :]:
        with contextlib.suppress(OSError):
            old.unlink()
    return target


def restore_backup(project: Path, backup: Path | None = None) -> Path:
    """Put a copy of the labels back; the labels that were there stay beside it as ``labels-damaged-<n>.db``.

    Args:
        project: the project's folder; it must not be open.
        backup: which copy; the newest that opens if not given.

    Returns:
        The copy that was put back.

    Raises:
        WorkbenchError: there is no copy that opens.
    """
    for candidate in (backup,) if backup is not None else backups(project):
        try:
            Journal(candidate, str(project), read_only=True, thorough=True).close()
            data = storage.load(candidate)
        except StorageError:
            continue
        file = project / "labels.db"
        n = 1
        while (aside := project / f"labels-damaged-{n}.db").exists():
            n += 1
        try:
            for ending in ("-wal", "-shm"):
                if (part := Path(f"{file}{ending}")).exists():
                    part.replace(f"{aside}{ending}")
            if file.exists():
                storage.ops.link(file, aside)
        except OSError as error:
            raise StorageError("The labels were not restored", error.strerror or str(error), "Try again") from error
        storage.save(file, data, keep_previous=False)
        return candidate
    raise WorkbenchError("The labels were not restored", "there is no backup that opens", "Teach the classes again")


def _number(path: Path) -> int:
    parts = path.stem.split("-")
    return int(parts[1]) if len(parts) == 4 and parts[1].isdecimal() else 0


def _date(path: Path, default: datetime) -> datetime:
    with contextlib.suppress(ValueError):
        return datetime.strptime("".join(path.stem.split("-")[2:]), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return default - 2 * _EVERY
