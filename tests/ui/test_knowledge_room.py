"""The Knowledge room by hand and by keys; what it asks for in the background is answered without a disk."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog, QWidget

from workbench.core.errors import StorageError
from workbench.core.teach import AddClass, TeachTask
from workbench.core.training import TrainResult
from workbench.core.values import ClassId, EntryId, RunId, Task, TaskClass, TaskId
from workbench.services import overview
from workbench.services.overview import Atlas, Shelf
from workbench.ui.rooms.knowledge import deeds
from workbench.ui.rooms.knowledge.align_dialog import AlignDialog
from workbench.ui.rooms.knowledge.room import KnowledgeRoom
from workbench.ui.values import Towards

from .known import ATLAS, ENTRIES, NAMES, SHELF
from .test_state import image


class Desk:
    """Answers what the room asks, and remembers it."""

    def __init__(self, monkeypatch) -> None:
        self.shelf, self.atlas, self.why = SHELF, ATLAS, ""
        self.compared: list = []
        self.done: list = []
        monkeypatch.setattr(overview, "shelf", lambda project, ctx: self.shelf)
        monkeypatch.setattr(overview, "names", lambda entries, ctx: NAMES)
        monkeypatch.setattr(overview, "verify", lambda folder, sha, ctx: self.why)
        monkeypatch.setattr(overview, "atlas", self._atlas)
        monkeypatch.setattr(overview, "retire", self._retire)
        monkeypatch.setattr(overview, "restore", self._restore)
        monkeypatch.setattr(overview, "give", lambda id_, out, project, ctx: self.done.append((id_, out)) or out)
        monkeypatch.setattr(overview, "take", self._take)

    def _atlas(self, request, project, ctx):
        self.compared.append(request)
        return self.atlas

    def _retire(self, id_, project, ctx):
        gone = next(e for e in self.shelf.entries if e.id == id_)
        left = tuple(e for e in self.shelf.entries if e.id != id_)
        self.shelf = replace(self.shelf, entries=left, retired=(*self.shelf.retired, gone))
        return id_

    def _restore(self, id_, project, ctx):
        back = next(e for e in self.shelf.retired if e.id == id_)
        left = tuple(e for e in self.shelf.retired if e.id != id_)
        self.shelf = replace(self.shelf, entries=(*self.shelf.entries, back), retired=left)
        return id_

    def _take(self, files, project, ctx):
        self.done.append(tuple(files))
        return ((ENTRIES[1], True),)


@pytest.fixture
def desk(monkeypatch):
    return Desk(monkeypatch)


def opened(state, qtbot, width=1364, height=800) -> KnowledgeRoom:
    made = KnowledgeRoom(state)
    qtbot.addWidget(made)
    made.resize(width, height)
    made.show()
    return made


def calm(room, qtbot) -> None:
    lanes = room.state.lanes
    qtbot.waitUntil(
        lambda: not room._later.isActive() and not any(lanes.busy(n) for n in ("files", "loading", "train"))
    )


@pytest.fixture
def room(state, qtbot, desk):
    made = opened(state, qtbot)
    qtbot.waitUntil(lambda: bool(made.atlas.tasks) and made.card.chip.text() == "verified")
    calm(made, qtbot)
    return made


def labels(room) -> str:
    grid = room.card._grid
    return "\n".join(
        " ".join(grid.itemAtPosition(r, c).widget().text() for c in (0, 1))
        for r in range(grid.rowCount())
        if grid.itemAtPosition(r, 0)
    )


# ---- what is shown ---------------------------------------------------------------------------------------------------
def test_it_shows_the_newest_entry_with_its_card(room):
    assert room.entry().name == "Clothing and glyphs"
    assert room.card.name.text() == "Clothing and glyphs"
    assert room.card.figure.value() == "0.806"
    assert room.card.figure.beside() == "(0.796–0.816)"
    assert "ProtoNet, Conv-4, 28 px, grey" in labels(room)
    assert "Learned from 2 tasks, 18 classes" in labels(room)
    made = {r.name: r.made for r in room.table.entries.rows}
    assert made["Starter glyphs"] == "Shipped"
    assert "do not rank" in room.entries_panel.note.text()


def test_choosing_an_entry_shows_its_card_and_lets_its_own_network_look(room, desk, qtbot):
    before = len(desk.compared)
    room.table.setFocus()
    QTest.keyClick(room.table, Qt.Key.Key_Down)
    assert room.card.name.text() == "Head adapter"
    qtbot.waitUntil(lambda: len(desk.compared) > before)
    assert desk.compared[-1].entry == "bbbb2222"
    calm(room, qtbot)
    desk.atlas = replace(ATLAS, common=True)
    room._out_of_date()
    qtbot.waitUntil(lambda: room.atlas.common)
    calm(room, qtbot)
    before = len(desk.compared)
    QTest.keyClick(room.table, Qt.Key.Key_Up)
    qtbot.wait(300)
    assert len(desk.compared) == before, "under the common network nothing is compared again"


def test_a_person_can_have_the_entry_itself_look(room, desk, qtbot):
    own = room.map_panel.by.findChildren(QWidget)[1]
    before = len(desk.compared)
    qtbot.mouseClick(own, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(desk.compared) > before)
    assert desk.compared[-1].own
    calm(room, qtbot)


def test_map_and_matrix_mark_the_same_task(room, qtbot):
    qtbot.mouseClick(room.map, Qt.MouseButton.LeftButton, pos=room.map.point_of("clothing"))
    assert room.matrix._chosen == "clothing"
    assert room.map_panel.summary.text().startswith("clothing: 9 classes")
    room.matrix.setFocus()
    QTest.keyClick(room.matrix, Qt.Key.Key_Down)
    assert room.map.current().name == "sign digits"
    assert room.map_panel.summary.text().startswith("sign digits")


def test_tasks_that_cannot_be_compared_are_counted_and_named(room):
    assert room.map_panel.missing.text() == "1 task not shown"
    assert "lost" in room.map_panel.missing.toolTip()


def test_nothing_is_compared_while_the_room_is_hidden(room, state, desk, qtbot):
    room.hide()
    before = len(desk.compared)
    state.edit(AddClass(ClassId("a"), "hat", (image("a"),)))
    qtbot.wait(250)
    assert len(desk.compared) == before
    room.show()
    qtbot.waitUntil(lambda: len(desk.compared) > before)
    assert [c.name for c in desk.compared[-1].taught] == ["hat"]
    calm(room, qtbot)


def test_damaged_weights_are_said_and_cannot_be_used(state, qtbot, desk):
    desk.why = "its hash is another"
    made = opened(state, qtbot)
    qtbot.waitUntil(lambda: made.card.chip.text() == "damaged")
    calm(made, qtbot)
    assert "its hash is another" in made.card.chip.toolTip()
    for control in (made.use, made.adapt, made.card.go_on, made.card.export):
        assert not control.isEnabled()
        assert "damaged" in control.toolTip()


def test_it_says_what_to_do_while_nothing_is_known(state, qtbot, desk):
    desk.shelf, desk.atlas = Shelf(), Atlas()
    made = opened(state, qtbot)
    qtbot.waitUntil(lambda: made._places.currentIndex() == 0)
    calm(made, qtbot)
    assert not made.use.isVisible()
    assert not made.adapt.isVisible()
    assert ".knowledge" in made.empty.accessibleName()
    with qtbot.waitSignal(state.room_changed) as gone:
        made.empty.findChild(type(made.use)).click()
    assert gone.args == ["train"]


def test_another_project_forgets_the_entries_of_this_one(room, state, desk, qtbot, tmp_path):
    from .conftest import FakeProject

    desk.shelf = replace(SHELF, entries=ENTRIES[1:2])
    state.set_project(FakeProject(folder=tmp_path), tmp_path / "other")
    qtbot.waitUntil(lambda: [r.name for r in room.table.entries.rows] == ["Head adapter"])
    calm(room, qtbot)
    assert room.card.name.text() == "Head adapter"


def test_the_search_finds_and_says_where_nothing_is_found(room, qtbot):
    QTest.keyClicks(room.entries_panel.search, "anil")
    assert [r.name for r in room.table.entries.rows] == ["Head adapter"]
    QTest.keyClicks(room.entries_panel.search, " nowhere")
    assert not room.table.entries.rows
    assert "No entry" in room.entries_panel._nothing.text()
    assert not room.card.isVisible()
    assert not room.use.isEnabled()
    QTest.keyClick(room.entries_panel.search, Qt.Key.Key_Escape)
    assert len(room.table.entries.rows) == len(ENTRIES)
    QTest.keyClick(room.entries_panel.search, Qt.Key.Key_Down)
    assert QApplication.focusWidget() is room.table or not room.isActiveWindow()


# ---- what is done ----------------------------------------------------------------------------------------------------
def test_use_in_teach_chooses_it_there(room, state, qtbot):
    with qtbot.waitSignal(state.room_changed) as gone:
        qtbot.mouseClick(room.use, Qt.MouseButton.LeftButton)
    assert gone.args == ["teach"]
    assert state.teach.choice == "aaaa1111"
    assert state.can_undo
    state.undo()
    assert state.teach == TeachTask()


def test_continue_training_hands_the_entry_to_train(room, state, qtbot):
    with qtbot.waitSignal(state.room_changed) as gone:
        qtbot.mouseClick(room.card.go_on, Qt.MouseButton.LeftButton)
    assert gone.args == ["train"]
    assert state.start == (ENTRIES[0], None)


def test_what_is_put_away_can_be_taken_back_at_once(room, desk, qtbot):
    room.table.setFocus()
    QTest.keyClick(room.table, Qt.Key.Key_Delete)
    qtbot.waitUntil(lambda: len(room.table.entries.rows) == len(ENTRIES) - 1)
    calm(room, qtbot)
    assert desk.shelf.retired == ENTRIES[:1]
    assert "Clothing and glyphs is put away" in room.strip.text()
    qtbot.mouseClick(room.strip.action, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(room.table.entries.rows) == len(ENTRIES))
    calm(room, qtbot)
    assert not desk.shelf.retired


def test_what_was_put_away_is_listed_on_request_and_restored(room, desk, qtbot):
    qtbot.mouseClick(room.entries_panel.retire, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(room.table.entries.rows) == len(ENTRIES) - 1)
    calm(room, qtbot)
    menu = room.entries_panel.view_menu()
    menu.actions()[-1].trigger()
    assert [(r.name, r.retired) for r in room.table.entries.rows][-1] == ("Clothing and glyphs", True)
    room.table.choose(EntryId("aaaa1111"))
    assert not room.use.isEnabled()
    assert "restore it first" in room.use.toolTip()
    assert room.entries_panel.retire.text() == "Restore"
    qtbot.mouseClick(room.entries_panel.retire, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not desk.shelf.retired)
    calm(room, qtbot)
    assert room.use.isEnabled()
    menu.deleteLater()


def test_when_everything_is_put_away_it_is_still_listed(state, qtbot, desk):
    desk.shelf = replace(SHELF, entries=(), retired=ENTRIES[:2])
    made = opened(state, qtbot)
    qtbot.waitUntil(lambda: len(made.table.entries.rows) == 2)
    calm(made, qtbot)
    assert made._places.currentIndex() == 1


def test_an_entry_goes_out_as_one_file(room, desk, qtbot, monkeypatch, tmp_path):
    asked = []

    def ask(parent, title, name, kinds):
        asked.append(name)
        return str(tmp_path / "mine"), ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    qtbot.mouseClick(room.card.export, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "mine.knowledge is written" in room.strip.text())
    assert asked == ["Clothing-and-glyphs.knowledge"]
    assert desk.done == [("aaaa1111", tmp_path / "mine.knowledge")]
    calm(room, qtbot)


def test_files_come_in_by_dialog_and_by_drop(room, desk, state, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(tmp_path / "a.knowledge")], ""))
    qtbot.mouseClick(room.entries_panel.take, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(room.strip.text()))
    assert room.strip.text() == "Head adapter can be used now."
    calm(room, qtbot)
    assert room.entry().id == "bbbb2222"
    scanned = []
    monkeypatch.setattr(state, "add_folders", lambda files: scanned.append(list(files)))
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(tmp_path / n)) for n in ("b.knowledge", "pictures")])
    copy, left, plain = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QApplication.sendEvent(room, QDragEnterEvent(QPointF(10, 10).toPoint(), copy, data, left, plain))
    QApplication.sendEvent(room, QDropEvent(QPointF(10, 10), copy, data, left, plain))
    qtbot.waitUntil(lambda: len(desk.done) == 2)
    calm(room, qtbot)
    assert desk.done == [(tmp_path / "a.knowledge",), (tmp_path / "b.knowledge",)]
    assert scanned == [[str(tmp_path / "pictures")]]


def test_a_file_that_is_refused_is_said(room, state, qtbot, monkeypatch):
    def take(files, project, ctx):
        raise StorageError("x was not imported", "it is a poem", "Ask its author")

    said = []
    state.message.connect(said.append)
    monkeypatch.setattr(overview, "take", take)
    room.deeds.take(["x.knowledge"])
    qtbot.waitUntil(lambda: bool(said))
    assert (said[0].headline, "a poem" in said[0].detail) == ("x was not imported.", True)
    calm(room, qtbot)


def test_the_similarities_are_saved_as_csv(room, qtbot, monkeypatch, tmp_path):
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "s"), ""))
    qtbot.mouseClick(room.matrix_panel.csv, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "s.csv is written" in room.strip.text())
    assert (tmp_path / "s.csv").read_text("utf-8").splitlines()[0] == "task,greek,bengali,clothing,sign digits"
    calm(room, qtbot)


def test_the_menu_copies_the_command_and_shows_the_folder(room, qtbot, monkeypatch):
    opened_ = []
    monkeypatch.setattr(deeds, "open_folder", lambda path: opened_.append(path))
    menu = room.deeds.menu()
    by_text = {a.text(): a for a in menu.actions() if a.text()}
    assert set(by_text) == {"Copy as command", "Show folder", "Retire"}
    by_text["Copy as command"].trigger()
    assert QGuiApplication.clipboard().text() == "workbench train Clothing and glyphs"
    by_text["Show folder"].trigger()
    assert opened_ == [Path("/known/aaaa1111")]
    menu.deleteLater()


# ---- another domain --------------------------------------------------------------------------------------------------
def aligned(held) -> TrainResult:
    record = {"method": "adabn", "target": ["night"], "pictures": 20, "held_out": held}
    new = replace(ENTRIES[3], provenance={"aligned": record})
    return TrainResult(new, "/known/dddd4444", RunId("7"), 0, 1.0, stopped=False)


@pytest.mark.parametrize("labelled", [True, False])
def test_adapting_to_a_domain_claims_accuracy_only_where_there_were_labels(room, qtbot, monkeypatch, labelled):
    held = {"before": 0.52, "after": 0.61, "difference": 0.09, "ci95": 0.02, "episodes": 200} if labelled else None
    asked, gate = [], threading.Event()

    def align(entry, folder, how, tasks, command, project, ctx):
        asked.append((entry.id, folder, how, command))
        assert gate.wait(30)
        return aligned(held)

    monkeypatch.setattr(overview, "align", align)
    dialog = room.deeds.ask_align()
    assert not dialog.start.isEnabled()
    dialog.set_folder("/pictures/night")
    qtbot.mouseClick(dialog.start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(asked))
    assert room.adapt.text() == "Stop adapting"
    gate.set()
    qtbot.waitUntil(lambda: "is ready" in room.strip.text())
    calm(room, qtbot)
    assert asked[0][:3] == ("aaaa1111", "/pictures/night", "adabn")
    assert asked[0][3] == "workbench train /pictures/night --from aaaa1111 --target /pictures/night --align adabn"
    assert ("0.520 before, 0.610 after" in room.strip.text()) is labelled
    assert ("no accuracy is claimed" in room.strip.text()) is not labelled
    assert room.adapt.text() == "Adapt to a domain"
    assert room.entry().id == "dddd4444"


def test_adapting_can_be_stopped(room, qtbot, monkeypatch):
    def align(*args):
        while True:
            args[-1].check()

    monkeypatch.setattr(overview, "align", align)
    room.deeds.align(ENTRIES[0], "/pictures/night", "adabn")
    job = room.deeds.aligning
    qtbot.waitUntil(lambda: job.state == "running")
    qtbot.mouseClick(room.adapt, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: job.over)
    assert room.deeds.aligning is None
    assert "nothing new is kept" in room.strip.text()
    assert room.adapt.text() == "Adapt to a domain"


def test_coral_needs_the_pictures_that_the_entry_learned_from(room, state, qtbot):
    dialog = AlignDialog("A", "", room.deeds.why_not(ENTRIES[0]), room)
    assert not dialog.ways["coral"].isEnabled()
    assert "add those to the sources" in dialog.ways["coral"].toolTip()
    dialog.close()
    source = Task(TaskId("t"), "greek", "/data/greek", (TaskClass("a", (image("a"),)),))
    state.set_tasks([source])
    mine = replace(ENTRIES[0], sources=(replace(ENTRIES[0].sources[0], fingerprint=source.fingerprint),))
    assert room.deeds.why_not(mine) == {}
    assert room.deeds.align_command(mine, "/n", "coral").split()[2] == "/data/greek"
    calm(room, qtbot)


@pytest.mark.parametrize("how", ["mmd", "dann"])
def test_ways_that_train_go_to_train_with_their_minutes(room, state, qtbot, how):
    dialog = room.deeds.ask_align()
    assert not dialog.ways[how].isEnabled()
    assert "add some with classes" in dialog.ways[how].toolTip()
    dialog.reject()
    state.set_tasks([Task(TaskId("t"), "greek", "/data/greek", (TaskClass("a", (image("a"),)),))])
    dialog = room.deeds.ask_align("/pictures/night")
    assert (dialog.start.text(), dialog.minutes.isEnabled()) == ("Adapt", False)
    dialog.ways[how].setFocus()
    QTest.keyClick(dialog.ways[how], Qt.Key.Key_Space)
    assert (dialog.start.text(), dialog.minutes.isEnabled()) == ("Go to Train", True)
    dialog.minutes.setValue(12)
    qtbot.mouseClick(dialog.start, Qt.MouseButton.LeftButton)
    assert state.start == (ENTRIES[0], Towards("/pictures/night", how, 12))
    assert state.room == "train"
    assert room.deeds.aligning is None, "nothing runs before Start is pressed there"
    calm(room, qtbot)


# ---- window ----------------------------------------------------------------------------------------------------------
def test_a_small_window_cuts_nothing_off(room, qtbot):
    room.resize(968, 616)
    qtbot.waitUntil(lambda: room.compact)
    qtbot.wait(50)
    for made in (room.use, room.adapt, room.card.go_on, room.card.export, room.card.more, room.entries_panel.take):
        assert made.width() >= made.sizeHint().width(), made.accessibleName()
        at = made.mapTo(room, made.rect().bottomRight())
        assert room.rect().contains(at)
    assert room.matrix_panel.geometry().right() <= room._top.width()
    assert room.card.go_on.accessibleName() == "Continue training"


def test_every_control_has_a_name_and_a_tooltip(room):
    from PySide6.QtWidgets import QAbstractButton, QLineEdit

    for made in room.findChildren(QAbstractButton) + room.findChildren(QLineEdit):
        if made.isVisible():
            assert made.accessibleName() or made.text(), made
            if not made.text():
                assert made.toolTip(), made.accessibleName()
    for view in (room.map, room.matrix, room.table):
        assert view.accessibleName()


def test_what_was_current_is_current_again(state, qtbot, desk):
    made = KnowledgeRoom(state)
    qtbot.addWidget(made)
    made.select("cccc3333")
    made.resize(1364, 800)
    made.show()
    qtbot.waitUntil(lambda: made.selection() == "cccc3333")
    calm(made, qtbot)
    made.reveal("entry", "bbbb2222")
    assert made.card.name.text() == "Head adapter"
    calm(made, qtbot)
