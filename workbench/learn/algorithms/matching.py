"""Matching Networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, arXiv 1606.04080).

A query is answered by a *mixture* of the examples' labels, weighted by how similar each example is::

    P(k | q) = sum over examples i of class k of softmax_i( s * cos(f(q), g(x_i)) )        [Q, N]
    loss     = -log P(true class | q)                     the log of the summed attention, not a sum of logs

``f`` and ``g`` are one network ``[B, C, H, W] -> [B, D]`` in the plain form (``matching``). Nothing is fitted on a new
task. All is computed as ``log P = logsumexp over class k - logsumexp over all``, which needs no small number inside a
logarithm. A class with more examples has more weight, as the paper's formula has it.

With full-context embeddings (``matching-fce``) each example is seen in the light of the others, and the query in the
light of all (``f'``, ``g'`` are the network's features)::

    g(x_i) = forward_i + backward_i + g'(x_i)             a bidirectional LSTM over the examples
    h_0 = f'(q);  r_j = sum_i softmax_i(h_j . g(x_i)) g(x_i)
    h_{j+1} = LSTM(f'(q), [h_j, r_j], c_j) + f'(q);       f(q) = h_K

An LSTM reads its examples in an order. Here it is one that the pictures themselves decide: class by class, by the mean
of the class's features, and so within each class. So neither the order of the examples nor the numbering of the classes
changes an answer, and the network need not be tagged order-dependent. (With the order as given, both would.)

Mistakes that are easily made here, and not made:

* cosine without a scale: logits between -1 and 1 cannot become confident (Omniglot 5-way 1-shot falls to 92 %). ``s``
  starts at 10 and is learnt;
* the mean of the log attention instead of the log of its sum;
* queries that see one another in the LSTM's batch or through batch norm's statistics when the network is used.
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
    from workbench.data.episodes import Episodes

START = 10.0
"""The factor before the cosine at first."""
_NEVER = 1e9
"""Taken from the logit of an example of another class: it has no weight left, and no infinity is computed with."""


@registry.register
class Matching(forms.FittedHead):
    """Attention over the examples by cosine; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="matching",
        title="Matching Networks",
        family="metric",
        paper="Vinyals et al. 2016, arXiv 1606.04080",
        summary="Answers with the labels of the most similar examples, weighted by attention; trained on episodes.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        tasks: int = forms.tasks_per_step(1)

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of episodes."""
        return (Phase("episodes", tasks_per_step=self.p.tasks, lr={"": self.p.lr}),)

    def init(self, gen: Generator) -> State:
        """Fresh trunk (or the setting's pretrained one) and ``scale`` = log s."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        log_scale = torch.tensor(math.log(START), device=gen.device)
        return State({**functional.named(trunk), "scale": log_scale}, functional.named(buffers))

    def step(self, s: State, batch: Episodes, at: At, ctx: Context) -> StepResult:  # noqa: ARG002 - no schedule of its own
        """Mean loss over the episodes of ``batch``; the running averages move on with each."""
        trunk, buffers = functional.under(s.learned), functional.under(s.memory)
        losses, correct = [], []
        for episode in batch.episodes:
            ctx.check()
            pictures = torch.cat([episode.support_x, episode.query_x])
            with norm.batch_statistics() as statistics:
                features = functional.call(self.network, trunk, buffers, pictures)
            support, queries = features.tensor_split([len(episode.support_y)])
            member = heads.one_hot(episode.support_y, episode.ways, support)
            keys = self.keys(s.learned, support, member)
            cosine = heads.cosine_logits(self.reads(s.learned, queries, keys), keys, s.learned["scale"].exp())
            logits = log_mixture(cosine, member)
            losses.append(F.cross_entropy(logits, episode.query_y))
            correct.append(logits.detach().argmax(1) == episode.query_y)
            buffers = norm.running_average(buffers, statistics)
        loss = torch.stack(losses).mean()
        metrics = {"loss": float(loss.detach()), "accuracy": float(torch.cat(correct).float().mean())}
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics, correct=correct[0])

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:  # noqa: ARG002
        """``keys [S, D]``, what queries are compared with, and ``member [S, N]``, whose each is."""
        member = heads.one_hot(y, ways, features)
        return {"keys": self.keys(s.learned, features, member), "member": member}

    def head(self, s: State, a: Adapted) -> nn.Module:
        """Attention over the examples."""
        return Attention(a.tensors["keys"], a.tensors["member"], s.learned["scale"].detach().exp())

    def keys(self, learned: Tensors, support: Tensor, member: Tensor) -> Tensor:  # noqa: ARG002 - without context
        """``g``: examples' features ``[S, D]`` to what queries are compared with."""
        return support

    def reads(self, learned: Tensors, queries: Tensor, keys: Tensor) -> Tensor:  # noqa: ARG002 - without context
        """``f``: queries' features ``[B, D]`` to what is compared with the keys ``[S, D]``."""
        return queries


