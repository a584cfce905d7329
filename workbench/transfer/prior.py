"""What is expected of an entry on a task before its examples are looked at: resemblance, experience, seniority.

``prior = similarity + 3 * gain + 0.3 for the default``. The similarity (0..1) is that to the nearest of its sources.
The gain, in accuracy, is what past tasks like this one gained by the entry over the default: a ridge regression from
the task's vector, trusted once there are twenty of them. Ten points of accuracy weigh as much as the default's
seniority, which is what the others have to outweigh where nothing else is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.core.values import EntryId

SENIORITY = 0.3
"""What the default is ahead by; a prior that is larger by more than that is a large one. A choice, not measured:
``tests.benchmarks.transfer`` reports what it gives, beside gates that are chosen anew for each domain on the others."""
GAIN = 3.0
"""Of a gain in accuracy, beside similarities: ten points are worth the seniority. A choice, not measured."""
TRUSTED = 20
"""Past tasks on which an entry and the default were both tried, from which on its learnt gain counts.
A choice, not measured."""
STRENGTH = 1.0
"""Of the ridge, for vectors whose numbers have variance 1 and are divided by the root of their number.
A choice, not measured."""
LARGEST = 0.5
"""A learnt gain counts as at most this much, either way: what is fitted to few records can be anything. A choice."""
FEW = 3
"""Past tasks in common below which two entries are not compared."""
CAUTION = 20
"""Pictures without any difference that are added to what two entries were right of; a choice, not a measurement."""


@dataclass(frozen=True, slots=True)
class Record:
    """A past task.

    Attributes:
        vector: ``[F]``, where it lies; all records of one library have one length.
        gains: accuracy minus the default's on the same pictures, by entry.
    """

    vector: Tensor
    gains: Mapping[EntryId, float]


@dataclass(frozen=True, slots=True)
class Experience:
    """What is known before a task's examples are tried.

    Attributes:
        default: the entry with the best record or else the broadest, ``None`` where nothing is known.
        similarities: the task's to each source (by name), of entries whose sources were measured as the task is.
        gains: in accuracy over the default, of entries that were tried on enough past tasks.
        proven: whether the default was compared with another entry on past tasks, and did no worse.
    """

    default: EntryId | None = None
    similarities: Mapping[EntryId, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    gains: Mapping[EntryId, float] = field(default_factory=dict)
    proven: bool = False

    @property
    def most(self) -> float:
        """What the similarity of an entry that the probe does not know counts as at most, where it knows others.

        Under the entry's own network it is on another scale (a trunk that maps everything to one place finds everything
        alike), so it never comes before the entry that is most similar under the probe.
        """
        known = [value for pairs in self.similarities.values() for _, value in pairs]
        return math.nextafter(max(known), 0.0) if known else 1.0


def learnt_gains(vector: Tensor, records: Sequence[Record]) -> dict[EntryId, float]:
    """The gain to be expected of each entry that was tried often enough, held within half the accuracy scale.

    A ridge with an intercept on vectors standardised over the entry's records: far from all of them it tends to what
    the entry gained on average.

    Args:
        vector: ``[F]`` of the new task.
        records: those of another length are left out.
    """
    usable = [r for r in records if r.vector.shape == vector.shape]
    out: dict[EntryId, float] = {}
    for entry in dict.fromkeys(e for r in usable for e in r.gains):
        own = [r for r in usable if entry in r.gains]
        if len(own) < TRUSTED:
            continue
        x = torch.stack([r.vector for r in own]).double()
        t = torch.tensor([r.gains[entry] for r in own], dtype=torch.float64)
        mean, spread = x.mean(0), x.std(0, correction=0)
        unit = torch.where(spread > 1e-9, spread, torch.inf) * len(vector) ** 0.5
        x, q = (x - mean) / unit, (vector.double() - mean) / unit
        weights = torch.linalg.solve(x @ x.T + STRENGTH * torch.eye(len(own), dtype=x.dtype), t - t.mean())
        gain = float(t.mean() + q @ (x.T @ weights))
        out[entry] = min(max(gain, -LARGEST), LARGEST)
    return out


def prior_of(similarity: float, gain: float = 0.0) -> float:
    """What is expected of an entry; the default's seniority is added where the choice is made."""
    return similarity + GAIN * gain


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of an entry whatever the task.

    Attributes:
        entry: id.
        realised: (task's id, right, of) of each past task; entries with one ``of`` were judged on the same pictures.
        validation: accuracy on validation episodes, or ``None``.
        sources: how many it was trained on.
        classes: of all of them.
    """

    entry: EntryId
    realised: tuple[tuple[str, int, int], ...]
    validation: float | None
    sources: int
    classes: int


def default_of(standings: Sequence[Standing]) -> EntryId | None:
    """The entry with the best record, or else the broadest; ``None`` for an empty library.

    The broadest has most sources and then most classes, since knowledge of many things disappoints least on a new one;
    validation accuracy decides among equally broad ones only, for it is measured on an entry's own sources, and an
    entry that knows one easy source would always win by it. Another entry takes its place if it was right more often
    on the pictures of past tasks that both were judged on, at least three tasks: by most per picture, with ``CAUTION``
    pictures added on which they did not differ, so that few count little. Accuracies on different tasks are never
    compared. The first of equal ones.
    """
    start, ahead = _compared(standings)
    best = max(ahead, key=lambda e: ahead[e], default=start)
    return best if best is not None and ahead.get(best, 0.0) > 0 else start


def is_proven(standings: Sequence[Standing]) -> bool:
    """Whether the default was compared with another entry on past tasks, and is not merely the broadest."""
    return bool(_compared(standings)[1])


def _compared(standings: Sequence[Standing]) -> tuple[EntryId | None, dict[EntryId, float]]:
    """The broadest entry, and by how much others are more accurate on the tasks that each has in common with it."""
    if not standings:
        return None, {}
    start = max(standings, key=lambda s: (s.sources, s.classes, s.validation or 0.0))
    ahead = {s.entry: _ahead(s, start) for s in standings if s.entry != start.entry}
    return start.entry, {entry: gain for entry, gain in ahead.items() if gain is not None}


def _ahead(one: Standing, other: Standing) -> float | None:
    """By how much the first is more accurate on common tasks, drawn towards 0; ``None``: too few in common."""
    had = {(task, of): right for task, right, of in other.realised}
    pairs = [(right - had[task, of], of) for task, right, of in one.realised if (task, of) in had]
    if len(pairs) < FEW:
        return None
    return sum(more for more, _ in pairs) / (sum(of for _, of in pairs) + CAUTION)
