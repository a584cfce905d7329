"""Prototypical Networks (Snell, Swersky, Zemel 2017, arXiv 1703.05175).

An episode shows N classes with K examples each (the support set) and asks about other pictures of the same classes
(the queries). A network ``f: [B, C, H, W] -> [B, D]`` is learnt such that the *mean* of a class's features is a good
centre::

    c_k  = mean of f(x_i) over the support pictures of class k         [N, D]
    z_qk = -s * |f(q) - c_k|^2                                         [Q, N]
    loss = cross entropy(z, labels of the queries)

Nothing is fitted on a new task: its centres are computed, and the classifier ``2s c_k, -s |c_k|^2`` is a linear
layer.

Mistakes that are easily made here, and not made:

* the *unsquared* distance (another softmax, and it trains differently);
* averaging softmax outputs instead of features;
* no scale: distances grow with D and saturate the softmax. ``s`` starts at ``heads.START / D`` and is learnt, which is
  not in the paper (its ``s = 1`` is a choice of the hyperparameter);
* statistics of batch norm that a query shares with the other queries when the network is used. In training the whole
  episode is one batch, as in the paper; in use the running averages stand, so features depend on their picture alone
  and can be kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, influence, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Tensors,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episodes


@registry.register
class ProtoNet(forms.FittedHead):
    """Nearest class mean in a learnt feature space; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="protonet",
        title="ProtoNet",
        family="metric",
        paper="Snell, Swersky, Zemel 2017, arXiv 1703.05175",
        summary="Learns features in which each class is one centre; a new class costs one pass over its pictures.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    nearest_mean: ClassVar[bool] = True  # see ``calibrate.compares_means``

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)
        scale: str = param(
            "learned",
            choices=("learned", "one"),
            help="The factor before the squared distance: learnt, from a start that fits the number of features, or 1.",
        )

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        frozen = ("scale",) if self.p.scale == "one" else ()
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, frozen=frozen),)

    def init(self, gen: Generator) -> State:
        """Fresh trunk (or the setting's pretrained one) and ``scale`` = log s."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        scale = 1.0 if self.p.scale == "one" else heads.START / self.features
        log_scale = torch.tensor(math.log(scale), device=gen.device)
        return State(learned={**functional.named(trunk), "scale": log_scale}, memory=functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule of its own
        """Mean loss over the episodes of ``batch``; the running averages move on with each."""
        trunk, buffers = functional.under(s.learned), functional.under(s.memory)
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            pictures = torch.cat([episode.support_x, episode.query_x])
            with norm.batch_statistics() as statistics:
                features = functional.call(self.network, trunk, buffers, pictures)
            support, queries = features.tensor_split([len(episode.support_y)])
            centres = heads.prototypes(support, episode.support_y, episode.ways)
            logits = heads.distance_logits(queries, centres, s.learned["scale"].exp())
            losses.append(F.cross_entropy(logits, episode.query_y))
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classes' centres, ``prototypes [N, D]``."""
        return {"prototypes": heads.prototypes(features, y, ways)}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``, the distances' logits."""
        return heads.distance_logits(self._features(s, x), a.tensors["prototypes"], s.learned["scale"].exp())

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The linear layer that equals the distances."""
        scale = s.learned["scale"].detach().exp()
        return heads.LinearHead(*heads.prototype_linear(a.tensors["prototypes"], scale))

    def classifier(self, s: State, features: Tensor) -> influence.Centroids:
        """What its heads for these features ``[S, D]`` are, for closed forms."""
        return influence.Centroids(features, float(s.learned["scale"].exp()))
