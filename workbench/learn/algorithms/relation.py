"""Relation Networks (Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018, arXiv 1711.06025).

Not only the features but also how they are compared is learnt. ``f`` gives a picture's *feature maps*
``[B, C, h, h]``; the maps of a class are the sum of its examples'; and a small network ``g`` scores class and query
laid on one another::

    F_k  = sum of f(x_i) over the examples of class k                          [N, C, h, h]
    u_qk = g([F_k ; f(q)])          g: [B * N, 2C, h, h] -> [B, N]
    r_qk = sigmoid(u_qk)
    loss = mean over all pairs of (r_qk - 1)^2 where q is of class k, of r_qk^2 elsewhere

``g`` is two blocks of 3x3 convolution, batch norm, ReLU and pooling, then layers of 8 and 1. The logits are ``u``:
squared error fits ``r`` to the probability that a pair is of one class, and softmax over the log-odds of independent
pairs is what follows when exactly one class is right.

``f`` is a backbone without its last poolings, so that maps of at least ``side`` positions a side are left (at 28 pixels
Conv-4 gives 7x7 as in the paper, at 84 pixels 5x5; the paper's 19x19 there cost sixteen times as much). The embedding
that neighbours are measured in is the maps laid out flat.

The first convolution of ``g`` is linear in its two halves, so it is applied to the N classes and the B queries and not
to their B * N pairs; what follows it takes memory in proportion to B * N.

Mistakes that are easily made here, and not made:

* batch norm left in training mode in use: the published figures leak from query to query. Here the pairs of a training
  episode are one batch, and in use both ``f`` and ``g`` normalise with their running averages;
* cross entropy for squared error, or squared error of something that is no probability;
* the mean for the sum without saying so: it is another scale. ``mean`` may be chosen for numbers of examples that
  differ much from training's.
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
from workbench.learn import forms, functional, heads, norm, registry
from workbench.learn.maps import MARK, mapped
from workbench.learn.protocol import (
    Adapted,
    At,
    Phase,
    Setting,
    SourceSummary,
    State,
    StepResult,
    Tensors,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episodes

RELATION = "relation."
"""Prefix of the tensors of ``g``."""


@registry.register
class Relation(forms.FittedHead):
    """A learnt comparison of feature maps; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="relation",
        title="Relation Networks",
        family="metric",
        paper="Sung et al. 2018, arXiv 1711.06025",
        summary="Learns features and, with a second network, how to compare a picture's maps with a class's.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        combine: str = param(
            "sum",
            choices=("sum", "mean"),
            title="Several examples",
            help="A class is the sum of its examples' maps, or their mean, for numbers of examples unlike training's.",
        )
        side: int = param(
            5, low=1, high=64, step=1, title="Side of the maps", help="At least; the last poolings are left out for it."
        )
        width: int = param(64, low=4, high=512, step=8, help="Channels of the comparing network.")
        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        backbone = registry.backbone(setting.backbone)
        self.network, self.channels, self.side = mapped(backbone, setting.channels, setting.size, p.side)
        self.features = self.channels * self.side**2
        self.relation = functional.skeleton(lambda: Comparison(self.channels, p.width, self.side))

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Fresh trunk (or the setting's pretrained one), a fresh ``relation.*``, and the side of the maps."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        relation, averages = functional.initial(self.relation, gen)
        side = torch.tensor(float(self.side), device=gen.device)
        return State(
            {**functional.named(trunk), **functional.named(relation, RELATION)},
            {**functional.named({**buffers, MARK: side}), **functional.named(averages, RELATION)},
        )

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule of its own
        """Mean loss over the episodes of ``batch``; the running averages of both networks move on with each."""
        trunk, relation = functional.under(s.learned), functional.under(s.learned, RELATION)
        memory = s.memory
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            pictures = torch.cat([episode.support_x, episode.query_x])
            with norm.batch_statistics() as of_trunk:
                maps = functional.call(self.network, trunk, {}, pictures)
            support, queries = maps.tensor_split([len(episode.support_y)])
            classes = self._classes(support, episode.support_y, episode.ways)
            with norm.batch_statistics() as of_relation:
                odds = self._compare(relation, {}, classes, queries)
            target = heads.one_hot(episode.query_y, episode.ways, odds)
            losses.append(F.mse_loss(odds.sigmoid(), target))
            correct.append(odds.detach().argmax(1) == episode.query_y)
            memory = {
                **functional.named(norm.running_average(functional.under(memory), of_trunk)),
                **functional.named(norm.running_average(functional.under(memory, RELATION), of_relation), RELATION),
            }
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=memory, metrics=metrics, correct=correct[0])

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classes' maps, ``classes [N, C * h * h]``."""
        return {"classes": self._classes(features, y, ways)}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]`` log-odds."""
        relation, averages = functional.under(s.learned, RELATION), functional.under(s.memory, RELATION)
        return self._compare(relation, averages, a.tensors["classes"], self._features(s, x))

    def trunk(self, s: State) -> nn.Module:
        """The network with its running statistics; no support set changes it."""
        return functional.frozen(self.network, {**functional.under(s.learned), **_averages(s)})

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The comparison with the classes' maps."""
        relation = functional.frozen(self.relation, functional.under({**s.learned, **s.memory}, RELATION))
        return Scores(relation, a.tensors["classes"], (self.channels, self.side, self.side))

    def _classes(self, maps: Tensor, y: Tensor, ways: int) -> Tensor:
        """``[N, C * h * h]`` from ``[S, C * h * h]``."""
        if self.p.combine == "mean":
            return heads.prototypes(maps, y, ways)
        return heads.one_hot(y, ways, maps).T @ maps

    def _compare(self, params: Tensors, buffers: Tensors, classes: Tensor, queries: Tensor) -> Tensor:
        """``[B, N]`` log-odds of maps laid out flat."""
        shape = (-1, self.channels, self.side, self.side)
        inputs = (classes.reshape(shape), queries.reshape(shape))
        out: Tensor = torch.func.functional_call(self.relation, (params, buffers), inputs)
        return out

    def _features(self, s: State, x: Tensor) -> Tensor:
        return functional.call(self.network, functional.under(s.learned), _averages(s), x)


