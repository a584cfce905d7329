"""The Sources room: tasks at the left, their pictures in the middle, what there is to check at the right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

from PySide6.QtCore import QPoint, Qt, QTimer
from PySide6.QtGui import QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import QApplication, QHBoxLayout, QStackedWidget, QWidget

from workbench.core.values import ImageRef, Problem, Role, Task, TaskId
from workbench.ui.lanes import Job
from workbench.ui.rooms.sources import findings as check
from workbench.ui.rooms.sources import menus
from workbench.ui.rooms.sources.checker import Checker
from workbench.ui.rooms.sources.details import MOST, Details
from workbench.ui.rooms.sources.empty import EmptySources, sample_folders
from workbench.ui.rooms.sources.files_dialog import FilesDialog, open_folder
from workbench.ui.rooms.sources.panels import PicturesPanel, TasksPanel
from workbench.ui.rooms.sources.viewer import Viewer
from workbench.ui.rooms.sources.where import without_those_of
from workbench.ui.rooms.sources.words import count
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button, set_property
from workbench.ui.widgets.drop import DropArea, choose_archives, choose_folder, copy_files
from workbench.ui.widgets.room import Room
from workbench.ui.widgets.terms import term


class SourcesRoom(Room):
    """Load folders and look at what is in them."""

    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Space", "See the picture large"),
        ("Ctrl+A", "Select all pictures"),
        ("Ctrl+C", "Copy the selected pictures"),
        ("Ctrl+V", "Add folders or zips from the clipboard"),
        ("Ctrl+F", "Filter"),
        ("+ / -", "Zoom"),
        ("[ or ]", "Collapse or open the class"),
        ("Delete", "Take the selected pictures, or the task, out"),
    )

    def __init__(self, state: AppState, parent: QWidget | None = None) -> None:
        super().__init__(state, "Sources", "", parent)
        self.thumbs = state.thumbs
        self.task_id: TaskId | None = None
        self._shown_task: Task | None = None
        self.checker = Checker(state, self)
        self._build()
        self.checker.changed.connect(self._found)
        self.checker.described.connect(self._selected)
        self._timers()
        self.drops = DropArea(self, images=False)
        self.drops.dropped.connect(state.add_folders)
        self.drops.over.connect(self._over)
        for keys, what in (
            (QKeySequence.StandardKey.Paste, self.paste),
            (QKeySequence.StandardKey.Copy, self.copy),
            (QKeySequence.StandardKey.Find, self.pictures.focus_filter),
        ):
            shortcut = QShortcut(QKeySequence(keys), self)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(what)
        state.tasks_changed.connect(self._rebuild.start)
        state.project_changed.connect(self._rebuild.start)
        state.lanes.progress.connect(self._progress)
        self._refresh()

    # ---- building --------------------------------------------------------------------------------
    def _build(self) -> None:
        self.group = menus.for_grouping(self)
        self.remove = self.add_action(button(self.tr("Remove task"), "secondary", "trash"))
        self.remove.setToolTip(self.tr("Take the task out of the project; its files stay where they are"))
        self.remove.clicked.connect(self.remove_task)
        self.add = self.add_action(button(self.tr("Add folders"), "primary", "plus"))
        self._samples = menus.for_adding(self)
        self.pages = QStackedWidget()
        self.body.addWidget(self.pages, 1)
        self.empty = EmptySources()
        self.empty.dropped.connect(self.state.add_folders)
        self.empty.samples_asked.connect(self.open_samples)
        self.pages.addWidget(self.empty)
        self.work = QWidget()
        row = self._row = QHBoxLayout(self.work)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(16)
        self.side = TasksPanel(self.thumbs)
        self.list = self.side.list
        self.list.chosen.connect(self._chosen)
        self.list.removal_asked.connect(self.remove_task)
        self.list.customContextMenuRequested.connect(self._task_menu)
        self.side.elsewhere.clicked.connect(
            lambda: self.list_files(self.tr("Files outside these tasks"), self.checker.loose)
        )
        row.addWidget(self.side)
        self.pictures = PicturesPanel(self.thumbs)
        self.grid, self.filter, self.zoom = self.pictures.grid, self.pictures.filter, self.pictures.zoom
        self.grid.selection_changed.connect(self._selected)
        self.grid.opened.connect(self.enlarge)
        self.grid.removal_asked.connect(self.remove_pictures)
        self.grid.customContextMenuRequested.connect(self._grid_menu)
        row.addWidget(self.pictures, 1)
        self.details = Details(self.thumbs)
        self.details.role_chosen.connect(self.set_role)
        self.details.fix_asked.connect(self.fix)
        self.details.enlarge_asked.connect(self.enlarge)
        row.addWidget(self.details)
        self.pages.addWidget(self.work)
        self.viewer = Viewer(self.thumbs, self._step_viewer, self)
        QWidget.setTabOrder(self.add, self.list)
        QWidget.setTabOrder(self.list, self.filter)
        QWidget.setTabOrder(self.filter, self.zoom)
        QWidget.setTabOrder(self.zoom, self.grid)

    def _timers(self) -> None:
        def later(ms: int, what: Callable[[], object]) -> QTimer:
            timer = QTimer(self)
            timer.setSingleShot(True)
            timer.setInterval(ms)
            timer.timeout.connect(what)
            return timer

        self._rebuild = later(40, self._refresh)
        self._describe_later = later(200, self._describe_current)

    # ---- what is shown ---------------------------------------------------------------------------
    def _refresh(self) -> None:
        tasks = self.state.tasks
        self._show_page(bool(tasks))
        images = sum(t.images + len(t.unlabelled) for t in tasks)
        self.side.show_counts(len(tasks), images)
        self.list.tasks.set_tasks(tasks)
        ids = [t.id for t in tasks]
        if self.task_id not in ids:
            self.task_id = ids[0] if ids else None
        if self.task_id is not None and self.list.currentIndex().row() != ids.index(self.task_id):
            self.list.choose(ids.index(self.task_id))
        self._show_task()
        self.checker.check(self.episode)

    def _show_page(self, work: bool) -> None:
        self.pages.setCurrentWidget(self.work if work else self.empty)
        self.remove.setVisible(work)
        self.add.setVisible(work)
        if not work:
            self.empty.show_scan(scanning=self.state.scanning > 0, text="", share=None)
        text = self.tr("Folders to learn from. Each is a {task} with its {classes}; nothing is copied or moved.")
        self.set_subtitle(text.format(task=term(self.tr("task"), "task"), classes=term(self.tr("classes"), "class")))
        self._samples.setEnabled(bool(sample_folders()))

    def _progress(self, job: Job) -> None:
        """The empty page shows how far the first scan is; later the bottom bar alone does."""
        if job.lane != "files" or self.state.tasks or not self.state.scanning:
            return
        now = job.ctx.progress_now
        if now is None:
            self.empty.show_scan(scanning=True, text=job.ctx.status_text, share=None)
            return
        words = count(now.done, "picture")
        if now.total:
            words = self.tr("{n} of {all}").format(n=f"{now.done:,}", all=count(now.total, "picture"))
        self.empty.show_scan(scanning=True, text=words, share=now.done / now.total if now.total else None)

    @property
    def task(self) -> Task | None:
        """The task that is looked at."""
        return next((t for t in self.state.tasks if t.id == self.task_id), None)

    @property
    def episode(self) -> check.Episode:
        """What the chosen episode asks for; Train keeps it with the state."""
        kept = self.state.property("episode")
        if isinstance(kept, list | tuple) and len(kept) == 3 and all(isinstance(n, int) for n in kept):
            return check.Episode(*kept)
        return check.Episode()

    def _chosen(self, row: int) -> None:
        tasks = self.state.tasks
        task = tasks[row] if 0 <= row < len(tasks) else None
        if task is not None and task.id != self.task_id:
            self.task_id = task.id
            self._show_task()

    def _show_task(self) -> None:
        task = self.task
        self.remove.setEnabled(task is not None)
        self.group.setVisible(task is not None and len(task.unlabelled) > 2)
        if task is not self._shown_task:
            same = task is not None and self._shown_task is not None and task.id == self._shown_task.id
            self._shown_task = task
            self.pictures.show_task(task, keep=same)
        self._show_details()

    def _show_details(self) -> None:
        task = self.task
        found = self.checker.found.get(task.id, ()) if task else ()
        self.details.show_task(task, found, self.episode, checking=self.checker.checking)
        self.grid.set_marks(frozenset().union(*(f.hashes for f in found)))
        self._selected()

    def _selected(self) -> None:
        items = self.grid.selection(MOST)
        mode = self.checker.mode(items[0][1]) if len(items) == 1 else ""
        self.details.show_selection(items, len(self.grid.choice.chosen), mode)
        if len(items) == 1 and not mode:
            self._describe_later.start()

    def _describe_current(self) -> None:
        items = self.grid.selection(2)
        if len(items) == 1:
            self.checker.describe(items[0][1])

    # ---- findings --------------------------------------------------------------------------------
    def _found(self) -> None:
        self.list.tasks.set_amber({i: sum(f.level == "warn" for f in found) for i, found in self.checker.found.items()})
        self.side.show_elsewhere(len(self.checker.loose))
        self._show_details()

    def fix(self, fix: check.Fix, finding: check.Finding) -> None:
        """Do what a finding's button says."""
        task = self.task
        if task is None:
            return
        if fix.action == "show":
            self.pictures.show_all()
            self.grid.select_hashes(fix.hashes)
            self.grid.setFocus(Qt.FocusReason.OtherFocusReason)
        elif fix.action == "scroll":
            self.pictures.show_all()
            self.grid.go_to(fix.target)
        elif fix.action == "file":
            self.show_file(fix.path)
        elif fix.action == "files":
            self.list_files(finding.title, finding.problems)
        elif fix.action == "hold_out":
            self.set_role(Role.HELD_OUT)
        else:
            self._change(task, check.apply_fix(task, fix), self.tr("{task} was changed").format(task=task.name))

    def _change(self, before: Task, after: Task, headline: str) -> None:
        gone = before.images + len(before.unlabelled) - after.images - len(after.unlabelled)
        n = count(gone, "picture")
        words = self.tr("take {n} out of {task}").format(n=n, task=before.name)
        self.state.set_tasks((after if t.id == before.id else t for t in self.state.tasks), words)
        said = self.tr("{pictures} taken out of the task; the files stay where they are.").format(pictures=n)
        self.show_message("info", f"{headline}.", said, self.tr("Undo"), lambda: self._put_back(before, after))

    def _put_back(self, before: Task, after: Task) -> None:
        now = self.state.tasks
        if after in (t.with_role(after.role) for t in now):
            self.state.set_tasks((replace(before, role=t.role) if t.id == before.id else t for t in now), undone=1)
        else:  # what was found since would go
            self.show_message("warn", self.tr("Nothing was put back."), self.tr("The task was changed meanwhile."))

    # ---- what a person does ----------------------------------------------------------------------
    def choose_folder(self) -> None:
        """Ask for a folder and load it."""
        self.state.add_folders(choose_folder(self))

    def choose_archives(self) -> None:
        """Ask for zip archives and load them."""
        self.state.add_folders(choose_archives(self))

    def open_samples(self) -> None:
        """Load the shipped samples."""
        folders = sample_folders()
        if folders:
            self.state.add_folders(folders)
        else:
            self.show_message(
                "warn", self.tr("The samples are not here."), self.tr("This installation came without them.")
            )

    def paste(self) -> None:
        """Load folders and archives from the clipboard."""
        if not self.drops.take(QApplication.clipboard().mimeData()):
            self.show_message(
                "info", self.tr("Nothing to paste."), self.tr("Copy folders or zips in your file manager first.")
            )

    def copy(self) -> None:
        """Put the selected pictures on the clipboard, to be pasted as examples or queries."""
        items = self.grid.selection()
        if items and not copy_files([image for _name, image in items]):
            text = self.tr("Pictures inside an archive have no file of their own.")
            self.show_message("info", self.tr("Nothing was copied."), text)

    def remove_task(self) -> None:
        """Take the current task out of the project."""
        task = self.task
        if task is None:
            return
        at = self.state.tasks.index(task)
        rest = tuple(t for t in self.state.tasks if t.id != task.id)
        self.task_id = rest[min(at, len(rest) - 1)].id if rest else None
        self.state.set_tasks(rest, self.tr("remove {task}").format(task=task.name))

        def put_back() -> None:
            if all(t.id != task.id for t in self.state.tasks):
                now, self.task_id = self.state.tasks, task.id
                self.state.set_tasks((*now[:at], task, *now[at:]), undone=1)

        said = self.tr("{task} was removed.").format(task=task.name)
        self.show_message("info", said, self.tr("Its files stay where they are."), self.tr("Undo"), put_back)

    def refresh_task(self) -> None:
        """Read the task's folder again."""
        task = self.task
        if task is None:
            return
        self.state.set_problems(without_those_of(task, self.state.tasks, self.state.problems))
        self.state.add_folders([task.path])

    def remove_pictures(self) -> None:
        """Take the selected pictures out of the task, each out of its class only."""
        task, items = self.task, self.grid.selection()
        if task is None or not items:
            return
        after = check.without(task, items)
        self._change(task, after, self.tr("{task} was changed").format(task=task.name))

    def set_role(self, role: Role) -> None:
        """Use the current task for something else."""
        if self.task is not None:
            self.state.set_role(self.task.id, role)

    def enlarge(self) -> None:
        """See the current picture large."""
        item = self.grid.current_item()
        if item is not None:
            self.viewer.open(item, self.grid)

    def _step_viewer(self, across: int, down: int) -> tuple[str, ImageRef] | None:
        self.grid.move_to(self.grid.step(across, down))
        return self.grid.current_item()

    def show_file(self, path: str) -> None:
        """Open the folder of a file."""
        if not open_folder(path):
            QApplication.clipboard().setText(path)
            said = self.tr("The path is on the clipboard: {path}").format(path=path)
            self.show_message("info", self.tr("No file manager answered."), said)

    def list_files(self, title: str, problems: Iterable[Problem]) -> None:
        """Show files with their reasons."""
        FilesDialog(title, list(problems), self.show_file, self).open()

    def _task_menu(self, at: QPoint) -> None:
        if self.task is not None:
            menus.of_task(self, self.task).popup(self.list.viewport().mapToGlobal(at))

    def _grid_menu(self, at: QPoint) -> None:
        items = self.grid.selection()
        if items:
            menus.of_pictures(self, items).popup(self.grid.viewport().mapToGlobal(at))

    # ---- room ------------------------------------------------------------------------------------
    def _over(self, over: bool) -> None:
        for panel in (self.side, self.pictures, self.details):
            set_property(panel, "role", "card" if over else "panel")
            set_property(panel, "over", "true" if over else "false")

    def focus_start(self) -> None:
        """The tasks, or the first button."""
        (self.list if self.state.tasks else self.empty.open_samples).setFocus(Qt.FocusReason.TabFocusReason)

    def selection(self) -> str:
        """The task that is looked at."""
        return self.task_id or ""

    def select(self, key: str) -> None:
        """Look at a task, if it is still there."""
        self.task_id = next((t.id for t in self.state.tasks if t.id == key), self.task_id)
        self._refresh()

    def reveal(self, kind: str, key: str) -> None:
        """Go to a task, or to a class of it."""
        task, _, name = key.partition("\n")
        ids = [str(t.id) for t in self.state.tasks]
        if task in ids:
            self._refresh()
            self.list.choose(ids.index(task))
            self.pictures.show_all()
            if name and kind == "class":
                self.grid.go_to(name)

    def compact_changed(self, compact: bool) -> None:
        """Narrower columns."""
        self.side.set_compact(compact)
        self.pictures.set_compact(compact)
        self.details.set_compact(compact)
        self._row.setSpacing(12 if compact else 16)

    def showEvent(self, event: QShowEvent) -> None:
        """The chosen episode may have changed in Train."""
        super().showEvent(event)
        self._rebuild.start()
