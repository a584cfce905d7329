from __future__ import annotations

import re
from pathlib import Path

import pytest
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter

from workbench.ui import icons, theme
from workbench.ui.sheet import style_sheet
from workbench.ui.tokens import TOKENS


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_contrast(name):
    t = TOKENS[name]
    for ground in (t.window, t.surface, t.raised, t.accent_soft, t.hover):
        assert contrast(t.text, ground) >= 4.5
        assert contrast(t.secondary, ground) >= 4.5
    for ink, ground in (
        (t.accent_text, t.accent),
        (t.accent_text, t.accent_hover),
        (t.accent_text, t.accent_pressed),
        (t.accent, t.surface),
        (t.accent, t.accent_soft),
        (t.good, t.good_soft),
        (t.warn, t.warn_soft),
        (t.bad, t.bad_soft),
        (t.good, t.surface),
        (t.warn, t.surface),
        (t.bad, t.surface),
    ):
        assert contrast(ink, ground) >= 4.5, (ink, ground)
    for hue in (*t.classes, t.control_border):
        assert contrast(hue, t.surface) >= 3.0, hue


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_style_sheet_is_complete_and_understood(name, themed, capfd):
    sheet = style_sheet(TOKENS[name], icons.sheet_images(name, TOKENS[name]))
    assert "$" not in sheet
    assert sheet.count("{") == sheet.count("}")
    for path in re.findall(r'url\("([^"]+)"\)', sheet):
        assert Path(path).is_file()
    theme.apply(themed, name)
    assert themed.palette().window().color().name().upper() == TOKENS[name].window
    assert "parse" not in capfd.readouterr().err
    theme.apply(themed, "light")


def picture(index: int) -> bytes:
    image = QImage(24, 24, QImage.Format.Format_ARGB32)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    theme.draw_marker(painter, QRectF(0, 0, 24, 24), index)
    painter.end()
    return bytes(image.constBits())


def shape(index: int) -> bytes:
    """The marker without its colour."""
    image = QImage(24, 24, QImage.Format.Format_ARGB32)
    image.fill(Qt.GlobalColor.white)
    painter = QPainter(image)
    theme.draw_marker(painter, QRectF(0, 0, 24, 24), index, theme.class_colour(0))
    painter.end()
    return bytes(image.constBits())


def test_no_two_of_64_markers_look_alike(themed):
    assert len({picture(i) for i in range(64)}) == 64
    assert len({shape(i) for i in range(8)}) == 8
    assert picture(theme.NONE_INDEX) not in {picture(i) for i in range(64)}


def test_dashes_tell_repeats_apart():
    assert [theme.class_dash(i) for i in (0, 7)] == [[], []]
    assert len({tuple(theme.class_dash(i)) for i in (0, 8, 16, 24)}) == 4


def test_every_icon_draws_something_in_its_tint(themed):
    assert {"sources", "train", "teach", "export", "undo", "redo", "warn", "none"} <= set(icons.names())
    for name in icons.names():
        image = icons.pixmap(name, 60, "accent").toImage()
        inked = [image.pixelColor(x, y) for x in range(60) for y in range(60) if image.pixelColor(x, y).alpha() == 255]
        assert inked, name
        wanted = QColor(theme.tokens().accent)
        assert all(abs(c.red() - wanted.red()) + abs(c.blue() - wanted.blue()) <= 2 for c in inked), name


def test_icons_in_the_code_exist():
    known = set(icons.names())
    wanted = set()
    for file in (Path(icons.__file__).parent).rglob("*.py"):
        text = file.read_text("utf-8")
        wanted |= set(re.findall(r'(?:IconLabel|icons\.icon|icons\.pixmap)\(\s*"([a-z-]+)"', text))
        wanted |= set(re.findall(r'icon="([a-z-]+)"', text))
        wanted |= set(re.findall(r'set_icon\([\w.]+, "([a-z-]+)"', text))
    assert wanted
    assert wanted <= known, wanted - known


def test_icons_follow_the_theme(themed, qtbot):
    from workbench.ui.widgets.controls import button

    made = button("Undo", icon="undo")
    qtbot.addWidget(made)
    before = made.icon().pixmap(16, 16).toImage()
    theme.apply(themed, "dark")
    assert made.icon().pixmap(16, 16).toImage() != before
    theme.apply(themed, "light")
    assert made.icon().pixmap(16, 16).toImage() == before


def test_nothing_else_holds_a_colour_or_a_style_sheet():
    root = Path(icons.__file__).parent
    for file in root.rglob("*.py"):
        text = file.read_text("utf-8")
        if file.name != "tokens.py":
            assert not re.findall(r"\"#[0-9A-Fa-f]{6}\"", text), file
        if file.name != "theme.py":
            assert not re.search(r"\.setStyleSheet\((?!\"background: transparent\"\))", text), file


def test_figures_are_tabular(themed):
    from PySide6.QtGui import QFont, QFontMetricsF

    font = theme.font("figure")
    if "Inter" not in font.families():
        pytest.skip("the system's font may lack tabular figures")
    assert font.featureValue(QFont.Tag("tnum")) == 1
    assert QFontMetricsF(font).horizontalAdvance("1111") == QFontMetricsF(font).horizontalAdvance("0000")
