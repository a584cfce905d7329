"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, arXiv 1703.03400), second and first order.

An initialisation ``theta`` is learnt from which a few gradient steps on a task's examples S lead to a small loss on
its queries Q::

    theta_0     = theta
    theta_{j+1} = theta_j - alpha * grad L_S(theta_j)            j = 0 .. k-1, all weights of trunk and head
    M(theta)    = mean over tasks of L_Q(theta_k)

``dM/dtheta = prod_j (I - alpha H_S(theta_j)) grad L_Q(theta_k)`` is the ordinary gradient of a composed function;
automatic differentiation through the steps gives it exactly. First-order MAML (FOMAML) treats the inner gradients as
constants, which drops the Hessians: half the memory, nearly the same accuracy.

The head comes in two forms:

* ``textbook``: ``N`` rows of weights that are learnt like the rest; every task must have exactly these ``N`` classes.
* ``prototype`` (Triantafillou et al. 2020, arXiv 1903.03096, first-order there): ``w_k = 2s c_k``, ``b_k = -s
  |c_k|^2`` from the class means ``c_k`` of the task's own examples under ``theta``, inside the graph; any number of
  classes.

Batch norm is MetaBN (Bronskill et al. 2020): examples are normalised with their own statistics, queries with *the
examples'* statistics at ``theta_k``, which are kept with the adapted network. Published results of MAML normalise
queries with one another's statistics, which leaks up to three points of accuracy.

Mistakes that are easily made here, and not made: no ``create_graph``; ``detach`` or in-place updates in the inner
step; queries that share statistics; running averages adapted across tasks; the graph of all tasks kept until the step
(here each task's gradient is taken and its graph freed); a sum over tasks that changes the step size with their
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, inner, registry
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
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes


@registry.register
class MAML(forms.WholeNetwork):
    """MAML with second-order gradients; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="maml",
        title="MAML",
        family="optimisation",
        paper="Finn, Abbeel, Levine 2017, arXiv 1703.03400",
        summary="Learns a starting point from which a few gradient steps fit a new task; differentiates through them.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters of both orders."""

        head: str = forms.head_choice()
        inner_lr: float = param(0.1, low=1e-4, high=10.0, step=0.01, title="Inner learning rate", help="Alpha.")
        inner_steps: int = forms.steps_in_training(5)
        test_steps: int = forms.steps_in_use(10)
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

    p: Params

    order: ClassVar[inner.Order] = "second"

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes; the gradient's norm is cut at 10, as the authors did on photographs."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=10.0),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained) and the head's start: ``head.weight, head.bias``, or ``scale`` = log s."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Mean gradient over the tasks, one task's graph at a time."""
        return inner.mean_gradient(s, batch.episodes, lambda learned, e: self.task_loss(learned, e, ctx))

    def task_loss(self, learned: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: ``L_Q(theta_k)`` with its graph down to ``learned``, queries' logits, statistics at the start."""
        x, y = episode.support_x, episode.support_y
        start, first = inner.start(self.network, learned, x, y, episode.ways)
        *_, theta = inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=self.p.inner_lr,
            steps=self.p.inner_steps,
            order=self.order,
            ctx=ctx,
        )
        given = inner.statistics(self.network, theta, x)
        logits = inner.query_logits(self.network, theta, given, episode.query_x)
        return inner.TaskLoss(F.cross_entropy(logits, episode.query_y), logits, first)

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``test_steps`` steps: the whole network, its head, and the support's statistics as its running statistics."""
        x, y = support.x, support.y
        with torch.no_grad():
            start, _ = inner.start(self.network, s.learned, x, y, support.ways)
        path = inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=self.p.inner_lr,
            steps=self.p.test_steps,
            order="none",
            ctx=ctx,
        )
        return inner.followed(self.network, path, x, support.ways, self.p.test_steps, on_step)


@registry.register
class FOMAML(MAML):
    """MAML with first-order gradients; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="fomaml",
        title="First-order MAML",
        family="optimisation",
        paper="Finn, Abbeel, Levine 2017, arXiv 1703.03400",
        summary="MAML without its second derivatives: half the memory, nearly the same accuracy.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )
    order: ClassVar[inner.Order] = "first"
