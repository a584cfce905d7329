from __future__ import annotations

import itertools
import math

import pytest
import torch

from workbench.learn.protocol import generator
from workbench.transfer.estimate import best_of, estimate, wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(correct: int, n: int, low: float, high: float) -> None:
    found = wilson(correct, n)
    assert found == pytest.approx((low, high), abs=5e-5)


def test_wilson_covers_the_truth() -> None:
    gen = generator(0)
    for p in (0.5, 0.8, 0.95):
        right = (torch.rand(2000, 25, generator=gen) < p).sum(1).tolist()
        covered = sum(low <= p <= high for low, high in (wilson(r, 25) for r in right)) / 2000
        assert covered > 0.92


def test_wilson_refuses_what_is_no_proportion() -> None:
    for bad in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError):
            wilson(*bad)


def test_one_example_per_class_cannot_be_estimated() -> None:
    assert estimate([True] * 5, 1, 3) is None
    assert estimate([], 5, 3) is None


def test_one_candidate_is_estimated_plainly() -> None:
    e = estimate([True] * 20 + [False] * 5, 5, 1)
    assert e is not None
    assert (e.accuracy, (e.low, e.high)) == (0.8, wilson(20, 25))
    assert e.how == "each of your 25 examples left out in turn: 20 recognised"


def test_the_more_were_tried_the_more_is_taken_off() -> None:
    correct = [True] * 20 + [False] * 5
    found = [estimate(correct, 5, m) for m in (1, 2, 5, 20)]
    accuracies = [e.accuracy for e in found if e]
    assert len(accuracies) == 4
    assert all(a > b for a, b in itertools.pairwise(accuracies))
    assert accuracies[0] - accuracies[-1] < 0.1, "modestly"
    last = found[-1]
    assert last is not None
    assert (last.low < wilson(20, 25)[0], last.high) == (True, wilson(20, 25)[1])
    assert "picked from 20" in last.how
    for right in (0, 25):
        e = estimate([True] * right + [False] * (25 - right), 5, 20)
        assert e is not None
        assert 0 <= e.low <= e.accuracy <= e.high <= 1
    perfect = estimate([True] * 25, 5, 3)
    assert perfect is not None
    assert perfect.accuracy < 1


def test_it_is_nearer_the_truth_of_a_picked_candidate_than_the_plain_share() -> None:
    gen = generator(1)
    plain, corrected = [], []
    for _ in range(300):
        truth = 0.7 + 0.08 * torch.randn(6, generator=gen).clamp(-2, 2)
        right = (torch.rand(6, 25, generator=gen) < truth[:, None]).sum(1)
        best = int(right.argmax())
        e = estimate([True] * int(right[best]) + [False] * (25 - int(right[best])), 5, 6)
        assert e is not None
        plain.append(float(right[best] / 25 - truth[best]))
        corrected.append(e.accuracy - float(truth[best]))
    assert sum(plain) / 300 > 0.02, "the best of six looks better than it is"
    assert abs(sum(corrected)) < abs(sum(plain)) / 2


def test_the_expected_best_of_several_normals() -> None:
    gen = generator(0)
    assert best_of(1) == 0.0
    for m in (2, 5, 20):
        seen = float(torch.randn(20_000, m, generator=gen).max(1).values.mean())
        assert math.isclose(best_of(m), seen, abs_tol=0.05)
