import dataclasses

import numpy as np
import pytest
import torch

from tests.learn.data import sampler, source
from tests.learn.toy import ToyProto, ToySteps, info
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.learn import evaluate as module
from workbench.learn.evaluate import evaluate, freeze, mean_ci95, paired
from workbench.learn.protocol import State, generator


@pytest.fixture
def toy():
    algorithm = ToyProto()
    return algorithm, algorithm.init(generator(0))


def interval_of_coin_flips_is_the_known_one(interval):
    flips = (torch.rand(600, generator=generator(1)) < 0.5).double().tolist()
    mean, ci95 = interval(flips)
    p = sum(flips) / 600
    assert mean == pytest.approx(p)
    assert ci95 == pytest.approx(1.96 * (p * (1 - p) / 599) ** 0.5)
    assert ci95 == pytest.approx(0.04, abs=0.0005)


def test_interval_of_coin_flips_is_the_known_one():
    interval_of_coin_flips_is_the_known_one(mean_ci95)


@pytest.mark.parametrize("factor", [600**0.5, 1 / 1.96, 2, (599 / 600) ** 0.5])
def test_another_interval_is_noticed(factor):
    """Without the root of the number of episodes, one standard error, the whole width, the plain variance."""
    with pytest.raises(AssertionError):
        interval_of_coin_flips_is_the_known_one(lambda v: (mean_ci95(v)[0], factor * mean_ci95(v)[1]))


class TestFreeze:
    def test_same_seed_same_list(self):
        s = sampler(source("a"))
        a, b, c = (freeze(s, 5, seed) for seed in (3, 3, 4))
        assert a.sha256 == b.sha256 != c.sha256
        assert a.first(3).sha256 == freeze(s, 3, 3).sha256
        assert a.first(9) is a

    def test_one_episode_has_no_interval(self):
        with pytest.raises(ValueError):
            freeze(sampler(source("a")), 1, 0)


