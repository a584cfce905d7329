"""A panel: surface, one border, a header with a section title; and a frame for scrolling content."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from workbench.ui.widgets.controls import line
from workbench.ui.widgets.elided import Elided


class Panel(QFrame):
    """A panel with an optional header.

    Attributes:
        header: the header's row; widgets added to it come after the stretch, at the right.
        body: the layout below it, without margins on top of the panel's side padding (see ``padding``).
    """

    def __init__(
        self,
        title: str = "",
        *,
        beside: str = "",
        header_height: int = 48,
        padding: int = 16,
        rule: bool = False,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        column = QVBoxLayout(self)
        column.setContentsMargins(1, 1, 1, 1)
        column.setSpacing(0)
        self._title = Elided(title, "section", least=144)
        self._beside = Elided(beside, "secondary", least=0)
        head = QWidget()
        head.setFixedHeight(header_height)
        self.header = QHBoxLayout(head)
        self.header.setContentsMargins(15, 0, 15, 0)
        self.header.setSpacing(8)
        self.header.addWidget(self._title)
        self.header.addWidget(self._beside)
        self._beside.setVisible(bool(beside))
        self.header.addStretch(1)
        column.addWidget(head)
        head.setVisible(bool(title))  # after it has a parent: a widget without one would show as a window
        if rule:
            column.addWidget(line())
        self.body = QVBoxLayout()
        inner = max(padding - 1, 0)  # the border is part of the padding
        self.body.setContentsMargins(inner, 0 if title else inner, inner, inner)
        self.body.setSpacing(8)
        column.addLayout(self.body, 1)
        self.setAccessibleName(title)

    def set_title(self, title: str) -> None:
        """Another title."""
        self._title.setText(title)
        self.setAccessibleName(title)

    def set_beside(self, text: str) -> None:
        """What stands beside the title, e.g. a count."""
        self._beside.setText(text)
        self._beside.setVisible(bool(text))

    def add_to_header(self, widget: QWidget) -> None:
        """Put a control at the right of the header."""
        self.header.addWidget(widget)


def scroll(content: QWidget, parent: QWidget | None = None) -> QScrollArea:
    """A frameless vertical scroll area round ``content``."""
    area = QScrollArea(parent)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    content.setProperty("role", "content")
    area.setWidget(content)
    return area
