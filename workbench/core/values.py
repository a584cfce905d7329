"""The values that flow through the house. Frozen, torch-free, checked where they are built.

folder -> ``ScanResult`` (``Task`` of ``ImageRef``) -> training -> ``KnowledgeEntry``;
``Task`` of a few examples -> ranked ``Candidate`` -> ``AdaptedModel`` on disk -> ``Prediction``.
"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NewType, get_args

TaskId = NewType("TaskId", str)
EntryId = NewType("EntryId", str)
RunId = NewType("RunId", str)
ClassId = NewType("ClassId", str)

Channels = Literal["grey", "rgb"]
Severity = Literal["error", "warning", "ignored"]
Precision = Literal["full", "bf16"]
"""Of training: 32-bit floats, or convolutions between 16-bit ones."""
Keep = Literal["", "none", "l2", "ewc", "replay"]
"""What a run does so as not to lose what the entry it starts from knew; "" where nothing of that is even measured."""
Align = Literal["", "adabn", "coral", "mmd", "dann"]
"""How knowledge is aligned with an unlabelled target, "" where it is not."""
CLOSED_FORMS = ("adabn", "coral")
"""Alignments that need no training."""


class Role(enum.StrEnum):
    """What a task is used for."""

    TRAIN = "meta-train"
    VALIDATION = "meta-validation"
    HELD_OUT = "held out"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One picture; its identity is the hash of its content.

    Attributes:
        path: the file, or the zip archive that holds it (the file system's string, may hold surrogates).
        member: name inside the archive, or "" for a plain file.
        sha256: hex digest of the encoded file's bytes.
        size: bytes.
        width: pixels, after turning it upright.
        height: pixels, after turning it upright.
    """

    path: str
    member: str
    sha256: str
    size: int
    width: int
    height: int

    @property
    def name(self) -> str:
        """The file's own name."""
        return (self.member or self.path).replace("\\", "/").rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True)
class TaskClass:
    """A class: its name and its labelled pictures, in order."""

    name: str
    images: tuple[ImageRef, ...]
    id: ClassId = ClassId("")


@dataclass(frozen=True, slots=True)
class Task:
    """A source folder or a new task of the user: ordered classes, labelled and unlabelled pictures.

    Raises:
        ValueError: two classes share a name.
    """

    id: TaskId
    name: str
    path: str
    classes: tuple[TaskClass, ...]
    unlabelled: tuple[ImageRef, ...] = ()
    role: Role = Role.TRAIN

    def __post_init__(self) -> None:
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"task {self.name!r} names a class twice")

    @property
    def images(self) -> int:
        """Number of labelled pictures."""
        return sum(len(c.images) for c in self.classes)

    @property
    def fingerprint(self) -> str:
        """Hash of the class names and of the pictures' contents, in order."""
        h = hashlib.sha256()
        for c in self.classes:
            h.update(b"\0class\0" + c.name.encode("utf-8", "surrogateescape"))
            for image in c.images:
                h.update(image.sha256.encode())
        for image in self.unlabelled:
            h.update(b"\0u" + image.sha256.encode())
        return h.hexdigest()

    def with_role(self, role: Role) -> Task:
        """The same task in another role."""
        return replace(self, role=role)


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was looked at and not taken (or taken with a remark), and why."""

    path: str
    reason: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan found."""

    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How a picture becomes a tensor; the same value in training, adapting, predicting and the exported file.

    Attributes:
        size: side of the square input, pixels.
        channels: ``grey`` (1) or ``rgb`` (3).
        fit: ``crop`` scales the short side and cuts the centre, ``stretch`` scales both sides, ``pad`` scales the long
            side and fills with the border's median colour.
        resample: Pillow's filter, ``box``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean: per channel, of inputs in 0..1; subtracted inside the network's graph.
        std: per channel; divides inside the network's graph.
    """

    size: int = 84
    channels: Channels = "rgb"
    fit: Literal["crop", "stretch", "pad"] = "crop"
    resample: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024:
            raise ValueError(f"image size {self.size} is not between 8 and 1024")
        if len(self.mean) != self.depth or len(self.std) != self.depth:
            raise ValueError(f"{self.channels} pictures need {self.depth} means and standard deviations")
        if min(self.std) <= 0:
            raise ValueError("a standard deviation must be positive")

    @property
    def depth(self) -> int:
        """Number of channels of the tensor."""
        return 1 if self.channels == "grey" else 3

    @property
    def pixel_digest(self) -> str:
        """Hash of everything that decides the 8-bit pixels (not mean and std)."""
        text = json.dumps([self.size, self.channels, self.fit, self.resample, 1])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def digest(self) -> str:
        """Hash of the whole value."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class AlgorithmInfo:
    """What a person and the rest of the house know of an algorithm.

    Attributes:
        key: the command line's name.
        title: the window's name.
        family: optimisation, metric, memory, parameter generation, transfer baseline ...
        paper: authors, year, title or arXiv number.
        summary: one line, for people.
        tags: of trains, gradient-based, any-way, transductive, cacheable, stochastic, order-dependent,
            needs-pretrained.
    """

    key: str
    title: str
    family: str
    paper: str
    summary: str
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """One source that an entry was trained on; ``class_names`` of its classes, () where they are not known."""

    name: str
    path: str
    classes: int
    images: int
    fingerprint: str
    class_names: tuple[str, ...] = ()


