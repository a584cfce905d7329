"""A training run from a request to an entry: decode once, split, meta-train, calibrate, describe the sources, save."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Literal

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, NotFiniteError, WorkbenchError
from workbench.core.training import TrainRequest, TrainResult
from workbench.core.values import KnowledgeEntry, RunId, Validation
from workbench.learn.aligning import Aligning
from workbench.learn.checkpoint import load_checkpoint
from workbench.learn.engine import Outcome, Plan
from workbench.learn.engine import train as run_engine
from workbench.project import runs
from workbench.services import aligning
from workbench.services.continuing import Continued, continued
from workbench.services.devices import check_device
from workbench.services.keeping import keep
from workbench.services.preparing import Prepared, check, prepare


def train(request: TrainRequest, project: Path, ctx: Context) -> TrainResult:
    """Meta-train from scratch (or from ``request.start``) and save what was learnt.

    Raises:
        WorkbenchError: the request cannot be met; or the run became non-finite: the best state before that is then kept
            as an entry, if there was one, and named.
        JobCancelledError: stopped before anything was learnt.
    """
    ctx.seed = request.seed
    aligning.check(request, project)
    if not request.closed_form:
        check(request, project)
    continued(request, project, ctx)
    run, folder = runs.create_run(project, request)
    return _go(request, project, run, folder, ctx)


def resume(run_id: str, project: Path, ctx: Context) -> TrainResult:
    """Go on with a run that was killed; same episodes, same end.

    Raises:
        WorkbenchError: no such run, or it is not one that can go on; see ``train``.
    """
    run, folder, request = runs.reopen_run(project, run_id)
    ctx.seed = request.seed
    return _go(request, project, run, folder, ctx)


def _go(request: TrainRequest, project: Path, run: RunId, folder: Path, ctx: Context) -> TrainResult:
    begun = time.monotonic()
    try:
        if request.closed_form:
            return _aligned(request, project, run, folder, ctx)
        going_on = continued(request, project, ctx)
        prepared = prepare(request, project, ctx, None if going_on is None else going_on.mixed)
        drawn = aligning.penalty(request, prepared, ctx)
        outcome, broken = _learn(request, prepared, folder, ctx, drawn, going_on)
        if outcome.stopped and not outcome.steps and "trains" in prepared.algorithm.info.tags:
            raise JobCancelledError
        last = None if drawn is None else partial(aligning.finished, request, prepared, drawn, project=project, ctx=ctx)
        entry, path = keep(request, prepared, outcome, project, run, ctx, last, going_on)
    except JobCancelledError:
        runs.update_run(
            folder, state="stopped", message="Stopped before anything was learnt", seconds=time.monotonic() - begun
        )
        raise
    except Exception as error:
        # what ends the process (a second Ctrl-C) leaves a run that is seen to be interrupted and can be resumed
        message = str(error) if isinstance(error, WorkbenchError) else f"An error of the workbench: {error!r}"
        runs.update_run(folder, state="failed", message=message, seconds=time.monotonic() - begun)
        raise
    told = None if broken is None else _kept_after(broken, entry)
    runs.update_run(
        folder,
        state="failed" if told is not None else "stopped" if outcome.stopped else "done",
        message="" if told is None else str(told),
        entry=entry.id,
        seconds=outcome.seconds,
        episodes=outcome.episodes,
        validation=entry.validation,
    )
    if told is not None:
        raise told from broken
    return TrainResult(entry, str(path), run, outcome.episodes, outcome.seconds, outcome.stopped)


def _aligned(request: TrainRequest, project: Path, run: RunId, folder: Path, ctx: Context) -> TrainResult:
    """An alignment without training."""
    result = aligning.align(request, run, project, ctx)
    runs.update_run(folder, state="done", message="", entry=result.entry.id, seconds=result.seconds)
    return result


def _learn(
    request: TrainRequest,
    prepared: Prepared,
    folder: Path,
    ctx: Context,
    drawn: Aligning | None = None,
    going_on: Continued | None = None,
) -> tuple[Outcome, NotFiniteError | None]:
    """What training gave; where its numbers stopped being finite, the best state before that and the reason."""
    kind: Literal["classes", "images"] = "images" if prepared.validation_kind == "images" else "classes"
    device, patience = check_device(request.device), request.patience
    plan = Plan(
        request.episodes, request.minutes, request.seed, device, kind, patience=patience, precision=request.precision
    )
    try:
        keeping = None if going_on is None else going_on.keeping(prepared)
        parts = prepared.algorithm, prepared.sampler, prepared.validation
        return run_engine(*parts, plan, ctx, folder, keeping=keeping, aligning=drawn), None
    except NotFiniteError as error:
        found, _ = load_checkpoint(folder)
        if found is None or found.best is None or found.at.best is None:
            raise
        best, at = found.at.best, found.at
        validation = Validation(kind, best.accuracy, best.ci95, best.tested)
        return Outcome(found.best, best.episode, at.step, at.seconds, False, validation, ()), error


def _kept_after(broken: NotFiniteError, entry: KnowledgeEntry) -> NotFiniteError:
    accuracy = f", with {entry.validation.accuracy:.3f} on validation" if entry.validation else ""
    episodes = entry.provenance["episodes"]
    return NotFiniteError(
        broken.what_happened,
        broken.why,
        f"Start again with a smaller learning rate; the best state before it, after {episodes} episodes{accuracy}, is "
        f"kept as {entry.name} ({entry.id})",
    )
