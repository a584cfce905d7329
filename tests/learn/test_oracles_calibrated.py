"""Distribution calibration: what is borrowed, what is drawn, and that the classifier is the minimiser on both."""

import functools

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import base_classes, logistic
from workbench.learn.algorithms import calibrated as module
from workbench.learn.algorithms.calibrated import CLASSES, SEED, STATISTICS, Calibrated, calibrated, powered
from workbench.learn.algorithms.logistic import LogisticProbe
from workbench.learn.protocol import Adapted, At, Setting, State, Support, generator

D, SOURCES = 128, 4
Y = torch.tensor([2, 0, 0, 1, 2, 2])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def source_features(each=6):
    """Of each source class: some pictures' features, above zero."""
    return [(normal(each + k, D, seed=20 + k) + k).abs() for k in range(SOURCES)]


def built(form="class", known=True, cls=Calibrated, **params):
    """The algorithm and a state that has measured the source classes, whose features lie at ``source_features``."""
    tasks.tiny_backbone()
    settings = {"samples": 12, "covariance": form, "c": 3.0} | params
    algorithm = cls(build_params(cls.Params, settings), Setting("tiny", 1, tasks.SIZE, 3, (SOURCES,)))
    memory = base_classes.empty(SOURCES if known else 0, D, form, normal(1))
    for k, f in enumerate(source_features() if known else ()):
        memory = base_classes.added(memory, module.powered(f, algorithm.p.power), torch.full((len(f),), k))
    learned = {n: t.double() for n, t in algorithm.init(generator(0)).learned.items()}
    return algorithm, State(learned, memory)


def examples(seed=1):
    return (normal(len(Y), D, seed=seed) + 1).abs()


def adapt(algorithm, state, f, y=Y, ways=3):
    never = torch.full((len(f), 1, 1, 1), torch.nan)
    return algorithm.adapt(state, Support(never, y, ways, f), Context()).tensors


def lent(x, form, neighbours, alpha, power):
    """``mu'`` and ``Sigma'`` of one example as the module's sheet has them, from the source pictures themselves."""
    sources = [f.sqrt() if power == 0.5 else f for f in source_features()]
    means = torch.stack([f.mean(0) for f in sources])
    near = (means - x).norm(dim=1).argsort()[:neighbours]
    if form == "class":
        sigma = torch.stack([torch.cov(sources[i].T) for i in near]).mean(0)
    else:
        centred = torch.cat([f - f.mean(0) for f in sources])
        sigma = centred.T @ centred / (len(centred) - SOURCES)
        if form == "single":
            sigma = torch.stack([sources[i].var(0).diag() for i in near]).mean(0)
    return (means[near].sum(0) + x) / (neighbours + 1), sigma + alpha * torch.eye(D, dtype=x.dtype)


def is_the_minimiser_on_what_is_drawn(form, cls=Calibrated, **params):
    """The gradient of the whole sum is nothing, at the classifier found, on features drawn one by one in full."""
    algorithm, state = built(form, cls=cls, **params)
    p, f = algorithm.p, examples()
    x = f.sqrt() if p.power == 0.5 else f
    shots = torch.bincount(Y)
    rows, labels, weights = [x], [Y], [(1 - p.weight) * len(Y) / 3 / shots[Y].double()]
    gaussian = torch.randn(12, D, generator=generator(SEED), dtype=torch.float64)
    for row, k in zip(x, Y.tolist(), strict=True):
        mean, sigma = lent(row, form, p.neighbours, p.alpha, p.power)
        n = 12 // int(shots[k])
        rows.append(mean + gaussian[:n] @ torch.linalg.cholesky(sigma).T)
        labels.append(torch.full((n,), k))
        weights.append(torch.full((n,), p.weight * len(Y) / 3 / 12, dtype=x.dtype))
    found = adapt(algorithm, state, f)
    w, b = (found[n].clone().requires_grad_() for n in ("weight", "bias"))
    each = F.cross_entropy(F.normalize(torch.cat(rows), dim=1) @ w.T + b, torch.cat(labels), reduction="none")
    (p.c * (torch.cat(weights) * each).sum() + 0.5 * w.square().sum()).backward()
    assert float(w.grad.norm()) + float(b.grad.norm()) < 1e-9
    assert float(found["weight"].norm()) > 0.1


@pytest.mark.parametrize("form", base_classes.FORMS)
@pytest.mark.parametrize("params", [{}, {"power": 1.0, "weight": 0.3, "neighbours": 3}], ids=["usual", "other"])
def test_it_is_the_minimiser_on_examples_and_what_is_drawn_for_them(form, params):
    is_the_minimiser_on_what_is_drawn(form, **params)


