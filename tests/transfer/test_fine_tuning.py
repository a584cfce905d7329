"""Fine-tuning towards where it began: closed forms, the number of steps, what is not pulled (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.learn import averaging, functional, heads, registry
from workbench.learn.protocol import Support, generator
from workbench.transfer import fine_tuning
from workbench.transfer.fine_tuning import Recipe, descent, tune
from workbench.transfer.mixing import Trunk


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def last(path):
    *_, found = path
    return found


# ---- quadratics: L = (theta - c)' A (theta - c) / 2 ------------------------------------------------------------------


def quadratic(seed=0, size=4):
    root = normal(size, size, seed=seed)
    a = root @ root.T / size + 0.3 * torch.eye(size, dtype=torch.float64)
    return a, normal(size, seed=seed + 1)


def rest(a, c, centre, recipe, steps=800, start=None, names=("w",)):
    def loss(theta):
        return sum((theta[n] - c) @ a @ (theta[n] - c) / 2 for n in names)

    begun = {n: centre.clone() if start is None else start for n in names}
    return last(descent(loss, begun, {"w": centre}, recipe, steps, Context()))


def closed_form(a, c, centre, held):
    return torch.linalg.solve(a + held * torch.eye(len(c), dtype=a.dtype), a @ c + held * centre)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("strength", [0.0, 0.05, 1.0, 30.0])
def test_it_rests_at_the_closed_form(strength, momentum):
    a, c = quadratic()
    centre = normal(4, seed=9)
    got = rest(a, c, centre, Recipe(strength=strength, lr=0.2, momentum=momentum))["w"]
    torch.testing.assert_close(got, closed_form(a, c, centre, strength), rtol=0, atol=1e-9)


def test_other_pulls_are_noticed():
    a, c = quadratic()
    centre = normal(4, seed=9)
    got = rest(a, c, centre, Recipe(strength=1.0, lr=0.2))["w"]
    for wrong in (
        closed_form(a, c, torch.zeros(4, dtype=torch.float64), 1.0),  # weight decay
        closed_form(a, c, centre, 0.5),  # the half of lam / 2 taken twice
        closed_form(a, c, centre, 10.0),  # an undamped momentum
        c,
    ):
        assert float((got - wrong).abs().max()) > 1e-2


def test_neighbours_are_a_pull_to_their_weighted_mean_with_the_sum_of_their_strengths():
    """``theta* = (A + lam s I)^-1 (A c + lam s theta_w)``: the minimum over all neighbours' pulls, found by descent."""
    a, c = quadratic()
    neighbours = [averaging.Model({"w": normal(4, seed=20 + j)}, "one") for j in range(3)]
    strengths, lam = [0.5, 2.0, 1.0], 0.4
    theta = torch.zeros(4, dtype=torch.float64)
    for _ in range(800):
        pulls = sum(s * (theta - m.tensors["w"]) for s, m in zip(strengths, neighbours, strict=True))
        theta = theta - 0.1 * (a @ (theta - c) + lam * pulls)
    centre, total = fine_tuning.pull(neighbours, strengths)
    assert total == pytest.approx(3.5)
    torch.testing.assert_close(theta, closed_form(a, c, centre["w"], lam * total), rtol=0, atol=1e-9)
    got = rest(a, c, centre["w"], Recipe(strength=lam * total, lr=0.2))["w"]
    torch.testing.assert_close(got, theta, rtol=0, atol=1e-9)


def test_neighbours_without_a_common_ancestor_are_refused():
    neighbours = [averaging.Model({"w": normal(4, seed=j)}, f"of {j}") for j in range(2)]
    with pytest.raises(WorkbenchError, match="common ancestor"):
        fine_tuning.pull(neighbours, [1.0, 1.0])


def test_an_endless_pull_stays_at_the_mean():
    a, c = quadratic()
    centre = normal(4, seed=9)
    got = rest(a, c, centre, Recipe(strength=1e12, lr=0.1), steps=50, start=normal(4, seed=3))["w"]
    torch.testing.assert_close(got, centre, rtol=0, atol=1e-9)


def test_without_a_pull_it_is_plain_fine_tuning_to_the_last_bit():
    a, c = quadratic()
    theta, recipe = normal(4, seed=3), Recipe(strength=0.0, lr=0.1, momentum=0.0)
    got = rest(a, c, normal(4, seed=9), recipe, steps=20, start=theta)["w"]
    for _ in range(20):
        leaf = theta.clone().requires_grad_()
        (grad,) = torch.autograd.grad((leaf - c) @ a @ (leaf - c) / 2, leaf)
        theta = theta - 0.1 * grad
    assert torch.equal(got, theta)


def test_what_has_no_centre_is_not_pulled():
    a, c = quadratic()
    got = rest(a, c, normal(4, seed=9), Recipe(strength=5.0, lr=0.2), start=normal(4, seed=3), names=("w", "head"))
    torch.testing.assert_close(got["head"], c, rtol=0, atol=1e-9)
    assert float((got["w"] - c).abs().max()) > 0.1


