"""Apply to a folder: predict all of it in the background, look it through, save a CSV or sorted copies."""

from __future__ import annotations

import secrets
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QComboBox, QDialog, QFileDialog, QFrame, QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.paths import display
from workbench.core.teach import NONE
from workbench.services.requests import ApplyRequest
from workbench.services.teach import TeachRequest
from workbench.ui.lanes import Job
from workbench.ui.rooms.teach import intake
from workbench.ui.rooms.teach.apply_table import NONE_OF_THESE, AppliedModel, applied_table
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.drop import DropTarget, choose_folder
from workbench.ui.widgets.running import RunningRow
from workbench.ui.widgets.strip import MessageStrip

_SURENESS = (1.0, 0.9, 0.75, 0.5)


class ApplyDialog(QDialog):
    """See the module. The model is saved once, into a folder of the project that goes when the dialog closes."""

    def __init__(self, state: AppState, request: TeachRequest, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._state, self._request = state, request
        self._model = state.project_path / "models" / f"apply-{secrets.token_hex(6)}"
        self._folder = ""
        self._saving = ""
        self._paths: tuple[str, ...] = ()
        self._saved_to = ""
        self._has_rows = False
        self.job: Job | None = None
        names = {c.id: c.name for c in state.teach.classes} | {NONE: NONE_OF_THESE}
        labelled = {sha: names[id_] for sha, id_ in state.teach.labels.items() if id_ in names}
        self._human = {i.sha256: c.name for c in state.teach.classes for i in c.images} | labelled
        self.setWindowTitle(self.tr("Apply to a folder"))
        self.setMinimumSize(560, 360)
        self.resize(760, 560)
        self._build()
        state.lanes.progress.connect(self._progress)
        self._show_phase()

    def _build(self) -> None:
        self.strip = MessageStrip()
        self.target = DropTarget(
            self.tr("Drop a folder here"),
            self.tr("Every picture in it is predicted. Originals are never moved or changed."),
            icon="folder",
            action=self.tr("Choose a folder"),
            filled=True,
        )
        self.target.dropped.connect(self.start)
        self.running = RunningRow()
        self.running.stop_asked.connect(self._stop)
        self.only = QComboBox()
        self.only.setAccessibleName(self.tr("Class"))
        self.surest = QComboBox()
        self.surest.setAccessibleName(self.tr("Confidence"))
        for limit in _SURENESS:
            text = self.tr("Any confidence") if limit == 1.0 else self.tr("At most {p}").format(p=f"{limit:.2f}")
            self.surest.addItem(text, limit)
        self.count = label("", "secondary")
        self.only.currentIndexChanged.connect(self._filter)
        self.surest.currentIndexChanged.connect(self._filter)
        self._filters = QWidget()
        filters = QHBoxLayout(self._filters)
        filters.setContentsMargins(0, 0, 0, 0)
        filters.setSpacing(8)
        filters.addWidget(self.only)
        filters.addWidget(self.surest)
        filters.addStretch(1)
        filters.addWidget(self.count)
        self.rows = AppliedModel(self)
        self.table = applied_table(self.rows, self._state.thumbs, self)
        self.csv = button(self.tr("Save CSV"), "primary", "save")
        self.csv.clicked.connect(self.save_csv)
        self.copies = button(self.tr("Copy into class folders"), "secondary", "copy")
        self.copies.clicked.connect(self.save_copies)
        self.close_button = button(self.tr("Close"), "secondary")
        self.close_button.clicked.connect(self.reject)
        foot = QHBoxLayout()
        foot.setSpacing(8)
        foot.addWidget(self.copies)
        foot.addStretch(1)
        foot.addWidget(self.close_button)
        foot.addWidget(self.csv)
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 20, 24, 20)
        column.setSpacing(12)
        classes = ", ".join(c.name for c in self._request.classes)
        words = self.tr("Choosing between {names}, or none of these.").format(names=classes)
        column.addWidget(label(words, "secondary", wrap=True))
        column.addWidget(self.strip)
        column.addWidget(self.target, 1)
        column.addWidget(self.running)
        column.addWidget(self._filters)
        self._frame = QFrame()
        self._frame.setProperty("role", "panel")
        inside = QVBoxLayout(self._frame)
        inside.setContentsMargins(1, 1, 1, 1)
        inside.addWidget(self.table)
        column.addWidget(self._frame, 1)
        self._rest = QWidget()
        column.addWidget(self._rest, 1)
        column.addLayout(foot)

    def _show_phase(self) -> None:
        running, done = self.job is not None, self._has_rows
        self.target.setVisible(not running and not done)
        self.running.setVisible(running)
        self._rest.setVisible(running and not done)
        self._filters.setVisible(done)
        self._frame.setVisible(done)
        self.csv.setVisible(done)
        self.copies.setVisible(done)
        self.csv.setEnabled(not running)
        self.copies.setEnabled(not running)

    # ---- predicting ------------------------------------------------------------------------------
    def start(self, folders: list[str]) -> None:
        """Predict what these folders hold."""
        if self.job is not None or not folders:
            return
        self._folder = folders[0]
        self._submit(ApplyRequest("", tuple(folders), labels=tuple(self._human.items())))

    def choose(self) -> None:
        """Ask for a folder."""
        self.start(choose_folder(self))

    def _submit(self, apply: ApplyRequest) -> None:
        self.strip.clear()
        self._paths = apply.paths
        self.running.wait()
        self.job = self._state.lanes.submit(
            "files",
            intake.apply_to,
            self._request,
            self._model,
            apply,
            self._state.project_path,
            title=self.tr("Predicting {name}").format(name=display(Path(self._folder).name)),
            on_done=self._done,
            on_failed=self._failed,
            on_cancelled=self._cancelled,
        )
        self._show_phase()

    def _progress(self, job: Job) -> None:
        if job is self.job:
            self.running.show_job(job)

    def _stop(self) -> None:
        if self.job is not None:
            self.running.cancel(self.job)

    def _done(self, found: intake.AppliedBy) -> None:
        self.job = None
        applied, saving = found.applied, self._saving
        self._saving = ""
        if not self._has_rows:
            self._has_rows = True
            self.rows.set_predictions(applied.classes, applied.predictions, self._human)
            self._fill_filter(applied.classes)
        if saving:
            words = self.tr("The predictions were saved.") if saving == "csv" else self.tr("The copies were made.")
            self.strip.show_message("good", words, self._saved_to)
        elif applied.problems:
            first = "; ".join(f"{display(p.path).rsplit('/', 1)[-1]}: {p.reason}" for p in applied.problems[:2])
            n = len(applied.problems)
            words = self.tr("1 file was left out.") if n == 1 else self.tr("{n} files were left out.").format(n=n)
            self.strip.show_message("warn", words, first)
        self._show_phase()

    def _failed(self, error: Exception) -> None:
        self.job = None
        self._saving = ""
        if isinstance(error, WorkbenchError):
            detail = f"{error.why[:1].upper()}{error.why[1:]}. {error.what_to_do}."
            self.strip.show_message("bad", f"{error.what_happened}.", detail)
        self._show_phase()

    def _cancelled(self) -> None:
        self.job = None
        copies = self._saving == "copies"
        self._saving = ""
        words = self.tr("The copies made so far stay.") if copies else self.tr("Nothing was written.")
        self.strip.show_message("info", self.tr("Stopped."), words)
        self._show_phase()

    # ---- looking through -------------------------------------------------------------------------
    def _fill_filter(self, classes: tuple[str, ...]) -> None:
        self.only.blockSignals(True)
        self.only.clear()
        self.only.addItem(self.tr("All classes"), None)
        for index, name in enumerate(classes):
            self.only.addItem(name, index)
        self.only.addItem(self.tr("None of these"), -1)
        self.only.blockSignals(False)
        self._filter()

    def _filter(self) -> None:
        self.rows.filter(self.only.currentData(), float(self.surest.currentData()))
        shown = self.rows.rowCount()
        self.count.setText(self.tr("1 picture") if shown == 1 else self.tr("{n} pictures").format(n=f"{shown:,}"))

    # ---- saving ----------------------------------------------------------------------------------
    def save_csv(self) -> None:
        """Ask for a file and write all predictions; a person's labels stand as they are."""
        name, _ = QFileDialog.getSaveFileName(self, self.tr("Save the predictions"), "predictions.csv", "CSV (*.csv)")
        if name:
            self._save("csv", name)

    def save_copies(self) -> None:
        """Ask for a folder and copy the pictures into class folders; the originals stay."""
        name = QFileDialog.getExistingDirectory(self, self.tr("Choose a folder for the copies"))
        if name:
            self._save("copies", name)

    def _save(self, what: str, where: str) -> None:
        if self.job is not None:
            return
        self._saving, self._saved_to = what, where
        labels = tuple(self._human.items())
        csv, copy_to = (where, "") if what == "csv" else ("", where)
        self._submit(ApplyRequest("", self._paths, csv=csv, copy_to=copy_to, labels=labels))

    # ---- leaving ---------------------------------------------------------------------------------
    def done(self, code: int) -> None:
        """Stop what runs and let the temporary model go."""
        if self.job is not None:
            self.job.on_done = self.job.on_failed = self.job.on_cancelled = None
            self.job.cancel()
            self.job = None
        self._state.lanes.progress.disconnect(self._progress)
        self._state.lanes.submit("files", intake.forget_model, self._model, title=self.tr("Tidying up"))
        super().done(code)

    def keyPressEvent(self, event: object) -> None:
        """Escape stops what runs; without anything running it closes."""
        if event.key() == Qt.Key.Key_Escape and self.job is not None:  # type: ignore[attr-defined]
            self._stop()
        else:
            super().keyPressEvent(event)  # type: ignore[arg-type]
