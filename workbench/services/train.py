"""A training run from a request to an entry: decode once, split, meta-train, calibrate, describe the sources, save."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.values import (
    EntryId,
    KnowledgeEntry,
    Preprocess,
    Role,
    RunId,
    SourceInfo,
    Task,
    TrainRequest,
    TrainResult,
)
from workbench.data.cache import decoded
from workbench.data.episodes import Sampler
from workbench.data.source import Source, mean_std, source_from, split_validation
from workbench.learn.calibrate import fit_temperature, prototypes, spread
from workbench.learn.engine import Outcome, Plan
from workbench.learn.engine import train as run_engine
from workbench.learn.features import trunk_digest
from workbench.learn.protocol import Algorithm, Setting, State, Support, generator
from workbench.learn.registry import algorithms, create
from workbench.project import runs
from workbench.project.library import Library, new_id
from workbench.services import knowledge as known
from workbench.services.devices import check_device
from workbench.services.weights import weights_for

_CALIBRATION_EPISODES = 100
_DESCRIBED_PICTURES = 200


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
    """Tasks as decoded 8-bit pictures; unreadable ones are left out.

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


def prepare(request: TrainRequest, project: Path, ctx: Context) -> Prepared:
    """Decode, split and bind.

    Raises:
        WorkbenchError: too few classes for the episodes, an unknown algorithm or hyperparameter, missing weights.
    """
    kind = algorithms().get(request.algorithm)
    if kind is None:
        raise WorkbenchError(
            "The run did not start",
            f"there is no algorithm called {request.algorithm}",
            f"Choose one of {', '.join(algorithms())}",
        )
    used = tuple(t for t in request.sources if t.role is not Role.HELD_OUT)
    depth = 1 if request.channels == "grey" else 3
    p = Preprocess(request.size, request.channels, mean=(0.5,) * depth, std=(0.5,) * depth)
    sources = load_sources(used, p, ctx)
    weights = weights_for(request.backbone, request.start, request.pretrained, project)
    split = split_validation(
        sources,
        request.ways,
        request.shots,
        request.queries,
        ctx.seed_for("validation split"),
        across_tasks=request.across_tasks,
        rotations=request.rotations,
    )
    mean, std = weights.normalisation or mean_std(split.train)
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

    setting = Setting(
        request.backbone,
        p.depth,
        p.size,
        request.ways[1],
        tuple(len(s.class_names) for s in split.train),
        weights.tensors or None,
    )
    algorithm = create(request.algorithm, request.params, setting)
    drawn = sampler(split.train, request.ways)
    return Prepared(
        algorithm,
        drawn,
        sampler(split.validation, validation_ways(split.validation, request)) if split.validation else None,
        split.kind,
        p,
        split.train,
        {t.name: t for t in used},
    )


def validation_ways(sources: tuple[Source, ...], request: TrainRequest) -> tuple[int, int]:
    """The ways of training, or as many as the held-out classes allow where they are fewer (at least 2)."""
    turns = 4 if request.rotations else 1
    counts = [len(s.class_names) * turns for s in sources]
    there = sum(counts) if request.across_tasks else max(counts)
    return max(2, min(request.ways[0], there)), max(2, min(request.ways[1], there))


def train(request: TrainRequest, project: Path, ctx: Context) -> TrainResult:
    """Meta-train from scratch (or from ``request.start``) and save what was learnt.

    Raises:
        WorkbenchError: the request cannot be met, or the run became non-finite before anything was learnt.
        JobCancelledError: stopped before the first step.
    """
    ctx.seed = request.seed
    run, folder = runs.create_run(project, request)
    return _go(request, project, run, folder, ctx)


def resume(run_id: str, project: Path, ctx: Context) -> TrainResult:
    """Go on with a run that was killed; same episodes, same end.

    Raises:
        WorkbenchError: no such run, or it is not one that can go on.
    """
    run, folder, request = runs.reopen_run(project, run_id)
    ctx.seed = request.seed
    return _go(request, project, run, folder, ctx)


def _go(request: TrainRequest, project: Path, run: RunId, folder: Path, ctx: Context) -> TrainResult:
    begun = time.monotonic()
    try:
        prepared = prepare(request, project, ctx)
        outcome = _learn(request, prepared, folder, ctx)
        # what was learnt is kept also when the person stopped the run: the rest is short and must not be cancelled
        closing = Context(seed=ctx.seed, on_change=ctx.on_change)
        entry, path = _save(request, prepared, outcome, project, run, closing)
    except JobCancelledError:
        runs.update_run(
            folder, state="stopped", message="Stopped before anything was learnt", seconds=time.monotonic() - begun
        )
        raise
    except WorkbenchError as error:
        runs.update_run(folder, state="failed", message=str(error), seconds=time.monotonic() - begun)
        raise
    runs.update_run(
        folder,
        state="stopped" if outcome.stopped else "done",
        entry=entry.id,
        seconds=outcome.seconds,
        episodes=outcome.episodes,
        validation=entry.validation,
    )
    return TrainResult(entry, str(path), run, outcome.episodes, outcome.seconds, outcome.stopped)


