"""What a training run leaves behind: its state, calibrated, with its sources described, as a knowledge entry."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.params import values_of
from workbench.core.paths import display
from workbench.core.training import TrainRequest
from workbench.core.values import EntryId, KnowledgeEntry, RunId, SourceInfo, Task
from workbench.data.episodes import Sampler, normalise
from workbench.learn import averaging, quick
from workbench.learn.calibrate import Calibration, compares_means
from workbench.learn.engine import Outcome
from workbench.learn.features import trunk_digest
from workbench.learn.protocol import State, Support, generator
from workbench.learn.registry import algorithms, backbone
from workbench.project.library import CARD, Library, new_id
from workbench.services import aligning, probe
from workbench.services import knowledge as known
from workbench.services.continuing import Continued
from workbench.services.preparing import Prepared
from workbench.transfer.represent import represent

_CALIBRATION_EPISODES = 100
_FEWEST_EPISODES = 10
_MOST_WAYS, _SHOTS, _QUERIES = 10, 5, 5
_SHORT = 0.5
"""Seconds for the calibration of a run that was stopped."""
_NAMED, _PROTOTYPES = 2000, 2_000_000
"""Classes whose names an entry keeps, and bytes of their mean features; of more, neither is kept."""
_DESCRIBED_PICTURES, _DESCRIBED_WHEN_STOPPED = 200, 60


def keep(
    request: TrainRequest,
    prepared: Prepared,
    outcome: Outcome,
    project: Path,
    run: RunId,
    ctx: Context,
    last: Callable[[State], tuple[State, dict[str, Any]]] | None = None,
    going_on: Continued | None = None,
) -> tuple[KnowledgeEntry, Path]:
    """Calibrate, describe the sources and save the entry; a stop makes it short, it does not lose what was learnt.

    ``last`` changes the state that is saved and gives a record of it, for knowledge aligned with another domain;
    calibration and sources belong to the state before.
    """
    ctx.status("Saving what was learnt")
    state = State(
        {k: v.cpu() for k, v in outcome.state.learned.items()}, {k: v.cpu() for k, v in outcome.state.memory.items()}
    )
    figures = calibration(prepared, request, state, ctx.seed_for("calibration"), ctx)
    saved, aligned = (state, None) if last is None else last(state)
    tensors = known.join_state(saved) | _described(prepared, state, ctx.seed_for("sources"), ctx)
    tasks = [prepared.tasks[s.name] for s in prepared.sources]
    probed, under = _probed(prepared, ctx.seed_for("probe"), ctx)
    tensors |= probed
    if aligned is not None and under:
        target = aligning.divided(request.target, ctx.seed_for("target"))
        tensors |= aligning.described(target, len(prepared.sources), ctx)
    beside, kept = ({}, None) if going_on is None else going_on.kept(prepared, state)
    tensors |= beside
    named = sum(len(s.class_names) for s in prepared.sources) <= _NAMED
    title = algorithms()[request.algorithm].info.title
    entry = KnowledgeEntry(
        id=EntryId(new_id()),
        name=request.name or f"{title} on {_listed(tasks)}",
        algorithm=request.algorithm,
        params=values_of(prepared.algorithm.p),
        backbone=request.backbone,
        preprocess=prepared.preprocess,
        ways=request.ways,
        shots=request.shots,
        sources=tuple(
            SourceInfo(t.name, t.path, len(s.class_names), s.images, t.fingerprint, s.class_names if named else ())
            for s, t in zip(prepared.sources, tasks, strict=True)
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
            "precision": request.precision,
            "across_tasks": request.across_tasks,
            "rotations": request.rotations,
            "queries": request.queries,
            "start": request.start,
            "pretrained": request.pretrained,
            **_ancestor(request, prepared, project),
            "validation_kind": prepared.validation_kind if prepared.validation else "",
            "command": request.command,
            "trunk": trunk_digest(saved),
            **({} if aligned is None else {"aligned": aligned}),
            **under,
            **({} if kept is None else {"kept": kept}),
            "versions": {name: version(name) for name in ("torch", "numpy", "pillow", "meta-transfer-workbench")}
            | {"python": platform.python_version()},
        },
    )
    arrays = {name: np.asarray(t.detach().numpy(), order="C") for name, t in tensors.items()}
    library = Library(project)
    path = library.save(entry, arrays)
    return library.find(entry.id)[0], path


def _ancestor(request: TrainRequest, prepared: Prepared, project: Path) -> dict[str, str]:
    """What the run began with, if that was trained already: only what has one beginning can be mixed.

    The digest is that of the trunk's parameters and running averages by the backbone's names (``mixing.Trunk.digest``).
    """
    setting = prepared.algorithm.setting
    if setting.weights is None:
        return {}
    names = backbone(setting.backbone).skeleton(setting.channels, setting.size).state_dict()
    found = {"ancestor": averaging.digest({n: t for n, t in setting.weights.items() if n in names})}
    if request.start and (not Path(request.start).is_file() or Path(request.start).name == CARD):
        with contextlib.suppress(WorkbenchError):  # it is gone meanwhile: what was learnt from it is not lost for that
            found["ancestor_entry"] = Library(project).find(request.start)[0].id
    return found


def calibration(prepared: Prepared, request: TrainRequest, state: State, seed: int, ctx: Context) -> dict[str, float]:
    """Temperature and the library-wide "none of these" figures, fitted on validation episodes.

    The episodes have one to five shots (or as many as in training) and at most ten ways, as taught tasks have. As many
    are drawn as the size of the pictures allows in some seconds; a stop is heeded after half a second. A transductive
    method is given an episode's queries as pictures without labels, as in the evaluation and when chosen by hand.
    """
    algorithm = prepared.algorithm
    sampler = calibration_sampler(prepared, request)
    wanted = max(_FEWEST_EPISODES, round(_CALIBRATION_EPISODES * min(1.0, 28 / prepared.preprocess.size)))
    if "gradient-based" in algorithm.info.tags:
        wanted = max(_FEWEST_EPISODES, wanted // 5)
    gen = generator(seed)
    found = Calibration(compares_means(algorithm))
    trunk, together = algorithm.trunk(state), "transductive" in algorithm.info.tags
    unstoppable = Context(seed=ctx.seed)
    begun = time.monotonic()
    while len(found) < wanted:
        if _told_to_stop(ctx) and len(found) and time.monotonic() - begun > _SHORT:
            break
        e = sampler.draw(gen)
        s = None if trunk is None else _features(trunk, e.support_x)
        q = None if trunk is None else _features(trunk, e.query_x)
        unlabelled = (e.query_x if q is None else q) if together else None
        support = Support(e.support_x, e.support_y, e.ways, s)
        with quick.passes():
            adapted = algorithm.adapt(state, support, unstoppable, unlabelled=unlabelled)
        if s is None or q is None:
            trunk_here = algorithm.deploy(state, adapted).trunk
            s, q = _features(trunk_here, e.support_x), _features(trunk_here, e.query_x)
        with torch.no_grad():
            found.add(algorithm.head(state, adapted)(q), q, e.query_y, s, e.support_y, e.ways)
        ctx.progress(len(found), wanted, "calibration episodes")
    return found.figures()


def _features(trunk: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = trunk(x)
    return found


def calibration_sampler(prepared: Prepared, request: TrainRequest) -> Sampler:
    """Episodes of the validation classes (of the training classes where there are none) as taught tasks are."""
    drawn = prepared.validation or prepared.sampler
    low, high = drawn.ways
    if "cacheable" in prepared.algorithm.info.tags:  # others may have a head for one number of classes
        low, high = min(low, _MOST_WAYS), min(high, _MOST_WAYS)
    return Sampler(
        drawn.sources,
        ways=(low, high),
        shots=(request.shots[0], max(_SHOTS, request.shots[1])),
        queries=min(request.queries, _QUERIES),
        rotations=request.rotations,
        across_tasks=request.across_tasks,
        mean=drawn.mean,
        std=drawn.std,
    )


def _told_to_stop(ctx: Context) -> bool:
    """Waits while the job is held; whether it was cancelled."""
    try:
        ctx.check()
    except JobCancelledError:
        return True
    return False


def _described(prepared: Prepared, state: State, seed: int, ctx: Context) -> dict[str, Tensor]:
    """Each source as the entry sees it: mean and covariance of the features of some of its pictures; class means."""
    out: dict[str, Tensor] = {}
    prototypes: list[Tensor] = []
    algorithm, p = prepared.algorithm, prepared.preprocess
    itself = known.Knowledge(None, "", algorithm, state, p, "", (), algorithm.trunk(state))
    unstoppable = Context(seed=ctx.seed)
    for i, source in enumerate(prepared.sources):
        most = _DESCRIBED_WHEN_STOPPED if _told_to_stop(ctx) else _DESCRIBED_PICTURES
        gen = generator(seed + i)
        filled = [a for a in source.arrays if len(a)]
        each = max(1, most // max(1, len(filled)))
        pictures = []
        for array in filled[:most]:
            rows = torch.randperm(len(array), generator=gen)[:each].numpy()
            pictures.append(np.asarray(array)[np.sort(rows)])
        if not pictures:
            continue
        x = normalise(np.concatenate(pictures), p.mean, p.std)
        features = known.plain_embedding(itself, x, unstoppable)
        seen = represent(features)
        out[f"source.{i}.mean"] = seen.mean
        out[f"source.{i}.covariance"] = seen.covariance
        prototypes += [part.mean(0) for part in torch.split(features, [len(some) for some in pictures])]
        ctx.progress(i + 1, len(prepared.sources), "sources")
    if len(prototypes) == sum(len(s.arrays) for s in prepared.sources):
        base = torch.stack(prototypes).detach().cpu().half()
        if base.nbytes <= _PROTOTYPES and bool(torch.isfinite(base).all()):
            out["base.prototypes"] = base
    return out


def _probed(prepared: Prepared, seed: int, ctx: Context) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The sources under the probe, and what the card says of it; nothing of either where there is no probe.

    What lies in the validation classes is no part of it.
    """
    try:
        network = probe.probe()
    except WorkbenchError:  # it is damaged: what was learnt is kept without a place under it
        return {}, {}
    if network is None:
        return {}, {}
    seen = []
    for source in prepared.sources:
        trained = set(source.class_names)
        task = prepared.tasks[source.name]
        seen.append(replace(task, classes=tuple(c for c in task.classes if c.name in trained)))
    tensors = probe.represent_sources(seen, seed, lambda: _told_to_stop(ctx), ctx)
    return tensors, {"probe": network.digest, "metafeatures": list(probe.NAMES)}


def _listed(tasks: Sequence[Task]) -> str:
    """Few tasks by their names, many by the folder or archive they lie in together."""
    if len(tasks) <= 2:
        return " and ".join(t.name for t in tasks)
    places = {t.path for t in tasks}  # the tasks of an archive have one path
    if len(places) > 1:
        places = {str(PurePath(place).parent) for place in places}
    together = PurePath(places.pop()).stem if len(places) == 1 else ""
    return display(together) if together else f"{tasks[0].name} and {len(tasks) - 1} more"
