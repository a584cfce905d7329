"""Multinomial logistic regression with a quadratic penalty, solved to the end: no learning rate, no seed, no stopping.

For examples ``x [S, D]`` with labels ``y [S]``, weights ``a [S]`` and a classifier ``W [D, N], b [N]``::

    L(W, b) = c * sum_i a_i CE(x_i W + b, y_i) + 1/2 |W|^2

The bias is free, as in scikit-learn. ``L`` is convex and has one minimiser (up to a constant added to ``b``, here the
one with ``sum b = 0``), so whoever solves it gets the same classifier.

Solved in float64 by Newton's method. A Newton step ``H d = -g`` is found by conjugate gradients, for which products
with ``H`` are enough (``P`` holds the probabilities)::

    H V = X' [c a P o (X V - <P, X V>)] + V

and the steps are halved until they lower ``L`` enough. By :func:`examples.in_span` the work depends on the smaller of
``S`` and ``D``: 5 classes of 5 examples with 1600 features take a few milliseconds. Examples that are better multiplied
by than written down are given as :class:`Rows`.

Within, classes are the rows of ``W'`` and of all that is computed from it: few and long, which torch takes much faster
than many short ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.learn import examples

_TOLERANCE = 1e-10
"""Of the gradient's length against that at zero. The penalty's curvature is 1: the weights are as exact."""
_STEPS, _INNER_STEPS = 100, 500


class Rows(Protocol):
    """The examples as a matrix ``X [S, D]`` in float64, by what it does to others; ``width`` is ``D``."""

    width: int

    def logits(self, w: Tensor) -> Tensor:
        """``w X'``: ``[N, S]`` of ``w [N, D]``."""
        ...

    def gathered(self, e: Tensor) -> Tensor:
        """``e X``: ``[N, D]`` of ``e [N, S]``."""
        ...

    def gathered_squares(self, e: Tensor) -> Tensor:
        """About ``e (X o X)``, nowhere below 0 where ``e`` is not; how near is a matter of speed alone."""
        ...


class Table:
    """:class:`Rows` that are written down, ``x [S, D]``."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.width = x, x.shape[1]

    def logits(self, w: Tensor) -> Tensor:
        """As :class:`Rows` says."""
        return w @ self.x.T

    def gathered(self, e: Tensor) -> Tensor:
        """As :class:`Rows` says."""
        return e @ self.x

    def gathered_squares(self, e: Tensor) -> Tensor:
        """As :class:`Rows` says, exactly."""
        return e @ self.x.square()


def fit(
    x: Tensor, y: Tensor, ways: int, *, c: float, ctx: Context, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``weight [N, D]`` and ``bias [N]`` of the minimiser, in the float type of ``x``.

    Args:
        x: ``[S, D]``.
        y: ``[S]`` in ``0..ways-1``, each class with some weight.
        ways: ``N``.
        c: how much the examples weigh against the penalty.
        ctx: checked before each Newton step.
        weights: ``a [S]``, 1 where left out.

    Raises:
        ValueError: ``c`` is not positive.
        JobCancelledError: from ``ctx``.
    """
    rows, basis = examples.in_span(x.double())
    a = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
    weight, bias = fit_rows(Table(rows), y, ways, c=c, ctx=ctx, weights=a)
    return examples.from_span(weight.T, basis).T.contiguous().to(x), bias.to(x)


