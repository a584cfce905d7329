"""Episodic evaluation of entries: the same frozen episodes, the network as it was before training, honest warnings."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.services.material import task
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn.checkpoint import state_digest
from workbench.learn.protocol import State
from workbench.project.library import Library
from workbench.services import evaluating, jobs
from workbench.services.evaluating import evaluate_on, paired
from workbench.services.requests import EvaluateRequest


def asked(entry: str, **more: object) -> EvaluateRequest:
    options = {"ways": 3, "shots": 2, "queries": 2, "episodes": 4}
    return EvaluateRequest(entry, (), **(options | more))  # type: ignore[arg-type]


@pytest.fixture
def new(pictures):  # type: ignore[no-untyped-def]
    return (task(pictures / "teach"),)


def test_the_same_episodes_for_all(trained, new) -> None:
    a, b = (evaluate_on(new, asked(name), trained, Context()) for name in ("proto", "maml"))
    assert a.row["episodes_sha256"] == b.row["episodes_sha256"]
    assert evaluate_on(new, asked("proto"), trained, Context()).per_episode == a.per_episode
    difference = paired(a, b)
    assert difference["difference"] == pytest.approx(a.row["accuracy"] - b.row["accuracy"])
    other = evaluate_on(new, asked("maml", seed=1), trained, Context())
    with pytest.raises(ValueError, match="same frozen episodes"):
        paired(a, other)


def test_gradient_steps_are_reported_one_by_one(trained, new) -> None:
    row = evaluate_on(new, asked("maml"), trained, Context()).row
    assert [s["step"] for s in row["by_step"]] == [0, 1, 2]
    assert row["by_step"][-1]["accuracy"] == pytest.approx(row["accuracy"])
    assert "by_step" not in evaluate_on(new, asked("proto"), trained, Context()).row


def test_untrained_is_the_very_network_that_training_began_with(trained, new, monkeypatch) -> None:
    seen: list[State] = []
    real = evaluating.run_evaluation
    monkeypatch.setattr(evaluating, "run_evaluation", lambda a, s, *r: seen.append(s) or real(a, s, *r))
    evaluate_on(new, asked("proto", untrained=True), trained, Context())
    from workbench.learn.registry import create
    from workbench.services.knowledge import load

    library = Library(trained)
    entry, path = library.find("proto")
    fresh = create("protonet", {}, load(entry, path, library).algorithm.setting)
    seed = Context(seed=entry.provenance["seed"]).seed_for("init")
    assert state_digest(seen[0]) == state_digest(fresh.init(torch.Generator().manual_seed(seed)))


def test_what_it_was_trained_on_is_said(trained, pictures, new) -> None:
    source = task(pictures / "source")
    assert evaluate_on((source,), asked("proto"), trained, Context()).row["trained_on"] == ["source"]
    assert evaluate_on(new, asked("proto"), trained, Context()).row["trained_on"] == []


def test_held_out_tasks_alone_on_request(trained, pictures, tmp_path) -> None:
    for name in ("teach", "query"):
        shutil.copytree(pictures / name, tmp_path / name)
    (tmp_path / "teach" / "role.txt").write_text("held out\n")
    both = (str(tmp_path / "teach"), str(tmp_path / "query"))
    everything = jobs.evaluate(EvaluateRequest("proto", both, 3, 1, 2, 3), trained, Context())
    held = jobs.evaluate(EvaluateRequest("proto", both, 3, 1, 2, 3, held_out_only=True), trained, Context())
    alone = jobs.evaluate(EvaluateRequest("proto", both[:1], 3, 1, 2, 3), trained, Context())
    assert held.row["episodes_sha256"] == alone.row["episodes_sha256"] != everything.row["episodes_sha256"]


@pytest.mark.parametrize(
    ("more", "said"), [({"episodes": 1}, "at least two episodes"), ({"ways": 9}, "9-way"), ({"shots": 4}, "3-way")]
)
def test_refusals(trained, new, more, said) -> None:
    with pytest.raises(WorkbenchError, match=said):
        evaluate_on(new, asked("proto", **more), trained, Context())
    with pytest.raises(WorkbenchError, match="no entry called"):
        evaluate_on(new, asked("nobody"), trained, Context())
