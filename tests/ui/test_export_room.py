from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QApplication, QPushButton, QTextBrowser, QWidget

from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.teach import AddClass, TeachTask
from workbench.core.values import ClassId
from workbench.services import jobs
from workbench.services.requests import CheckRow, Exported, NearTie
from workbench.ui import icons
from workbench.ui.rooms.export.agreement import lines
from workbench.ui.rooms.export.room import ExportRoom, hash_of, when

from .conftest import FakeProject
from .test_state import image

CHECKS = (
    CheckRow("Written", "garments.onnx", "0.5 MB", True),
    CheckRow("Loaded in a clean process", "onnxruntime, no PyTorch in it", "1.4 s", True),
    CheckRow("Same top class", "two best differ by more than 0.001", "3 / 3", True),
    CheckRow("Near-ties listed", "two best within 0.001", "1", True),
)


def exported(format_: str = "onnx") -> Exported:
    tie = NearTie(image("q"), ("hat", "shoe"), (0.4512, 0.4507), (0.4511, 0.4508))
    return Exported(
        format_, ("/out/garments.onnx", "/out/run.py"), True, 4, 1.0, 2.1e-6, 3.4e-6, (tie,), CHECKS,
        ((0, 0.9, 0.9), (1, 0.7, 0.7)), 500000, 6.2, "/out",
    )  # fmt: skip


def picture(of: QAbstractButton) -> QImage:
    return of.icon().pixmap(of.iconSize()).toImage()


def drawn(name: str) -> QImage:
    like = QPushButton("Go")
    icons.set_icon(like, name, 16, "accent_text")
    return picture(like)


@pytest.fixture
def taught(state):
    for i, name in enumerate(("hat", "shoe", "skirt")):
        state.edit(AddClass(ClassId(f"c{i}"), name, (image(name),)))
    return state


@pytest.fixture
def room(taught, qtbot, monkeypatch):
    monkeypatch.setattr(jobs, "save_taught", lambda request, project, model, ctx: model)
    made = ExportRoom(taught)
    qtbot.addWidget(made)
    made.resize(1364, 800)
    made.show()
    return made


def test_says_to_teach_first(state, qtbot):
    made = ExportRoom(state)
    qtbot.addWidget(made)
    assert not made.ready()
    assert made.primary.isHidden()
    with qtbot.waitSignal(state.room_changed) as gone:
        made._places.widget(0).findChild(type(made.primary)).click()
    assert gone.args == ["teach"]
    state.edit(AddClass(ClassId("a"), "hat", (image("a"),)))
    assert not made.ready()
    state.edit(AddClass(ClassId("b"), "shoe", (image("b"),)))
    assert made.ready()
    assert not made.primary.isHidden()


def test_checks_are_ticked_while_it_runs(room, taught, qtbot, monkeypatch):
    asked, gate = [], threading.Event()

    def export(request, project, ctx):
        asked.append((request, project))
        ctx.status("Writing the file")
        ctx.event(CHECKS[0])
        assert gate.wait(10)
        return exported(request.format)

    monkeypatch.setattr(jobs, "export", export)
    qtbot.mouseClick(room.primary, Qt.MouseButton.LeftButton)
    assert room.primary.text() == "Stop"
    assert picture(room.primary) == drawn("stop")
    rows = room.verification.rows
    qtbot.waitUntil(lambda: not rows["Written"].waits)
    assert rows["Same top class"].waits
    assert room.verification.chip.text() == "Running"
    gate.set()
    qtbot.waitUntil(lambda: room.primary.text() == "Export again")
    assert picture(room.primary) == drawn("export")
    assert room.verification.chip.text() == "Passed"
    assert list(room.verification.rows) == [c.name for c in CHECKS]
    assert room.cards.cards["onnx"].state().startswith("verified")
    assert room.cards.cards["bundle"].state() == "not written yet"
    request, project = asked[0]
    assert request.format == "onnx"
    assert project == taught.project_path
    assert request.out == str(taught.project_path / "exports" / "garments")
    assert "2 pictures" in room.agreement.scatter.accessibleName()
    assert '"garments.onnx"' in room.usage.code.code()


