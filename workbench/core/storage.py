"""The one way anything is written: whole or not at all, re-read before it counts.

Every file operation goes through :data:`ops`, so a test can fail the n-th one for every n.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from workbench.core.errors import StorageError

T = TypeVar("T")


class Ops:
    """The file operations of the storage helper, one method each, so that faults can be injected."""

    def open(self, path: Path) -> int:
        """Create the temporary file, readable by its owner as any other file is."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, fd: int, data: memoryview) -> int:
        """Write some bytes, return how many."""
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        """Flush to the disk."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close."""
        os.close(fd)

    def read(self, path: Path) -> bytes:
        """Read a whole file."""
        return path.read_bytes()

    def link(self, src: Path, dst: Path) -> None:
        """Keep ``src`` under a second name (hard link, or a copy where links are not to be had)."""
        side = _side_name(dst)
        side.unlink(missing_ok=True)
        try:
            try:
                os.link(src, side)
            except (OSError, NotImplementedError):
                shutil.copy2(src, side)
            side.replace(dst)
        finally:
            # renaming one of two links of a file onto the other leaves both
            side.unlink(missing_ok=True)

    def replace(self, src: Path, dst: Path) -> None:
        """Rename over the target."""
        src.replace(dst)

    def fsync_dir(self, path: Path) -> None:
        """Flush a folder's entries (not to be had on Windows)."""
        if os.name == "nt":
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            # some network file systems cannot flush a folder; the files in it were flushed by themselves
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()


ops = Ops()


def save(path: Path, data: bytes, *, keep_previous: bool = True) -> str:
    """Write ``data`` to ``path`` so that the file is, at every moment, the old one or the new one.

    Args:
        path: the target; its folder is made if missing.
        data: the whole content.
        keep_previous: keep the former content as ``<name>.prev``.

    Returns:
        The sha256 of the data, in hex.

    Raises:
        StorageError: with the path, the reason and the free space; the old file is untouched.
    """
    path = Path(path)
    digest = hashlib.sha256(data).hexdigest()
    temporary = _side_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = ops.open(temporary)
        try:
            view = memoryview(data)
            while view:
                view = view[ops.write(fd, view) :]
            ops.fsync(fd)
        finally:
            ops.close(fd)
        if hashlib.sha256(ops.read(temporary)).hexdigest() != digest:
            raise OSError("the file read back differs from what was written")
        if keep_previous and path.exists():
            ops.link(path, path.with_name(f"{path.name}.prev"))
        ops.replace(temporary, path)
        ops.fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            ops.unlink(temporary)
        raise StorageError(
            f"{path} was not written", _reason(error, path), "Free some space or choose another folder"
        ) from error
    return digest


def _side_name(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process or thread uses and no file system finds too long."""
    raw = os.fsencode(path.name)
    name = path.name if len(raw) <= 180 else hashlib.sha256(raw).hexdigest()
    return path.with_name(f".{name}-{threading.get_native_id()}.{os.getpid()}.tmp")


def _reason(error: OSError, path: Path) -> str:
    text = error.strerror or str(error)
    where = path.parent
    while not where.exists() and where != where.parent:
        where = where.parent
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(where).free
        return f"{text} ({len_text(free)} free)"
    return text


def len_text(n: int) -> str:
    """A number of bytes in words, e.g. ``0.5 MB``."""
    if n < 1000:
        return f"{n} bytes"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} bytes"


def load(path: Path, sha256: str | None = None) -> bytes:
    """Read one of our own files.

    Args:
        path: the file.
        sha256: what its content must hash to, if known.

    Raises:
        StorageError: it cannot be read, or its content changed; names the previous good copy where there is one.
    """
    try:
        data = ops.read(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be read", error.strerror or str(error), _previous(path)) from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise StorageError(f"{path} is damaged", "its content is not what was saved", _previous(path))
    return data


def _previous(path: Path) -> str:
    previous = path.with_name(f"{path.name}.prev")
    return (
        f"The copy before it is {previous.name}" if previous.exists() else "Restore it from a backup or make it again"
    )


def encode_json(kind: str, version: int, value: Any) -> bytes:
    """One value as JSON with its kind and version.

    Raises:
        ValueError: the value holds a number that is not finite (msgspec would write it as null).
    """
    built = msgspec.to_builtins(value)
    _refuse_non_finite(built, kind)
    return msgspec.json.format(msgspec.json.encode({"kind": kind, "version": version, "value": built}), indent=1)


def _refuse_non_finite(value: Any, where: str) -> None:
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{where} is {value}")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _refuse_non_finite(item, f"{where}[{i}]")


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    version: int
    value: msgspec.Raw


def decode_json(data: bytes, kind: str, version: int, type_: type[T], where: str = "file") -> T:
    """The value that ``encode_json`` wrote.

    Raises:
        StorageError: not JSON, another kind, a newer version, or fields that do not fit.
    """
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.kind != kind:
            raise StorageError(
                f"{where} was not opened", f"it is a {envelope.kind}, not a {kind}", "Choose another file"
            )
        if envelope.version > version:
            raise StorageError(
                f"{where} was not opened",
                f"it was written by a newer version ({envelope.version}; this one knows {version})",
                "Update the workbench; the file is untouched",
            )
        return msgspec.json.decode(bytes(envelope.value), type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # msgspec lets the second one through
        raise StorageError(
            f"{where} was not opened", str(error), "Restore it from a backup or make it again"
        ) from error


def sweep_strays(folder: Path, older_than_seconds: float, now: float) -> list[Path]:
    """Remove temporary files that a killed process left (ours by their name, older than given)."""
    removed = []
    for stray in folder.rglob(".*.tmp"):
        parts = stray.name.rsplit(".", 2)
        with contextlib.suppress(OSError):
            if len(parts) == 3 and parts[1].isdigit() and now - stray.stat().st_mtime > older_than_seconds:
                stray.unlink()
                removed.append(stray)
    return removed
