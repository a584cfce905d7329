"""All algorithms by family, each with its line and its paper, and the form of the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from workbench.services.requests import AlgorithmRow, Catalogue
from workbench.ui.rooms.train.fields import Form
from workbench.ui.widgets.controls import button, clear_layout, label
from workbench.ui.widgets.panel import Panel, scroll


class AlgorithmsPage(QWidget):
    """Two panels: which algorithm, and its hyperparameters. Each change takes effect at once.

    Signals:
        chosen(str): key of an algorithm.
        params_changed: the form.
        closed: back to the plots.
    """

    chosen = Signal(str)
    params_changed = Signal()
    closed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: dict[str, AlgorithmRow] = {}
        self.buttons: dict[str, QRadioButton] = {}
        self._group = QButtonGroup(self)
        outer = QHBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(12)
        left = Panel(self.tr("All algorithms"), header_height=44, padding=0)
        content = QWidget()
        self._list = QVBoxLayout(content)
        self._list.setContentsMargins(16, 0, 16, 16)
        self._list.setSpacing(2)
        left.body.addWidget(scroll(content))
        self._right = Panel(" ", header_height=44, padding=0)
        self.reset = button(self.tr("Defaults"), "quiet", "undo")
        self.reset.setToolTip(self.tr("Every hyperparameter as it was designed"))
        self.reset.clicked.connect(self._reset)
        self.done = button(self.tr("Back to the plots"), "secondary")
        self.done.clicked.connect(self.closed)
        self._right.add_to_header(self.reset)
        self._right.add_to_header(self.done)
        detail = QWidget()
        column = QVBoxLayout(detail)
        column.setContentsMargins(16, 0, 16, 16)
        column.setSpacing(4)
        self._summary = label("", "body", wrap=True)
        self._paper = label("", "caption", wrap=True)
        self._tags = label("", "caption", wrap=True)
        self.form = Form()
        self.form.changed.connect(self.params_changed)
        self._none = label(self.tr("It has no hyperparameters."), "secondary")
        for widget in (self._summary, self._paper, self._tags):
            column.addWidget(widget)
        column.addSpacing(12)
        column.addWidget(self.form)
        column.addWidget(self._none)
        column.addStretch(1)
        self._right.body.addWidget(scroll(detail))
        outer.addWidget(left, 2)
        outer.addWidget(self._right, 3)

    def set_catalogue(self, catalogue: Catalogue) -> None:
        """List them, grouped by family in the catalogue's order."""
        clear_layout(self._list)
        self._rows = {row.info.key: row for row in catalogue.algorithms}
        self.buttons = {}
        families: dict[str, list[AlgorithmRow]] = {}
        for row in catalogue.algorithms:
            families.setdefault(row.info.family, []).append(row)
        for family, rows in families.items():
            head = label(family.capitalize(), "label")
            head.setContentsMargins(0, 8, 0, 0)
            self._list.addWidget(head)
            for row in rows:
                self._list.addWidget(self._choice(row))
        self._list.addStretch(1)

    def _choice(self, row: AlgorithmRow) -> QWidget:
        made = QWidget()
        column = QVBoxLayout(made)
        column.setContentsMargins(0, 2, 0, 6)
        column.setSpacing(0)
        choice = QRadioButton(row.info.title)
        choice.setAccessibleDescription(f"{row.info.summary} {row.info.paper}")
        choice.setToolTip(row.info.paper)
        choice.clicked.connect(lambda _c=False, key=row.info.key: self.chosen.emit(key))
        self._group.addButton(choice)
        self.buttons[row.info.key] = choice
        column.addWidget(choice)
        line = label(row.info.summary, "caption", wrap=True)
        line.setContentsMargins(24, 0, 0, 0)
        column.addWidget(line)
        return made

    def show_algorithm(self, key: str, params: Mapping[str, Any], *, locked: bool) -> None:
        """The chosen algorithm with its values."""
        row = self._rows.get(key)
        if row is None:
            return
        self.buttons[key].setChecked(True)
        for choice in self.buttons.values():
            choice.setEnabled(not locked)
        self._right.set_title(row.info.title)
        self._summary.setText(row.info.summary)
        self._paper.setText(row.info.paper)
        self._tags.setText(", ".join(sorted(row.info.tags)))
        if self.form.specs != row.fields or self.form.overrides() != dict(params):
            self.form.set_fields(row.fields, params)
        self.form.setEnabled(not locked)
        self.reset.setEnabled(not locked and bool(params))
        self._none.setVisible(not row.fields)

    def _reset(self) -> None:
        self.form.set_fields(self.form.specs, {})
        self.params_changed.emit()

    def focus_chosen(self) -> None:
        """Put the keyboard on the chosen algorithm."""
        now = self._group.checkedButton()
        if now is not None:
            now.setFocus(Qt.FocusReason.OtherFocusReason)
