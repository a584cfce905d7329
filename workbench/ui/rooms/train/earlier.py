"""Earlier runs: the rows of the table, their curves over the plots, resuming, their cards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QPoint

from workbench.core.training import TrainRequest
from workbench.ui.rooms.train.history import Curves, read_curves, read_request, rows_of
from workbench.ui.rooms.train.menus import CardDialog, of_run
from workbench.ui.rooms.train.monitor import MOST_OVERLAYS
from workbench.ui.rooms.train.rows import RunRow
from workbench.ui.rooms.train.setup import count

if TYPE_CHECKING:
    from workbench.ui.rooms.train.room import TrainRoom


class EarlierRuns(QObject):
    """What the table of runs does.

    Attributes:
        live: id of the run that goes on, "" for none.
    """

    def __init__(self, room: TrainRoom) -> None:
        super().__init__(room)
        self._room, self._state, self._monitor = room, room.state, room.monitor
        self.live = ""
        table = self._monitor.runs
        table.eye_clicked.connect(self.toggle)
        table.customContextMenuRequested.connect(self._menu)
        table.selectionModel().currentChanged.connect(lambda *_: self.show_buttons())
        self._monitor.resume.clicked.connect(lambda: self._with_current(self.resume))
        self._monitor.overlay.clicked.connect(lambda: self._with_current(self.toggle))
        self._state.runs_changed.connect(self.show)

    # ---- what is shown ---------------------------------------------------------------------------
    def show(self) -> None:
        """The rows, and the menu of what can be compared."""
        rows = list(rows_of(self._state.runs, self._room.catalogue))
        self.live = next((r.id for r in rows if r.state == "running"), "") if self._room.running else ""
        rows = [self._live_row(r) if r.id == self.live else r for r in rows]
        self._monitor.show_rows(rows, self.live)
        menu = self._monitor.compare.menu()
        menu.clear()
        shown = self._monitor.overlays
        for row in rows[:30]:
            if row.id != self.live:
                action = menu.addAction(", ".join(part for part in (row.name, row.algorithm) if part))
                action.setCheckable(True)
                action.setChecked(row.id in shown)
                action.triggered.connect(partial(self._toggled, row.id))
        words = count(len(shown), "run")
        text = self.tr("Compare with {n}").format(n=words) if shown else self.tr("Compare with a run")
        self._monitor.compare.setText(text)
        self._monitor.compare.setEnabled(not menu.isEmpty())
        self.show_buttons()

    def _live_row(self, row: RunRow) -> RunRow:
        job, last = self._room.job, self._monitor.validated
        if job is not None:
            row = replace(row, state="paused" if job.paused else "running", seconds=time.monotonic() - job.begun)
        if last is None:
            return replace(row, accuracy=None)
        low, high = (last.value, last.value) if last.low is None or last.high is None else (last.low, last.high)
        return replace(row, accuracy=last.value, low=low, high=high, episodes=0)

    @property
    def says_paused(self) -> bool:
        """Whether the run that goes on is listed as paused."""
        row = self.row(self.live)
        return row is not None and row.state == "paused"

    def show_buttons(self) -> None:
        """What can be done with the run that is marked."""
        row = self._monitor.runs.current()
        self._monitor.resume.setEnabled(row is not None and row.resumable and not self._state.lanes.busy("train"))
        self._monitor.overlay.setEnabled(row is not None and row.id != self.live)

    def row(self, run: str) -> RunRow | None:
        """The row of a run."""
        return next((r for r in self._monitor.runs.runs.rows if r.id == run), None)

    def _folder(self, run: str) -> Path | None:
        return next((r.folder for r in self._state.runs if r.id == run), None)

    def _with_current(self, what: Callable[[str], object]) -> None:
        row = self._monitor.runs.current()
        if row is not None:
            what(row.id)

    def _menu(self, at: QPoint) -> None:
        row = self._monitor.runs.current()
        if row is not None:
            of_run(self, self._room, row).popup(self._monitor.runs.viewport().mapToGlobal(at))

    # ---- what can be done ------------------------------------------------------------------------
    def _toggled(self, run: str, _checked: bool = False) -> None:
        self.toggle(run)

    def toggle(self, run: str) -> None:
        """Show or hide the curves of an earlier run."""
        if run in self._monitor.overlays:
            self._monitor.remove_overlay(run)
            self.show()
            return
        folder = self._folder(run)
        if folder is None or run == self.live:
            return
        if len(self._monitor.overlays) >= MOST_OVERLAYS:
            self._room.show_message("info", self.tr("Six runs are shown already."), self.tr("Hide one first."))
            return
        self._read(read_curves, folder, lambda curves: self._draw(run, curves), run)

    def _draw(self, run: str, curves: Curves) -> None:
        row = self.row(run)
        if row is None:
            return
        if not curves.metrics:
            said = self.tr("{run} has no curves.").format(run=row.name)
            self._room.show_message("info", said, row.message)
            return
        self._monitor.add_overlay(row, curves)
        self.show()

    def resume(self, run: str) -> None:
        """Go on with a run: first what it was asked and its curves are read."""
        folder = self._folder(run)
        if folder is None or self._state.lanes.busy("train"):
            return

        def asked(request: TrainRequest) -> None:
            self._read(read_curves, folder, lambda curves: self._room.begin_resume(run, request, curves), run)

        self._read(read_request, folder, asked)

    def copy_command(self, run: str) -> None:
        """Put the command line of a run on the clipboard."""
        folder = self._folder(run)
        if folder is not None:
            self._read(read_request, folder, lambda request: self._room.copied(request.command))

    def show_card(self, run: str) -> None:
        """Show what a run was asked and what it left behind."""
        folder, row = self._folder(run), self.row(run)
        if folder is not None and row is not None:
            entry = next((e for e in self._state.entries if e.id == row.entry), None)
            rows = self._room.catalogue.algorithms if self._room.catalogue else ()

            def show(request: TrainRequest) -> None:
                fields = next((a.fields for a in rows if a.info.key == request.algorithm), ())
                CardDialog(row, request, entry, fields, self._room).open()

            self._read(read_request, folder, show)

    def _read(self, fn: Callable[..., Any], folder: Path, done: Callable[[Any], object], *first: object) -> None:
        self._state.lanes.submit("files", fn, *first, folder, title=self.tr("Reading a run"), on_done=done)
