"""TIM: its loss written out, what information means, where it helps and harms; mistakes are noticed (float64)."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from tests.learn.data import sampler, source
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.core.params import build_params
from workbench.learn import evaluate as evaluation
from workbench.learn import features, norm
from workbench.learn.algorithms import tim
from workbench.learn.algorithms.tim import TIM, entropy
from workbench.learn.evaluate import evaluate, freeze
from workbench.learn.protocol import Adapted, Setting, Support, generator

SHOTS = (1, 3, 2, 1, 4)


def built(cls=TIM, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, classes_per_source=(40,)))


def trained(algorithm, steps=3):
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(seed=0):
    return tasks.episode(generator(seed), shots=SHOTS, dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def unit(*shape, seed=0):
    return F.normalize(normal(*shape, seed=seed), dim=1)


# ---- the loss --------------------------------------------------------------------------------------------------------


def by_hand(p, rows, examples, y, queries):
    """Picture by picture and class by class."""

    def probabilities(f):
        z = [p.scale * float(f @ w) / float(f.norm() * w.norm()) for w in rows]
        e = [math.exp(v) for v in z]
        return [v / sum(e) for v in e]

    def doubt(ps):
        return -sum(v * math.log(v) for v in ps)

    ways = len(rows)
    own = [-math.log(probabilities(f)[int(k)]) for f, k in zip(examples, y, strict=True)]
    each = [[c for c, k in zip(own, y.tolist(), strict=True) if k == n] for n in range(ways)]
    labelled = sum(sum(c) / len(c) for c in each) / ways
    asked = [probabilities(f) for f in queries]
    mean = [sum(q[k] for q in asked) / len(asked) for k in range(ways)]
    return labelled - p.marginal * doubt(mean) + p.conditional * sum(map(doubt, asked)) / len(asked)


def problem(seed=0):
    y = torch.arange(4).repeat_interleave(torch.tensor([1, 3, 2, 1]))
    return normal(4, 6, seed=seed), unit(7, 6, seed=seed + 1), y, unit(9, 6, seed=seed + 2)


def equals_the_formula(cls):
    algorithm = built(cls, marginal=0.7, conditional=0.3, scale=4.0)
    found = algorithm.loss(*problem())
    assert float(found) == pytest.approx(by_hand(algorithm.p, *problem()), abs=1e-12)


def test_the_loss_is_examples_minus_balance_plus_doubt():
    equals_the_formula(TIM)


class WrongSign(TIM):
    def loss(self, rows, examples, y, queries):
        labelled = super().loss(rows, examples, y, queries[:0])
        return 2 * labelled - super().loss(rows, examples, y, queries)


class NoFactor(TIM):
    def loss(self, rows, examples, y, queries):
        return built(scale=1.0, marginal=0.7, conditional=0.3).loss(rows, examples, y, queries)


class SoftmaxTwice(TIM):
    def loss(self, rows, examples, y, queries):
        p = [(4 * F.normalize(f, dim=1) @ F.normalize(rows, dim=1).T).softmax(1) for f in (examples, queries)]
        labelled = torch.stack([F.cross_entropy(p[0][y == k], y[y == k]) for k in range(len(rows))]).mean()
        return labelled - 0.7 * entropy(p[1].mean(0).log()) + 0.3 * entropy(p[1].log()).mean()


class MeanAndEntropyMixedUp(TIM):
    def loss(self, rows, examples, y, queries):
        log_p = (4 * F.normalize(queries, dim=1) @ F.normalize(rows, dim=1).T).log_softmax(1)
        labelled = super().loss(rows, examples, y, queries[:0])
        return labelled - 0.7 * entropy(log_p).mean() + 0.3 * entropy(log_p.exp().mean(0).log())


class ExamplesAmongTheQueries(TIM):
    def loss(self, rows, examples, y, queries):
        return super().loss(rows, examples, y, torch.cat([queries, examples]))


class ManyExamplesCountMore(TIM):
    def loss(self, rows, examples, y, queries):
        unequal = F.cross_entropy(4 * F.normalize(examples, dim=1) @ F.normalize(rows, dim=1).T, y)
        return super().loss(rows, examples, y, queries) - super().loss(rows, examples, y, queries[:0]) + unequal


@pytest.mark.parametrize(
    "cls", [WrongSign, NoFactor, SoftmaxTwice, MeanAndEntropyMixedUp, ExamplesAmongTheQueries, ManyExamplesCountMore]
)
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        equals_the_formula(cls)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_the_gradient_is_that_of_finite_differences(alpha):
    algorithm = built(alpha=alpha, marginal=0.7, conditional=0.3, scale=4.0)
    rows, *others = problem()
    rows.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: algorithm.loss(w, *others), [rows])


def the_gradient_written_out_is_autograds(cls, queries=9, **params):
    algorithm = built(cls, **{"marginal": 0.7, "conditional": 0.3, "scale": 4.0, **params})
    rows, examples, y, asked = problem()
    asked = asked[:queries]
    rows.requires_grad_()
    (expected,) = torch.autograd.grad(algorithm.loss(rows, examples, y, asked), [rows])
    targets = F.one_hot(y, 4).T.double()
    shares = torch.stack([1 / (4 * (y == k).double().sum()) for k in y])
    found = algorithm.gradient(rows.detach(), torch.cat([examples, asked]), targets, shares)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("queries", [0, 9])
@pytest.mark.parametrize("alpha", [1.0, 1.5, 4.0])
def test_the_gradient_written_out_is_autograds(alpha, queries):
    the_gradient_written_out_is_autograds(TIM, queries, alpha=alpha)


class AlongTheRows(TIM):
    """The rows' lengths forgotten."""

    def gradient(self, rows, *others):
        return super().gradient(F.normalize(rows, dim=1), *others)


