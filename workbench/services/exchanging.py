"""Knowledge as one file: it goes out whole, without the paths of this machine, and comes in only if it can be used.

The file is a zip of ``entry.json`` and ``weights.safetensors``; the card holds the hash of the weights and a seal of
its own, the archive one of everything. What others made is read as what it is: the list of the archive, the card, the
header and the numbers are checked, and the network is built once, before anything is written.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import display
from workbench.core.values import KnowledgeEntry
from workbench.export.archive import pack, unpack
from workbench.export.weights import decode
from workbench.project import retiring
from workbench.project.library import CARD, WEIGHTS, Library, new_id, read_card, write_card
from workbench.services import knowledge as known

SUFFIX = ".knowledge"
LARGEST = 1_000_000_000
"""Bytes of a file that is read at all."""
_LARGEST_CARD = 4 << 20
_MOST = 10_000
"""Classes and shots of an episode, and sources; a head has a row for each class."""
_LONGEST_NAME = 200
_ABSOLUTE = re.compile(r"(?<![^\s=:,;'\"(<])(?!(?<=:)(?<!file:)//)(?:~|/|[A-Za-z]:[\\/]|\\\\)(?=\S)")
"""Where an absolute path begins in a text; a slash within a word or an address begins none."""
_HOMES = frozenset({"home", "users"})
_FORBIDDEN = frozenset(map(chr, (*range(0x20), 0x7F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def export_entry(wanted: str, out: Path, project: Path, ctx: Context) -> tuple[KnowledgeEntry, Path]:
    """Write an entry as one file.

    Args:
        wanted: id, name or path.
        out: the file, or a folder for ``<name>.knowledge``.
        project: whose knowledge is looked through first.
        ctx: of the job.

    Returns:
        The entry and the file.

    Raises:
        WorkbenchError: there is no such entry.
        StorageError: it is damaged, or the file could not be written.
    """
    library = Library(project)
    entry, folder = library.find(wanted)
    ctx.status(f"Exporting {entry.name}")
    library.load_tensors(folder)  # whole and undamaged
    weights = storage.load(folder / WEIGHTS, entry.weights_sha256)
    file = out / f"{_file_name(entry)}{SUFFIX}" if out.is_dir() else out
    ctx.check()
    storage.save(file, pack({CARD: write_card(without_places(entry)), WEIGHTS: weights}), keep_previous=False)
    return entry, file


def import_entry(file: Path, project: Path, ctx: Context) -> tuple[KnowledgeEntry, Path, bool]:
    """Take an entry out of a file into the project's knowledge.

    Args:
        file: that ``export_entry`` wrote, here or elsewhere.
        project: whose knowledge it joins.
        ctx: of the job.

    Returns:
        The entry, its folder, and whether it is new; one that is there already, with the same weights, is only taken
        into use again. An id that another entry has is replaced by a new one.

    Raises:
        WorkbenchError: this version lacks its algorithm or its backbone.
        StorageError: damaged, unsafe, not an entry, or it could not be written; nothing is left.
    """
    where = display(str(file))
    ctx.status(f"Reading {where}")
    entry, weights = read_bundle(_read(file, where), where)
    ctx.check()
    arrays = decode(weights, where)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _refused(where, f"{name} holds a number that is not finite")
    known.assembled(entry, arrays, file)
    ctx.check()
    library = Library(project)
    for there in (*library.entries(), *library.retired()):
        if there.id == entry.id and there.weights_sha256 == entry.weights_sha256:
            retiring.restore(library.folders, there.id)
            return there, library.path_of(there.id), False
        if there.id == entry.id:
            entry = replace(entry, id=new_id())
    path = library.add(entry, weights)
    return library.find(entry.id)[0], path, True


def read_bundle(data: bytes, where: str) -> tuple[KnowledgeEntry, bytes]:
    """The card and the weights' bytes of a bundle, each checked against its hash.

    Raises:
        StorageError: not such a bundle, damaged, or unsafe.
    """
    files = unpack(data, where)
    if set(files) != {CARD, WEIGHTS}:
        others = ", ".join(sorted(set(files) - {CARD, WEIGHTS})[:3])
        missing = ", ".join(sorted({CARD, WEIGHTS} - set(files)))
        raise _refused(where, f"{missing} is missing" if missing else f"it holds {others} too")
    if len(files[CARD]) > _LARGEST_CARD:
        raise _refused(where, f"its description has {storage.len_text(len(files[CARD]))}")
    entry = read_card(files[CARD], where)
    if hashlib.sha256(files[WEIGHTS]).hexdigest() != entry.weights_sha256:
        raise StorageError(f"{where} is damaged", "its weights are not those of its card", "Copy it again")
    largest = max(*entry.ways, *entry.shots, len(entry.sources))
    if largest > _MOST or min(*entry.ways, *entry.shots) < 1:
        raise _refused(where, f"it tells of {largest} classes, examples or sources")
    names = [entry.name, *(n for s in entry.sources for n in (s.name, *s.class_names))]
    wrong = next((n for n in names if len(n) > _LONGEST_NAME or _FORBIDDEN & set(n)), None)
    if wrong is not None:
        raise _refused(where, "a name in it is too long or holds invisible control characters")
    return entry, files[WEIGHTS]


def without_places(entry: KnowledgeEntry) -> KnowledgeEntry:
    """The entry without the folders of this machine: of every absolute path only the last part is left."""
    sources = tuple(replace(s, path=_last_part(s.path)) for s in entry.sources)
    return replace(entry, sources=sources, provenance=_each(entry.provenance))


def _each(value: Any, key: str = "") -> Any:
    match value:
        case str():
            return _command(value) if key == "command" else _text(value)
        case Mapping():
            return {k: _each(v, k) for k, v in value.items()}
        case list() | tuple():
            return [_each(v, key) for v in value]
        case _:
            return value


def _command(text: str) -> str:
    """A command line with every absolute path cut to its last part."""
    try:
        words = shlex.split(text)
    except ValueError:
        return _text(text)
    cut = [_last_part(w) for w in words]
    return text if cut == words else shlex.join(cut)


def _text(text: str) -> str:
    """A path, or a sentence, whose absolute path is cut to its last part.

    Folders may have blanks in their names, so a path in a sentence is taken to go on to the end.
    """
    found = _ABSOLUTE.search(text)
    return text if found is None else text[: found.start()] + _last_part(text[found.start() :])


def _last_part(path: str) -> str:
    """What an absolute path leads to; ``~`` for a person's own folder, whose name is the person's."""
    name, sign, value = path.partition("=")  # --out=/home/...
    if sign and not _is_absolute(name):
        return name + sign + _last_part(value)
    if not _is_absolute(path):
        return path
    flavour = PurePosixPath(path) if PurePosixPath(path).is_absolute() else PureWindowsPath(path)
    own = path.startswith("~") and len(flavour.parts) == 1
    return "~" if own or flavour.parent.name.casefold() in _HOMES else flavour.name


def _is_absolute(path: str) -> bool:
    return path.startswith("~") or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _read(file: Path, where: str) -> bytes:
    try:
        size = file.stat().st_size
        if file.is_dir():
            raise _refused(where, "it is a folder, not a file")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{where} cannot be read", why, "Choose another file") from error
    if size > LARGEST:
        raise _refused(where, f"it has {storage.len_text(size)}; at most {storage.len_text(LARGEST)} are read")
    return storage.load(file)


def _file_name(entry: KnowledgeEntry) -> str:
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in entry.name.encode("ascii", "ignore").decode())
    plain = "-".join(part for part in kept.split("-") if part)[:60]
    return f"{plain}-{entry.id}" if plain else str(entry.id)


def _refused(where: str, why: str) -> WorkbenchError:
    return StorageError(f"{where} was not imported", why, "Ask its author for a file exported by the workbench")
