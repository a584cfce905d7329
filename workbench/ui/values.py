"""What the window's state is made of besides the core's values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from workbench.core.teach import Edit, TeachTask
from workbench.core.training import Align
from workbench.core.values import Problem, Task

MessageKind = Literal["info", "good", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Message:
    """What a room's message strip shows: what happened, why and what to do, one action."""

    kind: MessageKind
    headline: str
    detail: str = ""
    action_text: str = ""
    callback: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Towards:
    """Another domain that a run's features are drawn towards: its folder, how, and for how many minutes."""

    folder: str
    how: Align
    minutes: float


class OpenProject(Protocol):
    """What the window needs of a project; ``workbench.project.project.Project`` is one."""

    # ruff: noqa: D102 - documented where they are implemented
    @property
    def name(self) -> str: ...
    @property
    def read_only(self) -> str: ...
    @property
    def can_undo(self) -> bool: ...
    @property
    def can_redo(self) -> bool: ...
    @property
    def undo_text(self) -> str: ...
    @property
    def redo_text(self) -> str: ...
    def rename(self, name: str) -> None: ...
    def save_as(self, path: Path) -> Path: ...
    def tasks(self) -> tuple[Task, ...]: ...
    def set_tasks(self, tasks: Sequence[Task], words: str = "", undone: int = 0) -> None: ...
    @property
    def sources_undo_text(self) -> str: ...
    def without_last_change(self) -> tuple[Task, ...]: ...
    def problems(self) -> tuple[Problem, ...]: ...
    def set_problems(self, problems: Sequence[Problem]) -> None: ...
    def teach(self) -> TeachTask: ...
    def edit(self, edit: Edit) -> TeachTask: ...
    def undo(self) -> TeachTask: ...
    def redo(self) -> TeachTask: ...
    def add_blob(self, data: bytes, suffix: str) -> Path: ...
    def close(self) -> None: ...
