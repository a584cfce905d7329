"""Fixtures of the window: a state on a fake or real project, closed properly; no thread and no timer left running."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QThread, QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot
from shiboken6 import Shiboken

from workbench.core.teach import Edit, TeachTask, apply
from workbench.core.values import Problem, Task
from workbench.ui import theme
from workbench.ui.state import AppState
from workbench.ui.widgets.drop import let_clipboard_go

PATIENCE_MS = 60_000


class FakeProject:
    """A project in memory, with the methods the window uses."""

    def __init__(self, name: str = "Garments", tasks: tuple[Task, ...] = (), folder: Path | None = None) -> None:
        self.name = name
        self.read_only = ""
        self.closed = False
        self._folder = folder
        self._tasks = tasks
        self._changes: list[tuple[str, tuple[Task, ...]]] = []
        self._problems: tuple[Problem, ...] = ()
        self._past: list[TeachTask] = []
        self._now = TeachTask()
        self._future: list[TeachTask] = []

    can_undo = property(lambda self: bool(self._past))
    can_redo = property(lambda self: bool(self._future))
    undo_text = property(lambda self: "the last edit" if self._past else "")
    redo_text = property(lambda self: "the next edit" if self._future else "")

    def tasks(self) -> tuple[Task, ...]:
        return self._tasks

    def set_tasks(self, tasks, words: str = "", undone: int = 0) -> None:
        self._changes = self._changes[: len(self._changes) - undone] + ([(words, self._tasks)] if words else [])
        self._tasks = tuple(tasks)

    sources_undo_text = property(lambda self: self._changes[-1][0] if self._changes else "")

    def without_last_change(self) -> tuple[Task, ...]:
        return self._changes[-1][1]

    def problems(self) -> tuple[Problem, ...]:
        return self._problems

    def set_problems(self, problems) -> None:
        self._problems = tuple(problems)

    def teach(self) -> TeachTask:
        return self._now

    def edit(self, edit: Edit) -> TeachTask:
        after = apply(self._now, edit)
        self._past.append(self._now)
        self._future.clear()
        self._now = after
        return after

    def undo(self) -> TeachTask:
        self._future.append(self._now)
        self._now = self._past.pop()
        return self._now

    def redo(self) -> TeachTask:
        self._past.append(self._now)
        self._now = self._future.pop()
        return self._now

    def rename(self, name: str) -> None:
        self.name = name

    def save_as(self, path: Path) -> Path:
        return path

    def add_blob(self, data: bytes, suffix: str) -> Path:
        assert self._folder is not None
        path = self._folder / f"blob{suffix}"
        path.write_bytes(data)
        return path

    def close(self) -> None:
        self.closed = True


def drain() -> None:
    """Let deleted widgets go and queued calls arrive."""
    for _ in range(2):
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QCoreApplication.processEvents()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a thread or a timer running."""
    yield
    if QCoreApplication.instance() is None:
        return
    drain()
    left = _running()
    if left:
        gc.collect()
        drain()
        left = _running()
    assert not left, f"left running: {left}"


@pytest.fixture(scope="session", autouse=True)
def empty_clipboard() -> Iterator[None]:
    """What tests copied goes while Python is there; see ``let_clipboard_go``."""
    yield
    if QApplication.instance() is not None:
        let_clipboard_go()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits last as long as a busy machine needs; a condition that holds is still noticed at once."""
    for name in ("waitUntil", "waitSignal", "waitSignals"):
        original = getattr(QtBot, name)

        def wait(self, *args, _original=original, timeout=0, **more):
            return _original(self, *args, timeout=max(timeout, PATIENCE_MS), **more)

        monkeypatch.setattr(QtBot, name, wait)


def _running() -> list[str]:
    found = []
    kinds = _with_subclasses(QThread) | _with_subclasses(QTimer)
    for thing in gc.get_objects():
        if type(thing) not in kinds or not Shiboken.isValid(thing):
            continue
        if isinstance(thing, QThread) and thing is not QThread.currentThread() and thing.isRunning():
            found.append(f"thread {thing.objectName()}")
        elif isinstance(thing, QTimer) and thing.isActive():
            found.append(f"timer of {thing.parent()} every {thing.interval()} ms")
    return found


def _with_subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_with_subclasses(k) for k in kind.__subclasses__()))


@pytest.fixture
def themed(qapp: QApplication) -> QApplication:
    """The application in the light theme."""
    theme.apply(qapp, "light")
    return qapp


@pytest.fixture
def state(themed: QApplication, qtbot, tmp_path: Path) -> Iterator[AppState]:
    """A state with a fake project; its threads end with the test."""
    made = AppState()
    made.set_project(FakeProject(folder=tmp_path), tmp_path)
    yield made
    closed: list[bool] = []
    made.lanes.close(lambda: closed.append(True), timeout_s=8)
    qtbot.waitUntil(lambda: bool(closed), timeout=9000)
    made.thumbs.close()
    assert not made.lanes.stuck
