"""Predict pictures and folders with a taught model; a CSV, and copies sorted into class folders, on request."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.paths import display
from workbench.core.values import ImageRef, Prediction, Problem
from workbench.data.read import image_ref, read_bytes
from workbench.data.scan import scan
from workbench.project.labels import safe_cell
from workbench.services.answers import predict
from workbench.services.knowledge import feature_cache
from workbench.services.models import OpenModel, open_model
from workbench.services.requests import Applied, ApplyRequest

_AT_ONCE = 64
NONE_OF_THESE = "none of these"


@dataclass(frozen=True, slots=True)
class Gathered:
    """Pictures to predict and what could not be read."""

    images: tuple[ImageRef, ...]
    problems: tuple[Problem, ...]


def gather(paths: Iterable[str], ctx: Context) -> Gathered:
    """Every picture that some files, folders and zips hold, in order, each once.

    Raises:
        WorkbenchError: a path is not there.
    """
    images: list[ImageRef] = []
    problems: list[Problem] = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise WorkbenchError("Nothing was predicted", f"{display(text)} is not there", "Check the path")
        if path.is_dir() or _is_archive(path):
            found = scan((text,), ctx)
            problems += found.problems
            for task in found.tasks:
                images += [i for c in task.classes for i in c.images] + list(task.unlabelled)
        else:
            try:
                images.append(image_ref(str(path.absolute())))
            except WorkbenchError as error:
                problems.append(Problem(display(path.absolute()), error.why, "error"))
    unique = {(i.path, i.member): i for i in images}
    return Gathered(tuple(unique.values()), tuple(problems))


def _is_archive(path: Path) -> bool:
    if path.suffix.lower() == ".zip":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def apply(request: ApplyRequest, project: Path, ctx: Context) -> Applied:  # noqa: ARG001 - one shape for all jobs
    """Predict everything; originals are never moved, what a person labelled is never overwritten.

    Raises:
        WorkbenchError: no such model, nothing to predict, or the CSV or the copies cannot be written.
    """
    begun = time.monotonic()
    model = open_model(Path(request.model))
    ctx.status("Looking for pictures")
    found = gather(request.paths, ctx)
    if not found.images and not found.problems:
        raise WorkbenchError(
            "Nothing was predicted", "there is no picture in what was given", "Give pictures or a folder of pictures"
        )
    predictions, unread = predict_images(model, found.images, ctx)
    problems = (*found.problems, *unread)
    human = dict(request.labels)
    if request.csv:
        storage.save(Path(request.csv), to_csv(model, predictions, human))
    if request.copy_to:
        copy_sorted(model, predictions, human, Path(request.copy_to), ctx)
    return Applied(model.manifest.classes, predictions, problems, request.csv, time.monotonic() - begun)


def predict_images(
    model: OpenModel, images: tuple[ImageRef, ...], ctx: Context
) -> tuple[tuple[Prediction, ...], tuple[Problem, ...]]:
    """Answers for pictures, in batches, with progress and cancel; and those that could not be read after all."""
    cache = feature_cache()
    out: list[Prediction] = []
    problems: list[Problem] = []
    ctx.status("Predicting")
    begun = time.monotonic()
    for i in range(0, len(images), _AT_ONCE):
        ctx.check()
        some = images[i : i + _AT_ONCE]
        answers, unread = predict(model.network, model.seen, model.embedding, model.support, some, cache, ctx)
        out += answers
        problems += unread
        done = i + len(some)
        left = (time.monotonic() - begun) / done * (len(images) - done)
        ctx.progress(done, len(images), "images", left)
    return tuple(out), tuple(problems)


def answer(model: OpenModel, p: Prediction, human: dict[str, str]) -> tuple[str, float, bool, bool]:
    """Class name, probability, rejected, said by a person."""
    if p.image.sha256 in human:
        return human[p.image.sha256], 1.0, human[p.image.sha256] == NONE_OF_THESE, True
    if p.rejected:
        return NONE_OF_THESE, p.none, True, False
    return model.manifest.classes[p.best], p.probabilities[p.best], False, False


def to_csv(model: OpenModel, predictions: tuple[Prediction, ...], human: dict[str, str]) -> bytes:
    """Rows ``image, class, probability, rejected, by``; cells that a spreadsheet would run get a leading quote."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image", "class", "probability", "rejected", "by"])
    for p in predictions:
        name, probability, rejected, person = answer(model, p, human)
        where = f"{p.image.path}/{p.image.member}" if p.image.member else p.image.path
        writer.writerow(
            [
                safe_cell(display(where)),
                safe_cell(name),
                f"{probability:.6f}",
                str(rejected).lower(),
                "human" if person else "machine",
            ]
        )
    return buffer.getvalue().encode()


def copy_sorted(
    model: OpenModel, predictions: tuple[Prediction, ...], human: dict[str, str], target: Path, ctx: Context
) -> None:
    """Copies of the pictures in one folder per class; a name that is taken gets a number.

    Raises:
        WorkbenchError: a copy could not be written, or a picture is not what it was.
    """
    ctx.status("Copying")
    for n, p in enumerate(predictions):
        ctx.check()
        name, *_ = answer(model, p, human)
        folder = target / name
        free = folder / p.image.name
        number = 2
        while os.path.lexists(free):  # a name that is too long is nobody's, and is refused when it is written
            free = folder / f"{Path(p.image.name).stem} ({number}){Path(p.image.name).suffix}"
            number += 1
        storage.save(free, read_bytes(p.image), keep_previous=False)
        ctx.progress(n + 1, len(predictions), "images")
