"""The sources that the window shows: written to the project, merged after a scan, and what is said of one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from workbench.core.context import Context
from workbench.core.values import Problem, Task
from workbench.ui.values import OpenProject


@dataclass(frozen=True, slots=True)
class Change:
    """The sources after a change; ``words`` and ``undone`` as in ``Project.set_tasks``."""

    tasks: tuple[Task, ...]
    problems: tuple[Problem, ...]
    words: str = ""
    undone: int = 0

    @property
    def step(self) -> bool:
        """Whether it can be taken back, or takes one back."""
        return bool(self.words or self.undone)


class Unsaved:
    """Changes of one project's sources that its folder does not hold yet, in their order.

    The window adds and never waits for the disk; whichever thread writes, writes all of them, each once. One that
    could not be written stays the first.
    """

    def __init__(self) -> None:
        self._changes: deque[Change] = deque()
        self._begun: Change | None = None
        self._adding = threading.Lock()
        self._writing = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._changes)

    def add(self, change: Change) -> None:
        """One more; of two in a row that are no steps only the later one is written."""
        with self._adding:
            last = self._changes[-1] if self._changes else None
            if last is not None and last is not self._begun and not last.step and not change.step:
                self._changes.pop()
            self._changes.append(change)

    def write(self, project: OpenProject, _ctx: Context) -> None:
        """Write what there is.

        Raises:
            WorkbenchError: it could not be written.
        """
        with self._writing:
            try:
                while self._changes:
                    with self._adding:
                        change = self._begun = self._changes[0]
                    project.set_tasks(change.tasks, change.words, change.undone)
                    with self._adding:  # a step counts once, also where its problems cannot be written
                        self._changes[0] = self._begun = Change(change.tasks, change.problems)
                    project.set_problems(change.problems)
                    with self._adding:
                        self._changes.popleft()
            finally:
                self._begun = None


def without_last_change(project: OpenProject, _ctx: Context) -> tuple[Task, ...]:
    """The sources without their last change, read from the project's folder."""
    return project.without_last_change()


def why(problems: tuple[Problem, ...]) -> str:
    """Why nothing was found, in a sentence: what is said last of what was asked for, before any single file."""
    if not problems:
        return ""
    said = next((p for p in reversed(problems) if p.severity == "error"), problems[0])
    name = said.path.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name} {said.reason}."


def upper(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def merged(have: tuple[Task, ...], new: Iterable[Task]) -> tuple[Task, ...]:
    """Sources after a scan: a task read again keeps its place and role, new ones follow."""
    tasks = {t.id: t for t in have}
    for task in new:
        before = tasks.get(task.id)
        tasks[task.id] = replace(task, role=before.role) if before is not None else task
    return tuple(tasks.values())
