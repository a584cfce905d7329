"""What is painted of a plot around its curves: under them the grid, the axes and the bands, over them the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PySide6.QtCore import QPointF, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen, QPolygonF

from workbench.ui import theme
from workbench.ui.plots import legend
from workbench.ui.plots.series import log_ticks, spread, spread_labels, tick_words, ticks

if TYPE_CHECKING:
    from workbench.ui.plots.crosshair import Curve
    from workbench.ui.plots.curves import CurvePlot


def _ticks(plot: CurvePlot) -> list[float]:
    room = max(2, plot.plot_rect.height() // 26)
    if plot.log:
        return log_ticks(10 ** plot.y_range[0], 10 ** plot.y_range[1], room)
    return ticks(plot.y_range[0], plot.y_range[1], room)


def back(plot: CurvePlot, p: QPainter) -> None:
    """Background, grid, axis and bands, under the curves."""
    t = theme.tokens()
    r = plot.plot_rect
    p.setFont(theme.font("caption"))
    values = _ticks(plot)
    for value, text in zip(values, tick_words(values), strict=True):
        y = round(plot.to_pixels(0, value).y())
        p.setPen(QColor(t.grid))
        p.drawLine(r.left(), y, r.right(), y)
        p.setPen(QColor(t.secondary))
        p.drawText(
            QRect(0, y - 9, plot.plot_rect.left() - 8, 18),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            text,
        )
    _draw_across(plot, p, r)
    p.setPen(QColor(t.border_strong))
    for begun in (at for at, _ in plot.phases if plot.x_range[0] < at < plot.x_range[1]):
        x = round(plot.to_pixels(begun, 1).x())
        p.drawLine(x, r.top(), x, r.bottom())
    p.drawLine(r.left(), r.bottom() + 1, r.right(), r.bottom() + 1)
    _draw_reference(plot, p, r)
    p.setRenderHint(QPainter.RenderHint.Antialiasing)
    p.setClipRect(r)
    for curve in plot.curves.values():
        if curve.series.banded:
            _draw_band(plot, p, curve)


def _draw_across(plot: CurvePlot, p: QPainter, r: QRect) -> None:
    t = theme.tokens()
    across = ticks(plot.x_range[0], plot.x_range[1], max(2, r.width() // 76))
    middle = Qt.AlignmentFlag.AlignVCenter
    end = r.right()
    for value, text in zip(across, tick_words(across, whole=True), strict=True):
        x = round(plot.to_pixels(value, 1).x())
        p.setPen(QColor(t.grid))
        p.drawLine(x, r.top(), x, r.bottom())
        p.setPen(QColor(t.secondary))
        p.drawText(QRect(x - 40, r.bottom() + 6, 80, 18), Qt.AlignmentFlag.AlignHCenter | middle, text)
        end = max(end, x + p.fontMetrics().horizontalAdvance(text) // 2)
    p.drawText(QRect(end + 9, r.bottom() + 6, 80, 18), Qt.AlignmentFlag.AlignLeft | middle, "episodes")


def _draw_reference(plot: CurvePlot, p: QPainter, r: QRect) -> None:
    spans = plot.reference_spans
    if plot.reference is None or not spans:
        return
    t = theme.tokens()
    value, label = plot.reference
    y = round(plot.to_pixels(0, value).y())
    if not r.top() <= y <= r.bottom() + 1:
        return
    p.setPen(QPen(QColor(t.secondary), 1, Qt.PenStyle.DotLine))
    for begin, end in spans:
        p.drawLine(round(plot.to_pixels(begin, 1).x()), y, round(plot.to_pixels(end, 1).x()), y)
    p.setPen(QColor(t.secondary))
    box = QRect(r.left(), y - 19, round(plot.to_pixels(spans[-1][1], 1).x()) - r.left() - 4, 18)
    p.drawText(box, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, f"{label} {value:.2f}")


def _draw_band(plot: CurvePlot, p: QPainter, curve: Curve) -> None:
    s = curve.series
    step = max(1, s.n // 400)
    keep = np.flatnonzero(np.isfinite(s.low))[::step]
    if len(keep) < 2:
        return
    points = [plot.to_pixels(float(s.x[i]), float(s.high[i])) for i in keep]
    points += [plot.to_pixels(float(s.x[i]), float(s.low[i])) for i in keep[::-1]]
    colour = theme.class_colour(curve.hue)
    colour.setAlphaF(0.2)
    p.setPen(Qt.PenStyle.NoPen)
    p.setBrush(colour)
    p.drawPolygon(QPolygonF(points))


def front(plot: CurvePlot, p: QPainter) -> None:
    """Dots and labels at the ends, cross-hair, tooltip."""
    p.setRenderHint(QPainter.RenderHint.Antialiasing)
    r = QRectF(plot.plot_rect)
    _draw_overlay_labels(plot, p, r)
    _draw_live_labels(plot, p, r)
    if plot.at is not None:
        _draw_cursor(plot, p, r)


def _draw_overlay_labels(plot: CurvePlot, p: QPainter, r: QRectF) -> None:
    drawn = [c for c in plot.curves.values() if not c.live and c.series.n]
    ends = [plot.to_pixels(float(c.series.x[-1]), float(c.series.smooth[-1])) for c in drawn]
    ys = spread([e.y() for e in ends], 16, r.top() + 6, r.bottom() - 6)
    for curve, y in zip(drawn, ys, strict=True):
        legend.side_label(
            p, QPointF(r.right() + 6, y), curve.label, curve.hue, curve.dash, plot.width() - r.right() - 8
        )


def _draw_live_labels(plot: CurvePlot, p: QPainter, r: QRectF) -> None:
    drawn = [c for c in plot.curves.values() if c.live and c.series.n]
    if not drawn:
        return
    ends = [plot.to_pixels(float(c.series.x[-1]), float(c.series.smooth[-1])) for c in drawn]
    texts = [c.label if plot.accuracy else f"{c.label} {c.series.smooth[-1]:.2f}" for c in drawn]
    others = [c for c in plot.curves.values() if not c.live and c.series.n]
    x = max(e.x() for e in ends) + 14
    crowd = [plot.to_pixels(float(a), float(b)).y() for c in others for a, b in _window(plot, c, x)]
    ys = spread_labels([e.y() for e in ends], 16, r.top() - 6, r.bottom() - 4, crowd)
    for curve, end, y, text in zip(drawn, ends, ys, texts, strict=True):
        legend.dot(p, end, curve.hue)
        legend.end_label(p, QPointF(x, y), text, curve.hue, plot.width())


def _window(plot: CurvePlot, curve: Curve, x: float) -> list[tuple[float, float]]:
    s = curve.series
    scale = (plot.x_range[1] - plot.x_range[0]) / plot.plot_rect.width()
    left = plot.x_range[0] + (x - plot.plot_rect.left()) * scale
    keep = np.flatnonzero((s.x >= left) & (s.x <= left + 110 * scale))
    return [(float(s.x[i]), float(s.smooth[i])) for i in keep[:: max(1, len(keep) // 12)]]


def _draw_cursor(plot: CurvePlot, p: QPainter, r: QRectF) -> None:
    t = theme.tokens()
    x = plot.to_pixels(plot.at or 0.0, 1).x()
    p.setPen(QPen(QColor(t.secondary), 1, Qt.PenStyle.DashLine))
    p.drawLine(QPointF(x, r.top()), QPointF(x, r.bottom()))
    title, rows = plot.tooltip()
    legend.tooltip(p, x, r, title, rows)
