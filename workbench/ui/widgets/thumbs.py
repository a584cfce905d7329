"""Thumbnails for the window: asked for while painting, decoded on two threads, kept in a bounded cache.

The threads are Python's: a ``QThreadPool`` deletes a Python callable under its own lock, for which it needs the
interpreter's, while ``start`` waits for the pool's lock with the interpreter's held: the two were seen to deadlock.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QGuiApplication,
    QImage,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QPixmapCache,
)
from PySide6.QtWidgets import QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef
from workbench.ui import theme

if TYPE_CHECKING:
    from workbench.data.thumbnails import ThumbnailStore

log = logging.getLogger(__name__)

_CACHE_BYTES = 64 << 20
_ROUNDED_KB = 32 << 10
_THREADS = 2 if (os.cpu_count() or 1) > 2 else 1  # on two cores one of them is the window's
_PATIENCE = 3.0  # seconds that closing waits for the picture being decoded
_WAITING = 600  # what was asked for longer ago has been scrolled away; it is asked for again when it is painted again
_SIDES = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # few sizes on disk, so that a zoom finds them again


class Thumbs(QObject):
    """Thumbnails by content.

    Signals:
        ready(str): the picture with this hash can be had now (or will never be).
    """

    ready = Signal(str)
    _decoded = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cache: OrderedDict[str, QPixmap] = OrderedDict()
        self._bytes = 0
        self._asked: set[str] = set()
        self._failed: set[str] = set()
        self._waiting: deque[tuple[str, ImageRef, int]] = deque()
        self._made: list[tuple[str, str, QImage]] = []
        self._lock = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._store: ThumbnailStore | None = None
        self._decoded.connect(self._take, Qt.ConnectionType.QueuedConnection)
        QPixmapCache.setCacheLimit(max(QPixmapCache.cacheLimit(), _ROUNDED_KB))

    def pixmap(self, image: ImageRef, side: int, *, crop: bool = True) -> QPixmap | None:
        """The picture as a square of ``side`` logical pixels (cut at the centre), or within it (``crop`` false).

        Returns:
            ``None`` while it is being decoded; ``ready`` then tells the hash. Never decodes here.
        """
        app = QGuiApplication.instance()
        scale = app.devicePixelRatio() if isinstance(app, QGuiApplication) else 1.0
        pixels = max(8, math.ceil(side * scale))
        key = f"{image.sha256}:{pixels}:{int(crop)}"
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return found
        if image.sha256 in self._failed or self._closed:
            return None
        if key not in self._asked:
            self._asked.add(key)
            with self._lock:
                self._waiting.append((key, image, pixels))
                if len(self._waiting) > _WAITING:
                    self._asked.discard(self._waiting.popleft()[0])
                self._lock.notify()
            if len(self._threads) < _THREADS:
                self._threads.append(threading.Thread(target=self._work, name="thumbnails", daemon=True))
                self._threads[-1].start()
        return None

    def failed(self, image: ImageRef) -> bool:
        """Whether the picture could not be decoded."""
        return image.sha256 in self._failed

    def close(self) -> None:
        """Forget what waits and let the threads end."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(_PATIENCE)
        if self._store is not None:
            self._store.close()

    # ---- on the threads --------------------------------------------------------------------------
    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                key, image, pixels = self._waiting.pop()  # the newest wish is what is on the screen
            made = QImage()
            try:
                made = self._decode(image, pixels, crop=key.endswith(":1"))
            except WorkbenchError as error:
                log.info("%s", error)
            except Exception:
                log.exception("no thumbnail of %s", image.sha256)
            with self._lock:
                told = bool(self._made)  # the window has not come to take the last ones yet
                self._made.append((key, image.sha256, made))
            if not told:
                with contextlib.suppress(RuntimeError):  # the window is gone
                    self._decoded.emit()

    def _decode(self, image: ImageRef, pixels: int, *, crop: bool) -> QImage:
        from workbench.data.thumbnails import ThumbnailStore

        with self._lock:
            if self._store is None:
                self._store = ThumbnailStore()
        long, short = max(image.width, image.height, 1), max(min(image.width, image.height), 1)
        wanted = math.ceil(pixels * min(long / short, 4.0)) if crop else pixels
        side = next((s for s in _SIDES if s >= wanted), _SIDES[-1])
        found = QImage.fromData(self._store.thumbnail(image, side))
        smooth = Qt.TransformationMode.SmoothTransformation
        if not crop:
            if max(found.width(), found.height()) <= pixels:
                return found
            return found.scaled(pixels, pixels, Qt.AspectRatioMode.KeepAspectRatio, smooth)
        found = found.scaled(pixels, pixels, Qt.AspectRatioMode.KeepAspectRatioByExpanding, smooth)
        return found.copy((found.width() - pixels) // 2, (found.height() - pixels) // 2, pixels, pixels)

    # ---- in the window's thread ------------------------------------------------------------------
    @Slot()
    def _take(self) -> None:
        with self._lock:
            taken, self._made = self._made, []
        for key, sha256, image in taken:
            self._asked.discard(key)
            if image.isNull():
                self._failed.add(sha256)
            else:
                made = QPixmap.fromImage(image)
                self._cache[key] = made
                self._bytes += _size(made)
                while self._bytes > _CACHE_BYTES and len(self._cache) > 1:
                    self._bytes -= _size(self._cache.popitem(last=False)[1])
            self.ready.emit(sha256)


def _size(pixmap: QPixmap) -> int:
    return pixmap.width() * pixmap.height() * 4


def draw_thumb(
    painter: QPainter, rect: QRectF, pixmap: QPixmap | None, radius: float = 4.0, *, failed: bool = False
) -> None:
    """Draw a thumbnail with round corners into ``rect``, or its placeholder; for delegates too."""
    if pixmap is not None:
        painter.drawPixmap(rect.topLeft(), _rounded(pixmap, rect, radius, painter.device().devicePixelRatioF()))
        return
    t = theme.tokens()
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(t.bad_soft if failed else t.hairline))
    painter.drawRoundedRect(rect, radius, radius)
    painter.restore()


