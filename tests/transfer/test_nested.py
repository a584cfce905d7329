"""The choice made again without a part: nothing of the part is left in the losses that it is made by."""

from __future__ import annotations

import math

import pytest
import torch

from tests.transfer.test_recipes import CENTRE, VIEWS, D, Y, alike, features, refitted
from workbench.learn.protocol import generator
from workbench.transfer import nested
from workbench.transfer.recipes import CLOSED, LeftOut, answers, gathered, judged, left_out, masks

GONE = torch.tensor([i in {1, 7, 9} for i in range(len(Y))])


def without(head, x):
    centre = CENTRE if head == "simpleshot" else None
    return nested.losses_without(x, Y, 3, head, [masks(Y, 3, gone=GONE)], centre)[0]


@pytest.mark.parametrize("head", CLOSED)
def test_the_losses_without_a_part_are_those_of_a_task_that_never_had_it(head):
    """Heads and temperature; with ``gone`` among the examples of the heads, as before, none of this holds."""
    x, here = features(), torch.nonzero(~GONE).flatten()
    centre = CENTRE if head == "simpleshot" else None
    expected = judged(left_out(x[here], Y[here], 3, head, centre=centre), Y[here])
    found = without(head, x)
    assert torch.isnan(found[GONE]).all()
    torch.testing.assert_close(found[here[expected.rows]], expected.losses, rtol=1e-9, atol=1e-9)
    strange = x.clone()
    strange[GONE] = 100 * torch.randn(3, D, generator=generator(3), dtype=torch.float64)
    torch.testing.assert_close(without(head, strange), found, rtol=1e-9, atol=1e-9, equal_nan=True)
    usual = judged(left_out(x, Y, 3, head, centre=centre), Y).losses
    assert not torch.allclose(usual[here], found[here], atol=1e-3)


@pytest.mark.parametrize("head", CLOSED)
def test_without_a_part_each_answer_is_that_of_the_head_fitted_without_both(head):
    keep, asked = masks(Y, 3, VIEWS, gone=GONE)
    centre = CENTRE if head == "simpleshot" else None
    z = answers(features(), Y, 3, head, keep, centre)
    assert not bool((keep & GONE).any() or (asked & GONE).any())
    for k, a, own in zip(keep, asked, z, strict=True):
        alike(own[a], refitted(head, features(), Y, 3, k, a), 1e-8)


def test_each_is_left_out_on_its_own_with_its_copies_of_what_is_there():
    y, groups = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 3, 3]), list("aabcdeefgg")
    gone = torch.tensor([i in {3, 4} for i in range(10)])
    keep, asked = nested.one_by_one(y, groups, gone)
    assert asked.nonzero().tolist() == [[m, i] for m, i in enumerate([0, 1, 2, 5, 6, 8, 9])]
    here = {0, 1, 2, 5, 6, 7, 8, 9}
    # of e and of g a copy stays: it is all that its class has
    away = [{0, 1}, {0, 1}, {2}, {5}, {6}, {8}, {9}]
    assert [set(k.nonzero().flatten().tolist()) for k in keep] == [here - some for some in away]


def test_answers_are_put_in_order_whatever_the_number_of_ways_to_part_them():
    y = torch.arange(2).repeat_interleave(7)
    keep, asked = masks(y, 2, seed=3)
    z = torch.arange(len(keep) * 14 * 2, dtype=torch.float64).view(len(keep), 14, 2)
    found: LeftOut = gathered(z, asked)
    for i in range(14):
        ways = torch.nonzero(asked[:, i]).flatten()
        assert torch.equal(found.logits[:, i], z[ways, i])


def test_parts_lack_some_of_every_class_and_every_copy():
    y = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 3])
    groups = ["a", "b", "c", "d", "c", "e", "f", "g", "h"]
    part, out = nested.parts(y, 4, groups, 5)
    assert part.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, -1]
    assert out.tolist()[0] == [True, False, True, False, True, True, False, False, False]
    for r in range(3):
        assert not bool(out[r][y == 3].any()), "alone in its class"
        assert [bool(out[r][y == c].any()) for c in range(3)] == [True] * 3
        assert all(bool((~out[r])[y == c].any()) for c in range(4))
    copies = nested.with_copies(torch.tensor([True, False]), torch.tensor([0, 0]), ["a", "a"])
    assert copies.tolist() == [True, False], "no class loses its last example"


