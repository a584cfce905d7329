"""What else can be made of the entries that were looked at: their recipes, judged on the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.values import Preprocess, TaskClass
from workbench.learn.features import FeatureCache
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Support
from workbench.services import knowledge as known
from workbench.services import recasting, views
from workbench.services.knowledge import Knowledge
from workbench.services.looks import Seen, key_of, recall, remember
from workbench.services.made import Found, Made, See, few, judged, once
from workbench.services.survey import Survey
from workbench.transfer import recipes
from workbench.transfer.prior import prior_of
from workbench.transfer.recipes import Recipe

_MOST_EXAMPLES = 300
"""With more examples recipes are not compared: what they differ by is small then, and the small systems are not."""


def with_recipes(found: Survey, classes: tuple[TaskClass, ...], cache: FeatureCache, ctx: Context) -> Survey:
    """The survey with what else can be made of its entries before "no transfer", at most 24 recipes in all.

    None at one example of some class, which says nothing of a recipe.

    Raises:
        WorkbenchError: an example cannot be read.
        JobCancelledError: asked to stop.
    """
    counts = [len(c.images) for c in classes]
    if min(counts) < 2 or sum(counts) > _MOST_EXAMPLES:
        return found
    made = _recipes(found.seen, classes, cache, ctx)
    return found._replace(seen=[*found.seen[:-1], *made, *found.seen[-1:]])


def _recipes(seen: Sequence[Seen], classes: tuple[TaskClass, ...], cache: FeatureCache, ctx: Context) -> list[Seen]:
    by_id = {s.knowledge.entry.id: s for s in seen if s.knowledge.entry is not None}
    measurable = few([len(c.images) for c in classes])
    shared = _Shared(classes)
    promising = sorted(by_id, key=lambda e: -prior_of(by_id[e].likeness, by_id[e].gain))
    out = []
    for recipe in recipes.menu(promising):
        if recipe.own or recipe.entry is None:
            continue
        base = by_id[recipe.entry]
        plain = (recipe.layer, recipe.adapter) == ("last", "none")
        if plain and recipe.head == base.knowledge.algorithm.info.key:
            continue  # the same as the entry as it is
        if not recasting.can(base.knowledge, recipe) or (recipe.adapter == "norm" and not measurable):
            continue
        ctx.check()
        out.append(_judged(base, recipe, classes, cache, ctx, shared))
    return out


_Measured = tuple[See, int, Callable[[], Iterable[Tensor]]]
"""What measures a trunk's norms on the pictures, in how many views it shows each, and what is kept for that."""


class _Shared:
    """Pictures are the same tensors for all entries that see them alike, and all heads share what was measured."""

    def __init__(self, classes: tuple[TaskClass, ...]) -> None:
        self._classes = classes
        self._inputs: dict[Preprocess, tuple[Tensor, Tensor]] = {}
        self._measured: dict[Recipe, _Measured] = {}

    def measured(self, knowledge: Knowledge, recipe: Recipe) -> _Measured:
        same, p = replace(recipe, head="ridge"), knowledge.preprocess
        if same in self._measured:
            return self._measured[same]
        if p not in self._inputs:
            images = tuple(i for c in self._classes for i in c.images)
            self._inputs[p] = known.to_tensor(images, p), views.inputs(p, self._classes)
        (x, more), found = self._inputs[p], Found()
        see = once(recasting.measuring(knowledge, recipe, x, more), found)
        self._measured[same] = see, (len(x) + len(more)) // len(x), lambda: (x, more, *found.values())
        return self._measured[same]


def _judged(
    base: Seen,
    recipe: Recipe,
    classes: tuple[TaskClass, ...],
    cache: FeatureCache,
    ctx: Context,
    shared: _Shared,
) -> Seen:
    """One recipe on the examples: its features and what its head says of those that were left out."""
    k = base.knowledge
    key = key_of(k, classes, (), recipe)
    before, expected = recall(key, k), (base.similarities, base.gain, base.most)
    if before is not None and (before.similarities, before.gain, before.most) == expected:
        return before
    y, ways = base.support.y, base.support.ways
    images = tuple(image for c in classes for image in c.images)
    pictures = [image.sha256 for image in images]
    seen = replace(base, unlabelled=None, recipe=recipe, views=None)
    if recipe.adapter == "norm":
        see, n, held = shared.measured(k, recipe)
        made = Made(lambda _: k, see, recipe.head, n, held=held)  # its head has a closed form, so k's is not asked
        seen = replace(seen, made=made)
        features = see(torch.ones_like(y, dtype=torch.bool), ctx)[: len(y)]
        found = judged(made, y, ways, pictures, ctx)
    else:
        carrier = _carrier(k, recipe)
        features = known.embed(carrier, images, cache, ctx)
        if views.wanted(classes):
            seen = replace(seen, views=views.embed(carrier, images, cache, ctx))
        seen = replace(seen, embedding=features)
        shown, labels, n = seen.shown
        answers = recipes.left_out(shown, labels, ways, recipe.head, pictures * n, recasting.centre_of(k, recipe))
        found = recipes.judged(answers, labels, views=n)
    seen = replace(
        seen,
        support=Support(features, y, ways, features),
        embedding=features,
        left_out=HeldOut(found.rows, found.logits.float(), None),
        temperature=found.temperature,
        losses=found.losses.float(),
    )
    return remember(key, seen)


def _carrier(knowledge: Knowledge, recipe: Recipe) -> Knowledge:
    """Whose trunk gives the features that all heads of a recipe's layer share."""
    plain = recipe.layer == "last" and knowledge.cacheable
    return knowledge if plain else recasting.recast(knowledge, replace(recipe, head="ridge"))


def cast(seen: Seen, classes: tuple[TaskClass, ...]) -> Seen:
    """What was chosen, with the knowledge that its recipe makes of the entry."""
    if seen.recipe.own:
        return seen
    images = tuple(image for c in classes for image in c.images)
    x = known.to_tensor(images, seen.knowledge.preprocess) if seen.recipe.adapter == "norm" else None
    return replace(seen, knowledge=recasting.recast(seen.knowledge, seen.recipe, x))
