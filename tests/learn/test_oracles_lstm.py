"""The LSTM meta-learner against descent, its recurrence by hand and finite differences (float64)."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double, support_of
from workbench.core.context import Context
from workbench.learn import coordinates, functional, inner, norm
from workbench.learn.algorithms import lstm
from workbench.learn.algorithms.lstm import LSTMMetaLearner
from workbench.learn.protocol import At, Setting, SourceSummary, State, generator

STEPS, RATE = 3, 0.1


def built(head="textbook", units=0, spread=0.3, **params):
    """On the smooth network, with gates that move: at the start they hardly do."""
    tasks.tiny_backbone()
    p = LSTMMetaLearner.Params(**{"head": head, "inner_lr": RATE, "inner_steps": STEPS, "units": units, **params})
    algorithm = LSTMMetaLearner(p, Setting("tiny-smooth", 1, 8, ways=3))
    state, gen = double(algorithm.init(generator(0))), generator(8)
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5  # else the examples are certain from the start
    for name, t in state.learned.items():
        if name.startswith("cell.") and not name.startswith("cell.reader."):
            t += spread * torch.randn(t.shape, generator=gen, dtype=t.dtype)
    return algorithm, state


def task(seed=0):
    return tasks.episode(generator(seed), ways=3, shots=2, queries=3, dtype=torch.float64)


def adapted(algorithm, state, e):
    return algorithm.adapt(state, support_of(e), Context()).tensors


def walked(cell, loss, start, steps=STEPS, **kwargs):
    """The path of a cell from ``start [P]``."""
    found = coordinates.walk(
        lambda t: loss(t["t"]),
        {"t": start},
        lstm.gated,
        cell,
        lstm.nothing_yet(cell, start),
        **{"steps": steps, "ctx": Context(), "graph": False, **kwargs},
    )
    return [t["t"] for t in found]


def random_cell(units=0, seed=0, spread=1.0):
    cell, gen = lstm.cell_start(units, RATE, generator(seed)), generator(seed + 50)
    cell = {n: t.double() for n, t in cell.items()}
    return {n: t + spread * torch.randn(t.shape, generator=gen, dtype=t.dtype) for n, t in cell.items()}


def constant_cell(i, f):
    """Gates that do not move, exactly: ``sigmoid(40)`` is 1 in float64."""
    zero, as_bias = torch.zeros(6, dtype=torch.float64), lambda p: torch.tensor(p, dtype=torch.float64).logit()
    keep = torch.tensor(40.0, dtype=torch.float64) if f == 1 else as_bias(f)
    return {"input.weight": zero, "forget.weight": zero, "input.bias": as_bias(i), "forget.bias": keep}


class Bowl:
    """``1/2 (t - c)' A (t - c)`` with a random ``A``, and the same with its numbers in another order."""

    def __init__(self, size=5, seed=0):
        m, c = torch.randn(2, size, size, generator=generator(seed), dtype=torch.float64)
        self.a, self.c = m @ m.T / size, c[0]

    def __call__(self, t):
        return 0.5 * (t - self.c) @ self.a @ (t - self.c)

    def permuted(self, order):
        other = Bowl(len(self.c))
        other.a, other.c = self.a[order][:, order], self.c[order]
        return other


# ---- what the gates read ---------------------------------------------------------------------------------


def test_sizes_come_in_as_logarithms_and_signs():
    x = torch.tensor([math.e, -math.exp(-5.0), math.exp(-12.0), -1e-30, 0.0], dtype=torch.float64)
    expected = [[0.1, 1.0], [-0.5, -1.0], [-1.0, math.exp(-2.0)], [-1.0, -1e-30 * math.exp(10)], [-1.0, 0.0]]
    torch.testing.assert_close(coordinates.preprocessed(x), torch.tensor(expected, dtype=torch.float64))
    edge = math.exp(-10.0)
    near = torch.tensor([edge * (1 - 1e-9), edge * (1 + 1e-9)], dtype=torch.float64)
    torch.testing.assert_close(*coordinates.preprocessed(near).unbind(), rtol=0, atol=1e-8)


