"""TIM, transductive information maximisation (Boudiaf et al. 2020, arXiv 2008.11297): queries help to classify queries.

A network ``f: [B, C, H, W] -> [B, D]`` is trained to tell all classes of all sources apart, as any classifier is, and
then frozen. For a new task the examples' class means are the first guess of a classifier. Gradient steps then move it
to where the *unlabelled* pictures fall apart into classes: each picture is to belong clearly to one of them, and none
of the classes is to be left without pictures::

    x    = f(picture) / |f(picture)|
    w_k  = mean of x over the examples of class k                               [N, D], where the descent starts
    p    = softmax(scale * cos(x, w_k))                                         scale = 10
    loss = CE(examples) - marginal * H(mean over unlabelled of p) + conditional * mean over unlabelled of H(p)

``H(p) = - sum_k p_k log p_k``. With both weights 1 what is subtracted is the mutual information of pictures and
classes, which is largest where every picture is sure and all classes are equally frequent; the second part weighs 1/10
as in the paper. The minimum is looked for with Adam; only the N rows move.

**It answers for a folder, not for a picture.** Each answer depends on all pictures that were shown while adapting; the
network itself treats each alone (running statistics of batch norm). The evaluation gives it an episode's queries, and
says "transductive" beside the result: such figures are not to be compared with inductive ones. In use pictures come
only from a person who chose that. Where none are given the loss is that of the examples. What is kept and exported are
the rows as the given pictures have left them: from then on it is an ordinary classifier, which treats each picture
alone and does not learn from it.

**It assumes a balanced folder.** ``H(mean p)`` is largest where all classes are equally frequent, so pictures of a
skewed folder are pushed into classes that they do not belong to, and the nearest class mean can be better. Lower
``marginal`` then, down to 0, or raise ``alpha``: with Tsallis' entropy ``H_a(p) = (1 - sum_k p_k^a) / (a - 1)``, whose
limit at ``a = 1`` is the one above, a class that is nearly empty costs less (alpha-TIM, Veilleux et al. 2021, arXiv
2106.12252; there the examples' loss is changed likewise, here it is not).

Every class counts alike in the loss of the examples, however many it has.

Mistakes that are easily made here, and not made: moving the rows while predicting, so that asking twice gives two
answers; a sign or the order of mean and entropy mixed up; cosines without a factor, with which no softmax can be sure;
queries whose batch statistics leak besides; a logarithm of a probability that has become an exact 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import features as pictures
from workbench.learn import forms, functional, heads, registry, supervised
from workbench.learn.protocol import (
    Adapted,
    At,
    OnStep,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Support,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Labelled


BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, as everywhere."""


