"""Tasks as points of a plane: near points resemble each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.transfer.represent import Representation, distance, similarity

_FARTHEST = 4.0
"""A far-off task must not squeeze all the others into one point."""


@dataclass(frozen=True, slots=True)
class Place:
    """A task on the map: name, position in 0..1, similarity to the new task (1 for itself)."""

    name: str
    x: float
    y: float
    similarity: float


def place(task: Representation, sources: Sequence[tuple[str, Representation]]) -> list[Place]:
    """Lay a new task and its sources out so that distances on the plane follow those between the tasks.

    Classical multidimensional scaling (Torgerson 1952) of the square roots of the two-way mean distances; the axes are
    scaled alike, and turned so that the largest coordinate of each is positive: equal input gives an equal map.

    Returns:
        The new task first (its name is ""), then the sources in order.
    """
    tasks = [task, *(r for _, r in sources)]
    points = arrange(between(tasks))
    near = [1.0, *(similarity(task, r) for _, r in sources)]
    names = ["", *(name for name, _ in sources)]
    return [Place(n, float(p[0]), float(p[1]), s) for n, p, s in zip(names, points, near, strict=True)]


def between(tasks: Sequence[Representation], check: Callable[[], object] | None = None) -> Tensor:
    """Two-way mean distances ``[n, n]``, float64, symmetric with zeros on the diagonal; ``check`` may raise to stop."""
    out = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
    for i, a in enumerate(tasks):
        for j in range(i):
            if check is not None:
                check()
            out[i, j] = out[j, i] = (distance(a, tasks[j]) + distance(tasks[j], a)) / 2
    return out


def arrange(distances: Tensor) -> Tensor:
    """Points ``[n, 2]`` in 0..1 whose squared distances follow those given ``[n, n]``; see :func:`place`."""
    return _scale(distances.clamp_max(_FARTHEST))


def _scale(squared: Tensor) -> Tensor:
    """Coordinates ``[n, 2]`` in 0..1 from squared distances ``[n, n]``."""
    n = len(squared)
    centre = torch.eye(n, dtype=squared.dtype) - 1.0 / n
    values, vectors = torch.linalg.eigh(-0.5 * centre @ squared @ centre)
    order = values.argsort(descending=True, stable=True)[:2]
    points = torch.zeros(n, 2, dtype=squared.dtype)
    for k, column in enumerate(order.tolist()):
        axis = vectors[:, column] * values[column].clamp_min(0).sqrt()
        largest = axis.abs().argmax()
        points[:, k] = axis if axis[largest] >= 0 else -axis
    low, high = points.amin(0), points.amax(0)
    reach = float((high - low).max())
    if reach < 1e-9:
        return torch.full_like(points, 0.5)
    return (points - (low + high) / 2) / reach + 0.5
