"""Hard parameter sharing (Caruana 1997): one trunk for all sources, a classifier for each.

All sources train the same trunk ``f``, and each tells apart *its own* classes alone, with a classifier ``h_t`` of its
own size ``[n_t, D]``::

    min over f, h_1 .. h_T  of  mean_t  w_t L_t(h_t(f(x)))          L_t: mean cross entropy of the pictures of t

A picture of a crack is never compared with the letters of another source, as it is in plain classification over all
classes (SimpleShot's training), so sources that show the same things under other names do not fight. The weights:

* ``uniform``: ``w_t = 1``;
* ``uncertainty`` (Kendall et al. 2018, arXiv 1705.07115): ``L_t / s_t^2 + log s_t`` with ``log s_t^2`` learnt, which
  makes a source with loss ``L_t`` count like ``1 / (2 L_t)``;
* ``pcgrad`` (Yu et al. 2020, arXiv 2001.06782): the trunk's gradients of two sources that point against each other are
  projected first; see ``balance``. One backward pass for each source of the batch, and the order of the projections is
  drawn anew for each step from the seed and the number of the step, so that a resumed run draws the same.

A step's batch holds as many pictures of each source as of any other on average (stream ``mixed``), for two reasons:
a source of many pictures counts no more than one of few, and the batch norm's statistics, which are those of the whole
batch, are the same mixture in every step and in the running averages. Batches of one source each would train with one
source's statistics and predict with a mixture. A source without a picture in a batch is left out of the mean of that
step, and nothing of its own is stepped.

A new task gets a ridge classifier on the frozen trunk's features of length 1 (Tian et al. 2020, arXiv 2003.11539; the
same closed form as ``ridge``): any number of classes, with one image or more. The sources' classifiers are dropped.

With one source this is single-task training, to the last bit. Mistakes that are easily made here, and not made: one
softmax over the rows of all sources; a sum over sources that multiplies the step with their number; weights learnt
without the ``log s_t`` that holds them; projecting on a gradient that was itself projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import balance, forms, functional, heads, norm, registry, supervised
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

UNCERTAINTY = "log_variance."
"""Learnt with the weights ``uncertainty``: ``log_variance.<source>``, ``log s_t^2``."""


@registry.register
class HardSharing(forms.FittedHead):
    """One trunk, one classifier per source; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="hard-sharing",
        title="Hard parameter sharing",
        family="multi-task",
        paper="Caruana 1997; Kendall et al. 2018, arXiv 1705.07115; Yu et al. 2020, arXiv 2001.06782",
        summary="Trains one network on all sources at once, each with a classifier of its own, and weighs the sources.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        weights: str = param(
            "uniform",
            choices=("uniform", "uncertainty", "pcgrad"),
            help="How sources share the network: alike, the less the larger their loss, or with gradients that point "
            "against each other projected.",
        )
        lr: float = forms.learning_rate()
        batch: int = param(
            64, low=2, high=1024, step=16, title="Batch size", help="Pictures in a step, of all sources."
        )
        strength: float = param(
            0.5, low=1e-6, high=1e4, step=0.1, help="How strongly a new task's weights are held near zero."
        )
        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from the fit to logits.")

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One supervised phase; every source is as likely as any other."""
        return (Phase("sources", stream="mixed", batch_size=self.p.batch, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``classifier.<t>.weight [n_t, D]`` and ``.bias``, and ``log s_t^2 = 0``."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        for t, classes in enumerate(self.setting.classes_per_source):
            own = supervised.classifier((classes,), self.features, gen)
            learned |= {n.replace(supervised.CLASSIFIER, f"{supervised.CLASSIFIER}{t}."): v for n, v in own.items()}
            if self.p.weights == "uncertainty":
                learned[f"{UNCERTAINTY}{t}"] = torch.zeros((), device=gen.device)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:
        """One step on pictures of several sources; the running averages move on.

        Raises:
            ValueError: the state has no classifier for a source: it was made without knowing the sources' classes.
        """
        ctx.check()
        with norm.batch_statistics() as statistics:
            features = functional.call(self.network, functional.under(s.learned), {}, batch.x)
        memory = functional.named(norm.running_average(functional.under(s.memory), statistics))
        here = sorted(set(batch.source.tolist()))
        found = {t: self.source_loss(s.learned, features, batch, t) for t in here}
        losses = [loss for loss, _ in found.values()]
        mean = torch.stack(losses).mean()
        right = sum(int(correct.sum()) for _, correct in found.values())
        metrics = {"loss": float(mean.detach()), "accuracy": right / len(batch.y)}
        if self.p.weights == "pcgrad":
            gen = generator(ctx.seed_for(f"hard-sharing/{at.phase}/{at.step}"))
            return StepResult(grads=self.projected(s.learned, losses, gen), memory=memory, metrics=metrics)
        if self.p.weights == "uncertainty":
            mean = balance.uncertain(losses, [s.learned[f"{UNCERTAINTY}{t}"] for t in found])
        return StepResult(loss=mean, memory=memory, metrics=metrics)

    def source_loss(self, learned: Tensors, features: Tensor, batch: Labelled, t: int) -> tuple[Tensor, Tensor]:
        """``L_t`` with its graph, and which of its pictures were right ``[B_t]``."""
        name = f"{supervised.CLASSIFIER}{t}."
        if name + "weight" not in learned:
            raise ValueError("a supervised phase needs the number of classes of each source")
        own = batch.source == t
        # all of one source: the features as they are, so that one source is the plain computation to the last bit
        f, y = (features, batch.y) if bool(own.all()) else (features[own], batch.y[own])
        logits = F.linear(f, learned[name + "weight"], learned[name + "bias"])
        return F.cross_entropy(logits, y), logits.detach().argmax(1) == y

    def projected(self, learned: Tensors, losses: Sequence[Tensor], gen: Generator) -> Tensors:
        """The mean of the sources' gradients, those of the trunk after PCGrad.

        Args:
            learned: leaves.
            losses: of the sources at hand, on one graph.
            gen: of the order of the projections.
        """
        names = list(learned)
        every: list[Tensors] = []
        for loss in losses:
            grads = torch.autograd.grad(loss, [learned[n] for n in names], retain_graph=True, allow_unused=True)
            every.append({n: g for n, g in zip(names, grads, strict=True) if g is not None})
        shared = [{n: g for n, g in some.items() if n.startswith(functional.TRUNK)} for some in every]
        out: Tensors = {}
        for own, trunk in zip(every, balance.surgery(shared, gen), strict=True):
            for n, g in {**own, **trunk}.items():
                out[n] = out[n] + g / len(losses) if n in out else g / len(losses)
        return out

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """The sources' classifiers and weights are not needed any more."""
        s = supervised.dropped(s)
        return State({n: t for n, t in s.learned.items() if not n.startswith(UNCERTAINTY)}, s.memory)

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classifier ``weight [N, D]``."""
        weight = heads.unit_ridge(features, y, ways, self.p.strength)
        return {"weight": weight}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``."""
        return F.linear(F.normalize(self._features(s, x), dim=1), self.p.scale * a.tensors["weight"])

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * a.tensors["weight"])
