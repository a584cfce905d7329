"""Adaptive depth: each task decides after which blocks of the network its pictures are told apart.

Early blocks see edges and textures, late ones what the training classes had in common. A new task that is unlike them
is often told apart better from the middle of the network, and its few examples can say so. With ``x_b [B, D_b]`` the
features after block ``b`` (pooled, of length 1) and a closed-form head on each::

    z_b    = s_b (2 x_b c_k - |c_k|^2)             nearest class mean, or
           = s_b x_b W_b                           a ridge, every class counting alike
    loss_b = mean log-loss of the head fitted without example i on example i, over the examples that can be left out
    pi     = softmax(prior - r loss_b / T)         [L], r = share of the examples that can be left out
    z      = sum_b pi_b z_b                        [B, N]

An example can be left out if its class has another one; both heads give all left-out answers in closed form. With one
shot nothing can be, ``r = 0``, and the choice is the ``prior``, which is the mixture that served best over the training
episodes. A weighted sum of logits is, up to a constant that the softmax ignores, the weighted sum of log-probabilities:
nothing is mixed here that has another origin, and ``s_b`` gives each block's logits a scale of its own.

Learnt are the network, ``s_b``, ``T`` and the prior. The loss of an episode is that of the mixture, plus the mean over
the blocks of their own (else the blocks not chosen would never become worth choosing), plus that of the prior's
mixture, of which the prior alone learns. An episode is one batch for batch norm; the running averages are used from
then on, so features depend on their picture alone: the trunk gives the features of all blocks side by side, and
choosing the depth of a new task costs nothing once they are kept.

``choice = best`` takes the block of the largest share alone, in use. The network behind the last block with a share is
then superfluous: :meth:`Depth.truncated` leaves it out, for a program of one's own. A model that is saved keeps the
whole trunk, since neighbours and rejection are measured in the features of all blocks.

Mistakes that are easily made here, and not made: choosing by the loss on the very examples the heads were fitted to
(which the widest features always win); one scale for all blocks; logits of other classes' order; blocks that share a
head. The pooling of the last block is the backbone's own, so that its head is the one of the plain network.
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
from workbench.learn import blocks, forms, functional, heads, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Deployed,
    Phase,
    Setting,
    SourceSummary,
    State,
    StepResult,
    Tensors,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

_SCALE, _TEMPERATURE = 10.0, 0.2
"""Where ``s_b`` and ``T`` start."""
_CHOICE = 10.0
"""How many times the network's learning rate that of scales, prior and temperature is: few numbers, with far to go."""


