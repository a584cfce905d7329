"""Adapting on the fast path against the algorithms' own passes through the network."""

import gc
import importlib.util
import math
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F

from tests.learn.fast_tasks import episode, state
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import evaluate, fast, functional, norm, quick, registry
from workbench.learn.fast import asking, blocks, passes, task, trunk
from workbench.learn.protocol import Setting, State, Support, detach, generator

SIZE = 16
CASES = {
    "maml": {"test_steps": 3},
    "maml-textbook": {"test_steps": 3, "head": "textbook"},
    "fomaml": {"test_steps": 2},
    "maml++": {"test_steps": 3},
    "maml++-own": {"test_steps": 3, "bnrs": False},
    "meta-sgd": {"test_steps": 2},
    "boil": {"test_steps": 3},
    "reptile": {"test_steps": 4},
    "reptile-zero": {"test_steps": 4, "head": "zero"},
    "cavia": {"test_steps": 2},
    "platipus": {"test_steps": 2, "draws": 2},
    "pmf": {"test_steps": 3, "tune_lr": 1e-3},
    "pmf-norms": {"test_steps": 3, "tune_lr": 1e-3, "tuned": "norms"},
}


def build(case, dtype=torch.float64, backbone="conv4-32", size=SIZE, channels=1):
    """An algorithm, a state with norms of either sign, examples and queries."""
    key = case if case in registry.algorithms() else case.rsplit("-", 1)[0]
    algorithm = registry.create(key, CASES[case], Setting(backbone, channels, size, ways=3))
    s = state(algorithm, dtype)
    e = episode(generator(2), shots=2, queries=3, channels=channels, size=size, dtype=dtype)
    support = Support(e.support_x, e.support_y, e.ways)
    return algorithm, State(detach(s.learned), detach(s.memory)), support, e.query_x


def walked(case, dtype=torch.float64, **kwargs):
    """What was shown after each step and given at the end, and the answers there."""
    algorithm, s, support, queries = build(case, dtype, **kwargs)
    shown = []
    end = algorithm.adapt(
        s, support, Context(seed=3), on_step=lambda j, a: shown.append((j, a, algorithm.logits(s, a, queries)))
    )
    alone = algorithm.adapt(s, support, Context(seed=3))
    return shown, end, alone, algorithm.logits(s, alone, queries), algorithm.embed(s, alone, queries)


def relative(a, b):
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def gap(found, own):
    """Largest relative gap of two adapted networks."""
    assert found.ways == own.ways
    assert found.tensors.keys() == own.tensors.keys()
    assert not any(t.requires_grad and t.grad_fn is not None for t in found.tensors.values())
    return max(relative(t, own.tensors[n]) for n, t in found.tensors.items())


def compare(case, bound, dtype, **kwargs):
    own = walked(case, dtype, **kwargs)
    passed = []

    class Counted(task.Substitute):
        def __call__(self, *args):
            out = super().__call__(*args)
            passed.append(out is not None)
            return out

    with functional.substituted(Counted()):
        found = walked(case, dtype, **kwargs)
    assert passed
    assert all(passed)  # every pass through the network was the fast one
    with quick.passes():
        found_by_hook = walked(case, dtype, **kwargs)
    for one in (found, found_by_hook):
        assert [j for j, _, _ in one[0]] == [j for j, _, _ in own[0]]
        assert len(one[0]) > 1
        for (_, a, z), (_, b, wanted) in zip(one[0], own[0], strict=True):
            assert gap(a, b) < bound
            assert relative(z, wanted) < bound
        assert gap(one[1], own[1]) < bound
        assert gap(one[2], own[2]) < bound
        assert relative(one[3], own[3]) < bound
        assert relative(one[4], own[4]) < bound


@pytest.mark.parametrize("case", CASES)
def test_adapted_networks_steps_and_answers_are_the_algorithms_own(case):
    compare(case, 1e-10, torch.float64)


@pytest.mark.parametrize("case", ["maml", "maml++", "reptile", "cavia", "platipus"])
def test_in_single_precision_to_rounding(case):
    compare(case, 1e-4, torch.float32)


def test_on_colour_pictures_whose_sides_are_no_multiple_of_sixteen():
    compare("maml", 1e-10, torch.float64, size=21, channels=3)