@registry.register
class MatchingFCE(Matching):
    """Matching Networks with full-context embeddings; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="matching-fce",
        title="Matching Networks with context",
        family="metric",
        paper="Vinyals et al. 2016, arXiv 1606.04080",
        summary="Matching Networks whose examples and queries are embedded in the light of the whole set of examples.",
        tags=frozenset({"trains", "any-way", "cacheable"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params(Matching.Params):
        """Hyperparameters."""

        reads: int = param(3, low=1, high=20, step=1, title="Readings", help="Times a query looks at the examples.")
        width: int = param(
            256,
            low=8,
            high=2048,
            step=8,
            help="Largest size of the LSTMs' state; wider features are projected to it by a learnt matrix.",
        )

    def __init__(self, p: Params, setting: Setting) -> None:
        super().__init__(p, setting)
        self.times, self.width = p.reads, min(p.width, self.features)

    def init(self, gen: Generator) -> State:
        """Besides, three LSTMs, and the projection where features are wider than they are."""
        learned, memory = super().init(gen)
        w, bound = self.width, 1 / math.sqrt(self.width)

        def uniform(rows: int, columns: int, bound: float = bound) -> Tensor:
            return (2 * torch.rand(rows, columns, generator=gen, device=gen.device) - 1) * bound

        for name, hidden in (("forward", w), ("backward", w), ("query", 2 * w)):
            learned |= {f"{name}.input": uniform(4 * w, w), f"{name}.hidden": uniform(4 * w, hidden)}
            forget = torch.arange(4 * w, device=gen.device) // w == 1
            learned[f"{name}.bias"] = forget.to(torch.float32)  # an LSTM that remembers learns sooner
        if w < self.features:
            learned["project"] = uniform(w, self.features, 1 / math.sqrt(self.features))
        return State(learned, memory)

    def head(self, s: State, a: Adapted) -> nn.Module:
        """Reading the examples, then attention over them."""
        names = [n for n in s.learned if n.startswith("query.") or n == "project"]
        reading = Reading({n: s.learned[n].detach() for n in names}, a.tensors["keys"], self.times)
        return nn.Sequential(reading, super().head(s, a))

    def keys(self, learned: Tensors, support: Tensor, member: Tensor) -> Tensor:
        """``g [S, W]``: both LSTMs' states and the features themselves."""
        x = projected(learned, support)
        order = canonical_order(support, member)
        back = torch.argsort(order)
        forward = run_lstm(learned, "forward", x[order])[back]
        backward = run_lstm(learned, "backward", x[order.flip(0)]).flip(0)[back]
        return forward + backward + x

    def reads(self, learned: Tensors, queries: Tensor, keys: Tensor) -> Tensor:
        """``f [B, W]``."""
        return read(learned, queries, keys, self.times)


def log_mixture(similarities: Tensor, member: Tensor) -> Tensor:
    """``[B, N]``: the log of each class's summed softmax weight.

    Args:
        similarities: of each query to each example, ``[B, S]``.
        member: ``[S, N]``, 1 where the example is of the class, else 0; every class has one.
    """
    own = similarities[:, None, :] + _NEVER * (member.T - 1)
    return own.logsumexp(2) - similarities.logsumexp(1, keepdim=True)


def canonical_order(features: Tensor, member: Tensor) -> Tensor:
    """``[S]`` an order of the examples that neither their own order nor the numbering of the classes changes.

    By the mean feature of the class, and within it by the example's own. Examples that this cannot tell apart have
    equal features for all that matters.
    """
    size = features.detach().mean(1)
    of_class = (member.T @ size) / member.sum(0)
    order = torch.argsort(size, stable=True)
    return order[torch.argsort((member @ of_class)[order], stable=True)]


def lstm_cell(w: Tensors, name: str, from_input: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step: the new hidden state and cell ``[B, W]``.

    Gates are laid out as in torch: input, forget, candidate, output.

    Args:
        w: ``<name>.hidden [4W, H]``.
        name: of the LSTM.
        from_input: ``[B, 4W]`` what the input gives the gates, bias included.
        hidden: ``[B, H]``; wider than the cell where something is read besides.
        cell: ``[B, W]``.
    """
    i, f, g, o = (from_input + F.linear(hidden, w[f"{name}.hidden"])).chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def run_lstm(w: Tensors, name: str, x: Tensor) -> Tensor:
    """``[S, W]``: the hidden states along a sequence ``x [S, W]``."""
    inputs = F.linear(x, w[f"{name}.input"], w[f"{name}.bias"])
    hidden = cell = torch.zeros_like(x[:1])
    seen = []
    for row in torch.split(inputs, 1):
        hidden, cell = lstm_cell(w, name, row, hidden, cell)
        seen.append(hidden)
    return torch.cat(seen)


def read(w: Tensors, queries: Tensor, keys: Tensor, times: int) -> Tensor:
    """``f [B, W]``: queries' features ``[B, D]`` after reading the keys ``[S, W]`` so many times, each on its own."""
    x = projected(w, queries)
    inputs = F.linear(x, w["query.input"], w["query.bias"])
    hidden, cell = x, torch.zeros_like(x)
    for _ in range(times):
        seen = (hidden @ keys.T).softmax(1) @ keys
        out, cell = lstm_cell(w, "query", inputs, torch.cat([hidden, seen], 1), cell)
        hidden = out + x
    return hidden


def projected(w: Tensors, features: Tensor) -> Tensor:
    """``[B, W]`` of features ``[B, D]``."""
    return F.linear(features, w["project"]) if "project" in w else features


class Attention(nn.Module):
    """``[B, W] -> [B, N]``: the log of the attention that each class's keys get by cosine."""

    keys: Tensor
    member: Tensor

    def __init__(self, keys: Tensor, member: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(keys.detach(), dim=1) * scale)
        self.register_buffer("member", member.detach().clone())

    def forward(self, queries: Tensor) -> Tensor:
        """Log P of ``queries [B, W]``."""
        return log_mixture(F.linear(F.normalize(queries, dim=1), self.keys), self.member)


class Reading(nn.Module):
    """``[B, D] -> [B, W]``: queries' features in the light of a task's examples."""

    def __init__(self, weights: Tensors, keys: Tensor, times: int) -> None:
        super().__init__()
        self.times, self.names = times, tuple(weights)
        for name, t in weights.items():
            self.register_buffer(name.replace(".", "_"), t.clone())
        self.register_buffer("keys", keys.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Read the examples for ``features [B, D]``."""
        weights = {n: self.get_buffer(n.replace(".", "_")) for n in self.names}
        return read(weights, features, self.get_buffer("keys"), self.times)
