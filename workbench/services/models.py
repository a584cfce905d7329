"""A taught model between memory and disk: what ``adapt`` writes, ``predict`` and ``export`` open again."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import display, escape, unescape
from workbench.core.values import Estimate, ImageRef, TaskClass
from workbench.data.thumbnails import thumbnail
from workbench.export.compare import PROBABILITY_TOLERANCE, self_check, self_check_difference
from workbench.export.model import Manifest, SupportImage, read_model, write_model
from workbench.learn.answer import Answering
from workbench.learn.features import trunk_digest
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Adapted, Setting, Support
from workbench.learn.registry import create
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.services.looks import Seen
from workbench.services.teaching import Taught

_log = logging.getLogger(__name__)

_THUMBNAIL = 160
_PICTURES = "pictures of a model"


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model ready to predict.

    Attributes:
        manifest: its card.
        seen: knowledge and support set as ``answers.predict`` wants them.
        network: the answering network.
        embedding: of the support set ``[S, D]``.
        support: references to the support pictures (name and hash; their files may be elsewhere).
        tensors: as on disk, for the bundle.
        thumbnails: PNG bytes, one per support picture.
    """

    manifest: Manifest
    seen: Seen
    network: Answering
    embedding: Tensor
    support: tuple[ImageRef, ...]
    tensors: dict[str, np.ndarray]
    thumbnails: list[bytes]


def write(
    taught: Taught,
    classes: tuple[TaskClass, ...],
    estimate: Estimate | None,
    name: str,
    seed: int,
    out: Path,
    ctx: Context,
) -> Path:
    """Write what was taught as a model folder.

    Raises:
        WorkbenchError: the folder holds something else, or cannot be written.
    """
    seen = taught.seen
    k = seen.knowledge
    _, network, embedding = taught.networks[-1]
    images = [(i, image) for i, c in enumerate(classes) for image in c.images]
    ctx.status("Making thumbnails")
    thumbnails = [thumbnail_png(image) for _, image in images]
    tensors = known.join_state(k.state) | {f"adapted.{n}": t for n, t in taught.adapted.tensors.items()}
    tensors |= {
        "support.embedding": embedding,
        "support.label": seen.support.y,
        "support.prototypes": network.prototypes,
    }
    manifest = Manifest(
        name=name,
        classes=tuple(c.name for c in classes),
        algorithm=k.algorithm.info.key,
        params=dict(k.entry.params) if k.entry else {},
        backbone=k.algorithm.setting.backbone,
        preprocess=k.preprocess,
        ways=k.entry.ways if k.entry else (k.algorithm.setting.ways, k.algorithm.setting.ways),
        calibration={
            "temperature": float(network.temperature),
            "reject_threshold": float(network.threshold),
            "reject_width": float(network.width),
        },
        entry=k.id or "",
        strategy=taught.strategy,
        reason=taught.reason,
        candidates=taught.candidates,
        estimate=estimate,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance={
            "seed": seed,
            "knowledge": k.name,
            "sources": [s.name for s in k.entry.sources] if k.entry else [],
            "versions": {n: version(n) for n in ("torch", "meta-transfer-workbench")},
        },
        support=tuple(SupportImage(i, image.name, image.sha256) for i, image in images),
    )
    manifest = replace(manifest, self_check=self_check(network, manifest, thumbnails))
    arrays = {n: np.asarray(t.detach().cpu().numpy(), order="C") for n, t in tensors.items()}
    return write_model(out, manifest, arrays, thumbnails)


