"""What algorithms of one form have in common besides what they learn: where features come from, how one is deployed.

``OnNetwork`` is an algorithm on a backbone, and its three forms differ in what a support set does to the trunk:

* ``FixedTrunk``: nothing. Its features can be kept, and a task fits a classifier to them (ProtoNet, ridge, ANIL).
* ``ChangedTrunk``: it changes some of the trunk's tensors, which :class:`Adapted` holds (TADAM, fine-tuning).
* ``WholeNetwork``: it changes all of them and a linear classifier behind them (MAML and what came of it).

An algorithm's file has what makes the method: ``info`` and ``Params``, ``phases``, ``init``, ``step``, ``adapt``, and
``head`` where it is not the whole network's. It may replace anything here, and needs none of it to be an
:class:`~workbench.learn.protocol.Algorithm`.

The functions at the end are fields of ``Params`` that many methods have, with the same range and the same words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.learn import functional, heads, registry
from workbench.learn.protocol import Adapted, Deployed, Phase, Setting, State, Tensors


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

    ``adapt`` takes the support's own features where it comes with them, and else ``_features``.
    """

    def _features(self, s: State, x: Tensor) -> Tensor:
        """``[B, D]`` in use, with a graph where one is recorded."""
        return functional.call(self.network, functional.under(s.learned), functional.under(s.memory), x)

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
