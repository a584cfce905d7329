"""Pictures on the move: what a drag or the clipboard carries, from outside or from another card."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QMimeData, QObject, QPoint, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QDrag, QDropEvent, QGuiApplication, QImage, QPainter, QPixmap
from PySide6.QtWidgets import QWidget

from workbench.core.values import ClassId, ImageRef
from workbench.ui import theme
from workbench.ui.rooms.teach.intake import Pasted
from workbench.ui.widgets.drop import PICTURES, Held, paths_of
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb

MIME = "application/x-workbench-pictures"
QUERIES = ClassId("queries")
"""Where pictures come from that are dragged out of the list of queries."""
OUTSIDE = ClassId("")
"""Where pictures come from that are not in the room yet."""

_ENDINGS = tuple(p.lstrip("*") for p in PICTURES.split() if p != "*.zip")


@dataclass(frozen=True, slots=True)
class Carried:
    """What a drop or a paste brings.

    Attributes:
        files: local files and folders.
        pasted: a picture as pixels.
        source: class id or ``QUERIES`` where the pictures come from inside the room, else ``OUTSIDE``.
        hashes: which pictures of ``source``.
    """

    files: tuple[str, ...] = ()
    pasted: Pasted | None = None
    source: ClassId = OUTSIDE
    hashes: tuple[str, ...] = ()


def pack(source: ClassId, hashes: Sequence[str]) -> QMimeData:
    """Pictures of the room as the data of a drag."""
    data = QMimeData()
    data.setData(MIME, json.dumps([source, list(hashes)]).encode())
    return data


def unpack(mime: QMimeData) -> Carried | None:
    """What there is in it for us; local files and pixels only, no address is ever fetched."""
    if mime.hasFormat(MIME):
        try:
            source, hashes = json.loads(bytes(mime.data(MIME).data()))
            return Carried(source=ClassId(str(source)), hashes=tuple(str(h) for h in hashes))
        except (ValueError, TypeError):
            return None
    files = paths_of(mime)
    if files:
        return Carried(files=tuple(files))
    if mime.hasImage():
        image = mime.imageData()
        if isinstance(image, QImage) and not image.isNull():
            return Carried(pasted=_pixels(image))
    return None


def from_clipboard() -> Carried | None:
    """What the clipboard holds."""
    mime: QMimeData | None = QGuiApplication.clipboard().mimeData()  # None where the clipboard was cleared
    return None if mime is None else unpack(mime)


def _pixels(image: QImage) -> Pasted:
    flat = image.convertToFormat(QImage.Format.Format_RGBA8888)
    return Pasted(flat.width(), flat.height(), bytes(flat.constBits()))  # 4 bytes a pixel: its lines have no padding


class Catcher(QObject):
    """Makes a widget take drops of pictures, with words for what a drop would do.

    Signals:
        over(str): a drag that can be taken is over the widget (words), or has left ("").
        caught(Carried): it was dropped.
    """

    over = Signal(str)
    caught = Signal(object)

    def __init__(self, widget: QWidget, own: Callable[[], ClassId]) -> None:
        """Build it.

        Args:
            widget: takes the drops.
            own: the class (or ``QUERIES``) that it stands for; its own pictures are not taken again.
        """
        super().__init__(widget)
        self._own = own
        self._held = Held()
        widget.setAcceptDrops(True)
        widget.installEventFilter(self)

    def _words(self, mime: QMimeData) -> str:
        """What a drop would do, or "" where it is not for us. Looks at no file: a disk may be slow."""
        if mime.hasFormat(MIME):
            inside = unpack(mime)
            if inside is None or inside.source == self._own() or not inside.hashes:
                return ""
            many = len(inside.hashes)
            return self.tr("Move 1 picture") if many == 1 else self.tr("Move {n} pictures").format(n=many)
        files = paths_of(mime)
        if files:
            if not all(f.lower().endswith(_ENDINGS) for f in files):
                return self.tr("Add what is dropped")
            return self.tr("Add 1 picture") if len(files) == 1 else self.tr("Add {n} pictures").format(n=len(files))
        return self.tr("Add 1 picture") if mime.hasImage() else ""

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Drag enter, move, leave and drop."""
        kind = event.type()
        if kind in (QEvent.Type.DragEnter, QEvent.Type.DragMove) and isinstance(event, QDropEvent):
            words = self._words(event.mimeData())
            if not words:
                event.ignore()
                return True
            self._held.look(event.mimeData())
            event.setDropAction(Qt.DropAction.CopyAction)  # Wayland has no Link, and nothing is ever taken away
            event.accept()
            if kind == QEvent.Type.DragEnter:
                self.over.emit(words)
            return True
        if kind == QEvent.Type.DragLeave:
            self._held.forget()
            self.over.emit("")
            return True
        if kind == QEvent.Type.Drop and isinstance(event, QDropEvent):
            self.over.emit("")
            mime = self._held.drop(event.mimeData())
            carried = unpack(mime) if self._words(mime) else None
            if carried is None:
                event.ignore()
                return True
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()
            self.caught.emit(carried)
            return True
        return False


def start_drag(widget: QWidget, thumbs: Thumbs, source: ClassId, images: Sequence[ImageRef]) -> None:
    """Drag pictures out of a widget; returns when they were dropped."""
    if not images:
        return
    drag = QDrag(widget)
    drag.setMimeData(pack(source, [i.sha256 for i in images]))
    drag.setPixmap(_pile(widget, thumbs, images))
    drag.setHotSpot(QPoint(24, 24))
    drag.exec(Qt.DropAction.CopyAction)


def _pile(widget: QWidget, thumbs: Thumbs, images: Sequence[ImageRef]) -> QPixmap:
    scale = widget.devicePixelRatioF()
    pile = QPixmap(round(72 * scale), round(60 * scale))
    pile.setDevicePixelRatio(scale)
    pile.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pile)
    painter.setOpacity(0.9)
    for n, image in reversed(list(enumerate(images[:3]))):
        draw_thumb(painter, QRectF(4 * n, 4 * n, 48, 48), thumbs.pixmap(image, 44))
    painter.setOpacity(1)
    if len(images) > 1:
        t = theme.tokens()
        badge = QRectF(44, 0, 26, 20)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(t.accent))
        painter.drawRoundedRect(badge, 10, 10)
        painter.setPen(QColor(t.accent_text))
        painter.setFont(theme.font("caption"))
        painter.drawText(badge, Qt.AlignmentFlag.AlignCenter, str(len(images)))
    painter.end()
    return pile
