"""Adaptive width: each task decides which channels of the network it needs; the others are cut out of what it deploys.

Every channel has a gate, a number between 0 and 1 behind its normalisation. Gates are *hard concrete* variables
(Louizos, Welling, Kingma 2018, arXiv 1712.01312): stretched beyond 0 and 1 and cut off there, so that a gate is exactly
0 or 1 with some probability and yet has a gradient in between. With ``a_c`` the logit of channel c::

    g_c(u)     = clamp(1.2 sigmoid((log u - log(1 - u) + a_c) / t) - 0.1, 0, 1)       t = 2/3
    P(g_c > 0) = sigmoid(a_c + t log 11)
    a_l        = b_l + W_l code(S)         [C] for layer l; code: the standardised mean of the prototypes, [D]
    f(x; g)    = the network with  g_c (w_c x_c + b_c)  behind each normalisation
    c_k        = mean of f(x_i; g) over class k,      z_qk = -s |f(q; g) - c_k|^2
    loss       = cross entropy(z, labels of the queries) + penalty * sum_c P(g_c > 0)

In training ``u`` is drawn anew for each task and channel, in use it is 1/2, the median gate: answers are no matter of
luck. The code is a first look at the examples with all gates at 1. ``form = learned`` leaves it out: ``a = b``, and all
tasks share one narrower network.

A closed channel is 0 for every picture, so it is deleted, and the deployed network is a smaller one with equal answers
(``learn/channels.py``: which channels can be, also in residual networks; only these have gates). Gates between 0 and 1
are factors of the layer they follow. A layer's last channel stays open. With all gates at 1 this is Prototypical
Networks on the dense network.

Batch norm: what a layer is given depends on which channels before it are open, so statistics belong to a width. Each
task's are those of its own examples under its own gates, used for its queries too (MetaBN, arXiv 2003.03284): no query
sees another. The running averages are those of the dense network alone, and serve the first look.

Mistakes that are easily made here, and not made: gates fitted to the examples of the task (they come from a map that
was trained on queries of other tasks); statistics shared between widths; a gate before the normalisation, which would
undo it or leave its bias; the accuracy of the tasks that the gates were trained on taken for the method's; deleting
channels of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import channels, film, forms, functional, heads, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Deployed,
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
    from workbench.data.episodes import Episode, Episodes

GATES = "gates."
"""``gates.<layer>.bias [C]`` and ``gates.<layer>.weight [C, D]`` give the logits; ``gates.<layer> [C]`` in use."""
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""``t``, and the ends of the stretched interval; of Louizos et al."""
START = 3.0
"""Where logits start: in use all gates are at 1, in training four in five are."""


def gates(logits: Tensor, u: Tensor | float = 0.5) -> Tensor:
    """``g`` of any shape for logits ``a`` and uniform draws ``u`` strictly between 0 and 1; differentiable in ``a``."""
    u = torch.as_tensor(u, dtype=logits.dtype, device=logits.device)
    concrete = torch.sigmoid((torch.log(u) - torch.log1p(-u) + logits) / TEMPERATURE)
    return (LOW + (HIGH - LOW) * concrete).clamp(0, 1)


def probability_open(logits: Tensor) -> Tensor:
    """``P(g > 0)`` over uniform ``u``, of the shape of the logits."""
    return torch.sigmoid(logits - TEMPERATURE * math.log(-LOW / HIGH))


