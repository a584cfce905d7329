"""Where the tasks of a map are drawn: near their places, but not over one another. No Qt."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]

_MOST_ROUNDS, _PAIRS = 300, 150_000
"""Rounds, and pairs looked at in all: many tasks get fewer rounds, so that the window is not held up."""
_HOME = 0.06
"""How strongly each is drawn back to its own place in a round, less and less."""
_ASIDE = 0.2
"""Of a push goes sideways, or a row against the edge could not leave it."""
_TURN = 2.399963
"""Radians from one direction to the next, for those at the very same place."""


def evened(places: Sequence[Point], share: float = 0.6) -> list[Point]:
    """The same order from left to right and from top to bottom, with the gaps made more alike.

    One task far from all others would leave most of a map empty.

    Args:
        places: in 0..1 by 0..1.
        share: of the even gaps in the outcome, 0..1; equal coordinates stay equal.
    """
    columns = [_evened([p[axis] for p in places], share) for axis in (0, 1)]
    return list(zip(*columns, strict=True))


def _evened(values: Sequence[float], share: float) -> list[float]:
    steps = sorted(set(values))
    even = {v: i / max(1, len(steps) - 1) if len(steps) > 1 else 0.5 for i, v in enumerate(steps)}
    return [(1 - share) * v + share * even[v] for v in values]


def spread(places: Sequence[Point], width: float, height: float, cell: Point) -> list[Point]:
    """Points of a ``width`` by ``height`` area, each as near to its place as those round it allow.

    Two that would overlap are pushed apart along the line between them; equal input gives equal output.

    Args:
        places: in 0..1 by 0..1.
        width: pixels.
        height: pixels.
        cell: pixels that each needs for itself, across and down: the axes of an ellipse.
    """
    wide, high = max(width, 1.0), max(height, 1.0)
    home = [(x * wide, y * high) for x, y in places]
    at = [[x + math.cos(i * _TURN), y + math.sin(i * _TURN)] for i, (x, y) in enumerate(home)]
    rounds = max(12, min(_MOST_ROUNDS, _PAIRS // max(1, len(at) ** 2)))
    for round_ in range(rounds):
        pull = _HOME * max(0.0, 1 - 1.5 * round_ / rounds)  # the last rounds only push
        for point, (x, y) in zip(at, home, strict=True):
            point[0] += pull * (x - point[0])
            point[1] += pull * (y - point[1])
        for i in range(len(at)):
            for j in range(i):
                dx, dy = (at[i][0] - at[j][0]) / cell[0], (at[i][1] - at[j][1]) / cell[1]
                length = math.hypot(dx, dy)
                if length >= 1:
                    continue
                if length < 1e-6:
                    dx, dy, length = math.cos(i * _TURN), math.sin(i * _TURN), 1.0
                push = (1 - min(length, 1.0)) / 2 / length if length < 1 else 0.5
                aside = _ASIDE if (i + j) % 2 else -_ASIDE
                x, y = push * (dx - aside * dy) * cell[0], push * (dy + aside * dx) * cell[1]
                at[i][0] += x
                at[i][1] += y
                at[j][0] -= x
                at[j][1] -= y
        for point in at:
            point[0] = min(max(point[0], 0.0), wide)
            point[1] = min(max(point[1], 0.0), high)
    return [(x, y) for x, y in at]


def tied(similar: Sequence[Sequence[float]], least: float) -> list[tuple[int, int, float]]:
    """The fewest pairs that hold like tasks together: of all ways from one to another, those over the most similar.

    Args:
        similar: ``[n][n]``, symmetric.
        least: similarity from which two are tied at all.
    """
    pairs = [(s, i, j) for i, row in enumerate(similar) for j, s in enumerate(row[:i]) if s >= least]
    group = list(range(len(similar)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    found = []
    for s, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        a, b = root(i), root(j)
        if a != b:
            group[a] = b
            found.append((i, j, s))
    return found


def towards(points: Sequence[Point], at: int, direction: Point) -> int:
    """The point to which an arrow key leads: the nearest within 60 degrees of it, else ``at``.

    Args:
        points: pixels.
        at: number of the one to go from.
        direction: (1, 0) right, (-1, 0) left, (0, 1) down, (0, -1) up.
    """
    best, nearest = at, float("inf")
    for i, (x, y) in enumerate(points):
        dx, dy = x - points[at][0], y - points[at][1]
        along = dx * direction[0] + dy * direction[1]
        length = (dx * dx + dy * dy) ** 0.5
        if i == at or along <= 0.5 * length or along <= 0:
            continue
        cost = length * (2 - along / length)
        if cost < nearest:
            best, nearest = i, cost
    return best
