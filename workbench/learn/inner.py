"""The inner loop: a few steps of gradient descent on one task's examples, differentiable where that is wanted.

``theta_0 = start``, ``theta_{j+1} = theta_j - lr * grad L_S(theta_j)``. Every ``theta_j`` is a dict of *new* tensors:
nothing is overwritten, so the start keeps its place in the graph and no task can leave a trace in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from workbench.core.context import Context

Tensors = dict[str, Tensor]
Order = Literal["second", "first", "none"]


def descent(
    loss: Callable[[Tensors], Tensor], start: Tensors, *, lr: float, steps: int, order: Order, ctx: Context
) -> Iterator[Tensors]:
    """Yield ``theta_0`` to ``theta_steps``.

    Args:
        loss: the support loss at some parameters, a scalar.
        start: ``theta_0``.
        lr: inner learning rate, alpha.
        steps: number of steps.
        order: what can be differentiated afterwards. ``second``: everything, ``d theta_k / d start`` holds the
        factors
            ``I - lr * H(theta_j)``. ``first``: the inner gradients count as constants, so ``d theta_k / d start = I``
            (first-order MAML); the graph of the steps is freed as they go. ``none``: nothing, each ``theta_j`` is a
            leaf; for use on a new task.
        ctx: checked before each step.

    Raises:
        JobCancelledError: from ``ctx``, before the next step.
    """
    # New names for the start: a head that is computed from the trunk (a prototype head) is a variable of its own in the
    # inner loop. Without them the trunk's inner gradient would also hold its way through the head's start.
    theta = {n: t.detach().requires_grad_() if order == "none" else t.view_as(t) for n, t in start.items()}
    yield theta
    for _ in range(steps):
        ctx.check()
        with torch.enable_grad():
            grads = torch.autograd.grad(loss(theta), list(theta.values()), create_graph=order == "second")
            moved = {n: t - lr * g for (n, t), g in zip(theta.items(), grads, strict=True)}
        theta = {n: t.detach().requires_grad_() for n, t in moved.items()} if order == "none" else moved
        yield theta
