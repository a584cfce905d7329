"""Fine-tuning that is held near where it began: L2-SP (Li, Grandvalet, Davoine 2018, arXiv 1802.01483).

A new task whose neighbours ``theta_j`` are known is learnt by::

    theta* = argmin L(theta) + lam / 2 sum_j s_j |theta - theta_j|^2
           = argmin L(theta) + lam s / 2 |theta - theta_w|^2,    s = sum_j s_j,   theta_w = sum_j s_j theta_j / s

(the two differ by a constant), so it is fine-tuning from and towards the neighbours' weighted mean, which is what
:mod:`workbench.transfer.mixing` makes. The head is not pulled: it starts at the class means of the task's own examples.

A step is one of gradient descent on ``L`` with a running mean of gradients, followed by the exact minimum of the pull::

    v <- v + (1 - momentum) (grad L(theta) - v)
    theta <- (theta - lr v + lr lam theta_w) / (1 + lr lam)

It rests only where ``grad L + lam (theta - theta_w) = 0``, is stable for every ``lam``, stays at ``theta_w`` as ``lam``
grows, and is plain fine-tuning to the last bit for ``lam = 0``.

How many steps help is asked of the examples: each part of them is left out in turn, and the number with the least
log-loss is taken if it is better than none at all by more than its standard error. With one picture of a class nothing
can be left out, and nothing is tuned. What shows one picture, its copies and its altered views, is left out together.

The left-out loss at the number of steps that was taken is the least of several, and says a little too much of it.

The benchmark of transfer compares starts by this (:func:`tune`), under the linear head that is tuned with the trunk.
Where another head answers, its losses decide: :func:`along` gives the trunk after each number of steps, and
``services/tuning.py`` asks that head for a mixture that was asked for.

Mistakes that are easily made here, and not made: a pull towards zero; a pull on the head; a head at random rows, whose
first gradients spoil the trunk; the number of steps chosen on what was tuned on, or on its copies; batch norm in train
mode.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.learn import averaging, examples, functional, heads
from workbench.learn.calibrate import fit_temperature
from workbench.learn.protocol import Support, Tensors
from workbench.transfer.mixing import Trunk, restated
from workbench.transfer.rank import paired_gain

WEIGHT, BIAS = "head.weight", "head.bias"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a trunk is tuned.

    Attributes:
        strength: ``lam``, of the pull on the trunk.
        lr: length of a step.
        momentum: share of the running mean of gradients that stays.
        steps: numbers of steps to choose from; the first is 0.
        folds: parts the examples are left out in; never more than the smallest class has pictures.
        pictures: what the trunk's running averages count for when they are measured again on the examples
            (see ``mixing.restated``); ``inf`` keeps them.
    """

    strength: float = 0.03
    lr: float = 0.05
    momentum: float = 0.9
    steps: tuple[int, ...] = (0, 5, 10, 20)
    folds: int = 3
    pictures: float = float("inf")

    def __post_init__(self) -> None:
        if self.strength < 0 or not self.lr > 0 or not 0 <= self.momentum < 1 or self.folds < 2:
            raise ValueError("a pull from 0 up, a step above 0, a momentum from 0 to below 1, and at least two parts")
        if not self.steps or self.steps[0] != 0 or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("numbers of steps go up from 0")


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What tuning gave.

    Attributes:
        trunk: with the running averages it was tuned under.
        weight: ``[N, D]`` of the classifier.
        bias: ``[N]``.
        steps: taken.
        losses: mean log-loss of left-out examples, nats, by the number of steps; empty where none could be left out.
        rows: which examples were left out ``[M]``.
        left_out: log-loss of each of them at ``steps`` ``[M]``, nats, in the order of ``rows``; the least of several.
    """

    trunk: Trunk
    weight: Tensor
    bias: Tensor
    steps: int
    losses: dict[int, float]
    rows: Tensor
    left_out: Tensor


def pull(neighbours: Sequence[averaging.Model], strengths: Sequence[float]) -> tuple[Tensors, float]:
    """``theta_w`` and ``s`` of a task's neighbours; see the module.

    Raises:
        WorkbenchError: no neighbour, strengths that are no weights, or neighbours without a common ancestor.
    """
    return averaging.mean(neighbours, strengths), math.fsum(strengths)


def descent(
    loss: Callable[[Tensors], Tensor],
    start: Mapping[str, Tensor],
    centre: Mapping[str, Tensor],
    recipe: Recipe,
    steps: int,
    ctx: Context,
) -> Iterator[Tensors]:
    """``theta`` before the first step and after each one, without graphs.

    Args:
        loss: scalar of the parameters by name.
        start: all that moves.
        centre: what of it is pulled, and where to; the rest is not.
        recipe: step, momentum and pull.
        steps: how many.
        ctx: checked before each step.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    theta = {n: t.detach() for n, t in start.items()}
    velocity: Tensors = {}
    yield theta
    for _ in range(steps):
        ctx.check()
        moving = {n: t.requires_grad_() for n, t in ((n, t.detach().clone()) for n, t in theta.items())}
        with torch.enable_grad():
            grads = torch.autograd.grad(loss(moving), list(moving.values()))
        with torch.no_grad():
            theta = {}
            for (name, t), g in zip(moving.items(), grads, strict=True):
                # the first gradient is the mean of one
                velocity[name] = g.lerp(velocity[name], recipe.momentum) if name in velocity else g
                theta[name] = t.detach() - recipe.lr * velocity[name]
                if name in centre and recipe.strength:
                    held = recipe.lr * recipe.strength
                    theta[name] = (theta[name] + held * centre[name]) / (1 + held)
        yield theta


