"""Opening a project in the window, with what is said where that is refused."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QCoreApplication

from workbench.core import paths
from workbench.core.errors import StorageError, WorkbenchError
from workbench.ui.state import AppState


def open_project(state: AppState, path: Path, *, create: bool) -> bool:
    """Open a project in place of the one that is open.

    Args:
        state: of the window.
        path: the project's folder.
        create: make a new one where there is none.

    Returns:
        Whether it is open; if not, the strip says why (and offers to restore a damaged one).
    """
    from workbench.project.project import Project

    try:
        project = Project.open(path, create=create)
    except StorageError as error:
        tr = QCoreApplication.translate
        state.say(
            "bad",
            tr("Opening", "{name} was not opened.").format(name=paths.display(path)),
            f"{error.why}. {error.what_to_do}.",
            tr("Opening", "Restore it"),
            lambda: _restore(state, path),
        )
        return False
    except WorkbenchError as error:
        state.refuse(error)
        return False
    state.set_project(project, project.path)
    return True


def _restore(state: AppState, path: Path) -> None:
    from workbench.project.project import restore

    try:
        done = restore(path)
    except WorkbenchError as error:
        state.refuse(error)
        return
    if open_project(state, path, create=False):
        said = ", ".join(done)
        state.say("good", QCoreApplication.translate("Opening", "The project was restored."), said)
