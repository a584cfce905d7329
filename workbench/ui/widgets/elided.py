"""A line of text that is cut where there is no room for it."""

from __future__ import annotations

import html

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QLabel, QWidget

from workbench.ui import theme


class Elided(QLabel):
    """A line of plain text that ends in "..." where there is no room for all of it; the tooltip then says all."""

    def __init__(self, text: str = "", role: str = "body", least: int = 48, parent: QWidget | None = None) -> None:
        """Build it.

        Args:
            text: its words; never read as markup.
            role: as of ``controls.label``.
            least: pixels that it keeps at least where the text needs as many.
            parent: widget.
        """
        super().__init__(parent)
        self._whole, self._least = "", least
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setProperty("role", role)
        if role in ("title", "section"):
            self.setFont(theme.font(role))
        self.setText(text)

    def setText(self, text: str) -> None:
        """Replace it."""
        self._whole = text
        self.setAccessibleName(text)
        self.updateGeometry()
        self._fit()

    def text(self) -> str:
        """The whole text."""
        return self._whole

    def shown(self) -> str:
        """What can be read of it."""
        return super().text()

    def _fit(self) -> None:
        shown = self.fontMetrics().elidedText(self._whole, Qt.TextElideMode.ElideRight, self.width())
        super().setText(shown)
        self.setToolTip("" if shown == self._whole else f"<span>{html.escape(self._whole)}</span>")

    def sizeHint(self) -> QSize:
        """All of it."""
        return QSize(self.fontMetrics().horizontalAdvance(self._whole) + 2, super().sizeHint().height())

    def minimumSizeHint(self) -> QSize:
        """A few letters."""
        return QSize(min(self._least, self.sizeHint().width()), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """More or less room."""
        super().resizeEvent(event)
        self._fit()
