"""The card of an entry: whether it is whole, how well it did, where it came from, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from workbench.ui.widgets.controls import Chip, button, clear_layout, label, line
from workbench.ui.widgets.elided import Elided
from workbench.ui.widgets.figures import Figure
from workbench.ui.widgets.panel import Panel, scroll
from workbench.ui.widgets.words import plain


class EntryCard(Panel):
    """The card.

    Attributes:
        go_on: train on from this entry.
        export: write it as one file.
        more: the other actions.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(padding=0, parent=parent)
        self.setProperty("role", "card")
        self.name = Elided("", "section", least=80)
        self.chip = Chip("", "neutral")
        self.figure = Figure("")
        self.figure.caption.hide()
        self.nothing = label(self.tr("Not measured"), "strong")
        self.measured = Elided("", "secondary", least=60)
        self._grid = QGridLayout()
        self.go_on = button(self.tr("Continue training"))
        self.go_on.setToolTip(self.tr("Train on from this entry, on other sources"))
        self.export = button(self.tr("Export bundle"))
        self.export.setToolTip(self.tr("Write the entry as one file, for another workbench"))
        self.more = button("", "icon", "more", name=self.tr("More to do with this entry"))
        self._assemble()

    def _assemble(self) -> None:
        self.body.setSpacing(0)
        head = QHBoxLayout()
        head.setContentsMargins(15, 0, 15, 0)
        head.setSpacing(8)
        head.addWidget(self.name, 1)
        head.addWidget(self.chip)
        top = QWidget()
        top.setFixedHeight(44)
        top.setLayout(head)
        self.body.addWidget(top)
        middle = QVBoxLayout()
        middle.setContentsMargins(15, 0, 15, 8)
        middle.setSpacing(0)
        for widget in (self.figure, self.nothing, self.measured):
            middle.addWidget(widget)
        self.body.addLayout(middle)
        self.body.addWidget(line())
        content = QWidget()
        self._grid = QGridLayout(content)
        self._grid.setContentsMargins(15, 12, 15, 12)
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnMinimumWidth(0, 96)
        self._grid.setColumnStretch(1, 1)
        self._facts = scroll(content)
        self._facts.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # what does not fit is reached by the arrow keys
        self._facts.setAccessibleName(self.tr("What is known of the entry"))
        self.body.addWidget(self._facts, 1)
        self.body.addWidget(line())
        foot = QHBoxLayout()
        foot.setContentsMargins(15, 11, 15, 11)
        foot.setSpacing(8)
        for made in (self.go_on, self.export, self.more):
            foot.addWidget(made)
        foot.addStretch(1)
        self.body.addLayout(foot)

    def set_narrow(self, *, narrow: bool) -> None:
        """Shorter words on the buttons."""
        for made, short, whole in (
            (self.go_on, self.tr("Continue"), self.tr("Continue training")),
            (self.export, self.tr("Export"), self.tr("Export bundle")),
        ):
            made.setText(short if narrow else whole)
            made.setAccessibleName(whole)
        self._grid.setColumnMinimumWidth(0, 84 if narrow else 96)

    def show_entry(
        self, name: str, figure: tuple[str, str] | None, measured: str, facts: Sequence[Sequence[str]]
    ) -> None:
        """Show an entry.

        Args:
            name: for people.
            figure: accuracy and interval, ``None`` where it was not measured.
            measured: on what.
            facts: name, value, tooltip.
        """
        self.setAccessibleName(name)
        self.name.setText(name)
        self.figure.setVisible(figure is not None)
        self.nothing.setVisible(figure is None)
        if figure is not None:
            self.figure.reset_width()
            self.figure.set(*figure)
            self.figure.setAccessibleName(
                self.tr("On its own validation: {figure}").format(figure=" ".join(figure).strip())
            )
        self.measured.setText(measured)
        clear_layout(self._grid)
        for at, (what, value, more) in enumerate(facts):
            name_ = label(what, "secondary")
            name_.setFixedHeight(20)  # as high as a line of the value
            self._grid.addWidget(name_, at, 0, Qt.AlignmentFlag.AlignTop)
            shown = label(value, "body", wrap=True)
            shown.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            shown.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            shown.setAccessibleName(f"{what}: {value}")
            shown.setToolTip(plain(more) if more else "")
            self._grid.addWidget(shown, at, 1)
        self._grid.setRowStretch(len(facts), 1)

    def show_checked(self, why: str | None) -> None:
        """Whether its weights are those of its card: ``None`` while they are looked at, "" for yes, else why not."""
        if why is None:
            self.chip.set(self.tr("checking"), "neutral", "")
        elif why:
            self.chip.set(self.tr("damaged"), "bad", "cross-circle")
        else:
            self.chip.set(self.tr("verified"), "good", "check-circle")
        tip = self.tr("Its weights are those of its card: their hash was checked") if why == "" else why or ""
        self.chip.setToolTip(plain(tip) if tip else "")
        self.chip.setAccessibleName(f"{self.chip.text()}. {tip}" if tip else self.chip.text())
