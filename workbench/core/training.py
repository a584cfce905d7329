"""Values of a training run: what is asked for, what it gives back, what it shows on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from workbench.core.values import Channels, KnowledgeEntry, RunId, Task

Precision = Literal["full", "bf16"]
"""Of training: 32-bit floats, or convolutions between 16-bit ones."""
Keep = Literal["", "none", "l2", "ewc", "replay"]
"""What a run does so as not to lose what the entry it starts from knew; "" where nothing of that is even measured."""
Align = Literal["", "adabn", "coral", "mmd", "dann"]
"""How knowledge is aligned with an unlabelled target, "" where it is not."""
ALIGNMENTS = {"adabn": "AdaBN", "coral": "CORAL", "mmd": "MMD", "dann": "DANN"}
"""Their names."""
CLOSED_FORMS = ("adabn", "coral")
"""Alignments that need no training."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """Everything a training run needs; captured once, so that a resumed run asks for the same.

    Attributes:
        sources: tasks with role TRAIN are trained on, VALIDATION validates, HELD_OUT is left alone.
        params: overrides of the algorithm's hyperparameters by name.
        ways: classes per episode, from-to.
        shots: examples per class, from-to.
        queries: per class.
        episodes: budget, or ``None`` with ``minutes``.
        minutes: budget, or ``None`` with ``episodes``.
        patience: a phase of training ends after so many validations without a better one; ``None`` = never.
        across_tasks: draw the classes of an episode from all tasks together.
        rotations: add each class turned by 90, 180 and 270 degrees as classes of their own.
        start: id of an entry, or path of a weights file, to start from; "" for none.
        pretrained: use the backbone's pretrained weights.
        device: key, e.g. ``cpu`` or ``cuda:0``.
        command: the command line that asks for the same, for the card.
        precision: of training alone; validation and use are in full precision.
        keep: what is done so as not to lose what the entry ``start`` knew; what was lost is measured.
        keep_strength: of L2 and EWC, ``lam``; ``None`` = the usual one.
        target: tasks of another domain that the entry ``start`` is aligned with; their labels are used for the report
            alone.
        align: how; AdaBN and CORAL without a budget are closed forms, which take all else from the entry.
    """

    sources: tuple[Task, ...]
    algorithm: str = "protonet"
    params: dict[str, Any] = field(default_factory=dict)
    backbone: str = "conv4"
    ways: tuple[int, int] = (5, 5)
    shots: tuple[int, int] = (1, 1)
    queries: int = 15
    episodes: int | None = None
    minutes: float | None = None
    across_tasks: bool = False
    rotations: bool = False
    size: int = 84
    channels: Channels = "rgb"
    start: str = ""
    pretrained: bool = False
    device: str = "cpu"
    seed: int = 0
    name: str = ""
    command: str = ""
    patience: int | None = None
    precision: Precision = "full"
    keep: Keep = ""
    keep_strength: float | None = None
    target: tuple[Task, ...] = ()
    align: Align = ""

    @property
    def closed_form(self) -> bool:
        """Whether this is an alignment without training."""
        return self.align in CLOSED_FORMS and self.episodes is None and self.minutes is None

    def __post_init__(self) -> None:
        if self.align not in get_args(Align):
            raise ValueError(f"{self.align} is not a way to align")
        if self.align == "adabn" and not self.closed_form:
            raise ValueError("AdaBN needs no training: leave out episodes and minutes")
        if not self.closed_form and (self.episodes is None) == (self.minutes is None):
            raise ValueError("a run needs a budget: either episodes or minutes")
        if not 2 <= self.ways[0] <= self.ways[1]:
            raise ValueError("an episode needs at least two ways")
        if not 1 <= self.shots[0] <= self.shots[1]:
            raise ValueError("an episode needs at least one shot")
        if self.queries < 1:
            raise ValueError("an episode needs at least one query per class")
        if self.patience is not None and self.patience < 1:
            raise ValueError("a run needs patience for at least one validation")
        if self.precision not in get_args(Precision):
            raise ValueError(f"{self.precision} is not a precision of training")
        if self.keep not in get_args(Keep):
            raise ValueError(f"{self.keep} is not a way to keep what was known")
        if self.keep_strength is not None and not 0 < self.keep_strength < 1e12:
            raise ValueError("a strength must be positive")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run gives back; ``stopped`` when the person stopped it and the best so far was kept."""

    entry: KnowledgeEntry
    entry_path: str
    run: RunId
    episodes: int
    seconds: float
    stopped: bool


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """One training episode for the gallery: pixels are PNG bytes, row by class.

    Attributes:
        episode: its number.
        task: name of the task it was drawn from, or "all tasks".
        names: names of the classes that are shown.
        support: per class, the PNGs of its examples.
        queries: per class, (PNG, right) of its queries.
        ways: number of classes of the episode, 0 where all are shown.
        right: queries of the whole episode that were answered right, ``None`` where all are shown.
        wrong: those that were not.
    """

    episode: int
    task: str
    names: tuple[str, ...]
    support: tuple[tuple[bytes, ...], ...]
    queries: tuple[tuple[tuple[bytes, bool], ...], ...]
    ways: int = 0
    right: int | None = None
    wrong: int | None = None
