"""From a few examples to answers: rank what is known, choose, adapt, calibrate, predict.

``teach`` is called after every edit and reads everything from its request; nothing is kept but caches that may be lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workbench.core.context import Context
from workbench.core.threads import at_thread_end
from workbench.core.values import (
    Candidate,
    Estimate,
    ImageRef,
    KnowledgeEntry,
    Prediction,
    Problem,
    TaskClass,
)
from workbench.learn import quick
from workbench.learn.answer import Answering
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Adapted
from workbench.services import knowledge as known
from workbench.services import remembering
from workbench.services.answers import network, predict
from workbench.services.experience import experience
from workbench.services.judging import influences, together
from workbench.services.looks import Seen
from workbench.services.mixtures import STRATEGIES, with_mixtures
from workbench.services.nesting import lost_by_choosing
from workbench.services.pictures import caution
from workbench.services.survey import Survey, check_classes, common_examples, survey
from workbench.services.teach import WAYS, MapPoint, TeachRequest, TeachResult, method_words, used_together
from workbench.services.trying import cast, with_recipes
from workbench.transfer.map import place
from workbench.transfer.rank import Option, choose, shots_of, untried
from workbench.transfer.represent import represent

_STEP_PICTURES = 300
"""Pictures asked about in all positions of the slider; with more only the first and the last are shown."""
_POSITIONS = 11


@dataclass(frozen=True, slots=True)
class Taught:
    """The chosen knowledge, adapted.

    Attributes:
        seen: the chosen knowledge and what it makes of the examples.
        candidates: ranked, the chosen one first.
        reason: one sentence.
        strategy: how it was chosen, in a few words.
        picked_from: how many were judged on the examples to choose this one, itself included; of a mixture that was
            asked for, after how many numbers of steps.
        runner_up: what would have been used in its place, "" where there is nothing else.
        images: examples that decided, 0 where similarity alone did.
        adapted: fully.
        names: of the slider's positions (first: before, last: fully adapted).
        networks: what it sees, answering network and support embedding ``[S, D]``, per position.
        problems: knowledge that could not be used.
        lost: examples that it answers because it was chosen on them, ``None`` where that is not known.
    """

    seen: Seen
    candidates: tuple[Candidate, ...]
    reason: str
    strategy: str
    picked_from: int
    adapted: Adapted
    names: tuple[str, ...]
    networks: tuple[tuple[Seen, Answering, Tensor], ...]
    problems: tuple[Problem, ...]
    runner_up: str = ""
    images: int = 0
    lost: float | None = None

    def estimate(self) -> Estimate | None:
        """Accuracy of the adapted network, ``None`` while it cannot be estimated."""
        return self.seen.estimate(self.picked_from, lost=self.lost)


class _Last(threading.local):
    """The last adaptation of this thread: a new query asks the same network."""

    asked: tuple[str, bool, Survey] | None = None
    taught: Taught | None = None


_last = _Last()


@at_thread_end
def _forget() -> None:
    _last.asked = _last.taught = None


def adapt_to(
    classes: tuple[TaskClass, ...],
    project: Path,
    choice: str,
    cache: FeatureCache,
    ctx: Context,
    *,
    every_step: bool = True,
    named: tuple[KnowledgeEntry, Path] | None = None,
    unlabelled: tuple[ImageRef, ...] = (),
) -> Taught:
    """Choose knowledge for the examples and adapt it.

    Args:
        classes: with their examples.
        project: whose knowledge is looked through.
        choice: ``auto``, ``none``, an entry's id, or how to choose: ``teach.WAYS``.
        cache: of features.
        ctx: of the job.
        every_step: keep the networks of the slider's positions too, not only the last.
        named: a chosen entry that need not lie in the library, and its folder.
        unlabelled: pictures that a transductive method adapts with, if it is the chosen entry or nothing was chosen.

    Raises:
        WorkbenchError: fewer than two classes, an example that cannot be read, or the chosen entry cannot be used.
        JobCancelledError: asked to stop.
    """
    check_classes(classes)
    past = experience(project, classes, cache, ctx, named)
    found = survey(classes, project, "auto" if choice in WAYS else choice, cache, ctx, named, unlabelled, past)
    if choice in {"auto", "recipes"}:
        found = with_recipes(found, classes, cache, ctx)
    if choice == "auto" or choice in STRATEGIES:
        found = with_mixtures(found, classes, project, choice, cache, ctx)
    if _last.asked is not None and _last.taught is not None:
        before, steps, had = _last.asked
        # the survey hands out the very same looks as long as nothing changed
        same = len(had.seen) == len(found.seen) and all(a is b for a, b in zip(had.seen, found.seen, strict=True))
        if same and (before, steps) == (choice, every_step) and had._replace(seen=found.seen) == found:
            return _last.taught
    taught = _adapt(classes, found, choice, every_step, ctx)
    _last.asked, _last.taught = (choice, every_step, found), taught
    return taught


def _adapt(classes: tuple[TaskClass, ...], found: Survey, choice: str, every_step: bool, ctx: Context) -> Taught:
    seen = found.seen
    choice = "auto" if choice == "recipes" else choice
    counts = [len(c.images) for c in classes]
    alone = min(counts) < 2
    examples = () if alone else common_examples(seen)
    options = [s.option(examples) for s in seen]
    shots = 1 if alone else shots_of(counts)
    found_choice = choose(options, shots, choice, found.default, found.proven)
    candidates = found_choice.candidates + tuple(untried(o) for o in found.unseen)
    best = options[found_choice.chosen]
    chosen = together(cast(seen[found_choice.chosen], classes), classes, ctx)
    asked_for = choice == ("none" if best.entry_id is None else best.entry_id)
    judged = sum(o.loss is not None for o in options)

    def again(some: Sequence[Option]) -> int:
        return choose(some, shots, choice, found.default, found.proven).chosen

    compared = not asked_for and judged > 1
    lost = lost_by_choosing(seen, found_choice.chosen, chosen, classes, again, ctx) if compared else None
    if best.entry_id is None:
        strategy = "no transfer"
    elif best.entry_id in STRATEGIES:
        strategy = STRATEGIES[best.entry_id]
    elif asked_for:
        strategy = "asked for"
    else:
        strategy = f"recipes, by {'similarity and leave-one-out loss' if found_choice.images else 'similarity'}"
    ctx.status(f"Adapting {chosen.knowledge.name}")
    algorithm, state = chosen.knowledge.algorithm, chosen.knowledge.state
    slider = _Slider() if chosen.gradient_based and every_step else None
    pictures = [i.sha256 for c in classes for i in c.images]
    with quick.passes():
        adapted = algorithm.adapt(state, chosen.support, ctx, unlabelled=chosen.unlabelled, on_step=slider)
    if slider is not None:
        positions = slider.positions(adapted)
        names = tuple("Before" if j == 0 else f"After {j} step{'s' if j > 1 else ''}" for j, _ in positions)
        networks = tuple((chosen, *network(chosen, a, pictures)) for _, a in positions)
    else:
        names, networks = ("After adapting",), ((chosen, *network(chosen, adapted, pictures)),)
        plain = next(s for s in seen if s.knowledge.entry is None)
        if every_step and best.entry_id is not None:
            plain = together(plain, classes, ctx)
            with quick.passes():
                start = plain.knowledge.algorithm.adapt(plain.knowledge.state, plain.support, ctx)
            names = ("Without transfer", "With transfer")
            networks = ((plain, *network(plain, start, pictures)), *networks)
    return Taught(
        chosen,
        candidates,
        found_choice.reason,
        strategy,
        (1 if chosen.made is None else chosen.made.options) if asked_for else max(judged, 1),
        adapted,
        names,
        networks,
        found.problems,
        found_choice.runner_up,
        found_choice.images,
        lost,
    )


class _Slider:
    """Keeps the network before the first inner step, after the last one, and evenly between, at most eleven."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Adapted]] = []
        self._every = 1
        self._last = 0

    def __call__(self, step: int, adapted: Adapted) -> None:
        """After each inner step."""
        self._last = step
        if step % self._every == 0:
            self._kept.append((step, adapted))
        if len(self._kept) > 2 * _POSITIONS:
            self._kept = self._kept[::2]
            self._every *= 2

    def positions(self, adapted: Adapted) -> list[tuple[int, Adapted]]:
        """Step and network of each position."""
        kept = [p for p in self._kept if p[0] != self._last] + [(self._last, adapted)]
        if len(kept) <= _POSITIONS:
            return kept
        return [kept[round(i * (len(kept) - 1) / (_POSITIONS - 1))] for i in range(_POSITIONS)]


