"""The probe: one small shipped network under which every task and every source is represented alike.

Each entry sees the world through its own trunk, so that what two of them say of a task cannot be compared, and asking
thirty of them takes thirty passes. Under the probe a new task takes one pass, whatever the number of entries:

``probe()``                       the network, or ``None`` where it is not installed
``represent_task(images, y, ..)`` a task as mean and covariance of its features, and as named meta-features
``sources_of(entry, path, ..)``   what ``keep`` stored of an entry's sources; ``()`` where it was another probe or none
``similarities(task, sources)``   how much the task resembles each of them, 0..1

An entry without sources under this probe is measured under its own trunk, as it always was.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import ImageRef, KnowledgeEntry, Preprocess, Task
from workbench.learn.features import FeatureCache
from workbench.project.library import CARD, Library
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.transfer.kinds import TaskData
from workbench.transfer.metafeatures import META_FEATURES, MetaFeatures
from workbench.transfer.represent import Representation, represent, similarity

NAMES = tuple(f.key for f in META_FEATURES)
"""Of the meta-features, in the order of their vector."""
_MOST, _FEWEST, _TOGETHER = 200, 40, 3000
"""Pictures of a source that are looked at: so many, and in all not many more than so many."""
_SOURCES = 256
"""Of an entry; those beyond have no place under the probe, so that a file never holds more tensors than are read."""
_SHORT = 0.5
"""Seconds for the sources of a run that was stopped."""
_TASKS = 8
"""Tasks that each thread keeps at hand."""
_ENTRIES = 256
"""Entries whose sources each thread keeps at hand; a source takes 17 KB."""


@dataclass(frozen=True, slots=True, eq=False)
class Represented:
    """A task, or a source, under the probe.

    Attributes:
        gaussian: mean and covariance of its features.
        metafeatures: ``[2 F]`` float64, as :class:`workbench.transfer.metafeatures.MetaFeatures` embeds: the values in
            the order of ``NAMES``, and behind them 1 where one was measured.
    """

    gaussian: Representation
    metafeatures: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ProbedSource:
    """A source of an entry and its place under the probe; ``name`` is for people."""

    name: str
    seen: Represented


def probe_folder() -> Path:
    """Where the probe lies: a knowledge entry that no list shows, since nothing is taught with it."""
    return paths.resources() / "probe"


def probe() -> Knowledge | None:
    """The probe, for this thread; ``None`` where it is not installed.

    Raises:
        WorkbenchError: it is there and damaged.
    """
    folder = probe_folder()
    try:
        status = (folder / CARD).stat()
    except OSError:
        return None
    library = Library(None)
    stamp = (folder, status.st_mtime_ns, status.st_size)
    if _kept.card is None or _kept.card[0] != stamp:  # asked for once for every entry of a library
        _kept.card = stamp, library.read(folder)
    return known.load(_kept.card[1], folder, library)


def digest() -> str:
    """Of the probe, "" where there is none that can be used."""
    try:
        found = probe()
    except WorkbenchError:
        return ""
    return "" if found is None else found.digest


def represent_task(images: tuple[ImageRef, ...], y: Tensor, cache: FeatureCache, ctx: Context) -> Represented | None:
    """A task as the probe sees it, one pass over pictures that were not seen before; ``None`` without a probe.

    Args:
        images: labelled pictures, at least one.
        y: ``[n]`` int64, their classes in ``0..ways-1``, each at least once.
        cache: of features.
        ctx: of the job.

    Raises:
        WorkbenchError: a picture cannot be read.
        ValueError: pictures and classes do not fit.
        JobCancelledError: asked to stop.
    """
    p = probe()
    if p is None:
        return None
    key = (p.digest, p.preprocess.digest, tuple(i.sha256 for i in images), tuple(y.tolist()))
    found = _kept.tasks.get(key)
    if found is None:
        x = known.to_tensor(images, p.preprocess)
        found = _represented(p, images, x, known.embed(p, images, cache, ctx), y, ctx)
        _kept.tasks[key] = found
    _kept.tasks.move_to_end(key)
    while len(_kept.tasks) > _TASKS:
        _kept.tasks.popitem(last=False)
    return found


def _represented(
    p: Knowledge, images: tuple[ImageRef, ...], x: Tensor, features: Tensor, y: Tensor, ctx: Context
) -> Represented:
    task = TaskData(y, int(y.max()) + 1, x, features, p.preprocess, images)
    return Represented(represent(features), MetaFeatures().embed(task, ctx))


def represent_sources(
    tasks: Sequence[Task], seed: int, stopping: Callable[[], bool], ctx: Context
) -> dict[str, Tensor]:
    """What an entry's file holds of its sources under the probe; empty without a probe.

    Some pictures of every class are read; those that cannot be are passed over. When the job is to stop, no source is
    begun half a second later, and those without a place are measured under the entry's own trunk.

    Args:
        tasks: the sources, in the order of the entry's card.
        seed: of the choice of pictures.
        stopping: whether the person told the job to stop.
        ctx: told of the progress; not asked whether to stop.
    """
    p = probe()
    if p is None:
        return {}
    out: dict[str, Tensor] = {}
    most = max(_FEWEST, min(_MOST, _TOGETHER // max(1, min(len(tasks), _SOURCES))))
    unstoppable, told = Context(seed=ctx.seed), 0.0
    for i, task in enumerate(tasks[:_SOURCES]):
        if stopping():
            told = told or time.monotonic()
            if time.monotonic() - told > _SHORT:
                break
        images, parts, y = _some_of(task, most, np.random.default_rng([seed, i]), p.preprocess)
        if images:
            x = torch.cat(parts)
            features = known.plain_embedding(p, x, unstoppable)
            out |= tensors_of(i, _represented(p, images, x, features, torch.tensor(y), unstoppable))
        ctx.progress(i + 1, min(len(tasks), _SOURCES), "sources")
    return out


def represent_unlabelled(i: int, images: tuple[ImageRef, ...], ctx: Context) -> dict[str, Tensor]:
    """What an entry's file holds of pictures without labels, in the place of a source number ``i``; empty without any.

    Args:
        i: its number; an aligned entry has its target behind the sources that it was trained on.
        images: evenly spaced ones of them are looked at; those that cannot be read are passed over.
        ctx: of the job; not asked whether to stop.

    Raises:
        WorkbenchError: the probe is damaged.
    """
    p = probe()
    if p is None:
        return {}
    parts: list[Tensor] = []
    for image in images[:: max(1, -(-len(images) // _MOST))]:
        with contextlib.suppress(WorkbenchError):
            parts.append(known.to_tensor((image,), p.preprocess))
    if not parts:
        return {}
    gaussian = represent(known.plain_embedding(p, torch.cat(parts), Context(seed=ctx.seed)))
    return tensors_of(i, Represented(gaussian, torch.zeros(2 * len(NAMES))))  # without labels none is measured


def _some_of(
    task: Task, most: int, draw: np.random.Generator, p: Preprocess
) -> tuple[tuple[ImageRef, ...], list[Tensor], list[int]]:
    """About ``most`` readable pictures of a task, as many of each class as it has; their inputs and classes from 0."""
    filled = [c for c in task.classes if c.images]
    each = max(1, most // max(1, len(filled)))
    images: list[ImageRef] = []
    parts: list[Tensor] = []
    y: list[int] = []
    ways = 0
    for c in filled[:most]:
        before = len(images)
        for row in sorted(draw.permutation(len(c.images))[:each].tolist()):
            with contextlib.suppress(WorkbenchError):
                parts.append(known.to_tensor((c.images[row],), p))
                images.append(c.images[row])
                y.append(ways)
        ways += len(images) > before
    return tuple(images), parts, y


def tensors_of(i: int, seen: Represented) -> dict[str, Tensor]:
    """What an entry's file holds of its source number ``i``."""
    return {
        f"probe.{i}.mean": seen.gaussian.mean,
        f"probe.{i}.covariance": seen.gaussian.covariance,
        f"probe.{i}.pictures": torch.tensor(seen.gaussian.n),
        f"metafeatures.{i}": seen.metafeatures.float(),
    }


