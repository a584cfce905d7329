"""The user's new task and every edit of it, as values: ``apply(task, edit) -> task`` and nothing else.

Undo and redo, the journal on disk and the window all rest on this one pure function.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from workbench.core.errors import WorkbenchError
from workbench.core.values import ClassId, ImageRef, TaskClass

NONE = ClassId("none")
"""The label of a query that belongs to none of the classes."""

_FORBIDDEN = {chr(c) for c in (*range(0x20), 0x7F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


@dataclass(frozen=True, slots=True)
class TeachTask:
    """What the user teaches: classes with examples, queries, and the labels a person gave to queries.

    Attributes:
        classes: in the order of their number keys; every class has a unique ``id`` and a unique name.
        queries: pictures to predict.
        labels: query's sha256 -> class id or ``NONE``; only ever set by a person.
        choice: ``auto``, ``none`` (no transfer) or an entry's id.
    """

    classes: tuple[TaskClass, ...] = ()
    queries: tuple[ImageRef, ...] = ()
    labels: dict[str, ClassId] = field(default_factory=dict)
    choice: str = "auto"

    def find(self, id_: ClassId) -> TaskClass:
        """The class with this id.

        Raises:
            WorkbenchError: there is none (any more).
        """
        for c in self.classes:
            if c.id == id_:
                return c
        raise WorkbenchError("The class was not changed", "it is not there any more", "Undo its deletion first")

    def support(self) -> tuple[TaskClass, ...]:
        """The classes that have examples, with the queries a person labelled appended; what adapting sees."""
        out = []
        for c in self.classes:
            own = {i.sha256 for i in c.images}
            more = tuple(q for q in self.queries if self.labels.get(q.sha256) == c.id and q.sha256 not in own)
            if c.images or more:
                out.append(replace(c, images=c.images + more))
        return tuple(out)


@dataclass(frozen=True, slots=True)
class AddClass:
    """A new class, with its first examples if any."""

    id: ClassId
    name: str
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True, slots=True)
class RenameClass:
    """Another name for a class."""

    id: ClassId
    name: str


@dataclass(frozen=True, slots=True)
class DeleteClass:
    """Remove a class; the labels that named it go with it."""

    id: ClassId


@dataclass(frozen=True, slots=True)
class AddExamples:
    """More examples of a class; pictures it already has are skipped, pictures of another class move."""

    id: ClassId
    images: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class RemoveExamples:
    """Take examples out of a class."""

    id: ClassId
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MoveExamples:
    """Move examples from one class to another."""

    source: ClassId
    target: ClassId
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddQueries:
    """Pictures to predict."""

    images: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class RemoveQueries:
    """Take pictures off the tray."""

    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """A person says what queries are; ``id`` is a class, ``NONE``, or "" to take the label back."""

    hashes: tuple[str, ...]
    id: ClassId


@dataclass(frozen=True, slots=True)
class Choose:
    """Override which knowledge is transferred: ``auto``, ``none`` or an entry's id."""

    choice: str


@dataclass(frozen=True, slots=True)
class Together:
    """Several edits that are one for the person: done, taken back and done again together."""

    edits: tuple[SingleEdit, ...]


SingleEdit = (
    AddClass
    | RenameClass
    | DeleteClass
    | AddExamples
    | RemoveExamples
    | MoveExamples
    | AddQueries
    | RemoveQueries
    | Label
    | Choose
)
Edit = SingleEdit | Together


def check_name(name: str) -> str:
    """A class name that can be shown, written to CSV and used as a folder's name.

    Raises:
        WorkbenchError: empty, over 100 characters, or with control or direction-override characters.
    """
    name = " ".join(name.split(" ")).strip()
    if not name or name in {".", ".."}:
        raise WorkbenchError("The class was not named", "the name is empty", "Type a name")
    if len(name) > 100:
        raise WorkbenchError("The class was not named", f"the name has {len(name)} characters", "Use at most 100")
    if _FORBIDDEN & set(name) or "/" in name or "\\" in name:
        raise WorkbenchError(
            "The class was not named",
            "the name holds a slash or an invisible control character",
            "Use letters, digits and signs",
        )
    return name


def apply(task: TeachTask, edit: Edit) -> TeachTask:
    """The task after one edit.

    Raises:
        WorkbenchError: the edit names a class that is not there, or a name that is taken.
    """
    match edit:
        case AddClass(id_, name, images):
            if id_ in ("", NONE) or any(c.id == id_ for c in task.classes):
                raise WorkbenchError("The class was not added", f"the id {id_!r} is taken", "Add it again")
            name = _free_name(task, name)
            return replace(task, classes=(*_without(task.classes, images), TaskClass(name, _unique(images), id_)))
        case RenameClass(id_, name):
            task.find(id_)
            name = _free_name(task, name, besides=id_)
            return replace(task, classes=tuple(replace(c, name=name) if c.id == id_ else c for c in task.classes))
        case DeleteClass(id_):
            task.find(id_)
            labels = {h: c for h, c in task.labels.items() if c != id_}
            return replace(task, classes=tuple(c for c in task.classes if c.id != id_), labels=labels)
        case AddExamples(id_, images):
            own = {i.sha256 for i in task.find(id_).images}
            new = _unique(tuple(i for i in images if i.sha256 not in own))
            classes = _without(task.classes, new)
            return replace(
                task, classes=tuple(replace(c, images=c.images + new) if c.id == id_ else c for c in classes)
            )
        case RemoveExamples(id_, hashes):
            task.find(id_)
            gone = set(hashes)
            kept = {c.id: tuple(i for i in c.images if i.sha256 not in gone) for c in task.classes}
            return replace(
                task, classes=tuple(replace(c, images=kept[c.id]) if c.id == id_ else c for c in task.classes)
            )
        case MoveExamples(source, target, hashes):
            moving = tuple(i for i in task.find(source).images if i.sha256 in set(hashes))
            return apply(apply(task, RemoveExamples(source, hashes)), AddExamples(target, moving))
        case AddQueries(images):
            have = {q.sha256 for q in task.queries}
            return replace(task, queries=task.queries + _unique(tuple(i for i in images if i.sha256 not in have)))
        case RemoveQueries(hashes):
            gone = set(hashes)
            labels = {h: c for h, c in task.labels.items() if h not in gone}
            return replace(task, queries=tuple(q for q in task.queries if q.sha256 not in gone), labels=labels)
        case Label(hashes, id_):
            if id_ not in ("", NONE):
                task.find(id_)
            labels = {h: c for h, c in task.labels.items() if h not in set(hashes)}
            if id_:
                labels |= dict.fromkeys(hashes, id_)
            return replace(task, labels=labels)
        case Choose(choice):
            return replace(task, choice=choice)
        case Together(edits):
            for one in edits:
                task = apply(task, one)
            return task


def _free_name(task: TeachTask, name: str, besides: ClassId | None = None) -> str:
    name = check_name(name)
    if any(c.name.casefold() == name.casefold() and c.id != besides for c in task.classes):
        raise WorkbenchError(
            "The class was not named", f"there is already a class called {name}", "Choose another name"
        )
    return name


def _unique(images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
    return tuple({i.sha256: i for i in images}.values())


def _without(classes: tuple[TaskClass, ...], images: tuple[ImageRef, ...]) -> tuple[TaskClass, ...]:
    gone = {i.sha256 for i in images}
    return tuple(replace(c, images=tuple(i for i in c.images if i.sha256 not in gone)) for c in classes)
