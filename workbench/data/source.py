"""Sources as pixels: what training draws from, how a part is held out for validation, and the pixels' mean and spread.

No torch here; ``workbench.data.episodes`` turns these arrays into episodes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from workbench.core.values import Role, Task

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One task's labelled pictures as pixels.

    Attributes:
        name: of the task.
        class_names: in order.
        arrays: per class ``[n, H, W, C]`` uint8; may be views into a memory map.
        support_only: per class, how many leading pictures may only be examples (the model was trained on them) while
            the rest may only be asked about; () = no such rule.
        role: of the task.

    Raises:
        ValueError: arrays that do not fit the names or one another.
    """

    name: str
    class_names: tuple[str, ...]
    arrays: tuple[Pixels, ...]
    support_only: tuple[int, ...] = ()
    role: Role = Role.TRAIN

    def __post_init__(self) -> None:
        if len(self.class_names) != len(self.arrays):
            raise ValueError(f"source {self.name!r} has {len(self.class_names)} names for {len(self.arrays)} classes")
        if self.support_only and len(self.support_only) != len(self.arrays):
            raise ValueError(f"source {self.name!r} needs one support_only per class")
        if len({a.shape[1:] for a in self.arrays}) > 1 or any(a.ndim != 4 or a.dtype != np.uint8 for a in self.arrays):
            raise ValueError(f"source {self.name!r} needs uint8 pictures [n, H, W, C] of one size")

    @property
    def images(self) -> int:
        """Number of pictures."""
        return sum(len(a) for a in self.arrays)


def source_from(task: Task, pixels: npt.NDArray[Any], rows: Mapping[str, int]) -> Source:
    """The pictures of a task out of a decoded array.

    A picture that is not in ``rows`` (unreadable) is left out; one that stands twice in a class counts once, so that no
    copy can be an example and a query at the same time.

    Args:
        task: its classes and pictures.
        pixels: ``[n, H, W, C]`` uint8, for example a memory map.
        rows: row of ``pixels`` by the picture's sha256.
    """
    arrays = []
    for c in task.classes:
        wanted = list(dict.fromkeys(rows[i.sha256] for i in c.images if i.sha256 in rows))
        consecutive = bool(wanted) and wanted == list(range(wanted[0], wanted[0] + len(wanted)))
        arrays.append(pixels[wanted[0] : wanted[-1] + 1] if consecutive else pixels[np.asarray(wanted, dtype=np.int64)])
    return Source(task.name, tuple(c.name for c in task.classes), tuple(arrays), role=task.role)


