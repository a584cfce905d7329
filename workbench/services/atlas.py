"""All sources of all entries in one space, so that it can be seen which resemble one another.

Entries look at pictures through networks of their own, which cannot be compared. So one network looks at everything:
the shipped probe, where it is installed, else that of the chosen entry. What that network has stored of a source is
used; what it has not is measured on some of the pictures, where they are among the project's sources; what is left has
no place, and is said to have none. A person can have the chosen entry's network look all the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import ImageRef, KnowledgeEntry, SourceInfo, Task, TaskClass
from workbench.data.scan import scan
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services import probe
from workbench.services.knowledge import Knowledge
from workbench.services.overview import Atlas, AtlasRequest, KnownTask, TaughtTask
from workbench.transfer.map import arrange, between
from workbench.transfer.represent import Representation, likeness, represent, similarity

_PICTURES = 60
"""Of a source that the network has not seen."""
_KEPT = 512
"""Sources that each thread keeps as they were measured; one takes 65 KB at most."""
_SAMPLES = "samples/"
_FAR = 4.0
"""Distance from which all are drawn alike."""


class _Measured(threading.local):
    def __init__(self) -> None:
        self.found: OrderedDict[tuple[str, str, str], Representation] = OrderedDict()


_measured = _Measured()


@at_thread_end
def _forget() -> None:
    _measured.found.clear()


@dataclass(frozen=True, slots=True)
class _Gathered:
    """A source, the entries that learnt from it, each with its number there, and its pictures where they are here."""

    info: SourceInfo
    learnt_by: tuple[tuple[KnowledgeEntry, int], ...]
    task: Task | None


def atlas(request: AtlasRequest, project: Path, ctx: Context) -> Atlas:
    """Every source of every entry, how much they resemble one another, and the taught task among them.

    Raises:
        JobCancelledError: asked to stop.
    """
    library = Library(project)
    entries = library.entries()
    if not entries:
        return Atlas()
    gathered = _gather(entries, request.tasks)
    network = None if request.own else probe.probe()
    common = network is not None
    if network is None:
        network = _own(entries, request.entry, library)
    if network is None:
        return Atlas(elsewhere=tuple(_known(g) for g in gathered.values()))
    stored = _stored(network, common, entries, library)
    placed: list[tuple[_Gathered, Representation]] = []
    elsewhere: list[_Gathered] = []
    for done, (key, g) in enumerate(gathered.items()):
        ctx.check()
        seen = stored.get(key) or _measure(network, g.task, ctx)
        if seen is None:
            elsewhere.append(g)
        else:
            placed.append((g, seen))
        ctx.progress(done + 1, len(gathered), "tasks")
    widths = [len(seen.mean) for _, seen in placed]
    if len(set(widths)) > 1:  # as only a file from elsewhere can hold
        usual = max(set(widths), key=widths.count)
        elsewhere += [g for g, seen in placed if len(seen.mean) != usual]
        placed = [(g, seen) for g, seen in placed if len(seen.mean) == usual]
    ctx.status("Comparing tasks")
    return _laid_out(network, common, placed, elsewhere, _taught(network, request.taught, ctx), request.taught, ctx)


def _laid_out(
    network: Knowledge,
    common: bool,
    placed: list[tuple[_Gathered, Representation]],
    elsewhere: list[_Gathered],
    taught: Representation | None,
    classes: tuple[TaskClass, ...],
    ctx: Context,
) -> Atlas:
    tasks = [seen for _, seen in placed]
    distances = between([*tasks, *([] if taught is None else [taught])], ctx.check)
    points = arrange(_evened(distances)).tolist()
    n = len(tasks)
    likeness_of = [[likeness(d) for d in row[:n]] for row in distances.tolist()]
    order = chained(likeness_of[:n])
    return Atlas(
        under=network.name,
        common=common,
        tasks=tuple(replace(_known(placed[i][0]), x=points[i][0], y=points[i][1]) for i in order),
        similar=tuple(tuple(likeness_of[i][j] for j in order) for i in order),
        elsewhere=tuple(_known(g) for g in elsewhere),
        taught=None
        if taught is None
        else TaughtTask(
            tuple(c.name for c in classes),
            points[n][0],
            points[n][1],
            tuple(similarity(taught, tasks[i]) for i in order),
        ),
    )


def _evened(distances: Tensor) -> Tensor:
    """Distances ``[n, n]`` on a scale of 0..1 whose order is theirs, so that what is far off leaves room for the rest.

    The mean of the distance's own size, compressed, and of its rank among all: by sizes alone a few tasks of another
    kind would squeeze the others into a corner, by ranks alone all gaps would look alike. Squared, as ``arrange`` asks.
    """
    n = len(distances)
    if n < 3:
        return distances
    above = distances[*torch.triu_indices(n, n, 1)]
    ranked = torch.searchsorted(above.sort().values, distances) / max(1, len(above) - 1)
    sizes = distances.clamp_max(_FAR).pow(0.25) / _FAR**0.25
    out: Tensor = ((ranked + sizes) / 2) ** 2
    return out.fill_diagonal_(0.0)


def chained(similar: Sequence[Sequence[float]]) -> list[int]:
    """An order in which near tasks stand beside each other: from the one least like the others, each time the nearest.

    Args:
        similar: ``[n][n]``.
    """
    left = list(range(len(similar)))
    if not left:
        return []
    at = min(left, key=lambda i: sum(similar[i]))
    order = [at]
    left.remove(at)
    while left:
        at = max(left, key=lambda j: similar[order[-1]][j])
        order.append(at)
        left.remove(at)
    return order


# ---- what there is ---------------------------------------------------------------------------------------------------


def _gather(entries: Sequence[KnowledgeEntry], tasks: Sequence[Task]) -> dict[str, _Gathered]:
    here = {t.fingerprint: t for t in tasks if t.classes}
    found: dict[str, _Gathered] = {}
    for entry in entries:
        for i, info in enumerate(entry.sources):
            key = info.fingerprint or f"{entry.id}:{i}"
            before = found.get(key, _Gathered(info, (), here.get(key)))
            found[key] = replace(before, learnt_by=(*before.learnt_by, (entry, i)))
    return found


def _known(g: _Gathered) -> KnownTask:
    ids = tuple(dict.fromkeys(entry.id for entry, _ in g.learnt_by))
    entry, i = g.learnt_by[0]
    key = g.info.fingerprint or f"{entry.id}:{i}"
    return KnownTask(key, g.info.name, g.info.classes, g.info.images, _picture(g), ids)


def _picture(g: _Gathered) -> ImageRef | None:
    """One of its pictures; only what the project or the workbench itself holds is looked at."""
    if g.task is not None:
        return next((c.images[0] for c in g.task.classes if c.images), None)
    return _sample(g.info.path) if g.info.path.startswith(_SAMPLES) else None


@lru_cache(maxsize=256)
def _sample(path: str) -> ImageRef | None:
    folder = (paths.samples() / path.removeprefix(_SAMPLES)).resolve()
    if not folder.is_relative_to(paths.samples().resolve()) or not folder.is_dir():
        return None
    first = next((p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".png", ".jpg")), None)
    if first is None:
        return None
    tasks = scan((str(first),), Context()).tasks
    return next((i for t in tasks for i in (*t.unlabelled, *(i for c in t.classes for i in c.images))), None)


# ---- how the network sees it -----------------------------------------------------------------------------------------


def _own(entries: Sequence[KnowledgeEntry], wanted: str, library: Library) -> Knowledge | None:
    """The chosen entry's network, or the first that can be used."""
    for entry in sorted(entries, key=lambda e: e.id != wanted):
        try:
            return known.load(entry, library.path_of(entry.id), library)
        except WorkbenchError:
            continue
    return None


