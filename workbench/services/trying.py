"""What else can be made of the entries that were looked at: their recipes, judged on the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.values import ImageRef, TaskClass
from workbench.learn.calibrate import HeldOut
from workbench.learn.features import FeatureCache
from workbench.learn.protocol import Support
from workbench.services import knowledge as known
from workbench.services import recasting
from workbench.services.knowledge import Knowledge
from workbench.services.looks import Seen, key_of, recall, remember
from workbench.services.made import Made, few, left_out, once
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
    shared: _Shared = {}
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


_Shared = dict[Recipe, Callable[[Tensor], Tensor]]
"""What measures a trunk's norms, by the recipe without its head: all heads share what it has measured."""


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
    measured = None
    if recipe.adapter == "norm":
        x = known.to_tensor(images, k.preprocess)
        see = shared.setdefault(replace(recipe, head="ridge"), once(recasting.measuring(k, recipe, x)))
        measured = Made(lambda kept: recasting.recast(k, recipe, x[kept]), see, recipe.head)
        features = see(torch.ones_like(y, dtype=torch.bool))
        held = left_out(measured, y, ways, pictures, ctx)
        found = recipes.LeftOut(held.rows, held.logits.double()[None])
    else:
        features = features_of(k, recipe, images, cache, ctx)
        found = recipes.left_out(features, y, ways, recipe.head, pictures, recasting.centre_of(k, recipe))
    judged = recipes.judged(found, y)
    seen = replace(
        base,
        support=Support(features, y, ways, features),
        embedding=features,
        left_out=HeldOut(judged.rows, judged.logits.float(), None),
        temperature=judged.temperature,
        losses=judged.losses.float(),
        unlabelled=None,
        recipe=recipe,
        made=measured,
    )
    return remember(key, seen)


def features_of(
    knowledge: Knowledge, recipe: Recipe, images: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context
) -> Tensor:
    """The features ``[n, D]`` of pictures under a recipe's trunk, which all its heads share."""
    plain = recipe.layer == "last" and knowledge.cacheable
    carrier = knowledge if plain else recasting.recast(knowledge, replace(recipe, head="ridge"))
    return known.embed(carrier, images, cache, ctx)


def cast(seen: Seen, classes: tuple[TaskClass, ...]) -> Seen:
    """What was chosen, with the knowledge that its recipe makes of the entry."""
    if seen.recipe.own:
        return seen
    images = tuple(image for c in classes for image in c.images)
    x = known.to_tensor(images, seen.knowledge.preprocess) if seen.recipe.adapter == "norm" else None
    return replace(seen, knowledge=recasting.recast(seen.knowledge, seen.recipe, x))
