"""Features of pictures under a trunk that no support set changes, kept so that each is computed once.

A feature's key is (sha256 of the picture, digest of the trunk, digest of the preprocessing).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.paths import cache_home
from workbench.core.values import ImageRef, Preprocess
from workbench.data.episodes import normalise
from workbench.data.read import pixels
from workbench.learn.checkpoint import update_digest
from workbench.learn.protocol import State

_log = logging.getLogger(__name__)

Feature = npt.NDArray[np.float32]
_PIXELS_PER_BATCH = 100_000


def trunk_digest(state: State) -> str:
    """sha256 over the tensors called ``trunk.*``, learned ones and memory (running statistics) alike.

    Raises:
        ValueError: there are none.
    """
    parts = [{k: v for k, v in tensors.items() if k.startswith("trunk.")} for tensors in state]
    if not any(parts):
        raise ValueError("the state has no tensor called trunk.*")
    h = hashlib.sha256()
    for kind, tensors in zip(("learned", "memory"), parts, strict=True):
        update_digest(h, kind, tensors)
    return h.hexdigest()


def batch_size(height: int, width: int, device: str = "cpu") -> int:
    """Pictures per forward pass: a function of their size alone, so that results repeat bit for bit.

    Conv-4 takes well under half a second for as many on two cores, so that a stop is heeded in time.
    """
    size = max(4, min(256, _PIXELS_PER_BATCH // (height * width)))
    return size if device == "cpu" else 16 * size


@torch.no_grad()
def embed(trunk: nn.Module, inputs: Callable[[int, int], Tensor], count: int, batch: int, ctx: Context) -> Tensor:
    """``trunk`` of ``count`` pictures, ``[count, D]`` on the trunk's device.

    Args:
        trunk: in eval mode.
        inputs: normalised pictures from-to, ``[n, C, H, W]`` on the trunk's device.
        count: pictures in all, at least one.
        batch: pictures at a time; ``ctx.check()`` before each.
        ctx: of the job.
    """
    parts = []
    for start in range(0, count, batch):
        ctx.check()
        parts.append(trunk(inputs(start, min(start + batch, count))))
    return torch.cat(parts)


def features(
    images: Sequence[ImageRef],
    trunk: nn.Module,
    trunk_digest: str,
    p: Preprocess,
    cache: FeatureCache,
    ctx: Context,
    device: str = "cpu",
    read: Callable[[ImageRef, Preprocess], npt.NDArray[np.uint8]] = pixels,
) -> Tensor:
    """Features of pictures, from the cache where they are known.

    Args:
        images: may name a picture twice.
        trunk: in eval mode, on ``device``.
        trunk_digest: see the function of that name.
        p: how pictures become inputs.
        cache: takes the new ones.
        ctx: of the job.
        device: where the trunk is.
        read: gives a picture's pixels, for who looks at it with several trunks.

    Returns:
        ``[n, D]`` float32 on the processor, ``[0, 0]`` for no pictures.

    Raises:
        WorkbenchError: a picture cannot be read.
    """
    space = f"{trunk_digest[:32]}-{p.digest}"
    wanted = list(dict.fromkeys(i.sha256 for i in images))
    known = cache.get(space, wanted)
    by_hash = {i.sha256: i for i in images}
    missing = [by_hash[h] for h in wanted if h not in known]
    size = batch_size(p.size, p.size, device)
    for start in range(0, len(missing), size):
        some = missing[start : start + size]
        inputs = []
        for image in some:
            ctx.check()
            inputs.append(read(image, p))
        x = normalise(np.stack(inputs), p.mean, p.std).to(device)
        rows: Feature = embed(trunk, lambda i, j, x=x: x[i:j], len(some), size, ctx).float().cpu().numpy()  # type: ignore[misc]
        new = {image.sha256: row for image, row in zip(some, rows, strict=True)}
        cache.put(space, new)
        known |= new
    if not images:
        return torch.zeros(0, 0)
    return torch.from_numpy(np.stack([known[i.sha256] for i in images]))


class FeatureCache:
    """Features by space (trunk and preprocessing) and picture: newest in memory, all on disk, one file per space.

    The files may be deleted at any time. A file that cannot be read is begun again, a row whose check sum is wrong is
    computed again; a disk that is full costs speed and nothing else. Safe to use from several threads and processes.

    Args:
        root: folder; the user's cache by default.
        memory: bytes kept in memory.
        disk: bytes kept on disk; the files longest unused go first when a new one is begun.
    """

    def __init__(self, root: Path | None = None, memory: int = 256_000_000, disk: int = 2_000_000_000) -> None:
        self._root = cache_home() / "features" if root is None else root
        self._memory, self._disk = memory, disk
        self._held = 0
        self._recent: OrderedDict[tuple[str, str], Feature] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, space: str, hashes: Sequence[str]) -> dict[str, Feature]:
        """Those of the pictures whose features are known, ``[D]`` each."""
        with self._lock:
            found = {}
            for h in hashes:
                if (space, h) in self._recent:
                    self._recent.move_to_end((space, h))
                    found[h] = self._recent[space, h]
            missing = [h for h in hashes if h not in found]
            if missing:
                read = self._read(space, missing)
                self._remember(space, read)
                found |= read
            return found

    def put(self, space: str, new: Mapping[str, Feature]) -> None:
        """Keep features ``[D]`` by picture."""
        with self._lock:
            self._remember(space, new)
            self._write(space, new)

    def _remember(self, space: str, new: Mapping[str, Feature]) -> None:
        for h, feature in new.items():
            old = self._recent.pop((space, h), None)
            self._held += feature.nbytes - (0 if old is None else old.nbytes)
            # a row of its own, not a view that keeps a whole batch alive
            self._recent[space, h] = feature.copy() if feature.base is not None else feature
        while self._held > self._memory and self._recent:
            self._held -= self._recent.popitem(last=False)[1].nbytes

    def _path(self, space: str) -> Path:
        return self._root / f"{space}.sqlite"

    def _read(self, space: str, hashes: Sequence[str]) -> dict[str, Feature]:
        path = self._path(space)
        if not path.exists():
            return {}
        found = {}
        try:
            with contextlib.closing(_connect(path)) as db:
                for start in range(0, len(hashes), 500):
                    some = hashes[start : start + 500]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT image, crc, value FROM feature WHERE image IN ({marks})"  # noqa: S608 - marks only
                    for image, crc, value in db.execute(query, some):
                        if _crc(image, value) == crc:
                            found[image] = np.frombuffer(value, dtype="<f4").astype(np.float32)
            os.utime(path)
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            self._begin_again(path, error)
        return found

    def _write(self, space: str, new: Mapping[str, Feature]) -> None:
        path = self._path(space)
        try:
            if not path.exists():
                self._root.mkdir(parents=True, exist_ok=True)
                self._make_room()
            with contextlib.closing(_connect(path)) as db, db:
                rows = [(h, v := f.astype("<f4").tobytes(), _crc(h, v)) for h, f in new.items()]
                db.executemany("INSERT OR REPLACE INTO feature (image, value, crc) VALUES (?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._begin_again(path, error)

    def _begin_again(self, path: Path, error: Exception) -> None:
        # a file that is busy or a disk that is full is no reason to throw the others' work away
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            with contextlib.suppress(OSError):
                path.unlink()
        _log.warning("the feature cache %s was not used: %s", path.name, error)

    def _make_room(self) -> None:
        files = [(s.st_mtime, s.st_size, p) for p in self._root.glob("*.sqlite") if (s := p.stat())]
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= self._disk:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            held -= size


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5)
    try:
        db.execute("PRAGMA synchronous=OFF")  # a cache: what a power cut takes is computed again
        db.execute("CREATE TABLE IF NOT EXISTS feature (image TEXT PRIMARY KEY, value BLOB, crc INTEGER) WITHOUT ROWID")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _crc(image: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(image.encode()))
