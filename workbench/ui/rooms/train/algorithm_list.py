"""The list of all algorithms: by family, each with its line and its paper, and a field to filter it with."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QFocusEvent, QMouseEvent
from PySide6.QtWidgets import QButtonGroup, QRadioButton, QScrollArea, QVBoxLayout, QWidget

from workbench.core.values import AlgorithmInfo
from workbench.ui import theme
from workbench.ui.widgets.controls import clear_layout, label
from workbench.ui.widgets.methods import by_family, family_title, matches, tag_words
from workbench.ui.widgets.panel import Panel, scroll
from workbench.ui.widgets.search_field import SearchField
from workbench.ui.widgets.strip import EmptyHint


class AlgorithmList(Panel):
    """One of all algorithms is chosen.

    Attributes:
        filter: words to look for.
        buttons: by key.

    Signals:
        chosen(str): key of an algorithm, by the person.
    """

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("All algorithms", header_height=44, padding=0, rule=True, parent=parent)
        self.setMinimumWidth(280)
        self.buttons: dict[str, QRadioButton] = {}
        self._infos: dict[str, AlgorithmInfo] = {}
        self._entries: dict[str, _Entry] = {}
        self._heads: dict[str, QWidget] = {}
        self._group = QButtonGroup(self)
        self._wanted = ""
        self.filter = SearchField(
            self.tr("Filter the algorithms"),
            self.tr("Words in the title, family, description or paper; Escape clears"),
            self.tr("Filter"),
        )
        self.filter.setFixedWidth(136)
        self.filter.textChanged.connect(self._narrow)
        self.filter.left_down.connect(self._into_list)
        self.filter.returnPressed.connect(self._take_first)
        self.add_to_header(self.filter)
        content = QWidget()
        self._list = QVBoxLayout(content)
        self._list.setContentsMargins(8, 4, 8, 12)
        self._list.setSpacing(0)
        self.area: QScrollArea = scroll(content)
        self.nothing = EmptyHint("filter", self.tr("No algorithm has these words"))
        self.nothing.hide()
        self.body.addWidget(self.area, 1)
        self.body.addWidget(self.nothing, 1)

    def set_algorithms(self, infos: Iterable[AlgorithmInfo]) -> None:
        """List them."""
        clear_layout(self._list)
        for made in self.buttons.values():
            self._group.removeButton(made)
        self.buttons, self._entries, self._heads, self._infos = {}, {}, {}, {}
        for family, members in by_family(infos).items():
            head = label(family_title(family), "label")
            head.setContentsMargins(8, 12, 8, 4)
            self._heads[family] = head
            self._list.addWidget(head)
            for info in members:
                entry = _Entry(info, self.area)
                entry.radio.clicked.connect(lambda _c=False, key=info.key: self.chosen.emit(key))
                self._group.addButton(entry.radio)
                self.buttons[info.key] = entry.radio
                self._entries[info.key] = entry
                self._infos[info.key] = info
                self._list.addWidget(entry)
        self._list.addStretch(1)
        self._narrow()

    def shown(self) -> tuple[str, ...]:
        """Keys of those that the filter lets through, from top to bottom."""
        return tuple(key for key, entry in self._entries.items() if not entry.isHidden())

    def set_chosen(self, key: str, *, locked: bool) -> None:
        """Mark one; nothing can be changed while ``locked``."""
        if key in self.buttons:
            self.buttons[key].setChecked(True)
        for choice in self.buttons.values():
            choice.setEnabled(not locked)

    def focus_chosen(self) -> None:
        """Put the keyboard on the chosen one, and scroll to it."""
        now = self._group.checkedButton()
        row = next((entry for entry in self._entries.values() if entry.radio is now), None)
        if row is not None and not row.isHidden():
            row.radio.setFocus(Qt.FocusReason.OtherFocusReason)
            QTimer.singleShot(0, row, lambda: self.area.ensureWidgetVisible(row, 0, 60))  # rows find their height first
        else:
            self.filter.setFocus(Qt.FocusReason.OtherFocusReason)

    def _narrow(self) -> None:
        words = self.filter.text().strip()
        families = set()
        for key, entry in self._entries.items():
            info = self._infos[key]
            shown = matches(info, words)
            entry.setVisible(shown)
            entry.radio.setVisible(shown)  # the arrow keys pass over hidden buttons, not over those in hidden rows
            if shown:
                families.add(info.family)
        for family, head in self._heads.items():
            head.setVisible(family in families)
        found = self.shown()
        everything = f"{len(self._entries)}"
        text = self.tr("{n} of {all}").format(n=len(found), all=everything) if words else everything
        self.set_beside(text if self._entries else "")
        self.area.setVisible(bool(found) or not words)
        self.nothing.setVisible(not found and bool(words))
        self.area.verticalScrollBar().setValue(0)

    def _into_list(self) -> None:
        found = self.shown()
        if not found:
            return
        now = self._group.checkedButton()
        first = now if now is not None and not now.isHidden() else self.buttons[found[0]]
        first.setFocus(Qt.FocusReason.TabFocusReason)

    def _take_first(self) -> None:
        found = self.shown()
        if found and self.buttons[found[0]].isEnabled():
            self.buttons[found[0]].click()


class _Radio(QRadioButton):
    """A radio button that scrolls its row into sight when the keyboard comes to it."""

    def __init__(self, text: str, row: QWidget, area: QScrollArea) -> None:
        super().__init__(text, row)
        self.setFont(theme.font("name"))
        self._row, self._area = row, area

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Show the whole row."""
        super().focusInEvent(event)
        self._area.ensureWidgetVisible(self._row, 0, 24)


class _Entry(QWidget):
    """One row: title, line, paper; all of it can be clicked."""

    def __init__(self, info: AlgorithmInfo, area: QScrollArea) -> None:
        super().__init__()
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 4, 8, 6)
        column.setSpacing(0)
        self.radio = _Radio(info.title, self, area)
        tags = "; ".join(tag_words(info.tags))
        self.radio.setAccessibleDescription(f"{info.summary} {info.paper}. {tags}.")
        self.setToolTip(tags)
        column.addWidget(self.radio)
        for text, role in ((info.summary, "caption"), (info.paper, "caption")):
            line = label(text, role, wrap=True)
            line.setContentsMargins(24, line.contentsMargins().top(), 0, line.contentsMargins().bottom())
            column.addWidget(line)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click anywhere in the row chooses."""
        inside = self.rect().contains(event.position().toPoint())
        if event.button() is Qt.MouseButton.LeftButton and inside and self.radio.isEnabled():
            self.radio.click()
        super().mouseReleaseEvent(event)