class MeanHeldFast(TIM):
    def gradient(self, *args):
        return built(marginal=0.0, conditional=0.3, scale=4.0).gradient(*args)


class OtherEntropy(TIM):
    def gradient(self, *args):
        return built(marginal=0.7, conditional=0.3, scale=4.0, alpha=2.0).gradient(*args)


@pytest.mark.parametrize("cls", [AlongTheRows, MeanHeldFast, OtherEntropy])
def test_autograd_notices(cls):
    with pytest.raises(AssertionError):
        the_gradient_written_out_is_autograds(cls)


# ---- information -----------------------------------------------------------------------------------------------------


def test_entropy_is_largest_where_all_is_open_and_nothing_where_all_is_sure():
    even, sure = torch.full((5,), 0.2, dtype=torch.float64).log(), torch.tensor([0.0] + 4 * [-800.0])
    assert float(entropy(even)) == pytest.approx(math.log(5))
    assert float(entropy(even, 2.0)) == pytest.approx(1 - 1 / 5)
    assert float(entropy(sure)) == float(entropy(sure, 2.0)) == 0
    some = normal(50, 5).log_softmax(1)
    for alpha in (1.0, 1.5, 4.0):
        assert float(entropy(some, alpha).min()) > 0
        assert float(entropy(some, alpha).max()) < float(entropy(even, alpha))


def test_tsallis_entropy_meets_shannons():
    log_p = normal(6, 5).log_softmax(1)
    gaps = [float((entropy(log_p, 1 + h) - entropy(log_p)).abs().max()) for h in (1e-3, 1e-5)]
    assert gaps[0] < 1e-2
    assert gaps[1] == pytest.approx(gaps[0] / 100, rel=0.05)
    torch.testing.assert_close(entropy(log_p, 2.0), 1 - log_p.exp().square().sum(1))


