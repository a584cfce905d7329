"""How well a network's knowledge should serve a labelled task, before anything is trained on the task.

For ``n`` examples with labels ``y`` in ``0..N-1``. Two scores ask the answers of a classifier over other classes (the
source's, ``Z`` of them), two ask features ``f [n, D]``:

========  ========================  =========================================================================
score     range                     what it is
========  ========================  =========================================================================
LEEP      <= 0, nats per example    mean log-likelihood of the labels, each predicted from the source's answers
NCE       ``[-log N, 0]``, nats     ``-H(Y|Z)``, conditional entropy given the source's most probable class
H-score   ``[0, N - 1]``            share of the features' (shrunk) spread that lies between the classes
LogME     nats per example          evidence of a Bayesian linear regression of the labels on the features
========  ========================  =========================================================================

Larger is better in all four, and only for the same examples: they rank networks for one task, not tasks. All is
computed in float64. With a handful of examples per class, ``n < D``, three textbook forms break down; what is done
instead is said at each function: LEEP's table is the joint probability of few examples, the H-score's covariance is
singular, and LogME's sum over the non-zero eigenvalues alone loses ``(D - n) log alpha``.

Nguyen, Hassner, Seeger, Archambeau 2020 (LEEP, arXiv 2002.12462); Tran, Nguyen, Hassner 2019 (NCE, arXiv 1908.08142);
Bao, Li, Huang, Zhang, Zheng, Zamir, Guibas 2019 (H-score); Ibrahim, Ponomareva, Mazumder 2021 (its shrinkage, arXiv
2110.06893); You, Liu, Wang, Long 2021 (LogME, arXiv 2102.11005).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.learn.heads import one_hot


@dataclass(frozen=True, slots=True)
class Score:
    """One way to rank networks for a task.

    Attributes:
        key: for commands and files.
        title: for people.
        paper: authors, year, arXiv number.
        unit: of the number.
        asks: what it is computed from, the ``features [n, D]`` or the source classifier's ``logits [n, Z]``.
        shots: examples per class below which it says nothing; at one, every network separates the examples perfectly.
        measure: ``(features or logits, y, ways) -> number``.
    """

    key: str
    title: str
    paper: str
    unit: str
    asks: Literal["features", "logits"]
    shots: int
    measure: Callable[[Tensor, Tensor, int], float]


# ---- what the classes of a source say about those of the task -------------------------------------------------------


def leep(logits: Tensor, y: Tensor, ways: int) -> float:
    """Log expected empirical prediction (Nguyen et al. 2020), nats per example, at most 0.

    The source's answers for the examples, ``theta = softmax(logits)``, say how its classes go with the task's::

        P(y, z) = 1/n sum_i theta(x_i)_z [y_i = y]
        LEEP    = 1/n sum_i log sum_z P(y_i | z) theta(x_i)_z

    With fewer examples than source classes each ``z`` is seen about once, so ``P(y|z)`` is nearly 0 or 1 whatever the
    network knows: the score then measures little more than whether two classes share a most probable ``z``.

    Args:
        logits: ``[n, Z]`` of the source classifier; a constant added to a row changes nothing.
        y: ``[n]`` in ``0..ways-1``.
        ways: ``N``.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    z, y = _checked(logits, y, ways)
    log_theta = F.log_softmax(z, 1)
    joint = _log_sums(log_theta, y, ways)
    conditional = joint - joint.logsumexp(0, keepdim=True)  # log P(y | z), [N, Z]; every column has some mass
    return float((conditional[y] + log_theta).logsumexp(1).mean().clamp_max(0.0))


def nce(logits: Tensor, y: Tensor, ways: int) -> float:
    """Negative conditional entropy ``-H(Y|Z)`` (Tran et al. 2019), nats, ``z_i`` the most probable source class.

    ``sum_{y,z} P(y, z) log P(y | z)`` of the table of counts. Equal to LEEP where the source is certain. It counts each
    ``z`` that is seen once as full knowledge of ``y``, so with few examples it is near 0 for every network.

    Args:
        logits: ``[n, Z]`` of the source classifier.
        y: ``[n]`` in ``0..ways-1``.
        ways: ``N``.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    z, y = _checked(logits, y, ways)
    table = one_hot(y, ways, z).T @ one_hot(z.argmax(1), z.shape[1], z)
    joint, column = table / len(y), table.sum(0, keepdim=True) / len(y)
    return float(torch.where(joint > 0, joint * (joint.clamp_min(1e-300) / column.clamp_min(1e-300)).log(), 0.0).sum())


def _log_sums(log_theta: Tensor, y: Tensor, ways: int) -> Tensor:
    """``[N, Z]`` log of the sum over each class's examples; ``-inf`` for a class without any."""
    rows = []
    for c in range(ways):
        members = log_theta[y == c]
        rows.append(members.logsumexp(0) if len(members) else log_theta.new_full(log_theta.shape[1:], -math.inf))
    return torch.stack(rows)


