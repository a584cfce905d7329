"""The table of training runs: a model of frozen rows and a delegate that paints the eye, the whisker and the state."""

from __future__ import annotations

import enum
import html
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QRect, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFocusEvent, QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QResizeEvent
from PySide6.QtWidgets import (
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from workbench.ui import icons, theme
from workbench.ui.rooms.train.rows import RunRow, time_words
from workbench.ui.widgets.figures import draw_whisker
from workbench.ui.widgets.row_table import RowTable, draw_ring, draw_words, header_font

Index = QModelIndex | QPersistentModelIndex
_EYE = 16
_ACCURACY, _WIDER = 230, 80


class Column(enum.IntEnum):
    """Columns of the table."""

    RUN = 0
    ALGORITHM = 1
    BACKBONE = 2
    ACCURACY = 3
    TIME = 4
    STATE = 5


STATES: dict[str, tuple[str, str, str]] = {
    "running": ("Running", "train", "accent"),
    "paused": ("Paused", "pause", "accent"),
    "done": ("Done", "check-circle", "good"),
    "stopped": ("Stopped, best kept", "stop", "secondary"),
    "failed": ("Failed", "cross-circle", "bad"),
    "interrupted": ("Interrupted", "warn", "warn"),
}


class RunsModel(QAbstractTableModel):
    """Rows of the table, which of them are drawn over the plots, and which one goes on."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: tuple[RunRow, ...] = ()
        self.shown: frozenset[str] = frozenset()
        self.live = ""

    def set_rows(self, rows: Sequence[RunRow]) -> None:
        """Replace all rows; those that only changed keep their selection."""
        rows = tuple(rows)
        if [r.id for r in rows] == [r.id for r in self.rows]:
            for number, (old, new) in enumerate(zip(self.rows, rows, strict=True)):
                if old != new:
                    self.rows = (*self.rows[:number], new, *self.rows[number + 1 :])
                    self.dataChanged.emit(self.index(number, 0), self.index(number, len(Column) - 1))
            return
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def set_shown(self, shown: frozenset[str]) -> None:
        """Runs whose curves are drawn."""
        self.shown = shown
        if self.rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.rows) - 1, 0))

    def scale(self) -> tuple[float, float]:
        """Smallest and largest end of all intervals, for the whiskers' scale."""
        known = [r for r in self.rows if r.accuracy is not None]
        low, high = min((r.low for r in known), default=0.0), max((r.high for r in known), default=1.0)
        pad = max(0.02, (high - low) * 0.15)
        return max(0.0, low - pad), min(1.0, high + pad)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Number of runs."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Number of columns."""
        return 0 if parent.isValid() else len(Column)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Titles of the columns."""
        if orientation is not Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if section == Column.TIME else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        counts = {r.episodes for r in self.rows if r.accuracy is not None and r.episodes}
        accuracy = self.tr("Validation accuracy")
        if len(counts) == 1:
            accuracy = self.tr("Validation accuracy, {n} episodes").format(n=f"{counts.pop():,}")
        return (self.tr("Run"), self.tr("Algorithm"), self.tr("Backbone"), accuracy, self.tr("Time"), self.tr("State"))[
            section
        ]

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Words of a cell; the tooltip says more where there is more."""
        row = self.rows[index.row()]
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return self.words(row, Column(index.column()))
        if role == Qt.ItemDataRole.ToolTipRole:
            if index.column() == Column.RUN:
                eye = self.tr("The eye shows or hides its curves in the plots")
                return f"<span>{html.escape(row.name)}<br>{html.escape(eye)}</span>"  # a name is no markup
            if index.column() in (Column.ALGORITHM, Column.BACKBONE):
                return self.words(row, Column(index.column()))
            return row.message if index.column() == Column.STATE else None
        return None

    def words(self, row: RunRow, column: Column) -> str:
        """Text of a cell."""
        if column is Column.ACCURACY:
            return "" if row.accuracy is None else f"{row.accuracy:.3f} {row.interval}".rstrip()
        if column is Column.TIME:
            return time_words(row.seconds) if row.seconds else ""
        if column is Column.STATE:
            return self.tr(STATES[row.state][0])
        return (row.name, row.algorithm, row.backbone)[column]


class RunDelegate(QStyledItemDelegate):
    """Paints a cell of the runs table."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Background of the row, then the cell."""
        t = theme.tokens()
        view, model = option.widget, index.model()
        if not isinstance(model, RunsModel) or not isinstance(view, RunsTable):
            return
        row = model.rows[index.row()]
        box: QRect = option.rect
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        painter.save()
        if selected or index.row() == view.hovered:
            painter.fillRect(box, QColor(t.accent_soft if selected else t.hover))
        painter.setPen(QColor(t.hairline))
        painter.drawLine(box.bottomLeft(), box.bottomRight())
        column = Column(index.column())
        inner = box.adjusted(16 if column is Column.RUN else 8, 0, -8, -1)
        if column is Column.RUN:
            self._run(painter, inner, model, row)
        elif column is Column.ACCURACY:
            self._accuracy(painter, inner, model, row, selected)
        elif column is Column.STATE:
            self._state(painter, inner, row, model)
        else:
            strong = column is Column.ALGORITHM
            painter.setFont(theme.font("body"))
            painter.setPen(QColor(t.text if strong else t.secondary))
            side = Qt.AlignmentFlag.AlignRight if column is Column.TIME else Qt.AlignmentFlag.AlignLeft
            draw_words(painter, inner, model.words(row, column), side)
        if view.ringed(index.row()):
            draw_ring(painter, box, first=column is Column.RUN, last=column is Column.STATE)
        painter.restore()

    def _run(self, p: QPainter, box: QRect, model: RunsModel, row: RunRow) -> None:
        t = theme.tokens()
        on = row.id in model.shown or row.id == model.live
        eye = QRectF(box.left(), box.center().y() - _EYE / 2 + 0.5, _EYE, _EYE)
        icons.draw(p, eye, "eye" if on else "eye-off", t.secondary if on else t.disabled)
        p.setFont(theme.font("name"))
        p.setPen(QColor(t.text))
        draw_words(p, box.adjusted(_EYE + 8, 0, 0, 0), row.name)

    def _accuracy(self, p: QPainter, box: QRect, model: RunsModel, row: RunRow, selected: bool) -> None:
        t = theme.tokens()
        if row.accuracy is None:
            p.setPen(QColor(t.secondary))
            p.setFont(theme.font("caption"))
            draw_words(p, box, self.tr("none yet") if row.state in ("running", "paused") else "–")
            return
        figure = f"{row.accuracy:.3f}"
        interval = row.interval
        strong, plain = theme.font("name"), theme.font("body")
        width = QFontMetrics(strong).horizontalAdvance(figure) + QFontMetrics(plain).horizontalAdvance(interval) + 5
        left = max(box.left(), min(box.left() + 128, box.right() - width))
        if left - box.left() >= 64:
            track = QRectF(box.left() + 6, box.top(), left - box.left() - 22, box.height())
            draw_whisker(
                p, track, row.accuracy, row.low, row.high, *model.scale(), "accent" if selected else "secondary"
            )
        p.setFont(strong)
        p.setPen(QColor(t.text))
        p.drawText(QRect(left, box.top(), width, box.height()), Qt.AlignmentFlag.AlignVCenter, figure)
        p.setFont(plain)
        p.setPen(QColor(t.secondary))
        p.drawText(
            QRect(left, box.top(), width, box.height()),
            Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
            interval,
        )

    def _state(self, p: QPainter, box: QRect, row: RunRow, model: RunsModel) -> None:
        t = theme.tokens()
        _text, name, tint = STATES[row.state]
        colour = str(getattr(t, tint))
        icons.draw(p, QRectF(box.left(), box.center().y() - 7.5, 16, 16), name, colour)
        p.setFont(theme.font("body"))
        p.setPen(QColor(colour))
        draw_words(p, box.adjusted(21, 0, 0, 0), model.words(row, Column.STATE))


class _Header(QHeaderView):
    """Column titles in line with the cells: the first one is 16 px from the edge."""

    def paintSection(self, p: QPainter, rect: QRect, logical: int) -> None:
        model = self.model()
        side = model.headerData(logical, Qt.Orientation.Horizontal, Qt.ItemDataRole.TextAlignmentRole)
        text = str(model.headerData(logical, Qt.Orientation.Horizontal))
        font = header_font()
        inner = rect.adjusted(16 if logical == Column.RUN else 8, 0, -8, 0)
        p.save()
        p.setFont(font)
        p.setPen(QColor(theme.tokens().secondary))
        p.drawText(inner, side, QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideRight, inner.width()))
        p.setPen(QColor(theme.tokens().hairline))
        p.drawLine(rect.bottomLeft(), rect.bottomRight())
        p.restore()


