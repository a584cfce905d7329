"""The strip above the setup where a run goes on from an entry: which one, and what is done against forgetting.

Where it is drawn towards another domain, that stands in the place of forgetting.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QWidget

from workbench.core.paths import display
from workbench.core.training import ALIGNMENTS
from workbench.ui.rooms.train.setup import Setup
from workbench.ui.widgets.controls import Segmented, button, label
from workbench.ui.widgets.elided import Elided
from workbench.ui.widgets.strip import IconLabel


class ContinuedStrip(QFrame):
    """A panel of 44 px; hidden while a run begins from nothing.

    Signals:
        keep_chosen(str): ``none``, ``l2``, ``ewc`` or ``replay``, by the person.
        left: the run is to begin from nothing after all.
    """

    keep_chosen = Signal(str)
    left = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._towards = self._narrow = False
        self.setProperty("role", "panel")
        self.setFixedHeight(44)
        self.name = Elided("", "strong", least=80)
        self._before = label(self.tr("Goes on from"), "secondary")
        self._against = label(self.tr("Against forgetting"), "secondary")
        self.keep = Segmented(
            [
                ("l2", self.tr("L2")),
                ("ewc", self.tr("EWC")),
                ("replay", self.tr("Replay")),
                ("none", self.tr("Nothing")),
            ],
            "l2",
            self.tr("Against forgetting"),
        )
        self.keep.setToolTip(
            self.tr(
                "L2 holds the network near where it stood, EWC most where it mattered to the old sources, replay "
                "trains on some of their pictures too. What is lost is measured in the end."
            )
        )
        self.keep.changed.connect(self.keep_chosen)
        self._domain = label(self.tr("Drawn towards"), "secondary")
        self.domain = Elided("", "strong", least=80)
        self.leave = button("", "icon", "close", size="small", name=self.tr("Begin from nothing instead"))
        self.leave.clicked.connect(self.left)
        row = QHBoxLayout(self)
        row.setContentsMargins(15, 0, 8, 0)
        row.setSpacing(8)
        row.addWidget(IconLabel("knowledge", 16, "accent"))
        row.addWidget(self._before)
        row.addWidget(self.name)
        row.addStretch(1)
        row.addWidget(self._domain)
        row.addWidget(self.domain)
        row.addWidget(self._against)
        row.addWidget(self.keep)
        row.addWidget(self.leave)
        self._show_parts()
        self.hide()

    def show_setup(self, setup: Setup, *, locked: bool) -> None:
        """Show what a setup goes on from; nothing can be changed while it runs."""
        self.setVisible(setup.start is not None)
        if setup.start is None:
            return
        name = display(setup.start.name)
        self.name.setText(name)
        self.keep.set_value(setup.keep or "none")
        self.keep.setEnabled(not locked)
        self.leave.setVisible(not locked)
        said = self.tr("The run goes on from {name}").format(name=name)
        if setup.towards is not None:
            folder = display(os.path.normpath(setup.towards.folder))
            how = ALIGNMENTS[setup.towards.how]
            self.domain.setText(self.tr("{folder} by {how}").format(folder=PurePath(folder).name or folder, how=how))
            said = self.tr("{said}, drawn towards {folder} by {how}").format(said=said, folder=folder, how=how)
        self._towards = setup.towards is not None
        self._show_parts()
        self.setAccessibleName(said)

    def set_narrow(self, narrow: bool) -> None:
        """Fewer words."""
        self._narrow = narrow
        self._show_parts()

    def _show_parts(self) -> None:
        self._domain.setVisible(self._towards)
        self.domain.setVisible(self._towards)
        self.keep.setVisible(not self._towards)
        self._against.setVisible(not self._towards and not self._narrow)
