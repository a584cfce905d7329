"""A line to filter a list with: a magnifying glass, Escape clears."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from workbench.ui import icons, theme


class SearchField(QLineEdit):
    """A line with a magnifying glass, 28 px high.

    Signals:
        left_down: the Down key: on to what was found.
    """

    left_down = Signal()

    def __init__(self, name: str, tip: str, placeholder: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setTextMargins(20, 0, 0, 0)
        self.setProperty("small", "true")
        self.setPlaceholderText(placeholder)
        self.setAccessibleName(name)
        self.setToolTip(tip)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape clears, Down goes on to the list."""
        if event.key() == Qt.Key.Key_Escape and self.text():
            self.clear()
        elif event.key() == Qt.Key.Key_Down:
            self.left_down.emit()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The glass before the words."""
        super().paintEvent(event)
        icons.draw(QPainter(self), QRectF(9, self.height() / 2 - 8, 16, 16), "search", theme.tokens().secondary)
