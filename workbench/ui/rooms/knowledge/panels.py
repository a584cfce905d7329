"""The panels of the Knowledge room: the map, the matrix, and the table with what is done to its rows."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from PySide6.QtCore import QCoreApplication, QPoint, Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QMenu, QStackedWidget, QWidget

from workbench.core.paths import display
from workbench.core.values import EntryId, Problem
from workbench.services.overview import Atlas
from workbench.ui.rooms.knowledge.entries_table import EntriesTable
from workbench.ui.rooms.knowledge.matrix import SimilarityMatrix
from workbench.ui.rooms.knowledge.rows import EntryRow, counted
from workbench.ui.rooms.knowledge.task_map import TaskMap
from workbench.ui.widgets.controls import Segmented, button, label, line
from workbench.ui.widgets.elided import Elided
from workbench.ui.widgets.panel import Panel
from workbench.ui.widgets.search_field import SearchField
from workbench.ui.widgets.strip import IconLabel
from workbench.ui.widgets.thumbs import Thumbs

_tr = QCoreApplication.translate


def _middle(text: str) -> QLabel:
    made = label(text, "secondary", wrap=True)
    made.setAlignment(Qt.AlignmentFlag.AlignCenter)
    made.setContentsMargins(24, 0, 24, 0)
    return made


class MapPanel(Panel):
    """The map, who looks at the tasks, and below it the marked task in words.

    Signals:
        looked_by(str): ``common`` or ``own``, by the person.
    """

    looked_by = Signal(str)

    def __init__(self, thumbs: Thumbs, entry_name: Callable[[EntryId], str]) -> None:
        super().__init__(_tr("Knowledge", "Task map"), header_height=44, padding=1, rule=True)
        self.map = TaskMap(thumbs, entry_name)
        self._wait = _middle("")
        self._places = QStackedWidget()
        self._places.addWidget(self._wait)
        self._places.addWidget(self.map)
        self.body.setSpacing(0)
        self.body.addWidget(self._places, 1)
        self.body.addWidget(line())
        foot = QWidget()
        foot.setFixedHeight(32)
        row = QHBoxLayout(foot)
        row.setContentsMargins(15, 0, 15, 0)
        row.setSpacing(12)
        self.summary = Elided("", "caption", least=80)
        self.missing = label("", "caption")
        row.addWidget(self.summary, 1)
        row.addWidget(self.missing)
        self.body.addWidget(foot)
        self.by = Segmented(
            [("common", self.tr("Common network")), ("own", self.tr("This entry"))], "common", self.tr("Compared by")
        )
        self.by.setToolTip(
            self.tr(
                "The common network compares everything alike; an entry's own tells more of what it was trained on."
            )
        )
        self.by.changed.connect(self.looked_by)
        self.add_to_header(self.by)
        self.show_atlas(Atlas(), busy=True)

    def set_narrow(self, *, narrow: bool) -> None:
        """Without the words beside the title, which would be cut."""
        self._beside.setMaximumWidth(0 if narrow else 16_777_215)

    def show_atlas(self, atlas: Atlas, *, busy: bool) -> None:
        """Show what was compared, or that it is being compared."""
        self.map.show_atlas(atlas)
        self._places.setCurrentIndex(int(bool(atlas.tasks)))
        self._wait.setText(
            self.tr("Comparing tasks")
            if busy
            else self.tr("No source of any entry can be compared: their pictures are not here.")
        )
        words = self.tr("distance follows how differently two tasks look to {name}")
        name = self.tr("one network") if atlas.common else display(atlas.under)
        self.set_beside(words.format(name=name) if atlas.under else "")
        there = len(atlas.elsewhere)
        self.missing.setText(self.tr("{n} not shown").format(n=counted(there, "task")) if there else "")
        self.missing.setVisible(bool(there))
        names = ", ".join(display(t.name) for t in atlas.elsewhere[:20])
        why = self.tr("{network} has not seen them, and their pictures are not among the sources: {names}")
        tip = why.format(network=name[:1].upper() + name[1:], names=names)
        self.missing.setToolTip(f"<span>{html.escape(tip)}</span>")
        self.missing.setAccessibleName(f"{self.missing.text()}. {tip}")
        self.say()

    def say(self) -> None:
        """The marked task in words."""
        self.summary.setText(self.map.summary() if self.map.atlas.tasks else "")


class MatrixPanel(Panel):
    """The matrix, and its numbers as a file."""

    def __init__(self, thumbs: Thumbs) -> None:
        super().__init__(_tr("Knowledge", "Similarity"), header_height=44, padding=16)
        self.set_beside(self.tr("0 unrelated, 1 the same"))
        self.csv = button(self.tr("CSV"), "quiet", size="small")
        self.csv.setToolTip(self.tr("Save the similarities as a table"))
        self.csv.setAccessibleName(self.tr("Save the similarities as CSV"))
        self.add_to_header(self.csv)
        self.matrix = SimilarityMatrix(thumbs)
        self._wait = _middle("")
        self._places = QStackedWidget()
        self._places.addWidget(self._wait)
        self._places.addWidget(self.matrix)
        self.body.addWidget(self._places, 1)
        self.show_atlas(Atlas(), busy=True)

    def show_atlas(self, atlas: Atlas, *, busy: bool) -> None:
        """Show what was compared, or that it is being compared."""
        self.matrix.show_atlas(atlas)
        self._places.setCurrentIndex(int(bool(atlas.tasks)))
        self._wait.setText(self.tr("Comparing tasks") if busy else self.tr("Nothing to compare yet."))
        self.csv.setEnabled(bool(atlas.tasks))


class EntriesPanel(Panel):
    """The table, what finds and sorts its rows, import and retire.

    Signals:
        changed: other rows are wanted.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__(_tr("Knowledge", "Entries"), header_height=44, padding=1)
        self.shows_retired = False
        self._retired = 0
        self.search = SearchField(
            self.tr("Find entries"), self.tr("Name, algorithm, sources, classes; Escape clears"), self.tr("Find")
        )
        self.search.setFixedSize(168, 28)
        self.search.textChanged.connect(lambda _: self.changed.emit())
        self.take = button(self.tr("Import"), "quiet", "download", size="small")
        self.take.setToolTip(self.tr("Take entries out of .knowledge files; or drop them on this room"))
        self.retire = button(self.tr("Retire"), "quiet", size="small")
        self.view = button("", "icon", "filter", size="small", name=self.tr("Sort, and show what was put away"))
        self.view.clicked.connect(self._open_view)
        for widget in (self.search, self.take, self.retire, self.view):
            self.add_to_header(widget)
        self.table = EntriesTable()
        self.search.left_down.connect(self.table.setFocus)
        self._nothing = _middle("")
        self._places = QStackedWidget()
        self._places.addWidget(self._nothing)
        self._places.addWidget(self.table)
        self.body.setSpacing(0)
        self.body.addWidget(self._places, 1)
        foot = QWidget()
        foot.setFixedHeight(36)
        row = QHBoxLayout(foot)
        row.setContentsMargins(15, 0, 15, 4)
        row.setSpacing(8)
        self._icon = IconLabel("info", 16)
        self.note = Elided("", "secondary", least=80)
        row.addWidget(self._icon)
        row.addWidget(self.note, 1)
        self.body.addWidget(foot)

    def set_narrow(self, *, narrow: bool) -> None:
        """A shorter line to find with."""
        self.search.setFixedWidth(112 if narrow else 168)

    def words(self) -> str:
        """What is looked for."""
        return self.search.text()

    def show_retired(self, *, on: bool) -> None:
        """Also what was put away, or not; without a signal."""
        self.shows_retired = on

    def show_rows(self, rows: Sequence[EntryRow], used: int, retired: int, problems: Sequence[Problem]) -> None:
        """Show rows.

        Args:
            rows: to be listed.
            used: entries in use, all of them.
            retired: entries put away.
            problems: folders that could not be read.
        """
        self._retired = retired
        self.set_beside(str(used))
        self.table.set_rows(rows)
        self._places.setCurrentIndex(int(bool(rows)))
        self._nothing.setText(self.tr("No entry has all of these words."))
        broken = [p for p in problems if p.severity == "error"]
        note = self.tr("Validation sets differ between entries, so these figures do not rank them")
        if broken:
            note = self.tr("{n} cannot be read: {why}").format(
                n=counted(len(broken), "entry", "entries"), why=broken[0].reason
            )
        self._icon.set("warn" if broken else "info", "warn" if broken else "secondary")
        self.note.setText(note)
        if broken:
            listed = "\n".join(f"{display(p.path)}: {p.reason}" for p in broken)
            self.note.setToolTip(f"<span>{html.escape(listed)}</span>".replace("\n", "<br>"))

    def show_current(self, *, away: bool, there: bool) -> None:
        """What can be done with the current entry."""
        self.retire.setText(self.tr("Restore") if away else self.tr("Retire"))
        self.retire.setAccessibleName(self.retire.text())
        self.retire.setEnabled(there)
        self.retire.setToolTip(
            self.tr("Take it into use again")
            if away
            else self.tr("Put it away: not chosen any more, not deleted (Delete)")
        )

    def view_menu(self) -> QMenu:
        """Sort by a column; show what was put away."""
        menu = QMenu(self)
        model = self.table.entries
        for key, title in (
            ("name", self.tr("Sort by name")),
            ("algorithm", self.tr("Sort by algorithm")),
            ("backbone", self.tr("Sort by backbone")),
            ("sources", self.tr("Sort by sources")),
            ("accuracy", self.tr("Sort by accuracy")),
            ("made", self.tr("Sort by day")),
        ):
            action = menu.addAction(title)
            action.setCheckable(True)
            action.setChecked(model.sorted_by == key)
            action.triggered.connect(lambda _=False, k=key: self.table.sort_by(k))
        menu.addSeparator()
        text = self.tr("Show retired ({n})").format(n=self._retired)
        action = menu.addAction(text)
        action.setCheckable(True)
        action.setChecked(self.shows_retired)
        action.setEnabled(bool(self._retired))
        action.triggered.connect(self._toggle_retired)
        return menu

    def _open_view(self) -> None:
        menu = self.view_menu()
        menu.aboutToHide.connect(menu.deleteLater)
        left = self.view.width() - menu.sizeHint().width()
        menu.popup(self.view.mapToGlobal(QPoint(left, self.view.height() + 2)))

    def _toggle_retired(self, on: bool) -> None:
        self.shows_retired = on
        self.changed.emit()
