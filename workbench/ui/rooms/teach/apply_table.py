"""Predictions of a whole folder as a table that can be filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, QRect, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QWidget,
)

from workbench.core.paths import display
from workbench.core.values import Prediction
from workbench.ui import icons, theme
from workbench.ui.widgets.controls import draw_bar
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb

NONE_OF_THESE = "none of these"
"""How the services write it, and what no class can be mistaken for: -1 is its index."""
_ROW = 40
_Index = QModelIndex | QPersistentModelIndex


class AppliedModel(QAbstractTableModel):
    """Rows are pictures: picture, class, probability, said by."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._classes: tuple[str, ...] = ()
        self._all: tuple[Prediction, ...] = ()
        self._shown: list[Prediction] = []
        self._human: Mapping[str, str] = {}

    def set_predictions(
        self, classes: tuple[str, ...], predictions: tuple[Prediction, ...], human: Mapping[str, str]
    ) -> None:
        """Show predictions; ``human`` is the class that a person gave, by hash."""
        self.beginResetModel()
        self._classes, self._all, self._human = classes, predictions, human
        self._shown = list(predictions)
        self.endResetModel()

    def filter(self, only: int | None, surest: float) -> None:
        """Show only a class (-1: none of these), and only what is at most ``surest`` probable."""
        self.beginResetModel()
        self._shown = [
            p for p in self._all if (only is None or self.class_index(p) == only) and self.probability(p) <= surest
        ]
        self.endResetModel()

    def shown(self) -> Sequence[Prediction]:
        """What passes the filter."""
        return self._shown

    def prediction(self, row: int) -> Prediction:
        """One row."""
        return self._shown[row]

    def is_human(self, p: Prediction) -> bool:
        """Whether a person said it."""
        return p.image.sha256 in self._human

    def class_index(self, p: Prediction) -> int:
        """Index of the class, -1 for none of these."""
        said = self._human.get(p.image.sha256)
        if said is not None:
            return self._classes.index(said) if said in self._classes else -1
        return -1 if p.rejected else p.best

    def probability(self, p: Prediction) -> float:
        """Of the class; 1 where a person said it."""
        if self.is_human(p):
            return 1.0
        return p.none if p.rejected else p.probabilities[p.best]

    def class_name(self, p: Prediction) -> str:
        """In words."""
        index = self.class_index(p)
        return self.tr("none of these") if index < 0 else self._classes[index]

    def rowCount(self, parent: _Index | None = None) -> int:
        """Pictures that pass the filter."""
        return 0 if parent is not None and parent.isValid() else len(self._shown)

    def columnCount(self, parent: _Index | None = None) -> int:
        """Picture, class, probability, by."""
        return 0 if parent is not None and parent.isValid() else 4

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Column heads."""
        if orientation != Qt.Orientation.Horizontal or role != Qt.ItemDataRole.DisplayRole:
            return None
        return (self.tr("Picture"), self.tr("Class"), self.tr("Probability"), self.tr("Said by"))[section]

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """Words of a cell."""
        if not index.isValid():
            return None
        p = self._shown[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (
                display(p.image.name),
                self.class_name(p),
                f"{self.probability(p):.2f}",
                self.tr("you") if self.is_human(p) else self.tr("model"),
            )[index.column()]
        return None


class _Cells(QStyledItemDelegate):
    """Picture with its name, marker with the class, bar with the figure."""

    def __init__(self, thumbs: Thumbs, parent: QObject) -> None:
        super().__init__(parent)
        self._thumbs = thumbs

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: _Index) -> None:
        """One cell."""
        model = index.model()
        if not isinstance(model, AppliedModel):
            return
        t = theme.tokens()
        rect: QRect = option.rect
        p = model.prediction(index.row())
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(rect, QColor(t.accent_soft))
        painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), QColor(t.hairline))
        painter.setFont(theme.font("body"))
        painter.setPen(QColor(t.text))
        text, left = str(model.data(index)), rect.left() + 8
        if index.column() == 0:
            draw_thumb(painter, QRectF(left, rect.top() + 4, 32, 32), self._thumbs.pixmap(p.image, 32))
            left += 40
        elif index.column() == 1:
            theme.draw_marker(painter, QRectF(left, rect.center().y() - 4.5, 10, 10), model.class_index(p))
            left += 18
        elif index.column() == 2:
            bar = QRectF(left, rect.center().y() - 2.5, 72, 6)
            index_ = model.class_index(p)
            draw_bar(painter, bar, model.probability(p), "secondary" if index_ < 0 else index_)
            left += 80
        elif model.is_human(p):
            icons.draw(painter, QRectF(left, rect.center().y() - 7.5, 16, 16), "user", t.good)
            painter.setPen(QColor(t.good))
            left += 20
        mode = Qt.TextElideMode.ElideMiddle if index.column() == 0 else Qt.TextElideMode.ElideRight
        place = QRect(left, rect.top(), rect.right() - left - 4, rect.height())
        shown = QFontMetrics(painter.font()).elidedText(text, mode, place.width())
        painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, shown)
        painter.restore()


def applied_table(model: AppliedModel, thumbs: Thumbs, parent: QWidget) -> QTableView:
    """The table."""
    table = QTableView(parent)
    table.setModel(model)
    table.setItemDelegate(_Cells(thumbs, table))
    table.setShowGrid(False)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
    table.verticalHeader().setDefaultSectionSize(_ROW)
    table.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
    table.verticalHeader().hide()
    head = table.horizontalHeader()
    head.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
    head.setHighlightSections(False)
    head.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    for column, wide in ((1, 170), (2, 140), (3, 84)):
        head.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
        table.setColumnWidth(column, wide)
    table.setAccessibleName(table.tr("Predictions"))
    thumbs.ready.connect(table.viewport().update)
    return table
