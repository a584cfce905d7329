"""The window: it assembles bars, rail and rooms, and carries out the actions of the table."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from PySide6.QtCore import QByteArray, QTimer
from PySide6.QtGui import QAction, QCloseEvent, QKeySequence, QResizeEvent, QShowEvent
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QMenu,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from workbench.core import paths
from workbench.ui import icons, session, theme
from workbench.ui.actions import ROOMS, Action, table
from workbench.ui.finding import everything
from workbench.ui.project_commands import ProjectCommands
from workbench.ui.state import AppState, Message
from workbench.ui.widgets.bottombar import BottomBar
from workbench.ui.widgets.dialogs import BugDialog, HelpDialog
from workbench.ui.widgets.drop import DropArea
from workbench.ui.widgets.firstrun import FirstRun
from workbench.ui.widgets.focus import FocusRing
from workbench.ui.widgets.palette import Hit, Palette
from workbench.ui.widgets.rail import Rail
from workbench.ui.widgets.room import Room
from workbench.ui.widgets.topbar import TopBar

_NARROW_BELOW = 1100
_CLOSE_SECONDS = 7.0
_ROOMS = {
    "sources": ("workbench.ui.rooms.sources.room", "SourcesRoom"),
    "train": ("workbench.ui.rooms.train.room", "TrainRoom"),
    "teach": ("workbench.ui.rooms.teach.room", "TeachRoom"),
    "knowledge": ("workbench.ui.rooms.knowledge.room", "KnowledgeRoom"),
    "export": ("workbench.ui.rooms.export.room", "ExportRoom"),
}


class MainWindow(ProjectCommands):
    """The one window."""

    def __init__(self, state: AppState, remembered: session.Session) -> None:
        super().__init__()
        self.state = state
        self.session = remembered
        self._closed = False
        self._bug: BugDialog | None = None
        self._held: Message | None = None
        self._begun = False
        self.setAcceptDrops(True)
        self.setMinimumSize(880, 560)
        self.top = TopBar()
        self.bottom = BottomBar(state.lanes)
        self.first = FirstRun()
        self.stack = QStackedWidget()
        self.stack.addWidget(self.first)
        self.rooms: dict[str, Room] = {}
        self.rail = Rail(ROOMS)
        self._assemble()
        self.actions_by_id: dict[str, QAction] = {}
        self.table = table()
        self._make_actions()
        self._connect()
        self.ring = FocusRing(self)
        self._restore()

    def _assemble(self) -> None:
        centre = QWidget()
        centre.setProperty("role", "window")
        column = QVBoxLayout(centre)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        middle = QHBoxLayout()
        middle.setSpacing(0)
        middle.addWidget(self.rail)
        middle.addWidget(self.stack, 1)
        column.addWidget(self.top)
        column.addLayout(middle, 1)
        column.addWidget(self.bottom)
        self.setCentralWidget(centre)
        self.drops = DropArea(centre, images=False)
        self.drops.dropped.connect(self.load)

    def _make_actions(self) -> None:
        for entry in self.table:
            made = QAction(entry.text, self)
            if entry.shortcut:
                made.setShortcut(QKeySequence(entry.shortcut))
            if entry.icon:
                made.setIcon(icons.icon(entry.icon))
            made.triggered.connect(self._call(entry))
            self.actions_by_id[entry.id] = made
            self.addAction(made)

    def _call(self, entry: Action) -> Callable[[], object]:
        done = getattr(self, entry.callback)
        return (lambda: done(entry.argument)) if entry.argument else (lambda: done())

    def _connect(self) -> None:
        state, top = self.state, self.top
        self.rail.chosen.connect(state.go)
        state.room_changed.connect(self._show_room)
        state.message.connect(self._show_message)
        state.theme_changed.connect(self._theme_changed)
        state.project_changed.connect(self._project_changed)
        for signal in (state.tasks_changed, state.teach_changed, state.busy_changed, state.entries_changed):
            signal.connect(self._refresh)
        state.project_changed.connect(self._refresh)
        state.lanes.bug.connect(self.show_bug)
        self.first.dropped.connect(self.load)
        self.first.samples.connect(self.open_samples)
        self.first.open_project.connect(self.open_project)
        self.first.open_recent.connect(self.open_recent)
        top.project.clicked.connect(self._project_menu)
        top.undo.clicked.connect(self.undo)
        top.redo.clicked.connect(self.redo)
        top.search.clicked.connect(self.search)
        top.device.clicked.connect(self._device_menu)
        top.theme.clicked.connect(self.toggle_theme)
        top.help.clicked.connect(self.show_help)

    # ---- rooms and what they show ----------------------------------------------------------------
    def go(self, room: str) -> None:
        """Show a room."""
        if room in ROOMS:
            self.state.go(room)

    def build_room(self, name: str) -> Room:
        """The room of a name, built when it is needed first."""
        if name not in self.rooms:
            module, made = _ROOMS[name]
            room: Room = getattr(importlib.import_module(module), made)(self.state)
            self.rooms[name] = room
            self.stack.addWidget(room)
            if name in self.session.selected:
                room.select(self.session.selected[name])
        return self.rooms[name]

    def build_rooms(self) -> None:
        """Build what is not built yet, one room per turn of the event loop."""
        missing = [r for r in ROOMS if r not in self.rooms]
        if not self.isEnabled():
            return
        if missing:
            self.build_room(missing[0])
            QTimer.singleShot(0, self, self.build_rooms)
        else:
            self.settle()

    def settle(self) -> None:
        """The window stands: now the learning library may load."""
        self.state.lanes.go_on()
        self.state.load_library()

    def _show_room(self, name: str) -> None:
        self.rail.set_room(name)
        if not self._begun:
            return
        untouched = name == "sources" and self._untouched()
        shown: QWidget = self.first if untouched else self.build_room(name)
        if self.stack.currentWidget() is not shown:
            self.stack.setCurrentWidget(shown)
            if isinstance(shown, Room):
                shown.focus_start()
            if self._held is not None and isinstance(shown, Room):
                self._show_message(self._held)

    def _untouched(self) -> bool:
        state = self.state
        return not state.tasks and not state.teach.classes and not state.problems and not state.scanning

    def _show_message(self, message: Message) -> None:
        shown = self.stack.currentWidget()
        if not isinstance(shown, Room):
            self._held = message
            if self._begun:  # the first page has no strip
                shown = self.build_room("sources")
                self.stack.setCurrentWidget(shown)
        if isinstance(shown, Room):
            self._held = None
            shown.show_message(message.kind, message.headline, message.detail, message.action_text, message.callback)

    def _refresh(self) -> None:
        state = self.state
        if not self.isEnabled():
            return
        for entry in self.table:
            self.actions_by_id[entry.id].setEnabled(entry.enabled(state))
        self.top.undo.setEnabled(state.can_undo)
        self.top.redo.setEnabled(state.can_redo)
        project = state.project
        undo, redo = (project.undo_text, project.redo_text) if project is not None else ("", "")
        self.top.undo.setToolTip(self.tr("Undo: {what}").format(what=undo) if undo else self.tr("Undo"))
        self.top.redo.setToolTip(self.tr("Redo: {what}").format(what=redo) if redo else self.tr("Redo"))
        badges: dict[str, int | str] = {
            "sources": len(state.tasks) or "",
            "train": "dot" if state.lanes.busy("train") else "",
            "teach": len(state.teach.classes) or "",
            "knowledge": len(state.entries) or "",
        }
        for room, badge in badges.items():
            if room in self.rail.items:
                self.rail.items[room].set_badge(badge)
        cores = self.tr("{n} cores").format(n=os.cpu_count() or 1) if state.device == "cpu" else ""
        self.top.device.set_device(state.device_name or "CPU", cores)
        self._show_room(state.room)

    def _theme_changed(self) -> None:
        dark = theme.name() == "dark"
        icons.set_icon(self.top.theme, "sun" if dark else "moon")
        self.top.theme.setAccessibleName(self.tr("Light theme") if dark else self.tr("Dark theme"))
        self.top.theme.setToolTip(self.top.theme.accessibleName())
        for entry in self.table:
            if entry.icon:
                self.actions_by_id[entry.id].setIcon(icons.icon(entry.icon))
        self.session = replace(self.session, theme=theme.name())
        self.update()

    def _project_changed(self) -> None:
        state = self.state
        scratch = state.project_path == paths.scratch_project()
        name = self.tr("Untitled") if scratch or state.project is None else state.project.name
        self.top.project.set_name(name)
        self.setWindowTitle(f"{name} - Meta-Transfer Workbench")
        self.session = self.session.opened(paths.escape(state.project_path))
        self._remember()
        self.first.set_recent([(p, Path(paths.unescape(p)).name) for p in self.session.recent])
        state.read_knowledge()
        state.read_runs()
        if state.project is not None and state.project.read_only:
            state.say(
                "warn",
                self.tr("This project can be read only."),
                f"{state.project.read_only[:1].upper()}{state.project.read_only[1:]}.",
                self.tr("Save a copy"),
                self.save_as,
            )

    # ---- edit, work ------------------------------------------------------------------------------
    def undo(self) -> None:
        """Take the last edit back."""
        self.state.undo()

    def redo(self) -> None:
        """Do again what was taken back."""
        self.state.redo()

    def pause_work(self) -> None:
        """Pause or resume what the bottom bar shows."""
        self.bottom.toggle_pause()

    def stop_work(self) -> None:
        """Stop what the bottom bar shows."""
        self.bottom.stop_job()

    # ---- window ----------------------------------------------------------------------------------
    def toggle_theme(self) -> None:
        """Light or dark."""
        self.state.set_theme("light" if theme.name() == "dark" else "dark")

    def search(self) -> None:
        """Open the command palette."""
        Palette(self.hits(), self).open_under(self.top.search)

    def hits(self) -> list[Hit]:
        """Everything the palette can find: see :mod:`workbench.ui.finding`."""
        return everything(self.state, self.table, self._call, self._to)

    def _to(self, room: str, kind: str, key: str) -> Callable[[], None]:
        def reveal() -> None:
            self.go(room)
            self.build_room(room).reveal(kind, key)

        return reveal

    def show_help(self) -> None:
        """Help on the room shown."""
        self._help(self.state.room)

    def show_keys(self) -> None:
        """All keyboard shortcuts."""
        self._help("keys")

    def _help(self, page: str) -> None:
        HelpDialog([(name, self.build_room(name).KEYS) for name in ROOMS], self.table, self).open_page(page)

    def show_bug(self, error: BaseException, details: str) -> None:
        """One dialog for something that broke; none while one is open."""
        if self._bug is None:
            self._bug = BugDialog(error, details, self)
            self._bug.destroyed.connect(self._bug_gone)
            self._bug.open()

    def _bug_gone(self) -> None:
        self._bug = None

    def _project_menu(self) -> None:
        menu = QMenu(self)
        before = ""
        for entry in sorted((e for e in self.table if e.menu), key=lambda e: e.menu):
            if before and entry.menu[0] != before:
                if before == "a":
                    self._add_recent(menu)
                menu.addSeparator()
            before = entry.menu[0]
            menu.addAction(self.actions_by_id[entry.id])
        menu.aboutToHide.connect(menu.deleteLater)
        menu.popup(self.top.project.mapToGlobal(self.top.project.rect().bottomLeft()))

    def _add_recent(self, menu: QMenu) -> None:
        recent = menu.addMenu(icons.icon("clock"), self.tr("Recent projects"))
        recent.setEnabled(bool(self.session.recent))
        for folder in self.session.recent:
            shown = paths.display(paths.unescape(folder))
            recent.addAction(shown).triggered.connect(partial(self._recent_chosen, folder))

    def _recent_chosen(self, folder: str, _checked: bool = False) -> None:
        self.open_recent(folder)

    def _device_menu(self) -> None:
        from workbench.ui.widgets.devices import DeviceMenu

        DeviceMenu(self.state, self).open_under(self.top.device)

    # ---- coming and going ------------------------------------------------------------------------
    def _restore(self) -> None:
        self.resize(1440, 900)
        if self.session.geometry:
            self.restoreGeometry(QByteArray.fromBase64(self.session.geometry.encode()))
        self._theme_changed()
        self.top.project.set_name(self.tr("Untitled"))
        self.setWindowTitle("Meta-Transfer Workbench")
        self.state.go(self.session.room if self.session.room in ROOMS else "sources")
        self._refresh()

    def begin(self, project: Path, folders: Iterable[str] = ()) -> None:
        """After the window is on the screen: open the project, build the rooms, load the learning library.

        Args:
            project: folder of the project; made if missing.
            folders: to be scanned into it.
        """
        self._begun = True
        self.state.lanes.suspend()
        if not self.open_at(project, create=True) and project != paths.scratch_project():
            self.open_at(paths.scratch_project(), create=True)
        self._show_room(self.state.room)
        self.load(folders)
        self.build_rooms()

    def showEvent(self, event: QShowEvent) -> None:
        """On the screen: watch for keys."""
        super().showEvent(event)
        self.ring.watch_input()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Wide or narrow rail."""
        self.rail.set_narrow(narrow=self.width() < _NARROW_BELOW)
        super().resizeEvent(event)

    def closeEvent(self, event: QCloseEvent) -> None:
        """Stop all work first, visibly; the window goes when the lanes have ended."""
        if self._closed:
            event.accept()
            return
        event.ignore()
        if not self.isEnabled():
            return
        self._remember()
        loading = self.state.lanes.busy("loading") and not self.state.library_loaded
        self.setEnabled(False)
        self.bottom.show_closing(self.tr("Closing") if loading else self.tr("Closing: finishing this step"))
        self.state.lanes.close(self._leave, _CLOSE_SECONDS)

    def _remember(self) -> None:
        """Keep what the next start restores."""
        chosen = {name: room.selection() for name, room in self.rooms.items()}
        self.session = self.session.left(bytes(self.saveGeometry().toBase64().data()), self.state.room, chosen)
        session.save(self.session)

    def _leave(self) -> None:
        self.bottom.halt()
        self.state.thumbs.close()
        self.state.close_project()
        self._closed = True
        self.close()
        app = QApplication.instance()
        if app is not None:
            QTimer.singleShot(0, app, QApplication.quit)
