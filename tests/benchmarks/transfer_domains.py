"""The domains of the benchmark of transfer, and the networks it chooses among: one ancestor, one descendant per domain.

A domain is a folder with a folder per class, copied out of the data once. All networks are the workbench's own entries,
trained by its own command; ``provenance["ancestor"]`` of each descendant says that they can be mixed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.__main__ import main as workbench
from workbench.core import paths
from workbench.core.context import Context
from workbench.core.values import Preprocess
from workbench.data.episodes import normalise
from workbench.data.scan import scan
from workbench.data.source import Source
from workbench.learn import functional, registry
from workbench.learn.features import batch_size
from workbench.project.library import Library
from workbench.project.runs import list_runs
from workbench.services import knowledge as known
from workbench.services.preparing import load_sources
from workbench.transfer.mixing import Trunk, trunk_of

ANCESTOR = "ancestor"
BACKBONE = "conv4"
LAYERS = {"last": BACKBONE, "previous": f"{BACKBONE}-block3"}
MATERIALS = ("brushed-metal", "corrosion-bloom", "orange-peel", "peeling-paint", "ridges", "weave", "wood-grain")
DEFECTS = ("crack", "dent", "pitting", "rust", "scratch", "stain", "weld-spatter")
_BACKGROUND, _EVALUATION = "omniglot28/omniglot28_background.zip", "omniglot28/omniglot28_evaluation.zip"


@dataclass(frozen=True)
class Domain:
    """Where a domain's pictures come from.

    Attributes:
        name: of the domain, its folder and its entry.
        kind: ``drawings``, ``surfaces`` or ``photos``.
        place: an archive or folder of the data, ``samples/...`` for the repository's own.
        within: the folder within an archive whose folders are the classes.
        classes: those that are taken; (): all.
        every: take one picture of so many.
    """

    name: str
    kind: str
    place: str
    within: str = ""
    classes: tuple[str, ...] = ()
    every: int = 1


BACKGROUND = Domain(ANCESTOR, "drawings", _BACKGROUND, every=80)
"""Some of what the ancestor is trained on, to compare new tasks with; never a target."""
DOMAINS = (
    Domain("angelic", "drawings", _EVALUATION, "Angelic"),
    Domain("kannada", "drawings", _EVALUATION, "Kannada"),
    Domain("mongolian", "drawings", _EVALUATION, "Mongolian"),
    Domain("tengwar", "drawings", _EVALUATION, "Tengwar"),
    Domain("ulog", "drawings", _EVALUATION, "ULOG"),
    Domain("invented", "drawings", "samples/alphabets"),
    Domain("materials", "surfaces", "samples/surfaces", classes=MATERIALS),
    Domain("defects", "surfaces", "samples/surfaces", classes=DEFECTS),
    Domain("clothing", "photos", "clothing10"),
    Domain("signs", "photos", "signdigits10"),
)


@dataclass(frozen=True)
class Scale:
    """How much is spent on what. ``full`` is the benchmark; another one is a try, whose results are not kept.

    Attributes:
        name: of the scale; results say it.
        ancestor: minutes of training by size.
        descendant: the same of each domain's.
        episodes: head-only, per target and number of shots.
        apart: episodes beside those, on which the oracle's recipe and the defaults are chosen.
        tuned: how many of the episodes the fine-tuned arms get.
        tuned_at: by size, at how many shots there are such arms.
        starts: by size, which those arms are; see ``transfer_tuning.starts``.
        domains: by size, which are targets; all have an entry.
        beside: by size, domains that have an entry but are no target.
        shots: ``K``.
    """

    name: str
    ancestor: dict[int, float]
    descendant: dict[int, float]
    episodes: int
    apart: int
    tuned: int
    tuned_at: dict[int, tuple[int, ...]]
    starts: dict[int, tuple[str, ...]]
    domains: dict[int, tuple[str, ...]]
    beside: dict[int, tuple[str, ...]]
    shots: tuple[int, ...] = (1, 2, 5)

    def entries(self, size: int) -> tuple[str, ...]:
        """The descendants at this size."""
        return self.domains[size] + self.beside[size]


_PHOTOS = tuple(d.name for d in DOMAINS if d.kind != "drawings")
_ALL = {28: tuple(d.name for d in DOMAINS), 64: _PHOTOS}
_BESIDE: dict[int, tuple[str, ...]] = {28: (), 64: ("kannada", "invented")}
_SOME = ("kannada", "materials", "signs")
_STARTS = ("default", "uniform", "most similar", "top-k")
SCALES = {
    "full": Scale(
        "full",
        {28: 8, 64: 10},
        {28: 1.2, 64: 2},
        300,
        100,
        60,
        {28: (1, 2, 5), 64: (5,)},
        {28: _STARTS, 64: ("default", "top-k")},
        _ALL,
        _BESIDE,
    ),
    "short": Scale("short", {28: 0.4}, {28: 0.03}, 12, 8, 1, {28: (5,)}, {28: _STARTS}, {28: _SOME}, {28: ()}, (1, 5)),
}


def put_out(domain: Domain, data: Path, samples: Path, root: Path) -> Path:
    """The domain as a folder of classes under ``root``; copied unless it is there already.

    Raises:
        FileNotFoundError: the data lack it.
    """
    target = root / domain.name
    if target.is_dir():
        return target
    place = samples / PurePosixPath(domain.place).name if domain.place.startswith("samples/") else data / domain.place
    part = target.with_name(f".{domain.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name, content in _pictures(domain, place):
        file = part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    if not part.is_dir():
        raise FileNotFoundError(f"{place} holds no pictures of {domain.name}")
    part.rename(target)
    return target


def _pictures(domain: Domain, place: Path) -> Iterator[tuple[str, bytes]]:
    """``class/file`` and content of each picture."""
    if place.suffix == ".zip":
        with zipfile.ZipFile(place) as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".png"))[:: domain.every]:
                parts = PurePosixPath(name).parts
                if len(parts) >= 3 and domain.within in {"", parts[-3]}:
                    yield f"{parts[-2] if domain.within else parts[-3]}/{parts[-1]}", archive.read(name)
        return
    for file in sorted(p for p in place.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg"}):
        label = "-".join(file.relative_to(place).parts[:-1])  # several tasks become one
        if not domain.classes or label in domain.classes:
            yield f"{label}/{file.name}", file.read_bytes()


def train_command(name: str, size: int, scale: Scale, data: str, root: str) -> list[str]:
    """The command that trains the ancestor or a domain's entry."""
    common = ["--algorithm", "protonet", "--backbone", BACKBONE, "--image-size", str(size), "--channels", "rgb"]
    common += ["--queries", "5", "--seed", "0"]
    if name == ANCESTOR:
        # a try makes do with the few pictures that stand for them all
        where = f"{data}/{_BACKGROUND}" if scale.name == "full" else f"{root}/{ANCESTOR}"
        what = ["--across-tasks", "--rotations", "--ways", "20", "--shots", "1-5"]
        minutes = scale.ancestor[size]
    else:
        where, what = f"{root}/{name}", ["--ways", "5", "--shots", "1-5", "--from", f"{ANCESTOR}-{size}"]
        minutes = scale.descendant[size]
    return ["train", where, *common, *what, "--minutes", f"{minutes:g}", "--name", f"{name}-{size}"]


