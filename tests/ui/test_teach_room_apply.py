"""Out of the Teach room: labels saved, a folder predicted, looked through, stopped, written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtTest import QTest
from shiboken6 import Shiboken

from tests.ui import test_teach_room as base
from tests.ui.test_teach_room import drop, files, fill, picture, ref, settle
from workbench.core.teach import NONE
from workbench.core.values import ClassId, Prediction, Problem
from workbench.services import jobs
from workbench.services.requests import Applied, ApplyRequest
from workbench.ui.rooms.teach.apply_dialog import ApplyDialog

fake, room, taught = base.fake, base.room, base.taught


class FakeApply:
    """Stands for ``jobs.save_taught`` and ``jobs.apply``."""

    def __init__(self) -> None:
        self.saved: list[Path] = []
        self.requests: list[ApplyRequest] = []
        self.go = threading.Event()
        self.go.set()
        self.problems: tuple[Problem, ...] = ()

    def save(self, request, project: Path, out: Path, ctx) -> Path:
        out.mkdir(parents=True)
        self.saved.append(out)
        return out

    def apply(self, request: ApplyRequest, project: Path, ctx) -> Applied:
        assert Path(request.model).is_dir()
        self.requests.append(request)
        ctx.status("Predicting")
        ctx.progress(3, 10, "images")
        while not self.go.wait(0.005):
            ctx.check()
        if request.csv:
            Path(request.csv).write_text("image,class\n")
        rows = tuple(
            Prediction(ref(k), (0.95, 0.05) if k % 2 else (0.35, 0.25), 0.4 if k == 0 else 0.0, k == 0, ())
            for k in range(10)
        )
        return Applied(("class 0", "class 1"), rows, self.problems, request.csv, 0.1)


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> FakeApply:
    made = FakeApply()
    monkeypatch.setattr(jobs, "save_taught", made.save)
    monkeypatch.setattr(jobs, "apply", made.apply)
    return made


@pytest.fixture
def dialog(room, out, qtbot) -> Iterator[ApplyDialog]:
    fill(room.state)
    settle(room, qtbot)
    room.deeds.label([ref(3).sha256], ClassId("id1"))
    room.deeds.label([ref(4).sha256], NONE)
    settle(room, qtbot)
    QTest.mouseClick(room.apply_button, Qt.MouseButton.LeftButton)
    made = room.findChild(ApplyDialog)
    assert made is not None
    assert made.isVisible()
    yield made
    if Shiboken.isValid(made) and made.isVisible():
        made.reject()
    qtbot.waitUntil(lambda: not room.state.lanes.busy("files"))


def names(dialog: ApplyDialog) -> list[str]:
    return [dialog.rows.class_name(p) for p in dialog.rows.shown()]


def test_a_folder_dropped_on_the_dialog_is_predicted_with_what_is_taught(dialog, out, qtbot, tmp_path) -> None:
    drop(dialog.target, files(tmp_path))
    qtbot.waitUntil(lambda: dialog.job is None)
    assert out.requests[0].paths == (str(tmp_path),)
    assert len(out.saved) == 1
    assert out.saved[0].parent.name == "models"
    assert dialog.rows.rowCount() == 10
    assert dialog.count.text() == "10 pictures"
    assert dialog.isVisible()


def test_what_a_person_said_stands_in_the_table_and_in_what_is_asked(dialog, out, qtbot, tmp_path) -> None:
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: dialog.job is None)
    human = dict(out.requests[0].labels)
    assert human[ref(3).sha256] == "class 1"
    assert human[ref(4).sha256] == "none of these"
    assert names(dialog)[3] == "class 1", "the model says class 0"
    assert dialog.rows.data(dialog.rows.index(3, 3)) == "you"
    assert dialog.rows.data(dialog.rows.index(5, 3)) == "model"
    assert names(dialog)[4] == "none of these"


def test_the_filters(dialog, qtbot, tmp_path) -> None:
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: dialog.job is None)
    dialog.only.setCurrentIndex(dialog.only.findText("None of these"))
    assert names(dialog) == ["none of these", "none of these"]
    dialog.only.setCurrentIndex(dialog.only.findText("class 0"))
    assert len(names(dialog)) == 7
    dialog.surest.setCurrentIndex(dialog.surest.findText("At most 0.50"))
    assert [round(dialog.rows.probability(p), 2) for p in dialog.rows.shown()] == [0.35, 0.35, 0.35]
    dialog.only.setCurrentIndex(0)
    dialog.surest.setCurrentIndex(0)
    assert len(names(dialog)) == 10


def test_stop_in_the_middle_and_start_again(dialog, out, qtbot, tmp_path) -> None:
    out.go.clear()
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: "3 / 10" in dialog.running.status.text())
    assert dialog.running.bar.value() == pytest.approx(0.3)
    dialog.start([str(tmp_path / "other")])
    assert len(out.requests) == 1, "one at a time"
    QTest.keyClick(dialog, Qt.Key.Key_Escape)
    assert dialog.isVisible(), "Escape stops first"
    qtbot.waitUntil(lambda: dialog.job is None)
    assert "Stopped" in dialog.strip.text()
    assert not dialog.target.isHidden()
    out.go.set()
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: dialog.rows.rowCount() == 10)
    assert len(out.saved) == 1, "the model is saved once"


def test_closing_in_the_middle_stops_and_removes_the_model(dialog, room, out, qtbot, tmp_path) -> None:
    out.go.clear()
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: bool(out.requests))
    dialog.reject()
    qtbot.waitUntil(lambda: not room.state.lanes.busy("files"))
    assert out.saved
    assert not out.saved[0].exists()


def test_a_csv_and_copies_are_written_by_the_service_with_the_labels(dialog, out, qtbot, tmp_path, monkeypatch) -> None:
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: dialog.job is None)
    target = tmp_path / "out.csv"
    where = "workbench.ui.rooms.teach.apply_dialog.QFileDialog"
    monkeypatch.setattr(f"{where}.getSaveFileName", lambda *_: ("", ""))
    QTest.mouseClick(dialog.csv, Qt.MouseButton.LeftButton)
    assert dialog.job is None, "given up in the chooser"
    monkeypatch.setattr(f"{where}.getSaveFileName", lambda *_: (str(target), ""))
    QTest.mouseClick(dialog.csv, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dialog.job is None)
    assert target.exists()
    assert "saved" in dialog.strip.text()
    monkeypatch.setattr(f"{where}.getExistingDirectory", lambda *_: str(tmp_path / "sorted"))
    QTest.mouseClick(dialog.copies, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dialog.job is None)
    assert out.requests[-1].copy_to == str(tmp_path / "sorted")
    assert out.requests[-1].labels == out.requests[0].labels
    assert dialog.rows.rowCount() == 10


def test_files_left_out_are_named(dialog, out, qtbot, tmp_path) -> None:
    out.problems = (Problem("/data/a/broken.png", "it is cut off", "error"),)
    dialog.start([str(tmp_path)])
    qtbot.waitUntil(lambda: dialog.job is None)
    assert dialog.strip.text() == "1 file was left out. broken.png: it is cut off"


def test_a_drag_without_files_is_not_taken(dialog) -> None:
    web = QMimeData()
    web.setUrls([QUrl("https://example.org/x")])
    assert not drop(dialog.target, web).isAccepted()
    assert dialog.job is None


# ---- labels ----------------------------------------------------------------------------------------------------------
def test_labels_are_saved_as_csv_and_as_folders(room, qtbot, tmp_path, monkeypatch) -> None:
    assert not room.save_button.isEnabled()
    drop(room.column.target, files(picture(tmp_path / "in", "a.png")))
    qtbot.waitUntil(lambda: bool(room.state.teach.classes))
    room.deeds.rename(room.state.teach.classes[0].id, "hat")
    assert room.save_button.isEnabled()
    as_csv, as_folders = room.save_menu().actions()
    where = "workbench.ui.rooms.teach.room.QFileDialog"
    monkeypatch.setattr(f"{where}.getSaveFileName", lambda *_: (str(tmp_path / "labels.csv"), ""))
    as_csv.trigger()
    qtbot.waitUntil(lambda: "were saved" in room.strip.text())
    assert ",hat,example," in (tmp_path / "labels.csv").read_text()
    monkeypatch.setattr(f"{where}.getExistingDirectory", lambda *_: str(tmp_path / "folders"))
    as_folders.trigger()
    qtbot.waitUntil(lambda: "copied" in room.strip.text())
    assert (tmp_path / "folders" / "hat" / "a.png").read_bytes() == (tmp_path / "in" / "a.png").read_bytes()
