from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import QMetaMethod

from workbench.core.errors import WorkbenchError
from workbench.core.teach import AddClass, RenameClass
from workbench.core.values import ClassId, ImageRef, Problem, Role, ScanResult, Task, TaskClass, TaskId
from workbench.services import jobs
from workbench.ui.state import AppState, merged


def image(name: str) -> ImageRef:
    return ImageRef(f"/pictures/{name}.png", "", name.ljust(64, "0"), 10, 4, 4)


def task(name: str, *classes: str, role: Role = Role.TRAIN) -> Task:
    return Task(TaskId(name), name, f"/{name}", tuple(TaskClass(c, (image(name + c),)) for c in classes), role=role)


def test_at_most_ten_signals():
    meta = AppState.staticMetaObject
    own = [
        meta.method(i).name().data().decode()
        for i in range(meta.methodOffset(), meta.methodCount())
        if meta.method(i).methodType() == QMetaMethod.MethodType.Signal
    ]
    assert len(own) == 10, own


def test_edit_undo_redo(state, qtbot):
    with qtbot.waitSignal(state.teach_changed):
        assert state.edit(AddClass(ClassId("a"), "hat", (image("h"),)))
    assert [c.name for c in state.teach.classes] == ["hat"]
    assert state.can_undo
    assert state.undo()
    assert state.teach.classes == ()
    assert not state.undo()
    assert state.redo()
    assert [c.name for c in state.teach.classes] == ["hat"]


def test_a_refused_edit_is_said_and_changes_nothing(state, qtbot):
    state.edit(AddClass(ClassId("a"), "hat"))
    state.edit(AddClass(ClassId("b"), "shoe"))
    before = state.teach
    with qtbot.waitSignal(state.message) as said:
        assert not state.edit(RenameClass(ClassId("b"), "hat"))
    assert said.args[0].kind == "bad"
    assert "already a class called hat" in said.args[0].detail
    assert state.teach == before


def test_merged_keeps_places_and_roles():
    have = (task("a", "x", role=Role.VALIDATION), task("b", "x"))
    found = merged(have, (task("c", "x"), task("a", "x", "y")))
    assert [t.name for t in found] == ["a", "b", "c"]
    assert found[0].role is Role.VALIDATION
    assert len(found[0].classes) == 2


def test_add_folders_scans_in_the_background(state, qtbot, monkeypatch):
    one, two = task("a", "x"), task("b", "x", "y")
    problem = Problem("/a/odd.txt", "it is not a picture", "ignored")

    def scan(paths, ctx):
        assert paths == ("/a", "/b")
        ctx.event(one)
        return ScanResult((one, two), (problem,))

    monkeypatch.setattr(jobs, "scan", scan)
    job = state.add_folders(["/a", "/b"])
    qtbot.waitUntil(lambda: job.over)
    assert state.tasks == (one, two)
    assert state.problems == (problem,)
    qtbot.waitUntil(lambda: not state.lanes.busy("files"))
    assert state.project.tasks() == state.tasks
    assert state.project.problems() == (problem,)


def test_a_failed_scan_is_said(state, qtbot, monkeypatch):
    def scan(paths, ctx):
        raise WorkbenchError("The folder was not read", "it is not there", "Choose another one")

    monkeypatch.setattr(jobs, "scan", scan)
    with qtbot.waitSignal(state.message) as said:
        state.add_folders(["/a"])
    assert said.args[0].headline == "The folder was not read."
    assert said.args[0].detail == "It is not there. Choose another one."


def test_nothing_found_is_said(state, qtbot, monkeypatch):
    monkeypatch.setattr(jobs, "scan", lambda paths, ctx: ScanResult((), (Problem("/a", "is empty", "warning"),)))
    with qtbot.waitSignal(state.message) as said:
        state.add_folders(["/a"])
    assert said.args[0].detail == "a is empty."


def test_of_a_folder_of_archives_what_to_do_is_said_first(state, qtbot, monkeypatch):
    inside = Problem("/a/b.zip", "is an archive inside a folder; open it by itself", "ignored")
    whole = Problem("/a", "holds no picture that can be read, but 1 zip archive: open it by itself", "error")
    monkeypatch.setattr(jobs, "scan", lambda paths, ctx: ScanResult((), (inside, whole)))
    with qtbot.waitSignal(state.message) as said:
        state.add_folders(["/a"])
    assert said.args[0].detail == "a holds no picture that can be read, but 1 zip archive: open it by itself."


def test_a_stopped_scan_keeps_what_was_found(state, qtbot, monkeypatch):
    def scan(paths, ctx):
        ctx.event(task("a", "x"))
        while True:
            ctx.check()

    monkeypatch.setattr(jobs, "scan", scan)
    job = state.add_folders(["/a"])
    qtbot.waitUntil(lambda: bool(state.tasks))
    assert state.scanning == 1
    job.cancel()
    qtbot.waitUntil(lambda: not state.lanes.busy("files"))
    assert state.scanning == 0
    assert [t.name for t in state.project.tasks()] == ["a"]


def test_closing_at_once_loses_nothing(state, qtbot):
    state.lanes.submit("files", lambda ctx: qtbot.wait, title="something before it")
    project = state.project
    state.set_tasks((task("a", "x"),))
    state.close_project()
    assert [t.name for t in project.tasks()] == ["a"]
    assert project.closed


def test_roles_are_stored(state, qtbot):
    state.set_tasks((task("a", "x"), task("b", "x")))
    state.set_role(TaskId("b"), Role.HELD_OUT)
    qtbot.waitUntil(lambda: not state.lanes.busy("files"))
    assert [t.role for t in state.project.tasks()] == [Role.TRAIN, Role.HELD_OUT]


def test_another_project_closes_the_one_before(state, qtbot, tmp_path: Path):
    from tests.ui.conftest import FakeProject

    before = state.project
    with qtbot.waitSignals([state.project_changed, state.tasks_changed, state.teach_changed, state.result_changed]):
        state.set_project(FakeProject("Other", (task("z", "x"),)), tmp_path)
    assert before.closed
    assert [t.name for t in state.tasks] == ["z"]


def test_loading_the_library_is_told(state, qtbot, monkeypatch):
    monkeypatch.setattr(jobs, "load_runtime", lambda ctx: None)
    assert not state.library_loaded
    state.load_library()
    qtbot.waitUntil(lambda: state.library_loaded)


@pytest.mark.parametrize("kind", ["train", "adapt", "files"])
def test_busy_changed_on_both_ends_of_a_job(state, qtbot, kind):
    seen = []
    state.busy_changed.connect(lambda: seen.append(state.lanes.busy(kind)))
    job = state.lanes.submit(kind, lambda ctx: None, title="x")
    qtbot.waitUntil(lambda: job.over and len(seen) >= 2)
    assert seen[0] is True
    assert seen[-1] is False
