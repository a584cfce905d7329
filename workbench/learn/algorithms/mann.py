"""Memory-augmented network, MANN (Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, arXiv 1605.06065).

Pictures are shown one after another, and the label of each comes *one step late*, with the next picture: at step ``t``
the network is given ``(x_t, y_{t-1})`` and must say what ``x_t`` is. It can be right about a class only from the second
picture on, and only by having kept what the first looked like until its label came. Where to keep it is not learnt into
weights, it is a memory ``M [128, 40]`` beside an LSTM, and reading and writing it is what is learnt.

One step (``h`` and ``c`` are the LSTM's, ``n = 4`` heads, each on its own; ``r`` is what all of them read)::

    h_t, c_t = LSTM([f(x_t), y_{t-1}, r_{t-1}], h_{t-1}, c_{t-1})
    k_t      = tanh(K h_t),  a_t = A h_t                                   a key [40] and a gate of each head
    write    = sigmoid(a_t) read_{t-1} + (1 - sigmoid(a_t)) spare_{t-1}    [128] each
    M_t      = M_{t-1} with its least used row set to 0, + sum over heads of write^T k_t
    read_t   = softmax over rows m of g cos(k_t, M_t(m))                   [128] each
    r_t      = read_t M_t
    used_t   = 0.95 used_{t-1} + sum over heads of read_t + write
    spare_t  = 1 for the n least used rows, else 0
    z_t      = O [h_t, r_t]                                                one logit for each label

(LRUA: new things are written where something was read last, or where nothing was for longest.) Which rows are least
used is no function to be differentiated: ``used`` and ``spare`` count as constants.

What this file chose:

* ``f`` is the trunk, trained with the rest, not the paper's flattened 20 x 20 pixels: any size and channels, and the
  trunk can be handed on. Batch norm takes the statistics of all pictures of a step in training, in use the running
  ones.
* Rows that are used alike count in their order, so that always exactly ``n`` are spare. By the formula with its "at
  most the n-th smallest", all rows of an empty memory would be spare at once, be written alike, and stay alike for
  ever.
* ``g`` is learnt from 10; the paper's is 1, for which there is a switch. With 1 the softmax over 128 rows is almost
  flat whatever the cosines, and what is read is the mean of all rows: on random codes of 3 classes nothing was learnt
  in 600 steps, where from 7 it was within 450.
* The cosine's lengths are ``sqrt(|v|^2 + 1e-6)``, so that an empty row is like nothing and has a derivative.
* An output stands for a *label*, of which there are as many as the largest number of ways in training. Each sequence's
  classes are given labels at random, also where it has fewer classes than labels, so no class can be learnt by heart.

In use: **no more classes than in training**, fewer are fine; more are refused. The examples are shown once, in an order
drawn from the seed, and their labels are drawn from it too, as in training; the last example's label arrives with the
query. So the answers depend on order and seed, which the tags say. What is kept is the memory behind the last example;
each query is one step from there, on a memory of its own: it is not taken in, and no query sees another. Exported is
that one step, the memory being a constant.

Mistakes that are easily made here, and not made: a label given together with its own picture (everything is right, and
nothing is learnt); labels that are the same in all episodes; a memory that is not emptied between them; a softmax over
heads instead of rows; a gradient through what is least used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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
    SourceSummary,
    State,
    StepResult,
    Tensors,
    generator,
)

if TYPE_CHECKING:
    from workbench.data.episodes import Sequences

START = 10.0
"""The factor before the cosine at first, where it is learnt."""
_PRESENTATIONS = {1: "1st", 2: "2nd", 5: "5th"}
_EMPTY = 1e-6


class Held(NamedTuple):
    """What is carried from step to step, for ``B`` sequences: ``memory [B, m, c]``, the LSTM's ``hidden [B, H]`` and
    ``cell [B, H]``, what was ``read [B, n * c]``, from where (``weights [B, n, m]``), and how much each row is ``used
    [B, m]``.
    """

    memory: Tensor
    hidden: Tensor
    cell: Tensor
    read: Tensor
    weights: Tensor
    used: Tensor


class Spare(NamedTuple):
    """Rows to write to, ``[B, m]`` of 0 and 1: the ``n`` least ``used``, and the very ``least``, which is emptied."""

    used: Tensor
    least: Tensor


@registry.register
class MANN(forms.FittedHead):
    """An LSTM with a memory that is shown one example after another; see the module."""

    info: ClassVar[AlgorithmInfo] = AlgorithmInfo(
        key="mann",
        title="Memory-augmented network (MANN)",
        family="memory",
        paper="Santoro et al. 2016, arXiv 1605.06065",
        summary="Is shown one example after another and remembers them; takes at most as many classes as in training.",
        tags=frozenset({"trains", "cacheable", "order-dependent", "stochastic"}),
    )

    @dataclass(frozen=True, slots=True)
    class Params:
        """Hyperparameters."""

        lr: float = forms.learning_rate()
        tasks: int = param(16, low=1, high=64, step=1, title="Sequences per step", help="Episodes read side by side.")
        controller: int = param(200, low=8, high=2048, step=8, help="Size of the LSTM's state.")
        rows: int = param(128, low=4, high=4096, step=8, help="Rows of the memory.")
        width: int = param(40, low=2, high=1024, step=2, help="Numbers in a row of the memory.")
        heads: int = param(4, low=1, high=16, step=1, help="Keys that are looked up in the memory at once.")
        decay: float = param(0.95, low=0.0, high=1.0, step=0.01, help="What is left of a row's use after a step.")
        sharpness: str = param(
            "learned", choices=("learned", "one"), help="The factor before the cosine: learnt, or 1."
        )

    p: Params

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:  # noqa: ARG002 - the same for all sources
        """One phase of sequences."""
        frozen = ("sharpness",) if self.p.sharpness == "one" else ()
        return (
            Phase("sequences", "sequences", tasks_per_step=self.p.tasks, lr={"": self.p.lr}, frozen=frozen, clip=10.0),
        )

    def init(self, gen: Generator) -> State:
        """Trunk (fresh or pretrained), ``controller.*``, ``key.*``, ``gate.*``, ``answer.*``, ``sharpness`` = log g."""
        trunk, buffers = functional.start(self.network, gen, self.setting.weights)
        p, labels = self.p, self.setting.ways
        learned = functional.named(trunk)
        inputs = {"features": self.features, "label": labels, "read": p.heads * p.width, "hidden": p.controller}
        for name, columns in inputs.items():
            learned[f"controller.{name}"] = _uniform(4 * p.controller, columns, gen)
        learned["controller.bias"] = torch.zeros(4 * p.controller, device=gen.device)
        learned["controller.bias"][p.controller : 2 * p.controller] = 1.0  # an LSTM that remembers learns sooner
        outputs = {
            "key": (p.heads * p.width, p.controller),
            "gate": (p.heads, p.controller),
            "answer": (labels, p.controller + p.heads * p.width),
        }
        for name, (rows, columns) in outputs.items():
            learned[f"{name}.weight"] = _uniform(rows, columns, gen)
            learned[f"{name}.bias"] = torch.zeros(rows, device=gen.device)
        sharpness = START if p.sharpness == "learned" else 1.0
        learned["sharpness"] = torch.tensor(math.log(sharpness), device=gen.device)
        return State(learned, functional.named(buffers))

    def step(self, s: State, batch: Sequences, at: At, ctx: Context) -> StepResult:
        """Mean cross entropy over all pictures of all sequences; accuracy also by how often a class was seen."""
        ctx.check()
        gen = generator(ctx.seed_for(f"mann/{at.phase}/{at.step}"))
        most = most_ways(s.learned)
        y = relabelled(batch.y, most, gen)
        with norm.batch_statistics() as statistics:
            features = functional.call(self.network, functional.under(s.learned), {}, batch.x.flatten(0, 1))
        logits, _ = self.read(s.learned, features.reshape(*y.shape, -1), y, ctx)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        right = (logits.detach().argmax(2) == y).float()
        seen = presentations(y, most)
        metrics = {"loss": float(loss.detach()), "accuracy": float(right.mean())}
        for n, name in _PRESENTATIONS.items():
            if bool((seen == n).any()):
                metrics[f"accuracy {name}"] = float(right[seen == n].mean())
        buffers = norm.running_average(functional.under(s.memory), statistics)
        return StepResult(loss=loss, memory=functional.named(buffers), metrics=metrics)

    def read(self, learned: Tensors, features: Tensor, y: Tensor, ctx: Context) -> tuple[Tensor, Held]:
        """Show sequences from an empty memory: logits ``[T, B, labels]``, and what is held behind the last picture.

        Args:
            learned: of the state.
            features: ``[T, B, D]``.
            y: the pictures' labels ``[T, B]``; the last ones are not shown.
            ctx: checked before each step.
        """
        p = self.p
        given, w = shown(learned, features, late_labels(y, most_ways(learned), features)), joined(learned)
        held = empty(features.shape[1], p.rows, p.width, p.heads, p.controller, features)
        hidden, reads = [], []
        for now in given.unbind():
            ctx.check()
            held = step(w, held, spare_rows(held.used, p.heads), now, p.decay)
            hidden.append(held.hidden)
            reads.append(held.read)
        return answers(learned, torch.stack(hidden), torch.stack(reads)), held

    def fit(self, s: State, features: Tensor, y: Tensor, ways: int, ctx: Context) -> Tensors:
        """Show the examples, each label one step late: what is then held, the ``last`` label, and the classes' labels.

        Raises:
            WorkbenchError: more classes than in training.
        """
        most = most_ways(s.learned)
        if ways > most:
            raise WorkbenchError(
                "The task cannot be adapted to",
                f"it has {ways} classes and this knowledge was trained to remember at most {most}",
                "Use other knowledge, or ask for no more than that number of classes",
            )
        gen = generator(ctx.seed_for("mann/showing"))
        labels = torch.randperm(most, generator=gen)[:ways].to(y)
        order = torch.randperm(len(y), generator=gen).to(y)
        y = labels[y[order]]
        _, held = self.read(s.learned, features[order][:, None], y[:, None], ctx)
        last = heads.one_hot(y[-1:], most, features)[0]
        kept = {name: t[0].contiguous() for name, t in held._asdict().items()}
        return {**kept, "last": last, "labels": labels}

    def head(self, s: State, a: Adapted) -> nn.Module:
        """One step from what is held."""
        own = {n: t.detach() for n, t in s.learned.items() if not n.startswith(functional.TRUNK)}
        held = Held(**{name: a.tensors[name][None] for name in Held._fields})
        return QueryStep(own, held, a.tensors["last"][None], a.tensors["labels"], self.p.heads)


# ---- labels ------------------------------------------------------------------------------------------------------


def most_ways(learned: Tensors) -> int:
    """As many labels as there are outputs."""
    return len(learned["answer.bias"])


def relabelled(y: Tensor, labels: int, gen: Generator) -> Tensor:
    """``[T, B]``: each sequence's classes ``y`` under labels drawn for it, of ``labels`` that there are."""
    drawn = torch.argsort(torch.rand(y.shape[1], labels, generator=gen), dim=1).to(y)
    return drawn.gather(1, y.T).T


