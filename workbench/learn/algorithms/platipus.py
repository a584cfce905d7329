"""PLATIPUS, probabilistic MAML (Finn, Xu, Levine 2018, arXiv 1806.02817): many starting points instead of one.

A few examples may be read in more than one way. MAML answers with one adapted network; here the starting point is drawn
from a Gaussian that the examples S have shifted, and every draw that is adapted is another reading of them. In use::

    p(theta|S) = Normal(mu - gamma_p grad L_S(mu), sigma^2)                  the prior of the task: S alone is known
    theta_l    ~ p(theta|S),     phi_l = theta_l after a few steps on S      l = 1 .. draws
    logits     = log( 1/L sum_l softmax(z(x; phi_l)) )                       [B, N]

In training the queries Q are known too, and a second Gaussian, the posterior, may look at them. It says from where the
task is solved; the prior learns to say the same without having seen Q (a variational bound, amortised by a gradient)::

    q(theta)   = Normal(mu - gamma_q grad L_Q(mu), v_q)
    theta      ~ q,              phi = theta after k steps on S
    loss       = L_Q(phi) + weight(f) / P * KL(q || p)                       mean over tasks
    KL(q || p) = 1/2 sum [ v_q/sigma^2 + d^2/sigma^2 - 1 + log(sigma^2/v_q) ]         d: difference of the means

``mu`` is what MAML would learn, trunk and head, ``P`` numbers in all; ``sigma``, ``v_q [P]`` and the two ``gamma`` are
learnt with it. The gradient goes through everything: the inner steps, the draw (``theta = mean + spread * noise``) and
the two gradients in the means, which costs their Hessians. With no spread and both ``gamma`` 0 it is MAML.

What is chosen here:

* **Spreads and ``gamma`` are learnt as logarithms**, so that no step of the outer optimiser makes a variance negative.
* **The divergence is divided by P.** Summed over the 112 000 numbers of Conv-4 it would drown the loss of the queries.
  Besides, it is annealed: ``weight(f)`` grows from a hundredth to ``kl`` until ``f``, the fraction of training done,
  reaches ``kl_until``; otherwise the posterior is pressed onto the prior before either knows anything.
* **Draws are kept in what adapting gives**, so the same picture always gets the same answer; the exported graph is all
  the adapted networks and the average of their probabilities. Their features side by side are the embedding.
* **Noise goes by the pictures**, not by the numbers of the classes, where a textbook head has a row for each. So
  neither numbering nor order of the examples changes an answer; the seed does, hence the tag ``stochastic``.

The head is ``prototype`` or ``textbook`` and batch norm is MetaBN, both as in MAML. A new task costs ``draws`` times
what it costs there, in time and in size. Nothing but the loss holds the spreads up: where tasks are not ambiguous, as
with handwriting, both Gaussians narrow and it is MAML at five times the price.

Mistakes that are easily made here, and not made: drawing from q in use, which needs the queries' labels; a variance
that can turn negative; a divergence that is summed over all weights and not scaled; averaging the draws' logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import committee, forms, functional, heads, inner, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Deployed,
    OnStep,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Support,
    Tensors,
    detach,
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

PRIOR, POSTERIOR = "prior.", "posterior."
"""Learnt: ``prior.<name>`` and ``posterior.<name>``, log standard deviations of ``<name>`` of ``mu``, its shape."""
GAMMA = "gamma."
"""Learnt: ``gamma.prior.`` and ``gamma.posterior.``, logs of the step sizes in the means."""
_FIRST = 0.01


class Gaussian(NamedTuple):
    """Independent normal numbers, by name: their ``mean`` and the logarithm of their standard deviation."""

    mean: Tensors
    log_spread: Tensors

    def at(self, noise: Mapping[str, Tensor]) -> Tensors:
        """The draw that standard normal ``noise`` makes, differentiable in mean and spread."""
        return {n: t + self.log_spread[n].exp() * noise[n] for n, t in self.mean.items()}


@registry.register
class Platipus(forms.ChangedTrunk):
    """MAML from a distribution of starting points; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="platipus",
        title="PLATIPUS",
        family="probabilistic",
        paper="Finn, Xu, Levine 2018, arXiv 1806.02817",
        summary="MAML with a distribution of starting points: shows alternative explanations of ambiguous examples.",
        tags=frozenset({"trains", "gradient-based", "any-way", "stochastic"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        inner_lr: float = param(0.1, low=1e-4, high=10.0, step=0.01, title="Inner learning rate", help="Alpha.")
        inner_steps: int = forms.steps_in_training(5)
        test_steps: int = forms.steps_in_use(10, help="Gradient steps of each draw on a new task.")
        draws: int = param(
            5, low=1, high=50, step=1, help="Starting points drawn for a new task; their answers are averaged."
        )
        spread: float = param(
            0.01,
            low=1e-6,
            high=1.0,
            step=0.005,
            title="First spread",
            help="Standard deviation of every weight's starting point, where the learnt ones begin.",
        )
        gamma: float = param(
            0.01, low=1e-6, high=10.0, step=0.01, help="Step size in the Gaussians' means, where the learnt ones begin."
        )
        kl: float = param(
            1.0,
            low=0.0,
            high=1e6,
            step=0.1,
            title="Weight of the divergence",
            help="What a divergence of 1 for each weight costs, against the loss of the queries.",
        )
        kl_until: float = param(
            0.5,
            low=0.0,
            high=1.0,
            step=0.05,
            title="Divergence grows until",
            help="From this fraction of the training on it has its whole weight.",
        )
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes, the gradient's norm cut at 10 as in MAML."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=10.0),)

    def init(self, gen: Generator) -> State:
        """``mu`` as MAML's state (trunk and head), then ``prior.*``, ``posterior.*`` and ``gamma.*``."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        mu = functional.named(trunk)
        mu |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        learned = dict(mu)
        for kind in (PRIOR, POSTERIOR):
            learned |= {kind + n: torch.full_like(t, math.log(self.p.spread)) for n, t in mu.items()}
            learned[GAMMA + kind] = torch.tensor(math.log(self.p.gamma), device=gen.device)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean gradient over the tasks, each with a draw of its own."""
        gen = generator(ctx.seed_for(f"platipus/{at.phase}/{at.step}"))
        weight = self.divergence_weight(at.fraction)
        seen: list[float] = []

        def loss(learned: Tensors, episode: Episode) -> inner.TaskLoss:
            found, divergence = self.task_loss(learned, episode, standard_normal(mu_of(learned), gen), weight, ctx)
            seen.append(float(divergence.detach()))
            return found

        result = inner.mean_gradient(s, batch.episodes, loss, in_order=True)
        return replace(result, metrics={**result.metrics, "divergence": sum(seen) / len(seen)})

    def divergence_weight(self, fraction: float) -> float:
        """What the divergence counts after a fraction of the training: from a hundredth of ``kl`` up to ``kl``."""
        grown = min(1.0, fraction / self.p.kl_until) if self.p.kl_until else 1.0
        return self.p.kl * max(_FIRST, grown)

    def task_loss(
        self, learned: Tensors, episode: Episode, noise: Tensors, weight: float, ctx: Context
    ) -> tuple[inner.TaskLoss, Tensor]:
        """One task: ``L_Q(phi) + weight KL / P`` with its graph, and ``KL / P``.

        Args:
            learned: with a graph or leaves.
            episode: examples and queries.
            noise: standard normal, for each name of ``mu``.
            weight: of the divergence for each number.
            ctx: checked before each inner step.
        """
        x, y = episode.support_x, episode.support_y
        start, first = inner.start(self.network, mu_of(learned), x, y, episode.ways)
        p = shifted(learned, PRIOR, F.cross_entropy(inner.support_logits(self.network, start, x), y))
        q = shifted(learned, POSTERIOR, self.query_loss(start, episode)[0])
        *_, phi = self.path(q.at(noise), Support(x, y, episode.ways), self.p.inner_steps, "second", ctx)
        loss, logits = self.query_loss(phi, episode)
        divergence = kl(q, p) / sum(t.numel() for t in q.mean.values())
        return inner.TaskLoss(loss + weight * divergence, logits, first), divergence

    def query_loss(self, network: Tensors, episode: Episode) -> tuple[Tensor, Tensor]:
        """``L_Q`` of a trunk with a linear classifier, and the logits ``[Q, N]``."""
        given = inner.statistics(self.network, network, episode.support_x)
        logits = inner.query_logits(self.network, network, given, episode.query_x)
        return F.cross_entropy(logits, episode.query_y), logits

    def path(self, theta: Tensors, support: Support, steps: int, order: inner.Order, ctx: Context) -> Iterator[Tensors]:
        """The inner loop from a drawn ``theta``, as in MAML: its network after 0 to ``steps`` steps on the examples."""
        x, y = support.x, support.y
        start, _ = inner.start(self.network, theta, x, y, support.ways)
        return inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=self.p.inner_lr,
            steps=steps,
            order=order,
            ctx=ctx,
        )

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``draws`` networks, each adapted from a start drawn from the prior: ``draw.<l>.`` before MAML's names.

        All take their ``test_steps`` steps together, and settle, each at the examples' statistics there.
        """
        gen = generator(ctx.seed_for("platipus/draws"))
        p, place = self.prior(s.learned, support)
        with torch.no_grad():
            thetas = [p.at(rows_placed(standard_normal(p.mean, gen), place)) for _ in range(self.p.draws)]
            # one draw alone asks whether to stop: once for each step of all of them
            paths = [
                self.path(theta, support, self.p.test_steps, "none", Context() if later else ctx)
                for later, theta in enumerate(thetas)
            ]
        adapted = Adapted({}, support.ways)
        for j, networks in enumerate(zip(*paths, strict=True)):
            if on_step is not None or j == self.p.test_steps:
                tensors: Tensors = {}
                for i, network in enumerate(networks):
                    tensors |= functional.named(inner.settled(self.network, network, support.x), draw(i))
                adapted = Adapted(tensors, support.ways)
                if on_step is not None:
                    on_step(j, adapted)
        return adapted

    def prior(self, learned: Tensors, support: Support) -> tuple[Gaussian, Tensor]:
        """``p(theta|S)`` without a graph, and the classes' places ``[N]`` in an order that the pictures decide."""
        leaves = {n: t.detach().requires_grad_() for n, t in learned.items()}
        x, y = support.x, support.y
        with torch.enable_grad():
            start, _ = inner.start(self.network, mu_of(leaves), x, y, support.ways)
            logits = inner.support_logits(self.network, start, x)
            p = shifted(leaves, PRIOR, F.cross_entropy(logits, y), graph=False)
        with torch.no_grad(), norm.batch_statistics():
            features = functional.call(self.network, functional.under(detach(learned)), {}, x)
        size = heads.prototypes(features, y, support.ways).mean(1)
        return Gaussian(detach(p.mean), detach(p.log_spread)), torch.argsort(torch.argsort(size, stable=True))

    @torch.no_grad()
    def embed(self, s: State, a: Adapted, x: Tensor) -> Tensor:  # noqa: ARG002 - all is in the adapted networks
        """``[B, L * D]`` features of the adapted networks, side by side."""
        draws = range(self.p.draws)
        trunks = [functional.under(a.tensors, draw(i) + functional.TRUNK) for i in draws]
        return torch.cat([functional.call(self.network, trunk, {}, x) for trunk in trunks], 1)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The adapted linear layers and the average of their probabilities."""
        return committee.Committee(
            torch.stack([a.tensors[draw(i) + "head.weight"] for i in range(self.p.draws)]),
            torch.stack([a.tensors[draw(i) + "head.bias"] for i in range(self.p.draws)]),
        )

    def deploy(self, s: State, a: Adapted) -> Deployed:
        """All adapted networks, with the support's statistics frozen in, and the head."""
        draws = range(self.p.draws)
        trunks = [functional.under(a.tensors, draw(i) + functional.TRUNK) for i in draws]
        return Deployed(committee.SideBySide([functional.frozen(self.network, t) for t in trunks]), self.head(s, a))


def draw(number: int) -> str:
    """Prefix of the tensors of one adapted network."""
    return f"draw.{number}."


def mu_of(learned: Tensors) -> Tensors:
    """Of all that is learnt, what MAML learns."""
    return {n: t for n, t in learned.items() if not n.startswith((PRIOR, POSTERIOR, GAMMA))}


def shifted(learned: Tensors, kind: str, loss: Tensor, *, graph: bool = True) -> Gaussian:
    """The Gaussian of that kind: around ``mu - gamma grad loss``, where ``loss`` is a function of ``mu``.

    Args:
        learned: holds ``mu``, the spreads and ``gamma``.
        kind: ``PRIOR`` or ``POSTERIOR``.
        loss: at ``mu``, with its graph.
        graph: whether the mean is to be differentiated, Hessian and all.
    """
    mu, gamma = mu_of(learned), learned[GAMMA + kind].exp()
    grads = torch.autograd.grad(loss, list(mu.values()), create_graph=graph)
    mean = {n: t - gamma * g for (n, t), g in zip(mu.items(), grads, strict=True)}
    return Gaussian(mean, {n: learned[kind + n] for n in mu})


def kl(q: Gaussian, p: Gaussian) -> Tensor:
    """``KL(q || p)`` in nats, summed over all numbers; written with logarithms, so equal spreads give an exact 0."""
    total = []
    for n, mean in q.mean.items():
        ratio = 2 * (q.log_spread[n] - p.log_spread[n])
        distance = (mean - p.mean[n]).square() * (-2 * p.log_spread[n]).exp()
        total.append((ratio.exp() + distance - 1 - ratio).sum() / 2)
    return torch.stack(total).sum()


def standard_normal(like: Tensors, gen: Generator) -> Tensors:
    """A standard normal number for each number of ``like``."""
    return {n: torch.randn(t.shape, generator=gen).to(t) for n, t in like.items()}


def rows_placed(noise: Tensors, place: Tensor) -> Tensors:
    """``noise`` with the rows of a textbook head, where it has one, handed to the classes by their places ``[N]``."""
    return {n: t[place] if n.startswith("head.") else t for n, t in noise.items()}
