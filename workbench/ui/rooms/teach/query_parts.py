"""What surrounds the list of queries: column heads, the line of progress, the footer."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QStyle, QStyleOptionButton, QWidget

from workbench.ui import icons, theme
from workbench.ui.rooms.teach.query_list import QueryList
from workbench.ui.widgets.controls import button, label

_TICK_MS = 40


class Captions(QWidget):
    """The column heads over the rows."""

    def __init__(self, rows: QueryList) -> None:
        super().__init__()
        self._rows = rows
        self.setFixedHeight(26)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Each where its column is."""
        rows = self._rows
        g = rows.geometry_()
        painter = QPainter(self)
        font = theme.font("caption")
        font.setWeight(font.Weight.Medium)
        painter.setFont(font)
        painter.setPen(QColor(theme.tokens().secondary))
        for left, text in (
            (g.picture.left(), self.tr("Prediction")),
            (g.near_left, self.tr("Nearest examples")),
            (g.column.left(), self.tr("Your label")),
        ):
            painter.drawText(QRect(left, 0, 200, 22), Qt.AlignmentFlag.AlignVCenter, text)


class ProgressLine(QWidget):
    """Two pixels that move while a newer prediction is on its way."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._phase = 0.0
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._tick)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.hide()

    def set_running(self, running: bool) -> None:
        """Show it and move, or hide it."""
        if running and not self._timer.isActive():
            self._phase = 0.0
            self._timer.start()
        elif not running:
            self._timer.stop()
        self.setVisible(running)

    def running(self) -> bool:
        """Whether it is shown."""
        return self._timer.isActive()

    def _tick(self) -> None:
        self._phase = (self._phase + 0.02) % 1.0
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """A third of the line in accent."""
        wide = self.width() / 3
        left = -wide + (self.width() + wide) * self._phase
        QPainter(self).fillRect(QRectF(left, 0, wide, 2), QColor(theme.tokens().accent))


class DropHint(QPushButton):
    """Where to drop, in quiet words; a click opens the chooser."""

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("kind", "quiet")
        self.setProperty("size", "small")
        self._lit = False
        self._words = ""
        self.setAutoDefault(False)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)

    def show_words(self, words: str, *, lit: bool) -> None:
        """What it says; ``lit`` while a drag is over the list."""
        self._words, self._lit = words, lit
        self.setAccessibleName(words)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """28 high."""
        return QSize(QFontMetrics(theme.font("body")).horizontalAdvance(self._words) + 46, 28)

    def minimumSizeHint(self) -> QSize:
        """The icon."""
        return QSize(40, 28)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The panel by the style, icon and words here."""
        option = QStyleOptionButton()
        self.initStyleOption(option)
        painter = QPainter(self)
        self.style().drawControl(QStyle.ControlElement.CE_PushButton, option, painter, self)
        t = theme.tokens()
        ink = t.accent if self._lit else t.text if self.underMouse() else t.secondary
        icons.draw(painter, QRectF(10, self.height() / 2 - 8, 16, 16), "download", ink)
        painter.setFont(theme.font("body"))
        painter.setPen(QColor(ink))
        place = QRect(34, 0, self.width() - 40, self.height())
        shown = QFontMetrics(painter.font()).elidedText(self._words, Qt.TextElideMode.ElideRight, place.width())
        painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, shown)


class Footer(QWidget):
    """Where to drop, what the keys do, what is selected, how long predicting took."""

    choose_wanted = Signal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setFixedHeight(54)
        self._compact = False
        self._classes = 0
        self._selected = 0
        self._over = ""
        self.drop = DropHint()
        self.drop.setToolTip(self.tr("Click to choose pictures, or paste them"))
        self.drop.clicked.connect(self.choose_wanted)
        self.hint = label("", "secondary")
        self.accept_all = button(self.tr("Accept"), "secondary", "check", size="small")
        self.state = label("", "secondary")
        row = self._row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 16, 0)
        row.setSpacing(8)
        row.addWidget(self.drop)
        row.addWidget(self.hint)
        row.addWidget(self.accept_all)
        row.addStretch(1)
        row.addWidget(self.state)
        self._arrange()

    def set_state(self, words: str) -> None:
        """What stands at the right."""
        self.state.setText(words)

    def set_classes(self, classes: int) -> None:
        """How many keys there are."""
        self._classes = classes
        self._arrange()

    def set_selected(self, selected: int) -> None:
        """How many rows are selected."""
        self._selected = selected
        self._arrange()

    def set_over(self, words: str) -> None:
        """A drag is over the list (what it would do), or has left."""
        self._over = words
        self._arrange()

    def set_compact(self, compact: bool) -> None:
        """The narrow form."""
        self._compact = compact
        self._arrange()

    def _arrange(self) -> None:
        several = self._selected > 1 and not self._over
        keys = self._compact and self._classes > 0 and not several and not self._over
        self.drop.setVisible(not several and not keys)
        self.drop.show_words(self._over or self.tr("Drop pictures here to predict them"), lit=bool(self._over))
        self.hint.setVisible(several or keys)
        self.accept_all.setVisible(several)
        if several:
            words = self.tr("{n} selected: press 1–{k} or 0 for all").format(n=self._selected, k=min(self._classes, 9))
            self.hint.setText(self.tr("{n} selected").format(n=self._selected) if self._compact else words)
        elif keys:
            self.hint.setText(self.tr("Press 1–{k} or 0 to correct").format(k=min(self._classes, 9)))
        self._row.setContentsMargins(16 if several or keys else 6, 0, 16, 0)
