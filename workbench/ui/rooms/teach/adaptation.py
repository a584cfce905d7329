"""Before and after: a slider whose positions are the predictions before adapting, after each step, and after it."""

from __future__ import annotations

import re

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.values import Estimate
from workbench.services.teach import TeachResult
from workbench.ui.rooms.teach.view import interval
from workbench.ui.widgets.controls import label
from workbench.ui.widgets.figures import StepSlider
from workbench.ui.widgets.terms import TermLabel, strong

_AFTER = re.compile(r"After (\d+) steps?")


class AdaptationPanel(QFrame):
    """The slider; hidden while there is only one position, as without anything to transfer from.

    Signals:
        step_changed(int): the person moved it.
    """

    step_changed = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setAccessibleName(self.tr("Adaptation"))
        self._names: tuple[str, ...] = ()
        self._now = TermLabel("", role="secondary", right=True)
        self.slider = StepSlider(self.tr("Adaptation: before to after"))
        self.slider.changed.connect(self._moved)
        head = QHBoxLayout()
        head.addWidget(label(self.tr("Adaptation"), "strong"))
        head.addWidget(self._now, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 8)
        column.setSpacing(0)
        column.addLayout(head)
        column.addWidget(self.slider)
        self.show_result(None)

    def show_result(self, result: TeachResult | None) -> None:
        """Positions and figures of a result; the knob stays where it was if the positions are the same."""
        names = () if result is None else tuple(self._words(n) for n in result.step_names)
        same = names == self._names
        self._names = names
        self.setVisible(len(names) > 1)
        if result is None or len(names) < 2:
            self.slider.set_steps(1, 0)
        else:
            self.slider.set_steps(len(names), self.slider.value() if same else len(names) - 1)
            self.slider.set_ends(names[0], self._figure(result, 0), names[-1], self._figure(result, -1))
        self._say()

    def step(self) -> int:
        """The position."""
        return self.slider.value()

    def _moved(self, value: int) -> None:
        self._say()
        self.step_changed.emit(value)

    def _say(self) -> None:
        if len(self._names) < 2:
            self._now.set_text("")
        elif len(self._names) == 2:
            self._now.set_text(strong(self._names[self.slider.value()]))
        else:
            here = strong(self.tr("Step {i}").format(i=self.slider.value()))
            self._now.set_text(self.tr("{step} of {n}").format(step=here, n=len(self._names) - 1))
        name = self._names[self.slider.value()] if len(self._names) > self.slider.value() else ""
        self.slider.track.setAccessibleName(self.tr("Adaptation: {name}").format(name=name))

    def _figure(self, result: TeachResult, at: int) -> str:
        found: Estimate | None = result.step_estimates[at] if result.step_estimates else None
        if found is None:
            return ""
        value, between = interval(found)
        return f"{strong(value) if at else value} {between}"

    def _words(self, name: str) -> str:
        """The services name the positions in English."""
        after = _AFTER.fullmatch(name)
        if after is not None:
            n = int(after.group(1))
            return self.tr("After 1 step") if n == 1 else self.tr("After {n} steps").format(n=n)
        return {
            "Before": self.tr("Before"),
            "After adapting": self.tr("After adapting"),
            "Without transfer": self.tr("Without transfer"),
            "With transfer": self.tr("With transfer"),
        }.get(name, name)