def mean_std(sources: Sequence[Source], at_most: int = 4000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of training pixels in 0..1.

    Evenly spaced pictures, at most ``at_most`` of them, so the same sources give the same figures. Held-out and
    validation sources are not looked at.

    Raises:
        ValueError: there is no picture.
    """
    arrays = [a for s in sources if s.role is Role.TRAIN for a in s.arrays if len(a)]
    total = sum(len(a) for a in arrays)
    if not total:
        raise ValueError("no picture to measure")
    step = max(1, math.ceil(total / at_most))
    count, start = 0, 0
    sums: npt.NDArray[np.float64] = np.zeros(arrays[0].shape[-1])
    squares = sums.copy()
    for a in arrays:
        block = a[-start % step :: step].astype(np.float64) / 255
        count += block[..., 0].size
        sums += block.sum(axis=(0, 1, 2))
        squares += np.square(block).sum(axis=(0, 1, 2))
        start += len(a)
    mean = sums / count
    # a set of uniform pictures has no spread; the floor keeps the division harmless
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 0)).clip(1e-2)
    return tuple(round(float(v), 6) for v in mean), tuple(round(float(v), 6) for v in std)


class Split(NamedTuple):
    """Sources to train on, sources to validate on (none where nothing can be held out), and what was held out."""

    train: tuple[Source, ...]
    validation: tuple[Source, ...]
    kind: Literal["classes", "images"]


def split_validation(
    sources: Sequence[Source],
    ways: tuple[int, int],
    shots: tuple[int, int],
    queries: int,  # noqa: ARG001  a class with fewer pictures gives fewer queries, so it decides nothing here
    seed: int,
    fraction: float = 0.2,
    *,
    across_tasks: bool = False,
    rotations: bool = False,
) -> Split:
    """Hold a part of the sources out for validation.

    Sources given for validation are used as they are. Otherwise classes are held out, counted the way episodes are
    drawn (``N`` classes of one task, or of all tasks together; four per character with ``rotations``, which stay
    together):

    - across tasks: 20 % of all classes, at least ``N``;
    - within tasks, five or more tasks of ``N`` classes: whole tasks, about 20 % of the classes. (Taking ``N`` of the
      ten classes of many tasks would leave halves on both sides, with few different episodes in each.);
    - within tasks, fewer of them: from each task with ``2N`` classes 20 % of its classes, at least ``N``; where no task
      is that large but there are two or more, one whole task.

    If there are fewer than ``2N`` classes, 20 % of each class's pictures are held out instead: validation episodes then
    take their examples from the pictures trained on and ask only about held-out ones.

    Args:
        sources: those with role HELD_OUT are dropped.
        ways: classes per episode, from-to; ``N`` is the largest in the range that leaves ``2N`` classes.
        shots: examples per class, from-to.
        queries: per class.
        seed: of the choice, which depends on it and on names alone.
        fraction: to hold out.
        across_tasks: episodes draw their classes from all tasks.
        rotations: each class counts four times.
    """
    train = [s for s in sources if s.role is Role.TRAIN]
    given = tuple(s for s in sources if s.role is Role.VALIDATION)
    if given:
        return Split(tuple(train), given, "classes")
    turns = 4 if rotations else 1
    usable = {(i, c) for i, s in enumerate(train) for c, a in enumerate(s.arrays) if len(a) >= shots[0] + 1}
    sizes = [sum((i, c) in usable for c in range(len(s.arrays))) for i, s in enumerate(train)]
    pool = sum(sizes) if across_tasks else max(sizes, default=0)
    n = math.ceil(min(ways[1], max(ways[0], pool * turns // 2)) / turns)
    order = sorted(usable, key=lambda p: _rank(seed, train[p[0]].name, train[p[0]].class_names[p[1]]))
    held: set[tuple[int, int]] = set()
    if across_tasks:
        if pool >= 2 * n:
            held = set(order[: max(n, round(fraction * pool))])
    else:
        held = _within_tasks(train, sizes, order, n, fraction, seed)
    if held:
        kept = tuple(
            k for i, s in enumerate(train) if (k := _keep(s, [c for c in range(len(s.arrays)) if (i, c) not in held]))
        )
        out = tuple(
            k for i, s in enumerate(train) if (k := _keep(s, [c for c in range(len(s.arrays)) if (i, c) in held]))
        )
        return Split(kept, out, "classes")
    return _split_images(train, shots[0], seed, fraction)


def _within_tasks(
    train: Sequence[Source], sizes: Sequence[int], order: Sequence[tuple[int, int]], n: int, fraction: float, seed: int
) -> set[tuple[int, int]]:
    large = sorted((i for i, size in enumerate(sizes) if size >= n), key=lambda i: _rank(seed, train[i].name, ""))
    twice = [i for i in large if sizes[i] >= 2 * n]
    if len(large) >= 5 or (len(large) >= 2 and not twice):
        target, whole, held = fraction * sum(sizes), [large[0]], sizes[large[0]]
        for i in large[1:-1]:
            if abs(held + sizes[i] - target) >= abs(held - target):
                break
            whole.append(i)
            held += sizes[i]
        return {(i, c) for i in whole for c in range(len(train[i].arrays))}
    chosen: set[tuple[int, int]] = set()
    for i in twice:
        mine = [p for p in order if p[0] == i]
        chosen.update(mine[: max(n, round(fraction * len(mine)))])
    return chosen


def _split_images(train: Sequence[Source], shots: int, seed: int, fraction: float) -> Split:
    kept: list[Source] = []
    out: list[Source] = []
    for s in train:
        seen, names, arrays, examples = [], [], [], []
        for name, a in zip(s.class_names, s.arrays, strict=True):
            order = sorted(range(len(a)), key=lambda j: _rank(seed, s.name, f"{name}/{j}"))
            h = min(max(1, round(fraction * len(a))), len(a) - shots - 1)
            if h < 1:
                seen.append(a)
                continue
            own = sorted(order[h:])
            seen.append(a[own])
            names.append(name)
            arrays.append(a[own + sorted(order[:h])])
            examples.append(len(own))
        kept.append(replace(s, arrays=tuple(seen)))
        if names:
            out.append(Source(s.name, tuple(names), tuple(arrays), tuple(examples), Role.VALIDATION))
    return Split(tuple(kept), tuple(out), "images")


def _keep(s: Source, classes: Sequence[int]) -> Source | None:
    if not classes:
        return None
    return replace(s, class_names=tuple(s.class_names[c] for c in classes), arrays=tuple(s.arrays[c] for c in classes))


def _rank(seed: int, *names: str) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *names)).encode("utf-8", "surrogateescape")).digest()
