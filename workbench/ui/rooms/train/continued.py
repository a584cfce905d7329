"""The strip above the setup where a run goes on from an entry: which one, and what is done against forgetting."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QWidget

from workbench.core.paths import display
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
        self.leave = button("", "icon", "close", size="small", name=self.tr("Begin from nothing instead"))
        self.leave.clicked.connect(self.left)
        row = QHBoxLayout(self)
        row.setContentsMargins(15, 0, 8, 0)
        row.setSpacing(8)
        row.addWidget(IconLabel("knowledge", 16, "accent"))
        row.addWidget(self._before)
        row.addWidget(self.name)
        row.addStretch(1)
        row.addWidget(self._against)
        row.addWidget(self.keep)
        row.addWidget(self.leave)
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
        self.setAccessibleName(self.tr("The run goes on from {name}").format(name=name))

    def set_narrow(self, narrow: bool) -> None:
        """Fewer words."""
        self._against.setVisible(not narrow)
