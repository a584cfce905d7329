from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from workbench.core.values import Candidate, EntryId
from workbench.learn.protocol import generator
from workbench.transfer import rank
from workbench.transfer.rank import NO_TRANSFER_PRIOR, Option, paired_gain, shots_of


def option(name: str, similarity: float, losses: Sequence[float] | None = None) -> Option:
    return Option(
        EntryId(f"id-{name}"), name, ((f"{name} source", similarity),), None if losses is None else tuple(losses)
    )


def choose(
    options: Sequence[Option], shots: int, choice: str = "auto", default: int | None = None
) -> tuple[tuple[Candidate, ...], str]:
    found = rank.choose(options, shots, choice, default)
    return found.candidates, found.reason


def nothing(losses: Sequence[float] | None = None) -> Option:
    return Option(None, "No transfer", (), None if losses is None else tuple(losses))


def chosen(candidates: tuple[Candidate, ...]) -> Candidate:
    (one,) = [c for c in candidates if c.chosen]
    return one


def test_one_shot_is_chosen_by_similarity_alone() -> None:
    losses = [0.1] * 5
    options = [option("alphabets", 0.3, [9.0] * 5), option("surfaces", 0.8, [9.0] * 5), nothing(losses)]
    candidates, reason = choose(options, 1)
    assert chosen(candidates).name == "surfaces"
    assert "similarity only" in reason
    assert "surfaces source" in reason
    assert [c.loss for c in candidates] == [None] * 3
    assert [c.name for c in candidates] == ["surfaces", "alphabets", "No transfer"]


def test_with_more_shots_the_evidence_counts() -> None:
    bad, good = [1.5, 1.4, 1.6, 1.5, 1.3] * 5, [0.2, 0.1, 0.3, 0.2, 0.4] * 5
    candidates, reason = choose([option("alphabets", 0.8, bad), option("surfaces", 0.6, good), nothing(bad)], 5)
    assert chosen(candidates).name == "surfaces"
    assert "does better than alphabets" in reason
    assert "the best of 3 would by luck in under 1 %" in reason
    assert "25 examples" in reason
    assert chosen(candidates).loss == pytest.approx(0.24)
    assert sum(c.weight for c in candidates) == pytest.approx(1.0)
    assert (candidates[0].chosen, candidates[0].nearest_source, candidates[0].similarity) == (
        True,
        "surfaces source",
        0.6,
    )


def test_the_default_is_left_only_for_a_gain_beyond_its_error() -> None:
    gen = generator(0)
    noise = torch.randn(25, generator=gen)
    base = [1.0] * 25
    for gain, expected in ((0.05, "alphabets"), (0.6, "surfaces")):
        better = (1.0 - gain + noise).tolist()
        mean, error = paired_gain(base, better)
        assert (mean > error) == (expected == "surfaces")
        candidates, reason = choose([option("alphabets", 0.5, base), option("surfaces", 0.49, better)], 5)
        assert chosen(candidates).name == expected
        assert ("scored higher, but what it gains" in reason) == (expected == "alphabets")


@pytest.mark.parametrize(("ahead", "expected", "words"), [(0.008, "first", "hardly better"), (0.05, "second", "")])
def test_the_default_is_not_left_for_next_to_nothing_however_sure(ahead: float, expected: str, words: str) -> None:
    losses = [0.1 + 0.001 * (i % 3) for i in range(25)]
    better = [x - ahead for x in losses]
    candidates, reason = choose([option("first", 0.9, losses), option("second", 0.85, better)], 5)
    assert chosen(candidates).name == expected
    assert words in reason


def test_a_larger_prior_is_not_said_to_be_evidence() -> None:
    """What it gains is sure and next to nothing, so it is the prior that decides."""
    losses = [0.1 + 0.001 * (i % 3) for i in range(25)]
    better = [x - 0.008 for x in losses]
    candidates, reason = choose([option("first", 0.3, losses), option("second", 0.95, better)], 5, default=0)
    assert chosen(candidates).name == "second"
    assert reason == "Second: your pictures resemble second source far more than first's."
    better = [x - 0.05 for x in losses]
    candidates, reason = choose([option("first", 0.3, losses), option("second", 0.95, better)], 5, default=0)
    assert "does better than first (log-loss lower by 0.05" in reason


