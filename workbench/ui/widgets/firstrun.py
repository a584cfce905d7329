"""The first page: nothing is loaded yet. Drop folders, open the samples, or open a project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QRectF, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPixmap
from PySide6.QtWidgets import QHBoxLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from workbench.core import paths
from workbench.ui import theme
from workbench.ui.widgets.controls import Bar, KeyCap, Marker, button, clear_layout, label, line
from workbench.ui.widgets.drop import DropTarget
from workbench.ui.widgets.panel import Panel, scroll
from workbench.ui.widgets.strip import IconLabel
from workbench.ui.widgets.thumbs import draw_thumb

_COLUMN = 904
_SHOWN = (
    "teach/surfaces/support",
    "alphabets",
    "surfaces",
    "alphabets",
    "teach/surfaces/support",
    "alphabets",
    "surfaces",
)


class Picture(QWidget):
    """A sample picture as a thumbnail."""

    def __init__(self, pixmap: QPixmap, side: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pixmap = pixmap
        self.setFixedSize(side, side)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The picture with round corners."""
        draw_thumb(QPainter(self), QRectF(self.rect()), self._pixmap)


def sample_pictures() -> list[QPixmap]:
    """Seven of the shipped samples, mixed; fewer where they are not there."""
    made = []
    for i, start in enumerate(_SHOWN):
        place = paths.samples() / start
        found = _inside(place)
        while found and found[0].is_dir():
            place = found[(i * 5 + 3) % len(found)]
            found = _inside(place)
        if found:
            pixmap = QPixmap(str(found[i % len(found)]))
            if not pixmap.isNull():
                made.append(pixmap)
    return made


def _inside(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.suffix in ("", ".png", ".jpg") and not p.name.startswith(".")]
    return sorted(found, key=lambda p: (p.is_file(), p.name))


class _Number(QWidget):
    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self.setFixedSize(24, 24)

    def paintEvent(self, _event: QPaintEvent) -> None:
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(t.accent_soft))
        painter.drawEllipse(self.rect())
        painter.setPen(QColor(t.accent))
        painter.setFont(theme.font("strong"))
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, str(self._number))


