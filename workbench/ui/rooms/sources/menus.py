"""The menus of Sources: adding, a task, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu

from workbench.core.values import ImageRef, Role, Task
from workbench.ui import icons
from workbench.ui.rooms.sources.words import count

if TYPE_CHECKING:
    from workbench.ui.rooms.sources.room import SourcesRoom


def for_adding(room: SourcesRoom) -> QAction:
    """The menu of the button that adds; gives back the action that opens the samples."""
    menu = QMenu(room.add)
    menu.addAction(icons.icon("folder-plus"), room.tr("Choose a folder..."), room.choose_folder)
    menu.addAction(icons.icon("zip"), room.tr("Choose zip archives..."), room.choose_archives)
    samples: QAction = menu.addAction(icons.icon("image"), room.tr("Open the samples"), room.open_samples)
    menu.addSeparator()
    menu.addAction(icons.icon("paste"), room.tr("Paste folders"), room.paste)
    room.add.setMenu(menu)
    return samples


def of_task(room: SourcesRoom, task: Task) -> QMenu:
    """What can be done with a task."""
    menu = _menu(room)
    roles = menu.addMenu(room.tr("Use for"))
    roles.setEnabled(bool(task.classes))
    for role, text in ((Role.TRAIN, "Meta-train"), (Role.VALIDATION, "Validation"), (Role.HELD_OUT, "Held out")):
        action = roles.addAction(room.tr(text))
        action.triggered.connect(partial(_use, room, role))
        action.setCheckable(True)
        action.setChecked(task.role is role)
    menu.addAction(icons.icon("refresh"), room.tr("Read again"), room.refresh_task)
    menu.addAction(icons.icon("folder"), room.tr("Show folder"), partial(room.show_file, task.path))
    menu.addSeparator()
    menu.addAction(icons.icon("trash"), room.tr("Remove task"), room.remove_task)
    return menu


def _use(room: SourcesRoom, role: Role, _checked: bool = False) -> None:
    room.set_role(role)


def of_pictures(room: SourcesRoom, items: Sequence[tuple[str, ImageRef]]) -> QMenu:
    """What can be done with the selected pictures."""
    menu = _menu(room)
    menu.addAction(icons.icon("eye"), room.tr("See large"), room.enlarge)
    menu.addAction(icons.icon("copy"), room.tr("Copy"), room.copy)
    menu.addAction(icons.icon("folder"), room.tr("Show file"), partial(room.show_file, items[0][1].path))
    menu.addSeparator()
    text = room.tr("Take {n} out of the task").format(n=count(len(items), "picture"))
    menu.addAction(icons.icon("trash"), text, room.remove_pictures)
    return menu


def _menu(room: SourcesRoom) -> QMenu:
    menu = QMenu(room)
    menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    return menu
