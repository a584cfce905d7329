import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from tests.learn.data import sampler, source
from tests.learn.toy import ToyProto
from workbench.core.context import Context, Metric
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.training import EpisodeView
from workbench.learn import engine
from workbench.learn.checkpoint import load_checkpoint, state_digest
from workbench.learn.engine import Plan, train
from workbench.learn.evaluate import evaluate, freeze
from workbench.learn.protocol import Phase, State, StepResult, generator

ROOT = Path(__file__).parents[2]


def go(plan, algorithm=None, *, ctx=None, folder=None, validation=True, **changes):
    held_out = sampler(source("v", seed=1), **changes) if validation else None
    return train(algorithm or ToyProto(), sampler(source("a"), **changes), held_out, plan, ctx or Context(), folder)


def plan(episodes=60, **changes):
    options = {"seed": 3, "report_episodes": 20, "validation_episodes": 10, "validate_every": 0.25}
    return Plan(episodes=episodes, **(options | changes))


class CancelAt(ToyProto):
    """Cancels its job in the middle of a step."""

    def __init__(self, ctx, step):
        super().__init__()
        self.ctx, self.cancel_at = ctx, step

    def step(self, s, batch, at, ctx):
        if at.step == self.cancel_at:
            self.ctx.cancel()
        return super().step(s, batch, at, ctx)


