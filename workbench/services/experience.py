"""What is known before a task's examples are tried: where it lies under the probe, and how past tasks went."""

from __future__ import annotations

from pathlib import Path

import torch

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import KnowledgeEntry, TaskClass
from workbench.learn.features import FeatureCache
from workbench.project.library import Library
from workbench.services import probe, remembering
from workbench.transfer.prior import TRUSTED, Experience, Standing, default_of, is_proven, learnt_gains


def experience(
    project: Path,
    classes: tuple[TaskClass, ...],
    cache: FeatureCache,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None = None,
) -> Experience:
    """What is known of the entries on such a task; one pass of the examples through the probe where there is one.

    What was remembered of this very task is left out: its examples are asked themselves.

    Args:
        project: whose knowledge and past tasks are looked through.
        classes: with their examples.
        cache: of features.
        ctx: of the job.
        named: an entry besides, and its folder.

    Raises:
        WorkbenchError: an example cannot be read.
        JobCancelledError: asked to stop.
    """
    library = Library(project)
    folders = {entry.id: (entry, path) for entry, path in library.placed()}
    if named is not None:
        folders.setdefault(named[0].id, named)
    before = remembering.past(project, classes)
    realised = remembering.realised(before)
    standings = [_standing(e, realised.get(e.id, ())) for e, _ in folders.values()]
    default, proven = default_of(standings), is_proven(standings)
    if default is None or probe.probe() is None:
        return Experience(default, proven=proven)
    images = tuple(i for c in classes for i in c.images)
    y = torch.tensor([n for n, c in enumerate(classes) for _ in c.images])
    task = probe.represent_task(images, y, cache, ctx)
    assert task is not None, "there is a probe"
    similarities = {}
    for entry, path in folders.values():
        try:
            sources = probe.sources_of(entry, path, library)
        except WorkbenchError:
            continue  # whoever loads it says that it is damaged
        if sources:
            similarities[entry.id] = probe.similarities(task, sources)
    records = remembering.records(before, default)
    gains = learnt_gains(remembering.vector(task), records) if len(records) >= TRUSTED else {}
    return Experience(default, similarities, gains, proven)


def _standing(entry: KnowledgeEntry, realised: tuple[tuple[str, int, int], ...]) -> Standing:
    v = entry.validation
    classes = sum(s.classes for s in entry.sources)
    return Standing(entry.id, realised, None if v is None else v.accuracy, len(entry.sources), classes)