FEWEST_EPISODES = 10
"""Of fewer episodes 1.96 standard errors are no 95 % interval: with two of them it would take 12.7."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Accuracy on validation episodes; ``kind`` says whether classes or images were held out."""

    kind: Literal["classes", "images"]
    accuracy: float
    ci95: float
    episodes: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % interval within 0..1, or ``None`` where the episodes were too few, or all alike."""
        if not has_interval(self.ci95, self.episodes):
            return None
        return max(0.0, self.accuracy - self.ci95), min(1.0, self.accuracy + self.ci95)


def has_interval(ci95: float, episodes: int) -> bool:
    """Whether half a width says anything: there were enough episodes, and they were not all alike."""
    return episodes >= FEWEST_EPISODES and ci95 > 0


@dataclass(frozen=True, slots=True)
class KnowledgeEntry:
    """What a training run left behind; immutable once saved.

    Its tensors lie beside it in ``weights.safetensors``: ``learned.*``, ``memory.*``, and per source ``i``
    ``source.i.mean [D]`` and ``source.i.covariance [D, D]`` of the features under its own trunk, ``probe.i.*`` and
    ``metafeatures.i`` of the same under the shipped probe, and ``base.prototypes [C, D]``, float16, the mean feature of
    each class of all sources, where they are few enough.

    Attributes:
        id: short hash-like id, also the folder's name.
        name: for people, e.g. "ProtoNet on alphabets".
        algorithm: key.
        params: hyperparameters by name.
        backbone: key.
        preprocess: how pictures become inputs.
        ways: classes per training episode, from-to.
        shots: examples per class in training, from-to.
        sources: what it was trained on.
        validation: of the kept state.
        weights_sha256: of ``weights.safetensors``.
        created: ISO 8601, UTC.
        calibration: ``temperature`` and the ``reject_*`` figures fitted on validation episodes.
        provenance: seed, episodes, seconds, device, versions, command, across_tasks, rotations, fingerprints.
    """

    id: EntryId
    name: str
    algorithm: str
    params: dict[str, Any]
    backbone: str
    preprocess: Preprocess
    ways: tuple[int, int]
    shots: tuple[int, int]
    sources: tuple[SourceInfo, ...]
    validation: Validation | None
    weights_sha256: str
    created: str
    calibration: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One piece of knowledge considered for a new task, or the branch that transfers nothing.

    Attributes:
        entry: id, or ``None`` for "no transfer" (an untrained network).
        name: for people.
        nearest_source: name of the most similar source of the entry, or "".
        similarity: 0..1 to that source, or ``None``.
        loss: leave-one-out log-loss on the examples, nats, or ``None`` at one example per class.
        weight: share of the choice, all candidates add to 1.
        chosen: whether it is used.
        words: what is made of it, e.g. "ridge head"; "" where it is used as it was trained.
    """

    entry: EntryId | None
    name: str
    nearest_source: str
    similarity: float | None
    loss: float | None
    weight: float
    chosen: bool
    words: str = ""

    @property
    def title(self) -> str:
        """Name and what is made of it, e.g. "ProtoNet on alphabets, ridge head"."""
        return f"{self.name}, {self.words}" if self.words else self.name


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated accuracy with its 95 % interval and how it was obtained."""

    accuracy: float
    low: float
    high: float
    how: str


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A support image near a query: index of the class, the image, the distance in feature space."""

    class_index: int
    image: ImageRef
    distance: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one picture.

    Attributes:
        image: the picture.
        probabilities: one per class, in the task's order; together with ``none`` they add to 1.
        none: probability of "none of these".
        rejected: whether "none of these" is the answer.
        nearest: the nearest support images, nearest first.
    """

    image: ImageRef
    probabilities: tuple[float, ...]
    none: float
    rejected: bool
    nearest: tuple[Neighbour, ...]

    @property
    def best(self) -> int:
        """Index of the most probable class."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


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
