"""``workbench export``: open a model, ask it for its answers on its own pictures, write, verify in a clean process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef
from workbench.data.read import image_ref, pixels
from workbench.export import write as writer
from workbench.services.models import OpenModel, open_model, own_pictures
from workbench.services.requests import CheckRow, Exported, ExportRequest, NearTie

_MOST = 200
"""Pictures asked about that are compared, besides all examples."""


def export(request: ExportRequest, project: Path, ctx: Context) -> Exported:
    """Export a model and verify the file on the model's own pictures.

    The pictures are those the model was taught with and asked about (evenly chosen where there are hundreds), where
    this project remembers them and they are still the same; otherwise the thumbnails that travel with the model.

    Raises:
        WorkbenchError: no such model, or the file does not answer as the application does; nothing is left behind then.
        JobCancelledError: stopped; an earlier export stays.
    """
    model = open_model(Path(request.model))
    ctx.status("Reading the pictures")
    with tempfile.TemporaryDirectory(prefix="workbench-export-") as temporary:
        pictures = _pictures(model, project, Path(temporary), ctx)
        done = writer.export(
            model.network,
            model.manifest,
            model.tensors,
            model.thumbnails,
            pictures,
            request.format,  # type: ignore[arg-type]  # checked there
            Path(request.out),
            ctx,
        )
    found = done.verification
    names = model.manifest.classes
    ties = tuple(
        NearTie(pictures[t.index][0], (names[t.classes[0]], names[t.classes[1]]), t.here, t.there)
        for t in found.near_ties
    )
    return Exported(
        format=done.format,
        files=done.files,
        verified=done.verified,
        images_checked=found.images_checked,
        top1_agreement=found.top1_agreement,
        max_relative_logit_difference=found.max_relative_logit_difference,
        max_probability_difference=found.max_probability_difference,
        near_ties=ties,
        checks=tuple(CheckRow(c.name, c.detail, c.figure, c.ok) for c in found.checks),
        agreement=found.agreement,
        size=done.size,
        seconds=found.seconds,
        folder=done.folder,
    )


def _pictures(model: OpenModel, project: Path, temporary: Path, ctx: Context) -> list[tuple[ImageRef, np.ndarray]]:
    p = model.manifest.preprocess
    out: list[tuple[ImageRef, np.ndarray]] = []
    remembered = own_pictures(project, model.manifest)
    examples = remembered[: len(model.support)]
    asked = remembered[len(examples) :]
    step = max(1, -(-len(asked) // _MOST))
    for image in (*examples, *asked[::step]):
        ctx.check()
        try:
            out.append((image, pixels(image, p)))
        except WorkbenchError:
            ctx.status(f"{image.name} was changed or moved, so it is left out of the comparison")
    if out:
        return out
    for i, thumbnail in enumerate(model.thumbnails):
        ctx.check()
        file = temporary / f"{i:04d}.png"
        storage.save(file, thumbnail, keep_previous=False)
        image = image_ref(str(file))
        out.append((image, pixels(image, p)))
    return out
