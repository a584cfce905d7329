"""``workbench demo``: the whole walk on the samples, with nothing skipped."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.cli.learn_commands import train_json
from workbench.cli.model_commands import export_json
from workbench.cli.output import emit
from workbench.core import paths
from workbench.core.context import Context
from workbench.core.training import TrainRequest
from workbench.core.values import Role
from workbench.services import jobs
from workbench.services.requests import AdaptRequest, ApplyRequest, EvaluateRequest, ExportRequest

_EPISODES = 400
_LETTERS = 0.6
"""Share of the training time for the alphabets; the rest is for the surfaces."""
_TEACH_SETS = ("characters", "surfaces")


def demo(arguments: argparse.Namespace, ctx: Context) -> int:
    """Load, meta-train, evaluate on classes never trained on, teach, predict, export, verify."""
    begun = time.monotonic()
    out = (arguments.out or paths.data_home() / "demo").absolute()
    samples = paths.samples()
    found = jobs.scan((str(samples / "alphabets"), str(samples / "surfaces")), ctx)
    alphabets = tuple(t for t in found.tasks if t.name != "surfaces")
    held_out = tuple(t for t in alphabets if t.role is Role.HELD_OUT)
    command = f"workbench demo --minutes {arguments.minutes:g} --seed {arguments.seed}"
    letters = TrainRequest(
        sources=alphabets,
        ways=(10, 10),
        shots=(1, 5),
        queries=5,
        minutes=arguments.minutes * _LETTERS,
        across_tasks=True,
        size=28,
        channels="grey",
        seed=arguments.seed,
        name="ProtoNet on the sample alphabets",
        command=command,
    )
    trained = jobs.train(letters, arguments.project, ctx)
    photographs = TrainRequest(
        sources=tuple(t for t in found.tasks if t.name == "surfaces"),
        ways=(5, 5),
        shots=(1, 5),
        queries=5,
        minutes=arguments.minutes * (1 - _LETTERS),
        size=48,
        channels="rgb",
        seed=arguments.seed,
        name="ProtoNet on the sample surfaces",
        command=command,
    )
    trained_surfaces = jobs.train(photographs, arguments.project, ctx)
    jobs.load_runtime(ctx)
    from workbench.services.evaluating import evaluate_on, paired

    measured = {}
    for untrained in (True, False):
        asked = EvaluateRequest(
            trained.entry.id,
            (),
            ways=5,
            shots=5,
            queries=9,
            episodes=_EPISODES,
            seed=arguments.seed,
            untrained=untrained,
        )
        measured[untrained] = evaluate_on(held_out, asked, arguments.project, ctx)
    taught: dict[str, Any] = {}
    accuracy: dict[str, Any] = {}
    exported = None
    for name in _TEACH_SETS:
        model = out / f"{name}.model"
        folder = samples / "teach" / name
        taught[name] = jobs.adapt(
            AdaptRequest("auto", str(folder / "support"), str(model), arguments.seed), arguments.project, ctx
        )
        applied = jobs.apply(
            ApplyRequest(str(model), (str(folder / "query"),), csv=str(out / f"{name}.csv")), arguments.project, ctx
        )
        accuracy[name] = _scored(applied.classes, applied.predictions)
        if name == "characters":
            exported = jobs.export(ExportRequest(str(model), "bundle", str(out / name)), arguments.project, ctx)
    assert exported is not None, "the characters are among the teach sets"
    value = {
        "train": train_json(trained),
        "train_surfaces": train_json(trained_surfaces),
        "evaluate_before": measured[True].row,
        "evaluate_after": measured[False].row,
        "gain": paired(measured[False], measured[True]),
        "adapt": taught,
        "predict_accuracy": accuracy,
        "export": export_json(exported),
        "out": str(out),
        "seconds": time.monotonic() - begun,
    }
    emit(value, arguments.json, lines)
    return 0


def _scored(classes: tuple[str, ...], predictions: tuple[Any, ...]) -> dict[str, Any]:
    """Accuracy on queries whose folder is their class; "none of these" counts as wrong, and is counted apart."""
    right = rejected = 0
    for p in predictions:
        rejected += p.rejected
        right += not p.rejected and classes[p.best] == Path(p.image.path).parent.name
    best = sum(classes[p.best] == Path(p.image.path).parent.name for p in predictions)
    n = len(predictions)
    return {"accuracy": right / n, "queries": n, "rejected": rejected, "accuracy_of_best_class": best / n}


def lines(v: dict[str, Any]) -> Iterable[str]:
    """The summary for a person."""
    t, before, after, gain = v["train"], v["evaluate_before"], v["evaluate_after"], v["gain"]
    for one in (t, v["train_surfaces"]):
        yield f"1 Meta-trained: {one['name']}, {one['episodes']} episodes in {one['seconds']:.0f} s"
    yield (
        f"2 On three alphabets it never saw, 5-way 5-shot over {after['episodes']} episodes: "
        f"{after['accuracy']:.3f} \u00b1 {after['ci95']:.3f}"
        f" (untrained {before['accuracy']:.3f}; gain {gain['difference']:+.3f} \u00b1 {gain['ci95']:.3f})"
    )
    for name, a in v["adapt"].items():
        s = v["predict_accuracy"][name]
        yield f"3 Taught five new {name} from five examples each, transferring from: {a['chosen']['name']}"
        yield f"  {s['queries']} new pictures: {s['accuracy']:.2f} right, {s['rejected']} called none of these"
    e = v["export"]
    yield f"4 Exported a bundle; in a clean process it gave the same answers on {e['images_checked']} pictures"
    yield f"Everything is in {v['out']} ({v['seconds']:.0f} s)"
