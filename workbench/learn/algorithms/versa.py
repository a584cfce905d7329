"""VERSA (Gordon, Bronskill, Bauer, Nowozin, Turner 2019, arXiv 1805.09921): a posterior over each class's weights.

A linear classifier is not fitted to a new task, it is *written*, by a network that reads the examples; and not one
classifier, but a distribution over classifiers, wide where the examples leave it open::

    h_i    = f(x_i)                                              [S, D], the trunk
    m_k    = mean over class k of elu(A h_i + a)                 [N, H], one summary per class
    mu_k   = s G_mu(m_k) + start_k                               [N, D + 1], weights and bias (the last column)
    sig_k  = s softplus(G_sigma(m_k))                            [N, D + 1]
    q(w_k) = Normal(mu_k, diag sig_k^2)

The networks ``A``, ``G_mu`` and ``G_sigma`` are shared by all classes, so any number of classes can be written.

Training draws the *logits* rather than the weights (local reparametrisation: the same distribution for each query and
less noise in the gradient), with ``e`` standard normal::

    z_lqk = h_q . mu_k + mu_bk  +  sqrt(h_q^2 . sig_k^2 + sig_bk^2) e_lqk           L x [Q, N]
    loss  = - 1/Q sum_q log( 1/L sum_l softmax(z_lq)[y_q] )

No divergence from a prior is added and none is needed: the loss is the predictive probability itself, and a spread that
does not help costs accuracy.

In use ``adapt`` draws ``draws`` classifiers and keeps them, so the same picture always gets the same answer:
``logits = log( 1/L sum_l softmax(W_l h + b_l) )``, which is also what is exported, ``L`` fixed linear layers and an
average. (One layer with the mean weights would be smaller, but it knows nothing of the spread and is surer than it
should be.) Which class gets which noise is decided by the pictures, not by the numbering of the classes: classes are
taken in the order of their features' means. So neither numbering nor order of the examples changes an answer; the seed
does, hence the tag ``stochastic``.

What this file chose: ``s``, learnt from ``heads.START / D``, because a logit is a sum of ``D`` products: without it one
step of Adam turns all of them the same way, the softmax is saturated, and little is learnt from then on (40 steps of
the tests' toy task: 0.44 right with ``s`` = 1 at first, 0.80 so; in the form ``plain`` 0.25 and 0.55). And ``start_k``:
in the form ``residual`` it is the classifier of Prototypical Networks, ``2s c_k`` and ``-s |c_k|^2``, and ``G_mu``
starts at 0; in the form ``plain`` it is 0, as in the paper. Under the square root stands 1e-10 besides: softplus may
give an exact 0, where a square root has no derivative. The paper's dropout is left out: episodes of fresh classes do
not wear out.

Mistakes that are easily made here, and not made:

* adding up samples of *raw* logits by ``logsumexp``. Raw logits have an additive constant of each sample's own that
  means nothing, and the sample that happens to have the largest dominates. Probabilities are averaged, that is
  ``logsumexp`` over ``log_softmax``;
* averaging logits, which is a geometric mean of probabilities and no predictive distribution;
* a standard deviation that can turn negative, or an exponential that overflows;
* dropping what is not a number: the run is to stop there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, mlp, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Tensors,
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episodes

_UNDER_THE_ROOT = 1e-10


class Posterior(NamedTuple):
    """``mean`` and standard deviation ``spread`` of each class's weights and, last, bias: ``[N, D + 1]`` both."""

    mean: Tensor
    spread: Tensor