class SamplesCountAsShots(Calibrated):
    def adapt(self, s, support, ctx, **kwargs):
        x = powered(support.features, self.p.power)
        drawn = self.drawn(s, x, support.y, support.ways, ctx)
        y = torch.cat([support.y, support.y.repeat_interleave(drawn.most)])
        shown = (torch.arange(drawn.most) < drawn.counts[:, None]).flatten()
        weights = torch.cat([torch.ones(len(x)), shown]).double()
        weight, bias = logistic.fit_rows(drawn.rows(), y, support.ways, c=self.p.c, ctx=ctx, weights=weights)
        return Adapted({"weight": weight @ drawn.basis.T, "bias": bias}, support.ways)


class NoiseOfItsOwn(Calibrated):
    """Of each call."""

    def drawn(self, *args):
        drawn = super().drawn(*args)
        return drawn._replace(noise=drawn.noise + 0.01 * normal(*drawn.noise.shape, seed=3))


class AllThatFitIn(Calibrated):
    """Also beyond what an example of a class seen more often is to draw."""

    def drawn(self, *args):
        drawn = super().drawn(*args)
        return drawn._replace(counts=torch.full_like(drawn.counts, drawn.most))


@pytest.mark.parametrize("cls", [SamplesCountAsShots, NoiseOfItsOwn, AllThatFitIn])
def test_the_formula_notices_another_method(cls):
    with pytest.raises(AssertionError):
        is_the_minimiser_on_what_is_drawn("shared", cls)


def not_with_the_example(real, x, memory, neighbours, alpha):
    for (mean, root), row in zip(real(x, memory, neighbours, alpha), x, strict=True):
        yield (mean * (neighbours + 1) - row) / neighbours, root


def the_farthest(real, x, memory, neighbours, alpha):
    yield from real(-x, memory, neighbours, alpha)


def without_alpha(real, x, memory, neighbours, alpha):
    yield from real(x, memory, neighbours, 1e-4)


@pytest.mark.parametrize("mistake", [not_with_the_example, the_farthest, without_alpha])
def test_the_formula_notices_other_statistics(mistake, monkeypatch):
    monkeypatch.setattr(module, "calibrated", functools.partial(mistake, calibrated))
    with pytest.raises(AssertionError):
        is_the_minimiser_on_what_is_drawn("class")


def test_statistics_of_features_before_the_power_are_noticed(monkeypatch):
    """As the authors' code has them."""
    algorithm, raw = built("single", power=1.0)
    _, right = built("single")
    other = Calibrated(build_params(Calibrated.Params, {"samples": 12, "covariance": "single"}), algorithm.setting)
    found, expected = (adapt(other, s, examples())["weight"] for s in (raw, right))
    assert float((found - expected).abs().max()) > 1e-2


