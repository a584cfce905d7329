"""A start mixed from one ancestor's descendants: what the weights are, what comes out, what is refused (float64)."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from tests.learn import tasks
from workbench.core.errors import WorkbenchError
from workbench.learn import averaging, functional, norm, registry
from workbench.learn.protocol import State, generator
from workbench.transfer import mixing
from workbench.transfer.mixing import NULL, Family, Recipe, Trunk


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def trunk(name, seed, ancestor=""):
    return Trunk(name, {"w": normal(4, 3, seed=seed)}, {"mean": normal(3, seed=seed + 50)}, ancestor)


def family(count=4):
    first = trunk("first", 100)
    return Family(first, tuple(trunk(f"m{i}", i, first.digest) for i in range(count)))


def equal(a, b):
    return all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors | b.tensors)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_are_the_softmax_over_the_most_similar_and_the_null_source():
    got = mixing.weights({"a": 0.5, "b": 0.3, "c": 0.2, "d": 0.15}, Recipe(k=2, temperature=0.1, null=0.1))
    raised = {"a": math.exp(5), "b": math.exp(3), NULL: math.exp(1)}
    assert got == pytest.approx({n: r / sum(raised.values()) for n, r in raised.items()}, abs=1e-15)
    assert math.fsum(got.values()) == pytest.approx(1, abs=1e-15)


def test_what_resembles_the_task_no_more_than_the_null_source_has_no_weight():
    assert mixing.weights({"a": 0.1, "b": -0.5}, Recipe(null=0.1)) == {NULL: 1.0}
    assert set(mixing.weights({"a": 0.1, "b": 0.11}, Recipe(null=0.1))) == {NULL, "b"}


def test_a_cold_softmax_is_the_most_similar_alone():
    assert mixing.weights({"a": 0.5, "b": 0.4}, Recipe(k=2, temperature=1e-4))["a"] == pytest.approx(1.0)


def test_equally_similar_ones_at_the_end_are_told_apart_by_name_not_by_order():
    given = {"c": 0.4, "a": 0.4, "b": 0.4}
    for order in itertools.permutations(given.items()):
        assert set(mixing.weights(dict(order), Recipe(k=2))) == {NULL, "a", "b"}


@pytest.mark.parametrize("similarities", [{"a": math.nan}, {"a": math.inf}])
def test_a_similarity_that_is_no_number_is_refused(similarities):
    with pytest.raises(ValueError, match="finite"):
        mixing.weights(similarities)


def test_nothing_to_weigh_is_refused():
    with pytest.raises(ValueError, match="nothing to mix"):
        mixing.weights({}, Recipe(null=-math.inf))


@pytest.mark.parametrize("wrong", [{"k": 0}, {"temperature": 0.0}, {"pictures": -1.0}, {"temperature": math.nan}])
def test_a_recipe_makes_sense(wrong):
    with pytest.raises(ValueError, match="k is at least 1"):
        Recipe(**wrong)


# ---- the start -------------------------------------------------------------------------------------------------------


def test_one_source_with_all_the_weight_is_that_source_to_the_last_bit():
    f = family()
    got = mixing.mix(f, {"m0": 0.2, "m2": 0.9}, Recipe(k=1, null=-math.inf))
    assert got.weights == {"m2": 1.0}
    assert equal(got.trunk, f.members[2])


def test_equal_similarities_are_the_plain_mean():
    f = family()
    got = mixing.mix(f, {m.name: 0.7 for m in f.members}, Recipe(k=4, null=-math.inf))
    expected = averaging.mean([averaging.Model(m.tensors, m.ancestor) for m in f.members])
    assert all(torch.allclose(got.trunk.tensors[n], expected[n], rtol=0, atol=1e-15) for n in expected)


def test_it_is_the_ancestor_and_weighted_differences():
    f = family()
    got = mixing.mix(f, {"m0": 0.5, "m1": 0.4, "m3": 0.3}, Recipe(k=2, temperature=0.2, null=0.1))
    first, w = f.ancestor.tensors, got.weights
    assert set(w) == {NULL, "m0", "m1"}
    for name, tensor in got.trunk.tensors.items():
        deltas = sum(w[m.name] * (m.tensors[name] - first[name]) for m in f.members if m.name in w)
        torch.testing.assert_close(tensor, first[name] + deltas, rtol=0, atol=1e-14)
    # without the null source's weight it would be another network
    assert w[NULL] > 0.05


def test_permuting_the_library_changes_nothing():
    f = family()
    similarities = {"m0": 0.31, "m1": 0.37, "m2": 0.33, "m3": 0.2}
    expected = mixing.mix(f, similarities)
    for order in itertools.permutations(range(4)):
        shuffled = Family(f.ancestor, tuple(f.members[i] for i in order))
        got = mixing.mix(shuffled, {f"m{i}": similarities[f"m{i}"] for i in order})
        assert got.weights == expected.weights
        assert equal(got.trunk, expected.trunk)
        given = dict(zip((NULL, "m0", "m1", "m2"), (0.1, 0.2, 0.3, 0.4), strict=True))
        turned = {n: given[n] for n in (list(given)[i] for i in order)}
        assert equal(mixing.mixed(shuffled, turned).trunk, mixing.mixed(f, given).trunk)


def test_a_library_of_which_nothing_resembles_the_task_gives_the_ancestor_to_the_last_bit():
    f = family()
    got = mixing.mix(f, {m.name: 0.05 for m in f.members}, Recipe(null=0.1))
    assert got.weights == {NULL: 1.0}
    assert equal(got.trunk, f.ancestor)
    assert equal(mixing.mix(f, {}).trunk, f.ancestor)


def test_the_result_shares_no_memory_with_the_library():
    f = family()
    got = mixing.mix(f, {"m0": 0.9}, Recipe(null=-math.inf))
    got.trunk.parameters["w"].zero_()
    assert float(f.members[0].parameters["w"].abs().sum()) > 0


def test_given_weights_are_shares_and_strangers_are_not_looked_at():
    f = family()
    got = mixing.mixed(f, {"m0": 3.0, NULL: 1.0, "m1": 0.0})
    assert got.weights == {NULL: 0.25, "m0": 0.75}
    torch.testing.assert_close(
        got.trunk.parameters["w"], 0.75 * f.members[0].parameters["w"] + 0.25 * f.ancestor.parameters["w"]
    )
    assert mixing.mix(f, {"stranger": 0.9, "m1": 0.5}).weights.keys() == {NULL, "m1"}
    with pytest.raises(KeyError):
        mixing.mixed(f, {"stranger": 1.0})


def test_networks_without_a_common_ancestor_are_refused():
    f = family()
    stranger = trunk("m9", 9, trunk("other", 200).digest)
    mixed_up = Family(f.ancestor, (*f.members, stranger))
    with pytest.raises(WorkbenchError, match="numbered differently"):
        mixing.mix(mixed_up, {"m9": 0.9, "m0": 0.8})
    with pytest.raises(WorkbenchError, match="numbered differently"):
        mixing.mix(mixed_up, {"m9": 0.9}, Recipe(null=-math.inf))


# ---- families --------------------------------------------------------------------------------------------------------


def test_families_are_found_by_their_ancestor():
    f = family(3)
    child = trunk("child", 7, f.members[1].digest)
    stranger, orphan = trunk("stranger", 8), trunk("orphan", 9, "of nobody here")
    everything = [child, orphan, *f.members, stranger, f.ancestor]
    for order in (everything, everything[::-1]):
        found = mixing.families(order)
        assert [(g.ancestor.name, [m.name for m in g.members]) for g in found] == [
            ("first", ["m0", "m1", "m2"]),
            ("m1", ["child"]),
        ]


def test_a_descendant_of_another_shape_is_in_no_family():
    first = trunk("first", 100)
    wider = Trunk("wider", {"w": normal(5, 3)}, {"mean": normal(3)}, first.digest)
    assert mixing.families([first, wider]) == ()


def test_one_number_changed_is_another_ancestor():
    first = trunk("first", 100)
    child = trunk("child", 1, first.digest)
    moved = replace(first, buffers={"mean": first.buffers["mean"] + 1e-12})
    assert mixing.families([first, child])
    assert mixing.families([moved, child]) == ()


def network():
    tasks.tiny_backbone()
    return registry.backbone("tiny").skeleton(1, tasks.SIZE)


def fresh(net, seed=0):
    parameters, buffers = functional.initial(net, generator(seed))
    return {n: t.double() for n, t in parameters.items()}, {n: t.double() for n, t in buffers.items()}


def test_a_trunk_is_found_in_whatever_part_of_a_state_holds_it():
    net = network()
    parameters, buffers = fresh(net)
    learned = State(functional.named(parameters) | {"head": normal(2)}, functional.named(buffers))
    frozen = State({"head": normal(2)}, functional.named({**parameters, **buffers}) | {"trunk.more": normal(2)})
    a, b = (mixing.trunk_of(net, s, "a") for s in (learned, frozen))
    assert a.digest == b.digest == averaging.digest({**parameters, **buffers})
    with pytest.raises(WorkbenchError, match=r"lacks conv\.weight"):
        mixing.trunk_of(net, State({}, functional.named(buffers)), "a")


# ---- batch norm ------------------------------------------------------------------------------------------------------


def moved(net, pictures, n=6, seed=3):
    parameters, buffers = fresh(net)
    x = 2 + 3 * normal(n, 1, tasks.SIZE, tasks.SIZE, seed=seed)
    return Trunk("t", parameters, buffers), x, mixing.restated(net, Trunk("t", parameters, buffers), x, pictures)


def test_running_averages_that_count_for_nothing_become_those_of_the_examples():
    net = network()
    before, x, got = moved(net, 0.0)
    with norm.batch_statistics() as seen:
        features = functional.call(net, before.parameters, {}, x)
    expected = norm.running_average(before.buffers, seen, momentum=1.0)
    for name, tensor in expected.items():
        torch.testing.assert_close(got.buffers[name], tensor, rtol=0, atol=1e-12)
    # used as running averages they give what the batch's own gave, up to biased and unbiased variance
    again = functional.call(net, got.parameters, got.buffers, x)
    torch.testing.assert_close(again, features, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("gone", [0, 3])
def test_of_many_pictures_some_are_measured_for_all_and_no_pass_is_of_more(monkeypatch, gone):
    """What every picture is inside the network at once is held for a few of them, however many there are."""
    net = network()
    parameters, buffers = fresh(net)
    trunk, x = Trunk("t", parameters, buffers), 2 + 3 * normal(14, 1, tasks.SIZE, tasks.SIZE)
    kept = torch.arange(14) >= gone
    passes, call = [], functional.call
    monkeypatch.setattr(mixing, "MEASURED", 4)
    monkeypatch.setattr(mixing, "batch_size", lambda *_: 3)
    monkeypatch.setattr(functional, "call", lambda *a: passes.append(len(a[3])) or call(*a))
    got, features = mixing.measured(net, trunk, x, 20.0, kept)
    assert max(passes) == 4
    assert sum(passes) == 14, "each picture goes through once"
    count = 14 - gone
    rows = [gone + i * count // 4 for i in range(4)]
    # as if what the four say had been said by all that are kept
    expected = mixing.restated(net, trunk, x[rows], 20.0 * 4 / count)
    for name in buffers:
        torch.testing.assert_close(got.buffers[name], expected.buffers[name], rtol=0, atol=1e-12)
    own = call(net, parameters, got.buffers, x)
    torch.testing.assert_close(features, own, rtol=0, atol=1e-12)
    passes.clear()
    alike = mixing.restated(net, trunk, x[kept], 20.0)
    assert passes == [4], "where no features are asked for, no others go through"
    assert all(torch.equal(alike.buffers[n], got.buffers[n]) for n in buffers)


def test_where_nothing_is_kept_the_trunk_stays_as_it_was():
    net = network()
    parameters, buffers = fresh(net)
    trunk, x = Trunk("t", parameters, buffers), normal(3, 1, tasks.SIZE, tasks.SIZE)
    got, features = mixing.measured(net, trunk, x, 20.0, torch.zeros(3, dtype=torch.bool))
    assert equal(got, trunk)
    torch.testing.assert_close(features, functional.call(net, parameters, buffers, x), rtol=0, atol=1e-12)


def test_running_averages_that_count_for_everything_stay():
    net = network()
    before, x, almost = moved(net, 1e12)
    assert mixing.restated(net, before, x, math.inf) is before
    for name, tensor in before.buffers.items():
        torch.testing.assert_close(almost.buffers[name], tensor, rtol=1e-9, atol=1e-9)


def test_few_pictures_are_pooled_with_what_was_known():
    net = network()
    before, x, got = moved(net, 18.0)  # six pictures: a quarter
    out = torch.nn.functional.conv2d(x, before.parameters["conv.weight"], padding=1)
    var, mean = torch.var_mean(out, (0, 2, 3))
    old_mean, old_var = before.buffers["norm.running_mean"], before.buffers["norm.running_var"]
    torch.testing.assert_close(got.buffers["norm.running_mean"], 0.25 * mean + 0.75 * old_mean)
    apart = 0.25 * 0.75 * (mean - old_mean) ** 2
    torch.testing.assert_close(got.buffers["norm.running_var"], 0.25 * var + 0.75 * old_var + apart)
    assert float(apart.max()) > 0.01


def test_a_later_layer_measures_what_it_will_meet():
    """Its inputs normalised with the pooled averages of the layer before it, not with that batch's own."""
    from workbench.learn.backbones.conv4 import network as conv4

    net = functional.skeleton(lambda: conv4(1, 4))
    parameters, buffers = fresh(net)
    x = 5 + 4 * normal(3, 1, 16, 16)
    got = mixing.restated(net, Trunk("t", parameters, buffers), x, 3.0)
    h = torch.nn.functional.conv2d(x, parameters["0.conv.weight"], padding=1)
    h = torch.nn.functional.batch_norm(h, got.buffers["0.norm.running_mean"], got.buffers["0.norm.running_var"])
    h = torch.nn.functional.max_pool2d(h.relu(), 2)
    mean = torch.nn.functional.conv2d(h, parameters["1.conv.weight"], padding=1).mean((0, 2, 3))
    torch.testing.assert_close(got.buffers["1.norm.running_mean"], 0.5 * mean, rtol=0, atol=1e-10)