def train(name: str, size: int, scale: Scale, data: Path, root: Path, project: Path) -> None:
    """Train an entry unless it is there; a run that was cut short is taken up where it stopped.

    Raises:
        SystemExit: the command was refused; what it said has been printed.
    """
    library = Library(project)
    for entry in [e for e in library.entries() if e.name == f"{name}-{size}"]:
        if not entry.provenance["stopped"]:
            return
        shutil.rmtree(library.path_of(entry.id))  # it would bear the same name as what the run comes to
    begun = [r for r in list_runs(project) if r.name == f"{name}-{size}" and r.state in {"interrupted", "stopped"}]
    command = ["resume", begun[0].id] if begun else train_command(name, size, scale, str(data), str(root))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = workbench([*command, "--project", str(project), "--json"])
    if code:
        raise SystemExit(f"{' '.join(command)}\nended with {code}: {said.getvalue()}")


@dataclass(frozen=True, eq=False)
class Pictures:
    """A domain's pictures.

    Attributes:
        pixels: ``[n, H, W, C]`` uint8, class after class.
        members: rows of each class.
    """

    pixels: np.ndarray
    members: tuple[np.ndarray, ...]

    def inputs(self, p: Preprocess, rows: Sequence[int] | slice = slice(None)) -> Tensor:
        """Normalised ``[n, C, H, W]``."""
        return normalise(self.pixels[rows], p.mean, p.std)


