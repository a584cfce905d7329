"""TADAM: Prototypical Networks while the gates are shut, the task's code from the examples, the auxiliary task."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import film, functional, heads, norm
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.algorithms.tadam import TADAM
from workbench.learn.protocol import At, Setting, SourceSummary, State, generator

AT = At("episodes", 3, 0.0)
SHOTS = (1, 3, 2, 1, 4)


def built(cls=TADAM, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, classes_per_source=(40,)))


def trained(algorithm, steps=2):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(seed=0, shots=SHOTS):
    return tasks.episode(generator(seed), shots=shots, dtype=torch.float64)


def opened(state, gate=0.2):
    """The state with its gates open."""
    return State({n: t + gate if n.endswith(".gate") else t for n, t in state.learned.items()}, state.memory)


def test_shut_gates_are_prototypical_networks_to_the_last_bit():
    """Loss, gradients, running averages and answers, in float32; the gates alone have a gradient besides."""
    algorithm, plain = built(auxiliary=False), built(ProtoNet)
    s = cases.train(plain, plain.init(generator(0)), 2)
    shut = State({**film.initial(algorithm.layers, algorithm.features, generator(1)), **s.learned}, s.memory)
    batch = tasks.Episodes(tuple(tasks.episode(generator(i), shots=SHOTS) for i in range(2)))
    results = []
    for a, state in ((plain, s), (algorithm, shut)):
        learned = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
        result = a.step(State(learned, state.memory), batch, AT, Context())
        result.loss.backward()
        results.append((result, {n: t.grad for n, t in learned.items()}))
    (proto, grads), (found, own) = results
    assert torch.equal(proto.loss, found.loss)
    assert proto.metrics == found.metrics
    assert cases.same(proto.memory, found.memory)
    assert all(torch.equal(own[n], g) for n, g in grads.items())
    assert all((float(g.abs().max()) > 0) == n.endswith(".gate") for n, g in own.items() if n.startswith("film."))
    e = batch.episodes[0]
    assert torch.equal(cases.predict(algorithm, shut, e), cases.predict(plain, s, e))
    assert not torch.equal(cases.predict(algorithm, opened(shut), e), cases.predict(plain, s, e))


def loss_by_hand(algorithm, s, e):
    """First look with running averages at the examples alone; the modulated episode is one batch."""
    trunk, buffers = functional.under(s.learned), functional.under(s.memory)
    first = functional.call(algorithm.network, trunk, buffers, e.support_x)
    t = torch.stack([first[e.support_y == k].mean(0) for k in range(e.ways)]).mean(0)
    (gamma, beta) = film.generate(s.learned, algorithm.layers, t)["norm"]
    x = torch.cat([e.support_x, e.query_x])
    y = F.batch_norm(
        F.conv2d(x, trunk["conv.weight"], padding=1), None, None, trunk["norm.weight"], trunk["norm.bias"], True
    )
    f = F.max_pool2d(F.relu(gamma.view(1, -1, 1, 1) * y + beta.view(1, -1, 1, 1)), 2).flatten(1)
    c = torch.stack([f[: len(e.support_y)][e.support_y == k].mean(0) for k in range(e.ways)])
    z = -s.learned["scale"].exp() * (f[len(e.support_y) :, None] - c).square().sum(-1)
    gates = sum(g.square() for n, g in s.learned.items() if n.endswith(".gate"))
    return F.cross_entropy(z, e.query_y) + algorithm.p.penalty * gates


def loss_equals_the_formula(cls):
    algorithm = built(cls, penalty=0.5)
    s, e = opened(trained(algorithm)), task()
    gap = abs(float(algorithm.step(s, tasks.Episodes((e,)), AT, Context()).loss - loss_by_hand(algorithm, s, e)))
    assert gap < 1e-12, f"{gap:.2e}"


def test_the_loss_is_that_of_the_modulated_prototypes():
    loss_equals_the_formula(TADAM)


class QueriesInTheCode(TADAM):
    def task_loss(self, learned, buffers, episode):
        self.queries = episode.query_x
        return super().task_loss(learned, buffers, episode)

    def code(self, learned, buffers, x, y, ways):
        x = torch.cat([x, self.queries])
        return functional.call(self.network, functional.under(learned), buffers, x).mean(0)


class FirstLookSharesStatistics(TADAM):
    def code(self, learned, buffers, x, y, ways):
        with norm.batch_statistics():
            return super().code(learned, buffers, x, y, ways)


class ScaleOfOne(TADAM):
    def task_loss(self, learned, buffers, episode):
        return super().task_loss({**learned, "scale": torch.zeros(())}, buffers, episode)


class PrototypesOfTheFirstLook(TADAM):
    def task_loss(self, learned, buffers, episode):
        shut = {n: 0 * t if n.endswith(".gate") else t for n, t in learned.items()}
        return super().task_loss(shut, buffers, episode)


@pytest.mark.parametrize("cls", [QueriesInTheCode, FirstLookSharesStatistics, ScaleOfOne, PrototypesOfTheFirstLook])
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        loss_equals_the_formula(cls)


def test_a_fixed_scale_is_noticed_as_untrained():
    case = cases.Case("fixed", lambda _: built(ScaleOfOne))
    with pytest.raises(AssertionError, match="scale"):
        conformance.every_learned_tensor_gets_a_gradient(case)


def test_tasks_are_modulated_each_in_its_way():
    algorithm = built()
    s = opened(trained(algorithm))
    a, b = (algorithm.adapt(s, cases.support_of(task(i)), Context()).tensors for i in (0, 1))
    assert set(a) == {"trunk.norm.weight", "trunk.norm.bias", "prototypes"}
    assert float((a["trunk.norm.weight"] - b["trunk.norm.weight"]).abs().max()) > 1e-4


def test_the_code_counts_classes_alike():
    """A class with many examples has no more part in it than one with few."""
    algorithm = built()
    s, e = trained(algorithm), task(shots=1)
    buffers = functional.under(s.memory)
    more = (
        torch.cat([e.support_x, e.support_x[:1], e.support_x[:1]]),
        torch.cat([e.support_y, e.support_y[:1].repeat(2)]),
    )
    here, there = (algorithm.code(s.learned, buffers, x, y, 5) for x, y in ((e.support_x, e.support_y), more))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_the_auxiliary_loss_is_that_of_all_source_classes():
    algorithm = built()
    s = algorithm.init(generator(0))
    e, beside = tasks.episode(generator(0)), tasks.labelled(generator(1), 16)
    alone = algorithm.step(s, tasks.Episodes((e,)), AT, Context())
    both = algorithm.step(s, tasks.Episodes((e,), beside), AT, Context())
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(s.learned), {}, beside.x)
    z = f @ s.learned["classifier.weight"].T + s.learned["classifier.bias"]
    torch.testing.assert_close(both.loss - alone.loss, F.cross_entropy(z, beside.y))
    assert "auxiliary accuracy" in both.metrics
    assert "auxiliary accuracy" not in alone.metrics
    assert cases.same(alone.memory, both.memory)


@pytest.mark.parametrize(("fraction", "low", "high"), [(0.0, 1, 1), (0.04, 1, 1), (0.5, 0.29, 0.41), (1.0, 0.08, 0.17)])
def test_the_auxiliary_task_becomes_rare(fraction, low, high):
    """0.9 to the power of how many twentieths are over: 1, 1, 0.349, 0.122."""
    algorithm = built()
    due = [algorithm.is_auxiliary_due(At("episodes", i, fraction), Context(seed=5)) for i in range(1000)]
    assert low <= sum(due) / len(due) <= high
    assert due == [algorithm.is_auxiliary_due(At("episodes", i, fraction), Context(seed=5)) for i in range(1000)]


def test_without_the_auxiliary_task_there_is_no_classifier():
    algorithm = built(auxiliary=False)
    assert algorithm.phases(SourceSummary((40,), 400))[0].labelled == 0
    assert not any(n.startswith("classifier.") for n in algorithm.init(generator(0)).learned)
    assert built().phases(SourceSummary((40,), 400))[0].labelled == 64
    assert "classifier.weight" in built().init(generator(0)).learned
    assert "classifier.weight" not in trained(built()).learned


def test_the_modulation_is_folded_into_what_is_deployed():
    """No layer more than a deployed Prototypical Network has."""
    algorithm, plain = built(), built(ProtoNet)
    e = tasks.episode(generator(0))
    s = opened(cases.train(algorithm, algorithm.init(generator(0)), 2))
    deployed = algorithm.deploy(s, algorithm.adapt(s, cases.support_of(e), Context()))
    p = plain.init(generator(0))
    other = plain.deploy(p, plain.adapt(p, cases.support_of(e), Context()))
    assert [type(m) for m in deployed.modules()] == [type(m) for m in other.modules()]
    assert isinstance(deployed.head, heads.LinearHead)
