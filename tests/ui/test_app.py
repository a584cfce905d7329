from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from workbench.ui import app


def run_python(code: str, home, timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
    full = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    full |= {"WORKBENCH_HOME": str(home), "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=full,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


CLOSE = """
import sys, time
from PySide6.QtCore import QTimer
from workbench.ui import app

make = app.make_window
def patched(qt):
    window = make(qt)
    prepare(window)
    return window
app.make_window = patched
"""


def test_without_a_screen_it_says_so_in_one_sentence(home):
    done = run_python("import sys; from workbench.ui.app import run; sys.exit(run(None, []))", home)
    assert done.returncode == 1
    assert done.stderr.strip() == app.NO_SCREEN
    assert "demo" in app.NO_SCREEN
    assert "tour" in app.NO_SCREEN
    assert done.stdout == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="X11 only")
def test_a_screen_that_does_not_answer_is_no_screen(home):
    done = run_python("import sys; from workbench.ui.app import run; sys.exit(run(None, []))", home, DISPLAY=":9731")
    assert done.returncode == 1
    assert done.stderr.strip() == app.NO_SCREEN


def test_a_missing_system_library_names_its_package(monkeypatch):
    import builtins

    real = builtins.__import__

    def missing(name, *args, **more):
        if name.startswith("PySide6.QtSvg"):
            raise ImportError("libEGL.so.1: cannot open shared object file: No such file or directory")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    said = app.missing_library()
    assert "libEGL.so.1" in said
    assert "apt install libegl1" in said


def test_a_missing_library_of_the_screen_names_its_package(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(app.sys, "platform", "linux")

    def load(name):
        if name == "libxcb-cursor.so.0":
            raise OSError(name)

    monkeypatch.setattr(app.ctypes, "CDLL", load)
    assert app.missing_library().endswith("apt install libxcb-cursor0")


def test_shown_before_torch_and_closed_with_zero(home):
    code = (
        CLOSE
        + """
def prepare(window):
    window.state.load_library = lambda: None
    window.build_rooms = window.settle
    def look():
        assert window.isVisible()
        heavy = [m for m in ("torch", "pyqtgraph", "numpy", "PIL") if m in sys.modules]
        print("heavy at show:", heavy)
    shown = window.showEvent
    QTimer.singleShot(0, look)
    QTimer.singleShot(700, window.close)
sys.exit(app.run(None, []))
"""
    )
    done = run_python(code, home, QT_QPA_PLATFORM="offscreen")
    assert done.returncode == 0, done.stderr
    assert "heavy at show: []" in done.stdout


def test_closing_during_jobs_ends_with_zero(home):
    code = (
        CLOSE
        + """
def work(ctx):
    while True:
        ctx.check()
        time.sleep(0.05)
def prepare(window):
    window.state.load_library = lambda: None
    window.build_rooms = window.settle
    for lane in ("train", "adapt", "files"):
        window.state.lanes.submit(lane, work, title=lane)
        window.state.lanes.submit(lane, work, title="waits")
    QTimer.singleShot(500, window.close)
sys.exit(app.run(None, []))
"""
    )
    begun = time.monotonic()
    done = run_python(code, home, QT_QPA_PLATFORM="offscreen")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begun < 50


def test_closing_with_a_step_that_does_not_end_still_exits_with_zero(home):
    code = (
        CLOSE
        + """
import workbench.ui.main_window as m
m._CLOSE_SECONDS = 0.5
def prepare(window):
    window.state.load_library = lambda: None
    window.build_rooms = window.settle
    window.state.lanes.submit("train", lambda ctx: time.sleep(60), title="deaf")
    QTimer.singleShot(500, window.close)
sys.exit(app.run(None, []))
"""
    )
    done = run_python(code, home, QT_QPA_PLATFORM="offscreen", timeout=40)
    assert done.returncode == 0, done.stderr


def test_closing_while_the_library_loads_exits_with_zero(home):
    code = (
        CLOSE
        + """
def prepare(window):
    def close():
        if window.state.lanes.busy("loading"):
            print("loading", window.state.lanes.running())
        window.close()
    QTimer.singleShot(300, close)
sys.exit(app.run(None, []))
"""
    )
    done = run_python(code, home, QT_QPA_PLATFORM="offscreen", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_closes_the_window(home, signal_name):
    code = (
        CLOSE
        + f"""
import os, signal
def prepare(window):
    window.state.load_library = lambda: None
    window.build_rooms = window.settle
    QTimer.singleShot(300, lambda: os.kill(os.getpid(), signal.{signal_name}))
sys.exit(app.run(None, []))
"""
    )
    done = run_python(code, home, QT_QPA_PLATFORM="offscreen", timeout=40)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_session_is_kept(home):
    code = (
        CLOSE
        + """
def prepare(window):
    window.state.load_library = lambda: None
    window.build_rooms = window.settle
    print("room at start:", window.state.room)
    QTimer.singleShot(300, lambda: window.go("export"))
    QTimer.singleShot(600, window.toggle_theme)
    QTimer.singleShot(900, window.close)
    from workbench.ui import theme
    print("theme at start:", theme.name())
sys.exit(app.run(None, []))
"""
    )
    first = run_python(code, home, QT_QPA_PLATFORM="offscreen")
    assert first.returncode == 0, first.stderr
    assert "room at start: sources" in first.stdout
    second = run_python(code, home, QT_QPA_PLATFORM="offscreen")
    assert "room at start: export" in second.stdout
    themes = [line for done in (first, second) for line in done.stdout.splitlines() if line.startswith("theme")]
    assert themes[0] != themes[1]
