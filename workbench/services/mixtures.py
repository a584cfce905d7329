"""Mixtures of entries of one family as knowledge of their own: of their networks, or of their step sizes too.

A family is an entry of the library and those that were trained from it (``train --from``). What is mixed is a candidate
like any other: it is tried on the examples, adapted, written and opened as an entry of its algorithm would be.

A mixed network stands where its weights put it, with running averages measured again on the examples. Where it was
asked for it is fine-tuned near that place by as many steps as help the head that answers with examples that are left
out, which may be none (``services/tuning.py``). What is said of it is what networks say that were tuned without the
part that is asked about, by that number of steps, which all examples had a share in: so many numbers count as picked
from where its accuracy is estimated. As one of many candidates it is not tuned: that takes a training for each part,
seconds, and the others wait. For the same reason none is made with more than fifty examples unless it is asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.threads import at_thread_end
from workbench.core.values import EntryId, KnowledgeEntry, TaskClass
from workbench.learn import averaging, functional
from workbench.learn.features import FeatureCache, trunk_digest
from workbench.learn.protocol import State
from workbench.learn.registry import backbone
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services import recasting, tuning, views
from workbench.services.knowledge import Knowledge
from workbench.services.looks import Seen, UnfitError, key_of, look, recall, remember, try_on
from workbench.services.made import MOST, Found, Made, nbytes, once
from workbench.services.survey import Survey
from workbench.transfer import fine_tuning, mixing, step_sizes
from workbench.transfer.mixing import NULL
from workbench.transfer.rank import NO_TRANSFER_PRIOR
from workbench.transfer.recipes import Head, Recipe

NETWORKS, STEP_SIZES = "similarity", "optimiser"
"""The two forms, which are the ids of what is mixed as well."""
FORMS = (NETWORKS, STEP_SIZES)
STRATEGIES = {NETWORKS: "mixture by similarity", STEP_SIZES: "mixture of step sizes by similarity"}
_HOW = fine_tuning.Recipe(pictures=mixing.PICTURES)
_TUNED = 100
"""Examples up to which a mixture is fine-tuned, for the time it takes."""
_TRIED = MOST
"""Examples up to which a mixed network is a candidate that nobody asked for, after every edit of them: it is made anew
without each of up to ten parts of them, and each time all of them go through it. With fifty of 84 pixels that takes
about four seconds with Conv-4 and 35 with ResNet-12, on one core of a machine that does other work."""
_KEPT = 128_000_000
"""Bytes of mixtures that each thread keeps ready to use."""
_WHAT = "Nothing was adapted"


@dataclass(frozen=True, slots=True)
class _Family:
    """Cards of an ancestor and its descendants with their folders, and how alike the task is to each descendant."""

    ancestor: tuple[KnowledgeEntry, Path]
    members: tuple[tuple[KnowledgeEntry, Path], ...]
    similarities: Mapping[EntryId, float]

    @property
    def nearest(self) -> float:
        """Similarity of the most similar descendant."""
        return max(self.similarities.values())


_Mixed = tuple[Knowledge, Made | None]
"""A mixture, and how it was made of the examples."""


class _Made(threading.local):
    """Mixtures of this thread: the same examples are answered by the very same network."""

    def __init__(self) -> None:
        self.mixtures: OrderedDict[tuple[object, ...], _Mixed] = OrderedDict()


_made = _Made()


@at_thread_end
def _forget() -> None:
    _made.mixtures.clear()


def with_mixtures(
    found: Survey, classes: tuple[TaskClass, ...], project: Path, choice: str, cache: FeatureCache, ctx: Context
) -> Survey:
    """The survey with what can be mixed for the task, before "no transfer".

    Args:
        found: what was looked at.
        classes: with their examples.
        project: whose knowledge is looked through.
        choice: a form, which must be possible then, or anything else: what is possible. One example of a class says
            nothing of a mixture, so there is none then unless it is asked for.
        cache: of features.
        ctx: of the job.

    Raises:
        WorkbenchError: the form that was asked for is not possible here.
        JobCancelledError: asked to stop.
    """
    wanted = choice in FORMS
    if not wanted and min(len(c.images) for c in classes) < 2:
        return found
    library = Library(project)
    families = [f for f in _families(library, found) if wanted or f.nearest > NO_TRANSFER_PRIOR]
    if not families:
        if wanted:
            raise _no_family()
        return found
    out = []
    for form in FORMS:
        if wanted and form != choice:
            continue
        if not wanted and form == NETWORKS and sum(len(c.images) for c in classes) > _TRIED:
            continue
        try:
            knowledge, made = _of_best(form, families, library, classes, wanted, ctx)
            out.append(_judged(knowledge, made, classes, cache, ctx))
        except UnfitError as unfit:
            if wanted:
                raise unfit.error from None
        except WorkbenchError:
            if wanted:
                raise
    return found._replace(seen=[*found.seen[:-1], *out, *found.seen[-1:]])


def parts(entry: KnowledgeEntry | None) -> list[dict[str, Any]]:
    """What was mixed, heaviest first, with ``entry``, ``name``, ``weight`` and ``similarity``; none for an entry."""
    return [] if entry is None else list(entry.provenance.get("mixed", ()))


def similarities(found: Survey) -> dict[EntryId | None, float]:
    """How alike the task is to the nearest source of each entry, whether it was tried or not."""
    alike = {o.entry_id: o.nearest[1] or 0.0 for o in found.unseen}
    return alike | {s.knowledge.id: s.likeness for s in found.seen if s.recipe.own}


def _families(library: Library, found: Survey) -> list[_Family]:
    """Families of which some descendant was compared with the task, the most similar first; read from cards alone."""
    alike = similarities(found)
    placed = {entry.id: (entry, path) for entry, path in library.placed()}
    members: dict[EntryId, list[tuple[KnowledgeEntry, Path]]] = {}
    for entry, path in placed.values():
        start = EntryId(str(entry.provenance.get("ancestor_entry", "")))
        known_start = start in placed and entry.provenance.get("ancestor") and entry.id in alike
        if known_start and _shape(placed[start][0]) == _shape(entry):
            members.setdefault(start, []).append((entry, path))
    made = [
        _Family(placed[start], tuple(some), {e.id: alike[e.id] for e, _ in some}) for start, some in members.items()
    ]
    return sorted(made, key=lambda f: (-f.nearest, f.ancestor[0].id))


def _shape(entry: KnowledgeEntry) -> tuple[str, int]:
    """Networks of one shape can be mixed; the pictures' size is a matter of the head alone."""
    return entry.backbone, entry.preprocess.depth


