"""Our stroked icons: drawn on a 20 grid in ``resources/icons``, tinted by the theme."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from PySide6.QtCore import QByteArray, QRectF, QSize, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget

from workbench.core import paths
from workbench.ui import theme
from workbench.ui.tokens import Tokens

_SCALES = (1.0, 2.0, 3.0)
_GAP = 2


def names() -> tuple[str, ...]:
    """All icons there are."""
    return tuple(sorted(p.stem for p in (paths.resources() / "icons").glob("*.svg")))


@lru_cache(maxsize=256)
def _source(name: str) -> str:
    return (paths.resources() / "icons" / f"{name}.svg").read_text("utf-8")


def svg(name: str, colour: str) -> str:
    """The drawing of an icon in one colour.

    Raises:
        FileNotFoundError: there is no icon of that name.
    """
    return _source(name).replace("currentColor", colour)


def draw(painter: QPainter, rect: QRectF, name: str, colour: str) -> None:
    """Draw an icon into ``rect`` with a painter, in a colour."""
    _renderer(name, colour).render(painter, rect)


@lru_cache(maxsize=512)
def _renderer(name: str, colour: str) -> QSvgRenderer:
    return QSvgRenderer(QByteArray(svg(name, colour).encode()))


def pixmap(name: str, size: int = 16, role: str = "text", scale: float = 1.0) -> QPixmap:
    """An icon as a pixmap of ``size`` logical pixels at a device-pixel ratio."""
    return _pixmap(name, size, str(getattr(theme.tokens(), role)), scale)


def _pixmap(name: str, size: int, colour: str, scale: float, pad: int = 0) -> QPixmap:
    side = round(size * scale)
    made = QPixmap(side + round(pad * scale), side)
    made.fill(Qt.GlobalColor.transparent)
    painter = QPainter(made)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    draw(painter, QRectF(0, 0, side, side), name, colour)
    painter.end()
    made.setDevicePixelRatio(scale)
    return made


def icon(name: str, size: int = 16, role: str = "text", pad: int = 0) -> QIcon:
    """An icon tinted by a token (``text``, ``secondary``, ``accent``, ``warn`` ...), ``pad`` px of air at its right."""
    t = theme.tokens()
    return _icon(name, size, str(getattr(t, role)), t.disabled, pad)


@lru_cache(maxsize=512)
def _icon(name: str, size: int, colour: str, disabled: str, pad: int) -> QIcon:
    made = QIcon()
    for scale in _SCALES:
        made.addPixmap(_pixmap(name, size, colour, scale, pad), QIcon.Mode.Normal)
        made.addPixmap(_pixmap(name, size, disabled, scale, pad), QIcon.Mode.Disabled)
    return made


def set_icon(button: QAbstractButton, name: str, size: int = 16, role: str = "text") -> None:
    """Put an icon on a button so that it follows the theme."""
    pad = _GAP if button.text() else 0  # Qt leaves 4 px between icon and text
    button.setProperty("iconName", name)
    button.setProperty("iconTint", role)
    button.setProperty("iconPad", pad)
    button.setIcon(icon(name, size, role, pad))
    button.setIconSize(QSize(size + pad, size))


def refresh(app: QApplication) -> None:
    """Tint every icon set with ``set_icon`` again, after the theme changed."""
    for widget in app.allWidgets():
        tint_again(widget)


def tint_again(widget: QWidget) -> None:
    """Tint one button's icon by the theme in force."""
    name = widget.property("iconName")
    if isinstance(name, str) and isinstance(widget, QAbstractButton):
        size, pad = widget.iconSize().height(), int(widget.property("iconPad") or 0)
        widget.setIcon(icon(name, size, str(widget.property("iconTint")), pad))


def sheet_images(theme_name: str, t: Tokens) -> dict[str, str]:
    """Tinted files for the style sheet, which takes images by path only; kept in the cache folder.

    Returns:
        Path with forward slashes by use; "" where the cache folder cannot be written.
    """
    wanted = {
        "check": ("check-bold", t.accent_text),
        "check_off": ("check-bold", t.surface),
        "dash": ("dash-bold", t.accent_text),
        "dot": ("dot", t.accent),
        "dot_off": ("dot", t.disabled),
        "down": ("chevron-down", t.text),
        "down_off": ("chevron-down", t.disabled),
        "up": ("chevron-up", t.text),
        "right": ("chevron-right", t.secondary),
        "tick": ("check", t.text),
    }
    folder = paths.cache_home() / "theme" / theme_name
    return {use: _cached(folder, use, svg(name, colour)) for use, (name, colour) in wanted.items()}


def _cached(folder: Path, use: str, text: str) -> str:
    path = folder / f"{use}.svg"
    try:
        if not path.is_file() or path.read_text("utf-8") != text:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".{use}.{os.getpid()}.tmp"
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
    except OSError:
        return ""
    return path.as_posix()
