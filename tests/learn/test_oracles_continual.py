"""A pull towards what was known: its closed forms on quadratics, the Fisher information, and what is replayed."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.learn import tasks, toy
from tests.learn.data import sampler, source
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import averaging, continual, engine, registry
from workbench.learn.checkpoint import state_digest
from workbench.learn.continual import ANCHOR, FISHER, Keeping, Replayed, exemplars, pulled, running
from workbench.learn.engine import Plan, train
from workbench.learn.protocol import Phase, Setting, State, StepResult, generator

D = 6


def numbers(seed):
    gen = generator(seed)
    return {
        "a1": torch.rand(D, generator=gen, dtype=torch.float64) + 0.5,
        "a2": torch.rand(D, generator=gen, dtype=torch.float64) + 0.5,
        "c1": torch.randn(D, generator=gen, dtype=torch.float64),
        "c2": torch.randn(D, generator=gen, dtype=torch.float64),
    }


def joint(n):
    return (n["a1"] * n["c1"] + n["a2"] * n["c2"]) / (n["a1"] + n["a2"])


class Quadratic(toy.ToyProto):
    """``(theta - c)' A (theta - c) / 2`` of a trunk and, apart from it, of a head."""

    info: ClassVar = toy.info()

    @dataclass(frozen=True)
    class Params:
        optimiser: str = "sgd"
        lr: float = 0.4
        explode_at: int = -1

    curvature: ClassVar[dict] = {}
    centre: ClassVar[dict] = {}
    begin: ClassVar[dict] = {}

    def phases(self, sources):
        return (Phase("p", lr={"": self.p.lr}, schedule="constant", optimiser=self.p.optimiser),)

    def init(self, gen):
        return State({"trunk.w": self.begin["w"].clone(), "head.w": self.begin["w"].clone()}, {})

    def step(self, s, batch, at, ctx):
        assert not [n for n in s.memory if n.startswith("keep.")], "what is kept is not the algorithm's"
        loss = sum((self.curvature["w"] * (t - self.centre["w"]).square()).sum() / 2 for t in s.learned.values())
        return StepResult(loss, metrics={"accuracy": 0.0})


def trained(monkeypatch, n, keeping, steps=130, **params):
    monkeypatch.setattr(Quadratic, "curvature", {"w": n["a2"]})
    monkeypatch.setattr(Quadratic, "centre", {"w": n["c2"]})
    monkeypatch.setattr(Quadratic, "begin", {"w": n["c1"]})
    plan = Plan(episodes=steps, seed=0, gallery_every_seconds=None)
    return train(Quadratic(Quadratic.Params(**params)), sampler(source("a")), None, plan, Context(), keeping=keeping)


def ewc(n, strength=1.0):
    return Keeping("ewc", strength, lambda _: {"trunk.w": n["a1"], "head.w": n["a1"]})


def off(a, b):
    return float((a - b).abs().max())


def test_with_the_exact_information_it_meets_the_joint_optimum(monkeypatch):
    n = numbers(1)
    out = trained(monkeypatch, n, ewc(n))
    assert off(out.state.learned["trunk.w"], joint(n)) < 1e-11
    assert off(out.state.learned["head.w"], n["c2"]) < 1e-11, "a head is not held"


def test_l2_meets_it_only_where_the_old_curvature_is_alike_for_all(monkeypatch):
    n = numbers(1)
    lam = float(n["a1"].mean())
    assert off(trained(monkeypatch, n, Keeping("l2", lam)).state.learned["trunk.w"], joint(n)) > 0.02
    n["a1"] = torch.full_like(n["a1"], lam)
    assert off(trained(monkeypatch, n, Keeping("l2", lam)).state.learned["trunk.w"], joint(n)) < 1e-11


def test_a_series_with_the_running_information_meets_the_joint_optimum_of_all(monkeypatch):
    """Three quadratics, one after another, with one anchor: exact, since the sum of two of them is a third."""
    n, third = numbers(1), numbers(2)
    second = trained(monkeypatch, n, ewc(n)).state.learned["trunk.w"]
    both = running({"trunk.w": n["a1"]}, {"trunk.w": n["a2"]}, forgetting=1.0)["trunk.w"]
    last = {"a1": both, "c1": second, "a2": third["a2"], "c2": third["c2"]}
    got = trained(monkeypatch, last, ewc(last)).state.learned["trunk.w"]
    sums = n["a1"] * n["c1"] + n["a2"] * n["c2"] + third["a2"] * third["c2"]
    assert off(got, sums / (n["a1"] + n["a2"] + third["a2"])) < 1e-11
    assert off(running({"w": n["a1"]}, {"w": n["a2"]}, 0.5)["w"], 0.5 * n["a1"] + n["a2"]) == 0


