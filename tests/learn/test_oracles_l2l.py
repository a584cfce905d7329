"""The learnt optimiser against descent, torch's LSTM, finite differences and tuned hand-made optimisers (float64)."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double, support_of
from workbench.core.context import Context
from workbench.learn import coordinates, inner, norm, optimiser
from workbench.learn.algorithms import l2l
from workbench.learn.algorithms.l2l import L2L
from workbench.learn.protocol import At, Phase, Setting, State, generator

STEPS = 3
AT = At("episodes", 0, 0.0)


def built(head="textbook", adapts="head", **params):
    """On the smooth network, with an optimiser whose steps are not small: at the start they are."""
    tasks.tiny_backbone()
    p = L2L.Params(**{"head": head, "adapts": adapts, "inner_steps": STEPS, "scaling": 0.0, **params})
    algorithm = L2L(p, Setting("tiny-smooth", 1, 8, ways=3))
    state, gen = double(algorithm.init(generator(0))), generator(8)
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5  # else the examples are certain from the start
    state.learned["optimiser.output.weight"] += torch.randn(1, l2l.UNITS, generator=gen, dtype=torch.float64)
    return algorithm, state


def task(seed=0):
    return tasks.episode(generator(seed), ways=3, shots=2, queries=3, dtype=torch.float64)


def loss(algorithm, learned, e):
    leaves = {n: t.detach().requires_grad_() for n, t in learned.items()}
    return float(algorithm.task_loss(leaves, e, generator(0), Context()).loss.detach())


def random_phi(seed=0):
    phi = {n: t.double() for n, t in l2l.phi_start(generator(seed)).items()}
    gen = generator(seed + 50)
    return phi | {"output.weight": torch.randn(1, l2l.UNITS, generator=gen, dtype=torch.float64)}


class Bowl:
    """``|W theta - y|^2`` with random ``W`` and ``y``, as a loss of ``{t: theta [P]}``."""

    def __init__(self, size=5, seed=0):
        gen = generator(seed)
        self.w = torch.randn(size, size, generator=gen, dtype=torch.float64)
        self.y = torch.randn(size, generator=gen, dtype=torch.float64)

    def __call__(self, theta):
        return (self.w @ theta["t"] - self.y).square().sum()

    def gradient(self, t):
        return 2 * self.w.T @ (self.w @ t - self.y)


def start_of(size=5, seed=3, **kwargs):
    return {"t": torch.randn(size, generator=generator(seed), dtype=torch.float64).requires_grad_(**kwargs)}


def walked(phi, function, start, steps=STEPS, rule=l2l.stepped, **kwargs):
    memory = l2l.nothing_yet(phi, start) if rule is l2l.stepped else ()
    found = coordinates.walk(
        function, start, rule, phi, memory, **{"steps": steps, "ctx": Context(), "graph": False, **kwargs}
    )
    return [t["t"] for t in found]


# ---- the network m ---------------------------------------------------------------------------------------


def test_a_step_is_two_layers_of_torchs_lstm_and_a_linear_output():
    phi, function, start = random_phi(), Bowl(), start_of(requires_grad=False)
    layers = [torch.nn.LSTMCell(n, l2l.UNITS, dtype=torch.float64) for n in (2, l2l.UNITS)]
    with torch.no_grad():
        for name, inputs, layer in (("first", 2, layers[0]), ("second", l2l.UNITS, layers[1])):
            layer.weight_ih.copy_(phi[f"{name}.weight"][:, :inputs])
            layer.weight_hh.copy_(phi[f"{name}.weight"][:, inputs:])
            layer.bias_ih.copy_(phi[f"{name}.bias"])
            layer.bias_hh.zero_()
        t, held = start["t"], [None, None]
        for _ in range(STEPS):
            g = function.gradient(t)
            said = torch.stack([g.abs().log() / 10, g.sign()], 1)  # none of these is as small as e^-10
            assert float(g.abs().min()) > math.exp(-10)
            for k in (0, 1):
                held[k] = layers[k](said, held[k])
                said = held[k][0]
            t = t + 0.1 * (said @ phi["output.weight"][0] + phi["output.bias"])
    torch.testing.assert_close(walked(phi, function, start)[-1], t, rtol=1e-12, atol=1e-13)


def test_before_training_the_start_is_nearly_left_as_it_is():
    phi, start = {n: t.double() for n, t in l2l.phi_start(generator(0)).items()}, start_of(requires_grad=False)
    moved = float((walked(phi, Bowl(), start, steps=10)[-1] - start["t"]).abs().max())
    assert 0 < moved < 0.1


def descends(weights, theta, gradient, loss, memory):
    """``m = -alpha x``."""
    return theta - weights["alpha"] * gradient, memory


def test_with_minus_alpha_times_the_gradient_it_is_descent_to_the_last_bit():
    alpha, e = 0.05, task()
    algorithm, state = built("prototype", "all")
    with torch.no_grad():
        problem = algorithm.task(state.learned, e.support_x, e.support_y, 3)
    weights = {"alpha": torch.tensor(alpha, dtype=torch.float64)}
    options = {"steps": STEPS, "ctx": Context()}
    *_, found = coordinates.walk(problem.loss, problem.start, descends, weights, (), graph=False, **options)
    *_, expected = inner.descent(problem.loss, problem.start, lr=alpha, order="none", **options)
    assert all(torch.equal(found[n], t) for n, t in expected.items())


def test_the_step_size_of_descent_gets_the_first_order_gradient():
    """``d f(theta_T) / d alpha = -grad f(theta_T) . sum of the gradients on the way``, which count as constants."""
    alpha, function, start = torch.tensor(0.01, dtype=torch.float64, requires_grad=True), Bowl(), start_of()
    path = walked({"alpha": alpha}, function, start, rule=descends, graph=True)
    found = torch.autograd.grad(function({"t": path[-1]}), [alpha, start["t"]])
    last = function.gradient(path[-1].detach())
    on_the_way = sum(function.gradient(t.detach()) for t in path[:-1])
    torch.testing.assert_close(found[0], -last @ on_the_way, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], last, rtol=1e-12, atol=0)


# ---- each number by itself -------------------------------------------------------------------------------


def test_what_is_remembered_is_eighty_floats_per_number():
    phi, start = random_phi(), {"a": torch.zeros(2, 3), "b": torch.zeros(5)}
    memory = l2l.nothing_yet(phi, start)
    assert sum(m.numel() for m in memory) == 2 * 2 * 20 * 11
    assert not any(m.any() for m in memory)
    theta, gradient = torch.randn(2, 11, generator=generator(1), dtype=torch.float64)
    _, after = l2l.stepped(phi, theta, gradient, torch.zeros((), dtype=torch.float64), memory)
    assert [m.shape for m in after] == [m.shape for m in memory]
    assert all(bool(m.any(1).all()) for m in after)


def gap_after_permuting(phi, size=5):
    order = torch.randperm(size, generator=generator(4))
    here, there, start = Bowl(size), Bowl(size), start_of(size, requires_grad=False)
    there.w = here.w[:, order]
    moved = walked(phi, there, {"t": start["t"][order]})[-1]
    return float((moved - walked(phi, here, start)[-1][order]).abs().max())


def test_permuting_the_numbers_permutes_the_result():
    assert gap_after_permuting(random_phi()) < 1e-12


def test_numbers_that_do_not_meet_in_the_loss_do_not_meet_in_the_optimiser(monkeypatch):
    phi = random_phi()

    def gap():
        """How far the others move when the first is elsewhere, on a loss that is a sum over numbers."""
        start = start_of(requires_grad=False)
        other = {"t": torch.cat([start["t"][:1] + 2, start["t"][1:]])}
        ends = [walked(phi, lambda t: t["t"].pow(4).sum(), s)[-1] for s in (start, other)]
        return float((ends[0] - ends[1])[1:].abs().max())

    assert gap() == 0
    cell = coordinates.lstm
    monkeypatch.setattr(coordinates, "lstm", lambda w, x, h, c: cell(w, x, h.mean(0).expand_as(h), c))
    assert gap() > 1e-6  # the mistake: a memory that all share
    assert gap_after_permuting(phi) < 1e-12  # which permuting cannot tell


# ---- what trains it --------------------------------------------------------------------------------------


def gap_to_finite_differences(monkeypatch, algorithm, state, e, directions=3, h=1e-6):
    """Largest relative gap to central differences of the loss, the gradients on the way held fast."""
    grads = algorithm.step(state, tasks.Episodes((e,)), At("episodes", 1, 0.0), Context()).grads
    gen, gaps, observed, kept = generator(9), [], coordinates.observed, []
    with monkeypatch.context() as patch:
        patch.setattr(coordinates, "observed", lambda *a: kept.append(observed(*a)) or kept[-1])
        loss(algorithm, state.learned, e)
        constants = [(value.detach(), gradient.detach()) for value, gradient in kept]

        def value(learned):
            given = iter(constants)
            patch.setattr(coordinates, "observed", lambda *_: next(given))
            return loss(algorithm, learned, e)

        for prefix in ("", "optimiser.", "trunk."):
            for _ in range(directions):
                way = {
                    n: torch.randn(t.shape, generator=gen, dtype=t.dtype) * n.startswith(prefix)
                    for n, t in state.learned.items()
                }
                up = value({n: t + h * way[n] for n, t in state.learned.items()})
                down = value({n: t - h * way[n] for n, t in state.learned.items()})
                exact = sum(float((grads[n] * way[n]).sum()) for n in grads)
                gaps.append(abs((up - down) / (2 * h) - exact) / max(abs(exact), 1e-3))
    return max(gaps)


@pytest.mark.parametrize("adapts", ["head", "all"])
@pytest.mark.parametrize("head", ["textbook", "prototype"])
def test_the_gradient_is_that_of_the_whole_walk(head, adapts, monkeypatch):
    algorithm, state = built(head, adapts)
    assert gap_to_finite_differences(monkeypatch, algorithm, state, task()) < 1e-6


@pytest.mark.parametrize("planted", ["theta cut", "memory cut", "statistics cut"])
def test_finite_differences_notice_a_cut_in_the_graph(planted, monkeypatch):
    algorithm, state = built("textbook", "head")
    step, given = coordinates._stepped, norm.given_statistics
    if planted == "theta cut":
        monkeypatch.setattr(coordinates, "_stepped", lambda r, w, theta, *rest: step(r, w, theta.detach(), *rest))
    elif planted == "memory cut":
        monkeypatch.setattr(coordinates, "_stepped", lambda *a: step(*a[:-1], tuple(m.detach() for m in a[-1])))
    else:
        monkeypatch.setattr(norm, "given_statistics", lambda s: given(norm.detached(s)))
    assert gap_to_finite_differences(monkeypatch, algorithm, state, task()) > 1e-3


def test_the_gradients_on_the_way_are_constants(monkeypatch):
    """``d theta_T / d theta_0 = 1``: the optimiser does not read theta, and its input has no graph."""
    phi, function = random_phi(), Bowl()

    def slope():
        start = start_of()
        last = walked(phi, function, start, graph=True)[-1]
        return torch.stack([torch.autograd.grad(x, start["t"], retain_graph=True)[0] for x in last])

    torch.testing.assert_close(slope(), torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-14)

    def kept(function, theta, like):
        value = function(coordinates.shaped(theta, like))
        return value, torch.autograd.grad(value, theta, create_graph=True)[0]

    monkeypatch.setattr(coordinates, "observed", kept)
    monkeypatch.setattr(coordinates, "recomputed", lambda function, *tensors: function(*tensors))
    assert float((slope() - torch.eye(5, dtype=torch.float64)).abs().max()) > 1e-3


@pytest.mark.parametrize("adapts", ["head", "all"])
def test_every_step_counts_alike(adapts):
    """The loss is the mean of the query losses after 1 .. T steps, as adapting with so many steps gives them."""
    algorithm, state = built("prototype", adapts)
    e, shown = task(), []
    algorithm.adapt(state, support_of(e), Context(), on_step=lambda _, a: shown.append(a))
    found = [float(F.cross_entropy(algorithm.logits(state, a, e.query_x), e.query_y)) for a in shown]
    assert len(found) == STEPS + 1
    assert loss(algorithm, state.learned, e) == pytest.approx(sum(found[1:]) / STEPS, rel=1e-10)
    assert abs(found[-1] - sum(found[1:]) / STEPS) > 1e-4  # the mistake: the last step's alone


def meta_gradient(phi, function, start, **kwargs):
    leaves = {n: t.detach().requires_grad_() for n, t in phi.items()}
    options = {"steps": 6, "unroll": 100, "ctx": Context(), **kwargs}
    total = l2l.meta_loss(leaves, function, start, function, **options)
    return torch.autograd.grad(total, [*leaves.values(), start["t"]])


def test_truncating_cuts_what_came_before_and_not_the_start():
    """Cut every 2 of 6 steps: the sum over three walks, each begun where, and remembering what, the last one ended."""
    phi, function, start = random_phi(), Bowl(), start_of()
    found = meta_gradient(phi, function, start, unroll=2)
    leaves = {n: t.requires_grad_() for n, t in random_phi().items()}
    theta, memory, total, slope = start["t"].detach(), l2l.nothing_yet(leaves, start), 0.0, 0.0
    for _ in range(3):
        for _ in range(2):
            gradient = function.gradient(theta.detach())
            theta, memory = l2l.stepped(leaves, theta, gradient, torch.zeros(()), memory)
            total, slope = total + function({"t": theta}) / 6, slope + function.gradient(theta.detach()) / 6
        theta, memory = theta.detach(), tuple(m.detach() for m in memory)
    expected = [*torch.autograd.grad(total, list(leaves.values())), slope]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    whole = meta_gradient(phi, function, start)
    assert float((whole[0] - found[0]).abs().max()) > 1e-4
    torch.testing.assert_close(whole[-1], found[-1], rtol=1e-10, atol=1e-12)
    for a, b in zip(whole, meta_gradient(phi, function, start, unroll=6), strict=True):
        assert torch.equal(a, b)


# ---- random scaling --------------------------------------------------------------------------------------


def test_scaling_is_a_walk_in_other_units():
    """``theta = c theta'``: the same as the plain rule on ``f(c theta')``, whatever ``c``."""
    phi, function, start = random_phi(), Bowl(), start_of(requires_grad=False)
    c = torch.exp(2 * torch.rand(5, generator=generator(6), dtype=torch.float64) - 1)
    memory = l2l.nothing_yet(phi, start)
    *_, found = coordinates.walk(
        function, start, l2l.in_units(l2l.stepped, c), phi, memory, steps=STEPS, ctx=Context(), graph=False
    )
    there = walked(phi, lambda t: function({"t": c * t["t"]}), {"t": start["t"] / c})[-1]
    torch.testing.assert_close(found["t"], c * there, rtol=1e-12, atol=1e-13)
    assert float((found["t"] - walked(phi, function, start)[-1]).abs().max()) > 1e-2


def test_training_scales_and_use_does_not(monkeypatch):
    """The mistake: gradients of one size only in training."""
    e, seen = task(), []
    rescaled = l2l.in_units
    monkeypatch.setattr(l2l, "in_units", lambda rule, units: seen.append(units) or rescaled(rule, units))
    plain, state = built("prototype")
    scaled, _ = built("prototype", scaling=1.5)
    assert loss(plain, state.learned, e) != loss(scaled, state.learned, e)
    (units,) = seen
    assert units.shape == (3 * (128 + 1),)
    assert 1.0 < float(units.log().abs().max()) <= 1.5
    assert abs(float(units.log().mean())) < 0.2
    a, b = (x.adapt(state, support_of(e), Context()).tensors for x in (plain, scaled))
    assert all(torch.equal(a[n], t) for n, t in b.items())
    # other units for each task and each step, the same from the same seed
    losses = [
        scaled.step(state, tasks.Episodes((e, e)), At("episodes", step, 0.0), Context(seed=seed)).metrics["loss"]
        for step, seed in ((1, 0), (2, 0), (1, 1), (1, 0))
    ]
    assert len(set(losses)) == 3
    assert losses[0] == losses[3]
    assert len({tuple(u.tolist()) for u in seen}) == 7


# ---- beside optimisers made by hand ----------------------------------------------------------------------


def test_the_curves_are_those_of_torchs_optimisers():
    function, start = Bowl(), start_of(requires_grad=False)
    found = coordinates.curves_by_hand(function, start, 6, Context(), (0.01, 0.1))
    assert [(c.optimiser, c.rate) for c in found] == [("sgd", 0.01), ("sgd", 0.1), ("adam", 0.01), ("adam", 0.1)]
    for curve in found:
        t = start["t"].clone().requires_grad_()
        make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[curve.optimiser]
        by_torch, expected = make([t], lr=curve.rate), []
        for _ in range(7):
            value = function({"t": t})
            expected.append(float(value.detach()))
            by_torch.zero_grad()
            value.backward()
            by_torch.step()
        assert curve.losses == pytest.approx(expected, rel=1e-6)


def test_the_learnt_curve_is_the_loss_along_its_path():
    phi, function, start = random_phi(), Bowl(), start_of(requires_grad=False)
    learned, *others = l2l.curves(phi, function, start, 4, Context(), (0.01,))
    assert learned.optimiser == "learned"
    assert learned.losses == pytest.approx([float(function({"t": t})) for t in walked(phi, function, start, 4)])
    assert [c.optimiser for c in others] == ["sgd", "adam"]


def test_the_lowest_curve_is_never_one_that_diverged():
    curves = [
        coordinates.Curve("sgd", 0.1, (4.0, 3.0, 2.0)),
        coordinates.Curve("sgd", 1.0, (4.0, 1.0, 2.5)),
        coordinates.Curve("sgd", 9.0, (4.0, math.nan, math.nan)),
        coordinates.Curve("adam", 9.0, (4.0, math.inf, math.inf)),
        coordinates.Curve("adam", 0.1, (4.0, 3.9, 3.8)),
    ]
    assert [(c.optimiser, c.rate) for c in coordinates.lowest(curves)] == [("sgd", 0.1), ("adam", 0.1)]
    assert [c.rate for c in coordinates.lowest(curves, at_the_end=False)] == [1.0, 0.1]


@pytest.mark.parametrize("adapts", ["head", "all"])
def test_a_training_step_says_now_and_then_how_it_compares(adapts):
    algorithm, state = built("prototype", adapts)
    episodes = tasks.Episodes((task(), task(1)))
    names = {"examples_learned", "examples_adam", "examples_sgd"}
    found = [algorithm.step(state, episodes, At("episodes", step, 0.0), Context()).metrics for step in (0, 1, 10)]
    assert [names <= m.keys() for m in found] == [True, False, True]
    adapted = algorithm.adapt(state, support_of(task()), Context())
    logits = algorithm.logits(state, adapted, task().support_x)  # under their own statistics
    assert found[0]["examples_learned"] == pytest.approx(float(F.cross_entropy(logits, task().support_y)), rel=1e-9)


def test_it_takes_the_steps_it_was_trained_for():
    """The mistake: a longer way in use than in training, on which learnt optimisers diverge."""
    algorithm, state = built()
    shown = []
    algorithm.adapt(state, support_of(task()), Context(), on_step=lambda j, _: shown.append(j))
    assert shown == list(range(STEPS + 1))
    assert algorithm.p.test_steps == algorithm.p.inner_steps == STEPS


def test_no_statistics_of_training_reach_a_new_task():
    (algorithm, state), shown = built("prototype"), support_of(task())
    found = [algorithm.adapt(State(state.learned, m), shown, Context()).tensors for m in (state.memory, {})]
    assert all(torch.equal(found[0][n], t) for n, t in found[1].items())
    x = F.conv2d(task().support_x, state.learned["trunk.conv.weight"], padding=1)
    torch.testing.assert_close(found[0]["trunk.norm.running_mean"], x.mean((0, 2, 3)))


# ---- it learns to optimise -------------------------------------------------------------------------------

SIZE, HORIZON = 6, 15


class Bowls:
    """Many quadratics ``|W theta - y|^2`` side by side, the loss being their sum: each is stepped by itself."""

    def __init__(self, count, gen):
        self.w = torch.randn(count, SIZE, SIZE, generator=gen, dtype=torch.float64)
        self.y = torch.randn(count, SIZE, generator=gen, dtype=torch.float64)
        self.start = {"t": torch.zeros(count * SIZE, dtype=torch.float64)}

    def __call__(self, theta):
        t = theta["t"].view(-1, SIZE, 1)
        return ((self.w @ t)[..., 0] - self.y).square().sum()


def test_on_quadratics_the_trained_optimiser_beats_tuned_descent():
    """Within its horizon, on problems it has not seen, and descent at the rate that is best on these very problems."""
    gen, count, steps = generator(0), 16, 200
    phi, moments = {n: t.double() for n, t in l2l.phi_start(gen).items()}, optimiser.Moments()
    phase = Phase("all", lr={"": 0.03})
    for step in range(steps):
        problems = Bowls(count, gen)
        leaves = {n: t.detach().requires_grad_() for n, t in phi.items()}
        total = l2l.meta_loss(leaves, problems, problems.start, problems, steps=HORIZON, unroll=HORIZON, ctx=Context())
        grads = dict(zip(leaves, torch.autograd.grad(total / count, list(leaves.values())), strict=True))
        phi = optimiser.stepped(phi, grads, moments, phase, step / steps, 0.0)
    unseen = Bowls(64, generator(99))
    rates = tuple(10 ** (k / 4) for k in range(-14, 1))
    found = l2l.curves(phi, unseen, unseen.start, HORIZON, Context(), rates)
    ends = {c.optimiser: c.losses[-1] for c in coordinates.lowest(found)}
    means = {c.optimiser: sum(c.losses[1:]) for c in coordinates.lowest(found, at_the_end=False)}
    best = next(c for c in coordinates.lowest(found) if c.optimiser == "sgd")
    assert rates[0] < best.rate < rates[-1]  # the best rate lies within what was tried
    assert ends["learned"] < 0.75 * ends["sgd"], ends
    assert means["learned"] < 0.9 * means["sgd"], means
    # untrained it is nothing of the kind
    fresh = {n: t.double() for n, t in l2l.phi_start(generator(0)).items()}
    untrained = l2l.curves(fresh, unseen, unseen.start, HORIZON, Context(), ())[0].losses[-1]
    assert untrained > 1.5 * ends["sgd"]
