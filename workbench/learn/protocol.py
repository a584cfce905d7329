"""What every algorithm is: a bound, immutable object of pure functions over a ``State`` of tensors.

An algorithm is built once per run from its hyperparameters and its ``Setting``; it owns the *structure* of its networks
(module skeletons whose own parameters are never used) and no tensors that change. All that changes is in the ``State``
that the engine hands in and gets back. So a checkpoint is one safetensors file, ``adapt`` cannot leave traces, and
predicting twice is equal. (Binding hyperparameters and setting at construction replaces passing both to every
function.)

All inputs ``x`` are normalised float32 ``[B, C, H, W]``; mean and std are applied before (data) or outside (export).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from workbench.core.context import Context
from workbench.core.values import AlgorithmInfo

Tensors = dict[str, Tensor]
Stream = Literal["episodes", "batches", "sequences", "per_source", "mixed"]


class State(NamedTuple):
    """What training changes: ``learned`` by the outer optimiser, ``memory`` by the step itself."""

    learned: Tensors
    memory: Tensors


@dataclass(frozen=True, slots=True)
class Setting:
    """What an algorithm is built for.

    Attributes:
        backbone: key of the registry.
        channels: 1 or 3.
        size: side of the input, pixels.
        ways: classes per training episode, largest.
        classes_per_source: number of classes of each source, for supervised phases.
        weights: pretrained backbone tensors by name, or ``None``.
    """

    backbone: str
    channels: int
    size: int
    ways: int = 5
    classes_per_source: tuple[int, ...] = ()
    weights: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Support:
    """The labelled examples of a task.

    Attributes:
        x: ``[S, C, H, W]`` normalised.
        y: ``[S]`` int64 in ``0..ways-1``, every class at least once.
        ways: number of classes.
        features: ``[S, D]`` what ``trunk`` gives for ``x``, where cached; cacheable algorithms then do not touch ``x``.
    """

    x: Tensor
    y: Tensor
    ways: int
    features: Tensor | None = None

    def __post_init__(self) -> None:
        if self.y.ndim != 1 or self.y.numel() != self.x.shape[0]:
            raise ValueError("one label per support image")
        if torch.unique(self.y).numel() != self.ways or int(self.y.min()) < 0 or int(self.y.max()) != self.ways - 1:
            raise ValueError("every class of the support set needs an image, numbered from 0")


class Adapted(NamedTuple):
    """What adapting to a support set gave: tensors by name (saved with the model) and the number of classes."""

    tensors: Tensors
    ways: int


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of training.

    Attributes:
        name: for people and logs.
        stream: what kind of batch it consumes.
        share: part of the whole budget, all phases add to 1.
        tasks_per_step: episodes per outer step.
        batch_size: pictures per outer step of the supervised streams; such a step counts as one episode of the budget.
        optimiser: ``adam``, or ``sgd`` (plain, no momentum) for methods whose ``grads`` are already the step to take.
        lr: outer learning rate, by prefix of the learned name ("" matches all; the longest prefix counts).
        weight_decay: of the optimiser.
        schedule: ``constant``, ``cosine`` (to 0 at the phase's end) or ``halve`` (halved at each tenth of the phase).
        frozen: prefixes of learned names that are not stepped.
        clip: largest gradient norm, or ``None``.
        labelled: pictures of a supervised batch that comes with the episodes of each step, for methods trained on both
            at once; it costs nothing of the budget.
        kept: whether a state of this phase may be what the run is remembered by. Otherwise it is validated on the way
            for people to see, and a later phase has the say.
    """

    name: str
    stream: Stream = "episodes"
    share: float = 1.0
    tasks_per_step: int = 1
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: Mapping[str, float] = field(default_factory=lambda: {"": 1e-3})
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "halve"] = "cosine"
    frozen: tuple[str, ...] = ()
    clip: float | None = None
    batch_size: int = 64
    labelled: int = 0
    kept: bool = True


