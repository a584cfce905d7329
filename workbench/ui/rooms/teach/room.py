"""The Teach room: classes at the left, queries in the middle, the reasons at the right; every edit predicts anew."""

from __future__ import annotations

from typing import ClassVar

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QHideEvent, QKeyEvent, QKeySequence, QShowEvent
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QSpacerItem, QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.teach import TeachTask
from workbench.core.values import ClassId, Problem
from workbench.ui.job import Job
from workbench.ui.rooms.teach import intake
from workbench.ui.rooms.teach.apply_dialog import ApplyDialog
from workbench.ui.rooms.teach.column import ClassColumn
from workbench.ui.rooms.teach.deeds import Deeds
from workbench.ui.rooms.teach.predictor import Predictor
from workbench.ui.rooms.teach.queries import QueriesPanel
from workbench.ui.rooms.teach.view import Answer, Shown, answers_of, positions, to_check
from workbench.ui.rooms.teach.why import WhyPanel
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button
from workbench.ui.widgets.room import Room
from workbench.ui.widgets.strip import MessageStrip
from workbench.ui.widgets.terms import term

_Asked = tuple[Shown, int, tuple[ClassId, ...]]
_WIDEST_STATUS = 240
"""Pixels for what is being done, beside where to drop."""


class TeachRoom(Room):
    """See the module; the parts only show values and say what a person wants, the deeds edit, the predictor answers."""

    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("1-9", "This query is the class with that number; with examples selected: move them there"),
        ("0", "This query is none of these"),
        ("Enter", "Accept the prediction"),
        ("Backspace", "Take the label back"),
        ("N", "Go to the query to label next"),
        ("Delete", "Take pictures out"),
        ("F2", "Rename the class"),
    )

    def __init__(self, state: AppState, parent: QWidget | None = None) -> None:
        super().__init__(state, "", "", parent)
        self._title.setText(self.tr("Teach"))
        self.setAccessibleName(self.tr("Teach"))
        self._answers: tuple[_Asked, dict[str, Answer]] | None = None
        self._intake_said = ""
        self._cautioned = ""
        self.deeds = Deeds(state, self)
        self.predictor = Predictor(state, self)
        self.column = ClassColumn(self.deeds, state.thumbs, self._task)
        self.queries = QueriesPanel(self.deeds, state.thumbs)
        self.why = WhyPanel()
        self.save_button = self.add_action(button(self.tr("Save labels"), "secondary"))
        self.save_button.clicked.connect(self._open_save)
        self.apply_button = self.add_action(button(self.tr("Apply to a folder"), "primary", "folder"))
        self.apply_button.clicked.connect(self.open_apply)
        row = self._row = QHBoxLayout()
        row.setSpacing(0)
        row.addWidget(self.column)
        row.addWidget(self.queries, 1)
        self._gap = QSpacerItem(16, 0)
        row.addSpacerItem(self._gap)
        row.addWidget(self.why)
        self.caution = MessageStrip()
        self.body.addWidget(self.caution)
        self.body.addLayout(row, 1)
        self.deeds.said.connect(self._said)
        self.deeds.created.connect(self.column.begin_naming, Qt.ConnectionType.QueuedConnection)
        self.queries.samples_wanted.connect(self.deeds.load_samples)
        self.why.choice_wanted.connect(self.deeds.choose)
        self.column.adaptation.step_changed.connect(self._show)
        self.predictor.changed.connect(self._show)
        self.predictor.failed.connect(self._refused)
        state.theme_changed.connect(self.update)
        state.busy_changed.connect(self._show_state)
        state.lanes.progress.connect(self._progress)
        self.setMinimumSize(800, 420)  # its parts give way to this; the wide form must not keep a window wide
        self.compact_changed(compact=False)
        self._show()

    def _task(self) -> TeachTask:
        return self.state.teach

    # ---- showing ---------------------------------------------------------------------------------
    def _show(self, *_: object) -> None:
        task, predictor = self.state.teach, self.predictor
        shown = predictor.shown
        result = None if shown is None else shown.result
        self.column.adaptation.show_result(result)
        checks = {} if shown is None or predictor.stale else to_check(shown)
        self.column.show_task(task, checks)
        self.queries.show_task(task, self.answers(), dimmed=predictor.dimmed)
        self.why.show_result(
            None if shown is None else shown.result, task, predictor.support(), dimmed=predictor.dimmed
        )
        self._show_caution("" if result is None else result.caution)
        self.set_subtitle(self._subtitle_words(task))
        self.save_button.setEnabled(any(c.images for c in task.classes) or bool(task.labels))
        self.apply_button.setEnabled(predictor.possible)
        self.apply_button.setToolTip(
            "" if predictor.possible else self.tr("Two classes with an example each are needed")
        )
        self._show_state()

    def _show_caution(self, why: str) -> None:
        """Say that answers may be poor, once for each reason: a person who took it away is not told again."""
        if why == self._cautioned:
            return
        self._cautioned = why
        if not why:
            self.caution.clear()
            return
        self.caution.show_message(
            "warn",
            why,
            self.tr("Answers may be poor. Knowledge that starts from pretrained weights is better at photographs."),
            self.tr("Go to Train"),
            lambda: self.state.go("train"),
        )

    def answers(self) -> dict[str, Answer]:
        """What is predicted at the slider's position, in terms of the task as it is now."""
        shown = self.predictor.shown
        if shown is None:
            return {}
        where, step = positions(self.state.teach), self.column.adaptation.step()
        asked = (shown, step, tuple(where))
        if self._answers is None or not self._same(self._answers[0], asked):
            self._answers = (asked, answers_of(shown.predictions(step), shown.ids(), where))
        return self._answers[1]

    @staticmethod
    def _same(a: _Asked, b: _Asked) -> bool:
        return a[0] is b[0] and a[1:] == b[1:]  # comparing results by value would take longer than working them out

    def _show_state(self) -> None:
        predictor, task = self.predictor, self.state.teach
        words = ""
        if not predictor.possible:
            words = self._missing() if task.classes or task.queries else ""
        elif predictor.stale:
            if predictor.refused:
                words = self.tr("Not predicted")
            elif not self.state.library_loaded and predictor.shown is None:
                words = self.tr("Loading the learning library")
            elif predictor.waiting:
                words = self._doing()
            elif predictor.shown is not None:
                words = self._took(predictor.shown.result.seconds)
        elif predictor.shown is not None and task.queries:
            words = self._took(predictor.shown.result.seconds)
        self.queries.set_state(words, running=predictor.waiting and self.isVisible())

    def _progress(self, job: Job) -> None:
        if job is self.predictor.job and self.predictor.waiting:
            self._show_state()

    def _doing(self) -> str:
        """What the job that answers is doing, its middle left out where that is long."""
        job = self.predictor.job
        words = (job.ctx.status_text if job is not None else "") or self.tr("Predicting")
        return self.fontMetrics().elidedText(words, Qt.TextElideMode.ElideMiddle, _WIDEST_STATUS)

    def _took(self, seconds: float) -> str:
        if seconds < 1:
            return self.tr("Predicted in {n} ms").format(n=max(1, round(1000 * seconds)))
        return self.tr("Predicted in {n} s").format(n=f"{seconds:.1f}")

    def _missing(self) -> str:
        if self.predictor.support():
            return self.tr("A second class with an example is needed")
        return self.tr("Two classes with an example each are needed")

    def _subtitle_words(self, task: TeachTask) -> str:
        support = self.predictor.support()
        classes = term(self.tr("classes"), "class")
        if not task.classes:
            return self.tr("Give a few {examples} of each class; predictions follow every change.").format(
                examples=term(self.tr("examples"), "example")
            )
        if len(support) < 2:
            names = ", ".join(c.name for c in task.classes)
            return self.tr("Classes so far: {names}. Two with an example each are needed to predict.").format(
                names=names
            )
        names = ", ".join(c.name for c in support)
        words = self.tr("Choosing between {n} {classes}: {names}, or none of these.").format(
            n=self._number(len(support)), classes=classes, names=names
        )
        empty = [c.name for c in task.classes if not any(c.id == s.id for s in support)]
        if empty:
            words += " " + self.tr("Without an example yet: {names}.").format(names=", ".join(empty))
        return words

    def _number(self, n: int) -> str:
        spelt = {
            2: self.tr("two"),
            3: self.tr("three"),
            4: self.tr("four"),
            5: self.tr("five"),
            6: self.tr("six"),
            7: self.tr("seven"),
            8: self.tr("eight"),
            9: self.tr("nine"),
            10: self.tr("ten"),
        }
        return spelt.get(n, str(n))

    def compact_changed(self, compact: bool) -> None:
        """Narrow columns in a narrow window."""
        self._gap.changeSize(12 if compact else 16, 0)
        self._row.invalidate()
        self.why.setFixedWidth(240 if compact else 308)
        self.column.set_compact(compact)
        self.queries.set_compact(compact)
        self.why.set_compact(compact)

    # ---- messages --------------------------------------------------------------------------------
    def _said(self, kind: str, headline: str, detail: str) -> None:
        if kind:
            self.show_message(kind, headline, detail)
            self._intake_said = self.strip.text()
        elif self.strip.text() == self._intake_said:
            self.strip.clear()

    def _refused(self, error: object) -> None:
        if isinstance(error, WorkbenchError):
            detail = f"{error.why[:1].upper()}{error.why[1:]}. {error.what_to_do}."
            self.show_message("bad", f"{error.what_happened}.", detail, self.tr("Try again"), self.predictor.retry)
        self._show_state()

    # ---- saving and applying ---------------------------------------------------------------------
    def _open_save(self) -> None:
        menu = self.save_menu()
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(self.save_button.mapToGlobal(QPoint(0, self.save_button.height() + 2)))

    def save_menu(self) -> QMenu:
        """As a CSV, or as copies in class folders."""
        menu = QMenu(self)
        menu.addAction(self.tr("As a CSV file..."), self.save_csv)
        menu.addAction(self.tr("As class folders..."), self.save_folders)
        return menu

    def save_csv(self) -> None:
        """Ask for a file and write everything a person labelled."""
        name, _ = QFileDialog.getSaveFileName(self, self.tr("Save the labels"), "labels.csv", "CSV (*.csv)")
        if name:
            self.state.lanes.submit(
                "files",
                intake.save_labels_csv,
                self.state.teach,
                name,
                title=self.tr("Saving the labels"),
                on_done=self._saved_csv,
            )

    def save_folders(self) -> None:
        """Ask for a folder and copy everything a person labelled into class folders."""
        name = QFileDialog.getExistingDirectory(self, self.tr("Choose a folder for the class folders"))
        if name:
            self.state.lanes.submit(
                "files",
                intake.save_labels_folders,
                self.state.teach,
                name,
                title=self.tr("Saving the labels"),
                on_done=self._saved_folders,
            )

    def _saved_csv(self, path: str) -> None:
        self.show_message("good", self.tr("The labels were saved."), path)

    def _saved_folders(self, done: tuple[int, tuple[Problem, ...]]) -> None:
        copied, problems = done
        headline = self.tr("{n} pictures were copied into class folders.").format(n=copied)
        if problems:
            self.show_message("warn", headline, "; ".join(f"{p.path}: {p.reason}" for p in problems[:2]))
        else:
            self.show_message("good", headline)

    def open_apply(self) -> ApplyDialog | None:
        """Predict a whole folder with what is taught."""
        if not self.predictor.possible:
            return None
        dialog = ApplyDialog(self.state, self.predictor.current_request(), self)
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()
        return dialog

    # ---- window ----------------------------------------------------------------------------------
    def paste(self) -> None:
        """Take what the clipboard holds: for the class that has the focus, else as queries."""
        place = self.focusWidget()
        for card in self.column.cards():
            if place is not None and (place is card or card.isAncestorOf(place)):
                card.paste()
                return
        self.queries.paste()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Paste works wherever one is."""
        if event.matches(QKeySequence.StandardKey.Paste):
            self.paste()
        else:
            super().keyPressEvent(event)

    def focus_start(self) -> None:
        """Work begins at the queries, or at the first class while there are none."""
        if self.state.teach.queries:
            self.queries.list.setFocus(Qt.FocusReason.TabFocusReason)
        else:
            self.column.target.setFocus(Qt.FocusReason.TabFocusReason)

    def reveal(self, kind: str, key: str) -> None:
        """Go to a class that the search found."""
        card = self.column.card(ClassId(key)) if kind == "class" else None
        if card is not None:
            self.column.area.ensureWidgetVisible(card)
            card.grid.setFocus(Qt.FocusReason.TabFocusReason)

    def showEvent(self, event: QShowEvent) -> None:
        """From now on every edit predicts."""
        super().showEvent(event)
        self.predictor.start()
        self._show_state()

    def hideEvent(self, event: QHideEvent) -> None:
        """Nothing moves in a room that is not seen."""
        super().hideEvent(event)
        self._show_state()
