"""The left column: all class cards, the target for a new one, and the adaptation slider pinned below.

It includes the gap to the next column, where its scroll bar lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.teach import TeachTask
from workbench.core.values import ClassId
from workbench.ui.rooms.teach.adaptation import AdaptationPanel
from workbench.ui.rooms.teach.cards import ClassCard, NewClassTarget
from workbench.ui.rooms.teach.carrying import Carried, Catcher
from workbench.ui.rooms.teach.deeds import NEW, Deeds
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.panel import scroll
from workbench.ui.widgets.thumbs import Thumbs


class ClassColumn(QWidget):
    """Cards in the order of their keys."""

    def __init__(
        self, deeds: Deeds, thumbs: Thumbs, task: Callable[[], TeachTask], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._deeds, self._thumbs, self._task = deeds, thumbs, task
        self._cards: dict[ClassId, ClassCard] = {}
        self._compact = False
        self._checks: Mapping[str, float] = {}
        self._count = label("", "secondary")
        self.new_button = button(self.tr("New class"), "secondary", "plus", size="small")
        self.new_button.setToolTip(self.tr("Choose pictures for a new class, or drop them on this button"))
        self._button_catcher = Catcher(self.new_button, lambda: NEW)
        self._button_catcher.caught.connect(self._caught)
        self._button_catcher.over.connect(self._button_over)
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 0, 0)
        head.addWidget(label(self.tr("Classes"), "section"))
        head.addStretch(1)
        head.addWidget(self._count)
        head.addWidget(self.new_button)
        self._inside = QWidget()
        self._stack = QVBoxLayout(self._inside)
        self._stack.setContentsMargins(0, 0, 0, 0)
        self._stack.setSpacing(8)
        self.target = NewClassTarget(deeds)
        self.new_button.clicked.connect(self.target.choose)
        self._stack.addWidget(self.target)
        self._stack.addStretch(1)
        self.area = scroll(self._inside)
        self.adaptation = AdaptationPanel()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self._head = QWidget()
        self._head.setFixedHeight(28)
        self._head.setLayout(head)
        column.addWidget(self._head)
        column.addWidget(self.area, 1)
        column.addWidget(self.adaptation)
        self.set_compact(compact=False)

    def cards(self) -> list[ClassCard]:
        """All cards in order."""
        return [self._cards[c.id] for c in self._task().classes if c.id in self._cards]

    def card(self, id_: ClassId) -> ClassCard | None:
        """The card of a class."""
        return self._cards.get(id_)

    def show_task(self, task: TeachTask, checks: Mapping[str, float]) -> None:
        """Show all classes; a card lives as long as its class."""
        self._checks = checks
        there = {c.id for c in task.classes}
        for id_ in [i for i in self._cards if i not in there]:
            card = self._cards.pop(id_)
            self._stack.removeWidget(card)
            card.hide()
            card.deleteLater()
        labelled = Counter(task.labels[q.sha256] for q in task.queries if q.sha256 in task.labels)
        for index, item in enumerate(task.classes):
            if item.id not in self._cards:
                made = ClassCard(self._deeds, self._thumbs, item.id, self._task)
                made.set_compact(self._compact)
                self._cards[item.id] = made
                self._stack.insertWidget(index, made)
            elif self._stack.indexOf(self._cards[item.id]) != index:
                self._stack.removeWidget(self._cards[item.id])
                self._stack.insertWidget(index, self._cards[item.id])
            self._cards[item.id].show_class(index, item, labelled[item.id], checks)
        self.target.set_number(len(task.classes) + 1)
        self._count.setText(self._words(task))
        self._tab_order()

    def _words(self, task: TeachTask) -> str:
        classes, examples = len(task.classes), sum(len(c.images) for c in task.classes)
        if not classes:
            return ""
        first = self.tr("1 class") if classes == 1 else self.tr("{n} classes").format(n=classes)
        second = self.tr("1 example") if examples == 1 else self.tr("{n} examples").format(n=examples)
        return f"{first}, {second}"

    def _tab_order(self) -> None:
        chain: list[QWidget] = [self.new_button]
        for card in self.cards():
            chain += [card.name, card.more, card.grid]
        chain += [self.target, self.adaptation.slider.track]
        for before, after in pairwise(chain):
            QWidget.setTabOrder(before, after)

    def set_compact(self, compact: bool) -> None:
        """The narrow form: the new class is a button in the head."""
        self._compact = compact
        wide, gap = (264, 12) if compact else (312, 16)
        self.setFixedWidth(wide + gap)
        for part in (self._head, self._inside, self.adaptation):
            part.setFixedWidth(wide)
        self.new_button.setVisible(compact)
        self._count.setVisible(not compact)
        self.target.setVisible(not compact)
        for card in self._cards.values():
            card.set_compact(compact)

    def begin_naming(self, id_: str) -> None:
        """Let the person name a class that was just made."""
        card = self._cards.get(ClassId(id_))
        if card is not None:
            self._inside.layout()
            self.area.ensureWidgetVisible(card)
            card.name.begin()

    def _caught(self, carried: Carried) -> None:
        self._deeds.take(carried, NEW)

    def _button_over(self, words: str) -> None:
        self.new_button.setDown(bool(words))
