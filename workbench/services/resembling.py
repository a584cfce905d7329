"""What unlabelled pictures resemble: every entry by how near the pictures lie to the nearest of its sources.

One pass through the probe serves all entries that have a place under it, as it does for the choice in Teach, so the
figures are the same. The others are asked through networks of their own, whose figures are on scales of their own: they
never come before what is most similar under the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import EntryId, ImageRef
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services import probe
from workbench.services.knowledge import Knowledge
from workbench.transfer.prior import Experience
from workbench.transfer.represent import Representation, represent, similarity


@dataclass(frozen=True, slots=True)
class Resembled:
    """An entry beside some pictures.

    Attributes:
        entry: its id.
        source: the nearest of its sources.
        similarity: to that, 0..1.
        by_probe: whether the probe measured it, and not the entry's own network.
    """

    entry: EntryId
    source: str
    similarity: float
    by_probe: bool


def resembling(images: Sequence[ImageRef], library: Library, ctx: Context) -> tuple[Resembled, ...]:
    """The entries that can be used, the most similar first.

    Args:
        images: as many as are to be looked at; those that cannot be read are passed over.
        library: whose entries are compared. One that is damaged, or without sources, is left out.
        ctx: of the job.

    Raises:
        WorkbenchError: the probe is damaged.
        JobCancelledError: asked to stop.
    """
    network = probe.probe()
    seen = None if network is None else _seen(network, images, ctx)
    found, unplaced = [], []
    for entry, path in library.placed():
        try:
            sources = () if seen is None else probe.sources_of(entry, path, library)
        except WorkbenchError:
            continue
        pairs = () if seen is None else probe.similarities_of(seen, sources)
        if pairs:
            source, value = max(pairs, key=lambda pair: pair[1])
            found.append(Resembled(entry.id, source, value, by_probe=True))
        else:
            unplaced.append((entry, path))
    most = Experience(None, {r.entry: ((r.source, r.similarity),) for r in found}).most
    for done, (entry, path) in enumerate(unplaced):
        ctx.check()
        ctx.status(f"Looking through {entry.name}")
        ctx.progress(done, len(unplaced), "entries")
        try:
            knowledge = known.load(entry, path, library)
            own = _seen(knowledge, images, ctx) if knowledge.sources else None
        except WorkbenchError:
            continue
        if own is not None:
            pairs = tuple((name, similarity(own, source)) for name, source in knowledge.sources)
            source, value = max(pairs, key=lambda pair: pair[1])
            found.append(Resembled(entry.id, source, value, by_probe=False))
    return tuple(sorted(found, key=lambda r: -(r.similarity if r.by_probe else min(r.similarity, most))))


def _seen(knowledge: Knowledge, images: Sequence[ImageRef], ctx: Context) -> Representation | None:
    """The pictures that can be read as mean and covariance of their features; ``None`` where none can be."""
    parts = []
    for image in images:
        ctx.check()
        try:
            parts.append(known.to_tensor((image,), knowledge.preprocess))
        except WorkbenchError:
            continue
    return represent(known.plain_embedding(knowledge, torch.cat(parts), ctx)) if parts else None
