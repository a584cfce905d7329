"""A starting point that is the average of what several sources were learnt to (in one form "model soup", Wortsman et
al. 2022, arXiv 2203.05482; Fisher weights: Matena, Raffel 2022, arXiv 2111.09832).

::

    theta_0                                   one classifier over all classes of all sources, or pretrained weights
    theta_i   = fine-tuning of a copy of theta_0 on source i alone, with a classifier of its own      i = 1 .. n
    theta_bar = mean_i theta_i                plain
              | sum_i s_i theta_i             weighted: s_i is source i's share of all classes
              | (sum F_i)^-1 sum F_i theta_i  fisher: F_i the diagonal of the Fisher information at theta_i

and ``theta_bar``, under running averages that are measured anew, is the network a new task is learnt with: a ridge on
features of length 1 (as in ``ridge``), which takes any number of classes and lets each count alike.

Training in phases: *ancestor* (left out where the network comes with weights); *sources*, each step a batch of one
source, which moves that source's copy alone; *fisher*, where it is asked for, which moves nothing and squares gradients
of labels drawn from the model; *statistics*, which moves nothing but the running averages of the average, from pictures
of all sources. What is kept is an average in any case, never the ancestor or a copy. A source that no step was taken on
has no solution to average and is left out. With one source the average is that source's network.

All this is sound because all copies share the ancestor: see ``learn/averaging.py``, which refuses the rest. What each
source changed may be kept beside the average in half precision, so that the sources most like a new folder can be
averaged for it later (``averaging.recalled``).

Mistakes that are easily made here, and not made: averaging networks that were trained from different starts; dividing
*one* network that walked through all sources by their number (logits of a deep network shrink to nothing); averaging
classifiers, counters or running averages; matching tensors by position instead of by name; true labels in the Fisher
information.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import averaging, forms, functional, heads, norm, registry, supervised
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

ANCESTOR, SOURCES, FISHER, STATISTICS = "ancestor", "sources", "fisher", "statistics"
"""The phases."""
SOURCE, INFORMATION = "source.", "information."
"""``source.<i>.trunk.*`` and ``source.<i>.head.*`` while copies are trained; ``information.<i>.*`` sums of squares."""
STEPS, PICTURES, BATCHES, MODELS = "averaged.steps", "averaged.pictures", "averaged.batches", "averaged.models"
"""Memory: steps and pictures of the information per source ``[n]``, batches of the statistics, networks averaged."""
_FLOOR = 1e-3
_MOST = 4_000_000_000
"""Bytes of copies and their optimiser's moments."""
_STATISTICS, _FISHER = 0.05, 0.05
"""Shares of the budget."""


