"""Where knowledge came from and what became of it: what it was trained on from, and the tasks it was used for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench.core.values import EntryId, KnowledgeEntry
from workbench.project.past_tasks import PastTask, Used

_DEEPEST = 32


@dataclass(frozen=True, slots=True)
class Ancestor:
    """An entry that another was trained on from; ``name`` is ``None`` where it is not in the library any more."""

    entry: EntryId
    name: str | None


@dataclass(frozen=True, slots=True)
class Went:
    """How an entry did where it was used.

    Attributes:
        tasks: it was chosen for.
        right: pictures labelled by a person after they had been asked about that it recognises when they are left out.
        of: pictures that it was judged by in this way.
        beside: mean of right / of in other knowledge used for the same tasks, weighted by its pictures; ``None`` where
            nothing else was used for them.
    """

    tasks: int
    right: int
    of: int
    beside: float | None

    @property
    def gain(self) -> float | None:
        """Share that was right, less that of what else was used for the same tasks; ``None`` where nothing was."""
        return None if self.beside is None or not self.of else self.right / self.of - self.beside


def lineage(entry: KnowledgeEntry, entries: Iterable[KnowledgeEntry]) -> tuple[Ancestor, ...]:
    """The entries that it was trained on from, the nearest first; a circle, as only a file can hold, is cut."""
    known = {e.id: e for e in entries}
    out: list[Ancestor] = []
    at: KnowledgeEntry | None = entry
    seen = {entry.id}
    while at is not None and len(out) < _DEEPEST:
        from_ = at.provenance.get("ancestor_entry")
        if not isinstance(from_, str) or not from_ or from_ in seen:
            break
        id_ = EntryId(from_)
        seen.add(id_)
        at = known.get(id_)
        out.append(Ancestor(id_, None if at is None else at.name))
    return tuple(out)


def went(entry: EntryId, tasks: Iterable[PastTask]) -> Went:
    """How an entry did over the tasks that were taught."""
    chosen = right = of = others_right = others_of = 0
    for task in tasks:
        own = [r for r in task.realised if r.used.entry == entry]
        chosen += task.chosen.entry == entry or bool(own)
        right += sum(r.right for r in own)
        of += sum(r.of for r in own)
        if own:
            others_right += sum(r.right for r in task.realised if r.used.entry != entry)
            others_of += sum(r.of for r in task.realised if r.used.entry != entry)
    return Went(chosen, right, of, others_right / others_of if others_of else None)


def recipes(entry: EntryId, tasks: Iterable[PastTask]) -> dict[Used, tuple[int, int]]:
    """Right and all pictures for everything that was made of an entry."""
    found: dict[Used, tuple[int, int]] = {}
    for task in tasks:
        for r in task.realised:
            if r.used.entry == entry:
                right, of = found.get(r.used, (0, 0))
                found[r.used] = right + r.right, of + r.of
    return found
