"""One line of text in which some words have a dotted underline and open the glossary, and some are bold."""

from __future__ import annotations

import re

from PySide6.QtCore import QEvent, QPoint, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetrics,
    QFontMetricsF,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
)
from PySide6.QtWidgets import QFrame, QSizePolicy, QVBoxLayout, QWidget

from workbench.ui import theme
from workbench.ui.widgets.controls import label
from workbench.ui.widgets.glossary import explain

_MARKED = re.compile("\ue000(.*?)\ue001(.*?)\ue002")


def term(word: str, key: str) -> str:
    """A word of a ``TermLabel`` that opens the glossary at ``key`` ("" = only the dotted line's word in plain)."""
    return f"\ue000{word}\ue001{key}\ue002"


def strong(word: str) -> str:
    """A word of a ``TermLabel`` in bold text colour."""
    return f"\ue000{word}\ue001*\ue002"


class TermLabel(QWidget):
    """A line of plain text, elided at its end, with ``term`` and ``strong`` words in it; Enter opens its glossary."""

    def __init__(
        self, text: str = "", *, role: str = "secondary", right: bool = False, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._role, self._right = role, right
        self._parts: list[tuple[str, str]] = []
        self._boxes: list[tuple[QRectF, str]] = []
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.set_text(text)

    def set_text(self, text: str) -> None:
        """Replace the text; see ``term`` and ``strong``."""
        parts: list[tuple[str, str]] = []
        at = 0
        for found in _MARKED.finditer(text):
            parts += [(text[at : found.start()], ""), (found.group(1), found.group(2))]
            at = found.end()
        parts.append((text[at:], ""))
        parts = [p for p in parts if p[0]]
        if parts == self._parts:
            return
        self._parts = parts
        has_terms = any(key not in ("", "*") for _, key in parts)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus if has_terms else Qt.FocusPolicy.NoFocus)
        self.setAccessibleName(self.text())
        self.updateGeometry()
        self.update()

    def text(self) -> str:
        """The words without marks."""
        return "".join(word for word, _ in self._parts)

    def _font(self, key: str) -> QFont:
        font = theme.font("caption" if self._role in ("caption", "label") else "body")
        if key == "*":
            font.setWeight(QFont.Weight.DemiBold)
        elif self._role == "label":
            font.setWeight(QFont.Weight.Medium)
        return font

    def sizeHint(self) -> QSize:
        """The whole line."""
        wide = sum(QFontMetricsF(self._font(key)).horizontalAdvance(word) for word, key in self._parts)
        return QSize(round(wide) + 2, 16 if self._role in ("caption", "label") else 20)

    def minimumSizeHint(self) -> QSize:
        """It may be elided."""
        return QSize(40, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Words, dotted underlines."""
        t = theme.tokens()
        painter = QPainter(self)
        quiet = QColor(t.text if self._role == "body" else t.secondary)
        metrics = QFontMetrics(self._font(""))
        base = (self.height() + metrics.ascent() - metrics.descent()) / 2
        x = max(0.0, self.width() - self.sizeHint().width()) if self._right else 0.0
        self._boxes = []
        for word, key in self._parts:
            font = self._font(key)
            wide = QFontMetricsF(font)
            left = self.width() - x
            shown = word
            if wide.horizontalAdvance(word) > left + 0.5:
                shown = wide.elidedText(word, Qt.TextElideMode.ElideRight, max(left, 0))
            painter.setFont(font)
            painter.setPen(QColor(t.text) if key == "*" else quiet)
            painter.drawText(QPointF(x, base), shown)
            advance = wide.horizontalAdvance(shown)
            if key not in ("", "*"):
                pen = QPen(QColor(t.secondary), 1)
                pen.setDashPattern([1, 2])
                painter.setPen(pen)
                y = round(base) + 3.5
                painter.drawLine(QPointF(x, y), QPointF(x + advance, y))
                self._boxes.append((QRectF(x, 0, advance, self.height()), key))
            x += advance
            if shown != word:
                break

    def _hit(self, at: QPointF) -> str:
        return next((key for box, key in self._boxes if box.contains(at)), "")

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """A hand over terms."""
        self.setCursor(Qt.CursorShape.PointingHandCursor if self._hit(event.position()) else Qt.CursorShape.ArrowCursor)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Open the glossary at the term."""
        key = self._hit(event.position())
        if key:
            self.open_glossary([key])
        else:
            super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter or Space opens the glossary at all terms of the line."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.open_glossary([key for _, key in self._parts if key not in ("", "*")])
        else:
            super().keyPressEvent(event)

    def open_glossary(self, keys: list[str]) -> None:
        """Show explanations in a small frame under the line."""
        Glossary(keys, self).popup(self.mapToGlobal(QPoint(0, self.height() + 4)))

    def changeEvent(self, event: QEvent) -> None:
        """Another font or palette."""
        self.updateGeometry()
        super().changeEvent(event)


class Glossary(QFrame):
    """Explanations of terms; closes at the first click or key elsewhere."""

    def __init__(self, keys: list[str], parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setProperty("role", "card")
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 10)
        column.setSpacing(4)
        self.setFixedWidth(320)
        for key in dict.fromkeys(keys):
            found = explain(key)
            if found is not None:
                column.addWidget(label(found[0], "strong"))
                column.addWidget(label(found[1], "secondary", wrap=True))
        self.setAccessibleName(", ".join(explain(k)[0] for k in keys if explain(k)))  # type: ignore[index]

    def popup(self, at: QPoint) -> None:
        """Show it, its top left corner at ``at`` (global)."""
        self.adjustSize()
        self.move(at)
        self.show()
