"""The left and the middle panel of Sources: the list of tasks, and the pictures with filter and zoom."""

from __future__ import annotations

from collections.abc import Iterator

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QHBoxLayout, QSlider, QWidget

from workbench.core.values import Task
from workbench.ui.rooms.sources.content import Section, narrow, sections_of
from workbench.ui.rooms.sources.grid import LARGEST, SMALLEST, USUAL, ThumbnailGrid
from workbench.ui.rooms.sources.task_list import TaskList, counts
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.controls import button, label, line
from workbench.ui.widgets.panel import Panel
from workbench.ui.widgets.search_field import SearchField
from workbench.ui.widgets.strip import EmptyHint, IconLabel
from workbench.ui.widgets.thumbs import Thumbs


class TasksPanel(Panel):
    """The tasks, how many pictures they have, what the icons mean.

    Attributes:
        list: the tasks.
        elsewhere: opens the list of files that belong to no task.
    """

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__("Tasks", padding=0, rule=True, parent=parent)
        self.setFixedWidth(280)
        self._total = label("", "caption")
        self.add_to_header(self._total)
        self.body.setSpacing(0)
        self.list = TaskList(thumbs)
        self.body.addWidget(self.list, 1)
        self.elsewhere = button("", "link", "info")
        self.elsewhere.setToolTip(self.tr("Files that were looked at and not taken, and belong to none of these tasks"))
        self.elsewhere.hide()
        self.body.addWidget(self.elsewhere, 0, Qt.AlignmentFlag.AlignHCenter)
        self.body.addWidget(line())
        foot = QWidget()
        foot.setFixedHeight(40)
        legend = QHBoxLayout(foot)
        legend.setContentsMargins(12, 0, 12, 0)
        legend.setSpacing(4)
        for at, (icon, text) in enumerate((("train", "Meta-train"), ("shield", "Validation"), ("lock", "Held out"))):
            if at:
                legend.addStretch(1)
            legend.addWidget(IconLabel(icon, 14))
            legend.addWidget(label(self.tr(text), "caption"))
        self.body.addWidget(foot)
        self._foot = foot

    def show_counts(self, tasks: int, images: int) -> None:
        """Numbers of the header."""
        self.set_beside(f"{tasks:,}" if tasks else "")
        self._total.setText(count(images, "image"))

    def show_elsewhere(self, files: int) -> None:
        """How many files belong to no task."""
        self.elsewhere.setVisible(files > 0)
        self.elsewhere.setText(self.tr("{files} outside these tasks").format(files=count(files, "file")))

    def set_compact(self, compact: bool) -> None:
        """Narrower, without the legend (the icons have tooltips)."""
        self.setFixedWidth(212 if compact else 280)
        self._foot.setVisible(not compact)


class PicturesPanel(Panel):
    """The pictures of a task.

    Attributes:
        grid: the thumbnails.
        filter: words to look for.
        zoom: side of a cell.
    """

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__("Pictures", padding=0, rule=True, parent=parent)
        self.setMinimumWidth(240)  # explicit, so that the window can be made narrow enough to become compact
        self._sections: tuple[Section, ...] = ()
        self._filtering: Iterator[tuple[Section, ...] | None] | None = None
        self._counts = ""
        self._compact = False
        self.body.setSpacing(0)
        self.filter = SearchField(
            self.tr("Filter by class or file name"),
            self.tr("Words in the class or file name (Ctrl+F); Escape clears"),
            self.tr("Filter"),
        )
        self.filter.setFixedWidth(152)
        self.zoom = QSlider(Qt.Orientation.Horizontal)
        self.zoom.setRange(SMALLEST, LARGEST)
        self.zoom.setValue(USUAL)
        self.zoom.setPageStep(24)
        self.zoom.setFixedWidth(92)
        self.zoom.setAccessibleName(self.tr("Size of the pictures"))
        self.zoom.setToolTip(self.tr("Size of the pictures"))
        self._small = IconLabel("image", 12)
        for widget in (self.filter, self._small, self.zoom, IconLabel("image", 16)):
            self.add_to_header(widget)
        self.header.insertSpacing(self.header.indexOf(self.filter) + 1, 8)
        self.grid = ThumbnailGrid(thumbs)
        self.grid.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.grid.zoomed.connect(self.zoom.setValue)
        self.zoom.valueChanged.connect(self.grid.set_cell)
        self.nothing = EmptyHint("filter", self.tr("No picture has these words in its name"))
        self.nothing.hide()
        self.body.addWidget(self.grid, 1)
        self.body.addWidget(self.nothing, 1)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(120)
        self._later.timeout.connect(self._begin)
        self._on = QTimer(self)
        self._on.setSingleShot(True)
        self._on.setInterval(0)
        self._on.timeout.connect(self._go_on)
        self.filter.textChanged.connect(lambda: self._later.start())

    def show_task(self, task: Task | None, *, keep: bool) -> None:
        """Show a task's pictures; ``keep`` when it is the same task, changed."""
        self.set_title(task.name if task else self.tr("Pictures"))
        self._counts = counts(task) if task else ""
        self.set_beside("" if self._compact else self._counts)
        self._sections = sections_of(task)
        if self.filter.text().strip():
            self._begin()
        else:
            self._show(self._sections, keep=keep)

    def show_all(self) -> None:
        """Clear the filter, at once."""
        if self.filter.text():
            self.filter.clear()
            self._later.stop()
            self._begin()

    def focus_filter(self) -> None:
        """Type into the filter."""
        self.filter.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.filter.selectAll()

    def set_compact(self, compact: bool) -> None:
        """A narrower filter."""
        self._compact = compact
        self.set_beside("" if compact else self._counts)
        self.filter.setFixedWidth(120 if compact else 152)
        self.zoom.setFixedWidth(64 if compact else 92)
        self._small.setVisible(not compact)

    def _begin(self) -> None:
        words = self.filter.text().strip()
        if not words:
            self._filtering = None
            self._show(self._sections, keep=True)
            return
        self._filtering = narrow(self._sections, words)
        self._go_on()

    def _go_on(self) -> None:
        if self._filtering is None:
            return
        result = next(self._filtering, None)
        if result is None:
            self._on.start()
        else:
            self._filtering = None
            self._show(result, keep=True)

    def _show(self, sections: tuple[Section, ...], *, keep: bool) -> None:
        self.grid.set_sections(sections, keep=keep)
        empty = not sections and bool(self._sections)
        self.grid.setVisible(not empty)
        self.nothing.setVisible(empty)
