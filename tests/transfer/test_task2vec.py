"""Task2Vec: the Fisher information in closed form, pictures that do not meet, and a distance that is one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.learn import tasks as backbones
from tests.transfer.tasks import normal, pictures, retold, task
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import functional
from workbench.learn.protocol import generator
from workbench.transfer.kinds import TaskData
from workbench.transfer.task2vec import EPSILON, Task2Vec, _views, asymmetric_distance, distance

CTX = Context()


def linear(inputs=5, outputs=3):
    """A probe whose trunk is one linear layer: with the identity for a classifier it is logistic regression."""
    network = functional.skeleton(lambda: nn.Linear(inputs, outputs, bias=False))
    return Task2Vec(network, {"weight": normal(outputs, inputs, seed=3)}, views=1)


def probe(seed=0, views=4, **changes):
    """One block of eight filters behind a batch norm whose running statistics are no batch's."""
    network = functional.skeleton(lambda: backbones.Tiny(1))
    params, buffers = functional.initial(network, generator(seed))
    tensors = {n: t.double() for n, t in (params | buffers).items()}
    tensors["norm.running_mean"] = 0.3 * normal(8, seed=4)
    tensors["norm.running_var"] = 1 + 0.5 * normal(8, seed=5).abs()
    return Task2Vec(network, tensors, views=views, **changes)


def head(ways=3, d=128):
    return 0.3 * normal(ways, d, seed=8), normal(ways, seed=9)


def test_the_fisher_of_logistic_regression_has_its_closed_form():
    """``F[c, j] = mean over x of p_c (1 - p_c) x_j^2``, whatever the labels."""
    kind, x = linear(), normal(7, 5)
    identity = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    p = (x @ kind.fixed["weight"].T).softmax(1)
    expected = (p * (1 - p)).T @ x.square() / 7
    assert torch.allclose(kind.fisher(x, identity, CTX)["weight"], expected, rtol=1e-10)


def test_the_exact_expectation_is_the_limit_of_drawn_labels():
    kind, x = linear(), normal(2, 5, seed=1)
    weight, bias = normal(3, 3, seed=2), normal(3, seed=3)
    leaf = kind.fixed["weight"].clone().requires_grad_()
    gen, draws = generator(0), 3000
    total = torch.zeros_like(leaf)
    for row in x:
        log_p = F.linear(row @ leaf.T, weight, bias).log_softmax(0)
        drawn = torch.bincount(torch.multinomial(log_p.detach().exp(), draws, True, generator=gen), minlength=3)
        for y, times in enumerate(drawn.tolist()):
            total += times * torch.autograd.grad(log_p[y], leaf, retain_graph=True)[0].square() / draws / 2
    assert torch.allclose(kind.fisher(x, (weight, bias), CTX)["weight"], total, rtol=0.1, atol=1e-3)


def test_pictures_do_not_meet_in_the_gradient_or_in_the_batch_norm():
    """Catches the square of a batch's mean gradient and batch statistics alike."""
    kind, (x, _) = probe(), pictures(each=3)
    together = kind.fisher(x, head(), CTX)["conv.weight"]
    alone = torch.stack([kind.fisher(picture[None], head(), CTX)["conv.weight"] for picture in x]).mean(0)
    assert torch.allclose(together, alone, rtol=1e-10)
    kind.chunk = 2
    assert torch.allclose(kind.fisher(x, head(), CTX)["conv.weight"], together, rtol=1e-10)
    assert set(kind.fisher(x, head(), CTX)) == {"conv.weight"}, "neither the classifier nor the batch norm"


def test_the_batch_norm_keeps_its_running_statistics():
    """Against torch's own layer in eval mode, picture by picture and class by class."""
    kind, (x, _), (weight, bias) = probe(), pictures(each=1), head()
    conv, norm = nn.Conv2d(1, 8, 3, padding=1, bias=False).double(), nn.BatchNorm2d(8).double().eval()
    conv.load_state_dict({"weight": kind.fixed["conv.weight"]})
    norm.load_state_dict(
        {n.removeprefix("norm."): t for n, t in kind.fixed.items() if n != "conv.weight"}, strict=False
    )
    total = torch.zeros_like(conv.weight)
    for picture in x:
        features = F.max_pool2d(F.relu(norm(conv(picture[None]))), 2).flatten(1)
        log_p = F.linear(features, weight, bias).log_softmax(1)[0]
        for value in log_p:
            slope = torch.autograd.grad(value, conv.weight, retain_graph=True)[0]
            total += value.detach().exp() * slope.square() / len(x)
    assert torch.allclose(kind.fisher(x, head(), CTX)["conv.weight"], total, rtol=1e-8)


def test_one_number_per_filter_and_none_is_negative():
    kind = probe()
    v = kind.embed(task(), CTX)
    assert (v.shape, v.dtype, kind.sizes) == ((8,), torch.float64, (8,))
    assert (v >= 0).all()
    assert int((v > 0).sum()) >= 6  # some filters are dead from the start