@pytest.mark.parametrize("mistake", ["normalised", "moving anchor", "held head", "no pull"])
def test_the_joint_optimum_notices(monkeypatch, mistake):
    n = numbers(1)
    right, keeping = pulled, ewc(n)
    if mistake == "normalised":
        keeping = Keeping("ewc", 1.0, lambda _: {"trunk.w": n["a1"] / n["a1"].max()})

    def wrong(grads, learned, held, phase=None):
        if mistake == "no pull":
            return grads
        if mistake == "moving anchor":
            held = {**held, ANCHOR + "trunk.w": learned["trunk.w"]}
        if mistake == "held head":
            held = {**held, ANCHOR + "head.w": n["c1"], FISHER + "head.w": n["a1"]}
        return right(grads, learned, held, phase)

    monkeypatch.setattr(continual, "pulled", wrong)
    out = trained(monkeypatch, n, keeping)
    assert max(off(out.state.learned["trunk.w"], joint(n)), off(out.state.learned["head.w"], n["c2"])) > 1e-3


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_strong_pull_stays_where_it_was_and_does_not_swing(monkeypatch, optimiser):
    n = numbers(1)
    out = trained(monkeypatch, n, ewc(n, 1e6), 60, optimiser=optimiser, lr=0.3 if optimiser == "sgd" else 1e-3)
    away = off(out.state.learned["trunk.w"], n["c1"])
    assert away < (0.5 * off(n["c1"], n["c2"]) if optimiser == "sgd" else 0.02)


# ---- the run ---------------------------------------------------------------------------------------------------------


class CancelAt(toy.ToyProto):
    def __init__(self, ctx, step):
        super().__init__()
        self.ctx, self.cancel_at = ctx, step

    def step(self, s, batch, at, ctx):
        if at.step == self.cancel_at:
            self.ctx.cancel()
        return super().step(s, batch, at, ctx)


def kept(how):
    return Keeping(how, 5.0, lambda _: {"trunk.weight": torch.rand(8, 64, generator=generator(4))})


def go(keeping, algorithm=None, ctx=None, folder=None):
    plan = Plan(episodes=40, seed=3, report_episodes=10, validation_episodes=10, validate_every=0.25)
    parts = sampler(source("a")), sampler(source("v", seed=1))
    return train(algorithm or toy.ToyProto(), *parts, plan, ctx or Context(), folder, keeping=keeping)


@pytest.mark.parametrize("how", ["l2", "ewc"])
def test_resumed_it_ends_as_if_it_had_not_been_stopped(tmp_path, how):
    ctx = Context()
    assert go(kept(how), CancelAt(ctx, 23), ctx, tmp_path).stopped

    def gone(_):
        raise AssertionError("a run that goes on has its information already")

    again = go(Keeping(how, 5.0, gone), folder=tmp_path)
    whole = go(kept(how))
    assert state_digest(again.state) == state_digest(whole.state)
    assert again.validation == whole.validation
    assert state_digest(whole.state) != state_digest(go(None).state)


def test_nothing_of_it_is_left_in_what_the_run_gives(tmp_path):
    for out in (go(kept("ewc")), go(kept("ewc"), CancelAt(ctx := Context(), 3), ctx)):
        assert set(out.state.memory) == {"count"}
    go(kept("ewc"), folder=tmp_path)
    with pytest.raises(engine.WorkbenchError, match="belongs to a run with other data"):
        go(kept("l2"), folder=tmp_path)


# ---- the Fisher information ------------------------------------------------------------------------------------------

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]], dtype=torch.float64)
W = torch.tensor([0.8, -0.5, 0.4], dtype=torch.float64)
DRAWS = 1500


def logistic_information():
    """Of a logistic regression, as it is measured: a mean over examples and drawn labels."""

    def answers(at, row):
        return torch.stack([torch.zeros(1, dtype=torch.float64), row @ at["w"]], 1)

    total = averaging.fisher_diagonal(answers, {"w": W}, X.repeat(DRAWS, 1), generator(0), Context())
    return total["w"] / (2 * DRAWS)


def known():
    p = torch.sigmoid(X @ W)
    return (p * (1 - p))[:, None] * X.square()


def noise():
    """Five standard errors of the mean of ``(y - p)^2 x^2``."""
    p = torch.sigmoid(X @ W)
    each = (p * (1 - p) * (1 - 2 * p).square())[:, None] * X.square().square()
    return 5 * (each.mean(0) / (2 * DRAWS)).sqrt()


def test_logistic_regression_has_the_known_information():
    assert bool(((logistic_information() - known().mean(0)).abs() <= noise()).all())


def test_another_information_is_noticed():
    p = torch.sigmoid(X @ W)
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    slopes = (y - p)[:, None] * X
    empirical, squared_mean = slopes.square().mean(0), slopes.mean(0).square()
    for wrong in (empirical, squared_mean, known().mean(0) / known().mean(0).max()):
        assert bool(((wrong - known().mean(0)).abs() > noise()).any())


