"""What the Knowledge room shows, as values, and the jobs that gather it; importable without torch.

``shelf``      the entries, in use and put away, and where each lies
``names``      titles of algorithms and backbones
``atlas``      every source of every entry and how much they resemble one another (the work is in ``atlas.py``)
``verify``     whether an entry's weights are those of its card
``retire``, ``restore``, ``take``, ``give``, ``align``, ``train_towards``    what can be done with an entry
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import display
from workbench.core.training import Align, TrainRequest, TrainResult
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Problem, Role, Task, TaskClass
from workbench.project import retiring
from workbench.project.labels import safe_cell
from workbench.project.library import WEIGHTS, Library
from workbench.services import jobs


@dataclass(frozen=True, slots=True)
class Shelf:
    """All entries.

    Attributes:
        entries: in use.
        retired: put away.
        folders: of each.
        shipped: those that came with the workbench.
        problems: folders that could not be read.
    """

    entries: tuple[KnowledgeEntry, ...] = ()
    retired: tuple[KnowledgeEntry, ...] = ()
    folders: Mapping[EntryId, Path] = field(default_factory=dict)
    shipped: frozenset[EntryId] = frozenset()
    problems: tuple[Problem, ...] = ()

    def find(self, id_: EntryId) -> KnowledgeEntry | None:
        """The entry with this id, in use or put away."""
        return next((e for e in (*self.entries, *self.retired) if e.id == id_), None)


@dataclass(frozen=True, slots=True)
class Names:
    """Titles by key; a key that this version does not know is missing."""

    algorithms: Mapping[str, str] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KnownTask:
    """A source that something was learnt from.

    Attributes:
        key: the fingerprint of its pictures.
        name: for people.
        classes: their number.
        images: their number.
        picture: one of them, where the pictures are here.
        entries: that learnt from it.
        x: place on the map, 0..1.
        y: likewise.
    """

    key: str
    name: str
    classes: int
    images: int
    picture: ImageRef | None
    entries: tuple[EntryId, ...]
    x: float = 0.5
    y: float = 0.5


@dataclass(frozen=True, slots=True)
class TaughtTask:
    """The task of the Teach room among them: class names, its place, its similarity to each, 0..1."""

    classes: tuple[str, ...]
    x: float
    y: float
    similar: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Atlas:
    """How much the tasks that are known resemble one another.

    Attributes:
        under: name of the network that looked at them.
        common: whether that is the shipped probe, under which everything can be compared.
        tasks: those that could be compared, near ones beside each other.
        similar: ``similar[i][j]`` of tasks ``i`` and ``j``, 0..1, symmetric, 1 on the diagonal.
        elsewhere: tasks that could not: the network has not seen them, and their pictures are not here.
        taught: the task of the Teach room, ``None`` while it has no examples.
    """

    under: str = ""
    common: bool = False
    tasks: tuple[KnownTask, ...] = ()
    similar: tuple[tuple[float, ...], ...] = ()
    elsewhere: tuple[KnownTask, ...] = ()
    taught: TaughtTask | None = None

    def nearest(self, at: int, most: int = 3) -> list[tuple[int, float]]:
        """The tasks that one resembles most, with the similarity."""
        others = [(j, s) for j, s in enumerate(self.similar[at]) if j != at]
        return sorted(others, key=lambda pair: -pair[1])[:most]


@dataclass(frozen=True, slots=True)
class AtlasRequest:
    """What is to be compared.

    Attributes:
        entry: whose network looks where there is no probe, or ``own``; "" for the newest.
        tasks: the project's sources, whose pictures are here.
        taught: the classes of the Teach room that have examples.
        own: the entry's network looks, also where there is a probe.
    """

    entry: str
    tasks: tuple[Task, ...]
    taught: tuple[TaskClass, ...] = ()
    own: bool = False


# ---- looking ---------------------------------------------------------------------------------------------------------


def shelf(project: Path, _ctx: Context) -> Shelf:
    """Every entry that the project can use, and those that were put away."""
    library = Library(project)
    entries, retired = library.entries(), library.retired()
    folders = {e.id: library.path_of(e.id) for e in (*entries, *retired)}
    shipped = frozenset(i for i, folder in folders.items() if folder.parent == library.folders[-1])
    return Shelf(entries, retired, folders, shipped, library.problems)


def names(entries: Sequence[KnowledgeEntry], ctx: Context) -> Names:
    """Titles of what the entries are made of."""
    jobs.load_runtime(ctx)
    from workbench.learn.registry import algorithms, backbone

    known = algorithms()
    backbones = {}
    for key in {e.backbone for e in entries}:
        try:
            backbones[key] = backbone(key).title
        except WorkbenchError:
            continue
    return Names({e.algorithm: known[e.algorithm].info.title for e in entries if e.algorithm in known}, backbones)


def atlas(request: AtlasRequest, project: Path, ctx: Context) -> Atlas:
    """Compare all sources of all entries, and the task of the Teach room; see ``atlas.py``."""
    jobs.load_runtime(ctx)
    from workbench.services.atlas import atlas as run

    return run(request, project, ctx)


def verify(folder: Path, sha256: str, _ctx: Context) -> str:
    """Why an entry's weights are not those of its card, or "" where they are."""
    try:
        storage.load(folder / WEIGHTS, sha256)
    except StorageError as error:
        return error.why
    return ""


