"""Thumbnails: small, upright, kept."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import blocks, encode
from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef
from workbench.data import thumbnails
from workbench.data.decoder import Decoder
from workbench.data.thumbnails import ThumbnailStore, thumbnail


def keep(folder: Path, name: str, data: bytes) -> ImageRef:
    import hashlib

    (folder / name).write_bytes(data)
    return ImageRef(str(folder / name), "", hashlib.sha256(data).hexdigest(), len(data), 0, 0)


def test_a_photo_is_scaled_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = blocks().repeat(50, 0).repeat(50, 1)
    ref = keep(tmp_path, "a.jpg", encode(photo, "JPEG", exif=exif, quality=95))
    for side, fmt in ((128, "JPEG"), (48, "PNG")):
        data = thumbnail(ref, side)
        small = Image.open(io.BytesIO(data))
        assert small.format == fmt
        assert small.getexif().get(0x0112, 1) == 1
        assert max(small.size) == side
        assert small.size[0] < small.size[1]
        wanted = np.rot90(blocks(), -1)[4::8, 4::8].astype(int)
        got = np.asarray(small.convert("RGB").resize((2, 3), Image.Resampling.BOX)).astype(int)
        assert np.abs(got - wanted).max() < 25


def test_a_small_drawing_stays_exact(tmp_path: Path) -> None:
    ref = keep(tmp_path, "a.png", encode(blocks(), "PNG"))
    small = Image.open(io.BytesIO(thumbnail(ref, 100)))
    assert small.format == "PNG"
    assert np.array_equal(np.asarray(small), blocks())


def test_the_decoder_makes_the_same_ones(tmp_path: Path) -> None:
    refs = [keep(tmp_path, f"{i}.png", encode(blocks() + i, "PNG")) for i in range(3)]
    refs.append(keep(tmp_path, "bad.png", b"hello"))
    with Decoder() as decoder:
        made = list(decoder.thumbnails(refs, 12))
    assert [data for data, _ in made[:3]] == [thumbnail(r, 12) for r in refs[:3]]
    assert made[3][0] is None
    assert "not a picture" in made[3][1]


def test_a_picture_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    ref = keep(tmp_path, "a.png", encode(blocks(), "PNG")[:-30])
    with pytest.raises(WorkbenchError, match="ends early"):
        thumbnail(ref, 32)


def test_the_store_makes_each_once_and_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = keep(tmp_path, "a.png", encode(blocks(), "PNG"))
    store = ThumbnailStore()
    first = store.thumbnail(ref, 12)
    store.close()
    monkeypatch.setattr(thumbnails, "thumbnail", lambda *a: pytest.fail("it was made again"))
    again = ThumbnailStore()
    assert again.thumbnail(ref, 12) == first
    assert again.get(ref, 13) is None
    again.close()


def test_the_store_is_used_from_many_threads(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path / "t.sqlite")
    refs = [ImageRef("", "", f"{i:064x}", 0, 0, 0) for i in range(50)]
    wrong: list[object] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 50, 200).tolist():
            data = store.get(refs[i], 1)
            if data is None:
                store.put(refs[i], 1, b"%d" % i)
            elif data != b"%d" % i:
                wrong.append((i, data))

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert store.get(refs[7], 1) == b"7"
    store.close()


def test_the_store_stays_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    store = ThumbnailStore(path, limit=1_000_000)
    refs = [ImageRef("", "", f"{i:064x}", 0, 0, 0) for i in range(600)]
    for ref in refs:
        store.put(ref, 1, bytes(5000))
    assert store.get(refs[0], 1) is None
    assert store.get(refs[-1], 1) is not None
    store.close()
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_store_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.sqlite"
    path.write_bytes(content)
    ref = keep(tmp_path, "a.png", encode(blocks(), "PNG"))
    store = ThumbnailStore(path)
    first = store.thumbnail(ref, 12)
    store.put(ref, 12, first)
    assert store.get(ref, 12) == first
    store.close()


def test_a_store_that_cannot_be_written_still_gives_thumbnails(tmp_path: Path) -> None:
    ref = keep(tmp_path, "a.png", encode(blocks(), "PNG"))
    store = ThumbnailStore(tmp_path / "a.png" / "impossible.sqlite")
    assert store.thumbnail(ref, 12) == thumbnail(ref, 12)
    assert store.get(ref, 12) is None
    store.close()
