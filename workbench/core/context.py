"""The context that every long job receives: cancel, pause, progress, metrics, sub-seeds.

A job is a plain function ``fn(request, ctx) -> result``. The window runs it on a lane,
the command line and the tests run the same function on the calling thread.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workbench.core.errors import JobCancelledError, NotFiniteError


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number.

    Attributes:
        name: for example ``train/loss`` or ``validation/accuracy``, or ``phase/STREAM/NAME`` where a phase begins.
        step: episodes done when it was measured.
        value: finite.
        time: seconds since the job began.
        low: lower end of the 95 % interval, or ``None``.
        high: upper end of the 95 % interval, or ``None``.
    """

    name: str
    step: int
    value: float
    time: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        done: units finished.
        total: units in all, or ``None`` while unknown.
        unit: what is counted, in words ("episodes", "images").
        seconds_left: estimate, or ``None``.
    """

    done: int
    total: int | None
    unit: str
    seconds_left: float | None = None


@dataclass(slots=True)
class Context:
    """Cancel, pause, status, progress and metrics of one job; safe to touch from two threads.

    Attributes:
        seed: root of every sub-seed of the job.
        on_change: called (on the job's thread) after each status or progress; the command line draws its bar with it.
    """

    seed: int = 0
    on_change: Callable[[Context], None] | None = None
    _cancel: threading.Event = field(default_factory=threading.Event)
    _resume: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _metrics: list[Metric] = field(default_factory=list)
    _events: list[object] = field(default_factory=list)
    _status: str = ""
    _progress: Progress | None = None
    _begun: float = field(default_factory=time.monotonic)
    _held: float = 0.0

    def __post_init__(self) -> None:
        self._resume.set()

    # ---- called by the one who asked for the job -------------------------------------------------
    def cancel(self) -> None:
        """Ask the job to stop; returns at once. Callable from any thread."""
        self._cancel.set()
        self._resume.set()

    def pause(self) -> None:
        """Hold the job at its next check."""
        self._resume.clear()

    def resume(self) -> None:
        """Let a held job go on."""
        self._resume.set()

    @property
    def cancelled(self) -> bool:
        """Whether cancel was asked for."""
        return self._cancel.is_set()

    @property
    def paused(self) -> bool:
        """Whether the job is held, or will be at its next check."""
        return not self._resume.is_set()

    def take_metrics(self) -> list[Metric]:
        """Swap the buffer of metrics out; the plots pull with this every 50-100 ms."""
        with self._lock:
            taken, self._metrics = self._metrics, []
        return taken

    def take_events(self) -> list[object]:
        """Swap the buffer of events out (episode galleries, found tasks: frozen values)."""
        with self._lock:
            taken, self._events = self._events, []
        return taken

    @property
    def events_waiting(self) -> int:
        """Events that nobody has taken yet; a job that sends many leaves them out while nobody watches."""
        return len(self._events)

    @property
    def held_seconds(self) -> float:
        """How long the job was held by ``pause`` so far; no part of a budget of minutes."""
        return self._held

    @property
    def status_text(self) -> str:
        """What the job is doing, in words."""
        return self._status

    @property
    def progress_now(self) -> Progress | None:
        """The last progress, or ``None`` before the first."""
        return self._progress

    # ---- called by the job -----------------------------------------------------------------------
    def check(self) -> None:
        """Wait while paused; raise when cancelled.

        Raises:
            JobCancelledError: the person asked to stop.
        """
        if not self._resume.is_set():
            begun = time.monotonic()
            self._resume.wait()
            self._held += time.monotonic() - begun
        if self._cancel.is_set():
            raise JobCancelledError

    def metric(self, name: str, step: int, value: float, low: float | None = None, high: float | None = None) -> None:
        """Append one number.

        Raises:
            NotFiniteError: the value is not finite; the run ends with the reason.
        """
        if not math.isfinite(value):
            raise NotFiniteError(
                f"The run stopped at episode {step}",
                f"{name} became {value}, so nothing learnt after it can be trusted",
                "Start again with a smaller learning rate; the best state before it is kept",
            )
        with self._lock:
            self._metrics.append(Metric(name, step, float(value), time.monotonic() - self._begun, low, high))

    def event(self, value: object) -> None:
        """Hand a frozen value to whoever watches the job."""
        with self._lock:
            self._events.append(value)

    def status(self, text: str) -> None:
        """Say in words what is being done; overwrites one slot."""
        self._status = text
        if self.on_change is not None:
            self.on_change(self)

    def progress(self, done: int, total: int | None, unit: str, seconds_left: float | None = None) -> None:
        """Say how far the job is; overwrites one slot."""
        self._progress = Progress(done, total, unit, seconds_left)
        if self.on_change is not None:
            self.on_change(self)

    def seed_for(self, name: str) -> int:
        """A sub-seed that depends on the job's seed and the name alone (63 bits)."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "little") >> 1
