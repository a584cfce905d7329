"""A scroll bar that lies on its view instead of beside it, so that rows keep their width when it comes."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt
from PySide6.QtWidgets import QAbstractScrollArea, QScrollBar


class OverlayBar(QScrollBar):
    """Follows the view's own vertical bar, which it hides."""

    def __init__(self, view: QAbstractScrollArea) -> None:
        super().__init__(Qt.Orientation.Vertical, view)
        self._own = view.verticalScrollBar()
        view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._own.rangeChanged.connect(self._range)
        self._own.valueChanged.connect(self.setValue)
        self.valueChanged.connect(self._own.setValue)
        view.installEventFilter(self)
        self._range(self._own.minimum(), self._own.maximum())

    def _range(self, low: int, high: int) -> None:
        self.setPageStep(self._own.pageStep())
        self.setSingleStep(self._own.singleStep())
        self.setRange(low, high)
        self.setValue(self._own.value())
        self.setVisible(high > low)
        self._place()

    def _place(self) -> None:
        view = self.parentWidget()
        if view is not None:
            wide = self.sizeHint().width()
            self.setGeometry(view.width() - wide, 0, wide, view.height())
            self.raise_()

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        """The view was resized."""
        if event.type() in (QEvent.Type.Resize, QEvent.Type.Show):
            self._place()
        return False