@registry.register
class Averaged(forms.FittedHead):
    """Fine-tuned copies of one network, averaged; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="averaged",
        title="Averaged initialisation",
        family="optimisation",
        paper="Wortsman et al. 2022, arXiv 2203.05482; Matena, Raffel 2022, arXiv 2111.09832",
        summary="Trains one network, tunes a copy of it to each source, and starts new tasks from their average.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        form: str = param(
            "plain",
            choices=("plain", "weighted", "fisher"),
            title="Average",
            help="How sources count: all alike; by their number of classes; or number by number, by how much each "
            "source's answers depend on it.",
        )
        lr: float = forms.learning_rate()
        batch: int = param(64, low=2, high=1024, step=16, title="Batch size", help="Pictures per step.")
        ancestor: float = param(
            0.6,
            low=0.05,
            high=0.85,
            step=0.05,
            title="Share of the ancestor",
            help="Part of the budget for the network that all copies begin with, unless it comes with weights.",
        )
        keep_sources: bool = param(
            True,
            title="Keep the sources",
            help="Keep what each source changed too, in half precision, to average anew for a folder.",
        )
        strength: float = param(0.5, low=1e-6, high=1e4, step=0.1, help="How strongly the head's weights are held.")
        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from the head's fit to logits.")

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:
        """Ancestor, sources, information and statistics; see the module.

        Raises:
            WorkbenchError: so many copies of so large a network would not fit into memory.
        """
        p, n = self.p, len(sources.classes_per_source)
        size = 3 * 4 * n * sum(t.numel() for t in self.network.parameters())
        if size > _MOST:
            raise WorkbenchError(
                "The training was not planned",
                f"a copy of the network for each of {n} sources would take {size / 1e9:.0f} GB",
                "Choose a smaller backbone or fewer sources",
            )
        first = 0.0 if self.setting.weights is not None else p.ancestor
        fisher = _FISHER if p.form == "fisher" else 0.0
        rates = {functional.TRUNK: p.lr, supervised.CLASSIFIER: p.lr}
        found = [
            Phase(ANCESTOR, "batches", share=first, lr=rates, batch_size=p.batch, kept=False),
            Phase(
                SOURCES,
                "per_source",
                share=1 - first - fisher - _STATISTICS,
                lr={SOURCE: p.lr},
                batch_size=p.batch,
                kept=False,
            ),
            Phase(FISHER, "per_source", share=fisher, lr={}, batch_size=16, kept=False),
            Phase(STATISTICS, "batches", share=_STATISTICS, lr={}, batch_size=p.batch),
        ]
        return tuple(phase for phase in found if phase.share > 0)

    def init(self, gen: Generator) -> State:
        """The ancestor with its classifier; or, given weights, the copies at once."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        classes = self.setting.classes_per_source
        classifier = supervised.classifier(classes, self.features, gen)
        s = State({**functional.named(trunk), **classifier}, functional.named(buffers))
        return self.copied(s) if classes and self.setting.weights is not None else s

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:
        """One step of the phase at hand."""
        ctx.check()
        if at.phase == ANCESTOR:
            return supervised.step(self.network, s, batch, self.setting.classes_per_source)
        if at.phase == SOURCES:
            return self.tune(s, batch)
        return self.inform(s, batch, at, ctx) if at.phase == FISHER else self.measure(s, batch)

    def copied(self, s: State) -> State:
        """A copy of the trunk and of its own rows of the classifier for each source; the trunk stays the ancestor."""
        classes, trunk = self.setting.classes_per_source, functional.under(s.learned)
        weight, bias = (torch.split(s.learned[supervised.CLASSIFIER + n], list(classes)) for n in ("weight", "bias"))
        learned, memory = functional.named(trunk), dict(s.memory)
        for i in range(len(classes)):
            learned |= _clones(trunk, f"{SOURCE}{i}.trunk.")
            learned |= _clones({"weight": weight[i], "bias": bias[i]}, f"{SOURCE}{i}.head.")
            memory |= _clones(functional.under(s.memory), f"{SOURCE}{i}.trunk.")
            if self.p.form == "fisher":
                memory |= {f"{INFORMATION}{i}.{n}": torch.zeros_like(t) for n, t in trunk.items()}
        memory |= {name: bias[0].new_zeros(len(classes)) for name in (STEPS, PICTURES)}
        return State(learned, memory)

    def tune(self, s: State, batch: Labelled) -> StepResult:
        """Plain training of one source's copy: only its tensors are in the loss, so only they are moved."""
        i = int(batch.source[0])
        own = f"{SOURCE}{i}.trunk."
        with norm.batch_statistics() as seen:
            features = functional.call(self.network, functional.under(s.learned, own), {}, batch.x)
        z = self._answers(s, i, features)
        loss = F.cross_entropy(z, batch.y)
        buffers = norm.running_average(functional.under(s.memory, own), seen)
        memory = {**s.memory, **functional.named(buffers, own), STEPS: _counted(s.memory[STEPS], i, 1)}
        return StepResult(loss=loss, memory=memory, metrics=_metrics(loss, z, batch.y))

    def inform(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:
        """The Fisher information of one source's copy, under its running averages, on a few more pictures."""
        i = int(batch.source[0])
        own = f"{SOURCE}{i}.trunk."
        buffers = functional.under(s.memory, own)

        def answers(trunk: Tensors, x: Tensor) -> Tensor:
            return self._answers(s, i, functional.call(self.network, trunk, buffers, x))

        trunk = functional.under(s.learned, own)
        gen = generator(ctx.seed_for(f"averaged/{at.phase}/{at.step}"))
        squares = averaging.fisher_diagonal(answers, trunk, batch.x, gen, ctx)
        with torch.no_grad():
            z = answers(trunk, batch.x)
        memory = dict(s.memory)
        memory |= {f"{INFORMATION}{i}.{n}": s.memory[f"{INFORMATION}{i}.{n}"] + t for n, t in squares.items()}
        memory[PICTURES] = _counted(s.memory[PICTURES], i, len(batch.y))
        return StepResult(grads={}, memory=memory, metrics=_metrics(F.cross_entropy(z, batch.y), z, batch.y))

    @torch.no_grad()
    def measure(self, s: State, batch: Labelled) -> StepResult:
        """The average's statistics: the plain mean over all batches of the phase. Accuracy: with the sources' heads."""
        with norm.batch_statistics() as seen:
            features = functional.call(self.network, functional.under(s.learned), {}, batch.x)
        n = s.memory[BATCHES] + 1
        buffers = norm.running_average(functional.under(s.memory), seen, momentum=1 / float(n))
        classes = torch.tensor(self.setting.classes_per_source, device=batch.y.device)
        owner = torch.arange(len(classes), device=batch.y.device).repeat_interleave(classes)
        z = F.linear(features, *(s.learned[supervised.CLASSIFIER + n] for n in ("weight", "bias")))
        z = z.masked_fill(owner != batch.source[:, None], -torch.inf)
        rows = supervised.rows_of(batch, self.setting.classes_per_source)
        memory = {**s.memory, **functional.named(buffers), BATCHES: n}
        return StepResult(grads={}, memory=memory, metrics=_metrics(F.cross_entropy(z, rows), z, rows))

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:
        """Copy the ancestor; average the copies; drop the heads."""
        ctx.check()
        if phase.name == ANCESTOR:
            return self.copied(s)
        if phase.name == STATISTICS:
            return supervised.dropped(s)
        return s if phase.name == SOURCES and self.p.form == "fisher" else self.averaged(s)

    @torch.no_grad()
    def averaged(self, s: State) -> State:
        """The average as the trunk, the mean of its members' running averages, and the heads as one classifier."""
        classes = self.setting.classes_per_source
        ancestor, memory = functional.under(s.learned), s.memory
        used = [i for i in range(len(classes)) if memory[STEPS][i] > 0]
        copies = {i: functional.under(s.learned, f"{SOURCE}{i}.trunk.") for i in used}
        models = averaging.descendants(copies, ancestor)
        trunk, buffers = ancestor, functional.under(memory)
        if models:
            trunk = self._mean(models, memory)
            seen = [functional.under(memory, f"{SOURCE}{i}.trunk.") for i in used]
            buffers = {n: torch.stack([b[n] for b in seen]).mean(0) for n in buffers}
        classifier = {
            supervised.CLASSIFIER + n: torch.cat([s.learned[f"{SOURCE}{i}.head.{n}"] for i in range(len(classes))])
            for n in ("weight", "bias")
        }
        kept = averaging.remembered(models, ancestor) if models and self.p.keep_sources else {}
        zero = memory[STEPS].new_zeros(())
        counts = {BATCHES: zero, MODELS: zero + len(models)}
        return State({**functional.named(trunk), **classifier}, {**functional.named(buffers), **kept, **counts})

    def _mean(self, models: dict[int, averaging.Model], memory: Tensors) -> Tensors:
        members = list(models.values())
        if self.p.form == "weighted":
            return averaging.mean(members, [self.setting.classes_per_source[i] for i in models])
        if self.p.form == "plain":
            return averaging.mean(members)
        pictures = memory[PICTURES].clamp_min(1)
        found = [
            {n: t / pictures[i] for n, t in functional.under(memory, f"{INFORMATION}{i}.").items()} for i in models
        ]
        return averaging.fisher_mean(members, found, _FLOOR)

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The ridge ``weight [N, D]``."""
        x = F.normalize(features, dim=1)
        targets = heads.one_hot(y, ways, x)
        weights = heads.balanced(y, ways, x)
        return {"weight": heads.ridge(x, targets, self.p.strength, weights).T.contiguous()}

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * a.tensors["weight"])

    def _answers(self, s: State, source: int, features: Tensor) -> Tensor:
        head = functional.under(s.learned, f"{SOURCE}{source}.head.")
        return F.linear(features, head["weight"], head["bias"])


def _clones(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + n: t.detach().clone() for n, t in tensors.items()}


def _counted(counts: Tensor, i: int, more: int) -> Tensor:
    out = counts.clone()
    out[i] += more
    return out


def _metrics(loss: Tensor, z: Tensor, y: Tensor) -> dict[str, float]:
    return {"loss": float(loss.detach()), "accuracy": float((z.detach().argmax(1) == y).float().mean())}
