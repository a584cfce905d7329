"""Averaged initialisation: copies, what moves them, the average in each form, its statistics; mistakes are noticed."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from tests.learn.data import sampler, source
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import build_params
from workbench.learn import averaging, functional, norm, registry
from workbench.learn.algorithms.averaged import BATCHES, MODELS, PICTURES, STEPS, Averaged
from workbench.learn.engine import Plan, train
from workbench.learn.optimiser import Moments, rates, stepped
from workbench.learn.protocol import At, Setting, SourceSummary, State, generator

CLASSES = (3, 2, 4)


def built(cls=Averaged, weights=None, classes=CLASSES, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, 8, 3, classes, weights))


def phases(algorithm):
    found = algorithm.phases(SourceSummary(algorithm.setting.classes_per_source, 100))
    return {phase.name: phase for phase in found}


def batch(i, seed=0, size=12):
    gen = generator(100 * i + seed)
    y = torch.randint(0, CLASSES[i], (size,), generator=gen)
    return tasks.Labelled(tasks.pictures(10 * i + y, 1, gen), y, torch.full((size,), i))


def moved(algorithm, s, name, b, moments=None, step=0):
    """The state after one step as the engine makes it."""
    phase = phases(algorithm)[name]
    trained = rates(phase, s.learned)
    leaves = {n: t.detach().requires_grad_(n in trained) for n, t in s.learned.items()}
    result = algorithm.step(State(leaves, s.memory), b, At(name, step, 0.0), Context(seed=1))
    if result.loss is None:
        return State(s.learned, result.memory)
    found = torch.autograd.grad(result.loss, [leaves[n] for n in trained], allow_unused=True)
    grads = {n: g for n, g in zip(trained, found, strict=True) if g is not None}
    return State(stepped(s.learned, grads, moments or Moments(), phase, 0.0, 1.0), result.memory)


def walked(algorithm, order=(0, 1, 2, 2, 1, 0, 0)):
    """A state at the end of the second phase, of an ancestor that has seen something."""
    s = algorithm.init(generator(0))
    for k in range(3):
        s = moved(algorithm, s, "ancestor", batch(k % 3, k))
    s = algorithm.finish(s, phases(algorithm)["ancestor"], Context())
    moments = Moments()
    for k, i in enumerate(order):
        s = moved(algorithm, s, "sources", batch(i, k), moments)
    return s


def own(s, i):
    return functional.under(s.learned, f"source.{i}.trunk.")


# ---- the copies ------------------------------------------------------------------------------------------


def test_each_source_begins_at_the_ancestor_with_its_own_rows():
    algorithm = built()
    begun = moved(algorithm, algorithm.init(generator(0)), "ancestor", batch(0))
    s = algorithm.finish(begun, phases(algorithm)["ancestor"], Context())
    assert cases.same(functional.under(s.learned), functional.under(begun.learned))
    for i, rows in enumerate((slice(0, 3), slice(3, 5), slice(5, 9))):
        assert cases.same(own(s, i), functional.under(begun.learned))
        assert torch.equal(s.learned[f"source.{i}.head.weight"], begun.learned["classifier.weight"][rows])
        assert torch.equal(s.learned[f"source.{i}.head.bias"], begun.learned["classifier.bias"][rows])
        averages = functional.under(s.memory, f"source.{i}.trunk.")
        assert cases.same(averages, functional.under(begun.memory))
    assert not any(n.startswith("classifier.") for n in s.learned)


def only_the_drawn_source_moves(cls, decay=0.0):
    """Not the others, although Adam has moments of them and decays; not the ancestor; running averages neither."""
    algorithm = built(cls)
    s, moments = walked(algorithm, ()), Moments()
    phase = dataclasses.replace(phases(algorithm)["sources"], weight_decay=decay)
    algorithm.phases = lambda _: (phase,)
    for k, i in enumerate((0, 1, 0, 0, 1)):
        before, s = s, moved(algorithm, s, "sources", batch(i, k), moments)
        for tensors, earlier in zip(s, before, strict=True):
            for n, t in tensors.items():
                if n == STEPS:
                    assert (t - earlier[n]).tolist() == [float(j == i) for j in range(3)]
                elif n == f"source.{i}.trunk.conv.weight":
                    assert not torch.equal(t, earlier[n])
                elif not n.startswith(f"source.{i}."):
                    assert torch.equal(t, earlier[n]), n
    assert s.memory[STEPS].tolist() == [3, 2, 0]
    assert moments.steps["source.0.trunk.conv.weight"] == 3
    assert not any(n.startswith(("source.2.", "trunk.")) for n in moments.steps)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_only_the_drawn_source_moves(decay):
    only_the_drawn_source_moves(Averaged, decay)


class OneNetworkForAll(Averaged):
    """Walks once over the sources with one network."""

    def tune(self, s, b):
        names = {n: f"source.0.{n.split('.', 2)[2]}" for n in s.learned if n.startswith("source.") and "head" not in n}
        learned = s.learned | {n: s.learned[to] for n, to in names.items()}
        return super().tune(State(learned, s.memory), b)


class ZerosForTheOthers(Averaged):
    """Their gradient is 0 instead of none, so decay and moments move them."""

    def tune(self, s, b):
        result = super().tune(s, b)
        loss = result.loss + 0 * sum(t.sum() for t in s.learned.values() if t.requires_grad)
        return dataclasses.replace(result, loss=loss)


@pytest.mark.parametrize("mistake", [OneNetworkForAll, ZerosForTheOthers])
def test_moving_another_source_is_noticed(mistake):
    with pytest.raises(AssertionError):
        only_the_drawn_source_moves(mistake, 0.1)


def test_a_step_is_plain_training_of_that_copy():
    algorithm = built()
    s = walked(algorithm)
    b = batch(1, 9)
    leaves = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
    result = algorithm.step(State(leaves, s.memory), b, At("sources", 0, 0.0), Context())
    with norm.batch_statistics() as seen:
        f = functional.call(algorithm.network, own(s, 1), {}, b.x)
    z = f @ s.learned["source.1.head.weight"].T + s.learned["source.1.head.bias"]
    torch.testing.assert_close(result.loss.detach(), F.cross_entropy(z, b.y))
    expected = norm.running_average(functional.under(s.memory, "source.1.trunk."), seen)
    assert cases.same(functional.under(result.memory, "source.1.trunk."), expected)


# ---- the average -----------------------------------------------------------------------------------------


def informed(algorithm, s):
    for k, i in enumerate((0, 1, 2, 2)):
        s = moved(algorithm, s, "fisher", batch(i, 50 + k, size=5), step=k)
    return s


@pytest.mark.parametrize("form", ["plain", "weighted", "fisher"])
def test_the_average_is_by_name_and_of_the_trunk_alone(form):
    algorithm = built(form=form)
    s = walked(algorithm)
    found = phases(algorithm)
    shares = [1 / 3] * 3 if form == "plain" else [c / 9 for c in CLASSES]
    if form == "fisher":
        assert algorithm.finish(s, found["sources"], Context()) is s
        s = informed(algorithm, s)
        assert s.memory[PICTURES].tolist() == [5, 5, 10]
    done = algorithm.finish(s, found["fisher" if form == "fisher" else "sources"], Context())
    ancestor = functional.under(s.learned)
    for n, t in functional.under(done.learned).items():
        copies = torch.stack([own(s, i)[n] for i in range(3)]).double()
        if form == "fisher":
            f = torch.stack([s.memory[f"information.{i}.{n}"] / s.memory[PICTURES][i] for i in range(3)]).double()
            f = f + 1e-3 * f.mean()
            expected = (f * copies).sum(0) / f.sum(0)
            assert float(f.std()) > 0
        else:
            expected = sum(w * c for w, c in zip(shares, copies, strict=True))
        torch.testing.assert_close(t.double(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(t, ancestor[n])
    for n, t in functional.under(done.memory).items():
        members = [functional.under(s.memory, f"source.{i}.trunk.")[n] for i in range(3)]
        torch.testing.assert_close(t, torch.stack(members).mean(0))
    # nothing of the copies is left but the heads, as one classifier to look at the average with
    assert done.learned.keys() == algorithm.init(generator(0)).learned.keys()
    assert torch.equal(done.learned["classifier.weight"][3:5], s.learned["source.1.head.weight"])
    assert not any(n.startswith(("source.", "information.")) for n in done.memory)
    assert done.memory[MODELS] == 3


def test_a_source_without_a_step_is_left_out():
    algorithm = built()
    s = walked(algorithm, (2, 0, 2))
    done = algorithm.finish(s, phases(algorithm)["sources"], Context())
    expected = (own(s, 0)["conv.weight"] + own(s, 2)["conv.weight"]) / 2
    torch.testing.assert_close(done.learned["trunk.conv.weight"], expected)
    assert done.memory[MODELS] == 2
    assert list(averaging.recalled(done.memory)) == [0, 2]
    # and without any step at all the ancestor stays
    none = algorithm.finish(walked(algorithm, ()), phases(algorithm)["sources"], Context())
    assert cases.same(functional.under(none.learned), functional.under(walked(algorithm, ()).learned))
    assert none.memory[MODELS] == 0


@pytest.mark.parametrize("form", ["plain", "weighted", "fisher"])
def test_the_average_of_one_source_is_its_model(form):
    algorithm = built(classes=(3,), form=form)
    s = algorithm.init(generator(0))
    s = algorithm.finish(moved(algorithm, s, "ancestor", batch(0)), phases(algorithm)["ancestor"], Context())
    s = moved(algorithm, s, "sources", batch(0, 1))
    if form == "fisher":
        s = moved(algorithm, s, "fisher", batch(0, 2, size=4))
    done = algorithm.finish(s, phases(algorithm)["fisher" if form == "fisher" else "sources"], Context())
    assert cases.same(functional.under(done.learned), own(s, 0))
    assert cases.same(functional.under(done.memory), functional.under(s.memory, "source.0.trunk."))


def test_what_the_sources_changed_can_be_averaged_anew():
    algorithm = built()
    s = walked(algorithm)
    done = algorithm.finish(s, phases(algorithm)["sources"], Context())
    for i, model in averaging.recalled(done.memory).items():
        assert model.ancestor == averaging.digest(functional.under(s.learned))
        for n, t in model.tensors.items():
            torch.testing.assert_close(t, own(s, i)[n], rtol=0, atol=1e-5)
    again = averaging.mean(list(averaging.recalled(done.memory).values()))
    torch.testing.assert_close(again["conv.weight"], done.learned["trunk.conv.weight"], rtol=0, atol=1e-5)
    without = built(keep_sources=False)
    done = without.finish(s, phases(without)["sources"], Context())
    assert averaging.recalled(done.memory) == {}
    assert set(done.memory) == {"trunk.norm.running_mean", "trunk.norm.running_var", BATCHES, MODELS}


# ---- its statistics --------------------------------------------------------------------------------------


def statistics_are_measured_anew(cls):
    """The plain mean over the last phase's batches, whatever the copies had, and no weight moves."""
    algorithm = built(cls)
    s = algorithm.finish(walked(algorithm), phases(algorithm)["sources"], Context())
    stale = State(s.learned, {**s.memory, "trunk.norm.running_mean": s.memory["trunk.norm.running_mean"] + 50})
    batches = [batch(i, 70 + i, size=20) for i in (0, 1, 2, 1)]
    for b in batches:
        stale = moved(algorithm, stale, "statistics", b)
    means, variances = [], []
    for b in batches:
        with norm.batch_statistics() as seen:
            functional.call(algorithm.network, functional.under(s.learned), {}, b.x)
        m = seen["norm"]
        means.append(m.mean)
        variances.append(m.var * m.values / (m.values - 1))
    done = algorithm.finish(stale, phases(algorithm)["statistics"], Context())
    close = torch.testing.assert_close
    close(done.memory["trunk.norm.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-4)
    close(done.memory["trunk.norm.running_var"], torch.stack(variances).mean(0), rtol=1e-4, atol=1e-4)
    assert cases.same(functional.under(done.learned), functional.under(s.learned))
    assert set(done.learned) == {n for n in s.learned if n.startswith("trunk.")}


def test_statistics_are_measured_anew():
    statistics_are_measured_anew(Averaged)


def test_keeping_the_copies_statistics_is_noticed():
    class Stale(Averaged):
        def measure(self, s, b):
            return dataclasses.replace(super().measure(s, b), memory=s.memory)

    with pytest.raises(AssertionError):
        statistics_are_measured_anew(Stale)


def test_the_average_is_looked_at_with_each_sources_own_head():
    """Pictures of a source are told apart among its classes, by its rows."""
    algorithm = built()
    s = algorithm.finish(walked(algorithm), phases(algorithm)["sources"], Context())
    b = batch(1, 3)
    metrics = algorithm.step(s, b, At("statistics", 0, 0.0), Context()).metrics
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(s.learned), {}, b.x)
    z = (f @ s.learned["classifier.weight"].T + s.learned["classifier.bias"])[:, 3:5]
    assert metrics["loss"] == pytest.approx(float(F.cross_entropy(z, b.y)), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(float((z.argmax(1) == b.y).float().mean()))


# ---- phases and whole runs -------------------------------------------------------------------------------


def test_phases():
    assert list(phases(built())) == ["ancestor", "sources", "statistics"]
    found = phases(built(form="fisher"))
    assert list(found) == ["ancestor", "sources", "fisher", "statistics"]
    assert [p.stream for p in found.values()] == ["batches", "per_source", "per_source", "batches"]
    assert sum(p.share for p in found.values()) == pytest.approx(1)
    assert [p.kept for p in found.values()] == [False, False, False, True]
    s = walked(built(form="fisher"))
    assert rates(found["sources"], s.learned).keys() == {n for n in s.learned if n.startswith("source.")}
    assert not rates(found["fisher"], s.learned)
    assert not rates(found["statistics"], s.learned)


def test_weights_are_the_ancestor():
    tasks.tiny_backbone()
    params, buffers = functional.initial(registry.backbone("tiny").skeleton(1, 8), generator(5))
    algorithm = built(weights=params | buffers)
    assert list(phases(algorithm)) == ["sources", "statistics"]
    s = algorithm.init(generator(0))
    assert cases.same(functional.under(s.learned), params)
    assert all(cases.same(own(s, i), params) for i in range(3))
    assert s.learned["source.2.head.weight"].shape == (4, 128)
    # loaded to be used it has neither copies nor a classifier
    assert set(built(weights=params | buffers, classes=()).init(generator(0)).learned) == {f"trunk.{n}" for n in params}


def test_so_many_copies_of_so_large_a_network_are_refused():
    algorithm = Averaged(Averaged.Params(), Setting("resnet12", 3, 84, classes_per_source=(2,) * 99))
    with pytest.raises(WorkbenchError, match="copy of the network for each of 99 sources would take"):
        algorithm.phases(SourceSummary((2,) * 99, 10))


@pytest.mark.parametrize("form", ["plain", "fisher"])
def test_a_run_is_remembered_by_its_average(form):
    """Not by the ancestor, however well that validates, and never with copies in it."""

    class Ancestral(Averaged):
        def adapt(self, s, support, ctx, **kwargs):
            a = super().adapt(s, support, ctx, **kwargs)
            if MODELS in s.memory:  # the average answers at random, and is kept all the same
                a.tensors["weight"] = a.tensors["weight"].flip(0) * 0
            return a

    drawn = sampler(source("a"), source("b", classes=5, seed=1), ways=(3, 3))
    for cls, episodes in ((Averaged, 60), (Ancestral, 60)):
        algorithm = built(cls, classes=drawn.classes_per_source, form=form, batch=16, lr=0.01)
        plan = Plan(episodes=episodes, seed=3, validation_episodes=5, validate_every=0.1, report_episodes=5)
        out = train(algorithm, drawn, drawn, plan, Context())
        assert out.state.memory[MODELS] == 2
        assert out.state.memory[BATCHES] >= 2
        assert set(out.state.learned) == {"trunk.conv.weight", "trunk.norm.weight", "trunk.norm.bias"}
        assert len([m for m in out.history if m.name == "validation/accuracy"]) >= 8
        again = built(classes=(), form=form)
        assert again.init(generator(0)).learned.keys() == out.state.learned.keys()
