"""The few dialogs: help with the shortcut page, a bug with its details, a line of text asked for."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtGui import (
    QFont,
    QGuiApplication,
    QKeySequence,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
)
from PySide6.QtWidgets import (
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QPlainTextEdit,
    QStackedWidget,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from workbench.core import paths
from workbench.ui.actions import Action, room_title
from workbench.ui.widgets.controls import button, label, line
from workbench.ui.widgets.panel import scroll


class HelpDialog(QDialog):
    """A page per room, and all keys; stays open beside the work."""

    def __init__(
        self, rooms: Sequence[tuple[str, Sequence[tuple[str, str]]]], actions: Sequence[Action], parent: QWidget
    ) -> None:
        """Build it.

        Args:
            rooms: each room with its own keys (key, what it does).
            actions: the table.
            parent: the window.
        """
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Help"))
        self.resize(760, 540)
        self.list = QListWidget()
        self.list.setFixedWidth(180)
        self.list.setProperty("role", "pages")
        self.list.setAccessibleName(self.tr("Pages"))
        self.pages = QStackedWidget()
        self._keys: list[str] = []
        for room, _ in rooms:
            self.list.addItem(room_title(room))
            self.pages.addWidget(_page(room))
            self._keys.append(room)
        self.list.addItem(self.tr("Keyboard shortcuts"))
        self.pages.addWidget(_shortcuts(rooms, actions))
        self._keys.append("keys")
        self.list.currentRowChanged.connect(self.pages.setCurrentIndex)
        close = button(self.tr("Close"))
        close.clicked.connect(self.close)
        row = QHBoxLayout()
        row.setSpacing(16)
        row.addWidget(self.list)
        row.addWidget(self.pages, 1)
        foot = QHBoxLayout()
        foot.addStretch(1)
        foot.addWidget(close)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 16, 16, 16)
        column.setSpacing(12)
        column.addLayout(row, 1)
        column.addLayout(foot)

    def open_page(self, key: str) -> None:
        """Show a room's page, or ``keys``."""
        self.list.setCurrentRow(self._keys.index(key) if key in self._keys else 0)
        self.show()
        self.raise_()
        self.list.setFocus()


def _page(room: str) -> QTextBrowser:
    made = QTextBrowser()
    made.setOpenLinks(False)
    made.setAccessibleName(room_title(room))
    file = paths.resources() / "help" / f"{room}.md"
    made.setMarkdown(file.read_text("utf-8") if file.is_file() else "")
    _typeset(made.document())
    return made


def _typeset(document: QTextDocument) -> None:
    """Headings and lines as everywhere in the window; Markdown alone is set too large and too tight."""
    cursor = QTextCursor(document)
    block = document.begin()
    while block.isValid():
        level = block.blockFormat().headingLevel()
        form = QTextBlockFormat(block.blockFormat())
        form.setLineHeight(20.0, QTextBlockFormat.LineHeightTypes.FixedHeight.value)
        form.setTopMargin(18.0 if level > 1 else 0.0)
        form.setBottomMargin(4.0 if block.textList() else 8.0)
        cursor.setPosition(block.position())
        cursor.setBlockFormat(form)
        if level:
            cursor.select(QTextCursor.SelectionType.BlockUnderCursor)
            text = QTextCharFormat()
            text.setFontWeight(QFont.Weight.DemiBold)
            text.setProperty(QTextFormat.Property.FontSizeAdjustment.value, 2 if level == 1 else 1)  # x 1.5, x 1.2
            cursor.mergeCharFormat(text)
        block = block.next()


def _shortcuts(rooms: Sequence[tuple[str, Sequence[tuple[str, str]]]], actions: Sequence[Action]) -> QWidget:
    content = QWidget()
    grid = QGridLayout(content)
    grid.setContentsMargins(4, 4, 16, 4)
    grid.setHorizontalSpacing(24)
    grid.setVerticalSpacing(6)
    groups: dict[str, list[tuple[str, str]]] = {}
    for action in actions:
        if action.shortcut:
            key = QKeySequence(action.shortcut).toString(QKeySequence.SequenceFormat.NativeText)
            groups.setdefault(action.group, []).append((key, action.text.removesuffix("...")))
    for room, keys in rooms:
        if keys:
            groups[room_title(room)] = [*groups.get(room_title(room), []), *keys]
    at = 0
    for group, keys in groups.items():
        if at:
            grid.addWidget(line(), at, 0, 1, 2)
            at += 1
        grid.addWidget(label(group, "section"), at, 0, 1, 2)
        at += 1
        for key, text in keys:
            grid.addWidget(label(key, "name"), at, 0)
            grid.addWidget(label(text, "secondary", wrap=True), at, 1)
            at += 1
    grid.setColumnStretch(1, 1)
    grid.setRowStretch(at, 1)
    return scroll(content)


class BugDialog(QDialog):
    """Something is broken in the workbench itself: says so, and gives the details to copy."""

    def __init__(self, error: BaseException, details: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Something went wrong"))
        self.resize(620, 380)
        self.details = report(error, details)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 20, 20, 16)
        column.setSpacing(8)
        column.addWidget(label(self.tr("Something went wrong inside the workbench"), "section"))
        column.addWidget(
            label(
                self.tr("Your project is safe: everything acknowledged is on the disk. The last step was not done."),
                "secondary",
                wrap=True,
            )
        )
        text = QPlainTextEdit(self.details)
        text.setReadOnly(True)
        text.setAccessibleName(self.tr("Details"))
        column.addWidget(text, 1)
        row = QHBoxLayout()
        row.addStretch(1)
        self.copy = button(self.tr("Copy details"), icon="copy")
        self.copy.clicked.connect(self._copy)
        close = button(self.tr("Go on"), "primary")
        close.clicked.connect(self.close)
        close.setDefault(True)
        row.addWidget(self.copy)
        row.addWidget(close)
        column.addLayout(row)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.details)
        self.copy.setText(self.tr("Copied"))


def report(error: BaseException, details: str) -> str:
    """The details of a bug as text, the home folder's name left out."""
    head = f"{type(error).__name__}: {error}\nPython {sys.version.split()[0]}, {platform.platform()}\n\n"
    return (head + (details or "no details")).replace(str(Path.home()), "~")


class AskText(QDialog):
    """One line of text; ``text()`` after ``exec()``."""

    def __init__(self, title: str, question: str, text: str, action: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle(title)
        self.setMinimumWidth(380)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 20, 20, 16)
        column.setSpacing(8)
        column.addWidget(label(question, "label"))
        self.field = QLineEdit(text)
        self.field.setAccessibleName(question)
        self.field.selectAll()
        column.addWidget(self.field)
        row = QHBoxLayout()
        row.addStretch(1)
        cancel, done = button(self.tr("Cancel")), button(action, "primary")
        done.setDefault(True)
        cancel.clicked.connect(self.reject)
        done.clicked.connect(self.accept)
        row.addWidget(cancel)
        row.addWidget(done)
        column.addSpacing(4)
        column.addLayout(row)

    def text(self) -> str:
        """What was typed."""
        return self.field.text().strip()
