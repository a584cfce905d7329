"""Distribution calibration (Yang, Liu, Xu 2021, arXiv 2101.06395): features are drawn for classes hardly seen.

One or five examples say little about how a class spreads. Classes of the sources that lie nearby have been seen often,
and spread alike. So they lend their statistics, features are drawn from what comes out, and an ordinary classifier is
fitted on examples and drawn features together::

    x       = f(picture)^power                                         power 1/2: skewed features become rounder
    near    = the n source classes whose means mu_i are nearest to x                        |x - mu_i|, n = 2
    mu'     = (sum of mu_i + x) / (n + 1)                                                   [D]
    Sigma'  = mean of Sigma_i + alpha I                                                     [D, D], alpha = 0.21
    drawn   = m features of N(mu', Sigma') for each example
    W, b    = argmin c * [(1 - w) sum_i a_i CE(x_i) + w sum_d a_d CE(drawn_d)] + 1/2 |W|^2   on x / |x|
    z       = W x / |x| + b                                                                 [B, N]

The trunk is trained as any classifier is, to tell all source classes apart; then it is frozen, and in a second phase
``mu_i [M, D]`` and ``Sigma_i [M, D, D]`` are measured on source pictures (see ``base_classes``: where 64 MB would not
do, the classes share one covariance). They lie in the state's memory. Without them, as when a network has not been
trained here, ``mu' = x`` and ``Sigma' = alpha I``. A strong trunk does most of the work: compare with the logistic
probe.

What is chosen here and is not in the paper:

* the source statistics are those of ``x``, features after the power. The authors' code takes them before it, and
  compares one with the other;
* ``m`` counts per class and is shared out among its examples, as in the authors' code;
* **drawn features are not examples.** Examples and drawn features have the total weights ``1 - w`` and ``w`` times the
  number of examples, every class counting alike, so that drawing more does not weaken the penalty. With ``w = 0`` or
  nothing drawn this is the logistic probe;
* all examples use the same normal numbers, from a seed that is part of the algorithm: the result depends neither on
  the day nor on the order of the examples, and classes differ by what is known of them, not by their luck;
* features below zero have no square root: they are cut off at zero first (nothing is, with ``power = 1``). Networks
  that end in a ReLU have none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import base_classes, examples, forms, functional, heads, logistic, pairs, registry, supervised
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
    from workbench.data.episodes import Labelled

CLASSES, STATISTICS = "classes", "statistics"
NOISE = "drawn.noise"
"""In the memory when all is measured, where the source classes share a covariance; see ``Calibrated.shared_noise``."""
SEED = 0
"""Of the normal numbers."""


@registry.register
class Calibrated(forms.FittedHead):
    """Plain training, then a logistic regression on examples and features drawn for them; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="calibrated",
        title="Distribution calibration",
        family="data generation",
        paper="Yang, Liu, Xu 2021, arXiv 2101.06395",
        summary="Borrows from similar source classes how features spread, and draws more of them for the new classes.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        batch: int = param(64, low=2, high=1024, step=16, title="Batch size", help="Pictures in a training step.")
        measuring: float = param(
            0.1,
            low=0.01,
            high=0.9,
            step=0.05,
            title="Share of measuring",
            help="Part of the budget in which the trained network is frozen and the source classes are described.",
        )
        covariance: str = param(
            "class",
            choices=base_classes.FORMS,
            help="Of each source class, one shared by all, or variances alone; where it would be too large, the next.",
        )
        power: float = param(0.5, low=0.1, high=1.0, step=0.1, help="Of each feature; 1 leaves them as they are.")
        neighbours: int = param(2, low=0, high=20, step=1, help="Source classes that lend their statistics.")
        alpha: float = param(0.21, low=1e-4, high=10.0, step=0.05, help="Added to every variance.")
        samples: int = param(750, low=0, high=10000, step=50, help="Features drawn for each class.")
        weight: float = param(
            0.5, low=0.0, high=1.0, step=0.1, title="Weight of drawn features", help="Against that of the examples."
        )
        c: float = param(
            1.0, low=1e-3, high=1e4, step=0.5, title="C", help="How much the examples weigh against short weights."
        )

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """Plain training, whose states lack the statistics and are not kept; then measuring, which moves nothing."""
        p = self.p
        return (
            Phase(CLASSES, "batches", share=1 - p.measuring, batch_size=p.batch, lr={"": p.lr}, kept=False),
            Phase(STATISTICS, "batches", share=p.measuring, batch_size=p.batch, frozen=("",)),
        )

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), a classifier of the sources' classes, and nothing known of these."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        classifier = supervised.classifier(self.setting.classes_per_source, self.features, gen)
        classes = sum(self.setting.classes_per_source)
        form = base_classes.chosen_form(classes, self.features, self.p.covariance)
        known = base_classes.empty(classes, self.features, form, torch.zeros((), device=gen.device))
        return State({**functional.named(trunk), **classifier}, {**functional.named(buffers), **known})

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:
        """Cross entropy over all source classes; or one more batch in the statistics."""
        ctx.check()
        if at.phase == CLASSES:
            return supervised.step(self.network, s, batch, self.setting.classes_per_source)
        before = {n: t for n, t in s.memory.items() if n != NOISE}  # of fewer pictures
        with torch.no_grad():
            features = self._features(s, batch.x)
            loss, accuracy = supervised.classified(s.learned, features, batch, self.setting.classes_per_source)
            rows = supervised.rows_of(batch, self.setting.classes_per_source)
            known = base_classes.added(s.memory, powered(features, self.p.power), rows)
        return StepResult(grads={}, memory={**before, **known}, metrics={"loss": float(loss), "accuracy": accuracy})

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """When all is measured the classifier is not needed any more; what no task changes is worked out."""
        if phase.name != STATISTICS:
            return s
        noise, (learned, memory) = self.shared_noise(s), supervised.dropped(s)
        return State(learned, {**memory, NOISE: noise} if noise is not None else memory)

    @torch.no_grad()
    def shared_noise(self, s: State) -> Tensor | None:
        """``[m, D]`` of ``N(0, Sigma')`` where all source classes have one ``Sigma``, and so all tasks one ``Sigma'``.

        A root of 1600 x 1600 numbers takes longer than all the rest of adapting.
        """
        p, known = self.p, base_classes.described(s.memory)
        if known is None or known.form != "shared" or not (p.samples and p.weight and p.neighbours):
            return None
        return self._normal(known.mean) @ _root(known.spread, p.alpha).T

    def _normal(self, like: Tensor) -> Tensor:
        """``[m, D]``, the same for every task."""
        numbers = torch.randn(self.p.samples, like.shape[1], generator=generator(SEED), dtype=torch.float64)
        return numbers.to(like)

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:
        """The classifier ``weight [N, D]`` and ``bias [N]``."""
        p = self.p
        x = powered(features, p.power)
        weights = heads.balanced(y, ways, x)
        if not (p.samples and p.weight):
            weight, bias = logistic.fit(F.normalize(x, dim=1), y, ways, c=p.c, ctx=ctx, weights=weights)
            return {"weight": weight, "bias": bias}
        drawn = self.drawn(s, x, y, ways, ctx)
        rows = drawn.rows()
        labels = torch.cat([y, y.repeat_interleave(drawn.most)])
        weights = torch.cat([(1 - p.weight) * weights, p.weight * drawn.weights(y, ways).flatten()]).double()
        weight, bias = logistic.fit_rows(rows, labels, ways, c=p.c, ctx=ctx, weights=weights)
        weight = examples.from_span(weight.T, drawn.basis).T.contiguous()
        return {"weight": weight.to(x), "bias": bias.to(x)}

    def drawn(self, s: State, x: Tensor, y: Tensor, ways: int, ctx: Context) -> Drawn:
        """The examples and features drawn for them.

        Each class gets the same number of features, as near as its examples divide it. Where the source classes share
        a covariance all examples share their noise, and with their means it spans few of 1600 dimensions (see
        ``examples.in_span``).
        """
        shots = heads.one_hot(y, ways, x).sum(0)
        counts = (self.p.samples / shots[y]).round().clamp_min(1).long()
        most = int(counts.max())
        means: list[Tensor] = []
        noises: list[Tensor] = []
        if NOISE in s.memory:
            noises.append(s.memory[NOISE][:most].to(x))
            means.extend(mean for mean, _ in borrowed(x, base_classes.means(s.memory), self.p.neighbours))
        else:
            normal, last = self._normal(x)[:most], None
            for mean, root in calibrated(x, s.memory, self.p.neighbours, self.p.alpha):
                ctx.check()
                if root is not last:
                    noises.append(normal * root if root.ndim == 1 else normal @ root.T)
                means.append(mean)
                last = root
        parts, basis = examples.in_span(torch.cat([x, torch.stack(means), *noises]).double())
        known, middle, noise = torch.split(parts, [len(x), len(x), len(noises) * most])
        return Drawn(known, middle, noise.view(len(noises), most, -1), counts, basis)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The power, and the linear layer on features of length 1."""
        return PoweredHead(self.p.power, a.tensors["weight"], a.tensors["bias"])


class Drawn(NamedTuple):
    """Examples and what is drawn for them, in float64 coordinates.

    Attributes:
        known: the examples ``[S, r]``.
        means: ``mu'`` of each ``[S, r]``.
        noise: ``[S, m, r]``, or ``[1, m, r]`` where all examples share theirs.
        counts: how many of the ``m`` each example draws ``[S]``.
        basis: what the coordinates refer to ``[D, r]``; ``None``: they are features as they are.
    """

    known: Tensor
    means: Tensor
    noise: Tensor
    counts: Tensor
    basis: Tensor | None

    @property
    def most(self) -> int:
        """``m``."""
        return self.noise.shape[1]

    def rows(self) -> logistic.Rows:
        """All of length 1: the examples, then ``m`` for each example; those beyond its count are to weigh nothing."""
        known = F.normalize(self.known, dim=1)
        if len(self.noise) == 1:
            return pairs.UnitSums(known, self.means, self.noise[0])
        drawn = (self.means[:, None] + self.noise).flatten(0, 1)
        return logistic.Table(torch.cat([known, F.normalize(drawn, dim=1)]))

    def weights(self, y: Tensor, ways: int) -> Tensor:
        """``[S, m]`` of features drawn for examples of the classes ``y``: ``S`` in all, every class counting alike."""
        of_class = heads.one_hot(y, ways, self.known)
        each = len(y) / (ways * (self.counts.to(of_class) @ of_class)[y])
        return each[:, None] * (torch.arange(self.most, device=y.device) < self.counts[:, None])


def powered(features: Tensor, power: float) -> Tensor:
    """Tukey's ladder of powers: ``max(f, 0)^power``; ``f`` itself for 1."""
    return features if power == 1 else features.clamp_min(0) ** power


