"""Edits of the taught task as bytes for the journal, and as words for the Undo button."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import msgspec

from workbench.core import teach
from workbench.core.errors import StorageError
from workbench.core.teach import NONE, Edit, SingleEdit, TeachTask
from workbench.core.values import ClassId
from workbench.project.records import ClassRow, ImageRow, Places, class_row, image_ref, image_row, raw, task_class, text

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        teach.AddClass,
        teach.RenameClass,
        teach.DeleteClass,
        teach.AddExamples,
        teach.RemoveExamples,
        teach.MoveExamples,
        teach.AddQueries,
        teach.RemoveQueries,
        teach.Label,
        teach.Choose,
        teach.Together,
    )
}


class _TeachRow(msgspec.Struct, forbid_unknown_fields=True):
    classes: tuple[ClassRow, ...]
    queries: tuple[ImageRow, ...]
    labels: dict[str, str]
    choice: str


def write_edit(edit: Edit, places: Places) -> bytes:
    """An edit as JSON: its kind under ``edit``, its fields by name.

    Raises:
        WorkbenchError: a name cannot be written.
    """
    return msgspec.json.encode(_plain(edit, places))


def _plain(edit: Edit, places: Places) -> dict[str, Any]:
    built: dict[str, Any] = {"edit": type(edit).__name__}
    for field in fields(edit):
        value = getattr(edit, field.name)
        if field.name == "images":
            value = [image_row(i, places) for i in value]
        elif field.name == "name":
            value = text(value)
        elif field.name == "edits":
            value = [_plain(one, places) for one in value]
        built[field.name] = value
    return built


def read_edit(data: bytes, places: Places) -> Edit:
    """The edit that ``write_edit`` wrote.

    Raises:
        StorageError: of a kind or with fields that are not known here.
    """
    try:
        return _built(msgspec.json.decode(data, type=dict[str, Any]), places)
    except msgspec.MsgspecError as error:
        raise StorageError(
            "The labels were not opened", str(error), "Update the workbench, or restore a backup"
        ) from error


def _built(built: dict[str, Any], places: Places) -> Edit:
    kind = _KINDS.get(built.pop("edit", ""))
    if kind is None or set(built) != {f.name for f in fields(kind)}:
        raise msgspec.ValidationError("it holds an edit that is not known here")
    if "images" in built:
        rows = msgspec.convert(built["images"], tuple[ImageRow, ...])
        built["images"] = tuple(image_ref(row, places) for row in rows)
    if "name" in built:
        built["name"] = raw(built["name"])
    if "hashes" in built:
        built["hashes"] = msgspec.convert(built["hashes"], tuple[str, ...])
    if "edits" in built:
        rows_of = msgspec.convert(built["edits"], tuple[dict[str, Any], ...])
        if any(row.get("edit") == teach.Together.__name__ for row in rows_of):
            raise msgspec.ValidationError("it holds an edit that is not known here")
        built["edits"] = tuple(_built(row, places) for row in rows_of)
    edit: Edit = kind(**built)
    return edit


def write_task(task: TeachTask, places: Places) -> Any:
    """A taught task as plain values for JSON."""
    return _TeachRow(
        tuple(class_row(c, places) for c in task.classes),
        tuple(image_row(q, places) for q in task.queries),
        dict(task.labels),
        task.choice,
    )


def read_task(built: Any, places: Places) -> TeachTask:
    """The task that ``write_task`` wrote.

    Raises:
        StorageError: its fields do not fit.
    """
    try:
        row = msgspec.convert(built, _TeachRow)
    except msgspec.ValidationError as error:
        raise StorageError("The labels were not opened", str(error), "Restore a backup") from error
    return TeachTask(
        tuple(task_class(c, places) for c in row.classes),
        tuple(image_ref(q, places) for q in row.queries),
        {digest: ClassId(id_) for digest, id_ in row.labels.items()},
        row.choice,
    )


def describe(edit: Edit, before: TeachTask) -> str:
    """An edit in words that follow "Undo: ", e.g. ``add 3 pictures to shorts``.

    Args:
        edit: the edit.
        before: the task that it was applied to, for the names of classes.
    """
    names = {c.id: c.name for c in before.classes} | {NONE: "none of these"}

    def name(id_: ClassId) -> str:
        return names.get(id_, "a class")

    match edit:
        case teach.AddClass(_, title, images):
            return f"add the class {title}" + (f" with {_count(images)}" if images else "")
        case teach.RenameClass(id_, title):
            return f"rename {name(id_)} to {title}"
        case teach.DeleteClass(id_):
            return f"delete the class {name(id_)}"
        case teach.AddExamples(id_, images):
            return f"add {_count(images)} to {name(id_)}"
        case teach.RemoveExamples(id_, hashes):
            return f"remove {_count(hashes)} from {name(id_)}"
        case teach.MoveExamples(source, target, hashes):
            return f"move {_count(hashes)} from {name(source)} to {name(target)}"
        case teach.AddQueries(images):
            return f"add {_count(images)} to predict"
        case teach.RemoveQueries(hashes):
            return f"remove {_count(hashes)} from those to predict"
        case teach.Label(hashes, id_):
            return f"label {_count(hashes)} {name(id_)}" if id_ else f"take back the label of {_count(hashes)}"
        case teach.Choose(choice):
            return {"auto": "choose the knowledge for me", "none": "transfer nothing"}.get(choice, f"use {choice}")
        case teach.Together(edits):
            return _describe_all(edits, before)


def _describe_all(edits: tuple[SingleEdit, ...], before: TeachTask) -> str:
    classes = [e for e in edits if isinstance(e, teach.AddClass)]
    if len(classes) > 1:
        return f"add {len(classes)} classes"
    if edits and all(isinstance(e, teach.Label) for e in edits):
        return f"label {_count([h for e in edits if isinstance(e, teach.Label) for h in e.hashes])}"
    if not edits:
        return "nothing"
    first = describe(edits[0], before)
    return first if len(edits) == 1 else f"{first} and {len(edits) - 1} more"


def _count(pictures: Sequence[object]) -> str:
    return "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
