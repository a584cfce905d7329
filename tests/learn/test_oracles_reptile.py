"""Reptile: its direction and sign, its inner optimiser against torch's Adam, its memory (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double, same
from workbench.core.context import Context
from workbench.learn import functional, norm
from workbench.learn.algorithms import reptile
from workbench.learn.algorithms.reptile import Reptile
from workbench.learn.protocol import At, Setting, Support, generator


def built(**params):
    tasks.tiny_backbone()
    plain = {"optimiser": "sgd", "inner_lr": 0.1, "inner_steps": 1, "inner_batch": 1000, "tasks": 1}
    p = Reptile.Params(**{**plain, **params})
    algorithm = Reptile(p, Setting("tiny-smooth", 1, 8, ways=3))
    return algorithm, double(algorithm.init(generator(0)))


def task(seed=0):
    return tasks.episode(generator(seed), ways=3, shots=2, queries=3, dtype=torch.float64)


def everything(e):
    return torch.cat([e.support_x, e.query_x]), torch.cat([e.support_y, e.query_y])


def start_of(algorithm, state, e):
    """The trunk and its fresh head, by the algorithm's own rule."""
    return algorithm._start(state, *everything(e), e.ways)[0]


def loss_at(algorithm, theta, x, y):
    with norm.batch_statistics():
        f = functional.call(algorithm.network, functional.under(theta), {}, x)
    return F.cross_entropy(F.linear(f, theta["head.weight"], theta["head.bias"]), y)


def gradient(algorithm, theta, x, y, graph=False):
    theta = {n: t if graph else t.detach().requires_grad_() for n, t in theta.items()}
    grads = torch.autograd.grad(loss_at(algorithm, theta, x, y), list(theta.values()), create_graph=graph)
    return dict(zip(theta, grads, strict=True))


def stepped(algorithm, state, *episodes, fraction=0.0):
    return algorithm.step(state, tasks.Episodes(episodes), At("episodes", 0, fraction), Context(seed=4))


def moved(state, result):
    """What the engine makes of it: plain descent with rate 1."""
    return {n: t - result.grads[n] for n, t in state.learned.items()}


@pytest.mark.parametrize("head", ["prototype", "zero"])
def test_one_step_is_the_joint_training_direction(head):
    """k = 1: ``theta_1 - theta = -alpha g`` exactly, so the pseudo-gradient is ``eps alpha g``."""
    algorithm, state = built(head=head, outer=0.5)
    e = task()
    g = gradient(algorithm, start_of(algorithm, state, e), *everything(e))
    found = stepped(algorithm, state, e).grads
    for name in state.learned:
        torch.testing.assert_close(found[name], 0.5 * 0.1 * g[name], rtol=1e-10, atol=1e-14)


def test_eps_one_is_the_mean_of_the_fine_tuned_copies():
    algorithm, state = built(inner_steps=4, inner_batch=5)
    together = moved(state, stepped(algorithm, state, task(0), task(1)))
    ends = []
    for i in (0, 1):
        x, y = everything(task(i))
        theta = start_of(algorithm, state, task(i))
        rows = reptile.minibatches(len(y), 5, 4, generator(Context(seed=4).seed_for(f"reptile/episodes/0/{i}")))
        for row in rows:
            g = gradient(algorithm, theta, x[row], y[row])
            theta = {n: t - 0.1 * g[n] for n, t in theta.items()}
        ends.append(theta)
    for name, t in together.items():
        torch.testing.assert_close(t, (ends[0][name] + ends[1][name]) / 2, rtol=1e-10, atol=1e-13)


def test_the_expansion_of_two_steps():
    """``(theta - theta_2) / alpha = 2 g - alpha H g + O(alpha^2)``: the rest falls a hundredfold with alpha tenfold."""
    e = task()
    x, y = everything(e)

    def rest(alpha):
        algorithm, state = built(inner_steps=2, inner_lr=alpha)
        theta = {n: t.requires_grad_() for n, t in start_of(algorithm, state, e).items()}
        g = gradient(algorithm, theta, x, y, graph=True)
        hessian_g = torch.autograd.grad(sum((g[n] * g[n].detach()).sum() for n in g), list(theta.values()))
        way = stepped(algorithm, state, e).grads
        expected = {n: 2 * g[n] - alpha * h for n, h in zip(theta, hessian_g, strict=True)}
        return float(sum((way[n] / alpha - expected[n]).square().sum() for n in way).detach().sqrt())

    assert rest(1e-2) / rest(1e-3) == pytest.approx(100, rel=0.2)


def run_on_quadratics(sign, rounds=60):
    """Five tasks of equal curvature, five exact descent steps each; the distance to the mean of their centres."""
    centres = torch.randn(5, 3, generator=generator(0), dtype=torch.float64)
    theta = torch.zeros(3, dtype=torch.float64)
    for _ in range(rounds):
        ends = [{"t": c + 0.5**5 * (theta - c)} for c in centres]
        theta = theta - sign * reptile.pseudo_gradient({"t": theta}, ends, 0.3)["t"]
    return float((theta - centres.mean(0)).norm())


def test_it_moves_towards_the_tasks():
    assert run_on_quadratics(+1) < 1e-6
    assert run_on_quadratics(-1) > 1e3, "the other sign runs away"