def test_the_weight_of_the_evidence_is_k_over_k_plus_two() -> None:
    a, b = option("a", 0.9, [2.0, 2.2]), option("b", 0.1, [1.0, 1.2])
    for shots in (1, 2, 5, 10):
        candidates, _ = choose([a, b], shots)
        by_name = {c.name: c.weight for c in candidates}
        share = 0.0 if shots == 1 else shots / (shots + 2)
        # two options standardise to +1 and -1: a leads by 2 (1 - w) - 2 w
        assert math.log(by_name["a"] / by_name["b"]) == pytest.approx(2 * (1 - share) - 2 * share)


def test_no_transfer_is_a_branch_of_its_own() -> None:
    unlike = [option("alphabets", NO_TRANSFER_PRIOR / 2), nothing()]
    candidates, reason = choose(unlike, 1)
    assert chosen(candidates).entry is None
    assert "no known source resembles" in reason
    assert (chosen(candidates).similarity, chosen(candidates).nearest_source) == (None, "")
    candidates, reason = choose([nothing()], 5)
    assert (chosen(candidates).entry, chosen(candidates).weight) == (None, 1.0)
    assert "nothing has been learnt" in reason
    worse, better = [2.0, 2.1, 2.2, 1.9] * 5, [0.5, 0.6, 0.4, 0.5] * 5
    candidates, reason = choose([option("alphabets", 0.7, worse), nothing(better)], 5)
    assert chosen(candidates).entry is None
    assert reason.startswith("No transfer: ")


@pytest.mark.parametrize(("choice", "name"), [("none", "No transfer"), ("id-alphabets", "alphabets")])
def test_a_person_overrides(choice: str, name: str) -> None:
    options = [option("alphabets", 0.1, [3.0] * 4), option("surfaces", 0.9, [0.1] * 4), nothing([5.0] * 4)]
    for shots in (1, 5):
        candidates, reason = choose(options, shots, choice)
        assert chosen(candidates).name == name == candidates[0].name
        assert reason.startswith("You chose")
        auto = {c.name: c.weight for c in choose(options, shots)[0]}
        assert {c.name: c.weight for c in candidates} == auto, "the ranking itself does not change"


def test_what_was_chosen_and_is_gone_is_said() -> None:
    candidates, reason = choose([option("alphabets", 0.5), nothing()], 1, "id-gone")
    assert chosen(candidates).name == "alphabets"
    assert "not there any more" in reason


def test_what_was_not_measured_is_neither_punished_nor_preferred() -> None:
    measured = [option("a", 0.6, [1.0, 1.1] * 5), option("b", 0.5, [2.0, 2.1] * 5)]
    for other in (option("c", 0.9), option("c", 0.1)):
        candidates, reason = choose([*measured, other], 5)
        assert chosen(candidates).name == ("c" if other.prior == 0.9 else "a")
        assert reason
        assert next(c for c in candidates if c.name == "c").loss is None
    candidates, reason = choose([option("a", 0.6, [1.0, 1.1]), option("b", 0.5), nothing()], 5)
    assert chosen(candidates).name == "a"
    assert "only it could be tried" in reason


def test_the_order_of_the_library_does_not_matter() -> None:
    gen = generator(3)
    options = [option(str(n), 0.1 + 0.1 * n, torch.rand(20, generator=gen).tolist()) for n in range(6)]
    first, reason = choose(options, 4)
    for shift in range(1, 6):
        turned, said = choose(options[shift:] + options[:shift], 4)
        assert [(c.name, pytest.approx(c.weight)) for c in turned] == [(c.name, c.weight) for c in first]
        assert said == reason


def test_equal_options_share_equally_and_the_first_is_used() -> None:
    candidates, _ = choose([option("a", 0.5, [1.0] * 4), option("b", 0.5, [1.0] * 4)], 5)
    assert [(c.name, c.weight, c.chosen) for c in candidates] == [("a", 0.5, True), ("b", 0.5, False)]


def test_an_entry_without_sources_counts_as_no_transfer_does() -> None:
    bare = Option(EntryId("x"), "pretrained", (), None)
    assert (bare.prior, bare.nearest) == (NO_TRANSFER_PRIOR, ("", None))
    candidates, reason = choose([bare, nothing()], 1)
    assert chosen(candidates).name == "pretrained"
    assert "similarity only: pretrained" in reason


