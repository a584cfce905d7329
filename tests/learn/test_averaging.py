"""Averages of networks: closed forms, what is refused, the information; mistakes are noticed (float64)."""

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.learn import averaging, functional, norm, registry
from workbench.learn.averaging import Model, checked, descendants, digest, fisher_diagonal, fisher_mean, mean
from workbench.learn.protocol import generator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def models(count=3, ancestor="a", shape=(4, 3)):
    return [Model({"w": normal(*shape, seed=i), "b": normal(shape[0], seed=10 + i)}, ancestor) for i in range(count)]


# ---- quadratics: L_i = (theta - theta_i)' diag(h_i) (theta - theta_i) / 2 --------------------------------


def joint_optimum(found, curvatures):
    """By descent on the sum of the losses, not by the formula."""
    theta = torch.zeros_like(found[0].tensors["w"])
    for _ in range(500):
        theta = theta - 0.1 * sum(h * (theta - m.tensors["w"]) for m, h in zip(found, curvatures, strict=True))
    return theta


def test_with_equal_curvatures_the_mean_is_the_joint_optimum():
    found = models()
    h = normal(4, 3, seed=5).abs() + 0.5
    expected = joint_optimum(found, [h] * 3)
    torch.testing.assert_close(mean(found)["w"], expected, rtol=0, atol=1e-12)
    fishers = [{"w": h}] * 3
    torch.testing.assert_close(fisher_mean(found, fishers)["w"], expected, rtol=0, atol=1e-12)


def test_with_unequal_curvatures_only_the_fisher_mean_is():
    found = models()
    curvatures = [normal(4, 3, seed=20 + i).abs() + 0.3 for i in range(3)]
    expected = joint_optimum(found, curvatures)
    got = fisher_mean(found, [{"w": h} for h in curvatures])
    torch.testing.assert_close(got["w"], expected, rtol=0, atol=1e-12)
    assert float((mean(found)["w"] - expected).abs().max()) > 0.1
    # what has no information has the plain mean
    assert torch.equal(got["b"], mean(found)["b"])


def test_weights_are_shares():
    found = models()
    got = mean(found, [1, 2, 5])["w"]
    expected = sum(s * m.tensors["w"] for s, m in zip((1 / 8, 2 / 8, 5 / 8), found, strict=True))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(mean(found, [10, 20, 50])["w"], got, rtol=0, atol=1e-14)
    assert torch.equal(mean(found, [0, 3, 0])["w"], found[1].tensors["w"])


def test_the_mean_of_one_is_itself_to_the_last_bit():
    (one,) = models(1)
    for got in (mean([one]), mean([one], [0.3]), fisher_mean([one], [{"w": normal(4, 3).abs()}])):
        assert got.keys() == one.tensors.keys()
        assert all(torch.equal(got[n], t) for n, t in one.tensors.items())
        assert got["w"] is not one.tensors["w"]


def test_where_nobody_has_information_the_mean_is_plain():
    found = models(2)
    f = [{"w": torch.zeros(4, 3, dtype=torch.float64)} for _ in range(2)]
    f[0]["w"][0, 0] = 2.0
    got = fisher_mean(found, f)["w"]
    assert got[0, 0] == found[0].tensors["w"][0, 0]
    plain = mean(found)["w"]
    assert torch.equal(got.flatten()[1:], plain.flatten()[1:])
    # a floor pulls towards the plain mean
    held = fisher_mean(found, f, floor=100.0)["w"][0, 0]
    assert abs(held - plain[0, 0]) < 0.2 * abs(got[0, 0] - plain[0, 0])


# ---- what is refused -------------------------------------------------------------------------------------


def refused(match):
    return pytest.raises(WorkbenchError, match=match)


def test_other_ancestors_are_refused():
    found = [*models(2, "a"), *models(1, "b")]
    for average in (mean, lambda m: fisher_mean(m, [{}] * 3)):
        with refused("do not share a common ancestor"):
            average(found)
    with refused("there are none"):
        mean([])


