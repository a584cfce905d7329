"""Speed and time left of a run, in words for the figures. No Qt."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

from workbench.core.context import Metric

_WINDOW_S = 15.0


class Pace:
    """Episodes per second over the last seconds of training."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def take(self, metrics: list[Metric]) -> None:
        """New numbers."""
        for metric in metrics:
            if metric.name == "train/loss":
                self._seen.append((metric.time, metric.step))
        while len(self._seen) > 2 and self._seen[-1][0] - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """Episodes per second, ``None`` before two steps."""
        if len(self._seen) < 2:
            return None
        (t0, n0), (t1, n1) = self._seen[0], self._seen[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else None

    def clear(self) -> None:
        """After a pause: what was measured before it says nothing."""
        self._seen.clear()


def speed_words(per_second: float | None) -> str:
    """For example "3.1", "0.25", "120"."""
    if per_second is None:
        return "–"
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2f}"


def phase_of(status: str, before: str) -> str:
    """The phase that a run is in, from what it says of itself; "" for a run of one phase.

    Args:
        status: e.g. "training: pretraining", or what it does between steps, which changes no phase.
        before: the phase it was in.
    """
    doing, _, phase = status.partition(": ")
    return phase if doing == "training" else before


def left_words(seconds: float | None) -> str:
    """For example "35 min", "40 s", "1 h 20 min"."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def end_words(seconds: float | None, now: datetime) -> str:
    """For example "ends about 15:42"."""
    if seconds is None:
        return ""
    end = now + timedelta(seconds=seconds)
    return f"ends about {end:%H:%M}" if end.date() == now.date() else f"ends about {end.day} {end:%b}, {end:%H:%M}"
