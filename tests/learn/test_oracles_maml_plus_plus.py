"""MAML++: with its tricks off it is MAML, and each trick does what it says (float64)."""

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double
from tests.learn.test_oracles_maml import task
from workbench.core.context import Context
from workbench.learn import functional, inner, norm
from workbench.learn.algorithms.maml import FOMAML, MAML
from workbench.learn.algorithms.maml_plus_plus import MAMLPlusPlus, loss_weights
from workbench.learn.optimiser import factor
from workbench.learn.protocol import At, Setting, SourceSummary, State, Support, generator

HEADS = ["textbook", "prototype"]
SWITCHES = ("msl", "da", "lslr", "bnrs", "bnwb", "ca")
OFF = dict.fromkeys(SWITCHES, False)
EXACT = {"rtol": 0, "atol": 0}


def built(head="textbook", backbone="tiny-smooth", **params):
    tasks.tiny_backbone()
    p = MAMLPlusPlus.Params(**{"head": head, "inner_steps": 3, "test_steps": 3, **params})
    algorithm = MAMLPlusPlus(p, Setting(backbone, 1, 8, ways=3))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5
    state = double(state)
    # as written, not as float32 holds it
    state.learned.update({n: torch.full_like(t, 0.1) for n, t in state.learned.items() if n.startswith("rate.")})
    return algorithm, state


def shared(state):
    """What MAML has of a state."""
    own = ("rate.", "offset.", "steps.")
    return State(*({n: t for n, t in part.items() if not n.startswith(own)} for part in state))


def stepped(algorithm, state, e=None, fraction=1.0):
    episodes = tasks.Episodes((task() if e is None else e,))
    return algorithm.step(state, episodes, At("episodes", 0, fraction), Context())


def support_of(e):
    return Support(e.support_x, e.support_y, e.ways)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("on", [(), ("lslr", "msl", "da", "ca"), ("lslr", "msl", "da", "ca", "bnwb")])
def test_without_its_tricks_it_is_maml(head, on):
    """To the last bit, also with equal rates, all weight on the last step and the order annealed; offsets of zero only
    change the order in which gradients are added up."""
    same = functools.partial(torch.testing.assert_close, **({"rtol": 1e-12, "atol": 1e-15} if "bnwb" in on else EXACT))
    algorithm, state = built(head, **{**OFF, **dict.fromkeys(on, True)})
    maml = MAML(MAML.Params(head=head, inner_lr=0.1, inner_steps=3, test_steps=3), algorithm.setting)
    expected, found = stepped(maml, shared(state)), stepped(algorithm, state)
    for n, g in expected.grads.items():
        same(found.grads[n], g)
    assert found.metrics == expected.metrics
    assert all(torch.equal(found.memory[n], t) for n, t in expected.memory.items())
    ours = algorithm.adapt(state, support_of(task()), Context()).tensors
    theirs = maml.adapt(shared(state), support_of(task()), Context()).tensors
    assert ours.keys() == theirs.keys()
    for n, t in theirs.items():
        same(ours[n], t)


@pytest.mark.parametrize("head", HEADS)
def test_before_its_order_is_annealed_it_is_first_order_maml(head):
    algorithm, state = built(head, **{**OFF, "da": True, "da_until": 0.5})
    params = FOMAML.Params(head=head, inner_lr=0.1, inner_steps=3)
    first, second = (stepped(cls(params, algorithm.setting), shared(state)).grads for cls in (FOMAML, MAML))
    for fraction, expected in ((0.49, first), (0.5, second)):
        found = stepped(algorithm, state, fraction=fraction).grads
        for n, g in expected.items():
            torch.testing.assert_close(found[n], g, rtol=1e-12, atol=1e-15)
    assert max(float((first[n] - second[n]).abs().max()) for n in first) > 1e-3


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bnrs", [True, False])
def test_with_all_its_tricks_the_gradient_is_that_of_the_whole_map(head, bnrs):
    """Rates and offsets included; while the loss is one of all steps."""
    algorithm, state = built(head, da=False, msl_until=1.0, bnrs=bnrs)
    gen = generator(4)
    for n, t in state.learned.items():
        if n.startswith(("rate.", "offset.")):
            t += 0.05 * torch.rand(t.shape, generator=gen, dtype=t.dtype)
    grads, h = stepped(algorithm, state, fraction=0.5).grads, 1e-6

    def loss(d, way):
        learned = {n: (t + d * way[n]).requires_grad_() for n, t in state.learned.items()}
        return float(algorithm.task_loss(learned, task(), loss_weights(3, 0.5), "second", Context())[0].loss.detach())

    for names in (("rate.",), ("offset.",), ("",)):
        way = {
            n: torch.randn(t.shape, generator=gen, dtype=t.dtype) * n.startswith(names)
            for n, t in state.learned.items()
        }
        exact = sum(float((grads[n] * way[n]).sum()) for n in grads)
        assert (loss(h, way) - loss(-h, way)) / (2 * h) == pytest.approx(exact, rel=1e-6, abs=1e-9)
        assert abs(exact) > 1e-6


