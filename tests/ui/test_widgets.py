from __future__ import annotations

import os
import subprocess
import sys

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, QSize, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QHBoxLayout, QLabel, QLineEdit, QMainWindow, QPushButton, QWidget

from workbench.core.values import ImageRef
from workbench.data.read import image_ref
from workbench.ui.widgets import words
from workbench.ui.widgets.controls import Bar, Chip, ClickFrame, Segmented, button, label
from workbench.ui.widgets.drop import DropTarget, image_of, paths_of
from workbench.ui.widgets.elided import Elided
from workbench.ui.widgets.figures import Figure, StepSlider, Whisker
from workbench.ui.widgets.flow import FlowLayout
from workbench.ui.widgets.focus import FocusRing
from workbench.ui.widgets.palette import Hit, matching
from workbench.ui.widgets.panel import Panel
from workbench.ui.widgets.strip import MessageStrip
from workbench.ui.widgets.terms import Glossary, TermLabel, strong, term
from workbench.ui.widgets.thumbs import Thumb, Thumbs

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture(autouse=True)
def _themed(themed):
    return themed


def shown(qtbot, widget):
    qtbot.addWidget(widget)
    widget.show()
    return widget


# ---- controls ------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "size", "height"), [
    ("primary", "", 32), ("secondary", "", 32), ("quiet", "", 32), ("danger", "", 32), ("icon", "", 32),
    ("primary", "small", 28), ("secondary", "small", 28), ("icon", "small", 28), ("segment", "", 28), ("key", "", 28),
])  # fmt: skip
def test_heights_of_the_design(qtbot, kind, size, height):
    text = "" if kind == "icon" else "1"
    made = shown(qtbot, button(text, kind, "plus" if kind == "icon" else "", size=size, name="Add"))
    assert made.sizeHint().height() == height
    if kind in ("icon", "key"):
        assert made.sizeHint().width() == height


def test_segmented_by_mouse_and_keys(qtbot):
    made = shown(qtbot, Segmented([("doubt", "By doubt"), ("name", "By name"), ("x", "X")], name="Order"))
    got = []
    made.changed.connect(got.append)
    buttons = made.findChildren(QPushButton)
    width = made.sizeHint().width()
    qtbot.mouseClick(buttons[1], LEFT)
    assert made.value() == "name"
    assert made.sizeHint().width() == width
    made.activateWindow()
    assert QTest.qWaitForWindowActive(made)
    buttons[1].setFocus()
    QTest.keyClick(buttons[1], Qt.Key.Key_Right)
    assert made.value() == "x"
    made.set_value("doubt")
    assert got == ["name", "x"]
    assert made.sizeHint().height() == 28


def test_labels_never_read_markup(qtbot):
    evil = '<img src="file:///etc/passwd"><b>x</b>'
    for wrap in (False, True):
        made = label(evil, wrap=wrap)
        qtbot.addWidget(made)
        assert made.text() == evil
        if wrap:
            assert "&lt;img" in QLabel.text(made)
        else:
            assert made.textFormat() == Qt.TextFormat.PlainText
    strip = MessageStrip()
    qtbot.addWidget(strip)
    strip.show_message("info", evil, evil)
    assert "&lt;img" in strip._text.text()


def test_chip_is_24_high(qtbot):
    made = shown(qtbot, Chip("3 to check", "warn", "warn"))
    assert made.height() == 24
    before = made.sizeHint().width()
    made.set("30 to check")
    assert made.sizeHint().width() > before
    assert made.accessibleName() == "30 to check"


def test_bar_clips_and_pulses(qtbot):
    made = shown(qtbot, Bar())
    made.set_value(2.0)
    assert made.value() == 1.0
    made.set_value(None)
    first = made.grab().toImage()
    made.set_value(None)
    assert made.grab().toImage() != first


def test_card_is_clicked_by_enter_and_mouse(qtbot):
    made = shown(qtbot, ClickFrame())
    got = []
    made.clicked.connect(lambda: got.append(1))
    qtbot.mouseClick(made, LEFT)
    QTest.keyClick(made, Qt.Key.Key_Return)
    QTest.keyClick(made, Qt.Key.Key_Space)
    assert len(got) == 3


def test_flow_breaks_lines(qtbot):
    place = QWidget()
    layout = FlowLayout(place, gap=4)
    for _ in range(6):
        one = QWidget()
        one.setFixedSize(44, 44)
        layout.addWidget(one)
    qtbot.addWidget(place)
    assert layout.heightForWidth(6 * 48) == 44
    assert layout.heightForWidth(3 * 48 - 4) == 92
    layout.insert_widget(0, QWidget())
    assert layout.count() == 7


