"""How a task looks on the map and in the matrix: one of its pictures, or a marker where none is here."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen

from workbench.services.overview import KnownTask
from workbench.ui import theme
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb


def draw_face(painter: QPainter, rect: QRectF, task: KnownTask, index: int, thumbs: Thumbs, radius: float) -> None:
    """Draw a task into a square; ``index`` is its place in the atlas, for the marker."""
    if task.picture is not None and not thumbs.failed(task.picture):
        draw_thumb(painter, rect, thumbs.pixmap(task.picture, round(rect.width())), radius)
        return
    t = theme.tokens()
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(QColor(t.border_strong), 1))
    painter.setBrush(QColor(t.raised))
    painter.drawRoundedRect(rect.adjusted(0.5, 0.5, -0.5, -0.5), radius, radius)
    painter.restore()
    side = min(14.0, rect.width() * 0.5)
    c = rect.center()
    theme.draw_marker(painter, QRectF(c.x() - side / 2, c.y() - side / 2, side, side), index)


MIDDLE = Qt.AlignmentFlag.AlignVCenter
