"""MAML and first-order MAML against finite differences, closed forms and an inner loop by hand (float64)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import functional, heads, inner, norm
from workbench.learn.algorithms.maml import FOMAML, MAML
from workbench.learn.protocol import At, Setting, State, Support, generator

AT = At("episodes", 0, 0.0)


def built(cls, head, **params):
    tasks.tiny_backbone()
    p = cls.Params(**{"head": head, "inner_lr": 0.1, "inner_steps": 3, **params})
    algorithm = cls(p, Setting("tiny-smooth", 1, 8, ways=3))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        # Small, so that the examples are not already certain and the inner steps have something to do.
        state.learned["scale"] -= 1.5
    return algorithm, double(state)


def task(seed=0):
    return tasks.episode(generator(seed), ways=3, shots=2, queries=3, dtype=torch.float64)


def meta_gradient(algorithm, state, e):
    return algorithm.step(state, tasks.Episodes((e,)), AT, Context()).grads


def meta_loss(algorithm, learned, e):
    """The value alone."""
    leaves = {n: t.detach().requires_grad_() for n, t in learned.items()}
    return float(algorithm.task_loss(leaves, e, Context())[0].detach())


def gap_to_finite_differences(algorithm, state, e, directions=4, h=1e-6):
    """Largest relative gap between the gradient and central differences along random directions."""
    grads, gen = meta_gradient(algorithm, state, e), generator(9)
    gaps = []
    for _ in range(directions):
        way = {n: torch.randn(t.shape, generator=gen, dtype=t.dtype) for n, t in state.learned.items()}
        up = meta_loss(algorithm, {n: t + h * way[n] for n, t in state.learned.items()}, e)
        down = meta_loss(algorithm, {n: t - h * way[n] for n, t in state.learned.items()}, e)
        exact = sum(float((grads[n] * way[n]).sum()) for n in grads)
        gaps.append(abs((up - down) / (2 * h) - exact) / max(abs(exact), 1e-3))
    return max(gaps)


@pytest.mark.parametrize("head", ["textbook", "prototype"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_the_whole_map(head, steps):
    algorithm, state = built(MAML, head, inner_steps=steps)
    assert gap_to_finite_differences(algorithm, state, task()) < 1e-6


@pytest.mark.parametrize("planted", ["first order", "detached step", "frozen statistics"])
def test_finite_differences_notice_a_cut_in_the_graph(planted, monkeypatch):
    algorithm, state = built(MAML, "textbook")
    whole = inner.descent
    if planted == "first order":
        monkeypatch.setattr(inner, "descent", lambda *a, **k: whole(*a, **{**k, "order": "first"}))
    elif planted == "detached step":

        def cut(loss, start, **kwargs):
            for theta in whole(loss, start, **kwargs):
                last = {n: t.detach() + 0 * start[n] for n, t in theta.items()}
            yield last

        monkeypatch.setattr(inner, "descent", cut)
    else:
        keep = inner.statistics
        monkeypatch.setattr(
            inner,
            "statistics",
            lambda *a: {n: norm.Moments(m.mean.detach(), m.var.detach(), m.values) for n, m in keep(*a).items()},
        )
    assert gap_to_finite_differences(algorithm, state, task()) > 1e-3


def by_hand(algorithm, learned, e, steps, lr):
    """``theta_k`` with leaves, ``backward`` and new leaves: no code of the package but the network and the head."""
    trunk = {n: t.detach().clone() for n, t in learned.items() if n.startswith("trunk.")}
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(trunk), {}, e.support_x)
    if algorithm.p.head == "textbook":
        weight, bias = learned["head.weight"], learned["head.bias"]
    else:
        c = torch.stack([f[e.support_y == k].mean(0) for k in range(e.ways)])
        s = learned["scale"].exp()
        weight, bias = 2 * s * c, -s * (c * c).sum(1)
    theta = {**trunk, "w": weight.detach(), "b": bias.detach()}
    for _ in range(steps):
        theta = {n: t.clone().requires_grad_() for n, t in theta.items()}
        with norm.batch_statistics():
            f = functional.call(algorithm.network, functional.under(theta), {}, e.support_x)
        F.cross_entropy(f @ theta["w"].T + theta["b"], e.support_y).backward()
        theta = {n: (t - lr * t.grad).detach() for n, t in theta.items()}
    return theta


def query_loss_by_hand(algorithm, theta, e):
    """With the examples' statistics."""
    with norm.batch_statistics(differentiable=True) as statistics:
        functional.call(algorithm.network, functional.under(theta), {}, e.support_x)
    with norm.given_statistics(statistics):
        f = functional.call(algorithm.network, functional.under(theta), {}, e.query_x)
    return F.cross_entropy(f @ theta["w"].T + theta["b"], e.query_y)


