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
from workbench.core.values import EntryId, Estimate, ImageRef, KnowledgeEntry, Problem, TaskClass
from workbench.learn.calibrate import HeldOut, fit_temperature, held_out
from workbench.learn.features import FeatureCache
from workbench.learn.influence import at_once
from workbench.learn.protocol import Support
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.transfer.estimate import estimate
from workbench.transfer.prior import Experience
from workbench.transfer.rank import Option
from workbench.transfer.recipes import Recipe
from workbench.transfer.represent import Representation, represent, similarity

_SLOW_FOLDS = 3
"""Adaptations spent on left-out examples of a method that adapts by gradient steps."""
_SLOW_TRIED = 2
"""How many of such methods are tried at all: the most similar ones."""
_ONE_BY_ONE = 100
"""Up to so many examples are left out one at a time, more in ten parts."""
_MANY_FOLDS = 10
_SHORT_LIST = 8
"""Entries whose networks are tried on the examples: those with the largest priors."""
_REMEMBERED = 256_000_000
"""Bytes of examples that each thread remembers."""

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
        temperature: fitted on those, held near the entry's own.
        losses: log-loss of each of those, nats ``[M]``.
        unlabelled: pictures without labels that help it to adapt, as its inputs or features; ``None``: none do.
        recipe: what is made of the knowledge, which is the entry's as it was trained until ``cast``.
        gain: what past tasks make one expect of it, in accuracy over the default.
        most: what its similarities count as at most.
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

    @property
    def gradient_based(self) -> bool:
        """Whether it adapts by gradient steps."""
        return "gradient-based" in self.knowledge.algorithm.info.tags

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


class Survey(NamedTuple):
    """What was looked at.

    Attributes:
        seen: entries as they are, what else can be made of them, and "no transfer" last.
        problems: the entries that could not be used, with the reason.
        default: index of what is used where nothing speaks against it, ``None`` where nothing is known.
        unseen: the entries that were not tried, since others are more likely to help.
        proven: whether past tasks speak for the default.
    """

    seen: list[Seen]
    problems: tuple[Problem, ...]
    default: int | None = None
    unseen: tuple[Option, ...] = ()
    proven: bool = False


class UnfitError(Exception):
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
        why = "a choice needs at least two classes with an example"
        raise WorkbenchError("Nothing was adapted", why, "Add another class")
    for c in classes:
        if not c.images:
            why = f"{c.name} has no readable example"
            raise WorkbenchError("Nothing was adapted", why, "Add a picture to it or delete it")


def survey(
    classes: tuple[TaskClass, ...],
    project: Path,
    choice: str,
    cache: FeatureCache,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None = None,
    unlabelled: tuple[ImageRef, ...] = (),
    past: Experience | None = None,
) -> Survey:
    """What the eight likeliest entries, and the branch that transfers nothing (last), make of the examples.

    Methods that adapt by gradient steps are tried on left-out examples only where they are among the most similar, the
    default or chosen: each adaptation costs a second. An entry that cannot be used is left out and listed, unless it
    was chosen.

    Args:
        classes: with their examples.
        project: whose knowledge is looked through first.
        choice: ``auto``, ``none`` or an entry's id.
        cache: of features.
        ctx: of the job.
        named: a chosen entry and its folder, which need not lie in the library.
        unlabelled: pictures that a transductive method adapts with, if it is the chosen entry or nothing was chosen.
        past: what is known beforehand.

    Raises:
        WorkbenchError: the chosen entry cannot be used, or an example cannot be read.
    """
    past = past or Experience()
    wanted, unseen = _short_list(project, classes, choice, past, cache, ctx, named)
    everything, problems = knowledge_of(project, choice, ctx, named, wanted)
    looked = []
    for knowledge in everything:
        ctx.check()
        try:
            used = unlabelled if knowledge.transductive and choice in {"auto", knowledge.id} else ()
            seen = look(knowledge, classes, used, cache, ctx)
        except UnfitError as unfit:
            if choice == knowledge.id:
                raise unfit.error from None
            problems.append(Problem(knowledge.name, unfit.error.why, "ignored"))
            continue
        looked.append(seen)
    # the default is always tried: others can replace it only for what they do better on the same examples
    slow = sorted((s for s in looked if s.gradient_based), key=lambda s: (s.knowledge.id != past.default, -s.likeness))
    tried = {id(s) for s in slow[:_SLOW_TRIED]}
    found = [
        s
        if s.gradient_based and id(s) not in tried and choice != s.knowledge.id
        else try_on(s, classes, unlabelled, ctx)
        for s in looked
    ]
    found = [_expected(s, classes, past) for s in found]
    ids = [s.knowledge.id for s in found]
    default = ids.index(past.default) if past.default is not None and past.default in ids else None
    return Survey(found, tuple(problems), default, unseen, past.proven)


def _expected(seen: Seen, classes: tuple[TaskClass, ...], past: Experience) -> Seen:
    """With the similarities under the probe where it knows the entry, and what past tasks make one expect."""
    k = seen.knowledge
    if k.id is None:
        return seen
    under, gain = past.similarities.get(k.id, ()), past.gains.get(k.id, 0.0)
    most = 1.0 if under else past.most
    if not under and not gain and most == 1.0:
        return seen
    key = key_of(k, classes, (), ("expected", under, gain, most))
    before = recall(key, k)
    if before is not None and before.left_out is seen.left_out:
        return before
    return remember(key, replace(seen, similarities=under or seen.similarities, gain=gain, most=most))


