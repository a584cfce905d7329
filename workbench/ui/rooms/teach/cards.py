"""The class cards: key, marker, name, examples; every card takes drops, pastes and picks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from PySide6.QtCore import QEvent, QPoint, QRectF, Qt
from PySide6.QtGui import (
    QColor,
    QContextMenuEvent,
    QEnterEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QSizePolicy, QVBoxLayout, QWidget

from workbench.core.teach import TeachTask
from workbench.core.values import ClassId, TaskClass
from workbench.ui import icons, theme
from workbench.ui.rooms.teach.carrying import Carried, Catcher
from workbench.ui.rooms.teach.deeds import NEW, Deeds
from workbench.ui.rooms.teach.examples import ExampleGrid
from workbench.ui.rooms.teach.name_field import NameField
from workbench.ui.widgets.controls import KeyCap, Marker, button, label, set_property
from workbench.ui.widgets.drop import choose_pictures
from workbench.ui.widgets.strip import IconLabel
from workbench.ui.widgets.thumbs import Thumbs


class ClassCard(QFrame):
    """One class."""

    def __init__(
        self, deeds: Deeds, thumbs: Thumbs, id_: ClassId, task: Callable[[], TeachTask], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.id = id_
        self._deeds, self._task = deeds, task
        self.setProperty("role", "card")
        self.key = KeyCap("1")
        self.marker = Marker(0, 12)
        self.name = NameField("")
        self.count = label("", "secondary")
        self.drop_words = label("", "name", tone="accent")
        self.drop_words.hide()
        self.check_icon = IconLabel("warn", 16, "warn")
        self.check_words = label("", "body", tone="warn")
        self.more = button("", "icon", "more", size="small", name=self.tr("More for this class"))
        self.more.clicked.connect(self._open_menu)
        self.grid = ExampleGrid(thumbs, id_)
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 0, 0)
        head.setSpacing(0)
        for widget, gap in ((self.key, 8), (self.marker, 6), (self.name, 8), (self.count, 0)):
            head.addWidget(widget)
            head.addSpacing(gap)
        head.addStretch(1)
        head.addWidget(self.drop_words)
        head.addWidget(self.check_icon)
        head.addSpacing(4)
        head.addWidget(self.check_words)
        head.addWidget(self.more)
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 8, 7, 4)
        column.setSpacing(4)
        column.addLayout(head)
        column.addWidget(self.grid)
        self._catcher = Catcher(self, lambda: self.id)
        self._catcher.over.connect(self._over)
        self._catcher.caught.connect(self._caught)
        self.name.renamed.connect(self._renamed)
        self.grid.add_wanted.connect(self.choose)
        self.grid.remove_wanted.connect(self._remove)
        self.grid.move_wanted.connect(self._move)
        self.grid.menu_wanted.connect(self._grid_menu)
        self._compact = False
        self._checks = 0
        self._counts = ("", "")
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # the column decides, never a name

    # ---- content ---------------------------------------------------------------------------------
    def show_class(self, index: int, item: TaskClass, labelled: int, checks: Mapping[str, float]) -> None:
        """Show a class.

        Args:
            index: its place, which is its colour, shape and key less one.
            item: the class.
            labelled: queries that a person gave to it, examples too.
            checks: examples that stand out.
        """
        self.key.set_text(str(index + 1) if index < 9 else "")
        self.key.setVisible(index < 9)
        self.marker.set_index(index)
        self.name.set_name(item.name)
        own = len(item.images)
        words = self.tr("1 example") if own == 1 else self.tr("{n} examples").format(n=own)
        self._counts = (words, words if not labelled else f"{words} + {labelled}")
        more = "" if not labelled else self.tr("{n} labelled queries count as examples").format(n=labelled)
        self.count.setToolTip(more)
        here = {h: loss for h, loss in checks.items() if any(i.sha256 == h for i in item.images)}
        self._checks = len(here)
        self.check_words.setText(self.tr("{n} to check").format(n=len(here)))
        self.grid.show_images(item.images, here)
        self.grid.setAccessibleName(self.tr("Examples of {name}: {n}").format(name=item.name, n=own))
        self.setAccessibleName(self.tr("Class {n}, {name}: {words}").format(n=index + 1, name=item.name, words=words))
        self._arrange()

    def set_compact(self, compact: bool) -> None:
        """The narrow form."""
        self._compact = compact
        self.grid.set_side(36 if compact else 44)
        self._arrange()

    def _arrange(self) -> None:
        over = bool(self.drop_words.text())
        self.count.setText(self._counts[0 if over else 1])
        self.count.setHidden(over and self._compact)
        self.check_icon.setVisible(bool(self._checks) and not over)
        self.check_words.setVisible(bool(self._checks) and not over and not self._compact)
        self.check_icon.setToolTip(self.check_words.text())
        self.drop_words.setVisible(over)
        beside = (self.key, self.marker, self.count, self.drop_words, self.check_icon, self.check_words, self.more)
        taken = sum(w.sizeHint().width() for w in beside if not w.isHidden())
        self.name.set_widest(max(32, self.width() - 19 - 26 - 10 - taken))

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Room for the name."""
        super().resizeEvent(event)
        self._arrange()

    # ---- deeds -----------------------------------------------------------------------------------
    def choose(self) -> None:
        """Ask for pictures."""
        found = choose_pictures(self)
        if found:
            self._deeds.take(Carried(files=tuple(found)), self.id)

    def paste(self) -> None:
        """Take what the clipboard holds."""
        self._deeds.paste(self.id)

    def _over(self, words: str) -> None:
        self.drop_words.setText(words)
        set_property(self, "over", "true" if words else "false")
        self.grid.set_inviting(bool(words))
        self._arrange()

    def _caught(self, carried: Carried) -> None:
        self._deeds.take(carried, self.id)

    def _renamed(self, name: str) -> None:
        if not self._deeds.rename(self.id, name):
            self.name.set_name(self.name.name())

    def _remove(self, hashes: list[str]) -> None:
        self._deeds.remove(self.id, hashes)

    def _move(self, index: int, hashes: list[str]) -> None:
        classes = self._task().classes
        if index < len(classes):
            self._deeds.move(self.id, classes[index].id, hashes)

    def _open_menu(self) -> None:
        menu = self.menu()
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(self.more.mapToGlobal(QPoint(0, self.more.height() + 2)))

    def menu(self) -> QMenu:
        """What can be done with the class."""
        menu = QMenu(self)
        rename = menu.addAction(icons.icon("pencil"), self.tr("Rename"), self.name.begin)
        rename.setShortcut(QKeySequence(Qt.Key.Key_F2))
        menu.addAction(icons.icon("image"), self.tr("Choose pictures..."), self.choose)
        paste = menu.addAction(icons.icon("paste"), self.tr("Paste pictures"), self.paste)
        paste.setShortcut(QKeySequence(QKeySequence.StandardKey.Paste))
        menu.addSeparator()
        menu.addAction(icons.icon("trash"), self.tr("Delete the class"), lambda: self._deeds.delete(self.id))
        return menu

    def _grid_menu(self, at: QPoint, hashes: list[str]) -> None:
        menu = self.examples_menu(hashes)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(at)

    def examples_menu(self, hashes: list[str]) -> QMenu:
        """What can be done with selected examples."""
        menu = QMenu(self)
        for index, item in enumerate(self._task().classes):
            if item.id != self.id:
                name = item.name.replace("&", "&&")
                action = menu.addAction(self.tr("Move to {name}").format(name=name))
                action.triggered.connect(lambda _=False, i=index: self._move(i, hashes))
        menu.addAction(self.tr("Make a query"), lambda: self._deeds.to_queries(self.id, hashes))
        menu.addSeparator()
        menu.addAction(icons.icon("trash"), self.tr("Remove"), lambda: self._remove(hashes))
        return menu

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """F2 renames, paste adds."""
        if event.matches(QKeySequence.StandardKey.Paste):
            self.paste()
        elif event.key() == Qt.Key.Key_F2:
            self.name.begin()
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, _event: QContextMenuEvent) -> None:
        """The same menu as the button."""
        self._open_menu()

    def enterEvent(self, event: QEnterEvent) -> None:
        """Hover."""
        set_property(self, "hover", "true")
        super().enterEvent(event)

    def leaveEvent(self, event: QEvent) -> None:
        """No hover."""
        set_property(self, "hover", "false")
        super().leaveEvent(event)