class _Kept(threading.local):
    """Tasks and sources that were asked for; distances between them are remembered by their identity."""

    def __init__(self) -> None:
        self.sources: OrderedDict[tuple[Path, str, str], tuple[ProbedSource, ...]] = OrderedDict()
        self.card: tuple[tuple[Path, int, int], KnowledgeEntry] | None = None
        self.tasks: OrderedDict[tuple[object, ...], Represented] = OrderedDict()


_kept = _Kept()


@at_thread_end
def _forget() -> None:
    _kept.sources.clear()
    _kept.card = None
    _kept.tasks.clear()


def sources_of(entry: KnowledgeEntry, path: Path, library: Library) -> tuple[ProbedSource, ...]:
    """An entry's sources under the probe, without bringing its network to life; kept for each thread.

    What an entry was aligned with comes last: it is not learnt from, but it is what the entry is for.

    Args:
        entry: its card.
        path: its folder.
        library: reads its tensors.

    Returns:
        ``()`` where the entry knows no probe, or another one.

    Raises:
        WorkbenchError: its file is damaged.
    """
    p = probe()
    if p is None or entry.provenance.get("probe") != p.digest:
        return ()
    key = (path, entry.weights_sha256, p.digest)
    found = _kept.sources.get(key)
    if found is None:
        arrays = library.load_tensors(path)
        found = tuple(
            ProbedSource(name, seen)
            for i, name in enumerate((*(s.name for s in entry.sources), *_target(entry)))
            if (seen := _read(i, {n: torch.from_numpy(arrays[n]) for n in _names(i) if n in arrays})) is not None
        )
        _kept.sources[key] = found
    _kept.sources.move_to_end(key)
    while len(_kept.sources) > _ENTRIES:
        _kept.sources.popitem(last=False)
    return found


