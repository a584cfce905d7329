"""The queries as a model: one entry per picture, its order fixed until somebody asks for another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PySide6.QtCore import QAbstractListModel, QMimeData, QModelIndex, QObject, QPersistentModelIndex, Qt

from workbench.core.paths import display
from workbench.core.teach import NONE, TeachTask
from workbench.core.values import ClassId, ImageRef
from workbench.ui.rooms.teach.carrying import QUERIES, pack
from workbench.ui.rooms.teach.view import Answer, positions

_Index = QModelIndex | QPersistentModelIndex


@dataclass(frozen=True, slots=True)
class Sheet:
    """Everything that the rows show besides their order.

    Attributes:
        task: classes, names and labels.
        answers: by hash.
        dimmed: whether the answers are out of date.
        next: hash of the query to label next, or "".
    """

    task: TeachTask = field(default_factory=TeachTask)
    answers: dict[str, Answer] = field(default_factory=dict)
    dimmed: bool = False
    next: str = ""

    def name(self, index: int) -> str:
        """Name of the class at an index, "" for none of these (which is translated where it is shown)."""
        return self.task.classes[index].name if 0 <= index < len(self.task.classes) else ""


class QueryModel(QAbstractListModel):
    """Rows are pictures; ``DisplayRole`` says a row in words, for screen readers."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[ImageRef] = []
        self._place: dict[str, int] = {}
        self.sheet = Sheet()

    def set_rows(self, rows: Sequence[ImageRef]) -> None:
        """Another order."""
        self.beginResetModel()
        self._rows = list(rows)
        self._place = {q.sha256: i for i, q in enumerate(rows)}
        self.endResetModel()

    def set_sheet(self, sheet: Sheet) -> None:
        """Other answers or labels for the same rows."""
        self.sheet = sheet
        if self._rows:
            self.dataChanged.emit(self.index(0), self.index(len(self._rows) - 1))

    def rows(self) -> list[ImageRef]:
        """The pictures in order."""
        return self._rows

    def image(self, row: int) -> ImageRef:
        """The picture of a row."""
        return self._rows[row]

    def place(self, sha256: str) -> int:
        """Row of a picture, or -1."""
        return self._place.get(sha256, -1)

    def touch(self, sha256: str) -> None:
        """A thumbnail of this row came."""
        row = self._place.get(sha256)
        if row is not None:
            self.dataChanged.emit(self.index(row), self.index(row))

    def rowCount(self, parent: _Index | None = None) -> int:
        """Number of rows."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def data(self, index: _Index, role: int = Qt.ItemDataRole.DisplayRole) -> object:
        """The row in words."""
        if not index.isValid() or role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            return None
        image = self._rows[index.row()]
        parts = [display(image.name)]
        found = self.sheet.answers.get(image.sha256)
        if found is not None:
            parts += [
                f"{self.sheet.name(n.at) or self.tr('none of these')} {n.share:.2f}"
                for n in sorted(found.lines, key=lambda n: -n.share)
            ]
        label = self.sheet.task.labels.get(image.sha256)
        if label is not None:
            parts.append(self.tr("You: {name}").format(name=self.label_name(label)))
        return ", ".join(parts)

    def label_name(self, id_: ClassId) -> str:
        """A label in words."""
        if id_ == NONE:
            return self.tr("none of these")
        return self.sheet.name(positions(self.sheet.task).get(id_, -1))

    def flags(self, index: _Index) -> Qt.ItemFlag:
        """Rows can be selected and dragged."""
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        return Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsDragEnabled

    def mimeTypes(self) -> list[str]:
        """Ours."""
        return [pack(QUERIES, ()).formats()[0]]

    def mimeData(self, indexes: Sequence[QModelIndex]) -> QMimeData:
        """Pictures to be dropped on a class."""
        return pack(QUERIES, [self._rows[i.row()].sha256 for i in indexes])
