"""What the benchmark of honest estimates asks: tasks out of folders, taught and asked about by the product's services.

A task is drawn from one group: an alphabet, or a folder of classes. Its examples and its queries are pictures as a
person would give them, and all goes through ``services.teaching``, so that what is measured is what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workbench.core.context import Context
from workbench.core.values import EntryId, Estimate, ImageRef, KnowledgeEntry, Prediction, TaskClass
from workbench.data.scan import scan
from workbench.services import knowledge, teaching
from workbench.services.teach import TeachRequest

Group = tuple[TaskClass, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """Groups of classes that tasks are drawn from, each task from one group."""

    name: str
    groups: tuple[Group, ...]


class Drawn(NamedTuple):
    """A task: classes with examples, queries, the place of each query's class (``ways`` and above: withheld)."""

    classes: Group
    queries: tuple[ImageRef, ...]
    truth: tuple[int, ...]


class Answered(NamedTuple):
    """What the product said of a task: one answer a query, its estimate, what was chosen, out of how many."""

    predictions: tuple[Prediction, ...]
    estimate: Estimate | None
    chosen: EntryId | None
    tried: int


def domain(name: str, path: Path, entries: Sequence[KnowledgeEntry]) -> Domain:
    """The groups of a folder or archive, without the tasks that any of the entries was trained on.

    Args:
        name: of the domain.
        path: the folder or archive.
        entries: everything that may be chosen.

    Raises:
        SystemExit: nothing is left to ask about.
    """
    seen = {source.name for entry in entries for source in entry.sources}
    groups = tuple(t.classes for t in scan((str(path),), Context()).tasks if t.name not in seen and len(t.classes) > 1)
    if not groups:
        raise SystemExit(
            f"Nothing of {path} is left to ask about: knowledge that may be chosen was trained on all of it"
        )
    return Domain(name, groups)


def draw(
    where: Domain, rng: np.random.Generator, ways: int, shots: int, queries: int | None, withheld: int = 0
) -> Drawn:
    """A task: ``ways`` classes of one group, ``shots`` examples and ``queries`` (``None``: all others) of each.

    Args:
        where: of the classes; a group with too few of them is not drawn.
        rng: of all randomness.
        ways: classes taught.
        shots: examples per class.
        queries: per class.
        withheld: classes that are asked about and not taught.
    """
    groups = [g for g in where.groups if len(g) >= ways + withheld]
    group = groups[int(rng.integers(len(groups)))]
    picked = [group[i] for i in rng.permutation(len(group))[: ways + withheld]]
    classes, asked, truth = [], [], []
    for place, one in enumerate(picked):
        images = [one.images[i] for i in rng.permutation(len(one.images))]
        if place < ways:
            classes.append(replace(one, images=tuple(images[:shots])))
            images = images[shots:]
        images = images[:queries]
        asked += images
        truth += [place] * len(images)
    return Drawn(tuple(classes), tuple(asked), tuple(truth))


def mislabel(task: Drawn, rng: np.random.Generator) -> tuple[Drawn, tuple[int, int]]:
    """The same task with one example replaced by a picture of another class; its class and place."""
    wrong, own = (int(c) for c in rng.permutation(len(task.classes))[:2])
    strangers = [q for q, t in zip(task.queries, task.truth, strict=True) if t == own]
    planted = strangers[int(rng.integers(len(strangers)))]
    place = int(rng.integers(len(task.classes[wrong].images)))
    images = list(task.classes[wrong].images)
    images[place] = planted
    classes = tuple(replace(c, images=tuple(images)) if i == wrong else c for i, c in enumerate(task.classes))
    return Drawn(classes, (), ()), (wrong, place)


def answered(task: Drawn, project: Path, choice: str, ctx: Context) -> Answered:
    """Teach the task and ask about its queries.

    Raises:
        WorkbenchError: what is chosen cannot be used, or a picture cannot be read.
    """
    cache = knowledge.feature_cache()
    taught = teaching.adapt_to(task.classes, project, choice, cache, ctx, every_step=False)
    at, net, embedding = taught.networks[-1]
    support = tuple(image for c in task.classes for image in c.images)
    predictions, problems = teaching.predict(net, at, embedding, support, task.queries, cache, ctx)
    if problems:
        raise SystemExit(f"{problems[0].path}: {problems[0].reason}")
    return Answered(predictions, taught.estimate(), at.knowledge.id, taught.picked_from)


def influences(task: Drawn, project: Path, choice: str, ctx: Context) -> tuple[tuple[float | None, ...], ...]:
    """The influence of each example as the Teach room shows it."""
    return teaching.teach(TeachRequest(1, task.classes, (), choice), project, ctx).influence


# ---- measures --------------------------------------------------------------------------------------------------------
def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap of accuracy and confidence over equal bins of confidence.

    Raises:
        ValueError: no answers.
    """
    if not len(confidence):
        raise ValueError("no answers")
    c, r = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.minimum((c * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, c - r, minlength=bins)
    return float(np.abs(gaps).sum() / len(c))


def area(known: Sequence[float], unknown: Sequence[float]) -> float:
    """Area under the receiver's curve: how often an unknown picture scores above a known one, ties count half.

    Raises:
        ValueError: none of one of the two.
    """
    if not len(known) or not len(unknown):
        raise ValueError("an area needs pictures of both kinds")
    scores = np.sort(np.asarray(known, dtype=np.float64))
    asked = np.asarray(unknown, dtype=np.float64)
    below, upto = np.searchsorted(scores, asked, "left"), np.searchsorted(scores, asked, "right")
    return float((below + upto).mean() / (2 * len(scores)))
