"""How accurate the chosen knowledge is on the new task, with an interval, from the examples alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.core.values import Estimate

_Z = 1.959963984540054


def wilson(correct: float, n: int) -> tuple[float, float]:
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


def estimate(correct: Sequence[bool], shots: int, candidates_tried: int) -> Estimate | None:
    """Accuracy from examples that were left out in turn.

    The best of several candidates looks better than it is. Had all m been equally good and independent, the best would
    be ahead by ``E[max of m normals]`` standard errors; they are judged on the same examples and one usually leads by
    right, so half of that is taken off, and the lower end of the interval goes down with it while the upper end stays.

    Args:
        correct: per left-out example, whether it was recognised.
        shots: examples of the smallest class.
        candidates_tried: pieces of knowledge that the chosen one was picked from, itself included.

    Returns:
        ``None`` at one example per class: it cannot be estimated yet.
    """
    n = len(correct)
    if shots < 2 or n == 0:
        return None
    right = sum(correct)
    low, high = wilson(right, n)
    how = f"each of your {n} examples left out in turn: {right} recognised"
    if candidates_tried < 2:
        return Estimate(right / n, low, high, how)
    # the standard error of the interval's centre, so that "all right" is corrected too
    centre = (low + high) / 2
    excess = 0.5 * best_of(candidates_tried) * math.sqrt(centre * (1 - centre) / n)
    lowered = max(0.0, right - excess * n)
    if right > 0:
        how += f"; lowered by {100 * (right - lowered) / n:.0f} points because it was picked from {candidates_tried}"
    return Estimate(lowered / n, wilson(lowered, n)[0], high, how)


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
