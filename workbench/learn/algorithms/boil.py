"""BOIL, body only inner loop (Oh, Yoo, Kim, Yun 2021, arXiv 2008.08882): MAML that adapts its trunk alone.

The reverse of ANIL. The classifier stays where it starts, and the inner steps move the *features* towards it::

    theta_0     = theta
    theta_{j+1} = theta_j - alpha * m (*) grad L_S(theta_j)          m = 1 on the trunk, 0 on the head
    M(theta)    = mean over tasks of L_Q(theta_k)

so that a task has to be solved by changing the representation, which helps where new tasks come from another domain. It
is MAML with the mask "trunk only", batch norm's weights included, to the last digit; the head is learnt by the outer
steps. Of the two forms of the head, ``textbook`` rows fix the number of classes; ``prototype`` puts the rows at the
class means of the task's examples *before* the first step, where they stay while the features come towards them: any
number of classes.

Batch norm is MetaBN, as in MAML: queries are normalised with the examples' statistics. Mistakes that are easily made
here, and not made: a head that moves after all (its gradient is not even computed); prototypes computed anew after each
step, which would run after the features.
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
class BOIL(forms.WholeNetwork):
    """MAML with an inner loop of the trunk alone; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="boil",
        title="BOIL",
        family="optimisation",
        paper="Oh, Yoo, Kim, Yun 2021, arXiv 2008.08882",
        summary="Learns a network whose features move towards a classifier that stays; for tasks from other domains.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = param(
            "prototype",
            choices=("prototype", "textbook"),
            help="Where the classifier stays: at the examples' class means before the first step (any number of "
            "classes), or at learnt rows, one per class, whose number is then fixed.",
        )
        inner_lr: float = param(0.1, low=1e-4, high=10.0, step=0.01, title="Inner learning rate", help="Alpha.")
        inner_steps: int = forms.steps_in_training(5, help="Gradient steps of the trunk on each task while training.")
        test_steps: int = forms.steps_in_use(10)
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=10.0),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained) and the head."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        head = heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        return State(functional.named(trunk) | head, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Mean gradient over the tasks, one task's graph at a time."""
        return inner.mean_gradient(s, batch.episodes, lambda learned, e: self.task_loss(learned, e, ctx))

    def task_loss(self, learned: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: ``L_Q(theta_k)`` with its graph down to ``learned``."""
        x, y = episode.support_x, episode.support_y
        start, first = inner.start(self.network, learned, x, y, episode.ways)
        *_, theta = inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=self._rates(start),
            steps=self.p.inner_steps,
            order="second",
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
        """``test_steps`` steps of the trunk; the head as it starts; the support's statistics as the running ones."""
        x, y = support.x, support.y
        with torch.no_grad():
            start, _ = inner.start(self.network, s.learned, x, y, support.ways)
        path = inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=self._rates(start),
            steps=self.p.test_steps,
            order="none",
            ctx=ctx,
        )
        return inner.followed(self.network, path, x, support.ways, self.p.test_steps, on_step)

    def _rates(self, start: Tensors) -> dict[str, float]:
        """Which parameters are adapted: the trunk's."""
        return {n: self.p.inner_lr for n in start if n.startswith(functional.TRUNK)}
