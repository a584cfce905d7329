"""What every piece of knowledge makes of a few examples: its features, similarity, and answers to left-out ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import Estimate, Preprocess, TaskClass
from workbench.learn.calibrate import HeldOut, fit_temperature, held_out
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Support
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.transfer.estimate import estimate
from workbench.transfer.rank import Option
from workbench.transfer.represent import represent, similarity

_SLOW_FOLDS = 3
"""Adaptations spent on left-out examples of a method that adapts by gradient steps."""
_SLOW_TRIED = 2
"""How many of such methods are tried at all: the most similar ones."""
_ONE_BY_ONE = 100
"""Up to so many examples are left out one at a time."""
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One piece of knowledge and what it makes of the support set.

    Attributes:
        knowledge: the entry.
        support: the examples as its inputs or features.
        embedding: ``[S, D]`` before adapting.
        similarities: to each of its sources.
        left_out: its answers to examples it was not shown.
        temperature: fitted on those, held near the entry's own.
        losses: log-loss of each of those, nats ``[M]``.
    """

    knowledge: Knowledge
    support: Support
    embedding: Tensor
    similarities: tuple[tuple[str, float], ...]
    left_out: HeldOut
    temperature: float
    losses: Tensor

    @property
    def gradient_based(self) -> bool:
        """Whether it adapts by gradient steps."""
        return "gradient-based" in self.knowledge.algorithm.info.tags

    def option(self, examples: tuple[int, ...]) -> Option:
        """As the choice sees it, judged on these examples (none: not judged)."""
        losses = dict(zip(self.left_out.index.tolist(), self.losses.tolist(), strict=True))
        judged = tuple(losses[i] for i in examples) if examples and len(losses) else None
        return Option(self.knowledge.id, self.knowledge.name, self.similarities, judged)

    def estimate(self, candidates: int, *, before: bool = False) -> Estimate | None:
        """Left-out accuracy after (or ``before``) adapting; ``None`` while it cannot be estimated."""
        logits = self.left_out.before if before else self.left_out.logits
        smallest = int(torch.bincount(self.support.y, minlength=self.support.ways).min())
        if smallest < 2 or logits is None or not len(self.left_out.index):
            return None
        correct = (logits.argmax(1) == self.support.y[self.left_out.index]).tolist()
        return estimate(correct, smallest, candidates)


_remembered: OrderedDict[tuple[object, ...], Seen] = OrderedDict()
_lock = threading.Lock()


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


def survey(classes: tuple[TaskClass, ...], project: Path, choice: str, cache: FeatureCache, ctx: Context) -> list[Seen]:
    """What every known entry, and the branch that transfers nothing (last), makes of the examples.

    Methods that adapt by gradient steps are tried on left-out examples only where they are among the most similar, or
    chosen: each adaptation costs a second.
    """
    library = Library(project)
    every = [known.load(entry, library.path_of(entry.id), library) for entry in library.entries()]
    every.append(known.untrained(every[0].preprocess if every else Preprocess()))
    looked = []
    for knowledge in every:
        ctx.check()
        looked.append(_look(knowledge, classes, cache, ctx))
    slow = sorted(
        (s for s in looked if s.gradient_based), key=lambda s: -max((v for _, v in s.similarities), default=0.0)
    )
    tried = {id(s) for s in slow[:_SLOW_TRIED]}
    return [
        _tried(s, classes, ctx) if not s.gradient_based or id(s) in tried or choice == s.knowledge.id else s
        for s in looked
    ]


def common_examples(seen: list[Seen]) -> tuple[int, ...]:
    """The examples that were left out for everything that was tried, so that losses can be compared in pairs."""
    sets = [set(s.left_out.index.tolist()) for s in seen if len(s.left_out.index)]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _key(knowledge: Knowledge, classes: tuple[TaskClass, ...], what: str) -> tuple[object, ...]:
    entry = "" if knowledge.entry is None else knowledge.entry.weights_sha256
    hashes = tuple(tuple(i.sha256 for i in c.images) for c in classes)
    return what, entry, knowledge.digest, knowledge.preprocess.digest, hashes


def _recall(key: tuple[object, ...]) -> Seen | None:
    with _lock:
        found = _remembered.get(key)
        if found is not None:
            _remembered.move_to_end(key)
        return found


def _remember(key: tuple[object, ...], seen: Seen) -> Seen:
    with _lock:
        _remembered[key] = seen
        while len(_remembered) > _REMEMBERED:
            _remembered.popitem(last=False)
    return seen


def _look(knowledge: Knowledge, classes: tuple[TaskClass, ...], cache: FeatureCache, ctx: Context) -> Seen:
    key = _key(knowledge, classes, "looked")
    before = _recall(key)
    if before is not None:
        return before
    ctx.status(f"Looking through {knowledge.name}")
    support, embedding = known.support_of(knowledge, tuple(c.images for c in classes), cache, ctx)
    task = represent(embedding)
    likeness = tuple((name, similarity(task, source)) for name, source in knowledge.sources)
    nothing = HeldOut(support.y.new_zeros(0), embedding.new_zeros((0, support.ways)), None)
    start = knowledge.calibration("temperature", 1.0)
    return _remember(key, Seen(knowledge, support, embedding, likeness, nothing, start, embedding.new_zeros(0)))


def _tried(seen: Seen, classes: tuple[TaskClass, ...], ctx: Context) -> Seen:
    key = _key(seen.knowledge, classes, "tried")
    before = _recall(key)
    if before is not None:
        return before
    k, support = seen.knowledge, seen.support
    folds = _SLOW_FOLDS if seen.gradient_based or len(support.y) > _ONE_BY_ONE else None
    left_out = held_out(k.algorithm, k.state, support, ctx, folds)
    temperature = seen.temperature
    y = support.y[left_out.index]
    if len(y):
        temperature = fit_temperature(left_out.logits, y, temperature)
    losses = F.cross_entropy(left_out.logits / temperature, y, reduction="none")
    return _remember(key, Seen(k, support, seen.embedding, seen.similarities, left_out, temperature, losses))