class NewClassTarget(QFrame):
    """The dashed target that makes a class: drop, paste, click or Enter."""

    def __init__(self, deeds: Deeds, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._deeds = deeds
        self.setProperty("role", "drop")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFixedHeight(60)
        self.key = KeyCap("1")
        self._title = label(self.tr("New class"), "name")
        self._hint = label("", "secondary")
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addStretch(1)
        words.addWidget(self._title)
        words.addWidget(self._hint)
        words.addStretch(1)
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 0, 12, 0)
        row.setSpacing(8)
        row.addWidget(self.key)
        row.addWidget(IconLabel("plus", 16, "text"))
        row.addLayout(words, 1)
        self.setAccessibleName(self.tr("New class: drop pictures or folders here, paste, or press Enter to choose"))
        self.setToolTip(self.tr("Drop pictures for one class, or folders: each becomes a class"))
        self._catcher = Catcher(self, lambda: NEW)
        self._catcher.over.connect(self._over)
        self._catcher.caught.connect(self._caught)
        self._hint.setText(self.tr("Drop pictures here, or paste"))

    def set_number(self, number: int) -> None:
        """The key of the class to be."""
        self.key.set_text(str(number))
        self.key.setVisible(number <= 9)

    def choose(self) -> None:
        """Ask for pictures."""
        found = choose_pictures(self)
        if found:
            self._deeds.take(Carried(files=tuple(found)), NEW)

    def _over(self, words: str) -> None:
        self._hint.setText(words or self.tr("Drop pictures here, or paste"))
        set_property(self._hint, "tone", "accent" if words else "")
        set_property(self, "over", "true" if words else "false")

    def _caught(self, carried: Carried) -> None:
        self._deeds.take(carried, NEW)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The dashed edge: a style sheet's dashes are dots."""
        super().paintEvent(event)
        t = theme.tokens()
        over = self.property("over") == "true"
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        pen = QPen(QColor(t.accent if over else t.border_strong), 2 if over else 1)
        if not over:
            pen.setDashPattern([4, 3])
        painter.setPen(pen)
        inset = pen.widthF() / 2
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(inset, inset, -inset, -inset), 8, 8)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """A click opens the chooser."""
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(event.position().toPoint()):
            self.choose()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Enter or Space opens the chooser; paste makes a class."""
        if event.matches(QKeySequence.StandardKey.Paste):
            self._deeds.paste(NEW)
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.choose()
        else:
            super().keyPressEvent(event)