class TestTrain:
    def test_learns(self):
        before = ToyProto().init(generator(0))
        algorithm = ToyProto(ToyProto.Params(lr=0.02))
        out = go(plan(250), algorithm)
        frozen = freeze(sampler(source("v", seed=1)), 100, 9)
        first, last = (evaluate(algorithm, s, frozen, Context()).accuracy for s in (before, out.state))
        assert last > first + 0.2
        assert last > 0.8
        assert abs(out.validation.accuracy - last) < 0.1
        assert (out.episodes, out.steps, out.stopped, out.validation.episodes) == (250, 250, False, 20)

    def test_seed_alone_decides(self):
        before = torch.get_rng_state()
        digests = [state_digest(go(plan(seed=s)).state) for s in (3, 3, 4)]
        assert digests[0] == digests[1] != digests[2]
        assert torch.equal(before, torch.get_rng_state())

    def test_numbers_reach_the_context_from_the_first_episode_on(self):
        ctx = Context()
        out = go(plan(), ctx=ctx)
        metrics = ctx.take_metrics()
        assert [m.name for m in metrics[:2]] == ["train/loss", "train/accuracy"]
        assert metrics[0].step == 1
        assert [m.step for m in metrics if m.name == "train/loss"] == list(range(1, 61))
        held_out = [m for m in metrics if m.name == "validation/accuracy"]
        assert [m.step for m in held_out] == [15, 30, 45, 60]
        assert all(0 <= m.low < m.value < m.high <= 1 for m in held_out)
        assert [m.step for m in metrics if m.name == "validation/loss"] == [15, 30, 45, 60]
        assert [dataclasses.replace(m, time=0.0) for m in metrics] == [
            dataclasses.replace(m, time=0.0) for m in out.history
        ]
        assert (ctx.progress_now.done, ctx.progress_now.total, ctx.progress_now.unit) == (60, 60, "episodes")
        assert ctx.progress_now.seconds_left == 0

    def test_where_each_phase_begins(self, tmp_path):
        class TwoPhases(ToyProto):
            def step(self, s, batch, at, ctx):
                if at.phase == "episodes":
                    return super().step(s, batch, at, ctx)
                return StepResult(s.learned["trunk.weight"].square().mean(), metrics={"accuracy": 0.1})

        class Stopped(TwoPhases, CancelAt):
            def __init__(self, ctx, step):
                CancelAt.__init__(self, ctx, step)
                self.p = p

        p = ToyProto.Params(phases=(Phase("all", "batches", share=0.3), Phase("episodes", share=0.7)))
        begun = [("phase/batches/all", 0, 1.0), ("phase/episodes/episodes", 18, 0.0)]
        out = go(plan(), TwoPhases(p))
        assert [(m.name, m.step, m.value) for m in out.history if m.name.startswith("phase/")] == begun
        names = [(m.name, m.step) for m in out.history]
        assert names.index(("train/loss", 18)) < names.index(begun[1][:2]) < names.index(("train/loss", 19))
        for at in (18, 40):
            ctx = Context()
            assert go(plan(), Stopped(ctx, at), ctx=ctx, folder=tmp_path / str(at)).stopped
            again = go(plan(), TwoPhases(p), folder=tmp_path / str(at))
            assert [(m.name, m.step) for m in again.history] == names, "said once, also where the run was resumed"
        assert not [m for m in go(plan(5)).history if m.name.startswith("phase/")], "nothing to tell apart"

    def test_no_interval_from_a_handful_of_validation_episodes(self):
        for tested, known in ((9, False), (10, True)):
            out = go(plan(validation_episodes=tested))
            held_out = [m for m in out.history if m.name == "validation/accuracy"]
            assert len(held_out) == 4
            assert {(m.low is not None, m.high is not None) for m in held_out} == {(known, known)}

    def test_status_in_words(self):
        said = []
        go(plan(), ctx=Context(on_change=lambda c: said.append(c.status_text)))
        words = list(dict.fromkeys(said))
        assert words == ["drawing the first episode", "training", "validating"]

    def test_gallery_shows_the_pictures_as_they_are(self):
        ctx = Context()
        first = source("a", channels=3, classes=12, images=30)
        s = sampler(first, ways=(10, 10), queries=12)
        algorithm = ToyProto(setting=dataclasses.replace(ToyProto().setting, channels=3))
        train(algorithm, s, None, plan(gallery_every_seconds=0), ctx)
        (view,) = ctx.take_events()  # the second waits until the first is taken
        assert isinstance(view, EpisodeView)
        assert (view.episode, view.task, len(view.names), len(view.support), len(view.queries)) == (1, "a", 8, 8, 8)
        for name, support, queries in zip(view.names, view.support, view.queries, strict=True):
            assert (len(support), len(queries)) == (2, 8)
            known = first.arrays[first.class_names.index(name)]
            for png in (*support, *(q for q, _ in queries)):
                pixels = np.asarray(Image.open(io.BytesIO(png)))
                assert (known == pixels).all((1, 2, 3)).any()
        rights = [right for q in view.queries for _, right in q]
        assert 0 < sum(rights) < len(rights)
        assert (view.ways, view.right + view.wrong) == (10, 120), "also those that are not shown"
        assert 0 <= view.right - sum(rights) <= 120 - len(rights)

    def test_without_validation_the_last_state_is_kept(self):
        out = go(plan(), validation=False)
        assert out.validation is None
        assert out.state.memory["count"] == 60

    def test_best_state_is_kept(self):
        """A learning rate that ruins what was learnt: the state before it is what counts."""

        class Worse(ToyProto):
            def step(self, s, batch, at, ctx):
                r = super().step(s, batch, at, ctx)
                if at.step < 30:
                    return r
                return StepResult(
                    grads={"trunk.weight": torch.randn(8, 64, generator=generator(at.step))},
                    metrics=r.metrics,
                    memory=r.memory,
                )

        phases = (Phase("good", share=0.5), Phase("bad", share=0.5, optimiser="sgd", lr={"": 0.3}))
        out = go(plan(), Worse(Worse.Params(phases=phases)))
        assert out.state.memory["count"] in (15, 30)
        history = {m.step: m.value for m in out.history if m.name == "validation/accuracy"}
        assert max(history[15], history[30]) > max(history[45], history[60])

    def test_nothing_to_train(self):
        class Fixed(ToyProto):
            def phases(self, sources):
                return ()

        out = go(plan(), Fixed())
        assert (out.episodes, out.validation.episodes) == (0, 20)
        assert torch.equal(
            out.state.learned["trunk.weight"],
            Fixed().init(generator(Context(3).seed_for("init"))).learned["trunk.weight"],
        )

    def test_start_from_a_state(self):
        start = ToyProto().init(generator(77))
        out = train(ToyProto(ToyProto.Params(lr=0.0)), sampler(source("a")), None, plan(2), Context(), start=start)
        assert torch.equal(out.state.learned["trunk.weight"], start.learned["trunk.weight"])

    def test_patience(self):
        out = go(plan(400, validate_every=0.05, patience=2), ToyProto(ToyProto.Params(lr=0.0)))
        accuracies = [m.value for m in out.history if m.name == "validation/accuracy"]
        assert len(set(accuracies)) == 1  # nothing is learnt; an equal one counts as the best
        assert out.episodes == 400
        out = go(plan(400, validate_every=0.05, patience=2), ToyProto(ToyProto.Params(lr=0.3, schedule="constant")))
        assert out.episodes < 400

    def test_plan_is_checked(self):
        for bad in ({"episodes": 3, "minutes": 1.0}, {}, {"episodes": 0}, {"minutes": 0.0}):
            with pytest.raises(ValueError):
                Plan(**bad)


