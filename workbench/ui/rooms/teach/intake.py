"""Jobs that bring pictures in and labels out; they run on the ``files`` lane and know no Qt."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from workbench.core import paths, storage
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.teach import TeachTask
from workbench.core.values import ImageRef, Problem, ScanResult
from workbench.services import jobs
from workbench.services.requests import Applied, ApplyRequest
from workbench.services.teach import TeachRequest


@dataclass(frozen=True, slots=True)
class Pasted:
    """A picture that came as pixels: RGBA rows, 8 bits each."""

    width: int
    height: int
    rgba: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that came in one folder; ``name`` is the folder's, or "" for loose pictures."""

    name: str
    images: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What was read, in order, and what could not be."""

    groups: tuple[Group, ...]
    problems: tuple[Problem, ...]

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All pictures."""
        return tuple(i for g in self.groups for i in g.images)


class Blobs(Protocol):
    """Keeps pictures that have no file of their own."""

    def add_blob(self, data: bytes, suffix: str) -> Path:
        """Keep them."""


def read(files: tuple[str, ...], pasted: Pasted | None, blobs: Blobs, ctx: Context) -> Found:
    """Read dropped, pasted or chosen files, folders and archives, and a picture that came as pixels."""
    groups: list[Group] = []
    problems: tuple[Problem, ...] = ()
    if files:
        found = jobs.scan(files, ctx)
        groups, problems = _groups(found, files), found.problems
    if pasted is not None:
        from workbench.data.read import image_ref

        ctx.status("Keeping the picture")
        path = blobs.add_blob(_png(pasted), ".png")
        groups.append(Group("", (image_ref(str(path)),)))
    return Found(tuple(groups), tuple(p for p in problems if p.severity != "ignored"))


def _groups(found: ScanResult, files: Sequence[str]) -> list[Group]:
    whole = {os.path.abspath(f) for f in files}  # noqa: PTH100 - resolving would follow links
    out: list[Group] = []
    for task in found.tasks:
        out += [Group(c.name, c.images) for c in task.classes if c.images]
        if task.unlabelled:
            inside = any(task.path == f or task.path.startswith(f.rstrip("/\\") + os.sep) for f in whole)
            out.append(Group(task.name if inside else "", task.unlabelled))
    return out


def _png(picture: Pasted) -> bytes:
    from PIL import Image

    image = Image.frombytes("RGBA", (picture.width, picture.height), picture.rgba)
    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=3)
    return out.getvalue()


@dataclass(frozen=True, slots=True)
class Samples:
    """The sample characters: examples by class and queries."""

    classes: tuple[Group, ...]
    queries: tuple[ImageRef, ...]


def read_samples(ctx: Context) -> Samples:
    """Read ``samples/teach/characters``.

    Raises:
        WorkbenchError: the samples are not there.
    """
    folder = paths.samples() / "teach" / "characters"
    support = jobs.scan((str(folder / "support"),), ctx)
    queries = jobs.scan((str(folder / "query"),), ctx)
    groups = tuple(Group(c.name, c.images) for t in support.tasks for c in t.classes)
    columns = [c.images for t in queries.tasks for c in t.classes]
    # one of each class in turn, so that the first screen shows them all
    longest = max((len(c) for c in columns), default=0)
    mixed = tuple(c[i] for i in range(longest) for c in columns if i < len(c))
    if not groups or not mixed:
        why = f"{paths.display(folder)} holds no pictures"
        raise WorkbenchError("The samples were not opened", why, "Install the workbench again")
    return Samples(groups, mixed)


def save_labels_csv(task: TeachTask, target: str, ctx: Context) -> str:
    """Write everything a person labelled as a CSV."""
    from workbench.project.labels import labels_csv

    ctx.status("Writing the labels")
    storage.save(Path(target), labels_csv(task))
    return target


def save_labels_folders(task: TeachTask, target: str, ctx: Context) -> tuple[int, tuple[Problem, ...]]:
    """Copy everything a person labelled into class folders."""
    from workbench.project.labels import class_folders

    ctx.status("Copying")
    return class_folders(task, Path(target), ctx)


@dataclass(frozen=True, slots=True)
class AppliedBy:
    """Predictions of a folder and the model folder that made them."""

    applied: Applied
    model: str


def apply_to(request: TeachRequest, model: Path, apply: ApplyRequest, project: Path, ctx: Context) -> AppliedBy:
    """Save what is taught as a model, unless that is done, and predict a folder with it."""
    if not model.is_dir():
        ctx.status("Saving what was taught")
        jobs.save_taught(request, project, model, ctx)
    applied = jobs.apply(replace(apply, model=str(model)), project, ctx)
    return AppliedBy(applied, str(model))


def forget_model(model: Path, ctx: Context) -> None:
    """Remove a temporary model folder."""
    ctx.status("Tidying up")
    shutil.rmtree(model, ignore_errors=True)
