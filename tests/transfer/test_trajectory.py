"""Trajectories and contexts: the loss written out, the first-order identity, and which tasks point alike."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.learn import tasks as backbones
from tests.transfer.tasks import normal, pictures, retold, task
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import functional, registry
from workbench.learn.augment import augmented
from workbench.learn.protocol import Setting, State, Support, generator
from workbench.transfer.kinds import TaskData, cosine
from workbench.transfer.trajectory import ContextVector, Trajectory, _flat, contrastive, drawn

CTX = Context()


def trajectory(seed=0, **options):
    network = functional.skeleton(lambda: backbones.Tiny(1, smooth=True))
    params, buffers = functional.initial(network, generator(seed))
    return Trajectory(network, {n: t.double() for n, t in (params | buffers).items()}, **options)


def linear(**options):
    network = functional.skeleton(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6, bias=False)))
    return Trajectory(network, {"1.weight": normal(6, 64, seed=3) / 8}, **options)


def test_the_loss_is_the_supervised_contrastive_one():
    f, y = normal(7, 5), torch.tensor([0, 0, 1, 1, 1, 2, 0])
    z = f / f.norm(dim=1, keepdim=True)
    total, anchors = 0.0, 0
    for i in range(7):
        others = [a for a in range(7) if a != i]
        positives = [p for p in others if y[p] == y[i]]
        if not positives:  # the only one of class 2
            continue
        below = math.log(sum(math.exp(float(z[i] @ z[a]) / 0.1) for a in others))
        total -= sum(float(z[i] @ z[p]) / 0.1 - below for p in positives) / len(positives)
        anchors += 1
    assert float(contrastive(f, y)) == pytest.approx(total / anchors, rel=1e-10)
    with pytest.raises(ValueError, match="two views"):
        contrastive(f[:2], torch.tensor([0, 1]))


def test_the_loss_does_not_know_the_classes_by_number():
    f, y = normal(8, 5), torch.arange(4).repeat(2)
    assert float(contrastive(f, 3 - y)) == pytest.approx(float(contrastive(f, y)), rel=1e-12)
    assert float(contrastive(9 * f, y)) == pytest.approx(float(contrastive(f, y)), rel=1e-12)


def test_the_cosine_is_the_first_order_transfer():
    """``L_t(theta - a g_s) - L_t(theta) = -a g_t . g_s + O(a^2)``: half the step, a quarter of the error."""
    kind = linear()
    (xt, y), (xs, _) = pictures(seed=1), pictures(seed=2, domain=1)
    gt, gs = (kind.gradient(kind.start, x, y) for x in (xt, xs))
    inner = float(_flat(gt) @ _flat(gs))
    before = float(kind.loss(kind.start, xt, y))

    def error(a):
        moved = {n: t - a * gs[n] for n, t in kind.start.items()}
        return float(kind.loss(moved, xt, y)) - before + a * inner

    assert abs(inner) > 1e-3
    assert error(1e-4) / error(5e-5) == pytest.approx(4.0, rel=0.02)
    assert abs(error(1e-5)) < 1e-3 * 1e-5 * abs(inner) + 1e-9


def test_one_step_is_the_gradient_downhill():
    kind = trajectory(steps=1, width=10_000)
    t = task()
    e = kind.embed(t, CTX)
    order = torch.argsort(t.x.flatten(1) @ torch.randn(64, generator=generator(0), dtype=torch.float64))
    gen = generator(0)
    torch.rand(len(t.y), generator=gen, dtype=torch.float64)  # the lots of the batch
    x, y = t.x[order], t.y[order]
    views = torch.cat([augmented(x, gen), augmented(x, gen)])
    g = _flat(kind.gradient(kind.start, views, y.repeat(2)))
    assert torch.allclose(e, -F.normalize(g, dim=0), atol=1e-9)
    assert float(e.norm()) == pytest.approx(1.0)


def test_only_the_trunk_moves_and_the_batch_norm_keeps_its_statistics():
    kind = trajectory()
    before = {n: t.clone() for n, t in (kind.start | kind.buffers).items()}
    x, y = pictures()
    whole = kind.loss(kind.start, x, y)
    kind.embed(task(), CTX)
    assert all(torch.equal(t, before[n]) for n, t in (kind.start | kind.buffers).items())
    assert set(kind.start) == {"conv.weight", "norm.weight", "norm.bias"}
    with torch.no_grad():
        z = torch.cat([torch.func.functional_call(kind.network, kind.buffers | kind.start, (p[None],)) for p in x])
    assert float(contrastive(z, y)) == pytest.approx(float(whole), rel=1e-10), "pictures do not meet in the batch norm"


@pytest.mark.parametrize("each", [1, 4])
def test_neither_the_order_of_the_pictures_nor_the_names_of_the_classes_matter(each):
    kind = trajectory(batch=8)  # smaller than the task of twelve: the drawn pictures must be the same too
    a, b = kind.embed(task(each=each), CTX), kind.embed(retold(task(each=each)), CTX)
    assert torch.allclose(a, b, atol=1e-8)
    assert kind.similarity(a, b) == pytest.approx(1.0)
    assert torch.isfinite(a).all()


def test_the_same_task_twice_points_alike_more_than_two_tasks_do():
    """Other pictures of the same classes, other views and batches."""
    own, across = [], []
    kind, again = trajectory(), trajectory()
    again.seed = 7
    for domain in (0, 1, 2):
        x, y = pictures(each=12, domain=domain)
        half = torch.arange(len(y)) % 2 == 0
        a = kind.embed(TaskData(y[half], 3, x[half]), CTX)
        own.append(cosine(a, again.embed(TaskData(y[~half], 3, x[~half]), CTX)))
        across += [cosine(a, again.embed(task(each=6, domain=d), CTX)) for d in (0, 1, 2) if d != domain]
    assert min(own) > max(across)


def test_folding_keeps_the_cosines():
    wide, narrow = linear(steps=1, width=384), linear(steps=1, width=128)
    tasks = [task(domain=d, seed=s) for d in (0, 1) for s in (0, 1)]
    far, near = ([k.embed(t, CTX) for t in tasks] for k in (wide, narrow))
    assert (len(far[0]), len(near[0])) == (384, 128)
    gaps = [abs(cosine(far[i], far[j]) - cosine(near[i], near[j])) for i in range(4) for j in range(i)]
    assert max(gaps) < 4 / math.sqrt(128)
    assert max(gaps) > 0


def test_a_batch_takes_about_as_many_of_each_class():
    y = torch.tensor([0] * 30 + [1] * 3 + [2] * 30)
    chosen = drawn(y, 12, generator(0))
    assert torch.bincount(y[chosen]).tolist() == [4, 3, 4]
    assert drawn(y, 100, generator(0)).tolist() == list(range(63))
    assert not torch.equal(chosen, drawn(y, 12, generator(1)))
    turned = drawn((y + 1) % 3, 12, generator(0))
    assert torch.equal(chosen, turned)


def test_what_cannot_be_is_refused_and_a_stop_is_heeded():
    kind = trajectory()
    with pytest.raises(ValueError, match="at least one step"):
        trajectory(steps=0)
    with pytest.raises(ValueError, match="lacks"):
        Trajectory(kind.network, {})
    with pytest.raises(ValueError, match="not finite"):
        kind.embed(TaskData(torch.tensor([0, 1]), 2, x=math.nan * normal(2, 1, 8, 8)), CTX)
    stopped = Context()
    stopped.cancel()
    with pytest.raises(JobCancelledError):
        kind.embed(task(), stopped)


# ---- CAVIA's context ------------------------------------------------------------------------------------------------


def cavia(**params):
    backbones.tiny_backbone()
    algorithm = registry.create("cavia", {"context": 6, **params}, Setting("tiny", 1, 8, 3))
    s = algorithm.init(generator(0))
    return algorithm, State(*({n: t.double() for n, t in part.items()} for part in s))


def test_the_context_is_what_cavia_adapts():
    algorithm, state = cavia()
    kind, t = ContextVector(algorithm, state), task()
    v = kind.embed(t, CTX)
    assert (v.shape, v.dtype) == ((6,), torch.float64)
    assert torch.allclose(v, algorithm.adapt(state, Support(t.x, t.y, t.ways), CTX).tensors["context"], atol=1e-10)
    assert float(v.norm()) > 0
    assert torch.allclose(v, kind.embed(retold(t), CTX), atol=1e-8)
    assert kind.similarity(v, v) == pytest.approx(1.0)
    assert kind.similarity(v, kind.embed(task(domain=1), CTX)) < 1


def test_a_context_that_says_nothing_is_refused():
    for params in ({"head": "textbook"}, {"test_steps": 0}):
        with pytest.raises(ValueError, match="prototype"):
            ContextVector(*cavia(**params))
    backbones.tiny_backbone()
    other = registry.create("protonet", {}, Setting("tiny", 1, 8, 3))
    with pytest.raises(ValueError, match="prototype"):
        ContextVector(other, other.init(generator(0)))
