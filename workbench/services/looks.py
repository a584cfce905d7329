"""What one piece of knowledge makes of a few examples: its features, similarity, and answers to left-out ones.

Each thread remembers its looks, since every edit asks for them again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import Estimate, ImageRef, TaskClass
from workbench.learn.calibrate import compares_means, expected_temperature, task_temperatures
from workbench.learn.features import FeatureCache
from workbench.learn.influence import at_once
from workbench.learn.leaving_out import HeldOut, held_out
from workbench.learn.protocol import Support
from workbench.services import knowledge as known
from workbench.services import made, views
from workbench.services.knowledge import Knowledge
from workbench.services.made import Made, See
from workbench.services.shelf import Shelf
from workbench.transfer import recipes
from workbench.transfer.estimate import estimate
from workbench.transfer.rank import Option
from workbench.transfer.recipes import Recipe
from workbench.transfer.represent import Representation, represent, similarity

SLOW_FOLDS = 3
"""Adaptations spent on left-out examples of a method that adapts by gradient steps."""
_ONE_BY_ONE = 100
"""Up to so many examples are left out one at a time, more in ten parts."""
_MANY_FOLDS = made.PARTS
_REMEMBERED = 256_000_000
"""Bytes that each thread's looks hold, beside the entries themselves."""

_AS_IT_IS = Recipe(None)


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
        temperature: fitted on those, held near ``typical``.
        losses: log-loss of each of those, nats ``[M]``.
        unlabelled: pictures without labels that help it to adapt, as its inputs or features; ``None``: none do.
        recipe: what is made of the knowledge, which is the entry's as it was trained until ``cast``.
        gain: what past tasks make one expect of it, in accuracy over the default.
        most: what its similarities count as at most.
        made: how its network was made of the examples, ``None`` for one that they had no share in.
        views: features ``[V S, D]`` of altered views of the examples, where these are few (``services/views.py``).
        typical: temperature that answers of its own head are held near.
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
    recipe: Recipe = _AS_IT_IS
    gain: float = 0.0
    most: float = 1.0
    made: Made | None = None
    views: Tensor | None = None
    typical: float = 1.0

    @property
    def gradient_based(self) -> bool:
        """Whether it adapts by gradient steps."""
        return "gradient-based" in self.knowledge.algorithm.info.tags

    @property
    def shown(self) -> tuple[Tensor, Tensor, int]:
        """Features of the examples and then of their views, labels of both, and in how many views each is shown."""
        y = self.support.y
        if self.views is None:
            return self.embedding, y, 1
        n = 1 + len(self.views) // len(y)
        return torch.cat([self.embedding, self.views]), y.repeat(n), n

    @property
    def likeness(self) -> float:
        """Similarity to the nearest of its sources, as it counts."""
        return min(max((value for _, value in self.similarities), default=0.0), self.most)

    def option(self, examples: tuple[int, ...]) -> Option:
        """As the choice sees it, judged on these examples (none: not judged)."""
        losses = dict(zip(self.left_out.rows.tolist(), self.losses.tolist(), strict=True))
        judged = tuple(losses[i] for i in examples) if examples and len(losses) else None
        k = self.knowledge
        return Option(k.id, k.name, self.similarities, judged, self.recipe.words, self.gain, self.most)

    def estimate(self, candidates: int, *, lost: float | None = None, before: bool = False) -> Estimate | None:
        """Left-out accuracy after (or ``before``) adapting; ``None`` while it cannot be estimated.

        Args:
            candidates: pieces of knowledge that this one was picked from by the same examples, itself included.
            lost: examples that it answers because it was chosen on them, where that is known.
            before: of the state before the first inner step.
        """
        logits = self.left_out.before if before else self.left_out.logits
        smallest = int(torch.bincount(self.support.y, minlength=self.support.ways).min())
        if smallest < 2 or logits is None or not len(self.left_out.rows):
            return None
        correct = (logits.argmax(1) == self.support.y[self.left_out.rows]).tolist()
        return estimate(correct, smallest, candidates, lost)


def _expected(knowledge: Knowledge, similarities: Sequence[tuple[str, float]], classes: Sequence[TaskClass]) -> float:
    """Temperature that answers are held near; of one example a class as unsure as the task is unlike the sources."""
    own = knowledge.figures["temperature"]
    if not similarities or max(len(c.images) for c in classes) > 1:
        return own
    return expected_temperature(own, max(value for _, value in similarities))


class UnfitError(Exception):
    """An entry cannot adapt to such a task, for example a fixed head to another number of classes."""

    def __init__(self, error: WorkbenchError) -> None:
        super().__init__(error)
        self.error = error


def _held(seen: Seen) -> Iterator[Tensor]:
    """All tensors a look keeps: of the examples, of what was made of them, and of a mixture, which no library has."""
    support, task = seen.support, () if seen.task is None else (seen.task.mean, seen.task.covariance)
    own = (support.x, support.y, support.features, seen.embedding, seen.unlabelled, seen.views, seen.losses)
    yield from (t for t in (*own, *task, *seen.left_out) if t is not None)
    if seen.made is not None:
        yield from seen.made.held()
    entry = seen.knowledge.entry
    if entry is not None and "mixed" in entry.provenance:
        yield from seen.knowledge.tensors()


_Key = tuple[object, ...]