def _of_best(
    form: str, families: list[_Family], library: Library, classes: tuple[TaskClass, ...], wanted: bool, ctx: Context
) -> _Mixed:
    """The mixture of the most similar family that this form is possible with; one that was asked for is tuned.

    Raises:
        WorkbenchError: there is none.
    """
    if form == NETWORKS:
        return _networks(families[0], library, classes, wanted, ctx)
    for family in families:
        loaded = dict(_loaded(family.members, library, ctx))
        learnt = {i: k for i, k in loaded.items() if step_sizes.table(k.state)}
        if learnt:
            return _step_sizes(family, learnt, library)
    raise WorkbenchError(
        _WHAT,
        "no entry that was trained from another one has learnt step sizes",
        "Train Meta-SGD or MAML++ from an entry of the same method (--from), or choose another way",
    )


def _loaded(
    placed: tuple[tuple[KnowledgeEntry, Path], ...], library: Library, ctx: Context
) -> Iterator[tuple[EntryId, Knowledge]]:
    for entry, path in placed:
        ctx.check()
        yield entry.id, known.load(entry, path, library)


def _networks(family: _Family, library: Library, classes: tuple[TaskClass, ...], wanted: bool, ctx: Context) -> _Mixed:
    """Form A: a mixed network, with running averages that the examples were asked about, and how it was made."""
    recipe = mixing.Recipe()
    weights = mixing.weights({str(i): v for i, v in family.similarities.items()}, recipe)
    ancestor = known.load(*family.ancestor, library)
    used = dict(_loaded(tuple(m for m in family.members if m[0].id in weights), library, ctx))
    images = tuple(i for c in classes for i in c.images)
    counts = [len(c.images) for c in classes]
    pictures = [i.sha256 for i in images]
    tuned = wanted and min(counts) > 1 and len(images) <= _TUNED
    key = _key(NETWORKS, ancestor, used, weights, *pictures, *(str(n) for n in counts), str(tuned))
    before = _recalled(key)
    if before is not None:
        return before
    network = _network(ancestor)
    trunks = tuple(mixing.trunk_of(network, k.state, i, _mark(k)) for i, k in used.items())
    mixture = mixing.mixed(mixing.Family(mixing.trunk_of(network, ancestor.state, NULL), trunks), weights)
    leader = _leader(ancestor, used, weights)
    x = known.to_tensor(images, leader.preprocess)
    closed = _closed(leader)

    def assembled(trunk: mixing.Trunk, steps: int) -> Knowledge:
        state = _with_trunk(leader.state, trunk)
        whole = _assembled(NETWORKS, state, leader, ancestor, used, family, weights, steps)
        if not closed:
            return whole
        return replace(recasting.recast(whole, Recipe(whole.id, head="ridge")), name=whole.name)

    more, found = views.inputs(leader.preprocess, classes), Found()
    head: Head | None = "ridge" if closed else None
    shown = (len(x) + len(more)) // len(x)
    y, steps, options = torch.tensor([k for k, n in enumerate(counts) for _ in range(n)]), 0, 1
    start = tuning.Start(network, mixture.trunk, x, more, y, len(classes), _HOW)
    measuring = mixing.measuring(network, mixture.trunk, x, more, recipe.pictures)
    if tuned:
        steps, found = tuning.search(start, head, shown, assembled(mixture.trunk, 0), pictures, ctx)
        options = len(_HOW.steps)
    trunk = start.ended(steps, ctx) if steps else mixing.restated(network, mixture.trunk, x, recipe.pictures, ctx)
    whole = assembled(trunk, steps)
    see = once((lambda kept, ctx: start.along(kept, (steps,), ctx)[0]) if steps else measuring, found)
    made = Made(
        lambda _: whole,  # no task changes what the head has of its own
        see,
        head,
        shown,
        options,
        lambda: (x, more, *mixture.trunk.tensors.values(), *found.values()),
    )
    return _remembered(key, whole, made)


