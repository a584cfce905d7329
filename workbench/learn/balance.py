"""Several losses on one set of shared parameters: how much each counts.

``losses``: one scalar for each source. A gradient by source is a dict of tensors by name, the same names for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from workbench.learn.functional import Tensors

Form = Literal["classification", "regression"]


def uncertain(losses: Sequence[Tensor], log_variances: Sequence[Tensor], form: Form = "classification") -> Tensor:
    """The mean of losses weighted by their learnt noise ``s^2`` (Kendall, Gal, Cipolla 2018, arXiv 1705.07115).

    ``L / s^2 + log s`` for cross entropies and ``L / (2 s^2) + log s`` for squared errors, each smallest where ``s^2``
    is ``2 L`` or ``L``: the larger a loss, the less it counts, and ``log s`` keeps the weights from going to 0. What is
    learnt is ``log s^2``, which any number may be.

    Args:
        losses: scalars, at least one.
        log_variances: of each, scalars.
        form: of the losses.
    """
    half = 1.0 if form == "classification" else 0.5
    terms = [half * torch.exp(-v) * loss + 0.5 * v for loss, v in zip(losses, log_variances, strict=True)]
    return torch.stack(terms).mean()


def surgery(gradients: Sequence[Tensors], gen: Generator) -> list[Tensors]:
    """PCGrad (Yu et al. 2020, arXiv 2001.06782): from each gradient what points against another is taken out.

    For each ``g_i`` in turn, and the others in an order drawn from ``gen``: where ``g_i . g_j < 0``, ``g_i`` becomes
    ``g_i - (g_i . g_j / |g_j|^2) g_j``. ``g_j`` is always the gradient as it was. Without conflicts nothing changes,
    to the last bit; of two, each ends at a right angle to the other, so that a step along their sum harms neither.

    Args:
        gradients: at least one; all numbers of one count as one vector.
        gen: of the order.
    """
    squares = [_dot(g, g) for g in gradients]
    found = []
    for i, own in enumerate(gradients):
        g = own
        for j in torch.randperm(len(gradients), generator=gen).tolist():
            if j == i:
                continue
            agreement = _dot(g, gradients[j])
            if agreement < 0:
                g = {n: t - (agreement / squares[j]) * gradients[j][n] for n, t in g.items()}
        found.append(g)
    return found


def _dot(a: Tensors, b: Tensors) -> float:
    return float(torch.stack([(t * b[n]).sum() for n, t in a.items()]).sum())
