"""A taught model on disk: ``model.json``, one safetensors file and the support set's thumbnails.

``adapt`` writes the folder, ``predict`` and ``export`` read it, and a bundle (``.zip``) holds the same files and more.
Files are named by their content and ``model.json`` is replaced last, so a folder is at every moment the old model or
the new one. The JSON holds a hash of itself and of every other file: a changed bit anywhere is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import display
from workbench.core.teach import check_name
from workbench.core.values import Candidate, Estimate, Preprocess
from workbench.export import archive, weights
from workbench.export.weights import Array

KIND = "model"
VERSION = 1
MODEL_FILE = "model.json"
_BLANK = "0" * 64
_PNG = b"\x89PNG\r\n\x1a\n"
_JSON_LIMIT = 64 << 20


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the model: its name relative to ``model.json``, the hash of its content, its size in bytes."""

    name: str
    sha256: str
    size: int


class SupportImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One example the model was taught with.

    Attributes:
        class_index: its class.
        name: the picture's own file name, without folders.
        sha256: of the encoded picture.
        thumbnail: file of the thumbnail, relative; set when written.
    """

    class_index: int
    name: str
    sha256: str
    thumbnail: str = ""


class SelfCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model must say of one of its own thumbnails, wherever it is opened.

    Attributes:
        support: index of the support image whose thumbnail is meant.
        pixels_sha256: of the preprocessed thumbnail, ``uint8 [S, S, C]``.
        probabilities: one per class, "none of these" last.
    """

    support: int
    pixels_sha256: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about a taught model that is not a tensor.

    Its tensors are named ``learned.*``, ``memory.*``, ``adapted.*``, ``support.embedding [S, D]`` and
    ``support.label [S]``, with ``S`` in the order of ``support``.

    Attributes:
        digest: of the JSON itself; set when written.
        name: for people; also names exported files.
        classes: in the order of the logits.
        algorithm: key.
        params: hyperparameters by name.
        backbone: key.
        preprocess: how pictures become inputs.
        ways: classes per training episode, from-to.
        calibration: ``temperature``, ``reject_threshold``, ``reject_width``.
        entry: id of the knowledge it rests on, "" for none.
        strategy: how the knowledge was chosen.
        reason: the same in one sentence.
        candidates: what was considered, ranked.
        estimate: leave-one-out accuracy, or ``None`` where it cannot be estimated.
        created: ISO 8601, UTC.
        provenance: seed, device, versions, sources, licence ...; no paths of this machine.
        support: the examples.
        self_check: what it must answer on its own thumbnails.
        weights: name of the safetensors file; set when written.
        files: every file beside ``model.json``; set when written.
    """

    digest: str = ""
    name: str
    classes: tuple[str, ...]
    algorithm: str
    params: dict[str, Any]
    backbone: str
    preprocess: Preprocess
    ways: tuple[int, int]
    calibration: dict[str, float] = field(default_factory=dict)
    entry: str = ""
    strategy: str = ""
    reason: str = ""
    candidates: tuple[Candidate, ...] = ()
    estimate: Estimate | None = None
    created: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    support: tuple[SupportImage, ...] = ()
    self_check: tuple[SelfCheck, ...] = ()
    weights: str = ""
    files: tuple[FileEntry, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError("a model needs classes, each named once")
        if any(not 0 <= s.class_index < len(self.classes) for s in self.support):
            raise ValueError("a support image belongs to a class that is not there")
        for check in self.self_check:
            if not 0 <= check.support < len(self.support) or len(check.probabilities) != len(self.classes) + 1:
                raise ValueError("a self-check does not fit the classes and the support images")


# What others wrote is decoded to these first: a field that is not known is refused, not dropped.
class _Preprocess(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    channels: Literal["grey", "rgb"]
    fit: Literal["crop", "stretch", "pad"]
    resample: Literal["box", "bilinear", "bicubic", "lanczos"]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Candidate(msgspec.Struct, forbid_unknown_fields=True):
    entry: str | None
    name: str
    nearest_source: str
    similarity: float | None
    loss: float | None
    weight: float
    chosen: bool
    words: str = ""


class _Estimate(msgspec.Struct, forbid_unknown_fields=True):
    accuracy: float
    low: float
    high: float
    how: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    digest: str
    name: str
    classes: tuple[str, ...]
    algorithm: str
    params: dict[str, Any]
    backbone: str
    preprocess: _Preprocess
    ways: tuple[int, int]
    calibration: dict[str, float]
    entry: str
    strategy: str
    reason: str
    candidates: tuple[_Candidate, ...]
    estimate: _Estimate | None
    created: str
    provenance: dict[str, Any]
    support: tuple[SupportImage, ...]
    self_check: tuple[SelfCheck, ...]
    weights: str
    files: tuple[FileEntry, ...]


def encode_manifest(manifest: Manifest) -> bytes:
    """The JSON of a manifest, with its own hash in it."""
    blank = storage.encode_json(KIND, VERSION, replace(manifest, digest=_BLANK))
    return blank.replace(_BLANK.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def decode_manifest(data: bytes, where: str) -> Manifest:
    """The manifest that ``encode_manifest`` wrote.

    Raises:
        StorageError: damaged, of a newer version, with unknown fields, or with values that do not fit one another.
    """
    if len(data) > _JSON_LIMIT:
        raise StorageError(f"{where} was not opened", "it is far too long", "Ask its author for another copy")
    raw = storage.decode_json(data, KIND, VERSION, _File, where)
    blank = data.replace(raw.digest.encode(), _BLANK.encode(), 1) if len(raw.digest) == 64 else b""
    if hashlib.sha256(blank).hexdigest() != raw.digest:
        raise StorageError(
            f"{where} is damaged", "its content is not what was saved", "Make the model again, or copy it again"
        )
    try:
        return _manifest(raw)
    except (ValueError, WorkbenchError) as error:
        why = error.why if isinstance(error, WorkbenchError) else str(error)
        raise StorageError(f"{where} was not opened", why, "Ask its author for another copy") from error


def _manifest(raw: _File) -> Manifest:
    for name in raw.classes:
        if check_name(name) != name:
            raise ValueError("a class name begins or ends with a space")
    for file in raw.files:
        if archive.wrong_name(file.name):
            raise ValueError("a file is named that lies outside the model")
    given: dict[str, Any] = {f.name: getattr(raw, f.name) for f in fields(Manifest)}
    given["preprocess"] = Preprocess(**msgspec.structs.asdict(raw.preprocess))
    given["candidates"] = tuple(Candidate(**msgspec.structs.asdict(c)) for c in raw.candidates)
    given["estimate"] = Estimate(**msgspec.structs.asdict(raw.estimate)) if raw.estimate else None
    return Manifest(**given)


def write_model(folder: Path, manifest: Manifest, tensors: Mapping[str, Array], thumbnails: Sequence[bytes]) -> Path:
    """Write a model so that the folder holds, at every moment, the old one or the new one.

    Args:
        folder: made if missing; an earlier model in it is replaced.
        manifest: ``digest``, ``weights``, ``files`` and the support's ``thumbnail`` are filled in here.
        tensors: by name.
        thumbnails: PNG bytes, one per support image, or none at all.

    Returns:
        The folder.

    Raises:
        WorkbenchError: the folder holds something that is not a model; nothing is touched.
        StorageError: a file could not be written; the earlier model is whole.
    """
    folder = Path(folder)
    _refuse_others(folder)
    stale = _names_in(folder)
    blobs: dict[str, bytes] = {}
    data = weights.encode(
        tensors, {"name": manifest.name, "algorithm": manifest.algorithm, "backbone": manifest.backbone}
    )
    weights_name = f"weights-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    blobs[weights_name] = data
    names = [f"thumbnails/{hashlib.sha256(png).hexdigest()[:16]}.png" for png in thumbnails]
    blobs |= dict(zip(names, thumbnails, strict=True))
    filled = with_files(manifest, weights_name, names, blobs)
    for name, content in blobs.items():
        storage.save(folder / name, content, keep_previous=False)
    storage.save(folder / MODEL_FILE, encode_manifest(filled), keep_previous=False)
    for name in stale - set(blobs):
        with contextlib.suppress(OSError):
            storage.ops.unlink(folder / name)
    return folder


def with_files(
    manifest: Manifest, weights_name: str, thumbnails: Sequence[str], files: Mapping[str, bytes]
) -> Manifest:
    """The manifest with the names and hashes of its files filled in.

    Raises:
        ValueError: the thumbnails are not one per support image.
    """
    support = manifest.support
    if thumbnails:
        named = zip(support, thumbnails, strict=True)
        support = tuple(msgspec.structs.replace(image, thumbnail=name) for image, name in named)
    entries = tuple(
        FileEntry(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in sorted(files.items())
    )
    return replace(manifest, weights=weights_name, support=support, files=entries)


def read_model(path: Path) -> tuple[Manifest, dict[str, Array], list[bytes]]:
    """A model from its folder or from a bundle.

    Args:
        path: the folder, its ``model.json``, or a ``.zip``.

    Returns:
        The manifest, the tensors by name, and the thumbnails (PNG bytes, in the order of the support set; none where
        the model was written without them).

    Raises:
        StorageError: not a model, damaged (every file's hash is checked), or a bundle that could do harm.
    """
    path = Path(path)
    if path.name == MODEL_FILE and path.is_file():
        path = path.parent
    where = display(path)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise StorageError(
                f"{where} was not opened", "there is no model.json in it", "Choose a folder that adapt wrote"
            )
        manifest = decode_manifest(storage.load(path / MODEL_FILE), display(path / MODEL_FILE))
        return _assemble(manifest, lambda entry: _load_file(path, entry), where)
    if not path.exists():
        raise StorageError(f"{where} was not opened", "there is nothing of that name", "Check the path")
    files = archive.unpack(storage.load(path), where)
    if MODEL_FILE not in files:
        raise StorageError(
            f"{where} was not opened", "there is no model.json in it, so it is not a bundle", "Choose another file"
        )
    manifest = decode_manifest(files.pop(MODEL_FILE), f"{where}/{MODEL_FILE}")
    unknown = set(files) - {entry.name for entry in manifest.files}
    if unknown:
        raise StorageError(
            f"{where} was not opened",
            f"it holds {min(unknown)}, which its list does not name",
            "Ask its author for another copy",
        )
    for entry in manifest.files:
        _check(files.get(entry.name), entry, where)
    return _assemble(manifest, lambda entry: files[entry.name], where)


def _assemble(
    manifest: Manifest, get: Callable[[FileEntry], bytes], where: str
) -> tuple[Manifest, dict[str, Array], list[bytes]]:
    listed = {entry.name: entry for entry in manifest.files}
    wanted = {manifest.weights, *(image.thumbnail for image in manifest.support if image.thumbnail)}
    if wanted - set(listed):
        raise StorageError(
            f"{where} was not opened", "its list of files is not complete", "Ask its author for another copy"
        )
    blobs = {name: get(listed[name]) for name in sorted(wanted)}
    tensors = weights.decode(blobs[manifest.weights], f"{where}/{manifest.weights}")
    thumbnails = [blobs[image.thumbnail] for image in manifest.support if image.thumbnail]
    if any(not png.startswith(_PNG) for png in thumbnails):
        raise StorageError(f"{where} was not opened", "a thumbnail is not a PNG", "Ask its author for another copy")
    return manifest, tensors, thumbnails


def _load_file(folder: Path, entry: FileEntry) -> bytes:
    path = folder / entry.name
    with contextlib.suppress(OSError):
        if path.stat().st_size != entry.size:
            raise StorageError(
                f"{display(path)} is damaged",
                "its size is not what was saved",
                "Make the model again, or copy it again",
            )
    return storage.load(path, entry.sha256)


def _check(data: bytes | None, entry: FileEntry, where: str) -> None:
    if data is None:
        raise StorageError(
            f"{where} was not opened", f"{entry.name} is missing from it", "Copy it again from where it came from"
        )
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise StorageError(
            f"{where} is damaged", f"{entry.name} is not what was saved", "Copy it again from where it came from"
        )


def _names_in(folder: Path) -> set[str]:
    """Files of an earlier model in the folder, by the names that only ``write_model`` gives."""
    return {p.relative_to(folder).as_posix() for pattern in _OURS for p in folder.glob(pattern)}


_OURS = ("weights-*.safetensors", "thumbnails/*.png")


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that holds anything but a model, whole or cut short."""
    shown = display(folder)
    refused = WorkbenchError(
        f"The model was not written to {shown}",
        "it holds something that is not a model",
        "Name an empty or a new folder",
    )
    try:
        if not folder.exists():
            return
        if not folder.is_dir():
            raise refused
        present = {p.name for p in folder.iterdir() if not p.name.endswith(".tmp")}
    except OSError as error:
        raise StorageError(
            f"The model was not written to {shown}", error.strerror or str(error), "Choose another folder"
        ) from error
    if MODEL_FILE in present:
        # A damaged model may be replaced; another program's model.json may not.
        with contextlib.suppress(msgspec.MsgspecError, OSError):
            if msgspec.json.decode(storage.ops.read(folder / MODEL_FILE), type=dict).get("kind") == KIND:
                return
        if not {name.split("/")[0] for name in _names_in(folder)} & present:
            raise refused
    elif present - {name.split("/")[0] for name in _names_in(folder)}:
        raise refused
