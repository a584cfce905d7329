"""The thumbnail grid: one view of any number of pictures, grouped by class under sticky headers, painted by itself.

Only what is on the screen is ever looked at; a picture that is not decoded yet is a placeholder and repaints when it
comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFocusEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QFrame, QWidget

from workbench.core.values import ImageRef
from workbench.ui import theme
from workbench.ui.rooms.sources.cells import draw_cell
from workbench.ui.rooms.sources.content import Section, all_items, count_marked, same
from workbench.ui.rooms.sources.headers import draw_header, name_width
from workbench.ui.rooms.sources.keyboard import press
from workbench.ui.rooms.sources.layout import HEADER, GridLayout, Hit
from workbench.ui.rooms.sources.selection import Selection
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.thumbs import Thumbs

SMALLEST, USUAL, LARGEST = 44, 76, 220
_DRAG = 6
_KEPT = 2000  # a larger selection is not carried over to other contents: looking for it would take too long


class ThumbnailGrid(QAbstractScrollArea):
    """A grid of pictures with multiple selection by mouse and keyboard.

    Signals:
        selection_changed: which pictures are selected, or the current one.
        opened: the current picture is to be seen large.
        zoomed(int): side of a cell, by wheel or keyboard.
        removal_asked: the selected pictures are to leave the task.
    """

    selection_changed = Signal()
    opened = Signal()
    zoomed = Signal(int)
    removal_asked = Signal()

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.thumbs = thumbs
        self.sections: tuple[Section, ...] = ()
        self.choice = Selection()
        self.cell = USUAL
        self._marks: frozenset[str] = frozenset()
        self._marked: tuple[int, ...] = ()
        self._collapsed: set[str] = set()
        self._keyboard = False
        self._pressed: QPoint | None = None
        self._band: QRect | None = None
        self._hover = -1
        self._visible: dict[str, QRect] = {}
        self.map = GridLayout((), frozenset(), 100, self.cell)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setProperty("focusRing", "false")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.viewport().setMouseTracking(True)
        self.setAccessibleName(self.tr("Pictures"))
        thumbs.ready.connect(self._ready)

    # ---- content ---------------------------------------------------------------------------------
    def set_sections(self, sections: Sequence[Section], *, keep: bool = False) -> None:
        """Show other pictures; ``keep`` says that it is the same task: place, selection and what is collapsed stay."""
        if keep and same(self.sections, sections):
            self.sections = tuple(sections)
            self.viewport().update()
            return
        few = keep and len(self.choice.chosen) <= _KEPT
        chosen = {(s, i.sha256) for s, i in self.selection()} if few else set()
        now = self.current_item() if keep else None
        self.sections = tuple(sections)
        self.choice.clear()
        if not keep:
            self._collapsed.clear()
        self._arrange()
        if chosen or now:
            self._choose_again(chosen, (now[0], now[1].sha256) if now else None)
        if not keep:
            self.verticalScrollBar().setValue(0)
        self.set_marks(self._marks)
        self._told()

    def _choose_again(self, chosen: set[tuple[str, str]], current: tuple[str, str] | None) -> None:
        cursor = None
        for flat, (name, image) in enumerate(all_items(self.sections)):
            key = (name, image.sha256)
            if key in chosen:
                self.choice.chosen.add(flat)
            if cursor is None and key == current:
                cursor = flat
        if cursor is not None:
            self.choice.put_cursor(cursor)

    def set_marks(self, marks: frozenset[str]) -> None:
        """Pictures with something to check."""
        self._marks = marks
        self._marked = count_marked(self.sections, marks)
        self.viewport().update()

    def set_cell(self, side: int) -> None:
        """Zoom; the picture at the top stays in sight."""
        side = min(max(side, SMALLEST), LARGEST)
        if side == self.cell:
            return
        top = next((r.first for r in self.map.rows(self._scroll() + HEADER, self._scroll() + HEADER + 1)), None)
        self.cell = side
        self._arrange()
        if top is not None:
            self.verticalScrollBar().setValue(max(0, self.map.position(top)[1] - HEADER))

    def items(self, flats: Iterable[int]) -> list[tuple[str, ImageRef]]:
        """Class name and picture of cells."""
        found = []
        for flat in sorted(flats):
            if 0 <= flat < self.map.cells:
                s = self.map.section_of(flat)
                found.append((self.sections[s].name, self.sections[s].image(flat - self.map.starts[s])))
        return found

    def selection(self, most: int | None = None) -> list[tuple[str, ImageRef]]:
        """Class name and picture of what is selected, in order; at most the first ``most``."""
        chosen = self.choice.chosen
        return self.items(chosen if most is None else nsmallest(most, chosen))

    def current_item(self) -> tuple[str, ImageRef] | None:
        """Class name and picture of the current cell."""
        now = self.choice.current
        return next(iter(self.items([now])), None) if now is not None else None

    def select_hashes(self, hashes: frozenset[str]) -> None:
        """Select all pictures with these contents and go to the first."""
        self.choice.take(flat for flat, (_n, image) in enumerate(all_items(self.sections)) if image.sha256 in hashes)
        if self.choice.chosen and self.choice.current is not None:
            self._open_section(self.map.section_of(self.choice.current))
            self._reveal(self.choice.current)
        self._told()

    def go_to(self, name: str) -> None:
        """Scroll to a class."""
        for s, section in enumerate(self.sections):
            if section.name == name:
                self.verticalScrollBar().setValue(self.map.tops[s])

    def _arrange(self) -> None:
        collapsed = frozenset(i for i, s in enumerate(self.sections) if s.name in self._collapsed)
        self.map = GridLayout([s.count for s in self.sections], collapsed, self.viewport().width(), self.cell)
        bar = self.verticalScrollBar()
        bar.setRange(0, max(0, self.map.height - self.viewport().height()))
        bar.setPageStep(self.viewport().height())
        bar.setSingleStep(max(20, self.map.pitch // 2))
        self.viewport().update()

    def _told(self) -> None:
        item = self.current_item()
        words = f"{item[1].name}, {item[0]}. " if item else ""
        if len(self.choice.chosen) > 1:
            words += self.tr("{n} selected. ").format(n=f"{len(self.choice.chosen):,}")
        self.setAccessibleDescription(words + count(self.map.cells, "picture"))
        self.viewport().update()
        self.selection_changed.emit()

    def _scroll(self) -> int:
        return self.verticalScrollBar().value()

    # ---- painting --------------------------------------------------------------------------------
    def paintEvent(self, event: QPaintEvent) -> None:
        """Cells in the exposed strip, headers, the sticky header, the rubber band."""
        t = theme.tokens()
        p = QPainter(self.viewport())
        scroll, exposed = self._scroll(), event.rect()
        top, bottom = exposed.top() + scroll, exposed.bottom() + scroll + 1
        for row in self.map.rows(top - self.map.pitch, bottom):
            start = self.map.starts[row.section]
            section = self.sections[row.section]
            for column, flat in enumerate(range(row.first, row.last)):
                box = QRect(16 + column * self.map.pitch, row.top - scroll, self.cell, self.cell)
                if box.adjusted(-4, -4, 4, 4).intersects(exposed):
                    self._cell(p, box, section.image(flat - start), flat)
        stuck = self.map.sticky(scroll)
        width = name_width(self.sections, self.viewport().width())
        for s in self.map.sections(top - HEADER, bottom):
            if stuck is None or s != stuck[0]:
                self._header(p, s, self.map.tops[s] - scroll, width, pinned=False)
        if stuck is not None:
            self._header(p, stuck[0], stuck[1] - scroll, width, pinned=scroll > self.map.tops[stuck[0]])
        if self._band is not None:
            soft = QColor(t.accent)
            soft.setAlphaF(0.12)
            p.setPen(QColor(t.accent))
            p.setBrush(soft)
            p.drawRect(self._band.translated(0, -scroll))

    def _header(self, p: QPainter, s: int, y: int, width: int, *, pinned: bool) -> None:
        section = self.sections[s]
        box = QRect(0, y, self.viewport().width(), HEADER)
        if pinned:
            p.fillRect(box, QColor(theme.tokens().surface))
        draw_header(p, box, section, section.name in self._collapsed, self._marked[s], width, pinned=pinned)

    def _cell(self, p: QPainter, box: QRect, image: ImageRef, flat: int) -> None:
        around = box.adjusted(-4, -4, 4, 4)
        before = self._visible.get(image.sha256)
        self._visible[image.sha256] = around if before is None else before.united(around)
        chosen = self.choice.chosen
        cursor = flat == self.choice.current and self._keyboard and self.hasFocus()
        draw_cell(
            p,
            QRectF(box),
            self.thumbs.pixmap(image, self.cell),
            failed=self.thumbs.failed(image),
            chosen=flat in chosen,
            hovered=flat == self._hover,
            cursor=cursor and (flat not in chosen or len(chosen) > 1),
            marked=image.sha256 in self._marks,
        )

    def _ready(self, sha256: str) -> None:
        box = self._visible.get(sha256)
        if box is not None:
            self.viewport().update(box)

    def scrollContentsBy(self, _dx: int, _dy: int) -> None:
        """Scrolling repaints the viewport: the sticky header does not move with the rest."""
        self._visible = {}
        self.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Other columns."""
        super().resizeEvent(event)
        self._visible = {}
        self._arrange()

    # ---- selection -------------------------------------------------------------------------------
    def _reveal(self, flat: int) -> None:
        _x, y = self.map.position(flat)
        bar, height = self.verticalScrollBar(), self.viewport().height()
        if y - HEADER < bar.value():
            bar.setValue(y - HEADER)
        elif y + self.cell + 8 > bar.value() + height:
            bar.setValue(y + self.cell + 8 - height)

    def _choose(self, flat: int, modifiers: Qt.KeyboardModifier) -> None:
        extend = bool(modifiers & Qt.KeyboardModifier.ShiftModifier)
        toggle = bool(modifiers & Qt.KeyboardModifier.ControlModifier)
        self.choice.choose(flat, extend=extend, toggle=toggle)
        self._told()

    def _open_section(self, s: int) -> None:
        if self.sections[s].name in self._collapsed:
            self._collapsed.discard(self.sections[s].name)
            self._arrange()

    def toggle_section(self, s: int) -> None:
        """Collapse a class, or open it again."""
        self._collapsed ^= {self.sections[s].name}
        self._arrange()

    def _hit(self, event: QMouseEvent) -> Hit | None:
        at = event.position().toPoint()
        return self.map.at(at.x(), at.y() + self._scroll(), self._scroll())

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose a cell, toggle a class, or begin a rubber band."""
        self._keyboard = False
        at, hit = event.position().toPoint(), self._hit(event)
        if event.button() is not Qt.MouseButton.LeftButton:
            if hit is not None and hit.cell is not None and hit.cell not in self.choice.chosen:
                self._choose(hit.cell, Qt.KeyboardModifier.NoModifier)
            return
        if hit is not None and hit.cell is None:
            self.toggle_section(hit.section)
            return
        plain = not event.modifiers() & (Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
        self.choice.begin_band(keep=not plain)
        self._pressed = at + QPoint(0, self._scroll())
        if hit is not None and hit.cell is not None:
            self._choose(hit.cell, event.modifiers())
        elif plain and self.choice.chosen:
            self.choose_none()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Pull the rubber band; scroll at the edges; tint the cell under the pointer."""
        at = event.position().toPoint()
        if self._pressed is None or not event.buttons() & Qt.MouseButton.LeftButton:
            hit = self._hit(event)
            self._set_hover(-1 if hit is None or hit.cell is None else hit.cell)
            return
        bar = self.verticalScrollBar()
        if at.y() < 0 or at.y() > self.viewport().height():
            bar.setValue(bar.value() + (at.y() if at.y() < 0 else at.y() - self.viewport().height()))
        here = at + QPoint(0, self._scroll())
        if self._band is None and (here - self._pressed).manhattanLength() < _DRAG:
            return
        self._band = QRect(self._pressed, here).normalized()
        touched = self.map.inside(self._band.left(), self._band.top(), self._band.right(), self._band.bottom())
        self.choice.band(touched)
        self._told()

    def mouseReleaseEvent(self, _event: QMouseEvent) -> None:
        """End the rubber band."""
        self._pressed, self._band = None, None
        self.viewport().update()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """See it large."""
        hit = self._hit(event)
        if hit is not None and hit.cell is not None:
            self.opened.emit()

    def leaveEvent(self, event: QEvent) -> None:
        """Nothing is under the pointer."""
        self._set_hover(-1)
        super().leaveEvent(event)

    def _set_hover(self, flat: int) -> None:
        if flat != self._hover:
            self._hover = flat
            item = next(iter(self.items([flat])), None)
            self.viewport().setToolTip(f"{item[1].name}, {item[0]}" if item else "")
            self.viewport().update()

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Ctrl zooms."""
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoomed.emit(self.cell + (8 if event.angleDelta().y() > 0 else -8))
            event.accept()
            return
        super().wheelEvent(event)

    def move_to(self, flat: int | None, modifiers: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
        """Make a cell the current one, as an arrow key does."""
        if flat is None:
            return
        if modifiers == Qt.KeyboardModifier.ControlModifier:
            self.choice.current = flat
            self._told()
        else:
            self._choose(flat, modifiers & Qt.KeyboardModifier.ShiftModifier)
        self._reveal(flat)

    def step(self, across: int, down: int) -> int | None:
        """The cell an arrow key leads to."""
        now = self.choice.current
        if now is None or now >= self.map.cells:
            return self.map.end(first=True)
        return self.map.step(now, across, down)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """See ``keyboard``."""
        self._keyboard = True
        if not press(self, event):
            super().keyPressEvent(event)

    def choose_all(self) -> None:
        """Select everything."""
        self.choice.chosen = set(range(self.map.cells))
        self._told()

    def choose_none(self) -> None:
        """Select nothing."""
        self.choice.chosen.clear()
        self._told()

    def toggle_current(self) -> None:
        """Select the current cell, or no longer."""
        if self.choice.current is not None:
            self.choice.choose(self.choice.current, toggle=True)
            self._told()

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Coming by Tab puts the cursor on a cell."""
        super().focusInEvent(event)
        self._keyboard = event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
        first = self.map.end(first=True)
        if self._keyboard and self.choice.current is None and first is not None:
            self.choice.put_cursor(first)
            self._told()
        self.viewport().update()
