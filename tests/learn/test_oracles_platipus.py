"""PLATIPUS: MAML without a spread, the divergence against torch's, every gradient; mistakes are noticed (float64)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from tests.learn import cases, tasks
from workbench.core.context import Context
from workbench.learn import functional, heads, inner, norm
from workbench.learn.algorithms import platipus
from workbench.learn.algorithms.maml import MAML
from workbench.learn.algorithms.platipus import GAMMA, POSTERIOR, PRIOR, Gaussian, Platipus, mu_of
from workbench.learn.committee import Committee
from workbench.learn.protocol import At, Setting, State, Support, generator

AT = At("episodes", 0, 0.0)
FORMS = ["textbook", "prototype"]


def built(head="prototype", cls=Platipus, **params):
    tasks.tiny_backbone()
    p = cls.Params(**{"head": head, "inner_lr": 0.1, "inner_steps": 2, "test_steps": 2, "draws": 3, **params})
    algorithm = cls(p, Setting("tiny-smooth", 1, 8, ways=3))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        # small, so that the examples are not already certain and the inner steps have something to do
        state.learned["scale"] -= 1.5
    return algorithm, cases.double(state)


def task(seed=0):
    return tasks.episode(generator(seed), ways=3, shots=2, queries=3, dtype=torch.float64)


def moved(state, **amounts):
    """Every number of a kind (``prior``, ``posterior``, ``gamma``) moved by an amount, spreads unequally."""
    gen = generator(5)
    learned = dict(state.learned)
    for name, t in state.learned.items():
        kind = name.partition(".")[0]
        if kind in amounts:
            learned[name] = t + amounts[kind] + 0.3 * torch.rand(t.shape, generator=gen, dtype=t.dtype)
    return State(learned, state.memory)


def certain(state):
    """No spread, and neither Gaussian moved by its gradient."""
    learned = {
        n: torch.full_like(t, -1000.0 if n.startswith(GAMMA) else -60.0)
        if n.startswith((PRIOR, POSTERIOR, GAMMA))
        else t
        for n, t in state.learned.items()
    }
    return State(learned, state.memory)


def maml_of(algorithm, state):
    p = algorithm.p
    same = MAML.Params(head=p.head, inner_lr=p.inner_lr, inner_steps=p.inner_steps, test_steps=p.test_steps)
    return MAML(same, algorithm.setting), State(mu_of(state.learned), state.memory)


def noise_for(state, seed=3):
    return platipus.standard_normal(mu_of(state.learned), generator(seed))


# ---- (g) without spread and without gamma it is MAML -----------------------------------------------------------------


def equals_maml(cls, head):
    algorithm, state = built(head, cls)
    state = certain(state)
    maml, start = maml_of(algorithm, state)
    batch = tasks.Episodes((task(0), task(1)))
    found, wanted = algorithm.step(state, batch, AT, Context()), maml.step(start, batch, AT, Context())
    for name, g in wanted.grads.items():
        torch.testing.assert_close(found.grads[name], g, rtol=1e-9, atol=1e-12)
    assert found.metrics["loss"] == pytest.approx(wanted.metrics["loss"], rel=1e-12)
    assert found.metrics["divergence"] == 0
    assert cases.same(found.memory, wanted.memory)
    adapted = algorithm.adapt(state, cases.support_of(task()), Context())
    expected = maml.adapt(start, cases.support_of(task()), Context())
    for i in range(algorithm.p.draws):
        for name, t in expected.tensors.items():
            torch.testing.assert_close(adapted.tensors[f"draw.{i}.{name}"], t, rtol=1e-10, atol=1e-12)
    answer = maml.logits(start, expected, task().query_x).log_softmax(1)
    torch.testing.assert_close(algorithm.logits(state, adapted, task().query_x), answer, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("head", FORMS)
def test_without_spread_and_gamma_it_is_maml(head):
    equals_maml(Platipus, head)


class QueriesNormaliseThemselves(Platipus):
    def query_loss(self, network, episode):
        logits = inner.support_logits(self.network, network, episode.query_x)
        return F.cross_entropy(logits, episode.query_y), logits


class FirstOrder(Platipus):
    def path(self, theta, support, steps, order, ctx):
        return super().path(theta, support, steps, "first" if order == "second" else order, ctx)


class AtTheStart(Platipus):
    def path(self, theta, support, steps, order, ctx):
        return super().path(theta, support, 0, order, ctx)


@pytest.mark.parametrize("cls", [QueriesNormaliseThemselves, FirstOrder, AtTheStart])
def test_the_comparison_with_maml_notices(cls):
    with pytest.raises((AssertionError, UnboundLocalError)):
        equals_maml(cls, "prototype")


# ---- (g) the divergence ----------------------------------------------------------------------------------------------


def gaussians(seed=0):
    gen = generator(seed)
    made = [torch.randn(n, generator=gen, dtype=torch.float64) for n in (7, 7, 7, 7)]
    shape = {"a": slice(0, 4), "b": slice(4, 7)}
    q, p = (
        ({n: t[s] for n, s in shape.items()} for t in made[:2]),
        ({n: t[s] for n, s in shape.items()} for t in made[2:]),
    )
    return Gaussian(*q), Gaussian(*p)


def divergence_is_that_of_torch(kl):
    q, p = gaussians()
    wanted = sum(
        kl_divergence(Normal(q.mean[n], q.log_spread[n].exp()), Normal(p.mean[n], p.log_spread[n].exp())).sum()
        for n in q.mean
    )
    torch.testing.assert_close(kl(q, p), wanted, rtol=1e-12, atol=0)
    v, s2 = (torch.cat([*g.log_spread.values()]).exp().square() for g in (q, p))
    d = torch.cat([*q.mean.values()]) - torch.cat([*p.mean.values()])
    closed = 0.5 * (v / s2 + d * d / s2 - 1 + (s2 / v).log()).sum()
    torch.testing.assert_close(kl(q, p), closed, rtol=1e-12, atol=0)


def test_the_divergence_is_the_closed_form():
    divergence_is_that_of_torch(platipus.kl)


def test_the_divergence_of_equals_is_zero_and_of_others_is_not():
    q, p = gaussians()
    assert float(platipus.kl(q, q)) == 0
    assert float(platipus.kl(q, p)) > 0.1
    narrow = Gaussian(q.mean, {n: t - 300 for n, t in q.log_spread.items()})
    assert float(platipus.kl(narrow, narrow)) == 0


@pytest.mark.parametrize(
    "mistaken",
    [
        lambda q, p: platipus.kl(p, q),
        lambda q, p: platipus.kl(Gaussian(p.mean, q.log_spread), p),
        lambda q, p: platipus.kl(q, p) / 7,
        lambda q, p: platipus.kl(*(Gaussian(g.mean, {n: t / 2 for n, t in g.log_spread.items()}) for g in (q, p))),
    ],
    ids=["the other way round", "without the distance", "a mean", "variances for spreads"],
)
def test_the_closed_form_notices(mistaken):
    with pytest.raises(AssertionError):
        divergence_is_that_of_torch(mistaken)


def test_the_divergence_is_what_draws_from_q_say_on_average():
    """``E_q[log q - log p]`` over 200 000 draws, within four standard errors."""
    q, p = gaussians()
    gen = generator(1)
    noise = {n: torch.randn(200_000, len(t), generator=gen, dtype=t.dtype) for n, t in q.mean.items()}
    theta = q.at(noise)

    def log_density(g):
        return sum(Normal(g.mean[n], g.log_spread[n].exp()).log_prob(theta[n]).sum(1) for n in theta)

    gap = log_density(q) - log_density(p)
    assert abs(float(gap.mean() - platipus.kl(q, p))) < 4 * float(gap.std()) / 200_000**0.5


# ---- the loss and all its gradients ----------------------------------------------------------------------------------


def loss_at(algorithm, learned, e, noise, weight):
    leaves = {n: t.detach().requires_grad_() for n, t in learned.items()}
    return float(algorithm.task_loss(leaves, e, noise, weight, Context())[0].loss.detach())


def gap_to_finite_differences(algorithm, state, weight=1.0, h=1e-6):
    """Largest relative gap to central differences, along a random direction for each kind of learnt number."""
    e, noise, gen = task(), noise_for(state), generator(9)
    leaves = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
    loss = algorithm.task_loss(leaves, e, noise, weight, Context())[0].loss
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    gaps = []
    for kind in (
        "trunk.",
        "scale" if "scale" in grads else "head.",
        PRIOR,
        POSTERIOR,
        GAMMA + PRIOR,
        GAMMA + POSTERIOR,
    ):
        names = [n for n in grads if n.startswith(kind)]
        way = {n: torch.randn(grads[n].shape, generator=gen, dtype=torch.float64) for n in names}
        up, down = (
            loss_at(algorithm, state.learned | {n: state.learned[n] + d * way[n] for n in names}, e, noise, weight)
            for d in (h, -h)
        )
        exact = sum(float((grads[n] * way[n]).sum()) for n in names)
        assert abs(exact) > 1e-9, kind
        gaps.append(abs((up - down) / (2 * h) - exact) / max(abs(exact), 1e-3))
    return max(gaps)


def wide(head="prototype", cls=Platipus):
    """Gaussians that differ, wide and far apart enough for every part of the gradient to be seen."""
    algorithm, state = built(head, cls, spread=0.1, gamma=0.3)
    return algorithm, moved(state, prior=0.2, posterior=-0.3, gamma=0.0)


@pytest.mark.parametrize("head", FORMS)
def test_every_gradient_is_that_of_the_whole_map(head):
    """Through the inner steps, the draw, and the gradients in both means."""
    assert gap_to_finite_differences(*wide(head)) < 1e-6


@pytest.mark.parametrize("planted", ["means without Hessians", "draw without its spread", "first order"])
def test_finite_differences_notice_a_cut_in_the_graph(planted, monkeypatch):
    algorithm, state = wide(cls=FirstOrder if planted == "first order" else Platipus)
    if planted == "means without Hessians":
        whole = platipus.shifted

        def cut(learned, kind, loss, **kwargs):
            g = whole(learned, kind, loss, **kwargs)
            return Gaussian({n: learned[n] + (t - learned[n]).detach() for n, t in g.mean.items()}, g.log_spread)

        monkeypatch.setattr(platipus, "shifted", cut)
    elif planted == "draw without its spread":
        monkeypatch.setattr(
            Gaussian, "at", lambda g, e: {n: t + g.log_spread[n].detach().exp() * e[n] for n, t in g.mean.items()}
        )
    with pytest.raises((AssertionError, RuntimeError)):
        assert gap_to_finite_differences(algorithm, state) < 1e-4


def loss_by_hand(algorithm, state, e, noise, weight):
    """From leaves, with ``backward``: no code of the algorithm."""
    learned, net = state.learned, algorithm.network

    def network(theta, x, given=None):
        with norm.given_statistics(given) if given else norm.batch_statistics():
            return functional.call(net, functional.under(theta), {}, x)

    def start(theta):
        f = network(theta, e.support_x)
        w, b = heads.prototype_linear(heads.prototypes(f, e.support_y, e.ways), theta["scale"].exp())
        return {**theta, "w": w, "b": b}

    def loss(theta, queries):
        f, y = network(theta, e.support_x), e.support_y
        if queries:
            with norm.batch_statistics(differentiable=True) as moments:
                functional.call(net, functional.under(theta), {}, e.support_x)
            f, y = network(theta, e.query_x, moments), e.query_y
        return F.cross_entropy(f @ theta["w"].T + theta["b"], y)

    mu = {n: t.clone().requires_grad_() for n, t in mu_of(learned).items()}
    means = {}
    for kind, queries in ((PRIOR, False), (POSTERIOR, True)):
        grads = torch.autograd.grad(loss(start(mu), queries), list(mu.values()))
        gamma = learned[GAMMA + kind].exp()
        means[kind] = {n: (mu[n] - gamma * g).detach() for n, g in zip(mu, grads, strict=True)}
    theta = {n: means[POSTERIOR][n] + learned[POSTERIOR + n].exp() * noise[n] for n in mu}
    phi = {n: t.detach() for n, t in start(theta).items()}
    for _ in range(algorithm.p.inner_steps):
        phi = {n: t.clone().requires_grad_() for n, t in phi.items()}
        loss(phi, False).backward()
        phi = {n: (t if t.grad is None else t - algorithm.p.inner_lr * t.grad).detach() for n, t in phi.items()}
    kl = torch.cat(
        [
            kl_divergence(
                Normal(means[POSTERIOR][n], learned[POSTERIOR + n].exp()),
                Normal(means[PRIOR][n], learned[PRIOR + n].exp()),
            ).flatten()
            for n in mu
        ]
    )
    return float(loss(phi, True).detach()) + weight * float(kl.mean())


def equals_the_formula(algorithm, state, weight=1.0):
    e, noise = task(), noise_for(state)
    found = loss_at(algorithm, state.learned, e, noise, weight)
    assert found == pytest.approx(loss_by_hand(algorithm, state, e, noise, weight), rel=1e-10)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_the_loss_is_that_of_the_sheet(weight):
    equals_the_formula(*wide(), weight)


class NotScaled(Platipus):
    """Adds up the divergence over all weights."""

    def task_loss(self, learned, episode, noise, weight, ctx):
        return super().task_loss(learned, episode, noise, weight * sum(map(torch.numel, noise.values())), ctx)


class DrawsFromThePrior(Platipus):
    def task_loss(self, learned, episode, noise, weight, ctx):
        learned = {
            n: learned[n.replace(POSTERIOR, PRIOR)] if n.startswith(POSTERIOR) else t for n, t in learned.items()
        }
        return super().task_loss(learned, episode, noise, weight, ctx)


class PosteriorWithoutTheQueries(Platipus):
    """The first loss of queries that is asked for is that of the examples."""

    asked = False

    def query_loss(self, network, episode):
        if self.asked:
            return super().query_loss(network, episode)
        self.asked = True
        logits = inner.support_logits(self.network, network, episode.support_x)
        return F.cross_entropy(logits, episode.support_y), logits


@pytest.mark.parametrize("cls", [NotScaled, DrawsFromThePrior, PosteriorWithoutTheQueries, AtTheStart])
def test_the_formula_notices(cls):
    with pytest.raises(AssertionError):
        equals_the_formula(*wide(cls=cls))


def test_the_divergence_grows_to_its_weight_and_begins_above_zero():
    algorithm, _ = built(kl=2.0, kl_until=0.5)
    found = [algorithm.divergence_weight(f) for f in (0.0, 0.004, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.02, 0.02, 1.0, 2.0, 2.0])
    assert built(kl=2.0, kl_until=0.0)[0].divergence_weight(0.0) == 2.0


def test_a_step_uses_the_weight_of_its_time():
    algorithm, state = wide()
    results = [algorithm.step(state, tasks.Episodes((task(),)), At("episodes", 0, f), Context()) for f in (0.0, 1.0)]
    early, late = (r.metrics["loss"] for r in results)
    divergence = results[0].metrics["divergence"]
    assert divergence == pytest.approx(results[1].metrics["divergence"])
    assert late - early == pytest.approx(0.99 * divergence)


# ---- variances -------------------------------------------------------------------------------------------------------


def spreads_stay_positive(at):
    gen = generator(2)
    log_spread = {"a": 3 * torch.randn(1000, generator=gen, dtype=torch.float64)}
    mean = {"a": torch.zeros(1000, dtype=torch.float64)}
    g = Gaussian(mean, log_spread)
    assert float(at(g, {"a": torch.ones(1000, dtype=torch.float64)})["a"].min()) > 0
    assert bool(platipus.kl(g, Gaussian(mean, {"a": -log_spread["a"]})).isfinite())


def test_no_value_of_what_is_learnt_makes_a_variance_negative():
    spreads_stay_positive(Gaussian.at)


def test_a_spread_learnt_as_it_is_would_be_noticed():
    with pytest.raises(AssertionError):
        spreads_stay_positive(lambda g, e: {n: t + g.log_spread[n] * e[n] for n, t in g.mean.items()})


# ---- in use: from the prior, which knows the examples alone ----------------------------------------------------------


def prior_by_hand(state, algorithm, e):
    mu = {n: t.clone().requires_grad_() for n, t in mu_of(state.learned).items()}
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(mu), {}, e.support_x)
    w, b = heads.prototype_linear(heads.prototypes(f, e.support_y, e.ways), mu["scale"].exp())
    grads = torch.autograd.grad(F.cross_entropy(f @ w.T + b, e.support_y), list(mu.values()))
    gamma = state.learned[GAMMA + PRIOR].exp()
    return {n: (t - gamma * g).detach() for (n, t), g in zip(mu.items(), grads, strict=True)}


def draws_are_from_the_prior(cls):
    """Two tensors of 400 starts: without a spread each is the prior's mean, with one they lie about it."""
    algorithm, state = wide(cls=cls)
    algorithm = cls(replace(algorithm.p, test_steps=0, draws=400), algorithm.setting)
    e = task()
    mean = prior_by_hand(state, algorithm, e)

    def starts(state, name):
        adapted = algorithm.adapt(state, cases.support_of(e), Context(), unlabelled=e.query_x)
        return torch.stack([adapted.tensors[f"draw.{i}.{name}"] for i in range(400)])

    narrow = State({n: t - 40 if n.startswith(PRIOR) else t for n, t in state.learned.items()}, state.memory)
    found = starts(narrow, "trunk.conv.weight")
    torch.testing.assert_close(found, mean["trunk.conv.weight"].expand_as(found), rtol=0, atol=1e-12)
    z = torch.cat(
        [
            ((starts(state, name) - mean[name]) / state.learned[PRIOR + name].exp()).flatten(1)
            for name in ("trunk.conv.weight", "trunk.norm.bias")
        ],
        1,
    )
    # the mean and the mean square of n standard normal numbers, within five standard errors; no two go together
    n = z.numel()
    assert abs(float(z.mean())) < 5 / n**0.5
    assert abs(float(z.square().mean()) - 1) < 5 * (2 / n) ** 0.5
    assert float(z.mean(0).abs().max()) < 5 / 400**0.5
    assert float((torch.corrcoef(z.T) - torch.eye(z.shape[1])).abs().max()) < 0.35


