"""One picture at a time."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.data.pictures import blocks, encode, write
from workbench.core.errors import WorkbenchError
from workbench.core.values import Preprocess
from workbench.data import encoded, read
from workbench.data.decoder import Decoder


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    yield
    read.release()


def test_a_file_and_the_same_picture_in_an_archive_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(blocks(), "JPEG"))
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        z.write(path, "inner/a.jpg")
    one, two = read.image_ref(str(path)), read.image_ref(str(archive), "inner/a.jpg")
    assert one.sha256 == two.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (one.width, one.height, one.size) == (two.width, two.height, two.size) == (24, 16, path.stat().st_size)
    assert read.read_bytes(two) == path.read_bytes()
    for p in (Preprocess(20), Preprocess(9, "grey", "pad", "lanczos", (0.5,), (0.5,))):
        here = read.pixels(one, p)
        assert here.shape == (p.size, p.size, p.depth)
        assert here.dtype == np.uint8
        assert np.array_equal(here, read.pixels(two, p))
        with Decoder() as decoder:
            ((there, _),) = decoder.pixels([two], p)
        assert there is not None
        assert np.array_equal(here, there)


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    assert read.image_ref("a.png").path == str(tmp_path / "a.png")


def test_a_name_that_is_not_utf8_is_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xff.png")
    path = str(tmp_path / name)
    Path(path).write_bytes(encode(blocks(), "PNG"))
    ref = read.image_ref(path)
    assert ref.path == path
    assert read.pixels(ref, Preprocess(16)).shape == (16, 16, 3)


def test_pasted_bytes(tmp_path: Path) -> None:
    data = encode(blocks(), "PNG")
    ref = read.image_ref_from_bytes(data, str(tmp_path / "blob"))
    assert (ref.width, ref.height, ref.size, ref.sha256) == (24, 16, len(data), hashlib.sha256(data).hexdigest())
    with pytest.raises(WorkbenchError, match="ends early"):
        read.image_ref_from_bytes(data[:-30], "blob")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: None, "is not there any more"),
        (lambda p: p.write_bytes(b""), "it is empty"),
        (lambda p: p.write_text("hello"), "it is not a picture"),
        (lambda p: p.mkdir(), "it is a folder"),
        (os.mkfifo, "it is not a plain file"),
    ],
)
def test_refusals(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "x.png"
    make(path)  # type: ignore[operator]
    with pytest.raises(WorkbenchError) as caught:
        read.image_ref(str(path))
    assert why in caught.value.why
    assert "x.png" in caught.value.what_happened


def test_a_changed_or_removed_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.png", seed=1)
    ref = read.image_ref(str(path))
    write(tmp_path, "a.png", seed=2)
    with pytest.raises(WorkbenchError, match="was changed since it was loaded"):
        read.pixels(ref, Preprocess(8))
    path.unlink()
    with pytest.raises(WorkbenchError, match="is not there any more"):
        read.read_bytes(ref)


def test_large_files_are_refused_unread_and_other_large_files_are_only_peeked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(3_000_000)
    assert len(encoded.read_encoded(str(path), accept=lambda head: False)) == 4096
    assert len(encoded.read_encoded(str(path), accept=lambda head: True)) == 3_000_000
    monkeypatch.setattr(encoded, "MAX_BYTES", 2_000_000)
    with pytest.raises(ValueError, match="more than 2 MB are not read"):
        encoded.read_encoded(str(path))


def test_an_archive_is_kept_open_per_thread_and_opened_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.zip"

    def fill(text: bytes) -> None:
        with zipfile.ZipFile(archive, "w") as z:
            z.writestr("x", text)
        os.utime(archive, ns=(len(text), len(text)))

    opened = []
    real = zipfile.ZipFile
    fill(b"one")
    monkeypatch.setattr(encoded.zipfile, "ZipFile", lambda p: opened.append(p) or real(p))
    for _ in range(3):
        assert encoded.read_encoded(str(archive), "x") == b"one"
    assert len(opened) == 1
    other = []
    thread = threading.Thread(target=lambda: other.append(encoded.read_encoded(str(archive), "x")))
    thread.start()
    thread.join()
    assert other == [b"one"]
    assert len(opened) == 2
    monkeypatch.setattr(encoded.zipfile, "ZipFile", real)
    fill(b"three")
    assert encoded.read_encoded(str(archive), "x") == b"three"
    with pytest.raises(ValueError, match="is not in the archive any more"):
        encoded.read_encoded(str(archive), "y")


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("x.png", encode(blocks(), "PNG"))
    data = bytearray(archive.read_bytes())
    data[60] ^= 1
    archive.write_bytes(data)
    with pytest.raises(WorkbenchError, match="is damaged inside its archive"):
        read.image_ref(str(archive), "x.png")