class FirstRun(QWidget):
    """The page.

    Signals:
        dropped(list[str]): folders or files to load.
        samples: the samples are wanted.
        open_project: a project is to be chosen.
        open_recent(str): a recent project, its escaped folder.
    """

    dropped = Signal(list)
    samples = Signal()
    open_project = Signal()
    open_recent = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName(self.tr("First prediction in three actions"))
        content = QWidget()
        centre = QHBoxLayout(content)
        centre.setContentsMargins(24, 24, 24, 24)
        centre.addStretch(1)
        box = QWidget()
        box.setMaximumWidth(_COLUMN)
        box.setMinimumWidth(640)
        box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Maximum)
        centre.addWidget(box, 100)
        centre.addStretch(1)
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(label(self.tr("First prediction in three actions"), "title"))
        column.addSpacing(8)
        column.addWidget(
            label(
                self.tr(
                    "Teach a few pictures; the workbench transfers what it already knows. No training needed to begin."
                ),
                "secondary",
            )
        )
        column.addSpacing(32)
        pictures = sample_pictures()
        column.addWidget(self._target(pictures))
        column.addSpacing(32)
        column.addLayout(self._steps(pictures))
        column.addSpacing(32)
        column.addWidget(line("edge"))
        column.addSpacing(16)
        row = QHBoxLayout()
        row.setSpacing(16)
        row.addWidget(label(self.tr("Recent projects"), "strong"))
        self._recent = QHBoxLayout()
        self._recent.setSpacing(16)
        row.addLayout(self._recent)
        row.addStretch(1)
        project = button(self.tr("Open project"))
        project.clicked.connect(self.open_project)
        row.addWidget(project)
        column.addLayout(row)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(scroll(content))
        self.set_recent(())

    def set_recent(self, projects: Sequence[tuple[str, str]]) -> None:
        """Recent projects: (escaped folder, name)."""
        clear_layout(self._recent)
        if not projects:
            said = self.tr("None yet. A project keeps every picture where it is and saves as you work.")
            self._recent.addWidget(label(said, "secondary"))
        for folder, name in projects[:4]:
            link = button(name, "link", name=self.tr("Open {name}").format(name=name), tip=folder)
            link.clicked.connect(lambda _=False, f=folder: self.open_recent.emit(f))
            self._recent.addWidget(link)

    def _target(self, pictures: list[QPixmap]) -> DropTarget:
        target = DropTarget(filled=True)
        target.setMinimumHeight(312)
        target.setAccessibleName(self.tr("Drop folders here, or press Enter to choose one"))
        target.dropped.connect(self.dropped)
        body = target.body
        body.setSpacing(0)
        body.addStretch(1)
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addStretch(1)
        for pixmap in pictures:
            row.addWidget(Picture(pixmap, 56))
        row.addStretch(1)
        body.addLayout(row)
        body.addSpacing(18)
        body.addWidget(_centred(label(self.tr("Drop folders here"), "title")))
        body.addSpacing(6)
        hint = self.tr("One folder per class, a folder of such folders, or a zip. Originals are never changed.")
        body.addWidget(_centred(label(hint, "secondary", wrap=True)))
        body.addSpacing(20)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.open_samples = button(self.tr("Open the samples"), "primary", "image")
        self.open_samples.clicked.connect(self.samples)
        self.choose = button(self.tr("Choose folder"), icon="folder")
        self.choose.clicked.connect(target.open_chooser)
        row.addStretch(1)
        row.addWidget(self.open_samples)
        row.addWidget(self.choose)
        row.addStretch(1)
        body.addLayout(row)
        body.addSpacing(16)
        row = QHBoxLayout()
        row.setSpacing(6)
        row.addStretch(1)
        row.addWidget(IconLabel("lock", 14))
        row.addWidget(label(self.tr("Nothing leaves this machine"), "caption"))
        row.addStretch(1)
        body.addLayout(row)
        body.addStretch(1)
        self.target = target
        return target

    def _steps(self, pictures: list[QPixmap]) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(24)
        steps = (
            (self.tr("Open the samples"), self.tr("They are shipped with the workbench."), self._samples_card),
            (self.tr("Give one example"), self.tr("One picture per class is enough."), self._example_card),
            (self.tr("Drop a picture"), self.tr("Its classes are ranked at once."), self._answer_card),
        )
        for number, (title, text, card) in enumerate(steps, 1):
            column = QVBoxLayout()
            column.setSpacing(0)
            head = QHBoxLayout()
            head.setSpacing(8)
            head.addWidget(_Number(number))
            head.addWidget(label(title, "section"))
            head.addStretch(1)
            column.addLayout(head)
            column.addSpacing(4)
            column.addWidget(label(text, "secondary", wrap=True))
            column.addSpacing(10)
            panel = Panel(padding=12)
            panel.setFixedHeight(80)
            panel.body.addLayout(card(pictures))
            column.addWidget(panel)
            column.addStretch(1)
            row.addLayout(column, 1)
        return row

    def _samples_card(self, pictures: list[QPixmap]) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        for pixmap in pictures[:3]:
            row.addWidget(Picture(pixmap, 40))
        row.addWidget(label(self.tr("alphabets, surfaces"), "caption", wrap=True), 1)
        return row

    def _example_card(self, pictures: list[QPixmap]) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(KeyCap("1"))
        row.addWidget(Marker(0))
        row.addWidget(label(self.tr("rust"), "name"))
        for pixmap in pictures[:1]:
            row.addWidget(Picture(pixmap, 40))
        row.addSpacing(8)
        row.addWidget(KeyCap("2"))
        row.addWidget(Marker(1))
        row.addWidget(label(self.tr("dent"), "name"))
        row.addStretch(1)
        return row

    def _answer_card(self, pictures: list[QPixmap]) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(12)
        for pixmap in pictures[4:5]:
            row.addWidget(Picture(pixmap, 56))
        lines = QVBoxLayout()
        lines.setSpacing(0)
        for index, name, share in (
            (0, self.tr("rust"), 0.88),
            (1, self.tr("dent"), 0.07),
            (-1, self.tr("none of these"), 0.05),
        ):
            one = QHBoxLayout()
            one.setSpacing(8)
            one.addWidget(Marker(index, 10))
            words = label(name, "strong" if index == 0 else "secondary")
            words.setFixedSize(92, 20)
            one.addWidget(words)
            bar = Bar(6)
            bar.set_colour(index if index >= 0 else "secondary")
            bar.set_value(share)
            one.addWidget(bar, 1)
            lines.addLayout(one)
        row.addLayout(lines, 1)
        return row


def _centred(made: QLabel) -> QLabel:
    made.setAlignment(Qt.AlignmentFlag.AlignHCenter)
    return made
