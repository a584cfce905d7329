"""Episodic evaluation of entries: the same frozen episodes, the network as it was before training, honest warnings."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace

import pytest
import torch

from tests.services.material import task
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn.checkpoint import state_digest
from workbench.learn.protocol import State
from workbench.project.library import Library
from workbench.services import evaluating, jobs, tables
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
    ctx = Context()
    row = evaluate_on(new, asked("maml"), trained, ctx).row
    assert ctx.progress_now is not None
    assert (ctx.progress_now.done, ctx.progress_now.total, ctx.progress_now.unit) == (4, 4, "episodes")
    assert [s["step"] for s in row["by_step"]] == [0, 1, 2]
    assert row["by_step"][-1]["accuracy"] == pytest.approx(row["accuracy"])
    assert {(s["episodes"], s["episodes_sha256"]) for s in row["by_step"]} == {(4, row["episodes_sha256"])}
    assert "by_step" not in evaluate_on(new, asked("proto"), trained, Context()).row


def test_steps_asked_about_in_fewer_episodes_name_these_wherever_they_are_written(trained, new, monkeypatch) -> None:
    """As an evaluation of 600 episodes asks after each step in the first hundred."""
    few = evaluate_on(new, asked("maml", episodes=2), trained, Context()).row
    monkeypatch.setattr("workbench.learn.evaluate._STEPPED", 2)
    found = evaluate_on(new, asked("maml"), trained, Context())
    assert found.row["by_step"] == few["by_step"]
    assert found.row["episodes_sha256"] != few["episodes_sha256"]
    lines = list(csv.DictReader(io.StringIO(tables.to_csv([found]).decode())))
    all_of_them, two = ("4", found.row["episodes_sha256"]), ("2", few["episodes_sha256"])
    assert [(v["step"], v["episodes"], v["episodes_sha256"]) for v in lines] == [
        ("", *all_of_them),
        *((str(step), *two) for step in range(3)),
    ]


def test_untrained_is_the_very_network_that_training_began_with(trained, new, monkeypatch) -> None:
    seen: list[State] = []
    real = evaluating.run_evaluation
    monkeypatch.setattr(evaluating, "run_evaluation", lambda a, s, *r, **k: seen.append(s) or real(a, s, *r, **k))
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


class TestCompare:
    def options(self, pictures, **more):  # type: ignore[no-untyped-def]
        return EvaluateRequest("", (str(pictures / "teach"),), 3, 2, 2, 4, **more)

    def test_it_is_each_evaluation_on_its_own(self, trained, pictures, new) -> None:
        found = jobs.compare(("proto", "maml", "ridge"), self.options(pictures), trained, Context())
        for name, result in zip(("proto", "maml", "ridge"), found.results, strict=True):
            alone = evaluate_on(new, asked(name), trained, Context())
            assert result.per_episode == alone.per_episode
            same = {"accuracy", "ci95", "episodes_sha256", "entry", "name"}
            assert {k: result.row[k] for k in same} == {k: alone.row[k] for k in same}
        a, b, c = found.results
        assert [(p["a"], p["b"]) for p in found.pairs] == [
            (x.row["entry"], y.row["entry"]) for x, y in ((a, b), (a, c), (b, c))
        ]
        assert found.pairs[1] == {"a": a.row["entry"], "b": c.row["entry"], **paired(a, c)}
        assert len({r.row["episodes_sha256"] for r in found.results}) == 1

    def test_pictures_are_read_once_for_each_way_of_seeing_them(self, trained, pictures, monkeypatch) -> None:
        """``ridge`` sees 32 pixels in grey, the others 16 in colour with means and spreads of their own."""
        seen = []
        real = evaluating.load_sources
        monkeypatch.setattr(evaluating, "load_sources", lambda t, p, c: seen.append(p.size) or real(t, p, c))
        jobs.compare(("proto", "ridge", "maml", "reptile"), self.options(pictures), trained, Context())
        assert seen == [16, 32]

    def test_other_pictures_are_refused(self, trained, pictures, monkeypatch) -> None:
        real = evaluating.load_sources

        def lose_one(tasks, p, ctx):  # type: ignore[no-untyped-def]
            found = real(tasks, p, ctx)
            if p.size == 32:
                found = (replace(found[0], arrays=(found[0].arrays[0][1:], *found[0].arrays[1:])),)
            return found

        monkeypatch.setattr(evaluating, "load_sources", lose_one)
        with pytest.raises(WorkbenchError, match="ridge cannot read the same pictures as proto"):
            jobs.compare(("proto", "ridge"), self.options(pictures), trained, Context())

    def test_what_one_entry_cannot_do_is_said_before_anything_is_measured(self, trained, pictures, monkeypatch) -> None:
        """``fixed`` has a head for three classes."""
        monkeypatch.setattr(evaluating, "_measure", lambda *_: pytest.fail("measured"))
        options = replace(self.options(pictures), ways=2)
        with pytest.raises(WorkbenchError, match="classes"):
            jobs.compare(("proto", "fixed"), options, trained, Context())

    def test_an_entry_named_twice(self, trained, pictures) -> None:
        entry, path = Library(trained).find("proto")
        for again in ("proto", entry.id, str(path)):
            with pytest.raises(WorkbenchError, match="proto is named twice"):
                jobs.compare(("proto", again), self.options(pictures), trained, Context())
