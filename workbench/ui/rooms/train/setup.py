"""What the form asks for: checked against the sources, turned into a request and into a command line. No Qt."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from workbench.core.params import FieldSpec
from workbench.core.paths import display
from workbench.core.training import Keep, Precision, TrainRequest, TrainResult
from workbench.core.values import Channels, KnowledgeEntry, Role, Task
from workbench.services import jobs, overview
from workbench.services.requests import AlgorithmRow, Catalogue, Recommendation
from workbench.ui.values import Towards

Range = tuple[int, int]
Unit = Literal["minutes", "episodes"]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything the setup strip and the form hold.

    Attributes:
        algorithm: key.
        params: overrides by name; only what differs from the default.
        backbone: key.
        size: side of the input, pixels.
        channels: ``grey`` or ``rgb``.
        pretrained: start from the backbone's pretrained weights.
        ways: classes per episode, from-to.
        shots: examples per class, from-to.
        queries: per class.
        across_tasks: draw an episode's classes from all tasks together.
        rotations: turned classes count as classes of their own.
        unit: what the budget counts.
        minutes: of the budget.
        episodes: of the budget.
        seed: of the run.
        device: key.
        precision: of training.
        start: the entry that the run goes on from, ``None`` for none.
        keep: what is done so as not to lose what that knew; "" where there is none.
        towards: another domain that the run is drawn towards while it goes on from the entry, ``None`` for none.
    """

    algorithm: str = "protonet"
    params: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "conv4"
    size: int = 84
    channels: Channels = "rgb"
    pretrained: bool = False
    ways: Range = (5, 5)
    shots: Range = (1, 1)
    queries: int = 15
    across_tasks: bool = False
    rotations: bool = False
    unit: Unit = "minutes"
    minutes: float = 5.0
    episodes: int = 1000
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "full"
    start: KnowledgeEntry | None = None
    keep: Keep = ""
    towards: Towards | None = None


def recommended(setup: Setup, row: Recommendation) -> Setup:
    """The setup with what is recommended; values of the same method stay."""
    return replace(
        setup,
        algorithm=row.algorithm,
        params=setup.params if row.algorithm == setup.algorithm else {},
        backbone=row.backbone,
        size=row.size,
        pretrained=row.pretrained,
        minutes=row.minutes,
    )


def going_on(setup: Setup, entry: KnowledgeEntry, towards: Towards | None = None) -> Setup:
    """The setup whose run goes on from an entry: with its method, network and inputs.

    It is held near what the entry knew, or drawn towards another domain.
    """
    if towards is not None:
        setup = replace(setup, unit="minutes", minutes=towards.minutes)
    return replace(
        setup,
        algorithm=entry.algorithm,
        params=dict(entry.params),
        backbone=_plain(entry.backbone),
        size=entry.preprocess.size,
        channels=entry.preprocess.channels,
        pretrained=False,
        start=entry,
        keep="" if towards is not None else "l2",
        towards=towards,
    )


def from_nothing(setup: Setup) -> Setup:
    """The setup whose run begins with fresh weights."""
    return replace(setup, start=None, keep="", towards=None)


def _plain(backbone: str) -> str:
    """A backbone without the layer that an alignment put behind it (``learn.recoloured.SUFFIX``)."""
    return backbone.removesuffix("+linear")


