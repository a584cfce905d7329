"""Decoded once, read many times, and never wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.pictures import write
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, StorageError
from workbench.core.values import ImageRef, Preprocess, Problem
from workbench.data import cache
from workbench.data.cache import decoded
from workbench.data.decoder import Decoder
from workbench.data.read import pixels

P = Preprocess(8, "grey", mean=(0.5,), std=(0.5,))


def refs(folder: Path, n: int) -> list[ImageRef]:
    paths = [write(folder, f"{i}.png", seed=i) for i in range(n)]
    with Decoder() as decoder:
        found = list(decoder.inspect([(str(p), "") for p in paths]))
    return [ImageRef(str(p), "", f.sha256, f.size, f.width, f.height) for p, f in zip(paths, found, strict=True)]


def files(home: Path) -> list[Path]:
    return sorted((home / "cache" / "decoded").iterdir())


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "Decoder", lambda *a, **k: pytest.fail("it was decoded again"))


def test_rows_are_the_pictures_in_order_and_the_second_time_nothing_is_decoded(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = refs(tmp_path, 20)
    ctx = Context()
    rows, failed = decoded(images, P, ctx)
    assert failed == ()
    assert rows.shape == (20, 8, 8, 1)
    assert rows.dtype == np.uint8
    for row, image in zip(rows, images, strict=True):
        assert np.array_equal(row, pixels(image, P))
    assert ctx.progress_now is not None
    assert (ctx.progress_now.done, ctx.progress_now.total) == (20, 20)
    monkeypatch.setattr(cache, "Decoder", lambda *a, **k: pytest.fail("it was decoded again"))
    again, _ = decoded(images, P, Context())
    assert isinstance(again, np.memmap)
    assert np.array_equal(rows, again)
    with pytest.raises(ValueError):
        again[0] = 0  # read-only: nobody spoils the cache
    other_mean = Preprocess(8, "grey", mean=(0.1,), std=(0.9,))
    assert np.array_equal(decoded(images, other_mean, Context())[0], rows)
    assert len(files(home)) == 1


def test_another_order_size_or_picture_is_another_file(tmp_path: Path, home: Path) -> None:
    images = refs(tmp_path, 4)
    first, _ = decoded(images, P, Context())
    turned, _ = decoded(images[::-1], P, Context())
    assert np.array_equal(first[::-1], turned)
    decoded(images[:3], P, Context())
    decoded(images, Preprocess(9, "grey", mean=(0.5,), std=(0.5,)), Context())
    assert len(files(home)) == 4


@pytest.mark.parametrize("harm", ["cut", "longer", "header", "other shape", "empty"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, home: Path, harm: str) -> None:
    images = refs(tmp_path, 5)
    good = np.array(decoded(images, P, Context())[0])
    (path,) = files(home)
    data = path.read_bytes()
    if harm == "other shape":
        np.save(path, np.zeros((5, 8, 8, 3), np.uint8))
    else:
        made = {"cut": data[:-1], "longer": data + b"x", "header": b"\0" * 20 + data[20:], "empty": b""}
        path.write_bytes(made[harm])
    rows, failed = decoded(images, P, Context())
    assert failed == ()
    assert np.array_equal(rows, good)
    assert path.read_bytes() == data


def test_a_picture_that_is_gone_leaves_zeros_a_reason_and_no_cache(tmp_path: Path, home: Path) -> None:
    images = refs(tmp_path, 6)
    Path(images[2].path).unlink()
    ctx = Context()
    rows, failed = decoded(images, P, ctx)
    assert failed == (2,)
    assert not rows[2].any()
    assert rows[3].any()
    (problem,) = ctx.take_events()
    assert problem == Problem(images[2].path, "is not there any more", "warning")
    assert files(home) == []
    write(tmp_path, "2.png", seed=2)
    assert decoded(images, P, Context())[1] == ()


def test_stopping_leaves_nothing_behind(tmp_path: Path, home: Path) -> None:
    images = refs(tmp_path, 5)
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        decoded(images, P, ctx)
    assert files(home) == []


def test_no_pictures(home: Path) -> None:
    rows, failed = decoded([], P, Context())
    assert rows.shape == (0, 8, 8, 1)
    assert failed == ()


def test_a_full_disk_is_said(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = refs(tmp_path, 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    with pytest.raises(StorageError, match="No space left on device"):
        decoded(images, P, Context())
    assert files(home) == []


def test_the_oldest_arrays_go_first_and_using_one_keeps_it(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = refs(tmp_path, 4)
    ages = {}
    for k in (1, 2, 3):
        decoded(images[:k], P, Context())
        (ages[k],) = set(files(home)) - set(ages.values())
        os.utime(ages[k], (k * 1000, k * 1000))
    decoded(images[:1], P, Context())  # used: now the youngest
    stray = home / "cache" / "decoded" / ".decoding-old.tmp"
    stray.write_bytes(b"x")
    os.utime(stray, (1000, 1000))
    monkeypatch.setattr(cache, "LIMIT_BYTES", ages[1].stat().st_size + ages[3].stat().st_size + 500)
    decoded(images, P, Context())
    left = files(home)
    assert ages[1] in left
    assert ages[2] not in left
    assert stray not in left
