"""MAML++ (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502): MAML made stable by six tricks, each a switch here.

With all of them off it is MAML, to the last bit. ``f`` is the fraction of training done, ``k`` the inner steps:

* **MSL**, multi-step loss: ``M = sum_j w_j L_Q(theta_j)``, j = 1 .. k. The weights begin equal and, until ``f`` reaches
  ``msl_until``, all go over to the last step; they always add to 1.
* **DA**, derivative-order annealing: first-order gradients until ``f`` reaches ``da_until``, second-order from there.
* **LSLR**, per-layer per-step learning rates: ``theta_{j+1} = theta_j - a_{lj} grad_l L_S(theta_j)`` with learnt
  ``a [layers, k]``, all starting at the inner learning rate. (A layer's weight and bias have a rate each.)
* **BNRS**, per-step batch-norm running statistics: one set of averages for ``theta_0`` and one for each ``theta_j``. In
  training a task's pictures are normalised with its examples' statistics (MetaBN), which the averages of that step
  follow; in use the averages of that step stand for them, so a prediction depends on the weights and the picture alone.
  Without it the examples' statistics are used there too, as in MAML.
* **BNWB**, per-step batch-norm weights and biases: at ``theta_j`` the weight and bias of every batch norm are those of
  ``theta_j`` plus an offset learnt for step ``j``, 0 at first.
* **CA**, cosine annealing of the outer learning rate, down to 0 (to 1/100 in the paper); without it the rate stays.

More steps in use than in training go on with the rates, statistics and offsets of the last trained step. The adapted
network is a plain one: the last step's offsets and statistics are part of it.

The head is ``prototype`` or ``textbook`` as in MAML. Mistakes that are easily made here, and not made: one buffer for
the statistics of all steps; the step index running past the last set; weights of the multi-step loss that do not add to
1; queries normalised with one another's statistics, which the authors' code does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, inner, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    OnStep,
    Phase,
    Setting,
    SourceSummary,
    State,
    StepResult,
    Support,
    Tensors,
    detach,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

RATE = "rate."
"""Learnt: ``rate.<parameter> [k]``."""
OFFSET = "offset."
"""Learnt: ``offset.<batch norm>.weight|bias [k, C]`` for the steps 1 to k."""
STEPS = "steps."
"""Memory: ``steps.<batch norm>.running_mean|running_var [k, C]`` likewise; those of step 0 are the trunk's own."""


