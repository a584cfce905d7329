"""A project copied as a whole: into a hidden folder first, which becomes the target in one rename."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.project.journal import Journal

_NOT_COPIED = frozenset({"lock", ".lock-guard", "labels.db", "labels.db-wal", "labels.db-shm"})


def copy_project(source: Path, target: Path, journal: Journal) -> Path:
    """Copy a project's folder; the labels are copied as the journal has them.

    Returns:
        The target.

    Raises:
        WorkbenchError: the target is there already, or lies inside the source.
        StorageError: it could not be written; nothing is left.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise WorkbenchError("The project was not copied", f"{target} already exists", "Choose a new folder")
    if target == source or source in target.parents:
        raise WorkbenchError(
            "The project was not copied", "the new folder lies inside the project", "Choose another folder"
        )
    hidden = target.with_name(f".{target.name[:60]}.{os.getpid()}.copy")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        for folder, names, files in os.walk(source):
            inside = hidden / Path(folder).relative_to(source)
            for name in names:
                (inside / name).mkdir()
            for name in files:
                if name not in _NOT_COPIED and not name.endswith(".tmp"):
                    _copy(Path(folder) / name, inside / name)
        journal.copy_to(hidden / "labels.db")
        hidden.rename(target)
        storage.ops.fsync_dir(target.parent)
    except OSError as error:
        raise StorageError(
            "The project was not copied", f"{error.strerror or error}", "Choose a folder with more space"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return target


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())
    if source.name != "metrics.jsonl" and source.stat().st_size != target.stat().st_size:
        raise OSError(f"{source} changed while it was copied")