class TestEvaluate:
    def test_is_the_mean_over_episodes_done_by_hand(self, toy):
        algorithm, state = toy
        s = sampler(source("a"))
        found = evaluate(algorithm, state, frozen := freeze(s, 6, 0), Context())
        expected, losses = [], []
        for drawn in frozen.drawn:
            e = s.episode(drawn)
            f, q = (x.flatten(1) @ state.learned["trunk.weight"].T for x in (e.support_x, e.query_x))
            z = torch.stack([-(q - f[e.support_y == k].mean(0)).square().sum(1) for k in range(4)], 1)
            expected.append(float((z.argmax(1) == e.query_y).double().mean()))
            losses.append(float(-z.log_softmax(1)[range(20), e.query_y].mean()))
        assert found.per_episode == tuple(expected)
        assert found.accuracy == pytest.approx(np.mean(expected))
        assert found.ci95 == pytest.approx(1.96 * np.std(expected, ddof=1) / 6**0.5)
        assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert 0 < found.accuracy < 1
        assert (found.episodes, found.sha256, found.by_step) == (6, frozen.sha256, ())
        assert found.seconds_per_task > 0

    @pytest.mark.parametrize("rotations", [False, True])
    def test_the_fast_path_equals_the_slow_one(self, toy, rotations):
        algorithm, state = toy
        frozen = freeze(sampler(source("a"), source("b", seed=1), rotations=rotations), 50, 0)
        slow = evaluate(algorithm, state, frozen, Context(), cached=False)
        fast = evaluate(algorithm, state, frozen, Context())
        assert fast.per_episode == slow.per_episode
        assert fast.loss == pytest.approx(slow.loss, rel=1e-5)

    def test_each_picture_is_embedded_once(self, toy):
        algorithm, state = toy
        frozen = freeze(sampler(source("a"), source("b", seed=1)), 50, 0)
        different = {i for d in frozen.drawn for ids in (d.support_ids, d.query_ids) for i in ids.tolist()}
        evaluate(algorithm, state, frozen, Context())
        assert algorithm.trunk_calls == len(different)

    def test_features_that_do_not_fit_are_computed_again(self, toy, monkeypatch):
        algorithm, state = toy
        frozen = freeze(sampler(source("a"), source("b", seed=1)), 50, 0)
        expected = evaluate(algorithm, state, frozen, Context())
        once = algorithm.trunk_calls
        monkeypatch.setattr(module, "_FEATURE_BYTES", 64)
        assert evaluate(algorithm, state, frozen, Context()).per_episode == expected.per_episode
        assert algorithm.trunk_calls - once > once

    def test_by_step(self):
        algorithm = ToySteps()
        state = algorithm.init(generator(0))
        frozen = freeze(sampler(source("a")), 20, 0)
        found = evaluate(algorithm, state, frozen, Context())
        assert [s.step for s in found.by_step] == [0, 1, 2, 3]
        assert found.by_step[0].accuracy == 0.25  # before the first step all means are equal
        assert found.by_step[-1][1:] == (found.accuracy, found.ci95, 20, frozen.sha256)
        assert found.accuracy > 0.3
        assert evaluate(algorithm, state, frozen, Context(), by_step=False).by_step == ()

    def test_by_step_leaves_steps_out_where_there_are_many(self, monkeypatch):
        assert [j for j in range(501) if module.asked_after(j)] == [*range(6), 10, 20, 50, 100, 200, 500]
        algorithm = ToySteps()
        state = algorithm.init(generator(0))
        frozen = freeze(sampler(source("a")), 20, 0)
        every = evaluate(algorithm, state, frozen, Context())
        monkeypatch.setattr(module, "asked_after", lambda step: step == 1)
        found = evaluate(algorithm, state, frozen, Context())
        assert [s.step for s in found.by_step] == [1, 3]  # the last step is never left out
        assert found.by_step == (every.by_step[1], every.by_step[3])
        assert found.per_episode == every.per_episode

    @pytest.mark.parametrize("cached", [False, True])
    def test_steps_are_those_of_the_first_episodes(self, monkeypatch, cached):
        asks = 0

        class Counted(ToySteps):
            def distances(self, f, means):
                nonlocal asks
                asks += 1
                return super().distances(f, means)

        algorithm = Counted()
        state = algorithm.init(generator(0))
        frozen = freeze(sampler(source("a")), 20, 0)
        first = evaluate(algorithm, state, frozen.first(6), Context(), cached=False)
        monkeypatch.setattr(module, "_STEPPED", 6)
        asks = 0
        found = evaluate(algorithm, state, frozen, Context(), cached=cached)
        assert (algorithm.trunk_calls > 0) == cached
        assert asks == 6 * 4 + 20  # after each step in the first six, and in every episode once for all
        assert found.by_step == first.by_step
        assert {s[3:] for s in found.by_step} == {(6, frozen.first(6).sha256)}
        assert found.per_episode[:6] == first.per_episode
        assert (found.episodes, found.sha256) == (20, frozen.sha256)

    @pytest.mark.parametrize("by_step", [False, True])
    @pytest.mark.parametrize("cached", [False, True])
    def test_seconds_are_those_of_adapting_and_of_one_answer(self, monkeypatch, by_step, cached):
        """By a clock on which adapting takes a second, an answer a tenth and a picture's features a thousandth."""
        seconds = 0.0

        class Slow(ToySteps if by_step else ToyProto):
            def adapt(self, *args, **kwargs):
                nonlocal seconds
                found = super().adapt(*args, **kwargs)
                seconds += 1
                return found

            def distances(self, f, means):
                nonlocal seconds
                seconds += 0.1
                return super().distances(f, means)

            def trunk(self, s):
                trunk = super().trunk(s)

                def wait(module, x):
                    nonlocal seconds
                    seconds += 0.001 * len(x[0])

                trunk.register_forward_pre_hook(wait)
                return trunk

        monkeypatch.setattr(module.time, "perf_counter", lambda: seconds)
        algorithm = Slow()
        frozen = freeze(sampler(source("a")), 30, 0)
        found = evaluate(algorithm, algorithm.init(generator(0)), frozen, Context(), cached=cached)
        features = 0.001 * algorithm.trunk_calls / 30
        assert (features > 0) == cached
        assert found.seconds_per_task == pytest.approx(1.1 + features)

    def test_progress_is_that_of_the_episodes_and_only_where_asked_for(self, toy):
        ctx = Context()
        evaluate(*toy, freeze(sampler(source("a")), 7, 0), ctx)
        assert ctx.progress_now is None
        evaluate(*toy, freeze(sampler(source("a")), 7, 0), ctx, progress=True)
        assert (ctx.progress_now.done, ctx.progress_now.total, ctx.progress_now.unit) == (7, 7, "episodes")

    def test_a_transductive_method_sees_the_queries_and_others_do_not(self):
        frozen = freeze(sampler(source("a")), 2, 0)
        for tags, expected in (((), None), (("transductive",), 20)):
            seen = []

            class Spy(ToyProto):
                info = info(*tags)

                def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None, seen=seen):
                    seen.append(None if unlabelled is None else len(unlabelled))
                    return super().adapt(s, support, ctx)

            spy = Spy()
            evaluate(spy, spy.init(generator(0)), frozen, Context())
            assert seen == [expected] * 2

    def test_limit_reports_what_was_done(self, toy, monkeypatch):
        algorithm, state = toy
        clock = iter(range(10**6))
        monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
        frozen = freeze(sampler(source("a")), 50, 0)
        found = evaluate(algorithm, state, frozen, Context(), limit=6)
        assert 2 < found.episodes < 20
        assert found.sha256 == frozen.first(found.episodes).sha256
        assert len(found.per_episode) == found.episodes

    def test_leaves_no_graph_and_does_not_touch_the_state(self, toy):
        algorithm, state = toy
        learned = {k: v.clone().requires_grad_() for k, v in state.learned.items()}
        evaluate(algorithm, State(learned, state.memory), freeze(sampler(source("a")), 3, 0), Context())
        assert all(torch.equal(learned[k], state.learned[k]) and learned[k].grad is None for k in learned)

    @pytest.mark.parametrize("cached", [False, True])
    def test_cancel(self, toy, cached):
        ctx = Context()
        ctx.cancel()
        with pytest.raises(JobCancelledError):
            evaluate(*toy, freeze(sampler(source("a")), 3, 0), ctx, cached=cached)


class TestPaired:
    def test_difference_is_narrower_than_the_parts(self, toy):
        algorithm, state = toy
        frozen = freeze(sampler(source("a"), source("b", seed=1)), 60, 0)
        a = evaluate(algorithm, state, frozen, Context())
        noisy = {
            **state.learned,
            "trunk.weight": state.learned["trunk.weight"] + 0.03 * torch.randn(8, 64, generator=generator(9)),
        }
        b = evaluate(algorithm, State(noisy, {}), frozen, Context())
        difference, ci95 = paired(a, b)
        assert difference == pytest.approx(a.accuracy - b.accuracy)
        assert 0 < ci95 < a.ci95
        assert paired(a, a) == (0.0, 0.0)

    def test_refuses_different_episodes(self, toy):
        algorithm, state = toy
        a, b = (evaluate(algorithm, state, freeze(sampler(source("a")), 3, seed), Context()) for seed in (0, 1))
        with pytest.raises(WorkbenchError, match="different episodes"):
            paired(a, b)
        assert dataclasses.replace(b, sha256=a.sha256) != b
