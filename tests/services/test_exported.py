from __future__ import annotations

import os
from pathlib import Path

import pytest

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, StorageError
from workbench.core.values import ImageRef
from workbench.services.exported import remember, remembered
from workbench.services.requests import CheckRow, Exported, NearTie


def result(*files: Path) -> Exported:
    tie = NearTie(
        ImageRef("/pictures/q.png", "", "0" * 64, 10, 4, 4), ("hat", "shoe"), (0.4512, 0.4507), (0.4511, 0.4508)
    )
    checks = (CheckRow("Written", "garments.onnx", "0.5 MB", True),)
    return Exported(
        "onnx", tuple(map(str, files)), True, 4, 1.0, 2.1e-6, 3.4e-6, (tie,), checks,
        ((0, 0.9, 0.9), (1, 0.7, 0.7)), 500000, 6.2, str(files[0].parent) if files else "",
    )  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "exports"
    folder.mkdir()
    for name in ("garments.onnx", "run.py"):
        (folder / name).write_bytes(name.encode() * 3)
    return folder / "garments.onnx", folder / "run.py"


def test_what_was_written_is_known_again(tmp_path, files) -> None:
    ctx = Context()
    made = remember(tmp_path, "onnx", result(*files), "task", {"hat": 0, "shoe": 2}, ctx)
    assert remembered(tmp_path, ctx) == {"onnx": made}
    assert made.result == result(*files)
    assert made.task == "task"
    assert made.indices == {"hat": 0, "shoe": 2}
    assert made.at.endswith("+00:00")


def test_formats_are_kept_beside_each_other_and_replaced_by_themselves(tmp_path, files) -> None:
    ctx = Context()
    remember(tmp_path, "onnx", result(*files), "first", {}, ctx)
    remember(tmp_path, "pt2", result(files[1]), "first", {}, ctx)
    remember(tmp_path, "onnx", result(*files), "second", {}, ctx)
    assert {key: w.task for key, w in remembered(tmp_path, ctx).items()} == {"onnx": "second", "pt2": "first"}


@pytest.mark.parametrize("change", ["another", "gone", "folder"])
def test_a_file_that_is_no_longer_the_same_is_not_called_verified(tmp_path, files, change) -> None:
    ctx = Context()
    remember(tmp_path, "onnx", result(*files), "task", {}, ctx)
    remember(tmp_path, "pt2", result(files[0]), "task", {}, ctx)
    files[1].unlink()
    if change == "another":
        files[1].write_bytes(b"run.pyrun.pyrun.pz")
    elif change == "folder":
        files[1].mkdir()
    assert list(remembered(tmp_path, ctx)) == ["pt2"]


def test_a_note_without_files_vouches_for_nothing(tmp_path) -> None:
    remember(tmp_path, "onnx", result(), "task", {}, Context())
    assert remembered(tmp_path, Context()) == {}


def test_no_note_and_a_damaged_one_are_no_exports(tmp_path, files) -> None:
    assert remembered(tmp_path, Context()) == {}
    remember(tmp_path, "onnx", result(*files), "task", {}, Context())
    note = next(tmp_path.glob("*.json"))
    note.write_bytes(note.read_bytes()[:-20])
    assert remembered(tmp_path, Context()) == {}
    remember(tmp_path, "onnx", result(*files), "task", {}, Context())
    assert list(remembered(tmp_path, Context())) == ["onnx"]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text_are_found_again(tmp_path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.onnx"))
    odd.write_bytes(b"x")
    made = remember(tmp_path, "onnx", result(odd), "task", {}, Context())
    assert remembered(tmp_path, Context()) == {"onnx": made}


def test_a_file_that_cannot_be_read_is_said(tmp_path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        remember(tmp_path, "onnx", result(tmp_path / "missing.onnx"), "task", {}, Context())
    assert not list(tmp_path.glob("*.json"))


def test_reading_stops_when_asked(tmp_path, files) -> None:
    remember(tmp_path, "onnx", result(*files), "task", {}, Context())
    ctx = Context()
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        remembered(tmp_path, ctx)
