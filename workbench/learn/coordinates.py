"""Learnt optimisers: a small rule that steps every number of a network alike, and the walk that it takes.

A network has ``P`` numbers, laid end to end in ``theta [P]``. A *rule* sees of each number what descent would see, its
gradient, and what it remembers of that number, and gives its next value. Its few weights are shared by all numbers, so
one rule fits any network, and numbering the numbers in another order changes nothing but that order. What it remembers
is per number: an LSTM of ``H`` units keeps ``2 H P`` floats.

**Gradients are constants.** ``theta_{t+1}`` depends on the rule's weights through the rule and through ``theta_t``. It
depends on ``theta_t`` through ``grad L(theta_t)`` too; following that would need second derivatives of the network.
Both papers (Andrychowicz et al. 2016, arXiv 1606.04474; Ravi, Larochelle 2017) leave it out, and so does
:func:`walk`: it hands the rule a loss and a gradient that have no graph. Then the network is never differentiated
twice, and the graph of a whole walk is that of the rule alone, ``P`` small graphs side by side.

**What is kept.** Within the rule a number passes through some hundred intermediate values, which would be kept for
every step. They are recomputed on the way back instead: kept are ``theta`` and the memory of each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from workbench.core.context import Context
from workbench.learn import optimiser
from workbench.learn.protocol import Phase, detach

Tensors = dict[str, Tensor]
Loss = Callable[[Tensors], Tensor]
Memory = tuple[Tensor, ...]
"""What a rule remembers, ``[P, ...]`` each; zero before the first step."""
Rule = Callable[[Tensors, Tensor, Tensor, Tensor, Memory], tuple[Tensor, Memory]]
"""``(weights, theta [P], gradient [P], loss [], memory) -> (theta [P], memory)``, one step on."""
PRECISION = 10.0
"""``p`` of :func:`preprocessed`: sizes down to ``e^-p`` are told apart by their logarithm."""
RATES = tuple(10 ** (k / 2) for k in range(-8, 3))
"""Learning rates that optimisers made by hand are tuned over: 1e-4 to 10."""


def preprocessed(x: Tensor, p: float = PRECISION) -> Tensor:
    """``[...] -> [..., 2]``: size and sign of numbers whose sizes differ by many powers of ten, each within about 1.

    ``(log|x| / p, sign x)`` where ``|x| >= e^-p``, else ``(-1, e^p x)``; both pieces meet at ``|x| = e^-p``
    (Andrychowicz et al. 2016, appendix A). Gradients of different weights differ so much in size that a network that
    read them as they are would see a few of them and take the others for zero.
    """
    large = x.abs() >= math.exp(-p)
    size = torch.where(large, x.abs().clamp_min(math.exp(-p)).log() / p, -1.0)
    return torch.stack([size, torch.where(large, x.sign(), math.exp(p) * x)], -1)


# ---- a network as one row of numbers ---------------------------------------------------------------------------------


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """``[P]``: all numbers end to end, in the order of the names as they come."""
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def shaped(numbers: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """The inverse of :func:`flat`: ``numbers [P]`` as tensors of these names and shapes."""
    parts = torch.split(numbers, [t.numel() for t in like.values()])
    return {name: part.view(t.shape) for (name, t), part in zip(like.items(), parts, strict=True)}


def walk(
    loss: Loss,
    start: Tensors,
    rule: Rule,
    weights: Tensors,
    memory: Memory,
    *,
    steps: int,
    ctx: Context,
    graph: bool,
    unroll: int | None = None,
) -> Iterator[Tensors]:
    """Yield ``theta_0`` to ``theta_steps``.

    Args:
        loss: what the rule descends, a scalar; the examples' loss of a task.
        start: ``theta_0`` by name.
        rule: of each number.
        weights: what is learnt of the rule; it reads nothing else that is learnt.
        memory: before the first step.
        steps: how many.
        ctx: checked before each step.
        graph: whether each ``theta_t`` can be differentiated, down to ``start`` and ``weights``; once, not twice.
        unroll: cut the graph after so many steps (truncated back-propagation through time): a later ``theta_t`` depends
            on the rule through the steps since the last cut alone. On the start it goes on to depend, as if each step
            added to it what does not depend on it, which is so for rules of the form ``theta + ...``.

    Raises:
        JobCancelledError: from ``ctx``, before the next step.
    """
    theta = first = flat(start) if graph else flat(start).detach()
    yield shaped(theta, start)
    for t in range(steps):
        ctx.check()
        if graph and unroll is not None and t and t % unroll == 0:
            theta = theta.detach() + (first - first.detach())  # the value as it is: what is added is zero
            memory = tuple(m.detach() for m in memory)
        value, gradient = observed(loss, theta, start)
        with torch.set_grad_enabled(graph):
            theta, memory = _stepped(rule, weights, theta, gradient, value, memory)
        yield shaped(theta, start)


def observed(loss: Loss, theta: Tensor, like: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss ``[]`` and gradient ``[P]`` at ``theta [P]``, both without a graph."""
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        value = loss(shaped(leaf, like))
        (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def _stepped(
    rule: Rule, weights: Tensors, theta: Tensor, gradient: Tensor, loss: Tensor, memory: Memory
) -> tuple[Tensor, Memory]:
    names = list(weights)

    def step(theta: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        values, memory = dict(zip(names, rest, strict=False)), rest[len(names) :]
        theta, memory = rule(values, theta, gradient, loss, memory)
        return theta, *memory

    theta, *held = recomputed(step, theta, *weights.values(), *memory)
    return theta, tuple(held)


def recomputed(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """``function(*tensors)``, whose intermediate values are not kept for the way back but computed again there.

    Args:
        function: of tensors; gives a tuple of new ones, and holds nothing else that is to be differentiated.
        tensors: what it is differentiated in, once.
    """
    out: tuple[Tensor, ...] = _Recomputed.apply(function, *tensors)
    return out


class _Recomputed(torch.autograd.Function):
    """Written out, since torch's own pulls its compiler in (seconds)."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)  # torch records nothing here

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted: Sequence[bool] = ctx.needs_input_grad[1:]
        leaves = [t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            out = ctx.function(*leaves)
        through = [(o, g) for o, g in zip(out, grads, strict=True) if o.requires_grad]
        found = torch.autograd.grad(
            [o for o, _ in through],
            [t for t in leaves if t.requires_grad],
            [g for _, g in through],
            allow_unused=True,
        )
        given = iter(found)
        return None, *(next(given) if w else None for w in wanted)


# ---- an LSTM for every number ----------------------------------------------------------------------------------------


def lstm_start(inputs: int, hidden: int, gen: Generator) -> Tensors:
    """Fresh ``weight [4H, I + H]``, uniform in ``+-1/sqrt(H)``, and ``bias [4H]``: 1 for the forget gate, else 0."""
    weight = torch.rand(4 * hidden, inputs + hidden, generator=gen, device=gen.device)
    bias = torch.zeros(4, hidden, device=gen.device)
    bias[1] = 1.0
    return {"weight": (2 * weight - 1) / math.sqrt(hidden), "bias": bias.flatten()}


def lstm(weights: Mapping[str, Tensor], x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """``(h, c)`` after one step of an LSTM (Hochreiter, Schmidhuber 1997), one row per number.

    ``i, f, o = sigmoid(W [x, h] + b)``, ``g = tanh(W [x, h] + b)``, ``c = f c + i g``, ``h = o tanh(c)``.

    Args:
        weights: ``weight [4H, I + H]`` and ``bias [4H]``, in the order ``i, f, g, o``.
        x: ``[P, I]``.
        h: ``[P, H]`` what it says.
        c: ``[P, H]`` what it keeps.
    """
    i, f, g, o = F.linear(torch.cat([x, h], 1), weights["weight"], weights["bias"]).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


# ---- beside optimisers made by hand ----------------------------------------------------------------------------------


class Curve(NamedTuple):
    """The loss at ``theta_0 .. theta_T`` under an optimiser, at a learning rate where it has one."""

    optimiser: str
    rate: float | None
    losses: tuple[float, ...]


@torch.no_grad()
def losses(loss: Loss, path: Iterable[Tensors]) -> tuple[float, ...]:
    """The loss all along a path."""
    return tuple(float(loss(theta)) for theta in path)


def curves_by_hand(loss: Loss, start: Tensors, steps: int, ctx: Context, rates: Sequence[float] = RATES) -> list[Curve]:
    """Plain descent (``sgd``) and ``adam``, each at each of the rates, from ``start``."""
    kinds: tuple[Literal["sgd", "adam"], ...] = ("sgd", "adam")
    return [
        Curve(kind, rate, losses(loss, _by_hand(loss, start, kind, rate, steps, ctx)))
        for kind in kinds
        for rate in rates
    ]


def lowest(curves: Iterable[Curve], *, at_the_end: bool = True) -> list[Curve]:
    """Of each optimiser the curve that ends lowest, or is lowest on average; one that diverged never wins."""

    def height(curve: Curve) -> float:
        value = curve.losses[-1] if at_the_end else math.fsum(curve.losses[1:])
        return value if math.isfinite(value) else math.inf

    found: dict[str, Curve] = {}
    for curve in curves:
        held = found.setdefault(curve.optimiser, curve)
        if height(curve) < height(held):
            found[curve.optimiser] = curve
    return list(found.values())


def _by_hand(
    loss: Loss, start: Tensors, kind: Literal["sgd", "adam"], rate: float, steps: int, ctx: Context
) -> Iterator[Tensors]:
    plan, moments, theta = Phase(kind, optimiser=kind, lr={"": rate}), optimiser.Moments(), detach(start)
    yield theta
    for _ in range(steps):
        ctx.check()
        _, gradient = observed(loss, flat(theta), theta)
        theta = optimiser.stepped(theta, shaped(gradient, theta), moments, plan, 0.0, 0.0)
        yield theta
