"""What the keys do in the grid: arrows, Home, End, Page keys (with Shift they extend the selection) and the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeyEvent

from workbench.ui.rooms.sources.layout import HEADER

if TYPE_CHECKING:
    from workbench.ui.rooms.sources.grid import ThumbnailGrid

_MOVES = {
    Qt.Key.Key_Left: (-1, 0),
    Qt.Key.Key_Right: (1, 0),
    Qt.Key.Key_Up: (0, -1),
    Qt.Key.Key_Down: (0, 1),
}
_CTRL = Qt.KeyboardModifier.ControlModifier


def press(grid: ThumbnailGrid, event: QKeyEvent) -> bool:
    """Do what a key does; says whether it did anything."""
    modifiers = event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
    return _move(grid, event.key(), modifiers) or _act(grid, event.key(), modifiers)


def _move(grid: ThumbnailGrid, key: int, modifiers: Qt.KeyboardModifier) -> bool:
    if key in _MOVES:
        grid.move_to(grid.step(*_MOVES[Qt.Key(key)]), modifiers)
    elif key in (Qt.Key.Key_PageUp, Qt.Key.Key_PageDown):
        down = 1 if key == Qt.Key.Key_PageDown else -1
        now = grid.choice.current
        for _ in range(max(1, (grid.viewport().height() - HEADER) // grid.map.pitch)):
            grid.choice.current = grid.step(0, down)
        target, grid.choice.current = grid.choice.current, now
        grid.move_to(target, modifiers)
    elif key in (Qt.Key.Key_Home, Qt.Key.Key_End):
        grid.move_to(grid.map.end(first=key == Qt.Key.Key_Home), modifiers)
    else:
        return False
    return True


def _act(grid: ThumbnailGrid, key: int, modifiers: Qt.KeyboardModifier) -> bool:
    now = grid.choice.current
    if key == Qt.Key.Key_A and modifiers == _CTRL:
        grid.choose_all()
    elif key == Qt.Key.Key_Space and modifiers == _CTRL:
        grid.toggle_current()
    elif key in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter) and now is not None:
        grid.opened.emit()
    elif key in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace) and grid.choice.chosen:
        grid.removal_asked.emit()
    elif key == Qt.Key.Key_Escape and grid.choice.chosen:
        grid.choose_none()
    elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal, Qt.Key.Key_Minus):
        grid.zoomed.emit(grid.cell + (-12 if key == Qt.Key.Key_Minus else 12))
    elif key in (Qt.Key.Key_BracketLeft, Qt.Key.Key_BracketRight) and now is not None:
        grid.toggle_section(grid.map.section_of(now))
    else:
        return False
    return True
