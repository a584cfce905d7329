"""CAVIA, fast context adaptation (Zintgraf, Shiarli, Kurin, Hofmann, Whiteson 2019, arXiv 1810.03642).

The parameters are split: ``theta`` is the same for all tasks and only the outer steps change it; a small context vector
``c`` is all that a task adapts. It starts at 0 each time::

    c_0     = 0                                                     [100]
    c_{j+1} = c_j - alpha * grad_c L_S(theta, c_j)                  j = 0 .. k-1
    M(theta) = mean over tasks of L_Q(theta, c_k(theta))

``c`` modulates the channels of one layer (FiLM, Perez et al. 2018) behind the third of Conv-4's four batch norms::

    (gamma, delta) = A c + a            [2 C]          h = gamma (*) x + delta            x normalised, [B, C, H, W]

The batch norm's own weight and bias *are* ``a``: no layer is added, ``c = 0`` is the plain network, and an adapted one
is a plain network with other numbers in that layer. In other backbones it is the layer that ends the third quarter of
their batch norms.

A task's knowledge is 100 numbers: kept as ``context`` with what was adapted, it describes the task too.

Of the two forms of the head ``textbook`` rows stay as they are (``c`` has to move the features towards them) and fix
the number of classes. With ``prototype`` the classifier is the class means of the task's examples *in the present
context*, at each step: any number of classes, and ``c`` learns which channels tell these classes apart.

Mistakes that are easily made here, and not made: a context that is carried from task to task or starts at random;
``theta`` moved in the inner loop; ``c`` set in front of the batch norm, which takes half of it back. Batch norm is
MetaBN, as in MAML.
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

CONTEXT = "context"
MATRIX = "film"
"""Learnt: ``A [2, C, context]``, for the weight and for the bias."""


@registry.register
class CAVIA(forms.WholeNetwork):
    """A context vector is all that adapts; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="cavia",
        title="CAVIA",
        family="optimisation",
        paper="Zintgraf, Shiarli, Kurin, Hofmann, Whiteson 2019, arXiv 1810.03642",
        summary="Adapts a vector of a hundred numbers that modulates one layer; the network itself is shared.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = param(
            "prototype",
            choices=("prototype", "textbook"),
            help="The classifier: the examples' class means (any number of classes), or learnt rows, one per class, "
            "whose number is then fixed.",
        )
        context: int = param(
            100, low=1, high=1000, step=10, title="Context parameters", help="Numbers that a task adapts."
        )
        inner_lr: float = param(1.0, low=1e-4, high=100.0, step=0.1, title="Inner learning rate", help="Alpha.")
        inner_steps: int = forms.steps_in_training(2, help="Gradient steps of the context on each task while training.")
        test_steps: int = forms.steps_in_use(2)
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        layers = {path: len(m.weight) for path, m in self.network.named_modules() if isinstance(m, norm.Norm2d)}
        self.layer, self.channels = list(layers.items())[math.ceil(3 * len(layers) / 4) - 1]

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=10.0),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), head (``head.*`` or ``scale``) and the matrix ``film [2, C, context]``."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        head = heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        drawn = torch.rand(2, self.channels, self.p.context, generator=gen, device=gen.device)
        film = {MATRIX: (2 * drawn - 1) / math.sqrt(self.p.context)}
        return State(functional.named(trunk) | head | film, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Mean gradient over the tasks, one task's graph at a time."""
        return inner.mean_gradient(s, batch.episodes, lambda learned, e: self.task_loss(learned, e, ctx))

    def task_loss(self, learned: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: ``L_Q(theta, c_k)`` with its graph, through the steps of ``c``, down to ``theta``."""
        x, y = episode.support_x, episode.support_y
        _, first = inner.start(self.network, learned, x, y, episode.ways)
        *_, adapted = inner.descent(
            lambda t: self.support_loss(learned, t[CONTEXT], x, y, episode.ways),
            self._start(learned),
            lr=self.p.inner_lr,
            steps=self.p.inner_steps,
            order="second",
            ctx=ctx,
        )
        there = self.modulated(learned, adapted[CONTEXT])
        theta, _ = inner.start(self.network, there, x, y, episode.ways)
        given = inner.statistics(self.network, theta, x)
        logits = inner.query_logits(self.network, theta, given, episode.query_x)
        return inner.TaskLoss(F.cross_entropy(logits, episode.query_y), logits, first)

    def support_loss(self, learned: Tensors, context: Tensor, x: Tensor, y: Tensor, ways: int) -> Tensor:
        """``L_S(theta, c)``."""
        with norm.batch_statistics():
            features = functional.call(self.network, functional.under(self.modulated(learned, context)), {}, x)
        return F.cross_entropy(F.linear(features, *heads.linear_start(learned, features, y, ways)), y)

    def modulated(self, learned: Tensors, context: Tensor) -> Tensors:
        """``learned`` with the context in its layer: weight and bias ``A c + a``."""
        gamma, delta = (learned[MATRIX] @ context).unbind()
        layer = functional.TRUNK + self.layer
        return learned | {
            f"{layer}.weight": learned[f"{layer}.weight"] + gamma,
            f"{layer}.bias": learned[f"{layer}.bias"] + delta,
        }

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``test_steps`` steps of ``context``; the network with it folded in, and the support's statistics."""
        x, y, learned = support.x, support.y, detach(s.learned)

        @torch.no_grad()
        def network_in(adapted: Tensors) -> Tensors:
            there = self.modulated(learned, adapted[CONTEXT])
            theta, _ = inner.start(self.network, there, x, y, support.ways)
            return theta | adapted

        path = inner.descent(
            lambda t: self.support_loss(learned, t[CONTEXT], x, y, support.ways),
            self._start(learned),
            lr=self.p.inner_lr,
            steps=self.p.test_steps,
            order="none",
            ctx=ctx,
        )
        return inner.followed(self.network, map(network_in, path), x, support.ways, self.p.test_steps, on_step)

    def _start(self, learned: Tensors) -> Tensors:
        """The context of a new task: zero. A leaf of its own, so that it can take steps without ``theta``."""
        return {CONTEXT: learned[MATRIX].new_zeros(self.p.context).requires_grad_()}
