"""What the examples say of the knowledge that was chosen: its temperature, its accuracy, and their influence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from workbench.core.context import Context
from workbench.core.values import TaskClass
from workbench.learn.calibrate import fit_temperature, held_out, parted
from workbench.learn.influence import influence
from workbench.services.looks import Seen
from workbench.services.made import in_parts
from workbench.transfer.estimate import optimism

_MOST_PARTS = 10


def together(seen: Seen, classes: tuple[TaskClass, ...], ctx: Context) -> Seen:
    """The same knowledge, asked about parts of the examples that hold one of every class, each without that part.

    An example left out on its own is asked about where its own class has fewer examples than the others, and so is
    taken for one of them too often: with two examples a class, half the accuracy can be lost by that alone. Without one
    of every class all have one less. The temperature is fitted on such answers, too.

    Args:
        seen: of what is used. What adapts by gradient steps was asked in such parts already.
        classes: with their examples.
        ctx: of the job.

    Raises:
        JobCancelledError: asked to stop.
    """
    counts = [len(c.images) for c in classes]
    if seen.gradient_based or max(counts) < 2 or not len(seen.left_out.rows):
        return seen
    k, support = seen.knowledge, seen.support
    pictures, count = [image.sha256 for c in classes for image in c.images], min(_MOST_PARTS, max(counts))
    if seen.made is None:
        left_out = held_out(k.algorithm, k.state, support, ctx, count, pictures, seen.unlabelled)
    else:
        left_out = in_parts(seen.made, support.y, support.ways, pictures, count, ctx)
    y = support.y[left_out.rows]
    temperature = fit_temperature(left_out.logits, y, k.figures["temperature"])
    losses = F.cross_entropy(left_out.logits / temperature, y, reduction="none")
    return replace(seen, left_out=left_out, temperature=temperature, losses=losses)


def lost_by_choosing(
    seen: Sequence[Seen], chosen: int, examples: Sequence[int], choose: Callable[[Sequence[int]], int]
) -> float | None:
    """Examples that the chosen one answers because it was chosen on them, ``None`` where that cannot be told.

    Args:
        seen: everything that there was to choose from; what could not be judged on the examples is never chosen.
        chosen: index of the chosen one.
        examples: those that all were judged on.
        choose: index of what would be chosen on these examples alone.
    """
    if not examples or not len(seen[chosen].left_out.rows):
        return None
    y = seen[chosen].support.y
    members: dict[int, list[int]] = {}
    for i in examples:
        members.setdefault(int(y[i]), []).append(i)
    count = min(_MOST_PARTS, max(len(m) for m in members.values()))
    if count < 2:
        return None
    parts = parted(list(members.values()), count)
    right = []
    for s in seen:
        answers = torch.zeros(len(y), dtype=torch.bool)
        if len(s.left_out.rows):
            answers[s.left_out.rows] = s.left_out.logits.argmax(1) == y[s.left_out.rows]
        right.append(answers.tolist())
    return optimism(right, [own for own, _ in parts], chosen, choose, [beside for _, beside in parts])


def influences(seen: Seen) -> list[float]:
    """Influence of each example, nats; see :mod:`workbench.learn.influence`. 0 where an example cannot be left out.

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
    # 0 says that nothing is known
    total = torch.where(total.abs() < 1e-9, torch.full_like(total, 1e-9), total)
    out: list[float] = torch.where(there, total, torch.zeros_like(total)).tolist()
    return out
