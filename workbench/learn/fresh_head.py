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

The gradients are written out, and both forms are fitted in the examples' span (see ``examples.in_span``): a step is one
or two dozen operations on a few numbers instead of a graph. On so few numbers a call costs more than what it computes,
and numpy's calls cost the least; so they are taken on the CPU, wherever the features lie. The velocity is kept as what
is next taken off, ``lr * v``, with which the factors of every step move into the weights of the losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from workbench.core.context import Context
from workbench.learn import examples, heads
from workbench.learn.protocol import generator

Array = NDArray[np.float64]

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
    """Rows ``x [B, r]``, one-hot ``targets [N, B]``, and ``weights [B]`` of their losses: balanced, 1 / B, times what a
    step takes of a gradient at once.
    """

    x: Array
    targets: Array
    weights: Array


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
    w: Array = np.zeros((ways, rows.shape[1]))
    pull, velocity, part, still = _share(recipe) * recipe.decay, np.zeros_like(w), np.empty_like(w), True
    for j, batches in enumerate(_passes(rows, y, ways, order, recipe)):
        if j:
            ctx.check()
        for b in batches:
            error = _error(w @ b.x.T, b)
            velocity *= recipe.momentum
            velocity += np.multiply(w, pull, out=part)
            velocity += np.matmul(error, b.x, out=part)
            if still:
                velocity /= 1 - recipe.momentum
                still = False
            w -= velocity
        if every or j == recipe.epochs:
            found = torch.from_numpy(w.copy()).to(rows)
            yield examples.from_span(found[:, :-1].T, basis).T.contiguous().to(x), found[:, -1].to(x)


@torch.no_grad()
def cosine(
    x: Tensor, y: Tensor, ways: int, scale: float, recipe: Recipe, ctx: Context, *, every: bool = False
) -> Iterator[Tensor]:
    """``weight [N, D]`` after the last pass: logits are ``<weight_k, x> / |x|``.

    Row ``k`` is ``scale * g_k w_k / |w_k|``. The length of ``x`` does not matter. Arguments as for :func:`linear`.

    The gradient, with ``q_k = g_k / |w_k|``, ``z = scale * w x'`` and ``E`` the derivative by the logits ``q o z``::

        by g_k:  a_k / |w_k|                                            a_k = sum_i E_ki z_ki
        by w_k:  q_k (scale * sum_i E_ki x_i  -  a_k w_k / |w_k|^2)
    """
    x = F.normalize(x, dim=1)
    order = examples.canonical_order(x)
    rows, basis = examples.in_span(x.double())
    # directions in the first columns, lengths in the last one: one array, one step for both
    w = np.concatenate([_array(heads.prototypes(rows, y, ways)), np.ones((ways, 1))], 1)
    directions, lengths = w[:, :-1], w[:, -1]
    pull, velocity, part, still = _share(recipe) * recipe.decay, np.zeros_like(w), np.empty_like(directions), True
    by_directions, by_lengths = velocity[:, :-1], velocity[:, -1]
    for j, batches in enumerate(_passes(scale * rows, y, ways, order, recipe)):
        if j:
            ctx.check()
        for b in batches:
            z = directions @ b.x.T
            size = np.sqrt(np.vecdot(directions, directions))
            q = lengths / size
            error = _error(z * q[:, None], b)
            along = np.vecdot(z, error) / size
            error *= q[:, None]
            velocity *= recipe.momentum
            by_lengths += pull * lengths + along
            by_directions += np.multiply(directions, (pull - q * along / size)[:, None], out=part)
            by_directions += np.matmul(error, b.x, out=part)
            if still:
                velocity /= 1 - recipe.momentum
                still = False
            w -= velocity
        if every or j == recipe.epochs:
            found = torch.from_numpy(w).to(rows)
            unit = F.normalize(found[:, :-1], dim=1)
            yield examples.from_span((scale * found[:, -1:] * unit).T, basis).T.contiguous().to(x)


def _error(z: Array, b: Batch) -> Array:
    """``[N, B]``: the derivative of a batch's loss by its logits ``z``, which are used up."""
    z -= np.maximum.reduce(z, 0)
    np.exp(z, out=z)
    z /= np.add.reduce(z, 0)
    z -= b.targets
    z *= b.weights
    return z


def _share(recipe: Recipe) -> float:
    """How much of a gradient a step takes at once."""
    return recipe.lr * (1 - recipe.momentum)


def _passes(x: Tensor, y: Tensor, ways: int, order: Tensor, recipe: Recipe) -> Iterator[Iterator[Batch]]:
    """An empty pass, then the minibatches of each; ``order [S]`` is what the draws refer to."""
    n, at_once = len(y), recipe.batch
    sizes = np.full(n, min(at_once, n))
    if n % at_once:
        sizes[-(n % at_once) :] = n % at_once
    pictures, classes, counts = map(_array, (x, heads.one_hot(y, ways, x).T, heads.balanced(y, ways, x)))
    gen, places = generator(recipe.seed), _array(order)
    yield iter(())
    for _ in range(recipe.epochs):
        drawn = places[_array(torch.randperm(n, generator=gen))]
        rows, targets, weights = pictures[drawn], classes[:, drawn], counts[drawn] * (_share(recipe) / sizes)
        cuts = [slice(i, i + at_once) for i in range(0, n, at_once)]
        yield iter([Batch(rows[c], targets[:, c], weights[c]) for c in cuts])


def _array(t: Tensor) -> NDArray[Any]:
    return t.cpu().numpy()