@pytest.mark.parametrize("params", [{"samples": 0}, {"weight": 0.0}])
def test_with_nothing_drawn_it_is_the_logistic_probe(params):
    algorithm, state = built(power=1.0, **params)
    probe = LogisticProbe(build_params(LogisticProbe.Params, {"c": 3.0}), algorithm.setting)
    found, expected = (adapt(a, state, examples()) for a in (algorithm, probe))
    for name in ("weight", "bias"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    drawing = adapt(built(power=1.0)[0], state, examples())
    assert float((drawing["weight"] - expected["weight"]).abs().max()) > 1e-2


@pytest.mark.parametrize("form", base_classes.FORMS)
def test_the_order_of_the_source_classes_does_not_matter(form):
    algorithm, state = built(form)
    order = torch.tensor([2, 0, 3, 1])
    per_class = [n for n, t in state.memory.items() if t.ndim and t.shape[0] == SOURCES]
    moved = State(state.learned, {n: t[order] if n in per_class else t for n, t in state.memory.items()})
    found, expected = (adapt(algorithm, s, examples()) for s in (moved, state))
    torch.testing.assert_close(found["weight"], expected["weight"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", base_classes.FORMS)
def test_what_is_drawn_has_the_mean_and_covariance_of_the_sheet(form):
    _, state = built(form)
    for row, (mean, root) in zip(examples().sqrt(), calibrated(examples().sqrt(), state.memory, 2, 0.21), strict=True):
        mu, sigma = lent(row, form, 2, 0.21, 0.5)
        torch.testing.assert_close(mean, mu, rtol=0, atol=1e-10)
        spread = root.square().diag() if root.ndim == 1 else root @ root.T
        torch.testing.assert_close(spread, sigma, rtol=0, atol=1e-9)
    many = normal(200_000, 3) @ torch.linalg.cholesky(sigma[:3, :3]).T + mu[:3]
    torch.testing.assert_close(many.mean(0), mu[:3], rtol=0, atol=5e-3)
    torch.testing.assert_close(torch.cov(many.T), sigma[:3, :3], rtol=0, atol=5e-3)


def test_nothing_known_leaves_the_example_and_a_round_spread():
    _, state = built(known=False)
    for row, (mean, root) in zip(examples(), calibrated(examples(), state.memory, 2, 0.21), strict=True):
        assert torch.equal(mean, row)
        torch.testing.assert_close(root, torch.full_like(row, 0.21**0.5))


def test_features_below_zero_are_cut_off_before_the_root():
    f = normal(5, 7)
    assert bool(powered(f, 0.5).isfinite().all())
    torch.testing.assert_close(powered(f, 0.5), f.clamp_min(0).sqrt())
    assert torch.equal(powered(f, 1.0), f)
    algorithm, state = built()
    assert bool(adapt(algorithm, state, normal(len(Y), D))["weight"].isfinite().all())


def test_the_covariance_of_two_pictures_has_a_root_thanks_to_alpha():
    memory = base_classes.added(base_classes.empty(1, D, "class", normal(1)), normal(2, D), torch.zeros(2).long())
    ((_, root),) = calibrated(normal(1, D, seed=5), memory, 1, 0.01)
    assert bool(root.isfinite().all())
    spread = base_classes.described(memory).spread[0]
    with pytest.raises(RuntimeError):
        torch.linalg.cholesky(spread - 1e-12 * torch.eye(D, dtype=torch.float64))


def test_each_class_gets_as_many_features_as_its_examples_divide():
    algorithm, state = built(samples=12)
    drawn = algorithm.drawn(state, examples(), Y, 3, Context())
    assert torch.bincount(Y, drawn.counts).tolist() == [12, 12, 12]
    weights = drawn.weights(Y, 3)
    assert (weights > 0).sum(1).tolist() == drawn.counts.tolist()
    assert torch.bincount(Y, weights.sum(1)).tolist() == pytest.approx([2, 2, 2])
    few = built(samples=1)[0].drawn(state, examples(), Y, 3, Context())
    assert few.counts.tolist() == [1] * len(Y), "at least one for each example"


def test_the_source_classes_are_those_of_training_and_measured_behind_it():
    algorithm, _ = built()
    first, second = algorithm.phases(None)
    assert (first.name, second.name) == (CLASSES, STATISTICS)
    assert not first.kept, "without statistics it is not what it will be"
    state = algorithm.init(generator(0))
    batch = tasks.labelled(generator(1), 30)
    batch = type(batch)(batch.x, batch.y % SOURCES, batch.source)
    trained = algorithm.step(state, batch, At(CLASSES, 0, 0.0), Context())
    assert trained.memory is None or not float(trained.memory["base.count"].sum())
    measured = algorithm.step(state, batch, At(STATISTICS, 0, 0.0), Context()).memory
    assert measured["base.count"].tolist() == torch.bincount(batch.y, minlength=SOURCES).tolist()
    f = powered(algorithm.embed(state, None, batch.x), 0.5)
    for k, mean in enumerate(base_classes.described(measured).mean):
        torch.testing.assert_close(mean, f[batch.y == k].mean(0), rtol=1e-4, atol=1e-4)


def what_is_kept_is_what_would_be_drawn(cls=Calibrated, form="shared", **params):
    """After measuring, the noise of a shared covariance lies in the memory; the classifier is the same without it."""
    algorithm, state = built(form, cls=cls, **params)
    done = algorithm.finish(state, algorithm.phases(None)[1], Context())
    assert (module.NOISE in done.memory) == (form == "shared")
    found, expected = (adapt(algorithm, s, examples()) for s in (done, state))
    for name in ("weight", "bias"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-9)
    return algorithm, state, done


@pytest.mark.parametrize("form", base_classes.FORMS)
def test_what_is_kept_is_what_would_be_drawn(form):
    what_is_kept_is_what_would_be_drawn(form=form)


class AnotherAlpha(Calibrated):
    def shared_noise(self, s):
        return self._normal(s.memory["base.sum"]) @ module._root(base_classes.described(s.memory).spread, 1.0).T


def test_another_noise_is_noticed():
    with pytest.raises(AssertionError):
        what_is_kept_is_what_would_be_drawn(AnotherAlpha)


def test_more_pictures_forget_the_noise_of_fewer():
    algorithm, _, done = what_is_kept_is_what_would_be_drawn()
    batch = tasks.labelled(generator(1), 30)
    batch = type(batch)(batch.x.double(), batch.y % SOURCES, batch.source)
    s = cases.double(algorithm.init(generator(0)))
    s = State(s.learned, {**s.memory, **done.memory})
    more = algorithm.step(s, batch, At(STATISTICS, 0, 0.0), Context()).memory
    assert module.NOISE not in more
    again = algorithm.finish(State(done.learned, more), algorithm.phases(None)[1], Context())
    assert float((again.memory[module.NOISE] - done.memory[module.NOISE]).abs().max()) > 1e-3


@pytest.mark.parametrize("params", [{"samples": 0}, {"weight": 0.0}, {"neighbours": 0}])
def test_nothing_is_kept_where_nothing_shared_is_drawn(params):
    algorithm, state = built("shared", **params)
    done = algorithm.finish(state, algorithm.phases(None)[1], Context())
    assert module.NOISE not in done.memory
