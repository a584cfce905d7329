"""Sums of two sets of features, each of one with each of the other, as rows for a logistic regression.

A class seen five times whose examples each draw 150 features from the same noise has 750 drawn rows, but only 155 that
differ: every row is ``s_ij (a_i + b_j)``, where ``s_ij`` brings it to length 1. Products with all of them are products
with ``a [K, r]`` and ``b [m, r]``, and sums::

    row_ij . w      = s_ij (a_i . w + b_j . w)
    sum e_ij row_ij = sum_i (sum_j s_ij e_ij) a_i  +  sum_j (sum_i s_ij e_ij) b_j
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-12
"""Length from which on a row is brought to length 1."""


class UnitSums:
    """``logistic.Rows``: rows ``x [S, r]`` as they are, then ``K * m`` sums of length 1, ``(0, 0), (0, 1), ...``.

    Args:
        x: ``[S, r]``, float64.
        a: ``[K, r]``.
        b: ``[m, r]``.
    """

    def __init__(self, x: Tensor, a: Tensor, b: Tensor) -> None:
        self.width = x.shape[1]
        self._all, self._squares = torch.cat([x, a, b]), torch.cat([x, a, b]).square_()
        self._sizes = [len(x), len(a), len(b)]
        _, long, wide = torch.split(self._squares.sum(1), self._sizes)
        square = long[:, None] + wide + 2 * a @ b.T
        self._scale = square.clamp_min_(SMALLEST**2).rsqrt_()

    def logits(self, w: Tensor) -> Tensor:
        """As ``logistic.Rows`` says."""
        plain, a, b = torch.split(w @ self._all.T, self._sizes, 1)
        sums = (a[:, :, None] + b[:, None]).mul_(self._scale)
        return torch.cat([plain, sums.flatten(1)], 1)

    def gathered(self, e: Tensor) -> Tensor:
        """As ``logistic.Rows`` says."""
        return self._by_part(e, self._scale) @ self._all

    def gathered_squares(self, e: Tensor) -> Tensor:
        """As ``logistic.Rows`` says, without ``2 a_i b_j``: over noise it comes to little."""
        return self._by_part(e, self._scale.square()) @ self._squares

    def _by_part(self, e: Tensor, scale: Tensor) -> Tensor:
        """``[N, S + K + m]`` of ``e [N, S + K m]``: how much of each row of all."""
        plain, own = e[:, : self._sizes[0]], e[:, self._sizes[0] :]
        sums = own.reshape(len(e), *scale.shape) * scale
        return torch.cat([plain, sums.sum(2), sums.sum(1)], 1)
