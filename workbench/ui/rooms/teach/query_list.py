"""The list of queries: keys and clicks that label, several at once."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QItemSelectionModel, QModelIndex, QPersistentModelIndex, QPoint, Qt, Signal
from PySide6.QtGui import QHelpEvent, QKeyEvent, QKeySequence, QMouseEvent, QWheelEvent
from PySide6.QtWidgets import QAbstractItemView, QListView, QToolTip, QWidget

from workbench.core.paths import display
from workbench.core.values import ImageRef
from workbench.ui.rooms.teach.carrying import QUERIES, start_drag
from workbench.ui.rooms.teach.overlay_bar import OverlayBar
from workbench.ui.rooms.teach.query_model import QueryModel
from workbench.ui.rooms.teach.query_rows import ROW, Geometry, QueryDelegate, distance
from workbench.ui.widgets.thumbs import Thumbs
from workbench.ui.widgets.words import plain

_Index = QModelIndex | QPersistentModelIndex


class QueryList(QListView):
    """Rows of queries.

    Attributes:
        looked_at: whether the person has moved in it since it was last ordered; then nothing may move under the eye.

    Signals:
        label_wanted(int): index of the class (-1: none of these) for the selected rows.
        accept_wanted: accept the predictions of the selected rows.
        take_back_wanted: take the labels of the selected rows back.
        remove_wanted: take the selected rows off the list.
        paste_wanted: take what the clipboard holds.
        next_wanted: go to the row to label next.
    """

    label_wanted = Signal(int)
    accept_wanted = Signal()
    take_back_wanted = Signal()
    remove_wanted = Signal()
    paste_wanted = Signal()
    next_wanted = Signal()

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._thumbs = thumbs
        self.looked_at = False
        self.rows = QueryModel(self)
        self.setModel(self.rows)
        self.painter_ = QueryDelegate(thumbs, self)
        self.setItemDelegate(self.painter_)
        self.setUniformItemSizes(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setDragEnabled(True)
        self.setDragDropMode(QAbstractItemView.DragDropMode.DragOnly)
        self.setMouseTracking(True)
        self.setFrameShape(QListView.Shape.NoFrame)
        self.verticalScrollBar().setSingleStep(ROW // 2)
        self._over = OverlayBar(self)
        self.setAccessibleName(self.tr("Queries"))
        thumbs.ready.connect(self._ready)

    # ---- what is chosen --------------------------------------------------------------------------
    def chosen(self) -> list[str]:
        """Hashes of the selected rows, or of the current one."""
        rows = sorted(i.row() for i in self.selectionModel().selectedIndexes())
        if not rows and self.currentIndex().isValid():
            rows = [self.currentIndex().row()]
        return [self.rows.image(r).sha256 for r in rows]

    def current(self) -> str:
        """Hash of the current row, or ""."""
        index = self.currentIndex()
        return self.rows.image(index.row()).sha256 if index.isValid() else ""

    def go(self, row: int) -> None:
        """Make a row the current and only selected one, and show it."""
        if 0 <= row < self.rows.rowCount():
            self.setCurrentIndex(self.rows.index(row))

    def step_on(self) -> None:
        """Go to the row after the last selected one."""
        rows = [i.row() for i in self.selectionModel().selectedIndexes()] or [self.currentIndex().row()]
        self.go(min(max(rows) + 1, self.rows.rowCount() - 1))

    def set_order(self, rows: list[ImageRef]) -> None:
        """Another order; what was selected and current stays so, and the current row stays where one looks."""
        if not self.looked_at:
            self.rows.set_rows(rows)
            self.scrollToTop()
            self.go(0)
            return
        chosen, current = set(self.chosen()), self.current()
        bar = self.verticalScrollBar()
        offset = self.rows.place(current) * ROW - bar.value() if current else 0
        before = self.rows.place(current)
        self.rows.set_rows(rows)
        if not rows:
            return
        here = self.rows.place(current)
        if here < 0:
            here = min(max(before, 0), len(rows) - 1)
        model = self.selectionModel()
        self.doItemsLayout()
        model.setCurrentIndex(self.rows.index(here), QItemSelectionModel.SelectionFlag.ClearAndSelect)
        for sha in chosen:
            row = self.rows.place(sha)
            if row >= 0:
                model.select(self.rows.index(row), QItemSelectionModel.SelectionFlag.Select)
        bar.setValue(here * ROW - offset)
        if not 0 <= here * ROW - bar.value() <= self.viewport().height() - ROW:
            self.scrollTo(self.rows.index(here))

    def _ready(self, sha256: str) -> None:
        self.rows.touch(sha256)
        self.viewport().update()  # a nearest example may be the one that came

    # ---- hand ------------------------------------------------------------------------------------
    def hit(self, at: QPoint) -> tuple[int, str]:
        """Row at a point of the viewport and what is there: ``accept``, a key's index as text, or ""."""
        index = self.indexAt(at)
        if not index.isValid():
            return -1, ""
        rect = self.visualRect(index)
        inside, g = at - rect.topLeft(), self.geometry_()
        current = index == self.currentIndex()
        if current:
            for n, key in g.buttons():
                if key.contains(inside):
                    return index.row(), str(n)
        sha = self.rows.image(index.row()).sha256
        open_ = sha in self.rows.sheet.answers and sha not in self.rows.sheet.task.labels
        if open_ and g.said(current=current).contains(inside) and not (current and self.rows.sheet.next == sha):
            return index.row(), "accept"
        return index.row(), ""

    def geometry_(self) -> Geometry:
        """Where things are in a row now."""
        return self.painter_.geometry(self.viewport().width(), self.rows.sheet)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """A key button or "Accept"; anything else selects."""
        self.looked_at = True
        self._by_keyboard(on=False)
        row, what = self.hit(event.position().toPoint())
        if event.button() == Qt.MouseButton.LeftButton and what:
            if row != self.currentIndex().row() or len(self.chosen()) > 1:
                self.go(row)
            if what == "accept":
                self.accept_wanted.emit()
            else:
                self.label_wanted.emit(int(what))
            return
        super().mousePressEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Scrolling is looking."""
        self.looked_at = True
        super().wheelEvent(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Hover of the small controls in the row."""
        found = self.hit(event.position().toPoint())
        if found != self.painter_.hover:
            self.painter_.hover = found
            self.viewport().setCursor(Qt.CursorShape.PointingHandCursor if found[1] else Qt.CursorShape.ArrowCursor)
            self.viewport().update()
        super().mouseMoveEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """No hover."""
        self.painter_.hover = (-1, "")
        self.viewport().update()
        super().leaveEvent(event)

    def startDrag(self, _actions: Qt.DropAction) -> None:
        """Drag the selected queries, to drop them on a class."""
        wanted = set(self.chosen())
        start_drag(self, self._thumbs, QUERIES, [q for q in self.rows.rows() if q.sha256 in wanted])

    # ---- keys ------------------------------------------------------------------------------------
    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Digits label, Enter accepts, Backspace takes back, Delete removes, N goes to the next to label."""
        self._by_keyboard(on=True)
        self.looked_at = True
        key = Qt.Key(event.key())
        plain_ = not event.modifiers() & ~(Qt.KeyboardModifier.KeypadModifier | Qt.KeyboardModifier.ShiftModifier)
        if event.matches(QKeySequence.StandardKey.Paste):
            self.paste_wanted.emit()
        elif plain_ and Qt.Key.Key_0 <= key <= Qt.Key.Key_9:
            self.label_wanted.emit(int(key) - int(Qt.Key.Key_1))
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.accept_wanted.emit()
        elif key == Qt.Key.Key_Backspace:
            self.take_back_wanted.emit()
        elif key == Qt.Key.Key_Delete:
            self.remove_wanted.emit()
        elif plain_ and key == Qt.Key.Key_N:
            self.next_wanted.emit()
        else:
            super().keyPressEvent(event)

    def keyboardSearch(self, _search: str) -> None:
        """Letters and digits are keys of ours, not a search."""

    def focusInEvent(self, event: object) -> None:
        """Say whether the keyboard brought the focus."""
        reason = event.reason()  # type: ignore[attr-defined]
        self._by_keyboard(on=reason in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason))
        if not self.currentIndex().isValid() and self.rows.rowCount():
            self.go(0)
        super().focusInEvent(event)  # type: ignore[arg-type]

    def _by_keyboard(self, *, on: bool) -> None:
        if bool(self.property("keyboard")) != on:
            self.setProperty("keyboard", on)
            self.viewport().update()

    def currentChanged(self, current: _Index, previous: _Index) -> None:
        """The key buttons go with the current row."""
        super().currentChanged(current, previous)
        self.viewport().update()

    # ---- tooltips --------------------------------------------------------------------------------
    def viewportEvent(self, event: QEvent) -> bool:
        """What a place in a row is."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            text = self.tip(event.pos())
            if text:
                QToolTip.showText(event.globalPos(), plain(text), self)
            else:
                QToolTip.hideText()
            return True
        return super().viewportEvent(event)

    def tip(self, at: QPoint) -> str:
        """The words of the tooltip at a point of the viewport."""
        index = self.indexAt(at)
        if not index.isValid():
            return ""
        row, what = self.hit(at)
        sheet, image = self.rows.sheet, self.rows.image(row)
        if what == "accept":
            return self.tr("Accept the prediction (Enter)")
        if what:
            n = int(what)
            if n < 0:
                return self.tr("None of these (0)")
            return self.tr("It is {name} ({key})").format(name=sheet.name(n), key=n + 1)
        rect = self.visualRect(index)
        g, inside, found = self.geometry_(), at - rect.topLeft(), sheet.answers.get(image.sha256)
        if found is not None:
            for n, near in enumerate(found.near[: 2 if g.compact else 3]):
                if g.near(n).contains(inside):
                    name = sheet.name(near.at) if near.at is not None else ""
                    return self.tr("{file}, an example of {name}, distance {d}").format(
                        file=display(near.image.name), name=name, d=distance(near.distance)
                    )
            for n, line in enumerate(found.lines):
                if g.line(n).contains(inside):
                    return f"{sheet.name(line.at) or self.tr('none of these')} {line.share:.3f}"
        if image.sha256 in sheet.task.labels and g.said(current=index == self.currentIndex()).contains(inside):
            return self.tr("Your label; Backspace takes it back")
        return display(image.name)
