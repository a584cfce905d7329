"""What every piece of knowledge makes of a few examples: its features, similarity, and answers to left-out ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import Estimate, ImageRef, KnowledgeEntry, Problem, TaskClass
from workbench.learn.calibrate import HeldOut, fit_temperature, held_out
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Support
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.transfer.estimate import estimate
from workbench.transfer.rank import Option
from workbench.transfer.represent import Representation, represent, similarity

_SLOW_FOLDS = 3
"""Adaptations spent on left-out examples of a method that adapts by gradient steps."""
_SLOW_TRIED = 2
"""How many of such methods are tried at all: the most similar ones."""
_ONE_BY_ONE = 100
"""Up to so many examples are left out one at a time, more in ten parts."""
_MANY_FOLDS = 10
_REMEMBERED = 256_000_000
"""Bytes of examples that each thread remembers."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One piece of knowledge and what it makes of the support set.

    Attributes:
        knowledge: the entry.
        support: the examples as its inputs or features.
        embedding: ``[S, D]`` before adapting.
        task: the same as mean and covariance, or ``None`` for a model that was opened.
        similarities: to each of its sources.
        left_out: its answers to examples it was not shown.
        temperature: fitted on those, held near the entry's own.
        losses: log-loss of each of those, nats ``[M]``.
        unlabelled: pictures without labels that help it to adapt, as its inputs or features; ``None``: none do.
    """

    knowledge: Knowledge
    support: Support
    embedding: Tensor
    task: Representation | None
    similarities: tuple[tuple[str, float], ...]
    left_out: HeldOut
    temperature: float
    losses: Tensor
    unlabelled: Tensor | None = None

    @property
    def gradient_based(self) -> bool:
        """Whether it adapts by gradient steps."""
        return "gradient-based" in self.knowledge.algorithm.info.tags

    @property
    def likeness(self) -> float:
        """Similarity to the nearest of its sources."""
        return max((value for _, value in self.similarities), default=0.0)

    def option(self, examples: tuple[int, ...]) -> Option:
        """As the choice sees it, judged on these examples (none: not judged)."""
        losses = dict(zip(self.left_out.rows.tolist(), self.losses.tolist(), strict=True))
        judged = tuple(losses[i] for i in examples) if examples and len(losses) else None
        return Option(self.knowledge.id, self.knowledge.name, self.similarities, judged)

    def estimate(self, candidates: int, *, before: bool = False) -> Estimate | None:
        """Left-out accuracy after (or ``before``) adapting; ``None`` while it cannot be estimated.

        Args:
            candidates: pieces of knowledge that this one was picked from by the same examples, itself included.
            before: of the state before the first inner step.
        """
        logits = self.left_out.before if before else self.left_out.logits
        smallest = int(torch.bincount(self.support.y, minlength=self.support.ways).min())
        if smallest < 2 or logits is None or not len(self.left_out.rows):
            return None
        correct = (logits.argmax(1) == self.support.y[self.left_out.rows]).tolist()
        return estimate(correct, smallest, candidates)


class Survey(NamedTuple):
    """What was looked at, "no transfer" last, and the entries that could not be used with the reason."""

    seen: list[Seen]
    problems: tuple[Problem, ...]


class _UnfitError(Exception):
    """An entry cannot adapt to such a task, for example a fixed head to another number of classes."""

    def __init__(self, error: WorkbenchError) -> None:
        super().__init__(error)
        self.error = error


class _Remembered(threading.local):
    """Earlier looks of this thread; they hold networks, which no two threads may share."""

    def __init__(self) -> None:
        self.looks: OrderedDict[tuple[object, ...], Seen] = OrderedDict()


_remembered = _Remembered()


@at_thread_end
def _forget() -> None:
    _remembered.looks.clear()


def check_classes(classes: tuple[TaskClass, ...]) -> None:
    """Refuse what cannot be taught.

    Raises:
        WorkbenchError: fewer than two classes, or a class without examples.
    """
    if len(classes) < 2:
        raise WorkbenchError(
            "Nothing was adapted", "a choice needs at least two classes with an example", "Add another class"
        )
    for c in classes:
        if not c.images:
            raise WorkbenchError(
                "Nothing was adapted", f"{c.name} has no readable example", "Add a picture to it or delete it"
            )


def survey(
    classes: tuple[TaskClass, ...],
    project: Path,
    choice: str,
    cache: FeatureCache,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None = None,
    unlabelled: tuple[ImageRef, ...] = (),
) -> Survey:
    """What every known entry, and the branch that transfers nothing (last), makes of the examples.

    Methods that adapt by gradient steps are tried on left-out examples only where they are among the most similar, or
    chosen: each adaptation costs a second. An entry that cannot be used is left out and listed, unless it was chosen.

    Args:
        classes: with their examples.
        project: whose knowledge is looked through first.
        choice: ``auto``, ``none`` or an entry's id.
        cache: of features.
        ctx: of the job.
        named: a chosen entry and its folder, which need not lie in the library.
        unlabelled: pictures that a transductive method adapts with, if it is the chosen entry or nothing was chosen.

    Raises:
        WorkbenchError: the chosen entry cannot be used, or an example cannot be read.
    """
    everything, problems = knowledge_of(project, choice, ctx, named)
    looked = []
    for knowledge in everything:
        ctx.check()
        try:
            used = unlabelled if knowledge.transductive and choice in {"auto", knowledge.id} else ()
            looked.append(_look(knowledge, classes, used, cache, ctx))
        except _UnfitError as unfit:
            if choice == knowledge.id:
                raise unfit.error from None
            problems.append(Problem(knowledge.name, unfit.error.why, "ignored"))
    slow = sorted((s for s in looked if s.gradient_based), key=lambda s: -s.likeness)
    tried = {id(s) for s in slow[:_SLOW_TRIED]}
    seen = [
        s
        if s.gradient_based and id(s) not in tried and choice != s.knowledge.id
        else _tried(s, classes, unlabelled, ctx)
        for s in looked
    ]
    return Survey(seen, tuple(problems))


def knowledge_of(
    project: Path, choice: str, ctx: Context, named: tuple[KnowledgeEntry, Path] | None = None
) -> tuple[list[Knowledge], list[Problem]]:
    """Everything known, ready to use, and the entries that are not with the reason; see ``survey``.

    Raises:
        WorkbenchError: the chosen entry cannot be used.
    """
    library = Library(project)
    entries = [(entry, library.path_of(entry.id)) for entry in library.entries()]
    if named is not None and all(entry.id != named[0].id for entry, _ in entries):
        entries.insert(0, named)
    everything, problems = [], list(library.problems)
    for entry, path in entries:
        ctx.check()
        try:
            everything.append(known.load(entry, path, library))
        except WorkbenchError as error:
            if choice == entry.id:
                raise
            problems.append(Problem(str(path), error.why, "error"))
    like = everything[0].preprocess if everything else None
    everything.append(known.untrained(known.plain_preprocess(like)))
    return everything, problems


def common_examples(seen: Sequence[Seen]) -> tuple[int, ...]:
    """The examples that were left out for everything that was tried, so that losses can be compared in pairs."""
    sets = [set(s.left_out.rows.tolist()) for s in seen if len(s.left_out.rows)]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _key(
    knowledge: Knowledge, classes: tuple[TaskClass, ...], used: tuple[ImageRef, ...], what: str
) -> tuple[object, ...]:
    hashes = tuple(tuple(i.sha256 for i in c.images) for c in classes)
    together = tuple(sorted(i.sha256 for i in used))
    return what, knowledge.id, knowledge.digest, knowledge.preprocess.digest, hashes, together


def _recall(key: tuple[object, ...], knowledge: Knowledge) -> Seen | None:
    found = _remembered.looks.get(key)
    # the knowledge is loaded anew when its card changed
    if found is None or found.knowledge is not knowledge:
        return None
    _remembered.looks.move_to_end(key)
    return found


def _remember(key: tuple[object, ...], seen: Seen) -> Seen:
    looks = _remembered.looks
    looks[key] = seen
    looks.move_to_end(key)
    while len(looks) > 1 and sum(_bytes(s) for s in looks.values()) > _REMEMBERED:
        looks.popitem(last=False)
    return seen


def _bytes(seen: Seen) -> int:
    tensors = (seen.support.x, seen.embedding, seen.unlabelled)
    return sum(t.nbytes for t in tensors if t is not None)


def _look(
    knowledge: Knowledge,
    classes: tuple[TaskClass, ...],
    used: tuple[ImageRef, ...],
    cache: FeatureCache,
    ctx: Context,
) -> Seen:
    key = _key(knowledge, classes, used, "looked")
    before = _recall(key, knowledge)
    if before is not None:
        return before
    ctx.status(f"Looking through {knowledge.name}")
    support = known.support_of(knowledge, tuple(c.images for c in classes), cache, ctx)
    try:
        embedding = known.embedding_of(knowledge, support, ctx)
    except WorkbenchError as error:
        raise _UnfitError(error) from error
    task = represent(embedding)
    likeness = tuple((name, similarity(task, source)) for name, source in knowledge.sources)
    nothing = HeldOut(support.y.new_zeros(0), embedding.new_zeros((0, support.ways)), None)
    start = knowledge.figures["temperature"]
    no_losses, unlabelled = embedding.new_zeros(0), known.unlabelled_of(knowledge, used, cache, ctx)
    return _remember(key, Seen(knowledge, support, embedding, task, likeness, nothing, start, no_losses, unlabelled))


def _tried(seen: Seen, classes: tuple[TaskClass, ...], unlabelled: tuple[ImageRef, ...], ctx: Context) -> Seen:
    key = _key(seen.knowledge, classes, () if seen.unlabelled is None else unlabelled, "tried")
    before = _recall(key, seen.knowledge)
    if before is not None:
        return before
    k, support = seen.knowledge, seen.support
    folds = _SLOW_FOLDS if seen.gradient_based else _MANY_FOLDS if len(support.y) > _ONE_BY_ONE else None
    pictures = [image.sha256 for c in classes for image in c.images]
    left_out = held_out(k.algorithm, k.state, support, ctx, folds, pictures, seen.unlabelled)
    temperature = seen.temperature
    y = support.y[left_out.rows]
    if len(y):
        temperature = fit_temperature(left_out.logits, y, temperature)
    losses = F.cross_entropy(left_out.logits / temperature, y, reduction="none")
    return _remember(key, replace(seen, left_out=left_out, temperature=temperature, losses=losses))
