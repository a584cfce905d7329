"""Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999).

Train on a task for some steps of ordinary minibatch descent, then move the initialisation a fraction towards the
result::

    theta_i = the trunk after k inner steps on task i, from theta
    theta  <- theta + eps * mean_i (theta_i - theta)             eps falls linearly to 0 over the run

**The sign**: towards the tasks. The engine steps *against* gradients, so what is handed to it is ``-eps * mean
(theta_i - theta)``, taken as it is (plain SGD with rate 1). There is no query set and no second order; what is learnt
is learnt by the minibatches differing from one another, so all pictures of an episode (examples *and* queries) are
trained on, 10 to 15 a class in the paper, and the accuracy reported in training is that of each minibatch *before*
its step.

The inner optimiser is Adam without momentum (``beta1 = 0``). Its second moments are carried over from step to step in
the state's memory; each task of a step starts from the same moments and their mean is kept, so the result does not
depend on the order of the tasks. In use they are read and never written.

The head belongs to a task, never to the initialisation: it starts at the class means (``w_k = 2s c_k``, ``b_k = -s
|c_k|^2``) or at zero, and is thrown away after the task. So any number of classes works, and no class numbering can
be memorised.

Batch norm uses the minibatch's statistics in the inner loop and the support set's in use (MetaBN); nothing leaks
between queries. Learnt tensors ``trunk.*``; memory: running averages ``trunk.*``, ``square.trunk.*`` and ``count``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    OnStep,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Support,
    Tensors,
    detach,
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

BETA2 = 0.999
EPS = 1e-8
SQUARE = "square."
COUNT = "count"


@registry.register
class Reptile(forms.WholeNetwork):
    """Moves the initialisation towards what training on each task gives; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="reptile",
        title="Reptile",
        family="optimisation",
        paper="Nichol, Achiam, Schulman 2018, arXiv 1803.02999",
        summary="Trains on one task after another and moves the starting point a little towards each result.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = param(
            "prototype",
            choices=("prototype", "zero"),
            help="Where each task's classifier starts: at the examples' class means, or at zero.",
        )
        optimiser: str = param(
            "adam", choices=("adam", "sgd"), title="Inner optimiser", help="Adam without momentum, or plain descent."
        )
        inner_lr: float = param(1e-3, low=1e-6, high=10.0, step=1e-4, title="Inner learning rate", help="Alpha.")
        inner_steps: int = param(
            8, low=1, high=100, step=1, title="Inner steps in training", help="Minibatches per task while training."
        )
        inner_batch: int = param(10, low=1, high=1000, step=1, title="Minibatch", help="Pictures per inner step.")
        test_steps: int = param(
            50, low=0, high=500, step=5, title="Inner steps in use", help="Steps on all examples of a new task."
        )
        outer: float = param(
            1.0, low=1e-3, high=1.0, step=0.05, title="Outer step", help="Eps; falls to 0 over the run."
        )
        tasks: int = forms.tasks_per_step(5)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes; the step is taken as it is given, ``step`` lets it fall."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, optimiser="sgd", lr={"": 1.0}, schedule="constant"),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), its running averages, and second moments at zero."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        square = {SQUARE + n: torch.zeros_like(t) for n, t in learned.items()}
        count = torch.zeros((), device=gen.device)
        return State(learned, {**functional.named(buffers), **square, COUNT: count})

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Inner training on each task; the pseudo-gradient is minus the mean way they went, times eps."""
        eps = self.p.outer * (1.0 - at.fraction)
        tasks = len(batch.episodes)
        squares = {n: torch.zeros_like(t) for n, t in s.memory.items() if n.startswith(SQUARE)}
        buffers = functional.under(s.memory)
        ends, losses, rights = [], [], []

        def fitted(i: int, episode: Episode) -> list[_Fit]:
            x = torch.cat([episode.support_x, episode.query_x])
            y = torch.cat([episode.support_y, episode.query_y])
            gen = generator(ctx.seed_for(f"reptile/{at.phase}/{at.step}/{i}"))
            rows = [r.to(y.device) for r in minibatches(len(y), self.p.inner_batch, self.p.inner_steps, gen)]
            return list(self._fit(s, x, y, episode.ways, rows, ctx))

        done = functional.each([partial(fitted, i, episode) for i, episode in enumerate(batch.episodes)])
        for _, *steps in done:
            end = steps[-1]
            ends.append({n: end.theta[n] for n in s.learned})
            squares = {n: q + end.square[n.removeprefix(SQUARE)] / tasks for n, q in squares.items()}
            buffers = norm.running_average(buffers, end.statistics)
            losses += [step.loss for step in steps]
            rights += [step.right for step in steps]
        metrics = {"loss": sum(losses) / len(losses), "accuracy": sum(rights) / len(rights)}
        memory = {**functional.named(buffers), **squares, COUNT: s.memory[COUNT] + self.p.inner_steps}
        grads = pseudo_gradient(detach(s.learned), ends, eps)
        correct = partial(self._correct, batch.episodes[0], done[0][-1].theta)
        return StepResult(grads=grads, memory=memory, metrics=metrics, correct=correct)

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``test_steps`` steps on all examples at once, so that their order does not matter."""
        rows = [torch.arange(len(support.y), device=support.y.device)] * self.p.test_steps
        adapted = Adapted({}, support.ways)
        for j, fit in enumerate(self._fit(s, support.x, support.y, support.ways, rows, ctx)):
            if on_step is not None or j == self.p.test_steps:
                adapted = Adapted(self._settled(fit.theta, support.x), support.ways)
                if on_step is not None:
                    on_step(j, adapted)
        return adapted

    def _fit(self, s: State, x: Tensor, y: Tensor, ways: int, rows: Sequence[Tensor], ctx: Context) -> Iterator[_Fit]:
        """The task's network before the first inner step and after each one; ``rows`` are the minibatches."""
        theta, statistics = self._start(s, x, y, ways)
        square = {n: s.memory.get(SQUARE + n, torch.zeros_like(t)) for n, t in theta.items()}
        yield _Fit(theta, square, statistics, 0.0, 0.0)
        for j, row in enumerate(rows, start=1):
            ctx.check()
            with torch.enable_grad():
                leaves = {n: t.detach().requires_grad_() for n, t in theta.items()}
                with norm.batch_statistics() as seen:
                    features = functional.call(self.network, functional.under(leaves), {}, x[row])
                statistics = statistics or norm.detached(seen)
                logits = F.linear(features, leaves["head.weight"], leaves["head.bias"])
                loss = F.cross_entropy(logits, y[row])
                grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            # The trunk's moments are as old as training, the head's as old as this task.
            age = {n: j + (float(s.memory[COUNT]) if n in s.learned else 0.0) for n in theta}
            if self.p.optimiser == "adam":
                square = {n: BETA2 * q + (1 - BETA2) * grads[n].square() for n, q in square.items()}
                grads = {n: g / ((square[n] / (1 - BETA2 ** age[n])).sqrt() + EPS) for n, g in grads.items()}
            theta = {n: t - self.p.inner_lr * grads[n] for n, t in theta.items()}
            right = float((logits.detach().argmax(1) == y[row]).float().mean())
            yield _Fit(theta, square, statistics, float(loss.detach()), right)

    @torch.no_grad()
    def _start(self, s: State, x: Tensor, y: Tensor, ways: int) -> tuple[Tensors, norm.Statistics]:
        """The initialisation with a fresh head, and the statistics of the task's pictures under it.

        A head at zero needs no pass of all pictures, so there are none: the first minibatch meets the same network.
        """
        trunk = detach(s.learned)
        if self.p.head == "zero":
            zero = {"head.weight": x.new_zeros(ways, self.features), "head.bias": x.new_zeros(ways)}
            return {**trunk, **zero}, {}
        with norm.batch_statistics() as statistics:
            features = functional.call(self.network, functional.under(trunk), {}, x)
        weight, bias = heads.prototype_linear(heads.prototypes(features, y, ways), heads.START / self.features)
        return {**trunk, "head.weight": weight, "head.bias": bias}, statistics

    def _correct(self, episode: Episode, theta: Tensors) -> Tensor:
        """``[Q]``: which queries the network that was trained on the task gets right, under the examples' statistics.

        They were trained on like the examples; no step needs to know, only whoever looks on.
        """
        logits = self._logits(self._settled(theta, episode.support_x), episode.query_x)
        return logits.argmax(1) == episode.query_y

    @torch.no_grad()
    def _settled(self, theta: Tensors, x: Tensor) -> Tensors:
        """The network with the statistics of ``x`` as its running ones."""
        with norm.batch_statistics() as statistics:
            functional.call(self.network, functional.under(theta), {}, x)
        return {**theta, **functional.named(norm.as_buffers(statistics))}

    @torch.no_grad()
    def _logits(self, tensors: Tensors, x: Tensor) -> Tensor:
        features = functional.call(self.network, functional.under(tensors), {}, x)
        return F.linear(features, tensors["head.weight"], tensors["head.bias"])


class _Fit(NamedTuple):
    """Where the inner training on one task stands.

    ``theta`` and its second moments ``square`` by name; ``statistics`` of the task's pictures at the start, of the
    first minibatch alone where the head begins at zero; loss and accuracy of the last minibatch before its step.
    """

    theta: Tensors
    square: Tensors
    statistics: norm.Statistics
    loss: float
    right: float


def pseudo_gradient(theta: Tensors, ends: Sequence[Tensors], eps: float) -> Tensors:
    """``-eps * mean_i (theta_i - theta)``: descending it by 1 moves ``theta`` towards the results ``theta_i``."""
    return {n: -eps * torch.stack([end[n] - t for end in ends]).mean(0) for n, t in theta.items()}


def minibatches(n: int, size: int, count: int, gen: Generator) -> list[Tensor]:
    """``count`` batches of ``min(n, size)`` row numbers, in random order without replacement within a pass."""
    size = min(n, size)
    rows: list[Tensor] = []
    while len(rows) < count:
        passed = torch.split(torch.randperm(n, generator=gen), size)
        rows += [r for r in passed if len(r) == size]
    return rows[:count]