def test_a_filter_that_reaches_nothing_does_not_matter():
    kind = probe()
    kind.fixed["norm.weight"] = kind.fixed["norm.weight"].clone()
    before = kind.embed(task(), CTX)
    kind.fixed["norm.weight"][6] = 0
    after = kind.embed(task(), CTX)
    assert float(before[6]) > 0
    assert float(after[6]) == 0.0
    assert float(after[0]) > 0


@pytest.mark.parametrize("seed", range(2))
def test_neither_the_order_of_the_pictures_nor_the_names_of_the_classes_matter(seed):
    kind = probe()
    a, b = kind.embed(task(), CTX), kind.embed(retold(task(), seed), CTX)
    assert torch.allclose(a, b, rtol=1e-6)
    assert kind.similarity(a, b) == pytest.approx(1.0, abs=1e-9)


def test_few_pictures_are_steadied_by_altered_views():
    x, y = pictures(ways=3, each=2)
    seen, labels = _views(x, y, 3, 7)
    assert seen.shape == (24, 1, 8, 8)  # eight per class: three altered copies of two
    assert torch.bincount(labels).tolist() == [8, 8, 8]
    assert {tuple(r.flatten().tolist()) for r in seen[:6]} == {tuple(r.flatten().tolist()) for r in x}
    assert not torch.equal(seen[:6], seen[6:12])
    assert len(_views(x, y, 3, 2)[0]) == 6
    assert torch.isfinite(probe().embed(task(each=1), CTX)).all()


def test_the_distance_is_the_normalised_cosine():
    a, b = normal(9).square(), normal(9, seed=1).square()
    shares = a / (a + b), b / (a + b)
    expected = 1 - float(shares[0] @ shares[1] / shares[0].norm() / shares[1].norm())
    assert distance(a, b) == pytest.approx(expected, abs=1e-6)
    assert distance(a, b) == distance(b, a)
    assert distance(a, a) == 0.0
    assert 0 < distance(a, b) < 1
    assert distance(1e-9 * a, 1e-9 * b) == pytest.approx(distance(a, b), rel=1e-9), "the scale of both is no matter"


def test_every_filter_has_a_say_and_one_that_matters_to_neither_has_none():
    a, b = normal(9).square(), normal(9, seed=1).square()
    loud = torch.cat([a, a.new_tensor([1e6])]), torch.cat([b, b.new_tensor([2e6])])
    plain = float(1 - F.cosine_similarity(loud[0], loud[1], dim=0))
    assert plain < 1e-6, "by their plain cosine one filter would hide all others"
    assert distance(*loud) > 0.05
    silent = torch.cat([a, a.new_tensor([1e-14])]), torch.cat([b, b.new_tensor([1e-20])])
    assert distance(*silent) == pytest.approx(distance(a, b), abs=10 * EPSILON)
    assert distance(torch.zeros(3), torch.zeros(3)) == 0.0


def test_of_two_sources_as_near_the_one_with_more_to_it_is_preferred():
    target = torch.tensor([1.0, 1, 1, 1])
    flat, rich = torch.tensor([2.0, 2, 2, 2]), torch.tensor([4.0, 0.5, 3, 0.1])
    sizes = (2, 2)
    assert asymmetric_distance(flat, target, sizes) == pytest.approx(distance(flat, target))
    complexity = distance(rich, torch.tensor([2.25, 2.25, 1.55, 1.55]))
    assert asymmetric_distance(rich, target, sizes, 0.5) == pytest.approx(distance(rich, target) - 0.5 * complexity)
    assert asymmetric_distance(rich, target, sizes) != pytest.approx(asymmetric_distance(target, rich, sizes))


def test_tasks_of_one_domain_are_nearer_than_those_of_others():
    kind = probe(views=12)
    found = {(d, s): kind.embed(task(seed=s, domain=d, each=8), CTX) for d in (0, 2) for s in (0, 1)}
    own = (kind.similarity(found[0, 0], found[0, 1]) + kind.similarity(found[2, 0], found[2, 1])) / 2
    across = sum(kind.similarity(found[0, i], found[2, j]) for i in (0, 1) for j in (0, 1)) / 4
    assert own > across


def test_what_cannot_be_is_refused_and_a_stop_is_heeded():
    kind = probe()
    with pytest.raises(ValueError, match="lacks"):
        Task2Vec(kind.network, {"conv.weight": kind.fixed["conv.weight"]})
    with pytest.raises(ValueError, match="needs the pictures"):
        kind.embed(TaskData(torch.tensor([0, 1]), 2, features=normal(2, 3)), CTX)
    with pytest.raises(ValueError, match="not finite"):
        kind.embed(TaskData(torch.tensor([0, 1]), 2, x=math.nan * normal(2, 1, 8, 8)), CTX)
    with pytest.raises(ValueError, match="same probe"):
        distance(torch.ones(3), torch.ones(4))
    stopped = Context()
    stopped.cancel()
    with pytest.raises(JobCancelledError):
        kind.embed(task(), stopped)
