"""The rail at the left: where one is, and what each room holds."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QEnterEvent, QFontMetrics, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QButtonGroup, QFrame, QVBoxLayout, QWidget

from workbench.ui import icons, theme
from workbench.ui.actions import ROOMS, room_title

_WIDE, _NARROW = 76, 56


class RailItem(QAbstractButton):
    """One room: icon, name, and a count or a dot."""

    def __init__(self, room: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.room = room
        self._badge: int | str = ""
        self._narrow = False
        self._hover = False
        self.setText(room_title(room))
        self.setCheckable(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._say()

    def set_badge(self, badge: int | str) -> None:
        """A count, ``"dot"``, or "" for nothing."""
        if badge != self._badge:
            self._badge = badge
            self._say()
            self.update()

    def badge(self) -> int | str:
        """What is shown beside the icon."""
        return self._badge

    def set_narrow(self, narrow: bool) -> None:
        """Icon only."""
        self._narrow = narrow
        self.setFixedSize(self.sizeHint())
        self._say()

    def _say(self) -> None:
        badge = "" if self._badge == "" else f", {self.tr('working') if self._badge == 'dot' else self._badge}"
        self.setAccessibleName(self.text() + badge)
        self.setToolTip(f"{self.text()} (Ctrl+{ROOMS.index(self.room) + 1})")

    def sizeHint(self) -> QSize:
        """68x60, or a square of 44."""
        return QSize(44, 44) if self._narrow else QSize(68, 60)

    def enterEvent(self, event: QEnterEvent) -> None:
        """Hover."""
        self._hover = True
        self.update()
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """No hover."""
        self._hover = False
        self.update()
        super().leaveEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Fill, icon, name, badge."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        here = self.isChecked()
        if here or self._hover:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.accent_soft if here else t.hover))
            painter.drawRoundedRect(QRectF(self.rect()), 6, 6)
        ink = t.accent if here else t.secondary
        top = 12.0 if self._narrow else 10.0
        icons.draw(painter, QRectF((self.width() - 20) / 2, top, 20, 20), self.room, ink)
        if not self._narrow:
            font = theme.font("caption")
            if here:
                font.setWeight(font.Weight.DemiBold)
            painter.setFont(font)
            painter.setPen(QColor(ink))
            painter.drawText(QRectF(0, 34, self.width(), 16), Qt.AlignmentFlag.AlignCenter, self.text())
        self._paint_badge(painter, (self.width() + 20) / 2 - 1, top - (2 if self._narrow else 0))

    def _paint_badge(self, painter: QPainter, left: float, top: float) -> None:
        t = theme.tokens()
        if self._badge == "dot":
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.accent))
            painter.drawEllipse(QRectF(left + 8, top - 4, 6, 6))
        elif self._badge != "":
            text = str(self._badge) if int(self._badge) < 1000 else "999+"
            painter.setFont(theme.font("caption"))
            wide = max(16.0, QFontMetrics(painter.font()).horizontalAdvance(text) + 9.0)
            rect = QRectF(min(left, self.width() - wide), top - 7, wide, 16)
            painter.setPen(QPen(QColor(t.border_strong), 1))
            painter.setBrush(QColor(t.window))
            painter.drawRoundedRect(rect.adjusted(0.5, 0.5, -0.5, -0.5), 7.5, 7.5)
            painter.setPen(QColor(t.secondary if not self.isChecked() else t.text))
            painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, text)


class Rail(QFrame):
    """All rooms; arrow keys move between them.

    Signals:
        chosen(str): a room, by the person.
    """

    chosen = Signal(str)

    def __init__(self, rooms: tuple[str, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "bar")
        self.setAccessibleName(self.tr("Rooms"))
        self._column = QVBoxLayout(self)
        self._column.setSpacing(4)
        self._group = QButtonGroup(self)
        self.items: dict[str, RailItem] = {}
        for room in rooms:
            item = RailItem(room)
            self.items[room] = item
            self._group.addButton(item)
            self._column.addWidget(item)
            item.clicked.connect(self._clicked)
        self._column.addStretch(1)
        self.set_narrow(narrow=False)

    def set_narrow(self, *, narrow: bool) -> None:
        """76 px with names, or 56 px with icons only."""
        self.setFixedWidth(_NARROW if narrow else _WIDE)
        self._column.setContentsMargins(6 if narrow else 4, 8, 6 if narrow else 4, 8)
        for item in self.items.values():
            item.set_narrow(narrow)

    def set_room(self, room: str) -> None:
        """Show where one is."""
        if room in self.items:
            self.items[room].setChecked(True)

    def _clicked(self) -> None:
        item = self._group.checkedButton()
        if isinstance(item, RailItem):
            self.chosen.emit(item.room)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter on the focused item chooses it."""
        focused = self.focusWidget()
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and isinstance(focused, RailItem):
            focused.click()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The border at the right."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(theme.tokens().window))
        painter.fillRect(self.width() - 1, 0, 1, self.height(), QColor(theme.tokens().border))
