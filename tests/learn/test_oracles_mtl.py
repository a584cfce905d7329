"""Meta-transfer learning: identity, folding, gradients, what stays frozen, and the hard tasks (float64)."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.learn import tasks
from tests.learn.cases import double
from workbench.core.context import Context
from workbench.learn import functional, inner, registry
from workbench.learn.algorithms.mtl import MTL, hard_task
from workbench.learn.optimiser import factor, rates
from workbench.learn.protocol import At, Setting, SourceSummary, State, Support, generator

HEADS = ["textbook", "prototype"]
SOURCES = SourceSummary((40,), 400)


def weights_for(backbone="tiny-smooth", size=8):
    """Of a network that has seen something: every tensor away from its start."""
    tasks.tiny_backbone()
    params, buffers = functional.initial(registry.backbone(backbone).skeleton(1, size), generator(1))
    gen = generator(2)
    return {n: t + 0.2 * torch.rand(t.shape, generator=gen) for n, t in (params | buffers).items()}


def built(head="textbook", backbone="tiny-smooth", size=8, **params):
    p = MTL.Params(**{"head": head, "inner_steps": 3, "test_steps": 3, "inner_lr": 0.1, "hard_tasks": False, **params})
    algorithm = MTL(p, Setting(backbone, 1, size, 3, (40,), weights_for(backbone, size)))
    state = algorithm.init(generator(0))
    if "scale" in state.learned:
        state.learned["scale"] -= 1.5
    return algorithm, double(state)


def moved(state):
    """Factors and offsets away from their start."""
    gen = generator(4)
    return State(
        {
            n: t + 0.3 * torch.randn(t.shape, generator=gen, dtype=t.dtype) if n.startswith("conv_") else t
            for n, t in state.learned.items()
        },
        state.memory,
    )


def task(seed=0, ways=3, **kwargs):
    return tasks.episode(generator(seed), ways=ways, **{"shots": 2, "queries": 3, "dtype": torch.float64, **kwargs})


def at(phase="episodes"):
    return At(phase, 0, 0.0)


def meta_gradient(algorithm, state, *episodes):
    return algorithm.step(state, tasks.Episodes(episodes), at(), Context()).grads


@pytest.mark.parametrize(("backbone", "size"), [("tiny", 8), ("tiny-plain", 8), ("conv4-32", 16)])
def test_factors_of_one_and_offsets_of_zero_are_the_pretrained_network(backbone, size):
    """To the last bit."""
    algorithm, state = built(backbone=backbone, size=size)
    x = torch.randn(5, 1, size, size, generator=generator(3), dtype=torch.float64)
    pretrained = {n: t.double() for n, t in weights_for(backbone, size).items()}
    buffers = {n: t for n, t in pretrained.items() if "running" in n}
    params = {n: t for n, t in pretrained.items() if n not in buffers}
    expected = functional.call(algorithm.network, params, buffers, x)
    assert torch.equal(algorithm.embed(state, None, x), expected)
    folded, plain = algorithm.trunk(state), functional.frozen(algorithm.network, pretrained)
    assert torch.equal(folded(x), plain(x))


def by_hand(algorithm, state, x):
    """``(W * P1) x + P2``, then the batch norm at its running averages."""
    w = state.learned["trunk.conv.weight"] * state.learned["conv_factor.conv"]
    z = F.conv2d(x, w, padding=1) + state.learned["conv_offset.conv"][None, :, None, None]
    names = ("running_mean", "running_var")
    mean, var = (state.memory[f"trunk.norm.{n}"][None, :, None, None] for n in names)
    gain, bias = (state.learned[f"trunk.norm.{n}"][None, :, None, None] for n in ("weight", "bias"))
    return F.avg_pool2d(F.softplus((z - mean) / (var + 1e-5).sqrt() * gain + bias), 2).flatten(1)


def test_scale_and_shift_act_on_the_convolution():
    algorithm, state = built()
    state = moved(state)
    x = torch.randn(5, 1, 8, 8, generator=generator(3), dtype=torch.float64)
    torch.testing.assert_close(algorithm.embed(state, None, x), by_hand(algorithm, state, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("backbone", "size"), [("tiny", 8), ("tiny-plain", 8), ("conv4-32", 16), ("resnet12", 16)])
def test_the_folded_network_is_the_unfolded_one(backbone, size):
    algorithm, state = built(backbone=backbone, size=size)
    state, network = moved(state), algorithm.network
    x = torch.randn(3, 1, size, size, generator=generator(3), dtype=torch.float64)
    # unfolded: each convolution's output is shifted as it is made
    plain = functional.frozen(network, functional.under({**state.learned, **state.memory}))
    unfolded = _Unfolded(network, state)
    torch.testing.assert_close(algorithm.trunk(state)(x), unfolded(x), rtol=1e-9, atol=1e-9)
    assert float((plain(x) - unfolded(x)).abs().max()) > 1e-3


class _Unfolded:
    """The network with hooks that scale and shift, its batch norms not folded either."""

    def __init__(self, network, state):
        self.network, self.state = network, state

    def __call__(self, x):
        learned, handles = self.state.learned, []
        trunk = functional.under(learned)
        for path, part in self.network.named_modules():
            if isinstance(part, torch.nn.Conv2d):
                trunk[f"{path}.weight"] = trunk[f"{path}.weight"] * learned[f"conv_factor.{path}"]
                shift = learned[f"conv_offset.{path}"][None, :, None, None]
                handles.append(part.register_forward_hook(lambda _m, _i, out, shift=shift: out + shift))
        out = functional.call(self.network, trunk, functional.under(self.state.memory), x)
        for handle in handles:
            handle.remove()
        return out


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_is_that_of_the_map_with_constant_inner_gradients(head):
    """First order: the head's steps do not depend on anything, all else does; by finite differences."""
    algorithm, state = built(head)
    state, e = moved(state), task()
    grads = meta_gradient(algorithm, state, e)
    fixed, h = _inner_steps(algorithm, state, e), 1e-6

    def loss(d, way):
        learned = {n: t + d * way[n] for n, t in state.learned.items()}
        f, q = (algorithm._features(State(learned, state.memory), x) for x in (e.support_x, e.query_x))
        start = algorithm._start(learned, f, e.support_y, 3)
        weight, bias = (start[n] + fixed[n] for n in ("head.weight", "head.bias"))
        return float(F.cross_entropy(F.linear(q, weight, bias), e.query_y))

    gen = generator(9)
    names = {n for n in state.learned if not n.startswith("trunk.")}
    assert grads.keys() == names
    for some in [{n} for n in sorted(names)]:
        way = {n: torch.randn(t.shape, generator=gen, dtype=t.dtype) * (n in some) for n, t in state.learned.items()}
        exact = sum(float((grads[n] * way[n]).sum()) for n in grads)
        assert (loss(h, way) - loss(-h, way)) / (2 * h) == pytest.approx(exact, rel=1e-6, abs=1e-9)
        assert abs(exact) > 1e-5


