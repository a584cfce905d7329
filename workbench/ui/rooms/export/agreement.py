"""How the file agrees with the application, one mark per picture; and the lines of code that use the file."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, QSizeF, Qt
from PySide6.QtGui import QColor, QGuiApplication, QPainter, QPaintEvent, QPen, QTextOption, QWheelEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QSizePolicy, QTextBrowser, QVBoxLayout, QWidget

from workbench.core.values import Preprocess
from workbench.ui import theme
from workbench.ui.widgets.controls import button, clear_layout, label, line
from workbench.ui.widgets.panel import Panel
from workbench.ui.widgets.strip import IconLabel

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Scatter(QWidget):
    """Best probability here against the same one in the file; on the diagonal they are equal."""

    def __init__(self) -> None:
        super().__init__()
        self._points: tuple[tuple[int, float, float], ...] = ()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.set_points(())

    def set_points(self, points: Sequence[tuple[int, float, float]]) -> None:
        """Marks: (index of the class's colour, probability here, probability in the file)."""
        self._points = tuple(points)
        if points:
            worst = max(abs(a - b) for _, a, b in points)
            said = self.tr("Agreement of {n} pictures; the largest difference is {d}.")
            self.setAccessibleName(said.format(n=len(points), d=f"{worst:.1e}"))
        else:
            self.setAccessibleName(self.tr("Agreement: nothing was compared yet."))
        self.update()

    def sizeHint(self) -> QSize:
        """As little as is readable; it takes what there is."""
        return self.minimumSizeHint()

    def minimumSizeHint(self) -> QSize:
        """Still readable."""
        return QSize(180, 190)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Grid, ticks, diagonal, marks."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        plot = QRectF(self.rect()).adjusted(40, 8, -12, -44)
        painter.setFont(theme.font("caption"))
        for tick in _TICKS:
            x = round(plot.left() + tick * plot.width()) + 0.5
            y = round(plot.bottom() - tick * plot.height()) + 0.5
            painter.setPen(QPen(QColor(t.grid if tick else t.border_strong), 1))
            painter.drawLine(QPointF(x, plot.top()), QPointF(x, plot.bottom()))
            painter.drawLine(QPointF(plot.left(), y), QPointF(plot.right(), y))
            painter.setPen(QColor(t.secondary))
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(QRectF(0, y - 8, plot.left() - 8, 16), right, f"{tick:g}")
            painter.drawText(QRectF(x - 20, plot.bottom() + 4, 40, 16), Qt.AlignmentFlag.AlignCenter, f"{tick:g}")
        middle = QRectF(plot.left(), plot.bottom() + 22, plot.width(), 16)
        painter.drawText(middle, Qt.AlignmentFlag.AlignCenter, self.tr("best probability here"))
        painter.setPen(QColor(t.text))
        painter.drawText(QPointF(plot.left() + 10, plot.top() + 16), self.tr("in the exported file"))
        pen = QPen(QColor(t.secondary), 1)
        pen.setDashPattern([3, 3])
        painter.setPen(pen)
        painter.drawLine(plot.bottomLeft(), plot.topRight())
        for index, here, there in self._points:
            x = plot.left() + here * plot.width()
            y = plot.bottom() - there * plot.height()
            theme.draw_marker(painter, QRectF(x - 4, y - 4, 8, 8), index)


class Agreement(Panel):
    """The scatter in its panel."""

    def __init__(self) -> None:
        super().__init__(self.tr("Agreement"))
        self._legend = label(self.tr("one mark per picture"), "caption")
        self.add_to_header(self._legend)
        self.scatter = Scatter()
        self.body.addWidget(self.scatter)
        self.body.setContentsMargins(16, 4, 16, 8)

    def set_compact(self, *, compact: bool) -> None:
        """Without the words at the right."""
        self._legend.setVisible(not compact)


_TOKEN = re.compile(r"(\"[^\"]*\")|\b(import|from|as|None|True|for|in|with|print)\b")


class _Lines(QTextBrowser):
    """Text as high as its lines, which break anywhere where a word is longer than the line."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setOpenLinks(False)
        self.setTabChangesFocus(True)
        self.document().setDocumentMargin(0)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.document().documentLayout().documentSizeChanged.connect(self._fit)

    def _fit(self, size: QSizeF) -> None:
        self.setFixedHeight(math.ceil(size.height()))

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Scrolling is for what it lies in."""
        event.ignore()


class Code(QFrame):
    """Lines of code that can be selected."""

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "code")
        self._code = ""
        self._lines = _Lines()
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 10)
        column.addWidget(self._lines)

    def set_code(self, code: str) -> None:
        """Show other lines."""
        self._code = code.rstrip("\n")
        self._lines.setAccessibleName(self._code)
        self._write()

    def code(self) -> str:
        """The lines as they are copied."""
        return self._code

    def _write(self) -> None:
        t = theme.tokens()
        string, word = t.classes[2], t.classes[7]

        def tint(found: re.Match[str]) -> str:
            hue = string if found.group(1) else word if found.group(2) != "print" else t.text
            return f'<span style="color:{hue}">{html.escape(found.group(0), quote=False)}</span>'

        parts, at = [], 0
        for found in _TOKEN.finditer(self._code):
            parts += [html.escape(self._code[at : found.start()], quote=False), tint(found)]
            at = found.end()
        parts.append(html.escape(self._code[at:], quote=False))
        self._lines.setHtml(f'<pre style="margin:0; line-height:150%; white-space:pre-wrap">{"".join(parts)}</pre>')

    def changeEvent(self, event: QEvent) -> None:
        """Colours are part of the text."""
        if event.type() == QEvent.Type.PaletteChange and hasattr(self, "_lines"):
            self._write()
        super().changeEvent(event)


