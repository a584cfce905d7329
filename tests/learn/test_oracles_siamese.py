"""Siamese networks: the pair's probability, balanced pairs, classes from examples; mistakes are noticed."""

import pytest
import torch

from tests.learn import cases, conformance, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import functional, norm
from workbench.learn.algorithms import siamese
from workbench.learn.algorithms.siamese import BIAS, WEIGHT, Siamese, balanced_loss, combined, log_odds
from workbench.learn.protocol import At, Setting, generator

AT = At("episodes", 0, 0.0)


def built(cls=Siamese, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE))


def trained(algorithm, steps=2):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(seed=0):
    return tasks.episode(generator(seed), shots=(1, 3, 2, 1, 4), dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_a_pair_can_be_exchanged():
    x, y, a, b = normal(5, 6), normal(7, 6, seed=1), normal(6, seed=2), normal(1, seed=3)[0]
    torch.testing.assert_close(log_odds(x, y, a, b), log_odds(y, x, a, b).T, rtol=0, atol=1e-14)


def test_a_picture_and_itself_are_as_alike_as_can_be_iff_no_weight_is_positive():
    x, b = normal(200, 6), torch.tensor(0.3, dtype=torch.float64)
    a = -normal(6, seed=2).abs()
    p = log_odds(x, x, a, b).sigmoid()
    torch.testing.assert_close(p.diagonal(), b.sigmoid().expand(200), rtol=0, atol=1e-15)
    assert float(p.max()) <= float(b.sigmoid())
    a[3] = 0.01  # one positive weight, and a pair that differs there alone is more alike than one picture
    apart = x[:1].clone()
    apart[0, 3] += 1
    assert float(log_odds(x[:1], apart, a, b).sigmoid()) > float(b.sigmoid())


def loss_by_hand(algorithm, s, e):
    """Pair by pair, both pictures of each through one network; the episode is one batch."""
    with norm.batch_statistics():
        x = torch.cat([e.support_x, e.query_x])
        f = functional.call(algorithm.network, functional.under(s.learned), {}, x)
    f, g = f[len(e.support_y) :], f[: len(e.support_y)]
    losses = {True: [], False: []}
    for q, qy in zip(f, e.query_y.tolist(), strict=True):
        for x, y in zip(g, e.support_y.tolist(), strict=True):
            p = torch.sigmoid((s.learned[WEIGHT] * (q - x).abs()).sum() + s.learned[BIAS])
            losses[qy == y].append(-torch.log(p if qy == y else 1 - p))
    return (torch.stack(losses[True]).mean() + torch.stack(losses[False]).mean()) / 2


def loss_equals_the_formula(cls):
    algorithm = built(cls)
    s, e = trained(algorithm), task()
    found = algorithm.step(s, tasks.Episodes((e,)), AT, Context()).loss
    gap = abs(float(found - loss_by_hand(algorithm, s, e)))
    assert gap < 1e-12, f"{gap:.2e}"


def test_the_loss_is_that_of_balanced_pairs():
    loss_equals_the_formula(Siamese)


def mostly_others(odds, same):
    return torch.nn.functional.binary_cross_entropy_with_logits(odds, same.to(odds))


def test_unbalanced_pairs_are_noticed(monkeypatch):
    monkeypatch.setattr(siamese, "balanced_loss", mostly_others)
    with pytest.raises(AssertionError):
        loss_equals_the_formula(Siamese)


def test_a_picture_paired_with_itself_is_noticed():
    class WithItself(Siamese):
        def step(self, s, batch, at, ctx):
            (e,) = batch.episodes
            x, y = torch.cat([e.support_x, e.query_x]), torch.cat([e.support_y, e.query_y])
            with norm.batch_statistics():
                f = functional.call(self.network, functional.under(s.learned), {}, x)
            odds = log_odds(f, f, s.learned[WEIGHT], s.learned[BIAS])
            return siamese.StepResult(loss=balanced_loss(odds, y[:, None] == y), metrics={})

    with pytest.raises(AssertionError):
        loss_equals_the_formula(WithItself)


def test_a_batch_norm_for_each_twin_is_noticed():
    class Apart(Siamese):
        def step(self, s, batch, at, ctx):
            (e,) = batch.episodes
            f = []
            for x in (e.query_x, e.support_x):
                with norm.batch_statistics():
                    f.append(functional.call(self.network, functional.under(s.learned), {}, x))
            odds = log_odds(*f, s.learned[WEIGHT], s.learned[BIAS])
            return siamese.StepResult(loss=balanced_loss(odds, e.query_y[:, None] == e.support_y), metrics={})

    with pytest.raises(AssertionError):
        loss_equals_the_formula(Apart)


@pytest.mark.parametrize("ways", [2, 20])
def test_knowing_nothing_the_loss_pulls_neither_way(ways):
    """At even odds "different" is no better an answer than "same", however many classes there are."""
    same = torch.eye(ways, dtype=torch.bool)

    def pull(loss):
        b = torch.zeros((), dtype=torch.float64, requires_grad=True)
        return float(torch.autograd.grad(loss(b.expand(ways, ways), same), b)[0])

    assert pull(balanced_loss) == pytest.approx(0, abs=1e-15)
    assert ways == 2 or pull(mostly_others) > 0.4


def test_one_class_alone_gives_a_finite_loss():
    assert float(balanced_loss(torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool))) == pytest.approx(0.5 * 0.6931472)


MEMBER = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 1, 2, 1])]


def test_classes_from_examples():
    u = normal(4, 5)
    p = u.sigmoid()
    expected = torch.stack([u[:, 0], u[:, [1, 2, 4]].amax(1), u[:, 3]], 1)
    torch.testing.assert_close(combined(u, MEMBER, "max"), expected, rtol=0, atol=0)
    mean = torch.stack([p[:, 0], p[:, [1, 2, 4]].mean(1), p[:, 3]], 1)
    torch.testing.assert_close(combined(u, MEMBER, "mean"), mean.logit(), rtol=0, atol=1e-12)
    far = combined(1000 * u.float(), MEMBER.float(), "mean")
    assert bool(far.isfinite().all())


def test_softmax_over_log_odds_is_pairwise_belief_given_that_one_class_is_right():
    p = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    joint = torch.stack([p[k] * torch.prod(1 - p[torch.arange(3) != k]) for k in range(3)])
    torch.testing.assert_close(p.logit().softmax(0), joint / joint.sum(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("combine", ["max", "mean"])
def test_one_shot_is_the_pairs_log_odds(combine):
    algorithm = built(combine=combine)
    s, e = trained(algorithm), tasks.episode(generator(1), shots=1, dtype=torch.float64)
    a = algorithm.adapt(s, cases.support_of(e), Context())
    f, g = algorithm.embed(s, a, e.query_x), algorithm.embed(s, a, e.support_x)
    u = log_odds(f, g[torch.argsort(e.support_y)], s.learned[WEIGHT], s.learned[BIAS])
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x), u, rtol=0, atol=1e-12)


def test_the_mean_passes_the_suite_where_it_differs():
    case = cases.Case("mean", lambda _: built(combine="mean"))
    conformance.deploying_equals_logits(case)
    conformance.permuting_classes_permutes_outputs(case)
    conformance.a_query_alone_and_among_75_is_the_same(case)


def test_alike_is_similar_from_the_start():
    learned, _ = built().init(generator(0))
    assert bool((learned[WEIGHT] < 0).all())
    assert float(learned[BIAS]) > 0