def _target(entry: KnowledgeEntry) -> tuple[str, ...]:
    """The name of what an entry was aligned with, if it was."""
    names = entry.provenance.get("aligned", {}).get("target", ())
    return (f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0],) if names else ()


def _names(i: int) -> tuple[str, ...]:
    return f"probe.{i}.mean", f"probe.{i}.covariance", f"probe.{i}.pictures", f"metafeatures.{i}"


def _read(i: int, tensors: dict[str, Tensor]) -> Represented | None:
    """One source, or ``None`` where the file lacks it or holds something else under its names."""
    try:
        mean, covariance, pictures, meta = (tensors[n] for n in _names(i))
        gaussian = Representation(mean.float(), covariance.float(), int(pictures))
    except (KeyError, ValueError, RuntimeError):
        return None
    if meta.shape != (2 * len(NAMES),):
        meta = torch.zeros(2 * len(NAMES))  # written with other names: nothing of it was measured
    return Represented(gaussian, meta.double())


def similarities(task: Represented, sources: Sequence[ProbedSource]) -> tuple[tuple[str, float], ...]:
    """Name of each source and how much the task resembles it, 0..1, in the sources' order.

    A source of another width, as only a file from elsewhere can hold, is left out.
    """
    return similarities_of(task.gaussian, sources)


def similarities_of(pictures: Representation, sources: Sequence[ProbedSource]) -> tuple[tuple[str, float], ...]:
    """The same for pictures without labels."""
    width = len(pictures.mean)
    return tuple((s.name, similarity(pictures, s.seen.gaussian)) for s in sources if len(s.seen.gaussian.mean) == width)