# ---- numbers -------------------------------------------------------------------------------------
def test_a_figure_never_gets_narrower(qtbot):
    made = shown(qtbot, Figure("Episodes", "4,690", "of about 11,200"))
    wide = made.sizeHint().width()
    made.set("9")
    assert made.sizeHint().width() == wide
    assert made.accessibleName() == "Episodes: 9"
    made.reset_width()
    made.set("1", "x")
    assert made.sizeHint().width() < wide


def test_whisker_says_its_interval(qtbot):
    made = shown(qtbot, Whisker(axis=True))
    made.set_value(0.86, 0.6, 0.96)
    assert made.accessibleName() == "0.86 (0.60–0.96)"
    with_value = made.grab().toImage()
    made.set_value(None)
    assert made.accessibleName() == ""
    assert made.grab().toImage() != with_value


def test_step_slider_by_keys_and_mouse(qtbot):
    made = StepSlider("Steps")
    made.resize(300, 80)
    shown(qtbot, made)
    got = []
    made.changed.connect(got.append)
    made.set_steps(6, 5)
    assert made.value() == 5
    made.track.setFocus()
    QTest.keyClick(made.track, Qt.Key.Key_Left)
    QTest.keyClick(made.track, Qt.Key.Key_Home)
    QTest.keyClick(made.track, Qt.Key.Key_End)
    qtbot.mouseClick(made.track, LEFT, pos=QPoint(8, 14))
    assert got == [4, 0, 5, 0]
    made.set_steps(1)
    assert not made.track.isEnabled()


def test_times_and_numbers_in_words():
    assert words.time_left(0.4) == "almost done"
    assert words.time_left(42) == "42 s left"
    assert words.time_left(35 * 60) == "35 min left"
    assert words.time_left(2 * 3600 + 5 * 60) == "2 h 5 min left"
    assert words.interval(0.71, 0.94) == "(0.71–0.94)"
    assert words.power(3.4e-6) == ("3.4", "× 10⁻⁶")
    assert words.power(0) == ("0", "")
    assert words.count(11200) == "11,200"


# ---- terms, strip, panel -------------------------------------------------------------------------
def test_terms_open_the_glossary(qtbot):
    made = TermLabel(f"Four {term('classes', 'class')} and {strong('more')}")
    made.resize(400, 20)
    shown(qtbot, made)
    made.grab()
    assert made.text() == "Four classes and more"
    assert made.focusPolicy() == Qt.FocusPolicy.TabFocus
    QTest.keyClick(made, Qt.Key.Key_Return)
    found = made.findChild(Glossary)
    assert found.accessibleName() == "Class"
    found.close()
    assert TermLabel("no terms").focusPolicy() == Qt.FocusPolicy.NoFocus


def test_strip_runs_its_action_once(qtbot):
    made = MessageStrip()
    qtbot.addWidget(made)
    done = []
    made.show_message("warn", "So.", "Because.", "Review", lambda: done.append(1))
    assert made.isVisibleTo(None)
    qtbot.mouseClick(made.action, LEFT)
    assert done == [1]
    assert made.isHidden()
    made.show_message("info", "Only this.")
    assert made.action.isHidden()
    qtbot.mouseClick(made.dismiss, LEFT)
    assert made.isHidden()


def test_panel_header(qtbot):
    made = shown(qtbot, Panel("Queries", beside="48"))
    made.set_beside("49")
    made.set_title("Q")
    assert made.accessibleName() == "Q"


# ---- a line that is cut ---------------------------------------------------------------------------
def test_a_line_without_room_ends_in_dots_and_says_all_in_its_tooltip(qtbot):
    line = shown(qtbot, Elided("parts <b>from</b> the line & elsewhere", "section"))
    line.resize(line.sizeHint())
    assert line.shown() == line.text() == "parts <b>from</b> the line & elsewhere"
    assert line.toolTip() == ""
    line.resize(60, 20)
    assert line.shown().endswith("\u2026")
    assert line.fontMetrics().horizontalAdvance(line.shown()) <= 60
    assert line.text() == line.accessibleName() == "parts <b>from</b> the line & elsewhere"
    assert "&lt;b&gt;" in line.toolTip()
    line.setText("short")
    assert line.shown() == "short"
    assert line.minimumSizeHint().width() <= line.sizeHint().width()


# ---- drops ---------------------------------------------------------------------------------------
def events(mime):
    at = QPointF(5, 5)
    both = Qt.DropAction.CopyAction | Qt.DropAction.MoveAction
    more = (LEFT, Qt.KeyboardModifier.NoModifier)
    return QDragEnterEvent(at.toPoint(), both, mime, *more), QDropEvent(at, both, mime, *more)


