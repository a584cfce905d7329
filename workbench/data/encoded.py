"""The encoded bytes of a picture, from a file or from a member of a zip archive that is read in place."""

from __future__ import annotations

import os
import stat
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from workbench.core.threads import at_thread_end

MAX_BYTES = 512_000_000
_HEAD = 4096
_PEEK_ABOVE = 1_000_000
_ARCHIVES = 8

# Opening an archive reads its whole list, so each thread keeps the ones it used last.
_local = threading.local()


@at_thread_end
def _close_archives() -> None:
    for _, archive in getattr(_local, "archives", {}).values():
        archive.close()
    _local.archives = OrderedDict()


def read_encoded(path: str, member: str = "", *, accept: Callable[[bytes], object] | None = None) -> bytes:
    """The bytes of a file, or of a member of the archive at ``path``.

    Args:
        path: the file system's string.
        member: name inside the archive, or "".
        accept: asked with the first 4096 bytes of a large file; where it says no, only those are read and given back.

    Raises:
        ValueError: it cannot be read; the text is one clause that fits after the file's name.
    """
    try:
        return _member(path, member, accept) if member else _file(path, accept)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise ValueError("is not there any more" if not member else "lies in an archive that is gone") from error
        raise ValueError(f"cannot be read ({(error.strerror or str(error)).lower()})") from error
    except MemoryError:
        raise ValueError("needs more memory than a picture is given") from None


def _file(path: str, accept: Callable[[bytes], object] | None) -> bytes:
    # Without blocking, so that opening a pipe that nobody writes to comes back.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        os.close(fd)
        raise ValueError("is a folder" if stat.S_ISDIR(about.st_mode) else "is not a plain file")
    with os.fdopen(fd, "rb") as file:
        if about.st_size > _PEEK_ABOVE:
            if accept is not None:
                head = file.read(_HEAD)
                if not accept(head):
                    return head
                file.seek(0)
            _refuse_large(about.st_size)
        return file.read(about.st_size)


def _member(path: str, member: str, accept: Callable[[bytes], object] | None) -> bytes:
    archive = _archive(path)
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise ValueError("is not in the archive any more") from None
    if info.flag_bits & 1:
        raise ValueError("is encrypted")
    try:
        if info.file_size > _PEEK_ABOVE:
            if accept is not None:
                with archive.open(info) as file:
                    head = file.read(_HEAD)
                if not accept(head):
                    return head
            _refuse_large(info.file_size)
        return archive.read(info)
    except NotImplementedError:
        raise ValueError("is compressed in a way that is not read here") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OverflowError) as error:
        raise ValueError("is damaged inside its archive") from error


def _refuse_large(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"is a file of {size // 1_000_000} MB, and more than {MAX_BYTES // 1_000_000} MB are not read")


def _archive(path: str) -> zipfile.ZipFile:
    """The open archive, opened anew when the file changed."""
    kept: OrderedDict[str, tuple[tuple[int, int, int], zipfile.ZipFile]] | None = getattr(_local, "archives", None)
    if kept is None:
        kept = _local.archives = OrderedDict()
    about = Path(path).stat()
    mark = (about.st_mtime_ns, about.st_size, about.st_ino)
    if path in kept:
        known, archive = kept[path]
        if known == mark:
            kept.move_to_end(path)
            return archive
        archive.close()
        del kept[path]
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, ValueError) as error:
        raise ValueError("lies in a damaged archive") from error
    kept[path] = (mark, archive)
    if len(kept) > _ARCHIVES:
        kept.popitem(last=False)[1][1].close()
    return archive
