"""What maps of tasks have in common: their names' font, and the mark of the task that is being taught."""

from __future__ import annotations

from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPen

from workbench.ui import theme


def name_font(*, strong: bool) -> QFont:
    """Of the name of a task."""
    font = theme.font("caption")
    if strong:
        font.setWeight(font.Weight.DemiBold)
    return font


def draw_taught(painter: QPainter, at: QPointF, radius: float) -> None:
    """The task that is being taught: a ring with a dot of half its size."""
    t = theme.tokens()
    painter.setPen(QPen(QColor(t.accent), 2))
    painter.setBrush(QColor(t.plot_background))
    painter.drawEllipse(at, radius, radius)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(t.accent))
    painter.drawEllipse(at, radius / 2, radius / 2)
