"""Groups of unlabelled pictures as classes of a task, as values: what is made of which, and how it is taken back."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.core.values import ImageRef, Task, TaskClass, TaskId

Tasks = tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A class that was made of a group.

    Attributes:
        source: the task whose pictures they were, as it was before.
        target: id of the task that has the class.
        name: of the class.
        images: its pictures.
    """

    source: Task
    target: TaskId
    name: str
    images: tuple[ImageRef, ...]


def with_class(
    tasks: Tasks, source: Task, target: TaskId | None, name: str, images: Sequence[ImageRef]
) -> tuple[Tasks, Made]:
    """The tasks with these pictures moved from the unlabelled ones of ``source`` into a class of a labelled task.

    Args:
        tasks: all.
        source: one of them; it goes when nothing is left of it.
        target: the labelled task, ``None`` for a new one behind ``source``.
        name: of the class; one that is taken gets a number.
        images: unlabelled ones of ``source``.
    """
    moved = {i.sha256 for i in images}
    taken = tuple(i for i in source.unlabelled if i.sha256 in moved)
    there = next((t for t in tasks if t.id == target), None)
    if there is None:
        fresh = TaskId(secrets.token_hex(8)) if target is None else target
        there = Task(fresh, _free(f"{source.name} grouped", {t.name for t in tasks}), source.path, (), (), source.role)
    name = _free(name, {c.name for c in there.classes})
    bigger = replace(there, classes=(*there.classes, TaskClass(name, taken)))
    smaller = replace(source, unlabelled=tuple(i for i in source.unlabelled if i.sha256 not in moved))
    out: list[Task] = []
    for task in tasks:
        if task.id == source.id:
            out += [smaller] if smaller.unlabelled or smaller.classes else []
            out += [] if any(t.id == bigger.id for t in tasks) else [bigger]
        else:
            out.append(bigger if task.id == bigger.id else task)
    return tuple(out), Made(source, bigger.id, name, taken)


def without_class(tasks: Tasks, made: Made) -> Tasks:
    """The tasks with a class taken back: its pictures are unlabelled again, in their old order before later ones."""
    back = {i.sha256 for i in made.images}
    out: list[Task] = []
    seen = False
    for task in tasks:
        if task.id == made.target:
            left = tuple(c for c in task.classes if c.name != made.name)
            if not seen and all(t.id != made.source.id for t in tasks):
                out.append(replace(made.source, unlabelled=made.images))  # it had gone with its last picture
            out += [replace(task, classes=left)] if left else []
        elif task.id == made.source.id:
            there, old = {i.sha256 for i in task.unlabelled} | back, {i.sha256 for i in made.source.unlabelled}
            found = tuple(i for i in task.unlabelled if i.sha256 not in old)
            kept = tuple(i for i in made.source.unlabelled if i.sha256 in there)
            out.append(replace(task, unlabelled=kept + found))
            seen = True
        else:
            out.append(task)
    return tuple(out)


def _free(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name} {number}", number + 1
    return found