@registry.register
class TIM(forms.FixedTrunk):
    """Plain training, then class means that unlabelled pictures move; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="tim",
        title="TIM",
        family="transductive",
        paper="Boudiaf et al. 2020, arXiv 2008.11297",
        summary="Trains an ordinary classifier; then a whole folder of unlabelled pictures helps to place the classes.",
        tags=frozenset({"trains", "gradient-based", "any-way", "transductive", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate(help="Of Adam, in training.")
        batch: int = param(64, low=2, high=1024, step=16, title="Batch size", help="Pictures in a training step.")
        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from cosines to logits.")
        test_steps: int = param(
            100, low=0, high=1000, step=10, title="Steps in use", help="Of Adam on a new task; 0 is the class means."
        )
        head_lr: float = param(
            3e-3, low=1e-6, high=1.0, step=1e-3, title="Learning rate in use", help="Of Adam, on a new task."
        )
        marginal: float = param(
            1.0,
            low=0.0,
            high=100.0,
            step=0.1,
            title="Weight of balance",
            help="How much all classes are to be equally frequent among the unlabelled pictures; 0 if they are not.",
        )
        conditional: float = param(
            0.1,
            low=0.0,
            high=100.0,
            step=0.1,
            title="Weight of sureness",
            help="How much each unlabelled picture is to belong clearly to one class.",
        )
        alpha: float = param(
            1.0, low=1.0, high=10.0, step=0.5, help="Of the entropies; more than 1 where classes are not balanced."
        )

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One supervised phase; every source picture is as likely as any other."""
        return (Phase("classes", stream="batches", batch_size=self.p.batch, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained) and a classifier of the sources' classes."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        classifier = supervised.classifier(self.setting.classes_per_source, self.features, gen)
        return State({**functional.named(trunk), **classifier}, functional.named(buffers))

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule
        """Cross entropy over all source classes; running averages move on."""
        ctx.check()
        return supervised.step(self.network, s, batch, self.setting.classes_per_source)

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """The source classes' classifier is not needed any more."""
        return supervised.dropped(s)

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Adapted:
        """The rows ``weight [N, D]`` after ``test_steps`` steps, on the examples and ``unlabelled``."""
        with torch.no_grad():
            examples = self.shown(s, support)
            queries = examples[:0]
            if unlabelled is not None and len(unlabelled):
                queries = self._of_many(s, unlabelled, ctx) if support.features is None else unlabelled
            examples, queries = F.normalize(examples, dim=1), F.normalize(queries, dim=1)
        adapted = Adapted({}, support.ways)
        for j, rows in enumerate(self.descent(examples, support.y, support.ways, queries, ctx)):
            adapted = Adapted({"weight": rows}, support.ways)
            if on_step is not None:
                on_step(j, adapted)
        return adapted

    @torch.no_grad()
    def descent(self, examples: Tensor, y: Tensor, ways: int, queries: Tensor, ctx: Context) -> Iterator[Tensor]:
        """The rows ``[N, D]`` at the class means and after each step of Adam, without a graph.

        Args:
            examples: of length 1, ``[S, D]``.
            y: their classes ``[S]``.
            ways: number of classes.
            queries: unlabelled ones, of length 1, ``[Q, D]``; there may be none.
            ctx: checked before each step.

        Raises:
            JobCancelledError: from ``ctx``, before the next step.
        """
        rows = heads.prototypes(examples, y, ways)
        x = torch.cat([examples, queries])
        targets, shares = heads.one_hot(y, ways, examples).T.contiguous(), heads.balanced(y, ways, examples) / len(y)
        mean, square = torch.zeros_like(rows), torch.zeros_like(rows)  # Adam's, of this task alone
        yield rows.clone()
        for j in range(1, self.p.test_steps + 1):
            ctx.check()
            g = self.gradient(rows, x, targets, shares)
            mean.lerp_(g, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            # what both means lack while they are young, of the square's under a root, in the factor and in the epsilon
            lack = (1 - BETAS[1] ** j) ** 0.5
            spread = square.sqrt().add_(EPSILON * lack)
            rows.addcdiv_(mean, spread, value=-self.p.head_lr * lack / (1 - BETAS[0] ** j))
            yield rows.clone()

    def gradient(self, rows: Tensor, x: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """Of :meth:`loss` by the rows, ``[N, D]``, written out: a hundred steps of autograd take several times as long.

        Down the chain: by the logits, ``p - target`` for an example, ``p_k (h_k - sum_j p_j h_j)`` for a query, ``h``
        the derivative by the probabilities; then by the directions ``u = w / |w|``; of what that gives the part along
        ``u`` does not turn a row, and the rest turns a long row less.

        Classes are rows of every matrix in between: few and long, which products and sums take in a third of the time.

        Args:
            rows: ``[N, D]``.
            x: of length 1, ``[S + Q, D]``, the examples first; there may be no queries.
            targets: the examples' classes, one-hot ``[N, S]``.
            shares: of each example in the loss ``[S]``, summing to 1.
        """
        p, labelled = self.p, targets.shape[1]
        count = len(x) - labelled
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        turned = p.scale / length
        log_p = ((rows * turned) @ x.T).log_softmax(0)
        by_logits = log_p.exp()  # of all, the probabilities first
        by_logits[:, :labelled].sub_(targets).mul_(shares)
        if count:
            own = by_logits[:, labelled:]
            # a class that no query can belong to pulls none: any finite logarithm does
            log_mean = own.mean(1, keepdim=True).clamp_min_(torch.finfo(own.dtype).tiny).log_()
            h = entropy_slope(log_p[:, labelled:], p.alpha, p.conditional / count)
            h -= entropy_slope(log_mean, p.alpha, p.marginal / count)
            own.mul_(h.sub_((own * h).sum(0)))
        by_direction = by_logits @ x
        along = torch.linalg.vecdot(rows, by_direction)[:, None] / length.square()
        gradient: Tensor = by_direction.addcmul_(along, rows, value=-1).mul_(turned)
        return gradient

    def loss(self, rows: Tensor, examples: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        """What the rows ``[N, D]`` are chosen by, a scalar; features of length 1 as in :meth:`descent`."""
        each = F.cross_entropy(heads.cosine_logits(examples, rows, self.p.scale), y, reduction="none")
        labelled = (heads.balanced(y, len(rows), examples) * each).mean()
        if not len(queries):
            return labelled
        log_p = heads.cosine_logits(queries, rows, self.p.scale).log_softmax(1)
        log_mean = log_p.logsumexp(0) - math.log(len(queries))
        balance, doubt = entropy(log_mean, self.p.alpha), entropy(log_p, self.p.alpha).mean()
        return labelled - self.p.marginal * balance + self.p.conditional * doubt

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The rows on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * F.normalize(a.tensors["weight"], dim=1))

    def _of_many(self, s: State, x: Tensor, ctx: Context) -> Tensor:
        """Features ``[Q, D]`` of many pictures, some at a time."""
        parts = []
        for piece in torch.split(x, pictures.batch_size(x.shape[2], x.shape[3], x.device.type)):
            ctx.check()
            parts.append(self._features(s, piece))
        return torch.cat(parts)


def entropy(log_p: Tensor, alpha: float = 1.0) -> Tensor:
    """``[...]`` Tsallis' entropy of probabilities whose logarithms are ``[..., N]``; Shannon's, in nats, for 1."""
    if alpha == 1:
        return -(log_p.exp() * log_p).sum(-1)
    return (1 - (alpha * log_p).exp().sum(-1)) / (alpha - 1)


def entropy_slope(log_p: Tensor, alpha: float = 1.0, weight: float = 1.0) -> Tensor:
    """``[..., N]`` ``weight`` times the derivative of :func:`entropy` by each probability, but for a constant.

    The constant does not matter: the sum of the probabilities is always 1.
    """
    if alpha == 1:
        return log_p * -weight
    return ((alpha - 1) * log_p).exp_().mul_(weight * alpha / (1 - alpha))