@pytest.mark.parametrize("case", ["maml", "maml++"])
def test_shared_among_threads(case, monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK", 2 * SIZE * SIZE)
    monkeypatch.setattr(asking, "TOGETHER", 2 * SIZE * SIZE)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        compare(case, 1e-10, torch.float64)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_state_and_the_pictures_stay_as_they_are():
    algorithm, s, support, _ = build("maml")
    before = {n: t.clone() for n, t in (s.learned | s.memory).items()}
    x = support.x.clone()
    with quick.passes():
        algorithm.adapt(s, support, Context())
    assert all(torch.equal(t, before[n]) and not t.requires_grad for n, t in (s.learned | s.memory).items())
    assert torch.equal(support.x, x)


class TestWithoutThePackage:
    """Everything adapts in its clear form."""

    def test_nothing_is_imported(self, monkeypatch):
        algorithm, s, support, queries = build("maml")
        own = algorithm.adapt(s, support, Context())
        for name in [n for n in sys.modules if n.startswith("workbench.learn.fast")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr("workbench.learn.fast")

        class Deleted:
            def find_spec(self, name, path=None, target=None):
                if name.startswith("workbench.learn.fast"):
                    raise ModuleNotFoundError(name)

        monkeypatch.setattr(sys, "meta_path", [Deleted(), *sys.meta_path])
        find = importlib.util.find_spec
        gone = lambda name, *rest: None if name.startswith("workbench.learn.fast") else find(name, *rest)  # noqa: E731
        monkeypatch.setattr(quick, "find_spec", gone)
        with quick.passes():
            found = algorithm.adapt(s, support, Context())
            logits = algorithm.logits(s, found, queries)
        assert "workbench.learn.fast" not in sys.modules
        assert all(torch.equal(t, own.tensors[n]) for n, t in found.tensors.items())
        assert torch.equal(logits, algorithm.logits(s, own, queries))

    def test_other_networks_are_left_to_themselves(self):
        algorithm = registry.create("fomaml", {"test_steps": 1}, Setting("resnet12", 3, 32, ways=2))
        s = algorithm.init(generator(0))
        s = State(detach(s.learned), detach(s.memory))
        x = torch.randn(2, 3, 32, 32, generator=generator(1))
        support = Support(x, torch.arange(2), 2)
        own = algorithm.adapt(s, support, Context())
        with quick.passes():
            found = algorithm.adapt(s, support, Context())
        assert all(torch.equal(t, own.tensors[n]) for n, t in found.tensors.items())


def test_stop_is_heeded_before_the_next_step_and_closes_the_block():
    algorithm, s, support, _ = build("maml", torch.float32)
    seen = []

    class Stopped(Context):
        def check(self):
            if seen and seen[-1] == 1:
                raise JobCancelledError

    with pytest.raises(JobCancelledError), quick.passes():
        algorithm.adapt(s, support, Stopped(), on_step=lambda j, _: seen.append(j))
    assert seen == [0, 1]
    assert functional._substitute.get() is None
    assert functional._runner.get() is None


def test_nothing_is_left_of_tapes_and_graphs():
    tapes, before = [], []
    algorithm, s, support, queries = build("maml", torch.float32)
    up = trunk.up

    def recorded(*args, **kwargs):
        before.append(sum(t() is not None for t in tapes))
        out = up(*args, **kwargs)
        tapes.append(
            weakref.ref(out[2].layers[-1][0] if isinstance(out[2], passes.Whole) else out[2].layers[-1].kernel)
        )
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk, "up", recorded)
        alive = []
        gc.collect()
        gc.disable()  # what frees them has to be the last name, not the collector
        try:
            with quick.passes():
                kept = algorithm.adapt(
                    s, support, Context(), on_step=lambda *_: alive.append(sum(t() is not None for t in tapes))
                )
                algorithm.logits(s, kept, queries)
        finally:
            gc.enable()
    assert len(tapes) == 1 + CASES["maml"]["test_steps"]  # each network passes once: to be shown, and for its gradient
    assert max(alive) == 1
    assert max(before) == 0  # two at once would need twice the memory
    assert not any(t() is not None for t in tapes)
    assert all(t.grad_fn is None for t in kept.tensors.values())


class TestWhatIsKept:
    """The last way up, as long as neither pictures nor values have changed."""

    def setup_method(self):
        self.module = registry.backbone("conv4-32").skeleton(1, SIZE)
        params, _ = functional.initial(self.module, generator(0))
        self.params = {n: t.double() for n, t in params.items()}
        self.x = torch.randn(3, 1, SIZE, SIZE, generator=generator(1), dtype=torch.float64)

    def called(self):
        with norm.batch_statistics():
            return functional.call(self.module, self.params, {}, self.x)

    def check(self):
        with functional.substituted(None):
            own = self.called()
        assert relative(self.called(), own) < 1e-12

    def test_is_not_taken_for_values_that_were_overwritten(self):
        with quick.passes():
            self.check()
            self.params["1.conv.weight"].mul_(-1.5)
            self.check()
            self.params["2.norm.bias"] = self.params["2.norm.bias"] + 0.5
            self.check()

    def test_is_not_taken_for_pictures_that_were_overwritten(self):
        with quick.passes():
            self.check()
            self.x[1] += 1.0
            self.check()
            self.x = self.x + 1.0
            self.check()

    def test_is_not_taken_for_another_norm(self):
        with quick.passes():
            self.check()
            for part in self.module.modules():
                if isinstance(part, norm.Norm2d):
                    part.eps = 0.1
            self.check()

    def test_pictures_in_other_memory_are_cut_once(self, monkeypatch):
        cut, count = passes.cut, []
        monkeypatch.setattr(passes, "cut", lambda x: count.append(1) or cut(x))
        with quick.passes():
            for _ in range(3):
                self.x = self.x.clone()
                self.called()
        assert len(count) == 1

    def test_of_pictures_that_are_new_in_each_step_only_the_last_ones(self):
        by = task.Substitute()
        with functional.substituted(by):
            for _ in range(5):
                self.x = self.x + 1.0
                self.check()
        assert len(by._cuts) == task.KEPT


@pytest.mark.parametrize(("channels", "size", "n"), [(1, 28, 5), (3, 21, 4), (1, 16, 1)])
def test_answers_under_fixed_statistics_are_those_of_the_network_as_written(channels, size, n, monkeypatch):
    monkeypatch.setattr(asking, "TOGETHER", 2 * size * size)
    module = registry.backbone("conv4").skeleton(channels, size)
    params, buffers = functional.initial(module, generator(0))
    gen = generator(1)
    params = {
        k: (t + 0.7 * torch.randn(t.shape, generator=gen) if "norm" in k else t).double() for k, t in params.items()
    }
    buffers = {
        k: (t + torch.randn(t.shape, generator=gen) if k.endswith("mean") else 3.0 * torch.rand(t.shape, generator=gen))
        for k, t in buffers.items()
    }
    buffers = {k: t.double() for k, t in buffers.items()}
    x = torch.randn(n, channels, size, size, generator=gen, dtype=torch.float64)
    own = functional.call(module, params, buffers, x)
    leaves = {k: t.clone().requires_grad_() for k, t in params.items()}
    wanted = torch.randn(own.shape, generator=gen, dtype=own.dtype)
    grads = torch.autograd.grad(functional.call(module, leaves, buffers, x), list(leaves.values()), wanted)
    with quick.passes():
        found = functional.call(module, params, buffers, x)
        assert found.grad_fn is None
        mine = torch.autograd.grad(functional.call(module, leaves, buffers, x), list(leaves.values()), wanted)
        with torch.no_grad():
            assert relative(functional.call(module, leaves, buffers, x), own) < 1e-12
    assert relative(found, own) < 1e-12
    assert max(relative(a, b) for a, b in zip(mine, grads, strict=True)) < 1e-10


def test_missing_running_statistics_are_named():
    module = registry.backbone("conv4-32").skeleton(1, SIZE)
    params, buffers = functional.initial(module, generator(0))
    del buffers["2.norm.running_mean"]
    x = torch.randn(2, 1, SIZE, SIZE, generator=generator(1))
    with quick.passes(), pytest.raises(KeyError, match=r"2\.norm\.running_mean"):
        functional.call(module, params, buffers, x)


def test_the_gradient_of_a_kept_way_is_that_of_the_network_as_written():
    """Adapting shows a network first and takes its gradient then, from the same way up."""
    module = registry.backbone("conv4-32").skeleton(1, SIZE)
    params, _ = functional.initial(module, generator(0))
    x = torch.randn(4, 1, SIZE, SIZE, generator=generator(1), dtype=torch.float64)
    leaves = {n: t.double().requires_grad_() for n, t in params.items()}

    def gradient():
        with norm.batch_statistics():
            features = functional.call(module, leaves, {}, x)
        return torch.autograd.grad(F.softplus(features).sum(), list(leaves.values()))

    own = gradient()
    with quick.passes():
        with torch.no_grad(), norm.batch_statistics():
            functional.call(module, {n: t.detach() for n, t in leaves.items()}, {}, x)
        for _ in range(2):
            kept = functional._substitute.get()._last
            assert not any(t.requires_grad for t in (kept.features, *(t for m in kept.seen for t in m[:2])))
            assert max(relative(a, b) for a, b in zip(gradient(), own, strict=True)) < 1e-10


def test_evaluating_is_the_same_with_and_without(monkeypatch):
    algorithm, s, _, _ = build("maml", torch.float32)
    asked = []

    def answers():
        clock = evaluate._Clock()
        e = episode(generator(4), shots=2, queries=3, dtype=torch.float32)

        class Sampler:
            def episode(self, drawn):
                return e

        frozen = evaluate.FrozenEpisodes(Sampler(), (None,), "")
        return list(evaluate._from_pictures(algorithm, s, frozen, Context(), "cpu", True, clock))

    adapting = fast.adapting
    monkeypatch.setattr(fast, "adapting", lambda: asked.append(1) or adapting())
    found = answers()
    assert asked
    monkeypatch.setattr(quick, "find_spec", lambda _: None)
    own = answers()
    assert len(asked) == 1
    for (j, z), (k, wanted) in zip(found[0], own[0], strict=True):
        assert j == k
        assert relative(z, wanted) < 1e-4
        assert math.isfinite(float(z.sum()))
