"""Small encoded pictures for the tests of this folder."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image


def blocks() -> np.ndarray:
    """Six even blocks of different colours, 16 x 24 pixels: lossy codecs keep them, and any turn of them shows."""
    colours = [[(230, 40, 30), (40, 200, 60), (30, 60, 220)], [(250, 250, 250), (10, 10, 10), (240, 220, 40)]]
    return np.repeat(np.repeat(np.array(colours, np.uint8), 8, axis=0), 8, axis=1)


def ramp() -> np.ndarray:
    """Grey 0..255, 16 x 16."""
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


def encode(image: Image.Image | np.ndarray, fmt: str, **options: Any) -> bytes:
    """The picture's file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    if fmt == "HEIF":
        heif = pillow_heif.from_pillow(image)
        heif.save(out, **options)
    else:
        image.save(out, fmt, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand, for what Pillow does not write: ``rows`` with a filter byte each."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write(folder: Path, name: str, seed: int = 0, fmt: str = "PNG") -> Path:
    """A small file with a content of its own per seed; folders are made."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (6, 5), dtype=np.uint8)
    path.write_bytes(encode(values, fmt))
    return path
