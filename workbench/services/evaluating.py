"""Episodic evaluation of an entry on folders: frozen episodes, interval, hash."""

from __future__ import annotations

from pathlib import Path

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import Role, Task
from workbench.data.episodes import Sampler
from workbench.data.scan import scan
from workbench.learn.evaluate import evaluate as run_evaluation
from workbench.learn.evaluate import freeze, mean_ci95
from workbench.learn.protocol import Setting, generator
from workbench.learn.registry import create
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.preparing import load_sources
from workbench.services.requests import Evaluated, EvaluateRequest


def evaluate(request: EvaluateRequest, project: Path, ctx: Context) -> Evaluated:
    """Accuracy of an entry on the tasks of some folders.

    Raises:
        WorkbenchError: no such entry, nothing to read, or no task with enough classes.
    """
    tasks = scan(request.paths, ctx).tasks
    if request.held_out_only:
        tasks = tuple(t for t in tasks if t.role is Role.HELD_OUT)
    return evaluate_on(tasks, request, project, ctx)


def evaluate_on(tasks: tuple[Task, ...], request: EvaluateRequest, project: Path, ctx: Context) -> Evaluated:
    """The same on tasks scanned before; ``request.untrained`` measures the network as training found it.

    The row's ``trained_on`` names the tasks that the entry was trained on: what is measured on those is no measure of
    what is new.
    """
    if request.episodes < 2:
        raise WorkbenchError(
            "Nothing was evaluated", "an interval needs at least two episodes", "Ask for more, 600 is usual"
        )
    library = Library(project)
    entry, path = library.find(request.entry)
    knowledge = known.load(entry, path, library)
    algorithm, state = knowledge.algorithm, knowledge.state
    if request.untrained:
        setting = Setting(entry.backbone, entry.preprocess.depth, entry.preprocess.size, entry.ways[1])
        algorithm = create(entry.algorithm, entry.params, setting)
        state = algorithm.init(generator(Context(seed=entry.provenance.get("seed", 0)).seed_for("init")))
    p = entry.preprocess
    sources = load_sources(tasks, p, ctx)
    sampler = Sampler(
        sources,
        ways=(request.ways, request.ways),
        shots=(request.shots, request.shots),
        queries=request.queries,
        rotations=request.rotations,
        across_tasks=request.across_tasks,
        mean=p.mean,
        std=p.std,
    )
    ctx.status(f"Evaluating {entry.name}")
    frozen = freeze(sampler, request.episodes, request.seed)
    result = run_evaluation(algorithm, state, frozen, ctx)
    row = {
        "entry": entry.id,
        "algorithm": entry.algorithm,
        "ways": request.ways,
        "shots": request.shots,
        "queries": request.queries,
        "episodes": result.episodes,
        "across_tasks": request.across_tasks,
        "rotations": request.rotations,
        "seed": request.seed,
        "accuracy": result.accuracy,
        "ci95": result.ci95,
        "episodes_sha256": result.sha256,
        "transductive": "transductive" in algorithm.info.tags,
        "trained_on": [t.name for t in tasks if t.fingerprint in {s.fingerprint for s in entry.sources}],
        "seconds_per_task": result.seconds_per_task,
    }
    if "gradient-based" in algorithm.info.tags:
        row["by_step"] = [{"step": s, "accuracy": a, "ci95": c} for s, a, c in result.by_step]
    return Evaluated(row, tuple(result.per_episode))


def paired(a: Evaluated, b: Evaluated) -> dict[str, float]:
    """Difference ``a - b`` on the same frozen episodes, with its 95 % interval.

    Raises:
        ValueError: the episode lists differ.
    """
    if a.row["episodes_sha256"] != b.row["episodes_sha256"]:
        raise ValueError("paired differences need the same frozen episodes")
    difference, ci95 = mean_ci95([x - y for x, y in zip(a.per_episode, b.per_episode, strict=True)])
    return {"difference": difference, "ci95": ci95}
