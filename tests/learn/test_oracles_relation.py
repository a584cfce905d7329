"""Relation Networks: every pair by hand, sums, squared error, no leaks; mistakes are noticed."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import functional, heads, norm, registry
from workbench.learn.algorithms import relation
from workbench.learn.algorithms.relation import Comparison, Relation
from workbench.learn.features import trunk_digest
from workbench.learn.protocol import At, Setting, generator

AT = At("episodes", 0, 0.0)
SHOTS = (1, 3, 2, 1, 4)


def built(cls=Relation, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE))


def trained(algorithm, steps=2):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(shots=SHOTS, seed=0):
    return tasks.episode(generator(seed), shots=shots, dtype=torch.float64)


def scored_by_hand(w, pair):
    """``g`` of pairs laid on one another ``[P, 2C, h, h]``, layer by layer, with running averages: ``[P]``."""

    def normalised(x, name):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        shape = (1, -1, 1, 1)
        x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)

    for i in (1, 2):
        pair = F.max_pool2d(F.relu(normalised(F.conv2d(pair, w[f"conv{i}.weight"], padding=1), f"norm{i}")), 2)
    hidden = F.relu(F.linear(pair.flatten(1), w["hidden.weight"], w["hidden.bias"]))
    return F.linear(hidden, w["out.weight"], w["out.bias"])[:, 0]


def by_hand(algorithm, s, e):
    """Log-odds pair by pair: the class's maps are the sum of its examples'."""
    shape = (-1, algorithm.channels, algorithm.side, algorithm.side)
    support, queries = (algorithm.embed(s, None, x).reshape(shape) for x in (e.support_x, e.query_x))
    w = functional.under({**s.learned, **s.memory}, "relation.")
    columns = []
    for k in range(e.ways):
        of_class = support[e.support_y == k].sum(0, keepdim=True).expand(len(queries), -1, -1, -1)
        columns.append(scored_by_hand(w, torch.cat([of_class, queries], 1)))
    return torch.stack(columns, 1)


def equals_the_formula(cls, **params):
    algorithm = built(cls, **params)
    s, e = trained(algorithm), task()
    gap = float((cases.predict(algorithm, s, e) - by_hand(algorithm, s, e)).abs().max())
    assert gap < 1e-10, f"{gap:.2e}"


def test_every_pair_is_scored_by_the_network_on_both_maps():
    equals_the_formula(Relation)


def test_the_mean_for_the_sum_is_noticed():
    with pytest.raises(AssertionError):
        equals_the_formula(Relation, combine="mean")


def test_the_mean_is_the_sum_at_one_shot_and_does_not_grow_with_shots():
    s, e = trained(built()), task(shots=1)
    sums, means = (cases.predict(built(combine=c), s, e) for c in ("sum", "mean"))
    torch.testing.assert_close(sums, means, rtol=0, atol=1e-12)
    twice = tasks.Episode(
        e.support_x.repeat(2, 1, 1, 1),
        e.support_y.repeat(2),
        e.query_x,
        e.query_y,
        e.ways,
        e.class_names,
        e.task,
        torch.arange(10),
        torch.arange(10, 10 + len(e.query_y)),
    )
    torch.testing.assert_close(cases.predict(built(combine="mean"), s, twice), means, rtol=0, atol=1e-12)
    assert float((cases.predict(built(), s, twice) - sums).abs().max()) > 1e-3


def test_the_mean_passes_the_suite_where_it_differs():
    case = cases.Case("mean", lambda _: built(combine="mean"))
    conformance.deploying_equals_logits(case)
    conformance.permuting_classes_permutes_outputs(case)


def loss_equals_squared_error(cls):
    """All of an episode's pictures are one batch, and then all of its pairs are one."""
    algorithm = built(cls)
    s, e = trained(algorithm), task()
    with norm.batch_statistics():
        x = torch.cat([e.support_x, e.query_x])
        maps = functional.call(algorithm.network, functional.under(s.learned), {}, x)
    shape = (-1, algorithm.channels, algorithm.side, algorithm.side)
    support, queries = maps.reshape(shape).tensor_split([len(e.support_y)])
    classes = torch.stack([support[e.support_y == k].sum(0) for k in range(e.ways)])
    n, b = e.ways, len(queries)
    pairs = torch.cat([classes.repeat(b, 1, 1, 1), queries.repeat_interleave(n, 0)], 1)
    with norm.batch_statistics() as statistics:
        params = functional.under(s.learned, "relation.")
        torch.func.functional_call(algorithm.relation, (params, {}), (classes, queries))
    w = {**params, **norm.as_buffers(statistics)}
    r = scored_by_hand(w, pairs).sigmoid().reshape(b, n)
    expected = (r - heads.one_hot(e.query_y, n, r)).square().mean()
    found = algorithm.step(s, tasks.Episodes((e,)), AT, Context()).loss
    gap = abs(float(found - expected))
    assert gap < 1e-12, f"{gap:.2e}"


def test_the_loss_is_the_squared_error_of_the_relation():
    loss_equals_squared_error(Relation)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda r, t: F.cross_entropy(r.logit(), t.argmax(1)),
        lambda r, t: F.mse_loss(r.logit(), t),
        lambda r, t: F.mse_loss(r, t, reduction="sum"),
    ],
    ids=["cross entropy", "not of a probability", "sum"],
)
def test_another_loss_is_noticed(monkeypatch, mistake):
    class Mistaken:
        mse_loss = staticmethod(mistake)

        def __getattr__(self, name):
            return getattr(F, name)

    monkeypatch.setattr(relation, "F", Mistaken())
    with pytest.raises(AssertionError):
        loss_equals_squared_error(Relation)


class TrainingModeInUse(Relation):
    def _compare(self, params, buffers, classes, queries):
        with norm.batch_statistics():
            return super()._compare(params, buffers, classes, queries)


def test_statistics_of_the_queries_are_noticed_as_a_leak():
    with pytest.raises(AssertionError):
        conformance.a_query_alone_and_among_75_is_the_same(cases.Case("leak", lambda _: built(TrainingModeInUse)))


def test_the_order_of_queries_and_the_other_classes_do_not_matter():
    algorithm = built()
    s, e = trained(algorithm), task()
    a = algorithm.adapt(s, cases.support_of(e), Context())
    z, order = algorithm.logits(s, a, e.query_x), torch.randperm(len(e.query_y), generator=generator(1))
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x[order]), z[order], rtol=0, atol=1e-12)
    few = relation.Adapted({"classes": a.tensors["classes"][:2]}, 2)
    torch.testing.assert_close(algorithm.logits(s, few, e.query_x), z[:, :2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7])
def test_small_maps_are_halved_as_long_as_there_is_something_to_halve(side):
    g = Comparison(3, 4, side)
    assert g(torch.zeros(2, 3, side, side), torch.zeros(5, 3, side, side)).shape == (5, 2)


def test_its_trunk_has_a_digest_of_its_own():
    """Under the same weights it computes maps, not what the backbone computes: features must not be mistaken."""
    s = built().init(generator(0))
    weights = functional.under({**s.learned, **s.memory})
    plain = registry.create("ridge", {}, Setting("tiny", 1, tasks.SIZE, weights=weights)).init(generator(1))
    assert all(torch.equal(plain.learned[n], s.learned[n]) for n in plain.learned)
    assert trunk_digest(plain) != trunk_digest(s)
    again = registry.create("relation", {}, Setting("tiny", 1, tasks.SIZE, weights=weights)).init(generator(1))
    assert trunk_digest(again) == trunk_digest(s)
