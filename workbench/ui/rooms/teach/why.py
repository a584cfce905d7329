"""Why it is predicted so: the estimate, what was transferred, and where the task sits among known ones."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QSizePolicy, QVBoxLayout, QWidget

from workbench.core.teach import TeachTask
from workbench.core.values import Candidate, TaskClass
from workbench.services.teach import TeachResult
from workbench.ui import theme
from workbench.ui.rooms.teach.task_map import TaskMap
from workbench.ui.rooms.teach.view import interval
from workbench.ui.widgets.controls import button, draw_bar, label, line
from workbench.ui.widgets.figures import Figure, Whisker
from workbench.ui.widgets.panel import scroll
from workbench.ui.widgets.words import plain

_SHOWN = 4


class WhyPanel(QFrame):
    """The right column.

    Signals:
        choice_wanted(str): ``auto``, ``none`` or an entry's id.
    """

    choice_wanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._result: TeachResult | None = None
        self._task = TeachTask()
        self._support: tuple[TaskClass, ...] = ()
        self._all = False
        self._compact = False
        self._dimmed = False
        self._sections: list[QVBoxLayout] = []
        self.setProperty("role", "panel")
        self.setAccessibleName(self.tr("Why"))
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(0, 0, 0, 12)
        self._column.setSpacing(0)
        self._build_estimate()
        self._column.addWidget(line("edge"))
        self._build_candidates()
        self._column.addWidget(line("edge"))
        self._build_map()
        self._column.addStretch(1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(1, 1, 1, 1)
        self._area = scroll(inside)
        self._area.verticalScrollBar().rangeChanged.connect(self._make_room)
        outer.addWidget(self._area)

    def _section(self, top: int = 12) -> QVBoxLayout:
        holder = QWidget()
        made = QVBoxLayout(holder)
        made.setContentsMargins(16, top, 16, 10)
        made.setSpacing(0)
        self._column.addWidget(holder)
        self._sections.append(made)
        return made

    def _build_estimate(self) -> None:
        column = self._section()
        self.figure = Figure(self.tr("Estimated accuracy"))
        self.whisker = Whisker(axis=True)
        self.how = label("", "caption", wrap=True)
        self.cannot = label(self.tr("Accuracy cannot be estimated yet"), "name", wrap=True)
        self.because = label("", "secondary", wrap=True)
        for widget in (self.figure, self.whisker, self.how, self.cannot, self.because):
            column.addWidget(widget)

    def _build_candidates(self) -> None:
        column = self._section(10)
        head = QHBoxLayout()
        head.addWidget(label(self.tr("Transferred from"), "section"))
        head.addStretch(1)
        self.change = button(self.tr("Change"), "link", name=self.tr("Change what is transferred"))
        self.change.clicked.connect(self._open_choices)
        head.addWidget(self.change)
        column.addLayout(head)
        column.addSpacing(6)
        self._rows = QVBoxLayout()
        self._rows.setSpacing(8)
        column.addLayout(self._rows)
        self.candidates: list[CandidateRow] = []
        self.more = button("", "link")
        self.more.clicked.connect(self._show_all)
        column.addWidget(self.more)
        column.addSpacing(6)
        self.reason = label("", "caption", wrap=True)
        column.addWidget(self.reason)
        self.method = label("", "caption", wrap=True)
        self.method.setAccessibleName(self.tr("About the method"))
        column.addWidget(self.method)

    def _build_map(self) -> None:
        column = self._section(10)
        self.map_title = label(self.tr("Where this task sits"), "section")
        column.addWidget(self.map_title)
        column.addSpacing(8)
        self.map = TaskMap()
        column.addWidget(self.map)
        self.no_map = label("", "caption", wrap=True)
        column.addWidget(self.no_map)

    def _make_room(self, _low: int, high: int) -> None:
        """The scroll bar lies in the padding, so that nothing moves when it comes."""
        for section in self._sections:
            margins = section.contentsMargins()
            margins.setRight(4 if high else 16)
            section.setContentsMargins(margins)

    # ---- content ---------------------------------------------------------------------------------
    def set_compact(self, compact: bool) -> None:
        """The narrow form."""
        self._compact = compact
        self.map.setFixedHeight(80 if compact else 104)
        self.show_result(self._result, self._task, self._support, dimmed=self._dimmed)

    def show_result(
        self, result: TeachResult | None, task: TeachTask, support: tuple[TaskClass, ...], *, dimmed: bool
    ) -> None:
        """Show what a result says, or what is missing; ``support`` is the task's."""
        self._result, self._task, self._support, self._dimmed = result, task, support, dimmed
        self._show_estimate(result, support, dimmed)
        self._show_candidates(result, dimmed)
        points = () if result is None else result.points
        self.map.show_points(points)
        known = any(p.kind != "this" for p in points)
        self.map.setVisible(known)
        self.no_map.setVisible(not known)
        self.no_map.setText(
            self.tr("Shown beside the tasks that are known.")
            if result is None
            else self.tr("Nothing that was learnt is used, so there is nothing to compare with.")
        )
        self.change.setEnabled(result is not None)

    def _show_estimate(self, result: TeachResult | None, support: tuple[TaskClass, ...], dimmed: bool) -> None:
        found = None if result is None else result.estimate
        for widget in (self.figure, self.whisker, self.how):
            widget.setVisible(found is not None)
        for widget in (self.cannot, self.because):
            widget.setVisible(found is None)
        if found is None:
            self.because.setText(_missing(self, support))
            return
        value, between = interval(found)
        self.figure.set(value, between, "disabled" if dimmed else "text")
        self.whisker.set_value(found.accuracy, found.low, found.high)
        self.whisker.set_colour("disabled" if dimmed else "accent")
        classes = len(support)
        self.whisker.set_chance(1 / classes if classes else None)
        examples = sum(len(c.images) for c in support)
        words = self.tr("Leave-one-out over {n} examples, 95 % interval")
        if self._compact:
            words = self.tr("Leave-one-out, {n} examples")
        self.how.setText(words.format(n=examples))
        self.how.setToolTip(plain(found.how[:1].upper() + found.how[1:]))

    def _show_candidates(self, result: TeachResult | None, dimmed: bool) -> None:
        found: Sequence[Candidate] = () if result is None else result.candidates
        shown = found if self._all else found[:_SHOWN]
        while len(self.candidates) < len(shown):
            made = CandidateRow()
            self.candidates.append(made)
            self._rows.addWidget(made)
        for i, row in enumerate(self.candidates):
            row.setVisible(i < len(shown))
            if i < len(shown):
                row.show_candidate(shown[i], dimmed=dimmed, compact=self._compact)
        self.more.setVisible(len(found) > len(shown))
        self.more.setText(self.tr("Show all {n}").format(n=len(found)))
        soon = self.tr("Chosen as soon as two classes have an example.")
        if len(self._support) > 1:
            soon = self.tr("Not known yet.")
        self.reason.setText(soon if result is None else result.reason)
        self.method.setText("" if result is None else " ".join(result.method))
        self.method.setVisible(result is not None and bool(result.method))

    def _show_all(self) -> None:
        self._all = True
        self.show_result(self._result, self._task, self._support, dimmed=self._dimmed)

    # ---- choosing --------------------------------------------------------------------------------
    def _open_choices(self) -> None:
        menu = self.choices()
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        # its right edge under the link's, so that it stays within the window
        left = self.change.width() - menu.sizeHint().width()
        menu.popup(self.change.mapToGlobal(QPoint(left, self.change.height() + 2)))

    def choices(self) -> QMenu:
        """Choose for me, each entry, no transfer."""
        menu = QMenu(self)
        found = () if self._result is None else self._result.candidates
        rows = [("auto", self.tr("Choose for me"))]
        rows += [(str(c.entry), c.name) for c in found if c.entry is not None]
        rows.append(("none", self.tr("No transfer")))
        for n, (key, name) in enumerate(rows):
            if n == 1 and len(rows) > 2:
                menu.addSeparator()
            action = menu.addAction(name.replace("&", "&&"))
            action.setCheckable(True)
            action.setChecked(key == self._task.choice)
            action.triggered.connect(lambda _=False, k=key: self.choice_wanted.emit(k))
        return menu


