"""Inputs that say why a value is not possible, and a form that is generated from an algorithm's hyperparameters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent, QWheelEvent
from PySide6.QtWidgets import QCheckBox, QComboBox, QGridLayout, QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from workbench.core.params import FieldSpec
from workbench.ui import icons, theme
from workbench.ui.rooms.train.setup import field_reason
from workbench.ui.widgets.controls import label, set_property
from workbench.ui.widgets.methods import choice_words


class Entry(QWidget):
    """A one-line input with the reason below it when the value is not possible.

    Args:
        read: text -> value; raises ``ValueError`` with the reason in words.
        write: value -> text.
        name: accessible name.
        step: value and direction (-1, 1, with Page keys -10, 10) -> value, for the arrow keys; ``None`` for none.
        width: px.

    Signals:
        changed: another value that can be read.
        wrong_changed: it became possible, or not.
    """

    changed = Signal()
    wrong_changed = Signal()

    def __init__(
        self,
        read: Callable[[str], Any],
        write: Callable[[Any], str],
        name: str,
        step: Callable[[Any, int], Any] | None = None,
        width: int = 120,
    ) -> None:
        super().__init__()
        self._read, self._write, self._step = read, write, step
        self._value: Any = None
        self._reason = ""
        self._outside = ""
        self.line = _Line(self)
        self.line.setFixedWidth(width)
        self.line.setAccessibleName(name)
        self.caption = label("", "caption", tone="bad", wrap=True)
        self.caption.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.line)
        column.addWidget(self.caption)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.line.textEdited.connect(self._edited)
        self.setFocusProxy(self.line)

    def value(self) -> Any:
        """The last value that could be read."""
        return self._value

    def set_value(self, value: Any) -> None:
        """Show a value."""
        self._value = value
        self._reason = ""
        if self.line.text() != self._write(value):
            self.line.setText(self._write(value))
        self._show()

    def set_wrong(self, reason: str) -> None:
        """A reason from outside, for example "Largest task: 24 classes"; "" for none."""
        if reason != self._outside:
            self._outside = reason
            self._show()

    @property
    def wrong(self) -> str:
        """Why it is not possible, or ""."""
        return self._reason or self._outside

    def _edited(self, text: str) -> None:
        try:
            value = self._read(text.strip())
        except ValueError as error:
            self._reason = str(error)
            self._show()
            self.wrong_changed.emit()
            return
        was = self._reason
        self._reason, self._value = "", value
        self._show()
        if was:
            self.wrong_changed.emit()
        self.changed.emit()

    def nudge(self, by: int) -> None:
        """An arrow key was pressed."""
        if self._step is None or self._value is None:
            return
        with contextlib.suppress(ValueError):
            value = self._read(self._write(self._step(self._value, by)))
            self.line.setText(self._write(value))
            self._edited(self.line.text())

    def _show(self) -> None:
        wrong = bool(self.wrong)
        self.caption.setText(self.wrong)
        self.caption.setVisible(wrong)
        self.line.setAccessibleDescription(self.wrong)
        set_property(self.line, "wrong", "true" if wrong else "false")
        self.line.setTextMargins(0, 0, 18 if wrong else 0, 0)


class _Line(QLineEdit):
    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self._entry = entry

    def paintEvent(self, event: QPaintEvent) -> None:
        """A cross at the right where the value is not possible."""
        super().paintEvent(event)
        if self._entry.wrong:
            place = QRectF(self.width() - 26, self.height() / 2 - 8, 16, 16)
            icons.draw(QPainter(self), place, "cross-circle", theme.tokens().bad)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Up and down change a number by one step, Page Up and Page Down by ten."""
        steps = {Qt.Key.Key_Up: 1, Qt.Key.Key_Down: -1, Qt.Key.Key_PageUp: 10, Qt.Key.Key_PageDown: -10}
        if event.key() in steps:
            self._entry.nudge(steps[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)


class _Choice(QComboBox):
    """A choice that does not change under the wheel of somebody who scrolls the form."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave it to the form."""
        event.ignore()


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of whole numbers within a range."""

    def read(text: str) -> int:
        digits = text.replace(",", "").replace(" ", "")
        if not (digits.isascii() and digits.lstrip("-").isdigit()):
            raise ValueError("A whole number is needed")
        value = int(digits)
        if value < least:
            raise ValueError(f"At least {least:,}")
        if value > most:
            raise ValueError(f"At most {most:,}")
        return value

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """A reader of numbers within a range."""

    def read(text: str) -> float:
        try:
            value = float(text.replace(",", ""))
        except ValueError:
            raise ValueError("A number is needed") from None
        if not least <= value:
            raise ValueError(f"At least {least:g}")
        if not value <= most:
            raise ValueError(f"At most {most:g}")
        return value

    return read


def plain(value: Any) -> str:
    """A number as one types it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class Form(QWidget):
    """Rows of label, input and help, one per hyperparameter.

    Signals:
        changed: a value changed, or became possible or impossible.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.specs: tuple[FieldSpec, ...] = ()
        self.inputs: dict[str, QWidget] = {}
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(8)
        self._grid.setColumnMinimumWidth(0, 132)
        self._grid.setColumnStretch(2, 1)

    def set_fields(self, specs: Sequence[FieldSpec], values: Mapping[str, Any]) -> None:
        """Make the inputs of other hyperparameters."""
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        self.specs, self.inputs = tuple(specs), {}
        for row, spec in enumerate(self.specs):
            made = self._input(spec, values.get(spec.name, spec.default))
            made.setToolTip(spec.help)
            made.setAccessibleDescription(spec.help)
            self.inputs[spec.name] = made
            top = Qt.AlignmentFlag.AlignTop
            if spec.kind != "bool":
                name = label(spec.title, "name")
                name.setFixedHeight(32)
                name.setToolTip(spec.help)
                name.setBuddy(made)
                self._grid.addWidget(name, row, 0, top)
            self._grid.addWidget(made, row, 1, top)
            text = label(spec.help, "caption", wrap=True)
            text.setMinimumHeight(32)
            text.setAlignment(Qt.AlignmentFlag.AlignVCenter)
            self._grid.addWidget(text, row, 2, top)

    def overrides(self) -> dict[str, Any]:
        """What differs from the defaults."""
        found = {}
        for spec in self.specs:
            value = self._value(spec)
            if value != spec.default:
                found[spec.name] = value
        return found

    def wrong(self) -> dict[str, str]:
        """Why values are not possible, by name."""
        return {name: w.wrong for name, w in self.inputs.items() if isinstance(w, Entry) and w.wrong}

    def _value(self, spec: FieldSpec) -> Any:
        widget = self.inputs[spec.name]
        if isinstance(widget, Entry):
            return widget.value()
        if isinstance(widget, QCheckBox):
            return widget.isChecked()
        return widget.currentData() if isinstance(widget, QComboBox) else spec.default

    def _input(self, spec: FieldSpec, value: Any) -> QWidget:
        if spec.kind == "bool":
            box = QCheckBox(spec.title)
            box.setChecked(bool(value))
            box.toggled.connect(self.changed)
            return box
        if spec.kind == "choice":
            combo = _Choice()
            combo.setAccessibleName(spec.title)
            for choice in spec.choices:
                combo.addItem(choice_words(choice), choice)
            combo.setCurrentIndex(max(combo.findData(str(value)), 0))
            combo.currentIndexChanged.connect(self.changed)
            return combo

        def read(text: str) -> Any:
            value = (whole(-(2**31), 2**31) if spec.kind == "int" else number(-1e300, 1e300))(text)
            reason = field_reason(spec, value)
            if reason:
                raise ValueError(reason)
            return value

        def step(value: Any, by: int) -> Any:
            size = spec.step or 1
            low = spec.low if spec.low is not None else -1e300
            high = spec.high if spec.high is not None else 1e300
            moved = min(max(round(value + by * size, 10), low), high)
            return int(moved) if spec.kind == "int" else moved

        entry = Entry(read, plain, spec.title, step)
        entry.set_value(value)
        entry.changed.connect(self.changed)
        entry.wrong_changed.connect(self.changed)
        return entry