def _rounded(pixmap: QPixmap, rect: QRectF, radius: float, scale: float) -> QPixmap:
    """The picture at the size of ``rect`` with round corners and its edge, ready to be drawn; kept.

    Made of three blits: a clip path for each picture would cost fifty.
    """
    size = f"{rect.width():g}:{rect.height():g}:{radius:g}:{scale:g}"
    edge = QColor(theme.tokens().text)
    key = f"{pixmap.cacheKey()}:{size}:{edge.name()}"
    made = QPixmap()
    if QPixmapCache.find(key, made):
        return made
    inside = QRectF(0, 0, rect.width(), rect.height())
    made = _blank(inside, scale)
    painter = QPainter(made)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.drawPixmap(inside, pixmap, QRectF(pixmap.rect()))
    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_DestinationIn)
    painter.drawPixmap(0, 0, _shape(inside, radius, scale, f"mask:{size}", None))
    painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_SourceOver)
    painter.drawPixmap(0, 0, _shape(inside, radius, scale, f"edge:{size}:{edge.name()}", edge))
    painter.end()
    QPixmapCache.insert(key, made)
    return made


def _shape(inside: QRectF, radius: float, scale: float, key: str, edge: QColor | None) -> QPixmap:
    """A filled rounded square, or its faint edge alone."""
    made = QPixmap()
    if QPixmapCache.find(key, made):
        return made
    made = _blank(inside, scale)
    painter = QPainter(made)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    if edge is None:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(Qt.GlobalColor.black)
        painter.drawRoundedRect(inside, radius, radius)
    else:
        edge.setAlphaF(0.10)
        painter.setPen(QPen(edge, 1))
        painter.drawRoundedRect(inside.adjusted(0.5, 0.5, -0.5, -0.5), radius, radius)
    painter.end()
    QPixmapCache.insert(key, made)
    return made


def _blank(inside: QRectF, scale: float) -> QPixmap:
    made = QPixmap(math.ceil(inside.width() * scale), math.ceil(inside.height() * scale))
    made.setDevicePixelRatio(scale)
    made.fill(Qt.GlobalColor.transparent)
    return made


class Thumb(QWidget):
    """One thumbnail as a widget."""

    def __init__(self, thumbs: Thumbs, image: ImageRef | None, side: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._thumbs, self._image = thumbs, image
        self.setFixedSize(side, side)
        self.setAccessibleName("" if image is None else image.name)
        thumbs.ready.connect(self._ready)

    def set_image(self, image: ImageRef | None) -> None:
        """Another picture."""
        self._image = image
        self.setAccessibleName("" if image is None else image.name)
        self.update()

    def image(self) -> ImageRef | None:
        """The picture shown."""
        return self._image

    def sizeHint(self) -> QSize:
        """Its fixed size."""
        return self.size()

    def _ready(self, sha256: str) -> None:
        if self._image is not None and self._image.sha256 == sha256:
            self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The picture or its placeholder."""
        if self._image is None:
            return
        found = self._thumbs.pixmap(self._image, self.width())
        draw_thumb(QPainter(self), QRectF(self.rect()), found, failed=self._thumbs.failed(self._image))
