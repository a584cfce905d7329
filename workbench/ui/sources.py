"""The sources that the window shows: written to the project, merged after a scan, and what is said of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from workbench.core.context import Context
from workbench.core.values import Problem, Task
from workbench.ui.values import OpenProject


def write(
    project: OpenProject, tasks: tuple[Task, ...], problems: tuple[Problem, ...], words: str, undone: int, _ctx: Context
) -> tuple[Task, ...]:
    """Write the sources; gives what was written."""
    project.set_tasks(tasks, words, undone)
    project.set_problems(problems)
    return tasks


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