def test_measuring_leaves_the_trunk_the_network_and_nobody_else_changed():
    net = network()
    parameters, buffers = fresh(net)
    before = {n: t.clone() for n, t in buffers.items()}
    given = Trunk("t", parameters, buffers)
    x = 2 + normal(4, 1, tasks.SIZE, tasks.SIZE)
    first = mixing.restated(net, given, x, 10.0)
    second = mixing.restated(net, given, x, 10.0)
    assert all(torch.equal(buffers[n], before[n]) for n in before)
    assert all(torch.equal(first.buffers[n], second.buffers[n]) for n in before)
    functional.call(net, parameters, buffers, x)  # a hook left behind would write here
    assert all(torch.equal(buffers[n], before[n]) for n in before)


def test_the_order_of_the_examples_does_not_matter():
    net = network()
    parameters, buffers = fresh(net)
    x = normal(5, 1, tasks.SIZE, tasks.SIZE)
    a = mixing.restated(net, Trunk("t", parameters, buffers), x, 7.0)
    b = mixing.restated(net, Trunk("t", parameters, buffers), x.flip(0), 7.0)
    for name in buffers:
        torch.testing.assert_close(a.buffers[name], b.buffers[name], rtol=0, atol=1e-12)


def test_one_picture_is_enough():
    net = network()
    _, _, got = moved(net, 5.0, n=1)
    assert all(bool(torch.isfinite(t).all()) for t in got.buffers.values())
