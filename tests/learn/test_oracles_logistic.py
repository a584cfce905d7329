"""Logistic regression against Newton's method on the textbook Hessian; and the probe made of it (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.params import build_params
from workbench.learn import examples, heads, logistic, pairs
from workbench.learn.algorithms.logistic import LogisticProbe
from workbench.learn.protocol import Adapted, Setting, generator

Y = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, 0, 1])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def fit(x, y, c=1.0, weights=None, ctx=None):
    return logistic.fit(x, y, int(y.max()) + 1, c=c, ctx=ctx or Context(), weights=weights)


def newton(x, y, c, weights, start):
    """Newton's method on all ``D N + N`` unknowns with the Hessian that automatic differentiation gives."""
    n, d = int(y.max()) + 1, x.shape[1]

    def value(t):
        # a constant added to all biases changes nothing: it is held at zero
        free = 0.5 * t[n * d :].sum().square()
        return free + logistic.objective(x, y, t[: n * d].view(n, d), t[n * d :], c=c, weights=weights)

    t = start
    for _ in range(100):
        slope = torch.autograd.functional.jacobian(value, t)
        step = torch.linalg.solve(torch.autograd.functional.hessian(value, t), slope)
        length = 1.0
        while float(value(t - length * step)) > float(value(t)) and length > 1e-6:
            length /= 2
        t = t - length * step
        if float(slope.norm()) < 1e-11:
            break
    return t[: n * d].view(n, d), t[n * d :]


WEIGHTS = [None, heads.balanced(Y, 3, normal(1))]


@pytest.mark.parametrize("weights", WEIGHTS, ids=["plain", "balanced"])
@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("dim", [3, 14])
def test_it_is_the_minimiser(dim, c, weights):
    """From two random starts Newton's method comes to the same loss, and to the same classifier."""
    x = F.normalize(normal(10, dim), dim=1)
    found = fit(x, Y, c, weights)
    least = logistic.objective(x, Y, *found, c=c, weights=weights)
    for seed in (1, 2):
        other = newton(x, Y, c, weights, normal(3 * dim + 3, seed=seed))
        assert abs(float(logistic.objective(x, Y, *other, c=c, weights=weights) - least)) < 1e-10
        torch.testing.assert_close(found, other, rtol=0, atol=1e-7)


def slope(x, y, weight, bias, c, weights=None):
    """Length of the gradient at a classifier."""
    leaves = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    grads = torch.autograd.grad(logistic.objective(x, y, *leaves, c=c, weights=weights), leaves)
    return float(torch.cat([g.flatten() for g in grads]).norm())


