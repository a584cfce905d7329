"""LSTM meta-learner (Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning): an LSTM is the optimiser.

An LSTM moves its cell state ``c_t = f_t (*) c_{t-1} + i_t (*) c~_t``, and gradient descent moves its weights
``theta_t = theta_{t-1} - alpha grad L(theta_{t-1})``. They are one formula: let the cell state *be* the learner's
weights ``theta [P]``, the candidate ``c~_t = -grad``, and learn both gates::

    theta_t = f_t (*) theta_{t-1} - i_t (*) grad_t                                        t = 1 .. T
    i_t     = sigmoid(w_I . [grad_t, L_t, theta_{t-1}, i_{t-1}] + b_I)                    the step size, 0 .. 1
    f_t     = sigmoid(w_F . [grad_t, L_t, theta_{t-1}, f_{t-1}] + b_F)                    how much is kept
    theta_0 = c_0                                                    learnt: where every task begins

with ``grad_t, L_t`` of the task's examples at ``theta_{t-1}``, and ``f_0 = i_0 = 0``. Each number of the network has
its own gates and all share the weights ``w [6], b []`` (see ``coordinates``): gradient and loss come in pre-processed
and make two inputs each. The loss of the queries at ``theta_T`` trains ``w, b`` and ``c_0`` alike. Gradients and losses
of the examples count as constants: with gates that do not move this is first-order MAML with weight decay.

``units > 0`` puts an ordinary LSTM of so many units before the gates, as in the paper's experiments (20): it reads
gradient and loss and remembers the steps so far, and the gates read what it says in their stead,
``[h_t [H], theta_{t-1}, i_{t-1}]``. A step then costs a multiple of the equations above, which are the default.

The gates begin nearly constant, ``i = inner_lr`` and ``f = sigmoid(6) = 0.998``: small steps of plain descent. A forget
gate that began at one half would forget the start in three steps. In use it takes the ``T`` steps it was trained for.
``T = 12`` for one example per class and 5 for five in the paper. The gradient's norm is cut at 0.25, as there.

The head is ``prototype`` (rows that begin at the class means, any number of classes) or ``textbook`` (rows that are
part of ``c_0``, a fixed number), as in MAML. Batch norm is MetaBN: the queries are normalised with their own task's
examples, and nothing of another task is read while adapting.

Mistakes that are easily made here, and not made: leaving out the loss, without which the gates cannot tell a task that
is nearly solved from one that is not; batch-norm statistics carried from training into a new task; taking ``theta_t``
out of the graph between the steps, which trains the last step alone and never ``c_0``; gradients left in the graph; a
cell that sees a whole layer at once and fits no other network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import coordinates, forms, functional, heads, inner, registry
from workbench.learn.coordinates import Memory
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

CELL = "cell."
"""Prefix of the learnt gates ``input.weight, input.bias, forget.weight, forget.bias`` and of ``reader.*``."""
FORGET_BIAS = 6.0
SPREAD = 0.01
"""The gates' weights begin uniform between minus and plus this."""


