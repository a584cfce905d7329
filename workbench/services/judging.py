"""What the examples say of the knowledge that was chosen: its temperature, its accuracy, and their influence."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from workbench.core.context import Context
from workbench.core.values import TaskClass
from workbench.learn.calibrate import compares_means, task_temperatures
from workbench.learn.influence import influence
from workbench.learn.leaving_out import held_out
from workbench.services.looks import Seen
from workbench.services.made import in_parts

MOST_PARTS = 10
"""That examples are left out in together."""


def together(seen: Seen, classes: tuple[TaskClass, ...], ctx: Context, most: int = MOST_PARTS) -> Seen:
    """The same knowledge, asked about parts of the examples that hold one of every class, each without that part.

    An example left out on its own is asked about where its own class has fewer examples than the others, and so is
    taken for one of them too often: with two examples a class, half the accuracy can be lost by that alone. Without one
    of every class all have one less. The temperature is fitted on such answers, too.

    Args:
        seen: of what is used. What was :func:`slowly_tried` was asked in such parts already.
        classes: with their examples.
        ctx: of the job.
        most: parts there are at most.

    Raises:
        JobCancelledError: asked to stop.
    """
    counts = [len(c.images) for c in classes]
    if slowly_tried(seen) or max(counts) < 2 or not len(seen.left_out.rows):
        return seen
    k, support = seen.knowledge, seen.support
    pictures, count = [image.sha256 for c in classes for image in c.images], min(most, max(counts))
    if seen.made is None:
        left_out = held_out(k.algorithm, k.state, support, ctx, count, pictures, seen.unlabelled)
    else:
        left_out = in_parts(seen.made, support.y, support.ways, pictures, count, ctx)
    centres = compares_means(k.algorithm)
    fitted = task_temperatures(left_out, support.y, support.ways, seen.typical, count, centres=centres)
    losses = F.cross_entropy(left_out.logits / fitted.left_out, support.y[left_out.rows], reduction="none")
    return replace(seen, left_out=left_out, temperature=fitted.answers, losses=losses)


def slowly_tried(seen: Seen) -> bool:
    """Whether it was asked in three parts whatever there is, since it takes steps for each answer.

    With views it was asked one by one, and so, or in ten parts, was a network that was made of the examples.
    """
    return seen.gradient_based and seen.views is None and seen.made is None


def influences(seen: Seen) -> list[float | None]:
    """Influence of each example, nats; see :mod:`workbench.learn.influence`.

    ``None`` where an example cannot be left out, since it is the only one of its class.

    Where that is not exact, or the network was made of the examples, what an example loses when it is left out is this
    knowledge's own all the same.
    """
    k, y = seen.knowledge, seen.support.y
    found, exact = influence(k.algorithm, k.state, seen.support, seen.embedding, seen.temperature)
    own = found.own
    if not exact or seen.made is not None:
        own = own.clone()
        own[seen.left_out.rows] = seen.losses.to(own)
    total = own + found.others
    there = torch.bincount(y, minlength=seen.support.ways)[y] >= 2
    return [value if known else None for value, known in zip(total.tolist(), there.tolist(), strict=True)]