def test_a_refusal_is_said_and_nothing_counts_as_written(room, qtbot, monkeypatch):
    def export(request, project, ctx):
        ctx.event(CheckRow("Same probabilities", "largest difference", "0.1", False))
        raise WorkbenchError("garments.onnx was not written", "it answers otherwise", "Use another format")

    monkeypatch.setattr(jobs, "export", export)
    room.export()
    qtbot.waitUntil(room.strip.isVisible)
    assert room.verification.chip.text() == "Refused"
    assert "it answers otherwise" in room.strip.text()
    assert "failed" in room.verification.rows["Same probabilities"].accessibleName()
    assert room.cards.cards["onnx"].state() == "not written yet"
    assert room.primary.text() == "Export"


def test_stop_ends_it(room, qtbot, monkeypatch):
    def export(request, project, ctx):
        while True:
            ctx.check()

    monkeypatch.setattr(jobs, "export", export)
    room.export()
    job = room._job
    qtbot.waitUntil(lambda: job.state == "running")
    room.export_or_stop()
    qtbot.waitUntil(lambda: job.over)
    assert room.primary.text() == "Export"
    with pytest.raises(JobCancelledError):
        job.ctx.check()


def test_a_later_edit_marks_the_file_as_out_of_date(room, taught, qtbot, monkeypatch):
    monkeypatch.setattr(jobs, "export", lambda request, project, ctx: exported())
    room.export()
    qtbot.waitUntil(lambda: room.primary.text() == "Export again")
    taught.edit(AddClass(ClassId("c9"), "dress", (image("d"),)))
    assert room.cards.cards["onnx"].state() == "taught since"
    taught.undo()
    assert room.cards.cards["onnx"].state().startswith("verified")


def written(folder: Path) -> Exported:
    """An export whose file really lies there."""
    folder.mkdir(exist_ok=True)
    file = folder / "garments.onnx"
    file.write_bytes(b"weights")
    return replace(exported(), files=(str(file),), folder=str(folder))


def begun_again(taught, qtbot) -> ExportRoom:
    """The room as the next start builds it."""
    made = ExportRoom(taught)
    qtbot.addWidget(made)
    made.show()
    qtbot.waitUntil(lambda: not taught.lanes.busy("files"))
    return made


def test_what_was_verified_is_known_after_a_restart(room, taught, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "export", lambda request, project, ctx: written(tmp_path / "out"))
    room.export()
    qtbot.waitUntil(lambda: room.primary.text() == "Export again" and not taught.lanes.busy("files"))
    again = begun_again(taught, qtbot)
    assert again.cards.cards["onnx"].state().startswith("verified")
    assert again.cards.cards["bundle"].state() == "not written yet"
    assert again.primary.text() == "Export again"
    assert again.verification.chip.text() == "Passed"
    assert "2 pictures" in again.agreement.scatter.accessibleName()
    taught.edit(AddClass(ClassId("c9"), "dress", (image("d"),)))
    assert again.cards.cards["onnx"].state() == "taught since"


def test_a_file_changed_since_is_not_called_verified(room, taught, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "export", lambda request, project, ctx: written(tmp_path / "out"))
    room.export()
    qtbot.waitUntil(lambda: room.primary.text() == "Export again" and not taught.lanes.busy("files"))
    (tmp_path / "out" / "garments.onnx").write_bytes(b"other")
    again = begun_again(taught, qtbot)
    assert again.cards.cards["onnx"].state() == "not written yet"
    assert again.verification.chip.text() == "Not yet"


def test_another_project_has_exports_of_its_own(room, taught, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "export", lambda request, project, ctx: written(tmp_path / "out"))
    room.export()
    qtbot.waitUntil(lambda: room.primary.text() == "Export again" and not taught.lanes.busy("files"))
    teach, other = taught.teach, tmp_path / "other"
    other.mkdir()
    project = FakeProject("Other")
    for c in teach.classes:
        project.edit(AddClass(c.id, c.name, c.images))
    taught.set_project(project, other)
    qtbot.waitUntil(lambda: not taught.lanes.busy("files"))
    assert room.cards.cards["onnx"].state() == "not written yet"


