"""What the command palette can find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QCoreApplication
from PySide6.QtGui import QKeySequence

from workbench.core import paths
from workbench.ui.actions import Action
from workbench.ui.state import AppState
from workbench.ui.widgets.palette import Hit

Do = Callable[[], object]


def everything(
    state: AppState, table: Sequence[Action], do: Callable[[Action], Do], to: Callable[[str, str, str], Do]
) -> list[Hit]:
    """Actions that can be done now, classes, sources and their classes, runs, knowledge.

    Args:
        state: of the window.
        table: of all actions.
        do: what carries an action out.
        to: what goes to a thing in a room: the room, the kind of thing, its key.
    """
    translate = QCoreApplication.translate
    can = [e for e in table if e.enabled(state) and e.id != "window.search"]
    keys = {e.id: QKeySequence(e.shortcut).toString(QKeySequence.SequenceFormat.NativeText) for e in can}
    found = [Hit(e.text.removesuffix("..."), keys[e.id], e.icon, do(e)) for e in can]
    found += [
        Hit(c.name, translate("MainWindow", "class"), "teach", to("teach", "class", c.id)) for c in state.teach.classes
    ]
    for task in state.tasks:
        found.append(Hit(task.name, translate("MainWindow", "source"), "sources", to("sources", "task", task.id)))
        said = translate("MainWindow", "class in {task}").format(task=task.name)
        at = [(c.name, to("sources", "class", f"{task.id}\n{c.name}")) for c in task.classes]
        found += [Hit(name, said, "folder", show) for name, show in at]
    found += [Hit(r.name, translate("MainWindow", "run"), "train", to("train", "run", r.id)) for r in state.runs]
    shown = [(paths.display(e.name), to("knowledge", "entry", e.id)) for e in state.entries]
    return found + [Hit(name, translate("MainWindow", "knowledge"), "knowledge", show) for name, show in shown]