def test_in_use_starts_are_drawn_from_the_prior_of_the_examples():
    draws_are_from_the_prior(Platipus)


class DrawsFromThePosterior(Platipus):
    """The spread of q; its mean needs the queries' labels, which are not there."""

    def prior(self, learned, support):
        found, place = super().prior(learned, support)
        return Gaussian(found.mean, {n: learned[POSTERIOR + n] for n in found.mean}), place


class LooksAtTheQueries(Platipus):
    """The mean of q, with labels guessed for the queries that the evaluation would hand over."""

    def adapt(self, s, support, ctx, *, unlabelled=None, on_step=None):
        guess = torch.arange(len(unlabelled)) % support.ways
        self.both = Support(torch.cat([support.x, unlabelled]), torch.cat([support.y, guess]), support.ways)
        return super().adapt(s, support, ctx, on_step=on_step)

    def prior(self, learned, support):
        return super().prior(learned, self.both)


class NotShifted(Platipus):
    def prior(self, learned, support):
        found, place = super().prior(learned, support)
        return Gaussian(mu_of(learned), found.log_spread), place


class HalfTheSpread(Platipus):
    """Variances taken for standard deviations."""

    def prior(self, learned, support):
        found, place = super().prior(learned, support)
        return Gaussian(found.mean, {n: t / 2 for n, t in found.log_spread.items()}), place


