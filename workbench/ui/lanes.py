"""Background work: four lanes, one thread each, one job at a time; the only file with threads.

A job is a Qt-free ``fn(*args, ctx) -> result``. The window submits it to a lane and gets a ``Job`` back; everything
that the job says comes back into the window's thread: while it runs, its numbers, events and progress are *pulled* by a
timer, and its end is one queued signal.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, Qt, QThread, QTimer, Signal, Slot

from workbench.core.errors import WorkbenchError
from workbench.core.threads import end_thread
from workbench.ui.job import Job as Job
from workbench.ui.job import JobState as JobState
from workbench.ui.job import LaneName as LaneName

log = logging.getLogger(__name__)

_STACK = 16 << 20  # secondary threads get 512 KiB on macOS; torch's C recursion needs more
_PULL_MS = 80


class _Thread(QThread):
    """A lane's thread.

    ``run`` is overridden in Python so that the thread has one Python state from its beginning to its end. Otherwise
    every job would begin and end one of its own: caches of the thread would be lost after each job, and on Python 3.11
    the process crashes where they hold tensors (the state is freed twice).
    """

    def run(self) -> None:
        """Handle jobs until asked to quit, then let go of what the thread keeps."""
        self.exec()
        end_thread()


class _Worker(QObject):
    """Lives on a lane's thread, without a parent.

    Signals:
        ended(job, state, value): queued to the window's thread.
    """

    ended = Signal(object, str, object)

    @Slot(object)
    def run(self, job: Job) -> None:
        state, value = job.run()
        self.ended.emit(job, state, value)


class _Lane(QObject):
    """One thread with its worker and the jobs that wait for it."""

    start = Signal(object)

    def __init__(self, name: str, parent: Lanes) -> None:
        super().__init__(parent)
        self.thread_ = _Thread(self)
        self.thread_.setObjectName(f"lane-{name}")
        self.thread_.setStackSize(_STACK)
        self.worker = _Worker()
        self.worker.moveToThread(self.thread_)
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.start.connect(self.worker.run, Qt.ConnectionType.QueuedConnection)
        self.worker.ended.connect(parent.take_end, Qt.ConnectionType.QueuedConnection)
        self.thread_.start()


class Lanes(QObject):
    """All background work of the window.

    Signals:
        job_started(Job): it began to run.
        job_finished(Job): it ended; ``state`` says how.
        metrics(Job, list[Metric]): new numbers of a running job, at most every 80 ms.
        job_event(Job, value): a frozen value that a running job handed over.
        progress(Job): its status text, progress or state changed.
        refused(WorkbenchError): a job without ``on_failed`` was refused.
        bug(Exception, str): a job ended with an exception that is a bug, with its traceback.
    """

    job_started = Signal(object)
    job_finished = Signal(object)
    metrics = Signal(object, object)
    job_event = Signal(object, object)
    progress = Signal(object)
    refused = Signal(object)
    bug = Signal(object, str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._lanes: dict[LaneName, _Lane] = {}
        self._suspended = False
        self._closing: Callable[[], object] | None = None
        self._deadline = 0.0
        self._pull_timer = QTimer(self)
        self._pull_timer.setInterval(_PULL_MS)
        self._pull_timer.timeout.connect(self._pull)

    # ---- asking ----------------------------------------------------------------------------------
    def submit(
        self,
        lane: LaneName,
        fn: Callable[..., Any],
        *args: Any,
        title: str,
        on_done: Callable[[Any], object] | None = None,
        on_failed: Callable[[Exception], object] | None = None,
        on_cancelled: Callable[[], object] | None = None,
        latest: bool = False,
        on_event: Callable[[Any], object] | None = None,
    ) -> Job:
        """Run ``fn(*args, ctx)`` on a lane after what already waits there.

        All callbacks are called in the window's thread. A job that was cancelled but returned a result all the same
        (training that keeps the best) is delivered by ``on_done``.

        Args:
            lane: ``train``, ``adapt``, ``files`` or ``loading``.
            fn: the Qt-free work.
            *args: its arguments before the context.
            title: for people, shown in the bottom bar.
            on_done: gets the result.
            on_failed: gets the ``WorkbenchError`` or, for a bug, the exception.
            on_cancelled: nothing came of it.
            latest: this one replaces all others of its lane: the running one is cancelled, the waiting ones are
                dropped, and none of them calls back.
            on_event: gets each value the job hands over while it runs.

        Returns:
            The job; one that is ``dropped`` already when the window is closing.
        """
        job = Job(self, lane, fn, args, title)
        if self._closing is not None:
            job.state = "dropped"
            return job
        job.on_done, job.on_failed, job.on_cancelled, job.on_event = on_done, on_failed, on_cancelled, on_event
        if lane not in self._lanes:
            self._lanes[lane] = _Lane(lane, self)
        if latest:
            self.drop(lane)
        self._lanes[lane].waiting.append(job)
        self._next(lane)
        return job

    def suspend(self) -> None:
        """Start nothing that needs the learning library until ``go_on``: its import would slow the window's start."""
        self._suspended = True

    def go_on(self) -> None:
        """Start what waits."""
        self._suspended = False
        for lane in self._lanes:
            self._next(lane)

    def drop(self, lane: LaneName) -> None:
        """Forget every job of a lane: nothing of theirs is delivered any more."""
        place = self._lanes.get(lane)
        if place is None:
            return
        if place.running is not None:
            place.running.state = "dropped"
            place.running.ctx.cancel()
        while place.waiting:
            job = place.waiting.popleft()
            job.state = "dropped"
            self.job_finished.emit(job)

    def cancel(self, job: Job) -> None:
        """Ask one job to stop; sets its event straight from here, since a queued slot would wait for the job."""
        if job.over:
            return
        job.ctx.cancel()
        waiting = self._lanes[job.lane].waiting
        if job in waiting:
            waiting.remove(job)
            self._finish(job, "cancelled", None)
        else:
            job.state = "stopping"
            self.progress.emit(job)

    def running(self, lane: LaneName | None = None) -> list[Job]:
        """Jobs that run now, of one lane or of all, in the order train, files, adapt, loading."""
        order: tuple[LaneName, ...] = ("train", "files", "adapt", "loading")
        found = [self._lanes[n].running for n in order if n in self._lanes and lane in (None, n)]
        return [job for job in found if job is not None and job.state != "dropped"]

    def busy(self, lane: LaneName) -> bool:
        """Whether anything runs or waits on a lane."""
        place = self._lanes.get(lane)
        return place is not None and (place.running is not None or bool(place.waiting))

    # ---- running ---------------------------------------------------------------------------------
    def _next(self, lane: LaneName) -> None:
        place = self._lanes[lane]
        if place.running is not None or not place.waiting or (self._suspended and lane != "files"):
            return
        job = place.waiting.popleft()
        place.running = job
        job.state = "running"
        job.begun = time.monotonic()
        self._share_cores()
        self._pull_timer.start()
        self.job_started.emit(job)
        place.start.emit(job)

    def _share_cores(self) -> None:
        """Hold training between two steps while adapting runs, so that the two never share cores."""
        train = self._lanes["train"].running if "train" in self._lanes else None
        if train is None:
            return
        adapting = "adapt" in self._lanes and self._lanes["adapt"].running is not None
        if (
            adapting and not train.held and not train.ctx.cancelled
        ):  # a held check() would keep it from seeing its cancel
            train.hold()
        elif train.held and not adapting:
            train.release()

    @Slot(object, str, object)
    def take_end(self, job: Job, state: str, value: object) -> None:
        """A worker says that a job ended (queued, in the window's thread)."""
        self._pull_job(job)
        self._lanes[job.lane].running = None
        try:
            self._finish(job, state, value)
        finally:
            self._share_cores()
            self._next(job.lane)
            if all(place.running is None for place in self._lanes.values()):
                self._pull_timer.stop()
                if self._closing is not None:
                    self._quit()

    def _finish(self, job: Job, state: str, value: Any) -> None:
        dropped = job.state == "dropped"
        callbacks = (job.on_done, job.on_failed, job.on_cancelled)
        job.on_done = job.on_failed = job.on_cancelled = job.on_event = None
        if not dropped:
            job.state = state  # type: ignore[assignment]
        self.job_finished.emit(job)
        if dropped or self._closing is not None:
            return
        on_done, on_failed, on_cancelled = callbacks
        if state == "done" and on_done is not None:
            on_done(value)
        elif state == "cancelled" and on_cancelled is not None:
            on_cancelled()
        elif state == "failed":
            if not isinstance(value, WorkbenchError):
                log.error("%s failed\n%s", job.title, job.details)
                self.bug.emit(value, job.details)
            elif on_failed is None:
                self.refused.emit(value)
            if on_failed is not None:
                on_failed(value)

    # ---- pulling ---------------------------------------------------------------------------------
    @Slot()
    def _pull(self) -> None:
        for job in self.running():
            self._pull_job(job)
        if self._closing is not None and time.monotonic() > self._deadline:
            self._quit()

    def _pull_job(self, job: Job) -> None:
        if job.state == "dropped" or self._closing is not None:
            return
        numbers = job.ctx.take_metrics()
        if numbers:
            self.metrics.emit(job, numbers)
        for value in job.ctx.take_events():
            if job.on_event is not None:
                job.on_event(value)
            self.job_event.emit(job, value)
        seen = (job.ctx.status_text, job.ctx.progress_now, job.state, job.paused)
        if seen != job._seen:  # noqa: SLF001 - the lanes own their jobs
            job._seen = seen  # noqa: SLF001
            self.progress.emit(job)

    # ---- closing ---------------------------------------------------------------------------------
    @property
    def stuck(self) -> bool:
        """After closing: whether a job was still inside its work when the time was over."""
        return any(place.running is not None for place in self._lanes.values())

    def close(self, on_closed: Callable[[], object], timeout_s: float = 8.0) -> None:
        """Cancel everything and call ``on_closed`` when all threads have ended; the event loop goes on meanwhile.

        Args:
            on_closed: called once, in the window's thread; ``stuck`` says whether the time ran out first.
            timeout_s: how long to wait for the running steps.
        """
        if self._closing is not None:
            return
        self._closing = on_closed
        self._deadline = time.monotonic() + timeout_s
        for place in self._lanes.values():
            place.waiting.clear()
            if place.running is not None:
                place.running.ctx.cancel()
                if place.running.state != "dropped":
                    place.running.state = "stopping"
                self.progress.emit(place.running)
        if self.stuck:
            self._pull_timer.start()
        else:
            QTimer.singleShot(0, self, self._quit)

    @Slot()
    def _quit(self) -> None:
        self._pull_timer.stop()
        on_closed, self._closing = self._closing, _do_nothing
        if on_closed is None or on_closed is _do_nothing:
            return
        for place in self._lanes.values():
            if place.running is None:
                place.thread_.quit()
                place.thread_.wait()  # idle: it has nothing to do but leave its event loop
        on_closed()


def _do_nothing() -> None:
    """Closed already."""
