import pytest
import torch

from workbench.learn.optimiser import Moments, factor, norm, rates, stepped
from workbench.learn.protocol import Phase, generator


def textbook(values, grads, lr, decay=0.0):
    """Adam for one number, as in the paper."""
    w, m, v = values, 0.0, 0.0
    for t, g in enumerate(grads, 1):
        g = g + decay * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_the_textbook_s(decay):
    phase = Phase("p", lr={"": 0.1, "head": 0.01}, weight_decay=decay, schedule="constant")
    start = torch.randn(4, generator=generator(0), dtype=torch.float64)
    grads = torch.randn(10, 4, generator=generator(1), dtype=torch.float64)
    learned, moments = {"a": start.clone(), "head.b": start.clone()}, Moments()
    for g in grads:
        learned = stepped(learned, {"a": g, "head.b": g}, moments, phase, 0.0, 1.0)
    for name, lr in (("a", 0.1), ("head.b", 0.01)):
        expected = [textbook(float(s), grads[:, i].tolist(), lr, decay) for i, s in enumerate(start)]
        assert torch.allclose(learned[name], torch.tensor(expected, dtype=torch.float64), rtol=1e-12)


def test_the_old_tensors_stay():
    start = torch.ones(3)
    stepped({"a": start}, {"a": torch.ones(3)}, Moments(), Phase("p"), 0.0, 1.0)
    assert torch.equal(start, torch.ones(3))


def test_without_a_gradient_nothing_moves():
    out = stepped({"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1)}, Moments(), Phase("p"), 0.0, 1.0)
    assert out["a"] < 1 == out["b"]


def test_plain_step_and_clip():
    phase = Phase("p", optimiser="sgd", lr={"": 0.5}, schedule="constant", clip=1.0)
    g = torch.tensor([3.0, 4.0])
    assert norm({"a": g}) == pytest.approx(5.0)
    out = stepped({"a": torch.zeros(2)}, {"a": g}, Moments(), phase, 0.0, 5.0)
    assert torch.allclose(out["a"], torch.tensor([-0.3, -0.4]), atol=1e-6)
    out = stepped({"a": torch.zeros(2)}, {"a": g / 10}, Moments(), phase, 0.0, 0.5)
    assert torch.allclose(out["a"], torch.tensor([-0.15, -0.2]))


def test_norm_of_what_is_not_finite():
    assert not torch.isfinite(torch.tensor(norm({"a": torch.ones(2), "b": torch.tensor(float("inf"))})))
    assert norm({}) == 0.0


def test_longest_prefix_counts_and_frozen_is_left_out():
    names = dict.fromkeys(("trunk.a", "trunk.b.c", "head.w", "scale"))
    phase = Phase("p", lr={"trunk.": 1.0, "trunk.b": 2.0, "head": 3.0}, frozen=("head",))
    assert rates(phase, names) == {"trunk.a": 1.0, "trunk.b.c": 2.0}
    assert rates(Phase("p", lr={"": 1.0}), names) == dict.fromkeys(names, 1.0)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 1, 1, 1]), ("cosine", [1, 0.5, 0, 0]), ("halve", [1, 1 / 32, 1 / 1024, 1 / 1024])],
)
def test_schedules(schedule, expected):
    phase = Phase("p", schedule=schedule)
    assert [factor(phase, f) for f in (0.0, 0.5, 1.0, 1.2)] == pytest.approx(expected)
    assert factor(Phase("p", schedule="halve"), 0.3) == 1 / 8