def test_the_start_is_left_as_it_is_and_a_cancel_is_heeded():
    start = {"w": normal(4)}
    before = start["w"].clone()
    list(descent(lambda t: t["w"].square().sum(), start, {}, Recipe(lr=0.1), 3, Context()))
    assert torch.equal(start["w"], before)
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        list(descent(lambda t: t["w"].square().sum(), start, {}, Recipe(lr=0.1), 3, ctx))


@pytest.mark.parametrize(
    "wrong", [{"strength": -1.0}, {"lr": 0.0}, {"momentum": 1.0}, {"folds": 1}, {"steps": ()}, {"steps": (5, 10)}]
)
def test_a_recipe_makes_sense(wrong):
    with pytest.raises(ValueError, match=r"pull|steps"):
        Recipe(**wrong)


# ---- a network and its head ------------------------------------------------------------------------------------------


def setting(shots=3, ways=3, seed=0, backbone="tiny-smooth"):
    tasks.tiny_backbone()
    net = registry.backbone(backbone).skeleton(1, tasks.SIZE)
    parameters, buffers = functional.initial(net, generator(seed))
    trunk = Trunk("t", {n: t.double() for n, t in parameters.items()}, {n: t.double() for n, t in buffers.items()})
    e = tasks.episode(generator(seed + 1), ways=ways, shots=shots, queries=5, dtype=torch.float64)
    return net, trunk, Support(e.support_x, e.support_y, ways), e


def logits(net, tuned, x):
    f = functional.call(net, tuned.trunk.parameters, tuned.trunk.buffers, x)
    return F.linear(f, tuned.weight, tuned.bias)


def test_no_steps_are_the_nearest_class_mean_on_the_trunk_as_it_is():
    net, trunk, support, e = setting()
    got = tune(net, trunk, support, Recipe(steps=(0,)), Context())
    assert got.steps == 0
    assert all(torch.equal(t, trunk.parameters[n]) for n, t in got.trunk.parameters.items())
    f = functional.call(net, trunk.parameters, trunk.buffers, torch.cat([e.support_x, e.query_x]))
    centres = heads.prototypes(f[: len(support.y)], support.y, support.ways)
    nearest = torch.cdist(f[len(support.y) :], centres).argmin(1)
    assert torch.equal(logits(net, got, e.query_x).argmax(1), nearest)


def test_one_example_of_a_class_leaves_nothing_to_decide_and_nothing_is_tuned():
    net, trunk, support, _ = setting(shots=1)
    got = tune(net, trunk, support, Recipe(), Context())
    assert (got.steps, got.losses, got.rows.tolist()) == (0, {}, [])
    assert all(torch.equal(t, trunk.parameters[n]) for n, t in got.trunk.parameters.items())


def hidden(each, seed=0):
    """Pictures whose classes differ in one direction, while they vary far more in another."""
    gen = generator(seed)
    nuisance, signal = (
        torch.randn(1, tasks.SIZE, tasks.SIZE, generator=generator(i), dtype=torch.float64) for i in (1, 2)
    )
    y = torch.arange(2).repeat_interleave(each)
    amount = 4 * torch.randn(2 * each, 1, 1, 1, generator=gen, dtype=torch.float64)
    return amount * nuisance + (2 * y - 1)[:, None, None, None] * signal, y


def test_steps_that_help_are_taken_and_steps_that_harm_are_not():
    net, trunk, _, _ = setting()
    x, y = hidden(12)
    helped = tune(net, trunk, Support(x, y, 2), Recipe(steps=(0, 30), lr=0.3), Context())
    assert helped.steps == 30
    assert helped.losses[30] < helped.losses[0]
    before = tune(net, trunk, Support(x, y, 2), Recipe(steps=(0,)), Context())
    asked, truth = hidden(20, seed=9)
    after, first = ((logits(net, t, asked).argmax(1) == truth).double().mean() for t in (helped, before))
    assert float(after) > float(first) + 0.1
    ruined = tune(net, trunk, Support(x, y, 2), Recipe(steps=(0, 30), lr=1e4), Context())
    assert ruined.steps == 0
    assert all(torch.equal(t, trunk.parameters[n]) for n, t in ruined.trunk.parameters.items())


def test_so_many_steps_on_the_same_examples_end_at_the_same_trunk_in_any_order():
    net, trunk, _, _ = setting()
    x, y = hidden(12)
    recipe = Recipe(steps=(0, 30), lr=0.3)
    nowhere, found = fine_tuning.along(net, trunk, Support(x, y, 2), recipe, (0, 30), Context())
    turned = last(fine_tuning.along(net, trunk, Support(x.flip(0), y.flip(0), 2), recipe, (30,), Context()))
    searched = tune(net, trunk, Support(x, y, 2), recipe, Context())
    assert searched.steps == 30
    for n, t in searched.trunk.tensors.items():
        assert torch.equal(found.tensors[n], t)
        assert torch.equal(turned.tensors[n], t)
    assert any(not torch.equal(t, trunk.parameters[n]) for n, t in found.parameters.items())
    assert all(torch.equal(t, nowhere.parameters[n]) for n, t in trunk.parameters.items())


