"""What every room is: a title, a line that says what it is for, its actions, a message strip, and its content."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from workbench.ui.state import AppState
from workbench.ui.widgets.controls import label
from workbench.ui.widgets.strip import MessageStrip
from workbench.ui.widgets.terms import TermLabel

_COMPACT_BELOW = 1124  # a window of 1200 less its rail


class Room(QWidget):
    """A room of the window.

    A room is built with ``(state, parent)``, reads ``state`` and submits to ``state.lanes``. It implements
    ``compact_changed`` where its content needs another layout in a narrow window, and lists its own keys in ``KEYS``
    for the shortcut page.

    Attributes:
        strip: the message strip.
        body: the layout of the content.
    """

    KEYS: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, state: AppState, title: str, subtitle: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.state = state
        self._compact = False
        self.setAccessibleName(title)
        self._title = label(title, "title")
        self._title.setFixedHeight(28)
        self._subtitle = TermLabel(subtitle)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._title)
        words.addWidget(self._subtitle)
        self._actions = QHBoxLayout()
        self._actions.setSpacing(8)
        head = QHBoxLayout()
        head.setSpacing(16)
        head.addLayout(words, 1)
        head.addLayout(self._actions)
        self.strip = MessageStrip()
        self.body = QVBoxLayout()
        self.body.setSpacing(12)
        self._column = QVBoxLayout(self)
        self._column.setSpacing(12)
        self._column.addLayout(head)
        self._column.addWidget(self.strip)
        self._column.addLayout(self.body, 1)
        self._pad()

    @property
    def compact(self) -> bool:
        """Whether the window is narrow (under 1200 px): small paddings, narrow columns."""
        return self._compact

    def compact_changed(self, compact: bool) -> None:
        """The window became narrow or wide; for rooms to override."""

    def set_subtitle(self, text: str) -> None:
        """What the room is for, or what it is about now; may hold ``terms.term`` words."""
        self._subtitle.set_text(text)

    def subtitle(self) -> str:
        """The line under the title."""
        return self._subtitle.text()

    def add_action(self, button: QPushButton) -> QPushButton:
        """Put a button at the right of the header; the primary one last."""
        self._actions.addWidget(button)
        return button

    def show_message(
        self,
        kind: str,
        headline: str,
        detail: str = "",
        action_text: str = "",
        callback: Callable[[], object] | None = None,
    ) -> None:
        """Show a message in the strip."""
        self.strip.show_message(kind, headline, detail, action_text, callback)

    def focus_start(self) -> None:
        """Put the keyboard where work begins; called when the room is entered from the keyboard."""
        self.setFocus()

    def reveal(self, kind: str, key: str) -> None:
        """Show one thing that the search found; for rooms to override.

        Args:
            kind: task, class, run or entry.
            key: the task's id; for a class of a source the task's id, a line break, the class's name; for a class of
                the new task its id; the run's or the entry's id.
        """

    def selection(self) -> str:
        """What is selected, to be selected again at the next start; "" for nothing; for rooms to override."""
        return ""

    def select(self, key: str) -> None:
        """Select what ``selection`` said; what is not there any more is left; for rooms to override."""

    def _pad(self) -> None:
        if self._compact:
            self._column.setContentsMargins(16, 12, 16, 12)
        else:
            self._column.setContentsMargins(24, 16, 24, 20)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Narrow or wide."""
        compact = self.width() < _COMPACT_BELOW
        if compact != self._compact:
            self._compact = compact
            self._pad()
            self.compact_changed(compact)
        super().resizeEvent(event)
