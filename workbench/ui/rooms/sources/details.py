"""The right column of Sources: the selected picture, the task's role, what there is to check, whether it is ready."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from workbench.core.storage import len_text
from workbench.core.values import ImageRef, Role, Task
from workbench.ui.rooms.sources.findings import Episode, Finding, ready
from workbench.ui.rooms.sources.words import count
from workbench.ui.widgets.controls import Chip, Segmented, button, clear_layout, label, line
from workbench.ui.widgets.elided import Elided
from workbench.ui.widgets.flow import FlowLayout
from workbench.ui.widgets.panel import scroll
from workbench.ui.widgets.strip import IconLabel
from workbench.ui.widgets.thumbs import Thumb, Thumbs

MOST = 2000  # selected pictures that are looked at one by one
_ROLES = ((Role.TRAIN, "Meta-train"), (Role.VALIDATION, "Validation"), (Role.HELD_OUT, "Held out"))


class Details(QFrame):
    """A panel.

    Signals:
        role_chosen(Role): by the person.
        fix_asked(Fix, Finding): a finding's button.
        enlarge_asked: the selected picture is to be seen large.
    """

    role_chosen = Signal(object)
    fix_asked = Signal(object, object)
    enlarge_asked = Signal()

    def __init__(self, thumbs: Thumbs, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.setAccessibleName(self.tr("Details"))
        self._thumbs = thumbs
        column = QVBoxLayout(self)
        column.setContentsMargins(1, 1, 1, 1)
        column.setSpacing(0)
        self._picture = self._make_picture()
        column.addWidget(self._picture)
        self._picture_line = line()
        column.addWidget(self._picture_line)
        self._role_box = QWidget()
        role = self._role_column = QVBoxLayout(self._role_box)
        role.setContentsMargins(16, 10, 16, 12)
        role.setSpacing(4)
        role.addWidget(label(self.tr("Role of this task"), "label"))
        self.roles = Segmented([(r.name, text) for r, text in _ROLES], "TRAIN", self.tr("Role of this task"))
        self.roles.setSizePolicy(self.roles.sizePolicy().Policy.Expanding, self.roles.sizePolicy().verticalPolicy())
        self.roles.changed.connect(lambda key: self.role_chosen.emit(Role[key]))
        role.addWidget(self.roles)
        column.addWidget(self._role_box)
        column.addWidget(line())
        head = QHBoxLayout()
        head.setContentsMargins(16, 0, 16, 0)
        self._title = Elided("", "section")
        self._title.setFixedHeight(43)
        self._title.setSizePolicy(self._title.sizePolicy().Policy.Ignored, self._title.sizePolicy().Policy.Fixed)
        self._number = Chip("", "warn")
        head.addWidget(self._title, 1)
        head.addWidget(self._number)
        column.addLayout(head)
        column.addWidget(line())
        content = QWidget()
        self._list = QVBoxLayout(content)
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.setSpacing(0)
        column.addWidget(scroll(content), 1)
        self._ready_line = line()
        column.addWidget(self._ready_line)
        self._ready = QWidget()
        row = QHBoxLayout(self._ready)
        row.setContentsMargins(16, 11, 16, 13)
        row.setSpacing(8)
        self._ready_icon = IconLabel("check-circle", 16, "good")
        row.addWidget(self._ready_icon, 0, Qt.AlignmentFlag.AlignTop)
        words = QVBoxLayout()
        words.setSpacing(0)
        self._ready_title = label("", "name", wrap=True)
        self._ready_text = label("", "caption", wrap=True)
        words.addWidget(self._ready_title)
        words.addWidget(self._ready_text)
        row.addLayout(words, 1)
        column.addWidget(self._ready)
        self.set_compact(False)
        self.show_selection([], 0, "")

    def _make_picture(self) -> QWidget:
        made = QWidget()
        row = QHBoxLayout(made)
        row.setContentsMargins(15, 15, 15, 15)
        row.setSpacing(12)
        self._thumb = Thumb(self._thumbs, None, 96)
        self._thumb.setToolTip(self.tr("Space shows it large"))
        self._thumb.setCursor(Qt.CursorShape.PointingHandCursor)
        self._thumb.mousePressEvent = lambda _e: self.enlarge_asked.emit()  # type: ignore[method-assign]
        row.addWidget(self._thumb, 0, Qt.AlignmentFlag.AlignTop)
        words = QVBoxLayout()
        words.setSpacing(0)
        self._name = label("", "strong", wrap=True)
        self._facts = label("", "caption", wrap=True)
        words.addWidget(self._name)
        words.addWidget(self._facts)
        words.addStretch(1)
        row.addLayout(words, 1)
        return made

    def set_compact(self, compact: bool) -> None:
        """Narrower, with shorter words."""
        self.setFixedWidth(264 if compact else 304)
        side = 8 if compact else 16
        self.roles.set_text("TRAIN", self.tr("Meta-train"))
        if self.roles.minimumSizeHint().width() > self.width() - 2 * side - 2:
            self.roles.set_text("TRAIN", self.tr("Train"))
        self._role_column.setContentsMargins(side, 10, side, 12)
        self._thumb.setFixedSize(*(2 * (72 if compact else 96,)))

    def show_selection(self, items: Sequence[tuple[str, ImageRef]], n: int, mode: str) -> None:
        """The selected pictures.

        Args:
            items: class name and picture, at most the first ``MOST``.
            n: how many are selected.
            mode: how the one picture is stored ("RGB, upright by EXIF"), "" while unknown.
        """
        self._picture.setVisible(bool(items))
        self._picture_line.setVisible(bool(items))
        if not items:
            self._thumb.set_image(None)
            return
        name, image = items[0]
        self._thumb.set_image(image)
        if len(items) == 1:
            stored, _, turned = mode.partition(", ")
            facts = [name, f"{image.width} × {image.height}{', ' + stored if stored else ''}, {len_text(image.size)}"]
            self._name.setText(_breakable(image.name))
            self._name.setToolTip(image.path)
            self._name.setAccessibleName(image.name)
            self._facts.setText("\n".join(facts + ([turned] if turned else [])))
            return
        self._name.setText(self.tr("{n} selected").format(n=f"{n:,}"))
        self._name.setToolTip("")
        facts = [self.tr("Delete takes them out")]
        if n == len(items):
            classes = len({name for name, _i in items})
            where = items[0][0] if classes == 1 else count(classes, "class", "classes")
            facts = [where, len_text(sum(i.size for _n, i in items)), *facts]
        self._facts.setText("\n".join(facts))

    def show_task(self, task: Task | None, findings: Sequence[Finding], episode: Episode, *, checking: bool) -> None:
        """The task's role and findings."""
        for widget in (self._role_box, self._ready, self._ready_line):
            widget.setVisible(task is not None)
        clear_layout(self._list)
        if task is None:
            self._title.setText("")
            self._number.hide()
            return
        self.roles.set_value(task.role.name)
        self.roles.setEnabled(bool(task.classes))
        self._title.setText(self.tr("Findings in {task}").format(task=task.name))
        self._number.set(f"{len(findings):,}", "warn" if any(f.level == "warn" for f in findings) else "neutral")
        self._number.setVisible(bool(findings))
        for finding in findings[:50]:
            self._list.addWidget(self._card(finding))
            self._list.addWidget(line())
        if not findings:
            text = self.tr("Checking") if checking else self.tr("Nothing to check: no duplicates, every file was read.")
            empty = label(text, "secondary", wrap=True)
            empty.setContentsMargins(16, 12, 16, 12)
            self._list.addWidget(empty)
        self._list.addStretch(1)
        ok, title, text = ready(task, episode)
        self._ready_icon.set("check-circle" if ok else "info", "good" if ok else "secondary")
        self._ready_title.setText(title)
        self._ready_text.setText(text)
        self._ready.setAccessibleName(f"{title}. {text}")

    def _card(self, finding: Finding) -> QWidget:
        made = QWidget()
        made.setAccessibleName(f"{finding.title}. {finding.text}")
        row = QHBoxLayout(made)
        row.setContentsMargins(16, 12, 16, 12)
        row.setSpacing(8)
        warn = finding.level == "warn"
        row.addWidget(
            IconLabel("warn" if warn else "info", 16, "warn" if warn else "secondary"), 0, Qt.AlignmentFlag.AlignTop
        )
        column = QVBoxLayout()
        column.setSpacing(2)
        row.addLayout(column, 1)
        column.addWidget(label(finding.title, "name", wrap=True))
        column.addWidget(label(finding.text, "caption", wrap=True))
        if finding.pair:
            column.addSpacing(6)
            pair = QHBoxLayout()
            pair.setSpacing(8)
            for image in finding.pair:
                pair.addWidget(Thumb(self._thumbs, image, 56))
            pair.addWidget(label(finding.beside, "caption", wrap=True), 1)
            column.addLayout(pair)
        if finding.fixes:
            column.addSpacing(6)
            flow = FlowLayout(gap=8)
            for at, fix in enumerate(finding.fixes):
                press = button(
                    _short(fix.text), "quiet" if fix.action in ("show", "scroll") and at else "secondary", size="small"
                )
                press.setToolTip(fix.text)
                press.clicked.connect(lambda _c=False, fix=fix, finding=finding: self.fix_asked.emit(fix, finding))
                flow.addWidget(press)
            column.addLayout(flow)
        return made


def _short(text: str) -> str:
    return text if len(text) <= 28 else f"{text[:27]}…"


def _breakable(name: str) -> str:
    """A long file name that may break anywhere."""
    return "\u200b".join(name if len(name) <= 60 else f"{name[:28]}…{name[-28:]}")
