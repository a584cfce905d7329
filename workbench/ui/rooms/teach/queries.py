"""The centre of the room: the queries, how they are ordered and filtered, and what is said about them."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QPoint, QRect, Qt, Signal
from PySide6.QtGui import QContextMenuEvent, QKeyEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QStackedWidget, QVBoxLayout, QWidget

from workbench.core.teach import NONE, TeachTask
from workbench.core.values import ClassId
from workbench.ui import icons
from workbench.ui.rooms.teach.carrying import QUERIES, Carried, Catcher
from workbench.ui.rooms.teach.deeds import Deeds
from workbench.ui.rooms.teach.menu_button import MenuButton
from workbench.ui.rooms.teach.query_list import QueryList
from workbench.ui.rooms.teach.query_model import Sheet
from workbench.ui.rooms.teach.query_parts import Captions, Footer, ProgressLine
from workbench.ui.rooms.teach.view import Answer, most_doubtful, ordered
from workbench.ui.widgets.controls import Segmented, button, label, line
from workbench.ui.widgets.drop import choose_pictures
from workbench.ui.widgets.strip import EmptyHint
from workbench.ui.widgets.thumbs import Thumbs


class QueriesPanel(QFrame):
    """The list with its header and footer.

    Signals:
        samples_wanted: open the sample characters.
    """

    samples_wanted = Signal()

    def __init__(self, deeds: Deeds, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._deeds = deeds
        self._task = TeachTask()
        self._answers: dict[str, Answer] = {}
        self._only: ClassId | None = None
        self._sort_when_answered = True
        self._compact = False
        self.setProperty("role", "panel")
        self.setAccessibleName(self.tr("Queries"))
        self.list = QueryList(thumbs)
        self.sort = Segmented(
            [("doubt", self.tr("By doubt")), ("name", self.tr("By name"))], "doubt", self.tr("Order of the queries")
        )
        self.sort.changed.connect(self._reorder)
        self.filter = MenuButton("filter", self.tr("All classes"), self.tr("Which queries are shown"))
        self.filter.clicked.connect(self._open_filter)
        self._count = label("", "secondary")
        self._head = QWidget()
        self._head.setFixedHeight(52)
        head = self._head_row = QHBoxLayout(self._head)
        head.setContentsMargins(16, 0, 16, 0)
        head.setSpacing(8)
        head.addWidget(label(self.tr("Queries"), "section"))
        head.addWidget(self._count)
        head.addStretch(1)
        head.addWidget(self.sort)
        head.addWidget(self.filter)
        self._captions = Captions(self.list)
        self._progress = ProgressLine(self)
        self.samples = button(self.tr("Try the sample characters"), "secondary", "teach")
        self.samples.clicked.connect(self.samples_wanted)
        self.welcome = EmptyHint(
            "teach",
            self.tr("Teach new classes from a few pictures each"),
            self.tr(
                "Drop pictures or folders on New class, then drop the pictures to predict here. One each is enough."
            ),
            self.samples,
        )
        choose = button(self.tr("Choose pictures"), "secondary", "image")
        choose.clicked.connect(self.choose)
        self.empty = EmptyHint(
            "download",
            self.tr("No queries yet"),
            self.tr("Drop pictures, folders or a zip here to predict them"),
            choose,
        )
        again = button(self.tr("Show all classes"), "secondary")
        again.clicked.connect(lambda: self._filter_by(None))
        self.nothing = EmptyHint("filter", self.tr("No query fits the filter"), "", again)
        self.stack = QStackedWidget()
        for page in (self.list, self.welcome, self.empty, self.nothing):
            self.stack.addWidget(page)
        self.footer = Footer(self)
        self.footer.choose_wanted.connect(self.choose)
        self.footer.accept_all.clicked.connect(self._accept)
        column = QVBoxLayout(self)
        column.setContentsMargins(1, 1, 1, 1)
        column.setSpacing(0)
        column.addWidget(self._head)
        column.addWidget(self._captions)
        column.addWidget(line("edge"))
        column.addWidget(self.stack, 1)
        column.addWidget(line("edge"))
        column.addWidget(self.footer)
        QWidget.setTabOrder(self.list, self.footer.drop)
        self._catcher = Catcher(self, lambda: QUERIES)
        self._catcher.over.connect(self._over)
        self._catcher.caught.connect(self._caught)
        self.list.label_wanted.connect(self._label)
        self.list.accept_wanted.connect(self._accept)
        self.list.take_back_wanted.connect(self._take_back)
        self.list.remove_wanted.connect(self._remove)
        self.list.next_wanted.connect(self.go_next)
        self.list.paste_wanted.connect(self.paste)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.list.customContextMenuRequested.connect(self._open_menu)
        self.list.selectionModel().selectionChanged.connect(self._say_selection)
        self._page()

    # ---- content ---------------------------------------------------------------------------------
    def show_task(self, task: TeachTask, answers: dict[str, Answer], *, dimmed: bool) -> None:
        """Show a task and what is predicted; rows stay where they are unless there are other rows.

        Args:
            task: classes, queries, labels.
            answers: at the chosen step, by hash.
            dimmed: whether they are out of date.
        """
        before = self._task
        self._task, self._answers = task, answers
        if self._only not in (None, NONE) and not any(c.id == self._only for c in task.classes):
            self._only = None
        grown = {q.sha256 for q in task.queries} != {q.sha256 for q in before.queries}
        if grown and not before.queries:
            self._sort_when_answered = True
        self._sheet(dimmed=dimmed)
        if grown:
            self._sort_when_answered |= len(task.queries) > len(before.queries)
            self._set_order(keep=bool(before.queries))
        if self._sort_when_answered and not dimmed and all(q.sha256 in answers for q in task.queries):
            self._sort_when_answered = False
            self._set_order(keep=False)
        self._sheet(dimmed=dimmed)
        self._count.setText(self._count_words())
        self.footer.set_classes(len(task.classes))
        self._name_filter()
        self._page()
        self._say_selection()

    def _count_words(self) -> str:
        shown, all_ = self.list.rows.rowCount(), len(self._task.queries)
        if not all_:
            return ""
        return f"{all_:,}" if shown == all_ else self.tr("{shown} of {all}").format(shown=f"{shown:,}", all=f"{all_:,}")

    def _sheet(self, *, dimmed: bool) -> None:
        doubtful = most_doubtful(self._task, self._answers, self.list.rows.rows())
        self.list.rows.set_sheet(Sheet(self._task, self._answers, dimmed, "" if dimmed else doubtful))

    def _set_order(self, *, keep: bool) -> None:
        """Work the order out. ``keep``: rows that are there stay in their order, new ones follow."""
        order = "name" if self.sort.value() == "name" else "doubt"
        rows = ordered(self._task, self._answers, order, self._only)  # type: ignore[arg-type]
        if keep:
            places = {q.sha256: i for i, q in enumerate(self.list.rows.rows())}
            rows.sort(key=lambda q: places.get(q.sha256, len(places)))
        if [q.sha256 for q in rows] != [q.sha256 for q in self.list.rows.rows()]:
            self.list.set_order(rows)

    def _reorder(self, _key: str = "") -> None:
        self._sort_when_answered = False
        self.list.looked_at = False
        self._set_order(keep=False)
        self.list.scrollToTop()
        self._sheet(dimmed=self.list.rows.sheet.dimmed)
        self._count.setText(self._count_words())
        self._page()

    def _page(self) -> None:
        task = self._task
        page: QWidget = self.list
        if not task.queries:
            page = self.empty if any(c.images for c in task.classes) else self.welcome
        elif not self.list.rows.rowCount():
            page = self.nothing
        if self.stack.currentWidget() is not page:
            self.stack.setCurrentWidget(page)
        self._captions.setVisible(not self._compact and page is self.list)
        self.sort.setEnabled(bool(task.queries))
        self.filter.setEnabled(bool(task.queries))

    def set_state(self, words: str, *, running: bool) -> None:
        """What the footer says at its right, and whether a newer prediction is on its way."""
        self.footer.set_state(words)
        self._progress.set_running(running)

    def set_compact(self, compact: bool) -> None:
        """The narrow form."""
        self._compact = compact
        self.list.painter_.compact = compact
        self._head.setFixedHeight(44 if compact else 52)
        side = 12 if compact else 16
        self._head_row.setContentsMargins(side, 0, side, 0)
        self.sort.set_text("doubt", self.tr("Doubt") if compact else self.tr("By doubt"))
        self.sort.set_text("name", self.tr("Name") if compact else self.tr("By name"))
        self.filter.set_compact(compact)
        self.footer.set_compact(compact)
        self._page()
        self.list.viewport().update()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The progress line lies on top of the list."""
        super().resizeEvent(event)
        self._place_progress()

    def event(self, event: QEvent) -> bool:
        """The layout moved the list."""
        done = super().event(event)
        if event.type() == QEvent.Type.LayoutRequest:
            self._place_progress()
        return done

    def _place_progress(self) -> None:
        if hasattr(self, "_progress"):
            top = self.stack.geometry()
            self._progress.setGeometry(QRect(top.left(), top.top() - 1, top.width(), 2))
            self._progress.raise_()

    # ---- filter ----------------------------------------------------------------------------------
    def _open_filter(self) -> None:
        menu = self.filter_menu()
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(self.filter.mapToGlobal(QPoint(0, self.filter.height() + 2)))

    def filter_menu(self) -> QMenu:
        """All classes, each class, none of these."""
        menu = QMenu(self)
        choices: list[tuple[ClassId | None, str]] = [(None, self.tr("All classes"))]
        choices += [(c.id, c.name.replace("&", "&&")) for c in self._task.classes]
        choices.append((NONE, self.tr("None of these")))
        for id_, name in choices:
            action = menu.addAction(name)
            action.setCheckable(True)
            action.setChecked(id_ == self._only)
            action.triggered.connect(lambda _=False, i=id_: self._filter_by(i))
        return menu

    def _filter_by(self, only: ClassId | None) -> None:
        self._only = only
        self._name_filter()
        self._reorder()

    def _name_filter(self) -> None:
        names = {c.id: c.name for c in self._task.classes} | {NONE: self.tr("None of these")}
        self.filter.set_text(self.tr("All classes") if self._only is None else names.get(self._only, ""))
        self.filter.set_active(self._only is not None)

    # ---- deeds -----------------------------------------------------------------------------------
    def choose(self) -> None:
        """Ask for pictures to predict."""
        found = choose_pictures(self)
        if found:
            self._deeds.take(Carried(files=tuple(found)), QUERIES)

    def paste(self) -> None:
        """Take what the clipboard holds."""
        self._deeds.paste(QUERIES)

    def go_next(self) -> None:
        """Go to the query to label next."""
        row = self.list.rows.place(self.list.rows.sheet.next)
        if row >= 0:
            self.list.go(row)

    def _label(self, index: int) -> None:
        classes = self._task.classes
        if index < len(classes) and self._deeds.label(self.list.chosen(), NONE if index < 0 else classes[index].id):
            self.list.step_on()

    def _accept(self) -> None:
        chosen = self.list.chosen()
        if self.list.rows.sheet.dimmed:
            return
        if self._deeds.accept(chosen, self._answers) or any(h in self._task.labels for h in chosen):
            self.list.step_on()

    def accept_shown(self) -> None:
        """Accept the predictions of everything that is shown and has no label."""
        if not self.list.rows.sheet.dimmed:
            self._deeds.accept([q.sha256 for q in self.list.rows.rows()], self._answers)

    def _take_back(self) -> None:
        self._deeds.take_back(self.list.chosen())

    def _remove(self) -> None:
        self._deeds.remove_queries(self.list.chosen())

    def _open_menu(self, at: QPoint) -> None:
        menu = self.rows_menu()
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(self.list.viewport().mapToGlobal(at))

    def rows_menu(self) -> QMenu:
        """What can be done with the selected rows."""
        menu = QMenu(self)
        chosen = self.list.chosen()
        menu.setEnabled(bool(chosen))
        accept = menu.addAction(icons.icon("check"), self.tr("Accept"), self._accept)
        accept.setEnabled(any(h in self._answers and h not in self._task.labels for h in chosen))
        menu.addAction(self.tr("Accept all that are shown"), self.accept_shown)
        for index, item in enumerate(self._task.classes):
            action = menu.addAction(self.tr("It is {name}").format(name=item.name.replace("&", "&&")))
            action.triggered.connect(lambda _=False, i=index: self._label(i))
        menu.addAction(self.tr("None of these"), lambda: self._label(-1))
        back = menu.addAction(icons.icon("undo"), self.tr("Take the label back"), self._take_back)
        back.setEnabled(any(h in self._task.labels for h in chosen))
        menu.addSeparator()
        menu.addAction(icons.icon("trash"), self.tr("Take off the list"), self._remove)
        return menu

    def _say_selection(self, *_: object) -> None:
        self.footer.set_selected(len(self.list.selectionModel().selectedIndexes()))

    def _over(self, words: str) -> None:
        self.footer.set_over(words)

    def _caught(self, carried: Carried) -> None:
        self._deeds.take(carried, QUERIES)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Paste adds queries."""
        if event.matches(QKeySequence.StandardKey.Paste):
            self.paste()
        else:
            super().keyPressEvent(event)

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        """Nothing outside the list."""
        event.ignore()
