"""The walk of one image, headless, on the samples; read the code in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.teach import AddClass, AddQueries, Label, TeachTask, apply
from workbench.core.training import TrainRequest
from workbench.core.values import ClassId, Role
from workbench.services import jobs
from workbench.services.requests import ApplyRequest, ExportRequest
from workbench.services.teach import TeachRequest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


def test_the_walk(project: Path, tmp_path: Path) -> None:
    ctx = Context()

    # folder -> tasks of image references, each with its role
    found = jobs.scan((str(paths.samples() / "alphabets"),), ctx)
    assert len(found.tasks) >= 15
    assert sum(t.role is Role.HELD_OUT for t in found.tasks) == 3
    assert not found.problems

    # the side branch: tasks -> a training run -> a knowledge entry
    asked = TrainRequest(
        found.tasks, ways=(5, 5), shots=(1, 5), queries=5, episodes=60, across_tasks=True, size=28, channels="grey"
    )
    trained = jobs.train(asked, project, ctx)
    assert trained.episodes == 60
    assert trained.entry.validation is not None
    assert trained.entry.validation.kind == "classes"
    assert {m.name for m in ctx.take_metrics()} >= {"train/loss", "train/accuracy", "validation/accuracy"}

    # a new task: classes that training never saw, a few examples each
    new = jobs.scan((str(paths.samples() / "teach" / "characters"),), ctx)
    support = next(t for t in new.tasks if t.name == "support")
    query = next(t for t in new.tasks if t.name == "query")
    task = TeachTask()
    for i, c in enumerate(support.classes):
        task = apply(task, AddClass(ClassId(f"c{i}"), c.name, c.images))
    task = apply(task, AddQueries(tuple(i for c in query.classes for i in c.images)))

    # representation -> ranked knowledge -> adapted -> predictions
    result = jobs.teach(TeachRequest(1, task.support(), task.queries), project, ctx)
    truth = [c for c, k in enumerate(query.classes) for _ in k.images]
    answers = result.steps[-1]
    right = sum(p.best == t for p, t in zip(answers, truth, strict=True)) / len(truth)
    assert right > 0.4, "five classes: chance is 0.2"
    assert abs(sum(c.weight for c in result.candidates) - 1) < 1e-6
    assert sum(c.chosen for c in result.candidates) == 1
    assert any(c.entry is None for c in result.candidates)
    assert result.estimate is not None
    for p in answers:
        assert abs(sum(p.probabilities) + p.none - 1) < 1e-5
        assert len(p.nearest) == 3

    # a correction makes a new task and starts again at adapt
    corrected = apply(task, Label((task.queries[0].sha256,), ClassId("c0")))
    again = jobs.teach(TeachRequest(2, corrected.support(), corrected.queries), project, ctx)
    assert again.key != result.key
    assert again.steps[-1][0].best == 0

    # the same task as a model on disk answers the same, and so does its verified export
    request = TeachRequest(3, task.support(), task.queries)
    model = jobs.save_taught(request, project, tmp_path / "letters.model", ctx)
    applied = jobs.apply(ApplyRequest(str(model), (str(paths.samples() / "teach/characters/query"),)), project, ctx)
    for here, there in zip(answers, applied.predictions, strict=True):
        assert here.image.sha256 == there.image.sha256
        assert here.probabilities == pytest.approx(there.probabilities, abs=1e-6)
    done = jobs.export(ExportRequest(str(model), "onnx", str(tmp_path / "out")), project, ctx)
    assert done.verified
    assert done.images_checked == len(truth) + sum(len(c.images) for c in support.classes)
    assert done.top1_agreement == 1.0
