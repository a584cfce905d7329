"""Networks that were changed by the examples themselves, and their answers to examples that had no share in them.

Norms that are measured on the examples, and networks that are fine-tuned on them, have seen what is left out of their
heads. So an example is asked about under a network that was made without the part of the examples it lies in: as many
networks as the largest class has examples, at most ten, and not one for each example, which would cost five times as
much. The other examples of the part are missing, too, which does not favour such networks in any comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.learn.calibrate import compares_means, task_temperatures
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Support
from workbench.services.knowledge import Knowledge
from workbench.services.shelf import storages
from workbench.transfer import nested, recipes

MOST = 50
"""Examples of all classes together that are :func:`few` at most."""
PARTS = 10
"""In which more are left out."""

See = Callable[[Tensor, Context], Tensor]
"""Features of all examples under what is made of those that are kept ``[S]`` bool; the context is checked meanwhile."""
Found = dict[tuple[bool, ...], Tensor]
"""Features, by what was kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """How knowledge is made of examples.

    Attributes:
        make: the knowledge whose own head answers where those are kept ``[S]`` bool, asked where ``head`` is ``None``;
            its trunk is not, so that may be missing, or that of the whole.
        see: features of all examples ``[S, D]`` under it, and of their views where there are any ``[views * S, D]``.
        head: the closed form of its head, ``None`` for an entry's own.
        views: in how many each example is seen, itself included; see ``recipes.judged``.
        options: of how many it was picked by the examples, itself included, beside what it is compared with.
        held: tensors that are kept for it, which may grow.
    """

    make: Callable[[Tensor], Knowledge]
    see: See
    head: recipes.Head | None = None
    views: int = 1
    options: int = 1
    held: Callable[[], Iterable[Tensor]] = tuple


def once(see: See, found: Found | None = None) -> See:
    """The same, which remembers its answers in ``found``; what is stopped leaves nothing there.

    Whoever counts what it remembers is told that it is more; see :func:`at_growth`.
    """
    known: Found = {} if found is None else found

    def remembered(kept: Tensor, ctx: Context) -> Tensor:
        key = tuple(kept.tolist())
        if key not in known:
            known[key] = see(kept, ctx)
            for tell in _told:
                tell(remembered)
        return known[key]

    return remembered


_told: list[Callable[[See], None]] = []