def similarity_csv(found: Atlas) -> bytes:
    """The matrix: a row and a column per task, and the task of the Teach room as the last row; UTF-8."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    cells = [safe_cell(display(t.name)) for t in found.tasks]
    writer.writerow(["task", *cells])
    for name, row in zip(cells, found.similar, strict=True):
        writer.writerow([name, *(f"{value:.4f}" for value in row)])
    if found.taught is not None:
        name = safe_cell(display("Teach: " + ", ".join(found.taught.classes)))
        writer.writerow([name, *(f"{value:.4f}" for value in found.taught.similar)])
    return buffer.getvalue().encode("utf-8", "replace")


def save_similarity(found: Atlas, path: Path, _ctx: Context) -> Path:
    """Write the matrix as CSV.

    Raises:
        StorageError: it could not be written.
    """
    storage.save(path, similarity_csv(found), keep_previous=False)
    return path


# ---- doing -----------------------------------------------------------------------------------------------------------


def retire(entry: EntryId, project: Path, _ctx: Context) -> EntryId:
    """Put an entry away; what is shipped is marked in the person's own library.

    Raises:
        WorkbenchError: there is no such entry, or the mark could not be written.
    """
    library = Library(project)
    library.retire(*library.find(entry))
    return entry


def restore(entry: EntryId, project: Path, _ctx: Context) -> EntryId:
    """Take an entry into use again.

    Raises:
        StorageError: its mark could not be removed.
    """
    retiring.restore(Library(project).folders, entry)
    return entry


def take(files: Sequence[Path], project: Path, ctx: Context) -> tuple[tuple[KnowledgeEntry, bool], ...]:
    """Import entries from files; the ones before a file that is refused stay.

    Returns:
        Each with whether it is new.

    Raises:
        WorkbenchError: a file is not an entry that can be used.
    """
    jobs.load_runtime(ctx)
    from workbench.services.exchanging import import_entry

    found = []
    for file in files:
        ctx.check()
        entry, _, new = import_entry(file, project, ctx)
        found.append((entry, new))
    return tuple(found)


def give(entry: EntryId, out: Path, project: Path, ctx: Context) -> Path:
    """Write an entry as one file.

    Raises:
        WorkbenchError: it is damaged, or the file could not be written.
    """
    jobs.load_runtime(ctx)
    from workbench.services.exchanging import export_entry

    return export_entry(entry, out, project, ctx)[1]


def learnt_from(entry: KnowledgeEntry, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The project's sources that an entry was trained on, in the role of training."""
    wanted = {s.fingerprint for s in entry.sources}
    return tuple(t.with_role(Role.TRAIN) for t in tasks if t.classes and t.fingerprint in wanted)


def align(
    entry: KnowledgeEntry, folder: str, how: Align, tasks: Sequence[Task], command: str, project: Path, ctx: Context
) -> TrainResult:
    """Adapt an entry to the pictures of another domain, in closed form; the labels there are for the report alone.

    Args:
        entry: to be adapted; it stays as it is, the result is an entry of its own.
        folder: with pictures of the other domain, with or without class folders.
        how: ``adabn`` or ``coral``.
        tasks: the project's sources; CORAL compares with those that the entry was trained on.
        command: that does the same, for the card.
        project: that gets the new entry.
        ctx: of the job.

    Raises:
        WorkbenchError: too few pictures, or an entry that cannot be adapted in this way.
    """
    target = _domain(folder, ctx)
    request = TrainRequest(
        sources=learnt_from(entry, tasks),
        algorithm=entry.algorithm,
        params=dict(entry.params),
        backbone=entry.backbone,
        ways=entry.ways,
        shots=entry.shots,
        size=entry.preprocess.size,
        channels=entry.preprocess.channels,
        start=entry.id,
        target=target,
        align=how,
        command=command,
    )
    return jobs.train(request, project, ctx)


def train_towards(request: TrainRequest, folder: str, project: Path, ctx: Context) -> TrainResult:
    """A run that goes on from an entry and is drawn towards the pictures of another domain by MMD or DANN.

    Args:
        request: says how; its target is ``folder``.
        folder: with pictures of the other domain, with or without class folders.
        project: that gets the run and the entry.
        ctx: of the job.

    Raises:
        WorkbenchError: too few pictures, or a method that cannot be drawn so.
    """
    return jobs.train(replace(request, target=_domain(folder, ctx)), project, ctx)


def _domain(folder: str, ctx: Context) -> tuple[Task, ...]:
    ctx.status("Reading the pictures of the domain")
    return tuple(t.with_role(Role.VALIDATION) for t in jobs.scan((folder,), ctx).tasks)