def late_labels(y: Tensor, labels: int, like: Tensor) -> Tensor:
    """``[T, B, labels]``: what comes with each picture, the label of the one before; nothing with the first."""
    shown = heads.one_hot(y, labels, like)
    return torch.cat([torch.zeros_like(shown[:1]), shown[:-1]])


def presentations(y: Tensor, labels: int) -> Tensor:
    """``[T, B]``: the how-manieth picture of its class each is, from 1."""
    return F.one_hot(y, labels).cumsum(0).gather(2, y[..., None])[..., 0]


# ---- one step ----------------------------------------------------------------------------------------------------


def empty(batch: int, rows: int, width: int, heads_: int, controller: int, like: Tensor) -> Held:
    """Nothing held: all zero."""
    shapes = ((rows, width), (controller,), (controller,), (heads_ * width,), (heads_, rows), (rows,))
    return Held(*(like.new_zeros(batch, *shape) for shape in shapes))


def spare_rows(used: Tensor, count: int) -> Spare:
    """The ``count`` least used rows of ``used [B, m]``; of equal ones the first. Carries no gradient."""
    order = torch.argsort(used.detach(), dim=1, stable=True)
    nothing = torch.zeros_like(used.detach())
    return Spare(nothing.scatter(1, order[:, :count], 1.0), nothing.scatter(1, order[:, :1], 1.0))


