"""A live plot of training: curves by pyqtgraph; axes, bands, direct labels, cross-hair and tooltip painted by us.

Importing this file imports numpy and pyqtgraph (half a second), so do it on a worker thread first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRect, QSize, Qt
from PySide6.QtGui import (
    QColor,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QFrame, QSizePolicy, QWidget

from workbench.ui import theme
from workbench.ui.plots import painting
from workbench.ui.plots.crosshair import CrossHair, Curve
from workbench.ui.plots.series import Floats, Series, accuracy_range, loss_range, round_up, with_gaps

LEFT, TOP, RIGHT, BOTTOM = 40, 12, 124, 28
_SMALLEST = 1e-6
DASHES: tuple[tuple[float, ...], ...] = ((6, 4), (2, 3), (8, 3, 2, 3), (10, 4))


class CurvePlot(CrossHair):
    """A plot whose x is the number of episodes.

    Args:
        title: what is plotted, for the accessible name.
        accuracy: values are fractions: the axis stays within 0..1 and the band of the interval is drawn.
        parent: owner.
    """

    def __init__(self, title: str, *, accuracy: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.title = title
        self.accuracy = accuracy
        self.log = False
        self.expected: float | None = None
        self.reference: tuple[float, str] | None = None
        self.phases: list[tuple[float, bool]] = []
        self._smoothing = 0.0
        self._pen_width = 1.0
        self.y_range = (0.0, 1.0)
        self.setAccessibleName(f"{title} plot")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(260, 140)
        self.view = pg.GraphicsView(self, background=None)
        self.view.setFrameShape(QFrame.Shape.NoFrame)
        self.view.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.view.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.view.setStyleSheet("background: transparent")
        self.view.viewport().setAutoFillBackground(False)
        self.box = pg.ViewBox(enableMenu=False, border=None)
        self.box.setMouseEnabled(False, False)
        self.box.disableAutoRange()
        self.box.setDefaultPadding(0)
        self.view.setCentralItem(self.box)
        self.front = _Front(self)
        self.refresh()

    # ---- what is plotted -------------------------------------------------------------------------
    def add_live(self, key: str, label: str, hue: int, *, smoothed: bool = False, faint: bool = False) -> None:
        """A curve that grows with :meth:`append`.

        Args:
            key: names it.
            label: for people.
            hue: index of the class colours.
            smoothed: it is noisy: the line follows the chosen smoothing.
            faint: the measured values are drawn faintly behind the line.
        """
        series = Series(self._smoothing if smoothed else 0.0)
        curve = Curve(label, hue, True, smoothed, (), series, self._item())
        if faint:
            curve.faint = self._item(antialias=False)
            curve.faint.setZValue(-2)
        self._add(key, curve)

    def add_overlay(
        self,
        key: str,
        label: str,
        hue: int,
        dash: int,
        x: Sequence[float],
        y: Sequence[float],
        begins: Sequence[float] = (),
    ) -> None:
        """A finished curve of an earlier run, dashed and labelled at the right; cut after each of ``begins``."""
        curve = Curve(label, hue, False, False, DASHES[dash % len(DASHES)], Series(), self._item())
        cuts = sorted(begins)
        for a, b in zip(x, y, strict=True):
            while cuts and a > cuts[0]:
                cuts.pop(0)
                curve.series.split()
            curve.series.append(a, b)
        self._add(key, curve)
        self.refresh()

    def remove(self, key: str) -> None:
        """Take a curve off."""
        curve = self.curves.pop(key, None)
        if curve is not None:
            for item in (curve.line, curve.faint):
                if item is not None:
                    self.box.removeItem(item)
            self.refresh()

    def clear_live(self) -> None:
        """Empty the live curves; overlays stay."""
        for curve in self.curves.values():
            if curve.live:
                curve.series.clear()
                curve.shown = -1
        self.at, self.phases = None, []
        self.refresh()

    def begin_phase(self, at: float, cut: Sequence[str], *, referenced: bool) -> None:
        """From here on training does something else.

        Args:
            at: episodes done.
            cut: the live curves whose numbers mean something else from here on.
            referenced: the reference is a level to compare these numbers with.
        """
        self.phases.append((at, referenced))
        for key in cut:
            self.curves[key].series.split()

    def append(self, key: str, x: float, y: float, low: float | None = None, high: float | None = None) -> None:
        """One more point of a live curve; shown at the next :meth:`refresh`."""
        self.curves[key].series.append(x, y, low, high)

    def set_log(self, log: bool) -> None:
        """Logarithmic or linear values."""
        self.log = log
        self._restyle()

    def set_smoothing(self, weight: float) -> None:
        """Weight of the past in the smoothed line, 0 for none."""
        self._smoothing = weight
        for curve in self.curves.values():
            if curve.smoothed:
                curve.series.set_smoothing(weight)
        self._restyle()

    def set_expected(self, episodes: float | None) -> None:
        """How many episodes the run will have, so that the axis is the whole run."""
        self.expected = episodes

    def set_reference(self, value: float | None, label: str = "") -> None:
        """A level to compare with, for example chance; ``None`` for none."""
        self.reference = None if value is None else (value, label)
        self.refresh()

    @property
    def reference_spans(self) -> list[tuple[float, float]]:
        """From where to where, in episodes, the reference is a level to compare with; none without one."""
        if self.reference is None:
            return []
        if not self.phases:
            return [self.x_range]
        ends = [at for at, _ in self.phases[1:]] + [self.x_range[1]]
        return [(at, end) for (at, yes), end in zip(self.phases, ends, strict=True) if yes and end > at]

    def set_running(self, running: bool) -> None:
        """Lines are 1 px while a run is live (2 px cost four times as much) and 2 px afterwards."""
        self._pen_width = 1.0 if running else 2.0
        for curve in self.curves.values():
            self._pens(curve)
        self.front.update()

    # ---- drawing ---------------------------------------------------------------------------------
    def refresh(self) -> None:
        """Bring everything up to date: one ``setData`` per curve that changed."""
        self._fit()
        for curve in self.curves.values():
            if curve.shown == curve.series.n:
                continue
            curve.shown = curve.series.n
            x = curve.series.x
            begins = curve.series.begins
            curve.line.setData(*self._drawn(x, curve.series.smooth, begins))
            if curve.faint is not None:
                curve.faint.setData(*self._drawn(x, curve.series.y, begins))
        self.setAccessibleDescription(self.summary())
        self.update()
        self.front.update()

    def summary(self) -> str:
        """The plot in one or two sentences."""
        parts = []
        for curve in self.curves.values():
            s = curve.series
            if s.n:
                ends = (
                    f", 95 % interval {s.low[-1]:.3f} to {s.high[-1]:.3f}"
                    if s.banded and s.low[-1] == s.low[-1]
                    else ""
                )
                parts.append(
                    f"{curve.label} {s.smooth[-1]:.3f} at episode {s.x[-1]:,.0f}, "
                    f"from {s.smooth[min(s.begins[-1], s.n - 1)]:.3f}{ends}"
                )
        if self.reference is not None and self.reference_spans:
            parts.append(f"{self.reference[1]} {self.reference[0]:.2f}")
        return f"{self.title}: {'; '.join(parts)}." if parts else f"{self.title}: no values yet."

    @property
    def plot_rect(self) -> QRect:
        """Where the curves are, in widget pixels."""
        return QRect(LEFT, TOP, max(10, self.width() - LEFT - self._right()), max(10, self.height() - TOP - BOTTOM))

    def to_pixels(self, x: float, y: float) -> QPointF:
        """A point of the data in widget pixels."""
        r = self.plot_rect
        value = self._mapped_one(y)
        across = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (value - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return QPointF(r.left() + across * r.width(), r.top() + (1 - up) * r.height())

    def moved(self) -> None:
        """Draw the cross-hair where it is now."""
        self.front.update()

    def sizeHint(self) -> QSize:
        """The design's size."""
        return QSize(600, 196)

    def _right(self) -> int:
        return RIGHT if self.width() >= 420 else 76

    def _item(self, *, antialias: bool = True) -> pg.PlotDataItem:
        item = pg.PlotDataItem(antialias=antialias)
        self.box.addItem(item)
        item.setClipToView(True)
        item.setDownsampling(auto=True, method="peak")
        return item

    def _add(self, key: str, curve: Curve) -> None:
        self.remove(key)
        if not curve.live:
            curve.line.setZValue(-1)
        self.curves[key] = curve
        self._pens(curve)

    def _pens(self, curve: Curve) -> None:
        colour = theme.class_colour(curve.hue)
        scale = self.devicePixelRatioF()  # a cosmetic pen is measured in the screen's own pixels
        live = self._pen_width == 1.0
        pen = QPen(colour, 1.0 if live else scale * (self._pen_width if curve.live else 1.5))
        pen.setCosmetic(True)
        if curve.dash:
            pen.setDashPattern([d * scale / pen.widthF() for d in curve.dash])
        curve.line.setPen(pen)
        if curve.faint is not None:
            pale = QColor(colour)
            pale.setAlphaF(0.25)
            thin_pen = QPen(pale, 1.0)
            thin_pen.setCosmetic(True)
            curve.faint.setPen(thin_pen)

    def _restyle(self) -> None:
        for curve in self.curves.values():
            self._pens(curve)
            curve.shown = -1
        self.refresh()

    def _drawn(self, x: Floats, y: Floats, begins: Sequence[int]) -> tuple[Floats, Floats]:
        """What is handed to the plot: thinned first, so that the logarithm is taken of few values."""
        few_x, few_y = with_gaps(x, y, begins)
        if not self.log:
            return few_x, few_y
        return few_x, np.where(few_y <= 0, self._lowest, np.log10(np.maximum(few_y, _SMALLEST)))

    def _mapped_one(self, value: float) -> float:
        if not self.log:
            return value
        return math.log10(max(value, _SMALLEST)) if value > 0 else self._lowest

    @property
    def _lowest(self) -> float:
        """Where a logarithmic axis shows 0, which it does not have: just above its lower end."""
        return self.y_range[0] + 0.02 * (self.y_range[1] - self.y_range[0])

    def _fit(self) -> None:
        drawn = [c.series for c in self.curves.values() if c.series.n]
        furthest = max((float(s.x[-1]) for s in drawn), default=0.0)
        right = max(self.expected or 0.0, furthest)
        self.x_range = (0.0, right if self.expected and right <= self.expected * 1.001 else round_up(max(right, 100.0)))
        reference = self.reference[0] if self.reference and self.reference_spans else None
        self.y_range = accuracy_range(drawn, reference) if self.accuracy else loss_range(drawn, self.log)
        r = self.plot_rect
        if self.view.geometry() != r:
            self.view.setGeometry(r)
        self.box.setRange(xRange=self.x_range, yRange=self.y_range, padding=0, disableAutoRange=True)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Background, grid, axes and bands, under the curves."""
        painting.back(self, QPainter(self))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep the margins."""
        super().resizeEvent(event)
        self.front.setGeometry(self.rect())
        self.refresh()

    def changeEvent(self, event: QEvent) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange) and hasattr(self, "front"):
            self._restyle()


class _Front(QWidget):
    """The layer above the curves."""

    def __init__(self, plot: CurvePlot) -> None:
        super().__init__(plot)
        self._plot = plot
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Let the plot draw."""
        painting.front(self._plot, QPainter(self))
