"""The large view of one picture over the room: Space or Escape closes it, arrows go to the next."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QEvent, QObject, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from workbench.core.storage import len_text
from workbench.core.values import ImageRef
from workbench.ui import theme
from workbench.ui.widgets.thumbs import Thumbs

_FOOT = 56


class Viewer(QWidget):
    """An overlay; asks ``step`` for the next picture.

    Args:
        thumbs: gives the pictures.
        step: moves the selection by arrow key (across, down) and gives class name and picture.
        parent: what it covers.
    """

    def __init__(
        self, thumbs: Thumbs, step: Callable[[int, int], tuple[str, ImageRef] | None], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._thumbs, self._step = thumbs, step
        self.item: tuple[str, ImageRef] | None = None
        self._back: QWidget | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setProperty("focusRing", "false")
        self.hide()
        thumbs.ready.connect(self._ready)
        parent.installEventFilter(self)

    def open(self, item: tuple[str, ImageRef], back: QWidget) -> None:
        """Show a picture; ``back`` gets the keyboard when it closes."""
        self._back = back
        self._show(item)
        parent = self.parentWidget()
        if parent is not None:
            self.setGeometry(parent.rect())
        self.show()
        self.raise_()
        self.setFocus()

    def shut(self) -> None:
        """Close it."""
        self.hide()
        if self._back is not None:
            self._back.setFocus(Qt.FocusReason.OtherFocusReason)

    def _show(self, item: tuple[str, ImageRef]) -> None:
        self.item = item
        self.setAccessibleName(f"{item[1].name}, {item[0]}")
        self.update()

    def _ready(self, sha256: str) -> None:
        if self.isVisible() and self.item is not None and self.item[1].sha256 == sha256:
            self.update()

    def _place(self) -> QRect:
        return self.rect().adjusted(24, 24, -24, -_FOOT)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Veil, picture, words."""
        t = theme.tokens()
        p = QPainter(self)
        p.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        p.fillRect(self.rect(), QColor(t.window))
        if self.item is None:
            return
        name, image = self.item
        place = self._place()
        scale = min(place.width() / max(image.width, 1), place.height() / max(image.height, 1), 8.0)
        wide, tall = round(image.width * scale), round(image.height * scale)
        box = QRect(0, 0, max(1, wide), max(1, tall))
        box.moveCenter(place.center())
        found = self._thumbs.pixmap(image, min(1024, max(place.width(), place.height())), crop=False)
        if found is None:
            found = self._thumbs.pixmap(image, 96, crop=False)
        if found is not None:
            p.drawPixmap(box, found)
        else:
            p.fillRect(box, QColor(t.hairline))
        p.setFont(theme.font("strong"))
        p.setPen(QColor(t.text))
        p.drawText(QRectF(24, self.height() - 48, self.width() - 48, 20), Qt.AlignmentFlag.AlignCenter, image.name)
        p.setFont(theme.font("body"))
        p.setPen(QColor(t.secondary))
        words = f"{name}, {image.width} × {image.height}, {len_text(image.size)}"
        hint = self.tr("Arrows: next picture. Space: back.")
        p.drawText(
            QRectF(24, self.height() - 28, self.width() - 48, 20), Qt.AlignmentFlag.AlignCenter, f"{words}.  {hint}"
        )

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go on, anything that closes closes."""
        moves = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}
        if event.key() in moves:
            item = self._step(*moves[Qt.Key(event.key())])
            if item is not None:
                self._show(item)
        elif event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Escape, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.shut()
        else:
            super().keyPressEvent(event)

    def mousePressEvent(self, _event: QMouseEvent) -> None:
        """A click closes."""
        self.shut()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Cover the parent when it changes its size."""
        if event.type() is QEvent.Type.Resize and isinstance(watched, QWidget) and self.isVisible():
            self.setGeometry(watched.rect())
        return False
