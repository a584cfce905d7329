"""ANIL, almost no inner loop (Raghu, Raghu, Bengio, Vinyals 2020, arXiv 1909.09157): MAML that adapts its head alone.

Most of what MAML does on a new task is reuse: its trunk hardly moves. So only the classifier takes the inner steps, and
the trunk is learnt through them::

    f       = trunk of the task's pictures, once                              [S, D], [Q, D]
    w_0     = the head's start
    w_{j+1} = w_j - alpha * grad_w CE(f_S w_j + b_j, y_S)                     j = 0 .. k-1
    M       = mean over tasks of CE(f_Q w_k + b_k, y_Q)

It is MAML with the mask "head only" on the inner gradient, to the last digit. ``M`` depends on the trunk twice: through
the queries' features, and through the examples' features inside the steps. Leaving the second way out (features
detached before the inner loop) is the classic mistake; another is a mask that forgets the batch norm's weights.

Adapting is a logistic regression on a few features: milliseconds, and features depend on their picture alone, so they
are kept from one correction to the next. For that batch norm runs as in Prototypical Networks: in training the whole
episode is one batch, in use the running averages stand.

The head begins as learnt rows (``textbook``, a fixed number of classes) or at the class means of the task's examples
(``prototype``: any number of classes, and the start is a good classifier already).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, inner, norm, registry
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
class ANIL(forms.FixedTrunk):
    """MAML with an inner loop of the head alone; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="anil",
        title="ANIL",
        family="optimisation",
        paper="Raghu, Raghu, Bengio, Vinyals 2020, arXiv 1909.09157",
        summary="Learns features on which a few gradient steps of the classifier alone fit a new task; adapts at once.",
        tags=frozenset({"trains", "gradient-based", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        inner_lr: float = param(0.1, low=1e-4, high=10.0, step=0.01, title="Inner learning rate", help="Alpha.")
        inner_steps: int = param(
            5,
            low=0,
            high=100,
            step=1,
            title="Inner steps in training",
            help="Gradient steps of the classifier on each task while training.",
        )
        test_steps: int = param(
            10, low=0, high=500, step=5, title="Inner steps in use", help="Gradient steps on a new task."
        )
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=10.0),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained) with its running averages, and the head's start."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        head = heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        return State(functional.named(trunk) | head, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Mean gradient over the tasks."""
        return inner.mean_gradient(s, batch.episodes, lambda learned, e: self.task_loss(learned, e, ctx))

    def task_loss(self, learned: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: one pass through the trunk, then ``k`` differentiable steps on ``[S, D]`` features."""
        x = torch.cat([episode.support_x, episode.query_x])
        with norm.batch_statistics() as seen:
            features = functional.call(self.network, functional.under(learned), {}, x)
        f, q = torch.split(features, [len(episode.support_y), len(episode.query_y)])
        *_, head = inner.descent(
            lambda t: F.cross_entropy(F.linear(f, t["head.weight"], t["head.bias"]), episode.support_y),
            self._start(learned, f, episode.support_y, episode.ways),
            lr=self.p.inner_lr,
            steps=self.p.inner_steps,
            order="second",
            ctx=ctx,
        )
        logits = F.linear(q, head["head.weight"], head["head.bias"])
        return inner.TaskLoss(F.cross_entropy(logits, episode.query_y), logits, seen)

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``test_steps`` steps of the head ``head.weight [N, D], head.bias [N]``."""
        with torch.no_grad():
            f = self.shown(s, support)
            start = self._start(s.learned, f, support.y, support.ways)
        adapted = Adapted({}, support.ways)
        path = inner.classifier_descent(f, support.y, start, lr=self.p.inner_lr, steps=self.p.test_steps, ctx=ctx)
        for j, head in enumerate(path):
            adapted = Adapted(head, support.ways)
            if on_step is not None:
                on_step(j, adapted)
        return adapted

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``."""
        return F.linear(self._features(s, x), a.tensors["head.weight"], a.tensors["head.bias"])

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The adapted linear layer."""
        return heads.LinearHead(a.tensors["head.weight"], a.tensors["head.bias"])

    def _start(self, learned: Tensors, features: Tensor, y: Tensor, ways: int) -> Tensors:
        weight, bias = heads.linear_start(learned, features, y, ways)
        return {"head.weight": weight, "head.bias": bias}
