"""How the window feels: ``uv run python -m tests.benchmarks.interface --quick`` prints each measure beside its target.

Each group of measures runs in a process of its own, offscreen, with a home of its own. Gaps are the times between two
turns of a precise 5 ms timer in the window's event loop. ``--explain`` also says what all threads did in the longest
gaps; it costs a little speed itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ui.driven import environment, open_window, prepare

if TYPE_CHECKING:
    from tests.benchmarks.gaps import Gaps
    from workbench.ui.hands import Hands
    from workbench.ui.main_window import MainWindow

_IMAGES, _CLASSES = 10_000, 20
_BEGUN = "WORKBENCH_BENCHMARK_BEGUN"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; ``limit`` is in the unit of ``value``, ``None`` where there is no target."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    note: str = ""

    def line(self) -> str:
        """As it is printed."""
        target = f"<= {self.limit:g} {self.unit}" if self.limit is not None else "-"
        ok = "" if self.limit is None else "yes" if self.value <= self.limit else "NO"
        measured = f"{self.value:.2f} {self.unit}" if self.unit == "s" else f"{self.value:.1f} {self.unit}"
        return f"{self.what:58} | {measured:>10} | {target:>10} | {ok:3} | {self.note}"


# ---- starting --------------------------------------------------------------------------------------------------------
def measure_start(asked: argparse.Namespace) -> Iterator[Row]:
    """From the start of the process to the window, and to the library behind it."""
    from PySide6.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer

    from tests.benchmarks.gaps import Gaps, when

    begun = float(os.environ[_BEGUN])
    rows: list[Row] = []
    shown: list[float] = []
    probe: list[Gaps] = []

    class FirstPaint(QObject):
        """Notes when the first painting is over: before any timer has its turn."""

        def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
            if event.type() == QEvent.Type.Paint and not shown:
                shown.append(0.0)
                QCoreApplication.postEvent(self, QEvent(QEvent.Type.User), Qt.EventPriority.HighEventPriority.value)
            return False

        def customEvent(self, _event: QEvent) -> None:  # noqa: N802 - Qt's name
            shown[0] = time.monotonic() - begun

    def before(window: MainWindow) -> None:
        watch = FirstPaint(window)
        window.centralWidget().installEventFilter(watch)
        probe.append(Gaps(window, explain=asked.explain))
        QTimer.singleShot(0, probe[0].start)

    def act(hands: Hands) -> None:
        from workbench.ui.actions import ROOMS

        window = hands.window
        when(lambda: len(window.rooms) == len(ROOMS) and window.state.project is not None, 60)
        usable = time.monotonic() - begun
        building = probe[0].stop()
        probe[0].start()
        when(lambda: window.state.library_loaded, 60)
        loaded = time.monotonic() - begun
        hands.rest(1.0)
        gaps = probe[0].stop()
        rows.append(Row("start to window painted (warm)", shown[0], "s", 1.0))
        rows.append(Row("start to project open and rooms built", usable, "s", 2.0))
        rows.append(Row("longest gap meanwhile", building.longest, "ms", None, building.words()))
        rows.append(Row("start to learning library loaded", loaded, "s"))
        rows.append(Row("longest gap while the library loads", gaps.longest, "ms", 300, gaps.words()))
        window.close()

    _check(open_window(act, before=before))
    yield from rows


# ---- training --------------------------------------------------------------------------------------------------------
def measure_training(asked: argparse.Namespace) -> Iterator[Row]:
    """Start, the first sign, the first point, gaps at full load with both plots, Stop."""
    from dataclasses import replace

    from tests.benchmarks.gaps import Gaps, when

    seconds = 35.0 if asked.quick else 150.0
    rows: list[Row] = []

    def act(hands: Hands) -> None:
        window, state = hands.window, hands.window.state
        hands.until(lambda: "train" in window.rooms and window.rooms["train"].isVisible(), "the Train room")
        room: Any = window.rooms["train"]
        hands.until(lambda: room.start.isEnabled() and room.monitor.loss is not None, "the Start button")
        room.put(replace(room.setup, algorithm="protonet", backbone="conv4", size=28, channels="grey", minutes=20.0))
        hands.until(lambda: not any(state.lanes.busy(lane) for lane in ("loading", "files", "adapt")), "quiet")
        hands.rest(2.0)
        first: list[float] = []
        known = len(state.entries)

        def metrics(job: Any, numbers: list[Any]) -> None:
            found = [m for m in numbers if m.name == "train/loss"]
            if found and not first:
                first.append(job.ctx._begun + found[0].time)

        state.lanes.metrics.connect(metrics)
        gaps = Gaps(window, explain=asked.explain)
        gaps.start()
        begun = time.monotonic()
        hands.click(room.start)
        title = window.bottom._title
        sign = when(lambda: title.isVisible() and title.text().startswith("Meta-training"), 30) - begun
        rows.append(Row("Start to the run shown in the bottom bar", 1000 * sign, "ms", 200))
        point = when(lambda: bool(first) and room.monitor.loss.curves["train"].series.n > 0, 60)
        rows.append(Row("first episode to first plot point", point - first[0], "s", 1.0))
        hands.rest(seconds - (time.monotonic() - begun))
        found = gaps.stop()
        episodes = room.job.ctx.progress_now.done
        note = f"{found.seconds:.0f} s, {episodes} episodes, {found.turns} turns"
        rows.append(Row("event-loop gap while training, p99", found.p99, "ms", 16, note))
        rows.append(Row("event-loop gap while training, longest", found.longest, "ms", 50, found.words()))
        assert room.running, "the run ended by itself"
        begun = time.monotonic()
        hands.click(window.bottom.stop)
        stopped = when(lambda: not room.running, 60) - begun
        rows.append(Row("Stop to stopped, the best kept", stopped, "s", 1.0))
        hands.until(lambda: len(state.entries) > known, "the knowledge kept")
        window.close()

    _check(open_window(act))
    yield from rows


# ---- a large folder --------------------------------------------------------------------------------------------------
def measure_folder(asked: argparse.Namespace) -> Iterator[Row]:
    """10,000 pictures dropped on the window, scanned, shown and scrolled."""
    from PySide6.QtCore import QPoint, Qt
    from PySide6.QtTest import QTest

    from tests.benchmarks.gaps import Gaps

    rows: list[Row] = []
    folder = Path(asked.folder)

    def act(hands: Hands) -> None:
        window, state = hands.window, hands.window.state
        hands.until(lambda: state.library_loaded and window.first.isVisible(), "the first page and the library")
        hands.rest(2.0)
        gaps = Gaps(window, explain=asked.explain)

        def measured(what: str) -> None:
            found = gaps.stop()
            rows.append(Row(f"{_IMAGES:,} pictures: longest gap, {what}", found.longest, "ms", 100, found.words()))

        gaps.start()
        begun = time.monotonic()
        hands.drop([str(folder)], window.first.target)
        hands.until(lambda: bool(state.tasks) and not state.scanning, "the folder scanned", 300)
        rows.append(Row(f"{_IMAGES:,} pictures scanned", time.monotonic() - begun, "s"))
        room: Any = window.rooms["sources"]
        hands.until(lambda: room.isVisible() and room.grid.map.cells == _IMAGES, "all pictures in the grid")
        hands.settle()
        hands.until(lambda: not room.checker.checking and not state.lanes.busy("files"), "the check", 300)
        measured("scanned, shown, checked")
        bar, place = room.grid.verticalScrollBar(), room.grid.viewport()
        gaps.start()
        while bar.value() < bar.maximum():
            hands.wheel(place, -2)
            hands.rest(0.012)
        hands.settle()
        measured("scrolled by wheel to the end")
        hands.press(Qt.Key.Key_Home)
        bar.setValue(0)
        hands.settle()
        gaps.start()
        handle, top = window.windowHandle(), bar.mapTo(window, QPoint(bar.width() // 2, 12))
        QTest.mousePress(handle, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, top)
        for step in range(1, 201):
            QTest.mouseMove(handle, top + QPoint(0, round(step / 200 * (bar.height() - 12))))
            hands.rest(0.012)
        QTest.mouseRelease(
            handle, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, top + QPoint(0, bar.height() - 12)
        )
        assert bar.value() > 0.95 * bar.maximum(), "the scroll bar did not follow"
        hands.settle()
        measured("scrolled by its bar to the end")
        window.close()

    _check(open_window(act))
    yield from rows


def make_folder(folder: Path) -> None:
    """Small pictures, each another one."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for n in range(_CLASSES):
        place = folder / f"class {n + 1:02}"
        place.mkdir(parents=True)
        shade = draw.integers(40, 200, 3)
        for i in range(_IMAGES // _CLASSES):
            coarse = np.clip(shade + draw.integers(-40, 55, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(coarse).resize((48, 48), Image.Resampling.BILINEAR).save(
                place / f"{i + 1:04}.png", compress_level=1
            )


# ---- the table -------------------------------------------------------------------------------------------------------
_MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "start": measure_start,
    "training": measure_training,
    "folder": measure_folder,
}


def _check(code: int) -> None:
    if code:
        raise SystemExit(code)


def _child(name: str, home: Path, asked: argparse.Namespace) -> list[Row]:
    words = [sys.executable, "-m", "tests.benchmarks.interface", "--child", name, "--folder", asked.folder]
    words += ["--quick"] * asked.quick + ["--explain"] * asked.explain
    done = subprocess.run(
        words,
        env=environment(home) | {_BEGUN: repr(time.monotonic())},
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
        check=False,
    )
    rows = [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            print(line)
    if done.returncode:
        print(f"{name}: ended with {done.returncode}")
    return rows


def _median(runs: list[list[Row]]) -> list[Row]:
    """Of several runs of the same measures; a gap counts as its longest."""
    made = []
    for rows in zip(*runs, strict=True):
        values = [r.value for r in rows]
        worst = "gap" in rows[0].what
        note = rows[values.index(max(values))].note if worst else f"median of {len(rows)}"
        made.append(
            Row(rows[0].what, max(values) if worst else statistics.median(values), rows[0].unit, rows[0].limit, note)
        )
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="35 s of training instead of 150")
    parser.add_argument("--only", choices=list(_MEASURES))
    parser.add_argument("--explain", action="store_true", help="say what all threads did in the longest gaps")
    parser.add_argument("--child", choices=list(_MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        for row in _MEASURES[asked.child](asked):
            fields = {name: getattr(row, name) for name in row.__slots__}
            print(json.dumps(fields), flush=True)
        return
    print(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores; figures count on an idle machine only")
    print(f"{'what':58} | {'measured':>10} | {'target':>10} | ok  |")
    for name in _MEASURES:
        if asked.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as place:
            home = Path(place, "home")
            if name == "training":
                prepare(home)
            if name == "folder":
                asked.folder = str(Path(place, "pictures"))
                make_folder(Path(asked.folder))
            if name == "start":
                _child(name, home, asked)  # the first start fills the caches
                rows = _median([_child(name, home, asked) for _ in range(3)])
            else:
                rows = _child(name, home, asked)
            for row in rows:
                print(row.line(), flush=True)
    print(f"load after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