def _inner_steps(algorithm, state, e):
    """What the inner loop adds to the head's start, by hand."""
    f = algorithm._features(state, e.support_x)
    start = algorithm._start(state.learned, f, e.support_y, 3)
    w, b = start["head.weight"], start["head.bias"]
    for _ in range(3):
        w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
        F.cross_entropy(F.linear(f, w, b), e.support_y).backward()
        w, b = (w - 0.1 * w.grad).detach(), (b - 0.1 * b.grad).detach()
    return {"head.weight": w - start["head.weight"], "head.bias": b - start["head.bias"]}


def test_the_kernels_get_no_gradient():
    """Neither from the step nor through the graph, and the phase does not step them."""
    algorithm, state = built()
    leaves = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
    loss, *_ = algorithm.task_loss(leaves, state.memory, task(), Context())
    loss.backward()
    for name, t in leaves.items():
        assert (t.grad is None) == name.startswith("trunk."), name
    (phase,) = algorithm.phases(SOURCES)
    assert not any(n.startswith("trunk.") for n in rates(phase, state.learned))


def test_factors_are_one_per_kernel_not_per_weight():
    algorithm, state = built(backbone="conv4-32", size=16)
    factors = functional.under(state.learned, "conv_factor.")
    assert {p: tuple(t.shape) for p, t in factors.items()} == {
        "0.conv": (32, 1, 1, 1),
        **{f"{i}.conv": (32, 32, 1, 1) for i in (1, 2, 3)},
    }
    assert all(bool((t == 1).all()) for t in factors.values())
    weights = sum(t.numel() for n, t in state.learned.items() if n.endswith("conv.weight") and n.startswith("trunk."))
    assert sum(t.numel() for t in factors.values()) * 9 == weights
    offsets = functional.under(state.learned, "conv_offset.")
    assert {tuple(t.shape) for t in offsets.values()} == {(32,)}
    assert not any(t.any() for t in offsets.values())
    assert len(algorithm.convolutions) == 4