@pytest.mark.parametrize("head", ["textbook", "prototype"])
@pytest.mark.parametrize("cls", [MAML, FOMAML])
def test_the_inner_loop_is_plain_gradient_descent(cls, head):
    """In particular the trunk's inner gradient does not hold its way through the start of a prototype head."""
    algorithm, state = built(cls, head)
    theta = by_hand(algorithm, state.learned, task(), 3, 0.1)
    assert meta_loss(algorithm, state.learned, task()) == pytest.approx(
        float(query_loss_by_hand(algorithm, theta, task()).detach()), rel=1e-12
    )
    adapted = algorithm.adapt(state, _support(task()), Context())
    used = replace(algorithm.p, test_steps=3)
    adapted = cls(used, algorithm.setting).adapt(state, _support(task()), Context())
    for name, t in theta.items():
        found = adapted.tensors[{"w": "head.weight", "b": "head.bias"}.get(name, name)]
        torch.testing.assert_close(found, t, rtol=1e-10, atol=1e-12)


def test_sharing_the_starts_names_would_change_the_inner_gradient(monkeypatch):
    """The mistake that the test above is there for: trunk and prototype head as one variable."""
    algorithm, state = built(MAML, "prototype", inner_steps=1)

    def shared(loss, start, *, lr, steps, order, ctx):
        grads = torch.autograd.grad(loss(start), list(start.values()), create_graph=True)
        yield {n: t - lr * g for (n, t), g in zip(start.items(), grads, strict=True)}

    right = meta_loss(algorithm, state.learned, task())
    monkeypatch.setattr(inner, "descent", shared)
    assert abs(meta_loss(algorithm, state.learned, task()) - right) > 1e-6


@pytest.mark.parametrize("cls", [MAML, FOMAML])
@pytest.mark.parametrize("head", ["textbook", "prototype"])
def test_without_steps_it_is_joint_training(cls, head):
    algorithm, state = built(cls, head, inner_lr=0.0)
    found = meta_gradient(algorithm, state, task())
    learned = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
    e, start = task(), {n: t for n, t in learned.items() if n.startswith("trunk.")}
    if head == "textbook":
        start |= {"w": learned["head.weight"], "b": learned["head.bias"]}
    else:
        with norm.batch_statistics():
            f = functional.call(algorithm.network, functional.under(start), {}, e.support_x)
        w, b = heads.prototype_linear(heads.prototypes(f, e.support_y, 3), learned["scale"].exp())
        start |= {"w": w, "b": b}
    expected = torch.autograd.grad(query_loss_by_hand(algorithm, start, e), list(learned.values()))
    for name, g in zip(learned, expected, strict=True):
        torch.testing.assert_close(found[name], g, rtol=1e-9, atol=1e-11)


def gradient_is_that_at_the_adapted_weights(algorithm, state):
    found = meta_gradient(algorithm, state, task())
    theta = {n: t.requires_grad_() for n, t in by_hand(algorithm, state.learned, task(), 3, 0.1).items()}
    query_loss_by_hand(algorithm, theta, task()).backward()
    for name, t in theta.items():
        g = found[{"w": "head.weight", "b": "head.bias"}.get(name, name)]
        torch.testing.assert_close(g, t.grad, rtol=1e-10, atol=1e-12)


def test_first_order_takes_the_query_gradient_at_the_adapted_weights():
    gradient_is_that_at_the_adapted_weights(*built(FOMAML, "textbook"))


@pytest.mark.parametrize("planted", ["joint training", "no gradient at all", "second order"])
def test_another_first_order_is_noticed(planted, monkeypatch):
    algorithm, state = built(MAML if planted == "second order" else FOMAML, "textbook")
    whole = inner.descent
    if planted == "joint training":  # the gradient at the start
        monkeypatch.setattr(inner, "descent", lambda loss, start, **k: (start for _ in whole(loss, start, **k)))
    elif planted == "no gradient at all":  # the end is cut off from the start

        def cut(loss, start, **kwargs):
            for theta in whole(loss, start, **kwargs):
                yield {n: t.detach() + 0 * start[n] for n, t in theta.items()}

        monkeypatch.setattr(inner, "descent", cut)
    with pytest.raises(AssertionError):
        gradient_is_that_at_the_adapted_weights(algorithm, state)


