"""The current episode: one row per class, its support and its queries with a right or wrong edge and badge."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPainterPath, QPaintEvent, QPen, QPixmap
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from workbench.core.training import EpisodeView
from workbench.ui import icons, theme
from workbench.ui.rooms.train.phases import EPISODES

TILE, PITCH, ROW, TOP = 32, 44, 40, 24
_MOST_SUPPORT, _MOST_QUERIES, _MOST_ROWS = 3, 20, 12


class Gallery(QWidget):
    """Paints an ``EpisodeView``; as many classes and queries as fit, the rest is counted in words."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.view: EpisodeView | None = None
        self.asked = 0
        self.waiting = EPISODES
        self._support: list[list[QPixmap]] = []
        self._queries: list[list[tuple[QPixmap, bool]]] = []
        self.setMinimumSize(300, TOP + 2 * ROW)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setAccessibleName(self.tr("Current episode"))
        self.setAccessibleDescription(self.tr("No episode yet."))

    def sizeHint(self) -> QSize:
        """Five classes."""
        return QSize(448, TOP + 5 * ROW)

    @property
    def right(self) -> int:
        """Queries of the whole episode that were right."""
        if self.view is not None and self.view.right is not None:
            return self.view.right
        return sum(ok for row in self.view.queries for _png, ok in row) if self.view else 0

    @property
    def wrong(self) -> int:
        """Queries of the whole episode that were wrong."""
        if self.view is not None and self.view.wrong is not None:
            return self.view.wrong
        return sum(not ok for row in self.view.queries for _png, ok in row) if self.view else 0

    def show_episode(self, view: EpisodeView | None, asked: int = 0) -> None:
        """Show another episode; ``asked`` is the number of queries per class, of which the view holds some."""
        self.asked = asked
        self.view = view
        self._support, self._queries = [], []
        if view is not None:
            text = self.tr("Episode {n}, drawn from {task}: {right} of {all} queries right.")
            self.setAccessibleDescription(
                text.format(n=f"{view.episode:,}", task=view.task, right=self.right, all=self.right + self.wrong)
            )
            for support, queries in zip(view.support[:_MOST_ROWS], view.queries[:_MOST_ROWS], strict=True):
                self._support.append([_pixmap(png) for png in support[:_MOST_SUPPORT]])
                self._queries.append([(_pixmap(png), ok) for png, ok in queries[:_MOST_QUERIES]])
        else:
            self.setAccessibleDescription(self.tr("No episode yet."))
        self.update()

    def set_waiting(self, words: str) -> None:
        """What stands here while there is no episode to show."""
        self.waiting = words
        if self.view is None:
            self.setAccessibleDescription(f"{words}.")
        self.update()

    def _support_columns(self) -> int:
        return max((len(row) for row in self._support), default=1)

    def _queries_left(self) -> int:
        return 44 + self._support_columns() * (TILE + 6) + 8

    def _shown(self) -> tuple[int, int]:
        classes = max(1, (self.height() - TOP + ROW - TILE - 4) // ROW)
        queries = max(1, (self.width() - self._queries_left() + PITCH - TILE - 4) // PITCH)
        longest = max((len(row) for row in self.view.queries), default=0) if self.view else 0
        return min(classes, len(self._support)), min(queries, longest, _MOST_QUERIES)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Headings, then a row per class."""
        t = theme.tokens()
        p = QPainter(self)
        p.setFont(theme.font("caption"))
        p.setPen(QColor(t.secondary))
        if self.view is None:
            p.setFont(theme.font("body"))
            p.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, self.waiting)
            return
        classes, queries = self._shown()
        left = self._queries_left()
        p.drawText(QRect(32, 0, 80, 20), Qt.AlignmentFlag.AlignVCenter, self.tr("Support"))
        p.drawText(QRect(max(left - 2, 96), 0, 80, 20), Qt.AlignmentFlag.AlignVCenter, self.tr("Query"))
        edge = QRect(left + 60, 0, max(0, self.width() - left - 60), 20)
        words = self.hidden_words()
        if p.fontMetrics().horizontalAdvance(words) > edge.width():
            words = words.partition(", ")[0]
        p.drawText(edge, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, words)
        p.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
        for row in range(classes):
            y = TOP + row * ROW
            theme.draw_marker(p, QRectF(4, y + TILE / 2 - 5, 12, 12), row)
            for column, pixmap in enumerate(self._support[row]):
                _tile(p, QRectF(34 + column * (TILE + 6), y + 1, TILE, TILE), pixmap, QColor(t.border), 1)
            for column, (pixmap, ok) in enumerate(self._queries[row][:queries]):
                box = QRectF(left + column * PITCH, y, TILE + 2, TILE + 2)
                _tile(p, box, pixmap, QColor(t.good if ok else t.bad), 2)
                _badge(p, QPointF(box.right() - 1, box.bottom() - 1), ok)

    def _per_class(self) -> int:
        """Queries of each class: as many as were answered, which may be fewer than asked where pictures are few."""
        view = self.view
        if view is not None and view.ways and view.right is not None and view.wrong is not None:
            return (view.right + view.wrong) // view.ways
        return self.asked

    def hidden_words(self) -> str:
        """What of the episode is not shown, e.g. "8 of 15 shown, 3 of 5 classes", or ""."""
        if self.view is None:
            return ""
        classes, queries = self._shown()
        per_class = max(self._per_class(), *(len(row) for row in self.view.queries), 0)
        parts = []
        if queries < per_class:
            parts.append(self.tr("{n} of {all} shown").format(n=queries, all=per_class))
        ways = max(self.view.ways, len(self.view.names))
        if classes < ways:
            parts.append(self.tr("{n} of {all} classes").format(n=classes, all=ways))
        return ", ".join(parts)

    def _hit(self, x: float, y: float) -> str:
        if self.view is None or y < TOP:
            return ""
        classes, queries = self._shown()
        row = int((y - TOP) // ROW)
        column = int((x - self._queries_left()) // PITCH)
        if row >= classes:
            return ""
        name = self.view.names[row]
        if 0 <= column < min(queries, len(self.view.queries[row])):
            ok = self.view.queries[row][column][1]
            return (self.tr("{name}: right") if ok else self.tr("{name}: taken for another class")).format(name=name)
        return name

    def event(self, event: QEvent) -> bool:
        """The class's name on hover."""
        if event.type() is QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            QToolTip.showText(event.globalPos(), self._hit(event.pos().x(), event.pos().y()), self)
            return True
        return super().event(event)


def _pixmap(png: bytes) -> QPixmap:
    pixmap = QPixmap()
    pixmap.loadFromData(png, "PNG")
    return pixmap


def _tile(p: QPainter, box: QRectF, pixmap: QPixmap, edge: QColor, width: float) -> None:
    path = QPainterPath()
    path.addRoundedRect(box, 4, 4)
    p.save()
    p.setClipPath(path)
    p.drawPixmap(box, pixmap, QRectF(pixmap.rect()))
    p.restore()
    p.setPen(QPen(edge, width))
    p.setBrush(Qt.BrushStyle.NoBrush)
    inset = width / 2
    p.drawRoundedRect(box.adjusted(inset, inset, -inset, -inset), 4, 4)


def _badge(p: QPainter, centre: QPointF, ok: bool) -> None:
    t = theme.tokens()
    p.setPen(QPen(QColor(t.surface), 1))
    p.setBrush(QColor(t.good if ok else t.bad))
    p.drawEllipse(centre, 6, 6)
    sign = QRectF(centre.x() - 4.5, centre.y() - 4.5, 9, 9)
    icons.draw(p, sign, "check" if ok else "cross", t.surface)
