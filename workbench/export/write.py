"""Write an exported file beside its target, verify it in a clean process, and only then move it into place."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import re
import shutil
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import display
from workbench.core.values import ImageRef
from workbench.export.bundle import build_bundle, label_files, runner_files
from workbench.export.check import Format, Verification, verify
from workbench.export.compare import Check, Expected, expected_of
from workbench.export.model import Manifest
from workbench.export.onnx import describe, to_onnx
from workbench.export.pt2 import to_pt2
from workbench.export.weights import Array, to_safetensors

if TYPE_CHECKING:
    from torch import nn

LIST_FILE = "export.json"
_KIND = "export"
_VERSION = 1
_STALE = 3600.0
_SUFFIX: dict[str, str] = {"onnx": ".onnx", "safetensors": ".safetensors", "pt2": ".pt2", "bundle": ".zip"}


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        format: onnx, safetensors, pt2 or bundle.
        files: paths of the files, the exported one first.
        verified: always true; an export that is not verified is not written.
        verification: what was compared.
        size: bytes of all files.
        folder: where they lie.
    """

    format: str
    files: tuple[str, ...]
    verified: bool
    verification: Verification
    size: int
    folder: str


class ListedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that an export wrote, and the hash of what was written."""

    sha256: str
    size: int


class ListedExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One format in a folder of exports: its files, the exported one first, and the figures of its verification."""

    files: tuple[str, ...]
    name: str
    images_checked: int
    top1_agreement: float
    max_relative_logit_difference: float
    max_probability_difference: float
    runtime: str
    verified_at: float


class ExportList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``export.json``: what exports wrote into a folder; nothing else in it is ever overwritten."""

    files: dict[str, ListedFile] = {}
    exports: dict[str, ListedExport] = {}


def export(
    network: nn.Module,
    manifest: Manifest,
    tensors: Mapping[str, Array],
    thumbnails: Sequence[bytes],
    pictures: Sequence[tuple[ImageRef, Array]],
    format_: Format,
    out: Path,
    ctx: Context,
    *,
    expected: Expected | None = None,
) -> ExportResult:
    """Export a taught model in one format.

    Args:
        network: ``image [B, C, S, S]`` in 0..1 -> logits, probabilities, distance, embedding; left untouched.
        manifest: of the model.
        tensors: of the model (for the bundle).
        thumbnails: of the support images (for the bundle), PNG bytes.
        pictures: what to compare on: reference and its preprocessed ``uint8 [S, S, C]``.
        format_: onnx, safetensors, pt2 or bundle.
        out: folder; made if missing.
        ctx: cancel and progress.
        expected: the application's own answers to the pictures; asked of ``network`` where not given.

    Raises:
        WorkbenchError: the file does not answer as the application does, or cannot be written. The folder is then as it
            was: an earlier export stays.
        JobCancelledError: asked to stop; likewise.
    """
    out = Path(out)
    if format_ not in _SUFFIX:
        raise WorkbenchError("The model was not exported", f"there is no format {format_}", f"Use {', '.join(_SUFFIX)}")
    if not pictures:
        raise WorkbenchError(
            "The model was not exported", "there are no pictures to verify it on", "Add examples first"
        )
    file = slug(manifest.name) + _SUFFIX[format_]
    listed = _read_list(out)
    ready = copy.deepcopy(network).cpu().float().eval()
    pixels = np.stack([p for _, p in pictures])
    ctx.status("Asking the application for its answers")
    expected = expected or expected_of(ready, pixels, ctx)
    ctx.check()
    ctx.status("Writing the file")
    files = _build(ready, manifest, tensors, thumbnails, format_, file)
    _refuse_others(out, files, listed)
    ctx.check()
    size = sum(map(len, files.values()))
    ctx.event(Check("Written", file, storage.len_text(size), ok=True))
    temporary = _beside(out)
    try:
        for name, data in files.items():
            storage.save(temporary / name, data, keep_previous=False)
        references = [reference for reference, _ in pictures]
        found = verify(temporary, file, format_, references, expected, ctx, network=ready, pixels=pixels)
        if not found.passed:
            raise WorkbenchError(
                f"{file} was not written",
                f"it does not answer as the application does ({found.refusal()})",
                "Nothing was changed; export in another format, or teach with another method",
            )
        ctx.check()
        _move(temporary, out, tuple(files), listed, _extended(listed, manifest, files, file, found))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportResult(format_, tuple(str(out / name) for name in files), True, found, size, str(out))


def _build(
    network: nn.Module,
    manifest: Manifest,
    tensors: Mapping[str, Array],
    thumbnails: Sequence[bytes],
    format_: Format,
    file: str,
) -> dict[str, bytes]:
    """The files of one format, the exported one first."""
    p, classes, about = manifest.preprocess, manifest.classes, metadata(manifest)
    if format_ == "safetensors":
        return {file: to_safetensors(network, describe(p, classes, about)), **label_files(manifest, file)}
    if format_ == "pt2":
        pixels = {"pixels.py": runner_files()["pixels.py"]}
        return {file: to_pt2(network, p, classes, about), **label_files(manifest, file), **pixels}
    model = to_onnx(network, p, classes, about)
    if format_ == "bundle":
        return {file: build_bundle(network, manifest, tensors, thumbnails, model)}
    return {file: model, **label_files(manifest, file), **runner_files()}


def metadata(manifest: Manifest) -> dict[str, str]:
    """The text that travels inside an exported file besides classes and preprocessing."""
    about = {
        "name": manifest.name,
        "algorithm": manifest.algorithm,
        "backbone": manifest.backbone,
        "entry": manifest.entry,
        "created": manifest.created,
        "licence": str(manifest.provenance.get("licence", "")),
        **{name: repr(value) for name, value in manifest.calibration.items()},
    }
    return {name: text for name, text in about.items() if text}


def slug(name: str) -> str:
    """A file name's stem for a model's name: letters and digits of ASCII, the rest as dashes."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60].strip("-")
    # Windows keeps some names for devices.
    return stem if stem and not re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", stem) else f"model-{stem}".rstrip("-")


