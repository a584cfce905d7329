"""Dropping and pasting pictures and folders: a filter that makes any widget a target, and the dashed target.

Only Copy is accepted (Wayland has no Link), only local files are taken, and no address is ever fetched; a browser's
drag brings its picture as image data. Every drop has a twin for the keyboard: Enter opens a chooser, and paste takes
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QBuffer, QByteArray, QEvent, QIODevice, QMimeData, QObject, QRectF, Qt, QUrl, Signal
from PySide6.QtGui import QColor, QDropEvent, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QApplication, QFileDialog, QFrame, QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.values import ImageRef
from workbench.ui import theme
from workbench.ui.widgets.controls import button, label, set_property
from workbench.ui.widgets.strip import IconLabel

PICTURES = "*.jpg *.jpeg *.png *.webp *.bmp *.gif *.tif *.tiff *.avif *.heic *.heif *.jp2 *.ppm *.pgm *.zip"
_OWN_CLIPBOARD = ("offscreen", "minimal")


def paths_of(mime: QMimeData) -> list[str]:
    """Local files and folders that a drag or the clipboard carries."""
    if not mime.hasUrls():
        return []
    return [url.toLocalFile() for url in mime.urls() if url.isLocalFile() and url.toLocalFile()]


def image_of(mime: QMimeData) -> bytes | None:
    """A picture that a drag or the clipboard carries as data, encoded as PNG."""
    if not mime.hasImage():
        return None
    image = mime.imageData()
    if not isinstance(image, QImage) or image.isNull():
        return None
    data = QByteArray()
    buffer = QBuffer(data)
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    done = image.save(buffer, "PNG")  # type: ignore[call-overload]
    buffer.close()
    return bytes(data.data()) if done else None


class Held:
    """Keeps which files a drag carries, from when it enters.

    The data of a drag are asked of the program it comes from; where that ends before the drop, there is no answer.
    """

    def __init__(self) -> None:
        self._files: list[QUrl] = []

    def look(self, mime: QMimeData) -> None:
        """The drag is over us: remember its files (not its pixels, which may be many)."""
        if mime.hasUrls():
            self._files = mime.urls() or self._files

    def drop(self, mime: QMimeData) -> QMimeData:
        """What was dropped; what was seen before where the drop itself came empty."""
        files, self._files = self._files, []
        if not files or mime.urls() or mime.hasImage() or any(mime.data(f).size() for f in mime.formats()):
            return mime
        seen = QMimeData()
        seen.setUrls(files)
        return seen

    def forget(self) -> None:
        """The drag left."""
        self._files = []


class DropArea(QObject):
    """Makes a widget take drops.

    Signals:
        dropped(list[str]): local paths.
        image_dropped(bytes): a picture as PNG.
        inner_dropped(str): text of our own type, dragged from inside the window.
        over(bool): a drag that can be taken is over the widget, or has left.
    """

    dropped = Signal(list)
    image_dropped = Signal(bytes)
    inner_dropped = Signal(str)
    over = Signal(bool)

    def __init__(self, widget: QWidget, *, images: bool = True, inner: str = "") -> None:
        super().__init__(widget)
        self._images, self._inner = images, inner
        self._held = Held()
        widget.setAcceptDrops(True)
        widget.installEventFilter(self)

    def takes(self, mime: QMimeData) -> bool:
        """Whether there is anything in it for us."""
        return bool(
            (self._inner and mime.hasFormat(self._inner)) or paths_of(mime) or (self._images and mime.hasImage())
        )

    def take(self, mime: QMimeData) -> bool:
        """Take what a drop or the clipboard carries; says whether there was anything."""
        if self._inner and mime.hasFormat(self._inner):
            self.inner_dropped.emit(bytes(mime.data(self._inner).data()).decode("utf-8"))
            return True
        files = paths_of(mime)
        if files:
            self.dropped.emit(files)
            return True
        image = image_of(mime) if self._images else None
        if image is not None:
            self.image_dropped.emit(image)
            return True
        return False

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Drag enter, move, leave and drop."""
        kind = event.type()
        if kind in (QEvent.Type.DragEnter, QEvent.Type.DragMove) and isinstance(event, QDropEvent):
            if not self.takes(event.mimeData()):
                event.ignore()
                return True
            self._held.look(event.mimeData())
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()
            if kind == QEvent.Type.DragEnter:
                self.over.emit(True)
            return True
        if kind == QEvent.Type.DragLeave:
            self._held.forget()
            self.over.emit(False)
            return True
        if kind == QEvent.Type.Drop and isinstance(event, QDropEvent):
            self.over.emit(False)
            event.setDropAction(Qt.DropAction.CopyAction)
            event.accept()
            self.take(self._held.drop(event.mimeData()))
            return True
        return False