def tune(
    network: nn.Module,
    trunk: Trunk,
    support: Support,
    recipe: Recipe,
    ctx: Context,
    *,
    centre: Trunk | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Tuned:
    """Fine-tune a trunk and a linear classifier on a task's examples, towards where the trunk was.

    Args:
        network: the backbone's skeleton.
        trunk: to start from.
        support: the examples, as pictures.
        recipe: how.
        ctx: checked before each step.
        centre: to be held near; ``None``: the start.
        groups: per example, which picture it shows; ``None``: what is the same to the last bit is one picture.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    centre = trunk if centre is None else centre
    order = examples.canonical_order(support.x)  # so that the same examples in another order fall into the same parts
    x, y = support.x[order], support.y[order]
    shown = _copies(x) if groups is None else [groups[i] for i in order.tolist()]
    parts = _parts(y, support.ways, shown, recipe.folds)
    losses: dict[int, float] = {}
    rows, left_out = y.new_zeros(0), x.new_zeros(0)
    steps = 0
    if parts:
        rows, found = _judged(network, trunk, centre, (x, y, support.ways), parts, recipe, ctx)
        losses = {j: float(each.mean()) for j, each in found.items()}
        best = min(losses, key=lambda j: (losses[j], j))
        if best:
            gain, error = paired_gain(found[0].tolist(), found[best].tolist())
            steps = best if gain > error else 0
        left_out, rows = found[steps], order[rows]
    path = list(_path(network, trunk, centre, (x, y, support.ways), recipe, steps, ctx))
    theta, buffers = path[-1]
    tuned = replace(trunk, parameters=functional.under(theta), buffers=buffers)
    return Tuned(tuned, theta[WEIGHT], theta[BIAS], steps, losses, rows, left_out)


def along(
    network: nn.Module, trunk: Trunk, support: Support, recipe: Recipe, steps: Sequence[int], ctx: Context
) -> Iterator[Trunk]:
    """The trunk after each of these numbers of steps on a task's examples, towards where it was.

    It has the running averages it was tuned under, also after none.

    Args:
        network: the backbone's skeleton.
        trunk: to start from.
        support: the examples, as pictures.
        recipe: how; its own numbers of steps are not looked at.
        steps: how many, going up.
        ctx: checked before each step.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    order = examples.canonical_order(support.x)
    given = (support.x[order], support.y[order], support.ways)
    for j, (theta, buffers) in enumerate(_path(network, trunk, trunk, given, recipe, steps[-1], ctx)):
        if j in steps:
            yield replace(trunk, parameters=functional.under(theta), buffers=buffers)


_Examples = tuple[Tensor, Tensor, int]


def _copies(x: Tensor) -> list[bytes]:
    """What tells pictures apart."""
    return [hashlib.sha256(one.detach().cpu().contiguous().numpy().tobytes()).digest() for one in x]


def _parts(y: Tensor, ways: int, groups: Sequence[Hashable], folds: int) -> list[list[int]]:
    """Rows of each part that is left out in turn; none where some class has one picture only.

    A picture that is shown under several classes lies in the part in which it is first met; a part that would leave a
    class without examples leaves those of it where they are.
    """
    members = [torch.nonzero(y == c).flatten().tolist() for c in range(ways)]
    pictures = [list(dict.fromkeys(groups[i] for i in m)) for m in members]
    folds = min(folds, *(len(p) for p in pictures))
    if folds < 2:
        return []
    part: dict[Hashable, int] = {}
    for own in pictures:
        part |= {g: i % folds for i, g in enumerate(g for g in own if g not in part)}
    found = []
    for r in range(folds):
        out = [[i for i in m if part[groups[i]] == r] for m in members]
        found.append([i for o, m in zip(out, members, strict=True) if len(o) < len(m) for i in o])
    return [rows for rows in found if rows]


def _judged(
    network: nn.Module,
    trunk: Trunk,
    centre: Trunk,
    given: _Examples,
    parts: Sequence[list[int]],
    recipe: Recipe,
    ctx: Context,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Rows that were left out, and their log-loss after each number of steps of a tuning that did not see them."""
    x, y, ways = given
    rows: list[int] = []
    logits: dict[int, list[Tensor]] = {j: [] for j in recipe.steps}
    for out in parts:
        kept = torch.ones(len(y), dtype=torch.bool)
        kept[out] = False
        part = (x[kept], y[kept], ways)
        for j, (theta, buffers) in enumerate(_path(network, trunk, centre, part, recipe, recipe.steps[-1], ctx)):
            if j in logits:
                with torch.no_grad():
                    logits[j].append(_logits(network, theta, buffers, x[out]))
        rows += out
    answers = {j: torch.cat(parts) for j, parts in logits.items()}
    labels = y[rows]
    return torch.tensor(rows), {
        j: F.cross_entropy(z / fit_temperature(z, labels), labels, reduction="none") for j, z in answers.items()
    }


def _path(
    network: nn.Module, trunk: Trunk, centre: Trunk, given: _Examples, recipe: Recipe, steps: int, ctx: Context
) -> Iterator[tuple[Tensors, Tensors]]:
    """``trunk.*``, ``head.weight`` and ``head.bias`` with the running averages, before and after each step."""
    x, y, ways = given
    buffers = restated(network, trunk, x, recipe.pictures, ctx).buffers
    with torch.no_grad():
        features = functional.call(network, trunk.parameters, buffers, x)
        scale = heads.START / features.shape[1]
        weight, bias = heads.prototype_linear(heads.prototypes(features, y, ways), scale)
    start = {**functional.named(trunk.parameters), WEIGHT: weight, BIAS: bias}
    held = functional.named(centre.parameters)
    shares = heads.balanced(y, ways, x) / len(y)

    def loss(theta: Tensors) -> Tensor:
        losses = F.cross_entropy(_logits(network, theta, buffers, x), y, reduction="none")
        return (shares * losses).sum()

    for theta in descent(loss, start, held, recipe, steps, ctx):
        yield theta, buffers


def _logits(network: nn.Module, theta: Mapping[str, Tensor], buffers: Tensors, x: Tensor) -> Tensor:
    features = functional.call(network, functional.under(theta), buffers, x)
    return F.linear(features, theta[WEIGHT], theta[BIAS])