def read(folder: Path, p: Preprocess) -> Pictures:
    """The pictures of a folder of classes, each once."""
    tasks = scan([str(folder)], Context()).tasks
    (source,) = load_sources(tuple(tasks), p, Context())
    return gathered(source)


def gathered(source: Source) -> Pictures:
    """One array, and which rows are whose."""
    ends = np.cumsum([len(a) for a in source.arrays])
    members = tuple(np.arange(end - len(a), end) for a, end in zip(source.arrays, ends, strict=True))
    return Pictures(np.concatenate([np.asarray(a) for a in source.arrays]), members)


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry of the benchmark's library, as far as it is needed.

    Attributes:
        name: of its domain, or ``ancestor``.
        trunk: its tensors and where they come from.
        preprocess: how pictures become inputs.
        scale: of its own head, before squared distances, over the temperature of its card.
        sources: that it was trained on.
        classes: of all of them.
        validation: accuracy; NaN for none.
    """

    name: str
    trunk: Trunk
    preprocess: Preprocess
    scale: float = 1.0
    sources: int = 1
    classes: int = 5
    validation: float = math.nan


def entries(scale: Scale, size: int, project: Path) -> dict[str, Entry]:
    """The ancestor first, then the descendants.

    Raises:
        WorkbenchError: one is missing or damaged.
        SystemExit: one is not the benchmark's own.
    """
    library, found = Library(project), {}
    for name in (ANCESTOR, *scale.entries(size)):
        card, path = library.find(f"{name}-{size}")
        if not path.is_relative_to(project):
            # what is shipped, or lies in the person's library, may have been trained on what is a target here
            raise SystemExit(f"{name}-{size} lies in {path}, not in the benchmark's project")
        knowledge = known.load(card, path, library)
        tensors = trunk_of(network(size), knowledge.state, name, card.provenance.get("ancestor", ""))
        scale = float(knowledge.state.learned["scale"].exp()) / knowledge.figures["temperature"]
        classes = sum(s.classes for s in card.sources)
        validation = math.nan if card.validation is None else card.validation.accuracy
        found[name] = Entry(name, tensors, card.preprocess, scale, len(card.sources), classes, validation)
    return found


def untrained(p: Preprocess) -> Entry:
    """What transfers nothing."""
    knowledge = known.untrained(p)
    scale = float(knowledge.state.learned["scale"].exp()) / knowledge.figures["temperature"]
    return Entry("", trunk_of(network(p.size), knowledge.state, "", ""), p, scale, 0, 0)


def mark(library: Mapping[str, Entry], *others: object) -> str:
    """Under which measurements of this very library are kept: of networks trained anew they are made anew."""
    networks = [(n, e.trunk.digest, e.scale, e.sources, e.classes) for n, e in library.items()]
    return hashlib.sha256(repr((networks, others)).encode()).hexdigest()[:12]


@cache
def network(size: int, layer: str = "last") -> nn.Module:
    """A skeleton; made once, since each process measures one thing after another."""
    return registry.backbone(LAYERS[layer]).skeleton(3, size)


@torch.no_grad()
def features(trunk: Trunk, size: int, layer: str, x: Tensor) -> Tensor:
    """``[n, D]`` of a trunk's last or last but one block."""
    net = network(size, layer)
    wanted = {n for n, _ in (*net.named_parameters(), *net.named_buffers())}
    frozen = functional.frozen(net, {n: t for n, t in trunk.tensors.items() if n in wanted})
    return torch.cat([frozen(part) for part in torch.split(x, batch_size(x.shape[2], x.shape[3]))])


def place(scale: Scale) -> Path:
    """Where networks and measurements of a scale lie unless told otherwise."""
    return paths.cache_home() / "benchmarks" / "transfer" / scale.name


def provenance(project: Path) -> dict[str, Any]:
    """What was trained: episodes, seconds and validation of every entry."""
    return {
        e.name: {
            "episodes": e.provenance["episodes"],
            "seconds": round(float(e.provenance["seconds"]), 1),
            "validation": None if e.validation is None else round(e.validation.accuracy, 4),
        }
        for e in sorted(Library(project).entries(), key=lambda e: e.name)
    }
