"""Pretrained weights: fetched after a click, or taken from a local file. The only file that opens a connection.

A download goes on where it was cut, is checked against a published hash, and counts only then.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from workbench.core import paths, storage
from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.export import convert
from workbench.export.weights import HEADER_LIMIT, check_header

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 16
_SILENCE = 20.0
_LARGEST = 4 << 30


def weights_path(backbone: str) -> Path:
    """Where a backbone's pretrained weights are kept, whether they are there or not."""
    return paths.data_home() / "weights" / f"{backbone}.safetensors"


def download(url: str, target: Path, *, sha256: str, size: int | None, ctx: Context) -> Path:
    """Fetch one file; only ever called after a click or a flag that named size, licence and host.

    Args:
        url: https (plain http on this machine itself). Proxies of the environment are used.
        target: appears whole and checked, or not at all.
        sha256: hex digest of the file, or its first 8 characters or more.
        size: bytes, or ``None`` if not known.
        ctx: progress in bytes; cancel.

    Returns:
        The target; without any connection where it is there already and right.

    Raises:
        WorkbenchError: no connection, no such file, a broken connection (what came is kept and used next time), or
            another content than was published (it is deleted).
        JobCancelledError: asked to stop; what came is kept.
    """
    sha256 = sha256.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise ValueError("a download needs at least 8 hex digits of its hash")
    _refuse_unsafe(url)
    target = Path(target)
    if target.is_file() and _digest(target, ctx).hexdigest().startswith(sha256):
        return target
    part = target.with_name(f".{target.name}.{sha256[:16]}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        have = part.stat().st_size if part.exists() else 0
        if size is not None and have > size:
            part.unlink()
            have = 0
        _refuse_full_disk(part.parent, (size or 0) - have)
        _fetch(url, part, have, size, ctx)
        ctx.status("Checking the file")
        if not _digest(part, ctx).hexdigest().startswith(sha256):
            part.unlink()
            raise WorkbenchError(
                f"{target.name} was thrown away",
                "its content is not what was published (its hash differs)",
                "Try again; if it happens again, get the file another way and load it from disk",
            )
        storage.ops.replace(part, target)
        storage.ops.fsync_dir(target.parent)
    except OSError as error:
        raise StorageError(
            f"{target.name} was not saved", error.strerror or str(error), f"See to {paths.display(target.parent)}"
        ) from error
    return target


@dataclass(frozen=True, slots=True)
class _Start:
    """The server's answer: where its bytes begin and how many there are in all (``None``: it does not say)."""

    offset: int
    total: int | None


def _fetch(url: str, part: Path, have: int, size: int | None, ctx: Context) -> None:
    """Bring the partial file to its full length.

    The connection is read on a thread of its own, so that a cancel is honoured while the other side is silent.
    """
    host = urlsplit(url).hostname or url
    ctx.status(f"Waiting for {host}")
    if size is not None and have == size:
        return
    arrived: queue.Queue[_Start | bytes | BaseException | None] = queue.Queue(maxsize=32)
    stop = threading.Event()
    threading.Thread(target=_read, args=(url, have, arrived, stop), name="download", daemon=True).start()
    done, total = have, size
    begun, at_begin, shown = time.monotonic(), have, 0.0
    try:
        with part.open("ab") as file:
            for item in _items(arrived, ctx):
                if isinstance(item, BaseException):
                    raise _failed(item, host, done, total) from item
                if isinstance(item, _Start):
                    total = _agreed(item.total, size, host)
                    done = at_begin = item.offset
                    file.truncate(done)
                    begun = time.monotonic()
                    ctx.status(f"Downloading from {host}")
                    continue
                done += len(item)
                if done > (total or _LARGEST):
                    file.truncate(0)
                    raise _refused(f"{host} sends more than it announced")
                file.write(item)
                now = time.monotonic()
                if now - shown > 0.1:
                    shown = now
                    speed = (done - at_begin) / max(now - begun, 1e-6)
                    left = (total - done) / speed if total is not None and speed > 0 else None
                    ctx.progress(done, total, "bytes", left)
            file.flush()
            os.fsync(file.fileno())
    finally:
        stop.set()
    if total is not None and done < total:
        raise _broken(host, done, total)
    ctx.progress(done, total if total is not None else done, "bytes", 0.0)


def _items(
    arrived: queue.Queue[_Start | bytes | BaseException | None], ctx: Context
) -> Iterator[_Start | bytes | BaseException]:
    """What the reading thread hands over, until it is through; a cancel is seen within a tenth of a second."""
    while True:
        ctx.check()
        with contextlib.suppress(queue.Empty):
            item = arrived.get(timeout=0.1)
            if item is None:
                return
            yield item


def _read(
    url: str, have: int, arrived: queue.Queue[_Start | bytes | BaseException | None], stop: threading.Event
) -> None:
    """Body of the reading thread."""

    def hand(item: _Start | bytes | BaseException | None) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                arrived.put(item, timeout=0.1)
                return True
        return False

    try:
        with _open(url, have) as response:
            hand(_begin(response, have))
            while chunk := response.read1(_CHUNK):
                if not hand(chunk):
                    return
        hand(None)
    except BaseException as error:  # noqa: BLE001 - handed to the one who waits
        hand(error)


def _open(url: str, have: int) -> Any:
    """The server's answer to a request for the rest of the file (or for all of it, where it cannot do parts)."""
    import urllib.error
    import urllib.request

    class Careful(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            try:
                _refuse_unsafe(newurl)
            except WorkbenchError:
                fp.close()
                raise
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    # Built by hand: the default opener would also follow file: and ftp: addresses.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        Careful(),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": "meta-transfer-workbench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=_SILENCE)  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            error.close()
            return _open(url, 0)
        raise


def _begin(response: Any, have: int) -> _Start:
    length = response.headers.get("Content-Length", "")
    known = int(length) if length.isdigit() else None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != have:
            raise _refused("the server answered with another part of the file than was asked for")
        return _Start(have, int(match[2]) if match[2] != "*" else None if known is None else have + known)
    return _Start(0, known)


def _agreed(offered: int | None, size: int | None, host: str) -> int | None:
    if offered is not None and size is not None and offered != size:
        raise _refused(f"{host} offers {offered} bytes and the published file has {size}")
    if (offered or 0) > _LARGEST:
        raise _refused(f"{host} offers {storage.len_text(offered or 0)}, which no weights file has")
    return offered if offered is not None else size


def _refuse_unsafe(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")):
        return
    raise _refused(f"{parts.scheme or 'this'} addresses are not fetched, only https")


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WorkbenchError(
            "The file was not downloaded",
            f"it needs {storage.len_text(needed)} and the disk has {storage.len_text(free)} free",
            "Free some space, then start again",
        )


def _failed(error: BaseException, host: str, done: int, total: int | None) -> WorkbenchError:
    """One sentence for whatever went wrong on the way."""
    import http.client
    import ssl
    import urllib.error

    if isinstance(error, WorkbenchError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        known = {404: "has no such file", 410: "has no such file any more", 403: "does not give the file out"}
        known |= {401: "asks for a password", 407: "is behind a proxy that asks for a password", 429: "asks to wait"}
        code = error.code
        error.close()
        return _refused(f"{host} {known.get(code, 'could not serve it')} ({code})")
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.URLError):
        if isinstance(reason, socket.gaierror):
            return _offline(f"the host {host} was not found")
        if isinstance(reason, ssl.SSLError):
            return _offline(f"the identity of {host} could not be verified")
        if isinstance(reason, TimeoutError):
            return _offline(f"{host} did not answer within {_SILENCE:.0f} seconds")
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        return _offline(f"{host} was not reached ({text.lower()})")
    if isinstance(error, OSError | http.client.HTTPException):
        return _broken(host, done, total)
    return _refused(f"something unexpected happened ({type(error).__name__}: {str(error)[:100]})")


def _refused(why: str, first: str = "Try again later") -> WorkbenchError:
    advice = f"{first}, or get the file another way and load it from disk"
    return WorkbenchError("The file was not downloaded", why, advice)


def _offline(why: str) -> WorkbenchError:
    return _refused(why, "Check the connection")


def _broken(host: str, done: int, total: int | None) -> WorkbenchError:
    amount = f"{storage.len_text(done)} of {storage.len_text(total)}" if total else storage.len_text(done)
    return WorkbenchError(
        "The download was cut", f"the connection to {host} broke at {amount}", "Start it again; it goes on from there"
    )


def _digest(path: Path, ctx: Context) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            ctx.check()
            digest.update(block)
    return digest


def load_weights_file(path: Path, ctx: Context) -> dict[str, Tensor]:
    """The tensors of a local weights file by name.

    A ``.safetensors`` file is read here. A ``.pth`` or ``.pt`` file is a pickle: a process of its own turns it into
    safetensors first (tensors only, no network, limited) and the result is kept in the cache.

    Raises:
        WorkbenchError: not such a file, damaged, or one that holds more than tensors.
        JobCancelledError: asked to stop.
    """
    path = Path(path)
    shown = paths.display(path.name)
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise _unread(shown, "it is neither a .safetensors nor a .pth file", "Choose a file of weights")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _unread(shown, error.strerror or str(error), "Choose another file") from error
    if size > _LARGEST:
        raise _unread(shown, f"it has {storage.len_text(size)}, more than any weights file", "Choose another file")
    ctx.check()
    if suffix == ".safetensors":
        return _load(path, shown)
    digest: str = _digest(path, ctx).hexdigest()
    cached = paths.cache_home() / "weights" / f"{digest}.safetensors"
    if cached.exists():
        with contextlib.suppress(StorageError):
            return _load(cached, shown)
    _convert(path, cached, shown, ctx)
    return _load(cached, shown)


def _load(path: Path, shown: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            check_header(file.read(8 + HEADER_LIMIT), shown)
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise StorageError(f"{shown} was not opened", f"it is damaged ({error})", "Choose another file") from error


def _convert(source: Path, target: Path, shown: str, ctx: Context) -> None:
    """Run the converting process to its end and put its file in place."""
    ctx.status("Converting the weights in a separate process")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    command = [sys.executable, "-I", str(Path(convert.__file__).resolve()), str(source.resolve()), str(temporary)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        said = b""
        try:
            while True:
                ctx.check()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said, _ = child.communicate(timeout=0.1)
                    break
        finally:
            if child.poll() is None:
                child.kill()
                child.communicate()
        answer = json.loads(said) if said.strip() else {}
        if "done" not in answer:
            why = answer.get("refused") or f"the process that reads such files ended with code {child.returncode}"
            raise _unread(shown, why, "Ask its author for a .safetensors file")
        storage.ops.replace(temporary, target)
    except OSError as error:
        raise StorageError(f"{shown} was not converted", error.strerror or str(error), "Free some space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _unread(shown: str, why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError(f"{shown} was not opened", why, what_to_do)