@registry.register
class Width(forms.ChangedTrunk):
    """Prototypes in a network whose channels the task opens and closes; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="width",
        title="Adaptive width",
        family="learned structure",
        paper="own form; gates: Louizos, Welling, Kingma 2018, arXiv 1712.01312",
        summary="Lets each task open and close the network's channels, and deploys it without the closed ones.",
        tags=frozenset({"trains", "any-way"}),
    )

    nearest_mean: ClassVar[bool] = True  # see ``calibrate.compares_means``

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        form: str = param(
            "task",
            choices=("task", "learned"),
            title="Gates",
            help="Made from each task's examples, or learnt once for all tasks.",
        )
        penalty: float = param(
            1e-4, low=0.0, high=10.0, step=1e-4, help="What a channel costs that may be open, in nats of the loss."
        )
        lr: float = forms.learning_rate()
        gate_lr: float = param(
            1e-2, low=1e-6, high=1.0, step=1e-3, title="Learning rate of the gates", help="Of Adam, for the gates."
        )
        tasks: int = forms.tasks_per_step(1)

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.sites = channels.sites(self.network)

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr, GATES: self.p.gate_lr}),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``scale`` = log s, ``gates.<layer>.bias`` and, made from the task, ``.weight``.

        Weights start at 0: to begin with all tasks have the same gates.
        """
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned["scale"] = torch.tensor(math.log(heads.START / self.features), device=gen.device)
        for path, site in self.sites.items():
            learned[f"{GATES}{path}.bias"] = torch.full((site.channels,), START, device=gen.device)
            if self.p.form == "task":
                learned[f"{GATES}{path}.weight"] = torch.zeros(site.channels, self.features, device=gen.device)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean loss over the episodes of ``batch``; ``open`` is the share of channels that are open, expected."""
        buffers = functional.under(s.memory)
        losses, correct, opened = [], [], []
        for i, episode in enumerate(batch.episodes):
            ctx.check()
            drawn = self.draw(generator(ctx.seed_for(f"width/{at.phase}/{at.step}/{i}")), episode.support_x)
            loss, logits, chances = self.task_loss(s.learned, buffers, episode, drawn)
            losses.append(loss)
            correct.append(logits.detach().argmax(1) == episode.query_y)
            opened.append(float(chances.detach().mean()) if len(chances) else 1.0)
            buffers = norm.running_average(buffers, self.dense_statistics(s.learned, episode.support_x))
        loss = torch.stack(losses).mean()
        accuracy = float(torch.cat(correct).float().mean())
        metrics = {"loss": float(loss.detach()), "accuracy": accuracy, "open": sum(opened) / len(opened)}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def draw(self, gen: Generator, like: Tensor) -> Tensors:
        """``u [C]`` for each layer, strictly between 0 and 1."""
        tiny = torch.finfo(torch.float32).eps
        return {
            path: torch.rand(site.channels, generator=gen).clamp(tiny, 1 - tiny).to(like)
            for path, site in self.sites.items()
        }

    def task_loss(
        self, learned: Tensors, buffers: Tensors, episode: Episode, drawn: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One task: its loss with a graph, the queries' logits, ``P(g_c > 0)`` of all channels."""
        x, y = episode.support_x, episode.support_y
        logits = self.gate_logits(learned, buffers, x, y, episode.ways)
        trunk = self.gated(learned, {path: opened(a, drawn[path]) for path, a in logits.items()})
        with norm.batch_statistics(differentiable=True) as own:
            support = functional.call(self.network, trunk, {}, x)
        with norm.given_statistics(own):
            queries = functional.call(self.network, trunk, {}, episode.query_x)
        z = heads.distance_logits(queries, heads.prototypes(support, y, episode.ways), learned["scale"].exp())
        chances = torch.cat([support.new_zeros(0), *(probability_open(a) for a in logits.values())])
        return F.cross_entropy(z, episode.query_y) + self.p.penalty * chances.sum(), z, chances

    def gate_logits(self, learned: Tensors, buffers: Tensors, x: Tensor, y: Tensor, ways: int) -> Tensors:
        """``a [C]`` of each layer for a task with the examples ``x``, of which nothing else is asked."""
        biases = {path: learned[f"{GATES}{path}.bias"] for path in self.sites}
        if self.p.form == "learned":
            return biases
        features = functional.call(self.network, functional.under(learned), buffers, x)
        code = F.layer_norm(heads.prototypes(features, y, ways).mean(0), (self.features,))
        return {path: bias + learned[f"{GATES}{path}.weight"] @ code for path, bias in biases.items()}

    def gated(self, learned: Tensors, g: Mapping[str, Tensor]) -> Tensors:
        """The trunk's tensors with gates ``g [C]`` by layer as factors of what each normalisation gives."""
        films = {path: film.Film(gate, torch.zeros_like(gate)) for path, gate in g.items()}
        return film.modulated(functional.under(learned), films)

    @torch.no_grad()
    def dense_statistics(self, learned: Tensors, x: Tensor) -> norm.Statistics:
        """Statistics of the examples with all gates at 1."""
        with norm.batch_statistics() as seen:
            functional.call(self.network, functional.under(learned), {}, x)
        return seen

    @torch.no_grad()
    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,  # noqa: ARG002 - inductive
        on_step: OnStep | None = None,  # noqa: ARG002 - there are no steps
    ) -> Adapted:
        """``gates.<layer> [C]``, the examples' statistics under them (``trunk.*``), ``prototypes [N, D']``.

        ``D'``: columns of the embedding whose channel is open.
        """
        ctx.check()
        logits = self.gate_logits(s.learned, functional.under(s.memory), support.x, support.y, support.ways)
        g = {path: opened(a) for path, a in logits.items()}
        ctx.check()
        with norm.batch_statistics() as own:
            features = functional.call(self.network, self.gated(s.learned, g), {}, support.x)
        a = Adapted({**functional.named(g, GATES), **functional.named(norm.as_buffers(own))}, support.ways)
        a.tensors["prototypes"] = heads.prototypes(self._open(a, features), support.y, support.ways)
        return a

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``, the distances' logits."""
        return heads.distance_logits(self.embed(s, a, x), a.tensors["prototypes"], s.learned["scale"].exp())

    @torch.no_grad()
    def embed(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, D']`` features of the gated network, without the columns of closed channels."""
        trunk = self.gated(s.learned, functional.under(a.tensors, GATES))
        return self._open(a, functional.call(self.network, trunk, functional.under(a.tensors), x))

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The linear layer that equals the distances."""
        scale = s.learned["scale"].detach().exp()
        return heads.LinearHead(*heads.prototype_linear(a.tensors["prototypes"], scale))

    def deploy(self, s: State, a: Adapted) -> Deployed:
        """The network without its closed channels, folded, and the head."""
        g = functional.under(a.tensors, GATES)
        tensors = {**self.gated(s.learned, g), **functional.under(a.tensors)}
        kept = {path: gate.nonzero().flatten() for path, gate in g.items()}
        narrow, values = channels.removed(self.network, tensors, self.sites, kept)
        return Deployed(functional.frozen(narrow, values), self.head(s, a))

    def _open(self, a: Adapted, features: Tensor) -> Tensor:
        """The columns of ``[B, D]`` whose channel is open."""
        for path, site in self.sites.items():
            if site.at_end:
                kept = a.tensors[GATES + path].nonzero().flatten()
                features = features[:, channels.columns(kept, site.channels, self.features)]
        return features


def opened(logits: Tensor, u: Tensor | float = 0.5) -> Tensor:
    """:func:`gates` of a layer ``[C]``; where all are 0, the likeliest is at 1, since something must pass."""
    g = gates(logits, u)
    return g if bool(g.any()) else heads.one_hot(logits.argmax(), len(logits), logits)
