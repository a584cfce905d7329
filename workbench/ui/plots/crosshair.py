"""Reading a plot's curves at one place: by the pointer and by the keyboard."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QRect, Qt
from PySide6.QtGui import QFocusEvent, QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QWidget

from workbench.ui.plots.series import Floats, Series

_KEYS = {Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Home, Qt.Key.Key_End, Qt.Key.Key_Escape}


@dataclass(slots=True)
class Curve:
    """One curve: its numbers, its look and the items that draw it.

    Attributes:
        label: for people.
        hue: index of the class colours.
        live: drawn as it grows, with a dot and a label at its end.
        smoothed: it follows the chosen smoothing.
    """

    label: str
    hue: int
    live: bool
    smoothed: bool
    dash: tuple[float, ...]
    series: Series
    line: pg.PlotDataItem
    faint: pg.PlotDataItem | None = None
    shown: int = field(default=-1)


class CrossHair(QWidget):
    """A plot that can be read.

    Attributes:
        curves: by key.
        at: where the cross-hair is, in the data's x; ``None`` where there is none.
        x_range: ends of the axis.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.curves: dict[str, Curve] = {}
        self.at: float | None = None
        self.x_range = (0.0, 1000.0)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)

    @property
    def plot_rect(self) -> QRect:
        """Where the curves are, in widget pixels."""
        raise NotImplementedError

    def moved(self) -> None:
        """The cross-hair is somewhere else now."""
        raise NotImplementedError

    def tooltip(self) -> tuple[str, list[tuple[int, tuple[float, ...], str]]]:
        """Heading and rows (hue, dash, text) of the tooltip at the cross-hair."""
        at = self.at or 0.0
        rows = []
        for curve in self.curves.values():
            i = curve.series.nearest(at)
            if i is None or at > curve.series.x[-1] * 1.02 + 1:
                continue
            s = curve.series
            text = f"{s.smooth[i]:.3f}"
            if s.banded and np.isfinite(s.low[i]):
                text += f" ({s.low[i]:.3f}–{s.high[i]:.3f})"
            rows.append((curve.hue, curve.dash, f"{text}  {curve.label}" if not curve.live else text))
        return f"Episode {at:,.0f}", rows

    # ---- pointer and keyboard --------------------------------------------------------------------
    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """The cross-hair follows the pointer and snaps to the nearest point."""
        r = self.plot_rect
        if r.contains(event.position().toPoint()):
            share = (event.position().x() - r.left()) / r.width()
            self._set_cursor(self._snap(self.x_range[0] + share * (self.x_range[1] - self.x_range[0])))
        else:
            self._set_cursor(None)

    def leaveEvent(self, event: QEvent) -> None:
        """The cross-hair goes with the pointer."""
        self._set_cursor(None)
        super().leaveEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and right move the cross-hair by a point (with Shift by ten), Home and End jump, Escape hides it."""
        xs = self._positions()
        key = event.key()
        if not len(xs) or key not in _KEYS:
            super().keyPressEvent(event)
            return
        if key == Qt.Key.Key_Escape:
            if self.at is None:
                super().keyPressEvent(event)
            self._set_cursor(None)
            return
        many = 10 if event.modifiers() & Qt.KeyboardModifier.ShiftModifier else 1
        now = int(np.searchsorted(xs, self.at)) if self.at is not None else len(xs)
        place = {
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: len(xs) - 1,
            Qt.Key.Key_Left: now - many,
            Qt.Key.Key_Right: now + many,
        }[Qt.Key(key)]
        self._set_cursor(float(xs[min(max(place, 0), len(xs) - 1)]))

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Leaving the plot hides the cross-hair."""
        self._set_cursor(None)
        super().focusOutEvent(event)

    def _positions(self) -> Floats:
        drawn = sorted(
            (c for c in self.curves.values() if c.series.n),
            key=lambda c: (not c.live, not c.series.banded, -c.series.n),
        )
        return drawn[0].series.x if drawn else np.empty(0)

    def _snap(self, x: float) -> float | None:
        live = [c.series for c in self.curves.values() if c.series.n and (x <= c.series.x[-1] or not c.live)]
        best = sorted(live, key=lambda s: not s.banded)[:1]
        if not best:
            return None
        i = best[0].nearest(x)
        return None if i is None else float(best[0].x[i])

    def _set_cursor(self, x: float | None) -> None:
        if x != self.at:
            self.at = x
            if x is not None:
                title, rows = self.tooltip()
                self.setAccessibleDescription(f"{title}: " + "; ".join(text for _h, _d, text in rows))
            self.moved()
