"""A group of pictures as a row: key, name, how many, the most typical ones, and the button that makes a class of it."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from workbench.core.values import ImageRef
from workbench.services.requests import Group
from workbench.ui import theme
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.controls import KeyCap, button, label, set_property
from workbench.ui.widgets.strip import IconLabel
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb

_SIDE, _GAP = 44, 4
_ODD = 3
"""Unusual pictures that are shown, at the end."""


class Thumbnails(QWidget):
    """As many pictures of a group as fit in a line: the most typical from the left, unusual ones at the right."""

    def __init__(self, thumbs: Thumbs, group: Group, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._thumbs = thumbs
        self._odd = [i for i in group.images if i.sha256 in group.unusual]
        self._usual = [i for i in group.images if i.sha256 not in group.unusual]
        self._hashes = {i.sha256 for i in group.images}
        self.setFixedHeight(_SIDE)
        self.setMinimumWidth(3 * (_SIDE + _GAP))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        thumbs.ready.connect(self._ready)

    def sizeHint(self) -> QSize:
        """Eight pictures."""
        return QSize(8 * (_SIDE + _GAP), _SIDE)

    def shown(self) -> list[tuple[ImageRef, int, bool]]:
        """What is painted: picture, left edge, whether it is unusual."""
        fit = max(1, (self.width() + _GAP) // (_SIDE + _GAP))
        odd = self._odd[-min(_ODD, max(0, fit - 2)) :] if fit > 2 else []
        usual = self._usual[: fit - len(odd)]
        row = [(i, False) for i in usual] + [(i, True) for i in odd]
        return [(image, at * (_SIDE + _GAP), strange) for at, (image, strange) in enumerate(row)]

    def _ready(self, sha256: str) -> None:
        if sha256 in self._hashes:
            self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The pictures; an unusual one has a dashed amber edge."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for image, left, strange in self.shown():
            place = QRectF(left, 0, _SIDE, _SIDE)
            draw_thumb(painter, place, self._thumbs.pixmap(image, _SIDE), failed=self._thumbs.failed(image))
            if strange:
                painter.setPen(QPen(QColor(theme.tokens().warn), 2, Qt.PenStyle.DashLine))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRoundedRect(place.adjusted(1, 1, -1, -1), 4, 4)


class GroupRow(QFrame):
    """See the module. Enter makes a class of it, the arrow keys go to the next row.

    Signals:
        wanted: a class is to be made of it.
        moved(int): the row above (-1) or below (1) is to be gone to.
    """

    wanted = Signal()
    moved = Signal(int)

    def __init__(self, thumbs: Thumbs, number: int, group: Group, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.group = group
        self.setProperty("role", "card")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 12, 8)
        row.setSpacing(12)
        self.key = KeyCap(str(number)) if number < 10 else label(str(number), "caption")
        self.key.setFixedWidth(20)
        row.addWidget(self.key)
        words = QVBoxLayout()
        words.setSpacing(2)
        self.name = QLineEdit(self.tr("Group {n}").format(n=number))
        self.name.setProperty("small", "true")
        self.name.setAccessibleName(self.tr("Name of group {n}").format(n=number))
        self.name.setToolTip(self.tr("The name that the class gets; Enter makes it"))
        self.name.setFixedWidth(136)
        self.name.returnPressed.connect(self.wanted)
        self.name.installEventFilter(self)
        words.addWidget(self.name)
        odd = len(group.unusual)
        said = count(len(group.images), "picture") + (self.tr(", {n} unusual").format(n=odd) if odd else "")
        words.addWidget(label(said, "caption"))
        row.addLayout(words)
        self.pictures = Thumbnails(thumbs, group)
        if odd:
            self.pictures.setToolTip(
                self.tr("The most typical first; those with a dashed edge are unlike the others of the group")
            )
        row.addWidget(self.pictures, 1)
        self.make = button(self.tr("Make a class"), "secondary", "plus", size="small")
        self.make.setAccessibleName(self.tr("Make a class of group {n}").format(n=number))
        self.make.setToolTip(
            self.tr("Make a class of this group ({key})").format(key=number if number < 10 else self.tr("Enter"))
        )
        self.make.clicked.connect(self.wanted)
        row.addWidget(self.make)
        self._done = QWidget()
        done = QHBoxLayout(self._done)
        done.setContentsMargins(0, 0, 0, 0)
        done.setSpacing(6)
        done.addWidget(IconLabel("check-circle", 16, "good"))
        done.addWidget(label(self.tr("Is a class"), "secondary"))
        self._done.setFixedWidth(max(self.make.sizeHint().width(), self._done.sizeHint().width()))
        self.make.setFixedWidth(self._done.width())
        self._done.hide()
        row.addWidget(self._done)
        self.setAccessibleName(f"{self.name.text()}: {said}")

    @property
    def done(self) -> bool:
        """Whether a class was made of it."""
        return not self.make.isVisibleTo(self)

    def set_done(self, done: bool, name: str = "") -> None:
        """A class was made of it, under this name; or that was taken back."""
        self.make.setVisible(not done)
        self._done.setVisible(done)
        self.name.setEnabled(not done)
        self.pictures.setEnabled(not done)
        if name:
            self.name.setText(name)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter makes a class; up and down go on."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not self.done:
            self.wanted.emit()
        elif event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self.moved.emit(1 if event.key() == Qt.Key.Key_Down else -1)
        elif event.key() == Qt.Key.Key_F2:
            self.name.setFocus(Qt.FocusReason.ShortcutFocusReason)
            self.name.selectAll()
        else:
            super().keyPressEvent(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Escape in the name goes back to the row."""
        if event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent) and event.key() == Qt.Key.Key_Escape:
            self.setFocus(Qt.FocusReason.OtherFocusReason)
            return True
        return super().eventFilter(watched, event)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click goes to the row."""
        self.setFocus(Qt.FocusReason.MouseFocusReason)
        super().mousePressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """The current row is marked."""
        set_property(self, "hover", "true")
        super().focusInEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Not the current row any more."""
        set_property(self, "hover", "false")
        super().focusOutEvent(event)
