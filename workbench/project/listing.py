"""``project.json`` as values: which sources there are, and what can be taken back of the changes made to them."""

from __future__ import annotations

import msgspec

MOST = 50
"""Changes that can be taken back; the oldest go first."""


class SourceRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A source: its id, its name, its role, and the hash of the list of its pictures."""

    id: str
    name: str
    role: str
    pictures: str


class BeforeRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A source as it was before a change, and its place among the others."""

    at: int
    source: SourceRow


class ChangeRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A change that can be taken back: what it is in words, the sources it changed or removed, the ids it added."""

    words: str
    before: tuple[BeforeRow, ...]
    added: tuple[str, ...] = ()


class ProjectRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All of ``project.json``; ``problems`` is the hash of a list, ``changes`` has the last one last."""

    name: str
    sources: tuple[SourceRow, ...] = ()
    problems: str = ""
    changes: tuple[ChangeRow, ...] = ()

    @property
    def lists(self) -> set[str]:
        """Hashes of all lists that are needed, also to take changes back."""
        past = {b.source.pictures for c in self.changes for b in c.before}
        return {s.pictures for s in self.sources} | past | {self.problems}


def with_sources(row: ProjectRow, sources: tuple[SourceRow, ...], words: str = "", undone: int = 0) -> ProjectRow:
    """The project with other sources.

    Args:
        row: as it is.
        sources: all of them, ids being unique.
        words: what the change is, where it is one that can be taken back.
        undone: how many of the last changes the new sources are without, which are then forgotten.
    """
    changes = row.changes[: max(0, len(row.changes) - undone)]
    if words:
        had, now = {s.id for s in row.sources}, {s.id: s for s in sources}
        before = tuple(BeforeRow(at, s) for at, s in enumerate(row.sources) if now.get(s.id) != s)
        added = tuple(s.id for s in sources if s.id not in had)
        if before or added:
            changes = (*changes, ChangeRow(words, before, added))[-MOST:]
    return msgspec.structs.replace(row, sources=sources, changes=changes)


def taken_back(row: ProjectRow) -> ProjectRow:
    """The project without its last change; roles, and sources that the change was not about, stay as they are.

    Raises:
        IndexError: there is no change to take back.
    """
    *changes, last = row.changes or ()
    roles = {s.id: s.role for s in row.sources}
    sources = [s for s in row.sources if s.id not in last.added]
    for old in last.before:
        source = msgspec.structs.replace(old.source, role=roles.get(old.source.id, old.source.role))
        places = [at for at, s in enumerate(sources) if s.id == source.id]
        if places:
            sources[places[0]] = source
        else:
            sources.insert(old.at, source)
    return msgspec.structs.replace(row, sources=tuple(sources), changes=tuple(changes))