# ---- what linear classifiers can make of features -------------------------------------------------------------------


def h_score(features: Tensor, y: Tensor, ways: int, shrinkage: float | None = None) -> float:
    """``tr(C_a^-1 (1 - a) C_B)``, the shrunk H-score (Bao et al. 2019; Ibrahim et al. 2021), in ``[0, N - 1]``.

    ``C_B = cov(E[f | y])`` is the spread between the classes, ``C_a = (1 - a) C + a tr(C)/D I`` that of all examples,
    shrunk. With ``a = 0`` it is the plain H-score, the explained sum of squares of ``[y = c] / sqrt(P(c))`` regressed
    on the features; with ``n <= D`` that is ``N - 1`` for every network, since any labels can be fitted. The share
    ``a`` of Ledoit and Wolf (2004) keeps the directions that few examples cannot measure from counting fully.

    Computed in the span of the examples: the classes' means lie in it, so what is outside adds nothing.

    Args:
        features: ``[n, D]``.
        y: ``[n]`` in ``0..ways-1``.
        ways: ``N``.
        shrinkage: ``a`` in 0..1; estimated where left out. At 0 the pseudo-inverse is taken.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or a share outside 0..1.
    """
    f, y = _checked(features, y, ways)
    n, width = f.shape
    x = f - f.mean(0)
    share = ledoit_wolf(x) if shrinkage is None else shrinkage
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not between 0 and 1")
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    total = s.square() / n
    spread = float(total.sum())
    measured = total > 1e-12 * total.amax()  # the last one of n <= D is 0, since the mean was taken off
    counts = torch.bincount(y, minlength=ways).to(f)
    # the classes' means in the coordinates of the span are (class rows of u).mean * s; each weighs as its examples
    means = one_hot(y, ways, f).T @ u / counts.clamp_min(1)[:, None] * s
    between = (counts[:, None] / n * means.square()).sum(0)
    shrunk = (1 - share) * total + share * spread / width
    return float(((1 - share) * between / shrunk)[measured].sum())


def ledoit_wolf(centred: Tensor) -> float:
    """The share ``a`` in 0..1 by which a covariance is drawn to a multiple of the identity (Ledoit and Wolf 2004).

    ``a = b / d``: ``d = |C - tr(C)/D I|^2`` is how far the covariance is from its target, ``b`` how much of that is
    expected from noise, the mean over examples of ``|x_i x_i' - C|^2 / n``. Through inner products of the examples
    alone, so that ``D`` may be large.

    Args:
        centred: ``[n, D]`` features minus their mean.
    """
    n, width = centred.shape
    gram = centred @ centred.T / n
    size = gram.square().sum()  # |C|^2
    distance = size - gram.trace().square() / width
    noise = gram.diagonal().square().sum() - size / n
    return float((noise / distance).clamp(0, 1)) if float(distance) > 1e-12 * float(size) else 1.0


class Evidence(NamedTuple):
    """Of a Bayesian linear regression: ``log p(t)`` in nats, at the prior's and the noise's precision."""

    value: float
    alpha: float
    beta: float


