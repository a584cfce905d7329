"""Numbers on the screen: a figure with its interval, a dot-and-whisker, the step slider."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from workbench.ui import theme
from workbench.ui.widgets.controls import label
from workbench.ui.widgets.terms import TermLabel


class Figure(QWidget):
    """A label, a large value and its interval or unit beside it; never narrower than it was, so that nothing jumps."""

    def __init__(
        self, name: str, value: str = "", beside: str = "", *, role: str = "figure", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._widest = 0
        self.caption = TermLabel(name, role="label")
        self._value = _Value(role)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.caption)
        column.addWidget(self._value)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self.set(value, beside)

    def set(self, value: str, beside: str = "", tone: str = "text", *, unit: str = "") -> None:
        """Show a value.

        Args:
            value: the figure as text, e.g. "0.86", "4,690", or "not yet".
            beside: its interval or unit, small, on the same base line.
            tone: name of a token.
            unit: part of the figure in smaller type, e.g. a power of ten.
        """
        self._value.show_value(value, beside, tone, unit)
        said = " ".join(part for part in (value, unit, beside) if part)
        self.setAccessibleName(f"{self.caption.text()}: {said}")

    def value(self) -> str:
        """The figure shown."""
        return self._value.value

    def beside(self) -> str:
        """What stands beside it."""
        return self._value.beside

    def reset_width(self) -> None:
        """Forget how wide it was; for a new run."""
        self._value.widest = 0
        self._value.updateGeometry()


class _Value(QWidget):
    def __init__(self, role: str) -> None:
        super().__init__()
        self.role = role
        self.value = self.beside = self.unit = ""
        self.tone = "text"
        self.widest = 0
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def show_value(self, value: str, beside: str, tone: str, unit: str) -> None:
        if (value, beside, tone, unit) == (self.value, self.beside, self.tone, self.unit):
            return
        self.value, self.beside, self.tone, self.unit = value, beside, tone, unit
        wide = self._advance()
        if wide > self.widest:
            self.widest = wide
            self.updateGeometry()
        self.update()

    def _advance(self) -> int:
        big = QFontMetrics(theme.font(self.role)).horizontalAdvance(self.value)
        middle = QFontMetrics(theme.font("title")).horizontalAdvance(self.unit)
        small = QFontMetrics(theme.font("body")).horizontalAdvance(self.beside)
        return big + (5 + middle if self.unit else 0) + (10 + small if self.beside else 0) + 2

    def sizeHint(self) -> QSize:
        return QSize(self.widest, 36 if self.role == "figure" else 24)

    def minimumSizeHint(self) -> QSize:
        big = QFontMetrics(theme.font(self.role)).horizontalAdvance(self.value)
        return QSize(big + 2, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        t = theme.tokens()
        painter = QPainter(self)
        font = theme.font(self.role)
        painter.setFont(font)
        painter.setPen(QColor(getattr(t, self.tone)))
        metrics = QFontMetrics(font)
        base = (self.height() + metrics.capHeight()) // 2
        painter.drawText(QPointF(0, base), self.value)
        left = metrics.horizontalAdvance(self.value)
        if self.unit:
            painter.setFont(theme.font("title"))
            painter.drawText(QPointF(left + 5, base), self.unit)
            left += 5 + QFontMetrics(painter.font()).horizontalAdvance(self.unit)
        if self.beside:
            left += 10
            painter.setFont(theme.font("body"))
            painter.setPen(QColor(t.secondary))
            small = QFontMetrics(theme.font("body"))
            shown = small.elidedText(self.beside, Qt.TextElideMode.ElideRight, max(self.width() - left, 0))
            painter.drawText(QPointF(left, base), shown)


class Whisker(QWidget):
    """A value as a dot with its interval, on an axis from ``low`` to ``high``; optionally a mark for chance."""

    def __init__(
        self, low: float = 0.0, high: float = 1.0, *, axis: bool = False, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._range = (low, high)
        self._axis = axis
        self._value: tuple[float, float, float] | None = None
        self._chance: float | None = None
        self._colour: str | int = "accent"
        self.setFixedHeight(40 if axis else 20)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_value(self, value: float | None, low: float = 0.0, high: float = 0.0) -> None:
        """A value with its interval, or nothing."""
        self._value = None if value is None else (value, low, high)
        said = "" if value is None else f"{value:.2f} ({low:.2f}–{high:.2f})"
        self.setAccessibleName(said)
        self.setToolTip(said)
        self.update()

    def set_range(self, low: float, high: float) -> None:
        """Another axis."""
        self._range = (low, high)
        self.update()

    def set_chance(self, chance: float | None) -> None:
        """Mark the accuracy of guessing."""
        self._chance = chance
        self.update()

    def set_colour(self, colour: str | int) -> None:
        """A token's name, or the index of a class."""
        self._colour = colour
        self.update()

    def sizeHint(self) -> QSize:
        """A fair width."""
        return QSize(200, self.height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Track, chance, whisker, end labels."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        rect = QRectF(6, 0, self.width() - 12, 20)  # room for half a dot at either end
        if self._axis:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.hairline))
            painter.drawRoundedRect(rect.adjusted(-3, 7, 3, -7), 3, 3)
        low, high = self._range
        if self._chance is not None:
            x = rect.left() + rect.width() * (self._chance - low) / (high - low)
            painter.setPen(QPen(QColor(t.secondary), 1, Qt.PenStyle.DotLine))
            painter.drawLine(QPointF(x, 3), QPointF(x, 17))
        if self._value is not None:
            draw_whisker(painter, rect, *self._value, low, high, self._colour)
        if self._axis:
            painter.setFont(theme.font("caption"))
            painter.setPen(QColor(t.secondary))
            area = QRectF(rect.left() + 2, 20, rect.width() - 4, 18)
            painter.drawText(area, Qt.AlignmentFlag.AlignLeft, f"{low:g}")
            painter.drawText(area, Qt.AlignmentFlag.AlignRight, f"{high:g}")
            if self._chance is not None:
                said = self.tr("chance {value}").format(value=f"{self._chance:.2f}")
                wide = QFontMetrics(painter.font()).horizontalAdvance(said)
                x = rect.left() + rect.width() * (self._chance - low) / (high - low) - wide / 2
                x = min(max(x, area.left() + 16), area.right() - 16 - wide)
                painter.drawText(QRectF(x, 20, wide + 2, 18), Qt.AlignmentFlag.AlignLeft, said)