def test_drop_takes_local_paths_as_copies(qtbot, tmp_path):
    target = shown(qtbot, DropTarget("Drop pictures", takes="pictures"))
    got = []
    target.dropped.connect(got.append)
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(tmp_path / "a.png")), QUrl("https://example.org/b.png")])
    enter, drop = events(mime)
    QApplication.sendEvent(target, enter)
    assert enter.isAccepted()
    assert target.property("over") == "true"
    QApplication.sendEvent(target, drop)
    assert drop.dropAction() == Qt.DropAction.CopyAction
    assert got == [[str(tmp_path / "a.png")]]
    assert target.property("over") == "false"


def test_a_drop_whose_source_is_gone_meanwhile_is_not_lost(qtbot, tmp_path):
    target = shown(qtbot, DropTarget("Drop pictures"))
    got = []
    target.dropped.connect(got.append)
    file = str(tmp_path / "a.png")
    mime, gone = QMimeData(), QMimeData()
    mime.setUrls([QUrl.fromLocalFile(file)])
    QApplication.sendEvent(target, events(mime)[0])
    QApplication.sendEvent(target, events(gone)[1])
    assert got == [[file]]
    QApplication.sendEvent(target, events(gone)[1])
    assert got == [[file]], "each drag is taken once"
    QApplication.sendEvent(target, events(mime)[0])
    QApplication.sendEvent(target, QDragLeaveEvent())
    QApplication.sendEvent(target, events(gone)[1])
    assert got == [[file]], "what left is not taken"
    other = QMimeData()
    other.setUrls([QUrl.fromLocalFile(file + "2")])
    QApplication.sendEvent(target, events(mime)[0])
    QApplication.sendEvent(target, events(other)[1])
    assert got[1:] == [[file + "2"]], "what the drop itself says counts"


def test_drop_refuses_text_and_foreign_addresses(qtbot):
    target = shown(qtbot, DropTarget("Drop pictures"))
    for mime in (QMimeData(), QMimeData()):
        mime.setText("hello")
        mime.setUrls([QUrl("https://example.org/b.png")])
        enter, _ = events(mime)
        enter.ignore()
        QApplication.sendEvent(target, enter)
        assert not enter.isAccepted()
    QApplication.sendEvent(target, QDragLeaveEvent())
    assert target.property("over") != "true"


def test_drop_of_image_data(qtbot):
    target = shown(qtbot, DropTarget("Drop pictures"))
    got = []
    target.image_dropped.connect(got.append)
    image = QImage(3, 2, QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.red)
    mime = QMimeData()
    mime.setImageData(image)
    enter, drop = events(mime)
    QApplication.sendEvent(target, enter)
    QApplication.sendEvent(target, drop)
    assert QImage.fromData(got[0]).size() == QSize(3, 2)
    assert paths_of(mime) == []
    assert image_of(QMimeData()) is None


def test_a_process_that_copied_pictures_ends_in_order():
    """Qt destroys a clipboard of its own after Python has ended; with what Python put there it would crash."""
    code = (
        "from PySide6.QtWidgets import QApplication\n"
        "from workbench.core.values import ImageRef\n"
        "from workbench.ui.widgets.drop import copy_files, let_clipboard_go\n"
        "app = QApplication([])\n"
        "assert copy_files([ImageRef('/a.png', '', '0' * 64, 1, 2, 2)])\n"
        "let_clipboard_go()\n"
    )
    there = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_drop_target_opens_its_chooser_by_enter_and_click(qtbot):
    target = shown(qtbot, DropTarget("Drop", action="Choose"))
    target.choose = lambda: ["/chosen"]
    got = []
    target.dropped.connect(got.append)
    QTest.keyClick(target, Qt.Key.Key_Return)
    qtbot.mouseClick(target, LEFT)
    qtbot.mouseClick(target.findChild(QPushButton), LEFT)
    assert got == [["/chosen"]] * 3


# ---- palette, focus ------------------------------------------------------------------------------
def test_palette_ranks_what_begins_so_first():
    hits = [
        Hit(t, k, "x", lambda: None) for t, k in (("Go to Train", ""), ("Train on", ""), ("hat", "class in trains"))
    ]
    assert [h.text for h in matching(hits, "train")] == ["Train on", "Go to Train", "hat"]
    assert [h.text for h in matching(hits, "to tr")] == ["Go to Train"]
    assert matching(hits, "zz") == []
    assert len(matching(hits, "")) == 3


@pytest.fixture
def two(qtbot):
    window = QMainWindow()
    centre = QWidget()
    row = QHBoxLayout(centre)
    first, second, field = QPushButton("a"), QPushButton("b"), QLineEdit()
    for widget in (first, second, field):
        row.addWidget(widget)
    window.setCentralWidget(centre)
    ring = FocusRing(window)
    qtbot.addWidget(window)
    window.show()
    window.activateWindow()
    assert QTest.qWaitForWindowActive(window)
    ring.watch_input()
    return window, ring, first, second, field


