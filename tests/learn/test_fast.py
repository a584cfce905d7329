"""The fast path against the algorithms' own steps and against the network as it is written, in float64."""

import gc
import threading

import pytest
import torch

from tests.learn.fast_tasks import batch, state
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import fast, functional, norm, registry
from workbench.learn.fast import blocks, kernels, passes, records, trunk, whole, workers
from workbench.learn.protocol import At, Setting, State, generator

SIZE = 16


def network(channels=1, size=SIZE, seed=0):
    """A skeleton and values whose norms have weights of either sign."""
    module = registry.backbone("conv4-32").skeleton(channels, size)
    params, _ = functional.initial(module, generator(seed))
    gen = generator(seed + 1)
    spread = {n: 0.7 * torch.randn(t.shape, generator=gen) if "norm" in n else 0 for n, t in params.items()}
    return module, {n: (t + spread[n]).double() for n, t in params.items()}


def pictures(n, channels=1, size=SIZE, seed=5):
    return torch.randn(n, channels, size, size, generator=generator(seed), dtype=torch.float64)


def written(module, params, x, wanted_by):
    """Features, statistics and gradients by ordinary autograd."""
    leaves = {n: t.clone().requires_grad_() for n, t in params.items()}
    with norm.batch_statistics(differentiable=True) as seen:
        features = functional.call(module, leaves, {}, x)
    wanted = wanted_by(features.detach())
    return features.detach(), norm.detached(seen), torch.autograd.grad(features, list(leaves.values()), wanted)


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def random_like(features):
    return torch.randn(features.shape, generator=generator(9), dtype=features.dtype)


