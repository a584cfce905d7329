"""How pictures, tasks and training requests are written to disk, and read back.

A path inside the project is stored relative to it, one inside the source's own folder relative to that, any other one
absolute, all escaped; so a project that was moved as a whole still finds its pictures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import escape, unescape
from workbench.core.training import TrainRequest
from workbench.core.values import ClassId, ImageRef, Role, Task, TaskClass, TaskId


class ImageRow(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """An ``ImageRef`` as a row; ``place`` as ``Places.write`` gives it."""

    place: str
    member: str
    sha256: str
    size: int
    width: int
    height: int


class ClassRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A ``TaskClass``."""

    name: str
    id: str
    images: tuple[ImageRow, ...]


class TaskRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A ``Task`` without its role."""

    id: str
    name: str
    path: str
    classes: tuple[ClassRow, ...]
    unlabelled: tuple[ImageRow, ...]


class RoledTask(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A ``Task`` with its role."""

    role: str
    task: TaskRow


class RequestRow(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A ``TrainRequest``: its sources, what it is aligned with, and everything else by name."""

    sources: tuple[RoledTask, ...]
    rest: dict[str, Any]
    target: tuple[RoledTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Places:
    """Turns paths into text and back.

    Attributes:
        project: the project's folder, absolute.
        source: the folder (or archive) of the source at hand, absolute, or "".
    """

    project: str
    source: str = ""

    def write(self, path: str) -> str:
        """A path as text: ``project:...``, ``source:...`` or absolute."""
        for word, root in (("project:", self.project), ("source:", self.source)):
            if root and (path == root or path.startswith(root.rstrip(os.sep) + os.sep)):
                return word + text(path[len(root) :].lstrip(os.sep).replace(os.sep, "/"))
        full = absolute(path)
        return text(full) if full == path else self.write(full)

    def read(self, place: str) -> str:
        """The path that ``write`` wrote."""
        for word, root in (("project:", self.project), ("source:", self.source)):
            if place.startswith(word):
                inside = raw(place[len(word) :]).replace("/", os.sep)
                return root.rstrip(os.sep) + os.sep + inside if inside else root
        return raw(place)


def absolute(path: str) -> str:
    """A path from the root on; links are left as they are."""
    return str(Path(path).absolute())


def text(name: str) -> str:
    """A name or path as text that JSON can hold.

    Raises:
        WorkbenchError: it holds half of a character.
    """
    try:
        return escape(name)
    except UnicodeEncodeError as error:
        raise WorkbenchError("It was not saved", "a name holds half of a character", "Use another name") from error


def raw(name: str) -> str:
    """What ``text`` was given.

    Raises:
        StorageError: not written by ``text``.
    """
    try:
        return unescape(name)
    except ValueError as error:
        raise StorageError("The project was not opened", f"{name!r} is not a path", "Restore a backup") from error


def image_row(image: ImageRef, places: Places) -> ImageRow:
    """A picture as a row."""
    return ImageRow(places.write(image.path), text(image.member), image.sha256, image.size, image.width, image.height)


def image_ref(row: ImageRow, places: Places) -> ImageRef:
    """The inverse of ``image_row``."""
    return ImageRef(places.read(row.place), raw(row.member), row.sha256, row.size, row.width, row.height)


def class_row(c: TaskClass, places: Places) -> ClassRow:
    """A class as a row."""
    return ClassRow(text(c.name), c.id, tuple(image_row(i, places) for i in c.images))


def task_class(row: ClassRow, places: Places) -> TaskClass:
    """The inverse of ``class_row``."""
    return TaskClass(raw(row.name), tuple(image_ref(i, places) for i in row.images), ClassId(row.id))


def task_row(task: Task, project: str) -> TaskRow:
    """A task as a row."""
    outside = Places(project)
    inside = Places(project, absolute(task.path)) if task.path else outside
    return TaskRow(
        text(task.id),
        text(task.name),
        outside.write(task.path) if task.path else "",
        tuple(class_row(c, inside) for c in task.classes),
        tuple(image_row(i, inside) for i in task.unlabelled),
    )


def task_of(row: TaskRow, project: str, role: Role = Role.TRAIN) -> Task:
    """The inverse of ``task_row``.

    Raises:
        StorageError: it does not make a task.
    """
    path = Places(project).read(row.path) if row.path else ""
    inside = Places(project, path)
    try:
        return Task(
            TaskId(raw(row.id)),
            raw(row.name),
            path,
            tuple(task_class(c, inside) for c in row.classes),
            tuple(image_ref(i, inside) for i in row.unlabelled),
            role,
        )
    except ValueError as error:
        raise StorageError("The source was not opened", str(error), "Load its folder again") from error


_TEXTS = ("start", "name", "command")


def request_row(request: TrainRequest, project: str) -> RequestRow:
    """A training request as a row."""
    rest: dict[str, Any] = msgspec.to_builtins(replace(request, sources=(), target=()))
    del rest["sources"], rest["target"]
    rest |= {name: text(rest[name]) for name in _TEXTS}
    tasks, target = (
        tuple(RoledTask(t.role.value, task_row(t, project)) for t in some) for some in (request.sources, request.target)
    )
    return RequestRow(tasks, rest, target)


def request_of(row: RequestRow, project: str, where: str) -> TrainRequest:
    """The inverse of ``request_row``.

    Raises:
        StorageError: a field is unknown or does not fit.
    """
    unknown = set(row.rest) - set(TrainRequest.__dataclass_fields__)
    try:
        if unknown:
            raise ValueError(f"it holds the unknown field {min(unknown)}")
        tasks, target = (
            tuple(task_of(t.task, project, Role(t.role)) for t in some) for some in (row.sources, row.target)
        )
        rest = row.rest | {name: raw(row.rest[name]) for name in _TEXTS if name in row.rest}
        return replace(msgspec.convert({"sources": (), **rest}, TrainRequest), sources=tasks, target=target)
    except (msgspec.ValidationError, ValueError) as error:
        raise StorageError(f"{where} was not opened", str(error), "Start the run again") from error
