"""Group these: what becomes of the tasks as values, then the dialog by real events with a fake job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QAbstractButton, QLineEdit, QSpinBox
from shiboken6 import Shiboken

from tests.ui.test_sources_room import plain_task, ref, settle
from tests.ui.test_sources_room import room as room
from workbench.core.errors import WorkbenchError
from workbench.core.values import Task, TaskClass, TaskId
from workbench.services import jobs
from workbench.services.requests import Group, Grouped, GroupRequest
from workbench.ui.rooms.sources import menus
from workbench.ui.rooms.sources.grouped import with_class, without_class
from workbench.ui.rooms.sources.groups_dialog import GroupsDialog


def loose(name: str = "loose", n: int = 12) -> Task:
    return Task(TaskId(name), name, f"/data/{name}", (), tuple(ref(f"{name}/{i}.png") for i in range(n)))


# ---- values ----------------------------------------------------------------------------------------
def test_a_group_becomes_a_class_of_a_new_task_behind_the_old_one() -> None:
    source, other = loose(), plain_task("other")
    tasks, made = with_class((source, other), source, None, "rust", source.unlabelled[:5])
    old, new, last = tasks
    assert last is other
    assert old.unlabelled == source.unlabelled[5:]
    assert [(c.name, c.images) for c in new.classes] == [("rust", source.unlabelled[:5])]
    assert new.unlabelled == ()
    assert new.name != source.name
    assert without_class(tasks, made) == (source, other)


def test_further_groups_join_it_and_names_stay_apart() -> None:
    source = loose()
    tasks, first = with_class((source,), source, None, "rust", source.unlabelled[:5])
    tasks, second = with_class(tasks, tasks[0], first.target, "rust", source.unlabelled[5:9])
    assert [c.name for c in tasks[1].classes] == ["rust", "rust 2"]
    tasks = without_class(tasks, second)
    assert [c.name for c in tasks[1].classes] == ["rust"]
    assert tasks[0].unlabelled == source.unlabelled[5:]
    assert without_class(tasks, first) == (source,)


def test_a_task_of_which_nothing_is_left_goes_and_comes_back() -> None:
    source = loose(n=4)
    tasks, first = with_class((source,), source, None, "a", source.unlabelled[:2])
    tasks, second = with_class(tasks, tasks[0], first.target, "b", source.unlabelled[2:])
    assert [t.id for t in tasks] == [first.target]
    tasks = without_class(tasks, second)
    assert tasks[0].unlabelled == source.unlabelled[2:]
    assert without_class(tasks, first) == (source,)


def test_pictures_that_were_found_since_stay() -> None:
    source = loose()
    tasks, made = with_class((source,), source, None, "rust", source.unlabelled[:5])
    new = ref("loose/new.png")
    tasks = (replace(tasks[0], unlabelled=(new, *tasks[0].unlabelled)), tasks[1])
    assert without_class(tasks, made) == (replace(source, unlabelled=(*source.unlabelled, new)),)


def test_a_labelled_task_keeps_its_own_classes() -> None:
    source = replace(loose(), classes=(TaskClass("own", (ref("own.png"),)),))
    tasks, made = with_class((source,), source, None, "own", source.unlabelled)
    assert [c.name for c in tasks[0].classes] == ["own"]
    assert [c.name for c in tasks[1].classes] == ["own"]
    assert without_class(tasks, made) == (source,)


# ---- the dialog ------------------------------------------------------------------------------------
class Fake:
    """Stands for ``jobs.group``: three groups, or as many as asked for."""

    def __init__(self) -> None:
        self.requests: list[GroupRequest] = []
        self.go = threading.Event()
        self.go.set()
        self.refuses = False
        self.entry = "e1"

    def __call__(self, request: GroupRequest, project: Path, ctx) -> Grouped:
        self.requests.append(request)
        ctx.status("Looking at the pictures")
        ctx.progress(3, 10, "pictures")
        while not self.go.wait(0.005):
            ctx.check()
        if self.refuses:
            raise WorkbenchError("The pictures were not grouped", "there are none", "Choose others")
        n = request.count or 3
        images = request.images
        parts = tuple(images[i::n] for i in range(n))
        groups = tuple(Group(p, frozenset({p[-1].sha256} if len(p) > 3 else ())) for p in parts)
        suggested = 3 if request.suggest or not request.count else None
        return Grouped(groups, suggested, {}, self.entry, "ProtoNet on shapes", 1)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(jobs, "group", made)
    return made


@pytest.fixture
def dialog(room, fake, qtbot) -> Iterator[GroupsDialog]:
    room.state.set_tasks((plain_task("other"), loose()))
    qtbot.waitUntil(lambda: len(room.list.tasks.tasks) == 2)
    settle(room, qtbot)
    assert not room.group.isVisible(), "nothing of this task is without a class"
    room.select("loose")
    assert room.group.isVisible()
    QTest.mouseClick(room.group, Qt.MouseButton.LeftButton)
    made = room.findChild(GroupsDialog)
    assert made is not None
    qtbot.waitUntil(lambda: made.job is None)
    yield made
    fake.go.set()
    if Shiboken.isValid(made) and made.isVisible():
        made.reject()
    qtbot.waitUntil(lambda: not room.state.lanes.busy("files"))


def names(room) -> dict[str, list[str]]:
    return {t.name: [f"{c.name}: {len(c.images)}" for c in t.classes] for t in room.state.tasks}


def test_groups_are_shown_and_digits_make_classes_of_them(dialog, room, fake) -> None:
    assert [r.count for r in fake.requests] == [0]
    assert len(dialog.rows) == 3
    assert dialog.number.value() == 3
    assert "3 suggested" in dialog.suggestion.text()
    assert "ProtoNet on shapes" in dialog.seen.text()
    assert dialog.strip.isVisible(), "a picture was left out"
    QTest.keyClick(dialog, Qt.Key.Key_2)
    assert names(room)["loose grouped"] == ["Group 2: 4"]
    assert dialog.rows[1].done
    assert dialog.rows[2].hasFocus(), "on to the next"
    QTest.keyClick(dialog.rows[2], Qt.Key.Key_Return)
    QTest.keyClick(dialog.rows[2], Qt.Key.Key_2)
    assert names(room)["loose grouped"] == ["Group 2: 4", "Group 3: 4"], "a class is made once"
    QTest.keyClick(dialog, Qt.Key.Key_9)
    assert len(room.state.tasks[1].unlabelled) == 4


def test_what_was_made_is_taken_back_one_by_one(dialog, room) -> None:
    before = room.state.tasks
    for key in (Qt.Key.Key_1, Qt.Key.Key_2, Qt.Key.Key_3):
        QTest.keyClick(dialog, key)
    assert "loose" not in names(room), "nothing of it is left"
    assert dialog.close_button.hasFocus()
    for _ in range(3):
        QTest.keyClick(dialog, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert room.state.tasks == before
    assert not any(r.done for r in dialog.rows)
    assert not dialog.undo_button.isEnabled()


def test_what_was_made_can_be_taken_back_after_a_restart(dialog, room, qtbot) -> None:
    before, project, lanes = room.state.tasks, room.state.project, room.state.lanes
    assert not room.state.can_undo_sources
    for key in (Qt.Key.Key_1, Qt.Key.Key_2):
        QTest.keyClick(dialog, key)
    qtbot.waitUntil(lambda: not lanes.busy("files"))
    assert project.sources_undo_text == "make Group 2 of pictures of loose"
    QTest.keyClick(dialog, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: not lanes.busy("files"))
    assert project.sources_undo_text == "make Group 1 of pictures of loose"
    dialog.accept()
    texts = [a.text() for a in menus.of_task(room, room.task).actions()]
    assert "Undo: make Group 1 of pictures of loose" in texts
    assert room.state.undo_sources()
    qtbot.waitUntil(lambda: not lanes.busy("files"))
    assert room.state.tasks == before
    assert not room.state.undo_sources(), "nothing is left to take back"


def test_after_the_dialog_one_undo_takes_all_of_it_back(dialog, room, qtbot) -> None:
    before = room.state.tasks
    QTest.keyClick(dialog, Qt.Key.Key_1)
    QTest.keyClick(dialog, Qt.Key.Key_2)
    dialog.accept()
    assert room.task is not None
    assert room.task.name == "loose grouped"
    assert room.strip.isVisible()
    QTest.mouseClick(room.strip.action, Qt.MouseButton.LeftButton)
    assert room.state.tasks == before
    qtbot.waitUntil(lambda: not room.state.lanes.busy("files"))
    assert room.state.project.sources_undo_text == ""


def test_a_name_is_typed_and_digits_in_it_are_digits(dialog, room) -> None:
    row = dialog.rows[0]
    QTest.keyClick(row, Qt.Key.Key_F2)
    field: QLineEdit = row.name
    assert field.hasFocus()
    QTest.keyClicks(field, "rust 2")
    assert len(room.state.tasks) == 2, "typing makes no class"
    QTest.keyClick(field, Qt.Key.Key_Return)
    assert names(room)["loose grouped"] == ["rust 2: 4"]
    assert dialog.isVisible()


def test_the_number_is_adjusted_and_only_what_is_left_is_grouped_again(dialog, room, fake, qtbot) -> None:
    QTest.keyClick(dialog, Qt.Key.Key_1)
    dialog.number.setValue(4)
    qtbot.waitUntil(lambda: len(fake.requests) == 2 and dialog.job is None)
    assert fake.requests[1].count == 4
    assert len(fake.requests[1].images) == 8
    assert len(dialog.rows) == 4
    QTest.keyClick(dialog, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert "loose grouped" not in names(room), "also what has no row any more is taken back"
    QTest.mouseClick(dialog.suggestion, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(fake.requests) == 3 and dialog.job is None)
    assert dialog.number.value() == 3
    assert (dialog.number.minimum(), dialog.number.maximum()) == (2, 50)


def test_a_number_is_suggested_once_for_the_same_pictures(dialog, fake, qtbot) -> None:
    dialog.number.setValue(4)
    qtbot.waitUntil(lambda: len(fake.requests) == 2 and dialog.job is None)
    assert [r.suggest for r in fake.requests[1:]] == [False]
    assert [r.entry for r in fake.requests] == ["", "e1"], "seen by the same knowledge"
    assert "3 suggested" in dialog.suggestion.text()
    assert dialog.suggestion.isEnabled()
    QTest.keyClick(dialog, Qt.Key.Key_1)
    dialog.number.setValue(5)
    qtbot.waitUntil(lambda: len(fake.requests) == 3 and dialog.job is None)
    assert fake.requests[2].suggest, "other pictures are left"


def test_escape_stops_it_and_a_click_looks_again(dialog, room, fake, qtbot) -> None:
    fake.go.clear()
    dialog.number.setValue(5)
    qtbot.waitUntil(lambda: len(fake.requests) == 2)
    assert dialog.running.stop.isVisible()
    assert dialog.running.bar.isVisible()
    QTest.keyClick(dialog, Qt.Key.Key_1)
    assert len(room.state.tasks) == 2, "nothing is made while other groups are looked for"
    QTest.keyClick(dialog, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: dialog.job is None)
    assert dialog.isVisible()
    assert not dialog.running.stop.isVisible()
    fake.go.set()
    QTest.mouseClick(dialog.strip.action, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dialog.job is None)
    assert len(dialog.rows) == 5


def test_a_refusal_and_an_untrained_network_are_said(dialog, fake, qtbot) -> None:
    fake.refuses = True
    dialog.start()
    qtbot.waitUntil(lambda: dialog.job is None)
    assert dialog.strip.isVisible()
    fake.refuses, fake.entry = False, ""
    dialog.start()
    qtbot.waitUntil(lambda: dialog.job is None)
    assert "untrained" in dialog.seen.text()


def test_closing_while_it_runs_lets_the_job_go(dialog, room, fake, qtbot) -> None:
    fake.go.clear()
    dialog.start()
    qtbot.waitUntil(lambda: len(fake.requests) == 2)
    dialog.reject()
    qtbot.waitUntil(lambda: not room.state.lanes.busy("files"))


def test_everything_has_a_name_and_the_buttons_say_what_they_do(dialog) -> None:
    for widget in (*dialog.findChildren(QAbstractButton), dialog.number, *(r.name for r in dialog.rows)):
        if widget.isVisible() and not isinstance(widget.parent(), QSpinBox):
            assert widget.accessibleName() or widget.text(), widget
    assert len({r.make.accessibleName() for r in dialog.rows}) == 3
    assert all(r.make.toolTip() and r.accessibleName() for r in dialog.rows)
    odd = dialog.rows[0].pictures.shown()
    assert [strange for _, _, strange in odd] == [False, False, False, True], "the unusual one comes last"
