"""The setup strip's parts: a label with its value that opens an editor below it, and that editor's frame."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QAbstractButton, QFrame, QSizePolicy, QVBoxLayout, QWidget
from shiboken6 import Shiboken

from workbench.ui import icons, theme
from workbench.ui.widgets.controls import label

_PAD, _GAP = 8, 8
_HIGH, _STACKED = 28, 40


class SetupChip(QAbstractButton):
    """A label with its value as a quiet button; locked it is plain text, wrong it is red with its reason as tooltip."""

    def __init__(self, name: str, edit: Callable[[], QWidget], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.name = name
        self.value = ""
        self.reason = ""
        self.locked = False
        self.narrow = False
        self._edit = edit
        self.popover: Popover | None = None
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(_HIGH)
        self.clicked.connect(self.open)

    def show_value(self, value: str, reason: str = "") -> None:
        """Another value; ``reason`` says why it is not possible."""
        self.value, self.reason = value, reason
        self.setText(f"{self.name} {value}")
        self.setAccessibleName(f"{self.name}: {value}")
        self.setAccessibleDescription(reason)
        self.setToolTip(reason or self.tr("{name}: {value}. Click to change.").format(name=self.name, value=value))
        self.updateGeometry()
        self.update()

    def set_locked(self, locked: bool) -> None:
        """While a run goes on, nothing can be changed."""
        self.locked = locked
        self.setEnabled(not locked)
        self.update()

    def set_narrow(self, narrow: bool) -> None:
        """The label above the value instead of before it, for narrow windows."""
        self.narrow = narrow
        self.setFixedHeight(_STACKED if narrow else _HIGH)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """Label and value."""
        value = QFontMetrics(theme.font("name")).horizontalAdvance(self.value) + (20 if self.reason else 0)
        label_ = QFontMetrics(self._label_font()).horizontalAdvance(self.name)
        wide = max(value, label_) if self.narrow else label_ + _GAP + value
        return QSize(2 * _PAD + wide, self.height())

    def minimumSizeHint(self) -> QSize:
        """The value may be elided, the label above it not."""
        label_ = QFontMetrics(self._label_font()).horizontalAdvance(self.name)
        return QSize(max(44, label_ + 2 * _PAD) if self.narrow else 44, self.height())

    def _label_font(self) -> QFont:
        return theme.font("caption" if self.narrow else "body")

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Hover fill, label, value."""
        t = theme.tokens()
        p = QPainter(self)
        p.setRenderHint(QPainter.RenderHint.Antialiasing)
        open_ = self.is_open()
        if not self.locked and (self.underMouse() or open_ or self.isDown()):
            p.setPen(Qt.PenStyle.NoPen)
            p.setBrush(QColor(t.hairline if open_ or self.isDown() else t.hover))
            p.drawRoundedRect(QRectF(self.rect()), 6, 6)
        x, top, high = _PAD, 0, self.height()
        p.setFont(self._label_font())
        p.setPen(QColor(t.secondary))
        if self.narrow:
            p.drawText(QRect(x, 3, self.width() - x, 16), Qt.AlignmentFlag.AlignVCenter, self.name)
            top, high = 18, 20
        else:
            p.drawText(QRect(x, 0, self.width(), high), Qt.AlignmentFlag.AlignVCenter, self.name)
            x += p.fontMetrics().horizontalAdvance(self.name) + _GAP
        if self.reason:
            icons.draw(p, QRectF(x, top + (high - 16) / 2, 16, 16), "cross-circle", t.bad)
            x += 20
        p.setFont(theme.font("name"))
        p.setPen(QColor(t.bad if self.reason else t.text))
        room = max(0, self.width() - x - _PAD + 2)
        text = p.fontMetrics().elidedText(self.value, Qt.TextElideMode.ElideRight, room)
        p.drawText(QRect(x, top, room, high), Qt.AlignmentFlag.AlignVCenter, text)

    def is_open(self) -> bool:
        """Whether the editor is on the screen; Qt deletes it when it closes, whoever holds it."""
        return self.popover is not None and Shiboken.isValid(self.popover) and self.popover.isVisible()

    def open(self) -> None:
        """Show the editor below."""
        if self.locked:
            return
        self.popover = Popover(self.name, self._edit(), self)
        self.popover.show_below(self)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter, Space or Down opens the editor."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Down):
            self.open()
        else:
            super().keyPressEvent(event)


class Separator(QWidget):
    """A short vertical line between chips."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedSize(1, 16)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """One border line."""
        QPainter(self).fillRect(self.rect(), QColor(theme.tokens().border))


class Popover(QFrame):
    """A frame with a heading and an editor; closes at Escape or at a click elsewhere."""

    def __init__(self, title: str, editor: QWidget, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setAttribute(Qt.WidgetAttribute.WA_TranslucentBackground)
        self.setAccessibleName(title)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 14)
        column.setSpacing(10)
        column.addWidget(label(title, "strong"))
        column.addWidget(editor)
        self.editor = editor

    def show_below(self, anchor: QWidget) -> None:
        """Show it under a widget, within the window."""
        self.adjustSize()
        at = anchor.mapToGlobal(QPoint(0, anchor.height() + 6))
        window = anchor.window()
        right = window.mapToGlobal(QPoint(window.width() - 12, 0)).x()
        self.move(min(at.x(), max(window.mapToGlobal(QPoint(12, 0)).x(), right - self.width())), at.y())
        self.show()
        self.editor.setFocus(Qt.FocusReason.PopupFocusReason)
        first = self.editor.nextInFocusChain()
        if first is not None and self.isAncestorOf(first):
            first.setFocus(Qt.FocusReason.PopupFocusReason)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Raised, with a strong border."""
        t = theme.tokens()
        p = QPainter(self)
        p.setRenderHint(QPainter.RenderHint.Antialiasing)
        p.setPen(QPen(QColor(t.border_strong), 1))
        p.setBrush(QColor(t.raised))
        p.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 8, 8)
