"""Baseline and Baseline++: the authors' descent step for step, convexity, no order, blindness to scale (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.core.params import build_params
from workbench.learn import examples, fresh_head, functional, heads, norm
from workbench.learn.algorithms.baseline import LENGTHS, Baseline, BaselinePlusPlus, cosine_logits, scale
from workbench.learn.fresh_head import Recipe
from workbench.learn.protocol import At, Phase, Setting, SourceSummary, State, Support, generator

BOTH = [Baseline, BaselinePlusPlus]
AT = At("classes", 0, 0.0)
Y = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, 0, 1, 0, 1])
UNEQUAL = torch.tensor([0, 1, 1, 2, 2, 2, 1, 2, 2, 2, 1])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def built(cls, **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting("tiny", 1, tasks.SIZE, classes_per_source=(40,)))


def last(fits):
    *_, found = fits
    return found


def linear(x, y, recipe, **options):
    return last(fresh_head.linear(x, y, int(y.max()) + 1, recipe, Context(), **options))


def cosine(x, y, recipe, **options):
    return last(fresh_head.cosine(x, y, int(y.max()) + 1, 2.0, recipe, Context(), **options))


def textbook(x, y, parameters, logits, recipe, dampening=0.9):
    """The authors' loop: torch's own SGD with automatic differentiation, on the same minibatches."""
    optimiser = torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, dampening=dampening, weight_decay=recipe.decay
    )
    order, gen = examples.canonical_order(x), generator(recipe.seed)
    weights = heads.balanced(y, int(y.max()) + 1, x)
    for _ in range(recipe.epochs):
        for rows in order[torch.randperm(len(y), generator=gen)].split(recipe.batch):
            optimiser.zero_grad()
            (weights[rows] * F.cross_entropy(logits(x[rows]), y[rows], reduction="none")).mean().backward()
            optimiser.step()


@pytest.mark.parametrize("y", [Y, UNEQUAL], ids=["even", "unequal"])
@pytest.mark.parametrize("dim", [5, 30])
def test_the_linear_head_takes_the_authors_steps(dim, y):
    """Also where it is fitted in the span of fewer examples than features."""
    x, recipe = normal(len(y), dim), Recipe(epochs=7)
    w, b = torch.zeros(3, dim).double().requires_grad_(), torch.zeros(3).double().requires_grad_()
    textbook(x, y, [w, b], lambda f: F.linear(f, w, b), recipe)
    torch.testing.assert_close(linear(x, y, recipe), (w.detach(), b.detach()), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dim", [5, 30])
def test_the_cosine_head_takes_the_authors_steps(dim):
    """Weight norm with a learnt length for each class."""
    x, recipe = normal(len(UNEQUAL), dim), Recipe(epochs=7)
    unit = F.normalize(x, dim=1)
    v = heads.prototypes(unit, UNEQUAL, 3).requires_grad_()
    g = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)

    def rows():
        return g * v / v.norm(dim=1, keepdim=True)

    textbook(unit, UNEQUAL, [v, g], lambda f: 2 * f @ rows().T, recipe)
    torch.testing.assert_close(cosine(x, UNEQUAL, recipe), 2 * rows().detach(), rtol=0, atol=1e-13)
    assert float((g.detach() - 1).abs().min()) > 1e-3, "the lengths were not learnt"


def test_momentum_without_dampening_is_noticed():
    x, recipe = normal(len(Y), 5), Recipe(epochs=7)
    w, b = torch.zeros(3, 5).double().requires_grad_(), torch.zeros(3).double().requires_grad_()
    textbook(x, Y, [w, b], lambda f: F.linear(f, w, b), recipe, dampening=0.0)
    assert float((linear(x, Y, recipe)[0] - w.detach()).abs().max()) > 0.01


def test_an_empty_recipe_gives_the_start():
    x = normal(len(UNEQUAL), 6)
    weight, bias = linear(x, UNEQUAL, Recipe(epochs=0))
    assert float(weight.abs().max()) == float(bias.abs().max()) == 0
    means = heads.prototypes(F.normalize(x, dim=1), UNEQUAL, 3)
    torch.testing.assert_close(cosine(x, UNEQUAL, Recipe(epochs=0)), 2 * F.normalize(means, dim=1))


def loss(x, y, weight, bias, decay):
    return F.cross_entropy(F.linear(x, weight, bias), y) + 0.5 * decay * (weight.square().sum() + bias.square().sum())


def test_two_seeds_end_at_the_same_loss():
    """The linear head is convex: with enough steps minibatches do not matter, and the loss is the least there is."""
    x, ends = normal(len(Y), 4), []
    for seed in (0, 1):
        recipe = Recipe(epochs=1000, decay=0.1, seed=seed)
        ends.append(loss(x, Y, *linear(x, Y, recipe), 0.1))
    flat = torch.zeros(15, dtype=torch.float64)

    def of(t):
        return loss(x, Y, t[:12].view(3, 4), t[12:], 0.1)

    for _ in range(20):
        slope = torch.autograd.functional.jacobian(of, flat)
        flat = flat - torch.linalg.solve(torch.autograd.functional.hessian(of, flat), slope)
    assert float(of(flat)) <= float(min(ends)) + 1e-12
    assert float(max(ends) - of(flat)) < 1e-4


@pytest.mark.parametrize("fit", [linear, cosine])
def test_the_order_of_examples_does_not_matter(fit, monkeypatch):
    x, recipe = normal(len(UNEQUAL), 30), Recipe(epochs=10)
    order = torch.randperm(len(UNEQUAL), generator=generator(1))

    def gap():
        first, moved = fit(x, UNEQUAL, recipe), fit(x[order], UNEQUAL[order], recipe)
        a, b = (f[0] if fit is linear else f for f in (first, moved))
        return float((a - b).abs().max())

    assert gap() < 1e-12
    monkeypatch.setattr(examples, "canonical_order", lambda x: torch.arange(len(x)))
    assert gap() > 1e-6, "batches by order of arrival would not be noticed"


def test_cosines_are_blind_to_the_scale_of_features_and_a_linear_head_is_not():
    x, recipe = normal(len(Y), 6), Recipe(epochs=5)
    torch.testing.assert_close(cosine(7 * x, Y, recipe), cosine(x, Y, recipe), rtol=0, atol=1e-12)
    assert float((linear(7 * x, Y, recipe)[0] - linear(x, Y, recipe)[0]).abs().max()) > 0.01
    f = normal(4, 6, seed=2)
    rows, lengths = normal(3, 6, seed=3), normal(3, seed=4)
    torch.testing.assert_close(cosine_logits(0.1 * f, rows, lengths), cosine_logits(f, rows, lengths))


def test_the_whole_method_is_blind_to_scale():
    """A trunk whose features are three times as large gives the same answers; with raw features it would not."""

    class Raw(BaselinePlusPlus):
        def head(self, s, a):
            return heads.LinearHead(a.tensors["weight"], a.tensors["weight"].new_zeros(a.ways))

    e = tasks.episode(generator(0), dtype=torch.float64)

    def gap(cls):
        algorithm = built(cls, test_steps=5)
        s = cases.double(cases.train(algorithm, algorithm.init(generator(0)), 2))
        # behind a ReLU and a pooling, the gains of the last normalisation scale the features
        louder = {n: 3 * t if n.startswith("trunk.norm") else t for n, t in s.learned.items()}
        here, there = (cases.predict(algorithm, State(t, s.memory), e) for t in (s.learned, louder))
        return float((here - there).abs().max() / here.abs().max())

    assert gap(BaselinePlusPlus) < 1e-12
    assert gap(Raw) > 0.1


@pytest.mark.parametrize(("classes", "expected"), [(5, 2.0), (200, 2.0), (201, 10.0)])
def test_the_scale_goes_by_the_number_of_classes(classes, expected):
    assert scale(classes) == expected
    f, rows, lengths = normal(4, 6), normal(classes, 6, seed=1), normal(classes, seed=2).abs()
    by_hand = expected * lengths * F.cosine_similarity(f[:, None], rows, dim=-1)
    torch.testing.assert_close(cosine_logits(f, rows, lengths), by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", BOTH)
def test_training_is_plain_classification_of_all_source_classes(cls):
    algorithm = built(cls)
    s = cases.double(algorithm.init(generator(0)))
    b = tasks.labelled(generator(1), 16)
    b = tasks.Labelled(b.x.double(), b.y, b.source)
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(s.learned), {}, b.x)
    rows = s.learned["classifier.weight"]
    if cls is Baseline:
        z = f @ rows.T + s.learned["classifier.bias"]
    else:
        assert "classifier.bias" not in s.learned
        z = 2 * s.learned[LENGTHS] * F.cosine_similarity(f[:, None], rows, dim=-1)
    result = algorithm.step(s, b, AT, Context())
    torch.testing.assert_close(result.loss, F.cross_entropy(z, b.y), rtol=0, atol=1e-12)
    (phase,) = algorithm.phases(SourceSummary((40,), 400))
    assert (phase.stream, phase.weight_decay) == ("batches", 0.0)


@pytest.mark.parametrize("cls", BOTH)
def test_a_task_gets_a_fresh_head_on_features_that_stay(cls):
    algorithm = built(cls)
    s = cases.double(cases.train(algorithm, algorithm.init(generator(0)), 2))
    e = tasks.episode(generator(0), shots=(1, 3, 2, 1, 4), dtype=torch.float64)
    shown = []
    a = algorithm.adapt(s, cases.support_of(e), Context(), on_step=lambda j, _: shown.append(j))
    assert shown == list(range(101))
    f = functional.call(algorithm.network, functional.under(s.learned), functional.under(s.memory), e.support_x)
    if cls is Baseline:
        torch.testing.assert_close((a.tensors["weight"], a.tensors["bias"]), linear(f, e.support_y, Recipe()))
    else:
        torch.testing.assert_close(a.tensors["weight"], cosine(f, e.support_y, Recipe()))
    silent = algorithm.adapt(s, cases.support_of(e), Context())
    assert cases.same(a.tensors, silent.tensors)


@pytest.mark.parametrize("cls", BOTH)
def test_the_source_classifier_is_dropped_and_not_needed(cls):
    algorithm = built(cls, test_steps=3)
    s = cases.train(algorithm, algorithm.init(generator(0)), 2)
    assert not any(n.startswith("classifier.") for n in s.learned)
    again = cls(algorithm.p, Setting("tiny", 1, tasks.SIZE))
    fresh = again.init(generator(0))
    assert fresh.learned.keys() == s.learned.keys()
    e = tasks.episode(generator(0))
    assert torch.equal(cases.predict(again, s, e), cases.predict(algorithm, s, e))
    with pytest.raises(ValueError, match="number of classes"):
        again.step(fresh, tasks.labelled(generator(0), 4), AT, Context())
    assert set(
        algorithm.finish(State({"trunk.w": torch.zeros(1), LENGTHS: torch.zeros(1)}, {}), Phase("x"), Context())[0]
    ) == {"trunk.w"}


@pytest.mark.parametrize("cls", BOTH)
def test_one_class_and_one_picture(cls):
    algorithm = built(cls)
    s = algorithm.init(generator(0))
    x = torch.randn(1, 1, 8, 8, generator=generator(1))
    a = algorithm.adapt(s, Support(x, torch.zeros(1, dtype=torch.int64), 1), Context())
    z = algorithm.logits(s, a, x)
    assert z.shape == (1, 1)
    assert bool(z.isfinite().all())


@pytest.mark.parametrize("form", [fresh_head.linear, fresh_head.cosine])
def test_a_cancel_is_heeded_between_passes(form):
    ctx = Context()
    extra = (2.0,) if form is fresh_head.cosine else ()
    fits = form(normal(len(Y), 4), Y, 3, *extra, Recipe(), ctx, every=True)
    next(fits)
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        next(fits)