class TestPhases:
    def test_shares_add_up_and_groups_are_heeded(self):
        seen = []

        class Spy(ToyProto):
            def step(self, s, batch, at, ctx):
                seen.append(
                    (at.phase, at.step, len(batch.episodes), round(at.fraction, 3), s.learned["scale"].requires_grad)
                )
                return super().step(s, batch, at, ctx)

            def finish(self, s, phase, ctx):
                return State({**s.learned, "scale": s.learned["scale"] + 10}, s.memory)

        phases = (
            Phase("one", share=0.3, tasks_per_step=2, lr={"": 0.1, "sc": 0.0}),
            Phase("two", share=0.7, tasks_per_step=3, frozen=("scale",)),
        )
        out = go(plan(10), Spy(Spy.Params(phases=phases)), validation=False)
        assert seen == [
            ("one", 0, 2, 0.0, True),
            ("one", 1, 1, 0.667, True),
            ("two", 2, 3, 0.0, False),
            ("two", 3, 3, 0.429, False),
            ("two", 4, 1, 0.857, False),
        ]
        assert out.episodes == 10
        assert out.state.learned["scale"] == 21

    def test_what_is_validated_and_kept_is_finished_and_the_phase_goes_on_without_it(self):
        class Marks(ToyProto):
            def step(self, s, batch, at, ctx):
                assert "finished" not in s.memory
                if at.step == self.p.explode_at:
                    ctx.cancel()
                    ctx.check()
                return dataclasses.replace(super().step(s, batch, at, ctx), memory=dict(s.memory))

            def finish(self, s, phase, ctx):
                ctx.check()
                return State(s.learned, {**s.memory, "finished": torch.tensor(phase.name == "episodes")})

            def adapt(self, s, *args, **kwargs):
                assert s.memory["finished"]
                return super().adapt(s, *args, **kwargs)

        for stop, validation in ((-1, True), (12, True), (12, False)):
            algorithm = Marks(Marks.Params(explode_at=stop))
            out = go(plan(20, validate_every=0.2), algorithm, validation=validation)
            assert out.stopped == (stop > 0)
            assert out.state.memory["finished"]

    @pytest.mark.parametrize("stream", ["batches", "per_source", "mixed"])
    def test_supervised_streams(self, stream):
        seen = []

        class Supervised(ToyProto):
            def step(self, s, batch, at, ctx):
                seen.append(batch)
                return StepResult(s.learned["trunk.weight"].square().mean(), metrics={"accuracy": 0.5})

        phases = (Phase("pre", stream=stream, batch_size=6),)
        s = sampler(source("a"), source("b", seed=4))
        out = train(Supervised(Supervised.Params(phases=phases)), s, None, plan(20), Context())
        assert (out.episodes, len(seen), len(seen[0].y)) == (20, 20, 6)
        assert max(len(set(b.source.tolist())) for b in seen) == (1 if stream == "per_source" else 2)
        assert set.union(*(set(b.source.tolist()) for b in seen)) == {0, 1}

    def test_a_supervised_batch_beside_the_episodes(self):
        seen = []

        class Both(ToyProto):
            def step(self, s, batch, at, ctx):
                seen.append((len(batch.episodes), batch.labelled))
                return super().step(s, batch, at, ctx)

        out = go(plan(6), Both(Both.Params(phases=(Phase("p", tasks_per_step=2, labelled=7),))), validation=False)
        assert (out.episodes, out.steps) == (6, 3)
        assert [(n, len(b.x), len(b.y)) for n, b in seen] == [(2, 7, 7)] * 3
        assert not torch.equal(seen[0][1].x, seen[1][1].x)
        seen.clear()
        go(plan(2), Both(), validation=False)
        assert [b for _, b in seen] == [None, None]

    def test_sequences(self):
        class Reader(ToyProto):
            def step(self, s, batch, at, ctx):
                assert batch.x.shape == (28, 2, 1, 8, 8)
                return StepResult(s.learned["trunk.weight"].square().mean())

        go(plan(4), Reader(Reader.Params(phases=(Phase("s", stream="sequences", tasks_per_step=2),))), validation=False)

    def test_gradients_do_as_a_loss_does(self):
        class Hand(ToyProto):
            def step(self, s, batch, at, ctx):
                r = super().step(s, batch, at, ctx)
                grads = dict(zip(s.learned, torch.autograd.grad(r.loss, list(s.learned.values())), strict=True))
                return StepResult(grads=grads, memory=r.memory, metrics=r.metrics)

        assert state_digest(go(plan(), Hand()).state) == state_digest(go(plan()).state)