def choose_folder(parent: QWidget) -> list[str]:
    """Ask for a folder."""
    found = QFileDialog.getExistingDirectory(parent, parent.tr("Choose a folder"))
    return [found] if found else []


def choose_archives(parent: QWidget) -> list[str]:
    """Ask for zip archives."""
    kinds = parent.tr("Zip archives (*.zip)")
    found, _ = QFileDialog.getOpenFileNames(parent, parent.tr("Choose zip archives"), "", kinds)
    return list(found)


def choose_pictures(parent: QWidget) -> list[str]:
    """Ask for pictures."""
    found, _ = QFileDialog.getOpenFileNames(
        parent, parent.tr("Choose pictures"), "", f"{parent.tr('Pictures')} ({PICTURES})"
    )
    return list(found)


class DropTarget(QFrame):
    """The dashed target: drop folders or pictures on it, click it, or press Enter on it.

    Signals:
        dropped(list[str]): local paths, dropped, pasted or chosen.
        image_dropped(bytes): a picture as PNG.
    """

    dropped = Signal(list)
    image_dropped = Signal(bytes)

    def __init__(
        self,
        title: str = "",
        hint: str = "",
        *,
        icon: str = "download",
        takes: str = "folder",
        action: str = "",
        filled: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        """Build it.

        Args:
            title: what to drop; "" leaves the target empty, for content of one's own in ``body``.
            hint: the second line.
            icon: at the left.
            takes: ``folder`` or ``pictures``: what the chooser asks for.
            action: text of a button at the right that opens the chooser, "" for none.
            filled: surface colour inside.
            parent: widget.
        """
        super().__init__(parent)
        self.setProperty("role", "drop")
        self.setProperty("filled", "true" if filled else "false")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(f"{title}. {hint}" if hint else title)
        self.choose: Callable[[], list[str]] = lambda: (
            choose_folder(self) if takes == "folder" else choose_pictures(self)
        )
        self.area = DropArea(self)
        self.area.dropped.connect(self.dropped)
        self.area.image_dropped.connect(self.image_dropped)
        self.area.over.connect(self._over)
        self.body = QVBoxLayout(self)
        self.body.setContentsMargins(16, 12, 16, 12)
        if title:
            row = QHBoxLayout()
            row.setSpacing(12)
            row.addWidget(IconLabel(icon, 20, "secondary"))
            words = QVBoxLayout()
            words.setSpacing(0)
            words.addWidget(label(title, "name"))
            if hint:
                words.addWidget(label(hint, "secondary", wrap=True))
            row.addLayout(words, 1)
            if action:
                press = button(action, "secondary", size="small")
                press.clicked.connect(self.open_chooser)
                row.addWidget(press)
            self.body.addLayout(row)

    def open_chooser(self) -> None:
        """Ask for folders or pictures; what is chosen counts as dropped."""
        found = self.choose()
        if found:
            self.dropped.emit(found)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The dashed edge: a style sheet's dashes are dots."""
        super().paintEvent(event)
        t = theme.tokens()
        over = self.property("over") == "true"
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(QColor(t.accent if over else t.border_strong), 2 if over else 1)
        if not over:
            pen.setDashPattern([4, 3])
        painter.setPen(pen)
        inset = pen.widthF() / 2
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(inset, inset, -inset, -inset), 8, 8)

    def _over(self, over: bool) -> None:
        set_property(self, "over", "true" if over else "false")

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click opens the chooser."""
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.open_chooser()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter or Space opens the chooser."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.open_chooser()
        else:
            super().keyPressEvent(event)


def copy_files(images: Sequence[ImageRef]) -> bool:
    """Put pictures on the clipboard as files; whether any of them has a file of its own."""
    files = [QUrl.fromLocalFile(i.path) for i in images if not i.member]
    if files:
        mime = QMimeData()
        mime.setUrls(files)
        QApplication.clipboard().setMimeData(mime)
    return bool(files)


def let_clipboard_go() -> None:
    """Empty the clipboard where it ends with this process; to be called before Python does.

    Platforms without a clipboard of the system have one of Qt's own, which is destroyed after Python has ended, and a
    ``QMimeData`` that Python made with it: that crashes. Others keep what was copied.
    """
    if QApplication.platformName() in _OWN_CLIPBOARD:
        QApplication.clipboard().clear()