def test_the_weights_of_the_losses_add_to_one_and_end_on_the_last_step():
    for steps, done in itertools.product((1, 2, 5), (0.0, 0.3, 0.99, 1.0, 7.0)):
        w = loss_weights(steps, done)
        assert math.fsum(w) == pytest.approx(1, abs=1e-15)
        assert len(w) == steps
        assert min(w) >= 0
    assert loss_weights(4, 0.0) == [0.25] * 4
    assert loss_weights(4, 1.0) == [0, 0, 0, 1]


def test_the_loss_is_that_of_every_step():
    """At the beginning the mean of the losses after 1, 2 and 3 steps, each that of a MAML with so many."""
    algorithm, state = built(**{**OFF, "msl": True, "msl_until": 0.1})
    losses = []
    for k in (1, 2, 3):
        maml = MAML(MAML.Params(head="textbook", inner_lr=0.1, inner_steps=k), algorithm.setting)
        losses.append(stepped(maml, shared(state)).metrics["loss"])
    assert stepped(algorithm, state, fraction=0.0).metrics["loss"] == pytest.approx(sum(losses) / 3, rel=1e-12)
    assert stepped(algorithm, state, fraction=0.05).metrics["loss"] == pytest.approx(
        losses[0] / 6 + losses[1] / 6 + losses[2] * 2 / 3, rel=1e-12
    )
    assert stepped(algorithm, state, fraction=0.1).metrics["loss"] == pytest.approx(losses[2], rel=1e-12)


def test_every_layer_and_step_has_a_rate_of_its_own():
    algorithm, state = built(**{**OFF, "lslr": True})
    rates = functional.under(state.learned, "rate.")
    assert rates.keys() == shared(state).learned.keys()
    assert all(t.shape == (3,) for t in rates.values())
    state.learned["rate.trunk.conv.weight"] = torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64)
    e, seen = task(), []
    algorithm.adapt(state, support_of(e), Context(), on_step=lambda j, a: seen.append(a.tensors["trunk.conv.weight"]))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert float((seen[1] - seen[2]).abs().max()) > 1e-5


def test_more_steps_than_trained_go_on_with_the_last_set():
    """By hand: the fourth and fifth step with the rates, offsets and averages of the third."""
    algorithm, state = built(test_steps=5)
    gen = generator(4)
    for part in state:
        for n, t in part.items():
            if n.startswith(("rate.", "offset.", "steps.")):
                t += 0.05 * torch.rand(t.shape, generator=gen, dtype=t.dtype)
    e, seen = task(), []
    adapted = algorithm.adapt(state, support_of(e), Context(), on_step=lambda j, a: seen.append(a.tensors))
    assert len(seen) == 6
    offset = {n: state.learned[f"offset.norm.{n}"][2] for n in ("weight", "bias")}
    third, fourth = seen[3], seen[4]
    theta = {n: t.clone().requires_grad_() for n, t in third.items() if "running" not in n}
    buffers = {n: t for n, t in functional.under(third).items() if "running" in n}
    features = functional.call(algorithm.network, functional.under(theta), buffers, e.support_x)
    F.cross_entropy(F.linear(features, theta["head.weight"], theta["head.bias"]), e.support_y).backward()
    for name, t in theta.items():
        expected = t - state.learned[f"rate.{name}"][2] * t.grad
        torch.testing.assert_close(fourth[name], expected.detach(), rtol=1e-10, atol=1e-12)
    for n in ("running_mean", "running_var"):
        assert torch.equal(adapted.tensors[f"trunk.norm.{n}"], state.memory[f"steps.norm.{n}"][2])
        assert not torch.equal(seen[1][f"trunk.norm.{n}"], seen[2][f"trunk.norm.{n}"])
    # the offsets of the last set are part of the network, once
    bare, _ = built(test_steps=5, bnwb=False)
    assert offset["weight"].abs().min() > 0
    assert not torch.equal(
        bare.adapt(state, support_of(e), Context()).tensors["trunk.norm.weight"], adapted.tensors["trunk.norm.weight"]
    )


