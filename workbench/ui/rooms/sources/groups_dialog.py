"""Group these: the unlabelled pictures of a task in groups, each of which becomes a class with one key."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QKeyEvent, QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import QDialog, QHBoxLayout, QLineEdit, QSpinBox, QVBoxLayout, QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef, Task, TaskId
from workbench.services import jobs
from workbench.services.requests import Grouped, GroupRequest
from workbench.ui.lanes import Job
from workbench.ui.rooms.sources.group_rows import GroupRow
from workbench.ui.rooms.sources.grouped import Made, with_class, without_class
from workbench.ui.rooms.sources.words import count
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button, clear_layout, label
from workbench.ui.widgets.focus import FocusRing
from workbench.ui.widgets.panel import scroll
from workbench.ui.widgets.running import RunningRow
from workbench.ui.widgets.strip import EmptyHint, MessageStrip

FEWEST, MOST = 2, 50
_PAUSE_MS = 350


class GroupsDialog(QDialog):
    """See the module. Digits and Enter make classes, Ctrl+Z takes them back, Escape stops what runs or closes."""

    def __init__(self, state: AppState, task: Task, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._state, self._task_id, self._task_name = state, task.id, task.name
        self._target: TaskId | None = None
        self._made: list[tuple[Made, int]] = []
        self._grouped: Grouped | None = None
        self._suggested = 0
        self._suggested_for: tuple[ImageRef, ...] = ()
        self.job: Job | None = None
        self.rows: list[GroupRow] = []
        self.setWindowTitle(self.tr("Group these"))
        self.setMinimumSize(600, 420)
        self.resize(856, 620)
        self._build(task)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_PAUSE_MS)
        self._later.timeout.connect(self.start)
        self.number.valueChanged.connect(self._number_changed)
        self._ring = FocusRing(self)
        undo = QShortcut(QKeySequence(QKeySequence.StandardKey.Undo), self)
        undo.activated.connect(self.undo)
        state.lanes.progress.connect(self._progress)
        self.start()

    # ---- building --------------------------------------------------------------------------------
    def _build(self, task: Task) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 20, 24, 20)
        column.setSpacing(12)
        column.addWidget(label(self._task_name, "section"))
        self.seen = label(count(len(task.unlabelled), "unlabelled picture"), "secondary", wrap=True)
        column.addWidget(self.seen)
        self.strip = MessageStrip()
        column.addWidget(self.strip)
        head = QHBoxLayout()
        head.setSpacing(8)
        title = self._title = label(self.tr("Groups"), "label")
        self.number = QSpinBox()
        self.number.setRange(FEWEST, MOST)
        self.number.setFixedWidth(84)
        self.number.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.number.setAccessibleName(self.tr("Number of groups"))
        self.number.setToolTip(self.tr("How many groups to make, {a} to {b}").format(a=FEWEST, b=MOST))
        title.setBuddy(self.number)
        self.suggestion = button("", "link")
        self.suggestion.setToolTip(
            self.tr("The number at which the pictures of a group are most alike and the groups lie farthest apart")
        )
        self.suggestion.clicked.connect(self._use_suggestion)
        self.running = RunningRow(self.tr("Stop looking for groups (Esc)"))
        self.running.stop_asked.connect(self._stop)
        for widget in (title, self.number, self.suggestion):
            head.addWidget(widget)
        head.addStretch(1)
        head.addWidget(self.running)
        column.addLayout(head)
        content = QWidget()
        self._list = QVBoxLayout(content)
        self._list.setContentsMargins(6, 6, 6, 6)  # room for the focus ring
        self._list.setSpacing(8)
        self._area = scroll(content)
        column.addWidget(self._area, 1)
        self.waiting = EmptyHint("group", self.tr("Groups of like pictures appear here"))
        column.addWidget(self.waiting, 1)
        foot = QHBoxLayout()
        foot.setSpacing(8)
        self.hint = label(self.tr("1 to 9 or Enter make a class of a group, F2 renames it"), "caption")
        self.undo_button = button(self.tr("Undo"), "secondary", "undo")
        self.undo_button.setToolTip(self.tr("Take the last class back (Ctrl+Z)"))
        self.undo_button.clicked.connect(self.undo)
        self.close_button = button(self.tr("Done"), "primary")
        self.close_button.clicked.connect(self.accept)
        foot.addWidget(self.hint)
        foot.addStretch(1)
        foot.addWidget(self.undo_button)
        foot.addWidget(self.close_button)
        column.addLayout(foot)
        self._show_phase()

    def _show_phase(self) -> None:
        running = self.job is not None
        self.running.setVisible(running)
        for asks in (self._title, self.number, self.suggestion):
            asks.setVisible(self._grouped is not None)
        self.waiting.setVisible(running and not self.rows)
        self._area.setVisible(not self.waiting.isVisibleTo(self))
        self.suggestion.setEnabled(self._suggested not in (0, self.number.value()))
        self.hint.setVisible(bool(self.rows))
        self.undo_button.setEnabled(bool(self._made))
        self._area.setEnabled(not running)

    @property
    def task(self) -> Task | None:
        """The task as it is now; ``None`` once nothing of it is left."""
        return next((t for t in self._state.tasks if t.id == self._task_id), None)

    @property
    def made(self) -> tuple[Made, ...]:
        """The classes that were made, in order."""
        return tuple(m for m, _ in self._made)

    # ---- looking for groups ----------------------------------------------------------------------
    def start(self) -> None:
        """Look for groups among what is unlabelled: at first as many as there seem to be, then as many as asked."""
        self._later.stop()
        task = self.task
        if task is None or not task.unlabelled:
            return
        if self.job is not None:
            self._let_go()
        self.strip.clear()
        wanted, seen_by = (0, "") if self._grouped is None else (self.number.value(), self._grouped.entry)
        request = GroupRequest(task.unlabelled, seen_by, wanted, task.unlabelled != self._suggested_for)
        self.running.wait()
        self.job = self._state.lanes.submit(
            "files",
            jobs.group,
            request,
            self._state.project_path,
            title=self.tr("Grouping {name}").format(name=self._task_name),
            on_done=partial(self._done, task.unlabelled),
            on_failed=self._failed,
            on_cancelled=self._cancelled,
        )
        self._show_phase()

    def _number_changed(self, _number: int) -> None:
        self._later.start()
        self._show_phase()

    def _use_suggestion(self) -> None:
        self.number.setValue(self._suggested)

    def _progress(self, job: Job) -> None:
        if job is self.job:
            self.running.show_job(job)

    def _stop(self) -> None:
        if self.job is not None:
            self.running.cancel(self.job)

    def _done(self, images: tuple[ImageRef, ...], grouped: Grouped) -> None:
        self.job, self._grouped = None, grouped
        if grouped.suggested is not None:
            self._suggested, self._suggested_for = grouped.suggested, images
        self.number.blockSignals(True)
        self.number.setValue(len(grouped.groups))
        self.number.blockSignals(False)
        self.suggestion.setText(self.tr("{n} suggested").format(n=self._suggested))
        if grouped.entry:
            self.seen.setText(
                self.tr(
                    "As {name} sees them. A group becomes a class of a new task; the files stay where they are."
                ).format(name=grouped.name)
            )
        else:
            self.seen.setText(
                self.tr("Nothing was learnt yet, so the pictures are seen by an untrained network: expect little.")
            )
        if grouped.left_out:
            self.strip.show_message(
                "warn",
                self.tr("{n} left out.").format(n=count(grouped.left_out, "picture")),
                self.tr("They could not be read."),
            )
        self._show_groups()

    def _show_groups(self) -> None:
        clear_layout(self._list)
        self.rows = []
        assert self._grouped is not None
        self._made = [(m, -1) for m, _ in self._made]  # classes of earlier groups have no row any more
        for number, group in enumerate(self._grouped.groups, 1):
            row = GroupRow(self._state.thumbs, number, group)
            row.wanted.connect(self._maker(number - 1))
            row.moved.connect(self._mover(number - 1))
            self.rows.append(row)
            self._list.addWidget(row)
        self._list.addStretch(1)
        self._show_phase()
        if self.rows and not isinstance(self.focusWidget(), QSpinBox):
            self.rows[0].setFocus(Qt.FocusReason.OtherFocusReason)

    def _maker(self, index: int) -> Callable[[], None]:
        return lambda: self.make_class(index)

    def _mover(self, index: int) -> Callable[[int], None]:
        return lambda by: self._go_to(index + by)

    def _go_to(self, index: int) -> None:
        if 0 <= index < len(self.rows):
            self.rows[index].setFocus(Qt.FocusReason.OtherFocusReason)
            self._area.ensureWidgetVisible(self.rows[index])

    def _failed(self, error: Exception) -> None:
        self.job = None
        if isinstance(error, WorkbenchError):
            detail = f"{error.why[:1].upper()}{error.why[1:]}. {error.what_to_do}."
            self.strip.show_message("bad", f"{error.what_happened}.", detail)
        self._show_phase()

    def _cancelled(self) -> None:
        self.job = None
        self.strip.show_message(
            "info", self.tr("Stopped."), self.tr("No groups were made."), self.tr("Look again"), self.start
        )
        self._show_phase()

    # ---- making classes --------------------------------------------------------------------------
    def make_class(self, index: int) -> None:
        """Make a class of a group, and go to the next."""
        task = self.task
        if task is None or self.job is not None or not 0 <= index < len(self.rows) or self.rows[index].done:
            return
        row = self.rows[index]
        name = row.name.text().strip() or self.tr("Group {n}").format(n=index + 1)
        tasks, made = with_class(self._state.tasks, task, self._target, name, row.group.images)
        self._target = made.target
        self._made.append((made, index))
        words = self.tr("make {name} of pictures of {task}").format(name=made.name, task=task.name)
        self._state.set_tasks(tasks, words)
        row.set_done(True, made.name)
        left = [i for i, r in enumerate(self.rows) if not r.done]
        if left:
            self._go_to(next((i for i in left if i > index), left[0]))
        else:
            self.close_button.setFocus(Qt.FocusReason.OtherFocusReason)
        self._show_phase()

    def undo(self) -> None:
        """Take the last class back."""
        if not self._made:
            return
        made, index = self._made.pop()
        self._state.set_tasks(without_class(self._state.tasks, made), undone=1)
        if index >= 0:
            self.rows[index].set_done(False)
            self._go_to(index)
        self._show_phase()

    # ---- keys, leaving ---------------------------------------------------------------------------
    def showEvent(self, event: QShowEvent) -> None:
        """From now on the focus ring follows the keyboard."""
        super().showEvent(event)
        self._ring.watch_input()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Digits make classes; Escape stops what runs, or closes."""
        digit = event.key() - Qt.Key.Key_1
        if 0 <= digit < 9 and not isinstance(self.focusWidget(), QLineEdit | QSpinBox):
            self.make_class(digit)
        elif event.key() == Qt.Key.Key_Escape and self.job is not None:
            self._stop()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            event.accept()  # a row's own; never closes the dialog
        else:
            super().keyPressEvent(event)

    def _let_go(self) -> None:
        """Stop what runs without being told."""
        if self.job is not None:
            self.job.on_done = self.job.on_failed = self.job.on_cancelled = None
            self.job.cancel()
            self.job = None

    def done(self, code: int) -> None:
        """Stop what runs."""
        self._later.stop()
        self._let_go()
        self._state.lanes.progress.disconnect(self._progress)
        super().done(code)
