"""A class name that is edited where it stands."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QFocusEvent, QFontMetrics, QKeyEvent, QMouseEvent
from PySide6.QtWidgets import QLineEdit, QWidget

from workbench.ui import theme
from workbench.ui.widgets.words import plain


class NameField(QLineEdit):
    """A name that is edited where it stands: click, Enter or F2 begin, Enter or leaving keeps, Escape gives up.

    Signals:
        renamed(str): another name was typed.
    """

    renamed = Signal(str)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name = name
        self._widest = 80
        self.setProperty("kind", "bare")
        self.setFont(theme.font("strong"))
        self.setMaxLength(100)
        self.setFixedHeight(20)
        self.setReadOnly(True)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.NoContextMenu)
        self.textEdited.connect(self._fit)
        self._show()

    def set_name(self, name: str) -> None:
        """Another name; what is being typed stays."""
        self._name = name
        if self.isReadOnly():
            self._show()

    def name(self) -> str:
        """The name, in full."""
        return self._name

    def set_widest(self, width: int) -> None:
        """Room there is for it."""
        self._widest = width
        if self.isReadOnly():
            self._show()

    def begin(self) -> None:
        """Edit it."""
        if not self.isReadOnly():
            return
        self.setReadOnly(False)
        self.setCursor(Qt.CursorShape.IBeamCursor)
        self.setText(self._name)
        self._fit()
        self.selectAll()
        self.setFocus(Qt.FocusReason.OtherFocusReason)

    def _end(self, *, keep: bool) -> None:
        if self.isReadOnly():
            return
        typed = self.text().strip()
        self.setReadOnly(True)
        wanted = keep and typed and typed != self._name
        self._show()
        if wanted:
            self.renamed.emit(typed)

    def _show(self) -> None:
        metrics = QFontMetrics(theme.font("strong"))
        self.setText(metrics.elidedText(self._name, Qt.TextElideMode.ElideRight, self._widest))
        self.setCursorPosition(0)
        self.setCursor(Qt.CursorShape.IBeamCursor)
        self.setAccessibleName(self.tr("Name of the class {name}").format(name=self._name))
        self.setToolTip(plain(f"{self._name}\n{self.tr('Click or F2: rename')}"))
        self._fit()

    def _fit(self) -> None:
        wide = QFontMetrics(theme.font("strong")).horizontalAdvance(self.text()) + 8
        self.setFixedWidth(max(24, min(wide, self._widest + 8)) if self.isReadOnly() else self._widest + 8)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click begins."""
        super().mouseReleaseEvent(event)
        if event.button() == Qt.MouseButton.LeftButton and self.isReadOnly():
            self.begin()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter, F2, Escape."""
        key = event.key()
        if self.isReadOnly():
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_F2):
                self.begin()
            else:
                event.ignore()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self._end(keep=True)
        elif key == Qt.Key.Key_Escape:
            self._end(keep=False)
        else:
            super().keyPressEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Leaving keeps what was typed."""
        super().focusOutEvent(event)
        if event.reason() != Qt.FocusReason.PopupFocusReason:
            self._end(keep=True)
