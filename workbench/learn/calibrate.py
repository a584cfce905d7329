"""From logits and distances to honest probabilities: one temperature, and the threshold of "none of these"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Algorithm

_LOG_TEMPERATURES = torch.linspace(-5.0, 5.0, 201)
_NUMBERS_AT_ONCE = 2_000_000
_REJECT_QUANTILE = 0.95
_REJECT_WIDTH = 0.1
_TRUST = 10.0
"""Left-out distances that weigh as much as what the library says of a threshold."""

_TRUST_LIKENESS = 3.0
"""Left-out distances that weigh as much as the likeness to the sources; measured beside 10."""
_ENOUGH, _MOST_TOLD, _LEAST_TOLD = 0.5, 2.0, 0.01
"""Share of the slope at home that counts as all of it (measured beside 2/3 and 1), most that examples count for (beside
1 and 1.5), and what keeps the width finite (a choice)."""
_UNKNOWN = 0.05
"""P(none) where distances say nothing: the share of the known beyond the threshold."""

_TYPICAL = 1 + 137 / 300
"""Mean of ``1 + 1 / K`` over the one to five examples that episodes of calibration have."""

UNCALIBRATED = {"temperature": 1.0, "reject_factor": 1.0, "reject_ratio": 1.35, "reject_distance": 1.0}
"""Figures for a network without any. The ratio: networks trained on drawn characters measure 1.30 to 1.37, one trained
on surface defects 1.5."""


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
    # how far each class is above the true one [N, B, 1]: with the temperatures last, all is done for many at once
    exact = logits.double()
    ahead = (exact - exact.gather(1, y[:, None])).T[:, :, None]
    # all temperatures together where that fits: thousands of 60-way queries times 201 would take gigabytes
    losses = [
        torch.logsumexp(ahead / some, 0).sum(0)
        for some in torch.split(temperatures, max(1, _NUMBERS_AT_ONCE // logits.numel()))
    ]
    return float(temperatures[(torch.cat(losses) + 0.5 * weight * offsets**2).argmin()])


class Temperatures(NamedTuple):
    """What a task's answers are divided by: those about left-out examples, and from all examples those about others."""

    left_out: float
    answers: float