def _missing(owner: WhyPanel, support: tuple[TaskClass, ...]) -> str:
    """Why accuracy cannot be estimated, and what to do."""
    if len(support) < 2:
        return owner.tr("Give at least two classes an example each.")
    single = [c.name for c in support if len(c.images) == 1]
    if len(single) == len(support):
        return owner.tr("Each class has 1 example; add a second.")
    if len(single) == 1:
        return owner.tr("{name} has 1 example; add a second.").format(name=single[0])
    if single:
        return owner.tr("{n} classes have 1 example; add a second to each.").format(n=len(single))
    return owner.tr("The examples were not compared yet.")


class CandidateRow(QWidget):
    """Name and weight, a bar, and the two figures that decide."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._candidate: Candidate | None = None
        self._dimmed = False
        self._caption = ""
        self.setFixedHeight(46)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_candidate(self, candidate: Candidate, *, dimmed: bool, compact: bool) -> None:
        """Show one."""
        self._candidate, self._dimmed = candidate, dimmed
        parts = []
        if candidate.entry is None:
            parts.append(self.tr("untrained network"))
        elif candidate.similarity is not None:
            parts.append(self.tr("similarity {s}").format(s=f"{candidate.similarity:.2f}"))
        if candidate.loss is not None:
            words = self.tr("loss {l}") if compact else self.tr("leave-one-out loss {l}")
            parts.append(words.format(l=f"{candidate.loss:.2f}"))
        self._caption = " · ".join(parts)
        name = self.name()
        chosen = self.tr("chosen") + ", " if candidate.chosen else ""
        self.setAccessibleName(f"{name}: {chosen}{self.tr('weight')} {candidate.weight:.2f}, {self._caption}")
        tip = [name]
        if candidate.nearest_source:
            tip.append(self.tr("Most similar source: {name}").format(name=candidate.nearest_source))
        tip.append(self._caption)
        self.setToolTip(plain("\n".join(tip)))
        self.update()

    def name(self) -> str:
        """What it is called."""
        c = self._candidate
        return "" if c is None else self.tr("No transfer") if c.entry is None else c.title

    def caption(self) -> str:
        """The figures that decide."""
        return self._caption

    def sizeHint(self) -> QSize:
        """46 high."""
        return QSize(200, 46)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Two lines and a bar."""
        if self._candidate is None:
            return
        t = theme.tokens()
        painter = QPainter(self)
        painter.setOpacity(0.5 if self._dimmed else 1.0)
        chosen = self._candidate.chosen
        font = theme.font("strong" if chosen else "body")
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.setPen(QColor(t.text))
        painter.setFont(font)
        painter.drawText(
            QRect(0, 0, self.width(), 20), middle | Qt.AlignmentFlag.AlignRight, f"{self._candidate.weight:.2f}"
        )
        painter.setFont(theme.font("name"))
        room = self.width() - 44
        shown = QFontMetrics(theme.font("name")).elidedText(self.name(), Qt.TextElideMode.ElideRight, room)
        painter.drawText(QRect(0, 0, room + 2, 20), middle, shown)
        colour = "secondary" if self._candidate.entry is None else "accent"
        draw_bar(painter, QRectF(0, 21, self.width(), 6), self._candidate.weight, colour)
        painter.setFont(theme.font("caption"))
        painter.setPen(QColor(t.secondary))
        painter.drawText(QRect(0, 29, self.width(), 16), middle, self._caption)
