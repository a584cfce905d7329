"""Keeps the predictions up to date: every edit starts a new one by itself, and only the newest is ever shown."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, QTimer, Signal

from workbench.core.errors import WorkbenchError
from workbench.core.teach import TeachTask
from workbench.core.values import TaskClass
from workbench.services import jobs
from workbench.services.teach import TeachRequest, TeachResult
from workbench.ui.lanes import Job
from workbench.ui.rooms.teach.view import Shown
from workbench.ui.state import AppState

DEBOUNCE_MS = 30
"""Edits that follow one another faster than this are answered together."""
GRACE_MS = 120
"""A prediction that comes within this is not announced by dimming the old one: a flicker tells nobody anything."""

_Signature = tuple[object, ...]


class Predictor(QObject):
    """Asks for predictions after every edit of the taught task.

    Signals:
        changed: ``shown``, ``stale`` or ``waiting`` changed.
        failed(WorkbenchError): the newest request was refused; what was shown before stays, stale.

    Attributes:
        shown: the newest result with its request, or ``None``.
        job: the job that runs or waits, or ``None``.
        refused: whether the newest request could not be answered.
    """

    changed = Signal()
    failed = Signal(object)

    def __init__(self, state: AppState, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._state = state
        self._number = 0
        self._active = False
        self._wanted: tuple[_Signature, tuple[str, ...]] | None = None
        self._have: tuple[_Signature, frozenset[str]] | None = None
        self.refused = False
        self._late = False
        self._support: tuple[TeachTask, tuple[TaskClass, ...]] | None = None
        self._project = state.project
        self.shown: Shown | None = None
        self.job: Job | None = None
        self._debounce = _timer(self, DEBOUNCE_MS, self._submit)
        self._grace = _timer(self, GRACE_MS, self._be_late)
        state.project_changed.connect(self._project_changed)
        state.teach_changed.connect(self.look)
        state.entries_changed.connect(self.look)
        state.busy_changed.connect(self._device_changed)

    # ---- what is known ---------------------------------------------------------------------------
    @property
    def stale(self) -> bool:
        """Whether what is shown no longer answers the task as it is."""
        return self._wanted is not None

    @property
    def waiting(self) -> bool:
        """Whether a newer prediction is on its way and has taken long enough to say so."""
        return self.stale and self._late and not self.refused

    @property
    def dimmed(self) -> bool:
        """Whether what is shown is to be shown as stale."""
        return self.stale and (self._late or self.refused)

    @property
    def possible(self) -> bool:
        """Whether there are two classes with examples to choose between."""
        return len(self.support()) >= 2

    def support(self) -> tuple[TaskClass, ...]:
        """``TeachTask.support`` of the task as it is now, worked out once per edit."""
        task = self._state.teach
        if self._support is None or self._support[0] is not task:
            self._support = (task, task.support())
        return self._support[1]

    def start(self) -> None:
        """Begin to predict; called when the room is shown for the first time."""
        if not self._active:
            self._active = True
            self.look()

    def retry(self) -> None:
        """Ask again after a refusal."""
        self._wanted = None
        self.look()

    def current_request(self, number: int = 0) -> TeachRequest:
        """What the task asks for now."""
        task, state = self._state.teach, self._state
        return TeachRequest(number, self.support(), task.queries, task.choice, device=state.device)

    # ---- looking ---------------------------------------------------------------------------------
    def look(self) -> None:
        """Compare the task with what is shown and ask for a prediction where it is not answered."""
        if self._active:
            if self.possible:
                self._want()
            else:
                self._forget()
        self.changed.emit()

    def _want(self) -> None:
        task = self._state.teach
        signature, queries = self._signature(task), tuple(q.sha256 for q in task.queries)
        if self._have is not None and self._have[0] == signature and self._answered(self._have[1], queries):
            if self._wanted is not None:
                self._settle()
        elif self._wanted != (signature, queries):
            self._wanted = (signature, queries)
            self.refused = False
            self._number += 1
            self._debounce.start()
            if not self._grace.isActive() and not self._late:
                self._grace.start()

    def _answered(self, had: frozenset[str], queries: tuple[str, ...]) -> bool:
        """Whether what is shown answers these queries; where they were used together, one less changes the others."""
        if self.shown is not None and self.shown.result.together:
            return had == frozenset(queries)
        return had.issuperset(queries)

    def _signature(self, task: TeachTask) -> _Signature:
        support = tuple((c.id, tuple(i.sha256 for i in c.images)) for c in self.support())
        return (support, task.choice, self._state.device, tuple(e.id for e in self._state.entries))

    def _forget(self) -> None:
        self._settle()
        self.shown = self._have = None
        if self._state.result is not None:
            self._state.set_result(None)

    def _settle(self) -> None:
        """Nothing is wanted any more: what is on its way is not taken."""
        self._debounce.stop()
        self._grace.stop()
        self._late = self.refused = False
        self._wanted = None
        self._number += 1
        if self.job is not None:
            self.job.cancel()
            self.job = None

    def _project_changed(self) -> None:
        if self._state.project is not self._project:
            self._project = self._state.project
            self._settle()
            self.shown = self._have = None

    def _device_changed(self) -> None:
        asked = self._wanted or self._have
        if asked is not None and asked[0][2] != self._state.device:
            self.look()

    # ---- asking ----------------------------------------------------------------------------------
    def _submit(self) -> None:
        if self._wanted is None:
            return
        request = self.current_request(self._number)
        signature, queries = self._wanted

        def done(result: TeachResult) -> None:
            self._take(request, result, signature, queries)

        def failed(error: Exception) -> None:
            self._fail(request.number, error)

        self.job = self._state.lanes.submit(
            "adapt",
            jobs.teach,
            request,
            self._state.project_path,
            title=self.tr("Adapting"),
            on_done=done,
            on_failed=failed,
            latest=True,
        )

    def _take(
        self, request: TeachRequest, result: TeachResult, signature: _Signature, queries: tuple[str, ...]
    ) -> None:
        if request.number != self._number or result.number != self._number:
            return
        self.shown = Shown(request, result)
        self._have = (signature, frozenset(queries))
        self.job = None
        self._wanted = None
        self._late = self.refused = False
        self._grace.stop()
        self._state.set_result(result)
        self.changed.emit()

    def _fail(self, number: int, error: Exception) -> None:
        if number != self._number:
            return
        self.job = None
        self.refused = True
        self._grace.stop()
        self.changed.emit()
        if isinstance(error, WorkbenchError):
            self.failed.emit(error)

    def _be_late(self) -> None:
        if self._wanted is not None:
            self._late = True
            self.changed.emit()


def _timer(owner: QObject, milliseconds: int, slot: Callable[[], None]) -> QTimer:
    made = QTimer(owner)
    made.setSingleShot(True)
    made.setInterval(milliseconds)
    made.timeout.connect(slot)
    return made