def test_running_averages_do_not_drift():
    algorithm, state = built()
    result = algorithm.step(state, tasks.Episodes((task(),)), at(), Context())
    assert result.memory is None or all(torch.equal(result.memory[n], t) for n, t in state.memory.items())


@pytest.mark.parametrize("planted", ["factors from zero", "kernels learnt", "statistics of the batch"])
def test_planted_mistakes_are_noticed(planted, monkeypatch):
    algorithm, state = built("prototype")
    x = task().query_x
    if planted == "factors from zero":
        state.learned["conv_factor.conv"].zero_()
        pretrained = {n: t.double() for n, t in weights_for().items()}
        assert not torch.equal(algorithm.trunk(state)(x), functional.frozen(algorithm.network, pretrained)(x))
    elif planted == "kernels learnt":
        monkeypatch.setattr(torch.Tensor, "detach", lambda t: t)
        leaves = {n: t.clone().requires_grad_() for n, t in state.learned.items()}
        algorithm.task_loss(leaves, state.memory, task(), Context()).loss.backward()
        assert leaves["trunk.conv.weight"].grad is not None
    else:
        call = functional.call

        def drifting(module, params, buffers, x):
            return call(module, params, {n: t + x.mean() for n, t in buffers.items()}, x)

        alone, before = algorithm.embed(state, None, x[:1]), algorithm.embed(state, None, x)[:1]
        torch.testing.assert_close(alone, before, rtol=1e-12, atol=1e-12)
        monkeypatch.setattr(functional, "call", drifting)
        alone, together = algorithm.embed(state, None, x[:1]), algorithm.embed(state, None, x)[:1]
        assert float((alone - together).abs().max()) > 1e-4


def test_pretraining_comes_first_unless_there_are_weights():
    algorithm, state = built()
    assert [p.name for p in algorithm.phases(SOURCES)] == ["episodes"]
    assert not any(n.startswith("classifier.") for n in state.learned)
    fresh = MTL(algorithm.p, replace(algorithm.setting, weights=None))
    first, second = fresh.phases(SOURCES)
    assert (first.stream, second.stream) == ("batches", "episodes")
    assert first.share + second.share == 1
    begun = fresh.init(generator(0))
    assert rates(first, begun.learned).keys() == {n for n in begun.learned if n.startswith(("trunk.", "classifier."))}
    kept = fresh.finish(begun, first, Context())
    assert rates(second, kept.learned).keys() == {n for n in kept.learned if not n.startswith("trunk.")}
    assert not any(n.startswith("classifier.") for n in kept.learned)
    assert rates(second, kept.learned)["conv_factor.conv"] == pytest.approx(
        rates(second, kept.learned)["head.bias"] / 10
    )
    assert factor(second, 0.35) == 1 / 8


# ---- hard tasks ------------------------------------------------------------------------------------------


def answered(e, wrong):
    """Logits that are right but for so many queries of each class."""
    z = F.one_hot(e.query_y, e.ways).double()
    for c, n in enumerate(wrong):
        rows = (e.query_y == c).nonzero().flatten()[:n]
        z[rows] = F.one_hot((e.query_y[rows] + 1) % e.ways, e.ways).double()
    return z


