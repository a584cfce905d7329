"""What the Teach room shows, worked out from values alone: answers, order, doubt, examples to check. Free of Qt."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from workbench.core.teach import NONE, TeachTask
from workbench.core.values import ClassId, Estimate, ImageRef, Prediction
from workbench.services.teach import TeachRequest, TeachResult

NONE_INDEX = -1
Order = Literal["doubt", "name"]

_ENOUGH_TO_JUDGE = 3
_FAR = 3 * 1.4826  # three robust standard deviations


class Line(NamedTuple):
    """One line of a row: index of the class in the task (``NONE_INDEX`` for none of these), its share, the answer."""

    at: int
    share: float
    wins: bool


class Near(NamedTuple):
    """A near example: index of its class in the task (or ``None`` if that is gone), picture, distance."""

    at: int | None
    image: ImageRef
    distance: float


class Answer(NamedTuple):
    """What is said of one query.

    Attributes:
        lines: the two best classes, best first, then none of these.
        answer: class id, or ``NONE``.
        margin: best share less the second, 0..1; small is doubtful.
        prediction: where it comes from.
        indexes: per class of the prediction its index in the task, or ``None`` if it is gone; one for all answers.
    """

    lines: tuple[Line, ...]
    answer: ClassId
    margin: float
    prediction: Prediction
    indexes: tuple[int | None, ...]

    @property
    def near(self) -> tuple[Near, ...]:
        """The nearest examples, nearest first."""
        return tuple(Near(self.indexes[n.class_index], n.image, n.distance) for n in self.prediction.nearest)


@dataclass(frozen=True, slots=True)
class Shown:
    """A result with the request it answers."""

    request: TeachRequest
    result: TeachResult

    def ids(self) -> tuple[ClassId, ...]:
        """The classes in the order of the probabilities."""
        return tuple(c.id for c in self.request.classes)

    def last(self) -> int:
        """The position after adapting."""
        return len(self.result.steps) - 1

    def predictions(self, step: int) -> tuple[Prediction, ...]:
        """Predictions at a position."""
        return self.result.steps[min(max(step, 0), self.last())] if self.result.steps else ()


def positions(task: TeachTask) -> dict[ClassId, int]:
    """Index of each class, which is its colour, its shape and its key less one."""
    return {c.id: i for i, c in enumerate(task.classes)}


def answers_of(
    predictions: Iterable[Prediction], ids: Sequence[ClassId], where: Mapping[ClassId, int]
) -> dict[str, Answer]:
    """Predictions in terms of the task as it is now, by hash; empty where no class of theirs is left.

    Args:
        predictions: of queries.
        ids: the classes of the request, in the order of the probabilities.
        where: index of each class that is there now.
    """
    indexes = tuple(where.get(i) for i in ids)
    left = [k for k, index in enumerate(indexes) if index is not None]
    if not left:
        return {}
    return {p.image.sha256: _answer(p, ids, indexes, left) for p in predictions}


def _answer(p: Prediction, ids: Sequence[ClassId], indexes: tuple[int | None, ...], left: Sequence[int]) -> Answer:
    shares = p.probabilities
    first, second = left[0], -1
    for k in left[1:]:  # a thousand queries are gone through after every key: no sorting here
        if shares[k] > shares[first]:
            first, second = k, first
        elif second < 0 or shares[k] > shares[second]:
            second = k
    best, next_ = shares[first], 0.0 if second < 0 else shares[second]
    lines = [Line(indexes[first] or 0, best, not p.rejected)]
    if second >= 0:
        lines.append(Line(indexes[second] or 0, next_, False))
    lines.append(Line(NONE_INDEX, p.none, p.rejected))
    margin = best - max(next_, p.none) if best >= p.none else p.none - best
    return Answer(tuple(lines), NONE if p.rejected else ids[first], margin, p, indexes)


def ordered(
    task: TeachTask, answers: Mapping[str, Answer], order: Order, only: ClassId | None = None
) -> list[ImageRef]:
    """The queries to show, in order.

    Args:
        task: with its labels.
        answers: by hash; a query may have none yet.
        order: ``doubt`` has the smallest margin first and what is not predicted last, ``name`` goes by file name.
        only: a class (or ``NONE``) to show, by a person's label or else by the answer.
    """
    rows = [q for q in task.queries if only is None or said(task, answers, q) == only]
    if order == "name":
        return sorted(rows, key=lambda q: natural(q.name))
    place = {q.sha256: i for i, q in enumerate(task.queries)}
    return sorted(rows, key=lambda q: (answers[q.sha256].margin if q.sha256 in answers else 2.0, place[q.sha256]))


def said(task: TeachTask, answers: Mapping[str, Answer], query: ImageRef) -> ClassId | None:
    """The class of a query: a person's label, else the answer, else ``None``."""
    label = task.labels.get(query.sha256)
    if label is not None:
        return label
    found = answers.get(query.sha256)
    return None if found is None else found.answer


def most_doubtful(task: TeachTask, answers: Mapping[str, Answer], rows: Iterable[ImageRef]) -> str:
    """Hash of the query to label next: the most doubtful one without a label, or ""."""
    open_ = [q.sha256 for q in rows if q.sha256 in answers and q.sha256 not in task.labels]
    return min(open_, key=lambda sha: answers[sha].margin, default="")


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sorting key that counts: ``2.png`` before ``10.png``."""
    out: list[tuple[int, int | str]] = []
    part = ""
    for ch in name.casefold():
        if part and part[-1].isdecimal() != ch.isdecimal():
            out.append((0, int(part)) if part.isdecimal() else (1, part))
            part = ""
        part += ch
    if part:
        out.append((0, int(part)) if part.isdecimal() else (1, part))
    return out


def to_check(shown: Shown) -> dict[str, float]:
    """Examples that stand out when they are left out: hash -> their loss, nats.

    An example is conspicuous if the others give its own class less than half of what guessing would, and if its loss is
    far from the usual one. In a class of two nobody can say which of them is the odd one.
    """
    measured = [loss for row in shown.result.influence for loss in row if loss is not None]
    if len(measured) < _ENOUGH_TO_JUDGE:
        return {}
    middle = statistics.median(measured)
    spread = statistics.median(abs(loss - middle) for loss in measured)
    limit = max(math.log(2 * len(shown.request.classes)), middle + _FAR * spread)
    out: dict[str, float] = {}
    for item, row in zip(shown.request.classes, shown.result.influence, strict=True):
        if len(item.images) >= _ENOUGH_TO_JUDGE:
            told = zip(item.images, row, strict=True)
            out |= {i.sha256: loss for i, loss in told if loss is not None and loss > limit}
    return out


def interval(estimate: Estimate) -> tuple[str, str]:
    """An estimate as text: ``0.86`` and ``(0.60–0.96)``."""
    return f"{estimate.accuracy:.2f}", f"({estimate.low:.2f}–{estimate.high:.2f})"