class TestMinutes:
    @pytest.fixture
    def clock(self, monkeypatch):
        """Every look at the clock takes 10 ms."""
        now = [0.0]

        def monotonic():
            now[0] += 0.01
            return now[0]

        monkeypatch.setattr(engine.time, "monotonic", monotonic)
        return now

    def test_budget_schedule_and_validation_share(self, clock):
        fractions = []

        class Spy(ToyProto):
            def step(self, s, batch, at, ctx):
                fractions.append(at.fraction)
                return super().step(s, batch, at, ctx)

        ctx = Context()
        out = go(Plan(minutes=0.5, seed=1), Spy(), ctx=ctx)
        assert 30 <= out.seconds < 31
        assert fractions[0] < 0.01
        assert fractions[-1] > 0.99
        assert np.all(np.diff(fractions) > 0)
        tested = [m for m in out.history if m.name == "validation/accuracy"]
        assert 5 < len(tested) <= 30
        assert ctx.progress_now.seconds_left == 0
        assert ctx.progress_now.total == ctx.progress_now.done == out.episodes

    def test_pauses_do_not_count(self, clock):
        class Paused(ToyProto):
            def step(self, s, batch, at, ctx):
                if at.step == 10:
                    clock[0] += 1000
                    ctx._held += 1000
                return super().step(s, batch, at, ctx)

        out = go(Plan(minutes=0.1, seed=1), Paused(), validation=False)
        assert out.episodes > 50
        assert 6 <= out.seconds < 7


class TestStop:
    def test_in_a_step_keeps_the_best(self):
        ctx = Context()
        out = go(plan(), CancelAt(ctx, 40), ctx=ctx)
        assert out.stopped
        assert out.episodes == 40
        assert out.validation.episodes == 10
        best = max((m for m in out.history if m.name == "validation/accuracy"), key=lambda m: (m.value, m.step))
        assert out.state.memory["count"] == best.step
        assert out.validation.accuracy == best.value

    def test_before_the_first_validation_keeps_what_there_is(self):
        ctx = Context()
        out = go(plan(), CancelAt(ctx, 4), ctx=ctx)
        assert (out.stopped, out.validation, float(out.state.memory["count"])) == (True, None, 4.0)

    def test_while_validating_keeps_the_best(self):
        class Late(ToyProto):
            def adapt(self, s, support, ctx, **more):
                if s.memory["count"] == 30:
                    ctx.cancel()
                return super().adapt(s, support, ctx, **more)

        out = go(plan(), Late())
        assert out.stopped
        assert out.episodes == 30
        assert out.state.memory["count"] == 15

    def test_after_the_end_keeps_the_choice(self):
        class Late(ToyProto):
            calls = 0

            def adapt(self, s, support, ctx, **more):
                self.calls += 1
                if self.calls > 4 * 10 + 1:
                    ctx.cancel()
                return super().adapt(s, support, ctx, **more)

        out = go(plan(), Late())
        assert out.stopped
        assert out.episodes == 60
        assert out.validation is not None

    @pytest.mark.parametrize("at", [0, 1, 37, 59])
    def test_resumed_it_ends_as_if_it_had_not_been_stopped(self, tmp_path, at):
        ctx = Context()
        assert go(plan(), CancelAt(ctx, at), ctx=ctx, folder=tmp_path).stopped
        out = go(plan(), folder=tmp_path)
        whole = go(plan())
        assert not out.stopped
        assert state_digest(out.state) == state_digest(whole.state)
        assert out.validation == whole.validation
        assert [(m.name, m.step, m.value) for m in out.history] == [(m.name, m.step, m.value) for m in whole.history]