def test_a_gain_within_its_error_is_left_alone():
    net, trunk, support, _ = setting(shots=4)
    got = tune(net, trunk, support, Recipe(steps=(0, 5), lr=0.3), Context())
    assert got.losses[5] < got.losses[0]
    assert got.steps == 0


def test_scrambled_labels_tune_nothing():
    """Nothing that was learnt from random labels helps on those left out; tuned on their own, they would look good."""
    taken = []
    for seed in range(3):
        net, trunk, support, _ = setting(shots=4, seed=seed)
        shuffled = support.y[torch.randperm(len(support.y), generator=generator(seed))]
        taken.append(tune(net, trunk, Support(support.x, shuffled, 3), Recipe(steps=(0, 10), lr=0.3), Context()).steps)
    assert taken.count(0) >= 2, taken


def test_each_example_is_left_out_once():
    net, trunk, support, _ = setting(shots=4)
    got = tune(net, trunk, support, Recipe(steps=(0, 2)), Context())
    assert sorted(got.rows.tolist()) == list(range(len(support.y)))
    assert len(got.left_out) == len(got.rows)
    assert float(got.left_out.mean()) == pytest.approx(got.losses[got.steps])


def test_copies_of_a_picture_are_left_out_together(monkeypatch):
    """A copy that stays gives the answer away; sorted by content copies are neighbours, so parts would split each."""
    net, trunk, support, _ = setting(shots=4)
    twice = Support(support.x.repeat_interleave(2, 0), support.y.repeat_interleave(2), 3)
    seen = []
    judged = fine_tuning._path

    def watched(network, start, centre, given, *rest):
        seen.append({one.numpy().tobytes() for one in given[0]})
        return judged(network, start, centre, given, *rest)

    monkeypatch.setattr(fine_tuning, "_path", watched)
    got = tune(net, trunk, twice, Recipe(steps=(0, 1)), Context())
    assert sorted(got.rows.tolist()) == list(range(24))
    everything = {one.numpy().tobytes() for one in support.x}
    away = [everything - part for part in seen[:-1]]
    assert [len(a) for a in away] == [6, 3, 3]  # of 4 pictures of each class 2, 1 and 1 pictures
    assert set().union(*away) == everything
    one = tune(net, trunk, support, Recipe(steps=(0, 1)), Context())
    assert got.losses[0] == pytest.approx(one.losses[0], rel=0.2)  # copies make nothing easier
    # views that are no copies are told by their groups
    seen.clear()
    views = Support(twice.x + 1e-3 * normal(*twice.x.shape), twice.y, 3)
    tune(net, trunk, views, Recipe(steps=(0, 1)), Context(), groups=[i // 2 for i in range(24)])
    assert [len(part) for part in seen[:-1]] == [12, 18, 18]
    assert tune(net, trunk, views, Recipe(), Context(), groups=[i // 8 for i in range(24)]).rows.tolist() == []


def test_a_picture_under_two_classes_is_left_out_of_both():
    y = torch.tensor([0, 0, 0, 1, 1, 1])
    assert fine_tuning._parts(y, 2, ["a", "b", "c", "b", "d", "e"], 3) == [[0, 4], [1, 3, 5], [2]]
    assert fine_tuning._parts(y, 2, ["a", "b", "a", "b", "a", "b"], 3) == [[0, 2, 4], [1, 3, 5]]


def test_the_order_of_the_examples_and_unequal_shots_are_taken_as_they_come():
    net, trunk, support, _ = setting(shots=4)
    kept = torch.tensor([i for i in range(len(support.y)) if i not in {0, 1}])
    given = Support(support.x[kept], support.y[kept], 3)
    turned = Support(given.x.flip(0), given.y.flip(0), 3)
    a, b = (tune(net, trunk, s, Recipe(steps=(0, 5), lr=0.2), Context()) for s in (given, turned))
    assert a.steps == b.steps
    torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=1e-9)
    assert a.losses == pytest.approx(b.losses, abs=1e-9)
    assert [given.y[i] for i in a.rows] == [turned.y[i] for i in b.rows]


def test_a_stronger_pull_stays_nearer():
    net, trunk, _, _ = setting()
    x, y = hidden(12)
    far = []
    for strength in (0.0, 0.3, 3.0):
        got = tune(net, trunk, Support(x, y, 2), Recipe(strength=strength, steps=(0, 30), lr=0.3), Context())
        assert got.steps == 30
        far.append(sum(float((t - trunk.parameters[n]).square().sum()) for n, t in got.trunk.parameters.items()))
    assert far[0] > 1.05 * far[1] > 1.05 * far[2]