def test_what_is_gained_is_between_nothing_and_the_number_of_classes():
    """With both weights 1 and no examples' loss it is minus the mutual information: 0 to log N."""
    algorithm = built(marginal=1.0, conditional=1.0, scale=60.0)
    rows = torch.eye(4, dtype=torch.float64)
    labelled = algorithm.loss(rows, rows, torch.arange(4), rows[:0])

    def information(queries):
        return float(labelled - algorithm.loss(rows, rows, torch.arange(4), queries))

    assert information(rows.repeat(3, 1)) == pytest.approx(math.log(4), abs=1e-12)
    assert information(rows[:1].repeat(5, 1)) == pytest.approx(0, abs=1e-12)
    assert information(torch.full((3, 4), 0.5, dtype=torch.float64)) == pytest.approx(0, abs=1e-12)
    assert 0 < information(unit(9, 4)) < math.log(4)


def finite_where_probabilities_vanish(algorithm):
    rows, examples, y, queries = (t.float() if t.is_floating_point() else t for t in problem())
    rows.requires_grad_()
    loss = algorithm.loss(rows, examples, y, queries)
    (g,) = torch.autograd.grad(loss, [rows])
    assert bool(loss.isfinite())
    assert bool(g.isfinite().all())
    shares = torch.full((len(y),), 1 / len(y))
    written = algorithm.gradient(rows.detach(), torch.cat([examples, queries]), F.one_hot(y, 4).T.float(), shares)
    assert bool(written.isfinite().all())


def test_a_probability_of_exactly_zero_has_a_gradient():
    finite_where_probabilities_vanish(built(scale=1000.0))


def test_the_logarithm_of_zero_is_noticed():
    class Plain(TIM):
        def loss(self, rows, examples, y, queries):
            p = (self.p.scale * F.normalize(queries, dim=1) @ F.normalize(rows, dim=1).T).softmax(1)
            return (-p * p.log()).sum(1).mean()

    with pytest.raises(AssertionError):
        finite_where_probabilities_vanish(built(Plain, scale=1000.0))


# ---- the descent -----------------------------------------------------------------------------------------------------


def test_without_steps_it_is_the_nearest_class_mean_by_angle():
    algorithm = built(test_steps=0)
    s, e = trained(algorithm), task()
    a = algorithm.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x)
    support, queries = (F.normalize(algorithm.embed(s, a, x), dim=1) for x in (e.support_x, e.query_x))
    means = torch.stack([support[e.support_y == k].mean(0) for k in range(e.ways)])
    expected = algorithm.p.scale * F.cosine_similarity(queries[:, None], means, dim=-1)
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x), expected, rtol=0, atol=1e-12)


def test_the_rows_take_steps_of_adam_down_the_loss():
    algorithm = built(test_steps=3, head_lr=0.01)
    _, examples, y, queries = problem()
    found = list(algorithm.descent(examples, y, 4, queries, Context()))
    rows = torch.stack([examples[y == k].mean(0) for k in range(4)])
    m = v = torch.zeros_like(rows)
    for j in range(4):
        torch.testing.assert_close(found[j], rows, rtol=0, atol=1e-12)
        rows = rows.requires_grad_()
        (g,) = torch.autograd.grad(algorithm.loss(rows, examples, y, queries), [rows])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9 ** (j + 1)) / ((v / (1 - 0.999 ** (j + 1))).sqrt() + 1e-8)
        rows = (rows - 0.01 * step).detach()


def test_the_loss_falls_to_a_minimum():
    algorithm = built(test_steps=1000, head_lr=0.02)
    _, examples, y, queries = problem()
    *_, last = path = list(algorithm.descent(examples, y, 4, queries, Context()))
    losses = [float(algorithm.loss(w, examples, y, queries)) for w in path[::50]]
    assert losses[0] > losses[1] > losses[-1]
    last.requires_grad_()
    (g,) = torch.autograd.grad(algorithm.loss(last, examples, y, queries), [last])
    assert float(g.abs().max()) < 1e-3


def clusters(counts, seed=0, noise=0.6):
    """Queries about four directions, ``counts`` of each class; one example of each class."""
    gen = generator(seed)
    centres = torch.eye(4, 8, dtype=torch.float64)
    y = torch.arange(4).repeat_interleave(torch.tensor(counts))

    def around(k):
        return F.normalize(centres[k] + noise * torch.randn(len(k), 8, generator=gen, dtype=torch.float64) / 2, dim=1)

    return around(torch.arange(4)), around(y), y


