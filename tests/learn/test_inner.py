"""The inner loop of a classifier alone: the same as automatic differentiation, one step after another."""

import pytest
import torch
import torch.nn.functional as F

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError
from workbench.learn import inner
from workbench.learn.protocol import generator


@pytest.fixture
def task():
    gen = generator(0)
    f = torch.randn(9, 6, generator=gen, dtype=torch.float64)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    start = {
        "head.weight": torch.randn(3, 6, generator=gen, dtype=torch.float64),
        "head.bias": torch.randn(3, generator=gen, dtype=torch.float64),
    }
    return f, y, start


def test_the_gradient_written_out_is_that_of_automatic_differentiation(task):
    f, y, start = task
    kept = {n: t.clone() for n, t in start.items()}

    def loss(t):
        return F.cross_entropy(F.linear(f, t["head.weight"], t["head.bias"]), y)

    slow = list(inner.descent(loss, start, lr=0.3, steps=5, order="none", ctx=Context()))
    quick = list(inner.classifier_descent(f, y, start, lr=0.3, steps=5, ctx=Context()))
    assert len(slow) == len(quick) == 6
    for a, b in zip(slow, quick, strict=True):
        assert a.keys() == b.keys()
        for n in a:
            torch.testing.assert_close(a[n], b[n], rtol=1e-12, atol=1e-12)
            assert not b[n].requires_grad
    assert all(torch.equal(start[n], kept[n]) for n in kept)
    assert not torch.equal(quick[0]["head.weight"], quick[1]["head.weight"])


def test_a_cancel_is_heeded_before_the_next_step(task):
    ctx = Context()
    path = inner.classifier_descent(*task, lr=0.1, steps=5, ctx=ctx)
    next(path)
    next(path)
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        next(path)
