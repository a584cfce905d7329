"""An experiment: learning to learn by gradient descent by gradient descent.

After Andrychowicz et al. 2016, arXiv 1606.04474. The hand-made step ``-alpha grad`` is replaced by the output of a
network ``m`` with weights ``phi``, learnt so that the steps it takes lead down fast::

    theta_{t+1}  = theta_t + s g_t                                                        t = 0 .. T-1
    g_t, h_{t+1} = m(preprocess(grad_t), h_t; phi)
    L(phi)       = sum over t of w_t f(theta_t)

``m`` is two layers of LSTM with 20 units and a linear output, for every number by itself: all share ``phi``, each has
its own memory ``h [2 layers, h and c, 20]``, 80 floats per number (see ``coordinates``). ``s = 0.1`` is the output
scale. ``grad_t`` counts as a constant. The graph is cut every ``unroll`` steps.

**What it optimises here** is a few-shot task, from a start that is learnt with it: the classifier on a trunk that stays
(``adapts = head``), or the whole network (``all``). The first is the default: the whole Conv-4 is a hundred thousand
LSTMs.

**Which loss trains it.** In the paper ``f`` is the loss that is descended. A few examples are fitted perfectly by many
classifiers, and an optimiser that is rewarded for fitting them fastest learns to be certain of five pictures. What is
wanted of a few-shot learner is to be right about *other* pictures after looking at these. So the gradients that ``m``
sees are those of the examples, and ``f`` in ``L`` is the loss of the queries, with ``w_t = 1/T`` for ``t = 1 .. T``:
not the last step alone, so that there is something to learn from at every step. (On problems without queries,
:func:`meta_loss` with one loss for both is the paper's.)

**The start** ``theta_0`` is learnt by the same loss; with ``grad_t`` constant ``dtheta_t / dtheta_0 = 1``, so it learns
as in first-order MAML. ``prototype`` or ``textbook`` head as there. ``m``'s output layer begins near zero: before
training the start is nearly left as it is. Batch norm is MetaBN: a task's own examples give the statistics for its
queries.

**Random scaling** (Lv, Jiang, Li 2017, arXiv 1703.03633): in training each number is walked in units of its own,
``theta = c theta'`` with ``log c`` uniform in ``+-scaling``, so ``m`` sees ``c grad`` and its step counts ``c``-fold. A
rule that has only seen gradients of one size does not work on those of another.

Such optimisers are slow to train and brittle. Past the horizon that they were trained for they often diverge; so in use
it takes exactly ``T`` steps. Every tenth training step logs, for its first task, the loss of the examples after ``T``
steps beside that of Adam and plain descent from the same start, each with the best of three learning rates for that
very task: ``examples_learned``, ``examples_adam``, ``examples_sgd``. :func:`curves` gives the whole curves.

Mistakes that are easily made here, and not made: more steps in use than in training; gradients of one size only;
``grad_t`` kept in the graph, which takes second derivatives; the last step's loss alone, from which little is learnt
about the first; a memory that several numbers share, or that is carried from one task into the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import coordinates, forms, functional, heads, inner, norm, registry
from workbench.learn.coordinates import Curve, Loss, Memory, Rule
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
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

OPTIMISER = "optimiser."
"""Prefix of ``phi``: ``first.*`` and ``second.*``, the layers, and ``output.weight [1, H]``, ``output.bias [1]``."""
UNITS = 20
OUTPUT_SCALE = 0.1
SPREAD = 0.1
"""The output layer's weights begin so much smaller than other weights: the first steps do next to nothing."""
RATES = (0.01, 0.1, 1.0)
"""Learning rates that Adam and plain descent are tuned over in what is logged."""
COMPARED_EVERY = 10
"""Outer steps between two comparisons with them, each of which walks one task seven times."""


