"""How one query is drawn: picture, three lines with bars, the nearest examples, the label column."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import (
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QPointF,
    QRect,
    QRectF,
    QSize,
    Qt,
)
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter, QPen
from PySide6.QtWidgets import QAbstractItemView, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from workbench.core.teach import NONE
from workbench.core.values import ClassId, ImageRef
from workbench.ui import icons, theme
from workbench.ui.rooms.teach.query_model import QueryModel, Sheet
from workbench.ui.rooms.teach.view import Answer, Line, Near, positions
from workbench.ui.widgets.controls import draw_bar
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb

ROW = 76
_KEY = 28
_PAD = 16
_NAME = 84
_LEAST = 76


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things are in a row of a width; the origin is the row's top left corner.

    Attributes:
        width: of the row, pixels.
        compact: without the label column, two nearest examples.
        classes: number of key buttons besides "0".
    """

    width: int
    compact: bool
    classes: int

    @property
    def picture(self) -> QRect:
        """The query."""
        side = 48 if self.compact else 56
        return QRect(_PAD, (ROW - side) // 2, side, side)

    @property
    def column(self) -> QRect:
        """The label column; empty in the compact form."""
        return QRect() if self.compact else QRect(self.width - _PAD - 156, 0, 156, ROW)

    @property
    def near_side(self) -> int:
        """Side of the nearest examples."""
        return 36 if self.compact else 40

    @property
    def near_left(self) -> int:
        """Where the nearest examples begin."""
        end = self.width - _PAD if self.compact else self.column.left() - 16
        shown = 2 if self.compact else 3
        return end - shown * self.near_side - (shown - 1) * 4

    def near(self, n: int) -> QRect:
        """The n-th nearest example."""
        return QRect(
            self.near_left + n * (self.near_side + 4), 10 if not self.compact else 12, self.near_side, self.near_side
        )

    def line(self, n: int) -> QRect:
        """The n-th line, from its marker to the end of its figure."""
        left = self.picture.right() + 1 + (12 if self.compact else 16)
        return QRect(left, 8 + 20 * n, self.near_left - 12 - left, 20)

    def buttons(self) -> list[tuple[int, QRect]]:
        """Key buttons of the current row: index of the class (-1 for none of these) and place; at most nine and "0"."""
        if self.compact:
            return []
        indexes = [*range(min(self.classes, 9)), -1]
        top = 14 if len(indexes) <= 5 else 8
        left = self.column.left()
        return [
            (index, QRect(left + n % 5 * (_KEY + 4), top + n // 5 * (_KEY + 4), _KEY, _KEY))
            for n, index in enumerate(indexes)
        ]

    def below_keys(self) -> QRect:
        """The line under the key buttons, or beside them where they take two lines; empty where there is no room."""
        if self.compact:
            return QRect()
        if self.classes <= 4:
            return QRect(self.column.left(), 45, 156, 20)
        last = self.buttons()[-1][1]
        place = QRect(last.right() + 8, last.top() + 4, self.column.right() - last.right() - 8, 20)
        return place if place.width() >= _LEAST else QRect()

    def said(self, *, current: bool) -> QRect:
        """Where "Accept" or the person's label stands."""
        if current:
            return self.below_keys()
        return QRect() if self.compact else QRect(self.column.left(), 28, 156, 20)


class QueryDelegate(QStyledItemDelegate):
    """Paints the rows."""

    def __init__(self, thumbs: Thumbs, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thumbs = thumbs
        self._fonts: dict[str, QFont] = {}
        self._names = 0
        self.compact = False
        self.hover: tuple[int, str] = (-1, "")
        """Row and what the mouse is over there: ``accept`` or a key's index as text."""

    def _font(self, role: str) -> QFont:
        """A font by its role; building one takes longer than drawing with it."""
        if role not in self._fonts:
            self._fonts[role] = theme.font(role)
        return self._fonts[role]

    def sizeHint(self, option: QStyleOptionViewItem, _index: QModelIndex | QPersistentModelIndex) -> QSize:
        """76 high."""
        return QSize(option.rect.width(), ROW)

    def geometry(self, width: int, sheet: Sheet) -> Geometry:
        """Of a row."""
        return Geometry(width, self.compact, len(sheet.task.classes))

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        """One row."""
        model = index.model()
        if not isinstance(model, QueryModel):
            return
        t = theme.tokens()
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        view = option.widget
        if not isinstance(view, QAbstractItemView):
            return
        current = view.currentIndex() == index
        selected = bool(state & QStyle.StateFlag.State_Selected)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if current or selected:
            painter.fillRect(rect, QColor(t.accent_soft))
        painter.fillRect(QRect(rect.left(), rect.bottom(), rect.width(), 1), QColor(t.hairline))
        if current:
            painter.fillRect(QRect(rect.left(), rect.top(), 3, rect.height()), QColor(t.accent))
        if current and view.hasFocus() and view.property("keyboard"):
            painter.setPen(QPen(QColor(t.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(rect.adjusted(1, 1, -1, -2))
        painter.translate(rect.topLeft())
        self._paint(painter, model, index.row(), rect.width(), current=current, marked=current or selected)
        painter.restore()

    def _paint(
        self, painter: QPainter, model: QueryModel, row: int, width: int, *, current: bool, marked: bool
    ) -> None:
        sheet, image = model.sheet, model.image(row)
        g = self.geometry(width, sheet)
        found = sheet.answers.get(image.sha256)
        label = sheet.task.labels.get(image.sha256)
        painter.setOpacity(0.5 if sheet.dimmed else 1.0)
        side = g.picture.width()
        pixmap = self._thumbs.pixmap(image, side)
        draw_thumb(painter, QRectF(g.picture), pixmap, failed=self._thumbs.failed(image))
        if found is not None:
            told = g.compact and label is not None
            for n, line in enumerate(found.lines[:2] if told else found.lines):
                self._paint_line(painter, g.line(n), line, sheet, "border" if marked else "hairline")
            for n, near in enumerate(found.near[: 2 if g.compact else 3]):
                self._paint_near(painter, g.near(n), near)
        painter.setOpacity(1.0)
        if g.compact and label is not None:
            self._paint_label(painter, g.line(2), model, label)
        elif not g.compact:
            self._paint_column(painter, g, model, image, row, found, label, current=current)

    def _paint_line(self, painter: QPainter, rect: QRect, line: Line, sheet: Sheet, track: str) -> None:
        t = theme.tokens()
        theme.draw_marker(painter, QRectF(rect.left(), rect.top() + 5, 10, 10), line.at)
        font = self._font("strong" if line.wins else "body")
        painter.setFont(font)
        painter.setPen(QColor(t.text if line.wins else t.secondary))
        metrics = QFontMetrics(font)
        name = sheet.name(line.at) or self.tr("none of these")
        wide = self._name_width()
        shown = metrics.elidedText(name, Qt.TextElideMode.ElideRight, wide)
        left = rect.left() + 18
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.drawText(QRect(left, rect.top(), wide + 2, 20), middle, shown)
        figure = QRect(rect.right() - 33, rect.top(), 34, 20)
        painter.drawText(figure, middle | Qt.AlignmentFlag.AlignRight, f"{line.share:.2f}")
        bar = QRectF(left + wide + 8, rect.top() + 7, figure.left() - 8 - left - wide - 2, 6)
        if bar.width() >= 12:
            draw_bar(painter, bar, line.share, "secondary" if line.at < 0 else line.at, track)

    def _name_width(self) -> int:
        """What a name may take: 84, or what "none of these" needs where the font is wide."""
        if not self._names:
            metrics = QFontMetrics(self._font("strong"))
            self._names = max(_NAME, metrics.horizontalAdvance(self.tr("none of these")) + 2)
        return self._names

    def _paint_near(self, painter: QPainter, rect: QRect, near: Near) -> None:
        found = self._thumbs.pixmap(near.image, rect.width())
        draw_thumb(painter, QRectF(rect), found, failed=self._thumbs.failed(near.image))
        painter.setFont(self._font("caption"))
        painter.setPen(QColor(theme.tokens().secondary))
        place = QRect(rect.left() - 4, rect.bottom() + 1, rect.width() + 8, 16)
        painter.drawText(place, Qt.AlignmentFlag.AlignCenter, distance(near.distance))

    def _paint_column(
        self,
        painter: QPainter,
        g: Geometry,
        model: QueryModel,
        image: ImageRef,
        row: int,
        found: Answer | None,
        label: ClassId | None,
        *,
        current: bool,
    ) -> None:
        t = theme.tokens()
        over = self.hover[1] if self.hover[0] == row else ""
        next_ = model.sheet.next == image.sha256
        if current:
            where = positions(model.sheet.task)
            given = -1 if label == NONE else where.get(label, -2) if label is not None else -2
            for index, rect in g.buttons():
                _paint_key(painter, rect, "0" if index < 0 else str(index + 1), index == given, over == str(index))
        place = g.said(current=current)
        if place.isEmpty():
            return
        if label is not None:
            self._paint_label(painter, place, model, label)
        elif next_ and current:
            painter.setFont(self._font("name"))
            painter.setPen(QColor(t.accent))
            shown = QFontMetrics(painter.font()).elidedText(
                self.tr("Label this next"), Qt.TextElideMode.ElideRight, place.width()
            )
            painter.drawText(place, Qt.AlignmentFlag.AlignVCenter, shown)
        elif found is not None:
            painter.setOpacity(0.5 if model.sheet.dimmed else 1.0)
            ink = t.accent if over == "accept" else t.secondary
            icons.draw(painter, QRectF(place.left(), place.top() + 2, 16, 16), "check", ink)
            painter.setFont(self._font("body"))
            painter.setPen(QColor(ink))
            painter.drawText(place.adjusted(20, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.tr("Accept"))
            if next_:
                painter.setFont(self._font("caption"))
                painter.setPen(QColor(t.accent))
                below = place.translated(0, 20)
                painter.drawText(below, Qt.AlignmentFlag.AlignVCenter, self.tr("Label this next"))

    def _paint_label(self, painter: QPainter, place: QRect, model: QueryModel, label: ClassId) -> None:
        t = theme.tokens()
        icons.draw(painter, QRectF(place.left(), place.top() + 2, 16, 16), "user", t.good)
        painter.setFont(self._font("name"))
        painter.setPen(QColor(t.good))
        said = self.tr("You: {name}").format(name=model.label_name(label))
        text = QFontMetrics(painter.font()).elidedText(said, Qt.TextElideMode.ElideRight, place.width() - 20)
        painter.drawText(place.adjusted(20, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, text)


def distance(value: float) -> str:
    """A distance in four characters or so: the scale depends on the network's features."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _paint_key(painter: QPainter, rect: QRect, text: str, given: bool, over: bool) -> None:
    t = theme.tokens()
    box = QRectF(rect).adjusted(0.5, 0.5, -0.5, -0.5)
    painter.setPen(QPen(QColor(t.accent if given else t.control_border if over else t.border_strong), 1))
    painter.setBrush(QColor(t.accent_soft if given else t.hover if over else t.surface))
    painter.drawRoundedRect(box, 6, 6)
    painter.setPen(QColor(t.accent if given else t.text))
    painter.setFont(theme.font("strong"))
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
    if given:
        painter.setPen(QPen(QColor(t.accent), 2))
        painter.drawLine(QPointF(box.left() + 8, box.bottom() - 3), QPointF(box.right() - 8, box.bottom() - 3))
