"""Where the new task sits among the tasks that the chosen knowledge was trained on."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetricsF, QHelpEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from workbench.services.teach import MapPoint
from workbench.ui import theme
from workbench.ui.widgets.task_marks import draw_taught, name_font
from workbench.ui.widgets.words import plain

_NEAREST = 2
_NAMED = 4
_SIDE = 8


class TaskMap(QWidget):
    """Points of the plane; near points resemble each other. The nearest are tied to this task by lines."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._points: tuple[MapPoint, ...] = ()
        self.setFixedHeight(104)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_points(self, points: tuple[MapPoint, ...]) -> None:
        """Show a map; the text summary names the nearest tasks."""
        self._points = points
        near = ", ".join(f"{p.name} {p.similarity:.2f}" for p in self._sources()[:3])
        self.setAccessibleName(self.tr("Map of tasks. Most similar: {names}").format(names=near) if near else "")
        self.update()

    def _sources(self) -> list[MapPoint]:
        """The sources, the most similar first."""
        return sorted((p for p in self._points if p.kind != "this"), key=lambda p: -p.similarity)

    def _inside(self) -> QRectF:
        return QRectF(self.rect()).adjusted(20, 30, -20, -30)

    def _at(self, point: MapPoint) -> QPointF:
        area = self._inside()
        return QPointF(area.left() + area.width() * point.x, area.top() + area.height() * point.y)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Grid, lines, markers, and as many names as fit without covering one another."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.setPen(QPen(QColor(t.border), 1))
        painter.setBrush(QColor(t.plot_background))
        painter.drawRoundedRect(frame, 6, 6)
        painter.setPen(QPen(QColor(t.grid), 1))
        for k in (1, 2, 3):
            x = round(self.width() * k / 4) + 0.5
            painter.drawLine(QPointF(x, 1), QPointF(x, self.height() - 1))
        for k in (1, 2):
            y = round(self.height() * k / 3) + 0.5
            painter.drawLine(QPointF(1, y), QPointF(self.width() - 1, y))
        this = next((p for p in self._points if p.kind == "this"), None)
        if this is None:
            return
        here, sources = self._at(this), self._sources()
        for rank, point in enumerate(sources[:_NEAREST]):
            painter.setPen(QPen(QColor(t.accent), 2 if rank == 0 else 1))
            painter.drawLine(here, self._at(point))
        order = {p.name: i for i, p in enumerate(p for p in self._points if p.kind != "this")}
        for point in sources:
            c = self._at(point)
            theme.draw_marker(painter, QRectF(c.x() - _SIDE / 2, c.y() - _SIDE / 2, _SIDE, _SIDE), order[point.name])
        draw_taught(painter, here, 9)
        for place, text, accent in self.names():
            painter.setFont(name_font(strong=accent))
            painter.setPen(QColor(t.accent if accent else t.secondary))
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, text)

    def names(self) -> list[tuple[QRectF, str, bool]]:
        """Where names stand, and whether it is this task's, which always has one; others only where there is room."""
        this = next((p for p in self._points if p.kind == "this"), None)
        if this is None:
            return []
        here, sources = self._at(this), self._sources()
        taken = [QRectF(here.x() - 11, here.y() - 11, 22, 22)]
        taken += [QRectF(self._at(p).x() - 5, self._at(p).y() - 5, 10, 10) for p in sources]
        found = []
        wanted = [(here, 12.0, self.tr("this task"), True)]
        wanted += [(self._at(p), 6.0, p.name, False) for p in sources[:_NAMED]]
        for at, gap, name, accent in wanted:
            metrics = QFontMetricsF(name_font(strong=accent))
            text = metrics.elidedText(name, Qt.TextElideMode.ElideRight, 110)
            places = self._places(at, gap, metrics.horizontalAdvance(text) + 2)
            if not places:
                continue  # a frame narrower than the name
            best = min(places, key=lambda place: sum(place.intersects(other) for other in taken))
            if accent or not any(best.intersects(other) for other in taken):
                taken.append(best)
                found.append((best, text, accent))
        return found

    def _places(self, at: QPointF, gap: float, wide: float) -> list[QRectF]:
        """Below, above, beside and at the corners of a point, within the frame; the first are the best."""
        high, inside = 16.0, QRectF(self.rect()).adjusted(4, 2, -4, -2)
        middle, right, left = at.x() - wide / 2, at.x() + gap + 4, at.x() - gap - 4 - wide
        below, level, above = at.y() + gap, at.y() - high / 2, at.y() - gap - high
        corners = [(x, y) for y in (below, above) for x in (at.x(), at.x() - wide)]
        places = []
        for x, y in [(middle, below), (middle, above), (right, level), (left, level), *corners]:
            moved = QRectF(min(max(x, inside.left()), inside.right() - wide), y, wide, high)
            if inside.contains(moved):
                places.append(moved)
        return places

    def event(self, event: QEvent) -> bool:
        """The name and the similarity of a point."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            where = QPointF(event.pos())
            near = [p for p in self._sources() if (self._at(p) - where).manhattanLength() < 12]
            said = "\n".join(
                self.tr("{name}: similarity {s}").format(name=p.name, s=f"{p.similarity:.2f}") for p in near
            )
            QToolTip.showText(event.globalPos(), plain(said) if said else "", self)
            return True
        return super().event(event)