def test_focus_ring_is_for_the_keyboard(two, qtbot):
    window, ring, first, second, field = two
    handle = window.windowHandle()
    at = first.mapTo(window, first.rect().center())
    QTest.mouseClick(handle, LEFT, Qt.KeyboardModifier.NoModifier, at)
    assert first.hasFocus()
    assert not ring.isVisible()
    QTest.keyClick(handle, Qt.Key.Key_Tab)
    assert second.hasFocus()
    assert ring.isVisible()
    around = second.geometry().translated(window.centralWidget().pos())
    assert ring.geometry().contains(around)
    assert ring.geometry() == around.adjusted(-4, -4, 4, 4)
    QTest.mouseClick(handle, LEFT, Qt.KeyboardModifier.NoModifier, at)
    assert not ring.isVisible()
    field.setFocus(Qt.FocusReason.MouseFocusReason)
    assert ring.isVisible(), "inputs always show where one types"


def test_focus_ring_follows_and_goes(two, qtbot):
    window, ring, *_ = two
    QTest.keyClick(window.windowHandle(), Qt.Key.Key_Tab)
    focused = QApplication.focusWidget()
    before = ring.geometry()
    window.centralWidget().layout().insertWidget(0, QLabel("something before it"))
    qtbot.waitUntil(lambda: ring.geometry().x() > before.x())
    focused.hide()
    qtbot.waitUntil(lambda: ring.geometry().contains(QApplication.focusWidget().geometry()))
    assert QApplication.focusWidget() is not focused


# ---- thumbnails ----------------------------------------------------------------------------------
@pytest.fixture
def thumbs(qtbot):
    made = Thumbs()
    yield made
    made.close()


def picture(folder, name, size=(40, 20), colour="red"):
    from PIL import Image

    path = folder / f"{name}.png"
    Image.new("RGB", size, colour).save(path)
    return image_ref(str(path))


def test_thumbnails_are_decoded_elsewhere_and_kept(thumbs, qtbot, tmp_path):
    image = picture(tmp_path, "a")
    with qtbot.waitSignal(thumbs.ready, timeout=10000) as got:
        assert thumbs.pixmap(image, 32) is None
    assert got.args == [image.sha256]
    found = thumbs.pixmap(image, 32)
    assert (found.width(), found.height()) == (32, 32)
    assert found.toImage().pixelColor(1, 16).name() == "#ff0000", "cut, not padded"
    assert thumbs.pixmap(image, 32) is found
    with qtbot.waitSignal(thumbs.ready, timeout=10000):
        thumbs.pixmap(image, 30, crop=False)
    whole = thumbs.pixmap(image, 30, crop=False)
    assert (whole.width(), whole.height()) == (30, 15)


def test_a_picture_that_cannot_be_decoded_is_not_asked_for_again(thumbs, qtbot):
    gone = ImageRef("/nowhere/x.png", "", "f" * 64, 1, 4, 4)
    with qtbot.waitSignal(thumbs.ready, timeout=10000):
        thumbs.pixmap(gone, 32)
    assert thumbs.failed(gone)
    assert thumbs.pixmap(gone, 32) is None
    assert not thumbs._asked


def test_the_cache_is_bounded(thumbs, qtbot, tmp_path, monkeypatch):
    from workbench.ui.widgets import thumbs as module

    monkeypatch.setattr(module, "_CACHE_BYTES", 3 * 32 * 32 * 4)
    images = [picture(tmp_path, f"p{i}", colour=(i * 20, 0, 0)) for i in range(6)]
    for image in images:
        with qtbot.waitSignal(thumbs.ready, timeout=10000):
            thumbs.pixmap(image, 32)
    assert len(thumbs._cache) == 3


def test_closing_ends_the_threads(qtbot, tmp_path):
    made = Thumbs()
    images = [picture(tmp_path, f"p{i}", colour=(i, 0, 0)) for i in range(20)]
    for image in images:
        made.pixmap(image, 32)
    made.close()
    assert not any(thread.is_alive() for thread in made._threads)
    assert made.pixmap(images[0], 64) is None


def test_thumb_widget_repaints_when_ready(thumbs, qtbot, tmp_path):
    image = picture(tmp_path, "a", colour=(0, 0, 255))
    made = shown(qtbot, Thumb(thumbs, image, 40))
    qtbot.waitUntil(lambda: made.grab().toImage().pixelColor(20, 20).name() == "#0000ff", timeout=10000)
    assert made.accessibleName() == "a.png"
