"""From logits and distances to honest probabilities: one temperature, and the threshold of "none of these"."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.core.context import Context
from workbench.learn.protocol import Adapted, Algorithm, State, Support

_LOG_TEMPERATURES = torch.linspace(-5.0, 5.0, 201)
_REJECT_QUANTILE = 0.95
_REJECT_WIDTH = 0.1


def fit_temperature(logits: Tensor, y: Tensor, start: float = 1.0, weight: float = 2.0) -> float:
    """The temperature that minimises the log-loss of ``softmax(logits / T)``, held near ``start``.

    A Gaussian prior on ``log T`` (standard deviation ``1 / sqrt(weight)``) keeps a handful of left-out examples from
    asking for certainty: without it perfectly separated examples would drive ``T`` to 0.

    Args:
        logits: ``[B, N]`` of examples that were left out.
        y: ``[B]`` their classes.
        start: temperature the prior is centred on.
        weight: strength of the prior, in examples.

    Returns:
        ``T > 0``, one of 201 values spaced evenly in ``log T`` around ``start``.
    """
    if logits.numel() == 0:
        return start
    offsets = _LOG_TEMPERATURES.to(logits.device, torch.float64)
    temperatures = start * offsets.exp()
    scaled = logits.double()[None] / temperatures[:, None, None]
    losses = -F.log_softmax(scaled, dim=-1).gather(2, y[None, :, None].expand(len(offsets), -1, 1)).sum(dim=(1, 2))
    return float(temperatures[(losses + 0.5 * weight * offsets**2).argmin()])


def prototypes(embedding: Tensor, y: Tensor, ways: int) -> Tensor:
    """Mean embedding of each class, ``[S, D] -> [N, D]``."""
    one_hot = F.one_hot(y, ways).to(embedding.dtype)
    return one_hot.T @ embedding / one_hot.sum(0)[:, None]


def own_class_distances(embedding: Tensor, y: Tensor, ways: int) -> Tensor:
    """Distance of each example to the mean of the *others* of its class, for classes with at least two, ``[<=S]``."""
    out = []
    for c in range(ways):
        e = embedding[y == c]
        n = len(e)
        if n >= 2:
            others = (e.sum(0, keepdim=True) - e) / (n - 1)
            out.append((e - others).norm(dim=1))
    return torch.cat(out) if out else embedding.new_zeros(0)


def spread(protos: Tensor) -> float:
    """Median distance between prototypes, the unit in which a library-wide threshold is kept; 0 for one class."""
    if len(protos) < 2:
        return 0.0
    i, j = torch.triu_indices(len(protos), len(protos), 1)
    return float((protos[i] - protos[j]).norm(dim=1).median())


def reject_threshold(embedding: Tensor, y: Tensor, ways: int, factor: float, fallback: float) -> tuple[float, float]:
    """Distance beyond which a query is "none of these", and the width over which belief changes.

    With three examples of a class or more: the 95 % quantile of the left-out distances of the support set itself.
    Below that the library's: ``factor`` times the median distance between the prototypes (``fallback`` with one class).

    Returns:
        ``(threshold, width)``, both positive.
    """
    shots = torch.bincount(y, minlength=ways)
    distances = own_class_distances(embedding, y, ways)
    if int(shots.min()) >= 3 and distances.numel():
        threshold = float(distances.double().quantile(_REJECT_QUANTILE))
    else:
        unit = spread(prototypes(embedding, y, ways))
        threshold = factor * unit if unit > 0 else fallback
    threshold = max(threshold, 1e-6)
    return threshold, _REJECT_WIDTH * threshold


class HeldOut(NamedTuple):
    """What was answered about support examples by adaptations that did not see them.

    Attributes:
        index: which examples could be left out ``[M]``; none at one example per class.
        logits: after adapting ``[M, N]``.
        before: before the first inner step ``[M, N]``, for gradient-based methods, else ``None``.
    """

    index: Tensor
    logits: Tensor
    before: Tensor | None


def held_out(algorithm: Algorithm, state: State, support: Support, ctx: Context, folds: int | None = None) -> HeldOut:
    """Ask about every support example in an adaptation that did not see it.

    Each fold leaves out at most one example of every class that has two or more, so that no class disappears; with
    ``folds=None`` every example is left out on its own (leave-one-out).

    Args:
        algorithm: any.
        state: of the algorithm.
        support: ``S`` examples.
        ctx: checked between adaptations.
        folds: number of adaptations to spend, or ``None`` for leave-one-out.
    """
    gradient = "gradient-based" in algorithm.info.tags
    index, logits, before = [], [], []
    everyone = torch.ones(len(support.y), dtype=torch.bool, device=support.y.device)
    for out in _left_out(support, folds):
        ctx.check()
        mask = everyone.clone()
        mask[out] = False
        features = None if support.features is None else support.features[mask]
        part = Support(support.x[mask], support.y[mask], support.ways, features)

        def ask(adapted: Adapted, out: list[int] = out) -> Tensor:
            with torch.no_grad():
                if support.features is not None:
                    answer: Tensor = algorithm.head(state, adapted)(support.features[out])
                    return answer
                return algorithm.logits(state, adapted, support.x[out])

        def first(j: int, adapted: Adapted, ask: Callable[[Adapted], Tensor] = ask) -> None:
            if j == 0:
                before.append(ask(adapted))

        logits.append(ask(algorithm.adapt(state, part, ctx, on_step=first if gradient else None)))
        index.append(torch.tensor(out, device=support.y.device))
    if not logits:
        return HeldOut(support.y.new_zeros(0), support.x.new_zeros((0, support.ways)), None)
    return HeldOut(torch.cat(index), torch.cat(logits), torch.cat(before) if before else None)


def _left_out(support: Support, folds: int | None) -> list[list[int]]:
    members = [torch.nonzero(support.y == c).flatten().tolist() for c in range(support.ways)]
    members = [m for m in members if len(m) >= 2]
    if folds is None:
        return [[i] for m in members for i in m]
    rounds = min(folds, max((len(m) for m in members), default=0))
    return [[m[r % len(m)] for m in members if r < len(m)] for r in range(rounds)]