@registry.register
class L2L(forms.WholeNetwork):
    """An LSTM per number that says how to step it; see the module.

    The examples' statistics are part of the adapted network even where its weights stay: no features can be kept.
    """

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="l2l",
        title="L2L optimiser (experiment)",
        family="optimisation",
        paper="Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford, de Freitas 2016, arXiv 1606.04474",
        summary="Experiment: learns a starting point and a network that takes the place of gradient descent's step.",
        tags=frozenset({"trains", "gradient-based", "any-way"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        head: str = forms.head_choice()
        adapts: str = param(
            "head",
            choices=("head", "all"),
            help="What is stepped on a new task: the classifier alone, or the whole network (slow).",
        )
        inner_steps: int = param(
            10, low=1, high=200, step=1, title="Inner steps", help="Steps on each task, in training and in use."
        )
        unroll: int = param(
            20, low=1, high=200, step=1, title="Unrolled steps", help="The graph is cut after so many steps."
        )
        scaling: float = param(
            1.0,
            low=0.0,
            high=5.0,
            step=0.5,
            title="Random scaling",
            help="In training each number is rescaled by up to e to this power; 0: not at all.",
        )
        lr: float = forms.learning_rate("Outer learning rate")
        tasks: int = forms.tasks_per_step(4, outer=True)

        @property
        def test_steps(self) -> int:
            """As many as in training: past its horizon a learnt optimiser often diverges."""
            return self.inner_steps

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, clip=10.0),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), the head's start, and ``phi``."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned |= heads.linear_parameters(self.p.head, self.setting.ways, self.features, gen)
        return State(learned | functional.named(phi_start(gen), OPTIMISER), functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean gradient over the tasks; now and then the first task's comparison."""
        gen = generator(ctx.seed_for(f"l2l/{at.phase}/{at.step}"))
        result = inner.mean_gradient(
            s, batch.episodes, lambda learned, e: self.task_loss(learned, e, gen, ctx), in_order=True
        )
        if at.step % COMPARED_EVERY:
            return result
        return replace(result, metrics={**result.metrics, **self.compared(s, batch.episodes[0], ctx)})

    def compared(self, s: State, e: Episode, ctx: Context) -> dict[str, float]:
        """The examples' loss after ``T`` steps of each optimiser, at the best of ``RATES`` where it has one."""
        with torch.no_grad():
            task = self.task(s.learned, e.support_x, e.support_y, e.ways)
        found = curves(functional.under(s.learned, OPTIMISER), task.loss, task.start, self.p.inner_steps, ctx, RATES)
        return {f"examples_{c.optimiser}": c.losses[-1] for c in coordinates.lowest(found)}

    def task(self, learned: Tensors, x: Tensor, y: Tensor, ways: int) -> Task:
        """What is walked on examples ``x [S, C, H, W]`` with labels ``y [S]``, and from where."""
        trunk = {n: t for n, t in learned.items() if n.startswith(functional.TRUNK)}
        with norm.batch_statistics(differentiable=self.p.adapts == "head") as seen:
            f = functional.call(self.network, functional.under(trunk), {}, x)
        weight, bias = heads.linear_start(learned, f, y, ways)
        head = {"head.weight": weight, "head.bias": bias}
        if self.p.adapts == "all":
            return Task(
                {**trunk, **head}, {}, lambda t: F.cross_entropy(inner.support_logits(self.network, t, x), y), seen
            )
        f = f.detach()
        return Task(head, trunk, lambda t: F.cross_entropy(F.linear(f, t["head.weight"], t["head.bias"]), y), seen)

    def task_loss(self, learned: Tensors, episode: Episode, gen: Generator, ctx: Context) -> inner.TaskLoss:
        """One task: the mean of ``L_Q(theta_1) .. L_Q(theta_T)``, with its graph down to the start and ``phi``."""
        task = self.task(learned, episode.support_x, episode.support_y, episode.ways)
        asked = self.asked(task, episode.support_x, episode.query_x)
        logits: list[Tensor] = []

        def wanted(theta: Tensors) -> Tensor:
            logits.append(asked(theta))
            return F.cross_entropy(logits[-1], episode.query_y)

        phi, p = functional.under(learned, OPTIMISER), self.p
        drawn = torch.rand(sum(t.numel() for t in task.start.values()), generator=gen).to(episode.support_x)
        units = torch.exp(p.scaling * (2 * drawn - 1)) if p.scaling else None
        loss = meta_loss(phi, task.loss, task.start, wanted, steps=p.inner_steps, unroll=p.unroll, ctx=ctx, units=units)
        return inner.TaskLoss(loss, logits[-1], norm.detached(task.statistics))

    def asked(self, task: Task, x: Tensor, query_x: Tensor) -> Callable[[Tensors], Tensor]:
        """The queries' logits ``[Q, N]`` as a function of ``theta``, under the examples' statistics there."""
        if self.p.adapts == "head":
            with norm.given_statistics(task.statistics):
                features = functional.call(self.network, functional.under(task.stays), {}, query_x)
            return lambda t: F.linear(features, t["head.weight"], t["head.bias"])
        names = list(task.start)

        def passed(*values: Tensor) -> tuple[Tensor]:
            t = dict(zip(names, values, strict=True))
            return (inner.query_logits(self.network, t, inner.statistics(self.network, t, x), query_x),)

        return lambda t: coordinates.recomputed(passed, *(t[n] for n in names))[0]

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,
    ) -> Adapted:
        """``T`` steps: network and head, and the support's statistics as its running statistics."""
        with torch.no_grad():
            task = self.task(s.learned, support.x, support.y, support.ways)
        phi, steps = functional.under(s.learned, OPTIMISER), self.p.inner_steps
        path = coordinates.walk(
            task.loss, task.start, stepped, phi, nothing_yet(phi, task.start), steps=steps, ctx=ctx, graph=False
        )
        whole = ({**task.stays, **theta} for theta in path)
        return inner.followed(self.network, whole, support.x, support.ways, steps, on_step)


