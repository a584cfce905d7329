"""Asking about examples in adaptations that did not see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.learn import quick
from workbench.learn.protocol import Adapted, Algorithm, State, Support


class HeldOut(NamedTuple):
    """What was answered about support examples by adaptations that did not see them.

    Attributes:
        rows: which examples could be left out ``[M]``; none at one example per class.
        logits: after adapting ``[M, N]``.
        before: before the first inner step ``[M, N]``, for gradient-based methods, else ``None``.
    """

    rows: Tensor
    logits: Tensor
    before: Tensor | None


def held_out(
    algorithm: Algorithm,
    state: State,
    support: Support,
    ctx: Context,
    folds: int | None = None,
    same: Sequence[object] | None = None,
    unlabelled: Tensor | None = None,
) -> HeldOut:
    """Ask about every support example in an adaptation that did not see it.

    Args:
        algorithm: any.
        state: of the algorithm.
        support: ``S`` examples.
        ctx: checked between adaptations.
        folds: number of adaptations to spend, each without an equal part of every class; ``None`` leaves every example
            out on its own. A class with one example keeps it, so no class ever disappears. A class of fewer examples
            than ``folds`` has one left out every time all the same, which is asked about only once.
        same: per example, what identifies the picture; a copy of what is left out is left out with it (unless it is the
            last one of its class), since it would give the answer away.
        unlabelled: what a transductive algorithm adapts with, pictures or features as in ``support``. What is left out
            joins them, as a picture that is to be predicted would; ``None``: all adapt from the examples alone.
    """
    gradient = "gradient-based" in algorithm.info.tags
    rows, logits, before = [], [], []
    for out, beside in _left_out(support, folds):
        ctx.check()
        mask = _kept(support, [*out, *beside], same)
        features = None if support.features is None else support.features[mask]
        part = Support(support.x[mask], support.y[mask], support.ways, features)

        def ask(adapted: Adapted, out: list[int] = out) -> Tensor:
            with torch.no_grad():
                if support.features is not None:
                    answer: Tensor = algorithm.head(state, adapted)(support.features[out])
                    return answer
                return algorithm.logits(state, adapted, support.x[out])

        def first(j: int, adapted: Adapted, ask: Callable[[Adapted], Tensor] = ask) -> None:
            if j == 0:
                before.append(ask(adapted))

        more = None
        if unlabelled is not None:
            gone = (support.x if support.features is None else support.features)[out]
            more = torch.cat([gone, unlabelled])
        with quick.passes():
            adapted = algorithm.adapt(state, part, ctx, unlabelled=more, on_step=first if gradient else None)
            logits.append(ask(adapted))
        rows.append(torch.tensor(out, device=support.y.device))
    if not logits:
        return HeldOut(support.y.new_zeros(0), support.x.new_zeros((0, support.ways)), None)
    return HeldOut(torch.cat(rows), torch.cat(logits), torch.cat(before) if before else None)


def _left_out(support: Support, folds: int | None) -> list[tuple[list[int], list[int]]]:
    """What is left out and asked about at a time, and what is left out besides."""
    members = [torch.nonzero(support.y == c).flatten().tolist() for c in range(support.ways)]
    members = [m for m in members if len(m) >= 2]
    if folds is None:
        return [([i], []) for m in members for i in m]
    return parted(members, max(folds, 2))


def parted(members: Sequence[Sequence[int]], count: int) -> list[tuple[list[int], list[int]]]:
    """Examples in parts that hold some of every class, and what each part lacks for that.

    Args:
        members: the examples of each class, at least one.
        count: of parts; there are no more than the largest class has examples.

    Returns:
        Per part its examples, each in one part, and examples of other parts: one of each class that has none in it, a
        different one each time.
    """
    parts = []
    for r in range(count):
        own = [i for m in members for i in m[r::count]]
        if own:
            parts.append((own, [m[r % len(m)] for m in members if len(m) <= r]))
    return parts


def _kept(support: Support, out: list[int], same: Sequence[object] | None) -> Tensor:
    mask = torch.ones(len(support.y), dtype=torch.bool, device=support.y.device)
    mask[out] = False
    if same is None or len(set(same)) == len(same):
        return mask
    gone = {same[i] for i in out}
    for i, what in enumerate(same):
        if what in gone and mask[i] and int((support.y[mask] == support.y[i]).sum()) > 1:
            mask[i] = False
    return mask