def test_the_digest_tells_networks_apart_and_not_their_order_or_counters():
    one = {"w": normal(2, 2), "b": normal(2)}
    assert digest(one) == digest({"b": one["b"].clone(), "w": one["w"].clone()})
    assert digest(one) == digest({**one, "counter": torch.tensor(7)})
    assert digest(one) != digest({**one, "b": one["b"] + 1e-12})
    assert digest(one) != digest({"w": one["b"], "b": one["w"]})
    assert digest(one) != digest({**one, "w": one["w"].float()})


def test_counters_are_left_out_and_shapes_have_to_fit():
    ancestor = {"w": normal(2, 2), "count": torch.tensor(3)}
    found = descendants({0: {"w": normal(2, 2, seed=1), "count": torch.tensor(9)}, 4: ancestor}, ancestor)
    assert {i: set(m.tensors) for i, m in found.items()} == {0: {"w"}, 4: {"w"}}
    assert found[0].ancestor == digest(ancestor)
    for other in ({"w": normal(2, 3)}, {"v": normal(2, 2)}, {**ancestor, "more": normal(1)}):
        with refused("no network of its ancestor's shape"):
            descendants({0: other}, ancestor)
    with refused("different shapes"):
        mean([*models(1), *models(1, shape=(5, 3))])


@pytest.mark.parametrize("weights", [[1.0], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1]])
def test_bad_weights_are_refused(weights):
    with refused("weights"):
        mean(models(), weights)


def test_a_misfit_information_is_refused():
    found = models(2)
    with refused("Fisher"):
        fisher_mean(found, [{}])
    for wrong in (normal(1, 3).abs(), -normal(4, 3).abs()):
        with refused("Fisher information of w"):
            fisher_mean(found, [{"w": wrong}, {"w": wrong}])


# ---- changes in half precision ---------------------------------------------------------------------------


def test_what_sources_changed_is_kept_in_half_precision():
    ancestor = {"w": normal(4, 3).float(), "b": normal(4).float()}
    trained = {i: {n: t + 0.01 * normal(*t.shape, seed=i).float() for n, t in ancestor.items()} for i in (2, 0, 11)}
    found = descendants(trained, ancestor)
    memory = averaging.remembered(found, ancestor) | {"trunk.norm.running_mean": torch.zeros(3)}
    assert memory["delta.11.w"].dtype == torch.float16
    torch.testing.assert_close(memory["delta.2.b"].float(), trained[2]["b"] - ancestor["b"], rtol=1e-3, atol=1e-6)
    back = averaging.recalled(memory)
    assert list(back) == [0, 2, 11]
    for i, model in back.items():
        assert model.ancestor == found[i].ancestor == digest(ancestor)
        for n, t in model.tensors.items():
            torch.testing.assert_close(t, trained[i][n], rtol=0, atol=3e-5)
            # half precision of the network itself would be far coarser
            assert float((trained[i][n].half().float() - trained[i][n]).abs().max()) > 1e-4
    mean(list(back.values()))
    assert averaging.recalled({}) == {}
    assert torch.equal(averaging.delta(found[2], ancestor)["w"], memory["delta.2.w"])
    with refused("do not share a common ancestor"):
        averaging.remembered(found, {n: t + 1 for n, t in ancestor.items()})
    with refused("do not belong together"):
        averaging.delta(found[2], {n: t + 1 for n, t in ancestor.items()})
    with refused("does not fit"):
        averaging.recalled({n: t for n, t in memory.items() if n != "delta.2.b"})


# ---- the information -------------------------------------------------------------------------------------


def linear(at, x):
    return F.linear(x.flatten(1), at["w"], at["b"])