# ---- the gates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["textbook", "prototype"])
def test_constant_gates_are_plain_descent_to_the_last_bit(head):
    algorithm, state = built(head)
    cell = constant_cell(RATE, 1)
    learned = {**state.learned, **functional.named(cell, lstm.CELL)}
    found, e = adapted(algorithm, State(learned, state.memory), task()), task()
    with torch.no_grad():
        start, _ = inner.start(algorithm.network, learned, e.support_x, e.support_y, 3)
    *_, expected = inner.descent(
        lambda t: F.cross_entropy(inner.support_logits(algorithm.network, t, e.support_x), e.support_y),
        start,
        lr=float(cell["input.bias"].sigmoid()),
        steps=STEPS,
        order="none",
        ctx=Context(),
    )
    assert all(torch.equal(found[n], t) for n, t in expected.items())
    # with the forget gate as it begins it is something else
    usual = {**learned, "cell.forget.bias": torch.tensor(lstm.FORGET_BIAS, dtype=torch.float64)}
    assert not torch.equal(adapted(algorithm, State(usual, {}), task())["head.weight"], expected["head.weight"])


def test_the_gates_begin_as_small_steps_that_keep_what_there_is():
    cell = {n: t.double() for n, t in lstm.cell_start(0, RATE, generator(0)).items()}
    theta, gradient = torch.randn(2, 200, generator=generator(1), dtype=torch.float64)
    loss = torch.tensor(1.0, dtype=torch.float64)
    _, (i, f) = lstm.gated(cell, theta, gradient, loss, lstm.nothing_yet(cell, theta))
    assert float((i / RATE - 1).abs().max()) < 0.05
    assert float(f.min()) > 0.995


def by_hand(cell, loss, theta, steps):
    """The recurrence, one number at a time, in plain arithmetic; the reader is torch's own LSTM."""
    units = len(cell["reader.bias"]) // 4 if "reader.bias" in cell else 0
    if units:
        reader = torch.nn.LSTMCell(4, units, dtype=torch.float64)
        with torch.no_grad():
            reader.weight_ih.copy_(cell["reader.weight"][:, :4])
            reader.weight_hh.copy_(cell["reader.weight"][:, 4:])
            reader.bias_ih.copy_(cell["reader.bias"])
            reader.bias_hh.zero_()

    def seen(x):
        return (math.log(abs(x)) / 10, math.copysign(1, x)) if abs(x) >= math.exp(-10) else (-1.0, math.exp(10) * x)

    def gate(name, inputs):
        w = cell[f"{name}.weight"].tolist()
        return 1 / (1 + math.exp(-sum(a * b for a, b in zip(w, inputs, strict=True)) - float(cell[f"{name}.bias"])))

    numbers, gates, held = theta.tolist(), [(0.0, 0.0)] * len(theta), [None] * len(theta)
    for _ in range(steps):
        at = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
        value = loss(at)
        (g,) = torch.autograd.grad(value, at)
        value = value.detach()
        for k in range(len(numbers)):
            said = [*seen(float(g[k])), *seen(float(value))]
            if units:
                with torch.no_grad():
                    held[k] = reader(torch.tensor([said], dtype=torch.float64), held[k])
                said = held[k][0][0].tolist()
            i, f = gates[k]
            i, f = gate("input", [*said, numbers[k], i]), gate("forget", [*said, numbers[k], f])
            numbers[k], gates[k] = f * numbers[k] - i * float(g[k]), (i, f)
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("units", [0, 3])
def test_the_path_is_the_recurrence_by_hand(units):
    cell, loss = random_cell(units), Bowl()
    start = torch.randn(5, generator=generator(3), dtype=torch.float64)
    torch.testing.assert_close(walked(cell, loss, start)[-1], by_hand(cell, loss, start, STEPS), rtol=1e-11, atol=1e-12)


def test_the_loss_is_read(monkeypatch):
    """A task that is nearly solved is stepped otherwise than one that is not, at the same gradients."""
    cell, start = random_cell(), torch.randn(5, generator=generator(3), dtype=torch.float64)
    gap = (walked(cell, lambda t: Bowl()(t) + 3.0, start)[-1] - walked(cell, Bowl(), start)[-1]).abs().max()
    assert float(gap) > 1e-3
    # the mistake: another input in its place
    rule = lstm.gated
    monkeypatch.setattr(lstm, "gated", lambda c, t, g, loss, m: rule(c, t, g, torch.zeros_like(loss), m))
    gap = (walked(cell, lambda t: Bowl()(t) + 3.0, start)[-1] - walked(cell, Bowl(), start)[-1]).abs().max()
    assert float(gap) < 1e-12
    assert float((walked(cell, Bowl(), start)[-1] - by_hand(cell, Bowl(), start, STEPS)).abs().max()) > 1e-2


