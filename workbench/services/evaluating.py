"""Episodic evaluation of entries on folders: frozen episodes, interval, hash; several entries on the same ones.

Frozen episodes are numbers of pictures and classes, so entries that see pictures in other sizes or channels are asked
about the very same ones; the hash proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import KnowledgeEntry, Preprocess, Role, Task
from workbench.data.episodes import Sampler, Source
from workbench.data.scan import scan
from workbench.learn.evaluate import FrozenEpisodes, freeze, mean_ci95
from workbench.learn.evaluate import evaluate as run_evaluation
from workbench.learn.protocol import Algorithm, Setting, State, generator
from workbench.learn.registry import create
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.preparing import load_sources
from workbench.services.requests import Compared, Evaluated, EvaluateRequest


def evaluate(request: EvaluateRequest, project: Path, ctx: Context) -> Evaluated:
    """Accuracy of an entry on the tasks of some folders.

    Raises:
        WorkbenchError: no such entry, nothing to read, or no task with enough classes.
    """
    return evaluate_on(_tasks(request, ctx), request, project, ctx)


def evaluate_on(tasks: tuple[Task, ...], request: EvaluateRequest, project: Path, ctx: Context) -> Evaluated:
    """The same on tasks scanned before; ``request.untrained`` measures the network as training found it.

    The row's ``trained_on`` names the tasks that the entry was trained on: what is measured on those is no measure of
    what is new.
    """
    _check(request)
    found = _find(request, project)
    return _measure(found, _Episodes(tasks, request).frozen(found, ctx), tasks, request, ctx)


def compare(entries: Sequence[str], request: EvaluateRequest, project: Path, ctx: Context) -> Compared:
    """Several entries on the same frozen episodes of some folders, which are read once.

    Args:
        entries: at least one; ids, names or paths.
        request: how to evaluate; its ``entry`` is not read.
        project: whose knowledge is looked through first.
        ctx: of the job.

    Raises:
        WorkbenchError: see ``evaluate``; or an entry named twice, or one that cannot take such tasks, which is found
            out before anything is measured; or pictures that only some of the entries can read.
    """
    _check(request)
    found = [_find(replace(request, entry=name), project) for name in entries]
    for i, one in enumerate(found):
        if any(one.entry.id == other.entry.id for other in found[:i]):
            raise WorkbenchError("Nothing was compared", f"{one.entry.name} is named twice", "Name each entry once")
    tasks = _tasks(request, ctx)
    episodes = _Episodes(tasks, request)
    frozen = [episodes.frozen(one, ctx) for one in found]
    for one, its in zip(found, frozen, strict=True):
        if its.sha256 != frozen[0].sha256:
            raise WorkbenchError(
                "Nothing was compared",
                f"{one.entry.name} cannot read the same pictures as {found[0].entry.name}",
                "Take out the pictures that 'workbench tasks' names, or compare other entries",
            )
    if len(found) > 1:
        ctx.status("Trying each entry on two episodes")
        for one, its in zip(found, frozen, strict=True):
            run_evaluation(one.algorithm, one.state, its.first(2), ctx, by_step=False)
    results = tuple(_measure(one, its, tasks, request, ctx) for one, its in zip(found, frozen, strict=True))
    pairs = [{"a": a.row["entry"], "b": b.row["entry"], **paired(a, b)} for a, b in _twos(results)]
    return Compared(results, tuple(pairs))


def paired(a: Evaluated, b: Evaluated) -> dict[str, float]:
    """Difference ``a - b`` on the same frozen episodes, with its 95 % interval.

    Raises:
        ValueError: the episode lists differ.
    """
    if a.row["episodes_sha256"] != b.row["episodes_sha256"]:
        raise ValueError("paired differences need the same frozen episodes")
    difference, ci95 = mean_ci95([x - y for x, y in zip(a.per_episode, b.per_episode, strict=True)])
    return {"difference": difference, "ci95": ci95}


def _twos(results: Sequence[Evaluated]) -> list[tuple[Evaluated, Evaluated]]:
    return [(a, b) for i, a in enumerate(results) for b in results[i + 1 :]]


def _check(request: EvaluateRequest) -> None:
    if request.episodes < 2:
        raise WorkbenchError(
            "Nothing was evaluated", "an interval needs at least two episodes", "Ask for more, 600 is usual"
        )


def _tasks(request: EvaluateRequest, ctx: Context) -> tuple[Task, ...]:
    tasks = scan(request.paths, ctx).tasks
    return tuple(t for t in tasks if t.role is Role.HELD_OUT) if request.held_out_only else tasks


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry ready to be evaluated."""

    entry: KnowledgeEntry
    algorithm: Algorithm
    state: State


def _find(request: EvaluateRequest, project: Path) -> _Found:
    library = Library(project)
    entry, path = library.find(request.entry)
    knowledge = known.load(entry, path, library)
    if not request.untrained:
        return _Found(entry, knowledge.algorithm, knowledge.state)
    setting = Setting(entry.backbone, entry.preprocess.depth, entry.preprocess.size, entry.ways[1])
    algorithm = create(entry.algorithm, entry.params, setting)
    gen = generator(Context(seed=entry.provenance.get("seed", 0)).seed_for("init"))
    return _Found(entry, algorithm, algorithm.init(gen))


class _Episodes:
    """The same episodes for entries that see pictures in their own ways; each way of reading is read once."""

    def __init__(self, tasks: tuple[Task, ...], request: EvaluateRequest) -> None:
        self._tasks, self._request = tasks, request
        self._read: dict[str, tuple[Source, ...]] = {}

    def frozen(self, found: _Found, ctx: Context) -> FrozenEpisodes:
        p, request = found.entry.preprocess, self._request
        sampler = Sampler(
            self._sources(p, ctx),
            ways=(request.ways, request.ways),
            shots=(request.shots, request.shots),
            queries=request.queries,
            rotations=request.rotations,
            across_tasks=request.across_tasks,
            mean=p.mean,
            std=p.std,
        )
        return freeze(sampler, request.episodes, request.seed)

    def _sources(self, p: Preprocess, ctx: Context) -> tuple[Source, ...]:
        if p.pixel_digest not in self._read:
            self._read[p.pixel_digest] = load_sources(self._tasks, p, ctx)
        return self._read[p.pixel_digest]


def _measure(
    found: _Found, frozen: FrozenEpisodes, tasks: tuple[Task, ...], request: EvaluateRequest, ctx: Context
) -> Evaluated:
    entry, algorithm = found.entry, found.algorithm
    ctx.status(f"Evaluating {entry.name}")
    result = run_evaluation(algorithm, found.state, frozen, ctx, progress=True)
    row: dict[str, Any] = {
        "entry": entry.id,
        "name": entry.name,
        "algorithm": entry.algorithm,
        "backbone": entry.backbone,
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
        row["by_step"] = [
            {"step": j, "accuracy": accuracy, "ci95": ci95, "episodes": episodes, "episodes_sha256": sha256}
            for j, accuracy, ci95, episodes, sha256 in result.by_step
        ]
    return Evaluated(row, result.per_episode)
