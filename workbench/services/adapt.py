"""``workbench adapt``: a folder of class folders in, a taught model out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import Task, TaskClass
from workbench.data.scan import scan
from workbench.project.library import Library
from workbench.services import models
from workbench.services.knowledge import feature_cache
from workbench.services.requests import AdaptRequest
from workbench.services.survey import survey
from workbench.services.teach import TeachRequest
from workbench.services.teaching import adapt_to


def adapt(request: AdaptRequest, project: Path, ctx: Context) -> dict[str, Any]:
    """Adapt to a folder and write the model; returns the JSON of the command.

    Raises:
        WorkbenchError: the folder is not one task of class folders, or the entry is not known.
    """
    begun = time.monotonic()
    task = one_task(request.support, ctx)
    choice = request.choice
    if choice not in {"auto", "none"}:
        choice = Library(project).find(choice)[0].id
    classes = tuple(replace(c, images=c.images) for c in task.classes)
    return _adapt(classes, choice, project, Path(request.out), request.seed, (), begun, ctx)


def save_taught(request: TeachRequest, project: Path, out: Path, ctx: Context) -> Path:
    """Write what the Teach room shows as a model folder."""
    _adapt(request.classes, request.choice, project, out, request.seed, request.queries, time.monotonic(), ctx)
    return out


def _adapt(
    classes: tuple[TaskClass, ...],
    choice: str,
    project: Path,
    out: Path,
    seed: int,
    queries: tuple[Any, ...],
    begun: float,
    ctx: Context,
) -> dict[str, Any]:
    taught, seen = adapt_to(classes, project, choice, feature_cache(), ctx, every_step=False)
    estimate = taught.seen.estimate(len(seen))
    path = models.write(taught, classes, estimate, models.name_of(out), seed, out, ctx)
    models.remember_pictures(project, path, tuple(i for c in classes for i in c.images) + tuple(queries))
    chosen = next(c for c in taught.candidates if c.chosen)
    return {
        "model": str(path),
        "classes": [c.name for c in classes],
        "chosen": {
            "entry": chosen.entry,
            "name": chosen.name,
            "strategy": "no transfer"
            if chosen.entry is None
            else "similarity and leave-one-out loss"
            if choice == "auto"
            else "asked for",
            "weights": [
                {"entry": c.entry, "name": c.name, "weight": c.weight, "similarity": c.similarity, "loss": c.loss}
                for c in taught.candidates
            ],
            "reason": taught.reason,
        },
        "estimate": None
        if estimate is None
        else {"accuracy": estimate.accuracy, "low": estimate.low, "high": estimate.high, "how": estimate.how},
        "seconds": time.monotonic() - begun,
    }


def one_task(folder: str, ctx: Context) -> Task:
    """The one task of a folder of class folders.

    Raises:
        WorkbenchError: it holds no classes, or several tasks.
    """
    tasks = [t for t in scan((folder,), ctx).tasks if t.classes]
    if not tasks:
        raise WorkbenchError(
            "Nothing was adapted",
            f"{folder} holds no class folders with pictures",
            "Give a folder with one folder per class",
        )
    if len(tasks) > 1:
        raise WorkbenchError(
            "Nothing was adapted",
            f"{folder} holds {len(tasks)} tasks ({tasks[0].name}, {tasks[1].name} ...)",
            "Give one of them",
        )
    return tasks[0]


def similar(folder: str, project: Path, ctx: Context) -> dict[str, float]:
    """Similarity of a folder's task to every entry (to the nearest of its sources), by entry id.

    Raises:
        WorkbenchError: the folder is not one task of class folders.
    """
    task = one_task(folder, ctx)
    seen = survey(task.classes, project, "auto", feature_cache(), ctx)
    return {
        s.knowledge.id: max((v for _, v in s.similarities), default=0.0) for s in seen if s.knowledge.id is not None
    }
