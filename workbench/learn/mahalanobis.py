"""Squared Mahalanobis distances to class means whose covariances come from the examples (Bateni et al. 2020).

``Q_k = l_k S_k + (1 - l_k) S + beta I`` with ``l_k = n_k / (n_k + 1)``; ``S_k`` is the covariance of class k's ``n_k``
examples (0 for one), ``S`` that of all; both divide by the number less one. ``z_k = -s (f - mu_k)' Q_k^-1 (f - mu_k)``.

With fewer examples than features all means and covariances lie in the span of the centred examples. Outside it every
``Q_k`` is ``beta I``, and that part of the distance is the same for all classes: the formula in coordinates of the span
has the same softmax (:func:`span`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.learn import heads


def span(x: Tensor) -> Tensor:
    """``[D, R]``: an orthonormal basis of what the centred rows of ``x [S, D]`` span; all axes where ``S > D``.

    An axis along which examples are less than 1e-5 of the widest apart is left out: next to ``beta`` it says nothing,
    and whether it is there at all would be a matter of rounding.
    """
    if len(x) > x.shape[1]:
        return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    _, spread, axes = torch.linalg.svd((x - x.mean(0)).double(), full_matrices=False)
    kept: Tensor = axes[spread >= 1e-5 * spread.max()].T.to(x.dtype)
    return kept


def unit(x: Tensor, features: int) -> float:
    """Mean variance of a feature: the trace of the covariance of rows ``x [S, R]`` over ``features = D >= R``.

    1 where all rows are alike, so that nothing is divided by 0.
    """
    spread = float((x - x.mean(0)).double().square().sum()) / max(len(x) - 1, 1) / features
    return spread if spread > 1e-12 else 1.0


def covariance(x: Tensor) -> Tensor:
    """``[D, D]`` of rows ``[n, D]``, divided by ``n - 1``; 0 for a single row."""
    centred = x - x.mean(0)
    return centred.T @ centred / max(len(x) - 1, 1)


def covariances(features: Tensor, y: Tensor, ways: int, beta: float) -> Tensor:
    """``Q [N, D, D]``: each class's covariance, shrunk towards that of all examples, plus ``beta`` on the diagonal."""
    everything = covariance(features)
    ridge = beta * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    out = []
    for k in range(ways):
        own = features[y == k]
        share = len(own) / (len(own) + 1)
        out.append(share * covariance(own) + (1 - share) * everything + ridge)
    return torch.stack(out)


def fitted(features: Tensor, y: Tensor, ways: int, beta: float) -> tuple[Tensor, Tensor]:
    """Class means ``[N, D]`` and lower Cholesky factors ``[N, D, D]`` of their ``Q``, in single precision at least."""
    x = features.double() if features.dtype == torch.float64 else features.float()
    return heads.prototypes(x, y, ways), torch.linalg.cholesky(covariances(x, y, ways, beta))


def mahalanobis(features: Tensor, means: Tensor, factors: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """``[B, N]``: minus the squared Mahalanobis distances of ``[B, D]``, times ``scale``."""
    away = (features.to(means) - means[:, None]).mT
    whitened: Tensor = torch.linalg.solve_triangular(factors, away, upper=False)
    return -scale * whitened.square().sum(1).T


def whitening(means: Tensor, factors: Tensor, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """The same as one linear layer, ``weight [N * R, R]`` and ``bias [N * R]`` for features of width ``R``.

    The squares of its outputs are to be summed.
    """
    n, d = means.shape
    identity = torch.eye(d, dtype=means.dtype, device=means.device).expand(n, d, d)
    weight = scale**0.5 * torch.linalg.solve_triangular(factors, identity, upper=False)
    return weight.reshape(n * d, d), -(weight @ means[:, :, None]).reshape(n * d)


class SquaredSums(nn.Module):
    """``[B, D] -> [B, N]``: minus the sum of squares of each class's outputs of a fixed linear layer to ``N * R``."""

    def __init__(self, weight: Tensor, bias: Tensor, ways: int) -> None:
        super().__init__()
        self.linear = heads.LinearHead(weight, bias)
        self.ways = ways
        self.width = len(bias) // ways

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``features [B, D]``."""
        out: Tensor = self.linear(features)
        return -out.reshape(-1, self.ways, self.width).square().sum(2)
