"""Asking how knowledge is to be adapted to a folder of another domain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import cast

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QDialog, QHBoxLayout, QRadioButton, QSpinBox, QVBoxLayout, QWidget

from workbench.core.paths import display
from workbench.core.training import ALIGNMENTS, CLOSED_FORMS, Align
from workbench.ui.values import Towards
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.drop import DropArea, choose_folder
from workbench.ui.widgets.elided import Elided

_WIDE = 540
_MINUTES, _MOST_MINUTES = 5, 10_000


class AlignDialog(QDialog):
    """A folder, and one of two closed forms, or one of two penalties that a run is trained with.

    Signals:
        asked(str, str): folder and ``adabn`` or ``coral``.
        training_asked(object): how it is to be trained, a ``Towards``.
    """

    asked = Signal(str, str)
    training_asked = Signal(object)

    def __init__(self, entry: str, folder: str, why_not: Mapping[str, str], parent: QWidget) -> None:
        """Build it.

        Args:
            entry: name of the knowledge.
            folder: chosen already, or "".
            why_not: why a way cannot be chosen, by its key; "" or missing where it can.
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
        in_seconds = (
            ("adabn", self.tr("Takes the statistics of the new pictures in the place of the old ones.")),
            ("coral", self.tr("Turns the features of the new pictures so that they vary as the old ones do.")),
        )
        by_training = (
            ("mmd", self.tr("Trains the network so that the features of both have the same distribution.")),
            ("dann", self.tr("Trains the network against a second one that tries to tell the two apart.")),
        )
        for title, ways in (
            (self.tr("In seconds, without training"), in_seconds),
            (self.tr("By going on training, on the sources and these pictures"), by_training),
        ):
            column.addSpacing(4)
            column.addWidget(label(title, "label"))
            for key, text in ways:
                self._way(column, key, text, why_not.get(key, ""))
        self.minutes = QSpinBox()
        self.minutes.setRange(1, _MOST_MINUTES)
        self.minutes.setValue(_MINUTES)
        self.minutes.setSuffix(self.tr(" min"))
        self.minutes.setFixedWidth(104)
        self.minutes.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.minutes.setAccessibleName(self.tr("Minutes of training"))
        budget = QHBoxLayout()
        budget.setContentsMargins(24, 0, 0, 0)
        budget.setSpacing(12)
        self._budget = label(self.tr("Stop after"), "secondary")
        self._budget.setBuddy(self.minutes)
        budget.addWidget(self._budget)
        budget.addWidget(self.minutes)
        budget.addStretch(1)
        column.addLayout(budget)
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
        self._group.buttonToggled.connect(self._show_way)
        self.set_folder(folder)
        self._show_way()
        self.resize(_WIDE, column.totalHeightForWidth(_WIDE))

    def _way(self, column: QVBoxLayout, key: str, text: str, why: str) -> None:
        made = QRadioButton(ALIGNMENTS[key])
        made.setAccessibleName(f"{ALIGNMENTS[key]}. {text}")
        made.setEnabled(not why)
        made.setToolTip(why)
        self._group.addButton(made)
        self.ways[key] = made
        below = label(f"{text} {why}".strip(), "caption", wrap=True)
        below.setContentsMargins(24, -2, 0, 2)
        pair = QVBoxLayout()
        pair.setSpacing(0)
        pair.addWidget(made)
        pair.addWidget(below)
        column.addLayout(pair)

    @property
    def how(self) -> str:
        """The way that is chosen."""
        return next(key for key, made in self.ways.items() if made.isChecked())

    def _show_way(self) -> None:
        training = self.how not in CLOSED_FORMS
        self.minutes.setEnabled(training)
        self._budget.setEnabled(training)
        self.start.setText(self.tr("Go to Train") if training else self.tr("Adapt"))

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
        how = self.how
        self.accept()
        if how in CLOSED_FORMS:
            self.asked.emit(self.folder, how)
        else:
            self.training_asked.emit(Towards(self.folder, cast("Align", how), self.minutes.value()))
