"""The verification as it runs: figures, a line per check, near-ties, and where the files lie."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from workbench.core.storage import len_text
from workbench.services.requests import Exported, NearTie
from workbench.ui import icons, theme
from workbench.ui.widgets.controls import Chip, Marker, button, clear_layout, label, line
from workbench.ui.widgets.figures import Figure
from workbench.ui.widgets.panel import Panel, scroll
from workbench.ui.widgets.strip import IconLabel
from workbench.ui.widgets.thumbs import Thumb, Thumbs
from workbench.ui.widgets.words import power

EXPECTED = (
    "Written",
    "Loaded in a clean process",
    "Same preprocessing",
    "Same top class",
    "Near-ties listed",
    "Same probabilities",
    "Same logits",
    "Same none-of-these",
    "Alone as in company",
)
"""The checks in their order; a format may leave some out and add others."""
_TIES_SHOWN = 20


class _Sign(QWidget):
    """A tick, a cross, an i, or an empty ring while it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.setFixedSize(20, 20)

    def paintEvent(self, _event: QPaintEvent) -> None:
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if not self.kind:
            painter.setPen(QPen(QColor(t.border_strong), 1.6))
            painter.drawEllipse(QRectF(3, 3, 14, 14))
            return
        name, ink = {"good": ("check-circle", t.good), "bad": ("cross-circle", t.bad), "info": ("info", t.secondary)}[
            self.kind
        ]
        icons.draw(painter, QRectF(self.rect()), name, ink)


