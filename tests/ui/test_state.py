from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QMetaMethod

from workbench.core import storage
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.teach import AddClass, RenameClass
from workbench.core.values import ClassId, ImageRef, Problem, Role, ScanResult, Task, TaskClass, TaskId
from workbench.project.project import Project
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


@pytest.fixture
def gate(state) -> Iterator[threading.Event]:
    """Until it is set, nothing on the lane of files goes on."""
    made = threading.Event()
    state.lanes.submit("files", lambda ctx: made.wait(60), title="something before it")
    yield made
    made.set()


@pytest.fixture
def kept(state, tmp_path) -> Iterator[Project]:
    """A real project with two sources, open in the window."""
    with Project.open(tmp_path / "real") as made:
        made.set_tasks((task("a", "x", "y"), task("b", "x")))
        state.set_project(made, made.path)
        yield made
        state.close_project()


def saved(state, qtbot) -> None:
    qtbot.waitUntil(lambda: not state.lanes.busy("files"))


def test_a_change_of_the_sources_is_taken_back_in_the_background(state, kept, qtbot, monkeypatch):
    both = state.tasks
    state.set_tasks(both[:1], "remove b")
    saved(state, qtbot)
    threads = []
    for name in ("without_last_change", "set_tasks"):
        original = getattr(kept, name)

        def told(*args, _original=original, **more):
            threads.append(threading.current_thread())
            return _original(*args, **more)

        monkeypatch.setattr(kept, name, told)
    assert state.undo_sources()
    assert not state.can_undo_sources, "it is being taken back"
    assert not state.undo_sources()
    saved(state, qtbot)
    assert state.tasks == kept.tasks() == both
    assert not state.can_undo_sources
    assert len(threads) == 2
    assert threading.current_thread() not in threads


def test_what_changed_meanwhile_is_not_overwritten_by_what_is_taken_back(state, kept, qtbot):
    both = state.tasks
    state.set_tasks(both[:1], "remove b")
    saved(state, qtbot)
    assert state.undo_sources()
    state.set_role(TaskId("a"), Role.HELD_OUT)
    saved(state, qtbot)
    assert [(t.name, t.role) for t in state.tasks] == [("a", Role.HELD_OUT)]
    assert kept.tasks() == state.tasks
    assert state.undo_sources(), "it still can be taken back"
    saved(state, qtbot)
    assert [(t.name, t.role) for t in kept.tasks()] == [("a", Role.HELD_OUT), ("b", Role.TRAIN)]


def test_closing_at_once_keeps_what_can_be_taken_back(state, kept, gate, qtbot):
    both, part = state.tasks, task("a", "x")
    state.set_tasks(both[:1], "remove b")
    state.set_tasks((part,), "take 1 picture out of a")
    assert not state.can_undo_sources, "the project does not hold it yet"
    state.close_project()
    with Project.open(kept.path) as again:
        assert again.tasks() == (part,)
        assert again.sources_undo_text == "take 1 picture out of a"
        again.set_tasks(again.without_last_change(), undone=1)
        assert again.tasks() == both[:1]
        assert again.without_last_change() == both


def test_what_was_taken_back_just_before_closing_is_not_offered_again(state, kept, gate, qtbot):
    both = state.tasks
    state.set_tasks(both[:1], "remove b")
    state.set_tasks(both, undone=1)
    state.close_project()
    gate.set()
    saved(state, qtbot)
    with Project.open(kept.path) as again:
        assert again.tasks() == both
        assert again.sources_undo_text == ""


def test_after_a_failed_write_nothing_is_taken_back_and_the_next_write_catches_up(state, kept, qtbot, monkeypatch):
    both, part = state.tasks, task("a", "x")
    state.set_tasks(both[:1], "remove b")
    saved(state, qtbot)

    def full(*_args: object, **_more: object) -> None:
        raise StorageError("It was not written", "no space left", "Free some")

    with monkeypatch.context() as patched, qtbot.waitSignal(state.message) as said:
        patched.setattr(storage, "save", full)
        state.set_tasks((part,), "take 1 picture out of a")
        saved(state, qtbot)
    assert said.args[0].kind == "bad"
    assert not state.can_undo_sources, "it would take back the change before, and show what the disk holds"
    assert not state.undo_sources()
    assert state.tasks == (part,)
    state.set_role(TaskId("a"), Role.HELD_OUT)
    saved(state, qtbot)
    assert kept.tasks() == state.tasks
    assert kept.sources_undo_text == "take 1 picture out of a"
    assert kept.without_last_change() == (both[0].with_role(Role.HELD_OUT),)


def test_a_step_whose_files_not_taken_cannot_be_written_counts_once(state, kept, qtbot, monkeypatch):
    both = state.tasks
    with monkeypatch.context() as patched, qtbot.waitSignal(state.message):
        patched.setattr(kept, "set_problems", lambda _: (_ for _ in ()).throw(StorageError("No", "no space", "Free")))
        state.set_tasks(both[:1], "remove b")
        saved(state, qtbot)
        state.set_tasks((), "remove a")
        saved(state, qtbot)
    state.set_tasks(both[:1], undone=1)
    saved(state, qtbot)
    assert kept.sources_undo_text == "remove b"
    assert kept.without_last_change() == both


def test_what_a_scan_found_so_far_stays_when_a_removal_meanwhile_is_taken_back(state, kept, qtbot, monkeypatch):
    go = threading.Event()

    def scan(paths, ctx):
        ctx.event(task("c", "x"))
        go.wait(60)
        return ScanResult((task("c", "x"),), ())

    monkeypatch.setattr(jobs, "scan", scan)
    both = state.tasks
    state.add_folders(["/c"])
    qtbot.waitUntil(lambda: len(state.tasks) == 3)
    state.set_tasks((t for t in state.tasks if t.name != "b"), "remove b")
    assert not state.can_undo_sources
    go.set()
    saved(state, qtbot)
    assert state.undo_sources()
    saved(state, qtbot)
    assert kept.tasks() == (*both, task("c", "x"))


def test_closing_at_once_loses_nothing(state, gate):
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
    state.start = ("an entry of the one before", None)
    with qtbot.waitSignals([state.project_changed, state.tasks_changed, state.teach_changed, state.result_changed]):
        state.set_project(FakeProject("Other", (task("z", "x"),)), tmp_path)
    assert before.closed
    assert [t.name for t in state.tasks] == ["z"]
    assert state.start is None, "no run of this project goes on from what its library lacks"


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