def remember(
    classes: tuple[TaskClass, ...],
    taught: Taught,
    predictions: Sequence[Prediction],
    project: Path,
    cache: FeatureCache,
    ctx: Context,
) -> None:
    """Leave the record of what ``adapt_to`` gave last; see :mod:`workbench.services.remembering`.

    Args:
        classes: with their examples.
        taught: of this thread; nothing is left of anything but its last adaptation.
        predictions: of the pictures that were asked about.
        project: that gets the record.
        cache: of features.
        ctx: of the job.
    """
    if _last.asked is not None and _last.taught is taught:
        used, looks = remembering.used_of(taught.seen), _last.asked[2].seen
        remembering.remember(classes, taught.candidates, used, looks, predictions, project, cache, ctx)


def teach(request: TeachRequest, project: Path, ctx: Context) -> TeachResult:
    """Represent, rank, choose, adapt, predict; the whole of the Teach room after one edit.

    Raises:
        WorkbenchError: fewer than two classes, an example that cannot be read, or the chosen entry cannot be used.
        JobCancelledError: a newer edit came.
    """
    begun = time.monotonic()
    cache = known.feature_cache()
    together = used_together(request)
    taught = adapt_to(request.classes, project, request.choice, cache, ctx, unlabelled=together)
    chosen = taught.seen
    images = tuple(i for c in request.classes for i in c.images)
    names, networks = taught.names, taught.networks
    if chosen.gradient_based and len(request.queries) * len(names) > _STEP_PICTURES and len(names) > 2:
        names, networks = (names[0], names[-1]), (networks[0], networks[-1])
    steps: list[tuple[Prediction, ...]] = []
    estimates: list[Estimate | None] = []
    problems = dict.fromkeys(taught.problems)
    ctx.status("Predicting")
    for n, (at, net, embedding) in enumerate(networks):
        ctx.check()
        predictions, unread = predict(net, at, embedding, images, request.queries, cache, ctx)
        steps.append(predictions)
        problems |= dict.fromkeys(unread)
        if n == len(networks) - 1:
            estimates.append(taught.estimate())
        elif at is not chosen:
            estimates.append(at.estimate(1))
        else:
            estimates.append(at.estimate(taught.picked_from, before=True) if n == 0 else None)
    flat = iter(influences(chosen))
    influence = tuple(tuple(next(flat) for _ in c.images) for c in request.classes)
    task = chosen.task if chosen.task is not None else represent(chosen.embedding)
    points = tuple(
        MapPoint(p.name, "this" if i == 0 else "source", p.x, p.y, p.similarity)
        for i, p in enumerate(place(task, chosen.knowledge.sources))
    )
    entry = chosen.knowledge.entry
    remember(request.classes, taught, steps[-1], project, cache, ctx)
    key = known.request_key(
        [(c.name, [i.sha256 for i in c.images]) for c in request.classes],
        request.choice,
        chosen.knowledge.digest + chosen.recipe.words,
        [] if chosen.unlabelled is None else sorted(i.sha256 for i in together),
    )
    return TeachResult(
        number=request.number,
        key=key,
        candidates=taught.candidates,
        reason=taught.reason,
        estimate=estimates[-1],
        step_names=names,
        steps=tuple(steps),
        step_estimates=tuple(estimates),
        gradient_based=chosen.gradient_based,
        influence=influence,
        points=points,
        seconds=time.monotonic() - begun,
        problems=tuple(problems),
        method=method_words(
            chosen.knowledge.algorithm.info.tags,
            entry.ways[1] if entry else None,
            exactly=entry is not None and entry.params.get("head") == "textbook",
            together=chosen.unlabelled is not None,
        ),
        caution=caution(images, entry),
        together=chosen.unlabelled is not None,
    )