def draw_whisker(
    painter: QPainter,
    rect: QRectF,
    value: float,
    low: float,
    high: float,
    start: float,
    end: float,
    colour: str | int = "accent",
) -> None:
    """Draw a dot (radius 5) with its whisker (2 px, caps), on an axis from ``start`` to ``end``; for delegates too."""
    t = theme.tokens()
    hue = QColor(getattr(t, colour)) if isinstance(colour, str) else theme.class_colour(colour)
    span = (end - start) or 1.0

    def at(v: float) -> float:
        return rect.left() + rect.width() * min(max((v - start) / span, 0.0), 1.0)

    y = rect.center().y()
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(hue, 2, Qt.PenStyle.SolidLine, Qt.PenCapStyle.FlatCap))
    painter.drawLine(QPointF(at(low), y), QPointF(at(high), y))
    for x in (at(low), at(high)):
        painter.drawLine(QPointF(x, y - 5), QPointF(x, y + 5))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(hue)
    painter.drawEllipse(QPointF(at(value), y), 5, 5)
    painter.restore()


class StepSlider(QWidget):
    """The positions before and after adapting: a track with a knob and a tick per position; arrow keys, Home, End.

    Signals:
        changed(int): the position, by the person.
    """

    changed = Signal(int)

    def __init__(self, name: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.track = _Track(self)
        self.track.setAccessibleName(name)
        self._left, self._right = label("", "secondary"), label("", "secondary")
        self._left_value, self._right_value = TermLabel("", role="body"), TermLabel("", role="body", right=True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.track)
        for first, second in ((self._left, self._right), (self._left_value, self._right_value)):
            row = QHBoxLayout()
            row.addWidget(first)
            row.addStretch(1)
            row.addWidget(second)
            column.addLayout(row)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_steps(self, count: int, value: int | None = None) -> None:
        """Number of positions; the knob stays where it was if it can."""
        self.track.count = max(count, 1)
        self.track.value = min(self.track.value if value is None else value, self.track.count - 1)
        self.track.setEnabled(count > 1)
        self.track.update()

    def set_ends(self, left: str, left_value: str, right: str, right_value: str) -> None:
        """Names of the two ends and the figures under them."""
        self._left.setText(left)
        self._right.setText(right)
        self._left_value.set_text(left_value)
        self._right_value.set_text(right_value)

    def value(self) -> int:
        """The position."""
        return self.track.value

    def set_value(self, value: int) -> None:
        """Move the knob without a signal."""
        self.track.value = min(max(value, 0), self.track.count - 1)
        self.track.update()


class _Track(QWidget):
    def __init__(self, owner: StepSlider) -> None:
        super().__init__(owner)
        self.owner = owner
        self.count, self.value = 2, 0
        self.setFixedHeight(32)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def sizeHint(self) -> QSize:
        return QSize(160, 32)

    def focus_rect(self) -> QRect:
        """Where the focus ring goes: round the knob."""
        return QRect(round(self._at(self.value)) - 8, 6, 16, 16)

    def _at(self, value: int) -> float:
        return 8 + (self.width() - 16) * value / max(self.count - 1, 1)

    def _move(self, value: int) -> None:
        value = min(max(value, 0), self.count - 1)
        if value != self.value:
            self.value = value
            self.update()
            self.owner.changed.emit(value)

    def _point(self, event: QMouseEvent) -> None:
        self._move(round((event.position().x() - 8) / max(self.width() - 16, 1) * (self.count - 1)))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self._point(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._point(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        step = {Qt.Key.Key_Left: -1, Qt.Key.Key_Down: -1, Qt.Key.Key_Right: 1, Qt.Key.Key_Up: 1}.get(
            Qt.Key(event.key()), 0
        )
        if step:
            self._move(self.value + step)
        elif event.key() == Qt.Key.Key_Home:
            self._move(0)
        elif event.key() == Qt.Key.Key_End:
            self._move(self.count - 1)
        else:
            super().keyPressEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = QColor(t.accent if self.isEnabled() else t.disabled)
        y, x = 14.0, self._at(self.value)
        painter.setPen(QPen(QColor(t.border_strong), 1))
        for i in range(self.count):
            painter.drawLine(QPointF(round(self._at(i)) + 0.5, 24), QPointF(round(self._at(i)) + 0.5, 27))
        painter.setPen(QPen(QColor(t.border_strong), 4, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
        painter.drawLine(QPointF(8, y), QPointF(self.width() - 8, y))
        painter.setPen(QPen(ink, 4, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
        painter.drawLine(QPointF(8, y), QPointF(x, y))
        painter.setPen(QPen(ink, 2))
        painter.setBrush(QColor(t.surface))
        painter.drawEllipse(QPointF(x, y), 7, 7)
