"""What the Teach room shows, worked out from values alone: answers, order, doubt, examples to check. Free of Qt."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.core.teach import NONE, TeachTask
from workbench.core.values import ClassId, Estimate, ImageRef, Prediction
from workbench.services.teach import TeachRequest, TeachResult

NONE_INDEX = -1
Order = Literal["doubt", "name"]

_ENOUGH_TO_JUDGE = 3
_FAR = 3 * 1.4826  # three robust standard deviations


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a row: index of the class in the task (``NONE_INDEX`` for none of these), its share, the answer."""

    index: int
    share: float
    wins: bool


@dataclass(frozen=True, slots=True)
class Near:
    """A near example: index of its class in the task (or ``None`` if that is gone), picture, distance."""

    index: int | None
    image: ImageRef
    distance: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of one query.

    Attributes:
        lines: the two best classes, best first, then none of these.
        answer: class id, or ``NONE``.
        margin: best share less the second, 0..1; small is doubtful.
        near: the nearest examples, nearest first.
        shares: share by class id, ``NONE`` included.
    """

    lines: tuple[Line, ...]
    answer: ClassId
    margin: float
    near: tuple[Near, ...]
    shares: dict[ClassId, float]


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

    def predictions(self, step: int) -> dict[str, Prediction]:
        """Predictions at a position by the picture's hash."""
        step = min(max(step, 0), self.last())
        return {p.image.sha256: p for p in self.result.steps[step]} if self.result.steps else {}


def positions(task: TeachTask) -> dict[ClassId, int]:
    """Index of each class, which is its colour, its shape and its key less one."""
    return {c.id: i for i, c in enumerate(task.classes)}


def answer(prediction: Prediction, ids: Sequence[ClassId], where: Mapping[ClassId, int]) -> Answer | None:
    """A prediction in terms of the task as it is now.

    Args:
        prediction: of one query.
        ids: the classes of the request, in the order of the probabilities.
        where: index of each class that is there now.

    Returns:
        ``None`` where no class of the prediction is left.
    """
    ranked = sorted(
        ((share, -where[i], i) for i, share in zip(ids, prediction.probabilities, strict=True) if i in where),
        reverse=True,
    )
    if not ranked:
        return None
    best = NONE if prediction.rejected else ranked[0][2]
    lines = [Line(where[i], share, i == best) for share, _, i in ranked[:2]]
    lines.append(Line(NONE_INDEX, prediction.none, best == NONE))
    shares = {i: share for share, _, i in ranked} | {NONE: prediction.none}
    order = sorted(shares.values(), reverse=True)
    near = tuple(Near(where.get(ids[n.class_index]), n.image, n.distance) for n in prediction.nearest)
    return Answer(tuple(lines), best, order[0] - order[1], near, shares)


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
    measured = [loss for row in shown.result.influence for loss in row if loss > 0]
    if len(measured) < _ENOUGH_TO_JUDGE:
        return {}
    middle = statistics.median(measured)
    spread = statistics.median(abs(loss - middle) for loss in measured)
    limit = max(math.log(2 * len(shown.request.classes)), middle + _FAR * spread)
    out: dict[str, float] = {}
    for item, row in zip(shown.request.classes, shown.result.influence, strict=True):
        if len(item.images) >= _ENOUGH_TO_JUDGE:
            out |= {i.sha256: loss for i, loss in zip(item.images, row, strict=True) if loss > limit}
    return out


def interval(estimate: Estimate) -> tuple[str, str]:
    """An estimate as text: ``0.86`` and ``(0.60–0.96)``."""
    return f"{estimate.accuracy:.2f}", f"({estimate.low:.2f}–{estimate.high:.2f})"
