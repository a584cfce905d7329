"""All algorithms beside the form of the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QRadioButton, QVBoxLayout, QWidget

from workbench.services.requests import AlgorithmRow, Catalogue
from workbench.ui.rooms.train.algorithm_list import AlgorithmList
from workbench.ui.rooms.train.fields import Form
from workbench.ui.widgets.chips import Chip
from workbench.ui.widgets.controls import FlowLayout, button, clear_layout, label
from workbench.ui.widgets.methods import tag_words
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
        self._shown = ""
        outer = QHBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(12)
        self.list = AlgorithmList()
        self.list.chosen.connect(self.chosen)
        self._right = Panel(" ", header_height=44, padding=0, rule=True)
        self.reset = button(self.tr("Defaults"), "quiet", "undo")
        self.reset.setToolTip(self.tr("Every hyperparameter as it was designed"))
        self.reset.clicked.connect(self._reset)
        self.done = button(self.tr("Back to the plots"), "secondary")
        self.done.clicked.connect(self.closed)
        self._right.add_to_header(self.reset)
        self._right.add_to_header(self.done)
        self._detail = scroll(self._build_detail())
        self._right.body.addWidget(self._detail)
        outer.addWidget(self.list, 2)
        outer.addWidget(self._right, 3)

    def _build_detail(self) -> QWidget:
        detail = QWidget()
        column = QVBoxLayout(detail)
        column.setContentsMargins(16, 12, 16, 16)
        column.setSpacing(4)
        self._summary = label("", "body", wrap=True)
        self._paper = label("", "caption", wrap=True)
        tags = QWidget()
        self.tags = FlowLayout(tags, 6)
        self.form = Form()
        self.form.changed.connect(self.params_changed)
        self._none = label(self.tr("It has no hyperparameters."), "secondary")
        column.addWidget(self._summary)
        column.addWidget(self._paper)
        column.addSpacing(4)
        column.addWidget(tags)
        column.addSpacing(12)
        column.addWidget(self.form)
        column.addWidget(self._none)
        column.addStretch(1)
        return detail

    @property
    def buttons(self) -> dict[str, QRadioButton]:
        """The choices by key."""
        return self.list.buttons

    def set_catalogue(self, catalogue: Catalogue) -> None:
        """List them."""
        self._rows = {row.info.key: row for row in catalogue.algorithms}
        self._shown = ""
        self.list.set_algorithms(row.info for row in catalogue.algorithms)

    def show_algorithm(self, key: str, params: Mapping[str, Any], *, locked: bool) -> None:
        """The chosen algorithm with its values."""
        row = self._rows.get(key)
        if row is None:
            return
        self.list.set_chosen(key, locked=locked)
        if key != self._shown:
            self._shown = key
            self._right.set_title(row.info.title)
            self._summary.setText(row.info.summary)
            self._paper.setText(row.info.paper)
            clear_layout(self.tags)
            for words in tag_words(row.info.tags):
                self.tags.addWidget(Chip(words))
            self._detail.verticalScrollBar().setValue(0)
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
        self.list.focus_chosen()
