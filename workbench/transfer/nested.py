"""The choice made again without some of the examples, to see what was won by choosing on them.

Nested cross-validation (Varma and Simon 2006): whatever chooses is shown nothing of the part that is then asked about.
The inner losses are of heads that were fitted without that part, and their temperature is fitted without it, too.
Losses that were left out in turn among *all* examples would not do: the part is among the examples of each of them, so
it helps to choose what is said to have been chosen without it. With two or three examples a class that hides most of
the winner's curse.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from workbench.learn.leaving_out import parted
from workbench.transfer import recipes

Masked = Sequence[tuple[Tensor, Tensor]]
"""Of each part that is hidden, the :func:`recipes.masks` of the other examples: two ``[M_r, S]`` bools."""


def losses_without(
    features: Tensor,
    y: Tensor,
    ways: int,
    head: recipes.Head | recipes.Form,
    masked: Masked,
    centre: Tensor | None = None,
    *,
    start: float = 1.0,
    views: int = 1,
) -> Tensor:
    """Log-loss ``[R, S / views]`` of each example that can be left out where something is gone already; nan elsewhere.

    What is gone is neither among the examples that a head is fitted to, nor in what the temperature is fitted to, so
    what is chosen by these losses was chosen without it.

    Args:
        features: see :func:`recipes.left_out`.
        y: ``[S]``.
        ways: ``N``.
        head: one of the closed forms.
        masked: of the ``R`` parts that are gone.
        centre: see :func:`recipes.left_out`.
        start: see :func:`recipes.judged`.
        views: see :func:`recipes.judged`.

    Raises:
        ValueError: see :func:`recipes.left_out`.
    """
    keep = torch.cat([kept for kept, _ in masked])
    return losses_of(recipes.answers(features, y, ways, head, keep, centre), y, masked, start=start, views=views)


def losses_of(z: Tensor, y: Tensor, masked: Masked, *, start: float = 1.0, views: int = 1) -> Tensor:
    """The same of answers ``[sum of M_r, S, N]`` that there are."""
    found = torch.full((len(masked), len(y) // views), math.nan, dtype=torch.float64)
    for r, (own, (_, about)) in enumerate(zip(torch.split(z, [len(k) for k, _ in masked]), masked, strict=True)):
        answered = recipes.judged(recipes.gathered(own, about), y, start, views)
        found[r, answered.rows] = answered.losses
    return found


def one_by_one(y: Tensor, groups: Sequence[Hashable], gone: Tensor) -> tuple[Tensor, Tensor]:
    """What stays, and what is asked about, where each example is left out on its own: two ``[M, S]`` bools.

    Args:
        y: ``[S]``.
        groups: per example, which picture it shows; copies are left out, too, unless their class would be gone.
        gone: ``[S]`` bool, examples that neither stay nor are asked about.
    """
    here = torch.nonzero(~gone).flatten()
    names, labels = [groups[i] for i in here.tolist()], y[here]
    rows = torch.nonzero(torch.bincount(labels)[labels] >= 2).flatten()
    asked = torch.zeros(len(rows), len(y), dtype=torch.bool)
    keep = asked.clone()
    asked[torch.arange(len(rows)), here[rows]] = True
    for m, i in enumerate(rows.tolist()):
        keep[m, here] = ~with_copies(torch.arange(len(here)) == i, labels, names)
    return keep, asked


def parts(y: Tensor, ways: int, groups: Sequence[Hashable], count: int) -> tuple[Tensor, Tensor]:
    """The examples in parts that hold one or more of every class, and what is left out with each.

    Args:
        y: ``[S]``.
        ways: ``N``.
        groups: per example, which picture it shows.
        count: of parts; there are no more than the largest class has examples.

    Returns:
        ``[S]``, the part in which each example is asked about, -1 for one that is alone in its class; and ``[P, S]``
        bool, what is left out: the part, one of each small class that has none in it, and copies of what is left out,
        unless they are all that is left of their class.
    """
    members = [m for m in (torch.nonzero(y == c).flatten().tolist() for c in range(ways)) if len(m) > 1]
    found = parted(members, count)
    part = torch.full((len(y),), -1)
    out = torch.zeros(len(found), len(y), dtype=torch.bool)
    for r, (own, beside) in enumerate(found):
        part[own] = r
        out[r, own + beside] = True
        out[r] = with_copies(out[r], y, groups)
    return part, out


def with_copies(out: Tensor, y: Tensor, groups: Sequence[Hashable]) -> Tensor:
    """What is left out ``[S]`` bool, with what shows the same pictures; no class loses its last example."""
    out = out.clone()
    gone = {groups[i] for i in torch.nonzero(out).flatten().tolist()}
    for i in torch.nonzero(~out).flatten().tolist():
        if groups[i] in gone and int((y[~out] == y[i]).sum()) > 1:
            out[i] = True
    return out


def hidden(y: Tensor, ways: int, groups: Sequence[Hashable], count: int) -> tuple[Tensor, list[list[int]]]:
    """What a choice is made again without: ``[R, S]`` bool, and the examples that are asked about each time.

    The :func:`parts`; but of a class of two there would be one left, of which nothing can be left out to choose by.
    Few examples with such a class are hidden one by one, each with its copies.
    """
    sizes = torch.bincount(y, minlength=ways)
    sizes = sizes[sizes > 1]
    if len(sizes) and int(sizes.min()) == 2 and int(sizes.max()) <= recipes.ONE_BY_ONE:
        alone = [i for i in range(len(y)) if bool((y == y[i]).sum() > 1)]
        each = torch.eye(len(y), dtype=torch.bool)[alone]
        return torch.stack([with_copies(o, y, groups) for o in each]), [[i] for i in alone]
    part, out = parts(y, ways, groups, count)
    return out, [torch.nonzero(part == r).flatten().tolist() for r in range(len(out))]