def thumbnail_png(image: ImageRef) -> bytes:
    """A thumbnail that every reader takes: PNG, at most 160 pixels a side."""
    data = thumbnail(image, _THUMBNAIL)
    if data.startswith(b"\x89PNG"):
        return data
    buffer = BytesIO()
    Image.open(BytesIO(data), formats=["JPEG"]).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def open_model(path: Path) -> OpenModel:
    """Open a model folder or a bundle.

    Raises:
        StorageError: it is not a model, is damaged, could do harm, or answers otherwise than where it was made.
        WorkbenchError: it needs an algorithm or a backbone that this version lacks.
    """
    manifest, arrays, thumbnails = read_model(path)
    tensors = {n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}
    setting = Setting(manifest.backbone, manifest.preprocess.depth, manifest.preprocess.size, manifest.ways[1])
    algorithm = create(manifest.algorithm, manifest.params, setting)
    state = known.split_state(tensors)
    ways = len(manifest.classes)
    adapted = Adapted({n.removeprefix("adapted."): t for n, t in tensors.items() if n.startswith("adapted.")}, ways)
    try:
        embedding, labels, protos = (tensors[f"support.{n}"] for n in ("embedding", "label", "prototypes"))
        support = Support(embedding, labels, ways, embedding)
        if embedding.ndim != 2 or protos.shape != (ways, embedding.shape[1]) or len(labels) != len(manifest.support):
            raise ValueError("the examples' features do not belong to its classes")
        network = Answering(
            algorithm.deploy(state, adapted),
            manifest.preprocess.mean,
            manifest.preprocess.std,
            manifest.calibration["temperature"],
            protos,
            manifest.calibration["reject_threshold"],
            manifest.calibration["reject_width"],
        )
        probe = torch.zeros(1, manifest.preprocess.depth, manifest.preprocess.size, manifest.preprocess.size)
        with torch.no_grad():
            answered = network(probe)
        if answered[1].shape != (1, ways + 1) or answered[3].shape[1] != embedding.shape[1]:
            raise ValueError("it answers about another number of classes")
        digest = trunk_digest(state)
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise StorageError(
            f"{display(path)} was not opened", f"its tensors do not fit its network ({error})", "Make the model again"
        ) from error
    if not self_check_difference(network, manifest, thumbnails) <= PROBABILITY_TOLERANCE:
        raise StorageError(
            f"{display(path)} was not opened",
            "it does not answer as it did where it was made",
            "Open it with the version of the workbench that made it, or make the model again",
        )
    name = str(manifest.provenance.get("knowledge", manifest.name))
    # for cacheable methods the deployed trunk is the one that the features in the cache were made with
    trunk = network.deployed.trunk if "cacheable" in algorithm.info.tags else None
    knowledge = Knowledge(None, name, algorithm, state, manifest.preprocess, digest, (), trunk)
    nothing = HeldOut(labels.new_zeros(0), embedding.new_zeros((0, ways)), None)
    temperature = manifest.calibration["temperature"]
    seen = Seen(knowledge, support, embedding, None, (), nothing, temperature, embedding.new_zeros(0))
    refs = tuple(ImageRef("", s.name, s.sha256, 0, 0, 0) for s in manifest.support)
    return OpenModel(manifest, seen, network, embedding, refs, arrays, thumbnails)


class _Picture(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    member: str
    sha256: str
    size: int
    width: int
    height: int


def remember_pictures(project: Path, model: Path, images: tuple[ImageRef, ...]) -> None:
    """Keep, in the project and not in the model, where a model's own pictures lie; an export is verified on them."""
    rows = [_Picture(escape(i.path), i.member, i.sha256, i.size, i.width, i.height) for i in images]
    manifest, _, _ = read_model(model)
    storage.save(_pictures_file(project, manifest), storage.encode_json(_PICTURES, 1, rows), keep_previous=False)


def own_pictures(project: Path, manifest: Manifest) -> tuple[ImageRef, ...]:
    """The pictures remembered for a model; none for a model that came from elsewhere, or where the note is damaged."""
    path = _pictures_file(project, manifest)
    if not path.exists():
        return ()
    try:
        rows = storage.decode_json(storage.load(path), _PICTURES, 1, list[_Picture], str(path))
    except StorageError as error:
        _log.warning("%s", error)
        return ()
    return tuple(ImageRef(unescape(r.path), r.member, r.sha256, r.size, r.width, r.height) for r in rows)


def _pictures_file(project: Path, manifest: Manifest) -> Path:
    return project / "models" / f"{manifest.digest[:24]}.json"


def name_of(path: Path) -> str:
    """A model's name from the folder it is written to."""
    name = "".join(ch if ch.isalnum() or ch in "-_ " else "-" for ch in path.name).strip("- ")
    if not name:
        raise WorkbenchError(
            "The model was not written", "its folder has no usable name", "Name the folder with letters"
        )
    return name
