"""Episodes: drawn from sources by a seeded generator, as row ids first and as normalised tensors when needed.

The only file of ``data`` that imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from workbench.core.errors import WorkbenchError
from workbench.data.rows import Drawn, Ids, Rows, choose, episodes_hash
from workbench.data.source import Pixels, Source, Split, mean_std, source_from, split_validation

__all__ = [
    "Batch",
    "Drawn",
    "Episode",
    "Episodes",
    "Labelled",
    "Pixels",
    "Sampler",
    "Sequences",
    "Source",
    "Split",
    "episodes_hash",
    "mean_std",
    "normalise",
    "source_from",
    "split_validation",
]


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """One task to learn from: examples and queries as normalised tensors.

    Attributes:
        support_x: ``[S, C, H, W]`` float32.
        support_y: ``[S]`` int64 in ``0..ways-1``.
        query_x: ``[Q, C, H, W]`` float32.
        query_y: ``[Q]`` int64.
        ways: number of classes.
        class_names: by label.
        task: name of the task, or "all tasks".
        support_ids: ``[S]`` row ids (see ``Drawn``).
        query_ids: ``[Q]`` row ids.
        classes: ``[ways]`` int64, the number of each class among those of all sources, as ``classes_per_source`` counts
            them one source after another; ``None`` where an episode was put together otherwise.

    Raises:
        ValueError: shapes that do not fit, a class without an example or a query, a picture that is both.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    ways: int
    class_names: tuple[str, ...]
    task: str
    support_ids: Tensor
    query_ids: Tensor
    classes: Tensor | None = None

    def __post_init__(self) -> None:
        for x, y, ids in (
            (self.support_x, self.support_y, self.support_ids),
            (self.query_x, self.query_y, self.query_ids),
        ):
            if x.ndim != 4 or not len(x) == y.numel() == ids.numel() or y.ndim != 1:
                raise ValueError(
                    f"pictures {tuple(x.shape)}, labels {tuple(y.shape)}, ids {tuple(ids.shape)} do not fit"
                )
            if set(y.tolist()) != set(range(self.ways)):
                raise ValueError("every class of an episode needs an example and a query, numbered from 0")
        if self.support_x.shape[1:] != self.query_x.shape[1:] or len(self.class_names) != self.ways:
            raise ValueError("examples, queries and class names do not fit one another")
        if self.classes is not None and self.classes.shape != (self.ways,):
            raise ValueError("one number per class of an episode")
        if not set(self.support_ids.tolist()).isdisjoint(self.query_ids.tolist()):
            raise ValueError("a picture is an example and a query of one episode")

    def to(self, device: str | torch.device) -> Episode:
        """The same episode with its pictures and labels on a device."""
        if self.support_x.device == torch.device(device):
            return self
        names = ("support_x", "support_y", "query_x", "query_y")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """The episodes of one outer step.

    Attributes:
        episodes: at least one.
        labelled: a supervised batch beside them, for methods trained on both at once; else ``None``.
    """

    episodes: tuple[Episode, ...]
    labelled: Labelled | None = None

    def to(self, device: str | torch.device) -> Episodes:
        """The same on a device."""
        beside = None if self.labelled is None else self.labelled.to(device)
        return Episodes(tuple(e.to(device) for e in self.episodes), beside)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A supervised batch.

    Attributes:
        x: ``[B, C, H, W]`` float32.
        y: ``[B]`` int64, class within its source (four per character where the sampler turns pictures).
        source: ``[B]`` int64, index of the source.
    """

    x: Tensor
    y: Tensor
    source: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or not len(self.x) == len(self.y) == len(self.source):
            raise ValueError("one label and one source per picture")

    def to(self, device: str | torch.device) -> Labelled:
        """The same on a device."""
        return Labelled(self.x.to(device), self.y.to(device), self.source.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Episodes as sequences, for models that read one picture after another.

    Attributes:
        x: ``[T, B, C, H, W]`` float32.
        y: ``[T, B]`` int64.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 5 or self.x.shape[:2] != self.y.shape:
            raise ValueError("one label per picture of a sequence")

    def to(self, device: str | torch.device) -> Sequences:
        """The same on a device."""
        return Sequences(self.x.to(device), self.y.to(device))


Batch = Episodes | Labelled | Sequences

_WORDS = 1 << 62  # random words; the bias of taking them modulo a few thousand is below 1e-14


def normalise(pixels: npt.NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``[n, H, W, C]`` uint8 as ``[n, C, H, W]`` float32: ``(x / 255 - mean) / std``."""
    x = (
        torch.from_numpy(np.ascontiguousarray(pixels))
        .permute(0, 3, 1, 2)
        .to(torch.float32, memory_format=torch.contiguous_format)
    )
    shape = (1, -1, 1, 1)
    return x.div_(255).sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))


