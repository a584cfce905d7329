"""Meta-SGD (Li, Zhou, Chen, Li 2017, arXiv 1707.09835): initialisation, step size and direction of one step, learnt.

MAML with the one step size ``alpha`` made a vector, one number per parameter, that is learnt like the rest::

    theta' = theta - alpha (*) grad L_S(theta)                     (*) = number by number, alpha in R^P
    (theta, alpha) <- (theta, alpha) - beta * grad of mean over tasks of L_Q(theta')

With one step ``dL_Q(theta')/dalpha = - g_S(theta) (*) g_Q(theta')``: a parameter whose examples and queries agree about
its direction gets a longer step. Where they disagree ``alpha`` may become *negative*; that is the learnt direction, and
holding ``alpha > 0`` would silently remove it. It is held within -1 and 1, which is not in the paper. Adapting takes
one step of the whole network: the fastest of its kind.

The head comes in two forms, as in MAML: ``textbook`` rows, whose ``alpha`` has a row for each class too; and
``prototype``, where the classifier starts at the class means of the task's examples. There the rows belong to no
class before the task is known, so they share their ``alpha``: one number per feature ``[D]`` and one for the biases.
That keeps the number of classes free, and the numbering of the classes without effect.

``start = pretrained`` is Meta-SGD on a network that is good already:

1. the trunk and a classifier over all classes of all sources are trained as usual (left out where pretrained weights
   are given);
2. that classifier is dropped; the textbook head starts at zero, so that no class is favoured before the first step;
3. ``theta`` and ``alpha`` are meta-learnt, the trunk's ``alpha`` beginning 10 to 100 times lower than the head's, and
   the trunk with an outer learning rate of its own;
4. the accuracy of the trunk alone (nearest class mean, running statistics, no adapting) is logged with every step as
   ``trunk_accuracy``. The first value is that before meta-learning; if it falls, meta-learning spoils the trunk.

Mistakes that are easily made here, and not made: one number for all parameters; an ``alpha`` that the *inner* loss
steps; a start at 1, which diverges; weight decay on ``alpha``; steps on normalised gradients; the shared
initialisation overwritten by a task's. Batch norm is MetaBN, as in MAML.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, inner, registry, supervised
from workbench.learn.protocol import (
    Adapted,
    At,
    OnStep,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Support,
    Tensors,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes, Labelled

ALPHA = "alpha."
LOW, HIGH = 0.005, 0.1
"""Between these ``alpha`` starts, at random for each parameter."""
BOUND = 1.0
PRETRAINING = "pretraining"


@registry.register
class MetaSGD(forms.WholeNetwork):
    """One step with a learnt step size for every parameter; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="meta-sgd",
        title="Meta-SGD",
        family="optimisation",
        paper="Li, Zhou, Chen, Li 2017, arXiv 1707.09835",
        summary="Learns a starting point and, for every parameter, how far and which way one step should go.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        start: str = param(
            "scratch",
            choices=("scratch", "pretrained"),
            help="Learn everything by episodes, or first train the network to tell all classes of the sources apart "
            "(unless it comes with weights) and change it with care.",
        )
        inner_steps: int = param(
            1, low=0, high=20, step=1, title="Inner steps in training", help="The paper takes one, all with one alpha."
        )
        test_steps: int = param(
            1, low=0, high=50, step=1, title="Inner steps in use", help="Gradient steps on a new task."
        )
        lr: float = forms.learning_rate("Outer learning rate")
        trunk_lr: float = param(
            1e-4,
            low=0.0,
            high=1.0,
            step=1e-5,
            title="Outer learning rate, pretrained trunk",
            help="Of Adam, for the weights of a pretrained trunk.",
        )
        trunk_alpha: float = param(
            0.03,
            low=1e-4,
            high=1.0,
            step=0.01,
            title="Alpha of a pretrained trunk",
            help="Its start and its learning rate, as a part of those of the head's alpha; 0.01 to 0.1 is careful.",
        )
        pretraining: float = param(
            0.5,
            low=0.05,
            high=0.95,
            step=0.05,
            title="Share of pretraining",
            help="Part of the budget for the supervised phase of a start that is pretrained here.",
        )
        tasks: int = forms.tasks_per_step(4, outer=True)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """Episodes; before them a supervised phase where the trunk is to be pretrained and comes without weights."""
        p = self.p
        if p.start == "scratch":
            return (Phase("episodes", tasks_per_step=p.tasks, lr={"": p.lr}, clip=10.0),)
        share = p.pretraining if self.setting.weights is None else 0.0
        rates = {"": p.lr, "trunk.": p.trunk_lr, f"{ALPHA}trunk.": p.lr * p.trunk_alpha}
        careful = Phase("episodes", share=1 - share, tasks_per_step=p.tasks, lr=rates, clip=10.0)
        if not share:
            return (careful,)
        plain = {"trunk.": p.lr, supervised.CLASSIFIER: p.lr}
        return (Phase(PRETRAINING, "batches", share=share, lr=plain, batch_size=128), careful)

    def init(self, gen: Generator) -> State:
        """Trunk, head (``head.*`` or ``scale``), ``alpha.*`` for each adapted parameter, and a classifier to drop."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        shapes = {n: t.shape for n, t in learned.items() if n != "scale"}
        if self.p.head == "prototype":
            shapes |= {"head.weight": torch.Size([self.features]), "head.bias": torch.Size([])}
        alpha = {n: LOW + (HIGH - LOW) * torch.rand(s, generator=gen, device=gen.device) for n, s in shapes.items()}
        if self.p.start == "pretrained":
            alpha |= {n: self.p.trunk_alpha * a for n, a in alpha.items() if n.startswith(functional.TRUNK)}
            learned |= {n: torch.zeros_like(t) for n, t in learned.items() if n.startswith("head.")}
            if self.setting.weights is None:
                learned |= supervised.classifier(self.setting.classes_per_source, self.features, gen)
        return State(learned | functional.named(alpha, ALPHA), functional.named(buffers))

    def step(self, s: State, batch: Episodes | Labelled, at: At, ctx: Context) -> StepResult:
        """One outer step of either phase."""
        return self.pretrain(s, batch, ctx) if at.phase == PRETRAINING else self.meta_learn(s, batch, ctx)  # type: ignore[arg-type]

    def pretrain(self, s: State, batch: Labelled, ctx: Context) -> StepResult:
        """The loss of the classifier over all classes of all sources."""
        ctx.check()
        return supervised.step(self.network, s, batch, self.setting.classes_per_source)

    def meta_learn(self, s: State, batch: Episodes, ctx: Context) -> StepResult:
        """Mean gradient over the tasks, for ``theta`` and ``alpha`` alike."""
        result = inner.mean_gradient(s, batch.episodes, lambda learned, e: self.task_loss(learned, e, ctx))
        assert result.grads is not None
        grads = {n: _inward(s.learned[n], g) if n.startswith(ALPHA) else g for n, g in result.grads.items()}
        metrics = dict(result.metrics)
        if self.p.start == "pretrained":
            metrics["trunk_accuracy"] = sum(self.trunk_accuracy(s, e) for e in batch.episodes) / len(batch.episodes)
        return replace(result, grads=grads, metrics=metrics)

    def task_loss(self, learned: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: ``L_Q(theta')`` with its graph down to ``theta`` and ``alpha``."""
        x, y = episode.support_x, episode.support_y
        start, first = inner.start(self.network, learned, x, y, episode.ways)
        *_, theta = inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=step_sizes(learned),
            steps=self.p.inner_steps,
            order="second",
            ctx=ctx,
        )
        given = inner.statistics(self.network, theta, x)
        logits = inner.query_logits(self.network, theta, given, episode.query_x)
        return inner.TaskLoss(F.cross_entropy(logits, episode.query_y), logits, first)

    @torch.no_grad()
    def trunk_accuracy(self, s: State, episode: Episode) -> float:
        """Of the nearest class mean in the trunk's features as they are, without adapting anything."""
        f = functional.call(
            self.network,
            functional.under(s.learned),
            functional.under(s.memory),
            torch.cat([episode.support_x, episode.query_x]),
        )
        examples, queries = torch.split(f, [len(episode.support_y), len(episode.query_y)])
        logits = heads.distance_logits(queries, heads.prototypes(examples, episode.support_y, episode.ways))
        return float((logits.argmax(1) == episode.query_y).float().mean())

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """After pretraining the classifier is dropped."""
        return supervised.dropped(s) if phase.name == PRETRAINING else s

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``test_steps`` steps: the whole network, its head, and the support's statistics as its running statistics."""
        x, y = support.x, support.y
        with torch.no_grad():
            start, _ = inner.start(self.network, s.learned, x, y, support.ways)
            sizes = step_sizes(s.learned)
        path = inner.descent(
            lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y),
            start,
            lr=sizes,
            steps=self.p.test_steps,
            order="none",
            ctx=ctx,
        )
        return inner.followed(self.network, path, x, support.ways, self.p.test_steps, on_step)


def step_sizes(learned: Tensors) -> Tensors:
    """``alpha`` within its bounds, by parameter; to the gradient it looks unbounded, so that it can come back."""
    return {n: a + (a.clamp(-BOUND, BOUND) - a).detach() for n, a in functional.under(learned, ALPHA).items()}


def _inward(alpha: Tensor, grad: Tensor) -> Tensor:
    """The gradient without what would carry ``alpha`` further outside its bounds."""
    outward = ((alpha >= BOUND) & (grad < 0)) | ((alpha <= -BOUND) & (grad > 0))
    return grad.masked_fill(outward, 0.0)