def task_temperatures(
    left_out: HeldOut, y: Tensor, ways: int, typical: float, parts: int | None = None, *, centres: bool = True
) -> Temperatures:
    """The temperature of a task: fitted on left-out answers near the knowledge's own, and brought to all examples.

    A centre of ``K`` examples is itself uncertain: the squared distance of a new picture to it scatters in proportion
    to ``1 + 1 / K``, and with it the temperature at which its answers are as sure as they are right. So ``typical``,
    which belongs to episodes of one to five examples, is turned into that of the task, and what was fitted on answers
    from ``K - 1`` examples into that of ``K``. Without it two examples are asked as if there were one, which halves
    what can be said, and one as if there were three. Of other heads that follows from nothing, so theirs stay.

    Chosen by the log-loss of new pictures: held-out background characters, drawn characters and surfaces, each asked of
    prototypical networks trained on the same kind and on another (8 pairs, 5-way, 60 tasks at 1, 2 and 5 examples).
    Weaker priors, a Student prior and the mean over ``log T`` gave nothing more.

    Args:
        left_out: of ``held_out``; without rows ``typical`` alone counts.
        y: ``[S]``.
        ways: number of classes.
        typical: temperature of the knowledge.
        parts: in how many parts examples were left out; ``None``: one by one.
        centres: whether logits are squared distances to class centres; see :func:`compares_means`.
    """
    counts = torch.bincount(y, minlength=ways)
    whole = _scatter(counts) / _TYPICAL if centres else 1.0
    if not len(left_out.rows):
        return Temperatures(typical * whole, typical * whole)
    out = torch.ones_like(counts) if parts is None else -(-counts // max(parts, 2))
    less = _scatter((counts - out).clamp_min(1)) / _TYPICAL if centres else 1.0
    fitted = fit_temperature(left_out.logits, y[left_out.rows], typical * less)
    return Temperatures(fitted, fitted * whole / less)


def expected_temperature(typical: float, likeness: float, strength: float = 1.0) -> float:
    """The temperature to expect where no example can be left out to fit it: ``typical exp(strength (1 - likeness)^2)``.

    ``typical`` was fitted at home, on classes of the sources that were held out. Networks are far too sure of pictures
    that are unlike all they have seen, and one example a class has nothing to say about that. The strength of 1 was
    chosen on new pictures of invented alphabets and two kinds of surfaces under the shipped networks and small ones,
    each of one alphabet, of surfaces, clothes or hands (35 pairs, ``python -m tests.benchmarks.unlike``): the log-loss
    falls with it, beyond 3, but calibration error is least between 0.5 and 1. Where examples were left out it is least
    without, so they are left to speak for themselves.

    Args:
        typical: temperature of the knowledge.
        likeness: similarity of the task to the nearest source, 0 to 1.
        strength: of the effect.
    """
    return typical * math.exp(strength * (1.0 - likeness) ** 2)


def compares_means(algorithm: Algorithm) -> bool:
    """Whether its logits are minus squared distances to class means, which it says by ``nearest_mean = True``."""
    return bool(getattr(algorithm, "nearest_mean", False))


def prototypes(embedding: Tensor, y: Tensor, ways: int) -> Tensor:
    """Mean embedding of each class, ``[S, D] -> [N, D]``."""
    one_hot = F.one_hot(y, ways).to(embedding.dtype)
    return one_hot.T @ embedding / one_hot.sum(0)[:, None]


def own_class_distances(embedding: Tensor, y: Tensor, ways: int) -> Tensor:
    """How far each example lies from the centre of its class, as a *new* picture of the class would, ``[<=S]``.

    Measured to the mean of the *others* of its class, which is a noisier centre than the one a new picture is held
    against: with ``n`` examples the squared distance is larger by ``(1 + 1/(n-1)) / (1 + 1/n) = n^2 / (n^2 - 1)``,
    which is divided out. Classes with one example have none.
    """
    out = []
    for c in range(ways):
        e = embedding[y == c]
        n = len(e)
        if n >= 2:
            others = (e.sum(0, keepdim=True) - e) / (n - 1)
            out.append((e - others).norm(dim=1) * ((n * n - 1) ** 0.5 / n))
    return torch.cat(out) if out else embedding.new_zeros(0)


def spread(protos: Tensor) -> float:
    """Median distance between prototypes, the unit in which a library-wide threshold is kept; 0 for one class."""
    if len(protos) < 2:
        return 0.0
    i, j = torch.triu_indices(len(protos), len(protos), 1)
    return float((protos[i] - protos[j]).norm(dim=1).median())


def reject_threshold(
    embedding: Tensor, y: Tensor, ways: int, figures: Mapping[str, float] = UNCALIBRATED, likeness: float = 1.0
) -> tuple[float, float]:
    """Distance beyond which a query is "none of these", and the width over which belief changes.

    The library knows how far, on validation episodes, 95 % of the queries lie from their own class's prototype: in
    units of the median distance between prototypes (``reject_factor``), and in units of the root mean square of the
    left-out distances of the examples (``reject_ratio``). The second says more as soon as examples can be left out, so
    with ``n`` of them it weighs ``n / (n + 10)``. A new picture lies from the mean of ``K`` others at a distance whose
    square is proportional to ``1 + 1 / K``, so ``reject_factor`` is that of episodes of one to five examples and is
    turned into that of ``K``: with one example 8 % of the known are rejected instead of 24 % (six validation alphabets,
    5-way, 100 tasks).

    Chosen on the validation classes of Conv-4 trained on drawn characters (three runs, 5-way, 720 tasks each, at one to
    nine shots), against the 95 % quantile of the examples' own left-out distances from three shots on and
    ``reject_factor`` below: at five shots 5.1 to 6 % of the known are rejected instead of 7 to 8 %, with three quarters
    of the scatter from task to task, and 38 % of the unknown accepted instead of 35 %; the sum of both errors is lower
    by 0.02 at two shots and the same from three on.

    Away from home a picture of a class that is known lies as far off as one of a class that is not, and what lies
    beyond any threshold is refused for nothing. So the log-odds are drawn to those of one in twenty by as much as the
    examples' distances are not ``telling``::

        logit P(none) = l (d - t) / (0.1 t) + (1 - l) logit 0.05,  l <= 1

    ``l`` is the slope of the log-odds that the examples measure over ``0.5 / (0.1 t)``, at most 2. ``n`` of them weigh
    ``n / (n + 3)``, the rest is the likeness to the sources, which is all that is known at one example a class.
    Networks trained on characters (two) asked about surfaces refuse 0 to 3 % of the known instead of 12 to 38 %, and
    the calibration error of what is shown falls from 0.36 and 0.21 to 0.08 and 0.05 at one example, 0.18 to 0.07 and
    0.10 at two, 0.12 to 0.06 at five; about held-out characters nothing changes (validation classes, 5-way, 80 tasks).
    With the whole slope, or ``l`` up to 1.5, one limit of P(none) for all tasks told known from unknown less well. No
    command repeats these choices; ``tests.benchmarks.calibration --on validation`` measures what comes of them.

    Args:
        embedding: of the examples ``[S, D]``, which are different pictures: a copy is no new one.
        y: ``[S]``.
        ways: number of classes.
        figures: ``reject_factor``, ``reject_ratio`` and ``reject_distance`` (for a single class) of the knowledge.
        likeness: of the task to what the knowledge was trained on, 0..1.

    Returns:
        ``(threshold, width)``, both positive.
    """
    known = {**UNCALIBRATED, **figures}
    unit = spread(prototypes(embedding, y, ways)) * (_scatter(torch.bincount(y, minlength=ways)) / _TYPICAL) ** 0.5
    threshold = known["reject_factor"] * unit if unit > 0 else known["reject_distance"]
    distances = own_class_distances(embedding, y, ways).double()
    if len(distances):
        trust = len(distances) / (len(distances) + _TRUST)
        own = known["reject_ratio"] * float(distances.square().mean().sqrt())
        threshold = trust * own + (1 - trust) * threshold
    threshold = max(threshold, 1e-6)
    narrow = _REJECT_WIDTH * threshold
    slope, n = telling(embedding, y, ways)
    trust = n / (n + _TRUST_LIKENESS)
    told = trust * min(slope * narrow / _ENOUGH, _MOST_TOLD) + (1 - trust) * likeness
    width = narrow / min(max(told, _LEAST_TOLD), 1.0)
    return threshold + (width - narrow) * math.log(1 / _UNKNOWN - 1), width


def telling(embedding: Tensor, y: Tensor, ways: int) -> tuple[float, int]:
    """How fast the log-odds of "none of these" rise with the distance to the nearest centre, as the examples have it.

    Every example is asked about twice: as a new picture of its class, at the smaller of the distances to the mean of
    its class's others and to the other centres; and as one of a class that was not taught, at the second alone.

    Returns:
        The slope, per unit of distance, 0 or more, and how many examples it was measured on: those of classes with two
        or more, none for a single class.
    """
    rows = torch.cat([torch.nonzero(y == c).flatten() for c in range(ways) if int((y == c).sum()) >= 2] or [y[:0]])
    if ways < 2 or not len(rows):
        return 0.0, 0
    distances = torch.cdist(embedding[rows].double(), prototypes(embedding, y, ways).double())
    distances[torch.arange(len(rows)), y[rows]] = torch.inf
    strange = distances.amin(1)
    return slope_of(torch.minimum(own_class_distances(embedding, y, ways).double(), strange), strange), len(rows)


def slope_of(known: Tensor, strange: Tensor) -> float:
    """Slope of the log-odds that a distance is one of the ``strange [n]`` and not of the ``known [n]``.

    For two Gaussians of one variance ``s^2`` they are linear in the distance, with slope ``(m_1 - m_0) / s^2``.
    """
    variance = (known.var() + strange.var()) / 2
    return float((strange.mean() - known.mean()) / variance.clamp_min(1e-12))


def _scatter(counts: Tensor) -> float:
    """Mean of ``1 + 1 / K`` over the classes' numbers of examples ``[N]``."""
    return 1 + float(counts.double().reciprocal().mean())


class Calibration:
    """Collects what adapted networks answer on episodes of classes that were not trained on.

    The figures are ``temperature`` (of log-loss; of centres at the typical number of examples), and the three 95 %
    quantiles over queries that ``reject_threshold`` needs, of the distance to the own class's prototype: divided by the
    median distance between prototypes (and brought from the episode's number of examples to the typical one), divided
    by the root mean square of the examples' left-out distances (from episodes where some can be left out), and
    undivided.
    """

    def __init__(self, centres: bool = True) -> None:
        self._centres = centres  # see ``task_temperatures``
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._distances: list[Tensor] = []
        self._factors: list[Tensor] = []
        self._ratios: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._logits)

    def add(
        self, logits: Tensor, query: Tensor, query_y: Tensor, support: Tensor, support_y: Tensor, ways: int
    ) -> None:
        """One episode: ``logits [Q, N]``, embeddings ``query [Q, D]`` and ``support [S, D]``, their classes."""
        protos = prototypes(support, support_y, ways)
        own = (query - protos[query_y]).norm(dim=1).double()
        to_typical = _TYPICAL / _scatter(torch.bincount(support_y, minlength=ways))
        self._logits.append(logits * to_typical if self._centres else logits)
        self._labels.append(query_y)
        self._distances.append(own)
        self._factors.append(own / max(spread(protos), 1e-9) * to_typical**0.5)
        left_out = own_class_distances(support, support_y, ways).double()
        if len(left_out):
            self._ratios.append(own / left_out.square().mean().sqrt().clamp_min(1e-9))

    def figures(self) -> dict[str, float]:
        """The figures of all episodes so far.

        Raises:
            ValueError: there was none.
        """
        if not self._logits:
            raise ValueError("nothing was calibrated on")
        ways = max(z.shape[1] for z in self._logits)
        logits = torch.cat([F.pad(z, (0, ways - z.shape[1]), value=-1e9) for z in self._logits])
        found = {
            "temperature": fit_temperature(logits, torch.cat(self._labels)),
            "reject_factor": float(torch.cat(self._factors).quantile(_REJECT_QUANTILE)),
            "reject_distance": float(torch.cat(self._distances).quantile(_REJECT_QUANTILE)),
        }
        if self._ratios:
            found["reject_ratio"] = float(torch.cat(self._ratios).quantile(_REJECT_QUANTILE))
        return found
