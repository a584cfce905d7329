"""A task's examples as rows of features: the space they span, and an order that is theirs alone.

Shapes: ``x [S, D]``, float64 where exactness matters; a handful of examples with many features is the usual case.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.learn.protocol import generator


def in_span(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Coordinates ``[S, r]`` of the examples, and the orthonormal basis ``[D, r]`` of their span that they refer to.

    A linear classifier that starts at zero (or at the examples' means) and is held back by its length alone never
    leaves the span: fitting in coordinates gives the same classifier, ``W = basis @ V``, and 25 numbers per class
    instead of 1600. With at least as many examples as features there is nothing to gain, and the basis is ``None``.
    """
    if x.shape[0] >= x.shape[1]:
        return x, None
    basis, corner = torch.linalg.qr(x.T)
    return corner.T.contiguous(), basis


def from_span(v: Tensor, basis: Tensor | None) -> Tensor:
    """Columns ``[r, N]`` in the coordinates of :func:`in_span` as columns ``[D, N]``."""
    return v if basis is None else basis @ v


def canonical_order(x: Tensor) -> Tensor:
    """``[S]`` row numbers in an order that depends on what the examples are, not on how they were handed in.

    By their shadow on one fixed random direction. What draws minibatches goes by it, so that a person who adds the same
    pictures in another order gets the same classifier. Only copies tie.
    """
    direction = torch.randn(x[0].numel(), generator=generator(0), dtype=torch.float64).to(x.device)
    return (x.flatten(1).double() * direction).sum(1).argsort()
