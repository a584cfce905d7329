"""``workbench adapt``: a folder of class folders in, a taught model out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.paths import display
from workbench.core.values import ImageRef, KnowledgeEntry, Problem, Task, TaskClass
from workbench.data.scan import scan
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services import models
from workbench.services.mixtures import parts
from workbench.services.predict import gather
from workbench.services.requests import AdaptRequest
from workbench.services.resembling import Resembled, resembling
from workbench.services.teach import TeachRequest, fixed_words, used_together
from workbench.services.teaching import adapt_to, remember

_LOOKED_AT = 200
"""Pictures of a folder that its similarity to what is known is measured on."""


def adapt(request: AdaptRequest, project: Path, ctx: Context) -> dict[str, Any]:
    """Adapt to a folder and write the model; returns the JSON of the command.

    Raises:
        WorkbenchError: the folder is not one task of class folders, or the entry is not known or cannot be used.
    """
    begun = time.monotonic()
    choice, named = request.choice, None
    if request.by != "all" and choice != "auto":
        raise WorkbenchError(
            "Nothing was adapted",
            f"how to choose ({request.by}) was asked for, and what to use ({choice}) as well",
            "Leave one of them out: give auto in place of the entry, or no --by",
        )
    if choice == "auto" and request.by != "all":
        choice = request.by
    elif choice not in {"auto", "none"}:
        named = Library(project).find(choice)
        choice = named[0].id
    name = models.name_of(Path(request.out))
    task, problems = one_task(request.support, ctx)
    classes, copies = _without_copies(task.classes)
    more = gather(request.unlabelled, ctx)
    if request.unlabelled and not more.images:
        raise WorkbenchError(
            "Nothing was adapted",
            f"{display(request.unlabelled[0])} holds no picture that can be read",
            "Give a folder of the pictures that are to be predicted",
        )
    made = _adapt(classes, choice, project, Path(request.out), name, request.seed, (), begun, ctx, named, more.images)
    every = (*problems, *copies, *more.problems)
    listed = [{"path": p.path, "reason": p.reason, "severity": p.severity} for p in every]
    return made | {"problems": listed + made["problems"]}


def save_taught(request: TeachRequest, project: Path, out: Path, ctx: Context) -> Path:
    """Write what the Teach room shows as a model folder."""
    name, begun = models.name_of(out), time.monotonic()
    asked, together = request.queries, used_together(request)
    _adapt(request.classes, request.choice, project, out, name, request.seed, asked, begun, ctx, None, together)
    return out


def _adapt(
    classes: tuple[TaskClass, ...],
    choice: str,
    project: Path,
    out: Path,
    name: str,
    seed: int,
    queries: tuple[ImageRef, ...],
    begun: float,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None = None,
    unlabelled: tuple[ImageRef, ...] = (),
) -> dict[str, Any]:
    cache = known.feature_cache()
    taught = adapt_to(classes, project, choice, cache, ctx, every_step=False, named=named, unlabelled=unlabelled)
    estimate = taught.estimate()
    path = models.write(taught, classes, estimate, name, seed, out, ctx)
    models.remember_pictures(project, path, tuple(i for c in classes for i in c.images) + queries)
    remember(classes, taught, (), project, cache, ctx)
    chosen = next(c for c in taught.candidates if c.chosen)
    mixed = parts(taught.seen.knowledge.entry)
    knowledge, used = taught.seen.knowledge, 0 if taught.seen.unlabelled is None else len(taught.seen.unlabelled)
    return {
        "model": str(path),
        "classes": [c.name for c in classes],
        "chosen": {
            "entry": chosen.entry,
            "name": chosen.title,
            "strategy": taught.strategy,
            "runner_up": taught.runner_up,
            "images": taught.images,
            "weights": [p | {"loss": None} for p in mixed]
            or [
                {"entry": c.entry, "name": c.title, "weight": c.weight, "similarity": c.similarity, "loss": c.loss}
                for c in taught.candidates
            ],
            "reason": taught.reason,
        },
        "estimate": None
        if estimate is None
        else {"accuracy": estimate.accuracy, "low": estimate.low, "high": estimate.high, "how": estimate.how},
        "unlabelled": used,
        "note": fixed_words(knowledge.name, transductive=knowledge.transductive, used=used, given=len(unlabelled)),
        "seconds": time.monotonic() - begun,
        "problems": [{"path": p.path, "reason": p.reason, "severity": p.severity} for p in taught.problems],
    }


def _without_copies(classes: tuple[TaskClass, ...]) -> tuple[tuple[TaskClass, ...], list[Problem]]:
    """Each picture once per class, and what is to be said of copies.

    A copy in the same class would count twice and would give the answer away when the other one is left out; the same
    picture in two classes is somebody's decision and stays, but is listed.
    """
    out, problems = [], []
    owner: dict[str, str] = {}
    for c in classes:
        own: dict[str, ImageRef] = {}
        for image in c.images:
            where = display(f"{image.path}/{image.member}" if image.member else image.path)
            if image.sha256 in own:
                problems.append(
                    Problem(where, f"is the same picture as {own[image.sha256].name}, taken once", "ignored")
                )
                continue
            if owner.setdefault(image.sha256, c.name) != c.name:
                reason = f"is an example of {owner[image.sha256]} and of {c.name}, so neither can be told from it"
                problems.append(Problem(where, reason, "warning"))
            own[image.sha256] = image
        out.append(replace(c, images=tuple(own.values())))
    return tuple(out), problems


def one_task(folder: str, ctx: Context) -> tuple[Task, tuple[Problem, ...]]:
    """The one task of a folder (or zip) of class folders, and what in it was not taken.

    Raises:
        WorkbenchError: it holds no classes, or several tasks.
    """
    found = scan((folder,), ctx)
    tasks = [t for t in found.tasks if t.classes]
    if not tasks:
        raise WorkbenchError(
            "Nothing was adapted",
            f"{display(folder)} holds no class folders with pictures",
            "Give a folder with one folder per class",
        )
    if len(tasks) > 1:
        raise WorkbenchError(
            "Nothing was adapted",
            f"{display(folder)} holds {len(tasks)} tasks ({tasks[0].name}, {tasks[1].name} ...)",
            "Give one of them",
        )
    return tasks[0], found.problems


def similar(folder: str, project: Path, ctx: Context) -> tuple[Resembled, ...]:
    """Every usable entry by the similarity of a folder's pictures to the nearest of its sources, the largest first.

    Labels do not matter: a folder of unlabelled pictures does as well.

    Raises:
        WorkbenchError: the folder holds no picture that can be read.
    """
    tasks = scan((folder,), ctx).tasks
    images = [i for t in tasks for i in (*(i for c in t.classes for i in c.images), *t.unlabelled)]
    if not images:
        raise WorkbenchError(
            "Nothing was compared", f"{display(folder)} holds no picture that can be read", "Choose another folder"
        )
    step = max(1, len(images) // _LOOKED_AT)
    return resembling(images[::step][:_LOOKED_AT], Library(project), ctx)
