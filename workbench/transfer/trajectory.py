"""A task as the direction in which it pulls a network: where a few steps of gradient descent take a fixed trunk.

From the same trunk ``theta_0`` for all tasks::

    theta_{j+1} = theta_j - r |theta_0| g_j / |g_j|           g_j = grad L(theta_j)          j = 0 .. k-1
    e           = theta_k - theta_0, folded to 512 numbers, length 1

Two tasks are compared by the cosine. To first order it says how much a step for one helps the other::

    L_t(theta_0 - a g_s) - L_t(theta_0) = -a g_t . g_s + O(a^2)

so 1 means that learning one teaches the other, 0 that it is no matter, and below 0 that it hurts.

``L`` must not know the classes by number: a classifier's gradient depends on which class is called the third. So it is
the supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362) on two altered views ``z`` (length 1) of every
picture, with only the trunk's weights moving::

    L = mean_i  -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / tau) / sum_{a != i} exp(z_i z_a / tau) )

``P(i)`` are the other views of the same class: at one example per class, the picture's own other view. Steps have a
fixed length, so that neither the loss's nor the trunk's scale matters.

The cheap form is CAVIA's context (Zintgraf et al. 2019): a hundred numbers that a task adapts by two steps, behind
:class:`ContextVector`. (The idea of a task as its gradient: Achille et al. 2019; as its trajectory: Flennerhag et al.
2019, arXiv 1812.01054. The folding is a Johnson-Lindenstrauss projection: inner products survive on average.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.learn import augment, quick
from workbench.learn.examples import canonical_order
from workbench.learn.functional import Tensors
from workbench.learn.protocol import Algorithm, State, Support, generator
from workbench.transfer.kinds import TaskData, cosine
from workbench.transfer.represent import fold

WIDTH = 512
"""Numbers that a trunk's change is folded to; inner products keep a relative error of about ``sqrt(2 / 512)``."""
TEMPERATURE = 0.1
BATCH = 64
"""Pictures of one step; of a task with more, each step takes others."""


