"""CAVIA: the context's closed-form gradient, its invariance, finite differences, and what stays (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double
from tests.learn.test_oracles_maml import AT, gap_to_finite_differences, meta_gradient, meta_loss, task
from workbench.core.context import Context
from workbench.learn.algorithms.cavia import CAVIA
from workbench.learn.algorithms.maml import MAML
from workbench.learn.protocol import Setting, State, Support, generator

HEADS = ["textbook", "prototype"]


def built(head="textbook", **params):
    tasks.tiny_backbone()
    p = CAVIA.Params(**{"head": head, "context": 6, **params})
    algorithm = CAVIA(p, Setting("tiny-smooth", 1, 8, ways=3))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5
    return algorithm, double(state)


def support_of(e):
    return Support(e.support_x, e.support_y, e.ways)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_is_that_of_the_whole_map(head, steps):
    algorithm, state = built(head, inner_steps=steps)
    assert gap_to_finite_differences(algorithm, state, task()) < 1e-6


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_of_the_context_is_that_of_the_modulation_times_the_matrix(head):
    """``grad_c = A^T grad_(gamma, delta)``."""
    algorithm, state = built(head)
    e, c = task(), torch.randn(6, generator=generator(5), dtype=torch.float64).requires_grad_()
    loss = algorithm.support_loss(state.learned, c, e.support_x, e.support_y, 3)
    (found,) = torch.autograd.grad(loss, c)
    there = algorithm.modulated(state.learned, c.detach())
    names = ("trunk.norm.weight", "trunk.norm.bias")
    layer = {n: there[n].detach().requires_grad_() for n in names}
    loss = algorithm.support_loss({**there, **layer, "film": torch.zeros_like(state.learned["film"])}, c, *_xy(e), 3)
    gamma, delta = torch.autograd.grad(loss, list(layer.values()))
    expected = state.learned["film"][0].T @ gamma + state.learned["film"][1].T @ delta
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)


def _xy(e):
    return e.support_x, e.support_y


@pytest.mark.parametrize("head", HEADS)
def test_shifting_the_bias_and_the_context_together_changes_nothing(head):
    """``A (c + v) + (a - A v) = A c + a``; and the whole adaptation follows, shifted."""
    algorithm, state = built(head)
    c, v = torch.randn(2, 6, generator=generator(5), dtype=torch.float64)
    gamma, delta = (state.learned["film"] @ v).unbind()
    shifted = state.learned | {
        "trunk.norm.weight": state.learned["trunk.norm.weight"] - gamma,
        "trunk.norm.bias": state.learned["trunk.norm.bias"] - delta,
    }
    here, there = algorithm.modulated(state.learned, c), algorithm.modulated(shifted, c + v)
    for name in ("trunk.norm.weight", "trunk.norm.bias"):
        torch.testing.assert_close(there[name], here[name], rtol=0, atol=1e-14)
    losses = [
        float(algorithm.support_loss(learned, at, *_xy(task()), 3))
        for learned, at in ((state.learned, c), (shifted, c + v))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-13)
    assert losses[0] != pytest.approx(float(algorithm.support_loss(shifted, c, *_xy(task()), 3)), rel=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_without_steps_it_is_the_plain_network(head):
    """``c = 0``: joint training, as MAML without steps, to the last bit."""
    algorithm, state = built(head, inner_steps=0)
    maml = MAML(MAML.Params(head=head, inner_steps=0), algorithm.setting)
    plain = State({n: t for n, t in state.learned.items() if n != "film"}, state.memory)
    found, expected = meta_gradient(algorithm, state, task()), meta_gradient(maml, plain, task())
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-12, atol=1e-15)
    assert not found["film"].any()


def test_steps_are_plain_gradient_descent_of_the_context_from_zero():
    algorithm, state = built(test_steps=3, inner_lr=0.7)
    e, seen = task(), []
    algorithm.adapt(state, support_of(e), Context(), on_step=lambda j, a: seen.append(a.tensors))
    c = torch.zeros(6, dtype=torch.float64)
    for tensors in seen:
        torch.testing.assert_close(tensors["context"], c, rtol=1e-11, atol=1e-14)
        c.requires_grad_()
        (g,) = torch.autograd.grad(algorithm.support_loss(state.learned, c, *_xy(e), 3), c)
        c = (c - 0.7 * g).detach()
    assert float(seen[-1]["context"].abs().max()) > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_only_the_context_and_its_layer_change(head):
    algorithm, state = built(head)
    adapted = algorithm.adapt(state, support_of(task()), Context()).tensors
    assert torch.equal(adapted["trunk.conv.weight"], state.learned["trunk.conv.weight"])
    for name, part in zip(("trunk.norm.weight", "trunk.norm.bias"), state.learned["film"], strict=True):
        moved = adapted[name] - state.learned[name]
        torch.testing.assert_close(moved, part @ adapted["context"], rtol=1e-10, atol=1e-14)
        assert float(moved.abs().max()) > 1e-6
    if head == "textbook":
        assert torch.equal(adapted["head.weight"], state.learned["head.weight"])


def test_every_task_starts_anew():
    """A task adapted to twice, and after another, has the same context."""
    algorithm, state = built()
    first, _, again = (algorithm.adapt(state, support_of(task(i)), Context()).tensors["context"] for i in (0, 1, 0))
    assert torch.equal(first, again)
    both = algorithm.step(state, tasks.Episodes((task(1), task(0))), AT, Context()).metrics["loss"]
    apart = [meta_loss(algorithm, state.learned, task(i)) for i in (0, 1)]
    assert both == pytest.approx(sum(apart) / 2, rel=1e-12)


@pytest.mark.parametrize("planted", ["carried on", "random start", "theta moves too"])
def test_planted_mistakes_are_noticed(planted, monkeypatch):
    algorithm, state = built()
    right = meta_loss(algorithm, state.learned, task())
    start = CAVIA._start
    if planted == "theta moves too":
        modulated = CAVIA.modulated

        def moving(self, learned, context):
            there = modulated(self, learned, context)
            return there | {"trunk.conv.weight": there["trunk.conv.weight"] + context.sum()}

        monkeypatch.setattr(CAVIA, "modulated", moving)
    else:
        gen, held = generator(3), {}

        def other(self, learned):
            fresh = start(self, learned)["context"]
            if planted == "random start":
                return {
                    "context": fresh.detach().add(torch.randn(6, generator=gen, dtype=fresh.dtype)).requires_grad_()
                }
            return held

        held["context"] = algorithm.adapt(state, support_of(task(1)), Context()).tensors["context"].requires_grad_()
        monkeypatch.setattr(CAVIA, "_start", other)
    wrong = meta_loss(algorithm, state.learned, task())
    assert abs(wrong - right) > 1e-4


@pytest.mark.parametrize(
    ("backbone", "layer", "channels"), [("conv4", "2.norm", 64), ("resnet12", "2.short_norm", 256), ("tiny", "norm", 8)]
)
def test_the_context_enters_behind_the_third_quarter(backbone, layer, channels):
    tasks.tiny_backbone()
    algorithm = CAVIA(CAVIA.Params(), Setting(backbone, 1, 28 if backbone != "tiny" else 8))
    assert (algorithm.layer, algorithm.channels) == (layer, channels)
    x = torch.randn(3, 1, algorithm.setting.size, algorithm.setting.size, generator=generator(0))
    e = Support(x, torch.arange(3), 3)
    if backbone != "resnet12":
        state = algorithm.init(generator(0))
        assert algorithm.adapt(state, e, Context()).tensors["context"].shape == (100,)


def test_the_layer_is_modulated_behind_its_batch_norm():
    """By hand: ``gamma * normalised + delta``."""
    algorithm, state = built()
    c = torch.randn(6, generator=generator(5), dtype=torch.float64)
    z = F.conv2d(task().support_x, state.learned["trunk.conv.weight"], padding=1)
    z = (z - z.mean((0, 2, 3), keepdim=True)) / (z.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    a = torch.stack([state.learned["trunk.norm.weight"], state.learned["trunk.norm.bias"]])
    gamma, delta = (state.learned["film"] @ c + a)[..., None, None]
    f = F.avg_pool2d(F.softplus(gamma * z + delta), 2).flatten(1)
    logits = F.linear(f, state.learned["head.weight"], state.learned["head.bias"])
    expected = float(F.cross_entropy(logits, task().support_y))
    assert float(algorithm.support_loss(state.learned, c, *_xy(task()), 3)) == pytest.approx(expected, rel=1e-11)