@pytest.mark.parametrize(
    ("at", "said"), [("2026-03-05T13:02:00+00:00", "14:02"), ("2026-03-04T13:02:00+00:00", "4 Mar")]
)
def test_the_time_of_an_export_is_told_by_the_clock_on_the_wall(at, said):
    assert when(at, datetime(2026, 3, 5, 20, tzinfo=timezone(timedelta(hours=1)))) == said


@pytest.mark.parametrize("width", [968, 1123, 1124, 1204, 1343, 1344])
def test_nothing_is_cut_off_beside_a_scroll_bar(taught, qtbot, monkeypatch, width):
    monkeypatch.setattr(jobs, "save_taught", lambda request, project, model, ctx: model)
    monkeypatch.setattr(jobs, "export", lambda request, project, ctx: exported())
    frame = QWidget()  # as in the window, whose smallest size is its own
    qtbot.addWidget(frame)
    frame.resize(width, 560)
    room = ExportRoom(taught, frame)
    room.setGeometry(frame.rect())
    frame.show()
    room.export()
    qtbot.waitUntil(lambda: room.primary.text() == "Export again")
    assert room.width() == width
    whole = room._places.currentWidget()
    assert whole.minimumSizeHint().width() <= whole.width()
    for area in (room._left, room._right):
        qtbot.waitUntil(area.verticalScrollBar().isVisible)
        assert area.widget().width() <= area.viewport().width()
        for part in area.widget().findChildren(QWidget):
            if part.isVisible():
                right = part.mapTo(area.widget(), part.rect().topRight()).x()
                assert right < area.viewport().width(), part.accessibleName()


def test_lines_of_code_break_where_there_is_no_room_for_them(room, qtbot):
    lines_ = room.usage.code.findChild(QTextBrowser)
    document = lines_.document()
    for width in (400, 150):
        lines_.setFixedWidth(width)
        qtbot.waitUntil(lambda width=width: lines_.viewport().width() <= width)
        qtbot.waitUntil(lambda: document.idealWidth() <= lines_.viewport().width() + 1)
        qtbot.waitUntil(lambda: lines_.viewport().height() >= document.size().height() - 1)
    lines_.selectAll()
    lines_.copy()
    assert QApplication.clipboard().text() == room.usage.code.code(), "what breaks on the screen does not when copied"


def test_formats_by_keyboard(room, qtbot):
    cards = room.cards
    cards.cards["onnx"].setFocus()
    QTest.keyClick(cards.cards["onnx"], Qt.Key.Key_Down)
    assert cards.value() == "safetensors"
    QTest.keyClick(cards.cards["safetensors"], Qt.Key.Key_Up)
    QTest.keyClick(cards.cards["bundle"], Qt.Key.Key_Return)
    assert cards.value() == "bundle"
    assert "run.py photo.jpg" in room.usage.code.code()
    assert "chosen" in cards.cards["bundle"].accessibleName()


def test_copy_as_command(room, qtbot):
    qtbot.mouseClick(room.command, Qt.MouseButton.LeftButton)
    said = QApplication.clipboard().text()
    assert said.startswith("workbench export ")
    assert "--format onnx" in said
    from workbench.cli.parser import parse

    arguments = parse(said.split()[1:])
    assert arguments.command == "export"
    assert arguments.format == "onnx"


def test_copy_the_lines(room, qtbot):
    qtbot.mouseClick(room.usage.copy, Qt.MouseButton.LeftButton)
    assert QApplication.clipboard().text().splitlines()[0] == "import onnxruntime as ort"


@pytest.mark.parametrize("format_", ["onnx", "safetensors", "pt2"])
def test_the_lines_are_python(format_):
    code = lines(format_, "x" + {"onnx": ".onnx", "safetensors": ".safetensors", "pt2": ".pt2"}[format_])
    compile(code, format_, "exec")


@pytest.mark.parametrize("together", [False, True])
def test_queries_make_an_export_old_only_where_they_helped_to_adapt(together: bool) -> None:
    def state(*queries: str) -> SimpleNamespace:
        task = TeachTask(queries=tuple(image(n) for n in queries))
        return SimpleNamespace(teach=task, result=SimpleNamespace(together=together))

    assert (hash_of(state("a", "b")) == hash_of(state("a"))) is not together  # type: ignore[arg-type]
    assert hash_of(state("a", "b")) == hash_of(state("b", "a"))  # type: ignore[arg-type]
