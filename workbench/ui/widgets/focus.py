"""The focus ring: 2 px of accent outside the focused control, shown once the keyboard is used.

A style sheet can only draw inside a widget, so the ring is an overlay of the window that follows the focused widget.
"""

from __future__ import annotations

import contextlib

from PySide6.QtCore import QEvent, QObject, QPoint, QPointF, QRect, QRectF, QSize, QSizeF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QSlider,
    QStyle,
    QStyleOptionSlider,
    QTextEdit,
    QWidget,
)

from workbench.ui import theme

_INPUTS = (QLineEdit, QAbstractSpinBox, QPlainTextEdit, QTextEdit)
_MOVES = (QEvent.Type.Move, QEvent.Type.Resize, QEvent.Type.Hide, QEvent.Type.Show)


class FocusRing(QWidget):
    """The ring of the window that is its parent.

    A widget may say ``focusRing = false`` (it draws its own focus), or have a method ``focus_rect()`` for the part
    of it that the ring goes round. Item views draw their own.
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._keyboard = False
        self._target: QWidget | None = None
        self._followed: list[QWidget] = []
        self._handle: QObject | None = None
        self._offset, self._whole = QPoint(), QSize()
        self.hide()
        app = QApplication.instance()
        if isinstance(app, QApplication):
            app.focusChanged.connect(self._focus_changed)

    def watch_input(self) -> None:
        """Notice keys and clicks; call once the window is on the screen.

        Watching the native window sees each input once; a filter on the application would run Python for every event.
        """
        handle = self.window().windowHandle()
        if handle is not None and handle is not self._handle:
            self._handle = handle
            handle.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Notice whether keys or the mouse are used, and follow the focused widget when it moves."""
        kind = event.type()
        if watched is self._handle:
            keyboard = kind == QEvent.Type.KeyPress or (self._keyboard and kind != QEvent.Type.MouseButtonPress)
            if keyboard != self._keyboard:
                self._keyboard = keyboard
                self._place()
        elif kind in _MOVES or (kind == QEvent.Type.Paint and watched is self._target):
            self._place()
        return False

    def _focus_changed(self, _old: QWidget | None, new: QWidget | None) -> None:
        for former in self._followed:
            with contextlib.suppress(RuntimeError):  # deleted meanwhile
                former.removeEventFilter(self)
        self._target = new if new is not None and new is not self.window() and new.window() is self.window() else None
        self._followed = []
        place: QWidget | None = self._target
        while place is not None and place is not self.window():
            self._followed.append(place)
            place.installEventFilter(self)
            place = place.parentWidget()
        self._place()

    def _shown_for(self, target: QWidget) -> bool:
        if target.property("focusRing") in (False, "false"):
            return False
        if isinstance(target, _INPUTS) and target.property("kind") != "bare":
            return True
        return self._keyboard and not isinstance(target, QAbstractItemView)

    def _place(self) -> None:
        target = self._target
        try:
            if target is None or not target.isVisible() or not self._shown_for(target):
                self.hide()
                return
            rect = self._rect(target)
            gap = 3 if isinstance(target, (*_INPUTS, QComboBox)) else 4
            top_left = target.mapTo(self.window(), rect.topLeft())
            place = QRect(top_left, rect.size()).adjusted(-gap, -gap, gap, gap)
            clip = self._clip(target)
        except RuntimeError:  # the widget was deleted meanwhile
            self._target = None
            self.hide()
            return
        visible = place.intersected(clip.adjusted(-4, -4, 4, 4))
        if visible.isEmpty():
            self.hide()
            return
        self._offset = place.topLeft() - visible.topLeft()
        self._whole = place.size()
        if self.geometry() != visible:
            self.setGeometry(visible)
        if not self.isVisible():
            self.show()
            self.raise_()
        self.update()

    def _rect(self, target: QWidget) -> QRect:
        own = getattr(target, "focus_rect", None)
        if callable(own):
            return QRect(own())
        if isinstance(target, QSlider):
            option = QStyleOptionSlider()
            target.initStyleOption(option)
            knob = target.style().subControlRect(
                QStyle.ComplexControl.CC_Slider, option, QStyle.SubControl.SC_SliderHandle, target
            )
            side = 16
            return QRect(knob.center() - QPoint(side // 2 - 1, side // 2 - 1), QSize(side, side))
        return target.rect()

    def _clip(self, target: QWidget) -> QRect:
        clip = self.window().rect()
        place: QWidget | None = target.parentWidget()
        while place is not None and place is not self.window():
            clip = clip.intersected(
                QRect(place.mapTo(self.window(), QPoint(0, 0)), place.size()).adjusted(-2, -2, 2, 2)
            )
            place = place.parentWidget()
        return clip

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The ring."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(theme.tokens().accent), 2))
        ring = QRectF(QPointF(self._offset), QSizeF(self._whole)).adjusted(1, 1, -1, -1)
        radius = min(9.0, ring.height() / 2)
        painter.drawRoundedRect(ring, radius, radius)