class _Remembered(threading.local):
    """Earlier looks of this thread; they hold networks, which no two threads may share."""

    def __init__(self) -> None:
        self.looks: Shelf[Seen] = Shelf(_held)
        self.asking: WeakKeyDictionary[See, set[_Key]] = WeakKeyDictionary()
        """Looks by what they ask for features, and so by what they keep more of once it is asked again."""


_remembered = _Remembered()


@at_thread_end
def _forget() -> None:
    _remembered.looks.clear()


@made.at_growth
def _grown(see: See) -> None:
    _remembered.looks.count(_remembered.asking.get(see, ()), _REMEMBERED)


def key_of(knowledge: Knowledge, classes: tuple[TaskClass, ...], used: tuple[ImageRef, ...], what: object) -> _Key:
    """Under which a look at these examples is remembered; ``what`` says which look."""
    hashes = tuple(tuple(i.sha256 for i in c.images) for c in classes)
    together = tuple(sorted(i.sha256 for i in used))
    return what, knowledge.id, knowledge.digest, knowledge.preprocess.digest, hashes, together


def recall(key: _Key, knowledge: Knowledge) -> Seen | None:
    """An earlier look of this thread, if it was with this very knowledge."""
    found = _remembered.looks.get(key)
    # the knowledge is loaded anew when its card changed
    return found if found is not None and found.knowledge is knowledge else None


def remember(key: _Key, seen: Seen) -> Seen:
    """Keep a look; the ones longest unused go."""
    if seen.made is not None:
        _remembered.asking.setdefault(seen.made.see, set()).add(key)
    _remembered.looks.put(key, seen, _REMEMBERED)
    return seen


def look(
    knowledge: Knowledge,
    classes: tuple[TaskClass, ...],
    used: tuple[ImageRef, ...],
    cache: FeatureCache,
    ctx: Context,
    place: str = "",
) -> Seen:
    """What knowledge sees in the examples; ``UnfitError`` where it cannot adapt to such a task.

    ``place`` is said behind its name where somebody waits for several.
    """
    key = key_of(knowledge, classes, used, "looked")
    before = recall(key, knowledge)
    if before is not None:
        return before
    ctx.status(f"Looking with {knowledge.name}{place}")
    support = known.support_of(knowledge, tuple(c.images for c in classes), cache, ctx)
    try:
        embedding = known.embedding_of(knowledge, support, ctx)
    except WorkbenchError as error:
        raise UnfitError(error) from error
    task = represent(embedding)
    likeness = tuple((name, similarity(task, source)) for name, source in knowledge.sources)
    nothing = HeldOut(support.y.new_zeros(0), embedding.new_zeros((0, support.ways)), None)
    expected, centres = _expected(knowledge, likeness, classes), compares_means(knowledge.algorithm)
    start = task_temperatures(nothing, support.y, support.ways, expected, centres=centres).answers
    no_losses, unlabelled = embedding.new_zeros(0), known.unlabelled_of(knowledge, used, cache, ctx)
    seen = Seen(knowledge, support, embedding, task, likeness, nothing, start, no_losses, unlabelled, typical=expected)
    if knowledge.cacheable and unlabelled is None and views.wanted(classes):
        images = tuple(i for c in classes for i in c.images)
        seen = replace(seen, views=views.embed(knowledge, images, cache, ctx))
    return remember(key, seen)


def try_on(seen: Seen, classes: tuple[TaskClass, ...], unlabelled: tuple[ImageRef, ...], ctx: Context) -> Seen:
    """The same with its answers to left-out examples."""
    key = key_of(seen.knowledge, classes, () if seen.unlabelled is None else unlabelled, "tried")
    before = recall(key, seen.knowledge)
    if before is not None:
        return before
    k, support = seen.knowledge, seen.support
    if seen.gradient_based:
        ctx.status(f"Trying {k.name} on examples left out")
    pictures = [image.sha256 for c in classes for image in c.images]
    if seen.made is not None or seen.views is not None:
        found = _judged(seen, pictures, ctx)
        left_out = HeldOut(found.rows, found.logits.float(), None)
        temperature, losses = found.temperature, found.losses.float()
        return remember(key, replace(seen, left_out=left_out, temperature=temperature, losses=losses))
    folds = SLOW_FOLDS if seen.gradient_based else _MANY_FOLDS if len(support.y) > _ONE_BY_ONE else None
    plain = folds is None and seen.unlabelled is None and len(set(pictures)) == len(pictures)
    held = at_once(k.algorithm, k.state, support) if plain else None
    if held is None:
        held = held_out(k.algorithm, k.state, support, ctx, folds, pictures, seen.unlabelled)
    centres = compares_means(k.algorithm)
    fitted = task_temperatures(held, support.y, support.ways, seen.typical, folds, centres=centres)
    losses = F.cross_entropy(held.logits / fitted.left_out, support.y[held.rows], reduction="none")
    return remember(key, replace(seen, left_out=held, temperature=fitted.answers, losses=losses))


def _judged(seen: Seen, pictures: Sequence[str], ctx: Context) -> recipes.Judged:
    """Of a network that was made of the examples, or of an entry's own head on the examples and views of them."""
    k, support = seen.knowledge, seen.support
    if seen.made is not None:
        return made.answered(seen.made, k, seen.typical, support.y, support.ways, pictures, ctx)
    features, y, n = seen.shown
    keep, asked = recipes.masks(y, support.ways, list(pictures) * n)
    z = made.own_answers(k, features, y, support.ways, keep, asked, ctx)
    return recipes.judged(recipes.gathered(z, asked), y, seen.temperature, n)
