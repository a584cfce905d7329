"""Small controls: buttons by kind, segmented choice, chip, key cap, marker, bar, labels, flow layout."""

from __future__ import annotations

import html
from collections.abc import Sequence

from PySide6.QtCore import QEvent, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QEnterEvent, QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QWidget,
)

from workbench.ui import icons, theme
from workbench.ui.widgets.chips import Chip as Chip
from workbench.ui.widgets.chips import KeyCap as KeyCap
from workbench.ui.widgets.chips import chip_width as chip_width
from workbench.ui.widgets.chips import draw_chip as draw_chip
from workbench.ui.widgets.chips import draw_key as draw_key
from workbench.ui.widgets.flow import FlowLayout as FlowLayout


def button(
    text: str = "",
    kind: str = "secondary",
    icon: str = "",
    *,
    size: str = "",
    name: str = "",
    tip: str = "",
    parent: QWidget | None = None,
) -> QPushButton:
    """A push button.

    Args:
        text: its words, a verb first.
        kind: primary, secondary, quiet, danger, link, key, icon (bare square) or iconbox (square with a border).
        icon: name of an icon, tinted to fit the kind.
        size: ``small`` for 28 px.
        name: accessible name; needed where there is no text.
        tip: tooltip; the name is used where it is empty and there is no text.
        parent: widget.
    """
    made = QPushButton(text, parent)
    made.setProperty("kind", kind)
    if size == "small":
        made.setProperty("small", "true")
    if icon:
        role = {"primary": "accent_text", "danger": "bad", "link": "accent"}.get(kind, "text")
        icons.set_icon(made, icon, 16, role)
    made.setAccessibleName(name or text)
    made.setToolTip(tip or ("" if text else name))
    made.setAutoDefault(False)
    if kind == "link":
        made.setCursor(Qt.CursorShape.PointingHandCursor)
    made.setSizePolicy(QSizePolicy.Policy.Fixed if not text else QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
    return made


def label(
    text: str = "", role: str = "body", *, tone: str = "", wrap: bool = False, parent: QWidget | None = None
) -> QLabel:
    """A label of plain text.

    Args:
        text: its words; never read as markup.
        role: title, section, figure, body, secondary, caption, label, name, strong or mono.
        tone: another colour: secondary, accent, good, warn or bad.
        wrap: break lines.
        parent: widget.
    """
    made = Paragraph(parent) if wrap else QLabel(parent)
    if not wrap:
        made.setTextFormat(Qt.TextFormat.PlainText)
    made.setProperty("role", role)
    if tone:
        made.setProperty("tone", tone)
    made.setWordWrap(wrap)
    if role in ("title", "section", "figure"):
        made.setFont(theme.font(role))  # for the spacing of large type, which a style sheet cannot set
    made.setText(text)
    return made


class Paragraph(QLabel):
    """Plain text that breaks into lines 20 px apart (16 for captions); Qt's own lines are closer."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._plain = ""
        self.setContentsMargins(0, -2, 0, 2)  # Qt puts all the air of a line above it
        self.setTextFormat(Qt.TextFormat.RichText)  # only ever given escaped text
        self.setWordWrap(True)

    def setText(self, text: str) -> None:
        """Show other words; never read as markup."""
        self._plain = text
        high = 16 if self.property("role") in ("caption", "label") else 20
        body = html.escape(text).replace("\n", "<br>")
        super().setText(f'<p style="line-height:{high}px; margin:0">{body}</p>' if text else "")

    def text(self) -> str:
        """The words."""
        return self._plain


def set_property(widget: QWidget, name: str, value: object) -> None:
    """Change a dynamic property that the style sheet looks at, and let it look again."""
    if widget.property(name) == value:
        return
    widget.setProperty(name, value)
    widget.style().unpolish(widget)
    widget.style().polish(widget)
    widget.update()


def line(role: str = "line", parent: QWidget | None = None) -> QFrame:
    """A horizontal hairline (``line``) or border line (``edge``)."""
    made = QFrame(parent)
    made.setProperty("role", role)
    made.setFixedHeight(1)
    return made


def clear_layout(layout: QLayout) -> None:
    """Remove and delete everything in a layout."""
    while layout.count():
        item = layout.takeAt(0)
        if item is None:
            return
        widget, inner = item.widget(), item.layout()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
        elif inner is not None:
            clear_layout(inner)


class Segmented(QWidget):
    """A choice between a few words, 28 px high; arrow keys move it.

    Signals:
        changed(str): the key of the choice, by the person.
    """

    changed = Signal(str)

    def __init__(
        self, options: Sequence[tuple[str, str]], current: str = "", name: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setAccessibleName(name)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        self._group = QButtonGroup(self)
        self._keys = [key for key, _ in options]
        for i, (key, text) in enumerate(options):
            made = button(text, "segment")
            made.setCheckable(True)
            end = "only" if len(options) == 1 else "first" if i == 0 else "last" if i == len(options) - 1 else "middle"
            made.setProperty("end", end)
            made.setAccessibleName(f"{name}: {text}" if name else text)
            bold = QFontMetrics(theme.font("strong")).horizontalAdvance(text)
            made.setMinimumWidth(bold + 26)  # the width must not change with the weight
            made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            self._group.addButton(made, i)
            row.addWidget(made)
            made.setChecked(key == (current or self._keys[0]))
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._group.idClicked.connect(self._clicked)

    def value(self) -> str:
        """The key of the choice."""
        return self._keys[max(self._group.checkedId(), 0)]

    def set_value(self, key: str) -> None:
        """Choose without a signal."""
        found = self._group.button(self._keys.index(key))
        if found is not None:
            found.setChecked(True)

    def set_text(self, key: str, text: str) -> None:
        """Other words for an option."""
        found = self._group.button(self._keys.index(key))
        if found is not None:
            found.setText(text)
            found.setMinimumWidth(QFontMetrics(theme.font("strong")).horizontalAdvance(text) + 26)

    def _clicked(self, index: int) -> None:
        self.changed.emit(self._keys[index])


class Marker(QWidget):
    """The marker of a class, 12 px (10 in rows)."""

    def __init__(self, index: int = 0, side: int = 12, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._index = index
        self.setFixedSize(side, side)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def set_index(self, index: int) -> None:
        """The marker of another class; ``theme.NONE_INDEX`` for none of these."""
        self._index = index
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The shape in its hue."""
        theme.draw_marker(QPainter(self), QRectF(self.rect()), self._index)


class Bar(QWidget):
    """A horizontal bar on a track: a share from 0 to 1, or a moving piece while the whole is unknown."""

    def __init__(self, height: int = 6, colour: str = "accent", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._value: float | None = 0.0
        self._colour: str | int = colour
        self._phase = 0.0
        self.setFixedHeight(height)
        self.setMinimumWidth(24)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_value(self, value: float | None) -> None:
        """A share; ``None`` where the whole is unknown: each call then moves the piece on."""
        if value is None:
            self._phase = (self._phase + 0.07) % 1.0
        elif value == self._value:
            return
        self._value = None if value is None else min(max(value, 0.0), 1.0)
        self.update()

    def value(self) -> float | None:
        """The share shown."""
        return self._value

    def set_colour(self, colour: str | int) -> None:
        """A token's name, or the index of a class."""
        self._colour = colour
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Track and filling."""
        painter = QPainter(self)
        rect = QRectF(self.rect())
        if self._value is None:
            draw_bar(painter, rect, 0.0, self._colour)
            piece = QRectF(
                rect.left() + self._phase * rect.width() * 0.75, rect.top(), rect.width() * 0.25, rect.height()
            )
            draw_bar(painter, piece, 1.0, self._colour)
        else:
            draw_bar(painter, rect, self._value, self._colour)


def draw_bar(painter: QPainter, rect: QRectF, value: float, colour: str | int, track: str = "hairline") -> None:
    """Draw a bar; for delegates too. ``colour`` is a token's name or the index of a class."""
    t = theme.tokens()
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    radius = rect.height() / 2
    painter.setBrush(QColor(getattr(t, track)))
    painter.drawRoundedRect(rect, radius, radius)
    if value > 0:
        painter.setBrush(QColor(getattr(t, colour)) if isinstance(colour, str) else theme.class_colour(colour))
        wide = max(rect.height() * 0.75, rect.width() * min(value, 1.0))
        painter.drawRoundedRect(QRectF(rect.left(), rect.top(), wide, rect.height()), min(radius, wide / 2), radius)
    painter.restore()


class ClickFrame(QFrame):
    """A card that can be chosen: click, Enter or Space.

    Signals:
        clicked: by the person.
    """

    clicked = Signal()

    def __init__(self, role: str = "card", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", role)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click inside."""
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.clicked.emit()
        super().mouseReleaseEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter or Space."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.clicked.emit()
        else:
            super().keyPressEvent(event)

    def enterEvent(self, event: QEnterEvent) -> None:
        """Hover."""
        set_property(self, "hover", "true")
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """No hover."""
        set_property(self, "hover", "false")
        super().leaveEvent(event)