@registry.register
class MAMLPlusPlus(forms.WholeNetwork):
    """MAML with six tricks for a stable training; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="maml++",
        title="MAML++",
        family="optimisation",
        paper="Antoniou, Edwards, Storkey 2019, arXiv 1810.09502",
        summary="MAML made stable: a loss at every step, learnt step sizes, batch norm per step; each trick a switch.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        inner_lr: float = param(
            0.1, low=1e-4, high=10.0, step=0.01, title="Inner learning rate", help="Where the learnt rates start."
        )
        inner_steps: int = forms.steps_in_training(5, low=1)
        test_steps: int = forms.steps_in_use(5)
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)
        msl: bool = param(True, title="Multi-step loss", help="A loss on the queries after every inner step.")
        msl_until: float = param(
            0.1, low=0.0, high=1.0, step=0.05, title="Multi-step until", help="From this fraction on: the last step."
        )
        da: bool = param(True, title="Derivative-order annealing", help="First-order gradients at first.")
        da_until: float = param(
            0.5, low=0.0, high=1.0, step=0.05, title="First order until", help="From this fraction on: second order."
        )
        lslr: bool = param(True, title="Learnt step sizes", help="One inner learning rate per layer and step.")
        bnrs: bool = param(
            True,
            title="Batch-norm statistics per step",
            help="Averages over training for each step, used on new tasks.",
        )
        bnwb: bool = param(True, title="Batch-norm weights per step", help="A learnt offset of each for each step.")
        ca: bool = param(True, title="Cosine annealing", help="The outer learning rate falls to 0 over the run.")

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.norms = [path for path, part in self.network.named_modules() if isinstance(part, norm.Norm2d)]

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes; ``step`` anneals the loss and the order."""
        return (
            Phase(
                "episodes",
                tasks_per_step=self.p.tasks,
                lr={"": self.p.lr},
                schedule="cosine" if self.p.ca else "constant",
                clip=10.0,
            ),
        )

    def init(self, gen: Generator) -> State:
        """Trunk, head, and what the switches add: ``rate.*``, ``offset.*`` and, in the memory, ``steps.*``."""
        k = self.p.inner_steps
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned, memory = functional.named(trunk), functional.named(buffers)
        adapted = [*learned, "head.weight", "head.bias"]
        learned |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        if self.p.lslr:
            learned |= {RATE + n: torch.full((k,), self.p.inner_lr, device=gen.device) for n in adapted}
        for path in self.norms:
            channels = trunk[f"{path}.weight"]
            if self.p.bnwb:
                learned |= {f"{OFFSET}{path}.{n}": channels.new_zeros(k, len(channels)) for n in ("weight", "bias")}
            if self.p.bnrs:
                named = {n: buffers[f"{path}.{n}"] for n in ("running_mean", "running_var")}
                memory |= {f"{STEPS}{path}.{n}": t.expand(k, -1).clone() for n, t in named.items()}
        return State(learned, memory)

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean gradient over the tasks; the averages of each step follow the tasks' statistics there."""
        weights = loss_weights(self.p.inner_steps, at.fraction / self.p.msl_until if self.p.msl_until else 1.0)
        if not self.p.msl:
            weights = loss_weights(self.p.inner_steps, 1.0)
        order: inner.Order = "first" if self.p.da and at.fraction < self.p.da_until else "second"
        seen: dict[int, list[norm.Statistics]] = {}  # by task: they may be done in any order

        def loss(learned: Tensors, e: Episode) -> inner.TaskLoss:
            found, seen[id(e)] = self.task_loss(learned, e, weights, order, ctx)
            return found

        result = inner.mean_gradient(s, batch.episodes, loss)
        assert result.memory is not None
        memory = result.memory
        if self.p.bnrs:
            for e in batch.episodes:
                memory = _averaged(memory, seen[id(e)])
        return replace(result, memory=memory)

    def task_loss(
        self, learned: Tensors, episode: Episode, weights: list[float], order: inner.Order, ctx: Context
    ) -> tuple[inner.TaskLoss, list[norm.Statistics]]:
        """One task: ``sum_j w_j L_Q(theta_j)`` with its graph, and the examples' statistics at each step from 1."""
        x, y = episode.support_x, episode.support_y
        theta_0, first = inner.start(self.network, learned, x, y, episode.ways)

        def support_loss(theta: Tensors, j: int) -> Tensor:
            return F.cross_entropy(inner.support_logits(self.network, self._at(learned, theta, j), x), y)

        total, logits = x.new_zeros(()), x.new_zeros(())
        statistics: list[norm.Statistics] = []
        path = self._descent(learned, theta_0, support_loss, self.p.inner_steps, order, ctx)
        for j, theta in enumerate(path):
            if j == 0 or not (weights[j - 1] or self.p.bnrs):
                continue
            there = self._at(learned, theta, j)
            with torch.set_grad_enabled(weights[j - 1] > 0):
                given = inner.statistics(self.network, there, x)
            statistics.append(norm.detached(given))
            if weights[j - 1]:
                logits = inner.query_logits(self.network, there, given, episode.query_x)
                total = total + weights[j - 1] * F.cross_entropy(logits, episode.query_y)
        return inner.TaskLoss(total, logits, first), statistics

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``test_steps`` steps: the network with the offsets and the statistics of its last step, and its head."""
        x, y, learned = support.x, support.y, detach(s.learned)
        with torch.no_grad():
            if self.p.bnrs:
                features = self._features(functional.under(learned), self._averages(s, 0), x)
                weight, bias = heads.linear_start(learned, features, y, support.ways)
                trunk = {n: t for n, t in learned.items() if n.startswith(functional.TRUNK)}
                theta_0 = {**trunk, "head.weight": weight, "head.bias": bias}
            else:
                theta_0, _ = inner.start(self.network, learned, x, y, support.ways)

        def support_loss(theta: Tensors, j: int) -> Tensor:
            there = self._at(learned, theta, j)
            if not self.p.bnrs:
                return F.cross_entropy(inner.support_logits(self.network, there, x), y)
            features = self._features(functional.under(there), self._averages(s, j), x)
            return F.cross_entropy(F.linear(features, there["head.weight"], there["head.bias"]), y)

        adapted = Adapted({}, support.ways)
        for j, theta in enumerate(self._descent(learned, theta_0, support_loss, self.p.test_steps, "none", ctx)):
            if on_step is None and j < self.p.test_steps:
                continue
            there = detach(self._at(learned, theta, j))
            if self.p.bnrs:
                settled = {**there, **functional.named(self._averages(s, j))}
            else:
                settled = inner.settled(self.network, there, x)
            adapted = Adapted(settled, support.ways)
            if on_step is not None:
                on_step(j, adapted)
        return adapted

    def _descent(
        self,
        learned: Tensors,
        start: Tensors,
        loss: Callable[[Tensors, int], Tensor],
        steps: int,
        order: inner.Order,
        ctx: Context,
    ) -> Iterator[Tensors]:
        """``theta_0`` to ``theta_steps``, one step of plain descent after another, each with its own rates."""
        theta, *_ = inner.descent(lambda t: loss(t, 0), start, lr=0.0, steps=0, order=order, ctx=ctx)
        yield theta
        for j in range(steps):
            rates = {n: learned[RATE + n][self._set(j + 1) - 1] for n in theta} if self.p.lslr else self.p.inner_lr
            _, theta = inner.descent(lambda t, j=j: loss(t, j), theta, lr=rates, steps=1, order=order, ctx=ctx)  # type: ignore[misc]
            yield theta

    def _set(self, j: int) -> int:
        """Which of the sets 0 to k serves the step ``j``."""
        return min(j, self.p.inner_steps)

    def _at(self, learned: Tensors, theta: Tensors, j: int) -> Tensors:
        """``theta`` with the offsets of step ``j`` added to its batch norms' weights and biases."""
        if j == 0 or not self.p.bnwb:
            return theta
        offsets = {functional.TRUNK + n: t[self._set(j) - 1] for n, t in functional.under(learned, OFFSET).items()}
        return theta | {n: theta[n] + t for n, t in offsets.items()}

    def _averages(self, s: State, j: int) -> Tensors:
        """The running buffers of step ``j``, by the trunk's names."""
        if j == 0:
            return functional.under(s.memory)
        return {n: t[self._set(j) - 1] for n, t in functional.under(s.memory, STEPS).items()}

    def _features(self, trunk: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
        return functional.call(self.network, trunk, buffers, x)


def loss_weights(steps: int, done: float) -> list[float]:
    """Weights of the losses after steps 1 to ``steps``: equal at ``done = 0``, all on the last from 1 on; sum 1."""
    each = max(0.0, 1.0 - done) / steps
    return [each] * (steps - 1) + [1.0 - (steps - 1) * each]


def _averaged(memory: Tensors, statistics: list[norm.Statistics]) -> Tensors:
    """The memory with each step's averages moved towards that step's statistics."""
    held = functional.under(memory, STEPS)
    rows = [norm.running_average({n: t[j] for n, t in held.items()}, seen) for j, seen in enumerate(statistics)]
    return {**memory, **{STEPS + n: torch.stack([row[n] for row in rows]) for n in held}}