class OneNoise(Gaussian):
    def at(self, noise):
        return super().at({n: noise["scale"].expand_as(t) for n, t in noise.items()})


class OneNoiseForAllWeights(Platipus):
    def prior(self, learned, support):
        found, place = super().prior(learned, support)
        return OneNoise(*found), place


@pytest.mark.parametrize(
    "cls", [DrawsFromThePosterior, LooksAtTheQueries, NotShifted, HalfTheSpread, OneNoiseForAllWeights]
)
def test_drawing_from_anything_else_is_noticed(cls):
    with pytest.raises(AssertionError):
        draws_are_from_the_prior(cls)


def test_what_the_posterior_has_learnt_is_not_used():
    algorithm, state = built()
    other = moved(state, posterior=2.0)
    other.learned[GAMMA + POSTERIOR] += 3
    e = cases.support_of(task())
    a, b = (algorithm.adapt(s, e, Context()) for s in (state, other))
    assert cases.same(a.tensors, b.tensors)
    c = algorithm.adapt(moved(state, prior=2.0), e, Context())
    assert not cases.same(a.tensors, c.tensors)


def test_another_seed_draws_other_networks_and_the_same_seed_the_same():
    algorithm, state = built(spread=0.1)
    e = cases.support_of(task())
    a, b, c = (algorithm.adapt(state, e, Context(seed=s)) for s in (1, 1, 2))
    assert cases.same(a.tensors, b.tensors)
    assert not cases.same(a.tensors, c.tensors)
    name = "trunk.conv.weight"
    assert not torch.equal(a.tensors[f"draw.0.{name}"], a.tensors[f"draw.1.{name}"])


