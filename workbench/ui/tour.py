"""``workbench tour``: the walk of the demo through the real window by real events, one picture per step.

It has a home of its own that goes with it, so that nobody's project is touched. Where there is no screen, the window
is drawn offscreen, on a large screen of Qt's own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core import paths
from workbench.ui import app

if TYPE_CHECKING:
    from workbench.ui.hands import Hands
    from workbench.ui.main_window import MainWindow

_CLOSE_SECONDS = 30.0
_SCREEN = {
    "name": "tour",
    "x": 0,
    "y": 0,
    "width": 3840,
    "height": 2400,
    "logicalDpi": 96,
    "logicalBaseDpi": 96,
    "dpr": 1,
}
NO_LANGUAGE = "The tour speaks English only: this version has no translation yet. Run it with --language en."


def run(out: Path, theme: str, language: str, scale: float) -> int:
    """Walk and save the pictures; a line on standard output for each.

    Args:
        out: folder for the pictures, made if missing.
        theme: ``light`` or ``dark``.
        language: ``en``.
        scale: of the pictures, 1 for 1440 x 900 pixels.

    Returns:
        0; 1 where a step did not reach its state (which and why is said on standard error), or where there is no way
        to draw the window.
    """
    if language != "en":
        return _refuse(NO_LANGUAGE)
    if not 0.5 <= scale <= 4:
        return _refuse(f"A picture cannot be drawn at scale {scale:g}: choose one between 0.5 and 4.")
    try:
        out = out.absolute()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _refuse(f"{paths.display(out)} cannot hold the pictures: {error.strerror}. Choose another folder.")
    with tempfile.TemporaryDirectory(prefix="workbench-tour-", ignore_cleanup_errors=True) as home:
        prepare_screen(Path(home), scale)
        os.environ["WORKBENCH_HOME"] = str(Path(home, "home"))
        missing = app.missing_library()
        return _refuse(missing) if missing else _tour(Path(home), out, theme)


def _refuse(text: str) -> int:
    sys.stderr.write(text + "\n")
    return 1


def prepare_screen(folder: Path, scale: float) -> None:
    """Choose what the window is drawn on; before Qt's widgets are imported.

    Qt's own offscreen screen has 800 x 800 pixels and would cut the window.
    """
    os.environ["QT_SCALE_FACTOR"] = f"{scale:g}"
    if os.environ.get("QT_QPA_PLATFORM", "") == "offscreen" or not app.has_screen():
        description = folder / "screen.json"
        description.write_text(json.dumps({"screens": [_SCREEN]}), "utf-8")
        os.environ["QT_QPA_PLATFORM"] = f"offscreen:configfile={description}"


def _tour(home: Path, out: Path, theme: str) -> int:
    from PySide6.QtCore import qInstallMessageHandler

    from workbench.ui import session
    from workbench.ui.hands import Hands, StepError
    from workbench.ui.walk import Walk

    qInstallMessageHandler(_message)
    qt = app.make_application()
    session.save(session.Session(theme=theme))
    window = app.make_window(qt)
    window.show()
    window.activateWindow()
    window.begin(paths.scratch_project())
    hands = Hands(window)
    album = Album(hands, out)
    code = 0
    try:
        Walk(hands, album.add, home / "material").go()
    except StepError as error:
        code = 1
        _refuse(f"The tour stopped after {album.last or 'the start'}: {error}")
        album.add("stopped-here", settled=False)
    return _leave(hands, window, code, home)


def _message(_kind: object, _where: object, text: str) -> None:
    """What Qt says, without the offscreen screen's excuses for what only a window manager does."""
    if not text.startswith("This plugin does not support"):
        sys.stderr.write(text + "\n")


def _leave(hands: Hands, window: MainWindow, code: int, home: Path) -> int:
    """Close the window as a person does; ends the process at once where a step does not end."""
    from PySide6.QtCore import qInstallMessageHandler

    from workbench.ui.hands import StepError

    window.close()
    try:
        hands.until(lambda: not window.isVisible(), "the window to close", _CLOSE_SECONDS)
    except StepError as error:
        code = _refuse(str(error))
    if window.state.lanes.stuck:
        shutil.rmtree(home, ignore_errors=True)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # ending the interpreter while a thread is inside torch aborts the process
    sys.excepthook = sys.__excepthook__
    qInstallMessageHandler(None)
    return code


class Album:
    """Saves the pictures, numbered.

    Attributes:
        last: name of the last one, or "".
    """

    def __init__(self, hands: Hands, out: Path) -> None:
        self._hands, self._out = hands, out
        self._number = 0
        self.last = ""

    def add(self, name: str, *, settled: bool = True) -> None:
        """Save the window as it is now.

        Raises:
            StepError: it cannot be written.
        """
        from workbench.ui.hands import StepError

        self._number += 1
        path = self._out / f"{self._number:02}-{name}.png"
        picture = self._hands.picture() if settled else self._hands.window.grab()
        if not picture.save(str(path)):
            raise StepError(f"{paths.display(path)} was not written: the disk is full, or the folder is read only")
        self.last = path.name
        sys.stdout.write(f"{paths.display(path)}\n")
        sys.stdout.flush()
