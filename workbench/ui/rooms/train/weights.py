"""The dialog that gets pretrained weights: it names size, licence and host before it fetches, or takes a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PySide6.QtCore import Signal
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QDialog, QFileDialog, QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.storage import len_text
from workbench.services import jobs
from workbench.services.requests import BackboneRow, Catalogue
from workbench.ui.lanes import Job
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import Bar, button, label
from workbench.ui.widgets.strip import MessageStrip
from workbench.ui.widgets.words import time_left


class WeightsDialog(QDialog):
    """Download or choose a file.

    Signals:
        got(str): the backbone whose weights are on this machine now.
    """

    got = Signal(str)

    def __init__(self, state: AppState, row: BackboneRow, parent: QWidget) -> None:
        super().__init__(parent)
        self.state, self.row = state, row
        self.job: Job | None = None
        self.setWindowTitle(self.tr("Pretrained weights"))
        self.setFixedWidth(460)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        column.addWidget(label(self.tr("Pretrained weights of {name}").format(name=row.title), "section"))
        text = self.tr(
            "Photographs need a network that has seen many pictures. These weights are fetched once and kept on this "
            "machine; nothing of yours is sent."
        )
        column.addWidget(label(text, "secondary", wrap=True))
        facts = QGridLayout()
        facts.setHorizontalSpacing(16)
        facts.setVerticalSpacing(4)
        for at, (name, value) in enumerate(
            (
                (self.tr("Size"), len_text(row.pretrained_size)),
                (self.tr("Licence"), row.pretrained_licence),
                (self.tr("From"), row.pretrained_host),
            )
        ):
            facts.addWidget(label(name, "secondary"), at, 0)
            facts.addWidget(label(value, "name"), at, 1)
        facts.setColumnStretch(1, 1)
        column.addLayout(facts)
        self.strip = MessageStrip()
        column.addWidget(self.strip)
        self.bar = Bar(6)
        self.words = label("", "caption")
        column.addWidget(self.bar)
        column.addWidget(self.words)
        row_ = QHBoxLayout()
        row_.setSpacing(8)
        self.file = button(self.tr("Choose a file"), "secondary", "folder")
        self.file.setToolTip(self.tr("A .safetensors or .pth file of this network that is on this machine already"))
        self.file.clicked.connect(self.choose_file)
        self.cancel = button(self.tr("Cancel"), "secondary")
        self.cancel.clicked.connect(self.reject)
        self.download = button(self.tr("Download"), "primary", "download")
        self.download.clicked.connect(self.fetch)
        row_.addWidget(self.file)
        row_.addStretch(1)
        row_.addWidget(self.cancel)
        row_.addWidget(self.download)
        column.addLayout(row_)
        state.lanes.progress.connect(self._progress)
        self._show_busy(busy=False)

    @classmethod
    def ask(
        cls,
        state: AppState,
        row: BackboneRow,
        parent: QWidget,
        got: Callable[[str], None],
        closed: Callable[[], None],
    ) -> None:
        """Open it; ``got`` and ``closed`` are methods of what lives in the window's thread."""
        dialog = cls(state, row, parent)
        dialog.got.connect(got)
        dialog.finished.connect(closed)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def fetch(self) -> None:
        """Download; called by the click on the button that stands below size, licence and host."""
        self._begin(jobs.fetch_weights, (self.row.key,), self.tr("Downloading {name} weights"))

    def choose_file(self) -> None:
        """Take a file from this machine."""
        found, _ = QFileDialog.getOpenFileName(
            self, self.tr("Choose a weights file"), "", self.tr("Weights (*.safetensors *.pth *.pt)")
        )
        if found:
            self._begin(jobs.take_weights_file, (self.row.key, Path(found)), self.tr("Reading {name} weights"))

    def _begin(self, fn: object, args: tuple[object, ...], title: str) -> None:
        self.strip.clear()
        self._show_busy(busy=True)
        assert callable(fn)
        self.job = self.state.lanes.submit(
            "files",
            fn,
            *args,
            title=title.format(name=self.row.title),
            on_done=self._done,
            on_failed=self._failed,
            on_cancelled=self._stopped,
        )

    def _show_busy(self, *, busy: bool) -> None:
        self.bar.setVisible(busy)
        self.words.setVisible(busy)
        self.words.setText(self.tr("Waiting") if busy else "")
        self.bar.set_value(0.0)
        self.file.setEnabled(not busy)
        self.download.setEnabled(not busy)
        self.cancel.setText(self.tr("Stop") if busy else self.tr("Cancel"))

    def _progress(self, job: Job) -> None:
        if job is not self.job:
            return
        now = job.ctx.progress_now
        words = job.ctx.status_text
        if now is not None and now.unit == "bytes":
            self.bar.set_value(now.done / now.total if now.total else None)
            whole = f" of {len_text(now.total)}" if now.total else ""
            words = f"{len_text(now.done)}{whole}"
            if now.seconds_left:
                words += f", {time_left(now.seconds_left)}"
        if job.state == "stopping":
            words = self.tr("Stopping")
        self.words.setText(words)

    def _done(self, _path: object) -> None:
        self.job = None
        self.got.emit(self.row.key)
        self.accept()

    def _failed(self, error: Exception) -> None:
        self.job = None
        self._show_busy(busy=False)
        if isinstance(error, WorkbenchError):
            self.strip.show_message("bad", f"{error.what_happened}.", f"{error.why}. {error.what_to_do}.")
        else:
            self.strip.show_message("bad", self.tr("The weights were not taken."), str(error))
        self.adjustSize()

    def _stopped(self) -> None:
        self.job = None
        self._show_busy(busy=False)

    def reject(self) -> None:
        """While it downloads, stop that; otherwise close."""
        if self.job is not None and not self.job.over:
            self.job.cancel()
        else:
            super().reject()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Closing stops the download."""
        if self.job is not None and not self.job.over:
            self.job.cancel()
        super().closeEvent(event)


def with_weights(catalogue: Catalogue, key: str) -> Catalogue:
    """The catalogue after a backbone's weights came."""
    rows = tuple(replace(b, pretrained_present=True) if b.key == key else b for b in catalogue.backbones)
    return replace(catalogue, backbones=rows)
