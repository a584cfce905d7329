"""TADAM: task-dependent adaptive metric (Oreshkin, Rodriguez, Lacoste 2018, arXiv 1805.10123).

Prototypical Networks whose features depend on the task. A first look at the examples gives the task's code, the code
modulates every normalisation layer of the network (FiLM, see ``learn/film.py``), and prototypes and queries are
embedded by the modulated network ``f(. ; t)``::

    t    = mean over classes of the mean of f(x_i) over the class          [D], the network as it is
    G_l  = (1 + g_l m_l(t), h_l m'_l(t))                                   factor and offset for each channel of layer l
    c_k  = mean of f(x_i ; t) over the examples of class k                 [N, D], the modulated network
    z_qk = -s |f(q ; t) - c_k|^2                                           s is learnt
    loss = cross entropy(z, y) + penalty * sum of g_l^2 + h_l^2  [+ cross entropy over all source classes]

The last term is the auxiliary task: an ordinary classifier of all source classes on the unmodulated network, without
which the modulation is not learnt. It is added with probability ``0.9^floor(20 t)``, ``t`` being the fraction of the
training that is over.

With ``g = h = 0`` all this is Prototypical Networks with a learnt scale, to the last bit. A new task costs two passes
over its examples; what is deployed is a plain network with the modulation folded in.

Batch norm: the modulated pass of a training episode is one batch and moves the running averages. The first look uses
these averages in training as in use, so the code is the same function of the examples in both, and no query has a part
in it.

Mistakes that are easily made here, and not made: queries in the code; a fixed scale; no auxiliary task; gates that do
not start near 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import film, forms, functional, heads, norm, registry, supervised
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
    from workbench.data.episodes import Episode, Episodes


@registry.register
class TADAM(forms.ChangedTrunk):
    """Prototypes in features that the task itself modulates; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="tadam",
        title="TADAM",
        family="metric",
        paper="Oreshkin, Rodriguez, Lacoste 2018, arXiv 1805.10123",
        summary="Prototypical Networks whose layers are tuned to the task by a first look at its examples.",
        tags=frozenset({"trains", "any-way"}),
    )

    nearest_mean: ClassVar[bool] = True  # see ``calibrate.compares_means``

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)
        penalty: float = param(
            0.01, low=0.0, high=10.0, step=0.01, help="How strongly the modulation is held near none at all."
        )
        auxiliary: bool = param(
            True, title="Auxiliary task", help="Also tell all source classes apart, less and less often."
        )
        batch: int = param(
            64, low=2, high=1024, step=16, title="Auxiliary batch", help="Pictures of an auxiliary step."
        )

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.layers = film.layers(self.network)

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes, with a supervised batch beside them for the auxiliary task."""
        labelled = self.p.batch if self.p.auxiliary else 0
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, labelled=labelled),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``scale`` = log s, ``film.*``, and the auxiliary task's classifier."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        learned = functional.named(trunk)
        learned["scale"] = torch.tensor(math.log(heads.START / self.features), device=gen.device)
        learned |= film.initial(self.layers, self.features, gen)
        if self.p.auxiliary:
            learned |= supervised.classifier(self.setting.classes_per_source, self.features, gen)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean loss over the episodes of ``batch``, the penalty, and now and then the auxiliary loss."""
        buffers = functional.under(s.memory)
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            loss, logits, statistics = self.task_loss(s.learned, buffers, episode)
            losses.append(loss)
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean() + self.p.penalty * film.penalty(s.learned)
        metrics = {"accuracy": float(torch.cat(correct).float().mean())}
        if batch.labelled is not None and self.is_auxiliary_due(at, ctx):
            with norm.batch_statistics():
                features = functional.call(self.network, functional.under(s.learned), {}, batch.labelled.x)
            auxiliary, found = supervised.classified(
                s.learned, features, batch.labelled, self.setting.classes_per_source
            )
            loss = loss + auxiliary
            metrics["auxiliary accuracy"] = found
        metrics["loss"] = float(loss.detach())
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def task_loss(self, learned: Tensors, buffers: Tensors, episode: Episode) -> tuple[Tensor, Tensor, norm.Statistics]:
        """One task: cross entropy with its graph, queries' logits, statistics of the modulated pass."""
        code = self.code(learned, buffers, episode.support_x, episode.support_y, episode.ways)
        trunk = film.modulated(functional.under(learned), film.generate(learned, self.layers, code))
        pictures = torch.cat([episode.support_x, episode.query_x])
        with norm.batch_statistics() as statistics:
            features = functional.call(self.network, trunk, {}, pictures)
        support, queries = features.tensor_split([len(episode.support_y)])
        centres = heads.prototypes(support, episode.support_y, episode.ways)
        logits = heads.distance_logits(queries, centres, learned["scale"].exp())
        return F.cross_entropy(logits, episode.query_y), logits, statistics

    def code(self, learned: Tensors, buffers: Tensors, x: Tensor, y: Tensor, ways: int) -> Tensor:
        """``t [D]``: the mean of the prototypes at a first look."""
        features = functional.call(self.network, functional.under(learned), buffers, x)
        return heads.prototypes(features, y, ways).mean(0)

    def is_auxiliary_due(self, at: At, ctx: Context) -> bool:
        """Drawn anew in each step, with falling probability."""
        drawn = torch.rand((), generator=generator(ctx.seed_for(f"tadam/{at.phase}/{at.step}")))
        return float(drawn) < 0.9 ** math.floor(20 * at.fraction)

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """The auxiliary task's classifier is not needed any more."""
        return supervised.dropped(s)

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
        """The modulated normalisation layers (``trunk.*``) and the classes' centres under them, ``prototypes``."""
        ctx.check()
        buffers = functional.under(s.memory)
        code = self.code(s.learned, buffers, support.x, support.y, support.ways)
        trunk = film.modulated(functional.under(s.learned), film.generate(s.learned, self.layers, code))
        ctx.check()
        features = functional.call(self.network, trunk, buffers, support.x)
        changed = {f"{path}.{part}": trunk[f"{path}.{part}"] for path in self.layers for part in ("weight", "bias")}
        centres = heads.prototypes(features, support.y, support.ways)
        return Adapted({**functional.named(changed), "prototypes": centres}, support.ways)

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``, the distances' logits."""
        return heads.distance_logits(self.embed(s, a, x), a.tensors["prototypes"], s.learned["scale"].exp())

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The linear layer that equals the distances."""
        scale = s.learned["scale"].detach().exp()
        return heads.LinearHead(*heads.prototype_linear(a.tensors["prototypes"], scale))