def test_the_step_falls_linearly_to_nothing():
    algorithm, state = built(inner_steps=2)
    full, half, none = (stepped(algorithm, state, task(), fraction=f).grads for f in (0.0, 0.5, 1.0))
    for name in full:
        torch.testing.assert_close(half[name], full[name] / 2)
        assert float(none[name].abs().max()) == 0


@pytest.mark.parametrize(("betas", "equal"), [((0.0, 0.999), True), ((0.9, 0.999), False)])
def test_the_inner_optimiser_is_adam_without_momentum(betas, equal):
    algorithm, state = built(optimiser="adam", inner_lr=1e-2, inner_steps=5, inner_batch=4)
    e = task()
    x, y = everything(e)
    theta = {n: t.clone().requires_grad_() for n, t in start_of(algorithm, state, e).items()}
    adam = torch.optim.Adam(theta.values(), lr=1e-2, betas=betas, eps=1e-8)
    for row in reptile.minibatches(len(y), 4, 5, generator(Context(seed=4).seed_for("reptile/episodes/0/0"))):
        adam.zero_grad()
        loss_at(algorithm, theta, x[row], y[row]).backward()
        adam.step()
    result = stepped(algorithm, state, e)
    gap = max(float((moved(state, result)[n] - theta[n].detach()).abs().max()) for n in state.learned)
    assert (gap < 1e-10) == equal
    if equal:
        square = adam.state[theta["trunk.conv.weight"]]["exp_avg_sq"]
        torch.testing.assert_close(result.memory["square.trunk.conv.weight"], square)


def test_moments_are_carried_on_and_only_read_in_use():
    algorithm, state = built(optimiser="adam", inner_steps=3)
    first = stepped(algorithm, state, task(0), task(1))
    apart = [stepped(algorithm, state, task(i)).memory for i in (0, 1)]
    assert float(first.memory["count"]) == 3
    name = "square.trunk.conv.weight"
    # Full batches, so that the tasks do not depend on their place in the step.
    torch.testing.assert_close(first.memory[name], (apart[0][name] + apart[1][name]) / 2)
    later = state._replace(memory=first.memory)
    before = {n: t.clone() for n, t in later.memory.items()}
    support = Support(task().support_x, task().support_y, 3)
    used = algorithm.adapt(later, support, Context())
    fresh = algorithm.adapt(state, support, Context())
    assert same(later.memory, before)
    assert not torch.equal(used.tensors["trunk.conv.weight"], fresh.tensors["trunk.conv.weight"])


def test_minibatches_go_through_all_before_they_repeat():
    rows = reptile.minibatches(10, 4, 5, generator(0))
    assert [len(r) for r in rows] == [4] * 5
    assert len(set(torch.cat(rows[:2]).tolist())) == 8
    assert len(set(torch.cat(rows[2:4]).tolist())) == 8
    assert not torch.equal(rows[0], rows[2])
    assert [len(r) for r in reptile.minibatches(3, 10, 2, generator(0))] == [3, 3]


def test_all_pictures_of_an_episode_are_trained_on():
    """Not the examples alone: a changed query changes the step."""
    algorithm, state = built()
    e = task()
    other = tasks.Episode(
        e.support_x, e.support_y, e.query_x + 1, e.query_y, e.ways, e.class_names, e.task, e.support_ids, e.query_ids
    )
    a, b = stepped(algorithm, state, e).grads, stepped(algorithm, state, other).grads
    assert not torch.equal(a["trunk.conv.weight"], b["trunk.conv.weight"])


def test_the_running_averages_move_towards_the_statistics_of_the_pictures_at_the_start():
    """Of all pictures, or of the first minibatch where no pass of all is needed for a head at zero."""
    e = task()
    x, y = everything(e)
    (first, *_) = reptile.minibatches(len(y), 4, 3, generator(Context(seed=4).seed_for("reptile/episodes/0/0")))
    for head, seen_first in (("prototype", x), ("zero", x[first])):
        algorithm, state = built(head=head, inner_batch=4, inner_steps=3)
        with norm.batch_statistics() as seen:
            functional.call(algorithm.network, functional.under(state.learned), {}, seen_first)
        wanted = functional.named(norm.running_average(functional.under(state.memory), norm.detached(seen)))
        found = stepped(algorithm, state, e).memory
        for name in state.memory:
            if "running" in name:
                torch.testing.assert_close(found[name], wanted[name], rtol=1e-12, atol=1e-14)
                assert not torch.equal(found[name], state.memory[name])


def test_what_is_shown_of_an_episode_takes_its_passes_when_it_is_asked_for(monkeypatch):
    """A step leaves them out; asked, it says how the first task's network answers under its examples' statistics."""
    algorithm, s = built()
    passes, e = [], task()
    real = algorithm._logits
    monkeypatch.setattr(algorithm, "_logits", lambda *args: passes.append(args) or real(*args))
    result = stepped(algorithm, s, e)
    assert not passes
    correct = result.shown()
    assert len(passes) == 1
    tensors, queries = passes[0]
    assert torch.equal(queries, e.query_x)
    assert torch.equal(correct, real(tensors, queries).argmax(1) == e.query_y)
    for n, t in moved(s, result).items():
        torch.testing.assert_close(tensors[n], t, rtol=0, atol=1e-12)
    settled, others = (algorithm._settled(tensors, x) for x in (e.support_x, e.query_x))
    assert all(torch.equal(t, settled[n]) for n, t in tensors.items())
    assert any(not torch.equal(t, others[n]) for n, t in tensors.items()), "other statistics would not be noticed"
