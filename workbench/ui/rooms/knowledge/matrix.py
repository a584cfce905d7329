"""The similarity matrix: cells in the accent colour, the more the stronger; heads stay while one scrolls."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPoint, QPointF, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtGui import QResizeEvent as Resize
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QToolTip, QWidget

from workbench.core.paths import display
from workbench.services.overview import Atlas
from workbench.ui import theme
from workbench.ui.rooms.knowledge.faces import MIDDLE, draw_face
from workbench.ui.widgets.thumbs import Thumbs
from workbench.ui.widgets.words import plain

CELL_WIDE, CELL_HIGH = 42, 30
_GAP = 2
_FACE = 22
_HEAD = 28
_NAMES = 104
_STEPS = {
    Qt.Key.Key_Left: (0, -1),
    Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Up: (-1, 0),
    Qt.Key.Key_Down: (1, 0),
}


class SimilarityMatrix(QAbstractScrollArea):
    """Rows and columns are tasks. Arrow keys move a cell cursor; the row of the marked task has an edge.

    Signals:
        chosen(str): key of the task of a row, by the person.
    """

    chosen = Signal(str)

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._thumbs = thumbs
        self.atlas = Atlas()
        self._chosen = ""
        self.cursor_cell = (0, 0)
        self._names = _NAMES
        self._by_keyboard = False
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setProperty("focusRing", False)
        self.viewport().setMouseTracking(True)
        self.viewport().setAutoFillBackground(False)
        self.setCornerWidget(QWidget())
        thumbs.ready.connect(lambda _: self.viewport().update())
        self._say()

    def show_atlas(self, atlas: Atlas) -> None:
        """Show other tasks."""
        self.atlas = atlas
        n = len(atlas.tasks)
        row, column = self.cursor_cell
        self.cursor_cell = (min(row, max(0, n - 1)), min(column, max(0, n - 1)))
        self._fit()
        self._say()

    def choose(self, key: str) -> None:
        """Mark a task's row without a signal, and bring it into sight."""
        self._chosen = key
        at = self._row_of(key)
        if at >= 0:
            if self.cursor_cell[0] != at:
                self.cursor_cell = (at, self.cursor_cell[1])
            self._reveal(at, None)
        self._say()

    def set_narrow(self, *, narrow: bool) -> None:
        """Less room for the names."""
        self._names = 76 if narrow else _NAMES
        self._fit()

    def _row_of(self, key: str) -> int:
        return next((i for i, t in enumerate(self.atlas.tasks) if t.key == key), -1)

    def _say(self) -> None:
        n = len(self.atlas.tasks)
        words = self.tr("Similarity of {n} tasks, 0 unrelated, 1 the same.").format(n=n)
        if n:
            words += f" {self.cell_words(*self.cursor_cell)}"
        self.setAccessibleName(words)
        self.viewport().update()

    def cell_words(self, row: int, column: int) -> str:
        """A cell in words."""
        tasks = self.atlas.tasks
        one, other = display(tasks[row].name), display(tasks[column].name)
        if row == column:
            return self.tr("{task} with itself").format(task=one)
        return self.tr("{one} and {other}: {s}").format(
            one=one, other=other, s=f"{self.atlas.similar[row][column]:.2f}"
        )

    # ---- places ----------------------------------------------------------------------------------
    @property
    def _left(self) -> int:
        return self._names + _FACE + 14

    def cell(self, row: int, column: int) -> QRect:
        """Where a cell is drawn now."""
        x = self._left + column * CELL_WIDE - self.horizontalScrollBar().value()
        y = _HEAD + row * CELL_HIGH - self.verticalScrollBar().value()
        return QRect(x, y, CELL_WIDE, CELL_HIGH)

    def sizeHint(self) -> QSize:
        """All of it, for a few tasks."""
        n = len(self.atlas.tasks)
        return QSize(self._left + n * CELL_WIDE + 4, _HEAD + n * CELL_HIGH + 4)

    def resizeEvent(self, event: Resize) -> None:
        """More or less room."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        n = len(self.atlas.tasks)
        wide, high = self.viewport().width() - self._left - 2, self.viewport().height() - _HEAD - 2
        for bar, whole, room, step in (
            (self.horizontalScrollBar(), n * CELL_WIDE, wide, CELL_WIDE),
            (self.verticalScrollBar(), n * CELL_HIGH, high, CELL_HIGH),
        ):
            bar.setRange(0, max(0, whole - room))
            bar.setPageStep(max(step, room))
            bar.setSingleStep(step)
        self.viewport().update()

    def _reveal(self, row: int, column: int | None) -> None:
        places = [(self.verticalScrollBar(), row * CELL_HIGH, CELL_HIGH)]
        if column is not None:
            places.append((self.horizontalScrollBar(), column * CELL_WIDE, CELL_WIDE))
        for bar, start, size in places:
            room = bar.pageStep()
            if start < bar.value():
                bar.setValue(start)
            elif start + size > bar.value() + room:
                bar.setValue(start + size - room)

    # ---- painting --------------------------------------------------------------------------------
    def paintEvent(self, _event: QPaintEvent) -> None:
        """Cells, heads over them, the edge of the marked row."""
        n = len(self.atlas.tasks)
        if not n:
            return
        p = QPainter(self.viewport())
        p.setRenderHint(QPainter.RenderHint.Antialiasing)
        area = QRect(self._left, _HEAD, self.viewport().width() - self._left, self.viewport().height() - _HEAD)
        rows = [
            i for i in range(n) if self.cell(i, 0).bottom() >= area.top() and self.cell(i, 0).top() <= area.bottom()
        ]
        columns = [
            j for j in range(n) if self.cell(0, j).right() >= area.left() and self.cell(0, j).left() <= area.right()
        ]
        p.save()
        p.setClipRect(area.adjusted(-2, -2, 0, 2))
        self._cells(p, rows, columns)
        self._edges(p, columns)
        p.restore()
        p.save()
        p.setClipRect(QRect(area.left(), 0, area.width(), _HEAD))
        for j in columns:
            box = self.cell(0, j)
            face = QRectF(box.center().x() - _FACE / 2 + 0.5, (_HEAD - _FACE) / 2 - 2, _FACE, _FACE)
            draw_face(p, face, self.atlas.tasks[j], j, self._thumbs, 4)
        p.restore()
        p.setClipRect(QRect(0, area.top(), area.left(), area.height()))
        for i in rows:
            self._head(p, i)

    def _cells(self, p: QPainter, rows: list[int], columns: list[int]) -> None:
        t = theme.tokens()
        p.setFont(theme.font("caption"))
        for i in rows:
            for j in columns:
                box = QRectF(self.cell(i, j)).adjusted(_GAP / 2, _GAP / 2, -_GAP / 2, -_GAP / 2)
                p.setPen(Qt.PenStyle.NoPen)
                if i == j:
                    p.setBrush(QColor(t.hairline))
                    p.drawRoundedRect(box, 3, 3)
                    continue
                value = self.atlas.similar[i][j]
                fill = QColor(t.accent)
                fill.setAlphaF(0.05 + 0.55 * value)
                p.setBrush(fill)
                p.drawRoundedRect(box, 3, 3)
                p.setPen(QColor(t.text))
                p.drawText(box, Qt.AlignmentFlag.AlignCenter, f"{value:.2f}")

    def _edges(self, p: QPainter, columns: list[int]) -> None:
        t, at = theme.tokens(), self._row_of(self._chosen)
        p.setBrush(Qt.BrushStyle.NoBrush)
        if at >= 0 and columns:
            whole = QRectF(self.cell(at, 0).united(self.cell(at, len(self.atlas.tasks) - 1)))
            p.setPen(QPen(QColor(t.accent), 1.5))
            p.drawRoundedRect(whole.adjusted(-0.5, -0.5, 0.5, 0.5), 5, 5)
        if self.hasFocus() and self._by_keyboard:
            p.setPen(QPen(QColor(t.accent), 2))
            p.drawRoundedRect(QRectF(self.cell(*self.cursor_cell)).adjusted(1, 1, -1, -1), 4, 4)

    def _head(self, p: QPainter, i: int) -> None:
        t, box = theme.tokens(), self.cell(i, 0)
        here = self.atlas.tasks[i].key == self._chosen
        y = box.center().y() - _FACE / 2 + 0.5
        draw_face(p, QRectF(self._left - _FACE - 8, y, _FACE, _FACE), self.atlas.tasks[i], i, self._thumbs, 4)
        p.setFont(theme.font("strong" if here else "body"))
        p.setPen(QColor(t.text if here else t.secondary))
        name = p.fontMetrics().elidedText(display(self.atlas.tasks[i].name), Qt.TextElideMode.ElideRight, self._names)
        p.drawText(QRectF(0, box.top(), self._names, box.height()), Qt.AlignmentFlag.AlignRight | MIDDLE, name)

    # ---- hand and keys ---------------------------------------------------------------------------
    def _at(self, place: QPointF) -> tuple[int, int]:
        """Row and column under a place; column -1 over the names, row -1 over nothing."""
        n = len(self.atlas.tasks)
        row = int((place.y() - _HEAD + self.verticalScrollBar().value()) // CELL_HIGH)
        column = int((place.x() - self._left + self.horizontalScrollBar().value()) // CELL_WIDE)
        if place.y() < _HEAD or not 0 <= row < n:
            return -1, -1
        return row, column if place.x() >= self._left and 0 <= column < n else -1

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A click marks the task of the row."""
        row, column = self._at(event.position())
        self._by_keyboard = False
        if event.button() is Qt.MouseButton.LeftButton and row >= 0:
            self._go(row, max(column, 0))

    def _go(self, row: int, column: int) -> None:
        self.cursor_cell = (row, column)
        self._reveal(row, column)
        key = self.atlas.tasks[row].key
        if key != self._chosen:
            self._chosen = key
            self.chosen.emit(key)
        self._say()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows, Home, End."""
        self._by_keyboard = True
        key, n = Qt.Key(event.key()), len(self.atlas.tasks)
        row, column = self.cursor_cell
        if n and key in _STEPS:
            down, right = _STEPS[key]
            self._go(min(max(row + down, 0), n - 1), min(max(column + right, 0), n - 1))
        elif n and key in (Qt.Key.Key_Home, Qt.Key.Key_End):
            self._go(row, 0 if key == Qt.Key.Key_Home else n - 1)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Coming by Tab shows the cursor."""
        super().focusInEvent(event)
        self._by_keyboard = event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
        self.viewport().update()

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """The cursor goes."""
        super().focusOutEvent(event)
        self.viewport().update()

    def viewportEvent(self, event: QEvent) -> bool:
        """The names of both tasks of the cell under the pointer."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            row, column = self._at(QPointF(QPoint(event.pos())))
            said = (
                "" if row < 0 else display(self.atlas.tasks[row].name) if column < 0 else self.cell_words(row, column)
            )
            QToolTip.showText(event.globalPos(), plain(said) if said else "", self)
            return True
        return super().viewportEvent(event)
