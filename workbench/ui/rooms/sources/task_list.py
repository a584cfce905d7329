"""The list of tasks: a row of 52 px with a picture, the name, what is amber, the counts and the role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import (
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QFocusEvent, QFontMetrics, QKeyEvent, QMouseEvent, QPainter, QPen
from PySide6.QtWidgets import QAbstractItemView, QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from workbench.core.values import ImageRef, Role, Task, TaskId
from workbench.ui import icons, theme
from workbench.ui.rooms.sources.findings import ROLE_WORDS
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.thumbs import Thumbs, draw_thumb

ROW = 52
Index = QModelIndex | QPersistentModelIndex
ROLE_ICONS = {Role.TRAIN: "train", Role.VALIDATION: "shield", Role.HELD_OUT: "lock"}


def face(task: Task) -> ImageRef | None:
    """The picture that stands for a task."""
    for item in task.classes:
        if item.images:
            return item.images[0]
    return task.unlabelled[0] if task.unlabelled else None


def counts(task: Task) -> str:
    """For example "5 classes, 200 images"."""
    if not task.classes:
        return f"{count(len(task.unlabelled), 'image')}, no classes"
    return f"{count(len(task.classes), 'class', 'classes')}, {count(task.images, 'image')}"


class TaskModel(QAbstractListModel):
    """Tasks, and how many findings each has."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tasks: tuple[Task, ...] = ()
        self.amber: Mapping[TaskId, int] = {}

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Replace the tasks; as long as they are the same ones, or more follow, the selection stays."""
        tasks = tuple(tasks)
        old, new = [t.id for t in self.tasks], [t.id for t in tasks]
        if new[: len(old)] == old:
            if len(new) > len(old):
                self.beginInsertRows(QModelIndex(), len(old), len(new) - 1)
                self.tasks = tasks
                self.endInsertRows()
            self.tasks = tasks
            if old:
                self.dataChanged.emit(self.index(0), self.index(len(old) - 1))
            return
        self.beginResetModel()
        self.tasks = tasks
        self.endResetModel()

    def set_amber(self, amber: Mapping[TaskId, int]) -> None:
        """Numbers of findings."""
        self.amber = amber
        if self.tasks:
            self.dataChanged.emit(self.index(0), self.index(len(self.tasks) - 1))

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Number of tasks."""
        return 0 if parent.isValid() else len(self.tasks)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Name; the whole row in words for screen readers; the path as tooltip."""
        task = self.tasks[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return task.name
        if role == Qt.ItemDataRole.AccessibleTextRole:
            amber = self.amber.get(task.id, 0)
            checks = f", {count(amber, 'finding')}" if amber else ""
            return f"{task.name}, {counts(task)}, {ROLE_WORDS[task.role]}{checks}"
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{ROLE_WORDS[task.role].capitalize()}: {task.path}"
        return None


class TaskDelegate(QStyledItemDelegate):
    """Paints a row."""

    def __init__(self, thumbs: Thumbs, parent: QWidget) -> None:
        super().__init__(parent)
        self._thumbs = thumbs

    def sizeHint(self, _option: QStyleOptionViewItem, _index: Index) -> QSize:
        """52 px."""
        return QSize(120, ROW)

    def paint(self, p: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Background, picture, name with its amber number, counts, role."""
        model, view = index.model(), option.widget
        if not isinstance(model, TaskModel) or not isinstance(view, TaskList):
            return
        t, task = theme.tokens(), model.tasks[index.row()]
        box: QRect = option.rect
        state = option.state
        selected = bool(state & QStyle.StateFlag.State_Selected)
        p.save()
        if selected:
            p.fillRect(box, QColor(t.accent_soft))
            p.fillRect(QRect(box.left(), box.top(), 3, box.height()), QColor(t.accent))
        elif state & QStyle.StateFlag.State_MouseOver:
            p.fillRect(box, QColor(t.hover))
        image = face(task)
        thumb = QRectF(box.left() + 12, box.top() + 8, 36, 36)
        draw_thumb(p, thumb, self._thumbs.pixmap(image, 36) if image else None, 4)
        icon = ROLE_ICONS[task.role] if task.classes else "image"
        p.setRenderHint(QPainter.RenderHint.Antialiasing)
        icons.draw(p, QRectF(box.right() - 28, box.center().y() - 8, 16, 16), icon, t.secondary)
        self._words(p, box, model, task, selected)
        if view.hasFocus() and view.by_keyboard and index.row() == view.currentIndex().row():
            p.setBrush(Qt.BrushStyle.NoBrush)
            p.setPen(QPen(QColor(t.accent), 2))
            p.drawRoundedRect(QRectF(box).adjusted(2, 2, -2, -2), 6, 6)
        p.restore()

    def _words(self, p: QPainter, box: QRect, model: TaskModel, task: Task, selected: bool) -> None:
        t = theme.tokens()
        left, right = box.left() + 60, box.right() - 40
        amber = model.amber.get(task.id, 0)
        chip = 30 + QFontMetrics(theme.font("name")).horizontalAdvance(f"{amber:,}") if amber else 0
        font = theme.font("strong" if selected else "name")
        room = right - left - (chip + 8 if chip else 0)
        name = QFontMetrics(font).elidedText(task.name, Qt.TextElideMode.ElideRight, room)
        p.setFont(font)
        p.setPen(QColor(t.text))
        p.drawText(QRect(left, box.top() + 8, room + 2, 18), Qt.AlignmentFlag.AlignVCenter, name)
        if chip:
            pill = QRectF(left + QFontMetrics(font).horizontalAdvance(name) + 9, box.top() + 9, chip, 18)
            p.setPen(Qt.PenStyle.NoPen)
            p.setBrush(QColor(t.warn_soft))
            p.drawRoundedRect(pill, 9, 9)
            icons.draw(p, QRectF(pill.left() + 7, pill.top() + 2.5, 13, 13), "warn", t.warn)
            p.setFont(theme.font("name"))
            p.setPen(QColor(t.warn))
            p.drawText(pill.adjusted(23, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, f"{amber:,}")
        p.setFont(theme.font("caption"))
        p.setPen(QColor(t.secondary))
        metrics = QFontMetrics(theme.font("caption"))
        words = counts(task)
        if metrics.horizontalAdvance(words) > right - left:
            words = count(task.images + len(task.unlabelled), "image")
        words = metrics.elidedText(words, Qt.TextElideMode.ElideRight, right - left)
        p.drawText(QRect(left, box.top() + 27, right - left, 17), Qt.AlignmentFlag.AlignVCenter, words)


class TaskList(QListView):
    """The list.

    Signals:
        chosen(int): row of the current task, -1 for none.
        removal_asked: the current task is to be removed.
    """

    chosen = Signal(int)
    removal_asked = Signal()

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.by_keyboard = False
        self.tasks = TaskModel(self)
        self.setModel(self.tasks)
        self.setItemDelegate(TaskDelegate(thumbs, self))
        self.setUniformItemSizes(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setMouseTracking(True)
        self.setFrameShape(QListView.Shape.NoFrame)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName(self.tr("Tasks"))
        thumbs.ready.connect(self._ready)
        self.selectionModel().currentChanged.connect(self._current)

    def _ready(self, _sha256: str) -> None:
        self.viewport().update()

    def _current(self, now: QModelIndex, _before: QModelIndex) -> None:
        self.chosen.emit(now.row())

    def choose(self, row: int) -> None:
        """Make a task the current one."""
        self.setCurrentIndex(self.tasks.index(row) if row >= 0 else QModelIndex())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Delete removes the task."""
        self.by_keyboard = True
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and self.currentIndex().isValid():
            self.removal_asked.emit()
            return
        super().keyPressEvent(event)
        self.viewport().update()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose by pointer."""
        self.by_keyboard = False
        super().mousePressEvent(event)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Coming by Tab shows the cursor."""
        super().focusInEvent(event)
        self.by_keyboard = event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
        if self.by_keyboard and not self.currentIndex().isValid() and self.tasks.tasks:
            self.choose(0)
        self.viewport().update()

    def leaveEvent(self, event: QEvent) -> None:
        """No row is under the pointer."""
        super().leaveEvent(event)
        self.viewport().update()
