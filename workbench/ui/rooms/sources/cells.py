"""One cell of the grid: its picture, its frame, its mark."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPen, QPixmap

from workbench.ui import icons, theme
from workbench.ui.widgets.thumbs import draw_thumb


def draw_cell(
    p: QPainter,
    box: QRectF,
    pixmap: QPixmap | None,
    *,
    failed: bool,
    chosen: bool,
    hovered: bool,
    cursor: bool,
    marked: bool,
) -> None:
    """Paint a cell.

    Args:
        p: painter.
        box: the picture's square; frames go around it.
        pixmap: the picture, ``None`` while it is not there.
        failed: it will never be there.
        chosen: selected: accent frame.
        hovered: under the pointer: grey frame.
        cursor: has the keyboard's cursor.
        marked: there is something to check.
    """
    t = theme.tokens()
    p.setBrush(Qt.BrushStyle.NoBrush)  # the edge of the thumbnail is drawn with the painter's brush
    draw_thumb(p, box, pixmap, 4.0, failed=failed and pixmap is None)
    p.setRenderHint(QPainter.RenderHint.Antialiasing)
    if failed and pixmap is None:
        icons.draw(p, QRectF(box.center().x() - 8, box.center().y() - 8, 16, 16), "warn", t.bad)
    if chosen:
        p.setPen(QPen(QColor(t.accent), 2))
        p.drawRoundedRect(box.adjusted(-2, -2, 2, 2), 6, 6)
    elif hovered:
        p.setPen(QPen(QColor(t.border_strong), 1))
        p.drawRoundedRect(box.adjusted(-1.5, -1.5, 1.5, 1.5), 5, 5)
    if cursor:
        p.setPen(QPen(QColor(t.accent), 2, Qt.PenStyle.DotLine))
        p.drawRoundedRect(box.adjusted(1, 1, -1, -1), 3, 3)
    if marked:
        badge = QRectF(box.right() - 19, box.bottom() - 19, 16, 16)
        p.setPen(Qt.PenStyle.NoPen)
        p.setBrush(QColor(t.surface))
        p.drawEllipse(badge)
        icons.draw(p, badge.adjusted(2.5, 2, -2.5, -3), "warn", t.warn)