def test_each_step_has_averages_of_its_own():
    """One outer step moves the averages of step ``j`` a tenth towards the examples' statistics at ``theta_j``."""
    algorithm, state = built(**{**OFF, "bnrs": True})
    found, e = stepped(algorithm, state).memory, task()
    maml = MAML(MAML.Params(head="textbook", inner_lr=0.1, test_steps=3), algorithm.setting)
    seen = []
    maml.adapt(shared(state), support_of(e), Context(), on_step=lambda j, a: seen.append(a.tensors))
    n = e.support_x.numel()
    for j, tensors in enumerate(seen):
        mean, var = tensors["trunk.norm.running_mean"], tensors["trunk.norm.running_var"] * n / (n - 1)
        ours = [
            found[f"trunk.norm.{name}"] if j == 0 else found[f"steps.norm.{name}"][j - 1]
            for name in ("running_mean", "running_var")
        ]
        torch.testing.assert_close(ours[0], 0.1 * mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours[1], 0.9 + 0.1 * var, rtol=1e-10, atol=1e-12)
    steps = found["steps.norm.running_mean"]
    assert float((steps[0] - steps[2]).abs().max()) > 1e-5, "one shared buffer would have equal rows"


def test_with_averages_in_use_a_prediction_depends_on_the_weights_alone():
    """The examples' statistics are not used at all; without the switch they are."""
    for bnrs in (True, False):
        algorithm, state = built(bnrs=bnrs, test_steps=0)
        a, b = (algorithm.adapt(state, support_of(task(i)), Context()).tensors for i in (0, 1))
        assert torch.equal(a["trunk.norm.running_mean"], b["trunk.norm.running_mean"]) == bnrs


def test_the_rate_is_annealed_or_stays():
    for ca, end in ((True, 0.0), (False, 1.0)):
        (phase,) = built(ca=ca)[0].phases(SourceSummary((40,), 400))
        assert factor(phase, 0.0) == 1
        assert factor(phase, 1.0) == pytest.approx(end)


@pytest.mark.parametrize("planted", ["queries' own statistics", "inner gradients cut", "weights that do not add to 1"])
def test_planted_mistakes_are_noticed(planted, monkeypatch):
    """Each gives another gradient than MAML where the two must be equal."""
    algorithm, state = built(**OFF)
    maml = MAML(MAML.Params(head="textbook", inner_lr=0.1, inner_steps=3), algorithm.setting)
    right = stepped(maml, shared(state)).grads
    if planted == "queries' own statistics":

        def leaking(network, theta, given, x):
            with norm.batch_statistics():
                f = functional.call(network, functional.under(theta), {}, x)
            return F.linear(f, theta["head.weight"], theta["head.bias"])

        monkeypatch.setattr(inner, "query_logits", leaking)
    elif planted == "inner gradients cut":
        whole = inner.descent
        monkeypatch.setattr(inner, "descent", lambda *a, **k: whole(*a, **{**k, "order": "first"}))
    else:
        monkeypatch.setattr(
            "workbench.learn.algorithms.maml_plus_plus.loss_weights",
            lambda steps, done: [1 / steps] * (steps - 1) + [1],
        )
    wrong = stepped(algorithm, state).grads
    assert max(float((wrong[n] - g).abs().max() / g.abs().max()) for n, g in right.items()) > 1e-2
