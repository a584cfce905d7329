"""A fresh classifier on the features of a few examples, trained as Chen et al. 2019 (arXiv 1904.04232) do.

Plain stochastic descent with momentum on minibatches: for the gradient ``g`` of a batch's mean cross entropy at ``w``::

    g <- g + decay * w
    v <- g at the first step, then 0.9 v + (1 - 0.9) g          momentum 0.9, dampening 0.9
    w <- w - lr * v

Dampened as much as it is remembered, ``v`` is a running mean of gradients: a step is ``lr`` long, not ten times that.

Two forms, of ``x [S, D]`` and labels ``y [S]``; ``|w_k|`` is the length of row ``k``:

* *linear*: ``z = x W' + b``, from zero. Convex, so that where it ends with enough steps is settled. (The authors start
  at small random rows.)
* *cosine*: ``z = s * g_k <w_k, x> / (|w_k| |x|)`` with a learnt length ``g_k`` for each class, from ``w_k`` at the mean
  of class ``k``'s features of length 1 and ``g_k = 1`` (Qi, Brown, Lowe 2018, arXiv 1712.07136). Not convex; from
  random rows, as the authors start, each seed would end elsewhere.

Both starts are the same for any numbering of the classes. Classes count alike when their numbers of examples differ:
example ``i``'s loss has the weight ``S / (N n_y)``, which is 1 where they do not.

**Minibatches without an order.** Which examples share a batch comes from a seed of its own and from an order that the
features decide, so the same examples give the same classifier, in whatever order they were shown.

The gradients are written out, and both forms are fitted in the examples' span (see ``examples.in_span``): a step is six
or a dozen small products instead of a graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.learn import examples, heads
from workbench.learn.protocol import generator

SEED = 0
"""Of the minibatches."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained; the defaults are the authors'.

    Attributes:
        epochs: passes over the examples.
        batch: examples per step, or fewer at the end of a pass.
        lr: length of a step.
        decay: pull of all numbers towards zero.
        momentum: share of the velocity that stays; the rest is the new gradient's.
        seed: of the minibatches.
    """

    epochs: int = 100
    batch: int = 4
    lr: float = 0.01
    decay: float = 1e-3
    momentum: float = 0.9
    seed: int = SEED


class Batch(NamedTuple):
    """Rows ``x [B, r]``, one-hot ``targets [B, N]``, and ``weights [B, 1]`` of their losses: 1 / B, balanced."""

    x: Tensor
    targets: Tensor
    weights: Tensor


@torch.no_grad()
def linear(
    x: Tensor, y: Tensor, ways: int, recipe: Recipe, ctx: Context, *, every: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """``weight [N, D]`` and ``bias [N]`` after the last pass, in the float type of ``x``.

    Args:
        x: ``[S, D]``.
        y: ``[S]`` in ``0..ways-1``, every class at least once.
        ways: ``N``.
        recipe: how.
        ctx: checked before each pass.
        every: yield them before the first pass too, and after each one.

    Raises:
        JobCancelledError: from ``ctx``.
    """
    order = examples.canonical_order(x)
    rows, basis = examples.in_span(x.double())
    # a bias is the weight of a feature that is always 1: decay and momentum treat it alike
    rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    w = rows.new_zeros(rows.shape[1], ways)
    velocity = None
    for j, batches in enumerate(_passes(rows, y, ways, order, recipe)):
        if j:
            ctx.check()
        for b in batches:
            error = (b.x @ w).softmax(1).sub_(b.targets).mul_(b.weights)
            g = torch.addmm(w, b.x.T, error, beta=recipe.decay)
            velocity = g if velocity is None else velocity.lerp_(g, 1 - recipe.momentum)
            w.add_(velocity, alpha=-recipe.lr)
        if every or j == recipe.epochs:
            yield examples.from_span(w[:-1], basis).T.contiguous().to(x), w[-1].to(x, copy=True)


@torch.no_grad()
def cosine(
    x: Tensor, y: Tensor, ways: int, scale: float, recipe: Recipe, ctx: Context, *, every: bool = False
) -> Iterator[Tensor]:
    """``weight [N, D]`` after the last pass: logits are ``<weight_k, x> / |x|``.

    Row ``k`` is ``scale * g_k w_k / |w_k|``. The length of ``x`` does not matter. Arguments as for :func:`linear`.

    The gradient, with ``q_k = g_k / |w_k|``, ``z = scale * x w'`` and ``E`` the derivative by the logits ``q o z``::

        by g_k:  a_k / |w_k|                                            a_k = sum_i E_ik z_ik
        by w_k:  q_k (scale * sum_i E_ik x_i  -  a_k w_k / |w_k|^2)
    """
    x = F.normalize(x, dim=1)
    order = examples.canonical_order(x)
    rows, basis = examples.in_span(x.double())
    # directions in the first rows, lengths in the last one: one tensor, one step for both
    w = torch.cat([heads.prototypes(rows, y, ways).T, rows.new_ones(1, ways)])
    gradient = torch.empty_like(w)
    directions, lengths, by_directions, by_lengths = w[:-1], w[-1], gradient[:-1], gradient[-1]
    velocity = None
    for j, batches in enumerate(_passes(scale * rows, y, ways, order, recipe)):
        if j:
            ctx.check()
        for b in batches:
            z = b.x @ directions
            size = torch.linalg.vector_norm(directions, dim=0)
            q = lengths / size
            error = (z * q).softmax(1).sub_(b.targets).mul_(b.weights)
            along = z.mul_(error).sum(0).div_(size)
            torch.addmm(directions, b.x.T, error.mul_(q), beta=recipe.decay, out=by_directions)
            by_directions.addcmul_(directions, q.mul_(along).div_(size), value=-1)
            torch.add(along, lengths, alpha=recipe.decay, out=by_lengths)
            velocity = gradient.clone() if velocity is None else velocity.lerp_(gradient, 1 - recipe.momentum)
            w.add_(velocity, alpha=-recipe.lr)
        if every or j == recipe.epochs:
            unit = F.normalize(directions, dim=0)
            yield examples.from_span(scale * lengths * unit, basis).T.contiguous().to(x)


def _passes(x: Tensor, y: Tensor, ways: int, order: Tensor, recipe: Recipe) -> Iterator[Iterator[Batch]]:
    """An empty pass, then the minibatches of each; ``order [S]`` is what the draws refer to."""
    n = len(y)
    targets = heads.one_hot(y, ways, x)
    weights = heads.balanced(y, ways, x)
    sizes = torch.full_like(weights, min(recipe.batch, n))
    if n % recipe.batch:
        sizes[-(n % recipe.batch) :] = n % recipe.batch
    gen = generator(recipe.seed)
    yield iter(())
    for _ in range(recipe.epochs):
        drawn = order[torch.randperm(n, generator=gen).to(order.device)]
        parts = (x[drawn], targets[drawn], (weights[drawn] / sizes)[:, None])
        yield map(Batch, *(torch.split(t, recipe.batch) for t in parts))