class TestNotFinite:
    def test_stops_within_one_step_and_keeps_the_best(self, tmp_path):
        with pytest.raises(WorkbenchError, match="loss is not a finite number") as error:
            go(plan(), ToyProto(ToyProto.Params(explode_at=40)), folder=tmp_path)
        assert "episode 41" in str(error.value)
        run, _ = load_checkpoint(tmp_path)
        assert (run.at.step, run.at.best.episode in (15, 30)) == (40, True)
        assert all(t.isfinite().all() for s in (run.state, run.best) for part in s for t in part.values())

    def test_a_gradient(self):
        class Root(ToyProto):
            def step(self, s, batch, at, ctx):
                r = super().step(s, batch, at, ctx)
                return dataclasses.replace(r, loss=r.loss + (s.learned["scale"] * 0).abs().sqrt())

        with pytest.raises(WorkbenchError, match="gradient is not a finite number"):
            go(plan(), Root())


class TestFolder:
    def metrics(self, folder):
        return [msgspec.json.decode(line, type=Metric) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]

    def test_metrics_are_written_as_they_come(self, tmp_path):
        lengths = []

        class Spy(ToyProto):
            def step(self, s, batch, at, ctx):
                lengths.append(len(self_.metrics(tmp_path)))
                return super().step(s, batch, at, ctx)

        self_ = self
        out = go(plan(20), Spy(), folder=tmp_path)
        assert lengths[:6] == [0, 2, 4, 6, 8, 12]  # after five episodes a validation has added two
        assert self.metrics(tmp_path) == list(out.history)

    def test_what_a_checkpoint_does_not_know_is_measured_again(self, tmp_path):
        ctx = Context()
        go(plan(), CancelAt(ctx, 20), ctx=ctx, folder=tmp_path)
        with (tmp_path / "metrics.jsonl").open("ab") as f:
            f.write(msgspec.json.encode(Metric("train/loss", 21, 99.0, 1.0)) + b'\n{"name": "train/lo')
        go(plan(), folder=tmp_path)
        found = self.metrics(tmp_path)
        assert [m.step for m in found if m.name == "train/loss"] == list(range(1, 61))
        assert all(m.value != 99 for m in found)

    def test_another_run_is_refused(self, tmp_path):
        go(plan(), folder=tmp_path)
        for other in ({"seed": 4}, {"episodes": 61}):
            with pytest.raises(WorkbenchError, match="belongs to a run with other"):
                go(plan(**other), folder=tmp_path)
        with pytest.raises(WorkbenchError, match="belongs to a run with other"):
            go(plan(), ToyProto(ToyProto.Params(lr=0.5)), folder=tmp_path)

    def test_a_finished_run_is_not_trained_again(self, tmp_path):
        whole = go(plan(), folder=tmp_path)
        out = go(plan(), ToyProto(ToyProto.Params(explode_at=-1)), folder=tmp_path)
        assert state_digest(out.state) == state_digest(whole.state)
        assert out.steps == 60

    def test_time_goes_on_from_what_was_used(self, tmp_path):
        ctx = Context()
        first = go(plan(), CancelAt(ctx, 50), ctx=ctx, folder=tmp_path)
        assert go(plan(), folder=tmp_path).seconds > first.seconds

    def test_damaged_checkpoints(self, tmp_path):
        whole = go(plan(checkpoint_every_steps=20), folder=tmp_path)
        cards = sorted(tmp_path.glob("step-*.json"))
        assert [c.name for c in cards] == ["step-40.json", "step-60.json"]
        assert len(list(tmp_path.glob("step-*.safetensors"))) == 2
        newest = next(tmp_path.glob("step-60-*.safetensors"))
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        out = go(plan(checkpoint_every_steps=20), folder=tmp_path)
        assert "damaged" in out.note
        assert "episode 40" in out.note
        assert state_digest(out.state) == state_digest(whole.state)
        for path in tmp_path.glob("step-*.safetensors"):
            path.write_bytes(b"")
        with pytest.raises(StorageError, match="none of its checkpoints can be used"):
            go(plan(), folder=tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_random_points_it_ends_bit_identical(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.learn.trainee", str(tmp_path), "6"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    _, ended, other, lost = done.stdout.splitlines()
    assert int(ended) >= 1
    assert int(other) == 0
    assert int(lost) <= 20  # one interval between checkpoints