class Joined(NamedTuple):
    """Weights that a step multiplies one thing by: its ``gates [4 H, n c + H]`` by what was read and the hidden state,
    its ``outputs [n c + n, H]`` and their ``bias``, keys and write gates, by the hidden state; and ``g``.
    """

    gates: Tensor
    outputs: Tensor
    bias: Tensor
    sharpness: Tensor


def joined(w: Tensors) -> Joined:
    """Once for all steps, so that each weight's gradient is summed up over them in one place."""
    return Joined(
        torch.cat([w["controller.read"], w["controller.hidden"]], 1),
        torch.cat([w["key.weight"], w["gate.weight"]]),
        torch.cat([w["key.bias"], w["gate.bias"]]),
        w["sharpness"].exp(),
    )


def shown(w: Tensors, x: Tensor, label: Tensor) -> Tensor:
    """``[..., 4 H]``: what features ``x [..., D]`` and the labels before them ``[..., labels]`` give the gates.

    None of it depends on what is held: it is computed for all steps together.
    """
    return F.linear(x, w["controller.features"], w["controller.bias"]) + F.linear(label, w["controller.label"])


def answers(w: Tensors, hidden: Tensor, read: Tensor) -> Tensor:
    """Logits ``[..., labels]``, on which no later step depends: for all steps together likewise."""
    return F.linear(torch.cat([hidden, read], -1), w["answer.weight"], w["answer.bias"])


