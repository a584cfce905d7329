"""The files that were looked at and not taken, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QHBoxLayout,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from workbench.core.values import Problem
from workbench.ui.widgets.controls import button, label

_MOST = 2000


def open_folder(path: str) -> bool:
    """Open the folder of a file (or the nearest one there is) in the system's file manager; says whether it could."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    return QDesktopServices.openUrl(QUrl.fromLocalFile(str(place if place.is_dir() else place.parent)))


class FilesDialog(QDialog):
    """A table of path and reason; copy it, or open a file's folder."""

    def __init__(self, title: str, problems: Sequence[Problem], show: Callable[[str], object], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.resize(720, 440)
        self._problems, self._show = tuple(problems), show
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        column.addWidget(label(title, "section"))
        self.table = QTableWidget(min(len(problems), _MOST), 2)
        self.table.setAccessibleName(title)
        self.table.setHorizontalHeaderLabels([self.tr("File"), self.tr("Reason")])
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setShowGrid(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(32)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.table.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        for row, problem in enumerate(self._problems[:_MOST]):
            for at, text in enumerate((problem.path, problem.reason)):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                self.table.setItem(row, at, item)
        column.addWidget(self.table, 1)
        if len(problems) > _MOST:
            column.addWidget(
                label(self.tr("The first {n} are shown; the copy has all.").format(n=f"{_MOST:,}"), "caption")
            )
        row_ = QHBoxLayout()
        row_.setSpacing(8)
        copy = button(self.tr("Copy list"), "secondary", "copy")
        copy.clicked.connect(self._copy)
        self.show_file = button(self.tr("Show file"), "secondary", "folder")
        self.show_file.setEnabled(False)
        self.show_file.clicked.connect(self._show_current)
        close = button(self.tr("Close"), "primary")
        close.clicked.connect(self.accept)
        row_.addWidget(copy)
        row_.addWidget(self.show_file)
        row_.addStretch(1)
        row_.addWidget(close)
        column.addLayout(row_)
        self.table.itemSelectionChanged.connect(lambda: self.show_file.setEnabled(bool(self.table.selectedItems())))

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText("\n".join(f"{p.path}\t{p.reason}" for p in self._problems))

    def _show_current(self) -> None:
        self._show(self._problems[self.table.currentRow()].path)
