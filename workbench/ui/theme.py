"""The one place of styling: tokens, fonts, palette, style sheet, class hues and shapes.

``apply(app, name)`` puts a theme on the whole application; ``tokens()`` gives the colours to whatever paints itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFont, QFontDatabase, QFontInfo, QPainter, QPainterPath, QPalette, QPen, QPolygonF
from PySide6.QtWidgets import QApplication, QToolTip

from workbench.ui.sheet import style_sheet
from workbench.ui.tokens import TOKENS, Tokens

_SIZES: dict[str, tuple[int, QFont.Weight]] = {
    "caption": (12, QFont.Weight.Normal),
    "body": (13, QFont.Weight.Normal),
    "name": (13, QFont.Weight.Medium),
    "strong": (13, QFont.Weight.DemiBold),
    "section": (15, QFont.Weight.DemiBold),
    "title": (20, QFont.Weight.DemiBold),
    "figure": (32, QFont.Weight.DemiBold),
}

NONE_INDEX = -1
"""Where a class index is asked for: "none of these", a circle with a slash in the secondary colour."""


@dataclass(slots=True)
class _Current:
    name: str = "light"
    families: tuple[str, ...] = ()


_current = _Current()

__all__ = [
    "NONE_INDEX",
    "TOKENS",
    "Tokens",
    "apply",
    "class_colour",
    "class_dash",
    "draw_marker",
    "font",
    "name",
    "tokens",
]


def tokens() -> Tokens:
    """The colours of the theme in force."""
    return TOKENS[_current.name]


def name() -> str:
    """``light`` or ``dark``."""
    return _current.name


def apply(app: QApplication, theme: str) -> None:
    """Put a theme on the application: Fusion, our palette, one generated style sheet, the interface font.

    Args:
        app: the application.
        theme: ``light`` or ``dark``.
    """
    from workbench.ui import icons

    _current.name = theme if theme in TOKENS else "light"
    if app.style() is None or app.style().name().lower() != "fusion":
        app.setStyle("Fusion")
    if not _current.families:
        _current.families = _families(app)
    t = tokens()
    app.setFont(font("body"))
    palette = _palette(t)
    app.setPalette(palette)
    tip = QPalette(palette)
    tip.setColor(QPalette.ColorRole.ToolTipBase, QColor(t.text))
    tip.setColor(QPalette.ColorRole.ToolTipText, QColor(t.window))
    QToolTip.setPalette(tip)
    QToolTip.setFont(font("body"))
    app.setStyleSheet(style_sheet(t, icons.sheet_images(_current.name, t)))
    icons.refresh(app)


def font(role: str = "body") -> QFont:
    """The interface font with tabular digits where it has them.

    Roles: caption, body, name (medium), strong (semi-bold), section, title, figure.
    """
    size, weight = _SIZES[role]
    made = QFont()
    if _current.families:
        made.setFamilies(list(_current.families))
    made.setPixelSize(size)
    made.setWeight(weight)
    made.setFeature(QFont.Tag("tnum"), 1)
    if size >= 15:
        made.setLetterSpacing(QFont.SpacingType.AbsoluteSpacing, -0.01 * size)
    return made


def _families(app: QApplication) -> tuple[str, ...]:
    have = set(QFontDatabase.families())
    system = QFontInfo(QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)).family()
    wanted = ["Inter", system, app.font().family(), "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC"]
    return tuple(dict.fromkeys(f for f in wanted if f in have)) or (system,)


def _palette(t: Tokens) -> QPalette:
    p = QPalette()
    role, group = QPalette.ColorRole, QPalette.ColorGroup
    for key, value in (
        (role.Window, t.window),
        (role.WindowText, t.text),
        (role.Base, t.surface),
        (role.AlternateBase, t.window),
        (role.Text, t.text),
        (role.Button, t.surface),
        (role.ButtonText, t.text),
        (role.BrightText, t.bad),
        (role.Highlight, t.accent),
        (role.HighlightedText, t.accent_text),
        (role.Accent, t.accent),
        (role.Link, t.accent),
        (role.LinkVisited, t.accent),
        (role.PlaceholderText, t.secondary),
        (role.ToolTipBase, t.text),
        (role.ToolTipText, t.window),
        (role.Light, t.raised),
        (role.Midlight, t.hairline),
        (role.Mid, t.border),
        (role.Dark, t.border_strong),
        (role.Shadow, t.border_strong),
    ):
        p.setColor(key, QColor(value))
    for key in (role.WindowText, role.Text, role.ButtonText, role.PlaceholderText):
        p.setColor(group.Disabled, key, QColor(t.disabled))
    p.setColor(group.Disabled, role.Highlight, QColor(t.border))
    return p


def class_colour(index: int) -> QColor:
    """The hue of the class at ``index`` (repeats after eight); ``NONE_INDEX`` is the secondary text colour."""
    t = tokens()
    return QColor(t.secondary if index < 0 else t.classes[index % len(t.classes)])


def class_dash(index: int) -> list[float]:
    """The dash pattern of a curve, in pen widths: solid for the first eight, then dashed, dotted, dash-dotted."""
    patterns: tuple[list[float], ...] = ([], [4.0, 3.0], [1.0, 2.0], [6.0, 3.0, 1.0, 3.0])
    return patterns[max(index, 0) // 8 % len(patterns)]


def draw_marker(painter: QPainter, rect: QRectF, index: int, colour: QColor | None = None) -> None:
    """Draw the marker of the class at ``index`` into ``rect`` (square, 8 to 16 px).

    Eight shapes for the first eight classes; a later class has the hue of ``index % 8`` with the next shape, so no two
    of the first 64 look alike. ``NONE_INDEX`` is a circle with a slash.
    """
    hue = colour or class_colour(index)
    side = min(rect.width(), rect.height())
    c = rect.center()
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    if index < 0:
        painter.setPen(QPen(hue, max(1.2, side * 0.13)))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        r = side * 0.40
        painter.drawEllipse(c, r, r)
        d = r * math.sqrt(0.5)
        painter.drawLine(QPointF(c.x() - d, c.y() + d), QPointF(c.x() + d, c.y() - d))
    else:
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(hue)
        painter.drawPath(_shape((index + index // 8) % 8, c, side / 2))
    painter.restore()


def _shape(kind: int, c: QPointF, r: float) -> QPainterPath:
    path = QPainterPath()
    if kind == 0:
        path.addEllipse(c, r * 0.86, r * 0.86)
    elif kind == 2:
        s = r * 0.78
        path.addRect(QRectF(c.x() - s, c.y() - s, 2 * s, 2 * s))
    elif kind == 5:
        a, b = r * 0.9, r * 0.34
        path.addPolygon(
            QPolygonF(
                [
                    QPointF(c.x() + x, c.y() + y)
                    for x, y in (
                        (-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b),
                        (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b),
                    )
                ]
            )
        )  # fmt: skip
        path.closeSubpath()
    else:
        sides, turn, scale, drop = {
            1: (3, -90.0, 1.06, 0.16),
            3: (4, -90.0, 1.02, 0.0),
            4: (3, 90.0, 1.06, -0.16),
            6: (5, -90.0, 0.98, 0.04),
            7: (6, 0.0, 0.94, 0.0),
        }[kind]
        points = []
        for i in range(sides):
            angle = math.radians(turn + 360.0 * i / sides)
            points.append(QPointF(c.x() + r * scale * math.cos(angle), c.y() + r * (scale * math.sin(angle) + drop)))
        path.addPolygon(QPolygonF(points))
        path.closeSubpath()
    return path