class CheckLine(QWidget):
    """One check: waiting, passed or not."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._sign = _Sign()
        self._detail = label(self.tr("waits"), "caption")
        self._figure = label("", "name")
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addStretch(1)
        words.addWidget(label(name, "name"))
        words.addWidget(self._detail)
        words.addStretch(1)
        row = QHBoxLayout(self)
        row.setContentsMargins(16, 0, 16, 0)
        row.setSpacing(12)
        row.addWidget(self._sign)
        row.addLayout(words, 1)
        row.addWidget(self._figure)
        self.setFixedHeight(53)
        self.setAccessibleName(f"{name}: {self._detail.text()}")

    @property
    def waits(self) -> bool:
        """Whether nothing is known of it yet."""
        return not self._sign.kind

    def set_result(self, detail: str, figure: str, *, ok: bool, info: bool = False) -> None:
        """Tick it off."""
        self._sign.kind = "bad" if not ok else "info" if info else "good"
        self._sign.update()
        self._detail.setText(detail)
        self._figure.setText(figure)
        said = self.tr("passed") if ok else self.tr("failed")
        self.setAccessibleName(f"{self.name}: {said}, {detail}, {figure}")


class Verification(Panel):
    """The middle of the room.

    ``open_folder`` and ``again`` are its two buttons.
    """

    def __init__(self, thumbs: Thumbs) -> None:
        super().__init__(self.tr("Verification"), padding=0)
        self._thumbs = thumbs
        self.chip = Chip(self.tr("Not yet"), "neutral")
        self.header.insertWidget(2, self.chip)
        self._said = label("", "caption")
        self.add_to_header(self._said)
        self.body.setSpacing(0)
        figures = QHBoxLayout()
        figures.setContentsMargins(16, 4, 16, 14)
        figures.setSpacing(24)
        self._figures: list[tuple[Figure, QLabel]] = []
        for name, below in (
            (self.tr("Same answer"), self.tr("pictures of this project")),
            (self.tr("Probability difference"), self.tr("largest; limit 5 × 10⁻⁴")),
            (self.tr("Logit difference"), self.tr("largest, relative; limit 10⁻⁵")),
        ):
            column = QVBoxLayout()
            column.setSpacing(2)
            figure = Figure(name, "–")
            words = label(below, "caption")
            column.addWidget(figure)
            column.addWidget(words)
            figures.addLayout(column, 1)
            self._figures.append((figure, words))
        self.body.addLayout(figures)
        self.body.addWidget(line())
        content = QWidget()
        self._lines = QVBoxLayout(content)
        self._lines.setContentsMargins(0, 0, 0, 0)
        self._lines.setSpacing(0)
        self._lines.addStretch(1)
        self._area = scroll(content)
        self.body.addWidget(self._area, 1)
        self.body.addWidget(line())
        self.body.addLayout(self._foot())
        self.rows: dict[str, CheckLine] = {}
        self.reset()

    def _foot(self) -> QHBoxLayout:
        foot = QHBoxLayout()
        foot.setContentsMargins(16, 12, 16, 12)
        foot.setSpacing(12)
        foot.addWidget(IconLabel("folder", 20))
        words = QVBoxLayout()
        words.setSpacing(0)
        self._folder = label("", "name")
        self._files = label("", "caption", wrap=True)
        words.addWidget(self._folder)
        words.addWidget(self._files)
        foot.addLayout(words, 1)
        self.again = button(self.tr("Verify again"), tip=self.tr("Write the file again and compare it again"))
        self.open_folder = button(self.tr("Open folder"), icon="folder")
        foot.addWidget(self.again)
        foot.addWidget(self.open_folder)
        return foot

    def set_compact(self, *, compact: bool, tight: bool) -> None:
        """Fewer things side by side.

        Args:
            compact: a narrow window: the header's button is the only one.
            tight: the third figure stands in the list alone.
        """
        figure, below = self._figures[2]
        figure.setVisible(not tight)
        below.setVisible(not tight)
        self.again.setVisible(not compact)

    # ---- what happens ----------------------------------------------------------------------------
    def reset(self) -> None:
        """Nothing was written yet."""
        self._rows_from(EXPECTED)
        self.chip.set(self.tr("Not yet"), "neutral", "")
        self._said.setText("")
        for figure, _ in self._figures:
            figure.reset_width()
            figure.set("–")
        self._folder.setText(self.tr("Nothing written yet"))
        self._files.setText(self.tr("a file is kept only when it passes"))
        self.again.setEnabled(False)
        self.open_folder.setEnabled(False)

    def begin(self, folder: str) -> None:
        """An export begins."""
        self.reset()
        self.chip.set(self.tr("Running"), "accent", "export")
        self._folder.setText(folder)

    def say(self, text: str) -> None:
        """What is being done."""
        self._said.setText(text)

    def add_check(self, name: str, detail: str, figure: str, *, ok: bool) -> None:
        """A check is known."""
        if name not in self.rows:
            self._add(CheckLine(name))
        self.rows[name].set_result(detail, figure, ok=ok, info=name == "Near-ties listed" and figure != "0")

    def refuse(self, why: str) -> None:
        """The file does not answer as the application does, or could not be written."""
        self.chip.set(self.tr("Refused"), "bad", "cross-circle")
        self._said.setText(self.tr("nothing was written"))
        self._files.setText(why)
        self._drop_waiting()

    def stop(self) -> None:
        """The person stopped it."""
        self.reset()
        self._said.setText(self.tr("stopped"))

    def show_result(self, result: Exported, folder: str, indices: dict[str, int]) -> None:
        """Everything is known.

        Args:
            result: of the export.
            folder: for people.
            indices: of the classes' colours, by name.
        """
        self._rows_from(())
        for check in result.checks:
            self.add_check(check.name, check.detail, check.figure, ok=check.ok)
            if check.name == "Near-ties listed":
                for tie in result.near_ties[:_TIES_SHOWN]:
                    self._lines.insertWidget(self._lines.count() - 1, self._tie(tie, indices))
        if "Written" not in self.rows and result.files:
            self._add(CheckLine("Written"), 0)
            written = result.files[0].replace("\\", "/").rsplit("/", 1)[-1]
            self.rows["Written"].set_result(written, len_text(result.size), ok=True)
        self.chip.set(self.tr("Passed"), "good", "check-circle")
        said = self.tr("{s} s, on {n} pictures").format(s=f"{result.seconds:.1f}", n=result.images_checked)
        self._said.setText(said)
        clear = result.images_checked - len(result.near_ties)
        same = round(result.top1_agreement * clear)
        (answer, below), (probability, _), (logit, _) = self._figures
        answer.set(f"{same} / {clear}")
        below.setText(
            self.tr("pictures of this project") if not result.near_ties else self.tr("near-ties are listed below")
        )
        for figure, value in (
            (probability, result.max_probability_difference),
            (logit, result.max_relative_logit_difference),
        ):
            mantissa, unit = power(value)
            figure.set(mantissa, unit=unit)
        self._folder.setText(folder)
        names = [f.replace("\\", "/").rsplit("/", 1)[-1] for f in result.files]
        more = (
            self.tr("{file} and {n} more files").format(file=names[0], n=len(names) - 1) if len(names) > 1 else names[0]
        )
        self._files.setText(more)
        self.again.setEnabled(True)
        self.open_folder.setEnabled(True)

    # ---- lines -----------------------------------------------------------------------------------
    def _rows_from(self, names: tuple[str, ...]) -> None:
        clear_layout(self._lines)
        self._lines.addStretch(1)
        self.rows = {}
        for name in names:
            self._add(CheckLine(name))

    def _add(self, row: CheckLine, at: int | None = None) -> None:
        self.rows[row.name] = row
        box = QWidget()
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        if self._lines.count() > 1 and at is None:
            column.addWidget(line())
        column.addWidget(row)
        if self._lines.count() > 1 and at == 0:
            column.addWidget(line())
        self._lines.insertWidget(self._lines.count() - 1 if at is None else at, box)

    def _drop_waiting(self) -> None:
        for row in self.rows.values():
            if row.waits:
                row.setEnabled(False)

    def _tie(self, tie: NearTie, indices: dict[str, int]) -> QWidget:
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(48, 0, 16, 12)
        row.setSpacing(12)
        row.addWidget(Thumb(self._thumbs, tie.image, 48))
        words = QVBoxLayout()
        words.setSpacing(0)
        for name, here, there in zip(tie.names, tie.here, tie.there, strict=True):
            one = QHBoxLayout()
            one.setSpacing(8)
            one.addWidget(Marker(indices.get(name, theme.NONE_INDEX), 10))
            shown = label(name)
            shown.setMinimumWidth(56)
            one.addWidget(shown)
            one.addWidget(label(self.tr("{a:.4f} here, {b:.4f} in the file").format(a=here, b=there), "caption"), 1)
            words.addLayout(one)
        row.addLayout(words, 1)
        show = button(self.tr("Show"), size="small", name=self.tr("Show {name}").format(name=tie.image.name))
        show.clicked.connect(lambda: self._large(tie, show))
        row.addWidget(show)
        return box

    def _large(self, tie: NearTie, at: QWidget) -> None:
        frame = QFrame(self, Qt.WindowType.Popup)
        frame.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        frame.setProperty("role", "card")
        column = QVBoxLayout(frame)
        column.addWidget(Thumb(self._thumbs, tie.image, 320))
        column.addWidget(label(tie.image.name, "caption"))
        frame.adjustSize()
        frame.move(at.mapToGlobal(QPoint(at.width() - frame.width(), -frame.height() - 4)))
        frame.show()
