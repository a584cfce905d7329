"""The first row of Train: up to three recommendations as cards, and the way to all algorithms."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.values import Role, Task
from workbench.services.requests import Catalogue, Recommendation
from workbench.ui.rooms.train.cards import HEIGHT, ChoiceCard, minutes_words, title_of
from workbench.ui.rooms.train.setup import Setup, count
from workbench.ui.widgets.controls import button, label


class Recommended(QWidget):
    """Cards to choose from.

    Signals:
        chosen(Recommendation): by the person.
        all_asked: show all algorithms, or go back.
    """

    chosen = Signal(object)
    all_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedHeight(HEIGHT)
        self.rows: tuple[Recommendation, ...] = ()
        self.cards: list[ChoiceCard] = []
        self._group = QButtonGroup(self)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addStretch(1)
        self._title = label(self.tr("Recommended"), "strong")
        self._for = label("", "secondary")
        words.addWidget(self._title)
        words.addWidget(self._for)
        words.addStretch(1)
        self._words = QWidget()
        self._words.setLayout(words)
        words.setContentsMargins(0, 0, 0, 0)
        self._words.setFixedWidth(132)
        row.addWidget(self._words)
        self._row = QHBoxLayout()
        self._row.setSpacing(12)
        row.addLayout(self._row, 1)
        self._wait = label("", "secondary")
        self._row.addWidget(self._wait, 1)
        self.all = button(self.tr("All algorithms"), "secondary", "chevron-right")
        self.all.setLayoutDirection(Qt.LayoutDirection.RightToLeft)
        self.all.setFixedHeight(HEIGHT)
        self.all.setMinimumWidth(132)
        self.all.setCheckable(True)
        self.all.clicked.connect(self.all_asked)
        row.addWidget(self.all)

    def refresh(
        self,
        tasks: Sequence[Task],
        rows: Sequence[Recommendation],
        catalogue: Catalogue | None,
        setup: Setup,
        *,
        device: str,
        locked: bool,
        open_: bool,
    ) -> None:
        """Bring everything up to date.

        Args:
            tasks: the sources.
            rows: the recommendations; empty while they are not known.
            catalogue: empty while the learning library loads.
            setup: what is chosen.
            device: in words.
            locked: a run goes on.
            open_: all algorithms are shown.
        """
        usable = [t for t in tasks if t.classes and t.role is not Role.HELD_OUT]
        if not usable:
            self._show_waiting(self.tr("Add folders in Sources: there is nothing to learn from yet."))
        elif not rows or catalogue is None:
            self._show_waiting(self.tr("Loading the learning library"))
        else:
            self._for.setText(self.tr("for {n}, {device}").format(n=count(len(usable), "task"), device=device))
            self._show_rows(tuple(rows), catalogue)
        chosen = (setup.algorithm, setup.backbone, setup.pretrained)
        match = next((r for r in self.rows if (r.algorithm, r.backbone, r.pretrained) == chosen), None)
        self._mark(match)
        for card in self.cards:
            card.set_locked(locked)
        known = {a.info.key: a.info.title for a in catalogue.algorithms} if catalogue else {}
        custom = bool(self.rows) and match is None
        self.all.setText(known.get(setup.algorithm, self.tr("All algorithms")) if custom else self.tr("All algorithms"))
        self.all.setChecked(open_)
        self.all.setEnabled(catalogue is not None)

    def _show_waiting(self, text: str) -> None:
        self._clear()
        self._wait.setText(text)
        self._wait.show()

    def _show_rows(self, rows: tuple[Recommendation, ...], catalogue: Catalogue) -> None:
        if rows == self.rows and self.cards:
            return
        self._clear()
        self._wait.hide()
        self.rows = rows
        for item in rows:
            card = ChoiceCard(title_of(item, catalogue), minutes_words(item.minutes), item.reason)
            card.clicked.connect(lambda _c=False, item=item: self.chosen.emit(item))
            self._group.addButton(card)
            self.cards.append(card)
            self._row.addWidget(card, 1)

    def _clear(self) -> None:
        self.rows = ()
        for card in self.cards:
            self._group.removeButton(card)
            self._row.removeWidget(card)
            card.hide()
            card.deleteLater()
        self.cards = []

    def _mark(self, chosen: Recommendation | None) -> None:
        self._group.setExclusive(False)
        for card, row in zip(self.cards, self.rows, strict=True):
            card.setChecked(row is chosen)
        self._group.setExclusive(True)

    def set_compact(self, compact: bool) -> None:
        """Without the words at the left."""
        self._words.setVisible(not compact)
        self._row.setSpacing(8 if compact else 12)
