"""The bar at the top: project, undo and redo, search, device, theme, help."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPen, QResizeEvent
from PySide6.QtWidgets import QAbstractButton, QFrame, QHBoxLayout, QPushButton, QSizePolicy, QWidget

from workbench.ui import icons, theme
from workbench.ui.widgets.controls import button, draw_key


class ProjectButton(QPushButton):
    """The project's name with a chevron; opens the project menu."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("kind", "quiet")
        self.setProperty("small", "true")
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self._name = ""

    def set_name(self, name: str) -> None:
        """Another project."""
        self._name = name
        self.setAccessibleName(self.tr("Project {name}").format(name=name))
        self.setToolTip(self.tr("New, open, save as"))
        self.updateGeometry()
        self.update()

    def name(self) -> str:
        """The name shown."""
        return self._name

    def sizeHint(self) -> QSize:
        """The name, at most 260 px of it."""
        wide = QFontMetrics(theme.font("strong")).horizontalAdvance(self._name)
        return QSize(min(wide, 260) + 42, 28)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Name and chevron over the button's own background."""
        super().paintEvent(event)
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(theme.font("strong"))
        painter.setPen(QColor(t.text))
        metrics = QFontMetrics(painter.font())
        text = metrics.elidedText(self._name, Qt.TextElideMode.ElideRight, self.width() - 40)
        painter.drawText(QRectF(8, 0, self.width() - 36, self.height()), Qt.AlignmentFlag.AlignVCenter, text)
        left = 8 + metrics.horizontalAdvance(text) + 6
        icons.draw(painter, QRectF(left, (self.height() - 16) / 2, 16, 16), "chevron-down", t.text)


class SearchButton(QAbstractButton):
    """Looks like a search field; opens the command palette."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setText(self.tr("Search classes, runs, actions"))
        self.setAccessibleName(self.text())
        self.setToolTip(self.tr("Search (Ctrl+K)"))
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.IBeamCursor)
        self.setFixedSize(360, 28)

    def sizeHint(self) -> QSize:
        """Its fixed size."""
        return self.size()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Field, lens, words, key."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(t.border_strong if self.underMouse() else t.border), 1))
        painter.setBrush(QColor(t.surface))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 6, 6)
        icons.draw(painter, QRectF(10, 6, 16, 16), "search", t.secondary)
        painter.setFont(theme.font("body"))
        painter.setPen(QColor(t.secondary))
        metrics = QFontMetrics(painter.font())
        text = metrics.elidedText(self.text(), Qt.TextElideMode.ElideRight, self.width() - 33 - 60)
        painter.drawText(QRectF(33, 0, self.width() - 93, 28), Qt.AlignmentFlag.AlignVCenter, text)
        draw_key(painter, QRectF(self.width() - 51, 4, 43, 20), "Ctrl K")


class DeviceChip(QAbstractButton):
    """What is computed on; opens the list of devices."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._detail, self._short = "", False
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.set_device("CPU", "")

    def set_device(self, name: str, detail: str) -> None:
        """Another device, e.g. ``CPU`` and ``2 cores``."""
        self.setText(name)
        self._detail = detail
        self.setAccessibleName(self.tr("Device: {name}").format(name=self._words(short=False)))
        self.setToolTip(self.tr("What the workbench computes on"))
        self.updateGeometry()
        self.update()

    def set_short(self, *, short: bool) -> None:
        """Leave the detail out."""
        self._short = short
        self.updateGeometry()
        self.update()

    def _words(self, *, short: bool) -> str:
        return self.text() if short or not self._detail else f"{self.text()} · {self._detail}"

    def sizeHint(self) -> QSize:
        """28 high."""
        return QSize(QFontMetrics(theme.font("body")).horizontalAdvance(self._words(short=self._short)) + 42, 28)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Pill, chip, words."""
        t = theme.tokens()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(t.border_strong if self.underMouse() else t.border), 1))
        painter.setBrush(QColor(t.surface))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 13.5, 13.5)
        icons.draw(painter, QRectF(9, 6, 16, 16), "chip", t.secondary)
        painter.setFont(theme.font("body"))
        painter.setPen(QColor(t.secondary))
        painter.drawText(
            QRectF(31, 0, self.width() - 40, 28), Qt.AlignmentFlag.AlignVCenter, self._words(short=self._short)
        )


class TopBar(QFrame):
    """48 px: project menu, undo, redo | search | device, theme, help."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "bar")
        self.setFixedHeight(48)
        self.project = ProjectButton(self)
        self.undo = button("", "icon", "undo", size="small", name=self.tr("Undo"))
        self.redo = button("", "icon", "redo", size="small", name=self.tr("Redo"))
        self.search = SearchButton(self)
        self.device = DeviceChip(self)
        self.theme = button("", "icon", "moon", size="small", name=self.tr("Dark theme"))
        self.help = button("", "icon", "help", size="small", name=self.tr("Help (F1)"))
        self._left, self._right = QWidget(self), QWidget(self)
        edge = QFrame()
        edge.setProperty("role", "edge")
        edge.setFixedSize(1, 20)
        left = QHBoxLayout(self._left)
        left.setContentsMargins(13, 0, 0, 0)
        left.setSpacing(8)
        for one in (self.project, edge, self.undo, self.redo):
            left.addWidget(one)
        left.addStretch(1)
        right = QHBoxLayout(self._right)
        right.setContentsMargins(0, 0, 14, 0)
        right.setSpacing(8)
        right.addStretch(1)
        for other in (self.device, self.theme, self.help):
            right.addWidget(other)
        for first, second in (
            (self.project, self.undo),
            (self.undo, self.redo),
            (self.redo, self.search),
            (self.search, self.device),
            (self.device, self.theme),
            (self.theme, self.help),
        ):
            QWidget.setTabOrder(first, second)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The search field stays in the middle of the window."""
        narrow = self.width() < 1100
        self.search.setFixedWidth(280 if narrow else 360)
        self.device.set_short(short=narrow)
        at = (self.width() - self.search.width()) // 2
        self.search.move(at, 10)
        self._left.setGeometry(0, 0, at - 12, 47)
        self._right.setGeometry(at + self.search.width() + 12, 0, self.width() - at - self.search.width() - 12, 47)
        super().resizeEvent(event)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """The border below."""
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(theme.tokens().window))
        painter.fillRect(0, self.height() - 1, self.width(), 1, QColor(theme.tokens().border))
