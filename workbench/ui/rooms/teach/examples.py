"""The examples of a class: one painted widget for all of them, with a tile that adds more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QHelpEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QApplication, QSizePolicy, QToolTip, QWidget

from workbench.core.paths import display
from workbench.core.values import ClassId, ImageRef
from workbench.ui import icons, theme
from workbench.ui.rooms.teach.carrying import start_drag
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb
from workbench.ui.widgets.words import plain

_GAP = 4
_LINES = 3
"""Lines shown before the rest folds into a tile; a class of hundreds must not push the others away."""
_BELOW = 10


class ExampleGrid(QWidget):
    """Thumbnails in lines; arrows, Space, Delete, and digits that move the selected ones.

    Signals:
        add_wanted: the "+" tile was pressed.
        remove_wanted(list[str]): hashes.
        move_wanted(int, list[str]): index of the class to move to, hashes.
        menu_wanted(QPoint, list[str]): global position, hashes.
    """

    add_wanted = Signal()
    remove_wanted = Signal(list)
    move_wanted = Signal(int, list)
    menu_wanted = Signal(QPoint, list)

    def __init__(self, thumbs: Thumbs, source: ClassId, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._thumbs, self._source = thumbs, source
        self._images: tuple[ImageRef, ...] = ()
        self._checks: Mapping[str, float] = {}
        self._side = 44
        self._folded = True
        self._invites = False
        self._at = 0
        self._anchor = 0
        self._selected: set[str] = set()
        self._pressed: QPoint | None = None
        self._pressed_on = -1
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        thumbs.ready.connect(self._ready)
        self._fit()

    # ---- content ---------------------------------------------------------------------------------
    def show_images(self, images: tuple[ImageRef, ...], checks: Mapping[str, float]) -> None:
        """Show examples, with a dot under those to check."""
        if images == self._images and dict(checks) == dict(self._checks):
            return
        self._images, self._checks = images, dict(checks)
        self._selected &= {i.sha256 for i in images}
        self._at = min(self._at, len(images))
        self._fit()
        self.update()

    def set_side(self, side: int) -> None:
        """Larger or smaller thumbnails."""
        if side != self._side:
            self._side = side
            self._fit()
            self.update()

    def set_inviting(self, invites: bool) -> None:
        """A drag is over the card: the "+" tile says that it lands here."""
        self._invites = invites
        self.update()

    def selected(self) -> list[str]:
        """Hashes of the selected examples, in order."""
        return [i.sha256 for i in self._images if i.sha256 in self._selected]

    def images(self) -> tuple[ImageRef, ...]:
        """What is shown."""
        return self._images

    # ---- layout ----------------------------------------------------------------------------------
    def _columns(self) -> int:
        return max(1, (max(self.width(), self._side) + _GAP) // (self._side + _GAP))

    def _visible(self) -> int:
        """Number of pictures shown; the rest is behind the folding tile."""
        if not self._folded:
            return len(self._images)
        room = self._columns() * _LINES - 1
        return len(self._images) if len(self._images) <= room else max(room - 1, 1)

    def _tiles(self) -> int:
        """Pictures, perhaps the folding tile, and the adding tile."""
        shown = self._visible()
        return shown + (shown < len(self._images)) + 1

    def _tops(self) -> list[int]:
        """Top of each line, and the bottom of the last; a line with something to check has room for its dots."""
        columns, tops, y = self._columns(), [], 0
        lines = -(-self._tiles() // columns)
        for line in range(lines):
            tops.append(y)
            here = self._images[line * columns : (line + 1) * columns]
            dotted = line < lines - 1 and any(i.sha256 in self._checks for i in here)
            y += self._side + (_BELOW if dotted or line == lines - 1 else _GAP)
        return [*tops, y]

    def _rect(self, tile: int) -> QRect:
        columns = self._columns()
        return QRect(tile % columns * (self._side + _GAP), self._tops()[tile // columns], self._side, self._side)

    def _fit(self) -> None:
        high = self._tops()[-1]
        if high != self.height():
            self.setFixedHeight(high)
        self._say()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """More or fewer columns."""
        super().resizeEvent(event)
        self._fit()

    def sizeHint(self) -> QSize:
        """Six in a line."""
        return QSize(6 * (self._side + _GAP), self.height())

    def minimumSizeHint(self) -> QSize:
        """One in a line."""
        return QSize(self._side, self.height())

    def focus_rect(self) -> QRect:
        """Where the focus ring goes: round the current tile."""
        return self._rect(min(self._at, self._tiles() - 1))

    def _kind(self, tile: int) -> Literal["picture", "fold", "add", ""]:
        if not 0 <= tile < self._tiles():
            return ""
        if tile < self._visible():
            return "picture"
        return "add" if tile == self._tiles() - 1 else "fold"

    def _tile_at(self, at: QPoint) -> int:
        return next((n for n in range(self._tiles()) if self._rect(n).contains(at)), -1)

    def _ready(self, sha256: str) -> None:
        if any(i.sha256 == sha256 for i in self._images):
            self.update()

    # ---- painting --------------------------------------------------------------------------------
    def paintEvent(self, event: QPaintEvent) -> None:
        """Thumbnails, dots, tiles."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        t = theme.tokens()
        for tile in range(self._tiles()):
            rect = self._rect(tile)
            if not rect.adjusted(-2, -2, 2, _BELOW).intersects(event.rect()):
                continue
            kind = self._kind(tile)
            if kind == "picture":
                self._paint_picture(painter, QRectF(rect), self._images[tile])
                continue
            accent = kind == "add" and self._invites
            pen = QPen(QColor(t.accent if accent else t.border_strong), 1, Qt.PenStyle.CustomDashLine)
            pen.setDashPattern([3, 3])
            painter.setPen(pen)
            painter.setBrush(QColor(t.hover) if tile == self._hovered() and not accent else Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(rect).adjusted(0.5, 0.5, -0.5, -0.5), 4, 4)
            if kind == "add":
                mark = QRectF(rect.center().x() - 7.5, rect.center().y() - 7.5, 16, 16)
                icons.draw(painter, mark, "plus", t.accent if accent else t.secondary)
            else:
                painter.setPen(QColor(t.secondary))
                painter.setFont(theme.font("caption"))
                painter.drawText(rect, Qt.AlignmentFlag.AlignCenter, f"+{len(self._images) - self._visible()}")

    def _paint_picture(self, painter: QPainter, rect: QRectF, image: ImageRef) -> None:
        t = theme.tokens()
        draw_thumb(painter, rect, self._thumbs.pixmap(image, self._side), failed=self._thumbs.failed(image))
        if image.sha256 in self._selected:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QPen(QColor(t.raised), 4))
            painter.drawRoundedRect(rect.adjusted(2, 2, -2, -2), 3, 3)
            painter.setPen(QPen(QColor(t.accent), 2))
            painter.drawRoundedRect(rect.adjusted(1, 1, -1, -1), 4, 4)
        if image.sha256 in self._checks:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.warn))
            painter.drawEllipse(QPointF(rect.center().x(), rect.bottom() + 5.5), 4, 4)

    def _hovered(self) -> int:
        return self._tile_at(self.mapFromGlobal(self.cursor().pos())) if self.underMouse() else -1

    # ---- hand ------------------------------------------------------------------------------------
    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Select; remember where a drag might begin."""
        tile = self._tile_at(event.position().toPoint())
        self._pressed_on = tile
        if event.button() == Qt.MouseButton.LeftButton:
            self._pressed = event.position().toPoint() if self._kind(tile) == "picture" else None
        if self._kind(tile) != "picture":
            if tile < 0:
                self._selected.clear()
            self.update()
            return
        sha = self._images[tile].sha256
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._selected ^= {sha}
            self._anchor = tile
        elif event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            self._select_to(tile)
        elif sha not in self._selected:
            self._selected = {sha}
            self._anchor = tile
        self._go(tile)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Begin to drag what is selected."""
        self.update()
        if self._pressed is None or not event.buttons() & Qt.MouseButton.LeftButton:
            return
        if (event.position().toPoint() - self._pressed).manhattanLength() >= QApplication.startDragDistance():
            self._pressed = None
            start_drag(self, self._thumbs, self._source, [i for i in self._images if i.sha256 in self._selected])

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click on a tile; a click on one of several selected pictures leaves only that one."""
        tile = self._tile_at(event.position().toPoint())
        plain = not event.modifiers() & (Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
        if event.button() == Qt.MouseButton.LeftButton and tile == self._pressed_on:
            if self._kind(tile) == "picture" and self._pressed is not None and plain:
                self._selected = {self._images[tile].sha256}
                self.update()
            else:
                self._press(tile)
        self._pressed = None

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Ask the card for a menu."""
        if event.reason() == QContextMenuEvent.Reason.Keyboard and not self._selected:
            self._select_current()
        if self._selected:
            self.menu_wanted.emit(event.globalPos(), self.selected())

    def leaveEvent(self, event: QEvent) -> None:
        """No hover."""
        self.update()
        super().leaveEvent(event)

    def _press(self, tile: int) -> None:
        if self._kind(tile) == "add":
            self.add_wanted.emit()
        elif self._kind(tile) == "fold":
            self._folded = False
            self._fit()
            self.update()

    # ---- keys ------------------------------------------------------------------------------------
    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows move, Space selects, Delete removes, digits move the selected examples."""
        key, shift = Qt.Key(event.key()), bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        step = {
            Qt.Key.Key_Left: -1,
            Qt.Key.Key_Right: 1,
            Qt.Key.Key_Up: -self._columns(),
            Qt.Key.Key_Down: self._columns(),
        }.get(key)
        if event.matches(QKeySequence.StandardKey.SelectAll):
            self._selected = {i.sha256 for i in self._images}
            self.update()
        elif step is not None and 0 <= self._at + step < self._tiles():
            self._go(self._at + step)
            if shift:
                self._select_to(self._at)
            else:
                self._anchor = self._at
        elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            self._go(0 if key == Qt.Key.Key_Home else self._tiles() - 1)
        elif key == Qt.Key.Key_Space and self._kind(self._at) == "picture":
            self._selected ^= {self._images[self._at].sha256}
            self.update()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self._press(self._at)
        elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self._select_current()
            if self._selected:
                self.remove_wanted.emit(self.selected())
        elif Qt.Key.Key_1 <= key <= Qt.Key.Key_9 and not event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier:
            self._select_current()
            if self._selected:
                self.move_wanted.emit(int(key) - int(Qt.Key.Key_1), self.selected())
        elif key == Qt.Key.Key_Escape and self._selected:
            self._selected.clear()
            self.update()
        else:
            super().keyPressEvent(event)

    def _select_current(self) -> None:
        if not self._selected and self._kind(self._at) == "picture":
            self._selected = {self._images[self._at].sha256}
            self.update()

    def _select_to(self, tile: int) -> None:
        low, high = sorted((self._anchor, tile))
        self._selected = {i.sha256 for i in self._images[low : high + 1]}
        self.update()

    def _go(self, tile: int) -> None:
        self._at = tile
        self._say()
        self.update()

    def _say(self) -> None:
        """What a screen reader says of the current tile."""
        kind = self._kind(self._at)
        if kind == "picture":
            self.setAccessibleDescription(self._about(self._images[self._at]))
        else:
            self.setAccessibleDescription(self.tr("Add pictures") if kind == "add" else self.tr("Show all"))

    def _about(self, image: ImageRef) -> str:
        said = display(image.name)
        loss = self._checks.get(image.sha256)
        if loss is not None:
            said += "\n" + self.tr(
                "The other examples do not expect it in this class (left-out loss {loss}). Check it."
            ).format(loss=f"{loss:.2f}")
        return said

    def event(self, event: QEvent) -> bool:
        """Tooltips by tile."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            tile = self._tile_at(event.pos())
            kind = self._kind(tile)
            if kind == "picture":
                QToolTip.showText(event.globalPos(), plain(self._about(self._images[tile])), self, self._rect(tile))
            elif kind:
                words = self.tr("Add pictures") if kind == "add" else self.tr("Show all")
                QToolTip.showText(event.globalPos(), words, self, self._rect(tile))
            else:
                QToolTip.hideText()
            return True
        return super().event(event)
