"""What a dialog's job does: its words, a bar, and Stop."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QWidget

from workbench.ui.job import Job
from workbench.ui.widgets.controls import Bar, button, label


class RunningRow(QWidget):
    """A row of a dialog that shows its one job.

    Signals:
        stop_asked: the person wants the job to stop.
    """

    stop_asked = Signal()

    def __init__(self, tip: str = "", parent: QWidget | None = None) -> None:
        """Build it.

        Args:
            tip: of the stop button.
            parent: widget.
        """
        super().__init__(parent)
        self.status = label("", "secondary")
        self.bar = Bar()
        self.bar.setAccessibleName(self.tr("Progress"))
        self.bar.setMinimumWidth(120)
        self.stop = button(self.tr("Stop"), "secondary", "stop", size="small")
        self.stop.setToolTip(tip)
        self.stop.clicked.connect(self.stop_asked)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        row.addWidget(self.status)
        row.addWidget(self.bar, 1)
        row.addWidget(self.stop)

    def wait(self) -> None:
        """A job was submitted."""
        self.status.setText(self.tr("Waiting"))
        self.bar.set_value(0.0)
        self.stop.setEnabled(True)

    def show_job(self, job: Job) -> None:
        """How far it is."""
        now = job.ctx.progress_now
        words = self.tr("Finishing this step") if job.state == "stopping" else job.ctx.status_text
        if now is not None:
            of = f"{now.done:,}" if now.total is None else f"{now.done:,} / {now.total:,}"
            words = f"{words}  {of}"
        self.status.setText(words)
        self.bar.set_value(None if now is None or not now.total else now.done / now.total)

    def cancel(self, job: Job) -> None:
        """Let it stop after its step."""
        self.stop.setEnabled(False)
        self.status.setText(self.tr("Finishing this step"))
        job.cancel()
