"""What the Knowledge room does with entries: in the background, and said in the strip when it is done."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QFileDialog, QMenu

from workbench.core.paths import display
from workbench.core.teach import Choose
from workbench.core.training import TrainResult
from workbench.core.values import KnowledgeEntry, Role
from workbench.services import overview
from workbench.ui import icons
from workbench.ui.lanes import Job
from workbench.ui.rooms.knowledge.align_dialog import AlignDialog
from workbench.ui.rooms.knowledge.rows import counted, file_name
from workbench.ui.widgets.words import held_out

if TYPE_CHECKING:
    from workbench.ui.rooms.knowledge.room import KnowledgeRoom

SUFFIX = ".knowledge"


class Deeds(QObject):
    """Everything that changes something, or leaves the room.

    Attributes:
        aligning: the job that adapts an entry to a domain, ``None`` while there is none.
    """

    def __init__(self, room: KnowledgeRoom) -> None:
        super().__init__(room)
        self._room, self._state = room, room.state
        self.aligning: Job | None = None

    # ---- leaving the room ------------------------------------------------------------------------
    def use(self) -> None:
        """Choose the current entry in Teach, and go there."""
        entry = self._room.entry()
        if entry is not None and self._state.edit(Choose(entry.id)):
            self._state.go("teach")

    def go_on(self) -> None:
        """Train on from the current entry."""
        entry = self._room.entry()
        if entry is not None:
            self._state.train_from(entry)

    # ---- putting away ----------------------------------------------------------------------------
    def retire_or_restore(self) -> None:
        """Put the current entry away, or take it into use again."""
        entry = self._room.entry()
        if entry is not None:
            (self.restore if self._room.put_away(entry) else self.retire)(entry)

    def retire(self, entry: KnowledgeEntry) -> None:
        """Put an entry away; the strip can undo it."""
        name = display(entry.name)
        done = partial(
            self._moved,
            self.tr("{name} is put away.").format(name=name),
            self.tr("It is not chosen any more, and not deleted."),
            lambda: self.restore(entry),
        )
        self._submit(overview.retire, entry.id, title=self.tr("Putting {name} away").format(name=name), on_done=done)

    def restore(self, entry: KnowledgeEntry) -> None:
        """Take an entry into use again."""
        name = display(entry.name)
        done = partial(self._moved, self.tr("{name} is in use again.").format(name=name), "", None)
        self._submit(overview.restore, entry.id, title=self.tr("Restoring {name}").format(name=name), on_done=done)

    def _moved(self, headline: str, detail: str, undo: Callable[[], object] | None, _id: object) -> None:
        self._state.read_knowledge()
        self._room.read()
        self._room.show_message("info", headline, detail, self.tr("Undo") if undo else "", undo)

    # ---- in and out ------------------------------------------------------------------------------
    def ask_import(self) -> None:
        """Choose files and import them."""
        found, _ = QFileDialog.getOpenFileNames(
            self._room,
            self.tr("Import knowledge"),
            "",
            f"{self.tr('Knowledge')} (*{SUFFIX});;{self.tr('All files')} (*)",
        )
        self.take(found)

    def dropped(self, files: list[str]) -> None:
        """Import what was dropped; folders and pictures go to the sources as everywhere else."""
        known = [f for f in files if f.lower().endswith(SUFFIX)]
        self.take(known)
        others = [f for f in files if f not in known]
        if others:
            self._state.add_folders(others)

    def take(self, files: list[str]) -> None:
        """Import files."""
        if files:
            title = self.tr("Importing {n}").format(n=counted(len(files), "file"))
            self._submit(overview.take, [Path(f) for f in files], title=title, on_done=self._taken)

    def _taken(self, found: tuple[tuple[KnowledgeEntry, bool], ...]) -> None:
        names = ", ".join(display(entry.name) for entry, _ in found)
        new = [entry for entry, is_new in found if is_new]
        self._room.wanted = found[-1][0].id
        self._state.read_knowledge()
        self._room.read()
        if new:
            self._room.show_message("good", self.tr("{names} can be used now.").format(names=names))
        else:
            self._room.show_message("info", self.tr("{names} was here already.").format(names=names))

    def ask_export(self) -> None:
        """Choose a file, and write the current entry to it."""
        entry = self._room.entry()
        if entry is None:
            return
        found, _ = QFileDialog.getSaveFileName(
            self._room,
            self.tr("Export {name}").format(name=display(entry.name)),
            f"{file_name(entry)}{SUFFIX}",
            f"{self.tr('Knowledge')} (*{SUFFIX})",
        )
        if found:
            self.give(entry, Path(found if Path(found).suffix else found + SUFFIX))

    def give(self, entry: KnowledgeEntry, out: Path) -> None:
        """Write an entry as one file."""
        title = self.tr("Exporting {name}").format(name=display(entry.name))
        self._submit(overview.give, entry.id, out, title=title, on_done=self._given)

    def _given(self, path: Path) -> None:
        detail = self.tr("It holds the weights and the card, and no folder of this machine.")
        self._room.show_message(
            "good",
            self.tr("{file} is written.").format(file=display(path.name)),
            detail,
            self.tr("Show folder"),
            lambda: open_folder(path.parent),
        )

    def ask_csv(self) -> None:
        """Choose a file, and write the matrix to it."""
        found, _ = QFileDialog.getSaveFileName(
            self._room, self.tr("Save the similarities"), "similarity.csv", f"{self.tr('CSV')} (*.csv)"
        )
        if found:
            path = Path(found if Path(found).suffix else found + ".csv")
            lanes, title = self._state.lanes, self.tr("Saving the similarities")
            lanes.submit(
                "files", overview.save_similarity, self._room.atlas, path, title=title, on_done=self._csv_saved
            )

    def _csv_saved(self, path: Path) -> None:
        headline = self.tr("{file} is written.").format(file=display(path.name))
        self._room.show_message("good", headline, "", self.tr("Show folder"), lambda: open_folder(path.parent))

    # ---- another domain --------------------------------------------------------------------------
    def align_or_stop(self) -> None:
        """The button in the header."""
        if self.aligning is not None:
            self.aligning.cancel()
            self._room.refresh()
        else:
            self.ask_align()

    def ask_align(self, folder: str = "") -> AlignDialog | None:
        """Ask for a folder and a way; ``None`` where nothing can be adapted."""
        entry = self._room.entry()
        if entry is None:
            return None
        dialog = AlignDialog(display(entry.name), folder, self.why_not(entry), self._room)
        dialog.asked.connect(partial(self.align, entry))
        dialog.training_asked.connect(partial(self._state.train_from, entry))
        dialog.open()
        return dialog

    def why_not(self, entry: KnowledgeEntry) -> dict[str, str]:
        """Why an entry cannot be adapted in some ways, by their keys."""
        tasks, found = self._state.tasks, {}
        if not overview.learnt_from(entry, tasks):
            found["coral"] = self.tr(
                "It compares with the pictures that this entry learned from; add those to the sources first."
            )
        if not any(t.role is Role.TRAIN and t.classes for t in tasks):
            found["mmd"] = found["dann"] = self.tr("It trains on the sources as well; add some with classes first.")
        return found

    def align_command(self, entry: KnowledgeEntry, folder: str, how: str) -> str:
        """The command that does the same."""
        sources = [display(t.path) for t in overview.learnt_from(entry, self._state.tasks)]
        words = ["workbench", "train", *dict.fromkeys(sources or [display(folder)]), "--from", str(entry.id)]
        return shlex.join([*words, "--target", display(folder), "--align", how])

    def align(self, entry: KnowledgeEntry, folder: str, how: str) -> None:
        """Adapt an entry to a folder of pictures, in the background."""
        state = self._state
        self._room.strip.clear()
        self.aligning = state.lanes.submit(
            "train",
            overview.align,
            entry,
            folder,
            how,
            state.tasks,
            self.align_command(entry, folder, how),
            state.project_path,
            title=self.tr("Adapting {name}").format(name=display(entry.name)),
            on_done=self._aligned,
            on_failed=self._not_aligned,
            on_cancelled=self._stopped,
        )
        self._room.refresh()

    def _aligned(self, result: TrainResult) -> None:
        self.aligning = None
        self._room.wanted = result.entry.id
        self._state.read_knowledge()
        self._state.read_runs()
        self._room.read()
        done = result.entry.provenance.get("aligned")
        held = done.get("held_out") if isinstance(done, dict) else None
        words, more = held_out(held)
        if isinstance(held, dict):
            detail = self.tr("On labelled pictures that were held out: {words}. {more}.").format(words=words, more=more)
        else:
            detail = self.tr("The folder has no labelled pictures to measure with, so no accuracy is claimed.")
        headline = self.tr("{name} is ready.").format(name=display(result.entry.name))
        self._room.show_message("good", headline, detail)
        self._room.refresh()

    def _not_aligned(self, error: Exception) -> None:
        self.aligning = None
        self._state.refuse(error)
        self._room.refresh()

    def _stopped(self) -> None:
        self.aligning = None
        self._room.show_message("info", self.tr("Stopped."), self.tr("The entry is as it was; nothing new is kept."))
        self._room.refresh()

    # ---- the menu of an entry --------------------------------------------------------------------
    def menu(self) -> QMenu:
        """What else can be done with the current entry."""
        menu = QMenu(self._room)
        entry = self._room.entry()
        if entry is None:
            return menu
        copy = menu.addAction(icons.icon("copy"), self.tr("Copy as command"), self.copy_command)
        copy.setEnabled(bool(entry.provenance.get("command")))
        menu.addAction(icons.icon("folder"), self.tr("Show folder"), self.show_folder)
        menu.addSeparator()
        put_away = self._room.put_away(entry)
        text = self.tr("Restore") if put_away else self.tr("Retire")
        menu.addAction(icons.icon("eye" if put_away else "eye-off"), text, self.retire_or_restore)
        return menu

    def copy_command(self) -> None:
        """Put the command that made the current entry on the clipboard."""
        entry = self._room.entry()
        command = str(entry.provenance.get("command", "")) if entry is not None else ""
        if command:
            QGuiApplication.clipboard().setText(command)
            self._room.show_message("info", self.tr("The command is on the clipboard."), command[:160])

    def show_folder(self) -> None:
        """Open the current entry's folder."""
        entry = self._room.entry()
        if entry is not None and entry.id in self._room.shelf.folders:
            open_folder(self._room.shelf.folders[entry.id])

    def _submit(self, fn: Callable[..., object], *args: object, title: str, on_done: Callable[..., object]) -> None:
        self._state.lanes.submit("files", fn, *args, self._state.project_path, title=title, on_done=on_done)


def open_folder(path: Path) -> bool:
    """Open a folder in the system's file manager; says whether it could."""
    return QDesktopServices.openUrl(QUrl.fromLocalFile(str(path)))