class Task(NamedTuple):
    """What is walked, from where; what stays (the trunk, or nothing); the examples' loss; their first statistics."""

    start: Tensors
    stays: Tensors
    loss: Loss
    statistics: norm.Statistics


# ---- the optimiser ---------------------------------------------------------------------------------------------------


def phi_start(gen: Generator) -> Tensors:
    """Fresh ``phi``."""
    first, second = coordinates.lstm_start(2, UNITS, gen), coordinates.lstm_start(UNITS, UNITS, gen)
    weight = SPREAD / math.sqrt(UNITS) * (2 * torch.rand(1, UNITS, generator=gen, device=gen.device) - 1)
    output = {"output.weight": weight, "output.bias": torch.zeros(1, device=gen.device)}
    return functional.named(first, "first.") | functional.named(second, "second.") | output


def nothing_yet(phi: Tensors, start: Tensors) -> Memory:
    """``h_0``: ``h, c`` of either layer, ``[P, H]`` each, zero."""
    size = sum(t.numel() for t in start.values())
    return tuple(phi["output.weight"].new_zeros(size, UNITS) for _ in range(4))


def stepped(phi: Tensors, theta: Tensor, gradient: Tensor, loss: Tensor, memory: Memory) -> tuple[Tensor, Memory]:  # noqa: ARG001
    """One step of all numbers, ``theta + s m(preprocess(grad), h)``; a ``coordinates.Rule``."""
    h1, c1, h2, c2 = memory
    h1, c1 = coordinates.lstm(functional.under(phi, "first."), coordinates.preprocessed(gradient), h1, c1)
    h2, c2 = coordinates.lstm(functional.under(phi, "second."), h1, h2, c2)
    g = F.linear(h2, phi["output.weight"], phi["output.bias"])[:, 0]
    return theta + OUTPUT_SCALE * g, (h1, c1, h2, c2)


def in_units(rule: Rule, units: Tensor) -> Rule:
    """The rule on ``theta / units``: it sees ``units * gradient``, and its steps count ``units``-fold."""

    def rescaled(phi: Tensors, theta: Tensor, gradient: Tensor, loss: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        moved, memory = rule(phi, theta / units, units * gradient, loss, memory)
        return units * moved, memory

    return rescaled


def meta_loss(
    phi: Tensors,
    loss: Loss,
    start: Tensors,
    wanted: Loss,
    *,
    steps: int,
    unroll: int,
    ctx: Context,
    units: Tensor | None = None,
    rule: Rule = stepped,
) -> Tensor:
    """``(1/T) sum of wanted(theta_t)``, t = 1 .. T, with its graph down to ``phi`` and ``start``.

    Args:
        phi: of the rule.
        loss: that is walked down.
        start: ``theta_0``.
        wanted: what is to become small; ``loss`` itself in the paper, the queries' loss in a few-shot task.
        steps: ``T``.
        unroll: the graph is cut after so many steps.
        ctx: checked before each step.
        units: ``[P]`` random scaling, or ``None``.
        rule: whose weights ``phi`` are.
    """
    walked = rule if units is None else in_units(rule, units)
    memory = nothing_yet(phi, start)
    path = coordinates.walk(loss, start, walked, phi, memory, steps=steps, ctx=ctx, graph=True, unroll=unroll)
    next(path)
    return torch.stack([wanted(theta) for theta in path]).mean()


def curves(
    phi: Tensors, loss: Loss, start: Tensors, steps: int, ctx: Context, rates: Sequence[float] = coordinates.RATES
) -> list[Curve]:
    """The learnt optimiser's curve of ``loss`` from ``start``, and those of plain descent and Adam at each rate."""
    memory = nothing_yet(phi, start)
    path = coordinates.walk(loss, start, stepped, phi, memory, steps=steps, ctx=ctx, graph=False)
    by_hand = coordinates.curves_by_hand(loss, start, steps, ctx, rates)
    return [coordinates.Curve("learned", None, coordinates.losses(loss, path)), *by_hand]
