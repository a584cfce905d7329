"""The inner loop: a few steps of gradient descent on one task's examples, differentiable where that is wanted.

``theta_0 = start``, ``theta_{j+1} = theta_j - lr * grad L_S(theta_j)``. Every ``theta_j`` is a dict of *new* tensors:
nothing is overwritten, so the start keeps its place in the graph and no task can leave a trace in it.

What is adapted is as a rule a trunk with a linear classifier behind it, ``theta = {trunk.*, head.weight [N, D],
head.bias [N]}``. The functions below run it under MetaBN (Bronskill et al. 2020, arXiv 2003.03284): examples are
normalised with their own statistics, queries with the examples' at the same ``theta``, so that no query sees another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.learn import functional, heads, norm
from workbench.learn.protocol import Adapted, OnStep, State, StepResult

if TYPE_CHECKING:
    from workbench.data.episodes import Episode

Tensors = dict[str, Tensor]
Order = Literal["second", "first", "none"]


def descent(
    loss: Callable[[Tensors], Tensor],
    start: Tensors,
    *,
    lr: float | Mapping[str, float | Tensor],
    steps: int,
    order: Order,
    ctx: Context,
) -> Iterator[Tensors]:
    """Yield ``theta_0`` to ``theta_steps``.

    Args:
        loss: the support loss at some parameters, a scalar.
        start: ``theta_0``.
        lr: inner learning rate, alpha: one number, or one by name, a number or a tensor that broadcasts to the
            parameter and may itself be learnt. A parameter that a mapping does not name stays as it is.
        steps: number of steps.
        order: what can be differentiated afterwards. ``second``: everything, and ``d theta_k / d start`` holds the
            factors ``I - lr * H(theta_j)``. ``first``: the inner gradients count as constants, so ``d theta_k / d
            start = I`` (first-order MAML); the graph of the steps is freed as they go. ``none``: nothing, each
            ``theta_j`` is a leaf; for use on a new task.
        ctx: checked before each step.

    Raises:
        JobCancelledError: from ``ctx``, before the next step.
    """
    rates = lr if isinstance(lr, Mapping) else dict.fromkeys(start, lr)
    # New names for the start: a head that is computed from the trunk (a prototype head) is a variable of its own in the
    # inner loop. Without them the trunk's inner gradient would also hold its way through the head's start.
    theta = {n: t.detach().requires_grad_() if order == "none" else t.view_as(t) for n, t in start.items()}
    yield theta
    for _ in range(steps):
        ctx.check()
        with torch.enable_grad():
            if rates:
                moving = [theta[n] for n in rates]
                grads = torch.autograd.grad(loss(theta), moving, create_graph=order == "second")
                theta = theta | {n: theta[n] - rates[n] * g for n, g in zip(rates, grads, strict=True)}
        if order == "none":
            theta = {n: t.detach().requires_grad_() for n, t in theta.items()}
        yield theta


@torch.no_grad()
def classifier_descent(
    features: Tensor, y: Tensor, start: Tensors, *, lr: float, steps: int, ctx: Context
) -> Iterator[Tensors]:
    """:func:`descent` of a linear classifier alone on kept features, for use on a new task.

    The cross entropy's gradient is written out, ``(softmax(z) - onehot(y)) / S``, which is a matrix product where
    automatic differentiation needs a graph for each step: ten times faster, and the same to rounding.

    Args:
        features: ``[S, D]``.
        y: ``[S]``.
        start: ``head.weight [N, D]`` and ``head.bias [N]``.
        lr: alpha.
        steps: number of steps.
        ctx: checked before each step.

    Yields:
        ``theta_0`` to ``theta_steps``, each of new tensors without a graph.

    Raises:
        JobCancelledError: from ``ctx``, before the next step.
    """
    weight, bias = start["head.weight"].detach(), start["head.bias"].detach()
    yield {"head.weight": weight, "head.bias": bias}
    wanted = heads.one_hot(y, len(bias), features)
    for _ in range(steps):
        ctx.check()
        error = (F.linear(features, weight, bias).softmax(1) - wanted) / len(y)
        weight, bias = weight - lr * (error.T @ features), bias - lr * error.sum(0)
        yield {"head.weight": weight, "head.bias": bias}


# ---- one task: a trunk and a linear classifier under MetaBN ---------------------------------------------------------


def start(network: nn.Module, learned: Tensors, x: Tensor, y: Tensor, ways: int) -> tuple[Tensors, norm.Statistics]:
    """``theta_0`` of a task with its graph down to ``learned``, and its examples' statistics there.

    Args:
        network: the trunk's skeleton.
        learned: holds ``trunk.*`` and what ``heads.linear_start`` reads; anything else is left out.
        x: the examples ``[S, C, H, W]``.
        y: their labels ``[S]``.
        ways: number of classes.

    Raises:
        WorkbenchError: a head with fixed rows, and another number of classes.
    """
    trunk = {n: t for n, t in learned.items() if n.startswith(functional.TRUNK)}
    with norm.batch_statistics() as seen:
        features = functional.call(network, functional.under(trunk), {}, x)
    weight, bias = heads.linear_start(learned, features, y, ways)
    return {**trunk, "head.weight": weight, "head.bias": bias}, seen


def support_logits(network: nn.Module, theta: Tensors, x: Tensor) -> Tensor:
    """``[S, N]``: the examples under their own statistics."""
    with norm.batch_statistics():
        features = functional.call(network, functional.under(theta), {}, x)
    return F.linear(features, theta["head.weight"], theta["head.bias"])


def statistics(network: nn.Module, theta: Tensors, x: Tensor) -> norm.Statistics:
    """The examples' statistics at ``theta``, differentiable."""
    with norm.batch_statistics(differentiable=True) as seen:
        functional.call(network, functional.under(theta), {}, x)
    return seen


