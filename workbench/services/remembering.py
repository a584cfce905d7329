"""What is remembered of every task that is taught, and what became of it when a person labelled more pictures.

``remember`` is called after each adaptation. It leaves one record per task (:mod:`workbench.project.past_tasks`). A
picture that was a query when it was last answered, and is an example now, was labelled by a person. Every entry that
was tried is judged by it alike, the one in use like the others: by what it says when the picture is left out, on the
very same pictures. So a gain over the default can be learnt from them::

    past(project, classes)      past tasks but this one, read again only where they changed
    records(past, default)      as vectors with gains, for ``transfer.prior.learnt_gains``
    realised(past)              what each entry was right of, for ``transfer.prior.Standing``

Who corrects what is wrong and leaves the rest labels the mistakes of whatever is in use, which would speak against it.
Nothing is counted, therefore, before four of five of the pictures that were asked about have a label, whether it was
given one by one or many answers were accepted at once. An answer that was accepted and is wrong speaks for what is in
use; that cannot be seen here. A label that is taken back, or changed, is taken off again as long as the program runs.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import Candidate, EntryId, Prediction, TaskClass
from workbench.learn.features import FeatureCache
from workbench.project import past_tasks
from workbench.project.past_tasks import PastTask, Stamp, Tried, Used
from workbench.services import probe
from workbench.services.probe import Represented
from workbench.transfer.kinds import packed, packed_mean
from workbench.transfer.prior import Record

if TYPE_CHECKING:
    from workbench.services.looks import Seen

_log = logging.getLogger(__name__)

_TASKS = 4
"""Tasks whose last answers each thread keeps."""
_LABELLED = 0.8
"""Share of the pictures asked about that must have a label before any of them counts."""


@dataclass(frozen=True, slots=True)
class _Label:
    """A picture that was counted: the class that it was given, and who recognised it when it was left out."""

    given: str
    right: Mapping[Used, bool]


@dataclass(slots=True)
class _Asked:
    """The last adaptation of a task: all pictures that were asked about, and those that were already counted."""

    project: Path
    used: Used
    shots: tuple[int, ...]
    asked: set[str]
    counted: dict[str, _Label] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What is needed of a past task.

    Attributes:
        id: of the task.
        probe: under which it lies.
        vector: ``[D + F]``, or ``None`` where it has no place under it.
        right: (right, of) of each entry that was judged, all by the very same pictures.
    """

    id: str
    probe: str
    vector: Tensor | None
    right: Mapping[EntryId | None, tuple[int, int]]


class _Last(threading.local):
    def __init__(self) -> None:
        self.asked: OrderedDict[str, _Asked] = OrderedDict()
        self.past: tuple[Path, dict[Path, tuple[Stamp, Past | None]]] | None = None


_last = _Last()


@at_thread_end
def _forget() -> None:
    _last.asked.clear()
    _last.past = None


