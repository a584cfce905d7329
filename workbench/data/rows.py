"""Pictures of many sources under one numbering, and episodes as numbers alone.

A row id is ``4 * row + quarter turns``, where rows count the pictures of the sources in order; a class id is
``4 * class + quarter turns`` likewise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workbench.data.source import Pixels, Source

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One episode as ids; small, and the same on every machine.

    Attributes:
        support_ids: ``[S]`` row ids.
        support_y: ``[S]`` in ``0..ways-1``, class by class.
        query_ids: ``[Q]`` row ids, disjoint from the support.
        query_y: ``[Q]``.
        classes: ``[ways]`` class ids; the position is the label.
        task: name of the task, or "all tasks".
    """

    support_ids: Ids
    support_y: Ids
    query_ids: Ids
    query_y: Ids
    classes: Ids
    task: str

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.classes)


def episodes_hash(episodes: Iterable[Drawn]) -> str:
    """sha256 of a list of episodes: their row, class and rotation ids and labels, in order."""
    h = hashlib.sha256(b"episodes 1")
    for e in episodes:
        for part in (e.classes, e.support_ids, e.support_y, e.query_ids, e.query_y):
            h.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
    return h.hexdigest()


class Rows:
    """The pictures of sources, by row id.

    Args:
        sources: with their pixels, all of one size.
        rotations: whether turned pictures are asked for, which must then be square.

    Attributes:
        arrays: per class, over all sources.
        owners: per class, the index of its source.
        offsets: ``[classes + 1]`` first row of each class.
        first_class: ``[sources + 1]`` first class of each source.

    Raises:
        ValueError: pictures of different sizes, or not square ones to be turned.
    """

    def __init__(self, sources: Sequence[Source], rotations: bool) -> None:
        self.sources = tuple(sources)
        self.arrays: list[Pixels] = [a for s in self.sources for a in s.arrays]
        self.owners = [i for i, s in enumerate(self.sources) for _ in s.arrays]
        self.offsets: Ids = np.cumsum([0, *(len(a) for a in self.arrays)]).astype(np.int64)
        self.first_class: Ids = np.cumsum([0, *(len(s.arrays) for s in self.sources)]).astype(np.int64)
        self._support_only = [n for s in self.sources for n in (s.support_only or (0,) * len(s.arrays))]
        shapes = {a.shape[1:] for a in self.arrays}
        if len(shapes) > 1 or (rotations and any(h != w for h, w, _ in shapes)):
            raise ValueError(
                f"pictures of one size{', square to be turned,' if rotations else ''} needed, not {shapes}"
            )

    def room(self, c: int) -> tuple[int, int]:
        """How many pictures of a class may be examples, and how many queries beside one example."""
        n, only = len(self.arrays[c]), self._support_only[c]
        return (only, n - only) if only else (n - 1, n - 1)

    def pick(self, c: int, shots: int, queries: int, words: Sequence[int]) -> tuple[list[int], list[int]]:
        """Different pictures of a class: ``shots`` examples and up to ``queries`` queries, by one random word each."""
        n, only = len(self.arrays[c]), self._support_only[c]
        if only:
            asked = min(queries, n - only)
            return choose(only, words[:shots]), [only + j for j in choose(n - only, words[shots : shots + asked])]
        chosen = choose(n, words[: min(shots + queries, n)])
        return chosen[:shots], chosen[shots:]

    def class_name(self, id_: int, with_source: bool) -> str:
        """Name of a class id, with its turn, and its source's name where classes of several may meet."""
        c, turn = divmod(id_, 4)
        source = self.owners[c]
        name = self.sources[source].class_names[c - int(self.first_class[source])]
        if with_source and len(self.sources) > 1:
            name = f"{self.sources[source].name}/{name}"
        return f"{name}, turned {90 * turn}°" if turn else name

    def pixels(self, ids: Ids) -> Pixels:
        """``[n, H, W, C]`` uint8 of row ids, turned."""
        rows, turn = ids >> 2, ids & 3
        owner = np.searchsorted(self.offsets, rows, side="right") - 1
        order = np.argsort(owner, kind="stable")
        out = np.empty((len(ids), *self.arrays[0].shape[1:]), dtype=np.uint8)
        for part in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
            if len(part):
                c = int(owner[part[0]])
                out[part] = self.arrays[c][rows[part] - self.offsets[c]]
        for k in (1, 2, 3):
            if (turned := turn == k).any():
                out[turned] = np.rot90(out[turned], k, axes=(1, 2))
        return out


def choose(n: int, words: Sequence[int]) -> list[int]:
    """``len(words)`` different numbers below ``n`` in random order: a Fisher-Yates shuffle that stops early."""
    moved: dict[int, int] = {}
    out = []
    for i, word in enumerate(words):
        j = i + word % (n - i)
        out.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return out
