"""Closed forms against refitting: the same head of the catalogue, adapted again without what is left out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.learn.tasks import tiny_backbone
from workbench.core.context import Context
from workbench.core.params import build_params
from workbench.core.values import EntryId
from workbench.learn import heads, registry
from workbench.learn.influence import Centroids, UnitRidge
from workbench.learn.protocol import Setting, State, Support, generator
from workbench.transfer import recipes
from workbench.transfer.recipes import CLOSED, KINDS, LeftOut, Recipe, judged, left_out, masks, menu

Y = torch.tensor([0, 1, 0, 2, 1, 2, 2, 0, 1, 2, 0])
D = 128
"""Features of the tiny backbone, whose heads the closed forms are held against."""


def features(n=11, seed=0, d=D):
    y = Y[:n]
    gen = generator(seed)
    centres = torch.randn(3, d, generator=gen, dtype=torch.float64)
    return 1 + centres[y] + 1.5 * torch.randn(n, d, generator=gen, dtype=torch.float64)


CENTRE = torch.randn(D, generator=generator(9), dtype=torch.float64)


def algorithm(head):
    tiny_backbone()
    return registry.create(head, {}, Setting("tiny", 1, 8))


def refitted(head, x, y, ways, keep, asked):
    """``[asked, N]``: the head of that name in the catalogue, adapted to what stays."""
    a = algorithm(head)
    memory = {"base.mean": CENTRE, "base.batches": torch.tensor(1.0)} if head == "simpleshot" else {}
    state = State({}, memory)
    adapted = a.adapt(state, Support(x[keep], y[keep], ways, x[keep]), Context())
    z = a.head(state, adapted)(x[asked])
    return z.double()


def closed(head, x, y, ways, groups=None, seed=0):
    return left_out(x, y, ways, head, groups, CENTRE if head == "simpleshot" else None, seed)


def alike(found, expected, tolerance=1e-9):
    """The same probabilities; a number common to all classes of a row does not count."""
    gap = float((found.log_softmax(-1) - expected.log_softmax(-1)).abs().max())
    assert gap < tolerance, f"{gap:.2e}"


def equals_refitting(head, groups=None, make=closed):
    x = features()
    names = list(range(len(Y))) if groups is None else groups
    found = make(head, x, Y, 3, groups)
    for row, z in zip(found.rows.tolist(), found.logits[0], strict=True):
        keep = torch.tensor([g != names[row] for g in names])
        alike(z[None], refitted(head, x, Y, 3, keep, torch.tensor([row])))
    assert found.logits.shape == (1, len(found.rows), 3)
    return found


@pytest.mark.parametrize("head", CLOSED)
def test_leaving_one_out_equals_refitting(head):
    assert equals_refitting(head).rows.tolist() == list(range(len(Y)))


VIEWS = [0, 1, 0, 2, 3, 2, 4, 5, 6, 4, 7]
"""Several rows that show one picture: its copies or its views."""


@pytest.mark.parametrize("head", CLOSED)
def test_the_views_of_a_picture_are_left_out_together(head):
    equals_refitting(head, VIEWS)


@pytest.mark.parametrize("head", CLOSED)
def test_views_that_stay_are_noticed(head):
    """The planted mistake: each view is left out on its own, so the others of its picture give the answer away."""
    with pytest.raises(AssertionError):
        equals_refitting(head, VIEWS, lambda h, x, y, ways, _: closed(h, x, y, ways))


@pytest.mark.parametrize("head", CLOSED)
def test_views_that_stay_look_too_good(head):
    """Nearly equal views of pictures that say nothing: alone each is told by its twin, together they are chance."""
    gen = generator(4)
    pictures = torch.randn(24, D, generator=gen, dtype=torch.float64)
    y = torch.arange(24) % 3
    x = pictures.repeat(2, 1) + 0.05 * torch.randn(48, D, generator=gen, dtype=torch.float64)
    y, groups = y.repeat(2), list(range(24)) * 2
    right = {
        together: float((z.logits.mean(0).argmax(1) == y[z.rows]).double().mean())
        for together, z in ((True, closed(head, x, y, 3, groups)), (False, closed(head, x, y, 3)))
    }
    assert right[True] < 0.55
    assert right[False] > right[True] + 0.2


@pytest.mark.parametrize("head", CLOSED)
def test_parts_equal_refitting(head):
    y = torch.arange(2).repeat_interleave(7)
    x = torch.randn(14, D, generator=generator(2), dtype=torch.float64) + y[:, None]
    keep, asked = masks(y, 2, seed=3)
    found = closed(head, x, y, 2, seed=3)
    assert found.logits.shape == (3, 14, 2)
    again = torch.zeros(14, dtype=torch.long)
    for k, a in zip(keep, asked, strict=True):
        expected = refitted(head, x, y, 2, k, a)
        for i, z in zip(torch.nonzero(a).flatten().tolist(), expected, strict=True):
            alike(found.logits[again[i], i][None], z[None])
            again[i] += 1
    assert again.tolist() == [3] * 14


def test_parts_take_a_fifth_of_every_class_and_every_picture_three_times():
    y = torch.arange(3).repeat_interleave(20)
    groups = [i // 2 for i in range(60)]
    keep, asked = masks(y, 3, groups)
    assert asked.sum(0).tolist() == [3] * 60
    for k, a in zip(keep, asked, strict=True):
        assert not bool((k & a).any())
        assert all(int(a[y == c].sum()) == 4 for c in range(3)), "two of ten pictures, two views each"
        away = {groups[i] for i in torch.nonzero(a).flatten().tolist()}
        assert away.isdisjoint(groups[i] for i in torch.nonzero(k).flatten().tolist())
    other = masks(y, 3, groups, seed=50)[1]
    assert not torch.equal(asked, other)


def test_five_pictures_a_class_are_left_out_one_by_one_and_six_in_parts():
    assert len(masks(torch.arange(2).repeat_interleave(5), 2)[0]) == 10
    assert len(masks(torch.arange(2).repeat_interleave(6), 2)[0]) == 15
    ten_views = [i // 2 for i in range(20)]
    assert len(masks(torch.arange(2).repeat_interleave(10), 2, ten_views)[0]) == 10, "five pictures in two views each"


@pytest.mark.parametrize("head", CLOSED)
def test_the_order_of_examples_and_the_names_of_classes_do_not_matter(head):
    x, plain = features(), closed(head, features(), Y, 3)
    order, names = torch.randperm(len(Y), generator=generator(1)), torch.tensor([2, 0, 1])
    found = closed(head, x[order], names[Y[order]], 3)
    alike(found.logits[0][:, names], plain.logits[0][order], 1e-11)
    other = judged(found, names[Y[order]])
    torch.testing.assert_close(other.losses, judged(plain, Y).losses[order], rtol=0, atol=1e-11)


def test_a_class_with_one_picture_keeps_it():
    y = torch.tensor([0, 0, 1, 2, 2])
    assert left_out(features(5), y, 3, "ridge").rows.tolist() == [0, 1, 3, 4]
    same = left_out(features(5), y, 3, "ridge", ["a", "b", "c", "d", "d"])
    assert same.rows.tolist() == [0, 1], "both examples of the last class show one picture"
    nothing = left_out(features(3), torch.arange(3), 3, "ridge")
    assert nothing.logits.shape == (1, 0, 3)
    assert judged(nothing, torch.arange(3)).temperature == 1.0


def test_a_picture_in_two_classes_is_left_out_of_both():
    groups = ["a", "b", "c", "d", "e", "b"]
    y = torch.tensor([0, 0, 1, 1, 0, 1])
    keep, asked = masks(y, 2, groups)
    (one,) = [k for k, a in zip(keep, asked, strict=True) if a[1]]
    assert one.tolist() == [True, False, True, True, True, False]


def test_the_temperature_is_that_of_all_left_out_answers():
    """Sure and wrong is cooled, right and unsure is sharpened; the losses are those at that temperature."""
    y = torch.tensor([0, 1] * 100)
    right = 2.0 * F.one_hot(y, 2).double() - 1
    noisy = torch.where(torch.rand(200, 1, generator=generator(0)) < 0.25, -right, right)
    for factor in (0.3, 3.0):
        found = judged(LeftOut(torch.arange(200), factor * noisy[None]), y)
        share = float((noisy.argmax(1) == y).double().mean())
        expected = 2 * factor / torch.logit(torch.tensor(share, dtype=torch.float64))
        assert found.temperature == pytest.approx(float(expected), rel=0.15)
        by_hand = F.cross_entropy(factor * noisy / found.temperature, y, reduction="none")
        torch.testing.assert_close(found.losses, by_hand)


def test_the_scales_are_those_of_the_heads():
    for head, names in (("ridge", ("scale", "strength")), ("cosine", ("scale",)), ("simpleshot", ("scale",))):
        p = build_params(registry.algorithms()[head].Params, {})
        assert [getattr(p, n) for n in names] == [recipes.SCALE, recipes.STRENGTH][: len(names)]
    p = build_params(registry.algorithms()["mahalanobis"].Params, {})
    assert (p.beta, p.scale) == (recipes.BETA, 1.0)


def test_features_without_spread_and_features_that_are_no_numbers():
    flat = torch.ones(6, 4, dtype=torch.float64)
    y = torch.tensor([0, 1] * 3)
    for head in CLOSED:
        z = left_out(flat, y, 2, head).logits
        assert bool(z.isfinite().all())
        torch.testing.assert_close(z.softmax(-1), torch.full_like(z, 0.5), atol=0.2, rtol=0)
    with pytest.raises(ValueError, match="finite"):
        left_out(flat * float("nan"), y, 2, "ridge")
    with pytest.raises(ValueError, match="no closed form"):
        left_out(flat, y, 2, "own")


def test_a_menu_is_short_and_begins_with_the_entries_as_they_are():
    many = menu([EntryId(str(i)) for i in range(8)])
    assert len(many) == 24
    assert [r.own for r in many] == [True] * 8 + [False] * 16
    one = menu([EntryId("a")])
    assert len(one) == len(set(one)) == len(KINDS)
    assert {(r.layer, r.adapter) for r in one} == {("last", "none"), ("previous", "none"), ("last", "norm")}
    assert one[0].words == ""
    assert replace(one[0], head="ridge").words == "ridge head"
    assert len({r.words for r in one}) == len(one)
    with pytest.raises(ValueError, match="own trunk"):
        Recipe(EntryId("a"), layer="previous")


def test_a_picture_in_several_views_counts_once():
    """Its loss is the mean over its views and its logits are the first's; views make no temperature surer."""
    y, x = Y.repeat(3), torch.cat([features(seed=s) for s in (0, 1, 2)])
    names = list(range(len(Y))) * 3
    found = left_out(x, y, 3, "ridge", names)
    seen = judged(found, y, views=3)
    assert seen.rows.tolist() == list(range(len(Y)))
    torch.testing.assert_close(seen.logits, found.logits[0][: len(Y)])
    each = F.cross_entropy(found.logits[0] / seen.temperature, y, reduction="none")
    torch.testing.assert_close(seen.losses, (each[:11] + each[11:22] + each[22:]) / 3)
    thrice = LeftOut(found.rows, torch.cat([found.logits[:, : len(Y)]] * 3, 1))
    once = judged(LeftOut(torch.arange(len(Y)), found.logits[:, : len(Y)]), Y)
    assert judged(thrice, y, views=3).temperature == once.temperature
    assert judged(thrice, y).temperature != once.temperature, "or else as if there were three times as many pictures"


@pytest.mark.parametrize("form", [Centroids(features(), 0.7), UnitRidge(features(), 0.2, 3.0)])
def test_a_head_that_was_learnt_is_fitted_to_what_each_mask_keeps(form):
    keep, asked = masks(Y, 3)
    z = recipes.answers(features(), Y, 3, form, keep)
    for k, a, own in zip(keep, asked, z, strict=True):
        if isinstance(form, Centroids):
            centres = torch.stack([form.x[k & (c == Y)].mean(0) for c in range(3)])
            expected = -form.scale * (form.x[a][:, None] - centres[None]).square().sum(2)
        else:
            x = F.normalize(form.x, dim=1)
            weights = heads.ridge(x[k], F.one_hot(Y[k], 3).double(), 0.2, heads.balanced(Y[k], 3, x))
            expected = 3.0 * x[a] @ weights
        alike(own[a], expected, 1e-8)