def closed_form(at, x):
    """Softmax regression: ``sum_x p_k (1 - p_k) x_d^2``."""
    f = x.flatten(1)
    p = linear(at, x).softmax(1)
    spread = p * (1 - p)
    return {"w": spread.T @ f.square(), "b": spread.sum(0)}


def estimated(information, at, x, rounds=100):
    found = [information(linear, at, x, generator(i), Context()) for i in range(rounds)]
    return {n: torch.stack([f[n] for f in found]).mean(0) for n in at}


def agrees(information):
    at, x = {"w": 0.7 * normal(3, 4), "b": normal(3, seed=1)}, normal(8, 1, 2, 2, seed=2)
    got, expected = estimated(information, at, x), closed_form(at, x)
    for n, t in expected.items():
        torch.testing.assert_close(got[n], t, rtol=0.25, atol=0.1)


def test_the_information_is_that_of_the_models_own_answers():
    agrees(fisher_diagonal)


def of_true_labels(logits, at, x, gen, ctx):
    y = linear(at, x).argmax(1)  # a model that is right about everything
    leaves = {n: t.detach().requires_grad_() for n, t in at.items()}
    total = {n: torch.zeros_like(t) for n, t in at.items()}
    for picture, label in zip(x, y, strict=True):
        loss = F.cross_entropy(logits(leaves, picture[None]), label[None])
        grads = torch.autograd.grad(loss, list(leaves.values()))
        total = {n: t + g.square() for (n, t), g in zip(total.items(), grads, strict=True)}
    return total


def of_the_mean_gradient(logits, at, x, gen, ctx):
    leaves = {n: t.detach().requires_grad_() for n, t in at.items()}
    z = logits(leaves, x)
    y = torch.multinomial(z.detach().softmax(1), 1, generator=gen)[:, 0]
    grads = torch.autograd.grad(F.cross_entropy(z, y), list(leaves.values()))
    return {n: len(x) * g.square() for n, g in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("mistake", [of_true_labels, of_the_mean_gradient])
def test_other_informations_are_noticed(mistake):
    with pytest.raises(AssertionError):
        agrees(mistake)


def test_the_information_leaves_parameters_alone_and_can_be_stopped():
    at, x = {"w": normal(3, 4), "b": normal(3), "unused": normal(2)}, normal(5, 1, 2, 2)
    before = {n: t.clone() for n, t in at.items()}
    got = fisher_diagonal(linear, at, x, generator(0), Context())
    assert all(torch.equal(t, before[n]) and not t.requires_grad for n, t in at.items())
    assert not got["unused"].any()
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        fisher_diagonal(linear, at, x, generator(0), ctx)


# ---- networks: hidden units in another order, and the articles' mistakes ---------------------------------


def trained_network(steps=300):
    """Two layers with a rectifier between them, trained on four classes; and how right a network is."""
    x = normal(200, 4)
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] * x[:, 3] > 0)  # what no linear network can tell
    net = {"1": 0.7 * normal(24, 4, seed=3), "2": 0.3 * normal(4, 24, seed=4)}
    for _ in range(steps):
        leaves = {n: t.requires_grad_() for n, t in net.items()}
        grads = torch.autograd.grad(F.cross_entropy(answer(leaves, x), y), list(leaves.values()))
        net = {n: (t - g).detach() for (n, t), g in zip(leaves.items(), grads, strict=True)}
    return net, lambda tensors: float((answer(tensors, x).argmax(1) == y).double().mean())


def answer(net, x):
    return (x @ net["1"].T).relu() @ net["2"].T


def renumbered(net, shift):
    order = torch.roll(torch.arange(24), shift)
    return {"1": net["1"][order], "2": net["2"][:, order]}


