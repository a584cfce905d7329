"""What the window knows: frozen values, each replaced whole through one method, and ten signals that say so.

Rooms read the state and ask it or its lanes for work; rooms never talk to rooms.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import QCoreApplication, QObject, Signal
from PySide6.QtWidgets import QApplication

from workbench.core import paths
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.teach import Edit, TeachTask
from workbench.core.values import KnowledgeEntry, Problem, Role, ScanResult, Task, TaskId
from workbench.services import jobs
from workbench.services.requests import DeviceRow
from workbench.services.teach import TeachResult
from workbench.ui import theme
from workbench.ui.lanes import Job, Lanes
from workbench.ui.sources import Change, Unsaved, upper, why, without_last_change
from workbench.ui.sources import merged as merged
from workbench.ui.values import Message as Message
from workbench.ui.values import MessageKind, OpenProject, Towards
from workbench.ui.widgets.thumbs import Thumbs

log = logging.getLogger(__name__)


class AppState(QObject):
    """Everything the rooms share.

    Signals:
        project_changed: another project was opened, or its name changed.
        tasks_changed: ``tasks`` or ``problems``.
        teach_changed: ``teach`` (and what can be undone).
        result_changed: ``result``.
        entries_changed: ``entries``.
        runs_changed: ``runs``.
        room_changed(str): the room to be shown.
        theme_changed: colours; whatever paints itself repaints.
        message(Message): to be shown in the current room's strip.
        busy_changed: a job began or ended, the device changed, or the learning library got loaded.
    """

    project_changed = Signal()
    tasks_changed = Signal()
    teach_changed = Signal()
    result_changed = Signal()
    entries_changed = Signal()
    runs_changed = Signal()
    room_changed = Signal(str)
    theme_changed = Signal()
    message = Signal(object)
    busy_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.lanes = Lanes(self)
        self.thumbs = Thumbs(self)
        self.project: OpenProject | None = None
        self.project_path = paths.scratch_project()
        self.tasks: tuple[Task, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self.teach = TeachTask()
        self.result: TeachResult | None = None
        self.entries: tuple[KnowledgeEntry, ...] = ()
        self.runs: tuple[Any, ...] = ()
        self.start: tuple[KnowledgeEntry, Towards | None] | None = None
        self.room = "sources"
        self.device = "cpu"
        self.device_name = ""
        self.devices: tuple[DeviceRow, ...] = ()
        self._testing = False
        self.library_loaded = False
        self.scanning = 0
        self._unsaved = Unsaved()
        self._given: tuple[Task, ...] = ()
        self._saving: Job | None = None
        self._taking_back: Job | None = None
        self.edits = 0
        self.lanes.job_started.connect(self._job_moved)
        self.lanes.job_finished.connect(self._job_moved)
        self.lanes.refused.connect(self.refuse)

    # ---- project ---------------------------------------------------------------------------------
    def set_project(self, project: OpenProject, path: Path) -> None:
        """Take another open project; the one before it is closed."""
        self._flush()
        before, self.project = self.project, project
        self.project_path = path
        if before is not None and before is not project:
            before.close()
        self.tasks = self._given = project.tasks()
        self.start = None
        self.problems = project.problems()
        self.teach = project.teach()
        self.result = None
        self.entries = ()
        self.runs = ()
        self.edits += 1
        self.project_changed.emit()
        self.tasks_changed.emit()
        self.teach_changed.emit()
        self.result_changed.emit()
        self.entries_changed.emit()
        self.runs_changed.emit()

    def close_project(self) -> None:
        """Close the project, if one is open."""
        self._flush()
        if self.project is not None:
            self.project.close()
            self.project = None

    # ---- sources ---------------------------------------------------------------------------------
    def set_tasks(self, tasks: Iterable[Task], words: str = "", undone: int = 0) -> None:
        """Replace the sources; shown at once, written in the background.

        Args:
            tasks: all of them.
            words: what the change is, where it can be taken back also after a restart.
            undone: how many such changes are taken back by this one.
        """
        self._replace(tuple(tasks), self.problems, words, undone)

    @property
    def can_undo_sources(self) -> bool:
        """Whether a change of the sources can be taken back: what is shown is what the project's folder holds."""
        project = self.project
        if project is None or project.read_only or self.scanning or self._unsaved:
            return False
        return (self._taking_back is None or self._taking_back.over) and bool(project.sources_undo_text)

    def undo_sources(self) -> bool:
        """Take back the last change of the sources, also one from before a restart; gives whether that began."""
        project = self.project
        if project is None or not self.can_undo_sources:
            return False
        title, done = self.tr("Reading the sources as they were"), partial(self._take_back, project, self.tasks)
        self._taking_back = self.lanes.submit("files", without_last_change, project, title=title, on_done=done)
        return True

    def _take_back(self, project: OpenProject, shown: tuple[Task, ...], tasks: tuple[Task, ...]) -> None:
        if self.project is project and self.tasks is shown and not self._unsaved:
            words = project.sources_undo_text
            self._replace(tasks, self.problems, undone=1)
            self.say("info", self.tr("Taken back: {words}.").format(words=words))
        else:
            self.say("warn", self.tr("Nothing was taken back."), self.tr("The sources were changed meanwhile."))

    def set_problems(self, problems: Iterable[Problem]) -> None:
        """Replace the list of files that were not taken."""
        self._replace(self.tasks, tuple(problems))

    def set_role(self, task: TaskId, role: Role) -> None:
        """Use a task for something else."""
        self.set_tasks(t.with_role(role) if t.id == task else t for t in self.tasks)

    def hold_out(self, tasks: Iterable[Task]) -> None:
        """Keep tasks away from training."""
        ids = {t.id for t in tasks}
        self.set_tasks(t.with_role(Role.HELD_OUT) if t.id in ids else t for t in self.tasks)

    def _replace(
        self, tasks: tuple[Task, ...], problems: tuple[Problem, ...], words: str = "", undone: int = 0
    ) -> None:
        project, found = self.project, Change(self.tasks, self.problems)
        self.tasks, self.problems = tasks, problems
        if project is not None and not project.read_only:
            change = Change(tasks, problems, words, undone)
            if change.step and found.tasks is not self._given:
                self._unsaved.add(found)  # what a scan found so far is no part of the step
            self._unsaved.add(change)
            self._given = tasks
            if self._saving is None or self._saving.state != "waiting":  # one that waits writes this as well
                title = self.tr("Saving the sources")
                self._saving = self.lanes.submit("files", self._unsaved.write, project, title=title)
        self.tasks_changed.emit()

    def _flush(self) -> None:
        """Write what the background has not written yet."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        if self._unsaved and self.project is not None:
            try:
                self._unsaved.write(self.project, Context())
            except WorkbenchError as error:
                log.warning("%s", error)
        self._unsaved = Unsaved()

    def add_folders(self, folders: Iterable[str]) -> Job | None:
        """Scan folders, archives or pictures in the background; each task joins the sources as soon as it is read."""
        wanted = tuple(os.fspath(f) for f in folders)
        if not wanted:
            return None
        one = paths.display(os.path.basename(os.path.normpath(wanted[0])))  # noqa: PTH119 - may hold surrogates
        self.scanning += 1
        title = self.tr("Scanning {name}") if len(wanted) == 1 else self.tr("Scanning {n} folders")
        return self.lanes.submit(
            "files",
            jobs.scan,
            wanted,
            title=title.format(name=one, n=len(wanted)),
            on_done=self._scanned,
            on_failed=self._scan_failed,
            on_cancelled=self._scan_stopped,
            on_event=self._found,
        )

    def _found(self, value: object) -> None:
        if isinstance(value, Task):
            self.tasks = merged(self.tasks, (value,))
            self.tasks_changed.emit()

    def _scanned(self, result: ScanResult) -> None:
        self.scanning -= 1
        found = {p.path for p in result.problems}
        problems = tuple(p for p in self.problems if p.path not in found) + result.problems
        self._replace(merged(self.tasks, result.tasks), problems)
        if not result.tasks:
            self.say(
                "warn",
                self.tr("No pictures were found."),
                why(result.problems) or self.tr("The folder holds no picture files."),
            )

    def _scan_failed(self, error: Exception) -> None:
        self._scan_stopped()
        self.refuse(error)

    def _scan_stopped(self) -> None:
        self.scanning -= 1
        self._replace(self.tasks, self.problems)  # what was found before the stop stays

    # ---- teaching --------------------------------------------------------------------------------
    def edit(self, edit: Edit) -> bool:
        """Change the new task; durable before it is shown.

        Returns:
            Whether it was done; if not, the strip says why.
        """
        project = self.project
        return project is not None and self._change(lambda: project.edit(edit))

    def undo(self) -> bool:
        """Take the last edit back."""
        project = self.project
        return project is not None and project.can_undo and self._change(project.undo)

    def redo(self) -> bool:
        """Do again what was taken back."""
        project = self.project
        return project is not None and project.can_redo and self._change(project.redo)

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to take back."""
        return self.project is not None and self.project.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is an edit to do again."""
        return self.project is not None and self.project.can_redo

    def _change(self, change: Callable[[], object]) -> bool:
        try:
            change()
        except WorkbenchError as error:
            self.refuse(error)
            return False
        assert self.project is not None
        self.teach = self.project.teach()
        self.edits += 1
        self.teach_changed.emit()
        return True

    def set_result(self, result: TeachResult | None) -> None:
        """Take a new adaptation with its predictions."""
        self.result = result
        self.result_changed.emit()

    # ---- knowledge, runs -------------------------------------------------------------------------
    def set_entries(self, entries: Iterable[KnowledgeEntry]) -> None:
        """Replace the known entries."""
        self.entries = tuple(entries)
        self.entries_changed.emit()

    def set_runs(self, runs: Iterable[Any]) -> None:
        """Replace the list of training runs."""
        self.runs = tuple(runs)
        self.runs_changed.emit()

    def read_knowledge(self) -> None:
        """Read the knowledge entries from the disk again, in the background."""
        title = self.tr("Reading the knowledge")
        self.lanes.submit("files", _entries, self.project_path, title=title, on_done=self.set_entries)

    def read_runs(self) -> None:
        """Read the training runs from the disk again, in the background."""
        title = self.tr("Reading the runs")
        self.lanes.submit("files", _runs, self.project_path, title=title, on_done=self.set_runs)

    # ---- window ----------------------------------------------------------------------------------
    def go(self, room: str) -> None:
        """Show another room."""
        self.room = room
        self.room_changed.emit(room)

    def train_from(self, entry: KnowledgeEntry, towards: Towards | None = None) -> None:
        """Go to Train, where the next run is to go on from an entry; Train takes it from ``start``."""
        self.start = entry, towards
        self.go("train")

    def set_theme(self, name: str) -> None:
        """Light or dark, from now on."""
        app = QApplication.instance()
        if isinstance(app, QApplication):
            theme.apply(app, name)
        self.theme_changed.emit()

    def set_device(self, key: str, name: str) -> None:
        """Compute on another device."""
        self.device, self.device_name = key, name
        self.busy_changed.emit()

    def test_devices(self) -> None:
        """Give each device its one-second self-test; ``devices`` then holds the rows (``busy_changed``)."""
        if not self._testing:
            self._testing = True
            title = self.tr("Testing devices")
            self.lanes.submit(
                "loading",
                jobs.devices,
                title=title,
                on_done=self._tested,
                on_failed=self._not_tested,
                on_cancelled=self._not_tested,
            )

    def _tested(self, rows: tuple[DeviceRow, ...]) -> None:
        self._testing = False
        self.devices = rows
        self.busy_changed.emit()

    def _not_tested(self, error: object = None) -> None:
        self._testing = False
        self.refuse(error)

    def load_library(self) -> Job:
        """Load the learning library in the background, so that the first job does not wait for it."""
        title = QCoreApplication.translate("AppState", "Loading the learning library")
        return self.lanes.submit("loading", _load, title=title, on_done=self._loaded)

    def _loaded(self, _: object) -> None:
        self.library_loaded = True
        self.busy_changed.emit()

    def _job_moved(self, _: object) -> None:
        self.busy_changed.emit()

    def say(
        self,
        kind: MessageKind,
        headline: str,
        detail: str = "",
        action_text: str = "",
        callback: Callable[[], object] | None = None,
    ) -> None:
        """Show a message in the current room's strip."""
        self.message.emit(Message(kind, headline, detail, action_text, callback))

    def refuse(self, error: object) -> None:
        """Show a refusal in the current room's strip."""
        if isinstance(error, WorkbenchError):
            self.say("bad", f"{error.what_happened}.", f"{upper(error.why)}. {error.what_to_do}.")


def _load(ctx: Context) -> None:
    jobs.load_runtime(ctx)


def _entries(project: Path, _ctx: Context) -> tuple[KnowledgeEntry, ...]:
    from workbench.project.library import Library

    return Library(project).entries()


def _runs(project: Path, _ctx: Context) -> tuple[Any, ...]:
    from workbench.project.runs import list_runs

    return list_runs(project)
