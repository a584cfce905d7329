"""One training run as the table shows it. No Qt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

State = Literal["running", "paused", "done", "stopped", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run as the table shows it.

    Attributes:
        id: of the run.
        name: "Run 14" and, if it was given one, its name.
        algorithm: title.
        backbone: title.
        state: key of ``STATES``.
        accuracy: on validation, or ``None`` before the first.
        low: lower end of the 95 % interval, or the accuracy where there is no interval.
        high: upper end, or the accuracy.
        episodes: validation episodes behind the accuracy.
        seconds: of training.
        message: why it failed or was stopped.
        entry: id of what it left behind, or "".
        created: ISO 8601.
    """

    id: str
    name: str
    algorithm: str
    backbone: str
    state: State
    accuracy: float | None = None
    low: float = 0.0
    high: float = 0.0
    episodes: int = 0
    seconds: float = 0.0
    message: str = ""
    entry: str = ""
    created: str = ""

    @property
    def interval(self) -> str:
        """For example "(0.771–0.793)", or ""."""
        return interval_words((self.low, self.high) if self.low < self.high else None)

    @property
    def resumable(self) -> bool:
        """Whether it can go on."""
        return self.state in ("interrupted", "stopped", "failed")

    @property
    def day(self) -> str:
        """For example "17 Nov"."""
        try:
            made = datetime.fromisoformat(self.created).astimezone()
        except ValueError:
            return ""
        return f"{made.day} {made:%b}"


def interval_words(ends: tuple[float, float] | None) -> str:
    """For example "(0.771–0.793)", or "" where there is none."""
    return "" if ends is None else f"({ends[0]:.3f}–{ends[1]:.3f})"


def time_words(seconds: float) -> str:
    """For example "25 min", "40 s", "2 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