@registry.register
class Depth(forms.FittedHead):
    """Heads after every block, mixed by what their left-out examples say; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="depth",
        title="Adaptive depth",
        family="learned structure",
        paper="own form; closed-form heads: Snell et al. 2017, arXiv 1703.05175; Bertinetto et al. 2019, 1805.08136",
        summary="Puts a head behind every block of the network and lets each task choose among them.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = param(
            "nearest", choices=("nearest", "ridge"), help="What is fitted behind each block: class means, or a ridge."
        )
        choice: str = param(
            "mix",
            choices=("mix", "best"),
            help="A task uses all blocks by their shares, or the one of the largest share alone.",
        )
        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)
        strength: float = param(
            0.5, low=1e-6, high=1e4, step=0.1, help="How strongly the weights of a ridge are held near zero."
        )

    p: Params
    network: blocks.Blocks

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.backbone = registry.backbone(setting.backbone)
        self.example = (setting.channels, setting.size, setting.size)
        self.network = blocks.Blocks(self._skeleton(), self.example)
        self.features = sum(self.network.sizes)

    @property
    def nearest_mean(self) -> bool:
        """Whether what is mixed are distances to class means; see ``calibrate.compares_means``."""
        return bool(self.p.head == "nearest")

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        lr = {functional.TRUNK: self.p.lr, "": _CHOICE * self.p.lr}
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr=lr),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``scale [L]`` = log s; with more than one block ``prior [L]``, ``temperature``.

        ``temperature`` = log T. The memory has the number of blocks beside the running averages.
        """
        trunk, buffers = functional.start(self._skeleton(), gen, self.setting.weights)
        count = self.network.count
        learned = functional.named(trunk)
        learned["scale"] = torch.full((count,), math.log(_SCALE), device=gen.device)
        if count > 1:
            learned["prior"] = torch.zeros(count, device=gen.device)
            learned["temperature"] = torch.tensor(math.log(_TEMPERATURE), device=gen.device)
        mark = torch.tensor(float(count), device=gen.device)
        return State(learned, functional.named({**buffers, blocks.MARK: mark}))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule of its own
        """Mean loss over the episodes of ``batch``; the running averages move on with each."""
        memory = s.memory
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            loss, logits, statistics = self.task_loss(s.learned, episode)
            losses.append(loss)
            correct.append(logits.detach().argmax(1) == episode.query_y)
            memory = functional.named(norm.running_average(functional.under(memory), statistics))
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=memory, metrics=metrics, correct=correct[0])

    def task_loss(self, learned: Tensors, episode: Episode) -> tuple[Tensor, Tensor, norm.Statistics]:
        """One task: its loss with a graph, the mixture's logits of the queries, the statistics of the pass."""
        with norm.batch_statistics() as statistics:
            x = torch.cat([episode.support_x, episode.query_x])
            features = blocks.features(self.network, functional.under(learned), {}, x)
        support, queries = features.tensor_split([len(episode.support_y)])
        y, target = episode.support_y, episode.query_y
        fits = self.fits(learned, support, y, episode.ways)
        z = torch.stack([F.linear(q, *head) for q, head in zip(self._parts(queries), fits, strict=True)])
        logits = self._mixed(self.shares(learned, support, y, episode.ways), z)
        loss = F.cross_entropy(logits, target) + torch.stack([F.cross_entropy(own, target) for own in z]).mean()
        if self.network.count > 1:
            loss = loss + F.cross_entropy(self._mixed(learned["prior"].softmax(0), z.detach()), target)
        return loss, logits, statistics

    def fits(self, learned: Tensors, support: Tensor, y: Tensor, ways: int) -> list[tuple[Tensor, Tensor]]:
        """``weight [N, D_b]`` and ``bias [N]`` behind each block, for features ``[S, sum of D_b]``."""
        return [
            fitted(self.p.head, x, y, ways, scale, self.p.strength)
            for x, scale in zip(self._parts(support), learned["scale"].exp(), strict=True)
        ]

    def shares(self, learned: Tensors, support: Tensor, y: Tensor, ways: int) -> Tensor:
        """``pi [L]`` of a task with features ``[S, sum of D_b]``; differentiable, but not towards the prior."""
        if self.network.count == 1:
            return support.new_ones(1)
        prior = learned["prior"].detach()
        share, losses = self.evidence(learned, support, y, ways)
        return (prior - share * losses / learned["temperature"].exp()).softmax(0)

    def evidence(self, learned: Tensors, support: Tensor, y: Tensor, ways: int) -> tuple[float, Tensor]:
        """``r``, the share of the examples that can be left out, and ``loss_b [L]``; 0 where none can be."""
        can = (torch.bincount(y, minlength=ways) > 1)[y]
        if not bool(can.any()):
            return 0.0, support.new_zeros(self.network.count)
        losses = [
            F.cross_entropy(left_out(self.p.head, x, y, ways, scale, self.p.strength)[can], y[can])
            for x, scale in zip(self._parts(support), learned["scale"].exp(), strict=True)
        ]
        return int(can.sum()) / len(can), torch.stack(losses)

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """``shares [L]``, and the mixture as one classifier ``weight [N, sum of D_b]``, ``bias [N]``."""
        shares = self.shares(s.learned, features, y, ways)
        if self.p.choice == "best":
            shares = heads.one_hot(shares.argmax(), len(shares), shares)
        weights, biases = zip(*self.fits(s.learned, features, y, ways), strict=True)
        weight = torch.cat([p * w for p, w in zip(shares, weights, strict=True)], 1)
        bias = (shares[:, None] * torch.stack(biases)).sum(0)
        return {"shares": shares, "weight": weight, "bias": bias}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``."""
        return F.linear(self._features(s, x), a.tensors["weight"], a.tensors["bias"])

    def trunk(self, s: State) -> nn.Module:
        """The network with its running statistics, answering after each block; no support set changes it."""
        return blocks.deployed(self._skeleton(), _tensors(s), self.example)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The mixture of the blocks' heads, which is one linear layer."""
        return heads.LinearHead(a.tensors["weight"], a.tensors["bias"])

    def truncated(self, s: State, a: Adapted) -> Deployed:
        """The same answers from the blocks that have a share alone, and nothing behind the last of them.

        Its embedding is of these blocks too, and so narrower than the trunk's: distances in it are others.
        """
        used = [i for i, share in enumerate(a.tensors["shares"].tolist()) if share > 0]
        parts = self._parts(a.tensors["weight"])
        trunk = blocks.deployed(self._skeleton(), _tensors(s), self.example, used)
        return Deployed(trunk, heads.LinearHead(torch.cat([parts[i] for i in used], 1), a.tensors["bias"]))

    def _skeleton(self) -> nn.Module:
        return self.backbone.skeleton(self.setting.channels, self.setting.size)

    def _parts(self, features: Tensor) -> tuple[Tensor, ...]:
        return torch.split(features, list(self.network.sizes), 1)

    def _mixed(self, shares: Tensor, z: Tensor) -> Tensor:
        return (shares[:, None, None] * z).sum(0)

    def _features(self, s: State, x: Tensor) -> Tensor:
        params = functional.under(s.learned)
        return blocks.features(self.network, params, {n: t for n, t in _tensors(s).items() if n not in params}, x)


def _tensors(s: State) -> Tensors:
    return {n: t for n, t in functional.under({**s.learned, **s.memory}).items() if n != blocks.MARK}


def fitted(kind: str, x: Tensor, y: Tensor, ways: int, scale: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """``weight [N, D]`` and ``bias [N]`` of a block's head from features ``[S, D]``; differentiable."""
    if kind == "nearest":
        return heads.prototype_linear(heads.prototypes(x, y, ways), scale)
    w = heads.ridge(x, heads.one_hot(y, ways, x), strength, heads.balanced(y, ways, x))
    return scale * w.T, w.new_zeros(ways)


def left_out(kind: str, x: Tensor, y: Tensor, ways: int, scale: Tensor, strength: float) -> Tensor:
    """``[S, N]``: each example's logits from the head that is fitted without it, in closed form; differentiable.

    Rows of examples that are alone in their class mean nothing. A ridge keeps every other example's weight.
    """
    if kind == "ridge":
        weights = heads.balanced(y, ways, x)
        return scale * heads.ridge_leave_one_out(x, heads.one_hot(y, ways, x), strength, weights)
    member = heads.one_hot(y, ways, x)
    count = member.sum(0)[y][:, None]
    centres = heads.prototypes(x, y, ways)
    # without example i its own class has the mean (n c - x_i) / (n - 1); all others stay
    own = (count * centres[y] - x) / (count - 1).clamp_min(1)
    z = heads.distance_logits(x, centres, scale)
    mine = scale * (2 * (x * own).sum(1) - own.square().sum(1))
    return torch.where(member > 0, mine[:, None], z)