def logme(features: Tensor, y: Tensor, ways: int) -> float:
    """Logarithm of the maximum evidence (You et al. 2021), nats per example, mean over the classes.

    For each class ``t_i = [y_i = c]``, ``w ~ N(0, I/alpha)`` and ``t = f w + noise``, ``noise ~ N(0, I/beta)``; the
    evidence ``p(t | alpha, beta)`` with the weights integrated out is maximised over both, see :func:`evidence`.
    Rows are brought to length 1 first, so that networks whose features differ in length from picture to picture are
    compared on equal terms. (The scale of all features together is alpha's matter.)

    It needs three examples per class. It is not bounded: the smaller the error, the larger the density at ``t``.

    Args:
        features: ``[n, D]``.
        y: ``[n]`` in ``0..ways-1``.
        ways: ``N``.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    f, y = _checked(features, y, ways)
    targets = one_hot(y, ways, f)
    found = evidence(F.normalize(f, dim=1), targets)
    return sum(e.value for e in found) / (ways * len(y))


_LEAST, _MOST = -12.0, 12.0
"""Decades that ``alpha / beta`` may lie from the mean eigenvalue. Labels that the features give exactly would have
unlimited evidence: noise is taken to be no smaller than a millionth of the signal."""


def evidence(features: Tensor, targets: Tensor) -> list[Evidence]:
    """The largest ``log N(t; 0, F F'/alpha + I/beta)`` over ``alpha`` and ``beta``, for each column of ``targets``.

    With the singular values ``s_i`` of ``F [n, D]``, ``sigma = s^2`` (0 beyond the ``min(n, D)``-th) and the posterior
    mean ``m``::

        log p(t) = D/2 log alpha + n/2 log beta - 1/2 sum_{i=1..D} log(alpha + beta sigma_i)
                   - beta/2 |F m - t|^2 - alpha/2 |m|^2 - n/2 log 2 pi

    The sum runs over all ``D`` eigenvalues. Over the non-zero ones alone, ``(D - n)/2 log alpha`` would stay behind
    when there are fewer examples than features, and networks of unlike width could not be compared.

    In terms of ``r = alpha / beta`` the zero eigenvalues cancel for good, and the best ``beta`` follows::

        R(r)     = |F m - t|^2 + r |m|^2 = sum_i (u_i't)^2 r / (r + sigma_i) + |t - U U't|^2
        beta     = n / R(r)
        log p(t) = n/2 log(n / (2 pi R)) - n/2 + 1/2 sum_i log(r / (r + sigma_i))

    One number is left to be found: by a grid over 24 decades, refined about its best point. (The paper iterates
    ``alpha = gamma/|m|^2``, ``beta = (n - gamma)/|F m - t|^2`` with ``gamma = sum sigma/(r + sigma)``; every inner
    maximum found here is a fixed point of that.)

    Args:
        features: ``F [n, D]`` float64.
        targets: ``[n, T]`` float64.
    """
    n = len(features)
    u, s, _ = torch.linalg.svd(features, full_matrices=False)
    sigma = s.square()
    scale = float(sigma.mean())
    if scale <= 0:  # features that are all zero: the noise explains everything
        sigma, scale = torch.ones_like(sigma), 1.0
        u = torch.zeros_like(u)
    along = (u.T @ targets).square()  # [k, T]
    # what no feature explains, as a difference of nearly equal numbers where the fit is perfect
    beside = (targets - u @ (u.T @ targets)).square().sum(0)

    def profile(log_r: Tensor) -> Tensor:
        """``log p`` ``[G, T]`` for each column's ``log(r / scale)`` ``[G, T]``."""
        kept = torch.sigmoid(log_r[:, None] + math.log(scale) - sigma.clamp_min(1e-300).log()[None, :, None])
        rest = ((along * kept).sum(1) + beside).clamp_min(1e-300)
        value: Tensor = 0.5 * n * ((n / (2 * math.pi * rest)).log() - 1) + 0.5 * kept.clamp_min(1e-300).log().sum(1)
        return value

    low = features.new_full((targets.shape[1],), _LEAST * math.log(10))
    high = features.new_full((targets.shape[1],), _MOST * math.log(10))
    for _ in range(8):  # each round narrows the bracket to two of its 48 steps, in the end below 1e-9
        steps = torch.linspace(0, 1, 49, dtype=features.dtype, device=features.device)[:, None]
        grid = low + steps * (high - low)
        best = profile(grid).argmax(0, keepdim=True)
        low, high = (grid.gather(0, (best + k).clamp(0, 48))[0] for k in (-1, 1))
    log_r = grid.gather(0, best)
    values = profile(log_r)[0]
    ratio = log_r[0].exp() * scale
    rest = (along * (ratio / (ratio + sigma[:, None]))).sum(0) + beside
    beta = n / rest.clamp_min(1e-300)
    return [Evidence(float(v), float(r * b), float(b)) for v, r, b in zip(values, ratio, beta, strict=True)]


def _checked(numbers: Tensor, y: Tensor, ways: int) -> tuple[Tensor, Tensor]:
    """Both as they are computed with: float64, without a graph."""
    if numbers.ndim != 2 or y.shape != numbers.shape[:1] or not numbers.numel():
        raise ValueError(f"{tuple(numbers.shape)} numbers do not fit {tuple(y.shape)} labels")
    if int(y.min()) < 0 or int(y.max()) >= ways:
        raise ValueError(f"labels are not in 0..{ways - 1}")
    numbers = numbers.detach().double()
    if not torch.isfinite(numbers).all():
        raise ValueError("numbers to be scored are not finite")
    return numbers, y


SCORES: dict[str, Score] = {
    s.key: s
    for s in (
        Score("leep", "LEEP", "Nguyen et al. 2020, arXiv 2002.12462", "nats per example", "logits", 2, leep),
        Score("nce", "NCE", "Tran et al. 2019, arXiv 1908.08142", "nats per example", "logits", 2, nce),
        Score(
            "h-score",
            "H-score, shrunk",
            "Bao et al. 2019; Ibrahim et al. 2021, arXiv 2110.06893",
            "directions",
            "features",
            2,
            h_score,
        ),
        Score("logme", "LogME", "You et al. 2021, arXiv 2102.11005", "nats per example", "features", 3, logme),
    )
}
"""The scores by key."""