def step(w: Joined, held: Held, spare: Spare, given: Tensor, decay: float) -> Held:
    """What is held after one step, for pictures that ``given [B, 4 H]`` of :func:`shown` stands for.

    What is held before may be that of one sequence (``B = 1``) for all pictures: they are then asked about one by one.
    """
    hidden, cell = controller(w, held, given)
    n, width = held.weights.shape[1], held.memory.shape[2]
    out = F.linear(hidden, w.outputs, w.bias)
    key = out[:, : n * width].tanh().reshape(-1, n, width)
    gate = out[:, n * width :].sigmoid()[:, :, None]
    write = gate * held.weights + (1 - gate) * spare.used[:, None]
    memory = held.memory * (1 - spare.least)[:, :, None] + write.transpose(1, 2) @ key
    weights = (w.sharpness * cosine(key, memory)).softmax(2)
    read = (weights @ memory).flatten(1)
    used = decay * held.used + (weights + write).sum(1).detach()
    return Held(memory, hidden, cell, read, weights, used)


def controller(w: Joined, held: Held, given: Tensor) -> tuple[Tensor, Tensor]:
    """The LSTM's hidden state and cell ``[B, H]``; its gates are laid out input, forget, candidate, output."""
    i, f, g, o = (given + F.linear(torch.cat([held.read, held.hidden], 1), w.gates)).chunk(4, 1)
    cell = f.sigmoid() * held.cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def cosine(key: Tensor, memory: Tensor) -> Tensor:
    """``[B, n, m]``: of keys ``[B, n, c]`` and rows ``[B, m, c]``; 0 for an empty row."""
    length = (key.square().sum(2) + _EMPTY).sqrt()[:, :, None] * (memory.square().sum(2) + _EMPTY).sqrt()[:, None]
    return key @ memory.transpose(1, 2) / length


class QueryStep(nn.Module):
    """``[B, D] -> [B, N]``: what the network says to each picture right behind the examples."""

    def __init__(self, w: Tensors, held: Held, last: Tensor, labels: Tensor, heads_: int) -> None:
        super().__init__()
        self.names = tuple(w)
        for i, t in enumerate(w.values()):
            self.register_buffer(f"weight{i}", t.clone())
        spare = spare_rows(held.used, heads_)
        for name, t in {**held._asdict(), "spare": spare.used, "least": spare.least, "last": last}.items():
            self.register_buffer(name, t.detach().clone())
        self.register_buffer("labels", labels.clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits of ``features [B, D]``."""
        w = {name: self.get_buffer(f"weight{i}") for i, name in enumerate(self.names)}
        held = Held(*(self.get_buffer(name) for name in Held._fields))
        spare = Spare(self.get_buffer("spare"), self.get_buffer("least"))
        now = step(joined(w), held, spare, shown(w, features, self.get_buffer("last")), 1.0)
        return answers(w, now.hidden, now.read)[:, self.get_buffer("labels")]


def _uniform(rows: int, columns: int, gen: Generator) -> Tensor:
    return (2 * torch.rand(rows, columns, generator=gen, device=gen.device) - 1) / math.sqrt(columns)
