"""*Group these*: the pictures of an unlabelled folder in clusters, on what the workbench has learnt elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef
from workbench.learn import clusters
from workbench.learn.protocol import generator
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.requests import Group, Grouped, GroupRequest
from workbench.services.resembling import resembling

_LOOKED_AT = 60
"""Pictures behind the choice of the knowledge that sees them best."""
_CHUNK = 64


def group(request: GroupRequest, project: Path, ctx: Context) -> Grouped:
    """Clusters of some pictures, largest first, each with its most typical picture first.

    Args:
        request: which pictures, seen by which knowledge, in how many groups.
        project: whose knowledge is looked through first.
        ctx: of the job; its seed decides where the clusters start.

    Raises:
        WorkbenchError: fewer than three pictures can be read, or the entry is not known.
        JobCancelledError: stopped.
    """
    knowledge = _chosen(request, project, ctx)
    ctx.status("Looking at the pictures")
    images, features = _features(knowledge, request.images, ctx)
    if len(images) < clusters.FEWEST + 1:
        raise WorkbenchError(
            "The pictures were not grouped",
            f"{len(images)} of them can be read, and groups need at least {clusters.FEWEST + 1}",
            "Choose a folder with more pictures",
        )
    x = clusters.directions(features)
    ctx.status("Looking for groups")
    suggested: int | None = None
    tried: tuple[tuple[int, float], ...] = ()
    if request.suggest or not request.count:
        suggested, tried = clusters.suggested(x, generator(ctx.seed_for("sample of groups")), ctx)
    count = min(request.count or suggested or clusters.FEWEST, len(images))
    found = clusters.kmeans(x, count, generator(ctx.seed_for("groups")), ctx)
    apart = (x - found.centres[found.labels]).norm(dim=1)
    odd = clusters.unusual(x, found)
    groups = []
    for label in torch.bincount(found.labels, minlength=count).argsort(descending=True, stable=True).tolist():
        mine = torch.nonzero(found.labels == label)[:, 0]
        ordered = mine[apart[mine].argsort(stable=True)].tolist()
        groups.append(
            Group(
                tuple(images[i] for i in ordered),
                frozenset(images[i].sha256 for i in ordered if bool(odd[i])),
            )
        )
    return Grouped(
        tuple(groups),
        suggested,
        dict(tried),
        "" if knowledge.id is None else knowledge.id,
        knowledge.name,
        len({i.sha256 for i in request.images}) - len(images),
    )


def _chosen(request: GroupRequest, project: Path, ctx: Context) -> known.Knowledge:
    """The knowledge that was asked for, or the one among whose sources the pictures look most at home."""
    library = Library(project)
    if request.entry:
        entry, path = library.find(request.entry)
        return known.load(entry, path, library)
    few = request.images[:: max(1, len(request.images) // _LOOKED_AT)][:_LOOKED_AT]
    ctx.status("Choosing the knowledge that these pictures resemble")
    for found in resembling(few, library, ctx):
        try:
            entry, path = library.find(found.entry)
            knowledge = known.load(entry, path, library)
        except WorkbenchError:  # damaged
            continue
        if _features(knowledge, few, ctx)[0]:  # none of a method that cannot do without labels
            return knowledge
    return known.untrained(known.plain_preprocess(None))


def _features(
    knowledge: known.Knowledge, wanted: tuple[ImageRef, ...], ctx: Context
) -> tuple[tuple[ImageRef, ...], Tensor]:
    """The pictures that can be read, each once, and their features ``[n, D]``."""
    images = tuple({i.sha256: i for i in wanted}.values())
    there: list[ImageRef] = []
    parts: list[Tensor] = []
    for start in range(0, len(images), _CHUNK):
        some = images[start : start + _CHUNK]
        try:
            parts.append(_seen(knowledge, some, ctx))
            there += some
        except WorkbenchError:
            for image in some:
                try:
                    parts.append(_seen(knowledge, (image,), ctx))
                    there.append(image)
                except WorkbenchError:  # counted as left out; Sources lists such files with their reason
                    continue
        ctx.progress(min(start + _CHUNK, len(images)), len(images), "pictures")
    return tuple(there), torch.cat(parts) if parts else torch.zeros(0, 1)


def _seen(knowledge: known.Knowledge, images: tuple[ImageRef, ...], ctx: Context) -> Tensor:
    ctx.check()
    if knowledge.cacheable:
        return known.embed(knowledge, images, known.feature_cache(), ctx)
    return known.plain_embedding(knowledge, known.to_tensor(images, knowledge.preprocess), ctx)
