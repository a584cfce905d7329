"""For child processes: the real window offscreen, with hands on it; and a project with the samples for it to open."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.ui.hands import Hands
    from workbench.ui.main_window import MainWindow


def prepare(home: Path, *, room: str = "train", held_out: tuple[str, ...] = ("surfaces",)) -> None:
    """A home whose scratch project has the samples as sources, and whose window opens in a room."""
    from workbench.core import paths
    from workbench.core.context import Context
    from workbench.core.values import Role
    from workbench.project.project import Project
    from workbench.services import jobs
    from workbench.ui import session

    os.environ["WORKBENCH_HOME"] = str(home)
    found = jobs.scan(tuple(str(paths.samples() / name) for name in ("alphabets", "surfaces")), Context())
    with Project.open(paths.scratch_project()) as project:
        project.set_tasks([t.with_role(Role.HELD_OUT) if t.name in held_out else t for t in found.tasks])
    session.save(session.Session(room=room, theme="light"))


def environment(home: Path) -> dict[str, str]:
    """What a child with this home runs with: no screen of the machine's, no settings of the person's."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "WORKBENCH_THREADS")}
    return kept | {"WORKBENCH_HOME": str(home), "QT_QPA_PLATFORM": "offscreen"}


def open_window(act: Callable[[Hands], None], *, before: Callable[[MainWindow], object] | None = None) -> int:
    """Run the window as ``workbench`` does; ``act`` is called once its event loop runs.

    Args:
        act: drives the window; an exception closes it and makes the code 1.
        before: called when the window is built and not shown yet.
    """
    from workbench.ui import app, tour

    with tempfile.TemporaryDirectory() as folder:
        tour.prepare_screen(Path(folder), 1.0)
        from PySide6.QtCore import QTimer

        from workbench.ui.hands import Hands

        failed: list[Exception] = []
        make = app.make_window

        def made(qt):  # type: ignore[no-untyped-def]
            window = make(qt)

            def go() -> None:
                try:
                    act(Hands(window))
                except Exception as error:  # noqa: BLE001 - whatever it is, the window must close
                    failed.append(error)
                    window.close()

            QTimer.singleShot(0, window, go)
            if before is not None:
                before(window)
            return window

        app.make_window = made
        code = app.run(None, [])
        for error in failed:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1 if failed else code
