from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeySequence
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.core.teach import AddClass
from workbench.core.values import ClassId, ScanResult
from workbench.services import jobs, overview
from workbench.services.requests import Catalogue
from workbench.ui import session, theme
from workbench.ui.actions import ROOMS, table
from workbench.ui.main_window import MainWindow
from workbench.ui.state import AppState
from workbench.ui.widgets.dialogs import BugDialog, HelpDialog
from workbench.ui.widgets.palette import Palette

from .known import ATLAS, ENTRIES, NAMES, SHELF
from .test_state import image, task

BUILD_ROOMS = MainWindow.build_rooms


@pytest.fixture
def window(themed, qtbot, monkeypatch):
    monkeypatch.setattr(jobs, "load_runtime", lambda ctx: None)
    monkeypatch.setattr(jobs, "catalogue", lambda ctx: Catalogue((), ()))  # the real one loads torch
    monkeypatch.setattr(jobs, "recommend", lambda tasks, ctx: ())
    monkeypatch.setattr(jobs, "devices", lambda ctx: ())
    monkeypatch.setattr(MainWindow, "build_rooms", MainWindow.settle)  # rooms are built when they are needed
    made = MainWindow(AppState(), session.Session())
    made.state.setParent(made)
    made.show()
    made.activateWindow()
    assert QTest.qWaitForWindowActive(made)
    made.begin(paths.scratch_project())
    qtbot.waitUntil(lambda: not any(made.state.lanes.busy(lane) for lane in ("files", "loading")))
    yield made
    monkeypatch.setattr("workbench.ui.main_window._CLOSE_SECONDS", 55.0)
    made.close()
    qtbot.waitUntil(lambda: made._closed, timeout=60000)
    made.deleteLater()


def click(qtbot, widget):
    qtbot.mouseClick(widget, Qt.MouseButton.LeftButton)


def test_no_duplicate_shortcut_and_every_callback_exists(themed):
    entries = table()
    keys = [QKeySequence(e.shortcut).toString() for e in entries if e.shortcut]
    assert len(set(keys)) == len(keys)
    assert all(keys)
    assert len({e.id for e in entries}) == len(entries)
    for entry in entries:
        assert callable(getattr(MainWindow, entry.callback)), entry.id


def test_rooms_are_built_behind_the_window(window, qtbot, monkeypatch):
    monkeypatch.setattr(MainWindow, "build_rooms", BUILD_ROOMS)
    window.build_rooms()
    qtbot.waitUntil(lambda: set(window.rooms) == set(ROOMS), timeout=20000)
    assert [w for w in QApplication.topLevelWidgets() if w.isVisible()] == [window]


def test_first_page_then_sources(window, qtbot, monkeypatch):
    assert window.stack.currentWidget() is window.first
    asked = []

    def scan(folders, ctx):
        asked.extend(folders)
        ctx.event(task("a", "x", "y"))
        return ScanResult((task("a", "x", "y"),), ())

    monkeypatch.setattr(jobs, "scan", scan)
    click(qtbot, window.first.open_samples)
    assert window.stack.currentWidget() is window.rooms["sources"]
    qtbot.waitUntil(lambda: len(window.state.tasks) == 1 and not window.state.lanes.busy("files"))
    assert [Path(a).name for a in asked] == ["alphabets", "surfaces"]
    assert window.rail.items["sources"].badge() == 1