def test_each_step_of_training_draws_anew_and_repeats_after_a_resume():
    algorithm, state = built(spread=0.1)
    batch = tasks.Episodes((task(), task()))

    def losses(step, seed=0):
        return algorithm.step(state, batch, At("episodes", step, 0.5), Context(seed=seed)).metrics["loss"]

    assert losses(7) == losses(7)
    assert len({losses(7), losses(8), losses(7, seed=1)}) == 3
    alone = algorithm.step(state, tasks.Episodes((task(),)), At("episodes", 7, 0.5), Context()).metrics["loss"]
    assert losses(7) != pytest.approx(alone, rel=1e-9)  # the second task had noise of its own


# ---- the answer of several networks ----------------------------------------------------------------------------------


def committee_averages_probabilities(answer):
    gen = generator(3)
    weight, bias = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((4, 3, 5), (4, 3)))
    f = torch.randn(6, 20, generator=gen, dtype=torch.float64)
    each = [(f[:, 5 * i : 5 * i + 5] @ weight[i].T + bias[i]).softmax(1) for i in range(4)]
    torch.testing.assert_close(answer(weight, bias, f).softmax(1), torch.stack(each).mean(0), rtol=0, atol=1e-14)
    # a constant added to all logits of one member means nothing
    shift = torch.tensor([0.0, 10.0, 0.0, 0.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(answer(weight, bias + shift, f), answer(weight, bias, f), rtol=0, atol=1e-12)


def test_a_committee_averages_probabilities():
    committee_averages_probabilities(lambda w, b, f: Committee(w, b)(f))


@pytest.mark.parametrize("reduce", [lambda z: z.logsumexp(0), lambda z: z.mean(0)], ids=["raw", "geometric"])
def test_another_average_is_noticed(reduce):
    def mistaken(weight, bias, f):
        return reduce(torch.stack([f[:, 5 * i : 5 * i + 5] @ weight[i].T + bias[i] for i in range(4)]))

    with pytest.raises(AssertionError):
        committee_averages_probabilities(mistaken)


def test_ambiguous_examples_are_answered_less_surely():
    """Two readings that disagree leave the average unsure where each network alone would be sure."""
    weight = torch.tensor([[[9.0], [-9.0]], [[-9.0], [9.0]]], dtype=torch.float64)
    p = Committee(weight, torch.zeros(2, 2, dtype=torch.float64))(torch.ones(1, 2, dtype=torch.float64)).exp()
    torch.testing.assert_close(p, torch.full_like(p, 0.5))
