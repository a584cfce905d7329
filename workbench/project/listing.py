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

    What is altered, found or lost without words cannot be told from a change that was made to the same source before:
    to take that back would take away what was found since. So such changes are forgotten, whole.

    Args:
        row: as it is.
        sources: all of them, ids being unique.
        words: what the change is, where it is one that can be taken back.
        undone: how many of the last changes the new sources are without, which are then forgotten.
    """
    row = _without(row, sources, undone)
    then, now = _content(row.sources), _content(sources)
    if words:
        before = tuple(BeforeRow(at, s) for at, s in enumerate(row.sources) if now.get(s.id) != then[s.id])
        added = tuple(s.id for s in sources if s.id not in then)
        changes = (*row.changes, ChangeRow(words, before, added))[-MOST:] if before or added else row.changes
    else:
        altered = {id_ for id_ in {**then, **now} if now.get(id_) != then.get(id_)}
        changes = _not_about(altered, row.changes)
    return msgspec.structs.replace(row, sources=sources, changes=changes)


def _without(row: ProjectRow, sources: tuple[SourceRow, ...], undone: int) -> ProjectRow:
    """The project without its last changes, or as it is if ``sources`` are something else than without them."""
    without, about = row, set[str]()
    for _ in range(min(undone, len(row.changes))):
        about |= _about(without.changes[-1])
        without = taken_back(without)
    then, now = _content(without.sources), _content(sources)
    return without if all(then.get(id_) == now.get(id_) for id_ in about) else row


def _not_about(altered: set[str], changes: tuple[ChangeRow, ...]) -> tuple[ChangeRow, ...]:
    """The changes that can still be taken back, one after the other, when some sources were altered after them all."""
    left: list[ChangeRow] = []
    for change in reversed(changes):
        about = _about(change)
        if about & altered:
            altered = altered | about  # it stays done, so what came before it to the same sources cannot be undone
        else:
            left.insert(0, change)
    return tuple(left)


def _about(change: ChangeRow) -> set[str]:
    """Ids of the sources that it changed, removed or added."""
    return {b.source.id for b in change.before} | set(change.added)


def _content(sources: tuple[SourceRow, ...]) -> dict[str, tuple[str, str]]:
    """Name and pictures by id; a role is no part of what is taken back."""
    return {s.id: (s.name, s.pictures) for s in sources}


def taken_back(row: ProjectRow) -> ProjectRow:
    """The project without its last change; roles, and sources that the change was not about, stay as they are.

    Those that it was about are as it left them, but for roles and places: :func:`with_sources` sees to that.

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
