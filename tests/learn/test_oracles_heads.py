"""Closed-form heads: prototypes are a linear classifier, the ridge's two forms agree, its leave-one-out is a refit."""

import pytest
import torch

from workbench.learn import heads
from workbench.learn.protocol import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


Y = torch.tensor([0, 0, 0, 1, 2, 2, 1, 2, 2, 2])


def test_prototypes_are_the_means_of_features_with_unequal_shots():
    f = normal(10, 6)
    expected = torch.stack([f[k == Y].mean(0) for k in range(3)])
    torch.testing.assert_close(heads.prototypes(f, Y, 3), expected, rtol=0, atol=1e-15)


def test_prototypes_are_a_linear_classifier():
    """The logits differ from minus the squared distances by one number per row, and the softmax does not differ."""
    f, c = normal(7, 6, seed=1), normal(3, 6, seed=2)
    weight, bias = heads.prototype_linear(c, 0.7)
    linear = f @ weight.T + bias
    distances = -0.7 * (f[:, None] - c).square().sum(-1)
    shift = linear - distances
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-13)
    torch.testing.assert_close(linear.softmax(1), distances.softmax(1), rtol=0, atol=1e-14)
    torch.testing.assert_close(heads.distance_logits(f, c, 0.7), linear, rtol=0, atol=0)


def test_the_unsquared_distance_is_another_softmax():
    f, c = normal(50, 6, seed=1), normal(3, 6, seed=2)
    unsquared = -(f[:, None] - c).norm(dim=-1)
    found = heads.distance_logits(f, c)
    assert torch.equal(found.argmax(1), unsquared.argmax(1))
    assert float((found.softmax(1) - unsquared.softmax(1)).abs().max()) > 0.1


def test_moving_the_feature_space_changes_nothing():
    f, s, move = normal(7, 6, seed=1), normal(10, 6, seed=2), 3 * normal(6, seed=3)
    here = heads.distance_logits(f, heads.prototypes(s, Y, 3)).softmax(1)
    there = heads.distance_logits(f + move, heads.prototypes(s + move, Y, 3)).softmax(1)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_many_examples_of_equal_round_classes_give_the_bayes_posterior():
    """``N(m_k, v I)``: the posterior is ``softmax(-|f - m_k|^2 / 2v)``, which is the head with scale ``1 / 2v``."""
    m, v = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, 2.0]], dtype=torch.float64), 0.8
    y = torch.arange(3).repeat_interleave(20000)
    s = m[y] + v**0.5 * normal(60000, 2)
    f = normal(100, 2, seed=4)
    density = torch.distributions.MultivariateNormal(m, v * torch.eye(2, dtype=torch.float64)).log_prob(f[:, None])
    found = heads.distance_logits(f, heads.prototypes(s, y, 3), 1 / (2 * v)).softmax(1)
    torch.testing.assert_close(found, density.softmax(1), rtol=0, atol=0.02)


def test_cosine_logits_see_directions_only():
    f, c = normal(7, 6, seed=1), normal(3, 6, seed=2)
    torch.testing.assert_close(heads.cosine_logits(3 * f, 0.5 * c), heads.cosine_logits(f, c))
    expected = 10 * torch.nn.functional.cosine_similarity(f[:, None], c, dim=-1)
    torch.testing.assert_close(heads.cosine_logits(f, c), expected)


WEIGHTS = [None, heads.balanced(Y, 3, torch.zeros(1, dtype=torch.float64))]


def test_balanced_weights_let_every_class_count_alike():
    a = WEIGHTS[1]
    assert [float(a[k == Y].sum()) for k in range(3)] == pytest.approx([10 / 3] * 3)


def by_definition(x, t, strength, weights):
    """The normal equations, each row taken ``a_i`` times."""
    a = torch.eye(len(x), dtype=x.dtype) if weights is None else weights.diag()
    return torch.linalg.inv(x.T @ a @ x + strength * torch.eye(x.shape[1], dtype=x.dtype)) @ x.T @ a @ t


@pytest.mark.parametrize("weights", WEIGHTS, ids=["plain", "balanced"])
@pytest.mark.parametrize("dim", [4, 10, 25])
def test_primal_equals_dual(dim, weights):
    x, t = normal(10, dim), heads.one_hot(Y, 3, normal(1))
    torch.testing.assert_close(heads.ridge(x, t, 0.3, weights), by_definition(x, t, 0.3, weights), rtol=0, atol=1e-10)


def left_out_answers_are_those_of_refitting(leave_one_out, dim, weights):
    x, t = normal(10, dim), heads.one_hot(Y, 3, normal(1))
    refitted = []
    for i in range(10):
        keep = torch.arange(10) != i
        a = None if weights is None else weights[keep]
        refitted.append(x[i] @ heads.ridge(x[keep], t[keep], 0.3, a))
    refitted = torch.stack(refitted)
    torch.testing.assert_close(leave_one_out(x, t, 0.3, weights), refitted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weights", WEIGHTS, ids=["plain", "balanced"])
@pytest.mark.parametrize("dim", [4, 25])
def test_leave_one_out_equals_refitting(dim, weights):
    left_out_answers_are_those_of_refitting(heads.ridge_leave_one_out, dim, weights)


def answers_of_the_very_examples(x, t, strength, weights):
    return x @ heads.ridge(x, t, strength, weights)


def without_the_weights(x, t, strength, weights):
    return heads.ridge_leave_one_out(x, t, strength, None if weights is not None else torch.full_like(t[:, 0], 2.0))


def residuals_for_answers(x, t, strength, weights):
    return t - heads.ridge_leave_one_out(x, t, strength, weights)


@pytest.mark.parametrize("weights", WEIGHTS, ids=["plain", "balanced"])
@pytest.mark.parametrize("mistake", [answers_of_the_very_examples, without_the_weights, residuals_for_answers])
def test_other_left_out_answers_are_noticed(mistake, weights):
    with pytest.raises(AssertionError):
        left_out_answers_are_those_of_refitting(mistake, 25, weights)


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_a_ridge_needs_a_strength(strength):
    with pytest.raises(ValueError, match="positive"):
        heads.ridge(normal(3, 2), normal(3, 2), strength)


def test_heads_as_modules_equal_their_formulas():
    f, w, b = normal(7, 6, seed=1), normal(3, 6, seed=2), normal(3, seed=3)
    torch.testing.assert_close(heads.LinearHead(w, b)(f), f @ w.T + b)
    unit = f / f.norm(dim=1, keepdim=True)
    torch.testing.assert_close(heads.UnitLinearHead(w)(f), unit @ w.T)
