"""What the window can do with projects: open, make, copy, rename, and load folders into them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QMainWindow

from workbench.core import paths
from workbench.core.errors import WorkbenchError
from workbench.ui.opening import open_project
from workbench.ui.state import AppState
from workbench.ui.widgets.dialogs import AskText
from workbench.ui.widgets.drop import PICTURES


class ProjectCommands(QMainWindow):
    """The part of the window that carries out the actions on projects and sources."""

    state: AppState

    def open_at(self, path: Path, *, create: bool) -> bool:
        """Open a project; where that is refused, say why and keep the one that is open."""
        if self.state.lanes.busy("train"):
            self.state.say(
                "warn",
                self.tr("Training is still running."),
                self.tr("Stop it first: it belongs to the project that is open."),
            )
            return False
        return open_project(self.state, path, create=create)

    def new_project(self) -> None:
        """Make a project in a new or empty folder."""
        found = QFileDialog.getExistingDirectory(self, self.tr("An empty folder for the new project"))
        if found:
            self.open_at(Path(found), create=True)

    def open_project(self) -> None:
        """Open the project in a folder."""
        found = QFileDialog.getExistingDirectory(self, self.tr("A project's folder"))
        if found:
            self.open_at(Path(found), create=False)

    def open_recent(self, folder: str) -> None:
        """Open a project again; its folder as the session keeps it (escaped)."""
        self.open_at(Path(paths.unescape(folder)), create=False)

    def save_as(self) -> None:
        """Copy the project to another folder and go on there."""
        found, _ = QFileDialog.getSaveFileName(self, self.tr("Save the project as a new folder"))
        if found and self.state.project is not None:
            try:
                self.open_at(self.state.project.save_as(Path(found)), create=False)
            except WorkbenchError as error:
                self.state.refuse(error)

    def rename_project(self) -> None:
        """Give the project another name."""
        project = self.state.project
        if project is None:
            return
        ask = AskText(self.tr("Rename project"), self.tr("Name"), project.name, self.tr("Rename"), self)
        if ask.exec():
            try:
                project.rename(ask.text())
            except WorkbenchError as error:
                self.state.refuse(error)
            self.state.project_changed.emit()

    def add_folders(self) -> None:
        """Choose a folder to learn from."""
        found = QFileDialog.getExistingDirectory(self, self.tr("A folder to learn from"))
        if found:
            self.load([found])

    def add_files(self) -> None:
        """Choose zips or pictures to learn from."""
        kinds = f"{self.tr('Zips and pictures')} ({PICTURES})"
        found, _ = QFileDialog.getOpenFileNames(self, self.tr("Zips or pictures to learn from"), "", kinds)
        self.load(found)

    def open_samples(self) -> None:
        """Load the shipped samples."""
        self.load([str(paths.samples() / name) for name in ("alphabets", "surfaces")])

    def undo_sources(self) -> None:
        """Show the sources, and take their last change back."""
        self.state.go("sources")
        self.state.undo_sources()

    def load(self, folders: Iterable[str]) -> None:
        """Load folders, zips or pictures as sources, and show them."""
        if self.state.add_folders(folders) is not None:
            self.state.go("sources")