class At(NamedTuple):
    """Where in training a step stands: phase, outer step of the run, fraction of the phase's budget used (0..1)."""

    phase: str
    step: int
    fraction: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one outer step gives: exactly one of ``loss`` (the engine calls backward) and ``grads``.

    Attributes:
        loss: scalar with a graph, mean over the tasks of the step.
        grads: by learned name; the optimiser steps against them.
        memory: replaces the state's memory, or ``None`` to keep it.
        metrics: plain numbers; ``loss`` and ``accuracy`` are always among them.
        correct: ``[Q]`` bool of the first task's queries, for the gallery, or ``None``; or what finds it, where that
            takes passes of its own: most steps are not shown.
    """

    loss: Tensor | None = None
    grads: Tensors | None = None
    memory: Tensors | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    correct: Tensor | Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.grads is None):
            raise ValueError("a step gives either a loss or gradients")

    def shown(self) -> Tensor | None:
        """``correct``, found now where that was put off."""
        return self.correct() if callable(self.correct) else self.correct


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What an algorithm may know of its sources when it plans its phases."""

    classes_per_source: tuple[int, ...]
    images: int


OnStep = Callable[[int, "Adapted"], None]


class Algorithm(Protocol):
    """The whole catalogue fits this shape, and nothing asks for a base class.

    ``learn/forms.py`` has what many methods share; ``learn/algorithms/protonet.py`` is the example to follow.
    """

    info: ClassVar[AlgorithmInfo]
    Params: ClassVar[type]
    p: Any
    setting: Setting

    def __init__(self, p: Any, setting: Setting) -> None: ...

    def phases(self, sources: SourceSummary) -> tuple[Phase, ...]:
        """The phases of training; () = nothing to train."""
        ...

    def init(self, gen: Generator) -> State:
        """Fresh state, drawn from ``gen`` alone."""
        ...

    def step(self, s: State, batch: Any, at: At, ctx: Context) -> StepResult:
        """One outer step on ``batch`` (see ``data.episodes.Batch``). Calls ``ctx.check()`` between inner steps."""
        ...

    def finish(self, s: State, phase: Phase, ctx: Context) -> State:
        """After a phase: average, fold, drop a head. Default: ``s``.

        Also asked of states in the midst of a phase, which are validated and may be kept; the phase goes on without it.
        """
        ...

    def adapt(
        self,
        s: State,
        support: Support,
        ctx: Context,
        *,
        unlabelled: Tensor | None = None,
        on_step: OnStep | None = None,
    ) -> Adapted:
        """Adapt to a new task. Leaves ``s`` as it is; ``on_step(j, adapted)`` after each inner step, 0 = before.

        ``unlabelled`` comes to transductive algorithms alone: pictures ``[Q, C, H, W]``, or ``[Q, D]`` what ``trunk``
        gives for them where the support set comes with features too.
        """
        ...

    def logits(self, s: State, a: Adapted, x: Tensor) -> Tensor:
        """``[B, N]``; pure."""
        ...

    def embed(self, s: State, a: Adapted, x: Tensor) -> Tensor | None:
        """``[B, D]`` for neighbours, map and rejection."""
        ...

    def trunk(self, s: State) -> nn.Module | None:
        """For cacheable algorithms what no support set changes, ``[B,C,H,W] -> [B,D]``; else ``None``."""
        ...

    def head(self, s: State, a: Adapted) -> nn.Module:
        """The part behind the trunk, ``[B, D] -> [B, N]``: what cached features go into; cheap to make."""
        ...

    def deploy(self, s: State, a: Adapted) -> Deployed:
        """The adapted network as a plain module in eval mode, folded; all that prediction and export see."""
        ...


class Deployed(nn.Module):
    """An adapted network: ``trunk`` ``[B,C,H,W] -> [B,D]`` and ``head`` ``[B,D] -> [B,N]`` logits.

    For cacheable algorithms ``trunk`` equals ``Algorithm.trunk``, so cached features go straight into ``head``.
    The trunk's output is the embedding that neighbours and rejection are measured in.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[B, N]`` and embedding ``[B, D]`` of normalised pictures ``[B, C, H, W]``."""
        embedding = self.trunk(x)
        return self.head(embedding), embedding


def detach(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors outside any graph."""
    return {name: t.detach() for name, t in tensors.items()}


def generator(seed: int, device: str | torch.device = "cpu") -> Generator:
    """A generator of its own for one purpose; the global one is never seeded."""
    return torch.Generator(device=device).manual_seed(seed % (1 << 63))