@pytest.fixture
def tiny():
    tasks.tiny_backbone()
    algorithm = registry.create("protonet", {}, Setting("tiny-smooth", 1, 8))
    return algorithm, State(*({n: t.double() for n, t in part.items()} for part in algorithm.init(generator(0))))


def measured(tiny, episodes=30, seed=1, **changes):
    algorithm, state = tiny
    drawn = sampler(source("a"), **{"queries": 1, **changes})
    drawn.episode = lambda d, inner=drawn.episode: doubled(inner(d))
    return continual.fisher(algorithm.network, state, drawn, generator(seed), Context(), episodes)


def doubled(e):
    return replace(e, support_x=e.support_x.double(), query_x=e.query_x.double())


def test_a_trunks_information(tiny):
    found = measured(tiny)
    assert found.keys() == {n for n in tiny[1].learned if n.startswith("trunk.")}
    assert all(bool((t >= 0).all()) and float(t.max()) > 0 for t in found.values())
    other = measured(tiny, seed=2)
    for name, t in found.items():
        assert 0.3 < float(t.mean() / other[name].mean()) < 3, "a mean, so its size is that of one example"
    again = measured(tiny)
    assert all(torch.equal(again[n], t) for n, t in found.items())
    assert measured(tiny, ways=(2, 4)).keys() == found.keys(), "episodes of unlike size"


def test_a_change_of_all_features_alike_does_not_count():
    """Distances do not see it, so the last offset of a plain shift has no information: the examples' path is in it."""

    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))

        def forward(self, x):
            return x.flatten(1)[:, :8] + self.shift

    only = State({"trunk.shift": torch.ones(8, dtype=torch.float64)}, {})
    drawn = sampler(source("a"), queries=1)
    drawn.episode = lambda d, inner=drawn.episode: doubled(inner(d))
    found = continual.fisher(Shifted(), only, drawn, generator(1), Context(), 5)
    assert float(found["trunk.shift"].max()) < 1e-20


# ---- replay ----------------------------------------------------------------------------------------------------------


def both():
    return Replayed(sampler(source("new", classes=6)), sampler(source("old", seed=5, classes=7), source("o2", seed=6)))


def test_half_of_what_is_drawn_is_old():
    mixed, gen = both(), generator(0)
    episodes = [mixed.draw(gen) for _ in range(60)]
    of_new = sum(e.task == "new" for e in episodes)
    assert 15 < of_new < 45
    assert mixed.classes_per_source == (6, 7, 8)
    assert [s.name for s in mixed.sources] == ["new", "old", "o2"]
    for e in episodes:
        owners = {mixed.rows.owners[int(c)] for c in e.classes}
        assert {mixed.sources[o].name for o in owners} == {e.task}
        assert e.class_names == tuple(mixed.rows.class_name(4 * int(c), False) for c in e.classes)
        want = mixed.tensors(e.support_ids.numpy())
        assert torch.equal(want, e.support_x), "ids name the pictures that were shown"
    for balanced in (False, True):
        batch = mixed.labelled(gen, 12, balanced=balanced)
        assert int((batch.source == 0).sum()) == 6
        counts = torch.tensor(mixed.classes_per_source)[batch.source]
        assert bool((batch.y < counts).all())
    alone = [set(mixed.labelled(gen, 5, one_source=True).source.tolist()) for _ in range(30)]
    assert {len(s) for s in alone} == {1}
    assert set.union(*alone) == {0, 1, 2}
    assert mixed.sequences(gen, 2).x.shape[1] == 2


def test_a_few_pictures_of_each_class_are_kept():
    one = source("a", images=12)
    (few,) = exemplars([one], generator(0), 5)
    assert [len(a) for a in few.arrays] == [5] * 8
    for a, b in zip(few.arrays, one.arrays, strict=True):
        rows = [int(np.flatnonzero((b == picture).all((1, 2, 3)))[0]) for picture in a]
        assert rows == sorted(set(rows))
    (other,) = exemplars([one], generator(1), 5)
    assert not np.array_equal(few.arrays[0], other.arrays[0])
    (all_of,) = exemplars([one], generator(0), 20)
    assert all(np.array_equal(a, b) for a, b in zip(all_of.arrays, one.arrays, strict=True))


def test_a_number_without_information_is_not_let_go_silently() -> None:
    state = State({"trunk.weight": torch.ones(2), "trunk.bias": torch.ones(1)}, {})
    for found in ({"trunk.weight": torch.ones(2)}, {"trunk.weight": torch.ones(2), "trunk.bias": torch.ones(2)}):
        with pytest.raises(WorkbenchError, match="how much bias mattered"):
            Keeping("ewc", 1.0, lambda _, found=found: found).begun(state)
