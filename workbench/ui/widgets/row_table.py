"""A table of rows: one is current, the one under the pointer is tinted, a ring is drawn for the keyboard alone."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRect, Qt
from PySide6.QtGui import QColor, QFocusEvent, QFont, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from workbench.ui import theme

ROW, HEADER = 36, 32
"""Heights, px."""


class RowTable(QTableView):
    """What tables of rows have in common; the model, the delegate and the header are a subclass's.

    Attributes:
        hovered: number of the row under the pointer, -1 for none.
        by_keyboard: the last thing done was done by a key, so the delegate draws a ring.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.hovered = -1
        self.by_keyboard = False
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setMouseTracking(True)
        self.setWordWrap(False)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(ROW)
        self.verticalHeader().setMinimumSectionSize(ROW)

    def set_header(self, header: QHeaderView, *, clickable: bool) -> None:
        """Titles of the columns, which do not change their width."""
        self.setHorizontalHeader(header)
        header.setFixedHeight(HEADER)
        header.setSectionsClickable(clickable)
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)

    def ringed(self, row: int) -> bool:
        """Whether a row has the ring of the keyboard."""
        return self.hasFocus() and self.by_keyboard and row == self.currentIndex().row()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """The row under the pointer is tinted."""
        super().mouseMoveEvent(event)
        self._hover(self.indexAt(event.position().toPoint()).row())

    def leaveEvent(self, event: QEvent) -> None:
        """No row is under the pointer."""
        super().leaveEvent(event)
        self._hover(-1)

    def _hover(self, row: int) -> None:
        if row != self.hovered:
            self.hovered = row
            self.viewport().update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose by pointer."""
        self.by_keyboard = False
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows move."""
        self.by_keyboard = True
        super().keyPressEvent(event)
        self.viewport().update()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Coming by Tab shows the ring."""
        super().focusInEvent(event)
        self.by_keyboard = event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
        self.viewport().update()


def header_font() -> QFont:
    """Of a column's title."""
    font = theme.font("caption")
    font.setWeight(font.Weight.Medium)
    return font


def draw_words(p: QPainter, box: QRect, text: str, side: Qt.AlignmentFlag = Qt.AlignmentFlag.AlignLeft) -> None:
    """One line in the middle of a cell, cut with an ellipsis."""
    shown = p.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, box.width())
    p.drawText(box, side | Qt.AlignmentFlag.AlignVCenter, shown)


def draw_ring(p: QPainter, box: QRect, *, first: bool, last: bool) -> None:
    """The part of a row's ring that falls into one cell."""
    p.setPen(QPen(QColor(theme.tokens().accent), 2))
    p.drawLine(box.left(), box.top() + 1, box.right() + 1, box.top() + 1)
    p.drawLine(box.left(), box.bottom() - 1, box.right() + 1, box.bottom() - 1)
    if first:
        p.drawLine(box.left() + 1, box.top(), box.left() + 1, box.bottom())
    if last:
        p.drawLine(box.right(), box.top(), box.right(), box.bottom())