def test_copies_with_renumbered_hidden_units_are_refused_or_detected():
    net, accuracy = trained_network()
    copies = [net, *(renumbered(net, k) for k in (3, 7, 11, 17))]
    assert all(accuracy(c) == accuracy(net) > 0.85 for c in copies)
    # said to be of their own: refused
    with refused("do not share a common ancestor"):
        mean([Model(c, digest(c)) for c in copies])
    # said to be of one: their average gives itself away
    related = [Model(c, digest(net)) for c in copies]
    average = mean(related)
    assert accuracy(average) < 0.6
    with refused("do not share a basin"):
        checked(average, related, accuracy)
    # an honest average passes
    near = [Model({n: t + 0.02 * normal(*t.shape, seed=i) for n, t in net.items()}, "a") for i in range(3)]
    assert checked(mean(near), near, accuracy).keys() == net.keys()


def test_a_guard_is_not_fooled_by_an_accuracy_that_is_no_number():
    with refused("do not share a basin"):
        checked({}, models(), lambda t: float("nan") if not t else 1.0)


def deep(tensors, x):
    for name in "abcde":
        x = F.linear(x, tensors[name]).relu()
    return x


def same_answers(average):
    """Averaging copies of one network must give that network."""
    net = {n: normal(6, 6, seed=i).abs() for i, n in enumerate("abcde")}
    x = normal(4, 6).abs()
    copies = [Model(net, "a") for _ in range(20)]
    torch.testing.assert_close(deep(average(copies), x), deep(net, x), rtol=1e-10, atol=0)


def test_the_average_of_copies_answers_as_they_do():
    same_answers(mean)


def test_dividing_one_network_by_the_number_of_tasks_is_noticed():
    with pytest.raises(AssertionError):
        same_answers(lambda copies: {n: t / len(copies) for n, t in copies[-1].tensors.items()})


def test_adding_a_state_dict_to_a_list_is_noticed():
    def articles(copies):
        total = []
        for m in copies:
            total += m.tensors  # the names, not the tensors
        return {"a": sum(total) / len(copies)}

    with pytest.raises(TypeError):
        same_answers(articles)


def test_one_vote_for_the_ancestor_is_noticed():
    with pytest.raises(AssertionError):
        same_answers(lambda c: {n: sum(m.tensors[n] for m in c) / (len(c) + 1) for n in c[0].tensors})


def by_position(trunk):
    """``zip`` of names with buffers and values without."""
    names, values = list(trunk[0]), [[t[n] for n in t if "running" not in n] for t in trunk]
    return dict(zip(names, (torch.stack(v).mean(0) for v in zip(*values, strict=True)), strict=False))


def test_tensors_are_matched_by_name_not_by_position():
    tasks.tiny_backbone()
    network = registry.backbone("conv4-32").skeleton(1, 16)
    params, buffers = functional.initial(network, generator(0))
    # in the order of a state dict: buffers in between
    whole = [n for n, _ in network.named_parameters()] + [n for n, _ in network.named_buffers()]
    trunk = {n: (params | buffers)[n] for n in sorted(whole)}
    shuffled = dict(reversed(list(trunk.items())))
    found = list(descendants({0: trunk, 1: shuffled}, trunk).values())
    average = mean(found)
    assert all(torch.equal(average[n], t) for n, t in trunk.items())
    wrong = by_position([trunk, trunk])
    assert any(n not in wrong or wrong[n].shape != t.shape for n, t in trunk.items())


def test_running_averages_of_members_are_not_those_of_their_average():
    """Why they have to be measured anew: an average's activations are not the average of activations."""
    tasks.tiny_backbone()
    network = registry.backbone("conv4-32").skeleton(1, 16)
    x = torch.randn(40, 1, 16, 16, generator=generator(1))
    members = [functional.initial(network, generator(i))[0] for i in range(4)]
    average = mean([Model(m, "a") for m in members])

    def variance(params):
        with norm.batch_statistics() as seen:
            functional.call(network, params, {}, x)
        return torch.stack([m.var.mean() for m in seen.values()])

    of_members = torch.stack([variance(m) for m in members]).mean(0)
    assert float((variance(average) / of_members).max()) < 0.6
