"""One table of what the window can do: menus, shortcuts, the command palette and the shortcut page all come from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication

from workbench.ui.state import AppState

ROOMS: tuple[str, ...] = ("sources", "train", "teach", "knowledge", "export")


@dataclass(frozen=True, slots=True)
class Action:
    """One thing the window can do.

    Attributes:
        id: unique.
        text: for people, a verb first.
        icon: name of an icon, or "".
        shortcut: a key sequence in portable text, or "".
        callback: name of the main window's method.
        group: heading on the shortcut page.
        argument: passed to the callback, if not "".
        menu: position in the project menu ("" = not in it); a change of the first letter makes a separator.
        enabled: whether it can be done now.
    """

    id: str
    text: str
    icon: str
    shortcut: str
    callback: str
    group: str
    argument: str = ""
    menu: str = ""
    enabled: Callable[[AppState], bool] = lambda _: True


def room_title(room: str) -> str:
    """A room's name for people."""
    tr = QCoreApplication.translate
    return {
        "sources": tr("Rooms", "Sources"),
        "train": tr("Rooms", "Train"),
        "teach": tr("Rooms", "Teach"),
        "knowledge": tr("Rooms", "Knowledge"),
        "export": tr("Rooms", "Export"),
    }[room]


def _writable(state: AppState) -> bool:
    return state.project is not None and not state.project.read_only


def _running(state: AppState) -> bool:
    return any(job.lane != "loading" for job in state.lanes.running())


def table() -> tuple[Action, ...]:
    """All actions, translated."""
    tr = QCoreApplication.translate
    rooms, project = tr("Actions", "Rooms"), tr("Actions", "Project")
    edit, window, work = tr("Actions", "Edit"), tr("Actions", "Window"), tr("Actions", "Work")
    go = tr("Actions", "Go to {room}")
    return (
        *(
            Action(f"room.{room}", go.format(room=room_title(room)), room, f"Ctrl+{i}", "go", rooms, room)
            for i, room in enumerate(ROOMS, 1)
        ),
        Action(
            "sources.add", tr("Actions", "Add folders..."), "folder-plus", "Ctrl+O", "add_folders", project,
            menu="b1", enabled=_writable,
        ),
        Action(
            "sources.add_files", tr("Actions", "Add zips or pictures..."), "zip", "Ctrl+Shift+A", "add_files", project,
            menu="b2", enabled=_writable,
        ),
        Action(
            "sources.samples", tr("Actions", "Open the samples"), "image", "", "open_samples", project,
            menu="b3", enabled=_writable,
        ),
        Action("project.new", tr("Actions", "New project..."), "plus", "Ctrl+N", "new_project", project, menu="a1"),
        Action(
            "project.open", tr("Actions", "Open project..."), "folder", "Ctrl+Shift+O", "open_project", project,
            menu="a2",
        ),
        Action(
            "project.save_as", tr("Actions", "Save as..."), "save", "Ctrl+Shift+S", "save_as", project,
            menu="c1", enabled=lambda s: s.project is not None,
        ),
        Action(
            "project.rename", tr("Actions", "Rename project..."), "pencil", "", "rename_project", project,
            menu="c2", enabled=_writable,
        ),
        Action("edit.undo", tr("Actions", "Undo"), "undo", "Ctrl+Z", "undo", edit, enabled=lambda s: s.can_undo),
        Action(
            "sources.undo", tr("Actions", "Take back the last change of the sources"), "undo", "", "undo_sources", edit,
            enabled=lambda s: s.can_undo_sources,
        ),
        Action("edit.redo", tr("Actions", "Redo"), "redo", "Ctrl+Shift+Z", "redo", edit, enabled=lambda s: s.can_redo),
        Action(
            "work.pause", tr("Actions", "Pause or resume what is running"), "pause", "Ctrl+P", "pause_work", work,
            enabled=_running,
        ),
        Action(
            "work.stop", tr("Actions", "Stop what is running"), "stop", "Ctrl+.", "stop_work", work, enabled=_running
        ),
        Action("window.search", tr("Actions", "Search"), "search", "Ctrl+K", "search", window),
        Action("window.theme", tr("Actions", "Light or dark"), "moon", "Ctrl+Shift+L", "toggle_theme", window),
        Action("window.help", tr("Actions", "Help on this room"), "help", "F1", "show_help", window),
        Action("window.keys", tr("Actions", "Keyboard shortcuts"), "keyboard", "Ctrl+/", "show_keys", window),
        Action("window.quit", tr("Actions", "Quit"), "quit", "Ctrl+Q", "close", window, menu="d1"),
    )  # fmt: skip