class RunsTable(RowTable):
    """The table.

    Signals:
        eye_clicked(str): show or hide a run's curves.
    """

    eye_clicked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.runs = RunsModel(self)
        self.setModel(self.runs)
        self.setItemDelegate(RunDelegate(self))
        self.setAccessibleName(self.tr("Training runs"))
        self.set_header(_Header(Qt.Orientation.Horizontal, self), clickable=False)

    def current(self) -> RunRow | None:
        """The row of the cursor."""
        number = self.currentIndex().row()
        return self.runs.rows[number] if 0 <= number < len(self.runs.rows) else None

    def reveal(self, run: str) -> bool:
        """Go to a run; whether it is in the table."""
        at = next((i for i, row in enumerate(self.runs.rows) if row.id == run), -1)
        if at >= 0:
            self.setCurrentIndex(self.runs.index(at, 0))
            self.setFocus()
        return at >= 0

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Columns share the width; below 620 px the backbone and then the time go."""
        super().resizeEvent(event)
        width = self.viewport().width()
        self.setColumnHidden(Column.BACKBONE, width < 640)
        self.setColumnHidden(Column.TIME, width < 540)
        fixed = {Column.RUN: 96, Column.ALGORITHM: 88, Column.TIME: 72, Column.STATE: 166}
        if width >= 640:
            fixed[Column.BACKBONE] = 94
        if width < 540:
            del fixed[Column.TIME]
        extra = max(0, width - sum(fixed.values()) - _ACCURACY)
        fixed[Column.ALGORITHM] += min(_WIDER, extra)
        fixed[Column.RUN] += max(0, extra - _WIDER) // 3
        for column, size in fixed.items():
            self.setColumnWidth(column, size)
        self.setColumnWidth(Column.ACCURACY, max(150, width - sum(fixed.values())))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """The eye toggles, the rest selects."""
        index = self.indexAt(event.position().toPoint())
        if index.isValid() and index.column() == Column.RUN and event.button() is Qt.MouseButton.LeftButton:
            left = self.visualRect(index).left()
            if event.position().x() < left + 16 + _EYE + 4:
                self.by_keyboard = False
                self.eye_clicked.emit(self.runs.rows[index.row()].id)
                return
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Space is the eye of the current row; arrows move."""
        row = self.current()
        if event.key() == Qt.Key.Key_Space and row is not None:
            self.by_keyboard = True
            self.eye_clicked.emit(row.id)
            return
        super().keyPressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Coming by Tab puts the cursor on a row and shows the ring."""
        super().focusInEvent(event)
        if self.by_keyboard and not self.currentIndex().isValid() and self.runs.rows:
            self.setCurrentIndex(self.runs.index(0, 0))
