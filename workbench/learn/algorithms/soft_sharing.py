"""Soft parameter sharing: a network for each source, pulled towards one another (Evgeniou, Pontil 2004).

Each of ``T`` sources has a copy ``theta_t`` of the trunk and a classifier ``h_t [n_t, D]`` of its own. A penalty keeps
the copies together; without it they would be ``T`` independent networks, with an endless one a single shared trunk::

    mean:   sum_t L_t(theta_t, h_t) + lam/2 sum_t |theta_t - theta_bar|^2        theta_bar = mean_t theta_t
    graph:  sum_t L_t(theta_t, h_t) + lam/(2T) sum_{t<u} s_tu |theta_t - theta_u|^2

With all ``s_tu = 1`` both are the same. In the graph form sources that look alike pull more: ``s_tu = exp(-d_tu / m)``
scaled to mean 1 over all pairs, where ``d_tu`` is how differently the channels of the mean network respond to the two
(squared difference of the sources' mean responses before each batch norm, over the running variance, averaged) and
``m`` the median of all ``d``. It is measured while training, on pictures that are seen anyway. A source that was not
seen yet counts as alike to all.

**One step** takes pictures of one source (stream ``per_source``). The gradient of ``theta_t`` is ``grad L_t + lam
(theta_t - theta_bar)``: exactly that, for in the derivative of the whole sum the parts through the mean cancel. In the
penalty of *one* source they would not; so here the mean is a constant, the copies of all other sources get no gradient,
and the optimiser neither moves nor decays them.

**How large is lam?** A squared distance grows with the number of numbers ``P``, and a loss has a scale of its own. So
``lam = sharing * mean loss * 100 000 / P``, with the running mean of the losses: ``sharing`` is then, for a network of
Conv-4's size, the part of the mean loss that a squared distance of 1 costs, and 0.001 to 0.1 is where to look.

What is shared is the trunk's weights. Classifiers of different classes have nothing to be compared by, and running
averages of batch norm are measurements: both stay out of the penalty and out of the mean.

**A new task** gets ``theta_bar``, with batch-norm statistics that were measured *on* ``theta_bar``: the mean of the
copies' statistics would be those of no network. While training they follow along; in a last, frozen phase of 5 % of the
budget nothing is learnt and the statistics become the plain mean over batches of all sources alike. Then the trunk is
called ``trunk.*`` like any other, and the head is a ridge classifier on its features of length 1 (as in ``ridge``): any
number of classes, with one image or more.

All copies begin as the same network. Otherwise their hidden units would be numbered differently, and neither distance
nor mean would mean anything. It takes the memory of ``T`` networks, three times in training (Adam's two moments).
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
from workbench.core.errors import WorkbenchError
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, norm, registry
from workbench.learn.protocol import (
    Adapted,
    At,
    Phase,
    Setting,
    SourceSummary,
    State,
    StepResult,
    Tensors,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Labelled

SOURCE = "source."
"""Learnt while training: ``source.<t>.trunk.*`` and ``source.<t>.head.weight [n_t, D]``, ``.bias [n_t]``."""
SOURCES, STATISTICS = "sources", "statistics"
LEVEL, BATCHES, RESPONSES, SEEN = "sharing.loss", "sharing.batches", "sharing.responses", "sharing.seen"
"""In memory: the mean loss; batches behind the statistics; ``[T, channels]`` the sources' mean responses, and ``[T]``
batches behind those."""
_LAST = 0.05
_UNIT = 100_000
_FOLLOW = 0.05
_MOST = 4e9  # bytes of copies with their moments


@registry.register
class SoftSharing(forms.FittedHead):
    """A copy of the trunk per source, pulled towards their mean; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="soft-sharing",
        title="Soft parameter sharing",
        family="multi-task",
        paper="Evgeniou, Pontil 2004, KDD, doi 10.1145/1014052.1014067",
        summary="Trains a network for each source and pulls them towards one another; a new task gets their mean.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        form: str = param(
            "mean",
            choices=("mean", "graph"),
            help="What each network is pulled to: the mean of all, or most to those of sources that look alike.",
        )
        sharing: float = param(
            0.01,
            low=0.0,
            high=1e9,
            step=0.01,
            title="Strength of the pull",
            help="Part of the mean loss that a squared distance of 1 costs; 0 trains independent networks.",
        )
        lr: float = forms.learning_rate()
        batch: int = param(64, low=2, high=1024, step=16, title="Batch size", help="Pictures in a training step.")
        strength: float = param(
            0.5, low=1e-6, high=1e4, step=0.1, help="How strongly a new task's weights are held near zero."
        )
        scale: float = param(10.0, low=0.1, high=1000.0, step=1.0, help="Factor from the fit to logits.")

    p: Params

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.numbers = sum(t.numel() for t in self.network.parameters())

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:
        """Pictures of one source per step; then the statistics of the mean, with nothing learnt.

        Raises:
            WorkbenchError: the copies would need more than 4 GB.
        """
        copies = len(sources.classes_per_source)
        size = 3 * 4 * copies * self.numbers
        if size > _MOST:
            raise WorkbenchError(
                "The training was not begun",
                f"a network for each of {copies} sources would need {size / 1e9:.0f} GB of memory, and 4 are the most",
                "Choose a smaller backbone, fewer sources, or hard sharing, which has one network for all",
            )
        p = self.p
        return (
            Phase(SOURCES, "per_source", share=1 - _LAST, batch_size=p.batch, lr={SOURCE: p.lr}),
            Phase(STATISTICS, "mixed", share=_LAST, batch_size=p.batch, lr={}),
        )

    def init(self, gen: Generator) -> State:
        """One network (fresh or pretrained), once for each source, and the sources' classifiers.

        Without sources, as when knowledge is loaded: the one network as ``trunk.*``.
        """
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        classes = self.setting.classes_per_source
        if not classes:
            return State(functional.named(trunk), functional.named(buffers))
        learned: Tensors = {}
        for t, n in enumerate(classes):
            if not n:
                continue
            rows = torch.rand(n, self.features, generator=gen, device=gen.device)
            learned |= {f"{SOURCE}{t}.trunk.{name}": v.clone() for name, v in trunk.items()}
            learned[f"{SOURCE}{t}.head.weight"] = (2 * rows - 1) / math.sqrt(self.features)
            learned[f"{SOURCE}{t}.head.bias"] = rows.new_zeros(n)
        zero = torch.zeros((), device=gen.device)
        channels = sum(m.weight.numel() for m in self.network.modules() if isinstance(m, norm.Norm2d))
        memory = functional.named(buffers) | {
            LEVEL: zero + sum(math.log(n) for n in classes if n) / len(classes),
            BATCHES: zero,
            RESPONSES: zero.new_zeros(len(classes), channels),
            SEEN: zero.new_zeros(len(classes)),
        }
        return State(learned, memory)

    def step(self, s: State, batch: Labelled, at: At, ctx: Context) -> StepResult:
        """One step of either phase."""
        ctx.check()
        return self.measure(s, batch) if at.phase == STATISTICS else self.tune(s, batch)

    def tune(self, s: State, batch: Labelled) -> StepResult:
        """``L_t + lam/2 ...`` of the batch's source: a function of its copy and its classifier alone."""
        t = int(batch.source[0])
        copies = copies_of(s.learned)
        with norm.batch_statistics():
            features = functional.call(self.network, copies[t], {}, batch.x)
        logits, plain = self.answer(s.learned, features, batch.y, t)
        row = None
        if self.p.form == "graph":
            row = similarity(s.memory[RESPONSES], s.memory[SEEN], self._variances(s.memory))[t]
        distance = pull(copies, t, row)
        loss = plain + self.p.sharing * s.memory[LEVEL] * (_UNIT / self.numbers) * distance
        memory = self.followed(s.memory, copies, batch.x, t)
        memory[LEVEL] = torch.lerp(s.memory[LEVEL], plain.detach(), _FOLLOW)
        accuracy = float((logits.detach().argmax(1) == batch.y).float().mean())
        metrics = {"loss": float(loss.detach()), "accuracy": accuracy, "distance": float(distance.detach())}
        return StepResult(loss=loss, memory=memory, metrics=metrics)

    def answer(self, learned: Tensors, features: Tensor, y: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Logits ``[B, n_t]`` of a source's classifier, and their mean cross entropy."""
        logits = F.linear(features, learned[f"{SOURCE}{t}.head.weight"], learned[f"{SOURCE}{t}.head.bias"])
        return logits, F.cross_entropy(logits, y)

    @torch.no_grad()
    def followed(self, memory: Tensors, copies: Mapping[int, Tensors], x: Tensor, t: int) -> Tensors:
        """What is known of the mean network after it saw these pictures of source ``t``.

        Its statistics average over as many batches as it takes to see each source about twice, at least ten; the mean
        network moves the slower the more copies there are.
        """
        with norm.batch_statistics() as statistics:
            functional.call(self.network, mean(copies), {}, x)
        out = self._averaged(memory, statistics, least=min(norm.MOMENTUM, 0.5 / len(copies)))
        seen, responses = memory[SEEN].clone(), memory[RESPONSES].clone()
        seen[t] += 1
        if responses.shape[1]:
            new = torch.cat([statistics[n].mean for n in sorted(statistics)]).to(responses)
            responses[t] = torch.lerp(responses[t], new, (1 / seen[t]).clamp_min(norm.MOMENTUM))
        return out | {SEEN: seen, RESPONSES: responses}

    @torch.no_grad()
    def measure(self, s: State, batch: Labelled) -> StepResult:
        """Nothing is learnt: the statistics of the mean network become the plain mean over the phase's batches.

        Loss and accuracy are those of the mean network with the sources' classifiers.
        """
        with norm.batch_statistics() as statistics:
            features = functional.call(self.network, self._trunk(s), {}, batch.x)
        losses, right = [], 0
        for t in sorted(set(batch.source.tolist())):
            own = batch.source == t
            logits, loss = self.answer(s.learned, features[own], batch.y[own], t)
            losses.append(loss)
            right += int((logits.argmax(1) == batch.y[own]).sum())
        metrics = {"loss": float(torch.stack(losses).mean()), "accuracy": right / len(batch.y)}
        return StepResult(grads={}, memory=self._averaged(s.memory, statistics, least=0.0), metrics=metrics)

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:  # noqa: ARG002
        """The copies become their mean, ``trunk.*``, and its statistics are begun anew; at the end that is all."""
        if phase.name == SOURCES:
            rest = {n: t for n, t in s.learned.items() if ".head." in n}
            buffers = {n: t for n, t in s.memory.items() if n.startswith(functional.TRUNK)}
            memory = {**buffers, BATCHES: torch.zeros_like(s.memory[BATCHES])}
            return State({**functional.named(self._trunk(s)), **rest}, memory)
        return State(*({n: t for n, t in part.items() if n.startswith(functional.TRUNK)} for part in s))

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """The classifier ``weight [N, D]``."""
        weight = heads.unit_ridge(features, y, ways, self.p.strength)
        return {"weight": weight}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``."""
        return F.linear(F.normalize(self._features(s, x), dim=1), self.p.scale * a.tensors["weight"])

    def trunk(self, s: State) -> nn.Module:
        """The mean network with its running statistics; no support set changes it."""
        return functional.frozen(self.network, self._trunk(s) | functional.under(s.memory))

    def head(self, s: State, a: Adapted) -> nn.Module:  # noqa: ARG002
        """The linear layer on features of length 1."""
        return heads.UnitLinearHead(self.p.scale * a.tensors["weight"])

    def _features(self, s: State, x: Tensor) -> Tensor:
        return functional.call(self.network, self._trunk(s), functional.under(s.memory), x)

    def _trunk(self, s: State) -> Tensors:
        copies = copies_of(s.learned)
        return mean(copies) if copies else functional.under(s.learned)

    def _averaged(self, memory: Tensors, statistics: norm.Statistics, least: float) -> Tensors:
        """Memory with the statistics' mean over the batches so far; the newest weighs at least so much."""
        n = memory[BATCHES] + 1
        moved = norm.running_average(functional.under(memory), statistics, max(least, 1 / float(n)))
        return {**memory, **functional.named(moved), BATCHES: n}

    def _variances(self, memory: Tensors) -> Tensor:
        layers = sorted(n for n, m in self.network.named_modules() if isinstance(m, norm.Norm2d))
        found = [memory[f"{functional.TRUNK}{n}.running_var"] for n in layers]
        return torch.cat(found) if found else memory[SEEN].new_zeros(0)


def copies_of(learned: Mapping[str, Tensor]) -> dict[int, Tensors]:
    """The sources' copies of the trunk by source, with the network's own names; none after training."""
    found: dict[int, Tensors] = {}
    for name, t in learned.items():
        if name.startswith(SOURCE):
            source, part, own = name.removeprefix(SOURCE).split(".", 2)
            if part == "trunk":
                found.setdefault(int(source), {})[own] = t
    return found


@torch.no_grad()
def mean(copies: Mapping[int, Tensors]) -> Tensors:
    """``theta_bar``, tensor by tensor, without a graph."""
    every = list(copies.values())
    return {n: torch.stack([c[n] for c in every]).mean(0) for n in every[0]}


def pull(copies: Mapping[int, Tensors], t: int, row: Tensor | None = None) -> Tensor:
    """Half the squared distance of copy ``t`` to what it is pulled to; all other copies are constants.

    Its gradient is ``theta_t - theta_bar``, or ``1/T sum_u s_tu (theta_t - theta_u)``.

    Args:
        copies: by source.
        t: whose gradient is wanted.
        row: ``[T]`` similarities ``s_t.`` of the graph form; ``None`` for the mean.
    """
    own, weight, target = copies[t], 1.0, mean(copies)
    if row is not None:
        # the sum over sources is, but for a constant, the distance to their weighted mean
        others = [u for u in copies if u != t]
        total = float(row[others].sum())
        if not total:
            return 0.0 * next(iter(own.values())).sum()
        weight = total / len(copies)
        target = {n: torch.stack([row[u] / total * copies[u][n].detach() for u in others]).sum(0) for n in own}
    return 0.5 * weight * torch.stack([(own[n] - value).square().sum() for n, value in target.items()]).sum()


@torch.no_grad()
def similarity(responses: Tensor, seen: Tensor, variances: Tensor) -> Tensor:
    """``[T, T]`` symmetric, 0 to itself, mean 1 over all pairs.

    Args:
        responses: ``[T, C]`` mean response of each channel to each source.
        seen: ``[T]`` batches behind it; a source without any is as similar to all as sources are on average.
        variances: ``[C]`` of the channels, over all sources.
    """
    n, channels = responses.shape
    pairs = ~torch.eye(n, dtype=torch.bool, device=responses.device)
    known = (seen > 0)[:, None] & (seen > 0) & pairs
    alike = pairs.to(responses)
    if channels and bool(known.any()):
        gaps = (responses[:, None] - responses).square().div(variances + 1e-5).mean(2)
        near = torch.exp(-gaps / gaps[known].median().clamp_min(1e-12))
        alike = torch.where(known, near / near[known].mean(), alike)
    return alike
