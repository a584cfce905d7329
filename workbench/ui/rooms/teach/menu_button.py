"""A button that opens a menu: icon, words, chevron; a square with the icon alone where there is little room."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QPushButton, QSizePolicy, QStyle, QStyleOptionButton, QWidget

from workbench.ui import icons, theme
from workbench.ui.widgets.controls import set_property

_WIDEST = 120


class MenuButton(QPushButton):
    """See the module; ``clicked`` is to open the menu."""

    def __init__(self, icon: str, text: str, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._icon, self._words, self._name = icon, text, name
        self._compact = False
        self._active = False
        self.setProperty("kind", "secondary")
        self.setProperty("size", "small")
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setAutoDefault(False)
        self.set_text(text)

    def set_text(self, text: str) -> None:
        """Other words."""
        self._words = text
        self.setAccessibleName(f"{self._name}: {text}")
        self.setToolTip(self.accessibleName())
        self.updateGeometry()
        self.update()

    def words(self) -> str:
        """What it says."""
        return self._words

    def set_compact(self, compact: bool) -> None:
        """The icon alone."""
        self._compact = compact
        set_property(self, "kind", "iconbox" if compact else "secondary")
        self.updateGeometry()

    def set_active(self, active: bool) -> None:
        """Whether something is chosen, which the icon alone says by its colour."""
        self._active = active
        self.update()

    def sizeHint(self) -> QSize:
        """28 high."""
        if self._compact:
            return QSize(30, 28)
        wide = min(QFontMetrics(theme.font("name")).horizontalAdvance(self._words), _WIDEST)
        return QSize(wide + 62, 28)

    def minimumSizeHint(self) -> QSize:
        """Never less."""
        return self.sizeHint()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The panel by the style, the rest here."""
        option = QStyleOptionButton()
        self.initStyleOption(option)
        option.text = ""
        painter = QPainter(self)
        self.style().drawControl(QStyle.ControlElement.CE_PushButton, option, painter, self)
        t = theme.tokens()
        ink = t.disabled if not self.isEnabled() else t.accent if self._active else t.text
        y = self.height() / 2 - 8
        if self._compact:
            icons.draw(painter, QRectF(self.width() / 2 - 8, y, 16, 16), self._icon, ink)
            return
        icons.draw(painter, QRectF(10, y, 16, 16), self._icon, ink)
        icons.draw(painter, QRectF(self.width() - 24, y, 16, 16), "chevron-down", ink)
        font = theme.font("name")
        painter.setFont(font)
        painter.setPen(QColor(ink))
        place = QRect(32, 0, self.width() - 32 - 28, self.height())
        text = QFontMetrics(font).elidedText(self._words, Qt.TextElideMode.ElideRight, place.width() + 1)
        painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, text)
