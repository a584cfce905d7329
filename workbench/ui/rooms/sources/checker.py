"""Looks for findings whenever the sources change: at once where that is quick, on the files lane where it is not."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from workbench.core.context import Context
from workbench.core.values import ImageRef, Problem, Task, TaskId
from workbench.ui.lanes import Job
from workbench.ui.rooms.sources.findings import Episode, Finding, examine
from workbench.ui.rooms.sources.where import assign
from workbench.ui.state import AppState

_AT_ONCE = 3000  # pictures and problems
_Found = tuple[tuple[Finding, ...], ...]


def _examine(tasks: tuple[Task, ...], problems: tuple[Problem, ...], episode: Episode, ctx: Context) -> _Found:
    return examine(tasks, problems, episode, ctx.check)


def _describe(image: ImageRef, _ctx: Context) -> str:
    """How a picture is stored, in words."""
    from workbench.data.pixels import open_header, upright_size
    from workbench.data.read import read_bytes

    header = open_header(read_bytes(image))
    turned = ", upright by EXIF" if upright_size(header) != header.size else ""
    return f"{header.mode}{turned}"


class Checker(QObject):
    """Findings by task.

    Attributes:
        found: findings of each task.
        loose: files that were not taken and belong to no task.
        checking: what is found now is being looked for.

    Signals:
        changed: ``found`` or ``loose``.
        described(str): how the picture with this hash is stored is known now.
    """

    changed = Signal()
    described = Signal(str)

    def __init__(self, state: AppState, parent: QObject) -> None:
        super().__init__(parent)
        self._state = state
        self._job: Job | None = None
        self._looked: tuple[object, ...] = ()
        self._modes: dict[str, str] = {}
        self.found: dict[TaskId, tuple[Finding, ...]] = {}
        self.loose: list[Problem] = []

    @property
    def checking(self) -> bool:
        """Whether the findings of the present sources are still being looked for."""
        return self._job is not None and not self._job.over

    def check(self, episode: Episode) -> None:
        """Look at the sources as they are, unless that was done."""
        tasks, problems = self._state.tasks, self._state.problems
        looked = self._looked
        if looked and looked[0] is tasks and looked[1] is problems and looked[2] == episode:
            return
        images = sum(t.images + len(t.unlabelled) for t in tasks)
        if images + len(problems) <= _AT_ONCE:
            self._take(tasks, problems, episode, examine(tasks, problems, episode))
        elif not self.checking:
            self._job = self._state.lanes.submit(
                "files",
                _examine,
                tasks,
                problems,
                episode,
                title=self.tr("Checking the sources"),
                on_done=lambda found: self._done(tasks, problems, episode, found),
            )

    def _done(self, tasks: tuple[Task, ...], problems: tuple[Problem, ...], episode: Episode, found: _Found) -> None:
        self._job = None
        self._take(tasks, problems, episode, found)
        self.check(episode)  # the sources may have changed meanwhile

    def _take(self, tasks: tuple[Task, ...], problems: tuple[Problem, ...], episode: Episode, found: _Found) -> None:
        self._looked = (tasks, problems, episode)
        self.found = {t.id: f for t, f in zip(tasks, found, strict=True)}
        _own, self.loose = assign(tasks, problems)
        self.changed.emit()

    def mode(self, image: ImageRef) -> str:
        """How a picture is stored ("RGB, upright by EXIF"), "" while unknown."""
        return self._modes.get(image.sha256, "")

    def describe(self, image: ImageRef) -> None:
        """Find out how a picture is stored, if nothing else is being read."""
        if image.sha256 in self._modes or self._state.lanes.busy("files"):
            return

        def done(mode: str) -> None:
            self._modes[image.sha256] = mode
            self.described.emit(image.sha256)

        title = self.tr("Reading a picture")
        self._state.lanes.submit("files", _describe, image, title=title, on_done=done, on_failed=lambda _e: None)
