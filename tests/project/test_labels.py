from __future__ import annotations

import csv
import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.project.material import written
from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.teach import NONE, TeachTask
from workbench.core.values import ClassId, ImageRef, TaskClass
from workbench.project.labels import class_folders, folder_names, labels_csv, safe_cell

A, B = ClassId("a"), ClassId("b")


def _task(folder: Path) -> TeachTask:
    pictures = [written(folder / f"f{n % 2}", f"{n // 2}.png", bytes([n]) * 9) for n in range(6)]
    return TeachTask(
        (TaskClass("shorts", (pictures[0], pictures[1]), A), TaskClass("=shirts", (), B)),
        tuple(pictures[2:]),
        {pictures[2].sha256: A, pictures[3].sha256: B, pictures[4].sha256: NONE},
    )


def _rows(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))


def test_the_csv_holds_what_a_person_said_and_nothing_else(tmp_path: Path) -> None:
    task = _task(tmp_path)
    header, *rows = _rows(labels_csv(task))
    assert header == ["image", "member", "class", "kind", "sha256"]
    pictures = [*task.classes[0].images, *task.queries]
    assert rows == [
        [pictures[0].path, "", "shorts", "example", pictures[0].sha256],
        [pictures[1].path, "", "shorts", "example", pictures[1].sha256],
        [pictures[2].path, "", "shorts", "label", pictures[2].sha256],
        [pictures[3].path, "", "'=shirts", "label", pictures[3].sha256],
        [pictures[4].path, "", "none of these", "label", pictures[4].sha256],
    ]


def test_odd_paths_are_one_row_each() -> None:
    odd = ImageRef(os.fsdecode(b'/a/\xff\n",x.png'), "m\r\n=1", "0" * 64, 1, 1, 1)
    rows = _rows(labels_csv(TeachTask((TaskClass('caf\u00e9, "quoted"', (odd,), A),))))
    assert rows[1] == ['/a/\\xff\\x0a",x.png', "m\\x0d\\x0a=1", 'caf\u00e9, "quoted"', "example", "0" * 64]


@pytest.mark.parametrize(
    "cell",
    [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t=1",
        "\r=1",
        " =1",
        "\u00a0=1",
        "\u3000=1",
        "\uff0b1",
        "\uff20x",
        "=cmd|' /C calc'!A0",
    ],
)
def test_formulas_are_defused(cell: str) -> None:
    assert safe_cell(cell) == "'" + cell


@pytest.mark.parametrize("cell", ["", "rust", "a=1", "1-2", "/a/=b", "\u5b57"])
def test_plain_cells_stay(cell: str) -> None:
    assert safe_cell(cell) == cell


def test_copies_are_sorted_and_the_originals_stay(tmp_path: Path) -> None:
    task = _task(tmp_path / "data")
    target = tmp_path / "out"
    assert class_folders(task, target) == (5, ())
    found = {str(p.relative_to(target)): p.read_bytes()[0] for p in target.rglob("*") if p.is_file()}
    assert found == {
        "shorts/0.png": 0,
        "shorts/0 (2).png": 1,
        "shorts/1.png": 2,
        "=shirts/1.png": 3,
        "none of these/2.png": 4,
    }
    assert all(Path(i.path).exists() for i in (*task.classes[0].images, *task.queries))
    (target / "shorts" / "own.txt").write_bytes(b"mine")
    class_folders(task, target)
    assert (target / "shorts" / "own.txt").read_bytes() == b"mine"
    assert (target / "shorts" / "1.png").read_bytes() == bytes([2]) * 9
    assert not (target / "shorts" / "1 (2).png").exists(), "the same export twice gives the same files"


def test_members_of_archives_are_copied_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as z:
        z.writestr("x/a.png", b"picture")
    plain = written(tmp_path, "b.png", b"picture")
    inside = replace(plain, path=str(tmp_path / "set.zip"), member="x/a.png")
    assert class_folders(TeachTask((TaskClass("shorts", (inside,), A),)), tmp_path / "out") == (1, ())
    assert (tmp_path / "out" / "shorts" / "a.png").read_bytes() == b"picture"


def test_pictures_that_changed_or_went_are_listed_with_the_reason(tmp_path: Path) -> None:
    task = _task(tmp_path / "data")
    first, second = task.classes[0].images
    Path(first.path).write_bytes(b"another")
    Path(second.path).unlink()
    copied, problems = class_folders(task, tmp_path / "out")
    assert copied == 3
    assert [p.path for p in problems] == [first.path, second.path]
    assert "was changed since it was loaded" in problems[0].reason
    assert "not there any more" in problems[1].reason


def test_nothing_to_copy_and_cancel(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="no picture is labelled"):
        class_folders(TeachTask((TaskClass("a", (), A),)), tmp_path / "out")
    ctx = Context()
    class_folders(_task(tmp_path / "data"), tmp_path / "out", ctx)
    assert ctx.progress_now is not None
    assert (ctx.progress_now.done, ctx.progress_now.total) == (5, 5)
    ctx.cancel()
    with pytest.raises(JobCancelledError):
        class_folders(_task(tmp_path / "data"), tmp_path / "other", ctx)
    assert not (tmp_path / "other").exists()


def test_folders_that_every_file_system_takes() -> None:
    names = ["con", "Nul.txt", "a.", "a", "A ", "a:b", "caf\u00e9", "cafe\u0301", "\u5b57" * 100, "none of these"]
    folders = folder_names(names)
    assert list(folders) == names
    assert [folders[n] for n in names[:8]] == [
        "_con", "_Nul.txt", "a", "a (2)", "A (3)", "a_b", "caf\u00e9", "caf\u00e9 (2)",
    ]  # fmt: skip
    assert all(len(os.fsencode(f)) <= 210 for f in folders.values())
    assert len({f.casefold() for f in folders.values()}) == len(names)
