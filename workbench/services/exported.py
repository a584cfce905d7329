"""What was exported and verified, remembered in the project; forgotten as soon as a file is no longer the same.

Free of torch: the window reads it at its start.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from workbench.core import paths, storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.services.requests import Exported, NearTie

_log = logging.getLogger(__name__)

_KIND, _VERSION = "verified exports", 1
_FILE = "exports.json"


@dataclass(frozen=True, slots=True)
class Written:
    """What an export left.

    Attributes:
        result: of the export.
        at: when, ISO 8601.
        task: digest of the classes, examples and choice it was taught with.
        indices: place of each class, for its colour.
        sha256: of each file.
    """

    result: Exported
    at: str
    task: str
    indices: dict[str, int]
    sha256: tuple[str, ...] = ()


def remember(project: Path, key: str, result: Exported, task: str, indices: dict[str, int], ctx: Context) -> Written:
    """Keep what an export left beside what is kept of other formats.

    Raises:
        WorkbenchError: a file cannot be read, or the note cannot be written.
    """
    digests = tuple(_digest(Path(file), ctx) for file in result.files)
    made = Written(result, datetime.now(UTC).isoformat(timespec="seconds"), task, indices, digests)
    rows = {**_read(project), key: _escaped(made)}
    storage.save(project / _FILE, storage.encode_json(_KIND, _VERSION, rows), keep_previous=False)
    return made


def remembered(project: Path, ctx: Context) -> dict[str, Written]:
    """What was exported in each format and still lies there as it was verified."""
    found = {}
    for key, row in _read(project).items():
        try:
            written = _unescaped(row)
            same = [_digest(Path(file), ctx) for file in written.result.files] == list(written.sha256)
        except (WorkbenchError, ValueError):
            same = False
        if same and written.result.files:
            found[key] = written
    return found


def _read(project: Path) -> dict[str, Written]:
    path = project / _FILE
    if not path.exists():
        return {}
    try:
        return storage.decode_json(storage.load(path), _KIND, _VERSION, dict[str, Written], path.name)
    except StorageError as error:
        _log.warning("%s", error)
        return {}


def _digest(path: Path, ctx: Context) -> str:
    h = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                ctx.check()
                h.update(piece)
    except OSError as error:
        raise StorageError(f"{paths.display(path)} cannot be read", error.strerror or str(error), "Export again") from (
            error
        )
    return h.hexdigest()


def _escaped(w: Written) -> Written:
    """Paths as JSON can hold them, whatever bytes they are made of."""
    r = w.result
    ties = tuple(_tie(t, paths.escape(t.image.path)) for t in r.near_ties)
    files = tuple(paths.escape(f) for f in r.files)
    return replace(w, result=replace(r, near_ties=ties, files=files, folder=paths.escape(r.folder)))


def _unescaped(w: Written) -> Written:
    r = w.result
    ties = tuple(_tie(t, paths.unescape(t.image.path)) for t in r.near_ties)
    files = tuple(paths.unescape(f) for f in r.files)
    return replace(w, result=replace(r, near_ties=ties, files=files, folder=paths.unescape(r.folder)))


def _tie(tie: NearTie, path: str) -> NearTie:
    return replace(tie, image=replace(tie.image, path=path))
