"""Simple CNAPS (Bateni, Goyal, Masrani, Wood, Sigal 2020, arXiv 1912.03432), on CNAPs (Requeima et al. 2019).

A set encoder turns the examples into a code, the code modulates every normalisation layer of the trunk (FiLM, see
``learn/film.py``), and queries are given to the nearest class mean in a Mahalanobis distance whose covariances are
estimated on the spot::

    t   = mean of enc(x_i) over all examples                                       [T]
    f   = trunk modulated by t                                                     [B, C, H, W] -> [B, D]
    Q_k = l_k S_k + (1 - l_k) S + beta I,     l_k = n_k / (n_k + 1)                [N, D, D]
    z_k = -s (f - mu_k)' Q_k^-1 (f - mu_k)

``S_k`` is the covariance of class k's ``n_k`` examples (0 for one), ``S`` that of all examples; both divide by the
number less one. There is no factor 1/2 and no log-determinant, as the authors have it. ``s = 1`` is theirs too; here
``s`` is learnt from a start below it, since the softmax is saturated with a trunk that has learnt nothing.

Given a pretrained trunk, it stays as it is, running averages included, and only encoder and modulation are trained, as
in the paper. Without one, all of it is trained together on episodes: an episode is one batch for batch norm and the
running averages are used from then on, as in the other metric methods. The encoder normalises each picture by itself
(one group of all channels), so a code does not depend on how pictures are batched.

With ``Q_k = L_k L_k'`` a logit is ``-s |L_k^-1 f - L_k^-1 mu_k|^2``: one matrix product, squares and sums, which is
what is deployed. A new task has fewer examples than features as a rule, and then no D x D matrix is needed: all class
means and covariances lie in the span of the ``S`` centred examples, outside it every ``Q_k`` is ``beta I``, and that
part of the distance is the same for all classes. So with an orthonormal basis ``P [D, R]`` of the span, ``R < S``, the
same formula on ``P'f`` gives the same softmax; the common part is left out, as in Prototypical Networks. The linear
layer goes from D to N * R. In training the textbook form stands: dear for 1600 features (Conv-4 at 84 pixels).

Mistakes that are easily made here, and not made: ``n`` for ``n - 1``, or dividing by 0 for one example; half precision
for the inverse; the log-determinant (another classifier, and worse at few shots); features of queries in the
covariance.
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
from workbench.learn import film, forms, functional, norm, registry
from workbench.learn.mahalanobis import (
    SquaredSums,
    fitted,
    mahalanobis,
    span,
    whitening,
)
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
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

ENCODER = "encoder."
"""Prefix of the set encoder's tensors."""
START = 0.1
"""Where ``s`` starts."""


@registry.register
class SimpleCNAPS(forms.ChangedTrunk):
    """Mahalanobis distances in features that the task modulates; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="simple-cnaps",
        title="Simple CNAPS",
        family="metric",
        paper="Bateni et al. 2020, arXiv 1912.03432; Requeima et al. 2019, arXiv 1906.07697",
        summary="Tunes the network to the task by a code of its examples and measures distances by their spread.",
        tags=frozenset({"trains", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        beta: float = param(1.0, low=1e-4, high=1e4, step=0.1, help="Of the identity that is added to covariances.")
        scale: str = param(
            "learned", choices=("learned", "one"), help="The factor before the distances: learnt, or 1 as in the paper."
        )
        width: int = param(64, low=8, high=512, step=8, title="Encoder's width", help="Size of a task's code.")
        penalty: float = param(
            0.001, low=0.0, high=10.0, step=0.001, help="How strongly the modulation is held near none at all."
        )
        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.layers = film.layers(self.network)
        self.encoder = functional.skeleton(lambda: Encoder(setting.channels, p.width, setting.size))
        self.pretrained = setting.weights is not None

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes; a pretrained trunk is not stepped."""
        still = {functional.TRUNK: self.pretrained, "scale": self.p.scale == "one"}
        frozen = tuple(prefix for prefix, stays in still.items() if stays)
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, frozen=frozen),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``scale`` = log s, ``film.*`` and ``encoder.*``."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        encoder, _ = functional.initial(self.encoder, gen)
        scale = torch.tensor(0.0 if self.p.scale == "one" else math.log(START), device=gen.device)
        learned = {**functional.named(trunk), **functional.named(encoder, ENCODER), "scale": scale}
        return State({**learned, **film.initial(self.layers, self.p.width, gen)}, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule of its own
        """Mean loss over the episodes of ``batch``, and the penalty."""
        buffers = functional.under(s.memory)
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            logits, statistics = self.task_logits(s.learned, buffers, episode)
            losses.append(F.cross_entropy(logits, episode.query_y))
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean() + self.p.penalty * film.penalty(s.learned)
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def task_logits(self, learned: Tensors, buffers: Tensors, episode: Episode) -> tuple[Tensor, norm.Statistics]:
        """One task: queries' logits with their graph, and the statistics to move on by (none of a pretrained trunk)."""
        trunk = self._modulated(learned, episode.support_x)
        pictures = torch.cat([episode.support_x, episode.query_x])
        statistics: norm.Statistics = {}
        if self.pretrained:
            features = functional.call(self.network, trunk, buffers, pictures)
        else:
            with norm.batch_statistics() as statistics:
                features = functional.call(self.network, trunk, {}, pictures)
        support, queries = features.tensor_split([len(episode.support_y)])
        means, factors = fitted(support, episode.support_y, episode.ways, self.p.beta)
        return mahalanobis(queries, means, factors, learned["scale"].exp()), statistics

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
        """The modulated normalisation layers (``trunk.*``), and ``weight [N * R, D]`` and ``bias [N * R]``.

        Logits are minus the sum of the squares of each class's ``R`` outputs of that linear layer.
        """
        ctx.check()
        trunk = self._modulated(s.learned, support.x)
        ctx.check()
        features = functional.call(self.network, trunk, functional.under(s.memory), support.x)
        axes = span(features)
        means, factors = fitted(features @ axes, support.y, support.ways, self.p.beta)
        ctx.check()
        weight, bias = whitening(means, factors, s.learned["scale"].exp())
        weight = weight @ axes.T.to(weight)
        changed = {f"{path}.{part}": trunk[f"{path}.{part}"] for path in self.layers for part in ("weight", "bias")}
        return Adapted({**functional.named(changed), "weight": weight, "bias": bias}, support.ways)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002 - the scale is in the layer
        """The linear layer and the squares."""
        return SquaredSums(a.tensors["weight"], a.tensors["bias"], a.ways)

    def _modulated(self, learned: Tensors, x: Tensor) -> Tensors:
        """The trunk's tensors for a task with the examples ``x``."""
        code = functional.call(self.encoder, functional.under(learned, ENCODER), {}, x).mean(0)
        return film.modulated(functional.under(learned), film.generate(learned, self.layers, code))


class Encoder(nn.Module):
    """``[S, C, H, W] -> [S, width]``: each picture by itself; five convolutions, halved as long as there is room."""

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width if i else channels, width, 3, padding=1, bias=False) for i in range(5)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(5))
        self.pools = tuple(size // 2**i >= 2 for i in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """One code for each picture: the mean over positions of the last maps."""
        for conv, normalise, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = F.relu(normalise(conv(x)))
            x = F.max_pool2d(x, 2) if pool else x
        return x.mean((2, 3))
