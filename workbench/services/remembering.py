"""What is remembered of every task that is taught, and what became of it when a person labelled more pictures.

``remember`` is called after each adaptation. It leaves one record per task (:mod:`workbench.project.past_tasks`). A
picture that was a query when it was last answered, and is an example now, was labelled by a person: what was used is
right or wrong about it, and so is every other entry that was tried, by what it says of that picture when it is left
out. So all are judged on the same pictures, and a gain over the default can be learnt from them::

    records(project, default)   past tasks as vectors with gains, for ``transfer.prior.learnt_gains``
    accuracies(project)         realised accuracy of each entry, one number per task, for ``transfer.prior.Standing``

Several labels at once that all agree with the predictions are taken for one click that accepted them: they say little
and are not counted.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import Candidate, EntryId, Prediction, TaskClass
from workbench.learn.features import FeatureCache
from workbench.project import past_tasks
from workbench.project.past_tasks import PastTask, Tried, Used
from workbench.services import probe
from workbench.services.probe import Represented
from workbench.transfer.kinds import packed, unpacked
from workbench.transfer.prior import Record

if TYPE_CHECKING:
    from workbench.services.survey import Seen

_log = logging.getLogger(__name__)

_TASKS = 4
"""Tasks whose last answers each thread keeps."""
_ACCEPTED = 2
"""So many labels at once, all as predicted, are one click."""


@dataclass(slots=True)
class _Asked:
    """The last answers of a task: the class that each query was said to be, and the queries already counted."""

    project: Path
    used: Used
    shots: tuple[int, ...]
    answers: Mapping[str, str]
    counted: set[str] = field(default_factory=set)


class _Last(threading.local):
    def __init__(self) -> None:
        self.asked: OrderedDict[str, _Asked] = OrderedDict()


_last = _Last()


@at_thread_end
def _forget() -> None:
    _last.asked.clear()


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
    labelled = _labelled(classes, before)
    said = {p.image.sha256: "" if p.rejected else _key(classes[p.best]) for p in predictions}
    asked = _Asked(project, chosen, shots, said, set() if before is None else before.counted | set(labelled))
    _last.asked[id_] = asked
    _last.asked.move_to_end(id_)
    while len(_last.asked) > _TASKS:
        _last.asked.popitem(last=False)
    if before is not None and (before.used, before.shots) == (chosen, shots) and not labelled:
        return None
    try:
        where = _represented(classes, cache, ctx)
        task = _record(id_, shots, where, candidates, chosen, past_tasks.find(project, id_))
        if before is not None and _counts(labelled):
            task = _judged(task, before.used, labelled, classes, seen)
        past_tasks.save(project, task)
    except (StorageError, WorkbenchError) as error:
        _log.warning("the task was not remembered: %s", error.why)
        return None
    return task


def identity(classes: Sequence[TaskClass]) -> str:
    """Of a task: that of its classes where they have ids, else of their names and first pictures."""
    return past_tasks.task_id(_key(c) if c.id else f"{c.name}/{c.images[0].sha256}" for c in classes)


def _key(c: TaskClass) -> str:
    return c.id or c.name


def _labelled(classes: Sequence[TaskClass], before: _Asked | None) -> dict[str, tuple[str, str]]:
    """Hash -> (what it was said to be, what a person says) of queries that became examples; each counts once."""
    if before is None:
        return {}
    return {
        i.sha256: (before.answers[i.sha256], _key(c))
        for c in classes
        for i in c.images
        if i.sha256 in before.answers and i.sha256 not in before.counted
    }


def _counts(labelled: Mapping[str, tuple[str, str]]) -> bool:
    return bool(labelled) and (len(labelled) < _ACCEPTED or any(said != is_ for said, is_ in labelled.values()))


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


def _judged(
    task: PastTask,
    used: Used,
    labelled: Mapping[str, tuple[str, str]],
    classes: Sequence[TaskClass],
    seen: Sequence[Seen],
) -> PastTask:
    """The record with what was used said of the labelled pictures, and every other entry that was tried.

    An entry is judged in the form in which the used one answers, so that a gain is that of its knowledge, and as it was
    trained where that form was not tried.
    """
    task = task.seen_right(used, sum(said == is_ for said, is_ in labelled.values()), len(labelled))
    rows = {i.sha256: row for row, i in enumerate(i for c in classes for i in c.images)}
    wanted = [rows[sha] for sha in labelled]
    forms: dict[EntryId | None, Seen] = {}
    for s in seen:
        own, alike = s.recipe.own, replace(used_of(s), entry=used.entry) == used
        if s.knowledge.id != used.entry and (alike or (own and s.knowledge.id not in forms)):
            forms[s.knowledge.id] = s
    for s in forms.values():
        at = {row: n for n, row in enumerate(s.left_out.rows.tolist())}
        if all(row in at for row in wanted):  # only what was judged on the very same pictures can be compared
            logits = s.left_out.logits[[at[row] for row in wanted]]
            right = int((logits.argmax(1) == s.support.y[wanted]).sum())
            task = task.seen_right(used_of(s), right, len(wanted))
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


def records(project: Path, default: EntryId | None) -> tuple[Record, ...]:
    """Past tasks of this probe on which the default and something else were judged by the same pictures."""
    network = probe.probe()
    if network is None:
        return ()
    found = []
    for task in past_tasks.read(project)[0]:
        usable = task.probe == network.digest and task.names == probe.NAMES
        by_entry = _by_entry(task)
        if not usable or default not in by_entry or len(task.metafeatures) != 2 * len(probe.NAMES):
            continue
        right, of = by_entry.pop(default)
        gains = {e: r / n - right / of for e, (r, n) in by_entry.items() if e is not None and n == of}
        if gains:
            found.append(Record(_vector(_mean(task), torch.tensor(task.metafeatures, dtype=torch.float64)), gains))
    return tuple(found)


def accuracies(project: Path) -> dict[EntryId, tuple[float, ...]]:
    """Realised accuracy of each entry, one number per past task in which it was judged."""
    out: dict[EntryId, tuple[float, ...]] = {}
    for task in past_tasks.read(project)[0]:
        for entry, (right, of) in _by_entry(task).items():
            if entry is not None:
                out[entry] = (*out.get(entry, ()), right / of)
    return out


def _by_entry(task: PastTask) -> dict[EntryId | None, tuple[int, int]]:
    """The recipe of each entry that was judged by most pictures."""
    best: dict[EntryId | None, tuple[int, int]] = {}
    for r in task.realised:
        if r.of > best.get(r.used.entry, (0, 0))[1]:
            best[r.used.entry] = r.right, r.of
    return best


def _mean(task: PastTask) -> Tensor:
    """The mean, out of the packed representation."""
    return unpacked(torch.tensor(task.representation, dtype=torch.float64)).mean.double()
