"""The map of tasks: every source of every entry, and the task of the Teach room with lines to the nearest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QFontMetricsF,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from workbench.core.paths import display
from workbench.core.values import EntryId
from workbench.services.overview import Atlas, KnownTask
from workbench.ui import theme
from workbench.ui.rooms.knowledge.faces import draw_face
from workbench.ui.rooms.knowledge.rows import counted
from workbench.ui.rooms.knowledge.spread import evened, spread, tied, towards
from workbench.ui.widgets.task_marks import draw_taught, name_font
from workbench.ui.widgets.thumbs import Thumbs
from workbench.ui.widgets.words import plain

_NODE, _CHOSEN = 32, 44
_GRID = 88
_LINES = 2
"""Lines that lead from the taught task to the most similar ones."""
_ALIKE = 0.3
"""Similarity from which two known tasks may be tied by a line."""
_MANY, _VERY_MANY = 26, 70
_ARROWS = {Qt.Key.Key_Left: (-1, 0), Qt.Key.Key_Right: (1, 0), Qt.Key.Key_Up: (0, -1), Qt.Key.Key_Down: (0, 1)}


class TaskMap(QWidget):
    """The map. Arrow keys go to the next task in their direction, Home to the first.

    Signals:
        chosen(str): key of a task, by the person.
    """

    chosen = Signal(str)

    def __init__(self, thumbs: Thumbs, entry_name: Callable[[EntryId], str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._thumbs, self._entry_name = thumbs, entry_name
        self.atlas = Atlas()
        self._points: list[QPointF] = []
        self._chosen, self._entry = "", ""
        self._hovered = -1
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(240, 140)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        thumbs.ready.connect(self._ready)
        self._say()

    # ---- what is shown ---------------------------------------------------------------------------
    def show_atlas(self, atlas: Atlas) -> None:
        """Show other tasks; the one that was chosen stays so where it is still there."""
        self.atlas = atlas
        if self._index() < 0:
            self._chosen = ""
        self._hovered = -1
        self._place()
        self._say()

    def choose(self, key: str) -> None:
        """Mark a task without a signal."""
        self._chosen = key
        self._say()

    def set_entry(self, entry: str) -> None:
        """The entry whose sources stand out."""
        self._entry = entry
        self.update()

    def current(self) -> KnownTask | None:
        """The marked task."""
        at = self._index()
        return self.atlas.tasks[at] if at >= 0 else None

    def summary(self) -> str:
        """The marked task, or the taught one, in words: what it is, and what it resembles."""
        at, atlas = self._index(), self.atlas
        if at >= 0:
            task = atlas.tasks[at]
            near = [f"{display(atlas.tasks[j].name)} {s:.2f}" for j, s in atlas.nearest(at)]
            words = f"{display(task.name)}: {counted(task.classes, 'class', 'classes')}, "
            words += counted(task.images, "image")
            return words + (self.tr("; most similar: {names}").format(names=", ".join(near)) if near else "")
        if atlas.taught is not None and atlas.tasks:
            near = [f"{display(atlas.tasks[j].name)} {s:.2f}" for j, s in self._near_taught(3)]
            return self.tr("The task in Teach; most similar: {names}").format(names=", ".join(near))
        return self.tr("{n}; choose one to see what it resembles").format(n=counted(len(atlas.tasks), "task"))

    def _near_taught(self, most: int) -> list[tuple[int, float]]:
        taught = self.atlas.taught
        found = [] if taught is None else list(enumerate(taught.similar))
        return sorted(found, key=lambda pair: -pair[1])[:most]

    def _index(self) -> int:
        return next((i for i, t in enumerate(self.atlas.tasks) if t.key == self._chosen), -1)

    def _say(self) -> None:
        self.setAccessibleName(self.tr("Map of tasks. {summary}").format(summary=self.summary()))
        self.update()

    def _ready(self, _sha256: str) -> None:
        self.update()

    # ---- places ----------------------------------------------------------------------------------
    def _side(self) -> int:
        n = len(self.atlas.tasks)
        return _NODE if n <= _MANY else 22 if n <= _VERY_MANY else 14

    def _place(self) -> None:
        side = self._side()
        area = QRectF(self.rect()).adjusted(44, 34, -44, -44)
        tasks, taught = self.atlas.tasks, self.atlas.taught
        places = [(t.x, t.y) for t in tasks] + ([(taught.x, taught.y)] if taught else [])
        most = (area.width() * area.height() * 0.6 / max(1, len(places))) ** 0.5
        cell = (78.0, side + 36.0) if side == _NODE else (max(side + 14.0, min(most, 64.0)),) * 2
        found = spread(evened(places), area.width(), area.height(), cell)
        self._points = [QPointF(area.left() + x, area.top() + y) for x, y in found]
        self.update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """More or less room."""
        super().resizeEvent(event)
        self._place()

    def point_of(self, key: str) -> QPoint:
        """Where a task is drawn."""
        at = next(i for i, t in enumerate(self.atlas.tasks) if t.key == key)
        return self._points[at].toPoint()

    def _box(self, i: int) -> QRectF:
        side = self._side()
        if i == self._index():
            side = max(side + 8, _CHOSEN if side == _NODE else 0)
        p = self._points[i]
        return QRectF(p.x() - side / 2, p.y() - side / 2, side, side)

    def _under(self, at: QPointF) -> int:
        found = [i for i in range(len(self.atlas.tasks)) if self._box(i).adjusted(-4, -4, 4, 4).contains(at)]
        return found[-1] if found else -1

    # ---- painting --------------------------------------------------------------------------------
    def paintEvent(self, _event: QPaintEvent) -> None:
        """Grid, lines, pictures, names."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._grid(painter)
        tasks, at = self.atlas.tasks, self._index()
        if len(self._points) < len(tasks):
            return
        self._lines(painter)
        for i in [*(i for i in range(len(tasks)) if i != at), *([at] if at >= 0 else [])]:
            self._node(painter, i, chosen=i == at)
        if self.atlas.taught is not None:
            draw_taught(painter, self._points[-1], 11)
        self._names(painter)

    def _grid(self, painter: QPainter) -> None:
        painter.setPen(QPen(QColor(theme.tokens().grid), 1))
        for x in range(_GRID, self.width(), _GRID):
            painter.drawLine(QPointF(x + 0.5, 0), QPointF(x + 0.5, self.height()))
        for y in range(_GRID, self.height(), _GRID):
            painter.drawLine(QPointF(0, y + 0.5), QPointF(self.width(), y + 0.5))

    def _lines(self, painter: QPainter) -> None:
        t, atlas = theme.tokens(), self.atlas
        at = self._index()
        for i, j, s in tied(atlas.similar, _ALIKE):
            colour = QColor(t.accent if at in (i, j) else t.border_strong)
            colour.setAlphaF(0.35 + 0.6 * s)
            painter.setPen(QPen(colour, 1.5))
            painter.drawLine(self._points[i], self._points[j])
        for rank, (i, _) in enumerate(self._near_taught(_LINES)):
            painter.setPen(QPen(QColor(t.accent), 3 if rank == 0 else 1))
            painter.drawLine(self._points[-1], self._points[i])

    def _node(self, painter: QPainter, i: int, *, chosen: bool) -> None:
        t, box = theme.tokens(), self._box(i)
        draw_face(painter, box, self.atlas.tasks[i], i, self._thumbs, 6)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        if chosen or i == self._hovered:
            painter.setPen(QPen(QColor(t.accent), 2 if chosen else 1))
            painter.drawRoundedRect(box.adjusted(-1, -1, 1, 1), 7, 7)
        if chosen and self.hasFocus():
            painter.setPen(QPen(QColor(t.accent), 2))
            painter.drawRoundedRect(box.adjusted(-5, -5, 5, 5), 10, 10)

    def _names(self, painter: QPainter) -> None:
        t, at = theme.tokens(), self._index()
        for box, text, i in self.names():
            own = i >= 0 and self._entry in self.atlas.tasks[i].entries
            painter.setFont(name_font(strong=i < 0 or i == at))
            if i < 0:
                painter.setPen(Qt.PenStyle.NoPen)
                painter.setBrush(QColor(t.surface))
                painter.drawRoundedRect(box.adjusted(-2, 0, 2, 0), 4, 4)
            painter.setPen(QColor(t.accent if i < 0 else t.text if own or i == at else t.secondary))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)

    def names(self) -> list[tuple[QRectF, str, int]]:
        """Where names stand, and of which task (-1: the taught one): all that do not cover a picture or another name.

        The marked task, the one under the pointer and the entry's own come first.
        """
        tasks, at = self.atlas.tasks, self._index()
        if len(self._points) < len(tasks):
            return []
        taken = [self._box(i) for i in range(len(tasks))]
        wanted: list[tuple[int, str, QPointF, float]] = []
        if self.atlas.taught is not None:
            here = self._points[-1]
            taken.append(QRectF(here.x() - 12, here.y() - 12, 24, 24))
            named = self.tr("Teach: {classes}").format(classes=", ".join(self.atlas.taught.classes))
            wanted.append((-1, named, here, 12.0))
        order = sorted(
            range(len(tasks)), key=lambda i: (i != at, i != self._hovered, self._entry not in tasks[i].entries, i)
        )
        wanted += [(i, display(tasks[i].name), self._points[i], self._box(i).height() / 2) for i in order]
        found: list[tuple[QRectF, str, int]] = []
        inside = QRectF(self.rect()).adjusted(4, 2, -4, -2)
        for i, name, point, half in wanted:
            metrics = QFontMetricsF(name_font(strong=i < 0 or i == at))
            text = metrics.elidedText(name, Qt.TextElideMode.ElideRight, 190 if i < 0 else 96)
            wide = metrics.horizontalAdvance(text) + 4
            below = QRectF(point.x() - wide / 2, point.y() + half + 3, wide, 18)
            above = QRectF(point.x() - wide / 2, point.y() - half - 21, wide, 18)
            aside = [QRectF(x, point.y() - 9, wide, 18) for x in (point.x() + half + 5, point.x() - half - 5 - wide)]
            last = QRectF(above)
            for box in (above, below, *aside, last) if i < 0 else (below, above):
                box.moveLeft(min(max(box.left(), inside.left()), inside.right() - wide))
                free = inside.contains(box) and not any(box.intersects(other) for other in taken)
                if free or (i < 0 and box is last):  # the taught task always has its name, on a plate if need be
                    box.moveTop(min(max(box.top(), inside.top()), inside.bottom() - 18))
                    taken.append(box)
                    found.append((box, text, i))
                    break
        return found

    # ---- hand and keys ---------------------------------------------------------------------------
    def _choose(self, i: int) -> None:
        key = self.atlas.tasks[i].key
        if key != self._chosen:
            self.choose(key)
            self.chosen.emit(key)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click marks a task."""
        i = self._under(event.position())
        if event.button() is Qt.MouseButton.LeftButton and i >= 0:
            self._choose(i)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """The task under the pointer has an edge, and its name."""
        self._hover(self._under(event.position()))

    def leaveEvent(self, event: QEvent) -> None:
        """None is under the pointer."""
        super().leaveEvent(event)
        self._hover(-1)

    def _hover(self, i: int) -> None:
        if i != self._hovered:
            self._hovered = i
            self.setCursor(Qt.CursorShape.PointingHandCursor if i >= 0 else Qt.CursorShape.ArrowCursor)
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows, Home, End."""
        key, n, at = Qt.Key(event.key()), len(self.atlas.tasks), self._index()
        if not n or (key not in _ARROWS and key not in (Qt.Key.Key_Home, Qt.Key.Key_End)):
            super().keyPressEvent(event)
        elif key in _ARROWS and at >= 0:
            points = [(p.x(), p.y()) for p in self._points[:n]]
            self._choose(towards(points, at, _ARROWS[key]))
        else:
            self._choose(n - 1 if key == Qt.Key.Key_End else 0)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Coming by Tab marks a task."""
        super().focusInEvent(event)
        tab = event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
        if tab and self._index() < 0 and self.atlas.tasks:
            self._choose(0)
        self.update()

    def focus_rect(self) -> QRect:
        """Where the focus ring goes: round the whole where nothing is marked; a marked task has its own."""
        at = self._index()
        return self._box(at).toAlignedRect() if at >= 0 and self._points else self.rect().adjusted(4, 4, -4, -4)

    def event(self, event: QEvent) -> bool:
        """What is known of the task under the pointer."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            i = self._under(QPointF(event.pos()))
            QToolTip.showText(event.globalPos(), plain(self.tip(i)) if i >= 0 else "", self)
            return True
        return super().event(event)

    def tip(self, i: int) -> str:
        """A task in a few lines."""
        task, taught = self.atlas.tasks[i], self.atlas.taught
        name = partial(map, self._entry_name)
        lines = [
            display(task.name),
            f"{counted(task.classes, 'class', 'classes')}, {counted(task.images, 'image')}",
            self.tr("Learnt by: {names}").format(names=", ".join(filter(None, name(task.entries)))),
        ]
        if taught is not None:
            lines.append(self.tr("Similarity to the task in Teach: {s}").format(s=f"{taught.similar[i]:.2f}"))
        return "\n".join(lines)