def _closed(leader: Knowledge) -> bool:
    """Whether a mixed network answers by a ridge head: its own steps, changes its network or holds networks besides.

    Mixed steps are the other form.
    """
    steps = "gradient-based" in leader.algorithm.info.tags
    beside = any(n.startswith((averaging.ANCESTOR, averaging.DELTA)) for part in leader.state for n in part)
    return steps or not leader.cacheable or beside


def _with_trunk(state: State, trunk: mixing.Trunk) -> State:
    """A state with the tensors of another trunk of its kind."""
    named = functional.named(trunk.tensors)
    return State(*({n: named.get(n, t) for n, t in part.items()} for part in state))


def _step_sizes(family: _Family, learnt: dict[EntryId, Knowledge], library: Library) -> _Mixed:
    """Form B: start and step sizes mixed with one set of weights, under the entries' own algorithm."""
    first = max(learnt, key=lambda i: (family.similarities[i], i))
    how = learnt[first].algorithm
    alike = {i: k for i, k in learnt.items() if k.algorithm.info == how.info and k.algorithm.p == how.p}
    weights = mixing.weights({str(i): family.similarities[i] for i in alike}, mixing.Recipe())
    used = {i: k for i, k in alike.items() if i in weights}
    ancestor = known.load(*family.ancestor, library)
    key = _key(STEP_SIZES, ancestor, used, weights)
    before = _recalled(key)
    if before is not None:
        return before
    states: dict[str, State] = {NULL: ancestor.state} | {str(i): k.state for i, k in used.items()}
    state = step_sizes.mixed_state(_network(ancestor), states, {i: _mark(k) for i, k in used.items()}, weights)
    leader = _leader(ancestor, used, weights)
    return _remembered(key, _assembled(STEP_SIZES, state, leader, ancestor, used, family, weights), None)


