"""One piece of background work as the window sees it."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError

if TYPE_CHECKING:
    from workbench.ui.lanes import Lanes

LaneName = Literal["train", "adapt", "files", "loading"]
JobState = Literal["waiting", "running", "stopping", "done", "failed", "cancelled", "dropped"]

_numbers = itertools.count(1)


class Job:
    """One piece of work on a lane; made by ``Lanes.submit``, touched only in the window's thread.

    Attributes:
        number: counts all jobs.
        ctx: its context; ``ctx.status_text`` and ``ctx.progress_now`` say how far it is.
        title: for people, e.g. "Meta-training ProtoNet".
        lane: where it runs.
        state: waiting, running, stopping, done, failed, cancelled, or dropped (replaced: it says nothing more).
        held: whether another lane holds it back for a moment.
        details: traceback of a job that failed by a bug, else "".
        begun: monotonic seconds when it started to run.
    """

    def __init__(self, lanes: Lanes, lane: LaneName, fn: Callable[..., Any], args: tuple[Any, ...], title: str) -> None:
        self.number = next(_numbers)
        self.ctx = Context()
        self.title = title
        self.lane: LaneName = lane
        self.state: JobState = "waiting"
        self.held = False
        self.details = ""
        self.begun = 0.0
        self._lanes = lanes
        self._fn = fn
        self._args = args
        self._paused = False
        self._seen: tuple[object, ...] = ()
        self.on_done: Callable[[Any], object] | None = None
        self.on_failed: Callable[[Exception], object] | None = None
        self.on_cancelled: Callable[[], object] | None = None
        self.on_event: Callable[[Any], object] | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in ("done", "failed", "cancelled", "dropped")

    @property
    def paused(self) -> bool:
        """Whether the person paused it."""
        return self._paused

    def cancel(self) -> None:
        """Ask it to stop: a waiting job ends at once, a running one at its next check."""
        self._lanes.cancel(self)

    def pause(self) -> None:
        """Hold it at its next check."""
        if self.state not in ("waiting", "running"):
            return
        self._paused = True
        self.ctx.pause()
        self._lanes.progress.emit(self)

    def resume(self) -> None:
        """Let it go on (as soon as no other lane needs the cores)."""
        self._paused = False
        if not self.held:
            self.ctx.resume()
        self._lanes.progress.emit(self)

    def hold(self) -> None:
        """Another lane takes the cores for a moment; independent of the person's own pause."""
        self.held = True
        self.ctx.pause()

    def release(self) -> None:
        """The cores are free again."""
        self.held = False
        if not self._paused:
            self.ctx.resume()

    def run(self) -> tuple[str, Any]:
        """Do the work on the calling thread.

        Returns:
            ``done`` and the result, ``cancelled`` and ``None``, or ``failed`` and the exception.
        """
        try:
            self.ctx.check()
            return "done", self._fn(*self._args, self.ctx)
        except JobCancelledError:
            return "cancelled", None
        except WorkbenchError as error:
            return "failed", error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - whatever a job raises becomes one failed result
            self.details = "".join(traceback.format_exception(error))
            return "failed", error.with_traceback(None)
        finally:
            self._fn, self._args = _nothing, ()  # a kept job must not keep its inputs alive


def _nothing(*_: object) -> None:
    raise RuntimeError("a job runs once")