def query_logits(network: nn.Module, theta: Tensors, given: norm.Statistics, x: Tensor) -> Tensor:
    """``[Q, N]``: the queries under the examples' statistics."""
    with norm.given_statistics(given):
        features = functional.call(network, functional.under(theta), {}, x)
    return F.linear(features, theta["head.weight"], theta["head.bias"])


@torch.no_grad()
def settled(network: nn.Module, theta: Tensors, x: Tensor) -> Tensors:
    """``theta`` without a graph, with the examples' statistics as its running ones: a plain network from here on."""
    with norm.batch_statistics() as seen:  # the fused kernel: nothing is differentiated here
        functional.call(network, functional.under(theta), {}, x)
    return {**{n: t.detach() for n, t in theta.items()}, **functional.named(norm.as_buffers(seen))}


def followed(
    network: nn.Module, path: Iterator[Tensors], x: Tensor, ways: int, steps: int, on_step: OnStep | None
) -> Adapted:
    """Walk an inner loop to its end, and settle there; before that only where ``on_step`` asks for it.

    Args:
        network: the trunk's skeleton.
        path: ``theta_0`` to ``theta_steps``, as :func:`descent` yields them.
        x: the examples.
        ways: number of classes.
        steps: of the path.
        on_step: called with each number of steps and the network there.
    """
    adapted = Adapted({}, ways)
    for j, theta in enumerate(path):
        if on_step is not None or j == steps:
            adapted = Adapted(settled(network, theta, x), ways)
            if on_step is not None:
                on_step(j, adapted)
    return adapted


# ---- one outer step: the mean over tasks ----------------------------------------------------------------------------


class TaskLoss(NamedTuple):
    """What one task gives: its loss with a graph, its queries' logits ``[Q, N]``, its examples' first statistics."""

    loss: Tensor
    logits: Tensor
    statistics: norm.Statistics


def mean_gradient(
    s: State,
    episodes: Sequence[Episode],
    task_loss: Callable[[Tensors, Episode], TaskLoss],
    *,
    in_order: bool = False,
) -> StepResult:
    """The gradient of the mean loss over the tasks, one task's graph at a time on each thread.

    The trunk's running averages in the memory follow the examples' statistics at the start. Gradient-based methods do
    not use them: they are kept so that another head can be put on the trunk as it is before adapting.

    Args:
        s: the state; its tensors get no gradients, the leaves are made here.
        episodes: the tasks.
        task_loss: of one task, as a function of the learned tensors.
        in_order: take one task after the other, since ``task_loss`` draws or leaves something behind.
    """
    tasks = len(episodes)
    learned = {n: t.detach().requires_grad_() for n, t in s.learned.items()}
    total = {n: torch.zeros_like(t) for n, t in learned.items()}
    buffers = functional.under(s.memory)

    def one(episode: Episode) -> tuple[TaskLoss, tuple[Tensor | None, ...]]:
        found = task_loss(learned, episode)
        grads = torch.autograd.grad(found.loss / tasks, list(learned.values()), allow_unused=True)
        return TaskLoss(found.loss.detach(), found.logits.detach(), norm.detached(found.statistics)), grads

    jobs = [partial(one, episode) for episode in episodes]
    done = [job() for job in jobs] if in_order else functional.each(jobs)
    losses, correct = [], []
    for episode, ((loss, logits, seen), grads) in zip(episodes, done, strict=True):
        total = {n: t if g is None else t + g for (n, t), g in zip(total.items(), grads, strict=True)}
        buffers = norm.running_average(buffers, seen)
        losses.append(float(loss))
        correct.append(logits.argmax(1) == episode.query_y)
    metrics = {"loss": sum(losses) / tasks, "accuracy": float(torch.cat(correct).float().mean())}
    memory = {**s.memory, **functional.named(buffers)}
    return StepResult(grads=total, memory=memory, metrics=metrics, correct=correct[0])