def test_choosing_beats_always_taking_the_most_similar_and_seldom_loses() -> None:
    """Synthetic networks with known worth: the gate keeps the harm small and the evidence brings a gain."""
    gen = generator(5)
    gains = []
    for _ in range(200):
        worth = torch.randn(6, generator=gen)
        prior = (0.5 + 0.15 * (0.6 * worth + 0.8 * torch.randn(6, generator=gen))).clamp(0.01, 0.99)
        losses = 1.5 - 0.4 * worth[:, None] + 0.8 * torch.randn(6, 25, generator=gen)
        options = [option(str(n), float(prior[n]), losses[n].tolist()) for n in range(6)]
        picked = int(chosen(choose(options, 5)[0]).name)
        gains.append(float(worth[picked] - worth[int(prior.argmax())]))
    assert sum(gains) / len(gains) > 0.3
    assert sum(g < -0.5 for g in gains) / len(gains) < 0.05


def test_unequal_shots_count_by_their_mean() -> None:
    assert [shots_of(c) for c in ([5, 5], [1, 1, 5], [1, 1], [], [2, 3], [0, 0])] == [5, 2, 1, 1, 2, 1]


def test_paired_gain() -> None:
    mean, error = paired_gain([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert mean == 2.0
    assert error == pytest.approx(1 / math.sqrt(3))
    assert paired_gain([1.0], [0.5]) == (0.5, math.inf)
    with pytest.raises(ValueError):
        choose([], 1)


def test_the_reason_does_not_say_best_of_what_is_only_most_similar() -> None:
    near = Option(EntryId("near"), "near", (("letters", 0.9),), (1.0, 0.8, 0.9, 0.9))
    far = Option(EntryId("far"), "far", (("photographs", 0.1),), (0.95, 0.85, 0.85, 0.9))
    candidates, reason = choose([near, far], 2)
    assert candidates[0].entry == "near"
    assert "does best" not in reason
    assert "far has the lower loss" in reason


def recipe(name: str, words: str, losses: Sequence[float] | None, similarity: float = 0.5) -> Option:
    return Option(EntryId(f"id-{name}"), name, ((f"{name} source", similarity),), losses and tuple(losses), words)


BAD, FAIR, GOOD = [1.5, 1.4, 1.6, 1.5, 1.3] * 5, [0.8, 0.9, 0.7, 0.8, 1.0] * 5, [0.2, 0.1, 0.3, 0.2, 0.4] * 5


def test_an_entry_is_one_candidate_by_its_best_recipe() -> None:
    options = [recipe("a", "", BAD), recipe("b", "", FAIR), recipe("a", "ridge head", GOOD), nothing(BAD)]
    found = rank.choose(options, 5)
    assert [(c.title, c.chosen) for c in found.candidates[:1]] == [("a, ridge head", True)]
    assert sorted(c.name for c in found.candidates) == ["No transfer", "a", "b"]
    assert sum(c.weight for c in found.candidates) == pytest.approx(1.0)
    assert found.chosen == 2
    assert found.images == 25
    assert found.runner_up == "b"
    assert found.reason.startswith("A, ridge head: on your 25 examples")


def test_at_one_shot_seniority_decides_between_about_equal_ones_only() -> None:
    """Here by 0.3 times the default's own similarity."""
    for similarity, expected in ((0.6, "a"), (0.7, "b")):
        options = [recipe("a", "", None, 0.5), recipe("b", "", None, similarity), nothing()]
        found = rank.choose(options, 1, default=0)
        assert options[found.chosen].name == expected
        assert found.images == 0
        if expected == "a":
            assert "b is hardly more similar, and a is the broadest of what is known" in found.reason
        else:
            assert "similarity only: b, for its source b source (0.70)" in found.reason


@pytest.mark.parametrize(("similarity", "expected"), [(0.29, "b"), (0.126, "b"), (0.05, "No transfer")])
def test_a_default_that_does_not_resemble_the_task_is_not_taken_for_its_seniority(
    similarity: float, expected: str
) -> None:
    options = [recipe("a", "", None, 0.003), recipe("b", "", None, similarity), nothing()]
    found = rank.choose(options, 1, default=0, proven=True)
    assert options[found.chosen].name == expected
    assert "(0.00)" not in found.reason
    losses = [1.0, 1.2, 0.8, 1.0]
    with_losses = [recipe("a", "", losses, 0.003), recipe("b", "", losses, similarity), nothing(losses)]
    scores = rank.choose(with_losses, 2, default=0).scores
    assert max(scores) > scores[0], "nor does it count beside evidence"


def test_a_similarity_of_another_kind_never_comes_first() -> None:
    collapsed = Option(EntryId("x"), "old", (("anything", 1.0),), None, most=math.nextafter(0.29, 0))
    options = [collapsed, recipe("b", "", None, 0.29), nothing()]
    assert options[rank.choose(options, 1).chosen].name == "b"
    assert collapsed.prior < 0.29


def test_past_tasks_may_speak_for_what_is_less_similar_and_then_it_is_said() -> None:
    gained = Option(EntryId("b"), "b", (("b source", 0.2),), None, gain=0.3)
    found = rank.choose([recipe("a", "", None, 0.5), gained, nothing()], 1, default=0)
    assert found.reason.startswith("Chosen by similarity and past tasks: b, for its source b source (0.20)")


def test_a_far_larger_prior_needs_no_more_evidence() -> None:
    noisy = [0.2, 1.8, 0.4, 1.6, 1.0] * 2
    better = [0.95 * x + 0.3 * (-1) ** i - 0.02 for i, x in enumerate(noisy)]
    mean, error = paired_gain(noisy, better)
    assert 0 < mean < error
    for similarity, expected in ((0.6, "a"), (0.95, "b")):
        options = [recipe("a", "", noisy, 0.4), recipe("b", "", better, similarity)]
        found = rank.choose(options, 2, default=0)
        assert options[found.chosen].name == expected
    assert "far more than a" in found.reason


def test_the_default_need_not_be_the_most_similar() -> None:
    options = [recipe("a", "", FAIR, 0.4), recipe("b", "", FAIR, 0.5), nothing(BAD)]
    found = rank.choose(options, 5, default=0, proven=True)
    assert (found.chosen, "A: it has the best record so far" in found.reason) == (0, True)
    found = rank.choose(options, 5, default=0)
    assert (found.chosen, "A: it is the broadest of what is known" in found.reason) == (0, True), "without a record"
    assert rank.choose(options, 5).chosen == 1


def test_seniority_does_not_count_where_nothing_resembles_the_task() -> None:
    options = [recipe("a", "", None, 0.04), recipe("b", "", None, 0.02), nothing()]
    assert options[rank.choose(options, 1, default=0).chosen].entry_id is None
    options[1] = recipe("b", "", None, 0.2)
    assert rank.choose(options, 1, default=0).chosen == 1


def test_what_past_tasks_gained_counts() -> None:
    a, b = recipe("a", "", None, 0.5), recipe("b", "", None, 0.5)
    assert rank.choose([a, b], 1, default=0).chosen == 0
    gained = Option(b.entry_id, "b", b.source_similarities, None, gain=0.11)
    assert rank.choose([a, gained], 1, default=0).chosen == 1
    assert gained.prior == pytest.approx(0.83)


def opened(options: int, examples: int, shared: float = 1.0, tasks: int = 400) -> tuple[float, float]:
    """How often equally good options pass the gate, and how often the best would by its own standard error."""
    gen = torch.Generator().manual_seed(1000 * options + examples)
    passed = plain = 0
    for _ in range(tasks):
        common = shared * torch.randn(examples, generator=gen, dtype=torch.float64)
        losses = common + torch.randn(options, examples, generator=gen, dtype=torch.float64)
        rows = [tuple(row) for row in losses.tolist()]
        best = min(range(options), key=lambda i: sum(rows[i]))
        if best:
            gain, error = paired_gain(rows[0], rows[best])
            plain += gain > error
            passed += rank.luck(rows[0], rows[best], rows) <= 0.1587
    return passed / tasks, plain / tasks


@pytest.mark.parametrize(("options", "examples"), [(2, 25), (4, 10), (12, 25), (24, 10)])
def test_luck_opens_the_gate_as_seldom_for_many_as_for_one(options: int, examples: int) -> None:
    passed, plain = opened(options, examples)
    assert 0.06 <= passed <= 0.21
    assert options < 4 or plain > 0.28, "what the best of many is ahead of its own error by says little"


def test_copies_count_once_and_order_does_not_matter() -> None:
    gen = generator(2)
    start, better, *others = (0.3 * torch.randn(6, 12, generator=gen)).tolist()
    better = [v - 0.1 for v in better]
    alone = rank.luck(start, better, [start, better])
    assert rank.luck(start, better, [better] * 20) == alone
    among = rank.luck(start, better, [start, better, *others])
    assert among > alone
    assert rank.luck(start, better, [*others[::-1], better, start]) == among
    assert rank.luck(start, start, [start, better]) == 1.0
    certain = rank.luck([1.0] * 4, [0.5] * 4, [])
    assert certain == pytest.approx(1 / 16, abs=0.03), "of sixteen ways to draw four signs"