def _stored(
    network: Knowledge, common: bool, entries: Sequence[KnowledgeEntry], library: Library
) -> dict[str, Representation]:
    """What was kept of sources as the network sees them."""
    found: dict[str, Representation] = {}
    for entry in entries:
        seen: dict[str, Representation] = {}
        try:
            if common:
                sources = probe.sources_of(entry, library.path_of(entry.id), library)
                seen = {s.name: s.seen.gaussian for s in reversed(sources)}  # of one name, what was learnt from
            elif entry.id == network.id:
                seen = dict(network.sources)
        except WorkbenchError:  # damaged; the room says so of the entry itself
            continue
        for i, info in enumerate(entry.sources):
            if info.name in seen:
                found.setdefault(info.fingerprint or f"{entry.id}:{i}", seen[info.name])
    return found


def _measure(network: Knowledge, task: Task | None, ctx: Context) -> Representation | None:
    """A source as the network sees some of its pictures, those that can be read; ``None`` without any."""
    if task is None:
        return None
    key = (network.digest, network.preprocess.digest, task.fingerprint)
    kept = _measured.found
    if key not in kept:
        filled = [c.images for c in task.classes if c.images]
        each = max(1, _PICTURES // max(1, len(filled)))
        parts = []
        for image in [i for images in filled[:_PICTURES] for i in images[:: -(-len(images) // each)]]:
            ctx.check()
            try:
                parts.append(known.to_tensor((image,), network.preprocess))
            except WorkbenchError:
                continue
        if not parts:
            return None
        kept[key] = represent(known.plain_embedding(network, torch.cat(parts), ctx))
        while len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def _taught(network: Knowledge, classes: tuple[TaskClass, ...], ctx: Context) -> Representation | None:
    images = tuple(i for c in classes for i in c.images)
    if not images:
        return None
    try:
        return represent(known.plain_embedding(network, known.to_tensor(images, network.preprocess), ctx))
    except WorkbenchError:  # a picture is gone; Teach itself says which
        return None
