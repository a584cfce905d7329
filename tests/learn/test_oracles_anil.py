"""ANIL against MAML with a mask, a logistic regression by hand and finite differences (float64)."""

import numpy as np
import pytest
import torch

from tests.learn import tasks
from tests.learn.cases import double
from tests.learn.test_oracles_maml import gap_to_finite_differences, meta_gradient, task
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import functional, inner
from workbench.learn.algorithms.anil import ANIL
from workbench.learn.algorithms.maml import MAML
from workbench.learn.protocol import Setting, Support, generator

HEADS = ["textbook", "prototype"]


def built(cls, head, backbone, **params):
    tasks.tiny_backbone()
    p = cls.Params(**{"head": head, "inner_lr": 0.1, "inner_steps": 3, **params})
    algorithm = cls(p, Setting(backbone, 1, 8, ways=3))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5
    return algorithm, double(state)


def mask_the_inner_loop(monkeypatch, *prefixes):
    """Only parameters whose names begin so take inner steps."""
    whole = inner.descent

    def masked(loss, start, *, lr, **kwargs):
        rates = lr if isinstance(lr, dict) else dict.fromkeys(start, lr)
        return whole(loss, start, lr={n: r for n, r in rates.items() if n.startswith(prefixes)}, **kwargs)

    monkeypatch.setattr(inner, "descent", masked)


@pytest.mark.parametrize("head", HEADS)
def test_it_is_maml_with_the_mask_head_only(head, monkeypatch):
    """On a network that normalises nothing, since ANIL keeps features and MAML normalises by the examples."""
    anil, state = built(ANIL, head, "tiny-plain")
    maml, _ = built(MAML, head, "tiny-plain")
    found, whole = meta_gradient(anil, state, task()), meta_gradient(maml, state, task())
    mask_the_inner_loop(monkeypatch, "head.")
    expected = meta_gradient(maml, state, task())
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-11, atol=1e-14)
    # the mask is what makes the difference
    assert max(float((whole[n] - g).abs().max()) for n, g in expected.items()) > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_a_mask_of_everything_is_maml_and_one_of_nothing_joint_training(head, monkeypatch):
    maml, state = built(MAML, head, "tiny-smooth")
    joint, _ = built(MAML, head, "tiny-smooth", inner_steps=0)
    whole, together = meta_gradient(maml, state, task()), meta_gradient(joint, state, task())
    with monkeypatch.context() as patch:
        mask_the_inner_loop(patch, "head.", "trunk.")
        everything = meta_gradient(maml, state, task())
    assert all(torch.equal(everything[n], g) for n, g in whole.items())
    mask_the_inner_loop(monkeypatch)
    nothing = meta_gradient(maml, state, task())
    assert all(torch.equal(nothing[n], g) for n, g in together.items())
    anil, _ = built(ANIL, head, "tiny-plain", inner_steps=0)
    plain, state = built(MAML, head, "tiny-plain", inner_steps=0)
    found, expected = meta_gradient(anil, state, task()), meta_gradient(plain, state, task())
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["tiny-smooth", "tiny-plain"])
def test_the_meta_gradient_is_that_of_the_whole_map(head, backbone):
    algorithm, state = built(ANIL, head, backbone)
    assert gap_to_finite_differences(algorithm, state, task()) < 1e-6


@pytest.mark.parametrize("head", HEADS)
def test_finite_differences_notice_features_detached_before_the_inner_loop(head, monkeypatch):
    """Then the trunk has only the way through the queries' features."""
    algorithm, state = built(ANIL, head, "tiny-smooth")
    whole = inner.descent

    def cut(loss, start, **kwargs):
        """The steps as constants: their dependence on the examples' features is lost."""
        *_, theta = whole(loss, start, **{**kwargs, "order": "first"})
        yield theta

    monkeypatch.setattr(inner, "descent", cut)
    assert gap_to_finite_differences(algorithm, state, task()) > 1e-3


def logistic_regression(f, y, w, b, steps, lr):
    """Gradient descent on the mean cross entropy in numpy."""
    target = np.eye(len(b))[y]
    for _ in range(steps):
        z = f @ w.T + b
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        d = (p - target) / len(y)
        w, b = w - lr * d.T @ f, b - lr * d.sum(0)
    return w, b


@pytest.mark.parametrize("head", HEADS)
def test_adapting_is_logistic_regression_from_a_learnt_start(head):
    algorithm, state = built(ANIL, head, "tiny-smooth", test_steps=7)
    e = tasks.episode(generator(1), ways=3, shots=(1, 2, 4), dtype=torch.float64)
    adapted = algorithm.adapt(state, Support(e.support_x, e.support_y, 3), Context()).tensors
    f = functional.call(
        algorithm.network, functional.under(state.learned), functional.under(state.memory), e.support_x
    ).numpy()
    if head == "textbook":
        start = state.learned["head.weight"].numpy(), state.learned["head.bias"].numpy()
    else:
        c = np.stack([f[e.support_y.numpy() == k].mean(0) for k in range(3)])
        s = float(state.learned["scale"].exp())
        start = 2 * s * c, -s * (c**2).sum(1)
    w, b = logistic_regression(f, e.support_y.numpy(), *start, 7, 0.1)
    np.testing.assert_allclose(adapted["head.weight"].numpy(), w, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(adapted["head.bias"].numpy(), b, rtol=1e-11, atol=1e-13)
    assert float(np.abs(w - start[0]).max()) > 1e-3


def test_the_trunk_does_not_depend_on_the_examples():
    algorithm, state = built(ANIL, "prototype", "tiny-smooth")
    seen = []
    for i in (0, 1):
        e = task(i)
        adapted = algorithm.adapt(state, Support(e.support_x, e.support_y, 3), Context())
        assert adapted.tensors.keys() == {"head.weight", "head.bias"}
        seen.append(algorithm.embed(state, adapted, task(2).query_x))
    assert torch.equal(*seen)


def test_a_textbook_head_refuses_another_number_of_classes():
    algorithm, state = built(ANIL, "textbook", "tiny-smooth")
    e = tasks.episode(generator(0), ways=2, dtype=torch.float64)
    with pytest.raises(WorkbenchError, match=r"2 classes.*fixed head for 3"):
        algorithm.adapt(state, Support(e.support_x, e.support_y, 2), Context())
