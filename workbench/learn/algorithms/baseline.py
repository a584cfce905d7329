"""Baseline and Baseline++ (Chen, Liu, Kira, Wang, Huang 2019, arXiv 1904.04232): train as usual, then a new head.

A network ``f: [B, C, H, W] -> [B, D]`` is trained to tell all classes of all sources apart, as any classifier is: no
episodes. For a new task it is kept as it is, and a fresh classifier is trained on the examples' features::

    Baseline      z = f W' + b                                W [N, D], b [N]
    Baseline++    z_k = s * g_k <w_k, f> / (|w_k| |f|)        g [N] learnt, s = 2 for up to 200 classes, else 10

in training (``N`` = all source classes) and on the new task alike. Being blind to lengths, Baseline++ makes the trunk
bring each class's *directions* together; it does not change with the scale of the features. The bar that every
meta-learner has to clear: with a deep trunk, and across domains, many do not.

How the new head is trained is in ``fresh_head``: 100 passes over the examples in minibatches of 4, as the authors do.
Each pass is shown as a step. A head learns on kept features in some milliseconds, and its minibatches depend neither
on a seed of the day nor on the order in which examples were shown. The scale ``s`` goes by the number of classes of
each head, as in the authors' code: that of a new task's head is 2 whatever the trunk was trained with.

Any number of classes: a head is made for each task, at zero (Baseline) or at the class means (Baseline++).

Mistakes that are easily made here, and not made: the new head's decay taken from the training of the network (it is
1e-3 here, and none there); a scale so small that the softmax cannot become sure; rows drawn without a seed; stopping
when the queries go best; batch norm that runs on, so that a trunk said to be frozen moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, fresh_head, functional, heads, norm, registry, supervised
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
    from workbench.data.episodes import Labelled

LENGTHS = supervised.CLASSIFIER + "lengths"
"""Baseline++'s ``g [M]`` of the source classes; dropped with their classifier."""
MANY = 200


@registry.register
class Baseline(forms.FixedTrunk):
    """Plain training, then a linear head; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="baseline",
        title="Baseline",
        family="transfer baseline",
        paper="Chen, Liu, Kira, Wang, Huang 2019, arXiv 1904.04232",
        summary="Trains an ordinary classifier of all source classes, then a new linear layer on its features.",
        tags=frozenset({"trains", "gradient-based", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate(help="Of Adam, in training.")
        batch: int = param(64, low=2, high=1024, step=16, title="Batch size", help="Pictures in a training step.")
        test_steps: int = param(
            100, low=0, high=1000, step=10, title="Passes in use", help="Over the examples of a new task."
        )
        head_lr: float = param(
            0.01, low=1e-5, high=10.0, step=0.01, title="Learning rate of a head", help="Of descent on a new task."
        )
        head_batch: int = param(
            4, low=1, high=1000, step=1, title="Minibatch of a head", help="Examples in one step on a new task."
        )
        head_decay: float = param(
            1e-3, low=0.0, high=1.0, step=1e-3, title="Decay of a head", help="How strongly it is held near zero."
        )

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.recipe = fresh_head.Recipe(p.test_steps, p.head_batch, p.head_lr, p.head_decay)

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
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """A new head, ``weight`` and for Baseline ``bias``, after ``test_steps`` passes over the examples."""
        with torch.no_grad():
            features = self.shown(s, support)
        adapted = Adapted({}, support.ways)
        for j, head in enumerate(self.fitted(features, support, ctx, every=on_step is not None)):
            adapted = Adapted(head, support.ways)
            if on_step is not None:
                on_step(j, adapted)
        return adapted

    def fitted(self, features: Tensor, support: Support, ctx: Context, *, every: bool) -> Iterator[Tensors]:
        """The head after the last pass; with ``every``, before the first one and after each."""
        fits = fresh_head.linear(features, support.y, support.ways, self.recipe, ctx, every=every)
        for weight, bias in fits:
            yield {"weight": weight, "bias": bias}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The trained linear layer."""
        return heads.LinearHead(a.tensors["weight"], a.tensors["bias"])


@registry.register
class BaselinePlusPlus(Baseline):
    """The same with cosine classifiers, in training and on a new task; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="baseline++",
        title="Baseline++",
        family="transfer baseline",
        paper="Chen, Liu, Kira, Wang, Huang 2019, arXiv 1904.04232",
        summary="As Baseline, with classifiers that compare directions: a class keeps together more tightly.",
        tags=frozenset({"trains", "gradient-based", "any-way", "cacheable"}),
    )

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), and a classifier of directions and lengths without a bias."""
        learned, memory = super().init(gen)
        rows, learned = learned.get(supervised.CLASSIFIER + "weight"), dict(learned)
        learned.pop(supervised.CLASSIFIER + "bias", None)
        if rows is not None:
            learned[LENGTHS] = rows.norm(dim=1)
        return State(learned, memory)

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule
        """Cross entropy of cosines over all source classes; running averages move on.

        Raises:
            ValueError: the state has no classifier.
        """
        ctx.check()
        if LENGTHS not in s.learned:
            raise ValueError("a supervised phase needs the number of classes of each source")
        with norm.batch_statistics() as seen:
            features = functional.call(self.network, functional.under(s.learned), {}, batch.x)
        logits = cosine_logits(features, s.learned[supervised.CLASSIFIER + "weight"], s.learned[LENGTHS])
        y = supervised.rows_of(batch, self.setting.classes_per_source)
        loss = F.cross_entropy(logits, y)
        right = (logits.detach().argmax(1) == y).float().mean()
        buffers = norm.running_average(functional.under(s.memory), seen)
        metrics = {"loss": float(loss.detach()), "accuracy": float(right)}
        return StepResult(loss=loss, memory={**s.memory, **functional.named(buffers)}, metrics=metrics)

    def fitted(self, features: Tensor, support: Support, ctx: Context, *, every: bool) -> Iterator[Tensors]:
        """As for the linear head; lengths and scale are in the rows."""
        ways = support.ways
        for weight in fresh_head.cosine(features, support.y, ways, scale(ways), self.recipe, ctx, every=every):
            yield {"weight": weight}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The rows on features of length 1."""
        return heads.UnitLinearHead(a.tensors["weight"])


def scale(classes: int) -> float:
    """``s``: a softmax over many classes needs larger logits to become sure."""
    return 2.0 if classes <= MANY else 10.0


def cosine_logits(features: Tensor, directions: Tensor, lengths: Tensor) -> Tensor:
    """``[B, M]``: ``s * lengths_k * cos(features, directions_k)``."""
    rows = lengths[:, None] * F.normalize(directions, dim=1)
    return scale(len(lengths)) * F.linear(F.normalize(features, dim=1), rows)
