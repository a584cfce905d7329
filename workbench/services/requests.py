"""Torch-free requests and results of the services, for the window and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.core.params import FieldSpec
from workbench.core.values import AlgorithmInfo, ImageRef, Prediction, Problem


@dataclass(frozen=True, slots=True)
class BackboneRow:
    """One backbone as the form shows it.

    Attributes:
        key: the command line's name.
        title: the window's name.
        parameters: number of weights at its recommended input.
        input: "any size, grey or colour" in words.
        recommended_size: pixels.
        pretrained_size: bytes of the pretrained weights' download, or 0 where there are none.
        pretrained_licence: of the weights.
        pretrained_host: where they come from.
        pretrained_present: whether they are on this machine.
    """

    key: str
    title: str
    parameters: int
    input: str
    recommended_size: int
    pretrained_size: int
    pretrained_licence: str
    pretrained_host: str
    pretrained_present: bool


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device and its one-second self-test."""

    key: str
    name: str
    usable: bool
    images_per_second: float
    agrees_with_cpu: bool
    note: str


@dataclass(frozen=True, slots=True)
class AlgorithmRow:
    """One algorithm and the fields of its form."""

    info: AlgorithmInfo
    fields: tuple[FieldSpec, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything the Train form is generated from."""

    algorithms: tuple[AlgorithmRow, ...]
    backbones: tuple[BackboneRow, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One of the recommended choices for these data, with its reason and an estimate of the time in minutes."""

    algorithm: str
    backbone: str
    size: int
    reason: str
    minutes: float
    pretrained: bool


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Export what was taught last (``model`` is a folder that ``adapt`` wrote, or a bundle)."""

    model: str
    format: str
    out: str


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One line of the verification: name, detail in words, figure in words, whether it passed."""

    name: str
    detail: str
    figure: str
    ok: bool


@dataclass(frozen=True, slots=True)
class NearTie:
    """A picture whose two best probabilities differ by less than 1e-3."""

    image: ImageRef
    names: tuple[str, str]
    here: tuple[float, float]
    there: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote and how it was checked.

    Attributes:
        agreement: per checked picture, (best class index here, best probability here, probability of it in the file).
        size: bytes of all files.
    """

    format: str
    files: tuple[str, ...]
    verified: bool
    images_checked: int
    top1_agreement: float
    max_relative_logit_difference: float
    max_probability_difference: float
    near_ties: tuple[NearTie, ...]
    checks: tuple[CheckRow, ...]
    agreement: tuple[tuple[int, float, float], ...]
    size: int
    seconds: float
    folder: str


@dataclass(frozen=True, slots=True)
class AdaptRequest:
    """Adapt knowledge to a folder of class folders and write the model to ``out``.

    ``unlabelled`` names files and folders of pictures that a transductive method may adapt with, together; ``by`` says
    how an automatic choice is made: ``all`` or one of ``teach.WAYS``.
    """

    choice: str
    support: str
    out: str
    seed: int = 0
    device: str = "cpu"
    unlabelled: tuple[str, ...] = ()
    by: str = "all"


@dataclass(frozen=True, slots=True)
class ApplyRequest:
    """Predict a whole folder with a model; write a CSV and, on request, copies sorted into class folders."""

    model: str
    paths: tuple[str, ...]
    csv: str = ""
    copy_to: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    """(sha256, class name) that a person gave: never overwritten."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Predictions of a folder."""

    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    problems: tuple[Problem, ...]
    csv: str
    seconds: float


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """Episodic evaluation of an entry on folders."""

    entry: str
    paths: tuple[str, ...]
    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = 600
    across_tasks: bool = False
    rotations: bool = False
    seed: int = 0
    untrained: bool = False
    held_out_only: bool = False


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation measured; ``per_episode`` allows paired differences."""

    row: dict[str, Any]
    per_episode: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """Several entries on the same frozen episodes.

    Attributes:
        results: one per entry, in the order asked for.
        pairs: ``{a, b, difference, ci95}`` of every two entries: the mean of ``a - b`` over the episodes, and half the
            width of its 95 % interval.
    """

    results: tuple[Evaluated, ...]
    pairs: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """Pictures to be put into groups.

    Attributes:
        images: without labels.
        entry: id, name or path of the knowledge that looks at them, "" for the one whose sources they resemble most.
        count: of groups, 0 for the number that is suggested.
        suggest: look for a number to suggest although one is asked for, which takes longer than the groups.
    """

    images: tuple[ImageRef, ...]
    entry: str = ""
    count: int = 0
    suggest: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that look alike, the most typical first; ``unusual`` has the hashes of those far from the others."""

    images: tuple[ImageRef, ...]
    unusual: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Grouped:
    """Groups of pictures.

    Attributes:
        groups: largest first.
        suggested: how many there seem to be, ``None`` where that was not looked for.
        silhouettes: mean silhouette of every number that was tried.
        entry: whose features were used, "" where nothing is known yet.
        name: of that knowledge.
        left_out: pictures that could not be read.
    """

    groups: tuple[Group, ...]
    suggested: int | None
    silhouettes: dict[int, float]
    entry: str
    name: str
    left_out: int = 0