def named(e, *names):
    return replace(e, class_names=names)


def test_the_hard_task_is_of_the_worst_class_of_each_task():
    a, b, c = (named(task(i, ways=3), *(f"{letter}{k}" for k in range(3))) for i, letter in enumerate("abc"))
    z = [answered(e, wrong) for e, wrong in ((a, (0, 3, 1)), (b, (2, 1, 0)), (c, (0, 0, 1)))]
    hard = hard_task((a, b, c), z, None, generator(0))
    assert hard.class_names == ("a1", "b0", "c2")
    assert hard.ways == 3
    assert (len(hard.support_y), len(hard.query_y)) == (6, 9)
    for label, (e, k) in enumerate(((a, 1), (b, 0), (c, 2))):
        own = torch.cat([e.support_x[e.support_y == k], e.query_x[e.query_y == k]])
        x = torch.cat([hard.support_x[hard.support_y == label], hard.query_x[hard.query_y == label]])
        # the same pictures, drawn anew
        assert {tuple(p.flatten().tolist()) for p in x} == {tuple(p.flatten().tolist()) for p in own}
    other = hard_task((a, b, c), z, None, generator(1))
    assert not torch.equal(hard.support_x, other.support_x)
    assert torch.equal(hard.support_x, hard_task((a, b, c), z, None, generator(0)).support_x)


def test_a_class_counts_once_and_too_few_make_no_task():
    a, b = named(task(0), "x", "y", "z"), named(task(1), "x", "p", "q")
    z = [answered(a, (3, 0, 0)), answered(b, (3, 0, 1))]
    # two of each task are asked for: x and y or z, x again and q
    hard = hard_task((a, b), z, None, generator(0))
    assert sorted(hard.class_names)[0:2] == ["q", "x"]
    assert len(set(hard.class_names)) == hard.ways == 3
    assert hard_task((a, a), [z[0], z[0]], 3, generator(0)) is None
    assert hard_task((a,), [z[0]], 3, generator(0)).ways == 3


@pytest.mark.parametrize("head", HEADS)
def test_the_hard_task_counts_like_the_others(head):
    plain, state = built(head)
    state = moved(state)
    algorithm, _ = built(head, hard_tasks=True)
    episodes = tuple(named(task(i), *(f"{i}{k}" for k in range(3))) for i in (0, 1, 2))
    result = algorithm.step(state, tasks.Episodes(episodes), at(), Context(seed=5))
    assert "hard_accuracy" in result.metrics
    answers = [plain.task_loss(_leaves(state), state.memory, e, Context()).logits.detach() for e in episodes]
    ways = 3 if head == "textbook" else None
    hard = hard_task(episodes, answers, ways, generator(Context(seed=5).seed_for("mtl/episodes/0")))
    expected = meta_gradient(plain, state, *episodes, hard)
    for name, g in expected.items():
        torch.testing.assert_close(result.grads[name], g, rtol=1e-11, atol=1e-14)


def _leaves(state):
    return {n: t.clone().requires_grad_() for n, t in state.learned.items()}


def test_adapting_is_gradient_descent_of_the_head():
    algorithm, state = built("prototype")
    state, e = moved(state), task()
    adapted = algorithm.adapt(state, Support(e.support_x, e.support_y, 3), Context()).tensors
    f = algorithm._features(state, e.support_x)
    start, steps = algorithm._start(state.learned, f, e.support_y, 3), _inner_steps(algorithm, state, e)
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(adapted[name], start[name] + steps[name], rtol=1e-11, atol=1e-13)


def test_second_order_would_be_another_gradient(monkeypatch):
    """Both reference codes are first order; the oracle above tells the two apart."""
    algorithm, state = built()
    whole = inner.descent
    first = meta_gradient(algorithm, state, task())
    monkeypatch.setattr(inner, "descent", lambda *a, **k: whole(*a, **{**k, "order": "second"}))
    second = meta_gradient(algorithm, state, task())
    assert max(float((first[n] - second[n]).abs().max()) for n in first) > 1e-4