@torch.no_grad()
def calibrated(x: Tensor, memory: dict[str, Tensor], neighbours: int, alpha: float) -> Iterator[tuple[Tensor, Tensor]]:
    """For each example ``mu' [D]`` and a root of ``Sigma'``: lower triangular ``[D, D]``, or ``[D]`` where diagonal.

    Where all have the same root it is the same tensor.

    Args:
        x: ``[S, D]``.
        memory: of ``base_classes``; without any, an example stands for itself.
        neighbours: ``n``; fewer where fewer classes are known.
        alpha: added to the variances.
    """
    known = base_classes.described(memory) if neighbours else None
    if known is None:
        root = torch.full_like(x[0], alpha**0.5)
        yield from ((row, root) for row in x)
        return
    mean, spread = known.mean.to(x), known.spread.to(x)
    shared = _root(spread, alpha) if known.form == "shared" else None
    for middle, near in borrowed(x, mean, neighbours):
        yield middle, _root(spread[near].mean(0), alpha) if shared is None else shared


def borrowed(x: Tensor, means: Tensor, neighbours: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each example of ``x [S, D]`` the mean ``mu' [D]``, and which of ``means [K, D]`` it was borrowed from."""
    means = means.to(x)
    n = min(neighbours, len(means))
    distance = means.square().sum(1) - 2 * x @ means.T  # less |x|^2, the same for all
    for row, near in zip(x, distance.topk(n, largest=False).indices, strict=True):
        yield (means[near].sum(0) + row) / (n + 1), near


def _root(spread: Tensor, alpha: float) -> Tensor:
    """Of ``spread + alpha I``; in float64, since a covariance of few pictures is singular."""
    if spread.ndim == 1:
        return (spread + alpha).sqrt()
    wide = spread.to(torch.float64, copy=True)
    wide.diagonal().add_(alpha)
    root: Tensor = torch.linalg.cholesky(wide)
    return root.to(spread)


class PoweredHead(nn.Module):
    """``[B, D] -> [B, N]``: features to a power, of length 1, and a fixed linear classifier."""

    def __init__(self, power: float, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.power = power
        self.linear = heads.UnitLinearHead(weight, bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``features [B, D]``."""
        out: Tensor = self.linear(powered(features, self.power))
        return out
