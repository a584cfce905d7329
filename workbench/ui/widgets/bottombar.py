"""The bar at the bottom: the one home of what is running."""

from __future__ import annotations

import time

from PySide6.QtCore import QTimer
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QSizePolicy, QWidget

from workbench.ui import theme
from workbench.ui.lanes import Job, Lanes
from workbench.ui.widgets import words
from workbench.ui.widgets.controls import Bar, button, label
from workbench.ui.widgets.strip import IconLabel

_SHOW_AFTER_MS = 150  # a job shorter than this would only flicker
_ICONS = {"train": "train", "files": "folder", "adapt": "teach", "loading": "clock"}


class Speed:
    """Units per second of one job over its last seconds, pauses left out."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, done: int, now: float) -> None:
        """So much is done now."""
        if self._points and done < self._points[-1][1]:
            self._points = []
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[0][0] > 8.0:
            self._points.pop(0)

    def restart(self) -> None:
        """Forget: it was paused."""
        self._points = []

    def value(self) -> float | None:
        """Units per second, or ``None`` before a second has passed."""
        if len(self._points) < 2 or self._points[-1][0] - self._points[0][0] < 1.0:
            return None
        (t0, n0), (t1, n1) = self._points[0], self._points[-1]
        return (n1 - n0) / (t1 - t0)


class BottomBar(QFrame):
    """36 px: what runs, how far it is, Pause and Stop; at the right that nothing leaves the machine."""

    def __init__(self, lanes: Lanes, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "bar")
        self.setFixedHeight(36)
        self._lanes = lanes
        self._job: Job | None = None
        self._closing = ""
        self._speed = Speed()
        self._icon = IconLabel("train", 16, "accent")
        self._title = label("", "name")
        self._idle = label(self.tr("Nothing is running"), "secondary")
        self._bar = Bar(6)
        self._bar.setFixedWidth(200)
        self._percent, self._rate, self._left = _steady("name"), _steady("secondary"), _steady("secondary")
        self._more = label("", "secondary")
        self.pause = button(self.tr("Pause"), "quiet", "pause", size="small")
        self.stop = button(self.tr("Stop"), "quiet", "stop", size="small")
        self.pause.clicked.connect(self.toggle_pause)
        self.stop.clicked.connect(self.stop_job)
        row = QHBoxLayout(self)
        row.setContentsMargins(16, 1, 16, 0)
        row.setSpacing(8)
        places = (
            (self._idle, 0),
            (self._icon, 0),
            (self._title, 4),
            (self._bar, 4),
            (self._percent, 10),
            (self._rate, 6),
            (self._left, 4),
        )
        for widget, after in places:
            row.addWidget(widget)
            if after:
                row.addSpacing(after)
        for other in (self.pause, self.stop, self._more):
            row.addWidget(other)
        row.addStretch(1)
        row.addWidget(IconLabel("lock", 16, "secondary"))
        self.offline = label(self.tr("All local, offline"), "secondary")
        row.addWidget(self.offline)
        self._wait = QTimer(self)
        self._wait.setSingleShot(True)
        self._wait.setInterval(_SHOW_AFTER_MS)
        self._wait.timeout.connect(self.refresh)
        self._motion = QTimer(self)
        self._motion.setInterval(100)
        self._motion.timeout.connect(self._move)
        lanes.job_started.connect(self._started)
        lanes.job_finished.connect(self._finished)
        lanes.progress.connect(self._progress)
        self.refresh()

    # ---- what the person does --------------------------------------------------------------------
    def job(self) -> Job | None:
        """The job shown."""
        return self._job

    def toggle_pause(self) -> None:
        """Pause the job shown, or let it go on."""
        if self._job is not None:
            self._job.resume() if self._job.paused else self._job.pause()

    def stop_job(self) -> None:
        """Stop the job shown."""
        if self._job is not None:
            self._job.cancel()

    def show_closing(self, text: str) -> None:
        """The window closes: say what it waits for."""
        self._closing = text
        self.refresh()

    def halt(self) -> None:
        """Stop all timers; the window is going."""
        self._wait.stop()
        self._motion.stop()

    # ---- what the lanes say ----------------------------------------------------------------------
    def _started(self, _job: Job) -> None:
        self._wait.start()

    def _finished(self, _job: Job) -> None:
        if not self._wait.isActive():
            self._wait.start()

    def _progress(self, job: Job) -> None:
        if job is self._job:
            self.refresh()

    def _pick(self) -> list[Job]:
        now = time.monotonic()
        return [j for j in self._lanes.running() if now - j.begun >= _SHOW_AFTER_MS / 1000 * 0.8 or j is self._job]

    def refresh(self) -> None:
        """Show the first of the running jobs."""
        jobs = self._pick()
        job = jobs[0] if jobs else None
        if job is not self._job:
            self._speed.restart()
            for one in (self._percent, self._rate, self._left):
                one.setMinimumWidth(0)
        self._job = job
        shown = job is not None or bool(self._closing)
        self._idle.setVisible(not shown)
        for widget in (self._icon, self._title, self._bar):
            widget.setVisible(shown)
        self._more.setVisible(len(jobs) > 1)
        if len(jobs) > 1:
            self._more.setText(self.tr("and {title}").format(title=", ".join(_within(j.title) for j in jobs[1:])))
        if job is None:
            for other in (self._percent, self._rate, self._left, self.pause, self.stop):
                other.hide()
            if self._closing:
                self._icon.set("clock")
                self._title.setText(self._closing)
                self._bar.set_value(None)
            self._animate(on=bool(self._closing))
            return
        self._show(job)

    def _show(self, job: Job) -> None:
        progress = job.ctx.progress_now
        stopping = job.state == "stopping" or bool(self._closing)
        self._icon.set(_ICONS[job.lane])
        title = job.title
        if self._closing:
            title = self._closing
        elif stopping:
            title = self.tr("Finishing this step")
        elif job.paused:
            title = self.tr("{title}, paused").format(title=job.title)
        self._title.setText(title)
        self.setAccessibleName(title)
        self._bar.set_colour("secondary" if stopping or job.paused else "accent")
        known = progress is not None and bool(progress.total)
        if progress is not None and progress.total:
            share = min(progress.done / progress.total, 1.0)
            self._bar.set_value(share)
            _put(self._percent, f"{int(share * 100)} %")
        elif progress is not None:
            self._bar.set_value(None)
            _put(self._percent, f"{words.count(progress.done)} {progress.unit}")
        else:
            self._bar.set_value(None)
        self._percent.setVisible(progress is not None)
        speed = self._measure(job)
        live = speed is not None and progress is not None and not stopping and not job.paused
        if speed is not None and progress is not None and live and speed > 0:
            _put(self._rate, words.rate(progress, speed))
            left = progress.seconds_left
            if left is None and progress.total:
                left = (progress.total - progress.done) / speed
            if left is not None:
                _put(self._left, words.time_left(left))
        self._rate.setVisible(live and bool(self._rate.text()))
        self._left.setVisible(live and known and bool(self._left.text()))
        loading = job.lane == "loading"
        self.pause.setVisible(job.lane == "train" and not stopping)
        self.pause.setText(self.tr("Resume") if job.paused else self.tr("Pause"))
        self.stop.setVisible(not loading and not self._closing)
        self.stop.setEnabled(not stopping)
        self._animate(on=not known and not job.paused)

    def _measure(self, job: Job) -> float | None:
        progress = job.ctx.progress_now
        if progress is None or job.paused or job.held:
            self._speed.restart()
            return None
        self._speed.add(progress.done, time.monotonic())
        return self._speed.value()

    def _animate(self, *, on: bool) -> None:
        if on and not self._motion.isActive():
            self._motion.start()
        elif not on:
            self._motion.stop()

    def _move(self) -> None:
        if self._bar.value() is None:
            self._bar.set_value(None)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The border above."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(theme.tokens().window))
        painter.fillRect(0, 0, self.width(), 1, QColor(theme.tokens().border))


def _steady(role: str) -> QLabel:
    made = label("", role)
    made.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Preferred)
    return made


def _put(at: QLabel, text: str) -> None:
    """Write a number that changes: its place only ever grows."""
    if at.text() != text:
        at.setText(text)
        font = theme.font("name" if at.property("role") == "name" else "body")
        at.setMinimumWidth(max(at.minimumWidth(), QFontMetrics(font).horizontalAdvance(text) + 2))


def _within(title: str) -> str:
    """A job's title in the midst of a sentence."""
    return title[:1].lower() + title[1:]
