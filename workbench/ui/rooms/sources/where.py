"""Where each picture of a project is, and to which task a file belongs that was not taken. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from posixpath import commonpath, dirname

from workbench.core.paths import display
from workbench.core.values import ImageRef, Problem, Task

Place = tuple[int, int]
"""Task index and class index; class -1 is "unlabelled"."""
Places = Mapping[str, tuple[Place, ...]]
"""sha256 -> every place where that picture is, for pictures that are in more than one."""


def groups(task: Task) -> Iterable[tuple[int, str, tuple[ImageRef, ...]]]:
    """Index, name and pictures of each class, then of the unlabelled pictures (-1) if there are any."""
    for index, item in enumerate(task.classes):
        yield index, item.name, item.images
    if task.unlabelled:
        yield -1, "Unlabelled", task.unlabelled


def locate(tasks: Sequence[Task], tick: Callable[[], None] = lambda: None) -> dict[str, tuple[Place, ...]]:
    """Where each picture is, for pictures that are in more than one place.

    Args:
        tasks: all tasks of the project.
        tick: called before each class; may raise to stop.
    """
    first: dict[str, Place] = {}
    more: dict[str, list[Place]] = {}
    for number, task in enumerate(tasks):
        for index, _name, images in groups(task):
            tick()
            for image in images:
                if image.sha256 in first:
                    more.setdefault(image.sha256, [first[image.sha256]]).append((number, index))
                else:
                    first[image.sha256] = (number, index)
    return {sha: tuple(places) for sha, places in more.items()}


def by_task(places: Places) -> dict[int, dict[str, tuple[Place, ...]]]:
    """The same, for each task what concerns it."""
    found: dict[int, dict[str, tuple[Place, ...]]] = defaultdict(dict)
    for sha, where in places.items():
        for number in {t for t, _c in where}:
            found[number][sha] = where
    return found


def root_of(task: Task) -> str:
    """The task's folder as problems name it; for a part of an archive its path followed by the folder inside."""
    members = [i.member for _n, _c, images in groups(task) for i in (images[:1] + images[-1:]) if i.member]
    if not members:
        return display(task.path.rstrip("/\\"))
    inside = commonpath(members) if len(set(members)) > 1 else dirname(members[0])
    if len(task.classes) == 1 and not task.unlabelled:
        inside = dirname(inside)
    return display(f"{task.path}/{inside}" if inside else task.path)


def assign(tasks: Sequence[Task], problems: Sequence[Problem]) -> tuple[dict[int, list[Problem]], list[Problem]]:
    """Problems by the task in whose folder they lie (the innermost one), and those that lie in none.

    A file beside several tasks counts to the first of them.
    """
    roots: dict[str, int] = {}
    above: dict[str, int] = {}
    for number, task in enumerate(tasks):
        root = root_of(task).replace("\\", "/")
        roots.setdefault(root, number)
        while (parent := dirname(root)) != root:
            above.setdefault(parent, number)
            root = parent
    found: dict[int, list[Problem]] = defaultdict(list)
    rest: list[Problem] = []
    for problem in problems:
        place = _walk_up(problem.path, roots)
        if place is None:
            folder = dirname(problem.path.replace("\\", "/"))
            place = above.get(folder, above.get(problem.path)) if folder.count("/") > 1 else None
        (rest if place is None else found[place]).append(problem)
    return found, rest


def _walk_up(path: str, roots: Mapping[str, int]) -> int | None:
    path = path.replace("\\", "/")
    while path:
        if path in roots:
            return roots[path]
        parent = dirname(path)
        if parent == path:
            return None
        path = parent
    return None


def without_those_of(task: Task, tasks: Sequence[Task], problems: Sequence[Problem]) -> list[Problem]:
    """The problems without those that lie in a task's folder."""
    own, _rest = assign(tasks, problems)
    gone = set(own.get(list(tasks).index(task), ()))
    return [p for p in problems if p not in gone]
