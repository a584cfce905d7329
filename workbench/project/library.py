"""The knowledge base: entries in the project, in the user's library and among the starter knowledge.

An entry is a folder ``<id>/`` with ``weights.safetensors`` (written first) and ``entry.json`` (written last): it
exists only when its ``entry.json`` does, and is never changed afterwards. Every id is new, so that several processes
may save at the same time without a lock. What was retired (:mod:`workbench.project.retiring`) is in no list and is not
chosen, but is still found by its id.
"""

from __future__ import annotations

import contextlib
import difflib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.core import paths, storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.values import EntryId, KnowledgeEntry, Preprocess, Problem, SourceInfo, Validation
from workbench.project import provenance, retiring, sealed
from workbench.project.provenance import SourceRow
from workbench.project.records import raw, text

if TYPE_CHECKING:
    import numpy as np

KIND = "knowledge entry"
VERSION = 2
"""Since 2 a source names its classes; where it does not (version 1) they are not known."""
CARD = "entry.json"
WEIGHTS = "weights.safetensors"

LARGEST_HEADER = 1 << 20
"""Bytes of a safetensors header; a header of 300,000 entries takes nine seconds to parse."""
MOST_TENSORS = 4096


class _PreprocessRow(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    channels: str
    fit: str
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _ValidationRow(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    accuracy: float
    ci95: float
    episodes: int


class _EntryRow(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    name: str
    algorithm: str
    params: dict[str, Any]
    backbone: str
    preprocess: _PreprocessRow
    ways: tuple[int, int]
    shots: tuple[int, int]
    sources: tuple[SourceRow, ...]
    validation: _ValidationRow | None
    weights_sha256: str
    created: str
    calibration: dict[str, float]
    provenance: dict[str, Any]


_MOST_CARDS = 4096
_SETTLED = 2_000_000_000
"""Nanoseconds after which another change of a card shows in its stamp, on any file system."""
_cards: dict[Path, tuple[tuple[int, int, int], KnowledgeEntry]] = {}
"""Cards that were read, with the stamp of the file: an edit in Teach asks for all of them several times."""


def new_id() -> EntryId:
    """A fresh id of eight hex digits."""
    return EntryId(secrets.token_hex(4))


def write_card(entry: KnowledgeEntry) -> bytes:
    """``entry.json`` of an entry."""
    built = msgspec.to_builtins(
        replace(
            entry,
            name=text(entry.name),
            sources=tuple(_each_name(s, text) for s in entry.sources),
            provenance=_each_text(entry.provenance, text),
        )
    )
    return sealed.seal(KIND, VERSION, msgspec.convert(built, _EntryRow))


def read_card(data: bytes, where: str) -> KnowledgeEntry:
    """The entry that ``write_card`` wrote; unknown fields are refused, and a provenance that cannot be what it tells.

    Raises:
        StorageError: damaged, of a newer version, or not an entry.
    """
    row = sealed.unseal(data, KIND, VERSION, _EntryRow, where)
    try:
        provenance.check(row.provenance)
        entry = KnowledgeEntry(
            id=EntryId(row.id),
            name=raw(row.name),
            algorithm=row.algorithm,
            params=row.params,
            backbone=row.backbone,
            preprocess=msgspec.convert(row.preprocess, Preprocess, from_attributes=True),
            ways=row.ways,
            shots=row.shots,
            sources=tuple(
                _each_name(SourceInfo(s.name, s.path, s.classes, s.images, s.fingerprint, s.class_names), raw)
                for s in row.sources
            ),
            validation=msgspec.convert(row.validation, Validation | None, from_attributes=True),
            weights_sha256=row.weights_sha256,
            created=row.created,
            calibration=row.calibration,
            provenance=_each_text(row.provenance, raw),
        )
    except msgspec.ValidationError as error:
        raise StorageError(f"{where} was not opened", str(error), "Import the entry again") from error
    if not entry.id or not entry.id.replace("-", "").isalnum():
        raise StorageError(f"{where} was not opened", f"{entry.id!r} is not an id", "Import the entry again")
    return entry


def _each_name(source: SourceInfo, turn: Callable[[str], str]) -> SourceInfo:
    names = tuple(turn(n) for n in source.class_names)
    return replace(source, name=turn(source.name), path=turn(source.path), class_names=names)


def _each_text(value: Any, turn: Any) -> Any:
    match value:
        case str():
            return turn(value)
        case dict():
            return {turn(k): _each_text(v, turn) for k, v in value.items()}
        case list() | tuple():
            return [_each_text(v, turn) for v in value]
        case _:
            return value


def starter_knowledge() -> Path:
    """The folder of the entries that are shipped, so that a first prediction needs no training."""
    return paths.resources() / "knowledge"


class Library:
    """Entries of several folders, nearest first.

    Attributes:
        folders: the project's ``knowledge``, the user's library, the starter knowledge.
        problems: entries that could not be read at the last look, and why.
    """

    def __init__(self, project: Path | None = None) -> None:
        own = (Path(project) / "knowledge",) if project is not None else ()
        self.folders: tuple[Path, ...] = (*own, paths.data_home() / "library", starter_knowledge())
        self.problems: tuple[Problem, ...] = ()

    def entries(self) -> tuple[KnowledgeEntry, ...]:
        """All that are in use: the project's, the library's, the starter knowledge; newest first within each."""
        gone = retiring.retired(self.folders)
        return tuple(entry for entry, _ in self._look() if entry.id not in gone)

    def placed(self) -> tuple[tuple[KnowledgeEntry, Path], ...]:
        """As ``entries``, each with its folder, in one look."""
        gone = retiring.retired(self.folders)
        return tuple((entry, path) for entry, path in self._look() if entry.id not in gone)

    def retired(self) -> tuple[KnowledgeEntry, ...]:
        """Those that were put away."""
        gone = retiring.retired(self.folders)
        return tuple(entry for entry, _ in self._look() if entry.id in gone)

    def path_of(self, id_: EntryId) -> Path:
        """The folder of an entry.

        Raises:
            WorkbenchError: there is none with this id.
        """
        for entry, path in self._look():
            if entry.id == id_:
                return path
        raise _not_found(f"there is no entry {id_}", "Choose one of the list")

    def find(self, wanted: str) -> tuple[KnowledgeEntry, Path]:
        """An entry by its id, its name (if only one has it; case does not matter), or the path of its folder.

        A name means a retired entry only where no other has it.

        Returns:
            The entry and its folder.

        Raises:
            WorkbenchError: none or several; names the near ones.
        """
        known = self._look()
        for entry, path in known:
            if entry.id == wanted:
                return entry, path
        named = [(e, p) for e, p in known if e.name.casefold() == wanted.casefold()]
        gone = retiring.retired(self.folders) if len(named) > 1 else frozenset()
        named = [(e, p) for e, p in named if e.id not in gone] or named
        if len(named) == 1:
            return named[0]
        if named:
            ids = ", ".join(e.id for e, _ in named)
            raise _not_found(f"{len(named)} entries are called {wanted}", f"Give one of the ids {ids}")
        path = Path(wanted)
        if path.name == CARD:
            path = path.parent
        with contextlib.suppress(OSError, ValueError):  # the text may not be a path at all, e.g. too long
            if (path / CARD).is_file():
                return self.read(path), path
        raise _not_found(f"there is no entry called {wanted}", _hint(wanted, [entry for entry, _ in known]))

    def read(self, path: Path) -> KnowledgeEntry:
        """The entry in a folder.

        Raises:
            StorageError: it has none, or it is damaged.
        """
        card = Path(path) / CARD
        return read_card(storage.load(card), str(card))

    def save(self, entry: KnowledgeEntry, tensors: Mapping[str, np.ndarray], folder: Path | None = None) -> Path:
        """Save a new entry: its weights first, its description last.

        Args:
            entry: its ``weights_sha256`` is set here.
            tensors: by name; every float finite.
            folder: a folder of entries; the first of ``folders`` if not given.

        Returns:
            The entry's folder.

        Raises:
            WorkbenchError: the id is taken, or a tensor holds a number that is not finite.
            StorageError: it could not be written; no entry is left.
        """
        import numpy as np
        from safetensors.numpy import save as to_bytes

        for name, array in tensors.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _not_saved(
                    f"{name} holds a number that is not finite", "Train again with a smaller learning rate"
                )
        return self.add(
            entry, to_bytes({n: np.require(array, requirements="C") for n, array in tensors.items()}), folder
        )

    def add(self, entry: KnowledgeEntry, weights: bytes, folder: Path | None = None) -> Path:
        """Save a new entry whose tensors are safetensors bytes already; see ``save``."""
        target = (self.folders[0] if folder is None else Path(folder)) / entry.id
        if (target / CARD).exists():
            raise _not_saved(f"there is already an entry {entry.id}", "Save it under a new id")
        digest = storage.save(target / WEIGHTS, weights, keep_previous=False)
        storage.save(target / CARD, write_card(replace(entry, weights_sha256=digest)), keep_previous=False)
        return target

    def load_tensors(self, of: KnowledgeEntry | Path) -> dict[str, np.ndarray]:
        """The tensors of an entry (or of the entry in a folder), checked against the hash on its card.

        Raises:
            WorkbenchError: there is no such entry.
            StorageError: the file is damaged or not what a knowledge entry holds.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load as from_bytes

        folder, entry = (self.path_of(of.id), of) if isinstance(of, KnowledgeEntry) else (Path(of), self.read(Path(of)))
        file = folder / WEIGHTS
        check_header(file)
        try:
            return from_bytes(storage.load(file, entry.weights_sha256))
        except SafetensorError as error:
            why = f"it is not a safetensors file ({error})"
            raise StorageError(f"{file} was not opened", why, "Import the entry again") from error

    def retire(self, entry: KnowledgeEntry, path: Path, why: str = "") -> None:
        """Put an entry away; a second time changes nothing.

        Args:
            entry: as ``find`` gave it.
            path: likewise. What is shipped may lie where nobody may write, so its mark lies in the person's library.
            why: in the person's words.

        Raises:
            WorkbenchError: it lies in no folder of the library, or the mark could not be written.
        """
        *_, own, shipped = self.folders
        if path.parent not in self.folders:
            raise WorkbenchError(
                "The knowledge was not retired", f"{paths.display(str(path))} lies in no library", "Import it first"
            )
        when = datetime.now(UTC).isoformat(timespec="seconds")
        retiring.retire(own if path.parent == shipped else path.parent, entry.id, when, why)

    def _look(self) -> list[tuple[KnowledgeEntry, Path]]:
        found: list[tuple[KnowledgeEntry, Path]] = []
        problems: list[Problem] = []
        seen: set[EntryId] = set()
        for folder in self.folders:
            here: list[tuple[KnowledgeEntry, Path]] = []
            for path in sorted(_subfolders(folder)):
                try:
                    entry = self._cached(path)
                except FileNotFoundError:
                    problems.append(Problem(str(path), "saving it was interrupted: it has no description", "ignored"))
                except StorageError as error:
                    problems.append(Problem(str(path), error.why, "error"))
                else:
                    here.append((entry, path))
            here.sort(key=lambda pair: pair[0].created, reverse=True)
            for entry, path in here:
                if entry.id in seen:
                    continue
                seen.add(entry.id)
                found.append((entry, path))
        self.problems = tuple(problems)
        return found

    def _cached(self, path: Path) -> KnowledgeEntry:
        status = (path / CARD).stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        had = _cards.get(path)
        if had is not None and had[0] == stamp:
            return had[1]
        entry = self.read(path)
        if time.time_ns() - status.st_mtime_ns > _SETTLED:
            if len(_cards) >= _MOST_CARDS:
                _cards.clear()
            _cards[path] = stamp, entry
        return entry


def check_header(file: Path) -> None:
    """Refuse a safetensors file whose header is too long to parse, before it is parsed.

    Raises:
        StorageError: unreadable, header over ``LARGEST_HEADER`` bytes, or over ``MOST_TENSORS`` tensors.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(length) if length <= LARGEST_HEADER else b""
        if length > LARGEST_HEADER:
            raise ValueError(f"its header claims {storage.len_text(length)}")
        names = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        if len(names) > MOST_TENSORS:
            raise ValueError(f"it lists {len(names)} tensors")
    except OSError as error:
        raise StorageError(f"{file} cannot be read", error.strerror or str(error), "Import the entry again") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise StorageError(f"{file} was not opened", str(error), "Import the entry again") from error


def _subfolders(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return []


def _not_found(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The knowledge was not found", why, what_to_do)


def _not_saved(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The knowledge was not saved", why, what_to_do)


def _hint(wanted: str, entries: list[KnowledgeEntry]) -> str:
    if not entries:
        return "Train first, or import an entry"
    names: dict[str, KnowledgeEntry] = {}
    for entry in entries:
        names.setdefault(entry.name.casefold(), entry)
        names[entry.id] = entry
    near = {names[n].id: names[n] for n in difflib.get_close_matches(wanted.casefold(), names, 3, 0.5)}
    if near:
        return "Did you mean " + " or ".join(f"{e.name} ({e.id})" for e in near.values())
    shown = ", ".join(e.name for e in entries[:4])
    return f"There are {shown}" + (f" and {len(entries) - 4} more" if len(entries) > 4 else "")
