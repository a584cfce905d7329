"""The penalty beside every step: the gradient it adds, what it remembers, and what it never looks at."""

import numpy as np
import pytest
import torch

from tests.learn import tasks
from workbench.data.episodes import Episode, Episodes, normalise
from workbench.learn import aligning, domain, functional, norm, registry
from workbench.learn.protocol import State, generator


def setting(how):
    tasks.tiny_backbone()
    network = registry.backbone("tiny-smooth").skeleton(1, tasks.SIZE)
    params, buffers = functional.initial(network, generator(0))
    state = State({**functional.named(params), "scale": torch.zeros(())}, functional.named(buffers))
    pixels = np.random.default_rng(1).integers(0, 256, (6, tasks.SIZE, tasks.SIZE, 1), dtype=np.uint8)
    return aligning.Aligning(how, network, pixels, (0.5,), (0.25,), seed=3), state


def batch():
    x = torch.randn(8, 1, tasks.SIZE, tasks.SIZE, generator=generator(2))
    y = torch.tensor([0, 1, 0, 1])
    return Episodes((Episode(x[:4], y, x[4:], y, 2, ("a", "b"), "t", torch.arange(4), torch.arange(4, 8)),))


def drawn(method, state, fraction=0.5, grads=None):
    begun = method.begun(state)
    held = {n: t for n, t in begun.memory.items() if n.startswith("keep.")}
    own = {n: torch.full_like(t, 0.1) for n, t in state.learned.items()} if grads is None else grads
    return method.drawn_together(own, state.learned, held, batch(), fraction, generator(5)), held, own


@pytest.mark.parametrize("how", ["coral", "mmd"])
def test_the_added_gradient_is_that_of_the_penalty(how):
    method, state = setting(how)
    (found, _, figures), _, own = drawn(method, state)
    gen = generator(5)
    source = torch.cat([batch().episodes[0].support_x, batch().episodes[0].query_x])
    source = source[torch.randperm(8, generator=gen)]
    target = normalise(method.pixels, method.mean, method.std)[torch.randperm(6, generator=gen)]
    leaves = {n: t.clone().requires_grad_() for n, t in functional.under(state.learned).items()}
    with norm.batch_statistics():
        s = functional.call(method.network, leaves, {}, source)
    with norm.batch_statistics():
        t = functional.call(method.network, leaves, {}, target)
    value = domain.coral_penalty(s, t) if how == "coral" else domain.mmd(s, t)
    assert figures[f"align/{how}"] == pytest.approx(float(value.detach()), rel=1e-4)
    for (name, leaf), slope in zip(leaves.items(), torch.autograd.grad(value, list(leaves.values())), strict=True):
        expected = own["trunk." + name] + aligning.WEIGHTS[how] * slope
        torch.testing.assert_close(found["trunk." + name], expected, rtol=1e-3, atol=1e-6)
        assert leaf.shape == slope.shape
    assert torch.equal(found["scale"], own["scale"]), "a head is left alone"


def test_dann_turns_its_gradient_round_and_its_classifier_learns():
    method, state = setting("dann")
    (late, remembered, figures), held, own = drawn(method, state, fraction=1.0)
    (first, _, _), _, _ = drawn(method, state, fraction=0.0)
    assert all(torch.equal(first[n], own[n]) for n in own), "at the start nothing is reversed yet"
    assert any(not torch.equal(late[n], own[n]) for n in own)
    assert remembered.keys() == held.keys()
    assert all(n.startswith(aligning.ALIGN) for n in held)
    assert any(not torch.equal(remembered[n], held[n]) for n in held)
    assert not any(t.requires_grad for t in remembered.values())
    assert 0 <= figures["align/told_apart"] <= 1


def test_what_is_not_trained_is_not_drawn_and_nothing_is_changed_in_place():
    method, state = setting("mmd")
    before = {n: t.clone() for n, t in state.learned.items()}
    (found, held, figures), _, own = drawn(method, state, grads={"scale": torch.ones(())})
    assert (found, held, figures) == (own, {}, {})
    drawn(method, state)
    assert all(torch.equal(state.learned[n], before[n]) for n in before)
    assert method.begun(state) is state, "nothing to remember"
