"""Small parts of a plot that are drawn with a painter: end dots, direct labels, the tooltip at the cross-hair."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QPainter, QPen

from workbench.ui import theme

LINE = 16
Row = tuple[int, tuple[float, ...], str]
"""Hue, dash and text of one line of the tooltip."""


def dash_sample(p: QPainter, left: QPointF, length: float, hue: int, dash: Sequence[float], width: float = 2.0) -> None:
    """A short piece of a curve's line."""
    pen = QPen(theme.class_colour(hue), width)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    if dash:
        pen.setDashPattern([d / width for d in dash])
    p.setPen(pen)
    p.drawLine(left, QPointF(left.x() + length, left.y()))


def dot(p: QPainter, centre: QPointF, hue: int) -> None:
    """The end of a live curve: a dot with an edge in the background's colour."""
    p.setPen(QPen(QColor(theme.tokens().plot_background), 1.5))
    p.setBrush(theme.class_colour(hue))
    p.drawEllipse(centre, 4.5, 4.5)


def end_label(p: QPainter, at: QPointF, text: str, hue: int, width: float) -> None:
    """A live curve's name beside a dot of its colour; ``at`` is the dot's centre; kept left of ``width``."""
    font = theme.font("caption")
    font.setWeight(font.Weight.Medium)
    p.setFont(font)
    length = QFontMetricsF(font).horizontalAdvance(text)
    x = min(at.x(), width - length - 16)
    p.setPen(Qt.PenStyle.NoPen)
    background = QColor(theme.tokens().plot_background)
    background.setAlphaF(0.75)
    p.setBrush(background)
    p.drawRoundedRect(QRectF(x - 6, at.y() - 8, length + 20, LINE), 3, 3)
    p.setBrush(theme.class_colour(hue))
    p.drawEllipse(QPointF(x, at.y()), 3.5, 3.5)
    p.setPen(QColor(theme.tokens().text))
    p.drawText(
        QRectF(x + 8, at.y() - 9, length + 4, 18), Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text
    )


def side_label(p: QPainter, at: QPointF, text: str, hue: int, dash: Sequence[float], room: float) -> None:
    """An earlier run's name in the right margin, after a sample of its dash."""
    dash_sample(p, at, 16, hue, dash)
    font = theme.font("caption")
    p.setFont(font)
    p.setPen(QColor(theme.tokens().secondary))
    shown = QFontMetricsF(font).elidedText(text, Qt.TextElideMode.ElideRight, max(10.0, room - 22))
    p.drawText(QRectF(at.x() + 22, at.y() - 9, max(10.0, room - 22), 18), Qt.AlignmentFlag.AlignVCenter, shown)


def tooltip(p: QPainter, x: float, r: QRectF, title: str, rows: Sequence[Row]) -> None:
    """The box at the cross-hair: a heading and one line per curve, beside the line and inside ``r``."""
    t = theme.tokens()
    bold = theme.font("caption")
    bold.setWeight(bold.Weight.DemiBold)
    plain = theme.font("caption")
    measure, strong = QFontMetricsF(plain), QFontMetricsF(bold)
    width = (
        max([strong.horizontalAdvance(title)] + [measure.horizontalAdvance(text) + 16 for _h, _d, text in rows]) + 20
    )
    height = 12 + LINE * (1 + len(rows))
    left = x + 10 if x + 10 + width <= r.right() + 100 else x - 10 - width
    box = QRectF(round(left) + 0.5, round(r.bottom() - height - 8) + 0.5, round(width), height)
    p.setPen(QPen(QColor(t.border_strong), 1))
    p.setBrush(QColor(t.raised))
    p.drawRoundedRect(box, 6, 6)
    p.setFont(bold)
    p.setPen(QColor(t.text))
    line = QRectF(box.left() + 10, box.top() + 6, width - 12, LINE)
    p.drawText(line, Qt.AlignmentFlag.AlignVCenter, title)
    p.setFont(plain)
    for hue, dash, text in rows:
        line.translate(0, LINE)
        dash_sample(p, QPointF(line.left(), line.center().y()), 10, hue, dash, 2.5)
        p.setPen(QColor(t.secondary))
        p.drawText(line.translated(16, 0), Qt.AlignmentFlag.AlignVCenter, text)