def test_dropping_a_folder_anywhere_loads_it(window, qtbot, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(jobs, "scan", lambda folders, ctx: asked.extend(folders) or ScanResult((task("a", "x"),), ()))
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path)), QUrl("https://example.org/a.png")])
    target, at = window.centralWidget(), QPoint(700, 20)
    both = Qt.DropAction.CopyAction | Qt.DropAction.LinkAction
    none = (Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    enter = QDragEnterEvent(at, both, mime, *none)
    QApplication.sendEvent(target, enter)
    assert enter.isAccepted()
    assert enter.dropAction() == Qt.DropAction.CopyAction
    QApplication.sendEvent(target, QDropEvent(QPointF(at), both, mime, *none))
    qtbot.waitUntil(lambda: bool(asked))
    assert asked == [str(tmp_path)]
    qtbot.waitUntil(lambda: not window.state.lanes.busy("files"))


def test_rooms_by_keyboard(window, qtbot):
    for number, room in enumerate(ROOMS, 1):
        QTest.keyClick(window, getattr(Qt.Key, f"Key_{number}"), Qt.KeyboardModifier.ControlModifier)
        assert window.state.room == room
        assert window.rail.items[room].isChecked()
        if room != "sources":
            assert window.stack.currentWidget() is window.rooms[room]


def test_undo_and_redo_by_keyboard_and_button(window, qtbot):
    state = window.state
    assert not window.top.undo.isEnabled()
    state.edit(AddClass(ClassId("a"), "hat"))
    assert window.top.undo.isEnabled()
    assert "hat" in window.top.undo.toolTip()
    QTest.keyClick(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert state.teach.classes == ()
    QTest.keyClick(window, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
    assert len(state.teach.classes) == 1
    click(qtbot, window.top.undo)
    assert state.teach.classes == ()


def test_devices_are_tested_when_asked_for(window, qtbot, monkeypatch):
    from workbench.services.requests import DeviceRow
    from workbench.ui.widgets.devices import DeviceMenu

    rows = (
        DeviceRow("cpu", "CPU", True, 900.0, True, ""),
        DeviceRow("cuda:0", "Old card", False, 0.0, False, "too old"),
    )
    monkeypatch.setattr(jobs, "devices", lambda ctx: rows)
    click(qtbot, window.top.device)
    menu = window.findChild(DeviceMenu)
    qtbot.waitUntil(lambda: len(menu.actions()) == 2)
    assert [a.isEnabled() for a in menu.actions()] == [True, False]
    assert "too old" in menu.actions()[1].text()
    menu.actions()[0].trigger()
    assert window.state.device == "cpu"
    menu.close()


def test_search_finds_knowledge_and_the_rail_counts_it(window, qtbot, monkeypatch):
    monkeypatch.setattr(overview, "shelf", lambda project, ctx: SHELF)
    monkeypatch.setattr(overview, "names", lambda entries, ctx: NAMES)
    monkeypatch.setattr(overview, "atlas", lambda request, project, ctx: ATLAS)
    monkeypatch.setattr(overview, "verify", lambda folder, sha, ctx: "")
    window.state.set_entries(ENTRIES)
    assert window.rail.items["knowledge"].badge() == len(ENTRIES)
    QTest.keyClick(window, Qt.Key.Key_K, Qt.KeyboardModifier.ControlModifier)
    palette = window.findChild(Palette)
    qtbot.keyClicks(palette.field, "head ad")
    assert [(hit.text, hit.kind) for hit in palette.shown()] == [("Head adapter", "knowledge")]
    QTest.keyClick(palette.field, Qt.Key.Key_Return)
    assert window.state.room == "knowledge"
    room = window.rooms["knowledge"]
    qtbot.waitUntil(lambda: room.card.name.text() == "Head adapter" and bool(room.atlas.tasks))
    lanes = window.state.lanes
    qtbot.waitUntil(lambda: not room._later.isActive() and not any(lanes.busy(n) for n in ("files", "loading")))


def test_search_finds_actions_and_classes(window, qtbot):
    window.state.edit(AddClass(ClassId("a"), "galoshes", (image("g"),)))
    QTest.keyClick(window, Qt.Key.Key_K, Qt.KeyboardModifier.ControlModifier)
    palette = window.findChild(Palette)
    qtbot.keyClicks(palette.field, "galo")
    assert [hit.text for hit in palette.shown()] == ["galoshes"]
    QTest.keyClick(palette.field, Qt.Key.Key_Return)
    assert window.state.room == "teach"
    window.search()
    palette = next(p for p in window.findChildren(Palette) if p.isVisible())
    qtbot.keyClicks(palette.field, "to train")
    QTest.keyClick(palette.field, Qt.Key.Key_Down)
    QTest.keyClick(palette.field, Qt.Key.Key_Up)
    QTest.keyClick(palette.field, Qt.Key.Key_Return)
    assert window.state.room == "train"


def test_messages_reach_the_strip_of_the_room_shown(window):
    window.go("train")
    done = []
    window.state.say("warn", "It is so.", "Because <b>it</b> is.", "Do it", lambda: done.append(1))
    strip = window.rooms["train"].strip
    assert strip.isVisible()
    assert strip.text() == "It is so. Because <b>it</b> is."
    strip.action.click()
    assert done == [1]
    assert not strip.isVisible()


def test_a_refusal_of_a_job_is_said_in_the_room(window, qtbot):
    window.go("train")

    def refuse(ctx):
        raise WorkbenchError("It was not done", "there is none", "Make one")

    window.state.lanes.submit("files", refuse, title="x")
    qtbot.waitUntil(window.rooms["train"].strip.isVisible)
    assert window.rooms["train"].strip.text() == "It was not done. There is none. Make one."


def test_a_bug_opens_one_dialog_with_details_to_copy(window, qtbot):
    def broken(ctx):
        raise ZeroDivisionError("in here")

    for _ in range(3):
        window.state.lanes.submit("files", broken, title="x")
    qtbot.waitUntil(lambda: not window.state.lanes.busy("files"))
    dialogs = window.findChildren(BugDialog)
    assert len(dialogs) == 1
    dialogs[0].copy.click()
    assert "ZeroDivisionError: in here" in QApplication.clipboard().text()
    assert "broken" in QApplication.clipboard().text()
    dialogs[0].close()


def test_help_lists_every_room_and_every_shortcut(window):
    window.show_help()
    dialog = window.findChild(HelpDialog)
    assert dialog.list.count() == len(ROOMS) + 1
    assert dialog.list.currentRow() == 0
    from PySide6.QtWidgets import QLabel, QTextBrowser

    pages = [p.toPlainText() for p in dialog.findChildren(QTextBrowser)]
    assert len(pages) == len(ROOMS)
    assert all(len(p) > 200 for p in pages)
    shown = {q.text() for q in dialog.pages.widget(len(ROOMS)).findChildren(QLabel)}
    for entry in table():
        if entry.shortcut:
            assert QKeySequence(entry.shortcut).toString(QKeySequence.SequenceFormat.NativeText) in shown
    dialog.close()


def test_theme_is_switched_and_remembered(window):
    before = window.top.theme.accessibleName()
    window.toggle_theme()
    assert theme.name() == "dark"
    assert window.top.theme.accessibleName() != before
    assert window.session.theme == "dark"
    window.toggle_theme()
    assert theme.name() == "light"


def test_narrow_window_has_a_rail_of_icons(window, qtbot):
    window.resize(1024, 700)
    assert window.rail.width() == 56
    window.resize(1440, 900)
    assert window.rail.width() == 76


def test_another_project_is_not_opened_while_training_runs(window, qtbot, tmp_path):
    def train(ctx):
        while True:
            ctx.check()

    job = window.state.lanes.submit("train", train, title="Meta-training")
    assert not window.open_at(tmp_path / "other", create=True)
    job.cancel()
    qtbot.waitUntil(lambda: job.over)
    assert window.open_at(tmp_path / "other", create=True)
    assert window.top.project.name() == "other"
    assert window.session.recent == (paths.escape(tmp_path / "other"),)


def test_a_project_that_is_not_one_is_refused(window, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    before = window.state.project
    assert not window.open_at(tmp_path, create=True)
    assert window.state.project is before


def test_every_control_has_an_accessible_name(window):
    from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QSlider

    nameless = [
        f"{type(w).__name__} in {type(w.parent()).__name__}"
        for kind in (QAbstractButton, QLineEdit, QComboBox, QSlider)
        for place in (window.top, window.rail, window.bottom, window.first, window.build_room("export"))
        for w in place.findChildren(kind)
        if not w.accessibleName() and not (isinstance(w, QAbstractButton) and w.text())
    ]
    assert nameless == []


def test_session_survives(home):
    kept = session.Session("QUJD", "teach", "dark", "/a", ("/a", "/b"), {"sources": "t1"})
    session.save(kept)
    assert session.load() == kept
    (paths.config_home() / "window.json").write_bytes(b"{")
    assert session.load() == session.Session()


def test_what_was_selected_is_selected_at_the_next_start(window, qtbot, themed, monkeypatch):
    window.state.set_tasks((task("a", "x"), task("b", "x"), task("c", "x")))
    window.go("sources")
    window.rooms["sources"].reveal("task", "b")
    window.go("export")
    window.rooms["export"].select("bundle")
    qtbot.waitUntil(lambda: not window.state.lanes.busy("files"))
    window._remember()
    kept = session.load()
    assert kept.room == "export"
    assert kept.selected == {"sources": "b", "export": "bundle"}

    again = MainWindow(AppState(), kept)
    again.state.setParent(again)
    again.show()
    tasks = window.state.tasks
    monkeypatch.setattr("workbench.project.project.Project.tasks", lambda _self: tasks)
    again.begin(paths.scratch_project().with_name("again"))
    assert again.state.room == "export"
    assert again.rooms["export"].cards.value() == "bundle"
    again.go("sources")
    assert again.rooms["sources"].task_id == "b"
    assert again.rooms["sources"].list.currentIndex().row() == 1
    again.state.set_tasks(tasks[:1])
    again.rooms["sources"].select("b")
    assert again.rooms["sources"].task_id == "a", "what is gone is left"
    monkeypatch.setattr("workbench.ui.main_window._CLOSE_SECONDS", 55.0)
    again.close()
    qtbot.waitUntil(lambda: again._closed)
    again.deleteLater()


def test_the_last_project_is_known_after_a_crash(window, tmp_path):
    assert window.open_at(tmp_path / "mine", create=True)
    assert session.load().project == paths.escape(tmp_path / "mine")


def test_recent_projects_are_in_order_and_few():
    now = session.Session()
    for i in range(12):
        now = now.opened(f"/p{i}")
    now = now.opened("/p5")
    assert now.recent[:2] == ("/p5", "/p11")
    assert len(now.recent) == 8
    assert now.opened(paths.escape(paths.scratch_project())).project == ""