def at_growth(tell: Callable[[See], None]) -> Callable[[See], None]:
    """Decorator: call it with each that :func:`once` gave, on the thread that asked, as soon as it remembers more."""
    _told.append(tell)
    return tell


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors take together; what several of them share counts once."""
    return sum(storages(tensors).values())


def few(counts: Sequence[int]) -> bool:
    """Whether no class has more examples than are left out one by one (5), and all together no more than 50."""
    return max(counts) <= recipes.ONE_BY_ONE and sum(counts) <= MOST


def answered(
    made: Made, knowledge: Knowledge, typical: float, y: Tensor, ways: int, pictures: Sequence[str], ctx: Context
) -> recipes.Judged:
    """What it is compared by: answers to examples one by one where they are :func:`few`, and else in ten parts.

    Args:
        made: how the network is made.
        knowledge: whose head answers.
        typical: temperature that few answers are held near, of one to five examples a class.
        y: ``[S]``.
        ways: ``N``.
        pictures: per example, which one it shows.
        ctx: checked between networks, and while each is made.

    Raises:
        JobCancelledError: asked to stop.
    """
    centres = compares_means(knowledge.algorithm)
    if few(torch.bincount(y, minlength=ways).tolist()):
        nothing = HeldOut(y[:0], torch.zeros(0, ways), None)
        start = task_temperatures(nothing, y, ways, typical, centres=centres).answers
        return judged(made, y, ways, pictures, ctx, start)
    held = in_parts(made, y, ways, pictures, PARTS, ctx)
    fitted = task_temperatures(held, y, ways, typical, PARTS, centres=centres)
    losses = F.cross_entropy(held.logits / fitted.left_out, y[held.rows], reduction="none")
    return recipes.Judged(held.rows, held.logits, fitted.answers, losses)


def judged(
    made: Made,
    y: Tensor,
    ways: int,
    pictures: Sequence[str],
    ctx: Context,
    start: float = 1.0,
    gone: Tensor | None = None,
) -> recipes.Judged:
    """Answers to each example that can be left out, under networks and heads that it had no share in.

    Args:
        made: how the network is made.
        y: ``[S]``.
        ways: ``N``.
        pictures: per example, which one it shows.
        ctx: checked between networks, and while each is made.
        start: temperature that few answers are held near.
        gone: ``[S]`` bool, examples that are as if they had never been there.
    """
    part, out = nested.parts(y, ways, pictures, recipes.ONE_BY_ONE)
    here = torch.ones_like(y, dtype=torch.bool) if gone is None else ~gone
    n = made.views
    shown, names = y.repeat(n), list(pictures) * n
    keep, asked = recipes.masks(shown, ways, names, gone=(~here).repeat(n))
    z = torch.zeros(len(keep), len(shown), ways, dtype=torch.float64)
    for p, away in enumerate(out):
        ctx.check()
        own = asked & (part.repeat(n) == p)
        some = own.any(1)
        if not some.any():
            continue
        features = made.see(here & ~away, ctx)
        answered = _answers(made, here & ~away, features, shown, ways, keep[some], own[some], ctx)
        z[some] = torch.where(own[some][:, :, None], answered, z[some])
    return recipes.judged(recipes.gathered(z, asked), shown, start, n)


def _answers(
    made: Made, kept: Tensor, features: Tensor, y: Tensor, ways: int, keep: Tensor, asked: Tensor, ctx: Context
) -> Tensor:
    """As :func:`own_answers`, of the head of what was made of those kept ``[S]`` bool."""
    if made.head is None:
        return own_answers(made.make(kept), features, y, ways, keep, asked, ctx)
    return recipes.answers(features, y, ways, made.head, keep)


def own_answers(
    knowledge: Knowledge, features: Tensor, y: Tensor, ways: int, keep: Tensor, asked: Tensor, ctx: Context
) -> Tensor:
    """``[M, S, N]`` logits of an entry's own head, fitted to what each mask keeps, right where something is asked.

    Args:
        knowledge: whose features do not depend on the examples.
        features: ``[S, D]``.
        y: ``[S]``.
        ways: ``N``.
        keep: ``[M, S]`` bool.
        asked: ``[M, S]`` bool.
        ctx: checked before each adaptation, where the head has no closed form.
    """
    k = knowledge
    form = getattr(k.algorithm, "classifier", None)
    if form is not None:
        return recipes.answers(features, y, ways, form(k.state, features), keep)
    z = torch.zeros(len(keep), len(y), ways, dtype=torch.float64)
    for m, (kept, about) in enumerate(zip(keep, asked, strict=True)):
        ctx.check()
        adapted = k.algorithm.adapt(k.state, Support(features[kept], y[kept], ways, features[kept]), ctx)
        with torch.no_grad():
            z[m, about] = k.algorithm.head(k.state, adapted)(features[about]).double()
    return z


def in_parts(made: Made, y: Tensor, ways: int, pictures: Sequence[str], count: int, ctx: Context) -> HeldOut:
    """Answers to parts that hold one of every class, under networks and heads that were made without the part."""
    part, out = nested.parts(y, ways, pictures, count)
    logits = torch.zeros(len(y), ways)
    for r, away in enumerate(out):
        ctx.check()
        f, asked = made.see(~away, ctx)[: len(y)], part == r
        logits[asked] = _answers(made, ~away, f, y, ways, ~away[None], asked[None], ctx)[0, asked].float()
    rows = torch.nonzero(part >= 0).flatten()
    return HeldOut(rows, logits[rows], None)