def _learn(request: TrainRequest, prepared: Prepared, folder: Path, ctx: Context) -> Outcome:
    kind: Literal["classes", "images"] = "images" if prepared.validation_kind == "images" else "classes"
    plan = Plan(request.episodes, request.minutes, request.seed, check_device(request.device), kind)
    return run_engine(prepared.algorithm, prepared.sampler, prepared.validation, plan, ctx, folder)


def calibration(algorithm: Algorithm, state: State, sampler: Sampler, seed: int, ctx: Context) -> dict[str, float]:
    """Temperature and the library-wide "none of these" distance, fitted on validation episodes.

    ``reject_factor`` is the 95 % quantile, over queries, of the distance to the own class's prototype divided by the
    median distance between the prototypes; ``reject_distance`` the same quantile undivided.
    """
    gen = generator(seed)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    factors: list[Tensor] = []
    distances: list[Tensor] = []
    for _ in range(
        _CALIBRATION_EPISODES if "gradient-based" not in algorithm.info.tags else _CALIBRATION_EPISODES // 5
    ):
        ctx.check()
        e = sampler.draw(gen)
        adapted = algorithm.adapt(state, Support(e.support_x, e.support_y, e.ways), ctx)
        net = algorithm.deploy(state, adapted)
        with torch.no_grad():
            z, q = net(e.query_x)
            s = net.trunk(e.support_x)
        protos = prototypes(s, e.support_y, e.ways)
        own = (q - protos[e.query_y]).norm(dim=1)
        logits.append(torch.nn.functional.pad(z, (0, sampler.ways[1] - e.ways), value=-1e9))
        labels.append(e.query_y)
        distances.append(own)
        factors.append(own / max(spread(protos), 1e-9))
    return {
        "temperature": fit_temperature(torch.cat(logits), torch.cat(labels)),
        "reject_factor": float(torch.cat(factors).double().quantile(0.95)),
        "reject_distance": float(torch.cat(distances).double().quantile(0.95)),
    }


def _described(prepared: Prepared, state: State, seed: int, ctx: Context) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    algorithm = prepared.algorithm
    for i, source in enumerate(prepared.sources):
        ctx.check()
        gen = generator(seed + i)
        each = max(1, _DESCRIBED_PICTURES // len(source.arrays))
        pictures, y = [], []
        for c, array in enumerate(source.arrays[:_DESCRIBED_PICTURES]):
            rows = torch.randperm(len(array), generator=gen)[:each].numpy()
            pictures.append(np.asarray(array)[np.sort(rows)])
            y += [c] * len(rows)
        x = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(prepared.preprocess.mean).view(1, -1, 1, 1)
        std = torch.tensor(prepared.preprocess.std).view(1, -1, 1, 1)
        probe = known.Knowledge(None, "", algorithm, state, prepared.preprocess, "", ())
        seen = known.describe_source(probe, (x - mean) / std, torch.tensor(y), ctx)
        out[f"source.{i}.mean"] = seen.mean
        out[f"source.{i}.covariance"] = seen.covariance
    return out


def _save(
    request: TrainRequest, prepared: Prepared, outcome: Outcome, project: Path, run: RunId, ctx: Context
) -> tuple[KnowledgeEntry, Path]:
    ctx.status("Saving what was learnt")
    state = State(
        {k: v.cpu() for k, v in outcome.state.learned.items()}, {k: v.cpu() for k, v in outcome.state.memory.items()}
    )
    sampler = prepared.validation or prepared.sampler
    figures = calibration(prepared.algorithm, state, sampler, ctx.seed_for("calibration"), ctx)
    tensors = known.join_state(state) | _described(prepared, state, ctx.seed_for("sources"), ctx)
    names = [s.name for s in prepared.sources]
    title = algorithms()[request.algorithm].info.title
    entry = KnowledgeEntry(
        id=EntryId(new_id()),
        name=request.name or f"{title} on {_listed(names)}",
        algorithm=request.algorithm,
        params=dict(request.params),
        backbone=request.backbone,
        preprocess=prepared.preprocess,
        ways=request.ways,
        shots=request.shots,
        sources=tuple(
            SourceInfo(
                s.name, prepared.tasks[s.name].path, len(s.class_names), s.images, prepared.tasks[s.name].fingerprint
            )
            for s in prepared.sources
        ),
        validation=outcome.validation,
        weights_sha256="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        calibration=figures,
        provenance={
            "run": run,
            "seed": request.seed,
            "episodes": outcome.episodes,
            "seconds": outcome.seconds,
            "stopped": outcome.stopped,
            "device": request.device,
            "across_tasks": request.across_tasks,
            "rotations": request.rotations,
            "queries": request.queries,
            "validation_kind": prepared.validation_kind,
            "command": request.command,
            "trunk": trunk_digest(state),
            "versions": {name: version(name) for name in ("torch", "numpy", "pillow", "meta-transfer-workbench")}
            | {"python": platform.python_version()},
        },
    )
    arrays = {name: np.asarray(t.detach().numpy(), order="C") for name, t in tensors.items()}
    library = Library(project)
    path = library.save(entry, arrays)
    return library.find(entry.id)[0], path


def _listed(names: list[str]) -> str:
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more"
