"""A person's hands, for the tour: mouse, keys and drags, sent to the window as a screen sends them, and waiting.

Everything goes to the native window and finds its widget from there, so that a control that is covered, scrolled out
of sight or disabled cannot be used: the step fails instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from PySide6.QtCore import QEvent, QEventLoop, QMimeData, QObject, QPoint, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import (
    QAction,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDragMoveEvent,
    QDropEvent,
    QPainter,
    QPixmap,
    QWindow,
)
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QMenu, QScrollArea, QWidget

from workbench.ui.main_window import MainWindow
from workbench.ui.widgets.dialogs import BugDialog

_POLL_MS = 15
_QUIET_S = 0.25
_MOST_NOTCHES = 60
_LEFT = Qt.MouseButton.LeftButton
_PLAIN = Qt.KeyboardModifier.NoModifier
_COPY = Qt.DropAction.CopyAction


class StepError(Exception):
    """A step of the tour did not reach its state; the message says which state and why."""


class Hands(QObject):
    """Acts on one window and on what it opens."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self.window = window
        self._painted = time.monotonic()
        self._carried: tuple[QMimeData, QWindow, QPoint] | None = None
        window.state.thumbs.ready.connect(self._picture_came)

    def _picture_came(self, _sha256: str) -> None:
        self._painted = time.monotonic()

    # ---- waiting ---------------------------------------------------------------------------------
    def until(self, there: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Let the window live until something is there.

        Args:
            there: looked at often, in the window's thread.
            what: is waited for, in words.
            seconds: to wait at most.

        Raises:
            StepError: it did not come, or something broke meanwhile.
        """
        deadline = time.monotonic() + seconds
        found: list[bool] = []
        loop, poll = QEventLoop(), QTimer()
        poll.setInterval(_POLL_MS)

        def look() -> None:
            if self._broken() or time.monotonic() > deadline:
                loop.quit()
            elif there():
                found.append(True)
                loop.quit()

        poll.timeout.connect(look)
        poll.start()
        loop.exec()
        poll.stop()
        broken = self._broken()
        if broken:
            raise StepError(f"{what}: {broken}")
        if not found:
            raise StepError(f"{what}: not within {seconds:g} seconds")

    def rest(self, seconds: float) -> None:
        """Let the window live for a while."""
        loop = QEventLoop()
        QTimer.singleShot(max(0, round(1000 * seconds)), loop, loop.quit)
        loop.exec()

    def settle(self) -> None:
        """Wait until no thumbnail has come for a moment and everything is painted."""
        self._painted = time.monotonic()
        self.until(lambda: time.monotonic() - self._painted > _QUIET_S, "all thumbnails painted")

    def _broken(self) -> str:
        for dialog in QApplication.topLevelWidgets():
            if isinstance(dialog, BugDialog) and dialog.isVisible():
                return f"something broke inside the workbench\n{dialog.details}"
        return ""

    # ---- mouse -----------------------------------------------------------------------------------
    def click(self, widget: QWidget, at: QPoint | None = None, modifiers: Qt.KeyboardModifier = _PLAIN) -> None:
        """Click a widget, in its middle if not told where."""
        self._scroll_to(widget)
        handle, place = self._place(widget, at)
        QTest.mouseMove(handle, place)
        QTest.mouseClick(handle, _LEFT, modifiers, place)
        self._turn()

    def point(self, widget: QWidget, at: QPoint | None = None) -> None:
        """Move the pointer over a widget."""
        handle, place = self._place(widget, at)
        QTest.mouseMove(handle, place)
        self._turn()

    def wheel(self, widget: QWidget, notches: int) -> None:
        """Turn the wheel over a widget; negative is towards oneself, which shows what is further down."""
        handle, place = self._place(widget, None)
        QTest.wheelEvent(handle, QPointF(place), QPoint(0, 120 * notches))
        self._turn()

    def _scroll_to(self, widget: QWidget) -> None:
        """Turn the wheel until a widget that lies in a scrolling area is in its view."""
        area = widget.parentWidget()
        while area is not None and not isinstance(area, QScrollArea):
            area = area.parentWidget()
        if area is None:
            return
        view = area.viewport()
        for _ in range(_MOST_NOTCHES):
            top = widget.mapTo(view, QPoint(0, 0)).y()
            if top >= 0 and top + widget.height() <= view.height():
                return
            before = area.verticalScrollBar().value()
            self.wheel(view, 1 if top < 0 else -1)
            if area.verticalScrollBar().value() == before:
                return

    def choose(self, menu: QMenu, action: QAction) -> None:
        """Click an entry of an open menu."""
        self.click(menu, menu.actionGeometry(action).center())

    def _place(self, widget: QWidget, at: QPoint | None) -> tuple[QWindow, QPoint]:
        """The native window and the point in it, where a person can reach the widget there."""
        name = widget.accessibleName() or type(widget).__name__
        top = widget.window()
        handle = top.windowHandle()
        if handle is None or not widget.isVisible():
            raise StepError(f"{name} is not on the screen")
        if not widget.isEnabled():
            raise StepError(f"{name} is disabled: {widget.toolTip()}")
        place = widget.mapTo(top, widget.rect().center() if at is None else at)
        hit = top.childAt(place) or top
        if hit is not widget and not widget.isAncestorOf(hit):
            raise StepError(f"{name} is out of sight or covered by {hit.accessibleName() or type(hit).__name__}")
        return handle, place

    # ---- keys ------------------------------------------------------------------------------------
    def press(self, key: Qt.Key, modifiers: Qt.KeyboardModifier = _PLAIN) -> None:
        """Press a key, wherever the keyboard is."""
        QTest.keyPress(self._focused(), key, modifiers)
        QTest.keyRelease(self._focused(), key, modifiers)  # the press may have closed a popover
        self._turn()

    def write(self, text: str) -> None:
        """Type over what stands in the field that has the keyboard."""
        QTest.keyClick(self._focused(), Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        for letter in text:
            QTest.keyClick(self._focused(), ord(letter))
        self._turn()

    def _focused(self) -> QWindow:
        top: QWidget = QApplication.activePopupWidget() or QApplication.activeWindow() or self.window
        handle = top.windowHandle()
        if handle is None:
            raise StepError("no window has the keyboard")
        return handle

    # ---- drags -----------------------------------------------------------------------------------
    def carry(self, files: Sequence[str], widget: QWidget, at: QPoint | None = None) -> None:
        """Drag files from outside over a widget, and hold them there."""
        handle, place = self._place(widget, at)
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(f) for f in files])
        entered = QDragEnterEvent(place, _COPY, data, _LEFT, _PLAIN)
        QApplication.sendEvent(handle, entered)
        moved = QDragMoveEvent(place, _COPY, data, _LEFT, _PLAIN)
        QApplication.sendEvent(handle, moved)
        if not moved.isAccepted():
            QApplication.sendEvent(handle, QDragLeaveEvent())
            raise StepError(f"{widget.accessibleName() or type(widget).__name__} does not take what is dragged over it")
        self._carried = (data, handle, place)
        self._turn()

    def let_go(self) -> None:
        """Drop what is carried."""
        if self._carried is None:
            raise StepError("nothing is carried")
        data, handle, place = self._carried
        self._carried = None
        QApplication.sendEvent(handle, QDropEvent(QPointF(place), _COPY, data, _LEFT, _PLAIN))
        self._turn()

    def drop(self, files: Sequence[str], widget: QWidget, at: QPoint | None = None) -> None:
        """Drag files over a widget and drop them."""
        self.carry(files, widget, at)
        self.let_go()

    # ---- pictures --------------------------------------------------------------------------------
    def picture(self) -> QPixmap:
        """The window as it is now, with the menus and popovers that lie over it."""
        self.settle()
        made = self.window.grab()
        painter = QPainter(made)
        for other in QApplication.topLevelWidgets():
            if other is not self.window and other.isVisible():
                painter.drawPixmap(self.window.mapFromGlobal(other.mapToGlobal(QPoint())), other.grab())
        painter.end()
        return made

    def _turn(self) -> None:
        """Let queued calls and deletions arrive."""
        QApplication.processEvents()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