def fit_rows(rows: Rows, y: Tensor, ways: int, *, c: float, ctx: Context, weights: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`fit` for examples as they are given, in float64; ``weights [S]`` may be 0."""
    if c <= 0:
        raise ValueError("the examples of a logistic regression must weigh something")
    counts = c * weights
    targets = F.one_hot(y, ways).T.to(counts) * counts
    theta = _minimiser(rows, targets, counts, ctx)
    return theta[:, :-1], theta[:, -1]


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, *, c: float, weights: Tensor | None = None) -> Tensor:
    """``L`` of a classifier ``weight [N, D], bias [N]``."""
    each = F.cross_entropy(F.linear(x, weight, bias), y, reduction="none")
    return c * (each if weights is None else weights * each).sum() + 0.5 * weight.square().sum()


def _minimiser(rows: Rows, targets: Tensor, counts: Tensor, ctx: Context) -> Tensor:
    """``theta [N, D + 1]``, the bias in the last column, by Newton's method from zero.

    ``counts [S]`` is ``c a``, and in ``targets [N, S]`` each example's stands at its class.
    """
    theta = targets.new_zeros(len(targets), rows.width + 1)
    value, g, p = _evaluated(rows, targets, counts, theta)
    enough = _TOLERANCE * float(g.norm())
    for _ in range(_STEPS):
        ctx.check()
        size = float(g.norm())
        if size <= enough:
            break
        shares = counts * p

        def times(v: Tensor, p: Tensor = p, shares: Tensor = shares) -> Tensor:
            u = _logits(rows, v)
            bent = u.sub_((p * u).sum(0)).mul_(shares)
            return _penalised(_gathered(rows, bent), v)

        bent = torch.addcmul(shares, shares, p, value=-1)
        spread = torch.cat([rows.gathered_squares(bent), bent.sum(1, keepdim=True)], 1).add_(1)
        direction = _conjugate_gradients(times, -g, spread, min(0.1, size**0.5) * size)
        slope = float((direction * g).sum())
        length = 1.0
        while True:
            moved = theta + length * direction
            found = _evaluated(rows, targets, counts, moved)
            # so near the end a full step is right, and the differences between values are but rounding
            if found[0] <= value + 1e-4 * length * slope or -slope <= 1e-9 * (1 + abs(value)) or length < 1e-8:
                break
            length /= 2
        theta, (value, g, p) = moved, found
    return theta


def _logits(rows: Rows, theta: Tensor) -> Tensor:
    """``[N, S]``."""
    return rows.logits(theta[:, :-1]).add_(theta[:, -1:])


def _gathered(rows: Rows, e: Tensor) -> Tensor:
    """``[N, D + 1]``: the bias is the weight of a feature that is always 1."""
    return torch.cat([rows.gathered(e), e.sum(1, keepdim=True)], 1)


def _evaluated(rows: Rows, targets: Tensor, counts: Tensor, theta: Tensor) -> tuple[float, Tensor, Tensor]:
    """``L``, its gradient ``[N, D + 1]`` and the probabilities ``[N, S]``.

    ``(sum b)^2 / 2`` is added, which settles the constant that ``L`` leaves free.
    """
    log_p = _logits(rows, theta).log_softmax(0)
    p = log_p.exp()
    penalty = 0.5 * (theta[:, :-1].square().sum() + theta[:, -1].sum().square())
    value = penalty - (targets * log_p).sum()
    return float(value), _penalised(_gathered(rows, (counts * p).sub_(targets)), theta), p


def _penalised(data: Tensor, v: Tensor) -> Tensor:
    """What the examples give, plus the penalty's part at ``v``; written into ``data``."""
    data[:, :-1] += v[:, :-1]
    data[:, -1] += v[:, -1].sum()
    return data


def _conjugate_gradients(times: Callable[[Tensor], Tensor], goal: Tensor, spread: Tensor, enough: float) -> Tensor:
    """``x`` with ``|H x - goal| <= enough`` for the symmetric ``H`` of ``times``, preconditioned by its diagonal."""
    x, rest = torch.zeros_like(goal), goal
    way = z = rest / spread
    power = float((rest * z).sum())
    for _ in range(_INNER_STEPS):
        image = times(way)
        length = power / float((way * image).sum())
        x, rest = x + length * way, rest - length * image
        if float(rest.norm()) <= enough:
            break
        z = rest / spread
        before, power = power, float((rest * z).sum())
        way = z + (power / before) * way
    return x
