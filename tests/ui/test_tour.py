from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image
from PySide6.QtCore import QObject, QPoint, Qt, Signal
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QApplication, QLineEdit, QMenu, QPushButton, QVBoxLayout, QWidget

from workbench.ui import tour
from workbench.ui.hands import Hands, StepError
from workbench.ui.widgets.drop import DropArea


class FakeThumbs(QObject):
    ready = Signal(str)


class FakeState(QObject):
    def __init__(self) -> None:
        super().__init__()
        self.thumbs = FakeThumbs(self)


@pytest.fixture
def window(themed, qtbot):
    made = QWidget()
    made.state = FakeState()
    made.resize(400, 300)
    made.button = QPushButton("press", made)
    made.field = QLineEdit(made)
    column = QVBoxLayout(made)
    column.addWidget(made.button)
    column.addWidget(made.field)
    made.show()
    made.activateWindow()
    qtbot.waitUntil(lambda: QApplication.activeWindow() is made)
    yield made
    made.deleteLater()


@pytest.fixture
def hands(window):
    return Hands(window)


def run_tour(code: str, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    whole = "import sys\nfrom workbench.ui import tour, walk\n" + textwrap.dedent(code)
    whole += "\nfrom workbench.__main__ import main\nsys.exit(main(['tour', *sys.argv[1:]]))"
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", whole, *words],
        env=env | {"WORKBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


# ---- hands -----------------------------------------------------------------------------------------------------------
def test_a_click_reaches_what_can_be_reached_only(window, hands):
    pressed = []
    window.button.clicked.connect(lambda: pressed.append(1))
    hands.click(window.button)
    assert pressed == [1]
    window.button.setEnabled(False)
    with pytest.raises(StepError, match="disabled"):
        hands.click(window.button)
    window.button.setEnabled(True)
    lid = QWidget(window)
    lid.setAccessibleName("a lid")
    lid.setGeometry(window.rect())
    lid.show()
    with pytest.raises(StepError, match="covered by a lid"):
        hands.click(window.button)
    lid.deleteLater()
    window.button.hide()
    with pytest.raises(StepError, match="not on the screen"):
        hands.click(window.button)
    assert pressed == [1]


def test_typing_replaces_what_stands_in_the_field(window, hands):
    window.field.setText("before")
    hands.click(window.field)
    hands.write("0.4 min")
    assert window.field.text() == "0.4 min"
    hands.press(Qt.Key.Key_Backspace)
    assert window.field.text() == "0.4 mi"


def test_a_drop_is_taken_where_drops_are_taken(window, hands, tmp_path):
    with pytest.raises(StepError, match="does not take"):
        hands.drop([str(tmp_path)], window.button)
    seen = []
    area = DropArea(window.button)
    area.over.connect(lambda over: seen.append(over))
    area.dropped.connect(lambda files: seen.append(files))
    hands.carry([str(tmp_path)], window.button)
    assert seen == [True]
    hands.let_go()
    assert seen == [True, False, [str(tmp_path)]]
    with pytest.raises(StepError, match="nothing is carried"):
        hands.let_go()


def test_waiting_ends_when_it_is_there_or_says_what_was_not(hands):
    looked = []
    hands.until(lambda: looked.append(1) or len(looked) > 2, "three looks")
    assert len(looked) == 3
    with pytest.raises(StepError, match=r"the moon: not within 0\.05 seconds"):
        hands.until(lambda: False, "the moon", 0.05)


def test_a_picture_shows_the_open_menu_over_the_window(window, hands):
    before = hands.picture().toImage()
    menu = QMenu(window)
    action = menu.addAction("one")
    menu.setStyleSheet("QMenu { background: #ff0000; }")
    menu.popup(window.mapToGlobal(QPoint(100, 200)))
    hands.until(menu.isVisible, "the menu")
    after = hands.picture().toImage()
    assert before.size() == after.size()
    assert before.pixelColor(104, 204) != QColor("#ff0000")
    assert after.pixelColor(104, 204) == QColor("#ff0000")
    chosen = []
    action.triggered.connect(lambda: chosen.append(1))
    hands.choose(menu, action)
    assert chosen == [1]
    assert not menu.isVisible()


# ---- the command -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "said"), [(("light", "zh_CN", 1.0), "English only"), (("light", "en", 9.0), "between 0.5 and 4")]
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(tmp_path, capsys, words, said):
    assert tour.run(tmp_path / "out", *words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_cannot_hold_the_pictures(tmp_path, capsys):
    (tmp_path / "out").write_text("x")
    assert tour.run(tmp_path / "out", "light", "en", 1.0) == 1
    assert "cannot hold the pictures" in capsys.readouterr().err


def test_a_large_screen_is_made_only_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("QT_SCALE_FACTOR", "1")
    for given, offscreen in (("", True), ("offscreen", True), ("xcb", False)):
        monkeypatch.setenv("QT_QPA_PLATFORM", given)
        monkeypatch.setattr(tour.app, "has_screen", lambda given=given: given == "xcb")
        tour.prepare_screen(tmp_path, 2.0)
        assert os.environ["QT_QPA_PLATFORM"].startswith("offscreen:configfile=") is offscreen
        assert os.environ["QT_SCALE_FACTOR"] == "2"


def test_the_first_steps_leave_pictures_and_nobody_s_project_is_touched(home, tmp_path):
    code = """
        def some(self):
            self.first_page()
            self.sources()
        walk.Walk.go = some
    """
    done = run_tour(code, home, "--out", str(tmp_path / "out"), "--theme", "dark", "--scale", "2")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [Path(line).name for line in told[:2]] == ["01-first-run.png", "02-sources.png"]
    assert sorted(told) == sorted(str(p) for p in (tmp_path / "out").iterdir())
    for line in told:
        with Image.open(line) as picture:
            assert picture.size == (2880, 1800)
            assert len(picture.convert("RGB").getcolors(1 << 22)) > 100, f"{line} is empty"
            assert picture.convert("RGB").getpixel((1400, 1760)) == (0x15, 0x18, 0x1D)
    assert list(home.iterdir()) == []
    assert "Traceback" not in done.stderr


def test_a_step_that_does_not_get_there_is_named(home, tmp_path):
    code = """
        def never(self):
            self.first_page()
            self.hands.until(lambda: False, "the end of the rainbow", 0.2)
        walk.Walk.go = never
    """
    done = run_tour(code, home, "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "after 01-first-run.png: the end of the rainbow: not within 0.2 seconds" in done.stderr
    assert (tmp_path / "out" / "02-stopped-here.png").is_file()
    assert "Traceback" not in done.stderr