class Trajectory:
    """Gradient descent of a fixed trunk behind the interface of all representations.

    Args:
        network: the trunk's skeleton ``[B, C, H, W] -> [B, D]``.
        tensors: its parameters and buffers by name. Batch norms use the running statistics throughout.
        steps: ``k``, at least 1; 1 is the gradient at ``theta_0`` alone.
        rate: ``r``, the length of a step as a share of the trunk's.
        width: numbers of the vector; see :data:`WIDTH`.
        batch: pictures per step.
        seed: of the views and the batches; the same for all tasks that are compared.
    """

    key: ClassVar[str] = "trajectory"
    title: ClassVar[str] = "Where training takes the network"

    def __init__(
        self,
        network: nn.Module,
        tensors: Mapping[str, Tensor],
        *,
        steps: int = 3,
        rate: float = 0.01,
        width: int = WIDTH,
        batch: int = BATCH,
        seed: int = 0,
    ) -> None:
        if steps < 1:
            raise ValueError("a trajectory needs at least one step")
        self.network, self.steps, self.rate, self.width, self.batch, self.seed = (
            network,
            steps,
            rate,
            width,
            batch,
            seed,
        )
        names = [name for name, _ in network.named_parameters()]
        missing = sorted(set(names) - tensors.keys())
        if missing:
            raise ValueError(f"the network lacks {', '.join(missing)}")
        self.start: Tensors = {name: tensors[name].detach() for name in names}
        self.buffers: Tensors = {name: t.detach() for name, t in tensors.items() if name not in self.start}

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[min(P, width)]`` float64 of length 1; 0 where the loss has no slope."""
        x = task.needed_x()
        if not torch.isfinite(x).all():
            raise ValueError("a task with numbers that are not finite cannot be described")
        order = canonical_order(x)  # batches and views are drawn for the set, not for the list
        x, y = x[order], task.y[order]
        gen = generator(self.seed)
        length = self.rate * float(_flat(self.start).norm())
        theta = self.start
        for _ in range(self.steps):
            ctx.check()
            chosen = drawn(y, self.batch, gen)
            some = x[chosen]
            views = torch.cat([augment.augmented(some, gen), augment.augmented(some, gen)])
            slope = self.gradient(theta, views, y[chosen].repeat(2))
            size = float(_flat(slope).norm())
            if size > 0:
                theta = {name: t - (length / size) * slope[name] for name, t in theta.items()}
        change = _flat(theta).double() - _flat(self.start).double()
        return F.normalize(fold(change[None], self.width)[0], dim=0).cpu()

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """-1..1: how far a step for one task helps the other, to first order."""
        return cosine(a, b)

    def gradient(self, theta: Tensors, views: Tensor, y: Tensor) -> Tensors:
        """Of :meth:`loss` by parameter."""
        leaves = {name: t.detach().requires_grad_() for name, t in theta.items()}
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.loss(leaves, views, y), list(leaves.values()))
        return dict(zip(leaves, slopes, strict=True))

    def loss(self, theta: Tensors, views: Tensor, y: Tensor) -> Tensor:
        """The contrastive loss of views ``[V, C, H, W]`` with classes ``[V]`` at some weights."""
        z = torch.func.functional_call(self.network, self.buffers | theta, (views,))
        return contrastive(z, y)


def contrastive(embedding: Tensor, y: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """The supervised contrastive loss of ``[V, D]``; a view without another of its class does not count.

    Raises:
        ValueError: no two views are of one class.
    """
    z = F.normalize(embedding, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    same = (y[:, None] == y[None]) & ~itself
    counts = same.sum(1)
    anchors = counts > 0
    if not anchors.any():
        raise ValueError("a contrastive loss needs two views of a class")
    each = log_p.masked_fill(~same, 0.0).sum(1)[anchors] / counts[anchors]
    return -each.mean()


def drawn(y: Tensor, most: int, gen: Generator) -> Tensor:
    """Which of ``[n]`` pictures a step looks at: all, or about as many of each class, ``most`` in all if that can be.

    Every picture draws a number, and each class puts those with the lowest first, so that it does not matter how the
    classes are numbered.
    """
    lots = torch.rand(len(y), generator=gen, dtype=torch.float64)
    if len(y) <= most:
        return torch.arange(len(y))
    counts = torch.bincount(y)
    share = max(1, most // int((counts > 0).sum()))
    rank = ((y[:, None] == y[None]) & (lots[None] < lots[:, None])).sum(1)
    return (rank < share).nonzero()[:, 0]


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


class ContextVector:
    """What CAVIA adapts to a task, its context ``c``, behind the interface of all representations.

    Args:
        algorithm: CAVIA with a prototype head; with fixed rows the context would depend on the classes' numbers.
        state: its state.

    Raises:
        ValueError: another algorithm, a head with fixed rows, or no step to adapt by.
    """

    key: ClassVar[str] = "context"
    title: ClassVar[str] = "CAVIA's context"

    def __init__(self, algorithm: Algorithm, state: State) -> None:
        if algorithm.info.key != "cavia" or algorithm.p.head != "prototype" or algorithm.p.test_steps < 1:
            raise ValueError("a context needs CAVIA with a prototype head and at least one step")
        self.algorithm, self.state = algorithm, state

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[context]`` float64."""
        x = task.needed_x()
        order = canonical_order(x)
        support = Support(x[order], task.y[order], task.ways)
        with quick.passes():
            adapted = self.algorithm.adapt(self.state, support, ctx)
        context = adapted.tensors["context"].double().cpu()
        if not torch.isfinite(context).all():
            raise ValueError("the context is not finite")
        return context

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """-1..1, the cosine. The context starts at 0 for every task, so there is nothing to centre."""
        return cosine(a, b)
