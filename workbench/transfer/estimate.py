"""How accurate the chosen knowledge is on the new task, with an interval, from the examples alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from workbench.core.values import Estimate

_Z = 1.959963984540054
GAIN, MOST_GAIN = 0.35, 1.0
"""How the share of errors falls with the examples of a class, ``K ** -GAIN``: as a rule, and at most."""
WORTH = 0.8
"""Independent trials that a left-out example counts as: those asked together share the examples they are held against.

Chosen with the gains on six alphabets that were not trained on, 5-way with 2 to 5 examples, for three networks: the
plain Wilson interval of examples left out one by one holds the accuracy on their other pictures in 66 (2 examples) to
83 % (5) of the tasks, of one of every class left out together in 81 to 85 %, and in 94 to 97 % with these figures.
"""


def wilson(correct: float, n: float) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927); never leaves 0..1 and is not empty at 0 or n right.

    Raises:
        ValueError: no trials, or more right than trials.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} is not a proportion")
    p = correct / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n)) / (1 + _Z**2 / n)
    # exact at the ends, where rounding would leave the smallest of numbers
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == n else middle + half)


def estimate(correct: Sequence[bool], shots: int, candidates_tried: int, lost: float | None = None) -> Estimate | None:
    """Accuracy from examples that were left out, one of every class at a time.

    The interval is Wilson's for ``WORTH`` trials an example. Two things are set right. *Shots*: what was asked had
    learnt from ``K - 1`` examples of each class, what is used has ``K``. Errors fall about as ``K ** -0.35``, which the
    estimate takes into account; the lower end of the interval counts on none of it and the upper end on ``K ** -1``.
    *Choice*: the best of several candidates looks better than it is, by ``lost`` examples (:func:`optimism`), which the
    estimate and the lower end do without; the upper end keeps them.

    Without ``lost``, half of what the best of so many equally good and independent candidates would be ahead by is
    taken for it.

    Args:
        correct: per left-out example, whether it was recognised.
        shots: examples of the smallest class, ``K``.
        candidates_tried: pieces of knowledge that the chosen one was picked from, itself included.
        lost: see :func:`optimism`; below 0 counts as 0.

    Returns:
        ``None`` at one example per class: it cannot be estimated yet.
    """
    n = len(correct)
    if shots < 2 or n == 0:
        return None
    right = sum(correct)
    worth = max(WORTH, 1 / n)  # no fewer than one trial in all
    low, high = wilson(worth * right, worth * n)
    if lost is None and candidates_tried > 1:
        # the standard error of the interval's centre, so that "all right" is corrected too
        centre = (low + high) / 2
        lost = 0.5 * best_of(candidates_tried) * math.sqrt(centre * (1 - centre) * n)
    kept = right - min(max(lost or 0.0, 0.0), right)
    how = f"each of your {n} examples left out: {right} recognised"
    if round(right - kept, 1) > 0:
        how += f", lowered by {right - kept:.1f} because this was picked from {candidates_tried} on the same examples"
    fewer = (shots - 1) / shots
    accuracy = 1 - (1 - kept / n) * fewer**GAIN
    if kept < n:
        how += f"; raised by {100 * (accuracy - kept / n):.0f} points for the example of each class that was left out"
    low = wilson(worth * kept, worth * n)[0]
    return Estimate(accuracy, low, 1 - (1 - high) * fewer**MOST_GAIN, how)


def optimism(
    right: Mapping[int, Mapping[int, bool]], parts: Sequence[Sequence[int]], chosen: int, again: Sequence[int]
) -> float:
    """Examples that the chosen candidate answers because it was chosen on them.

    The choice is made again without each part of the examples, and the part is answered by what is chosen then
    (nested cross-validation, Varma and Simon 2006). What is answered less than by the chosen candidate is the winner's
    curse, whatever the candidates' number and however alike they are: copies of one network choose nothing.

    Args:
        right: of each candidate in ``chosen`` and ``again``, per example whether it was recognised when it was left out
            of what the candidate had learnt from; the same was left out for all. Examples without an answer do not
            count.
        parts: the examples, each in one part.
        chosen: the candidate that was chosen on all of them.
        again: the one that was chosen without each part, on losses that the part had no share in (see
            :mod:`workbench.transfer.nested`).
    """
    lost = 0
    for part, other in zip(parts, again, strict=True):
        both = [i for i in part if i in right[chosen] and i in right[other]]
        lost += sum(right[chosen][i] - right[other][i] for i in both)
    return float(lost)


def best_of(m: int) -> float:
    """Expected largest of ``m`` standard normals; Blom's approximation of the order statistic, 0 for one."""
    if m < 2:
        return 0.0
    return _normal_quantile((m - 0.375) / (m + 0.25))


def _normal_quantile(p: float) -> float:
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 * math.erfc(-middle / math.sqrt(2)) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2