def gap_after_permuting(cell, size=5):
    order = torch.randperm(size, generator=generator(4))
    start = torch.randn(size, generator=generator(3), dtype=torch.float64)
    there, here = walked(cell, Bowl(size).permuted(order), start[order])[-1], walked(cell, Bowl(size), start)[-1]
    return float((there - here[order]).abs().max())


@pytest.mark.parametrize("units", [0, 3])
def test_permuting_the_numbers_permutes_the_result(units):
    assert gap_after_permuting(random_cell(units)) < 1e-12


def test_a_cell_that_sees_a_whole_layer_would_not_permute(monkeypatch):
    rule = lstm.gated
    monkeypatch.setattr(lstm, "gated", lambda c, t, g, loss, m: rule(c, t, (g + g.roll(1)) / 2, loss, m))
    assert gap_after_permuting(random_cell()) > 1e-2


def test_one_cell_fits_any_network():
    cell = random_cell(3)
    assert [len(walked(cell, Bowl(size), torch.zeros(size, dtype=torch.float64))[-1]) for size in (2, 9)] == [2, 9]


# ---- what trains them ------------------------------------------------------------------------------------


def replayed(monkeypatch, algorithm, state, e, observed=coordinates.observed):
    """The query loss as a function of what is learnt, with the losses and gradients of ``state``'s path as constants.

    This is the function whose gradient the method takes; ``observed`` is what the path is made with.
    """
    kept = []
    monkeypatch.setattr(coordinates, "observed", lambda *a: kept.append(observed(*a)) or kept[-1])
    loss(algorithm, state.learned, e)
    constants = [(value.detach(), gradient.detach()) for value, gradient in kept]

    def function(learned):
        given = iter(constants)
        monkeypatch.setattr(coordinates, "observed", lambda *_: next(given))
        return loss(algorithm, learned, e)

    return function


def loss(algorithm, learned, e):
    leaves = {n: t.detach().requires_grad_() for n, t in learned.items()}
    return float(algorithm.task_loss(leaves, e, Context()).loss.detach())


def gap_to_finite_differences(monkeypatch, algorithm, state, e, directions=3, h=1e-6):
    """Largest relative gap between the gradient and central differences along random directions."""
    grads = algorithm.step(state, tasks.Episodes((e,)), At("episodes", 0, 0.0), Context()).grads
    gen, gaps = generator(9), []
    with monkeypatch.context() as patch:
        function = replayed(patch, algorithm, state, e)
        parts = {"all": "", "cell": "cell."} | ({"head": "head."} if algorithm.p.head == "textbook" else {})
        for prefix in parts.values():
            for _ in range(directions):
                way = {
                    n: torch.randn(t.shape, generator=gen, dtype=t.dtype) * n.startswith(prefix)
                    for n, t in state.learned.items()
                }
                up = function({n: t + h * way[n] for n, t in state.learned.items()})
                down = function({n: t - h * way[n] for n, t in state.learned.items()})
                exact = sum(float((grads[n] * way[n]).sum()) for n in grads)
                gaps.append(abs((up - down) / (2 * h) - exact) / max(abs(exact), 1e-3))
    return max(gaps)


@pytest.mark.parametrize(("head", "units"), [("textbook", 0), ("prototype", 0), ("textbook", 3)])
def test_the_gradient_reaches_the_cell_and_the_start_through_all_steps(head, units, monkeypatch):
    algorithm, state = built(head, units)
    assert gap_to_finite_differences(monkeypatch, algorithm, state, task()) < 1e-6


@pytest.mark.parametrize("planted", ["theta cut", "memory cut", "statistics cut"])
def test_finite_differences_notice_a_cut_in_the_graph(planted, monkeypatch):
    algorithm, state = built("textbook", 3, spread=1.0)
    step, statistics = coordinates._stepped, inner.statistics
    if planted == "theta cut":
        monkeypatch.setattr(coordinates, "_stepped", lambda r, w, theta, *rest: step(r, w, theta.detach(), *rest))
    elif planted == "memory cut":
        monkeypatch.setattr(coordinates, "_stepped", lambda *a: step(*a[:-1], tuple(m.detach() for m in a[-1])))
    else:
        monkeypatch.setattr(inner, "statistics", lambda *a: norm.detached(statistics(*a)))
    assert gap_to_finite_differences(monkeypatch, algorithm, state, task()) > 1e-3


