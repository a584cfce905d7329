"""The inline message of a room, and the hint of an empty place."""

from __future__ import annotations

import html
from collections.abc import Callable

from PySide6.QtCore import QEvent, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from workbench.ui import icons, theme
from workbench.ui.widgets.controls import button, label, set_property

_ICONS = {"info": "info", "good": "check-circle", "warn": "warn", "bad": "cross-circle"}
_INK = {"info": "accent", "good": "good", "warn": "warn", "bad": "bad"}


class IconLabel(QWidget):
    """An icon that is not a control."""

    def __init__(self, name: str, size: int = 16, role: str = "secondary", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name, self._role = name, role
        self.setFixedSize(size, size)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def set(self, name: str, role: str | None = None) -> None:
        """Another icon, or another tint."""
        self._name = name
        self._role = self._role if role is None else role
        self.update()

    def sizeHint(self) -> QSize:
        """Its fixed size."""
        return self.size()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The icon, tinted."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        icons.draw(painter, QRectF(self.rect()), self._name, str(getattr(theme.tokens(), self._role)))


class MessageStrip(QFrame):
    """One message: what happened, why, what to do, one action; hidden while there is none."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "strip")
        self._said: tuple[str, str] = ("", "")
        self._callback: Callable[[], object] | None = None
        self._icon = IconLabel("info", 20, "accent")
        self._text = QLabel()
        self._text.setWordWrap(True)
        self._text.setTextFormat(Qt.TextFormat.RichText)  # only ever given escaped text
        self._text.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.action = button("", "secondary", size="small", name=self.tr("Act on the message"))
        self.action.clicked.connect(self._act)
        self.dismiss = button("", "icon", "close", size="small", name=self.tr("Dismiss the message"))
        self.dismiss.clicked.connect(self.clear)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 7, 8, 7)
        row.setSpacing(12)
        row.addWidget(self._icon)
        row.addWidget(self._text, 1)
        row.addWidget(self.action)
        row.addWidget(self.dismiss)
        self.setMinimumHeight(44)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
        self.hide()

    def show_message(
        self,
        kind: str,
        headline: str,
        detail: str = "",
        action_text: str = "",
        callback: Callable[[], object] | None = None,
    ) -> None:
        """Show a message in place of the one before.

        Args:
            kind: info, good, warn or bad.
            headline: what happened, a sentence.
            detail: why, and what to do.
            action_text: of the one button, "" for none.
            callback: what the button does; the strip is cleared first.
        """
        self._said = (headline, detail)
        self._callback = callback
        self._icon.set(_ICONS.get(kind, "info"), _INK.get(kind, "accent"))
        set_property(self, "tone", kind)
        self.action.setText(action_text)
        self.action.setAccessibleName(action_text or self.tr("Act on the message"))
        self.action.setToolTip("")
        self.action.setVisible(bool(action_text))
        self.setAccessibleName(f"{headline} {detail}".strip())
        self._write()
        self.show()

    def clear(self) -> None:
        """Take the message away."""
        self._callback = None
        self._said = ("", "")
        self.hide()

    def text(self) -> str:
        """What is said, as plain text."""
        return " ".join(part for part in self._said if part)

    def _write(self) -> None:
        headline, detail = (html.escape(part) for part in self._said)
        second = f' <span style="color:{theme.tokens().secondary}">{detail}</span>' if detail else ""
        self._text.setText(f'<span style="font-weight:600">{headline}</span>{second}')

    def _act(self) -> None:
        callback = self._callback
        self.clear()
        if callback is not None:
            callback()

    def changeEvent(self, event: QEvent) -> None:
        """Colours are part of the text: write it again in another theme."""
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "_text"):
            self._write()
        super().changeEvent(event)


class EmptyHint(QWidget):
    """What an empty place is for, and how to fill it."""

    def __init__(
        self, icon: str, title: str, text: str = "", action: QPushButton | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 24, 24, 24)
        column.setSpacing(4)
        column.addStretch(1)
        column.addWidget(IconLabel(icon, 28, "secondary"), 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(8)
        self._title = label(title, "section")
        self._title.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._title.setWordWrap(True)
        self._text = label(text, "secondary", wrap=True)
        self._text.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        column.addWidget(self._title)
        column.addWidget(self._text)
        if action is not None:
            column.addSpacing(12)
            column.addWidget(action, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch(1)
        self.setAccessibleName(f"{title} {text}".strip())

    def set_text(self, title: str, text: str) -> None:
        """Other words."""
        self._title.setText(title)
        self._text.setText(text)
        self.setAccessibleName(f"{title} {text}".strip())
