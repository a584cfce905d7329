"""A task as the mean and covariance of its features, and how much two tasks resemble each other.

The similarity is a Frechet-type distance between the two Gaussians, put on a scale of 0..1 that does not depend on the
number or the scale of the features. (Hand-made, as against a learned task encoder: nothing to train, finite for a
single picture, and every number can be explained.)
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

WIDEST = 128
"""Features beyond this number are folded together: a covariance takes 64 KB instead of 10, a distance 1 ms, not 1 s."""

HALF, SHARPNESS = 0.5, 3
"""Distance at which the similarity is one half, and how fast it falls there; from measurements, see ``similarity``."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Representation:
    """Where a task lies in feature space; equal only to itself, so that distances can be remembered.

    Attributes:
        mean: ``[D]`` float32.
        covariance: ``[D, D]`` float32, shrunk, symmetric, positive definite unless all pictures have equal features.
        n: number of pictures it was measured on.
    """

    mean: Tensor
    covariance: Tensor
    n: int

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.covariance.shape != (self.mean.numel(), self.mean.numel()):
            raise ValueError(
                f"a mean {tuple(self.mean.shape)} does not fit a covariance {tuple(self.covariance.shape)}"
            )
        if self.n < 1:
            raise ValueError("a task needs at least one picture")


def represent(features: Tensor) -> Representation:
    """Mean and shrunk covariance of a task's features.

    The covariance is shrunk towards a multiple of the identity by the amount that minimises the expected squared error
    (Ledoit and Wolf 2004); one picture has no spread, so its covariance is zero.

    Args:
        features: ``[n, D]``, one row per picture; the order of the rows does not matter.

    Returns:
        With ``min(D, 128)`` features: wider ones are folded (see :func:`fold`).

    Raises:
        ValueError: no picture, or features that are not finite.
    """
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features {tuple(features.shape)} are not [n, D] with n >= 1")
    x = fold(features.detach().double().cpu())
    if not torch.isfinite(x).all():
        raise ValueError("features are not finite")
    n, d = x.shape
    mean = x.mean(0)
    x = x - mean
    covariance = x.T @ x / n
    if n > 1:
        scale = covariance.trace() / d
        target = scale * torch.eye(d, dtype=x.dtype)
        away = (covariance - target).pow(2).sum()
        # mean squared Frobenius distance of one picture's outer product to their average, expanded to avoid n matrices
        noise = (x.pow(2).sum(1).pow(2).sum() / n - covariance.pow(2).sum()) / n
        share = float((noise / away).clamp(0, 1)) if away > 0 else 0.0
        covariance = (1 - share) * covariance + share * target
    covariance = (covariance + covariance.T) / 2
    return Representation(mean.float(), covariance.float(), n)


def fold(features: Tensor, width: int = WIDEST) -> Tensor:
    """Add features up, with signs, into at most ``width`` groups; ``[n, D] -> [n, min(D, width)]``.

    A fixed sparse projection (count sketch): lengths and inner products are kept on average, with a relative error of
    about ``sqrt(2 / width)``. Group and sign come from an integer hash of the feature's index, so that every machine
    and every version folds alike.
    """
    d = features.shape[1]
    if d <= width:
        return features
    index = torch.arange(d, dtype=torch.int64)
    mixed = (index * 2654435761) % (1 << 32)
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) % (1 << 32)
    mixed = mixed ^ (mixed >> 13)
    group = mixed % width
    sign = (1 - 2 * ((mixed >> 16) & 1)).to(features.dtype)
    return features.new_zeros(len(features), width).index_add_(1, group, features * sign)


_Distances = weakref.WeakKeyDictionary[Representation, float]
_known: weakref.WeakKeyDictionary[Representation, _Distances] = weakref.WeakKeyDictionary()


def distance(task: Representation, source: Representation) -> float:
    """Squared Frechet distance between two tasks as a share of their spread; 0 for identical ones, no upper limit.

    ``(|m_t - m_s|^2 + w bures(C_t, C_s)) / (tr C_t' + tr C_s)``, where
    ``bures = tr(C_t + C_s - 2 (C_s^1/2 C_t C_s^1/2)^1/2)``.
    A few pictures say little about a covariance: of the effective number ``r = (tr C_s)^2 / tr C_s^2`` of directions in
    which the source varies, ``n`` pictures measure about ``n``. So the covariance is shrunk towards the source's:
    ``w = n / (n + r)`` bounds the distance of the shrunk covariance from above, and ``C_t' = w C_t + (1 - w) C_s``.
    """
    if task.mean.shape != source.mean.shape:
        raise ValueError("two tasks are compared under the same network only")
    # the distances between the sources of an entry are asked for after every edit; what is gone is forgotten
    known = _known.setdefault(task, weakref.WeakKeyDictionary())
    if source not in known:
        known[source] = _distance(task, source)
    return known[source]


def _distance(task: Representation, source: Representation) -> float:
    mean = float((task.mean - source.mean).double().pow(2).sum())
    a, b = task.covariance.double(), source.covariance.double()
    spread_a, spread_b = float(a.trace()), float(b.trace())
    directions = spread_b**2 / max(float(b.pow(2).sum()), 1e-300)
    weight = task.n / (task.n + directions)
    shape = _bures(a, b) if task.n > 1 else 0.0
    if task.n == 1:
        weight = 0.0
    spread = weight * spread_a + (1 - weight) * spread_b + spread_b
    if spread <= 0:
        return 0.0 if mean <= 0 else float("inf")
    return max(0.0, (mean + weight * shape) / spread)


def _bures(a: Tensor, b: Tensor) -> float:
    """Squared Bures distance of two covariances ``[D, D]``, float64."""
    if torch.equal(a, b):
        return 0.0
    spread = a.trace() + b.trace()
    ridge = 1e-10 * float(spread) / len(a)
    root = torch.linalg.cholesky_ex(b + ridge * torch.eye(len(b), dtype=b.dtype)).L
    shared = torch.linalg.eigvalsh(root.T @ a @ root).clamp_min(0).sqrt().sum()
    return max(0.0, float(spread - 2 * shared))


def similarity(task: Representation, source: Representation) -> float:
    """How much a task resembles a source, 0..1; 1 for identical ones.

    ``1 / (1 + (d / HALF)^SHARPNESS)`` of the :func:`distance`. Under two Conv-4 trained on drawn characters, the second
    one on surface defects too, five classes with one or five pictures each lie at 0.1 to 0.5 from the other classes of
    their own source, drawings at 0.15 to 0.4 from other alphabets and at 1.3 to 5 from photographs, and photographs at
    0.5 to 2 from drawings. So what belongs together comes out above 0.6 on average, and most of the rest below 0.3.
    """
    return likeness(distance(task, source))


def likeness(d: float) -> float:
    """The similarity, 0..1, that belongs to a :func:`distance`."""
    return 0.0 if d == float("inf") else 1.0 / (1.0 + (d / HALF) ** SHARPNESS)
