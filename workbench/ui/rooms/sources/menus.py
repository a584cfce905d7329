"""The menus of Sources: adding, a task, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QPushButton

from workbench.core.values import ImageRef, Role, Task
from workbench.ui import icons
from workbench.ui.rooms.sources.grouped import without_class
from workbench.ui.rooms.sources.groups_dialog import GroupsDialog
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.controls import button

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


def for_grouping(room: SourcesRoom) -> QPushButton:
    """The button that looks for groups among a task's unlabelled pictures."""
    made = room.add_action(button(room.tr("Group these"), "secondary", "group"))
    made.setToolTip(room.tr("Put the unlabelled pictures into groups of like ones, to make classes of them"))
    made.clicked.connect(partial(group, room))
    return made


def group(room: SourcesRoom, _checked: bool = False) -> None:
    """Look for groups among the current task's unlabelled pictures; what came of it can be taken back afterwards."""
    task = room.task
    if task is None or not task.unlabelled:
        return
    dialog = GroupsDialog(room.state, task, room)
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.finished.connect(partial(_grouped, room, dialog))
    dialog.open()


def _grouped(room: SourcesRoom, dialog: GroupsDialog, _code: int) -> None:
    made = dialog.made
    if not made:
        return
    room.select(made[-1].target)

    def put_back() -> None:
        for one in reversed(made):
            room.state.set_tasks(without_class(room.state.tasks, one), undone=1)

    text = room.tr("{classes} made of {task}.").format(
        classes=count(len(made), "class was", "classes were"), task=made[0].source.name
    )
    room.show_message("info", text, room.tr("The files stay where they are."), room.tr("Undo"), put_back)


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
    if task.unlabelled:
        menu.addAction(icons.icon("group"), room.tr("Group these..."), partial(group, room))
    menu.addSeparator()
    if room.state.can_undo_sources and room.state.project is not None:
        text = room.tr("Undo: {what}").format(what=room.state.project.sources_undo_text)
        menu.addAction(icons.icon("undo"), text, room.state.undo_sources)
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
