"""The formats as cards, and what every exported file holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QCoreApplication, QEvent, QObject, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from workbench.ui import theme
from workbench.ui.widgets.controls import ClickFrame, Marker, clear_layout, label, line, set_property
from workbench.ui.widgets.flow import FlowLayout
from workbench.ui.widgets.panel import Panel
from workbench.ui.widgets.strip import IconLabel


@dataclass(frozen=True, slots=True)
class Format:
    """One format: its key, its name, and what it is for in one sentence."""

    key: str
    title: str
    text: str
    suffix: str


def formats() -> tuple[Format, ...]:
    """All formats, translated."""
    tr = QCoreApplication.translate
    return (
        Format("onnx", "ONNX", tr("Export", "Runs anywhere onnxruntime runs: servers, browsers, C+\u2060+."), ".onnx"),
        Format("safetensors", "safetensors", tr("Export", "Weights only, for your own PyTorch code."), ".safetensors"),
        Format("pt2", ".pt2", tr("Export", "A PyTorch program with its preprocessing inside."), ".pt2"),
        Format(
            "bundle",
            tr("Export", "Bundle"),
            tr("Export", "Everything in one file; opens again here and takes another class."),
            ".zip",
        ),
    )


class Dot(QWidget):
    """The dot of a radio button; the card is the control."""

    def __init__(self) -> None:
        super().__init__()
        self._on = False
        self.setFixedSize(16, 16)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def set_on(self, *, on: bool) -> None:
        """Chosen or not."""
        self._on = on
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The ring, filled when chosen."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(t.accent if self._on else t.control_border), 1.4))
        painter.setBrush(QColor(t.surface))
        painter.drawEllipse(QRectF(1, 1, 14, 14))
        if self._on:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.accent))
            painter.drawEllipse(QRectF(4.5, 4.5, 7, 7))


class FormatCard(ClickFrame):
    """One format to choose, with the state of its file."""

    def __init__(self, format_: Format) -> None:
        super().__init__("card")
        self.format = format_
        self._dot = Dot()
        self._icon = IconLabel("check-circle", 16, "good")
        self._state = label("", "caption")
        self._size = label("", "caption")
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(self._dot)
        head.addWidget(label(format_.title, "section"))
        head.addStretch(1)
        self._beside = QWidget()
        beside = QHBoxLayout(self._beside)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.setSpacing(4)
        beside.addWidget(self._icon)
        beside.addWidget(self._state)
        head.addWidget(self._beside)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(6)
        column.addLayout(head)
        text = label(format_.text, "secondary", wrap=True)
        self._head, self._foot = head, QHBoxLayout()
        rows = (QHBoxLayout(), self._foot)
        for widget, row in zip((text, self._size), rows, strict=True):
            row.setContentsMargins(24, 0, 0, 0)
            row.addWidget(widget)
            column.addLayout(row)
        self.set_state("", "", "")

    def set_compact(self, *, compact: bool) -> None:
        """The state beside the size instead of beside the title, where both would not fit."""
        (self._foot if compact else self._head).addWidget(self._beside)

    def set_chosen(self, *, chosen: bool) -> None:
        """Show that it is the one to write."""
        self._dot.set_on(on=chosen)
        set_property(self, "selected", "true" if chosen else "false")
        self._say()

    def set_state(self, tone: str, text: str, size: str) -> None:
        """What became of its file.

        Args:
            tone: good, warn, bad, or "" while nothing is written.
            text: e.g. "verified 14:52".
            size: of the file, or "".
        """
        self._icon.setVisible(bool(tone))
        if tone:
            self._icon.set({"good": "check-circle", "warn": "warn", "bad": "cross-circle"}[tone], tone)
        set_property(self._state, "tone", tone)
        self._state.setText(text or self.tr("not written yet"))
        self._size.setText(size)
        self._size.setVisible(bool(size))
        self._say()

    def state(self) -> str:
        """The words at the right."""
        return self._state.text()

    def _say(self) -> None:
        chosen = self.tr("chosen") if self.property("selected") == "true" else self.tr("not chosen")
        self.setAccessibleName(f"{self.format.title}, {chosen}, {self._state.text()}. {self.format.text}")


class FormatCards(QWidget):
    """All formats; arrow keys move between them.

    Signals:
        chosen(str): a format's key, by the person.
    """

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.cards = {f.key: FormatCard(f) for f in formats()}
        self._value = "onnx"
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        for card in self.cards.values():
            column.addWidget(card)
            card.clicked.connect(self._clicked)
            card.installEventFilter(self)
        self.set_value("onnx")

    def value(self) -> str:
        """The chosen format's key."""
        return self._value

    def set_value(self, key: str) -> None:
        """Choose without a signal."""
        self._value = key
        for name, card in self.cards.items():
            card.set_chosen(chosen=name == key)

    def set_compact(self, *, compact: bool) -> None:
        """For a narrow column."""
        for card in self.cards.values():
            card.set_compact(compact=compact)

    def _choose(self, key: str) -> None:
        if key != self._value:
            self.set_value(key)
            self.chosen.emit(key)

    def _clicked(self) -> None:
        card = self.sender()
        if isinstance(card, FormatCard):
            self._choose(card.format.key)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Up and Down choose the neighbour."""
        if event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent):
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}.get(Qt.Key(event.key()), 0)
            if step:
                keys = list(self.cards)
                key = keys[min(max(keys.index(self._value) + step, 0), len(keys) - 1)]
                self._choose(key)
                self.cards[key].setFocus(Qt.FocusReason.TabFocusReason)
                return True
        return False


class Inside(Panel):
    """What is inside every format: classes, the way they were learnt, what travels along."""

    def __init__(self) -> None:
        super().__init__(padding=16)
        self.body.setSpacing(8)
        self.body.addWidget(label(self.tr("What is inside"), "strong"))
        place = QWidget()
        self._classes = FlowLayout(place, gap=12, line_gap=6)
        self.body.addWidget(place)
        self.body.addWidget(line())
        self._made = label("", "body", wrap=True)
        self._more = label(self.tr("Preprocessing, labels, card"), "secondary", wrap=True)
        self.body.addWidget(self._made)
        self.body.addWidget(self._more)

    def show_model(self, classes: Sequence[tuple[str, int]], made: str, format_: str) -> None:
        """Describe the model.

        Args:
            classes: name and index of the colour.
            made: knowledge and method, in a line.
            format_: key; the bundle also holds thumbnails.
        """
        clear_layout(self._classes)
        for name, index in (*classes, (self.tr("none of these"), theme.NONE_INDEX)):
            one = QWidget()
            row = QHBoxLayout(one)
            row.setContentsMargins(0, 0, 0, 0)
            row.setSpacing(6)
            row.addWidget(Marker(index, 10))
            row.addWidget(label(name))
            self._classes.addWidget(one)
        self._made.setText(made)
        self._made.setVisible(bool(made))
        self._more.setText(
            {
                "onnx": self.tr("Preprocessing, labels, thresholds, a runner script"),
                "safetensors": self.tr("Weights, labels, preprocessing as text"),
                "pt2": self.tr("Preprocessing, labels, thresholds"),
                "bundle": self.tr("Preprocessing, labels, thresholds, thumbnails, card, a runner script"),
            }[format_]
        )
