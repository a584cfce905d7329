"""Meta-transfer learning (Sun, Liu, Chua, Schiele 2019, arXiv 1812.02391): scale and shift a frozen network.

A deep network is trained as usual first and then frozen. Across tasks only a factor for each of its small kernels and
an offset for each of its channels are learnt, and within a task only the classifier moves::

    conv:   y = (W (*) P1) x + (b + P2)        W [Co, Ci, k, k] frozen, P1 [Co, Ci, 1, 1] from 1, P2 [Co] from 0
    task:   w_{j+1} = w_j - alpha * grad_w CE_S(w_j)                        j = 0 .. k-1, first order
    across: P1, P2 and w_0 against the gradient of CE_Q(w_k)

``P1 = 1, P2 = 0`` is the pretrained network itself, to the last bit. Being few, the factors cannot forget what the
network knows. Batch norm stays at the running averages of the pretraining throughout, so features depend on their
picture alone and can be kept; at the end the factors are multiplied into the kernels and nothing is left of them.
Where a convolution has no bias the offset goes through the batch norm behind it: ``b' = b + P2 * w / sqrt(v + eps)``.

The pretraining is the first phase here: a classifier over all classes of all sources, dropped afterwards. Where the
network comes with weights it is left out. Without a network that is deep and well trained the method has little to
work with (41 % on miniImageNet with Conv-4 against 60 % with ResNet-12).

*Hard tasks*: after a round of tasks the classes with the lowest accuracy of each are put into one more task, drawn
anew from their pictures at hand, which counts like the others in the same outer step. (The authors draw fresh pictures
of these classes for a round of their own.)

The head begins as learnt rows (``textbook``) or at the class means of the examples (``prototype``: any number of
classes). Mistakes that are easily made here, and not made: factors of the kernels' full size; factors that begin at 0;
kernels that are learnt after all; running averages that drift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, inner, norm, registry, supervised
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
    from workbench.data.episodes import Episode, Episodes, Labelled

FACTOR, OFFSET = "conv_factor.", "conv_offset."
"""Learnt: ``conv_factor.<convolution> [Co, Ci, 1, 1]`` and ``conv_offset.<convolution> [Co]``."""
PRETRAINING = "pretraining"


@registry.register
class MTL(forms.FixedTrunk):
    """Scale and shift of frozen kernels, and an inner loop of the head; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="mtl",
        title="Meta-transfer learning",
        family="optimisation",
        paper="Sun, Liu, Chua, Schiele 2019, arXiv 1812.02391",
        summary="Freezes a well-trained network and learns how to scale and shift it for new tasks; adapts at once.",
        tags=frozenset({"trains", "gradient-based", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        inner_lr: float = param(0.01, low=1e-4, high=10.0, step=0.01, title="Inner learning rate", help="Alpha.")
        inner_steps: int = param(
            50,
            low=0,
            high=200,
            step=5,
            title="Inner steps in training",
            help="Gradient steps of the classifier on each task while training.",
        )
        test_steps: int = param(
            50, low=0, high=500, step=5, title="Inner steps in use", help="Gradient steps on a new task."
        )
        lr: float = forms.learning_rate(
            "Learning rate, network and head",
            help="Of Adam: of the network while it is pretrained, then of the head's start.",
        )
        factor_lr: float = param(
            1e-4,
            low=0.0,
            high=1.0,
            step=1e-5,
            title="Learning rate, factors and offsets",
            help="Of Adam; halved at each tenth of the phase, as the head's.",
        )
        tasks: int = forms.tasks_per_step(4, outer=True)
        hard_tasks: bool = param(
            True, title="Hard tasks", help="One more task per step, of the classes that went worst in the others."
        )
        pretraining: float = param(
            0.6,
            low=0.05,
            high=0.95,
            step=0.05,
            title="Share of pretraining",
            help="Part of the budget for training the network, unless it comes with weights.",
        )

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.convolutions = functional.convolutions(self.network)

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """Pretraining, unless there are weights; then episodes with the trunk frozen."""
        p = self.p
        share = p.pretraining if self.setting.weights is None else 0.0
        rates = {"": p.lr, FACTOR: p.factor_lr, OFFSET: p.factor_lr}
        meta = Phase(
            "episodes",
            share=1 - share,
            tasks_per_step=p.tasks,
            lr=rates,
            schedule="halve",
            frozen=(functional.TRUNK,),
        )
        if not share:
            return (meta,)
        plain = {"trunk.": p.lr, supervised.CLASSIFIER: p.lr}
        return (Phase(PRETRAINING, "batches", share=share, lr=plain, batch_size=128), meta)

    def init(self, gen: Generator) -> State:
        """Trunk, head (``head.*`` or ``scale``), factors at 1, offsets at 0, and a classifier to drop."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        for path in self.convolutions:
            weight = trunk[f"{path}.weight"]
            learned[FACTOR + path] = weight.new_ones(*weight.shape[:2], 1, 1)
            learned[OFFSET + path] = weight.new_zeros(weight.shape[0])
        if self.setting.weights is None:
            learned |= supervised.classifier(self.setting.classes_per_source, self.features, gen)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes | Labelled, at: At, ctx: Context) -> StepResult:
        """One outer step of either phase."""
        return self.pretrain(s, batch, ctx) if at.phase == PRETRAINING else self.meta_learn(s, batch, at, ctx)  # type: ignore[arg-type]

    def pretrain(self, s: State, batch: Labelled, ctx: Context) -> StepResult:
        """The loss of the classifier over all classes of all sources."""
        ctx.check()
        return supervised.step(self.network, s, batch, self.setting.classes_per_source)

    def meta_learn(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean gradient over the tasks, and over a task of their hardest classes."""
        answers: dict[int, Tensor] = {}  # by task: they may be done in any order

        def loss(learned: Tensors, e: Episode) -> inner.TaskLoss:
            found = self.task_loss(learned, s.memory, e, ctx)
            answers[id(e)] = found.logits.detach()
            return found

        result = inner.mean_gradient(s, batch.episodes, loss)
        assert result.grads is not None
        grads = {n: g for n, g in result.grads.items() if not n.startswith(functional.TRUNK)}
        metrics = dict(result.metrics)
        hard = None
        if self.p.hard_tasks:
            fixed = self.setting.ways if self.p.head == "textbook" else None
            gen = generator(ctx.seed_for(f"mtl/{at.phase}/{at.step}"))
            hard = hard_task(batch.episodes, [answers[id(e)] for e in batch.episodes], fixed, gen)
        if hard is not None:
            more = inner.mean_gradient(s, (hard,), loss)
            assert more.grads is not None
            n = len(batch.episodes)
            grads = {name: (n * g + more.grads[name]) / (n + 1) for name, g in grads.items()}
            metrics["hard_accuracy"] = more.metrics["accuracy"]
        return StepResult(grads=grads, metrics=metrics, correct=result.correct)

    def task_loss(self, learned: Tensors, memory: Tensors, episode: Episode, ctx: Context) -> inner.TaskLoss:
        """One task: features once, ``k`` first-order steps of the head, the queries' loss."""
        x = torch.cat([episode.support_x, episode.query_x])
        features = self._features(State(learned, memory), x)
        f, q = torch.split(features, [len(episode.support_y), len(episode.query_y)])
        *_, head = inner.descent(
            lambda t: F.cross_entropy(F.linear(f, t["head.weight"], t["head.bias"]), episode.support_y),
            self._start(learned, f, episode.support_y, episode.ways),
            lr=self.p.inner_lr,
            steps=self.p.inner_steps,
            order="first",
            ctx=ctx,
        )
        logits = F.linear(q, head["head.weight"], head["head.bias"])
        return inner.TaskLoss(F.cross_entropy(logits, episode.query_y), logits, {})

    def modulated(self, learned: Tensors, memory: Tensors) -> Tensors:
        """The trunk's parameters with factors and offsets in them, by their names in the network; ``W`` is constant."""
        out = {n: t.detach() for n, t in functional.under(learned).items()}
        for path, behind in self.convolutions.items():
            out[f"{path}.weight"] = out[f"{path}.weight"] * learned[FACTOR + path]
            offset = learned[OFFSET + path]
            if f"{path}.bias" in out:
                out[f"{path}.bias"] = out[f"{path}.bias"] + offset
            elif behind is not None:
                layer = self.network.get_submodule(behind)
                assert isinstance(layer, norm.Norm2d)
                spread = torch.rsqrt(memory[f"{functional.TRUNK}{behind}.running_var"] + layer.eps)
                gain = out[f"{behind}.weight"] * spread
                out[f"{behind}.bias"] = out[f"{behind}.bias"] + offset * gain
        return out

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
        """``test_steps`` steps of the head ``head.weight [N, D], head.bias [N]``."""
        with torch.no_grad():
            f = self.shown(s, support)
            start = self._start(s.learned, f, support.y, support.ways)
        adapted = Adapted({}, support.ways)
        path = inner.classifier_descent(f, support.y, start, lr=self.p.inner_lr, steps=self.p.test_steps, ctx=ctx)
        for j, head in enumerate(path):
            adapted = Adapted(head, support.ways)
            if on_step is not None:
                on_step(j, adapted)
        return adapted

    @torch.no_grad()
    def trunk(self, s: State) -> nn.Module:
        """The network with factors and offsets folded in; no support set changes it."""
        return functional.frozen(self.network, self.modulated(s.learned, s.memory) | functional.under(s.memory))

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The adapted linear layer."""
        return heads.LinearHead(a.tensors["head.weight"], a.tensors["head.bias"])

    def _features(self, s: State, x: Tensor) -> Tensor:
        return functional.call(self.network, self.modulated(s.learned, s.memory), functional.under(s.memory), x)

    def _start(self, learned: Tensors, features: Tensor, y: Tensor, ways: int) -> Tensors:
        weight, bias = heads.linear_start(learned, features, y, ways)
        return {"head.weight": weight, "head.bias": bias}


def hard_task(
    episodes: Sequence[Episode], answers: Sequence[Tensor], ways: int | None, gen: Generator
) -> Episode | None:
    """A task of the classes that were answered worst, examples and queries drawn anew from their pictures.

    Args:
        episodes: the tasks of a round.
        answers: logits ``[Q, N]`` of each.
        ways: classes that it must have; ``None``: as many as the first task has, or fewer.
        gen: of the draw.

    Returns:
        The task, or ``None`` where too few different classes are at hand. Each task gives the same number of its worst
        classes, just enough; a class that two tasks share counts once.
    """
    wanted = episodes[0].ways if ways is None else ways
    ranked: list[tuple[float, int, int]] = []
    for i, (e, z) in enumerate(zip(episodes, answers, strict=True)):
        right = (z.argmax(1) == e.query_y).float()
        by_class = sorted((float(right[e.query_y == c].mean()), i, c) for c in range(e.ways))
        ranked += by_class[: math.ceil(wanted / len(episodes))]
    chosen: dict[tuple[str, str], tuple[int, int]] = {}
    for _, i, c in sorted(ranked):
        chosen.setdefault((episodes[i].task, episodes[i].class_names[c]), (i, c))
    picked = list(chosen.items())[:wanted]
    if len(picked) < (2 if ways is None else ways):
        return None
    parts: dict[str, list[Tensor]] = {n: [] for n in ("support_x", "support_y", "query_x", "query_y")}
    for label, (_, (i, c)) in enumerate(picked):
        e = episodes[i]
        s, q = e.support_y == c, e.query_y == c
        x = torch.cat([e.support_x[s], e.query_x[q]])
        order = torch.randperm(len(x), generator=gen)
        shots = int(s.sum())
        for name, some in (("support", order[:shots]), ("query", order[shots:])):
            parts[f"{name}_x"].append(x[some.to(x.device)])
            parts[f"{name}_y"].append(e.query_y.new_full((len(some),), label))
    joined = {n: torch.cat(t) for n, t in parts.items()}
    shown, asked = len(joined["support_y"]), len(joined["query_y"])
    # the task lives in this step alone: its pictures need numbers that differ, and no more
    return replace(
        episodes[0],
        **joined,
        ways=len(picked),
        class_names=tuple(name for (_, name), _ in picked),
        task="hard classes",
        support_ids=torch.arange(shown),
        query_ids=torch.arange(shown, shown + asked),
        classes=None,
    )
