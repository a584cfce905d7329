"""Knowledge: what is known, where it came from, what resembles what, and what can be done with it."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

from PySide6.QtCore import QPoint, QTimer
from PySide6.QtGui import QIcon, QResizeEvent, QShowEvent
from PySide6.QtWidgets import QHBoxLayout, QMenu, QStackedWidget, QVBoxLayout, QWidget

from workbench.core.paths import display
from workbench.core.values import EntryId, KnowledgeEntry
from workbench.services import overview
from workbench.services.overview import Atlas, AtlasRequest, Names, Shelf
from workbench.ui.icons import set_icon
from workbench.ui.lanes import Job
from workbench.ui.rooms.knowledge.card import EntryCard
from workbench.ui.rooms.knowledge.deeds import Deeds
from workbench.ui.rooms.knowledge.panels import EntriesPanel, MapPanel, MatrixPanel
from workbench.ui.rooms.knowledge.rows import episode_words, facts, rows_of
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button
from workbench.ui.widgets.drop import DropArea
from workbench.ui.widgets.room import Room
from workbench.ui.widgets.strip import EmptyHint
from workbench.ui.widgets.words import interval

_TOP, _LEAST_TOP = 400, 212
_LATER_MS = 150


class KnowledgeRoom(Room):
    """The room.

    Attributes:
        shelf: all entries, as last read.
        atlas: what resembles what, as last compared.
        wanted: the entry to make current once it is read.
    """

    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Arrow keys", "Go to the next task of the map, or the next cell of the matrix"),
        ("Home / End", "First or last task of the map, or cell of a row"),
        ("Delete", "Put the entry away (it can be restored)"),
    )

    def __init__(self, state: AppState, parent: QWidget | None = None) -> None:
        super().__init__(state, "Knowledge", "", parent)
        self.set_subtitle(self.tr("What is known, where it came from, and what a new task resembles."))
        self.shelf, self.names, self.atlas = Shelf(), Names(), Atlas()
        self.wanted = EntryId("")
        self._checked: dict[tuple[EntryId, str], str | None] = {}
        self._read_once, self._stale = False, True
        self._comparing: Job | None = None
        self.deeds = Deeds(self)
        self.adapt = self.add_action(button(self.tr("Adapt to a domain")))
        self.use = self.add_action(button(self.tr("Use in Teach"), "primary", "teach"))
        self.map_panel = MapPanel(state.thumbs, self._name_of)
        self.map = self.map_panel.map
        self.matrix_panel = MatrixPanel(state.thumbs)
        self.matrix = self.matrix_panel.matrix
        self.entries_panel = EntriesPanel()
        self.table = self.entries_panel.table
        self.card = EntryCard()
        self._places = QStackedWidget()
        self._places.addWidget(self._empty())
        self._places.addWidget(self._content())
        self.body.addWidget(self._places)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_LATER_MS)
        self._later.timeout.connect(self._compare)
        self._connect()
        self.refresh()

    def _empty(self) -> QWidget:
        go = button(self.tr("Go to Train"), "primary", "train")
        go.clicked.connect(lambda: self.state.go("train"))
        hint = self.tr(
            "Train on your sources: what is learnt how to learn stays here. Or drop a .knowledge file that another "
            "workbench exported."
        )
        self.empty = EmptyHint("knowledge", self.tr("Nothing is known yet"), hint, go)
        return self.empty

    def _content(self) -> QWidget:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(12)
        self._top = QWidget()
        top, bottom = QHBoxLayout(self._top), QHBoxLayout()
        for row in (top, bottom):
            row.setContentsMargins(0, 0, 0, 0)
            row.setSpacing(12)
        top.addWidget(self.map_panel, 1)
        top.addWidget(self.matrix_panel)
        bottom.addWidget(self.entries_panel, 1)
        bottom.addWidget(self.card)
        column.addWidget(self._top)
        column.addLayout(bottom, 1)
        return content

    def _connect(self) -> None:
        state, panel, card, deeds = self.state, self.entries_panel, self.card, self.deeds
        self.adapt.clicked.connect(deeds.align_or_stop)
        self.use.clicked.connect(deeds.use)
        self.map.chosen.connect(self._task_chosen)
        self.matrix.chosen.connect(self._task_chosen)
        self.map_panel.looked_by.connect(self._out_of_date)
        self.matrix_panel.csv.clicked.connect(deeds.ask_csv)
        panel.table.chosen.connect(self._entry_chosen)
        panel.table.retire_asked.connect(self._retire_by_key)
        panel.table.customContextMenuRequested.connect(self._context_menu)
        panel.changed.connect(self._show_rows)
        panel.take.clicked.connect(deeds.ask_import)
        panel.retire.clicked.connect(deeds.retire_or_restore)
        card.go_on.clicked.connect(deeds.go_on)
        card.export.clicked.connect(deeds.ask_export)
        card.more.clicked.connect(self._more)
        self.drops = DropArea(self, images=False)
        self.drops.dropped.connect(deeds.dropped)
        state.project_changed.connect(self._forget)
        state.entries_changed.connect(self._read_again)
        state.tasks_changed.connect(self._out_of_date)
        state.teach_changed.connect(self._out_of_date)
        state.theme_changed.connect(self.update)
        state.busy_changed.connect(self._show_buttons)

    # ---- layout ----------------------------------------------------------------------------------
    def compact_changed(self, compact: bool) -> None:
        """Fewer columns, narrower panels."""
        self.entries_panel.set_narrow(narrow=compact)
        self.matrix.set_narrow(narrow=compact)
        self.map_panel.set_narrow(narrow=compact)
        self.card.set_narrow(narrow=compact)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """400 px for map and matrix where there is room for them, and 384 for the card."""
        super().resizeEvent(event)
        room = self._places.height()
        self._top.setFixedHeight(min(_TOP, max(_LEAST_TOP, round(room * (0.48 if self.compact else 0.56)))))
        width = self._places.width()
        self.matrix_panel.setFixedWidth(min(560, max(380, round(width * 0.425))))
        self.card.setFixedWidth(384 if width >= 1200 else 316)

    def focus_start(self) -> None:
        """The entries, or what to do where there are none."""
        if self._places.currentIndex():
            self.table.setFocus()
        else:
            self.setFocus()

    # ---- reading ---------------------------------------------------------------------------------
    def showEvent(self, event: QShowEvent) -> None:
        """Read what is not read yet, compare what is out of date."""
        super().showEvent(event)
        if not self._read_once:
            self.read()
        elif self._stale:
            self._later.start()

    def _forget(self) -> None:
        """Another project."""
        self.shelf, self.atlas = Shelf(), Atlas()
        self._checked = {}
        self._read_once, self._stale = False, True
        self._show_atlas()
        self._show_rows()
        if self.isVisible():
            self.read()

    def _read_again(self) -> None:
        if self._read_once or self.isVisible():
            self.read()

    def read(self) -> None:
        """Read the entries from the disk again, in the background."""
        if self.state.project is None:
            return
        self._read_once = True
        title = self.tr("Reading the knowledge")
        project = self.state.project_path
        self.state.lanes.submit(
            "files", overview.shelf, project, title=title, on_done=partial(self._read_done, project)
        )

    def _read_done(self, project: Path, shelf: Shelf) -> None:
        if project != self.state.project_path:
            return
        before = {e.id for e in self.shelf.entries}
        self.shelf = shelf
        everything = (*shelf.entries, *shelf.retired)
        if any(e.algorithm not in self.names.algorithms or e.backbone not in self.names.backbones for e in everything):
            title = self.tr("Looking for algorithms")
            self.state.lanes.submit("loading", overview.names, everything, title=title, on_done=self._named)
        self._show_rows()
        if {e.id for e in shelf.entries} != before or self._stale:
            self._out_of_date()

    def _named(self, names: Names) -> None:
        self.names = names
        self._show_rows()

    # ---- comparing -------------------------------------------------------------------------------
    def _out_of_date(self, _by: object = None) -> None:
        self._stale = True
        if self.isVisible():
            self._later.start()

    def _compare(self) -> None:
        """Compare the tasks, in the background; the comparison before is given up."""
        if not self.isVisible() or not self._read_once:
            return
        if self._comparing is not None:
            self._comparing.cancel()
        self._stale = False
        own = self.map_panel.by.value() == "own"
        request = AtlasRequest(self._entry_id(), self.state.tasks, self.state.teach.support(), own)
        self._comparing = self.state.lanes.submit(
            "loading",
            overview.atlas,
            request,
            self.state.project_path,
            title=self.tr("Comparing tasks"),
            on_done=partial(self._compared, self.state.project_path),
        )
        self._show_atlas()

    def _compared(self, project: Path, atlas: Atlas) -> None:
        self._comparing = None
        if project == self.state.project_path:
            self.atlas = atlas
            self._show_atlas()

    def _show_atlas(self) -> None:
        busy = self._comparing is not None and not self._comparing.over
        self.map_panel.show_atlas(self.atlas, busy=busy)
        self.matrix_panel.show_atlas(self.atlas, busy=busy)

    def _task_chosen(self, key: str) -> None:
        """On the map or in the matrix: both mark it."""
        self.map.choose(key)
        self.matrix.choose(key)
        self.map_panel.say()

    # ---- entries ---------------------------------------------------------------------------------
    def entry(self) -> KnowledgeEntry | None:
        """The current entry."""
        return self.shelf.find(EntryId(self._entry_id()))

    def _entry_id(self) -> str:
        row = self.table.current()
        return "" if row is None else row.id

    def put_away(self, entry: KnowledgeEntry) -> bool:
        """Whether an entry is retired."""
        return any(e.id == entry.id for e in self.shelf.retired)

    def _name_of(self, id_: EntryId) -> str:
        entry = self.shelf.find(id_)
        return "" if entry is None else display(entry.name)

    def _show_rows(self) -> None:
        panel, shelf = self.entries_panel, self.shelf
        known = bool(shelf.entries or shelf.retired)
        self._places.setCurrentIndex(int(known or not self._read_once))
        if known and not shelf.entries:
            panel.show_retired(on=True)
        rows = rows_of(shelf, self.names, panel.words(), datetime.now().astimezone())
        if not panel.shows_retired:
            rows = tuple(r for r in rows if not r.retired)
        panel.show_rows(rows, len(shelf.entries), len(shelf.retired), shelf.problems)
        if self.wanted and any(r.id == self.wanted for r in rows):
            self.table.choose(self.wanted)
            self.wanted = EntryId("")
        self.refresh()

    def _entry_chosen(self, _id: str) -> None:
        if not self.atlas.common and self.atlas.tasks:  # another network looks at the tasks
            self._out_of_date()
        self.refresh()

    def refresh(self) -> None:
        """Show the current entry."""
        entry = self.entry()
        self.map.set_entry("" if entry is None else entry.id)
        self.card.setVisible(entry is not None)
        if entry is not None:
            v = entry.validation
            between = v.interval if v is not None else None
            figure = None
            if v is not None:
                figure = (f"{v.accuracy:.3f}", interval(*between, 3) if between else "")
            self.card.show_entry(
                display(entry.name), figure, episode_words(entry), facts(entry, self.names, self.shelf.find)
            )
            self._check(entry)
        self._show_buttons()

    def _check(self, entry: KnowledgeEntry) -> None:
        """Look whether its weights are whole, once."""
        key = (entry.id, entry.weights_sha256)
        if key not in self._checked:
            self._checked[key] = None
            self.state.lanes.submit(
                "files",
                overview.verify,
                self.shelf.folders[entry.id],
                entry.weights_sha256,
                title=self.tr("Checking {name}").format(name=display(entry.name)),
                on_done=partial(self._checked_done, key),
            )
        self.card.show_checked(self._checked[key])

    def _checked_done(self, key: tuple[EntryId, str], why: str) -> None:
        self._checked[key] = why
        entry = self.entry()
        if entry is not None and (entry.id, entry.weights_sha256) == key:
            self.card.show_checked(why)
            self._show_buttons()

    def _show_buttons(self) -> None:
        entry, aligning = self.entry(), self.deeds.aligning
        known = self._places.currentIndex() == 1
        away = entry is not None and self.put_away(entry)
        damaged = entry is not None and bool(self._checked.get((entry.id, entry.weights_sha256)))
        read_only = self.state.project is None or bool(self.state.project.read_only)
        training = self.state.lanes.busy("train")
        why = self.tr("Choose an entry first") if entry is None else ""
        why = self.tr("Its weights are damaged") if damaged else why
        why = self.tr("It is put away; restore it first") if away else why
        self.use.setVisible(known)
        self.adapt.setVisible(known or aligning is not None)
        _enable(self.use, why or (self.tr("The project can be read only") if read_only else ""))
        running = aligning is not None
        stopping = aligning is not None and aligning.state == "stopping"
        text = self.tr("Stop adapting") if running else self.tr("Adapt to a domain")
        self.adapt.setText(self.tr("Finishing this step") if stopping else text)
        busy = self.tr("Something is being trained; it waits for that") if training and not running else ""
        _enable(self.adapt, "" if running and not stopping else why or busy)
        if running:
            set_icon(self.adapt, "stop", 16)
        else:
            self.adapt.setIcon(QIcon())
        _enable(self.card.go_on, why, self.tr("Train on from this entry, on other sources"))
        _enable(
            self.card.export,
            self.tr("Its weights are damaged") if damaged else "",
            self.tr("Write the entry as one file, for another workbench"),
        )
        self.entries_panel.show_current(away=away, there=entry is not None)

    def _retire_by_key(self) -> None:
        entry = self.entry()
        if entry is not None and not self.put_away(entry):
            self.deeds.retire(entry)

    # ---- menus -----------------------------------------------------------------------------------
    def _more(self) -> None:
        self._popup(self.card.more.mapToGlobal(QPoint(self.card.more.width(), -2)), above=True)

    def _context_menu(self, at: QPoint) -> None:
        if self.entry() is not None:
            self._popup(self.table.viewport().mapToGlobal(at))

    def _popup(self, at: QPoint, *, above: bool = False) -> QMenu:
        """The menu; ``above``: with its lower right corner there, so that it stays within the window."""
        menu = self.deeds.menu()
        if above:
            at -= QPoint(menu.sizeHint().width(), menu.sizeHint().height())
        menu.aboutToHide.connect(menu.deleteLater)
        menu.popup(at)
        return menu

    # ---- remembered ------------------------------------------------------------------------------
    def reveal(self, kind: str, key: str) -> None:
        """Make an entry the current one."""
        if kind == "entry":
            self.select(key)
            self.table.setFocus()

    def selection(self) -> str:
        """The current entry."""
        return self._entry_id()

    def select(self, key: str) -> None:
        """Make an entry current; once it is read, where it is not yet."""
        self.wanted = EntryId(key)
        if self.shelf.find(self.wanted) is not None:
            self._show_rows()


def _enable(widget: QWidget, why_not: str, tip: str = "") -> None:
    widget.setEnabled(not why_not)
    widget.setToolTip(why_not or tip)