def _averages(s: State) -> Tensors:
    return {n: t for n, t in functional.under(s.memory).items() if n != MARK}


class Comparison(nn.Module):
    """``g``: maps of the classes ``[N, C, h, h]`` and of queries ``[B, C, h, h]`` to log-odds ``[B, N]``.

    Maps are halved behind each convolution as long as there is something to halve.
    """

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, width, 3, padding=1, bias=False)
        self.norm1 = norm.Norm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = norm.Norm2d(width)
        self.pools = (side >= 2, side >= 4)
        left = side // 2 ** sum(self.pools)
        self.hidden = nn.Linear(width * left * left, 8)
        self.out = nn.Linear(8, 1)

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Log-odds of every query with every class."""
        of_classes, of_queries = self.conv1.weight.chunk(2, 1)
        one, other = F.conv2d(classes, of_classes, padding=1), F.conv2d(queries, of_queries, self.conv1.bias, padding=1)
        x = (other[:, None] + one).flatten(0, 1)
        x = self._rectified(self.norm1(x), 0)
        x = self._rectified(self.norm2(self.conv2(x)), 1)
        odds: Tensor = self.out(F.relu(self.hidden(x.flatten(1))))
        return odds.reshape(-1, classes.shape[0])

    def _rectified(self, x: Tensor, block: int) -> Tensor:
        return F.relu(F.max_pool2d(x, 2) if self.pools[block] else x)


class Scores(nn.Module):
    """``[B, C * h * h] -> [B, N]``: the comparison with fixed classes ``[N, C * h * h]``."""

    classes: Tensor

    def __init__(self, relation: nn.Module, classes: Tensor, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.relation, self.shape = relation, shape
        self.register_buffer("classes", classes.detach().reshape(-1, *shape).clone())

    def forward(self, features: Tensor) -> Tensor:
        """Log-odds of ``features [B, C * h * h]``."""
        out: Tensor = self.relation(self.classes, features.reshape(-1, *self.shape))
        return out
