"""BOIL against MAML with a mask and finite differences (float64)."""

import pytest
import torch

from tests.learn.test_oracles_anil import built, mask_the_inner_loop
from tests.learn.test_oracles_maml import gap_to_finite_differences, meta_gradient, task
from workbench.core.context import Context
from workbench.learn import inner
from workbench.learn.algorithms.boil import BOIL
from workbench.learn.algorithms.maml import MAML
from workbench.learn.protocol import Support

HEADS = ["textbook", "prototype"]


@pytest.mark.parametrize("head", HEADS)
def test_it_is_maml_with_the_mask_trunk_only(head, monkeypatch):
    """To the last bit, gradients and adapted network."""
    boil, state = built(BOIL, head, "tiny-smooth", test_steps=2)
    maml, _ = built(MAML, head, "tiny-smooth", test_steps=2)
    support = Support(task().support_x, task().support_y, 3)
    found, whole = meta_gradient(boil, state, task()), meta_gradient(maml, state, task())
    adapted = boil.adapt(state, support, Context()).tensors
    mask_the_inner_loop(monkeypatch, "trunk.")
    expected, theirs = meta_gradient(maml, state, task()), maml.adapt(state, support, Context()).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], g) for n, g in expected.items())
    assert all(torch.equal(adapted[n], t) for n, t in theirs.items())
    assert max(float((whole[n] - g).abs().max()) for n, g in expected.items()) > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_the_meta_gradient_is_that_of_the_whole_map(head):
    algorithm, state = built(BOIL, head, "tiny-smooth")
    assert gap_to_finite_differences(algorithm, state, task()) < 1e-6


@pytest.mark.parametrize("head", HEADS)
def test_the_head_stays_and_all_of_the_trunk_moves(head):
    """Batch norm's weights too."""
    algorithm, state = built(BOIL, head, "tiny-smooth")
    e, seen = task(), []
    algorithm.adapt(state, Support(e.support_x, e.support_y, 3), Context(), on_step=lambda j, a: seen.append(a.tensors))
    for name in ("head.weight", "head.bias"):
        assert torch.equal(seen[0][name], seen[-1][name])
    for name in (n for n in state.learned if n.startswith("trunk.")):
        assert float((seen[-1][name] - state.learned[name]).abs().min()) > 0, name


@pytest.mark.parametrize("planted", ["moving head", "moving prototypes"])
def test_planted_mistakes_are_noticed(planted, monkeypatch):
    """Each gives another meta-gradient than the masked MAML."""
    boil, state = built(BOIL, "prototype", "tiny-smooth")
    right = meta_gradient(boil, state, task())
    if planted == "moving head":
        monkeypatch.setattr(BOIL, "_rates", lambda self, start: dict.fromkeys(start, self.p.inner_lr))
    else:
        plain, scale = inner.support_logits, state.learned["scale"]

        def anew(network, theta, x):
            trunk = {n: t for n, t in theta.items() if n.startswith("trunk.")}
            moved, _ = inner.start(network, {**trunk, "scale": scale}, x, task().support_y, 3)
            return plain(network, moved, x)

        monkeypatch.setattr(inner, "support_logits", anew)
    wrong = meta_gradient(boil, state, task())
    assert max(float((wrong[n] - g).abs().max() / g.abs().max()) for n, g in right.items()) > 1e-2