class Sampler:
    """Draws episodes and supervised batches from sources.

    An episode's task is drawn uniformly from the tasks with enough classes, then its classes uniformly without
    replacement (in random order, so that labels are freshly permuted each time), then its pictures without replacement.
    A class with too few pictures gives fewer queries (at least one) and, where shots are a range, fewer examples; never
    the same picture twice. All randomness comes from the generator handed in.

    Args:
        sources: with their pixels.
        ways: classes per episode, from-to; the upper end gives way to what a task has.
        shots: examples per class, from-to, one number per episode.
        queries: per class.
        rotations: each class turned by 90, 180 and 270 degrees is a class of its own.
        across_tasks: classes of one episode come from all sources together.
        mean: per channel, of inputs in 0..1.
        std: per channel.

    Raises:
        WorkbenchError: no episode can be drawn.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        ways: tuple[int, int],
        shots: tuple[int, int],
        queries: int,
        rotations: bool = False,
        across_tasks: bool = False,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.rows = Rows(sources, rotations)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.rotations, self.across_tasks = rotations, across_tasks
        self.mean, self.std = tuple(mean), tuple(std)
        self._pools = self._make_pools()

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is drawn from."""
        return self.rows.sources

    @property
    def turns(self) -> int:
        """Classes per class of pictures: 4 with rotations, else 1."""
        return 4 if self.rotations else 1

    @property
    def classes_per_source(self) -> tuple[int, ...]:
        """Number of classes of each source, as ``labelled`` numbers them."""
        return tuple(len(s.arrays) * self.turns for s in self.sources)

    @property
    def images(self) -> int:
        """Number of pictures, turned ones not counted again."""
        return int(self.rows.offsets[-1])

    @property
    def largest_ways(self) -> int:
        """The most classes an episode can have."""
        return min(self.ways[1], max(len(pool) for _, pool in self._pools))

    def _make_pools(self) -> list[tuple[str, Ids]]:
        rooms = [self.rows.room(c) for c in range(len(self.rows.arrays))]
        fit = [c for c, (examples, queries) in enumerate(rooms) if examples >= self.shots[0] and queries >= 1]
        ids = np.asarray([4 * c + k for c in fit for k in range(self.turns)], dtype=np.int64)
        owner = np.asarray([self.rows.owners[i // 4] for i in ids], dtype=np.int64)
        groups = [("all tasks", ids)]
        if not self.across_tasks:
            groups = [(s.name, ids[owner == i]) for i, s in enumerate(self.sources)]
        pools = [(name, group) for name, group in groups if len(group) >= self.ways[0]]
        if not pools:
            raise self._refusal(groups, len(ids))
        return pools

    def _refusal(self, groups: list[tuple[str, Ids]], together: int) -> WorkbenchError:
        n, few = self.ways[0], len(self.rows.arrays) * self.turns > together
        enough = f" with at least {self.shots[0] + 1} images" if few else ""
        what = f"No {n}-way episode can be drawn"
        if self.across_tasks or len(groups) < 2:
            add = "Add classes or images" if few else "Add classes"
            return WorkbenchError(
                what, f"there are {together} classes{enough}", f"{add}, or ask for fewer ways (--ways)"
            )
        name, largest = max(groups, key=lambda g: len(g[1]))
        across = "Draw the classes from all tasks together (--across-tasks), or ask" if together >= n else "Ask"
        return WorkbenchError(
            what,
            f"no task has {n} classes{enough}; the largest, {name}, has {len(largest)}, all tasks together {together}",
            f"{across} for fewer ways (--ways)",
        )

    def pick(self, gen: Generator) -> Drawn:
        """Draw an episode's ids."""
        words = torch.randint(0, _WORDS, (3,), generator=gen).tolist()
        task, pool = self._pools[words[0] % len(self._pools)]
        ways = self.ways[0] + words[1] % (min(self.ways[1], len(pool)) - self.ways[0] + 1)
        shots = self.shots[0] + words[2] % (self.shots[1] - self.shots[0] + 1)
        # one call for all random words: 60 small calls would cost more than the pictures
        table = torch.randint(0, _WORDS, (ways, 1 + shots + self.queries), generator=gen).tolist()
        classes = pool[choose(len(pool), [row[0] for row in table])]
        support, query, support_y, query_y = [], [], [], []
        for label, (id_, row) in enumerate(zip(classes.tolist(), table, strict=True)):
            c, turn = divmod(id_, 4)
            s, q = self.rows.pick(c, min(shots, self.rows.room(c)[0]), self.queries, row[1:])
            first = int(self.rows.offsets[c])
            support += [4 * (first + j) + turn for j in s]
            query += [4 * (first + j) + turn for j in q]
            support_y += [label] * len(s)
            query_y += [label] * len(q)
        return Drawn(_ids(support), _ids(support_y), _ids(query), _ids(query_y), classes, task)

    def draw(self, gen: Generator) -> Episode:
        """Draw an episode."""
        return self.episode(self.pick(gen))

    def episode(self, drawn: Drawn) -> Episode:
        """The tensors of a drawn episode."""
        x = self.tensors(np.concatenate([drawn.support_ids, drawn.query_ids]))
        s = len(drawn.support_ids)
        return Episode(
            x[:s],
            torch.from_numpy(drawn.support_y),
            x[s:],
            torch.from_numpy(drawn.query_y),
            drawn.ways,
            tuple(self.rows.class_name(int(c), self.across_tasks) for c in drawn.classes),
            drawn.task,
            torch.from_numpy(drawn.support_ids),
            torch.from_numpy(drawn.query_ids),
            torch.from_numpy(drawn.classes // 4 * self.turns + drawn.classes % 4),
        )

    def tensors(self, ids: Ids) -> Tensor:
        """``[n, C, H, W]`` normalised float32 of row ids, turned."""
        return normalise(self.rows.pixels(ids), self.mean, self.std)

    def labelled(
        self, gen: Generator, batch_size: int, *, one_source: bool = False, balanced: bool = False
    ) -> Labelled:
        """A supervised batch, pictures drawn with replacement.

        Args:
            gen: of all randomness.
            batch_size: pictures.
            one_source: all of one source, sources drawn uniformly.
            balanced: each picture's source drawn uniformly; otherwise every picture is as likely as any other.
        """
        words = torch.randint(0, _WORDS, (1 + batch_size, 3), generator=gen).numpy()
        bounds = self.rows.offsets[self.rows.first_class]
        if one_source or balanced:
            filled = np.flatnonzero(np.diff(bounds))
            sources = filled[(words[:1, 0].repeat(batch_size) if one_source else words[1:, 0]) % len(filled)]
            rows = bounds[sources] + words[1:, 1] % np.diff(bounds)[sources]
        else:
            rows = words[1:, 1] % self.images
            sources = np.searchsorted(bounds, rows, side="right") - 1
        turn = words[1:, 2] % self.turns
        owner = np.searchsorted(self.rows.offsets, rows, side="right") - 1
        y = (owner - self.rows.first_class[sources]) * self.turns + turn
        return Labelled(self.tensors(4 * rows + turn), torch.from_numpy(y), torch.from_numpy(sources.astype(np.int64)))

    def sequences(self, gen: Generator, count: int) -> Sequences:
        """``count`` episodes, examples and queries shuffled together, cut to the shortest."""
        xs, ys = [], []
        for _ in range(count):
            e = self.draw(gen)
            length = len(e.support_y) + len(e.query_y)
            order = choose(length, torch.randint(0, _WORDS, (length,), generator=gen).tolist())
            xs.append(torch.cat([e.support_x, e.query_x])[order])
            ys.append(torch.cat([e.support_y, e.query_y])[order])
        t = min(len(y) for y in ys)
        return Sequences(torch.stack([x[:t] for x in xs], 1), torch.stack([y[:t] for y in ys], 1))


def _ids(values: list[int]) -> Ids:
    return np.asarray(values, dtype=np.int64)
