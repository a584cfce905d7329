"""What every representation of a task owes to those who ask it, whatever it is made of."""

import math
from dataclasses import replace

import pytest
import torch

from tests.learn import tasks as backbones
from tests.transfer.tasks import normal, retold, task
from tests.transfer.test_encoder import untrained
from tests.transfer.test_task2vec import probe
from tests.transfer.test_trajectory import cavia, trajectory
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.transfer.kinds import Gaussian, TaskData
from workbench.transfer.metafeatures import MetaFeatures
from workbench.transfer.trajectory import ContextVector

CTX = Context()
MAKE = {
    "gaussian": Gaussian,
    "meta-features": MetaFeatures,
    "encoder": untrained,
    "trajectory": trajectory,
    "context": lambda: ContextVector(*cavia()),
    "task2vec": probe,
}


@pytest.fixture(scope="module", params=MAKE)
def kind(request):
    backbones.tiny_backbone()
    made = MAKE[request.param]()
    assert made.key == request.param
    return made


def test_it_has_a_title(kind):
    assert len(kind.title) > 5


@pytest.mark.parametrize("each", [1, 3])
def test_a_task_is_a_set(kind, each):
    t = task(each=each)
    a = kind.embed(t, CTX)
    assert (a.ndim, a.dtype, a.device.type) == (1, torch.float64, "cpu")
    assert torch.isfinite(a).all()
    assert not a.requires_grad
    assert torch.allclose(kind.embed(retold(t), CTX), a, rtol=1e-6, atol=1e-6)
    assert torch.equal(kind.embed(t, CTX), a), "asking twice gives the same"


def test_tasks_of_unlike_size_can_be_compared(kind):
    a, b = kind.embed(task(ways=2, each=1), CTX), kind.embed(task(ways=3, each=4, domain=1), CTX)
    assert a.shape == b.shape
    assert kind.similarity(a, a) == pytest.approx(1.0)
    for value in (kind.similarity(a, b), kind.similarity(b, a)):
        assert -1 - 1e-9 <= value < 1


def test_single_precision_is_enough(kind):
    t = task()
    floats = replace(t, x=t.x.float(), features=t.features.float())
    if kind.key in ("gaussian", "meta-features", "encoder"):  # the others hold a network of one precision
        assert kind.similarity(kind.embed(t, CTX), kind.embed(floats, CTX)) == pytest.approx(1.0, abs=1e-4)


def test_what_it_needs_is_asked_for_and_what_is_not_finite_is_refused(kind):
    y = torch.tensor([0, 1])
    if kind.key != "meta-features":  # leaves out what it cannot measure
        with pytest.raises(ValueError, match="needs"):
            kind.embed(TaskData(y, 2), CTX)
    wrong = normal(2, 1, 8, 8) * math.nan
    with pytest.raises(ValueError, match="finite"):
        kind.embed(replace(task(ways=2, each=1), x=wrong, features=normal(2, 6) * math.nan), CTX)


def test_a_stop_is_heeded(kind):
    stopped = Context()
    stopped.cancel()
    with pytest.raises(JobCancelledError):
        kind.embed(task(), stopped)