def right(counts, folders=15, **params):
    """Mean share of right queries before the first step and after the last."""
    algorithm = built(scale=10.0, test_steps=60, head_lr=0.03, **params)
    found = []
    for seed in range(folders):
        examples, queries, y = clusters(counts, seed, noise=0.8)
        path = list(algorithm.descent(examples, torch.arange(4), 4, queries, Context()))
        found.append(
            [float(((queries @ F.normalize(w, dim=1).T).argmax(1) == y).double().mean()) for w in (path[0], path[-1])]
        )
    before, after = torch.tensor(found).mean(0).tolist()
    return before, after


def test_a_balanced_folder_helps_to_classify_it():
    before, after = right((15, 15, 15, 15))
    assert after > before + 0.02


def test_a_skewed_folder_is_harmed_unless_balance_is_not_asked_for():
    """The assumption that the module names: classes that are not there are filled all the same."""
    skewed = (54, 2, 2, 2)
    before, after = right(skewed)
    assert after < before - 0.05
    assert right(skewed, marginal=0.0)[1] > after + 0.05
    assert right(skewed, alpha=2.0)[1] > after


# ---- transduction ----------------------------------------------------------------------------------------------------


def answers(algorithm, s, e, x=None, unlabelled=None):
    a = algorithm.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x if unlabelled is None else unlabelled)
    return algorithm.logits(s, a, e.query_x if x is None else x)


def test_other_pictures_change_the_answer_and_their_order_does_not():
    algorithm = built(test_steps=20)
    s, e = trained(algorithm), task()
    z = answers(algorithm, s, e)
    assert not torch.allclose(z, answers(algorithm, s, e, unlabelled=e.query_x[:9]), atol=1e-3)
    order = torch.randperm(len(e.query_y), generator=generator(1))
    torch.testing.assert_close(answers(algorithm, s, e, unlabelled=e.query_x[order]), z, rtol=0, atol=1e-7)


def test_numbering_the_classes_otherwise_changes_the_order_alone():
    algorithm = built(test_steps=20)
    s, e = trained(algorithm), task()
    order = torch.tensor([3, 0, 4, 1, 2])
    support = Support(e.support_x, torch.argsort(order)[e.support_y], e.ways)
    moved = algorithm.adapt(s, support, Context(), unlabelled=e.query_x)
    found = algorithm.logits(s, moved, e.query_x)
    torch.testing.assert_close(found, answers(algorithm, s, e)[:, order], rtol=0, atol=1e-7)


def asking_moves_nothing(cls):
    """Twice the same; a picture alone as among all; and what was adapted before is not built on."""
    algorithm = built(cls, test_steps=20)
    s, e = trained(algorithm), task()
    a = algorithm.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x)
    kept = a.tensors["weight"].clone()
    first = algorithm.logits(s, a, e.query_x)
    alone = torch.cat([algorithm.logits(s, a, x[None]) for x in e.query_x])
    torch.testing.assert_close(alone, first, rtol=0, atol=1e-10)
    assert torch.equal(algorithm.logits(s, a, e.query_x), first)
    assert torch.equal(a.tensors["weight"], kept)
    assert torch.equal(answers(algorithm, s, e), first)


def test_asking_moves_nothing():
    asking_moves_nothing(TIM)


class MovesWhileAnswering(TIM):
    def logits(self, s, a, x):
        z = super().logits(s, a, x)
        a.tensors["weight"] += 0.01 * F.normalize(self._features(s, x), dim=1).mean(0)
        return z


class StartsWhereItStopped(TIM):
    last = None

    def descent(self, examples, y, ways, queries, ctx):
        offset = 0 if self.last is None else self.last
        for rows in super().descent(examples, y, ways, queries, ctx):
            yield rows + offset
        self.last = 0.1 * rows.roll(1, 0)


class QueriesNormaliseThemselves(TIM):
    def _features(self, s, x):
        with norm.batch_statistics():
            return super()._features(s, x)