@pytest.mark.parametrize(("channels", "size", "n"), [(1, 28, 6), (3, 21, 5), (1, 16, 1)])
def test_features_statistics_and_gradients_are_those_of_the_network_as_written(channels, size, n):
    module, params = network(channels, size)
    x = pictures(n, channels, size)
    features, seen, grads = written(module, params, x, random_like)
    with torch.no_grad():
        parts, tape = blocks.forward(blocks.blocks_of(list(params.values())), blocks.cut(x), 1e-5)
        found, _ = blocks.backward(tape, random_like(features).split([len(p) for p in parts]))
    assert relative(torch.cat(parts), features) < 1e-12
    assert max(relative(a, b) for a, b in zip((t for b in found for t in b), grads, strict=True)) < 1e-10
    recorded = dict(zip(trunk.paths(module), blocks.statistics(tape), strict=True))
    assert recorded.keys() == seen.keys()
    for path, moments in seen.items():
        torch.testing.assert_close(recorded[path].mean, moments.mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(recorded[path].var, moments.var, rtol=1e-10, atol=1e-12)
        assert recorded[path].values == moments.values


def by_call(module, params, x, queries, by, order=1):
    """Answers to queries under the examples' statistics, and their gradients, with ``by`` in the network's place."""
    leaves = {n: t.clone().requires_grad_() for n, t in params.items()}
    with functional.substituted(by):
        with norm.batch_statistics(differentiable=True) as seen:
            own = functional.call(module, leaves, {}, x)
        with norm.given_statistics(seen):
            features = torch.cat([own, functional.call(module, leaves, {}, queries)])
    wanted = random_like(features.detach())
    grads = torch.autograd.grad(features, list(leaves.values()), wanted, create_graph=order > 1)
    if order > 1:
        grads = torch.autograd.grad(sum(g.square().sum() for g in grads), list(leaves.values()))
    return features.detach(), norm.detached(seen), grads


@pytest.mark.parametrize("order", [1, 2])
def test_queries_are_normalised_by_the_examples_and_send_gradients_into_their_statistics(order):
    module, params = network(1, 28)
    x, q = pictures(4, 1, 28), pictures(7, 1, 28, seed=6)
    features, seen, grads = by_call(module, params, x, q, None, order)
    found, recorded, own = by_call(module, params, x, q, trunk.features, order)
    assert relative(found, features) < 1e-12
    assert max(relative(a, b) for a, b in zip(own, grads, strict=True)) < 1e-10
    for path, moments in seen.items():
        torch.testing.assert_close(recorded[path].mean, moments.mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(recorded[path].var, moments.var, rtol=1e-10, atol=1e-12)
        assert recorded[path].values == moments.values


def test_chunks_change_nothing(monkeypatch):
    module, params = network()
    x = pictures(11)
    features, _, grads = written(module, params, x, random_like)
    monkeypatch.setattr(blocks, "CHUNK", 3 * SIZE * SIZE)
    monkeypatch.setattr(records, "CACHED", 2 * SIZE * SIZE)
    with torch.no_grad():
        cut = blocks.cut(x)
        assert len(cut) == 4
        parts, tape = blocks.forward(blocks.blocks_of(list(params.values())), cut, 1e-5)
        found, _ = blocks.backward(tape, random_like(features).split([len(p) for p in parts]))
    assert relative(torch.cat(parts), features) < 1e-12
    assert max(relative(a, b) for a, b in zip((t for b in found for t in b), grads, strict=True)) < 1e-10


def test_ties_of_blank_pictures_are_counted_once():
    module, params = network(1, 28)
    x = torch.ones(3, 1, 28, 28, dtype=torch.float64)
    x[:, :, 5:12, 8:20] = -1.0
    _, _, grads = written(module, params, x, random_like)
    with torch.no_grad():
        parts, tape = blocks.forward(blocks.blocks_of(list(params.values())), blocks.cut(x), 1e-5)
        found, _ = blocks.backward(tape, random_like(torch.cat(parts)).split([len(p) for p in parts]))
    assert max(relative(a, b) for a, b in zip((t for b in found for t in b), grads, strict=True)) < 1e-8


@pytest.mark.parametrize(("channels", "size", "n", "chunk"), [(1, 28, 6, 40), (3, 21, 5, 40), (1, 16, 7, 2)])
def test_the_second_gradient_is_that_of_the_network_as_written(channels, size, n, chunk, monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK", chunk * size * size)
    monkeypatch.setattr(records, "CACHED", 2 * size * size)
    module, params = network(channels, size)
    x = pictures(n, channels, size)

    def second(by, order):
        leaves = {n: t.clone().requires_grad_() for n, t in params.items()}
        wanted = torch.randn(n, 32 * (size // 16) ** 2, generator=generator(3), dtype=torch.float64).requires_grad_()
        with functional.substituted(by), norm.batch_statistics(differentiable=by is None):
            features = functional.call(module, leaves, {}, x)
        found = torch.autograd.grad(features, list(leaves.values()), wanted, create_graph=True)
        along = [torch.randn(t.shape, generator=generator(i), dtype=t.dtype) for i, t in enumerate(found)]
        inputs = [wanted, *leaves.values()]
        if order == 3:
            found = torch.autograd.grad(found, inputs, along, create_graph=True)
            along = [t.detach().sin() for t in found]
        return found, torch.autograd.grad(found, inputs, along)

    for order in (2, 3):
        for mine, written in zip(second(trunk.features, order), second(None, order), strict=True):
            assert max(relative(a, b) for a, b in zip(mine, written, strict=True)) < 1e-10


def test_other_networks_and_other_statistics_are_left_alone():
    module, params = network()
    x = pictures(3)
    assert trunk.features(module, params, {}, x) is None  # running statistics that are not there
    with norm.batch_statistics():
        assert trunk.features(module, params, {}, x.clone().requires_grad_()) is None
        assert trunk.features(module, params, {}, x) is not None
    without = registry.backbone("conv4-32").skeleton(1, SIZE)
    without[3].pool = torch.nn.Identity()
    assert not trunk.fits(without)
    assert not trunk.fits(registry.backbone("resnet12").skeleton(1, SIZE))
    setting = Setting("conv4", 1, SIZE)
    assert fast.step_of(registry.create("protonet", {}, setting), "cuda:0") is None
    assert fast.step_of(registry.create("relation", {}, setting), "cpu") is None


EPISODIC = (
    "anil",
    "boil",
    "cavia",
    "fomaml",
    "maml",
    "matching",
    "meta-sgd",
    "protonet",
    "reptile",
    "siamese",
    "tadam",
)


@pytest.mark.parametrize("key", EPISODIC)
def test_a_step_is_the_algorithms_own(key):
    algorithm = registry.create(key, {}, Setting("conv4-32", 1, SIZE, ways=3))
    s, at = state(algorithm), At("episodes", 3, 0.25)
    episodes = batch(generator(2), 2, shots=(1, 2, 1))
    own = fast.with_gradients(algorithm.step(s, episodes, at, Context(seed=4)), s)
    found = fast.step_of(algorithm, "cpu")(s, episodes, at, Context(seed=4))
    assert found.loss is None
    assert found.grads.keys() == own.grads.keys()
    total = torch.cat([g.flatten() for g in own.grads.values()]).norm()
    for name, g in own.grads.items():
        assert float((found.grads[name] - g).norm()) <= 1e-10 * float(max(g.norm(), 1e-3 * total)), name
    assert found.memory.keys() == own.memory.keys()
    for name, value in own.memory.items():
        torch.testing.assert_close(found.memory[name], value, rtol=1e-9, atol=1e-11, msg=name)
    assert found.metrics == pytest.approx(dict(own.metrics), rel=1e-9)
    answers = [result.shown() for result in (found, own)]
    assert answers == [None, None] or torch.equal(*answers)


def test_threads_in_any_order_give_the_same_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK", 4 * SIZE * SIZE)
    for key in ("protonet", "maml", "anil", "reptile"):
        algorithm = registry.create(key, {}, Setting("conv4-32", 1, SIZE, ways=3))
        s = state(algorithm, torch.float32)
        episodes = batch(generator(2), 3, dtype=torch.float32)
        results, before = [], torch.get_num_threads()
        try:
            for threads in (2, 2, 3, 3, 1):
                torch.set_num_threads(threads)
                results.append(fast.step_of(algorithm, "cpu")(s, episodes, At("episodes", 0, 0.0), Context()))
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        for one, other in (results[:2], results[2:4]):
            assert all(torch.equal(other.grads[n], g) for n, g in one.grads.items())
            assert all(torch.equal(other.memory[n], t) for n, t in one.memory.items())
        for other in results[1:]:
            assert all(relative(other.grads[n], g) < 1e-4 for n, g in results[0].grads.items())


def test_jobs_keep_their_order_share_threads_and_hand_on_the_first_error():
    together = threading.Barrier(2, timeout=60)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with workers.shared():
            assert workers.each(
                [lambda i=i: (workers.heavy(together.wait) * 0 + i, torch.get_num_threads()) for i in range(2)]
            ) == [
                (0, 1),
                (1, 1),
            ]

            with torch.no_grad():
                assert workers.each([lambda: (workers.heavy(together.wait), torch.is_grad_enabled())[1]] * 2) == [
                    False,
                    False,
                ]

            def fails(i):
                if i in (3, 5):
                    raise ValueError(str(i))
                return i

            with pytest.raises(ValueError, match="3"):
                workers.each([lambda i=i: fails(i) for i in range(8)])
        assert torch.get_num_threads() == 2
        assert workers.threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_cancel_ends_a_step():
    ctx = Context()
    ctx.cancel()
    for key in ("protonet", "maml", "anil", "reptile"):
        algorithm = registry.create(key, {}, Setting("conv4-32", 1, SIZE, ways=3))
        s: State = state(algorithm, torch.float32)
        with pytest.raises(JobCancelledError):
            fast.step_of(algorithm, "cpu")(s, batch(generator(2), 1, dtype=torch.float32), At("", 0, 0.0), ctx)


def test_torchs_interpreter_takes_all_that_costs_time():
    assert kernels.compiled(*kernels.PARTS, *kernels.CHANGES) is not None
    assert kernels.compiled(*whole.PARTS) is not None


@pytest.mark.parametrize("key", ["maml", "anil"])
def test_without_that_interpreter_a_step_is_the_same(key, monkeypatch):
    algorithm = registry.create(key, {}, Setting("conv4-32", 1, SIZE, ways=3))
    s, episodes = state(algorithm), batch(generator(2), 2)
    step = fast.step_of(algorithm, "cpu")
    wanted = step(s, episodes, At("episodes", 0, 0.0), Context())
    monkeypatch.setattr(kernels, "_unit", None)
    monkeypatch.setattr(whole, "_unit", None)
    found = step(s, episodes, At("episodes", 0, 0.0), Context())
    assert all(relative(found.grads[n], g) < 1e-12 for n, g in wanted.grads.items() if g.norm() > 1e-9)


@pytest.mark.parametrize("key", ["maml", "anil"])
def test_one_task_is_shared_out_in_chunks(key, monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK", 2 * SIZE * SIZE)
    algorithm = registry.create(key, {}, Setting("conv4-32", 1, SIZE, ways=3))
    s, episodes = state(algorithm), batch(generator(2), 1, shots=2)
    own = fast.with_gradients(algorithm.step(s, episodes, At("episodes", 0, 0.0), Context()), s)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = fast.step_of(algorithm, "cpu")(s, episodes, At("episodes", 0, 0.0), Context())
    finally:
        torch.set_num_threads(before)
    assert all(relative(found.grads[n], g) < 1e-10 for n, g in own.grads.items() if g.norm() > 1e-9)


@pytest.mark.parametrize("key", ["maml", "anil"])
def test_a_step_leaves_no_tape_behind(key):
    algorithm = registry.create(key, {}, Setting("conv4-32", 1, SIZE, ways=3))
    s, episodes = state(algorithm, torch.float32), batch(generator(2), 2, dtype=torch.float32)
    gc.collect()
    gc.disable()
    try:
        fast.step_of(algorithm, "cpu")(s, episodes, At("episodes", 0, 0.0), Context())
        assert not [o for o in gc.get_objects() if type(o) in (passes.Whole, records.Tape)]
    finally:
        gc.enable()
