"""``train``, ``resume``, ``evaluate``, ``compare``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from workbench.cli.continuing import kept_lines
from workbench.cli.knowledge_commands import validation_line
from workbench.cli.output import emit, say, say_problems
from workbench.core.context import Context
from workbench.core.errors import StorageError
from workbench.core.storage import len_text
from workbench.core.training import TrainRequest, TrainResult
from workbench.core.values import Role, Task
from workbench.services import jobs
from workbench.services.requests import Evaluated, EvaluateRequest


def train(arguments: argparse.Namespace, ctx: Context) -> int:
    """Meta-train and save an entry."""
    row = jobs.backbone(arguments.backbone, ctx)
    pretrained = arguments.pretrained or arguments.download
    if arguments.download and not row.pretrained_present:
        if row.pretrained_size:
            say(
                f"Fetching the weights of {row.title}: {len_text(row.pretrained_size)}, {row.pretrained_licence}, "
                f"from {row.pretrained_host}"
            )
        jobs.fetch_weights(arguments.backbone, ctx)
    tasks = _tasks(arguments.folders, Role.TRAIN, ctx) + _tasks(arguments.validation, Role.VALIDATION, ctx)
    request = TrainRequest(
        sources=tasks,
        algorithm=arguments.algorithm or "protonet",
        params=dict(arguments.settings),
        backbone=arguments.backbone,
        ways=arguments.ways,
        shots=arguments.shots,
        queries=arguments.queries,
        episodes=arguments.episodes,
        minutes=arguments.minutes,
        patience=arguments.patience,
        across_tasks=arguments.across_tasks,
        rotations=arguments.rotations,
        size=arguments.image_size or row.recommended_size,
        channels=arguments.channels,
        start=arguments.start,
        keep=arguments.keep,
        keep_strength=arguments.keep_strength,
        target=_tasks(arguments.target, Role.VALIDATION, ctx),
        align=arguments.align,
        pretrained=pretrained,
        device=arguments.device,
        precision=arguments.precision,
        seed=arguments.seed,
        name=arguments.name,
        command=shlex.join(["workbench", *sys.argv[1:]]),
    )
    emit(train_json(jobs.train(request, arguments.project, ctx)), arguments.json, train_lines)
    return 0


def _tasks(folders: list[str], role: Role, ctx: Context) -> tuple[Task, ...]:
    if not folders:
        return ()
    found = jobs.scan(tuple(folders), ctx)
    say_problems(found.problems)
    if role is Role.VALIDATION:
        return tuple(replace(t, role=role) for t in found.tasks)
    held = [t.name for t in found.tasks if t.role is Role.HELD_OUT]
    if held:
        say(f"Held out for testing, not looked at: {', '.join(held)}")
    return found.tasks


def train_json(result: TrainResult) -> dict[str, Any]:
    """The JSON of ``train``, ``resume`` and the first part of ``demo``."""
    entry, v = result.entry, result.entry.validation
    return {
        "entry": entry.id,
        "name": entry.name,
        "path": result.entry_path,
        "run": result.run,
        "algorithm": entry.algorithm,
        "backbone": entry.backbone,
        "device": entry.provenance.get("device", "cpu"),
        "precision": entry.provenance.get("precision", "full"),
        "seed": entry.provenance.get("seed", 0),
        "episodes": result.episodes,
        "across_tasks": entry.provenance.get("across_tasks", False),
        "seconds": result.seconds,
        "stopped": result.stopped,
        "validation": None
        if v is None
        else {"kind": v.kind, "accuracy": v.accuracy, "ci95": v.ci95, "episodes": v.episodes},
        "aligned": entry.provenance.get("aligned"),
        "kept": entry.provenance.get("kept"),
    }


def train_lines(v: dict[str, Any]) -> Iterable[str]:
    """The same for a person."""
    yield f"{v['name']}: entry {v['entry']}, {v['episodes']} episodes in {v['seconds']:.0f} s" + (
        " (stopped, best kept)" if v["stopped"] else ""
    )
    check = v["validation"]
    if check:
        yield validation_line(check)
    if v.get("aligned"):
        yield from aligned_lines(v["aligned"])
    if v.get("kept"):
        yield from kept_lines(v["kept"])
    yield f"saved in {v['path']}; run {v['run']}"


def aligned_lines(a: dict[str, Any]) -> Iterable[str]:
    """What an alignment did, for a person."""
    yield f"aligned with {a['pictures']} pictures of {', '.join(a['target'])} ({a['method']})"
    held, apart = a.get("held_out"), a.get("separation")
    if held:
        yield (
            f"on labelled pictures of the target that were held out: {held['before']:.4f} before, {held['after']:.4f} "
            f"after, difference {held['difference']:+.4f} \u00b1 {held['ci95']:.4f} ({held['episodes']} episodes)"
        )
    elif a.get("unmeasured"):
        yield f"accuracy before and after was not measured: {a['unmeasured']}"
    else:
        yield "the target has no labelled pictures to measure with, so no accuracy is claimed"
    if apart and apart["before"] is not None and apart["after"] is not None:
        yield (
            f"the source's classes hold {apart['after']:.3f} of its features' variance, {apart['before']:.3f} before "
            "(classes that collapse into one hold less)"
        )


def resume(arguments: argparse.Namespace, ctx: Context) -> int:
    """Go on with a killed run."""
    emit(train_json(jobs.resume(arguments.run, arguments.project, ctx)), arguments.json, train_lines)
    return 0


def _request(arguments: argparse.Namespace, entry: str, folders: list[str]) -> EvaluateRequest:
    return EvaluateRequest(
        entry,
        tuple(folders),
        arguments.ways,
        arguments.shots,
        arguments.queries,
        arguments.episodes,
        arguments.across_tasks,
        arguments.rotations,
        arguments.seed,
    )


def evaluate(arguments: argparse.Namespace, ctx: Context) -> int:
    """Episodic accuracy."""
    _check_tables(arguments)
    result = jobs.evaluate(_request(arguments, arguments.entry, arguments.folders), arguments.project, ctx)
    _warn(result)
    _write_tables(arguments, (result,), ())
    emit(result.row, arguments.json, lambda v: [row_line(v), *step_lines(v)])
    return 0


def _check_tables(arguments: argparse.Namespace) -> None:
    from workbench.services import tables

    tables.check_targets(arguments.csv, arguments.latex, arguments.episodes_csv)


def _write_tables(
    arguments: argparse.Namespace, results: Sequence[Evaluated], pairs: Sequence[Mapping[str, Any]]
) -> None:
    from workbench.services import tables

    try:
        tables.write(results, pairs, table=arguments.csv, latex=arguments.latex, episodes=arguments.episodes_csv)
    except StorageError:
        for result in results:  # they took long
            say(row_line(result.row))
        raise


def _warn(result: Evaluated) -> None:
    names = result.row["trained_on"]
    if names:
        say(
            f"{result.row['entry']} was trained on {', '.join(names)}: this does not show what it does with what is new"
        )


def row_line(v: dict[str, Any]) -> str:
    """One evaluation in words."""
    drawn = "across all tasks" if v["across_tasks"] else "within one task"
    who = f"{v['name']} ({v['algorithm']}, {v['entry']})"
    how = f"{v['episodes']} episodes {drawn}, seed {v['seed']}, {'transductive' if v['transductive'] else 'inductive'}"
    return (
        f"{who}: {v['ways']}-way {v['shots']}-shot {v['accuracy']:.4f} \u00b1 {v['ci95']:.4f}, {how}, "
        f"{v['seconds_per_task'] * 1000:.1f} ms a task, episodes {v['episodes_sha256'][:12]}"
    )


def step_lines(v: dict[str, Any]) -> Iterable[str]:
    """Accuracy by inner step, and over which episodes, in one line."""
    steps = v.get("by_step", ())
    if steps:
        after = ", ".join(f"{s['step']}: {s['accuracy']:.4f}" for s in steps)
        first = steps[0]
        yield f"  after step {after}; first {first['episodes']} episodes, {first['episodes_sha256'][:12]}"


def compare(arguments: argparse.Namespace, ctx: Context) -> int:
    """Several entries on the same frozen episodes."""
    _check_tables(arguments)
    found = jobs.compare(tuple(arguments.entries), _request(arguments, "", arguments.data), arguments.project, ctx)
    for result in found.results:
        _warn(result)
    _write_tables(arguments, found.results, found.pairs)
    names = {r.row["entry"]: r.row["name"] for r in found.results}
    emit(
        {"rows": [r.row for r in found.results], "pairs": list(found.pairs)},
        arguments.json,
        lambda v: [
            *(line for r in v["rows"] for line in (row_line(r), *step_lines(r))),
            *(
                f"{names[p['a']]} - {names[p['b']]}: {p['difference']:+.4f} \u00b1 {p['ci95']:.4f}, "
                "paired on the same episodes"
                for p in v["pairs"]
            ),
        ],
    )
    return 0