class Usage(Panel):
    """How the file is used: code to copy, what it needs, what goes in and comes out."""

    def __init__(self) -> None:
        super().__init__(self.tr("Five lines that use it"))
        self.copy = button(self.tr("Copy"), "quiet", "copy", size="small", name=self.tr("Copy the lines"))
        self.copy.clicked.connect(self._copy)
        self.add_to_header(self.copy)
        self.code = Code()
        self.body.addWidget(self.code)
        hint = QHBoxLayout()
        hint.setSpacing(8)
        hint.addWidget(IconLabel("info", 14))
        self._hint = label("", "caption", wrap=True)
        hint.addWidget(self._hint, 1)
        self.body.addLayout(hint)
        self.body.addSpacing(4)
        self.body.addWidget(line())
        self._facts = QGridLayout()
        self._facts.setHorizontalSpacing(16)
        self._facts.setVerticalSpacing(4)
        self._facts.setColumnMinimumWidth(0, 56)
        self._facts.setColumnStretch(1, 1)
        self.body.addLayout(self._facts)

    def show_format(self, format_: str, file: str, classes: int, preprocess: Preprocess | None) -> None:
        """Describe one format's file."""
        self.set_title(self.tr("Five lines that use it") if format_ == "onnx" else self.tr("Lines that use it"))
        self.code.set_code(lines(format_, file))
        self._hint.setText(
            {
                "onnx": self.tr("run.py reads labels, sizes and threshold from the file"),
                "safetensors": self.tr("the structure is yours to build; preprocess.json says how pictures go in"),
                "pt2": self.tr("the last of the labels is none of these"),
                "bundle": self.tr("or open it again here and give it another class"),
            }[format_]
        )
        shape = self.tr("image, float32 in 0..1")
        if preprocess is not None:
            shape = f"image, 1 × {preprocess.depth} × {preprocess.size} × {preprocess.size}, float32"
        needs = {
            "onnx": "onnxruntime, numpy, Pillow",
            "safetensors": "safetensors, PyTorch",
            "pt2": "PyTorch, numpy, Pillow",
        }
        out = self.tr("{n} probabilities, none of these last").format(n=classes + 1)
        facts = [(self.tr("Needs"), needs.get(format_, "Python, onnxruntime, numpy, Pillow"))]
        if format_ != "safetensors":
            facts += [(self.tr("Input"), shape), (self.tr("Output"), out)]
        clear_layout(self._facts)
        for at, (name, value) in enumerate(facts):
            self._facts.addWidget(label(name, "secondary", wrap=True), at, 0)
            self._facts.addWidget(label(value, wrap=True), at, 1)

    def set_compact(self, *, compact: bool) -> None:
        """The button as an icon, which has its name as tooltip."""
        self.copy.setText("" if compact else self.tr("Copy"))
        self.copy.setToolTip(self.tr("Copy the lines"))

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.code.code() + "\n")


def lines(format_: str, file: str) -> str:
    """The lines that use a file, beside what was written with it."""
    if format_ == "onnx":
        from workbench.export.card import five_lines

        return five_lines(file)
    if format_ == "safetensors":
        return (
            "from safetensors import safe_open\n"
            f'with safe_open("{file}", "pt") as file:\n'
            "    weights = {name: file.get_tensor(name) for name in file.keys()}\n"
            '    print(file.metadata()["about"])'
        )
    if format_ == "pt2":
        return (
            "import json, torch\n"
            "from pixels import open_image, to_pixels\n"
            'how = json.load(open("preprocess.json"))\n'
            'how = {k: how[k] for k in ("size", "channels", "fit", "resample")}\n'
            'x = to_pixels(open_image(open("photo.jpg", "rb").read()), **how)\n'
            f'net = torch.export.load("{file}").module()\n'
            "p = net(torch.tensor(x).permute(2, 0, 1)[None] / 255)[1][0]\n"
            'print(open("labels.txt").read().splitlines()[p.argmax()], p.max().item())'
        )
    stem = file.removesuffix(".zip")
    return f"unzip {file} -d {stem}\npython {stem}/run.py photo.jpg\npython {stem}/run.py --check"
