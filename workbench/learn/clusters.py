"""Clusters of pictures that nobody labelled: k-means on features of length 1, and how many clusters there seem to be.

Features are centred on the pictures at hand and divided by their length, so that what is compared is the direction in
which a picture differs from the others, as the nearest-centroid classifiers of the catalogue do. k-means (Lloyd 1982)
starts several times from centres drawn far from one another (k-means++: Arthur, Vassilvitskii 2007) and keeps the
tightest result. The number is about the one with the largest mean silhouette (Rousseeuw 1987): how much nearer a
picture lies to its own cluster than to the next.

Mistakes that are easily made here, and not made: one start, which gets stuck; a cluster that runs empty and is lost; a
picture's distance to itself counted in its silhouette; a singleton with the best silhouette of all (it has 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context

FEWEST, MOST = 2, 50
"""Clusters that may be asked for."""
STARTS = 10
_ROUNDS = 100
_DIRECTIONS = 64
"""Features are reduced to so many principal directions, in which nearly all of what differs lies."""
_NEARLY = 0.75
"""What share of the highest silhouette is nearly as high."""
_SAMPLE = 1500
"""Pictures behind a silhouette at most: all pairs are compared."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """What k-means found.

    Attributes:
        labels: ``[n]`` int64 in ``0..k-1``; every cluster has a member.
        centres: ``[k, D]``.
        spread: sum of the squared distances to the own centres.
    """

    labels: Tensor
    centres: Tensor
    spread: float


def directions(features: Tensor) -> Tensor:
    """``[n, D] -> [n, min(n, D, 64)]`` float64: centred, of length 1, in principal directions."""
    x = features.detach().double()
    x = F.normalize(x - x.mean(0), dim=1)
    if min(x.shape) == 0 or x.shape[1] <= _DIRECTIONS:
        return x
    # the eigenvectors of the smaller of the two products; signs do not matter to distances
    _, rows = torch.linalg.eigh(x.T @ x) if x.shape[1] <= x.shape[0] else _short(x)
    return x @ rows[:, -_DIRECTIONS:]


def _short(x: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(x @ x.T)
    return values, (x.T @ vectors) / values.clamp_min(1e-12).sqrt()


def kmeans(x: Tensor, count: int, gen: Generator, ctx: Context, starts: int = STARTS) -> Clusters:
    """The tightest of several runs of k-means.

    Args:
        x: ``[n, D]``, n >= count.
        count: of clusters.
        gen: draws the starting centres.
        ctx: checked before each round.
        starts: how many runs.

    Raises:
        ValueError: fewer pictures than clusters.
    """
    if not 1 <= count <= len(x):
        raise ValueError(f"{len(x)} pictures cannot make {count} clusters")
    return min((_lloyd(x, _far_apart(x, count, gen), ctx) for _ in range(starts)), key=lambda c: c.spread)


def _far_apart(x: Tensor, count: int, gen: Generator) -> Tensor:
    """Starting centres: each is drawn with a probability that grows with its squared distance to those before."""
    first = int(torch.randint(len(x), (1,), generator=gen))
    chosen, nearest = [first], (x - x[first]).square().sum(1)
    while len(chosen) < count:
        weights = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        chosen.append(int(torch.multinomial(weights, 1, generator=gen)))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()


def _lloyd(x: Tensor, centres: Tensor, ctx: Context) -> Clusters:
    labels = torch.full((len(x),), -1)
    for _ in range(_ROUNDS):
        ctx.check()
        apart = torch.cdist(x, centres).square()
        new = _none_empty(apart.argmin(1), apart)
        if torch.equal(new, labels):
            break
        labels = new
        member = F.one_hot(labels, len(centres)).to(x)
        centres = (member.T @ x) / member.sum(0)[:, None]
    return Clusters(labels, centres, float((x - centres[labels]).square().sum()))


def _none_empty(labels: Tensor, apart: Tensor) -> Tensor:
    """An empty cluster takes the picture that lies farthest from its own centre, among clusters of several."""
    labels = labels.clone()
    sizes = torch.bincount(labels, minlength=apart.shape[1])
    for empty in torch.nonzero(sizes == 0)[:, 0].tolist():
        own = apart.gather(1, labels[:, None])[:, 0]
        taken = int(torch.where(sizes[labels] > 1, own, -1.0).argmax())
        sizes[labels[taken]] -= 1
        labels[taken], sizes[empty] = empty, 1
        apart[taken, empty] = 0.0
    return labels


def silhouettes(distances: Tensor, labels: Tensor) -> Tensor:
    """``[n]`` in -1..1: how much nearer each picture lies to its own cluster than to the next.

    ``(b - a) / max(a, b)`` with the mean distance ``a`` to the others of the own cluster and ``b`` to the nearest other
    one; 0 for a picture that is alone in its cluster.

    Args:
        distances: ``[n, n]``.
        labels: ``[n]`` int64; two clusters or more.
    """
    _, labels = torch.unique(labels, return_inverse=True)
    member = F.one_hot(labels).to(distances)
    sizes = member.sum(0)
    sums = distances @ member
    own = sizes[labels]
    within = sums.gather(1, labels[:, None])[:, 0] / (own - 1).clamp_min(1)
    other = (sums / sizes).masked_fill(member.bool(), torch.inf).min(1).values
    value = (other - within) / torch.maximum(other, within).clamp_min(1e-300)
    return torch.where(own > 1, value, torch.zeros_like(value))


def suggested(x: Tensor, gen: Generator, ctx: Context, most: int = MOST) -> tuple[int, tuple[tuple[int, float], ...]]:
    """How many clusters there seem to be, and the mean silhouette of every number that was tried.

    Args:
        x: ``[n, D]``, n >= 3.
        gen: draws a sample of many pictures, and starting centres.
        ctx: of the job.
        most: largest number to try.
    """
    if len(x) > _SAMPLE:
        x = x[torch.randperm(len(x), generator=gen)[:_SAMPLE]]
    distances = torch.cdist(x, x)
    tried = []
    numbers = range(FEWEST, max(FEWEST, min(most, len(x) - 1, len(x) // 2)) + 1)
    for done, count in enumerate(numbers):
        labels = kmeans(x, count, gen, ctx, starts=4).labels
        tried.append((count, float(silhouettes(distances, labels).mean())))
        ctx.progress(done + 1, len(numbers), "numbers of groups")
    return best_number(tried), tuple(tried)


def best_number(tried: Sequence[tuple[int, float]]) -> int:
    """The number with the largest mean silhouette; what a coarse division reaches at once is passed over.

    Pictures often fall into two sorts that nobody means, such as dark and light ones: the silhouette then falls from
    two on, and rises again towards the number of kinds. The highest point behind the dip is taken where it is nearly as
    high. (Of fifteen tasks whose labels were hidden, the plain maximum divided three in two, this one only one.)
    """
    best = max(tried, key=lambda t: t[1])
    dip = next((i for i in range(len(tried) - 1) if tried[i + 1][1] > tried[i][1]), len(tried) - 1)
    behind = max(tried[dip:], key=lambda t: t[1])
    return behind[0] if behind[1] >= _NEARLY * best[1] else best[0]


def unusual(x: Tensor, found: Clusters) -> Tensor:
    """``[n]`` bool: much farther from the own centre than the cluster's others are.

    Beyond the median by more than three times the (normal-consistent) median deviation, in clusters of five or more.
    """
    apart = (x - found.centres[found.labels]).norm(dim=1)
    out = torch.zeros(len(x), dtype=torch.bool)
    for label in range(len(found.centres)):
        mine = found.labels == label
        if int(mine.sum()) < 5:
            continue
        middle = apart[mine].median()
        deviation = 1.4826 * (apart[mine] - middle).abs().median()
        out[mine] = apart[mine] > middle + 3 * deviation.clamp_min(1e-9)
    return out


def adjusted_rand(a: Tensor, b: Tensor) -> float:
    """Adjusted Rand index of two labellings ``[n]`` (Hubert, Arabie 1985): 1 for equal ones, by chance 0 on average."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    table.index_put_((a, b), torch.ones(len(a), dtype=torch.float64), accumulate=True)

    def pairs(counts: Tensor) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    every = len(a) * (len(a) - 1) / 2
    expected, largest = rows * columns / every, (rows + columns) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)
