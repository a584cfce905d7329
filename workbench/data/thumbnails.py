"""Small encoded pictures for the grids, kept in one SQLite table in the cache folder. Free of Qt."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import threading
from pathlib import Path

from PIL import Image

from workbench.core.errors import WorkbenchError
from workbench.core.paths import cache_home, display
from workbench.core.values import ImageRef
from workbench.data import pixels
from workbench.data.read import read_bytes

LIMIT_BYTES = 512_000_000
_JPEG_FROM = 96  # a photo this large is a third as long in JPEG; smaller ones and drawings stay exact in PNG
_EVICT_EVERY = 64


def make(data: bytes, side: int) -> bytes:
    """A picture's bytes, scaled down to fit a square; never scaled up.

    Args:
        data: the encoded picture.
        side: of the square, pixels.

    Returns:
        JPEG for a photo, PNG for the rest; upright.

    Raises:
        ValueError: it cannot be decoded; the text is one clause.
    """
    image = pixels.open_header(data)
    photo = image.format in ("JPEG", "MPO", "HEIF", "AVIF", "WEBP") and side >= _JPEG_FROM
    # Twice the side, so that the last step down is still a proper average.
    image.draft(None, (2 * side, 2 * side))
    small = pixels.finish(image, data)
    if small is image:
        small = small.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.info = {}
    if photo and max(small.size) >= _JPEG_FROM:
        small.save(out, "JPEG", quality=85)
    else:
        small.save(out, "PNG", compress_level=3)
    return out.getvalue()


def thumbnail(image: ImageRef, side: int) -> bytes:
    """The picture within ``side`` x ``side`` pixels, upright, as PNG or JPEG bytes.

    Raises:
        WorkbenchError: it cannot be read or decoded.
    """
    try:
        return make(read_bytes(image), side)
    except ValueError as error:
        raise WorkbenchError(
            f"{display(image.path)} has no thumbnail", f"it {error}", "Choose another picture or mend this one"
        ) from error


class ThumbnailStore:
    """Thumbnails by content hash and side, in one file that may be deleted at any time. Safe to use from any thread.

    Args:
        path: of the SQLite file; by default in the cache folder.
        limit: bytes that the file may take; beyond it the oldest thumbnails go.
    """

    def __init__(self, path: Path | None = None, limit: int = LIMIT_BYTES) -> None:
        self._path = path or cache_home() / "thumbnails.sqlite"
        self._limit = limit
        self._lock = threading.Lock()
        self._puts = 0
        self._db: sqlite3.Connection | None = None

    def get(self, image: ImageRef, side: int) -> bytes | None:
        """The kept thumbnail, or ``None``."""
        with self._lock:
            try:
                found = self._open().execute(
                    "SELECT bytes FROM thumbnails WHERE sha256 = ? AND side = ?", (image.sha256, side)
                )
                row = found.fetchone()
            except sqlite3.OperationalError:  # locked by another process, or the disk is gone
                return None
            except sqlite3.DatabaseError:
                self._start_anew()
                return None
        return bytes(row[0]) if row else None

    def put(self, image: ImageRef, side: int, data: bytes) -> None:
        """Keep a thumbnail; a full or read-only disk only means that it is made again next time."""
        with self._lock:
            try:
                db = self._open()
                db.execute("INSERT OR REPLACE INTO thumbnails VALUES (?, ?, ?)", (image.sha256, side, data))
                self._puts += 1
                if self._puts % _EVICT_EVERY == 0:
                    self._evict(db)
            except sqlite3.OperationalError:
                return
            except sqlite3.DatabaseError:
                self._start_anew()

    def thumbnail(self, image: ImageRef, side: int) -> bytes:
        """The kept thumbnail, or a new one, which is then kept.

        Raises:
            WorkbenchError: it cannot be read or decoded.
        """
        data = self.get(image, side)
        if data is None:
            data = thumbnail(image, side)
            self.put(image, side, data)
        return data

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=2.0, isolation_level=None, check_same_thread=False)
            try:
                # A cache: what a power cut takes is made again.
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = OFF")
                db.execute(
                    "CREATE TABLE IF NOT EXISTS thumbnails"
                    " (sha256 TEXT NOT NULL, side INTEGER NOT NULL, bytes BLOB NOT NULL, UNIQUE (sha256, side))"
                )
            except sqlite3.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def _evict(self, db: sqlite3.Connection) -> None:
        pages, free, length = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * length > self._limit:
            db.execute(
                "DELETE FROM thumbnails WHERE rowid IN"
                " (SELECT rowid FROM thumbnails ORDER BY rowid LIMIT (SELECT 1 + COUNT(*) / 4 FROM thumbnails))"
            )

    def _start_anew(self) -> None:
        """Drop a damaged file; the next call makes a new one."""
        if self._db is not None:
            self._db.close()
            self._db = None
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()