def remember(
    classes: tuple[TaskClass, ...],
    candidates: Sequence[Candidate],
    chosen: Used,
    seen: Sequence[Seen],
    predictions: Iterable[Prediction],
    project: Path,
    cache: FeatureCache,
    ctx: Context,
) -> PastTask | None:
    """Leave or renew the record of a task; nothing is written while nothing changed.

    A record that cannot be written is no reason not to answer: the log says so.

    Args:
        classes: with their examples.
        candidates: of the choice.
        chosen: what answers now.
        seen: everything that was tried, with its answers to left-out examples.
        predictions: of the queries.
        project: where the record lies.
        cache: of features.
        ctx: of the job.

    Returns:
        The record that was written, or ``None``.
    """
    id_ = identity(classes)
    before = _last.asked.get(id_)
    if before is not None and before.project != project:
        before = None
    shots = tuple(sorted(len(c.images) for c in classes))
    examples = {i.sha256: _key(c) for c in classes for i in c.images}
    left = {p.image.sha256 for p in predictions} - set(examples)
    labelled = set() if before is None else before.asked.intersection(examples)
    asked = _Asked(project, chosen, shots, left | labelled, {} if before is None else before.counted)
    _last.asked[id_] = asked
    _last.asked.move_to_end(id_)
    while len(_last.asked) > _TASKS:
        _last.asked.popitem(last=False)
    undone = {sha: label for sha, label in asked.counted.items() if examples.get(sha) != label.given}
    due = set[str]()
    if len(labelled) >= _LABELLED * len(labelled | left):
        due = labelled.difference(asked.counted) | labelled.intersection(undone)
    if before is not None and (before.used, before.shots) == (chosen, shots) and not due and not undone:
        return None
    try:
        where = _represented(classes, cache, ctx)
        judged = {} if before is None or not due else _judged(before.used, due, classes, seen)
        with past_tasks.alone(project):
            task = _record(id_, shots, where, candidates, chosen, past_tasks.find(project, id_))
            task = _counted(_counted(task, undone, -1), judged, 1)
            past_tasks.save(project, task)
        asked.counted = {sha: label for sha, label in asked.counted.items() if sha not in undone} | judged
        if undone or judged:
            with past_tasks.alone(paths.data_home()):
                past_tasks.save(paths.data_home(), task)
    except (StorageError, WorkbenchError) as error:
        _log.warning("the task was not remembered: %s", error.why)
        return None
    return task


def identity(classes: Sequence[TaskClass]) -> str:
    """Of a task: that of its classes where they have ids, else of their names and first pictures."""
    return past_tasks.task_id(_key(c) if c.id else f"{c.name}/{c.images[0].sha256}" for c in classes)


def _key(c: TaskClass) -> str:
    return c.id or c.name


def _represented(classes: tuple[TaskClass, ...], cache: FeatureCache, ctx: Context) -> Represented | None:
    images = tuple(i for c in classes for i in c.images)
    return probe.represent_task(images, torch.tensor([k for k, c in enumerate(classes) for _ in c.images]), cache, ctx)


def _record(
    id_: str,
    shots: tuple[int, ...],
    where: Represented | None,
    candidates: Sequence[Candidate],
    chosen: Used,
    had: PastTask | None,
) -> PastTask:
    network = probe.probe()
    return PastTask(
        id=id_,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        shots=shots,
        probe="" if network is None else network.digest,
        representation=() if where is None else tuple(packed(where.gaussian).tolist()),
        metafeatures=() if where is None else tuple(where.metafeatures.tolist()),
        names=probe.NAMES,
        tried=tuple(Tried(Used(c.entry), c.similarity or 0.0, c.loss) for c in candidates),
        chosen=chosen,
        realised=() if had is None else had.realised,
    )


def _judged(used: Used, labelled: set[str], classes: Sequence[TaskClass], seen: Sequence[Seen]) -> dict[str, _Label]:
    """What every entry that was tried says of labelled pictures, for those that all can be asked about.

    An entry is judged in the form in which the used one answers, so that a gain is that of its knowledge, and as it was
    trained where that form was not tried.
    """
    forms: dict[EntryId | None, Seen] = {}
    for s in seen:
        alike = msgspec.structs.replace(used_of(s), entry=used.entry) == used
        if len(s.left_out.rows) and (alike or (s.recipe.own and s.knowledge.id not in forms)):
            forms[s.knowledge.id] = s
    pictures = [(i.sha256, _key(c)) for c in classes for i in c.images]
    common = set(range(len(pictures))).intersection(*(s.left_out.rows.tolist() for s in forms.values()))
    wanted = [row for row in sorted(common) if pictures[row][0] in labelled] if forms else []
    right: dict[int, dict[Used, bool]] = {row: {} for row in wanted}
    for s in forms.values():
        at = {row: n for n, row in enumerate(s.left_out.rows.tolist())}
        found = s.left_out.logits[[at[row] for row in wanted]].argmax(1) == s.support.y[wanted] if wanted else ()
        for row, recognised in zip(wanted, found, strict=True):
            right[row][used_of(s)] = bool(recognised)
    return {pictures[row][0]: _Label(pictures[row][1], right[row]) for row in wanted}


