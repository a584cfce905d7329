"""The table of entries: frozen rows, sorted by any column, each with the whisker of its own validation figure."""

from __future__ import annotations

import enum
import html
from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, QRect, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetrics,
    QKeyEvent,
    QPainter,
    QResizeEvent,
)
from PySide6.QtWidgets import (
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from workbench.core.values import EntryId
from workbench.ui import icons, theme
from workbench.ui.rooms.knowledge.faces import MIDDLE
from workbench.ui.rooms.knowledge.rows import SORTS, EntryRow, scale_of, ticks_of
from workbench.ui.widgets.figures import draw_whisker
from workbench.ui.widgets.row_table import RowTable, draw_ring, draw_words, header_font

Index = QModelIndex | QPersistentModelIndex
_SIDE = 10
"""Free room at either end of the whiskers' axis."""
_ROOMY, _NARROW = 760, 660


class Column(enum.IntEnum):
    """Columns of the table."""

    NAME = 0
    ALGORITHM = 1
    BACKBONE = 2
    SOURCES = 3
    WHISKER = 4
    FIGURE = 5
    MADE = 6


KEYS = ("name", "algorithm", "backbone", "sources", "accuracy", "accuracy", "made")
"""What each column is sorted by."""


class EntriesModel(QAbstractTableModel):
    """Rows in the order of ``sorted_by``."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: tuple[EntryRow, ...] = ()
        self.scale = (0.0, 1.0)
        self.sorted_by, self.descending = "made", True

    def set_rows(self, rows: Sequence[EntryRow]) -> None:
        """Replace all rows."""
        self.beginResetModel()
        self.scale = scale_of(rows)
        self.rows = self._in_order(rows)
        self.endResetModel()

    def sort_by(self, key: str) -> None:
        """Sort by a column's key; once more turns the order round. Figures and days begin with the largest."""
        self.descending = not self.descending if key == self.sorted_by else key in ("accuracy", "made")
        self.sorted_by = key
        self.set_rows(self.rows)

    def _in_order(self, rows: Sequence[EntryRow]) -> tuple[EntryRow, ...]:
        found = sorted(rows, key=SORTS[self.sorted_by], reverse=self.descending)
        return tuple(sorted(found, key=lambda r: r.retired))  # what was put away stays last

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Number of entries."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Number of columns."""
        return 0 if parent.isValid() else len(Column)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Titles of the columns."""
        if orientation is not Qt.Orientation.Horizontal:
            return None
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        return (
            self.tr("Name"),
            self.tr("Algorithm"),
            self.tr("Backbone"),
            self.tr("Sources"),
            "",
            self.tr("On its own validation classes"),
            self.tr("Made"),
        )[section]

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Words of a cell; the whole of it as tooltip."""
        row = self.rows[index.row()]
        column = Column(index.column())
        if role == Qt.ItemDataRole.AccessibleTextRole and column is Column.NAME:
            return f"{row.name}, {self.tr('put away')}" if row.retired else row.name
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return self.words(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"<span>{html.escape(self.words(row, column))}</span>"
        return None

    def words(self, row: EntryRow, column: Column) -> str:
        """Text of a cell."""
        if column in (Column.WHISKER, Column.FIGURE):
            if row.accuracy is None:
                return self.tr("not measured")
            return f"{row.accuracy:.3f} {row.interval}".rstrip()
        return {
            Column.NAME: row.name,
            Column.ALGORITHM: row.algorithm,
            Column.BACKBONE: row.backbone,
            Column.SOURCES: row.sources,
            Column.MADE: row.made,
        }[column]


class EntryDelegate(QStyledItemDelegate):
    """Paints a cell."""

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Background of the row, then the cell."""
        t = theme.tokens()
        view, model = option.widget, index.model()
        if not isinstance(model, EntriesModel) or not isinstance(view, EntriesTable):
            return
        row, column = model.rows[index.row()], Column(index.column())
        box: QRect = option.rect
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        painter.save()
        if selected or index.row() == view.hovered:
            painter.fillRect(box, QColor(t.accent_soft if selected else t.hover))
        painter.setPen(QColor(t.border if selected else t.hairline))
        painter.drawLine(box.bottomLeft(), box.bottomRight())
        inner = box.adjusted(16 if column is Column.NAME else 8, 0, -8, -1)
        if column is Column.WHISKER:
            _whisker(painter, box, row, model.scale, selected=selected)
        elif column is Column.FIGURE:
            self._figure(painter, inner, row, model)
        else:
            name = column is Column.NAME
            painter.setFont(theme.font("name" if name else "body"))
            strong = (name or column is Column.ALGORITHM) and not row.retired
            painter.setPen(QColor(t.text if strong else t.secondary))
            if name and row.retired:
                icons.draw(painter, QRectF(inner.left(), inner.center().y() - 7.5, 16, 16), "eye-off", t.secondary)
                inner.adjust(22, 0, 0, 0)
            draw_words(painter, inner, model.words(row, column))
        if view.ringed(index.row()):
            draw_ring(painter, box, first=column is Column.NAME, last=column is Column.MADE)
        painter.restore()

    def _figure(self, p: QPainter, box: QRect, row: EntryRow, model: EntriesModel) -> None:
        t = theme.tokens()
        if row.accuracy is None:
            p.setFont(theme.font("body"))
            p.setPen(QColor(t.secondary))
            draw_words(p, box, model.words(row, Column.FIGURE))
            return
        figure, strong = f"{row.accuracy:.3f}", theme.font("strong")
        p.setFont(strong)
        p.setPen(QColor(t.text))
        p.drawText(box, MIDDLE, figure)
        p.setFont(theme.font("body"))
        p.setPen(QColor(t.secondary))
        draw_words(p, box.adjusted(QFontMetrics(strong).horizontalAdvance(figure) + 5, 0, 0, 0), row.interval)


def _axis(box: QRect) -> QRectF:
    return QRectF(box).adjusted(_SIDE, 0, -_SIDE, 0)


def _whisker(p: QPainter, box: QRect, row: EntryRow, scale: tuple[float, float], *, selected: bool) -> None:
    axis, t = _axis(box), theme.tokens()
    p.setPen(QColor(t.border if selected else t.hairline))
    for tick in ticks_of(*scale):
        x = round(axis.left() + axis.width() * (tick - scale[0]) / (scale[1] - scale[0]))
        p.drawLine(x, box.top(), x, box.bottom())
    if row.accuracy is not None:
        draw_whisker(p, axis, row.accuracy, row.low, row.high, *scale, "accent" if selected else "secondary")


class _Header(QHeaderView):
    """Titles in line with the cells, an arrow at the one that sorts, and the axis of the whiskers."""

    def paintSection(self, p: QPainter, rect: QRect, logical: int) -> None:
        model = self.model()
        if not isinstance(model, EntriesModel):
            return
        t, font = theme.tokens(), header_font()
        p.save()
        p.setFont(font)
        p.setPen(QColor(t.secondary))
        if logical == Column.WHISKER:
            self._scale(p, rect, model.scale)
        else:
            text = str(model.headerData(logical, Qt.Orientation.Horizontal))
            inner = rect.adjusted(16 if logical == Column.NAME else 8, 0, -8, 0)
            arrow = KEYS[logical] == model.sorted_by
            shown = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideRight, inner.width() - 16 * arrow)
            p.drawText(inner, MIDDLE, shown)
            if arrow:
                x = inner.left() + QFontMetrics(font).horizontalAdvance(shown) + 3
                name = "chevron-down" if model.descending else "chevron-up"
                icons.draw(p, QRectF(x, rect.center().y() - 6, 13, 13), name, t.secondary)
        p.setPen(QColor(t.hairline))
        p.drawLine(rect.bottomLeft(), rect.bottomRight())
        p.restore()

    def _scale(self, p: QPainter, rect: QRect, scale: tuple[float, float]) -> None:
        axis = _axis(rect)
        found = ticks_of(*scale)
        if axis.width() / max(1, len(found) - 1) < 44:
            found = [found[0], found[-1]]
        for tick in found:
            x = axis.left() + axis.width() * (tick - scale[0]) / (scale[1] - scale[0])
            x = min(max(x, rect.left() + 16.0), rect.right() - 14.0)
            p.drawText(QRectF(x - 20, rect.top(), 40, rect.height()), Qt.AlignmentFlag.AlignCenter, f"{tick:.2f}")


class EntriesTable(RowTable):
    """The table. A click on a title sorts by it; Delete puts the current entry away.

    Signals:
        chosen(str): id of the current entry, "" for none.
        retire_asked: the current entry is to be put away.
    """

    chosen = Signal(str)
    retire_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._id = EntryId("")
        self.entries = EntriesModel(self)
        self.setModel(self.entries)
        self.setItemDelegate(EntryDelegate(self))
        self.setAccessibleName(self.tr("Entries"))
        header = _Header(Qt.Orientation.Horizontal, self)
        self.set_header(header, clickable=True)
        header.sectionClicked.connect(self._title_clicked)
        self.selectionModel().currentChanged.connect(self._current_changed)

    # ---- rows ------------------------------------------------------------------------------------
    def set_rows(self, rows: Sequence[EntryRow]) -> None:
        """Replace all rows; the current entry stays current where it is still there, else the first is."""
        self.selectionModel().blockSignals(True)
        self.entries.set_rows(rows)
        self.selectionModel().blockSignals(False)
        self.choose(self._id if self._at(self._id) >= 0 else next((r.id for r in self.entries.rows), EntryId("")))

    def sort_by(self, key: str) -> None:
        """Sort, and keep the current entry."""
        self.selectionModel().blockSignals(True)
        self.entries.sort_by(key)
        self.selectionModel().blockSignals(False)
        self.choose(self._id)
        self.horizontalHeader().viewport().update()

    def choose(self, id_: EntryId) -> None:
        """Make an entry the current one; the signal is sent where it was another one."""
        at, before = self._at(id_), self._id
        self._id = id_ if at >= 0 else EntryId("")
        self.selectionModel().blockSignals(True)
        self.setCurrentIndex(self.entries.index(at, 0) if at >= 0 else QModelIndex())
        self.selectionModel().blockSignals(False)
        if at >= 0:
            self.selectRow(at)
            self.scrollTo(self.entries.index(at, 0))
        self.viewport().update()
        if self._id != before:
            self.chosen.emit(self._id)

    def current(self) -> EntryRow | None:
        """The current row."""
        at = self._at(self._id)
        return self.entries.rows[at] if at >= 0 else None

    def _at(self, id_: EntryId) -> int:
        return next((i for i, r in enumerate(self.entries.rows) if r.id == id_), -1)

    def _current_changed(self, now: QModelIndex, _before: QModelIndex) -> None:
        if now.isValid() and self.entries.rows[now.row()].id != self._id:
            self._id = self.entries.rows[now.row()].id
            self.chosen.emit(self._id)

    def _title_clicked(self, section: int) -> None:
        self.sort_by(KEYS[section])

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Columns share the width; in a narrow table the backbone goes, then the sources."""
        super().resizeEvent(event)
        width = self.viewport().width()
        self.setColumnHidden(Column.BACKBONE, width < _ROOMY)
        self.setColumnHidden(Column.SOURCES, width < _NARROW)
        fixed = {Column.ALGORITHM: 90, Column.WHISKER: 180, Column.FIGURE: 190, Column.MADE: 78}
        if width < _ROOMY:
            fixed |= {Column.ALGORITHM: 84, Column.WHISKER: 96, Column.FIGURE: 156, Column.MADE: 76}
        else:
            fixed[Column.BACKBONE] = 92
        if width >= _NARROW:
            fixed[Column.SOURCES] = 92 if width >= _ROOMY else 76
        for column, size in fixed.items():
            self.setColumnWidth(column, size)
        self.setColumnWidth(Column.NAME, max(120, width - sum(fixed.values())))
        if self.currentIndex().isValid():
            self.scrollTo(self.currentIndex())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete puts away; arrows move."""
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self.current() is not None:
            self.by_keyboard = True
            self.retire_asked.emit()
            return
        super().keyPressEvent(event)
