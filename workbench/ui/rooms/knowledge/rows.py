"""Entries in words and numbers, as the table and the card show them. No Qt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

from workbench.core.paths import display
from workbench.core.training import ALIGNMENTS
from workbench.core.values import EntryId, KnowledgeEntry
from workbench.project.searching import search
from workbench.services.overview import Names, Shelf
from workbench.ui.widgets.words import held_out, interval, number, signed

_KEEPING = {"none": "nothing was done", "l2": "L2", "ewc": "EWC", "replay": "replay of old pictures"}


@dataclass(frozen=True, slots=True)
class EntryRow:
    """One entry.

    Attributes:
        id: of the entry.
        name: for people.
        algorithm: title.
        backbone: title.
        sources: in words.
        accuracy: on its own validation, ``None`` where it was not measured.
        low: end of the 95 % interval.
        high: likewise; both are the accuracy where there is no interval.
        made: day, or "Shipped".
        created: ISO 8601, for sorting.
        retired: put away.
    """

    id: EntryId
    name: str
    algorithm: str
    backbone: str
    sources: str
    accuracy: float | None
    low: float
    high: float
    made: str
    created: str
    retired: bool

    @property
    def interval(self) -> str:
        """The interval in brackets, "" where there is none."""
        return interval(self.low, self.high, 3) if self.high > self.low else ""


SORTS: Mapping[str, Callable[[EntryRow], Any]] = {
    "name": lambda r: r.name.casefold(),
    "algorithm": lambda r: (r.algorithm.casefold(), r.name.casefold()),
    "backbone": lambda r: (r.backbone.casefold(), r.name.casefold()),
    "sources": lambda r: (r.sources.casefold(), r.name.casefold()),
    "accuracy": lambda r: -1.0 if r.accuracy is None else r.accuracy,
    "made": lambda r: r.created,
}


def counted(n: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def rows_of(shelf: Shelf, names: Names, words: str, now: datetime) -> tuple[EntryRow, ...]:
    """Rows of all entries in which the words are found, those put away last."""
    out: list[EntryRow] = []
    for entries, retired in ((shelf.entries, False), (shelf.retired, True)):
        found = {e.id for e in search(words, entries, names.algorithms)}
        out += [
            row_of(e, names, shipped=e.id in shelf.shipped, retired=retired, now=now) for e in entries if e.id in found
        ]
    return tuple(out)


def row_of(entry: KnowledgeEntry, names: Names, *, shipped: bool, retired: bool, now: datetime) -> EntryRow:
    """One entry as a row."""
    v = entry.validation
    low, high = (v.interval or (v.accuracy, v.accuracy)) if v else (0.0, 0.0)
    return EntryRow(
        id=entry.id,
        name=display(entry.name),
        algorithm=names.algorithms.get(entry.algorithm, entry.algorithm),
        backbone=names.backbones.get(entry.backbone, entry.backbone).split(",")[0],
        sources=source_words(entry),
        accuracy=v.accuracy if v else None,
        low=low,
        high=high,
        made="Shipped" if shipped else day(entry.created, now),
        created=entry.created,
        retired=retired,
    )


def source_words(entry: KnowledgeEntry) -> str:
    """One source by its name, several by their number."""
    return display(entry.sources[0].name) if len(entry.sources) == 1 else counted(len(entry.sources), "task")


def day(created: str, now: datetime) -> str:
    """For example "18 Nov", with the year where it is another one."""
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        return ""
    if made.tzinfo is not None:
        made = made.astimezone(now.tzinfo)
    return f"{made.day} {made:%b}" + (f" {made.year}" if made.year != now.year else "")


def scale_of(rows: Sequence[EntryRow]) -> tuple[float, float]:
    """Ends of the whiskers' axis: tenths round all intervals, at least three of them."""
    known = [r for r in rows if r.accuracy is not None]
    if not known:
        return 0.0, 1.0
    low = math.floor(min(r.low for r in known) * 10 + 1e-9)
    high = math.ceil(max(r.high for r in known) * 10 - 1e-9)
    while high - low < 3:
        low, high = (low - 1, high) if high >= 10 else (low, high + 1)
    return low / 10, high / 10


def ticks_of(low: float, high: float) -> list[float]:
    """At most five labelled places of that axis, its ends among them."""
    tenths = round((high - low) * 10)
    step = next(s for s in (1, 2, 3, 5) if tenths / s <= 4)
    return [round(low + i / 10, 1) for i in range(0, tenths + 1, step)]


# ---- the card --------------------------------------------------------------------------------------------------------


def episode_words(entry: KnowledgeEntry) -> str:
    """What the figure was measured on, e.g. "5 ways, 1 shot, 600 episodes, seed 7"."""
    parts = [_range(entry.ways, "way"), _range(entry.shots, "shot")]
    if entry.validation is not None:
        parts.append(counted(entry.validation.episodes, "episode"))
    if isinstance(entry.provenance.get("seed"), int):
        parts.append(f"seed {entry.provenance['seed']}")
    return ", ".join(parts)