@registry.register
class Versa(forms.FittedHead):
    """Classifiers drawn from a posterior that a network reads off the examples; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="versa",
        title="VERSA",
        family="probabilistic",
        paper="Gordon et al. 2019, arXiv 1805.09921",
        summary="Writes a distribution of classifiers for each new task; unsure where the examples leave it open.",
        tags=frozenset({"trains", "any-way", "cacheable", "stochastic"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)
        form: str = param(
            "residual",
            choices=("residual", "plain"),
            help="What the network writes: changes to the classifier of the class means, or all of it.",
        )
        width: int = param(
            256, low=8, high=2048, step=8, help="Size of the classes' summaries and of the layers that read them."
        )
        samples: int = param(10, low=1, high=100, step=1, title="Samples in training", help="Drawn for each query.")
        draws: int = param(20, low=1, high=200, step=1, title="Classifiers in use", help="Drawn for a new task.")

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), the three networks, and ``scale`` = log s."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        d, h = self.features, self.p.width
        learned = functional.named(trunk)
        learned |= mlp.initial("summary", (d, h), gen)
        learned |= mlp.initial("mean", (h, h, d + 1), gen, zero_last=self.p.form == "residual")
        learned |= mlp.initial("spread", (h, h, d + 1), gen)
        learned["scale"] = torch.tensor(math.log(heads.START / d), device=gen.device)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean loss over the episodes of ``batch``; the running averages move on with each."""
        trunk, buffers = functional.under(s.learned), functional.under(s.memory)
        gen = generator(ctx.seed_for(f"versa/{at.phase}/{at.step}"))
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            pictures = torch.cat([episode.support_x, episode.query_x])
            with norm.batch_statistics() as statistics:
                features = functional.call(self.network, trunk, buffers, pictures)
            support, queries = features.tensor_split([len(episode.support_y)])
            q = self.posterior(s.learned, support, episode.support_y, episode.ways)
            noise = torch.randn(self.p.samples, len(queries), episode.ways, generator=gen).to(queries)
            logits = log_mean_softmax(sampled_logits(queries, q, noise))
            losses.append(F.nll_loss(logits, episode.query_y))
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:
        """``draws`` classifiers ``[L, N, D + 1]``, weights and bias, drawn from the context's seed."""
        q = self.posterior(s.learned, features, y, ways)
        gen = generator(ctx.seed_for("versa/draws"))
        noise = torch.randn(self.p.draws, *q.mean.shape, generator=gen).to(features)
        place = by_the_pictures(features, y, ways)
        return {"draws": q.mean + q.spread * noise[:, place]}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``, the log of the mean probabilities."""
        return averaged(self._features(s, x), a.tensors["draws"])

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002 - all is in the draws
        """The drawn classifiers and their average."""
        return Committee(a.tensors["draws"])

    def posterior(self, learned: Tensors, features: Tensor, y: Tensor, ways: int) -> Posterior:
        """``q(w_k, b_k | S)`` of this form."""
        return posterior(learned, features, y, ways, residual=self.p.form == "residual")


def posterior(learned: Tensors, features: Tensor, y: Tensor, ways: int, *, residual: bool) -> Posterior:
    """``q(w_k, b_k | S)`` for each class, from the examples' features ``[S, D]``."""
    scale = learned["scale"].exp()
    summary = heads.prototypes(F.elu(mlp.call(learned, "summary", features)), y, ways)
    mean = scale * mlp.call(learned, "mean", summary)
    if residual:
        weight, bias = heads.prototype_linear(heads.prototypes(features, y, ways), scale)
        mean = mean + torch.cat([weight, bias[:, None]], 1)
    return Posterior(mean, scale * F.softplus(mlp.call(learned, "spread", summary)))


def sampled_logits(h: Tensor, q: Posterior, noise: Tensor) -> Tensor:
    """``[L, Q, N]`` draws of the logits of features ``h [Q, D]``, for standard normal ``noise [L, Q, N]``."""
    mean = F.linear(h, q.mean[:, :-1], q.mean[:, -1])
    variance = q.spread.square()
    spread = (F.linear(h.square(), variance[:, :-1], variance[:, -1]) + _UNDER_THE_ROOT).sqrt()
    return mean + spread * noise


def log_mean_softmax(z: Tensor) -> Tensor:
    """``[Q, N]``: the log of the mean over draws of the probabilities of logits ``z [L, Q, N]``."""
    return z.log_softmax(2).logsumexp(0) - math.log(z.shape[0])


def averaged(h: Tensor, draws: Tensor) -> Tensor:
    """``[B, N]``: :func:`log_mean_softmax` of the classifiers ``draws [L, N, D + 1]`` on features ``h [B, D]``."""
    z = h @ draws[:, :, :-1].transpose(1, 2) + draws[:, None, :, -1]
    return log_mean_softmax(z)


def by_the_pictures(features: Tensor, y: Tensor, ways: int) -> Tensor:
    """``[N]`` the place of each class in the order of their features' means, whatever their numbers."""
    size = heads.prototypes(features, y, ways).mean(1)
    return torch.argsort(torch.argsort(size, stable=True))


class Committee(nn.Module):
    """``[B, D] -> [B, N]``: the log of the mean probabilities of some fixed linear classifiers."""

    draws: Tensor

    def __init__(self, draws: Tensor) -> None:
        super().__init__()
        self.register_buffer("draws", draws.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Log probabilities of ``features [B, D]``."""
        return averaged(features, self.draws)
