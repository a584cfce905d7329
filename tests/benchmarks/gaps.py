"""Gaps of an event loop, measured from inside it; and what the threads did in them."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from PySide6.QtCore import QEventLoop, QObject, Qt, QTimer

_EVERY_MS = 5
_LATE = 0.03
_SHOWN = 3
_DEEP = 9


@dataclass(frozen=True, slots=True)
class Found:
    """Times between two turns, milliseconds, in order."""

    gaps: tuple[float, ...]
    collected: float

    @property
    def turns(self) -> int:
        """How often the timer turned."""
        return len(self.gaps)

    @property
    def seconds(self) -> float:
        """How long it was measured."""
        return sum(self.gaps) / 1000

    @property
    def longest(self) -> float:
        """The longest gap."""
        return max(self.gaps, default=0.0)

    @property
    def p99(self) -> float:
        """99 of 100 gaps are shorter."""
        ordered = sorted(self.gaps)
        return ordered[int(0.99 * len(ordered))] if ordered else 0.0

    def words(self) -> str:
        """The longest ones."""
        longest = ", ".join(f"{g:.0f}" for g in sorted(self.gaps, reverse=True)[:5])
        return f"longest {longest} ms" + (f"; longest collection {self.collected:.0f} ms" if self.collected else "")


class Gaps(QObject):
    """A precise timer that turns every 5 ms."""

    def __init__(self, parent: QObject, *, explain: bool = False) -> None:
        super().__init__(parent)
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_EVERY_MS)
        self._timer.timeout.connect(self._turn)
        self._gaps: list[float] = []
        self._last = 0.0
        self._collected, self._collecting = 0.0, 0.0
        self._explain = explain
        self._watch: Watch | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._gaps, self._collected = [], 0.0
        self._last = time.perf_counter()
        gc.callbacks.append(self._collection)
        if self._explain:
            self._watch = Watch()
            self._watch.begin()
        self._timer.start()

    def stop(self) -> Found:
        """End, with what was found."""
        self._turn()
        self._timer.stop()
        gc.callbacks.remove(self._collection)
        if self._watch is not None:
            self._watch.end()
        return Found(tuple(self._gaps), self._collected)

    def _turn(self) -> None:
        now = time.perf_counter()
        self._gaps.append(1000 * (now - self._last))
        self._last = now
        if self._watch is not None:
            self._watch.turned = now

    def _collection(self, phase: str, _info: object) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collecting = now
        else:
            self._collected = max(self._collected, 1000 * (now - self._collecting))


class Watch:
    """Looks at all threads while the loop is late, and prints where it found them most."""

    def __init__(self) -> None:
        self.turned = time.perf_counter()
        self._on = False
        self._main = threading.main_thread().ident

    def begin(self) -> None:
        """Start looking."""
        self._on, self.turned = True, time.perf_counter()
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def end(self) -> None:
        """Stop looking."""
        self._on = False

    def _look(self) -> None:
        stalls: list[tuple[float, Counter[str]]] = []
        seen: Counter[str] = Counter()
        worst = 0.0
        while self._on:
            time.sleep(0.004)
            late = time.perf_counter() - self.turned
            if late < _LATE:
                if seen:
                    stalls.append((worst, seen))
                    seen = Counter()
                continue
            worst = late
            seen.update(self._stacks())
        for late, where in sorted(stalls, key=lambda s: -s[0])[:_SHOWN]:
            print(f"# a gap of about {1000 * late:.0f} ms")
            for line, times in where.most_common(4):
                print(f"#   {times}x {line}")
        sys.stdout.flush()

    def _stacks(self) -> list[str]:
        """What each thread is at. Keeps no frame: one that is held keeps its painter alive, and Qt crashes."""
        found = []
        for thread, frame in sys._current_frames().items():
            if thread == threading.get_ident():
                continue
            parts: list[str] = []
            at: FrameType | None = frame
            while at is not None and len(parts) < _DEEP:
                parts.append(f"{_short(at.f_code.co_filename)}:{at.f_lineno} {at.f_code.co_name}")
                at = at.f_back
            found.append(("window: " if thread == self._main else "other: ") + " < ".join(parts))
            del frame, at
        return found


def _short(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def when(there: Callable[[], bool], seconds: float) -> float:
    """Let the event loop run until something is there; gives back the monotonic time, 2 ms exact."""
    loop, poll = QEventLoop(), QTimer()
    poll.setTimerType(Qt.TimerType.PreciseTimer)
    poll.setInterval(2)
    over = time.monotonic() + seconds
    poll.timeout.connect(lambda: loop.quit() if there() or time.monotonic() > over else None)
    poll.start()
    loop.exec()
    poll.stop()
    if not there():
        raise TimeoutError(f"not within {seconds:g} s")
    return time.monotonic()
