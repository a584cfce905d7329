"""The values that flow through the house. Frozen, torch-free, checked where they are built.

folder -> ``ScanResult`` (``Task`` of ``ImageRef``) -> training -> ``KnowledgeEntry``;
``Task`` of a few examples -> ranked ``Candidate`` -> ``AdaptedModel`` on disk -> ``Prediction``.
"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NewType

TaskId = NewType("TaskId", str)
EntryId = NewType("EntryId", str)
RunId = NewType("RunId", str)
ClassId = NewType("ClassId", str)

Channels = Literal["grey", "rgb"]
Severity = Literal["error", "warning", "ignored"]


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
