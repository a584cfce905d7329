"""What algorithms of one form have in common besides what they learn: where features come from, how one is deployed.

``OnNetwork`` is an algorithm on a backbone, and its forms differ in what a support set does to the trunk:

* ``FixedTrunk``: nothing. Its features can be kept, and a task takes steps with a classifier on them (ANIL), or fits
  one at once: ``FittedHead`` (ProtoNet). ``FrozenTrunk`` is one of those that is not trained either (ridge).
* ``ChangedTrunk``: it changes some of the trunk's tensors, which :class:`Adapted` holds (TADAM, fine-tuning).
* ``WholeNetwork``: it changes all of them and a linear classifier behind them (MAML and what came of it).

An algorithm's file has what makes the method: ``info`` and ``Params``, ``phases``, ``init``, ``step``, ``adapt``, and
``head`` where it is not the whole network's. It may replace anything here, and needs none of it to be an
:class:`~workbench.learn.protocol.Algorithm`.

The functions at the end are fields of ``Params`` that many methods have, with the same range and the same words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import functional, heads, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Deployed,
    OnStep,
    Phase,
    Setting,
    SourceSummary,
    State,
    StepResult,
    Support,
    Tensors,
)


class OnNetwork(ABC):
    """An algorithm on a backbone.

    Attributes:
        p: hyperparameters; a subclass says of which class.
        setting: what it is built for.
        network: the backbone's skeleton, ``[B, C, H, W] -> [B, D]``. Its tensors are called ``trunk.*`` in a state.
        features: ``D``.
    """

    p: Any

    def __init__(self, p: Any, setting: Setting) -> None:
        self.p = p
        self.setting = setting
        backbone = registry.backbone(setting.backbone)
        self.network = backbone.skeleton(setting.channels, setting.size)
        self.features = backbone.embedding_size(setting.channels, setting.size)

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002 - for those with something to do
        """Nothing to do after a phase."""
        return s

    @abstractmethod
    def embed(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, D]``, what ``head`` takes."""

    @abstractmethod
    def head(self, s: State, a: Adapted) -> nn.Module:
        """``[B, D] -> [B, N]`` logits."""

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``: the head on the features."""
        out: Tensor = self.head(s, a)(self.embed(s, a, x))
        return out


class FixedTrunk(OnNetwork):
    """No support set changes the trunk, ``trunk.*`` of the state, with its running averages. ``head`` is to be written.

    ``adapt`` is to take the features that ``shown`` gives, so that those of the support count where it comes with them.
    """

    def _features(self, s: State, x: Tensor) -> Tensor:
        """``[B, D]`` in use, with a graph where one is recorded."""
        return functional.call(self.network, functional.under(s.learned), functional.under(s.memory), x)

    def shown(self, s: State, support: Support) -> Tensor:
        """Features of the examples ``[S, D]``: those that the support comes with, or its pictures'."""
        return self._features(s, support.x) if support.features is None else support.features

    @torch.no_grad()
    def embed(self, s: State, a: Adapted, x: Tensor) -> Tensor:  # noqa: ARG002 - the same features for every task
        """``[B, D]``, the same for every task."""
        return self._features(s, x)

    def trunk(self, s: State) -> nn.Module:
        """The network with its running statistics; no support set changes it."""
        return functional.frozen(self.network, functional.under({**s.learned, **s.memory}))

    def deploy(self, s: State, a: Adapted) -> Deployed:
        """The trunk and the head."""
        return Deployed(self.trunk(s), self.head(s, a))


class FittedHead(FixedTrunk):
    """A task fits a classifier to its features at once, without steps. ``fit`` and ``head`` are to be written."""

    @torch.no_grad()
    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,  # noqa: ARG002 - there are no steps
    ) -> Adapted:
        """What ``fit`` makes of the support's features."""
        ctx.check()
        return Adapted(self.fit(s, self.shown(s, support), support.y, support.ways, ctx), support.ways)

    @abstractmethod
    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:
        """The classifier's tensors from features ``[S, D]`` and labels ``y [S]``, without a graph."""


class FrozenTrunk(FittedHead):
    """A trunk that was trained elsewhere, or a fresh one: a task fits a classifier to its features, and no more."""

    info: ClassVar[AlgorithmInfo]

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002
        """Nothing to train."""
        return ()

    def init(self, gen: Generator) -> State:
        """The pretrained trunk, or a fresh one."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        return State(functional.named(trunk), functional.named(buffers))

    def step(self, s: State, batch: Any, at: At, ctx: Context) -> StepResult:  # noqa: ARG002
        """Never asked for.

        Raises:
            WorkbenchError: always.
        """
        raise WorkbenchError("Nothing was trained", f"{self.info.title} trains nothing", "Choose another algorithm")


class ChangedTrunk(OnNetwork):
    """``trunk.*`` of what a task adapted stand in for what is learnt. ``head`` is to be written."""

    def _trunk(self, s: State, a: Adapted) -> Tensors:
        """The network's tensors and running statistics on this task, under its own names."""
        return functional.under({**s.learned, **s.memory, **a.tensors})

    @torch.no_grad()
    def embed(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, D]`` features of the adapted network."""
        return functional.call(self.network, self._trunk(s, a), {}, x)

    def trunk(self, s: State) -> None:  # noqa: ARG002
        """Every support set changes it: no features can be kept."""
        return

    def deploy(self, s: State, a: Adapted) -> Deployed:
        """The adapted network with its running statistics folded in, and the head."""
        return Deployed(functional.frozen(self.network, self._trunk(s, a)), self.head(s, a))


class WholeNetwork(ChangedTrunk):
    """All is in :class:`Adapted`: ``trunk.*``, running statistics too, ``head.weight [N, D]`` and ``head.bias [N]``.

    That is how ``inner.followed`` leaves it.
    """

    def _trunk(self, s: State, a: Adapted) -> Tensors:  # noqa: ARG002 - all is in the adapted network
        return functional.under(a.tensors)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The adapted linear layer."""
        return heads.LinearHead(a.tensors["head.weight"], a.tensors["head.bias"])


# ---- hyperparameters that many have ----------------------------------------------------------------------------------


def learning_rate(title: str = "Learning rate", *, help: str = "Of Adam.") -> Any:  # noqa: A002 - as ``param`` calls it
    """``lr``, of the outer optimiser."""
    return param(1e-3, low=1e-6, high=1.0, step=1e-4, title=title, help=help)


def tasks_per_step(default: int = 1, *, outer: bool = False) -> Any:
    """``tasks``; ``outer`` for methods that have inner steps too."""
    step = "outer step" if outer else "step"
    return param(default, low=1, high=64, step=1, title="Tasks per step", help=f"Episodes averaged in one {step}.")


def head_choice() -> Any:
    """``head``, the form of ``heads.linear_parameters``."""
    return param(
        "prototype",
        choices=("prototype", "textbook"),
        help="Where the classifier starts: at the examples' class means (any number of classes), or at learnt "
        "rows, one per class, whose number is then fixed.",
    )


def steps_in_training(default: int, *, low: int = 0, help: str = "Gradient steps on each task while training.") -> Any:  # noqa: A002
    """``inner_steps``, in training."""
    return param(default, low=low, high=50, step=1, title="Inner steps in training", help=help)


def steps_in_use(default: int, *, help: str = "Gradient steps on a new task.") -> Any:  # noqa: A002
    """``test_steps``, in use."""
    return param(default, low=0, high=200, step=1, title="Inner steps in use", help=help)
