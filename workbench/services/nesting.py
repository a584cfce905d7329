"""What was won by choosing on the examples: the choice is made again without some of them, which are then asked about.

Every option's losses are found anew without what is hidden (:mod:`workbench.transfer.nested`): closed forms and other
heads on a fixed network are fitted again without it, and networks that were made of the examples are made again without
it. Two kinds are not, and keep the losses they have, of which those of the hidden examples are not looked at: methods
that adapt by gradient steps or with pictures without labels, since each of their answers costs an adaptation; and all,
where there are so many examples that a tenth of them hardly changes what the others say.
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
from workbench.learn.calibrate import HeldOut, held_out, task_temperatures
from workbench.learn.influence import at_once
from workbench.learn.protocol import Support
from workbench.services import made, recasting
from workbench.services.judging import MOST_PARTS, together
from workbench.services.looks import Seen
from workbench.services.trying import cast
from workbench.transfer import nested, recipes
from workbench.transfer.estimate import optimism
from workbench.transfer.rank import Option

_REFITTED = 60
"""Up to so many examples everything is fitted again."""


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
    losses = []
    for s in seen:
        ctx.check()
        losses.append(losses_without(s, hidden, pictures, ctx))
    again = [choose(_options(seen, [found[r] for found in losses])) for r in range(len(hidden))]
    right = {chosen: _right(answered)}
    for other in again:
        if other not in right:
            right[other] = _right(together(cast(seen[other], classes), classes, ctx))
    return optimism(right, asked, chosen, again)


def losses_without(seen: Seen, hidden: Tensor, pictures: Sequence[str], ctx: Context) -> Tensor:
    """Left-out log-loss ``[R, S]`` of one option where something is hidden ``[R, S]`` bool; nan where there is none."""
    y, ways = seen.support.y, seen.support.ways
    found = torch.full(hidden.shape, math.nan, dtype=torch.float64)
    if not len(seen.left_out.rows):
        return found
    k, head, fixed = seen.knowledge, seen.recipe.head, seen.unlabelled is not None or not seen.knowledge.cacheable
    if len(y) > _REFITTED or (head == "own" and seen.made is None and fixed):
        found[:, seen.left_out.rows] = seen.losses.double()
        return found.masked_fill(hidden, math.nan)
    typical, nothing = k.figures["temperature"], HeldOut(y[:0], seen.embedding.new_zeros((0, ways)), None)
    start = task_temperatures(nothing, y, ways, typical).answers if head == "own" else 1.0
    if seen.made is not None:
        for r, gone in enumerate(hidden):
            judged = made.judged(seen.made, y, ways, pictures, ctx, start, gone)
            found[r, judged.rows] = judged.losses
        return found
    if head != "own" or seen.views is not None:
        features, shown, n = seen.shown
        masked = [recipes.masks(shown, ways, list(pictures) * n, gone=gone.repeat(n)) for gone in hidden]
        if head == "own":
            keep, asked = (torch.cat(some) for some in zip(*masked, strict=True))
            z = made.own_answers(k, features, shown, ways, keep, asked, ctx)
            return nested.losses_of(z, shown, masked, start=start, views=n)
        centre = recasting.centre_of(k, seen.recipe)
        return nested.losses_without(features, shown, ways, head, masked, centre, views=n)
    for r, gone in enumerate(hidden):
        ctx.check()
        here = torch.nonzero(~gone).flatten()
        held = _left_out(seen, here, pictures, ctx)
        fitted = task_temperatures(held, y[here], ways, typical).left_out
        losses = F.cross_entropy(held.logits / fitted, y[here][held.rows], reduction="none")
        found[r, here[held.rows]] = losses.double()
    return found


def _left_out(seen: Seen, here: Tensor, pictures: Sequence[str], ctx: Context) -> HeldOut:
    """Answers of an entry's own head on its own features where only some examples are there; rows are of these."""
    k, s = seen.knowledge, seen.support
    assert s.features is not None, "its features do not depend on the examples"
    rest = Support(s.x[here], s.y[here], s.ways, s.features[here])
    names = [pictures[i] for i in here.tolist()]
    found = at_once(k.algorithm, k.state, rest) if len(set(names)) == len(names) else None
    if found is None:
        found = held_out(k.algorithm, k.state, rest, ctx, None, names)
    return found._replace(logits=found.logits.detach())


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
