"""VERSA: the loss by hand, Prototypical Networks where nothing is spread, draws with the stated mean and variance."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.learn import functional, norm
from workbench.learn.algorithms import versa
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.algorithms.versa import Posterior, Versa
from workbench.learn.protocol import At, Setting, State, generator

AT = At("episodes", 3, 0.0)
SHOTS = (1, 3, 2, 1, 4)
FORMS = ("residual", "plain")


def built(cls=Versa, backbone="tiny", **params):
    tasks.tiny_backbone()
    return cls(build_params(cls.Params, params), Setting(backbone, 1, tasks.SIZE))


def trained(algorithm, steps=3):
    """In float64, moved on so that what starts at zero is not."""
    return cases.double(cases.train(algorithm, algorithm.init(generator(0)), steps))


def task(seed=0, shots=SHOTS):
    return tasks.episode(generator(seed), shots=shots, dtype=torch.float64)


def changed(state, **tensors):
    return State({**state.learned, **{n.replace("__", "."): t for n, t in tensors.items()}}, state.memory)


def unspread(state):
    """The posterior is a point: softplus of this is an exact zero."""
    last = state.learned["spread.1.weight"]
    return changed(state, spread__1__weight=0 * last, spread__1__bias=torch.full_like(last[:, 0], -1000.0))


def features_of(algorithm, s, x):
    with norm.batch_statistics():
        return functional.call(algorithm.network, functional.under(s.learned), {}, x)


# ---- the posterior and the loss, written out -------------------------------------------------------------


def posterior_by_hand(algorithm, learned, features, y):
    def network(name, x):
        hidden = F.elu(learned[f"{name}.0.weight"] @ x + learned[f"{name}.0.bias"])
        return learned[f"{name}.1.weight"] @ hidden + learned[f"{name}.1.bias"]

    scale, means, spreads = learned["scale"].exp(), [], []
    for k in range(int(y.max()) + 1):
        own = [f for f, label in zip(features, y.tolist(), strict=True) if label == k]
        seen = [F.elu(learned["summary.0.weight"] @ f + learned["summary.0.bias"]) for f in own]
        summary, centre = sum(seen) / len(own), sum(own) / len(own)
        start = torch.cat([2 * scale * centre, -scale * (centre @ centre).reshape(1)])
        means.append(scale * network("mean", summary) + (start if algorithm.p.form == "residual" else 0))
        spreads.append(scale * network("spread", summary).exp().log1p())
    return torch.stack(means), torch.stack(spreads)


def loss_by_hand(algorithm, s, e):
    """Every query, class and sample on its own; the same noise."""
    f = features_of(algorithm, s, torch.cat([e.support_x, e.query_x]))
    support, queries = f[: len(e.support_y)], f[len(e.support_y) :]
    mean, spread = posterior_by_hand(algorithm, s.learned, support, e.support_y)
    gen = generator(Context().seed_for(f"versa/{AT.phase}/{AT.step}"))
    noise = torch.randn(algorithm.p.samples, len(queries), e.ways, generator=gen).double()
    losses = []
    for q, (h, y) in enumerate(zip(queries, e.query_y.tolist(), strict=True)):
        right = []
        for one in noise[:, q]:
            z = [
                h @ m[:-1] + m[-1] + ((h**2) @ (v[:-1] ** 2) + v[-1] ** 2).sqrt() * epsilon
                for m, v, epsilon in zip(mean, spread, one, strict=True)
            ]
            right.append(torch.stack(z).softmax(0)[y])
        losses.append(-torch.log(sum(right) / len(right)))
    return sum(losses) / len(losses)


def loss_equals_the_formula(cls, form):
    algorithm = built(cls, form=form, samples=3)
    s, e = trained(algorithm), task()
    found = algorithm.step(s, tasks.Episodes((e,)), AT, Context()).loss
    gap = abs(float(found - loss_by_hand(algorithm, s, e)))
    assert gap < 1e-8, f"{gap:.2e}"  # what stands under the square root besides


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_log_of_the_mean_probability(form):
    loss_equals_the_formula(Versa, form)


def _raw(z):
    return (z.logsumexp(0) - math.log(len(z))).log_softmax(1)


def _mean_of_logits(z):
    return z.mean(0).log_softmax(1)


def _mean_of_log_probabilities(z):
    return z.log_softmax(2).mean(0)


def _softmax_over_samples(z):
    return z.log_softmax(0).logsumexp(0) - math.log(len(z))


AVERAGES = (_raw, _mean_of_logits, _mean_of_log_probabilities, _softmax_over_samples)


@pytest.mark.parametrize("average", AVERAGES, ids=lambda f: f.__name__)
def test_the_formula_notices_another_average(average, monkeypatch):
    monkeypatch.setattr(versa, "log_mean_softmax", average)
    with pytest.raises(AssertionError):
        loss_equals_the_formula(Versa, "residual")


class ExponentialSpread(Versa):
    def posterior(self, learned, features, y, ways):
        q = super().posterior(learned, features, y, ways)
        scale = learned["scale"].exp()
        return Posterior(q.mean, scale * torch.expm1(q.spread / scale))


class SpreadWithoutSign(Versa):
    def posterior(self, learned, features, y, ways):
        q = super().posterior(learned, features, y, ways)
        scale = learned["scale"].exp()
        return Posterior(q.mean, scale * torch.expm1(q.spread / scale).log())


class OneSummaryForAll(Versa):
    def posterior(self, learned, features, y, ways):
        one = super().posterior(learned, features, torch.zeros_like(y), 1)
        return Posterior(one.mean.expand(ways, -1), one.spread.expand(ways, -1))


class FeaturesPooledFirst(Versa):
    def posterior(self, learned, features, y, ways):
        centres = torch.stack([features[y == k].mean(0) for k in range(ways)])
        return super().posterior(learned, centres, torch.arange(ways), ways)


class SupportStatisticsOfItsOwn(Versa):
    def step(self, s, batch, at, ctx):
        (e,) = batch.episodes
        f = features_of(self, s, e.support_x), features_of(self, s, e.query_x)
        gen = generator(ctx.seed_for(f"versa/{at.phase}/{at.step}"))
        noise = torch.randn(self.p.samples, len(f[1]), e.ways, generator=gen).to(f[1])
        q = self.posterior(s.learned, f[0], e.support_y, e.ways)
        loss = F.nll_loss(versa.log_mean_softmax(versa.sampled_logits(f[1], q, noise)), e.query_y)
        return versa.StepResult(loss=loss)


@pytest.mark.parametrize(
    "cls", [ExponentialSpread, SpreadWithoutSign, OneSummaryForAll, FeaturesPooledFirst, SupportStatisticsOfItsOwn]
)
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        loss_equals_the_formula(cls, "residual")


@pytest.mark.parametrize("form", FORMS)
def test_gradients_equal_finite_differences(form):
    """At the noise of one seed, for one number of every tensor; and there is a gradient for each."""
    algorithm = built(form=form, backbone="tiny-smooth", width=8, samples=2)
    s, batch = trained(algorithm), tasks.Episodes((task(),))

    def loss(learned):
        return algorithm.step(State(learned, s.memory), batch, AT, Context()).loss

    leaves = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
    grads = dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
    for name, g in grads.items():
        at = int(g.abs().argmax())
        here = torch.zeros_like(g).flatten()
        here[at] = 1e-5
        here = here.view_as(g)
        up, down = (loss({**s.learned, name: s.learned[name] + sign * here}) for sign in (1, -1))
        assert float(g.abs().max()) > 0, name
        assert float((up - down) / 2e-5) == pytest.approx(float(g.flatten()[at]), rel=1e-5, abs=1e-9), name


def test_what_is_not_a_number_is_not_dropped():
    """The engine is to see it: a loss without the query that broke would hide that the run has."""
    algorithm = built()
    e = task()
    e.query_x[3] = torch.inf
    result = algorithm.step(trained(algorithm), tasks.Episodes((e, task(1))), AT, Context())
    assert not bool(result.loss.isfinite())


# ---- where nothing is spread -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_without_spread_it_is_one_generated_linear_classifier(form):
    """In training and in use; what stands under the square root besides is all that is left."""
    algorithm = built(form=form)
    s, e = unspread(trained(algorithm)), task()
    f = features_of(algorithm, s, torch.cat([e.support_x, e.query_x]))
    mean, _ = posterior_by_hand(algorithm, s.learned, f[: len(e.support_y)], e.support_y)
    z = f[len(e.support_y) :] @ mean[:, :-1].T + mean[:, -1]
    result = algorithm.step(s, tasks.Episodes((e,)), AT, Context())
    assert float(result.loss) == pytest.approx(float(F.cross_entropy(z, e.query_y)), abs=1e-5)

    adapted = algorithm.adapt(s, cases.support_of(e), Context(seed=1))
    draws = adapted.tensors["draws"]
    assert torch.equal(draws, draws[:1].expand_as(draws))
    z = algorithm.embed(s, adapted, e.query_x) @ draws[0, :, :-1].T + draws[0, :, -1]
    torch.testing.assert_close(algorithm.logits(s, adapted, e.query_x), z.log_softmax(1), rtol=0, atol=1e-12)


def test_before_the_first_step_the_mean_is_that_of_prototypical_networks():
    """Loss and the gradients of trunk and scale, which both have; then answers."""
    algorithm, plain = built(), built(ProtoNet)
    s = cases.double(unspread(algorithm.init(generator(0))))
    other = State({n: t for n, t in s.learned.items() if n.startswith("trunk.") or n == "scale"}, s.memory)
    assert other.learned.keys() == plain.init(generator(0)).learned.keys()
    batch, results = tasks.Episodes((task(), task(1))), []
    for a, state in ((algorithm, s), (plain, other)):
        learned = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
        result = a.step(State(learned, state.memory), batch, AT, Context())
        result.loss.backward()
        results.append((result, {n: learned[n].grad for n in other.learned}))
    (found, own), (proto, grads) = results
    assert float(found.loss.detach()) == pytest.approx(float(proto.loss.detach()), abs=1e-5)
    for name, g in grads.items():
        torch.testing.assert_close(own[name], g, rtol=1e-4, atol=1e-5, msg=name)
    z = cases.predict(plain, other, task(2))
    torch.testing.assert_close(cases.predict(algorithm, s, task(2)), z.log_softmax(1), rtol=0, atol=1e-12)


# ---- samples ---------------------------------------------------------------------------------------------


def some_posterior(gen, ways=3, d=4):
    mean = torch.randn(ways, d + 1, generator=gen, dtype=torch.float64)
    return Posterior(mean, torch.rand(ways, d + 1, generator=gen, dtype=torch.float64) + 0.1)


def test_sampled_logits_have_the_mean_and_variance_of_sampled_weights():
    """Noise 0 and 1 give mean and deviation; 200 000 classifiers drawn from the posterior give nearly the same."""
    gen = generator(0)
    q, h = some_posterior(gen), torch.randn(2, 4, generator=gen, dtype=torch.float64)
    mean = versa.sampled_logits(h, q, torch.zeros(1, 2, 3, dtype=torch.float64))[0]
    deviation = versa.sampled_logits(h, q, torch.ones(1, 2, 3, dtype=torch.float64))[0] - mean
    count = 200_000
    w = q.mean + q.spread * torch.randn(count, 3, 5, generator=gen, dtype=torch.float64)
    z = torch.einsum("qd,lnd->lqn", h, w[..., :-1]) + w[:, None, :, -1]
    assert float(((z.mean(0) - mean) / deviation).abs().max()) < 5 / math.sqrt(count)
    assert float((z.var(0) / deviation.square() - 1).abs().max()) < 5 * math.sqrt(2 / count)
    noise = torch.randn(count, 2, 3, generator=gen, dtype=torch.float64)
    gap = versa.log_mean_softmax(versa.sampled_logits(h, q, noise)).exp() - z.softmax(2).mean(0)
    assert float(gap.abs().max()) < 5 * 0.5 * math.sqrt(2 / count)  # a probability's deviation is at most a half


def test_in_use_classifiers_are_drawn_from_that_posterior():
    """Each weight of each class on its own: 200 draws of 5 classes with 129 numbers, standardised."""
    algorithm = built(draws=200)
    s, e = trained(algorithm), task()
    adapted = algorithm.adapt(s, cases.support_of(e), Context(seed=4))
    f = algorithm.embed(s, adapted, e.support_x)
    mean, spread = posterior_by_hand(algorithm, s.learned, f, e.support_y)
    assert adapted.tensors["draws"].shape == (200, 5, algorithm.features + 1)
    unit = (adapted.tensors["draws"] - mean) / spread
    n = unit.numel()
    assert abs(float(unit.mean())) < 5 / math.sqrt(n)
    assert abs(float(unit.var()) - 1) < 5 * math.sqrt(2 / n)
    flat = unit.flatten(1).T  # no two numbers of one classifier share their noise
    related = torch.corrcoef(flat).abs().fill_diagonal_(0)
    assert float(related.max()) < 0.6


def test_the_average_is_that_of_probabilities():
    """By hand: one sample says 1/2, the other sigmoid(1)."""
    z = torch.tensor([[[2.0, 2.0]], [[-3.0, -4.0]]], dtype=torch.float64)
    expected = (0.5 + 1 / (1 + math.exp(-1))) / 2
    found = versa.log_mean_softmax(z).exp()[0]
    torch.testing.assert_close(found, torch.tensor([expected, 1 - expected], dtype=torch.float64), rtol=0, atol=1e-15)


def a_constant_of_a_sample_means_nothing(average):
    z = torch.randn(6, 4, 5, generator=generator(0), dtype=torch.float64)
    moved = z + torch.tensor([0.0, 10.0, -3.0, 40.0, 1.0, -700.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(average(moved), average(z), rtol=0, atol=1e-12)


def test_adding_a_constant_to_a_samples_logits_changes_nothing():
    a_constant_of_a_sample_means_nothing(versa.log_mean_softmax)


def test_a_dominating_sample_is_noticed():
    with pytest.raises(AssertionError):
        a_constant_of_a_sample_means_nothing(_raw)


def test_answers_stay_finite_however_sure_a_sample_is():
    z = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    torch.testing.assert_close(versa.log_mean_softmax(z).exp(), torch.full((1, 2), 0.5))


@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_the_spread_is_neither_negative_nor_infinite(size):
    algorithm = built()
    s = algorithm.init(generator(0))
    s = changed(s, spread__1__bias=torch.full_like(s.learned["spread.1.bias"], size))
    e = tasks.episode(generator(0))
    spread = algorithm.posterior(s.learned, torch.randn(10, 128, generator=generator(1)), e.support_y, 5).spread
    assert bool((spread >= 0).all() & spread.isfinite().all())
    learned = {n: t.clone().requires_grad_() for n, t in s.learned.items()}
    loss = algorithm.step(State(learned, s.memory), tasks.Episodes((e,)), AT, Context()).loss
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, list(learned.values())))


STEPS = ((0, 0), (0, 0), (1, 0), (0, 1))
"""(step, seed)"""


def test_the_noise_is_another_at_each_step_and_the_same_again():
    algorithm = built()
    s, batch = trained(algorithm), tasks.Episodes((task(),))
    losses = [float(algorithm.step(s, batch, At("episodes", i, 0.0), Context(seed=k)).loss) for i, k in STEPS]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_a_picture_is_answered_alike_each_time_and_by_the_seed():
    algorithm = built()
    s, e = trained(algorithm), task()
    one, again, other = (cases.predict(algorithm, s, e, Context(seed=k)) for k in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.exp().sum(1), torch.ones(len(one), dtype=torch.float64))


def test_where_the_posterior_is_wide_answers_are_less_sure():
    """Between a point and a wide posterior with the same mean; which is why draws are exported and not the mean."""
    algorithm = built(draws=100)
    s, e = trained(algorithm), task()
    s = changed(s, scale=s.learned["scale"] + 1.0)
    wide = changed(s, spread__1__bias=s.learned["spread.1.bias"] + 5.0)
    sure, unsure = (cases.predict(algorithm, x, e).exp().amax(1).mean() for x in (unspread(s), wide))
    assert float(unsure) < float(sure) - 0.05