@pytest.mark.parametrize("cls", [MovesWhileAnswering, StartsWhereItStopped, QueriesNormaliseThemselves])
def test_moving_while_asking_is_noticed(cls):
    with pytest.raises(AssertionError):
        asking_moves_nothing(cls)


def test_without_pictures_it_learns_of_the_examples_alone():
    algorithm = built(test_steps=10)
    s, e = trained(algorithm), task()
    plain = algorithm.adapt(s, cases.support_of(e), Context())
    empty = algorithm.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x[:0])
    no_weight = built(test_steps=10, marginal=0.0, conditional=0.0)
    weightless = no_weight.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x)
    assert torch.equal(plain.tensors["weight"], empty.tensors["weight"])
    torch.testing.assert_close(plain.tensors["weight"], weightless.tensors["weight"], rtol=0, atol=1e-12)
    assert not torch.allclose(
        plain.tensors["weight"],
        algorithm.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x).tensors["weight"],
    )


def test_many_pictures_are_taken_some_at_a_time(monkeypatch):
    algorithm = built(test_steps=2)
    s, e = trained(algorithm), task()
    whole = answers(algorithm, s, e)
    monkeypatch.setattr(features, "batch_size", lambda *_: 4)
    torch.testing.assert_close(answers(algorithm, s, e), whole, rtol=0, atol=1e-10)
    assert tim.pictures is features
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        algorithm.adapt(s, cases.support_of(e), ctx, unlabelled=e.query_x)


def test_kept_features_do_as_well_as_pictures():
    algorithm = built(test_steps=10)
    s, e = trained(algorithm), task()
    trunk = algorithm.trunk(s)
    cached = Support(torch.full_like(e.support_x, torch.nan), e.support_y, e.ways, trunk(e.support_x))
    found = algorithm.adapt(s, cached, Context(), unlabelled=trunk(e.query_x))
    wanted = algorithm.adapt(s, cases.support_of(e), Context(), unlabelled=e.query_x)
    torch.testing.assert_close(found.tensors, wanted.tensors, rtol=0, atol=1e-8)


def the_evaluation_hands_over_the_queries():
    """From pictures and from kept features alike: more is right than by the examples alone, by the same amount."""
    algorithm = built(test_steps=20, head_lr=0.02)
    s = cases.train(algorithm, algorithm.init(generator(0)), 20)
    frozen = freeze(sampler(source("a")), 10, 0)
    slow, fast = (evaluate(algorithm, s, frozen, Context(), cached=c, by_step=False) for c in (False, True))
    alone = evaluate(built(test_steps=20, head_lr=0.02, marginal=0.0, conditional=0.0), s, frozen, Context())
    assert fast.loss == pytest.approx(slow.loss, rel=1e-4)
    assert fast.loss != pytest.approx(alone.loss, rel=1e-2)


def test_the_evaluation_hands_over_the_queries():
    the_evaluation_hands_over_the_queries()


def test_an_evaluation_that_keeps_them_back_is_noticed(monkeypatch):
    whole = evaluation._adapt
    monkeypatch.setattr(evaluation, "_adapt", lambda *a: whole(*a[:6], None, *a[7:]))
    with pytest.raises(AssertionError):
        the_evaluation_hands_over_the_queries()


def test_a_picture_is_classified_by_its_direction():
    algorithm = built()
    a = Adapted({"weight": normal(3, algorithm.features)}, 3)
    f = normal(5, algorithm.features, seed=1)
    s = trained(algorithm, 2)
    head = algorithm.head(s, a)
    torch.testing.assert_close(head(7 * f), head(f), rtol=0, atol=1e-12)
    longer = algorithm.head(s, Adapted({"weight": 3 * a.tensors["weight"]}, 3))
    torch.testing.assert_close(longer(f), head(f), rtol=0, atol=1e-12)


def test_the_classifier_of_the_sources_is_dropped():
    algorithm = built()
    assert not any(n.startswith("classifier.") for n in trained(algorithm).learned)