@registry.register
class LSTMMetaLearner(forms.WholeNetwork):
    """Descent whose step size and decay are the gates of an LSTM; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="lstm",
        title="LSTM meta-learner",
        family="optimisation",
        paper="Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning, ICLR",
        summary="Learns a starting point and a small LSTM that decides, for every weight and step, how far to go.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        inner_lr: float = param(
            0.05, low=1e-4, high=0.9, step=0.01, title="First step size", help="Where the input gate starts."
        )
        inner_steps: int = param(
            5,
            low=1,
            high=50,
            step=1,
            title="Inner steps",
            help="Steps on each task, in training and in use; the paper takes 12 for one example per class, 5 for "
            "five.",
        )
        units: int = param(
            0,
            low=0,
            high=64,
            step=5,
            title="Units that remember",
            help="Of an LSTM between gradients and gates, 20 in the paper; 0: the gates read the gradients themselves.",
        )
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

        @property
        def test_steps(self) -> int:
            """As many as in training: what the gates do after them nobody has taught."""
            return self.inner_steps

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=0.25),)

    def init(self, gen: Generator) -> State:
        """``c_0``: trunk (fresh or pretrained) and the head's start; and the cell."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        cell = cell_start(self.p.units, self.p.inner_lr, gen)
        return State(learned | functional.named(cell, CELL), functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Mean gradient over the tasks, one task's graph at a time."""
        return inner.mean_gradient(s, batch.episodes, lambda learned, e: self.task_loss(learned, e, ctx))

    def task_loss(self, learned: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: ``L_Q(theta_T)`` with its graph down to ``c_0`` and the cell."""
        x, y = episode.support_x, episode.support_y
        start, first = inner.start(self.network, learned, x, y, episode.ways)
        cell = functional.under(learned, CELL)
        *_, theta = coordinates.walk(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            gated,
            cell,
            nothing_yet(cell, coordinates.flat(start)),
            steps=self.p.inner_steps,
            ctx=ctx,
            graph=True,
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
        """``T`` steps: the whole network, its head, and the support's statistics as its running statistics."""
        x, y = support.x, support.y
        with torch.no_grad():
            start, _ = inner.start(self.network, s.learned, x, y, support.ways)
        cell = functional.under(s.learned, CELL)
        path = coordinates.walk(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            gated,
            cell,
            nothing_yet(cell, coordinates.flat(start)),
            steps=self.p.inner_steps,
            ctx=ctx,
            graph=False,
        )
        return inner.followed(self.network, path, x, support.ways, self.p.inner_steps, on_step)


# ---- the cell --------------------------------------------------------------------------------------------------------


def cell_start(units: int, inner_lr: float, gen: Generator) -> Tensors:
    """A fresh cell: gates nearly constant at ``inner_lr`` and at ``sigmoid(FORGET_BIAS)``, and a reader, if any.

    Args:
        units: ``H`` of the reader, or 0.
        inner_lr: the input gate, between 0 and 1.
        gen: of all randomness.
    """
    inputs = (units or 4) + 2
    cell = {"input.bias": math.log(inner_lr / (1 - inner_lr)), "forget.bias": FORGET_BIAS}
    out = {n: torch.tensor(b, device=gen.device) for n, b in cell.items()}
    for gate in ("input", "forget"):
        out[f"{gate}.weight"] = SPREAD * (2 * torch.rand(inputs, generator=gen, device=gen.device) - 1)
    if units:
        out |= functional.named(coordinates.lstm_start(4, units, gen), "reader.")
    return out


def nothing_yet(cell: Tensors, theta: Tensor) -> Memory:
    """The memory before the first step: gates ``i_0, f_0 [P]`` and the reader's ``h_0, c_0 [P, H]``, all zero."""
    gates = (torch.zeros_like(theta), torch.zeros_like(theta))
    if "reader.bias" not in cell:
        return gates
    nothing = theta.new_zeros(len(theta), len(cell["reader.bias"]) // 4)
    return (*gates, nothing, nothing)


def gated(cell: Tensors, theta: Tensor, gradient: Tensor, loss: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """One step of all numbers; a ``coordinates.Rule``."""
    i, f, *reader = memory
    seen = torch.cat(
        [coordinates.preprocessed(gradient), coordinates.preprocessed(loss).expand(len(theta), 2)], 1
    )  # [P, 4]
    if reader:
        reader = list(coordinates.lstm(functional.under(cell, "reader."), seen, *reader))
        seen = reader[0]  # [P, H]
    i = gate(cell["input.weight"], cell["input.bias"], seen, theta, i)
    f = gate(cell["forget.weight"], cell["forget.bias"], seen, theta, f)
    return f * theta - i * gradient, (i, f, *reader)


def gate(weight: Tensor, bias: Tensor, seen: Tensor, theta: Tensor, before: Tensor) -> Tensor:
    """``sigmoid(w . [seen [P, I], theta [P], before [P]] + b)``, ``[P]``."""
    return torch.sigmoid(seen @ weight[:-2] + weight[-2] * theta + weight[-1] * before + bias)
