"""Recommendation cards: a radio button that is a card, with a title, a time, a reason."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QRadioButton, QSizePolicy, QWidget

from workbench.services.requests import Catalogue, Recommendation
from workbench.ui import theme

HEIGHT = 58


def title_of(row: Recommendation, catalogue: Catalogue | None) -> str:
    """For example "ProtoNet" or "Ridge head on ResNet-18"; what is said of "frozen features" gives way to which.

    Nothing while the catalogue is not known: keys are for the command line.
    """
    if catalogue is None:
        return ""
    algorithm = next((a.info.title for a in catalogue.algorithms if a.info.key == row.algorithm), row.algorithm)
    backbone = next((b.title for b in catalogue.backbones if b.key == row.backbone), row.backbone)
    return f"{algorithm.split(' on ')[0]} on {backbone}" if row.pretrained else algorithm


def minutes_words(minutes: float) -> str:
    """For example "about 6 min"."""
    return f"about {minutes:.0f} min" if minutes >= 1 else f"about {max(1, round(minutes * 60)):d} s"


def reason_lines(reason: str, metrics: QFontMetrics, width: int) -> tuple[str, ...]:
    """The reason in one line, or in two where it is too long for one; the second is elided if need be."""
    if metrics.horizontalAdvance(reason) <= width:
        return (reason,)
    words = reason.split()
    fit = max((n for n in range(1, len(words)) if metrics.horizontalAdvance(" ".join(words[:n])) <= width), default=1)
    rest = metrics.elidedText(" ".join(words[fit:]), Qt.TextElideMode.ElideRight, width)
    return metrics.elidedText(" ".join(words[:fit]), Qt.TextElideMode.ElideRight, width), rest


class ChoiceCard(QRadioButton):
    """A choice among a few, painted as a card.

    Args:
        title: what is chosen.
        aside: at the right of the title, for example a time.
        reason: the second line.
        parent: owner.
    """

    def __init__(self, title: str, aside: str, reason: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.locked = False
        self.title, self.aside, self.reason = title, aside, reason
        self.setText(title)
        self.setAccessibleName(title)
        self.setAccessibleDescription(f"{reason}. {aside}".strip(". "))
        self.setToolTip(reason)
        self.setMinimumWidth(150)
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def sizeHint(self) -> QSize:
        """The design's size."""
        return QSize(320, HEIGHT)

    def set_locked(self, locked: bool) -> None:
        """It cannot be changed now, but it stays readable."""
        self.locked = locked
        self.setEnabled(not locked)
        self.update()

    def hitButton(self, _pos: object) -> bool:
        """The whole card is the button."""
        return True

    def takes_two_lines(self) -> bool:
        """Whether the reason is too long for one line."""
        return QFontMetrics(theme.font("caption")).horizontalAdvance(self.reason) > self.width() - 50

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Card, radio circle, title, time, reason."""
        t = theme.tokens()
        p = QPainter(self)
        p.setRenderHint(QPainter.RenderHint.Antialiasing)
        enabled = self.isEnabled() or self.locked
        box = QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        hover = self.underMouse() and self.isEnabled()
        edge = t.accent if self.isChecked() else t.border_strong if hover else t.border
        p.setPen(QPen(QColor(edge), 1))
        p.setBrush(QColor(t.accent_soft if self.isChecked() else t.raised))
        p.drawRoundedRect(box, 8, 8)
        left, right = 38, self.width() - 12
        strong, caption = theme.font("strong"), theme.font("caption")
        parent = self.parentWidget()
        beside = [self] if parent is None else parent.findChildren(ChoiceCard)
        top = 5 if any(card.takes_two_lines() for card in beside) else 11  # titles of one row stand in line
        self._radio(p, QPointF(21, top + 10), enabled)
        aside = QFontMetrics(caption).horizontalAdvance(self.aside)
        shows_aside = right - left - aside > 90
        p.setFont(caption)
        p.setPen(QColor(t.secondary if enabled else t.disabled))
        if shows_aside:
            p.drawText(
                QRect(left, top, right - left, 20),
                Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
                self.aside,
            )
        p.setFont(strong)
        p.setPen(QColor(t.text if enabled else t.disabled))
        room = right - left - (aside + 8 if shows_aside else 0)
        p.drawText(
            QRect(left, top, room, 20),
            Qt.AlignmentFlag.AlignVCenter,
            QFontMetrics(strong).elidedText(self.title, Qt.TextElideMode.ElideRight, room),
        )
        p.setFont(caption)
        p.setPen(QColor(t.secondary if enabled else t.disabled))
        for at, text in enumerate(reason_lines(self.reason, QFontMetrics(caption), right - left)):
            p.drawText(QRect(left, top + 19 + 15 * at, right - left, 18), Qt.AlignmentFlag.AlignVCenter, text)

    def _radio(self, p: QPainter, centre: QPointF, enabled: bool) -> None:
        t = theme.tokens()
        on = self.isChecked()
        p.setPen(
            QPen(QColor((t.accent if on else t.control_border) if enabled else t.border_strong), 1.6 if on else 1.4)
        )
        p.setBrush(QColor(t.surface))
        p.drawEllipse(centre, 7.2, 7.2)
        if on:
            p.setPen(Qt.PenStyle.NoPen)
            p.setBrush(QColor(t.accent if enabled else t.disabled))
            p.drawEllipse(centre, 4, 4)