def count(n: float, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{n:,g} {one if n == 1 else many or one + 's'}" if n < 1000 else f"{n:,.0f} {many or one + 's'}"


def range_words(value: Range, one: str) -> str:
    """For example "5 ways", "1 shot", "5-20 ways"."""
    low, high = value
    return count(low, one) if low == high else f"{low}–{high} {one}s"


def parse_range(text: str, least: int) -> Range:
    """``5`` or ``5-20`` as a pair.

    Raises:
        ValueError: with the reason in words.
    """
    parts = [p.strip() for p in text.replace("–", "-").split("-")]
    if len(parts) > 2 or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError("A number, or two as 5-20")
    low, high = int(parts[0]), int(parts[-1])
    if low < least:
        raise ValueError(f"At least {least}")
    if high < low:
        raise ValueError("The first is larger than the second")
    return low, high


def range_text(value: Range) -> str:
    """The inverse of ``parse_range``."""
    return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"


def used(tasks: Sequence[Task], role: Role) -> list[Task]:
    """Tasks with classes in one role."""
    return [t for t in tasks if t.role is role and t.classes]


def grey_pictures(tasks: Sequence[Task]) -> bool:
    """Whether the sources look like drawings rather than photographs: small pictures of at most 105 pixels."""
    sides = sorted(min(i.width, i.height) for t in used(tasks, Role.TRAIN) for c in t.classes for i in c.images[:8])
    return bool(sides) and sides[len(sides) // 2] <= 105


def reasons(setup: Setup, tasks: Sequence[Task], fields: Sequence[FieldSpec]) -> dict[str, str]:
    """Why it cannot start, by field ("sources", "ways", "shots", "size", "budget" or a hyperparameter's name)."""
    found: dict[str, str] = {}
    train = used(tasks, Role.TRAIN)
    if not train:
        found["sources"] = "No task is there to learn from"
    else:
        found |= _episode_reasons(setup, train)
    if setup.start is not None and setup.backbone != _plain(setup.start.backbone):
        found["backbone"] = f"{display(setup.start.name)} has another backbone"
    if not 8 <= setup.size <= 1024:
        found["size"] = "Between 8 and 1024 pixels"
    if (setup.minutes if setup.unit == "minutes" else setup.episodes) <= 0:
        found["budget"] = "More than nothing"
    for spec in fields:
        reason = field_reason(spec, setup.params.get(spec.name, spec.default))
        if reason:
            found[spec.name] = reason
    return found


def _episode_reasons(setup: Setup, train: Sequence[Task]) -> dict[str, str]:
    """A class needs its examples and one query; with fewer queries than asked for it is asked less."""
    largest = max(len(c.images) for t in train for c in t.classes)
    if setup.shots[0] + 1 > largest:
        return {"shots": f"Largest class: {count(largest, 'image')}"}
    turns = 4 if setup.rotations else 1
    sizes = [sum(len(c.images) > setup.shots[0] for c in t.classes) * turns for t in train]
    classes = sum(sizes) if setup.across_tasks else max(sizes)
    if setup.ways[1] > classes:
        where = "All tasks together" if setup.across_tasks else "Largest task"
        return {"ways": f"{where}: {count(classes, 'class', 'classes')}"}
    return {}


def field_reason(spec: FieldSpec, value: Any) -> str:
    """Why a hyperparameter cannot have this value, or ""."""
    if spec.kind in ("int", "float"):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return "A number is needed"
        if spec.kind == "int" and value != int(value):
            return "A whole number is needed"
        if spec.low is not None and value < spec.low:
            return f"At least {spec.low:g}"
        if spec.high is not None and value > spec.high:
            return f"At most {spec.high:g}"
    if spec.kind == "choice" and value not in spec.choices:
        return f"One of {', '.join(spec.choices)}"
    return ""


def run_of(setup: Setup, tasks: Sequence[Task], project: Path) -> tuple[Callable[..., TrainResult], tuple[Any, ...]]:
    """The job of the run and what it is called with, but for its context.

    Raises:
        ValueError: see :func:`request`.
    """
    asked = request(setup, tasks, "")
    if setup.start is None or setup.towards is None:
        return jobs.train, (asked, project)
    return overview.train_towards, (asked, setup.towards.folder, project)


def request(setup: Setup, tasks: Sequence[Task], name: str) -> TrainRequest:
    """The request that starts the run; the pictures of a domain that it is drawn towards are not read yet.

    Raises:
        ValueError: the setup cannot be asked for (``reasons`` says why beforehand).
    """
    budget = setup.unit == "minutes"
    return TrainRequest(
        sources=tuple(t for t in tasks if t.classes),
        algorithm=setup.algorithm,
        params=dict(setup.params),
        backbone=setup.backbone,
        ways=setup.ways,
        shots=setup.shots,
        queries=setup.queries,
        episodes=None if budget else setup.episodes,
        minutes=setup.minutes if budget else None,
        across_tasks=setup.across_tasks,
        rotations=setup.rotations,
        size=setup.size,
        channels=setup.channels,
        start=setup.start.id if setup.start is not None else "",
        keep=setup.keep if setup.start is not None else "",
        align=setup.towards.how if setup.start is not None and setup.towards is not None else "",
        pretrained=setup.pretrained,
        device=setup.device,
        precision=setup.precision,
        seed=setup.seed,
        name=name,
        command=command(setup, tasks),
    )


def command(setup: Setup, tasks: Sequence[Task]) -> str:
    """The command line that asks for the same run."""
    words = ["workbench", "train", *_folders(used(tasks, Role.TRAIN))]
    words += ["--algorithm", setup.algorithm, "--backbone", setup.backbone]
    words += ["--ways", range_text(setup.ways), "--shots", range_text(setup.shots), "--queries", str(setup.queries)]
    words += ["--minutes", f"{setup.minutes:g}"] if setup.unit == "minutes" else ["--episodes", str(setup.episodes)]
    validation = _folders(used(tasks, Role.VALIDATION))
    words += ["--validation", *validation] if validation else []
    words += ["--rotations"] if setup.rotations else []
    words += ["--across-tasks"] if setup.across_tasks else []
    words += ["--image-size", str(setup.size), "--channels", setup.channels]
    words += ["--pretrained"] if setup.pretrained else []
    if setup.start is not None:
        words += ["--from", setup.start.id, *(["--keep", setup.keep] if setup.keep else [])]
        if setup.towards is not None:
            words += ["--target", display(setup.towards.folder), "--align", setup.towards.how]
    for key, value in setup.params.items():
        words += ["--set", f"{key}={value}"]
    words += ["--precision", setup.precision] if setup.precision != "full" else []
    words += ["--device", setup.device, "--seed", str(setup.seed)]
    return shlex.join(words)


def _folders(tasks: Sequence[Task]) -> list[str]:
    return list(dict.fromkeys(display(t.path) for t in tasks))


def algorithm(setup: Setup, catalogue: Catalogue | None) -> AlgorithmRow | None:
    """The chosen algorithm, once the catalogue is there."""
    rows = catalogue.algorithms if catalogue else ()
    return next((a for a in rows if a.info.key == setup.algorithm), None)


def lacks_weights(setup: Setup, catalogue: Catalogue | None) -> bool:
    """Whether pretrained weights were chosen that are not on this machine."""
    rows = catalogue.backbones if catalogue else ()
    return setup.pretrained and any(b.key == setup.backbone and not b.pretrained_present for b in rows)
