"""From folders to what a training run draws on: which tasks, decoded once, split, as samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.training import TrainRequest
from workbench.core.values import Preprocess, Role, Task
from workbench.data.cache import decoded
from workbench.data.episodes import Sampler
from workbench.data.source import Source, Split, mean_std, source_from, split_validation
from workbench.learn.fast import check_precision
from workbench.learn.protocol import Algorithm, Setting
from workbench.learn.registry import create
from workbench.services.devices import check_device
from workbench.services.weights import weights_for


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the engine runs on: the bound algorithm, both samplers, how pictures become inputs."""

    algorithm: Algorithm
    sampler: Sampler
    validation: Sampler | None
    validation_kind: str
    preprocess: Preprocess
    sources: tuple[Source, ...]
    tasks: dict[str, Task]


def load_sources(tasks: tuple[Task, ...], p: Preprocess, ctx: Context) -> tuple[Source, ...]:
    """Tasks as decoded 8-bit pictures, one source per task with classes, in order; unreadable pictures are left out.

    Raises:
        WorkbenchError: none of the tasks has a class.
    """
    labelled = tuple(t for t in tasks if t.classes)
    if not labelled:
        raise WorkbenchError(
            "Nothing was loaded to learn from",
            "no folder holds class folders with pictures",
            "Give a folder with one folder per class",
        )
    ctx.status("Reading pictures")
    images = tuple({i.sha256: i for t in labelled for c in t.classes for i in c.images}.values())
    pixels, failed = decoded(images, p, ctx)
    rows = {image.sha256: row for row, image in enumerate(images)}
    for row in failed:
        del rows[images[row].sha256]
    return tuple(source_from(task, pixels, rows) for task in labelled)


def used_tasks(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """The tasks that a run may look at: none that is held out, each under a name of its own.

    A picture that is trained on does not validate as well: it is left out of the tasks for validation.

    Raises:
        WorkbenchError: nothing is left to train on, or nothing of what was given for validation.
    """
    used = [t for t in tasks if t.role is not Role.HELD_OUT and t.classes]
    trained = {i.sha256 for t in used if t.role is Role.TRAIN for c in t.classes for i in c.images}
    if not trained:
        held = [t.name for t in tasks if t.role is Role.HELD_OUT]
        raise WorkbenchError(
            "Nothing was loaded to learn from",
            f"{held[0]} is held out for testing" if held else "no folder holds class folders with pictures",
            "Give other folders" if held else "Give a folder with one folder per class",
        )
    out: list[Task] = []
    names: set[str] = set()
    for task in used:
        if task.role is Role.VALIDATION:
            classes = (replace(c, images=tuple(i for i in c.images if i.sha256 not in trained)) for c in task.classes)
            task = replace(task, classes=tuple(c for c in classes if c.images))
            if not task.classes:
                raise WorkbenchError(
                    "The run did not start",
                    f"every picture of {task.name} is trained on too, so it cannot validate",
                    "Give other folders to validate on",
                )
        name, number = task.name, 2
        while name in names:
            name, number = f"{task.name} ({number})", number + 1
        names.add(name)
        out.append(replace(task, name=name))
    return tuple(out)


def check(request: TrainRequest, project: Path) -> None:
    """Refuse at once what can be refused without reading a picture.

    Raises:
        WorkbenchError: an unknown algorithm, backbone, hyperparameter or device, a precision that training cannot have,
            weights that are not there, pictures too small for the backbone, a range of ways for a head with fixed rows,
            or nothing to train on.
    """
    depth = 1 if request.channels == "grey" else 3
    setting = Setting(request.backbone, depth, request.size, request.ways[1])
    algorithm = create(request.algorithm, request.params, setting)
    if request.ways[0] < request.ways[1] and getattr(algorithm.p, "head", "") == "textbook":
        raise WorkbenchError(
            "The run did not start",
            f"a textbook head has one number of classes, and episodes of {request.ways[0]} to {request.ways[1]} were "
            "asked for",
            "Ask for one number of ways, or for the prototype head (--set head=prototype)",
        )
    try:
        Preprocess(request.size, request.channels, mean=(0.5,) * depth, std=(0.5,) * depth)
    except ValueError as error:
        raise WorkbenchError("The run did not start", str(error), "Choose another image size") from error
    check_precision(algorithm, check_device(request.device), request.precision)
    used_tasks(request.sources)
    weights_for(request.backbone, request.start, request.pretrained, project).normalisation_for(depth)


def prepare(
    request: TrainRequest, project: Path, ctx: Context, mixed: Callable[[Sampler, Preprocess], Sampler] | None = None
) -> Prepared:
    """Decode, split and bind.

    Args:
        request: what is to be trained.
        project: whose knowledge is looked through first.
        ctx: of the job.
        mixed: what the run draws from, given the sampler of its own sources: those with old ones among them.

    Raises:
        WorkbenchError: see ``check``; or too few classes for the episodes.
    """
    used = used_tasks(request.sources)
    depth = 1 if request.channels == "grey" else 3
    p = Preprocess(request.size, request.channels, mean=(0.5,) * depth, std=(0.5,) * depth)
    sources = load_sources(used, p, ctx)
    weights = weights_for(request.backbone, request.start, request.pretrained, project)
    split = split_of(sources, request, ctx)
    mean, std = weights.normalisation_for(depth) or mean_std(split.train)
    p = replace(p, mean=tuple(mean), std=tuple(std))

    def sampler(part: tuple[Source, ...], ways: tuple[int, int]) -> Sampler:
        return Sampler(
            part,
            ways=ways,
            shots=request.shots,
            queries=request.queries,
            rotations=request.rotations,
            across_tasks=request.across_tasks,
            mean=p.mean,
            std=p.std,
        )

    drawn = sampler(split.train, request.ways)
    drawn = drawn if mixed is None else mixed(drawn, p)
    setting = Setting(
        request.backbone, p.depth, p.size, request.ways[1], drawn.classes_per_source, weights.tensors or None
    )
    algorithm = create(request.algorithm, request.params, setting)
    return Prepared(
        algorithm,
        drawn,
        sampler(split.validation, validation_ways(split.validation, request)) if split.validation else None,
        split.kind,
        p,
        split.train,
        {t.name: t for t in used},
    )


def split_of(sources: tuple[Source, ...], request: TrainRequest, ctx: Context) -> Split:
    """What a run trains on and what it holds out; the same at any size of the pictures."""
    return split_validation(
        sources,
        request.ways,
        request.shots,
        request.queries,
        ctx.seed_for("validation split"),
        across_tasks=request.across_tasks,
        rotations=request.rotations,
    )


def validation_ways(sources: tuple[Source, ...], request: TrainRequest) -> tuple[int, int]:
    """The ways of training, or as many as the held-out classes allow where they are fewer (at least 2)."""
    turns = 4 if request.rotations else 1
    counts = [len(s.class_names) * turns for s in sources]
    there = sum(counts) if request.across_tasks else max(counts)
    return max(2, min(request.ways[0], there)), max(2, min(request.ways[1], there))
