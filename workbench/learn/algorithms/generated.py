"""A generated head: a network reads the examples and writes the classifier. No step of training on the new task.

All forms have the class code ``s_k``, the mean of the class's features ``f`` at length 1, and answer by cosine::

    s_k  = mean over class k of f(x_i) / |f(x_i)|                 [N, D]
    z_qk = exp(scale) cos(f(q), w_k) + b_k                        [Q, N], scale is learnt, from log 10
    loss = cross entropy(z, labels of the queries)

They differ in how ``w_k`` is written. Each class is written on its own, by the same network, from its own code: any
number of classes in any order, and a class added later is a row added.

``plain``      ``(w_k, b_k) = (s_k, 0) + G(s_k)``, ``G`` a network of one hidden layer.

``attention``  ``w_k = a (*) s_k + b (*) mean over class k of A(f(x_i))`` with vectors ``a``, ``b`` of ``D`` factors
    (Gidaris, Komodakis 2018, arXiv 1804.09458). The memory are the ``M`` classes of training: their rows ``v_m``, a
    cosine classifier that a supervised batch beside each step's episodes trains with the same scale, and a key ``k_m``
    of each. An example asks which of them it is like: ``A(u) = sum_m softmax_m(g cos(Phi u, k_m)) v_m``. The classes of
    a training episode are themselves in the memory, and would be copied from there: their rows are shut while it lasts,
    as a new class has none. The memory is kept with the knowledge; without one (no sources known) its part is left out.

``embedding``  ``(w_k, b_k) = (s_k, 0) + dec(z_k)``, ``z_k`` of few numbers (after Rusu et al. 2019, LEO, arXiv
    1807.05960). ``enc(s_k)`` gives mean and log variance of ``z_k``; training draws it and adds ``kl`` times the
    divergence from the standard normal, use takes the mean. Then ``code_steps`` gradient steps on the examples' loss
    move ``z``, not ``w``: few numbers can be fitted to few examples. (LEO besides relates all pairs of classes, and
    draws ``w`` too.)

The last layers of ``G`` and ``dec`` start at 0 and ``a`` at 1, ``b`` at 0: all forms begin as Prototypical Networks
with cosine, not as noise, and learn what to change. The numbers of a vector of length 1 are about ``1 / sqrt(D)``:
codes are multiplied by ``sqrt(D)`` on their way into a network, and what comes out is divided by it. Without that a
step of Adam changes a class's weights by more than they are.

Mistakes that are easily made here, and not made:

* the labels are never shown to the generator: then no class can have weights of its own;
* a vector for each picture instead of each class; the number of *labels* taken for that of classes;
* one output for all classes together: the number of classes is then fixed for good;
* ``layer.weight.data = w``: nothing is learnt, since the graph ends there. ``w`` is used as a tensor;
* a fresh layer's random bias left in the classifier; queries that go past the trunk; sizes for one size of picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.params import param
from workbench.core.values import AlgorithmInfo
from workbench.learn import forms, functional, heads, inner, mlp, norm, registry, supervised
from workbench.learn.protocol import (
    Adapted,
    At,
    Phase,
    SourceSummary,
    State,
    StepResult,
    Tensors,
    detach,
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Episode, Episodes

START = 10.0
"""Factor before a cosine at first: of the answers and of the attention."""
_SHUT = 1e9
"""Taken from what a shut row of the memory is asked with."""


class Written(NamedTuple):
    """A classifier: ``weight [N, D]``, of any length, and ``bias [N]``; what was added to the loss for writing it."""

    weight: Tensor
    bias: Tensor
    penalty: Tensor | float = 0.0


@registry.register
class Generated(forms.FittedHead):
    """A classifier written by a network from the classes' codes; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="generated",
        title="Generated head",
        family="parameter generation",
        paper="Gidaris, Komodakis 2018, arXiv 1804.09458; Rusu et al. 2019, arXiv 1807.05960",
        summary="A network reads the examples of each class and writes the classifier's weights for it.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)
        form: str = param(
            "plain",
            choices=("plain", "attention", "embedding"),
            help="How weights are written: from the class's mean alone, with the weights of similar classes of "
            "training, or through a code of few numbers.",
        )
        width: int = param(128, low=8, high=2048, step=8, help="Hidden layer of the writing network.")
        batch: int = param(
            64, low=2, high=1024, step=16, title="Supervised batch", help="Attention: pictures that train its memory."
        )
        code: int = param(16, low=1, high=512, step=1, title="Size of the code", help="Embedding: its numbers.")
        code_steps: int = param(
            3, low=0, high=50, step=1, title="Steps of the code", help="Embedding: gradient steps on the examples."
        )
        code_lr: float = param(
            1.0, low=1e-4, high=100.0, step=0.1, title="Learning rate of the code", help="Embedding: of these steps."
        )
        kl: float = param(
            1e-3, low=0.0, high=10.0, step=1e-3, title="Weight of the divergence", help="Embedding: in training."
        )

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes; with attention, a supervised batch beside them."""
        labelled = self.p.batch if self.p.form == "attention" else 0
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, labelled=labelled),)

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``scale``, and what the form writes with."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        d, p = self.features, self.p
        learned = functional.named(trunk)
        learned["scale"] = torch.tensor(math.log(START), device=gen.device)
        if p.form == "plain":
            learned |= mlp.initial("generator", (d, p.width, d + 1), gen, zero_last=True)
        elif p.form == "attention":
            learned |= memory(sum(self.setting.classes_per_source), d, gen)
        else:
            learned |= mlp.initial("encoder", (d, p.width, 2 * p.code), gen)
            learned |= mlp.initial("decoder", (p.code, p.width, d + 1), gen, zero_last=True)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:
        """Mean loss over the episodes of ``batch``, and the memory's over the supervised batch."""
        trunk, buffers = functional.under(s.learned), functional.under(s.memory)
        gen = generator(ctx.seed_for(f"generated/{at.phase}/{at.step}"))
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            pictures = torch.cat([episode.support_x, episode.query_x])
            with norm.batch_statistics() as statistics:
                features = functional.call(self.network, trunk, buffers, pictures)
            loss, logits = self.task_loss(s.learned, features, episode, gen, ctx)
            losses.append(loss)
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean()
        metrics = {"accuracy": float(torch.cat(correct).float().mean())}
        if batch.labelled is not None and "memory.weight" in s.learned:
            with norm.batch_statistics():
                features = functional.call(self.network, trunk, buffers, batch.labelled.x)
            z = heads.cosine_logits(features, s.learned["memory.weight"], s.learned["scale"].exp())
            y = supervised.rows_of(batch.labelled, self.setting.classes_per_source)
            loss = loss + F.cross_entropy(z, y)
            metrics["memory accuracy"] = float((z.detach().argmax(1) == y).float().mean())
        metrics["loss"] = float(loss.detach())
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def task_loss(
        self, learned: Tensors, features: Tensor, episode: Episode, gen: Generator, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        """One task from the features of its examples and queries: loss with its graph, queries' logits."""
        support, queries = features.tensor_split([len(episode.support_y)])
        own = None if episode.classes is None else episode.classes.to(features.device)
        head = self.written(learned, support, episode.support_y, episode.ways, ctx, own=own, gen=gen)
        logits = answer(learned, queries, head)
        return F.cross_entropy(logits, episode.query_y) + head.penalty, logits

    def written(
        self,
        learned: Tensors,
        features: Tensor,
        y: Tensor,
        ways: int,
        ctx: Context,
        *,
        own: Tensor | None = None,
        gen: Generator | None = None,
    ) -> Written:
        """The classifier for examples with features ``[S, D]``; differentiable where ``gen`` is given.

        Args:
            learned: what the form writes with.
            features: of the examples, as the trunk gives them.
            y: their labels ``[S]``.
            ways: number of classes.
            ctx: checked before each step of the code.
            own: rows of the memory ``[N]`` that belong to the classes themselves, in training.
            gen: of what training draws; ``None`` in use, where nothing is drawn.
        """
        unit = F.normalize(features, dim=1)
        codes = heads.prototypes(unit, y, ways)
        wide = codes * math.sqrt(codes.shape[1])
        if self.p.form == "plain":
            return residual(codes, mlp.call(learned, "generator", wide))
        if self.p.form == "attention":
            return Written(remembered(learned, unit, y, ways, own), codes.new_zeros(ways))
        mean, log_variance = mlp.call(learned, "encoder", wide).chunk(2, 1)
        z, penalty = mean, mean.new_zeros(())
        if gen is not None:
            z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=gen).to(mean)
            penalty = self.p.kl * divergence(mean, log_variance)

        def head(z: Tensor) -> Written:
            return residual(codes, mlp.call(learned, "decoder", z), penalty)

        order: inner.Order = "none" if gen is None else "second"
        *_, last = inner.descent(
            lambda t: F.cross_entropy(answer(learned, features, head(t["z"])), y),
            {"z": z},
            lr=self.p.code_lr,
            steps=self.p.code_steps,
            order=order,
            ctx=ctx,
        )
        return head(last["z"])

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:
        """The classifier that was written: ``weight [N, D]`` and ``bias [N]``."""
        head = self.written(detach(s.learned), features, y, ways, ctx)
        return {"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}

    @torch.no_grad()
    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``."""
        return answer(s.learned, self._features(s, x), Written(a.tensors["weight"], a.tensors["bias"]))

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The written classifier, the scale in its rows."""
        rows = F.normalize(a.tensors["weight"], dim=1) * s.learned["scale"].detach().exp()
        return heads.UnitLinearHead(rows, a.tensors["bias"])


def answer(learned: Tensors, features: Tensor, head: Written) -> Tensor:
    """``[B, N]``: scaled cosine of features ``[B, D]`` to the classifier's rows, and its bias."""
    return heads.cosine_logits(features, head.weight, learned["scale"].exp()) + head.bias


def residual(codes: Tensor, change: Tensor, penalty: Tensor | float = 0.0) -> Written:
    """The class codes ``[N, D]`` changed by what was generated, ``[N, D + 1]`` with the bias last, over root ``D``."""
    change = change / math.sqrt(codes.shape[1])
    return Written(codes + change[:, :-1], change[:, -1], penalty)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of ``Normal(mean, exp(log_variance))`` from the standard normal: summed over numbers, averaged over classes."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean()


def memory(classes: int, features: int, gen: Generator) -> Tensors:
    """What attention writes with, fresh; rows and keys only where the number of classes of training is known.

    ``memory.weight [M, D]`` and ``memory.key [M, D]`` normal, ``query [D, D]`` the identity, ``sharpness`` = log g,
    ``average [D]`` 1 and ``attended [D]`` 0.
    """
    out = {
        "query": torch.eye(features, device=gen.device),
        "sharpness": torch.tensor(math.log(START), device=gen.device),
        "average": torch.ones(features, device=gen.device),
        "attended": torch.zeros(features, device=gen.device),
    }
    if classes:
        for name in ("memory.weight", "memory.key"):
            drawn = torch.randn(classes, features, generator=gen, device=gen.device)
            out[name] = drawn / math.sqrt(features)
    return out


def remembered(learned: Tensors, unit: Tensor, y: Tensor, ways: int, own: Tensor | None) -> Tensor:
    """``w [N, D]`` from examples ``[S, D]`` of length 1 and the memory without the rows ``own``."""
    weight = learned["average"] * heads.prototypes(unit, y, ways)
    if "memory.weight" not in learned:
        return weight
    rows = F.normalize(learned["memory.weight"], dim=1)
    asked = heads.cosine_logits(F.linear(unit, learned["query"]), learned["memory.key"], learned["sharpness"].exp())
    if own is None:
        attention = asked.softmax(1)
    else:
        open_ = torch.ones_like(rows[:, 0]).index_fill(0, own, 0.0)
        # twice: where all rows are shut, the softmax alone would open them all
        attention = (asked - _SHUT * (1 - open_)).softmax(1) * open_
    return weight + learned["attended"] * heads.prototypes(attention @ rows, y, ways)