def _leader(ancestor: Knowledge, used: Mapping[EntryId, Knowledge], weights: Mapping[str, float]) -> Knowledge:
    """The heaviest descendant, whose algorithm and pictures the mixture has; the ancestor where nothing resembles."""
    return used[max(used, key=lambda i: (weights[i], i))] if used else ancestor


def _assembled(
    form: str,
    state: State,
    leader: Knowledge,
    ancestor: Knowledge,
    used: Mapping[EntryId, Knowledge],
    family: _Family,
    weights: Mapping[str, float],
    steps: int = 0,
) -> Knowledge:
    """The mixture as knowledge with a card of its own; the heaviest one's temperature stands for its own."""
    card = leader.entry
    assert card is not None, "members of a family lie in the library"
    order = sorted(used, key=lambda i: (-weights[i], i))
    mixed = [_part(used[i], weights[i], family.similarities[i]) for i in order]
    if NULL in weights:
        mixed.append(_part(ancestor, weights[NULL], None))
    names = [used[i].name for i in order]
    if len(names) < 2:
        names.append(ancestor.name)
    name = f"Mix of {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"Mix of {names[0]}"
    name += f", fine-tuned by {steps} steps" if steps else ""
    sources = {s.fingerprint: s for k in used.values() if k.entry is not None for s in k.entry.sources}
    entry = replace(
        card,
        id=EntryId(form),
        name=name,
        sources=tuple(sources.values()) or card.sources,
        validation=None,
        weights_sha256="",
        calibration={n: v for n, v in card.calibration.items() if n == "temperature"},
        provenance={"mixed": mixed, "tuned": steps},
    )
    digest, trunk = trunk_digest(state), leader.algorithm.trunk(state)
    return Knowledge(entry, name, leader.algorithm, state, leader.preprocess, digest, (), trunk)


def _part(knowledge: Knowledge, weight: float, similarity: float | None) -> dict[str, Any]:
    return {"entry": knowledge.id, "name": knowledge.name, "weight": weight, "similarity": similarity}


def _mark(knowledge: Knowledge) -> str:
    return "" if knowledge.entry is None else str(knowledge.entry.provenance.get("ancestor", ""))


def _network(knowledge: Knowledge) -> nn.Module:
    setting = knowledge.algorithm.setting
    return backbone(setting.backbone).skeleton(setting.channels, setting.size)


def _key(
    form: str, ancestor: Knowledge, used: Mapping[EntryId, Knowledge], weights: Mapping[str, float], *images: str
) -> tuple[object, ...]:
    members = tuple((i, k.digest, k.name, _mark(k)) for i, k in sorted(used.items()))
    return form, ancestor.id, ancestor.digest, members, tuple(sorted(weights.items())), images


def _recalled(key: tuple[object, ...]) -> _Mixed | None:
    found = _made.mixtures.get(key)
    if found is not None:
        _made.mixtures.move_to_end(key)
    return found


def _remembered(key: tuple[object, ...], knowledge: Knowledge, made: Made | None) -> _Mixed:
    _made.mixtures[key] = knowledge, made
    while len(_made.mixtures) > 1 and nbytes(t for m in _made.mixtures.values() for t in _held(*m)) > _KEPT:
        _made.mixtures.popitem(last=False)
    return knowledge, made


def _held(knowledge: Knowledge, made: Made | None) -> Iterator[Tensor]:
    yield from knowledge.tensors()
    if made is not None:
        yield from made.held()


def _judged(
    knowledge: Knowledge, made: Made | None, classes: tuple[TaskClass, ...], cache: FeatureCache, ctx: Context
) -> Seen:
    """The mixture on the examples; what is expected of it is what is expected of the most similar one in it."""
    key = key_of(knowledge, classes, (), "mixed")
    before = recall(key, knowledge)
    if before is not None:
        return before
    seen = try_on(replace(look(knowledge, classes, (), cache, ctx), made=made), classes, (), ctx)
    near = tuple(
        (str(p["name"]), float(p["similarity"])) for p in parts(knowledge.entry) if p["similarity"] is not None
    )
    return remember(key, replace(seen, similarities=near))


def _no_family() -> WorkbenchError:
    return WorkbenchError(
        _WHAT,
        "no entry was trained from another one that is still here, and only such a family can be mixed",
        "Train an entry from another one (--from), or choose another way",
    )