def test_gradients_and_losses_of_the_examples_are_constants(monkeypatch):
    """With gates that do not move ``d theta_T / d c_0`` is ``f^T``; with the gradients' own, ``(f - iA)^T``."""
    i, f, loss = 0.2, 0.9, Bowl()

    def slope():
        start = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        last = walked(constant_cell(i, f), loss, start, graph=True)[-1]
        return torch.stack([torch.autograd.grad(x, start, retain_graph=True)[0] for x in last])

    eye = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(slope(), f**STEPS * eye, rtol=0, atol=1e-14)

    def kept(function, theta, like):
        value = function(coordinates.shaped(theta, like))
        return value, torch.autograd.grad(value, theta, create_graph=True)[0]

    monkeypatch.setattr(coordinates, "observed", kept)
    monkeypatch.setattr(coordinates, "recomputed", lambda function, *tensors: function(*tensors))
    whole = torch.linalg.matrix_power(f * eye - i * loss.a, STEPS)
    torch.testing.assert_close(slope(), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("units", [0, 3])
def test_recomputing_changes_no_gradient(units, monkeypatch):
    cell = {n: t.requires_grad_() for n, t in random_cell(units).items()}
    start = torch.randn(5, generator=generator(3), dtype=torch.float64, requires_grad=True)

    def grads():
        return torch.autograd.grad(walked(cell, Bowl(), start, graph=True)[-1].square().sum(), [start, *cell.values()])

    found = grads()
    monkeypatch.setattr(coordinates, "recomputed", lambda function, *tensors: function(*tensors))
    for a, b in zip(found, grads(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
        assert float(b.abs().max()) > 0


def test_the_start_of_the_network_is_learnt_with_the_gates():
    """One gradient, of ``c_0`` and cell alike, its norm cut as in the paper."""
    algorithm, state = built("textbook")
    (phase,) = algorithm.phases(SourceSummary((40,), 400))
    assert phase.clip == 0.25
    grads = algorithm.step(state, tasks.Episodes((task(),)), At("episodes", 0, 0.0), Context()).grads
    assert grads.keys() == state.learned.keys()
    assert all(float(g.abs().max()) > 0 for g in grads.values())


# ---- in use ----------------------------------------------------------------------------------------------


def test_no_statistics_of_training_reach_a_new_task(monkeypatch):
    """Running averages may be anything, or be missing; the adapted network's are its own examples', biased."""
    algorithm, state = built("prototype")
    e, moved = task(), {n: 7 * t + 3 for n, t in state.memory.items()}
    found = [adapted(algorithm, State(state.learned, m), e) for m in (state.memory, moved, {})]
    for other in found[1:]:
        assert all(torch.equal(found[0][n], t) for n, t in other.items())
    x = F.conv2d(e.support_x, found[0]["trunk.conv.weight"], padding=1)
    torch.testing.assert_close(found[0]["trunk.norm.running_mean"], x.mean((0, 2, 3)))
    torch.testing.assert_close(found[0]["trunk.norm.running_var"], x.var((0, 2, 3), correction=0))

    def running(network, theta, x):
        buffers = functional.under(moved)
        return F.linear(
            functional.call(network, functional.under(theta), buffers, x), theta["head.weight"], theta["head.bias"]
        )

    # the mistake: descending under statistics carried over from training
    monkeypatch.setattr(inner, "support_logits", running)
    assert float((adapted(algorithm, state, e)["head.weight"] - found[0]["head.weight"]).abs().max()) > 1e-3


def test_it_takes_the_steps_it_was_trained_for():
    algorithm, state = built("textbook")
    shown = []
    algorithm.adapt(state, support_of(task()), Context(), on_step=lambda j, _: shown.append(j))
    assert shown == list(range(algorithm.p.inner_steps + 1))
    assert algorithm.p.test_steps == algorithm.p.inner_steps


def test_adapting_is_what_was_trained():
    """The query loss of the adapted network is the loss that a training step reports, also with a reader."""
    algorithm, state = built("prototype", 3)
    e = task()
    a = algorithm.adapt(state, support_of(e), Context())
    value = float(F.cross_entropy(algorithm.logits(state, a, e.query_x), e.query_y))
    assert value == pytest.approx(loss(algorithm, state.learned, e), rel=1e-10)
