"""Networks that were changed by the examples themselves, and their answers to examples that had no share in them.

Norms that are measured on the examples, and networks that are fine-tuned on them, have seen what is left out of their
heads. So an example is asked about under a network that was made without the part of the examples it lies in: as many
networks as the largest class has examples, at most five, and not one for each example, which would cost five times as
much. The other examples of the part are missing, too, which does not favour such networks in any comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.learn.calibrate import HeldOut, held_out
from workbench.learn.influence import at_once
from workbench.learn.protocol import Support
from workbench.services.knowledge import Knowledge
from workbench.transfer import nested, recipes

MOST = 50
"""Examples up to which such networks are tried, none of whose classes has more than are left out one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """How knowledge is made of examples.

    Attributes:
        make: the knowledge that comes of those that are kept ``[S]`` bool.
        see: features of all examples ``[S, D]`` under it.
        head: the closed form of its head, ``None`` where that has none.
    """

    make: Callable[[Tensor], Knowledge]
    see: Callable[[Tensor], Tensor]
    head: recipes.Head | None = None


def once(see: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same, which remembers its answers."""
    found: dict[tuple[bool, ...], Tensor] = {}

    def remembered(kept: Tensor) -> Tensor:
        key = tuple(kept.tolist())
        if key not in found:
            found[key] = see(kept)
        return found[key]

    return remembered


def few(counts: Sequence[int]) -> bool:
    """Whether so many examples of each class are few enough."""
    return max(counts) <= recipes.ONE_BY_ONE and sum(counts) <= MOST


def left_out(
    made: Made, y: Tensor, ways: int, pictures: Sequence[str], ctx: Context, gone: Tensor | None = None
) -> HeldOut:
    """Answers to each example that can be left out, under networks and heads that it had no share in.

    Args:
        made: how the network is made.
        y: ``[S]``.
        ways: ``N``.
        pictures: per example, which one it shows.
        ctx: checked between networks.
        gone: ``[S]`` bool, examples that are as if they had never been there.
    """
    part, out = nested.parts(y, ways, pictures, recipes.ONE_BY_ONE)
    here = torch.ones_like(y, dtype=torch.bool) if gone is None else ~gone
    seen = []
    for away in out:
        ctx.check()
        seen.append(made.see(here & ~away))
    if made.head is not None:
        keep, asked = recipes.masks(y, ways, pictures, gone=gone)
        z = recipes.answers(torch.stack(seen), y, ways, made.head, keep, asked, None, part)
        found = recipes.gathered(z, asked)
        return HeldOut(found.rows, found.logits.mean(0).float(), None)
    logits = torch.zeros(len(y), ways)
    answered = torch.zeros_like(here)
    index = torch.nonzero(here).flatten()
    for p, f in enumerate(seen):
        k = made.make(here & ~out[p])
        support = Support(f[here], y[here], ways, f[here])
        names = [pictures[i] for i in index.tolist()]
        plain = at_once(k.algorithm, k.state, support) if len(set(names)) == len(names) else None
        one = held_out(k.algorithm, k.state, support, ctx, None, names) if plain is None else plain
        rows = index[one.rows]
        own = part[rows] == p
        logits[rows[own]], answered[rows[own]] = one.logits[own].detach().float(), True
    rows = torch.nonzero(answered).flatten()
    return HeldOut(rows, logits[rows], None)


def in_parts(made: Made, y: Tensor, ways: int, pictures: Sequence[str], count: int, ctx: Context) -> HeldOut:
    """Answers to parts that hold one of every class, under networks and heads that were made without the part."""
    part, out = nested.parts(y, ways, pictures, count)
    logits = torch.zeros(len(y), ways)
    for r, away in enumerate(out):
        ctx.check()
        k, f = made.make(~away), made.see(~away)
        adapted = k.algorithm.adapt(k.state, Support(f[~away], y[~away], ways, f[~away]), ctx)
        with torch.no_grad():
            logits[part == r] = k.algorithm.head(k.state, adapted)(f[part == r])
    rows = torch.nonzero(part >= 0).flatten()
    return HeldOut(rows, logits[rows], None)
