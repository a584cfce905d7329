"""Closes the real window at a moment of real training, in a process of its own; what the tests and the counting share.

``python -m tests.ui.closing MOMENT SEED`` is that process; ``close_once`` starts it and looks at its end.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ui.driven import environment, open_window

if TYPE_CHECKING:
    from workbench.ui.hands import Hands

MOMENTS = ("loading", "decoding", "first step", "validation", "checkpoint", "saving", "any")
"""Where the window is closed, each a random while after it was reached."""
_WHILE = {"loading": 2.0, "decoding": 0.3, "first step": 0.5, "validation": 0.4, "checkpoint": 0.02, "saving": 0.3}
_ANY = 6.0
_SAID = {
    "decoding": ("Reading pictures", "Decoding pictures"),
    "first step": ("drawing the first episode",),
    "validation": ("validating",),
    "saving": ("Saving what was learnt",),
}
_LIMIT = 120.0


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    """How a window ended.

    Attributes:
        moment: that was asked for.
        seed: of the while after it.
        code: of the process.
        seconds: from the close to the end of the process; while the library loads, from the end of that import.
        visible: whether the bottom bar said that it closes.
        states: of the runs in the project afterwards.
        said: standard error.
    """

    moment: str
    seed: int
    code: int
    seconds: float
    visible: bool
    states: tuple[str, ...]
    said: str


def close_once(moment: str, seed: int, home: Path) -> Closed:
    """Open the window, train, close it at a moment, and wait for the end of the process.

    Args:
        moment: one of ``MOMENTS``.
        seed: of the while after it.
        home: prepared by ``driven.prepare``.
    """
    asked = [sys.executable, "-X", "faulthandler", "-m", "tests.ui.closing", moment, str(seed)]
    child = subprocess.Popen(asked, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, said = child.communicate(timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        child.kill()
        out, said = child.communicate()
        said += f"\nstill there after {_LIMIT:g} s"
    ended = time.monotonic()
    told: dict[str, Any] = {"closed": ended, "visible": False}
    for line in out.splitlines():
        told |= json.loads(line)
    return Closed(moment, seed, child.returncode, ended - told["closed"], told["visible"], _runs_of(home), said.strip())


def _runs_of(home: Path) -> tuple[str, ...]:
    from workbench.project.runs import list_runs

    return tuple(r.state for r in list_runs(home / "data" / "scratch"))


# ---- the process that is closed --------------------------------------------------------------------------------------
def main() -> int:
    """Train and close."""
    moment, seed = sys.argv[1], int(sys.argv[2])

    def act(hands: Hands) -> None:
        from PySide6.QtCore import QTimer

        from workbench.core.context import Context
        from workbench.services import runtime

        window = hands.window
        reached = _watch(hands, moment)
        hands.until(reached, f"the moment: {moment}", 100)
        hands.rest(Context(seed=seed).seed_for(moment) / 2**63 * _WHILE.get(moment, _ANY))

        def look() -> None:
            _tell(visible=window.bottom._title.isVisible() and window.bottom._title.text().startswith("Closing"))

        _tell(closed=time.monotonic())
        if runtime._future is not None and not runtime.loaded():
            runtime._future.add_done_callback(lambda _: _tell(closed=time.monotonic()))
        QTimer.singleShot(0, window, look)
        window.close()

    return open_window(act)


def _tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")  # one write, since two threads tell
    sys.stdout.flush()


def _watch(hands: Hands, moment: str) -> Callable[[], bool]:
    """Start training where the moment needs it; gives back whether the moment is reached."""
    from workbench.services import runtime

    if moment == "loading":
        return lambda: runtime._future is not None
    room = next(r for r in _rooms(hands) if type(r).__name__ == "TrainRoom")
    hands.until(lambda: room.start.isEnabled() and room.monitor.loss is not None, "the Start button", 100)
    reached = _marked(moment) if moment != "any" else (lambda: room.running)
    setup = {"size": 28, "channels": "grey", "minutes": 0.05 if moment == "saving" else 5.0}
    room.put(dataclasses.replace(room.setup, algorithm="protonet", backbone="conv4", pretrained=False, **setup))
    hands.click(room.start)
    return reached


def _rooms(hands: Hands) -> list[Any]:
    window = hands.window
    hands.until(lambda: "train" in window.rooms and window.rooms["train"].isVisible(), "the Train room", 60)
    return list(window.rooms.values())


def _marked(moment: str) -> Callable[[], bool]:
    """Whether a part of the training has begun: by what the job says of itself, or by the call that writes."""
    from workbench.core.context import Context

    begun = threading.Event()
    if moment == "checkpoint":
        import workbench.learn.engine as engine
        import workbench.services.train as train

        save = engine.save_checkpoint

        def saving(*given: Any) -> None:
            begun.set()
            save(*given)

        engine.save_checkpoint = saving
        train.Plan = functools.partial(train.Plan, checkpoint_every_seconds=1.0)
        return begun.is_set
    say, awaited = Context.status, _SAID[moment]

    def status(ctx: Context, text: str) -> None:
        if text in awaited:
            begun.set()
        say(ctx, text)

    Context.status = status
    return begun.is_set


if __name__ == "__main__":
    sys.exit(main())