def test_first_order_meets_second_order_as_the_step_goes_to_zero():
    def gap(lr):
        second, state = built(MAML, "prototype", inner_lr=lr)
        first, _ = built(FOMAML, "prototype", inner_lr=lr)
        a, b = (meta_gradient(x, state, task()) for x in (second, first))
        return float(sum((a[n] - b[n]).square().sum() for n in a).sqrt())

    assert gap(0.1) > 1e-2
    assert gap(1e-4) == pytest.approx(gap(1e-3) / 10, rel=0.1)


EYE = torch.eye(4, dtype=torch.float64)


def quadratics(n=3, seed=0):
    """``L_i(t) = 1/2 (t - c_i)' A_i (t - c_i)``: (A, c) of each task."""
    m, c = torch.randn(2, n, 4, 4, generator=generator(seed), dtype=torch.float64)
    return [(m[i] @ m[i].T / 4 + 0.5 * EYE, c[i, 0]) for i in range(n)]


def adapted_loss(theta, a, c, lr, steps, order):
    def loss(t):
        return 0.5 * (t["t"] - c) @ a @ (t["t"] - c)

    *_, last = inner.descent(loss, {"t": theta}, lr=lr, steps=steps, order=order, ctx=Context())
    return loss(last)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_is_the_product_of_the_factors(steps):
    """``(I - lr A)^k A (theta_k - c)``: the Hessians' factors, from the last step to the first."""
    lr, (a, c) = 0.1, quadratics()[0]
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(adapted_loss(theta, a, c, lr, steps, "second"), theta)
    factor = torch.linalg.matrix_power(EYE - lr * a, steps)
    torch.testing.assert_close(found, factor @ a @ factor @ (theta.detach() - c), rtol=0, atol=1e-14)
    (first,) = torch.autograd.grad(adapted_loss(theta, a, c, lr, steps, "first"), theta)
    torch.testing.assert_close(first, a @ factor @ (theta.detach() - c), rtol=0, atol=1e-14)


def test_the_optimum_of_quadratic_tasks_is_a_zero_of_the_gradient():
    """``theta* = (sum W_i)^-1 sum W_i c_i`` with ``W_i = (I - lr A_i) A_i (I - lr A_i)``."""
    lr, problems = 0.1, quadratics()
    w = [(EYE - lr * a) @ a @ (EYE - lr * a) for a, _ in problems]
    best = torch.linalg.solve(sum(w), sum(m @ c for m, (_, c) in zip(w, problems, strict=True))).requires_grad_()
    total = sum(adapted_loss(best, a, c, lr, 1, "second") for a, c in problems)
    (g,) = torch.autograd.grad(total, best)
    assert float(g.abs().max()) < 1e-14
    (first,) = torch.autograd.grad(sum(adapted_loss(best, a, c, lr, 1, "first") for a, c in problems), best)
    assert float(first.abs().max()) > 1e-3


def test_more_tasks_give_their_mean_and_keep_no_graph():
    algorithm, state = built(MAML, "prototype")
    together = algorithm.step(state, tasks.Episodes((task(0), task(1))), AT, Context()).grads
    apart = [meta_gradient(algorithm, state, task(i)) for i in (0, 1)]
    for name, g in together.items():
        torch.testing.assert_close(g, (apart[0][name] + apart[1][name]) / 2, rtol=1e-12, atol=1e-14)
        assert g.grad_fn is None


def test_a_textbook_head_refuses_another_number_of_classes():
    algorithm, state = built(MAML, "textbook")
    e = tasks.episode(generator(0), ways=2, dtype=torch.float64)
    with pytest.raises(WorkbenchError, match=r"2 classes.*fixed head for 3"):
        algorithm.adapt(state, _support(e), Context())


def test_the_examples_statistics_stand_for_the_queries():
    """MetaBN: the running statistics of the adapted network are the biased ones of the support set at its weights."""
    algorithm, state = built(MAML, "prototype")
    adapted = algorithm.adapt(state, _support(task()), Context())
    x = F.conv2d(task().support_x, adapted.tensors["trunk.conv.weight"], padding=1)
    torch.testing.assert_close(adapted.tensors["trunk.norm.running_mean"], x.mean((0, 2, 3)))
    torch.testing.assert_close(adapted.tensors["trunk.norm.running_var"], x.var((0, 2, 3), correction=0))


def _support(e):
    return Support(e.support_x, e.support_y, e.ways)


def test_state_can_be_trained_in_place_by_nobody():
    """The step's leaves are its own: a state without gradients is enough, and it gets none."""
    algorithm, state = built(MAML, "prototype")
    meta_gradient(algorithm, State(dict(state.learned), dict(state.memory)), task())
    assert not any(t.requires_grad for t in state.learned.values())
