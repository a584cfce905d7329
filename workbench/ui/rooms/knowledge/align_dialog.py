"""Asking how knowledge is to be adapted to a folder of another domain."""

from __future__ import annotations

import os

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QDialog, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from workbench.core.paths import display
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.drop import DropArea, choose_folder
from workbench.ui.widgets.elided import Elided

_WIDE = 540


class AlignDialog(QDialog):
    """A folder, and one of two closed forms.

    Signals:
        asked(str, str): folder and ``adabn`` or ``coral``.
    """

    asked = Signal(str, str)

    def __init__(self, entry: str, folder: str, why_not_coral: str, parent: QWidget) -> None:
        """Build it.

        Args:
            entry: name of the knowledge.
            folder: chosen already, or "".
            why_not_coral: why CORAL cannot be chosen, or "".
            parent: widget.
        """
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Adapt to a domain"))
        self.setFixedWidth(_WIDE)
        self.folder = folder
        self._where = Elided("", "body", least=160)
        self.choose = button(self.tr("Choose folder"), icon="folder")
        self.choose.clicked.connect(self._choose)
        self.start = button(self.tr("Adapt"), "primary")
        self.start.clicked.connect(self._start)
        cancel = button(self.tr("Cancel"))
        cancel.clicked.connect(self.reject)
        self.ways: dict[str, QRadioButton] = {}
        self._group = QButtonGroup(self)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(8)
        column.addWidget(label(self.tr("Adapt {name} to another domain").format(name=entry), "section", wrap=True))
        said = self.tr(
            "Give a folder of pictures like those it will meet: another camera, another light, another hand. They need "
            "no labels. Where there are class folders, half of each class is held out and says whether it helped; "
            "where there are none, no accuracy is claimed."
        )
        column.addWidget(label(said, "secondary", wrap=True))
        row = QHBoxLayout()
        row.setSpacing(12)
        row.addWidget(self.choose)
        row.addWidget(self._where, 1)
        column.addSpacing(4)
        column.addLayout(row)
        column.addSpacing(8)
        for key, title, text in (
            ("adabn", "AdaBN", self.tr("Takes the statistics of the new pictures in the place of the old ones.")),
            ("coral", "CORAL", self.tr("Turns the features of the new pictures so that they vary as the old ones do.")),
        ):
            made = QRadioButton(title)
            made.setAccessibleName(f"{title}. {text}")
            self._group.addButton(made)
            self.ways[key] = made
            why = why_not_coral if key == "coral" else ""
            made.setEnabled(not why)
            made.setToolTip(why)
            below = label(f"{text} {why}".strip(), "caption", wrap=True)
            below.setContentsMargins(24, -2, 0, 2)
            pair = QVBoxLayout()
            pair.setSpacing(0)
            pair.addWidget(made)
            pair.addWidget(below)
            column.addLayout(pair)
        self.ways["adabn"].setChecked(True)
        column.addSpacing(8)
        column.addWidget(label(self.tr("The entry stays as it is; the result is a new one."), "secondary"))
        column.addStretch(1)
        foot = QHBoxLayout()
        foot.setSpacing(8)
        foot.addStretch(1)
        foot.addWidget(cancel)
        foot.addWidget(self.start)
        column.addLayout(foot)
        drops = DropArea(self, images=False)
        drops.dropped.connect(lambda files: self.set_folder(files[0]))
        self.set_folder(folder)
        self.resize(_WIDE, column.totalHeightForWidth(_WIDE))

    def set_folder(self, folder: str) -> None:
        """Another folder."""
        self.folder = folder
        self._where.setText(display(os.path.normpath(folder)) if folder else self.tr("None yet; drop one here"))
        self.start.setEnabled(bool(folder))
        self.start.setToolTip("" if folder else self.tr("Choose a folder first"))

    def _choose(self) -> None:
        found = choose_folder(self)
        if found:
            self.set_folder(found[0])

    def _start(self) -> None:
        how = next(key for key, made in self.ways.items() if made.isChecked())
        self.accept()
        self.asked.emit(self.folder, how)