def _counted(task: PastTask, labels: Mapping[str, _Label], sign: int) -> PastTask:
    """The record with these labels, or without them for a sign of -1; what it does not hold cannot be taken off."""
    for sha, label in labels.items():
        mark = past_tasks.mark_of(task.id, [sha])
        for used, right in label.right.items():
            with contextlib.suppress(ValueError):
                task = task.seen_right(used, sign * right, sign, mark)
    return task


def used_of(seen: Seen) -> Used:
    """What a look is a look with."""
    return Used(seen.knowledge.id, seen.recipe.layer, seen.recipe.adapter, seen.recipe.head)


def vector(representation: Represented) -> Tensor:
    """``[D + F]`` float64: where a task lies under the probe, and its meta-features (0 where not measured)."""
    return _vector(representation.gaussian.mean.double(), representation.metafeatures)


def _vector(mean: Tensor, metafeatures: Tensor) -> Tensor:
    values, there = metafeatures.chunk(2)
    return torch.cat([mean, values * there])


def past(project: Path, classes: Sequence[TaskClass] = ()) -> tuple[Past, ...]:
    """Past tasks of a project and of others, newest first, without the one that these classes are.

    Files are read when they are new or changed; each thread remembers what it read of the last project.
    """
    had = _last.past[1] if _last.past is not None and _last.past[0] == project else {}
    found = past_tasks.distilled(project, _distilled, had)
    _last.past = project, found
    own = identity(classes) if classes else ""
    return tuple(p for _, p in found.values() if p is not None and p.id != own)


def _distilled(task: PastTask) -> Past:
    where = None
    if task.names == probe.NAMES and len(task.metafeatures) == 2 * len(probe.NAMES) and task.representation:
        with contextlib.suppress(ValueError, RuntimeError):  # of another width than any mean and covariance have
            where = _vector(
                packed_mean(task.representation).double(), torch.tensor(task.metafeatures, dtype=torch.float64)
            )
    return Past(task.id, task.probe, where, _by_entry(task))


def records(found: Sequence[Past], default: EntryId | None) -> tuple[Record, ...]:
    """Past tasks of this probe on which the default and something else were judged by the same pictures."""
    network = probe.probe()
    if network is None:
        return ()
    out = []
    for p in found:
        if p.probe != network.digest or p.vector is None or default not in p.right:
            continue
        right, of = p.right[default]
        others = {e: pair for e, pair in p.right.items() if e is not None and e != default}
        gains = {e: r / n - right / of for e, (r, n) in others.items()}
        if gains:
            out.append(Record(p.vector, gains))
    return tuple(out)


def realised(found: Sequence[Past]) -> dict[EntryId, tuple[tuple[str, int, int], ...]]:
    """What each entry was right of: (task, right, of) for each past task in which it was judged as others were."""
    out: dict[EntryId, tuple[tuple[str, int, int], ...]] = {}
    for p in found:
        for entry, (right, of) in p.right.items():
            if entry is not None:
                out[entry] = (*out.get(entry, ()), (p.id, right, of))
    return out


def _by_entry(task: PastTask) -> dict[EntryId | None, tuple[int, int]]:
    """Of the sets of pictures that entries were judged by, the one of most entries, and of those of most pictures."""
    sets: dict[tuple[str, int], dict[EntryId | None, tuple[int, int]]] = {}
    for r in task.realised:
        sets.setdefault((r.pictures, r.of), {}).setdefault(r.used.entry, (r.right, r.of))
    return max(sets.items(), key=lambda pair: (len(pair[1]), pair[0][1]), default=(None, {}))[1]