def _range(value: tuple[int, int], one: str) -> str:
    low, high = value
    return counted(low, one) if low == high else f"{low}–{high} {one}s"


def facts(entry: KnowledgeEntry, names: Names, find: Callable[[EntryId], KnowledgeEntry | None]) -> list[list[str]]:
    """The card: name, value, and where it is longer than the card is wide, all of it for the tooltip."""
    p = entry.provenance
    classes = sum(s.classes for s in entry.sources)
    listed = ", ".join(display(s.name) for s in entry.sources)
    learnt = f"{counted(len(entry.sources), 'task')}, {counted(classes, 'class', 'classes')}"
    if len(entry.sources) == 1:
        learnt = f"{listed}, {counted(classes, 'class', 'classes')}"
    backbone = names.backbones.get(entry.backbone, entry.backbone)
    kind = "grey" if entry.preprocess.channels == "grey" else "colour"
    algorithm = names.algorithms.get(entry.algorithm, entry.algorithm)
    found = [["Learned from", f"{learnt}, {counted(sum(s.images for s in entry.sources), 'image')}", listed]]
    found += _aligned(p.get("aligned"))
    found += _kept(p.get("kept"))
    found.append(["Data", *_data(entry)])
    ancestor = p.get("ancestor_entry")
    if isinstance(ancestor, str) and ancestor:
        before = find(EntryId(ancestor))
        found.append(["Went on from", display(before.name) if before else "knowledge that is not here", ""])
    if isinstance(p.get("licence"), str) and p["licence"]:
        found.append(["Licence", p["licence"], str(p.get("data", ""))])
    found.append(["Method", f"{algorithm}, {backbone.split(',')[0]}, {entry.preprocess.size} px, {kind}", backbone])
    if entry.validation is not None:
        kind = "classes" if entry.validation.kind == "classes" else "pictures of the same classes"
        found.append(["Validated on", f"{kind} that were held out", ""])
    if isinstance(p.get("episodes"), int) and p["episodes"]:
        seconds = p.get("seconds")
        took = f" in {_time(seconds)}" if isinstance(seconds, int | float) else ""
        stopped = ", stopped early" if p.get("stopped") else ""
        found.append(["Trained for", f"{counted(p['episodes'], 'episode')}{took}{stopped}", ""])
    return found


def _data(entry: KnowledgeEntry) -> tuple[str, str]:
    prints = [s.fingerprint for s in entry.sources if s.fingerprint]
    whole = "\n".join(f"{display(s.name)}  {s.fingerprint[:16]}" for s in entry.sources if s.fingerprint)
    if not prints:
        return "no fingerprint", ""
    mark = prints[0][:8] if len(prints) == 1 else f"{prints[0][:8]} and {len(prints) - 1} more"
    return f"fingerprint {mark}", whole


def _kept(value: object) -> list[list[str]]:
    """What was done so as not to lose what was known before, and how much was lost; see ``provenance["kept"]``."""
    if not isinstance(value, Mapping):
        return []
    how = _KEEPING.get(str(value.get("how", "")), "")
    rows = [["Against forgetting", how, ""]] if how else []
    lost = "Loss of accuracy on the old sources, with its 95 % interval"
    if value.get("seen"):
        lost += "; on pictures that only the knowledge before was trained on, so it may be less"
    for key, name, sign, tip in (
        ("backward", "Forgetting", -1, lost),
        ("forward", "Head start", 1, "Accuracy on the new sources beforehand, less that of an untrained network"),
    ):
        found = value.get(key)
        mean, ci = (
            (number(found.get("mean")), number(found.get("ci95"))) if isinstance(found, Mapping) else (None, None)
        )
        if mean is not None and ci is not None:
            here = sign * mean
            rows.append([name, f"{signed(here)} ({signed(here - ci)} to {signed(here + ci)})", tip])
    if value.get("unmeasured"):
        rows.append(["Forgetting", "not measured", str(value["unmeasured"])])
    return rows


def _aligned(value: object) -> list[list[str]]:
    """What adapting to another domain did; see ``provenance["aligned"]``."""
    if not isinstance(value, Mapping):
        return []
    how = ALIGNMENTS.get(str(value.get("method", "")), str(value.get("method", "")))
    target = value.get("target")
    listed = ", ".join(display(str(t)) for t in target) if isinstance(target, list | tuple) else ""
    pictures = value.get("pictures")
    seen = f", {counted(pictures, 'picture')}" if isinstance(pictures, int) else ""
    rows = [["Adapted to", f"{listed}{seen} ({how})", "The labels there were not used"]]
    if value.get("unmeasured"):
        return [*rows, ["On that domain", "not measured", str(value["unmeasured"])]]
    return [*rows, ["On that domain", *held_out(value.get("held_out"))]]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def file_name(entry: KnowledgeEntry) -> str:
    """A name for the file an entry is written to."""
    kept = "".join(c if c.isalnum() or c in " -_" else " " for c in PurePath(display(entry.name)).name or "knowledge")
    return "-".join(kept.split())[:60] or "knowledge"
