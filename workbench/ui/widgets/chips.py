"""A pill with a word and a key cap; not controls."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from workbench.ui import icons, theme


class Chip(QWidget):
    """A pill of 24 px with an icon and a word; not a control.

    ``tone``: neutral, accent, good, warn or bad.
    """

    def __init__(self, text: str = "", tone: str = "neutral", icon: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._tone, self._icon = text, tone, icon
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(text)

    def set(self, text: str, tone: str | None = None, icon: str | None = None) -> None:
        """Change what it says."""
        self._text = text
        self._tone = self._tone if tone is None else tone
        self._icon = self._icon if icon is None else icon
        self.setAccessibleName(text)
        self.updateGeometry()
        self.update()

    def text(self) -> str:
        """What it says."""
        return self._text

    def sizeHint(self) -> QSize:
        """24 high."""
        return QSize(chip_width(self._text, bool(self._icon)), 24)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Pill, icon, word."""
        painter = QPainter(self)
        draw_chip(painter, QRectF(self.rect()), self._text, self._tone, self._icon)


def chip_width(text: str, with_icon: bool) -> int:
    """Width of a chip, pixels."""
    return QFontMetrics(theme.font("name")).horizontalAdvance(text) + (42 if with_icon else 20)


def draw_chip(painter: QPainter, rect: QRectF, text: str, tone: str, icon: str = "") -> None:
    """Draw a chip; for delegates too."""
    t = theme.tokens()
    fill, ink = {
        "accent": (t.accent_soft, t.accent),
        "good": (t.good_soft, t.good),
        "warn": (t.warn_soft, t.warn),
        "bad": (t.bad_soft, t.bad),
    }.get(tone, (t.surface, t.secondary))
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    inner = rect.adjusted(0.5, 0.5, -0.5, -0.5)
    painter.setPen(QPen(QColor(t.border), 1) if tone == "neutral" else Qt.PenStyle.NoPen)
    painter.setBrush(QColor(fill))
    painter.drawRoundedRect(inner, inner.height() / 2, inner.height() / 2)
    left = rect.left() + 10
    if icon:
        icons.draw(painter, QRectF(left, rect.center().y() - 8, 16, 16), icon, ink)
        left += 22
    painter.setPen(QColor(ink))
    painter.setFont(theme.font("name"))
    painter.drawText(QRectF(left, rect.top(), rect.right() - left, rect.height()), Qt.AlignmentFlag.AlignVCenter, text)
    painter.restore()


class KeyCap(QWidget):
    """A key as it is printed on a keyboard: 20x20, wider for words."""

    def __init__(self, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = text
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(text)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def set_text(self, text: str) -> None:
        """Another key."""
        self._text = text
        self.setAccessibleName(text)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """20 high."""
        wide = QFontMetrics(theme.font("caption")).horizontalAdvance(self._text) + 10
        return QSize(20 if len(self._text) <= 1 else max(20, wide), 20)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The cap with its thicker lower edge."""
        draw_key(QPainter(self), QRectF(self.rect()), self._text)


def draw_key(painter: QPainter, rect: QRectF, text: str) -> None:
    """Draw a key cap; for delegates too."""
    t = theme.tokens()
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(t.border_strong))
    painter.drawRoundedRect(rect, 4, 4)
    painter.setBrush(QColor(t.surface))
    painter.drawRoundedRect(rect.adjusted(1, 1, -1, -2), 3, 3)
    painter.setPen(QColor(t.text if theme.name() == "dark" else t.secondary))
    font = theme.font("caption")
    font.setWeight(font.Weight.Medium)
    painter.setFont(font)
    painter.drawText(rect.adjusted(0, 0, 0, -1), Qt.AlignmentFlag.AlignCenter, text)
    painter.restore()
