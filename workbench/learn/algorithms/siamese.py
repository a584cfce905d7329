"""Siamese networks (Koch, Zemel, Salakhutdinov 2015, ICML deep learning workshop).

One network ``f: [B, C, H, W] -> [B, D]``, used for both pictures of a pair (the twins share everything, the
statistics of batch norm included), and a learnt weighing of how much they differ in each feature::

    u(q, x) = sum_d a_d |f(q)_d - f(x)_d| + b             log-odds that both show the same class
    p(q, x) = sigmoid(u(q, x))
    loss    = mean over pairs of the same class of -log p, and over the others of -log(1 - p), each with half the weight

A new task is answered by its most similar example, ``z_k = max of u(q, x_i)`` over the examples of class k, or by the
log-odds of the mean of p over them. Softmax over log-odds is what follows from pairs that are judged one by one when
exactly one class must be right: ``P(k) ~ p_k / (1 - p_k)``.

The pairs are all (query, example) pairs of an episode. ``a`` starts negative, so alike is similar; the paper's sigmoid
layer of 4096 units before the difference is left out, so that any trunk's features can be used.

Mistakes that are easily made here, and not made:

* with N classes only one pair in N is of one class: unbalanced, "different" is a good answer to everything;
* a picture paired with itself, which teaches nothing but b: queries and examples are never the same pictures;
* one batch norm for each twin;
* probabilities compared between tasks as if they were calibrated.
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

WEIGHT, BIAS = "difference.weight", "difference.bias"
START, START_BIAS = -4.0, 3.0
"""At first ``a = START / D`` and ``b = START_BIAS``: behind a batch norm two pictures differ by 0.7 or so in each
feature, so the log-odds of an average pair are near 0."""
_NEVER = 1e9
"""Taken from the log-odds of an example of another class, so that it is never the one that counts."""


@registry.register
class Siamese(forms.FittedHead):
    """Most similar example under a learnt difference of twins; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="siamese",
        title="Siamese networks",
        family="metric",
        paper="Koch, Zemel, Salakhutdinov 2015, ICML deep learning workshop",
        summary="Learns whether two pictures show the same class; a new task is answered by the most similar example.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        combine: str = param(
            "max",
            choices=("max", "mean"),
            title="Several examples",
            help="A class counts by its most similar example, or by the mean probability over its examples.",
        )
        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Fresh trunk (or the setting's pretrained one), ``a [D]`` and ``b``."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        weight = torch.full((self.features,), START / self.features, device=gen.device)
        learned = {**functional.named(trunk), WEIGHT: weight, BIAS: torch.tensor(START_BIAS, device=gen.device)}
        return State(learned, functional.named(buffers))

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
            odds = log_odds(queries, support, s.learned[WEIGHT], s.learned[BIAS])
            losses.append(balanced_loss(odds, episode.query_y[:, None] == episode.support_y))
            member = heads.one_hot(episode.support_y, episode.ways, support)
            correct.append(combined(odds.detach(), member, self.p.combine).argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The examples' features, ``support [S, D]``, and ``member [S, N]``, whose each is."""
        member = heads.one_hot(y, ways, features)
        return {"support": features.clone(), "member": member}

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The comparison with every example."""
        return Comparison(a.tensors["support"], a.tensors["member"], s.learned[WEIGHT], s.learned[BIAS], self.p.combine)


def log_odds(queries: Tensor, support: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``u [B, S]`` of features ``[B, D]`` and ``[S, D]``; the same with the two exchanged."""
    return (queries[:, None] - support).abs() @ weight + bias


def balanced_loss(odds: Tensor, same: Tensor) -> Tensor:
    """Cross entropy of pairs ``[B, S]``: those of one class and the others count alike, however many there are."""
    wrong = F.softplus(torch.where(same, -odds, odds))
    of_same, of_others = same.to(odds), (~same).to(odds)
    share = of_same / of_same.sum().clamp_min(1) + of_others / of_others.sum().clamp_min(1)
    return (wrong * share).sum() / 2


def combined(odds: Tensor, member: Tensor, combine: str) -> Tensor:
    """``[B, N]``: the classes' log-odds from those of their examples.

    Args:
        odds: ``[B, S]``.
        member: ``[S, N]``, 1 where the example is of the class, else 0; every class has one.
        combine: ``max``, or ``mean``: log-odds of the mean probability ``m``, ``log m - log(1 - m)``.
    """
    others = _NEVER * (member.T - 1)
    if combine == "max":
        return (odds[:, None, :] + others).amax(2)
    same, different = (F.logsigmoid(u)[:, None, :] + others for u in (odds, -odds))
    return same.logsumexp(2) - different.logsumexp(2)


class Comparison(nn.Module):
    """``[B, D] -> [B, N]``: log-odds by comparing with fixed examples."""

    support: Tensor
    member: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, support: Tensor, member: Tensor, weight: Tensor, bias: Tensor, combine: str) -> None:
        super().__init__()
        self.combine = combine
        for name, t in (("support", support), ("member", member), ("weight", weight), ("bias", bias)):
            self.register_buffer(name, t.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Log-odds of ``features [B, D]``."""
        return combined(log_odds(features, self.support, self.weight, self.bias), self.member, self.combine)
