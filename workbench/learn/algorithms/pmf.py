"""P>M>F: pre-train, meta-train, fine-tune (Hu, Li, Stuhmer, Kim, Hospedales 2022, arXiv 2204.07305).

Three plain stages, each of which helps on its own::

    P    a network is trained on as many pictures as there are
    M    as Prototypical Networks, with cosines:   c_k = mean of f(x) over class k,   z_k = tau cos(f(q), c_k), tau = 10
    F    on a new task, some steps of Adam on the trunk: classify *changed* examples by the prototypes of the examples
         loss = CE(z(f(augment(S))), y_S)

P is what the setting's weights bring. (The authors take weights that were trained without labels on outside pictures,
and owe them most of their figures.) Without weights it is a classifier of all source classes, trained first and
dropped; its share may be 0. F makes up for a new domain that M has not seen, and needs no head: the prototypes move
with the trunk. It takes a forward and a backward pass over the examples for each step, so it is for patient people;
0 steps, or a rate of 0, are a Prototypical Network.

**The rate of F** decides between help and harm, and 0 has to be among the candidates (the authors: 0, 1e-4, 1e-3,
1e-2): in some domains every step is a loss. They choose it for each domain on labelled episodes. A single task has none
to spare, so it is a hyperparameter here, to be chosen on the validation classes of a domain; never on a task's queries.

Batch norm: in M the whole episode is one batch, as in Prototypical Networks. In F and in use the running averages
stand: statistics of a few changed pictures would be another network than the one that is asked later.

The changes of F are drawn from a seed that is part of the algorithm, one for all examples in a step: the result depends
neither on the day nor on the order in which examples were shown.

Mistakes that are easily made here, and not made: a rate chosen on queries; no 0 among the rates; batch norm in train
mode while fine-tuning; examples that are their own queries, which they match without being changed.
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
from workbench.learn import augment, forms, functional, heads, norm, optimiser, registry, supervised
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
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episodes, Labelled

PRETRAINING = "pretraining"
SEED = 0
"""Of the changes."""


@registry.register
class PMF(forms.ChangedTrunk):
    """Cosine prototypes on a trunk that is fine-tuned for each task; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="pmf",
        title="P>M>F",
        family="transfer baseline",
        paper="Hu, Li, Stuhmer, Kim, Hospedales 2022, arXiv 2204.07305",
        summary="Pre-trains, meta-trains prototypes, and fine-tunes the network on each new task: slow and thorough.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate(help="Of Adam, in training.")
        tasks: int = forms.tasks_per_step(1)
        tau: float = param(10.0, low=0.1, high=1000.0, step=1.0, title="Tau", help="Factor from cosines to logits.")
        pretraining: float = param(
            0.3,
            low=0.0,
            high=0.95,
            step=0.05,
            title="Share of pretraining",
            help="Part of the budget for a plain classifier, unless the network comes with weights; 0 leaves it out.",
        )
        test_steps: int = param(
            50, low=0, high=500, step=5, title="Steps in use", help="Of fine-tuning on a new task; 0 is none."
        )
        tune_lr: float = param(
            1e-4,
            low=0.0,
            high=0.1,
            step=1e-4,
            title="Learning rate in use",
            help="Of Adam, when a new task is fine-tuned. Try 0, 0.0001, 0.001 and 0.01 on validation classes.",
        )
        tuned: str = param(
            "all",
            choices=("all", "norms"),
            help="What is fine-tuned: every weight, or factors and offsets of the normalisation layers alone.",
        )

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        paths = [path for path, part in self.network.named_modules() if isinstance(part, norm.Norm2d)]
        norms = tuple(f"{path}.{part}" for path in paths for part in ("weight", "bias"))
        moving = tuple(n for n, _ in self.network.named_parameters()) if p.tuned == "all" else norms
        self.tuning = Phase("tuning", lr=dict.fromkeys(moving, p.tune_lr), schedule="constant")

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """Pretraining, unless there are weights or it has no share; then episodes."""
        p = self.p
        share = p.pretraining if self.setting.weights is None else 0.0
        meta = Phase("episodes", share=1 - share, tasks_per_step=p.tasks, lr={"": p.lr})
        return (Phase(PRETRAINING, "batches", share=share, lr={"": p.lr}), meta) if share else (meta,)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), and a classifier to drop where it is pretrained here."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        if self.setting.weights is None and self.p.pretraining:
            learned |= supervised.classifier(self.setting.classes_per_source, self.features, gen)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes | Labelled, at: At, ctx: Context) -> StepResult:
        """One outer step of either phase."""
        if at.phase != PRETRAINING:
            return self.meta_learn(s, batch, ctx)  # type: ignore[arg-type]
        ctx.check()
        return supervised.step(self.network, s, batch, self.setting.classes_per_source)  # type: ignore[arg-type]

    def meta_learn(self, s: State, batch: Episodes, ctx: Context) -> StepResult:
        """Mean loss over the episodes of ``batch``; the running averages move on with each."""
        trunk, buffers = functional.under(s.learned), functional.under(s.memory)
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            pictures = torch.cat([episode.support_x, episode.query_x])
            with norm.batch_statistics() as statistics:
                features = functional.call(self.network, trunk, {}, pictures)
            support, queries = features.tensor_split([len(episode.support_y)])
            centres = heads.prototypes(support, episode.support_y, episode.ways)
            logits = heads.cosine_logits(queries, centres, self.p.tau)
            losses.append(F.cross_entropy(logits, episode.query_y))
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

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
        """What was fine-tuned (``trunk.*``), and the classes' centres under it, ``prototypes [N, D]``."""
        adapted = Adapted({}, support.ways)
        for j, trunk in enumerate(self.fine_tuned(s, support, ctx)):
            if on_step is not None or j == self.p.test_steps:
                adapted = self._settled(s, trunk, support)
                if on_step is not None:
                    on_step(j, adapted)
        return adapted

    def fine_tuned(self, s: State, support: Support, ctx: Context) -> Iterator[Tensors]:
        """The trunk's parameters before the first step and after each one; new tensors, what stays is as it was."""
        buffers = functional.under(s.memory)
        trunk = {n: t.detach() for n, t in functional.under(s.learned).items()}
        moments, gen = optimiser.Moments(), generator(SEED)
        yield trunk
        for _ in range(self.p.test_steps):
            ctx.check()
            moving = {n: trunk[n].detach().requires_grad_() for n in optimiser.rates(self.tuning, trunk)}
            with torch.enable_grad():
                loss = self.tuning_loss(trunk | moving, buffers, support, gen)
                grads = dict(zip(moving, torch.autograd.grad(loss, list(moving.values())), strict=True))
            trunk = optimiser.stepped(trunk, grads, moments, self.tuning, 0.0, 0.0)
            yield trunk

    def tuning_loss(self, trunk: Tensors, buffers: Tensors, support: Support, gen: Generator) -> Tensor:
        """How badly changed examples are told apart by the prototypes of the examples; both are differentiated."""
        pictures = torch.cat([support.x, augment.augmented(support.x, gen)])
        shown, asked = functional.call(self.network, trunk, buffers, pictures).chunk(2)
        centres = heads.prototypes(shown, support.y, support.ways)
        return F.cross_entropy(heads.cosine_logits(asked, centres, self.p.tau), support.y)

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``, the cosines' logits."""
        return heads.cosine_logits(self.embed(s, a, x), a.tensors["prototypes"], self.p.tau)

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1 that equals the cosines."""
        return heads.UnitLinearHead(self.p.tau * F.normalize(a.tensors["prototypes"], dim=1))

    @torch.no_grad()
    def _settled(self, s: State, trunk: Tensors, support: Support) -> Adapted:
        features = functional.call(self.network, trunk, functional.under(s.memory), support.x)
        moved = {n: trunk[n].detach() for n in optimiser.rates(self.tuning, trunk)}
        centres = heads.prototypes(features, support.y, support.ways)
        return Adapted({**functional.named(moved), "prototypes": centres}, support.ways)
