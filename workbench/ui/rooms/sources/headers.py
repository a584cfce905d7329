"""The header of a class in the grid: chevron, marker, name, count, bar, and what there is to check."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter

from workbench.ui import icons, theme
from workbench.ui.rooms.sources.content import Section
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.controls import draw_bar

_NAME, _COUNT, _BAR = 46, 84, 120


def name_width(sections: Sequence[Section], width: int) -> int:
    """Width of the names' column: the longest of the first 200, at most a third of the grid."""
    metrics = QFontMetrics(theme.font("name"))
    longest = max((metrics.horizontalAdvance(s.name[:60]) for s in sections[:200]), default=0)
    return max(64, min(longest + 8, width // 3))


def draw_header(
    p: QPainter, box: QRect, section: Section, collapsed: bool, marked: int, names: int, *, pinned: bool
) -> None:
    """Paint one header.

    Args:
        p: painter.
        box: the whole line.
        section: what it is the header of.
        collapsed: its pictures are hidden.
        marked: pictures with something to check.
        names: width of the names' column.
        pinned: pictures run under it, so it has a line below.
    """
    t = theme.tokens()
    middle = box.center().y()
    icons.draw(p, QRectF(16, middle - 7.5, 16, 16), "chevron-right" if collapsed else "chevron-down", t.secondary)
    theme.draw_marker(p, QRectF(40, middle - 5.5, 12, 12), section.hue)
    left = 16 + _NAME - 2
    p.setFont(theme.font("name"))
    p.setPen(QColor(t.text))
    text = QFontMetrics(theme.font("name")).elidedText(section.name, Qt.TextElideMode.ElideRight, names)
    p.drawText(QRect(left, box.top(), names + 2, box.height()), Qt.AlignmentFlag.AlignVCenter, text)
    p.setFont(theme.font("body"))
    p.setPen(QColor(t.secondary))
    shown = count(len(section.images), "image")
    if section.shown is not None:
        shown = f"{len(section.shown):,} of {shown}"
    wide = max(_COUNT, QFontMetrics(theme.font("body")).horizontalAdvance(shown))
    left += names + 4
    p.drawText(
        QRect(left, box.top(), wide, box.height()), Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, shown
    )
    left += wide + 12
    right = box.right() - 18
    note = f"{marked:,} to check" if marked else ""
    taken = QFontMetrics(theme.font("body")).horizontalAdvance(note) + 30 if note else 0
    bar = min(_BAR, right - taken - left)
    if bar >= 40 and section.images:
        draw_bar(p, QRectF(left, middle - 2.5, bar * section.share, 6), 1.0, section.hue)
    if note:
        p.setFont(theme.font("body"))
        p.setPen(QColor(t.warn))
        p.drawText(
            QRect(right - taken, box.top(), taken, box.height()),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            note,
        )
        icons.draw(p, QRectF(right - taken + 4, middle - 7.5, 16, 16), "warn", t.warn)
    if pinned:
        p.fillRect(QRect(box.left(), box.bottom(), box.width(), 1), QColor(t.hairline))