@pytest.mark.parametrize("c", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("size", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("dim", [2, 50])
def test_nothing_is_left_of_the_gradient(dim, size, c):
    """Short and long features, weak and strong penalties, classes that can be told apart and classes that cannot."""
    x = size * normal(10, dim)
    weight, bias = fit(x, Y, c)
    zero = slope(x, Y, torch.zeros_like(weight), torch.zeros_like(bias), c)
    assert slope(x, Y, weight, bias, c) < 1e-9 * max(zero, 1.0)
    assert float(bias.sum().abs()) < 1e-6


def test_a_few_steps_of_descent_are_noticed():
    x = F.normalize(normal(10, 14), dim=1)
    w, b = torch.zeros(3, 14).double(), torch.zeros(3).double()
    for _ in range(20):
        w.requires_grad_()
        b.requires_grad_()
        grads = torch.autograd.grad(logistic.objective(x, Y, w, b, c=1.0), [w, b])
        w, b = (w - 0.1 * grads[0]).detach(), (b - 0.1 * grads[1]).detach()
    assert slope(x, Y, w, b, 1.0) > 1e-3
    assert float((w - fit(x, Y)[0]).abs().max()) > 1e-3


def test_a_weight_of_two_is_an_example_shown_twice():
    x, a = normal(10, 4), torch.ones(10).double()
    a[3] = 2
    twice = fit(torch.cat([x, x[3:4]]), torch.cat([Y, Y[3:4]]))
    torch.testing.assert_close(fit(x, Y, weights=a), twice, rtol=0, atol=1e-8)


def test_the_loss_is_a_sum_and_not_a_mean():
    x = normal(10, 4)
    doubled = fit(torch.cat([x, x]), torch.cat([Y, Y]), c=1.0)
    torch.testing.assert_close(doubled, fit(x, Y, c=2.0), rtol=0, atol=1e-8)
    assert float((doubled[0] - fit(x, Y, c=1.0)[0]).abs().max()) > 0.01


@pytest.mark.parametrize("rows", [[0, 0, 0, 1, 1], [0, 1, 2, 3, 4]], ids=["copies", "a zero"])
def test_copies_and_empty_features(rows):
    x = normal(5, 20)
    x[4] = 0
    x, y = x[rows], torch.tensor([0, 0, 1, 1, 2])
    weight, bias = fit(x, y)
    assert slope(x, y, weight, bias, 1.0) < 1e-9


def test_one_class_needs_no_classifier():
    weight, bias = fit(normal(3, 4), torch.zeros(3, dtype=torch.int64))
    assert float(weight.abs().max()) == float(bias.abs().max()) == 0


def test_many_examples_of_many_classes():
    y = torch.arange(300) % 20
    x = F.normalize(normal(20, 64)[y] + normal(300, 64, seed=1), dim=1)
    weight, bias = fit(x, y, 10.0)
    assert slope(x, y, weight, bias, 10.0) < 1e-7
    assert weight.dtype == torch.float64
    single = fit(x.float(), y, 10.0)
    assert single[0].dtype == torch.float32
    torch.testing.assert_close(single[0].double(), weight, rtol=0, atol=1e-5)


def sums_are_rows_like_others(cls=pairs.UnitSums):
    """Products with sums of length 1 are those with the rows written down, and so is the classifier."""
    x, a, b = normal(3, 6), normal(2, 6, seed=1), normal(4, 6, seed=2)
    given = cls(x, a, b)
    table = logistic.Table(torch.cat([x, *(F.normalize(row + b, dim=1) for row in a)]))
    w, e = normal(5, 6, seed=3), normal(5, 11, seed=4)
    torch.testing.assert_close(given.logits(w), table.logits(w), rtol=0, atol=1e-14)
    torch.testing.assert_close(given.gathered(e), table.gathered(e), rtol=0, atol=1e-14)
    assert float(given.gathered_squares(e.abs()).min()) >= 0
    y, weights = torch.arange(11) % 3, normal(11, seed=5).abs()
    weights[7] = 0
    found, expected = (logistic.fit_rows(rows, y, 3, c=2.0, ctx=Context(), weights=weights) for rows in (given, table))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_sums_are_rows_like_others():
    sums_are_rows_like_others()


class TheOthersFirst(pairs.UnitSums):
    def logits(self, w):
        plain, sums = super().logits(w).split([3, 8], 1)
        return torch.cat([plain, sums.view(-1, 2, 4).transpose(1, 2).flatten(1)], 1)


class AsLongAsTheyAre(pairs.UnitSums):
    def __init__(self, x, a, b):
        super().__init__(x, a, b)
        self._scale = torch.ones_like(self._scale)


@pytest.mark.parametrize("cls", [TheOthersFirst, AsLongAsTheyAre])
def test_other_sums_are_noticed(cls):
    with pytest.raises(AssertionError):
        sums_are_rows_like_others(cls)


def test_bad_input_and_a_cancel():
    with pytest.raises(ValueError, match="weigh something"):
        fit(normal(10, 4), Y, c=0.0)
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        fit(normal(10, 4), Y, ctx=ctx)


@pytest.mark.parametrize("dim", [4, 10, 30])
def test_the_span_holds_the_examples(dim):
    x = normal(10, dim)
    rows, basis = examples.in_span(x)
    assert rows.shape == (10, min(10, dim) if dim > 10 else dim)
    torch.testing.assert_close(examples.from_span(rows.T, basis).T, x, rtol=0, atol=1e-12)
    if basis is not None:
        torch.testing.assert_close(basis.T @ basis, torch.eye(10).double(), rtol=0, atol=1e-12)


# ---- the probe -------------------------------------------------------------------------------------------------------


def probe(cls=LogisticProbe, **params):
    tasks.tiny_backbone()
    algorithm = cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE))
    return algorithm, cases.double(algorithm.init(generator(0)))


def answers_as_written(cls):
    algorithm, s = probe(cls, c=3.0)
    e = tasks.episode(generator(0), shots=(1, 3, 2, 1, 4), dtype=torch.float64)
    a = algorithm.adapt(s, cases.support_of(e), Context())
    f, q = (F.normalize(algorithm.embed(s, a, x), dim=1) for x in (e.support_x, e.query_x))
    counts = torch.bincount(e.support_y).double()
    weights = (len(e.support_y) / e.ways / counts)[e.support_y]
    assert slope(f, e.support_y, a.tensors["weight"], a.tensors["bias"], 3.0, weights) < 1e-8
    z = q @ a.tensors["weight"].T + a.tensors["bias"]
    torch.testing.assert_close(algorithm.logits(s, a, e.query_x), z, rtol=0, atol=1e-12)


def test_the_probe_is_logistic_regression_on_unit_features():
    answers_as_written(LogisticProbe)


class FeaturesAsTheyAre(LogisticProbe):
    def adapt(self, s, support, ctx, **kwargs):
        f = self._features(s, support.x)
        counts = heads.balanced(support.y, support.ways, f)
        weight, bias = logistic.fit(f, support.y, support.ways, c=self.p.c, ctx=ctx, weights=counts)
        return Adapted({"weight": weight, "bias": bias}, support.ways)


class MeanLoss(LogisticProbe):
    def adapt(self, s, support, ctx, **kwargs):
        fewer = LogisticProbe(build_params(self.Params, {"c": self.p.c / len(support.y)}), self.setting)
        return fewer.adapt(s, support, ctx)


class LargeClassesCountMore(LogisticProbe):
    def adapt(self, s, support, ctx, **kwargs):
        x = F.normalize(self._features(s, support.x), dim=1)
        weight, bias = logistic.fit(x, support.y, support.ways, c=self.p.c, ctx=ctx)
        return Adapted({"weight": weight, "bias": bias}, support.ways)


@pytest.mark.parametrize("cls", [FeaturesAsTheyAre, MeanLoss, LargeClassesCountMore])
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        answers_as_written(cls)


def test_there_is_nothing_to_train():
    algorithm, s = probe()
    assert algorithm.phases(None) == ()
    with pytest.raises(WorkbenchError, match="trains nothing"):
        algorithm.step(s, None, None, Context())
    assert algorithm.finish(s, None, Context()) is s
