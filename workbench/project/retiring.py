"""Putting knowledge away: a retired entry is in no list and is not chosen, but it is not deleted and can come back.

An entry never changes, so the mark is a file of its own: ``.retired/<id>.json`` beside the entry's folder, or in the
user's library for an entry whose folder is shipped and not ours to write in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from workbench.core import storage
from workbench.core.errors import StorageError
from workbench.core.values import EntryId
from workbench.project import sealed
from workbench.project.records import raw, text

KIND = "retired knowledge"
VERSION = 1
MARKS = ".retired"


class _Mark(msgspec.Struct, forbid_unknown_fields=True):
    entry: str
    when: str
    why: str


def retired(folders: Sequence[Path]) -> frozenset[EntryId]:
    """Ids of what was put away in folders of entries; the marks' names say it, whatever is in them."""
    found: set[EntryId] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found |= {EntryId(p.stem) for p in (folder / MARKS).iterdir() if _is_mark(p)}
    return frozenset(found)


def retire(folder: Path, entry: EntryId, when: str, why: str = "") -> None:
    """Put an entry away; a second time changes nothing.

    Args:
        folder: of entries, where the mark is kept.
        entry: its id.
        when: ISO 8601, UTC.
        why: in the person's words.

    Raises:
        StorageError: the mark could not be written; the entry stays in use.
    """
    mark = folder / MARKS / f"{entry}.json"
    if not mark.exists():
        sealed.save(mark, KIND, VERSION, _Mark(entry, when, text(why)), keep_previous=False)


def reason(folders: Sequence[Path], entry: EntryId) -> tuple[str, str] | None:
    """When and why an entry was put away, empty where the mark is damaged; ``None`` where it was not."""
    for folder in folders:
        mark = folder / MARKS / f"{entry}.json"
        if mark.exists():
            try:
                found = sealed.load(mark, KIND, VERSION, _Mark)
                return found.when, raw(found.why)
            except StorageError:
                return "", ""
    return None


def restore(folders: Sequence[Path], entry: EntryId) -> bool:
    """Take an entry into use again.

    Returns:
        Whether it was put away.

    Raises:
        StorageError: a mark could not be removed.
    """
    there = False
    for folder in folders:
        mark = folder / MARKS / f"{entry}.json"
        try:
            storage.ops.unlink(mark)
            there = True
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            continue
        except OSError as error:
            why = error.strerror or str(error)
            raise StorageError(
                "The knowledge was not restored", f"{mark}: {why}", "Make its folder writable"
            ) from error
    return there


def _is_mark(path: Path) -> bool:
    return path.suffix == ".json" and not path.name.startswith(".")