def read_list(out: Path) -> ExportList:
    """What exports wrote into a folder; empty where there is none."""
    return _read_list(Path(out))


def _read_list(out: Path) -> ExportList:
    path = out / LIST_FILE
    if not path.is_file():
        return ExportList()
    return storage.decode_json(storage.load(path), _KIND, _VERSION, ExportList, display(path))


def _refuse_others(out: Path, files: Mapping[str, bytes], listed: ExportList) -> None:
    """Refuse to write over anything that no export wrote."""
    if out.exists() and not out.is_dir():
        raise WorkbenchError("The model was not exported", f"{display(out)} is a file", "Name a folder")
    for name in files:
        if name not in listed.files and (out / name).exists():
            raise WorkbenchError(
                "The model was not exported",
                f"{display(out)} already holds a file called {name} that no export wrote",
                "Name another folder",
            )


def _beside(out: Path) -> Path:
    """A temporary folder on the same disk; what killed processes left of such is swept."""
    parent = out.absolute().parent
    with contextlib.suppress(OSError):
        for stray in parent.glob(f".{out.name}.*.export"):
            if time.time() - stray.stat().st_mtime > _STALE:
                shutil.rmtree(stray, ignore_errors=True)
    temporary = parent / f".{out.name}.{os.getpid()}.export"
    shutil.rmtree(temporary, ignore_errors=True)
    return temporary


def _extended(
    listed: ExportList,
    manifest: Manifest,
    files: Mapping[str, bytes],
    file: str,
    found: Verification,
) -> bytes:
    entry = ListedExport(
        tuple(files),
        manifest.name,
        found.images_checked,
        found.top1_agreement,
        found.max_relative_logit_difference,
        found.max_probability_difference,
        found.runtime,
        time.time(),
    )
    hashes = {name: ListedFile(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    return storage.encode_json(_KIND, _VERSION, ExportList({**listed.files, **hashes}, {**listed.exports, file: entry}))


def _move(temporary: Path, out: Path, names: Sequence[str], listed: ExportList, table: bytes) -> None:
    """Move the verified files into place: a new folder as a whole, otherwise file by file and the exported one last.

    The files beside the exported one hold nothing that it does not hold itself, so no mixture of old and new is wrong.
    """
    try:
        if not out.exists():
            storage.save(temporary / LIST_FILE, table, keep_previous=False)
            storage.ops.replace(temporary, out)
            storage.ops.fsync_dir(out.absolute().parent)
            return
        # The list comes first: after a kill in between, what was moved is known to be ours.
        storage.save(out / LIST_FILE, table, keep_previous=False)
        try:
            for name in (*names[1:], names[0]):
                storage.ops.replace(temporary / name, out / name)
        except OSError:
            with contextlib.suppress(StorageError):
                storage.save(out / LIST_FILE, storage.encode_json(_KIND, _VERSION, listed), keep_previous=False)
            raise
        storage.ops.fsync_dir(out)
    except OSError as error:
        raise StorageError(
            f"The export was not moved to {display(out)}",
            error.strerror or str(error),
            "Free some space or choose another folder",
        ) from error


def as_json(result: ExportResult) -> dict[str, Any]:
    """The object that ``workbench export --json`` prints."""
    found = result.verification
    return {
        "format": result.format,
        "files": list(result.files),
        "verified": result.verified,
        "images_checked": found.images_checked,
        "top1_agreement": found.top1_agreement,
        "max_relative_logit_difference": found.max_relative_logit_difference,
        "max_probability_difference": found.max_probability_difference,
        "near_ties": [asdict(tie) for tie in found.near_ties],
        "preprocessing_equal": found.preprocessing_equal,
        "rejection_equal": found.rejection_equal,
        "runtime": found.runtime,
        "seconds": found.seconds,
        "size": result.size,
    }
