from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from workbench.learn.protocol import generator
from workbench.transfer.estimate import best_of, estimate, optimism, wilson


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


@pytest.mark.parametrize("right", [True, False])
def test_a_single_left_out_example_gives_a_wide_interval(right: bool) -> None:
    found = estimate([right], 2, 1)
    assert found is not None
    assert found.high - found.low > 0.3
    assert (found.accuracy == 1.0) == right


def test_examples_that_only_one_of_two_was_asked_about_do_not_count() -> None:
    right = {0: {0: True, 1: True, 2: True}, 4: {0: False, 2: False}}
    assert optimism(right, [[0, 1], [2], [3]], 0, [4, 0, 4]) == 1.0


def interval(right: float, n: int, shots: int) -> tuple[float, float]:
    low, high = wilson(0.8 * right, 0.8 * n)
    return low, 1 - (1 - high) * (shots - 1) / shots


def test_one_candidate_is_corrected_for_the_example_of_each_class_that_was_left_out() -> None:
    e = estimate([True] * 20 + [False] * 5, 5, 1)
    assert e is not None
    assert e.accuracy == pytest.approx(1 - 0.2 * 0.8**0.35)
    assert (e.low, e.high) == pytest.approx(interval(20, 25, 5))
    assert e.how.startswith("each of your 25 examples left out: 20 recognised; raised by 2 points")
    assert "picked" not in e.how


@pytest.mark.parametrize("lost", [None, 0.0, 2.0, -3.0, 99.0])
@pytest.mark.parametrize("right", [0, 1, 24, 25])
@pytest.mark.parametrize("shots", [2, 5])
def test_it_lies_in_its_interval_and_the_interval_within_0_and_1(right: int, shots: int, lost: float | None) -> None:
    e = estimate([True] * right + [False] * (25 - right), shots, 20, lost)
    assert e is not None
    assert 0 <= e.low <= e.accuracy <= e.high <= 1


def test_what_the_choice_lost_lowers_the_estimate_and_the_lower_end_alone() -> None:
    correct = [True] * 20 + [False] * 5
    plain, lowered = estimate(correct, 5, 9, 0.0), estimate(correct, 5, 9, 2.0)
    assert plain is not None
    assert lowered is not None
    assert lowered.accuracy == pytest.approx(1 - 0.28 * 0.8**0.35)
    assert (lowered.low, lowered.high) == pytest.approx((interval(18, 25, 5)[0], plain.high))
    assert "lowered by 2.0 because this was picked from 9" in lowered.how


def test_where_the_choice_was_not_repeated_more_is_taken_off_the_more_were_tried() -> None:
    correct = [True] * 20 + [False] * 5
    found = [estimate(correct, 5, m) for m in (1, 2, 5, 20)]
    accuracies = [e.accuracy for e in found if e]
    assert len(accuracies) == 4
    assert all(a > b for a, b in itertools.pairwise(accuracies))
    assert accuracies[0] - accuracies[-1] < 0.1, "modestly"


def numbered(right: Sequence[Sequence[bool]]) -> dict[int, dict[int, bool]]:
    return {c: dict(enumerate(row)) for c, row in enumerate(right)}


def test_copies_of_one_candidate_choose_nothing() -> None:
    right = numbered([[True, False, True, True]] * 5)
    assert optimism(right, [[0, 2], [1, 3]], 3, [0, 4]) == 0.0


def test_optimism_by_hand() -> None:
    """Without the first part the second candidate is chosen, which fails on one of it."""
    right = numbered([[True, True, True, True], [True, False, True, False]])
    assert optimism(right, [[0, 1], [2, 3]], 0, [1, 0]) == 1.0
    assert optimism(right, [[0, 1], [2, 3]], 1, [0, 1]) == -1.0


Simulated = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tasks_of(candidates: int, likeness: float, count: int, shots: int, ways: int = 5) -> Simulated:
    """Truth ``[T, M]``, outcomes and losses ``[T, M, n]`` of candidates that find the same examples hard.

    A margin is the candidate's quality, the example's ease and chance; an answer is right where it is above 0.
    """
    gen = generator(candidates * 10 + shots)
    n = ways * shots
    quality = 0.6 + 0.25 * torch.randn(count, candidates, 1, generator=gen)
    ease = likeness**0.5 * torch.randn(count, 1, n, generator=gen)
    margins = quality + ease + (1 - likeness) ** 0.5 * torch.randn(count, candidates, n, generator=gen)
    return 0.5 * (1 + torch.erf(quality[..., 0] / 2**0.5)), margins > 0, torch.nn.functional.softplus(-2 * margins)


@pytest.mark.parametrize("shots", [2, 5])
@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("candidates", [6, 24])
def test_the_winners_curse_is_taken_off_however_many_and_however_alike_they_are(
    candidates: int, likeness: float, shots: int
) -> None:
    """And no more than that; the interval's lower end, with it, lies below the truth often enough."""
    count = 400
    truth, right, losses = tasks_of(candidates, likeness, count, shots)
    n = right.shape[2]
    parts = [list(range(r, n, shots)) for r in range(shots)]
    plain, corrected, covered = [], [], 0
    for t in range(count):

        def best(examples: Sequence[int], of: torch.Tensor = losses[t]) -> int:
            return int(of[:, list(examples)].mean(1).argmin())

        chosen = best(range(n))
        again = [best([i for i in range(n) if i not in part]) for part in parts]
        lost = optimism(numbered(right[t].tolist()), parts, chosen, again)
        share, real = float(right[t, chosen].double().mean()), float(truth[t, chosen])
        plain.append(share - real)
        corrected.append(share - lost / n - real)
        kept = max(0.0, share * n - max(0.0, lost))
        covered += wilson(0.8 * kept, 0.8 * n)[0] <= real <= wilson(0.8 * share * n, 0.8 * n)[1]
    assert abs(sum(corrected) / count) < 0.035
    if likeness < 0.9:
        assert sum(plain) / count > 0.03, "what is chosen looks better than it is"
        assert abs(sum(corrected)) < 0.6 * abs(sum(plain))
    assert covered / count >= 0.93


def test_the_expected_best_of_several_normals() -> None:
    gen = generator(0)
    assert best_of(1) == 0.0
    for m in (2, 5, 20):
        seen = float(torch.randn(20_000, m, generator=gen).max(1).values.mean())
        assert math.isclose(best_of(m), seen, abs_tol=0.05)
