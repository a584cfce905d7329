"""The command palette: actions, sources, classes and runs by a few typed letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QPoint, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QPainter, QPen
from PySide6.QtWidgets import (
    QFrame,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from workbench.ui import icons, theme

_SHOWN = 40
_ROW = 32


@dataclass(frozen=True, slots=True)
class Hit:
    """One line of the palette.

    Attributes:
        text: what it is called.
        kind: in words, shown at the right (a shortcut, or "class in hats").
        icon: name of an icon.
        run: what choosing it does.
    """

    text: str
    kind: str
    icon: str
    run: Callable[[], object]


def matching(hits: Iterable[Hit], typed: str) -> list[Hit]:
    """Hits whose words contain every typed word, those that begin with it first."""
    wanted = typed.casefold().split()
    found: list[tuple[bool, bool, int, Hit]] = []
    for hit in hits:
        text = f"{hit.text} {hit.kind}".casefold()
        if all(w in text for w in wanted):
            starts = bool(wanted) and hit.text.casefold().startswith(wanted[0])
            inside = all(w in hit.text.casefold() for w in wanted)
            found.append((not starts, not inside, len(found), hit))
    return [hit for *_, hit in sorted(found, key=lambda f: f[:3])][:_SHOWN]


class _Rows(QStyledItemDelegate):
    def sizeHint(self, _option: QStyleOptionViewItem, _index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(100, _ROW)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        hit = index.data(Qt.ItemDataRole.UserRole)
        t = theme.tokens()
        rect = QRectF(option.rect)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if option.state & QStyle.StateFlag.State_Selected:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(t.accent_soft))
            painter.drawRoundedRect(rect.adjusted(1, 0, -1, 0), 4, 4)
        icons.draw(painter, QRectF(rect.left() + 10, rect.center().y() - 8, 16, 16), hit.icon, t.secondary)
        painter.setFont(theme.font("body"))
        metrics = QFontMetrics(painter.font())
        kind = metrics.horizontalAdvance(hit.kind)
        painter.setPen(QPen(QColor(t.secondary)))
        painter.drawText(
            rect.adjusted(0, 0, -12, 0), Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight, hit.kind
        )
        painter.setPen(QPen(QColor(t.text)))
        room = int(rect.width()) - 36 - 24 - kind
        text = metrics.elidedText(hit.text, Qt.TextElideMode.ElideRight, room)
        painter.drawText(rect.adjusted(36, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, text)
        painter.restore()


class Palette(QFrame):
    """A field and the hits below it; Up, Down, Enter, Escape. Closes when the focus leaves it."""

    def __init__(self, hits: list[Hit], parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setProperty("role", "card")
        self._hits = hits
        self.field = QLineEdit()
        self.field.setPlaceholderText(self.tr("Search classes, runs, actions"))
        self.field.setAccessibleName(self.tr("Search"))
        self.list = QListWidget()
        self.list.setAccessibleName(self.tr("Found"))
        self.list.setItemDelegate(_Rows(self.list))
        self.list.setUniformItemSizes(True)
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(8)
        column.addWidget(self.field)
        column.addWidget(self.list)
        self.field.textChanged.connect(self._fill)
        self.field.installEventFilter(self)
        self.list.itemClicked.connect(self._choose)
        self._fill("")

    def open_under(self, widget: QWidget) -> None:
        """Show it over and below the search field."""
        wide = max(widget.width(), 440)
        at = widget.mapToGlobal(QPoint((widget.width() - wide) // 2, -3))
        self.setFixedWidth(wide)
        self.move(at)
        self.show()
        self.field.setFocus()

    def shown(self) -> list[Hit]:
        """The hits listed now."""
        return [self.list.item(i).data(Qt.ItemDataRole.UserRole) for i in range(self.list.count())]

    def _fill(self, typed: str) -> None:
        self.list.clear()
        for hit in matching(self._hits, typed):
            item = QListWidgetItem(hit.text)
            item.setData(Qt.ItemDataRole.UserRole, hit)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, f"{hit.text}, {hit.kind}")
            self.list.addItem(item)
        self.list.setCurrentRow(0)
        self.list.setFixedHeight(min(max(self.list.count(), 1), 10) * _ROW + 4)
        self.adjustSize()

    def _choose(self, item: QListWidgetItem | None) -> None:
        if item is None:
            return
        hit = item.data(Qt.ItemDataRole.UserRole)
        self.close()
        hit.run()

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """Arrow keys and Enter in the field move and choose in the list."""
        if event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent):
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_PageDown: 8, Qt.Key.Key_PageUp: -8}.get(
                Qt.Key(event.key()), 0
            )
            if step and self.list.count():
                self.list.setCurrentRow(min(max(self.list.currentRow() + step, 0), self.list.count() - 1))
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._choose(self.list.currentItem())
                return True
        return False