def _short_list(
    project: Path,
    classes: tuple[TaskClass, ...],
    choice: str,
    past: Experience,
    cache: FeatureCache,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None,
) -> tuple[frozenset[EntryId] | None, tuple[Option, ...]]:
    """The entries with the largest priors, the default and the chosen one among them; ``None``: all, and the others.

    Where the probe does not know an entry, its own network is asked about one picture of each class. Those that it
    does know need not even be read.
    """
    library = Library(project)
    entries = _placed(library, named)
    if len(entries) <= _SHORT_LIST:
        return None, ()
    options: dict[EntryId, Option] = {}
    few = tuple(replace(c, images=c.images[:1]) for c in classes)
    for entry, path in entries:
        found, most = past.similarities.get(entry.id), 1.0
        if not found:
            most = past.most
            ctx.check()
            try:
                found = look(known.load(entry, path, library), few, (), cache, ctx).similarities
            except (WorkbenchError, UnfitError):
                found = ()  # whether it can be used is found out if it is wanted
        options[entry.id] = Option(entry.id, entry.name, found, None, gain=past.gains.get(entry.id, 0.0), most=most)
    first = {choice, past.default}
    kept = frozenset(sorted(options, key=lambda e: (e not in first, -options[e].prior))[:_SHORT_LIST])
    return kept, tuple(o for e, o in options.items() if e not in kept)


def _placed(library: Library, named: tuple[KnowledgeEntry, Path] | None) -> list[tuple[KnowledgeEntry, Path]]:
    entries = list(library.placed())
    if named is not None and all(entry.id != named[0].id for entry, _ in entries):
        entries.insert(0, named)
    return entries


def knowledge_of(
    project: Path,
    choice: str,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None = None,
    wanted: frozenset[EntryId] | None = None,
) -> tuple[list[Knowledge], list[Problem]]:
    """Everything known (or ``wanted``), ready to use, and the entries that are not with the reason; see ``survey``.

    Raises:
        WorkbenchError: the chosen entry cannot be used.
    """
    library = Library(project)
    entries = _placed(library, named)
    everything, problems = [], list(library.problems)
    for entry, path in entries:
        if wanted is not None and entry.id not in wanted:
            continue
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


def key_of(
    knowledge: Knowledge, classes: tuple[TaskClass, ...], used: tuple[ImageRef, ...], what: object
) -> tuple[object, ...]:
    """Under which a look at these examples is remembered; ``what`` says which look."""
    hashes = tuple(tuple(i.sha256 for i in c.images) for c in classes)
    together = tuple(sorted(i.sha256 for i in used))
    return what, knowledge.id, knowledge.digest, knowledge.preprocess.digest, hashes, together


def recall(key: tuple[object, ...], knowledge: Knowledge) -> Seen | None:
    """An earlier look of this thread, if it was with this very knowledge."""
    found = _remembered.looks.get(key)
    # the knowledge is loaded anew when its card changed
    if found is None or found.knowledge is not knowledge:
        return None
    _remembered.looks.move_to_end(key)
    return found


def remember(key: tuple[object, ...], seen: Seen) -> Seen:
    """Keep a look; the ones longest unused go."""
    looks = _remembered.looks
    looks[key] = seen
    looks.move_to_end(key)
    while len(looks) > 1 and sum(_bytes(s) for s in looks.values()) > _REMEMBERED:
        looks.popitem(last=False)
    return seen


def _bytes(seen: Seen) -> int:
    tensors = (seen.support.x, seen.embedding, seen.unlabelled)
    return sum(t.nbytes for t in tensors if t is not None)


def look(
    knowledge: Knowledge,
    classes: tuple[TaskClass, ...],
    used: tuple[ImageRef, ...],
    cache: FeatureCache,
    ctx: Context,
) -> Seen:
    """What knowledge sees in the examples; ``UnfitError`` where it cannot adapt to such a task."""
    key = key_of(knowledge, classes, used, "looked")
    before = recall(key, knowledge)
    if before is not None:
        return before
    ctx.status(f"Looking through {knowledge.name}")
    support = known.support_of(knowledge, tuple(c.images for c in classes), cache, ctx)
    try:
        embedding = known.embedding_of(knowledge, support, ctx)
    except WorkbenchError as error:
        raise UnfitError(error) from error
    task = represent(embedding)
    likeness = tuple((name, similarity(task, source)) for name, source in knowledge.sources)
    nothing = HeldOut(support.y.new_zeros(0), embedding.new_zeros((0, support.ways)), None)
    start = knowledge.figures["temperature"]
    no_losses, unlabelled = embedding.new_zeros(0), known.unlabelled_of(knowledge, used, cache, ctx)
    return remember(key, Seen(knowledge, support, embedding, task, likeness, nothing, start, no_losses, unlabelled))


def try_on(seen: Seen, classes: tuple[TaskClass, ...], unlabelled: tuple[ImageRef, ...], ctx: Context) -> Seen:
    """The same with its answers to left-out examples."""
    key = key_of(seen.knowledge, classes, () if seen.unlabelled is None else unlabelled, "tried")
    before = recall(key, seen.knowledge)
    if before is not None:
        return before
    k, support = seen.knowledge, seen.support
    folds = _SLOW_FOLDS if seen.gradient_based else _MANY_FOLDS if len(support.y) > _ONE_BY_ONE else None
    pictures = [image.sha256 for c in classes for image in c.images]
    plain = folds is None and seen.unlabelled is None and len(set(pictures)) == len(pictures)
    left_out = at_once(k.algorithm, k.state, support) if plain else None
    if left_out is None:
        left_out = held_out(k.algorithm, k.state, support, ctx, folds, pictures, seen.unlabelled)
    temperature = seen.temperature
    y = support.y[left_out.rows]
    if len(y):
        temperature = fit_temperature(left_out.logits, y, temperature)
    losses = F.cross_entropy(left_out.logits / temperature, y, reduction="none")
    return remember(key, replace(seen, left_out=left_out, temperature=temperature, losses=losses))
