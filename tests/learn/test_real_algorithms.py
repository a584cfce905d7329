"""The loop and the evaluation with the registered algorithms on a small Conv-4."""

import pytest
import torch

from tests.learn.data import sampler, source
from workbench.core.context import Context
from workbench.learn.checkpoint import state_digest
from workbench.learn.engine import Plan, train
from workbench.learn.evaluate import evaluate, freeze
from workbench.learn.protocol import Setting, generator
from workbench.learn.registry import algorithms, create

TRAINED = sorted(k for k, a in algorithms().items() if "trains" in a.info.tags)
CACHEABLE = sorted(k for k, a in algorithms().items() if "cacheable" in a.info.tags)


def make(key):
    episodes = sampler(source("a", size=16, images=20), shots=(1, 1), queries=2)
    weights = None
    if "needs-pretrained" in algorithms()[key].info.tags:
        fresh = create("protonet", {}, Setting("conv4", 1, 16, 4)).init(generator(1))
        weights = {k.removeprefix("trunk."): v for part in fresh for k, v in part.items() if k.startswith("trunk.")}
    setting = Setting("conv4", 1, 16, 4, episodes.classes_per_source, weights)
    return create(key, {}, setting), episodes


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("key", TRAINED)
def test_stopped_and_resumed_it_ends_bit_identical(key, tmp_path):
    algorithm, episodes = make(key)
    plan = Plan(episodes=6, seed=2, validation_episodes=2, validate_every=0.5, report_episodes=2)
    whole = train(algorithm, episodes, episodes, plan, Context())
    fresh = algorithm.init(generator(Context(2).seed_for("init")))
    assert state_digest(whole.state) != state_digest(fresh)

    checks = iter(range(10**6))

    class Stopping(Context):
        def check(self):
            if next(checks) == 8:
                self.cancel()
            Context.check(self)

    assert train(algorithm, episodes, episodes, plan, Stopping(), tmp_path).stopped
    resumed = train(create(key, {}, algorithm.setting), episodes, episodes, plan, Context(), tmp_path)
    assert state_digest(resumed.state) == state_digest(whole.state)
    assert resumed.validation == whole.validation


@pytest.mark.parametrize("key", CACHEABLE)
def test_the_fast_path_equals_the_slow_one(key):
    algorithm, episodes = make(key)
    state = algorithm.init(generator(0))
    frozen = freeze(episodes, 8, 0)
    slow = evaluate(algorithm, state, frozen, Context(), cached=False)
    fast = evaluate(algorithm, state, frozen, Context())
    assert fast.loss == pytest.approx(slow.loss, rel=1e-4)
    assert fast.per_episode == pytest.approx(slow.per_episode, abs=1e-6)
