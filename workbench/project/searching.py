"""Finding knowledge by words: the name, what it was trained with and on, and the classes it knows."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from workbench.core.values import KnowledgeEntry

_TOLD = ("data", "licence", "command", "ancestor_entry", "start")
"""What of the provenance is searched."""


def search(
    text: str, entries: Iterable[KnowledgeEntry], titles: Mapping[str, str] | None = None
) -> tuple[KnowledgeEntry, ...]:
    """The entries in which every word is found, those whose name holds them first, else in the order given.

    Args:
        text: words; case, accents and width of the letters do not matter. ``""`` finds everything.
        entries: to look through.
        titles: of algorithms, by key.
    """
    words = plain(text).split()
    found = []
    for entry in entries:
        name, rest = plain(entry.name), _told(entry, titles or {})
        if all(word in name or any(word in part for part in rest) for word in words):
            found.append((sum(word not in name for word in words), entry))
    return tuple(entry for _, entry in sorted(found, key=lambda pair: pair[0]))


def plain(text: str) -> str:
    """Text as it is compared: without case, accents and widths."""
    spread = unicodedata.normalize("NFKD", text)
    return "".join(c for c in spread if not unicodedata.combining(c)).casefold()


def _told(entry: KnowledgeEntry, titles: Mapping[str, str]) -> Sequence[str]:
    parts = [entry.id, entry.algorithm, titles.get(entry.algorithm, ""), entry.backbone, entry.preprocess.channels]
    for source in entry.sources:
        parts += [source.name, source.path, *source.class_names]
    parts += [value for key in _TOLD if isinstance(value := entry.provenance.get(key), str)]
    return [plain(part) for part in parts]
