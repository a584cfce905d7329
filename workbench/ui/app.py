"""Starting and ending the window.

The decision whether there is a screen falls before Qt is imported, since ``QApplication`` aborts where there is none.
The window is shown before torch is imported; torch comes on a thread of its own.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.core import paths

if TYPE_CHECKING:
    from PySide6.QtWidgets import QApplication

    from workbench.ui.main_window import MainWindow

log = logging.getLogger(__name__)

NO_SCREEN = (
    "There is no screen for the window: 'workbench demo' does the whole walk without one, and "
    "'workbench tour --out DIR' draws the window into pictures."
)

_PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-render.so.0": "libxcb-render0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-shm.so.0": "libxcb-shm0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-util.so.1": "libxcb-util1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
    "libxcb.so.1": "libxcb1",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libX11.so.6": "libx11-6",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
}
_FOR_X11 = tuple(name for name in _PACKAGES if "xcb" in name or "X11" in name or "xkb" in name)


def has_screen() -> bool:
    """Whether a window can be shown; asks the X server itself, since Qt aborts on one that does not answer."""
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    return bool(os.environ.get("DISPLAY")) and _x_answers()


def _x_answers() -> bool:
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return True  # missing_library says which package is missing
    xcb.xcb_connect.restype = ctypes.c_void_p
    xcb.xcb_connect.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    xcb.xcb_connection_has_error.argtypes = [ctypes.c_void_p]
    xcb.xcb_disconnect.argtypes = [ctypes.c_void_p]
    connection = xcb.xcb_connect(None, None)
    broken = bool(xcb.xcb_connection_has_error(connection))
    xcb.xcb_disconnect(connection)
    return not broken


def missing_library() -> str:
    """What to install where a system library that Qt needs is missing, in one sentence, or ""."""
    try:
        import PySide6.QtSvg
        import PySide6.QtWidgets  # noqa: F401
    except ImportError as error:
        found = re.search(r"(lib[\w+.-]+\.so[.\d]*)", str(error))
        return _install(found.group(1)) if found else f"Qt cannot be loaded: {error}."
    if sys.platform.startswith("linux") and not os.environ.get("QT_QPA_PLATFORM") and os.environ.get("DISPLAY"):
        if os.environ.get("WAYLAND_DISPLAY"):
            return ""
        for name in _FOR_X11:
            try:
                ctypes.CDLL(name)
            except OSError:
                return _install(name)
    return ""


def _install(library: str) -> str:
    package = _PACKAGES.get(library, library)
    return f"The system library {library} is missing. On Debian or Ubuntu: sudo apt install {package}"


def run(project: Path | None = None, open_paths: list[str] | None = None) -> int:
    """Open the window and return its exit code when it is closed.

    Args:
        project: folder of the project; the one open last where not given.
        open_paths: folders or archives to be loaded.

    Returns:
        0, or 1 where there is no screen or a system library is missing (said on standard error).
    """
    if not has_screen():
        sys.stderr.write(NO_SCREEN + "\n")
        return 1
    if sys.platform == "win32":
        import torch  # noqa: F401 - after Qt it cannot be loaded there
    missing = missing_library()
    if missing:
        sys.stderr.write(missing + "\n")
        return 1
    app = make_application()
    window = make_window(app)
    window.show()
    from PySide6.QtCore import QTimer

    from workbench.ui.widgets.drop import let_clipboard_go

    start = project if project is not None else _last_project(window)
    QTimer.singleShot(0, window, partial(window.begin, start, tuple(open_paths or ())))
    awake = _close_on_signals(window)
    code = app.exec()
    awake()
    if window.state.lanes.stuck:
        log.warning("a step did not end in time; leaving without it")
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # ending the interpreter while a thread is inside torch aborts the process
    sys.excepthook = sys.__excepthook__
    del window
    gc.collect()
    let_clipboard_go()
    return code


def _close_on_signals(window: MainWindow) -> Callable[[], None]:
    """Let Ctrl-C in the terminal and a polite kill close the window as its button does; call the result at the end.

    Python handles a signal only when it runs, and in Qt's loop it may not for a long time: a byte on a socket wakes it.
    """
    from PySide6.QtCore import QSocketNotifier

    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    notifier = QSocketNotifier(here.fileno(), QSocketNotifier.Type.Read, window)
    notifier.activated.connect(lambda: here.recv(64))
    before_fd = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(s, lambda *_: window.close()) for s in wanted]

    def end() -> None:
        for s, former in zip(wanted, before, strict=True):
            signal.signal(s, former)
        signal.set_wakeup_fd(before_fd)
        notifier.setEnabled(False)
        here.close()
        there.close()

    return end


def make_application() -> QApplication:
    """The application with its name and its start theme; the one that exists already where there is one."""
    from PySide6.QtWidgets import QApplication

    existing = QApplication.instance()
    app = existing if isinstance(existing, QApplication) else QApplication(sys.argv[:1])
    app.setApplicationName("meta-transfer-workbench")
    app.setApplicationDisplayName("Meta-Transfer Workbench")
    app.setDesktopFileName("meta-transfer-workbench")
    app.setQuitOnLastWindowClosed(False)  # closing waits for the lanes first
    return app


def make_window(app: QApplication) -> MainWindow:
    """The window as the last session left it, not yet shown; bugs are shown by it from now on."""
    from PySide6.QtCore import Qt

    from workbench.services import runtime
    from workbench.ui import session, theme
    from workbench.ui.main_window import MainWindow
    from workbench.ui.state import AppState

    runtime.for_window()
    remembered = session.load()
    dark = app.styleHints().colorScheme() == Qt.ColorScheme.Dark
    theme.apply(app, remembered.theme or ("dark" if dark else "light"))
    window = MainWindow(AppState(), remembered)
    window.state.setParent(window)
    sys.excepthook = _Hook(window)
    threading.excepthook = _log_thread
    return window


def _last_project(window: MainWindow) -> Path:
    remembered = window.session.project
    path = Path(paths.unescape(remembered)) if remembered else paths.scratch_project()
    return path if path.exists() else paths.scratch_project()


class _Hook:
    """Shows an exception that nobody caught, in the window's thread, once at a time."""

    def __init__(self, window: MainWindow) -> None:
        self._window = window

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._window.close()
            return
        details = "".join(traceback.format_exception(kind, error, trace))
        log.error("%s", details)
        if threading.current_thread() is threading.main_thread():
            self._window.show_bug(error, details)


def _log_thread(args: threading.ExceptHookArgs) -> None:
    log.error("in %s", args.thread, exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback))
