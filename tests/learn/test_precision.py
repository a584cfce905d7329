"""Training in lower precision: what is computed in bfloat16, how far off that is, where it is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.learn import data
from tests.learn.fast_tasks import batch, state
from tests.learn.toy import ToyProto
from workbench.core.context import Context
from workbench.core.errors import NotFiniteError, WorkbenchError
from workbench.data.episodes import Episodes, Source
from workbench.learn import fast, functional, registry
from workbench.learn.algorithms.protonet import ProtoNet
from workbench.learn.engine import Plan, train
from workbench.learn.fast import blocks, kernels
from workbench.learn.functional import channels_last
from workbench.learn.protocol import At, Setting, State, generator

SIZE, AT = 16, At("episodes", 0, 0.0)
ROUNDED = 2.0**-8
"""Of one convolution: pictures, kernel and result are rounded, each by 2^-9 at most."""
needs_bf16 = pytest.mark.skipif(not fast.native(), reason="a processor without instructions for bf16")


def create(key, backbone="conv4-32", ways=3):
    return registry.create(key, {}, Setting(backbone, 1, SIZE, ways=ways))


def noise(*shape, seed=0):
    return channels_last(torch.randn(shape, generator=generator(seed), dtype=torch.float64))


def error(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


def flat(grads):
    return torch.cat([grads[n].detach().double().flatten() for n in sorted(grads)])


def single(tensors):
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def doubled(episodes):
    return Episodes(
        tuple(replace(e, support_x=e.support_x.double(), query_x=e.query_x.double()) for e in episodes.episodes)
    )


def gradients(step, s, episodes):
    return fast.with_gradients(step(s, episodes, AT, Context()), s).grads


def test_a_convolution_is_rounded_and_no_more_and_gives_back_its_own_type():
    x, kernel, dy = noise(4, 32, 7, 7), noise(32, 32, 3, 3, seed=1), noise(4, 32, 7, 7, seed=2)
    exact = (kernels.convolved(x, kernel), *kernels.convolved_back(dy, x, kernel, [True, True]))
    low = kernel.to(torch.bfloat16)
    found = (kernels.convolved(x.float(), low), *kernels.convolved_back(dy.float(), x.float(), low, [True, True]))
    assert all(t.dtype == torch.float32 for t in found)
    assert all(1e-4 < error(a, b) < ROUNDED for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("key", ["protonet", "maml", "anil"])
@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_as_near_as_those_of_automatic_mixed_precision(key, threads, monkeypatch):
    """Both take another value for the largest where two are nearly the same: neither is as near as ``ROUNDED``."""
    monkeypatch.setattr(blocks, "CHUNK", 9 * SIZE * SIZE)
    algorithm, errors, before = create(key), {"full": [], "bf16": [], "mixed": []}, torch.get_num_threads()
    wide = state(algorithm)
    s = State({n: t.detach().float().requires_grad_() for n, t in wide.learned.items()}, single(wide.memory))
    steps = {precision: fast.step_of(algorithm, "cpu", precision) for precision in ("full", "bf16")}
    try:
        torch.set_num_threads(threads)
        for seed in range(4):
            episodes = batch(generator(seed), 1, queries=8, dtype=torch.float32)
            exact = flat(gradients(algorithm.step, wide, doubled(episodes)))
            for precision, step in steps.items():
                found = gradients(step, s, episodes)
                assert all(g.dtype == torch.float32 for g in found.values())
                errors[precision].append(error(flat(found), exact))
            with torch.autocast("cpu", torch.bfloat16):
                errors["mixed"].append(error(flat(gradients(algorithm.step, s, episodes)), exact))
    finally:
        torch.set_num_threads(before)
    full, low, mixed = (float(np.mean(errors[name])) for name in ("full", "bf16", "mixed"))
    assert full < 1e-3
    assert 0.01 < low < 1.25 * mixed < 0.75


def source(name, seed, classes=30, images=15):
    """Coarse patterns under three times as much noise: what there is to learn is to look at large patches."""
    gen = np.random.default_rng(seed)
    pattern = gen.normal(0, 20, (classes, 1, 4, 4, 1)).repeat(4, 2).repeat(4, 3)
    pictures = 128 + pattern + gen.normal(0, 60, (classes, images, SIZE, SIZE, 1))
    return Source(name, tuple(f"{name}{c}" for c in range(classes)), tuple(np.clip(pictures, 0, 255).astype(np.uint8)))


@needs_bf16
@pytest.mark.parametrize("key", ["protonet", "anil"])
def test_training_ends_as_accurate(key):
    sampler, held = (data.sampler(source(name, seed), ways=(5, 5)) for seed, name in enumerate("ab"))

    def trained(precision):
        plan = Plan(150, seed=1, precision=precision, report_episodes=100, validation_episodes=2, validate_every=1)
        return train(create(key, ways=5), sampler, held, plan, Context())

    full, low = trained("full"), trained("bf16")
    assert full.validation.accuracy > 0.5  # 0.3 before training
    assert abs(full.validation.accuracy - low.validation.accuracy) < full.validation.ci95
    assert any(not torch.equal(low.state.learned[n], t) for n, t in full.state.learned.items())
    assert all(t.dtype == torch.float32 for part in low.state for t in part.values())


@needs_bf16
def test_what_is_no_number_any_more_stops_the_run(tmp_path):
    algorithm, sampler = create("protonet"), data.sampler(source("a", 0), ways=(3, 3))
    start = algorithm.init(generator(0))
    start.learned["trunk.2.conv.weight"][0, 0, 0, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="is not a finite number any more"):
        train(algorithm, sampler, None, Plan(5, precision="bf16"), Context(), tmp_path, start=start)


@needs_bf16
def test_a_run_goes_on_in_the_precision_that_it_began_in(tmp_path):
    algorithm, sampler = create("protonet"), data.sampler(source("a", 0), ways=(3, 3))
    train(algorithm, sampler, None, Plan(2, precision="bf16"), Context(), tmp_path)
    with pytest.raises(WorkbenchError, match="belongs to a run with other"):
        train(algorithm, sampler, None, Plan(2), Context(), tmp_path)


class TestRefused:
    def test_on_another_device(self):
        with pytest.raises(WorkbenchError, match="only the CPU trains in bf16 here, not cuda:0"):
            fast.check_precision(create("protonet"), "cuda:0", "bf16")

    def test_without_a_fast_path(self):
        for algorithm in (create("protonet", "resnet12"), ToyProto()):
            with pytest.raises(WorkbenchError, match="has no fast path to compute in bf16"):
                fast.check_precision(algorithm, "cpu", "bf16")

    def test_on_a_processor_without_it(self, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "amx_bf16": False})
        with pytest.raises(WorkbenchError, match="this processor has no instructions for bf16"):
            fast.check_precision(create("protonet"), "cpu", "bf16")
        fast.check_precision(create("protonet"), "cpu", "full")

    def test_where_no_pass_of_a_step_would_be_in_it(self):
        """Rather than a card that names a precision that nothing was computed in."""

        class Elsewhere(ProtoNet):
            def step(self, *args):
                with functional.substituted(None):
                    return super().step(*args)

        algorithm = Elsewhere(ProtoNet.Params(), Setting("conv4-32", 1, SIZE, ways=3))
        s, episodes = state(algorithm, torch.float32), batch(generator(2), 1, dtype=torch.float32)
        assert fast.step_of(algorithm, "cpu")(s, episodes, AT, Context()).grads
        with pytest.raises(WorkbenchError, match=r"no pass of .* can be computed in bf16"):
            fast.step_of(algorithm, "cpu", "bf16")(s, episodes, AT, Context())
