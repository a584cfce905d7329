"""Pictures decoded once into a memory-mapped array of 8-bit pixels; training then reads rows of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from workbench.core.context import Context
from workbench.core.errors import StorageError
from workbench.core.paths import cache_home, display
from workbench.core.storage import len_text
from workbench.core.values import ImageRef, Preprocess, Problem
from workbench.data.decoder import Decoder

LIMIT_BYTES = 4_000_000_000
_EVERY = 64


def decoded(images: Sequence[ImageRef], p: Preprocess, ctx: Context) -> tuple[np.ndarray, tuple[int, ...]]:
    """All pictures as one array, decoded in the guarded process the first time and read from the cache afterwards.

    A picture that cannot be decoded any more leaves zeros and a ``Problem`` among the context's events; an array with
    such rows is not kept, so that the next call tries again.

    Args:
        images: in the order of the rows.
        p: how a picture becomes pixels; mean and std do not matter here.
        ctx: told of the progress; its ``check`` is heard within a tenth of a second.

    Returns:
        Read-only uint8 ``[n, size, size, C]``, and the indices of the rows that failed.

    Raises:
        StorageError: the cache cannot be written.
        JobCancelledError: the person asked to stop.
    """
    shape = (len(images), p.size, p.size, p.depth)
    if not images:
        return np.zeros(shape, np.uint8), ()
    folder = cache_home() / "decoded"
    path = folder / f"{_digest(images, p)}.npy"
    if (known := _opened(path, shape)) is not None:
        with contextlib.suppress(OSError):
            os.utime(path)  # the age that eviction goes by
        return known, ()
    ctx.status("Decoding pictures")
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp", ".decoding-", folder)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            failed = _write(file, images, p, shape, ctx)
        _make_room(folder, LIMIT_BYTES)
        if failed:
            # Mapped and then without a name: it lives as long as somebody reads it.
            array = np.load(temporary, mmap_mode="r")
            return array, failed
        with contextlib.suppress(PermissionError):  # another process has just made and opened the same file
            temporary.replace(path)
        array = np.load(path, mmap_mode="r")
        return array, ()
    except OSError as error:
        raise StorageError(
            f"The decoded pictures were not written to {folder}",
            f"{error.strerror or error}; they take {len_text(int(np.prod(shape)))}",
            "Free some space or set WORKBENCH_HOME to another disk",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _digest(images: Sequence[ImageRef], p: Preprocess) -> str:
    h = hashlib.sha256(p.pixel_digest.encode())
    for image in images:
        h.update(image.sha256.encode())
    return h.hexdigest()[:32]


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The kept array, or ``None`` where there is none that is whole."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        whole = path.stat().st_size == array.offset + array.nbytes if isinstance(array, np.memmap) else False
    except (OSError, ValueError, EOFError):
        return None
    if not whole or array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        return None
    return array


def _write(
    file: BinaryIO, images: Sequence[ImageRef], p: Preprocess, shape: tuple[int, ...], ctx: Context
) -> tuple[int, ...]:
    # Written and not mapped: a full disk is then an error and not the end of the process.
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    zeros = bytes(int(np.prod(shape[1:])))
    failed = []
    with Decoder(min(2, os.cpu_count() or 1), check=ctx.check) as decoder:
        for i, (row, reason) in enumerate(decoder.pixels(images, p)):
            if row is None:
                failed.append(i)
                where = display(images[i].path) + (f" ({display(images[i].member)})" if images[i].member else "")
                ctx.event(Problem(where, reason, "warning"))
            file.write(zeros if row is None else row.data)
            if i % _EVERY == 0:
                ctx.progress(i + 1, len(images), "images")
    ctx.progress(len(images), len(images), "images")
    return tuple(failed)


def _make_room(folder: Path, limit: int) -> None:
    """Remove the arrays that were not used for longest until the rest fits; half-made ones of a day ago go as well."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            about = path.stat()
            if path.suffix == ".tmp" and about.st_mtime < time.time() - 86_400:
                path.unlink()
                continue
            files.append((about.st_mtime, about.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > limit and path.suffix == ".npy":
            with contextlib.suppress(OSError):
                path.unlink()