@pytest.mark.parametrize("head", CLOSED)
def test_a_part_is_gone_in_all_its_views(head):
    """Views follow the pictures; what is hidden is so in every view, and a picture's loss is the mean of its own."""
    x = torch.cat([features(), features() + 0.1 * features(seed=1)])
    y, names = Y.repeat(2), list(range(len(Y))) * 2
    masked = [masks(y, 3, names, gone=GONE.repeat(2))]
    found = nested.losses_without(x, y, 3, head, masked, views=2)[0]
    assert torch.equal(torch.isnan(found), GONE)
    strange = x.clone()
    strange[GONE.repeat(2)] = 50.0
    other = nested.losses_without(strange, y, 3, head, masked, views=2)[0]
    torch.testing.assert_close(other, found, rtol=1e-9, atol=1e-9, equal_nan=True)


def simulated(count: int, seed: int, shots: int, ways: int, candidates: int):
    """Features of nothing but chance: whatever is chosen answers new pictures by chance."""
    gen = generator(seed)
    y = torch.arange(ways).repeat_interleave(shots)
    for _ in range(count):
        yield [torch.randn(len(y), 6, generator=gen, dtype=torch.float64) for _ in range(candidates)], y


def curse(gone: bool, shots: int, count: int = 50, ways: int = 3, candidates: int = 8) -> tuple[float, float]:
    """Share of examples that what is chosen answers, and what is left of it without those won by choosing."""
    plain = kept = 0.0
    for xs, y in simulated(count, 5, shots, ways, candidates):
        part, out = nested.parts(y, ways, range(len(y)), shots)
        usual = torch.stack([judged(left_out(x, y, ways, "simpleshot"), y).losses for x in xs])
        right = []
        for x in xs:
            z = answers(x, y, ways, "simpleshot", ~out)
            right.append(z[part, torch.arange(len(y))].argmax(1) == y)
        chosen = int(usual.mean(1).argmin())
        hidden, asked = nested.hidden(y, ways, range(len(y)), shots)
        if gone:
            masked = [masks(y, ways, gone=o) for o in hidden]
            inner = torch.stack([nested.losses_without(x, y, ways, "simpleshot", masked) for x in xs], 1)
        else:
            inner = usual.expand(len(hidden), -1, -1).masked_fill(hidden[:, None], math.nan)
        again = inner.nanmean(2).argmin(1).tolist()
        plain += float(right[chosen].double().mean()) / count
        kept += sum(float(right[c][i]) for c, rows in zip(again, asked, strict=True) for i in rows) / len(y) / count
    return plain, kept


@pytest.mark.parametrize(("shots", "hides"), [(2, 0.1), (3, 0.03)])
def test_choosing_among_features_of_chance_wins_nothing_once_the_choice_is_made_without_the_part(shots, hides):
    plain, kept = curse(gone=True, shots=shots)
    assert plain > 1 / 3 + 0.12, "what is chosen looks better than chance"
    assert abs(kept - 1 / 3) < 0.06
    assert curse(gone=False, shots=shots)[1] > kept + hides, "losses that the part had a share in hide much of it"


def test_two_examples_of_a_class_are_hidden_one_by_one_and_three_in_parts():
    """Without one of every class two would be one, of which nothing can be left out to choose by."""
    two = torch.tensor([0, 0, 1, 1])
    out, asked = nested.hidden(two, 2, ["a", "b", "c", "b"], 5)
    assert asked == [[0], [1], [2], [3]]
    assert out.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]]
    three = torch.arange(2).repeat_interleave(3)
    out, asked = nested.hidden(three, 2, range(6), 3)
    assert asked == [[0, 3], [1, 4], [2, 5]]
    assert out.tolist() == [[i % 3 == r for i in range(6)] for r in range(3)]
