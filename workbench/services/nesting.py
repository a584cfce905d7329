"""What was won by choosing on the examples: the choice is made again without some of them, which are then asked about.

Every option's losses are found anew without what is hidden (:mod:`workbench.transfer.nested`): closed forms and other
heads on a fixed network are fitted again without it, and networks that were made of the examples are made again without
it. Four kinds are not, and keep the losses they have, of which those of the hidden examples are not looked at:

* methods that adapt by gradient steps or with pictures without labels, since each of their answers costs a training;
* networks that see every picture in the light of the examples, since each of their answers costs a pass of all of them;
* heads without a closed form, unless all of them together ask for few fits, since each of their answers costs one; and
* all, where there are so many examples that a tenth of them hardly changes what the others say.

What is hidden had a share in the losses that are kept, and none in the others. So the choice that is made again falls
on kept losses more often than one that was truly made without what is hidden, which is wrong in both directions: where
the losses of the one that was chosen are kept, less is taken off than choosing won; where they were found anew and
those of others are kept, these win too often, and where they answer less of what is hidden, more is taken off than
choosing won. Heads without a closed form are therefore all fitted again or all kept, so that none of them is favoured
among its like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.core.values import TaskClass
from workbench.learn.calibrate import compares_means, task_temperatures
from workbench.learn.leaving_out import HeldOut
from workbench.services import made, recasting
from workbench.services.judging import MOST_PARTS, slowly_tried, together
from workbench.services.looks import SLOW_FOLDS, Seen
from workbench.services.trying import cast
from workbench.transfer import nested, recipes
from workbench.transfer.estimate import optimism
from workbench.transfer.rank import Option

_REFITTED = 60
"""Up to so many examples everything is fitted again."""
_ADAPTATIONS = 40
"""Of heads without a closed form, in all; where they ask for more, none of them is fitted again. A choice: trying one
of them on forty examples takes as many, and 25 examples with parts hidden in turn would ask for a hundred."""


def lost_by_choosing(
    seen: Sequence[Seen],
    chosen: int,
    answered: Seen,
    classes: tuple[TaskClass, ...],
    choose: Callable[[Sequence[Option]], int],
    ctx: Context,
) -> float | None:
    """Examples that the chosen one answers because it was chosen on them, ``None`` where that cannot be told.

    Args:
        seen: everything that there was to choose from; what could not be judged on the examples has no losses.
        chosen: index of the chosen one.
        answered: the chosen one with the answers that its accuracy is estimated by; others are asked in the same way.
        classes: with their examples.
        choose: index of what would be chosen of such options.
        ctx: checked between options.

    Raises:
        JobCancelledError: asked to stop.
    """
    y, ways = answered.support.y, answered.support.ways
    pictures = [image.sha256 for c in classes for image in c.images]
    hidden, asked = nested.hidden(y, ways, pictures, min(MOST_PARTS, max(len(c.images) for c in classes)))
    if len(hidden) < 2 or not len(answered.left_out.rows):
        return None
    ctx.status("Choosing again without some of the examples")
    costs = [adaptations(s, hidden) for s in seen]
    refitted, losses = sum(costs) <= _ADAPTATIONS, []
    for s, cost in zip(seen, costs, strict=True):
        ctx.check()
        losses.append(_kept(s, hidden) if cost and not refitted else losses_without(s, hidden, pictures, ctx))
    again = [choose(_options(seen, [found[r] for found in losses])) for r in range(len(hidden))]
    mine, lost = {MOST_PARTS: answered}, 0.0
    for other in sorted(set(again) - {chosen}):
        theirs = cast(seen[other], classes)
        # what was asked in three parts whatever there is is compared with others in these
        count = SLOW_FOLDS if slowly_tried(answered) or slowly_tried(theirs) else MOST_PARTS
        if count not in mine:
            mine[count] = together(answered, classes, ctx, count)
        right = {chosen: _right(mine[count]), other: _right(together(theirs, classes, ctx, count))}
        gone = [part for part, o in zip(asked, again, strict=True) if o == other]
        lost += optimism(right, gone, chosen, [other] * len(gone))
    return lost


def losses_without(seen: Seen, hidden: Tensor, pictures: Sequence[str], ctx: Context) -> Tensor:
    """Left-out log-loss ``[R, S]`` of one option where something is hidden ``[R, S]`` bool; nan where there is none."""
    y, ways = seen.support.y, seen.support.ways
    found = torch.full(hidden.shape, math.nan, dtype=torch.float64)
    if not len(seen.left_out.rows):
        return found
    if _keeps(seen):
        return _kept(seen, hidden)
    k, head = seen.knowledge, seen.recipe.head
    typical, nothing = seen.typical, HeldOut(y[:0], seen.embedding.new_zeros((0, ways)), None)
    centres = compares_means(k.algorithm)
    start = task_temperatures(nothing, y, ways, typical, centres=centres).answers if head == "own" else 1.0
    if seen.made is not None:
        for r, gone in enumerate(hidden):
            judged = made.judged(seen.made, y, ways, pictures, ctx, start, gone)
            found[r, judged.rows] = judged.losses
        return found
    features, shown, n = seen.shown
    if head != "own" or seen.views is not None:
        masked = [recipes.masks(shown, ways, list(pictures) * n, gone=gone.repeat(n)) for gone in hidden]
        if head == "own":
            keep, asked = (torch.cat(some) for some in zip(*masked, strict=True))
            z = made.own_answers(k, features, shown, ways, keep, asked, ctx)
            return nested.losses_of(z, shown, masked, start=start, views=n)
        centre = recasting.centre_of(k, seen.recipe)
        return nested.losses_without(features, shown, ways, head, masked, centre, views=n)
    # one by one as they were tried, however many there are, and all of them at once
    masked = [nested.one_by_one(y, pictures, gone) for gone in hidden]
    keep, asked = (torch.cat(some) for some in zip(*masked, strict=True))
    z = made.own_answers(k, features, y, ways, keep, asked, ctx)
    for r, (gone, own) in enumerate(zip(hidden, torch.split(z, [len(kept) for kept, _ in masked]), strict=True)):
        rows = masked[r][1].nonzero()[:, 1]
        place = (~gone).cumsum(0) - 1  # among those that are there
        logits = own[torch.arange(len(rows)), rows]
        held = HeldOut(place[rows], logits, None)
        fitted = task_temperatures(held, y[~gone], ways, typical, centres=centres).left_out
        found[r, rows] = F.cross_entropy(logits / fitted, y[rows], reduction="none")
    return found


def adaptations(seen: Seen, hidden: Tensor) -> int:
    """How many of its head :func:`losses_without` takes, 0 where there is a closed form or losses are kept."""
    form = getattr(seen.knowledge.algorithm, "classifier", None)
    if seen.recipe.head != "own" or form is not None or _keeps(seen) or not len(seen.left_out.rows):
        return 0
    y = seen.support.y
    return sum(int((torch.bincount(y[~gone])[y[~gone]] >= 2).sum()) for gone in hidden)


def _keeps(seen: Seen) -> bool:
    """Whether it keeps its losses, whatever there is time for; see the module."""
    if len(seen.support.y) > _REFITTED:
        return True
    costly = seen.gradient_based or seen.unlabelled is not None or not seen.knowledge.cacheable
    return costly and seen.recipe.head == "own" and seen.made is None


def _kept(seen: Seen, hidden: Tensor) -> Tensor:
    """The losses it has ``[R, S]`` but those of what is hidden."""
    found = torch.full(hidden.shape, math.nan, dtype=torch.float64)
    found[:, seen.left_out.rows] = seen.losses.double()
    return found.masked_fill(hidden, math.nan)


def _options(seen: Sequence[Seen], losses: Sequence[Tensor]) -> list[Option]:
    """Options judged on the examples that all of these losses ``[S]`` know."""
    known = [~torch.isnan(found) for found in losses]
    tried = [k for k in known if k.any()]
    common = torch.stack(tried).all(0) if tried else torch.zeros(0, dtype=torch.bool)
    return [
        replace(s.option(()), loo_losses=tuple(found[common].tolist()) if k.any() and common.any() else None)
        for s, found, k in zip(seen, losses, known, strict=True)
    ]


def _right(seen: Seen) -> dict[int, bool]:
    rows = seen.left_out.rows
    return dict(zip(rows.tolist(), (seen.left_out.logits.argmax(1) == seen.support.y[rows]).tolist(), strict=True))
