"""Folders and archives -> tasks: which folder is a class, which a task, and which pictures can be read.

A folder of class folders is one task, a folder of such folders one task each, a flat folder one unlabelled task; a zip
of any of them is read in place. Every file that is looked at and not taken is listed with its reason.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.paths import display
from workbench.core.values import ClassId, ImageRef, Role, ScanResult, Task, TaskClass, TaskId
from workbench.data.decoder import Decoder
from workbench.data.tree import IS_ARCHIVE, File, Folder, Walk, counted, natural, readable, shown

_UNIT = "images"
_EVERY = 100


@dataclass(slots=True)
class _Group:
    """A class to be (``name`` is text), or the unlabelled pictures (``name`` is ``None``)."""

    name: str | None
    where: str
    files: list[File]
    images: list[ImageRef] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    """A task to be: ``key`` tells it from the others under the same path."""

    name: str
    path: str
    root: str
    key: str
    role: Role
    groups: list[_Group]


def scan(paths: Sequence[str], ctx: Context) -> ScanResult:
    """Read folders, zip archives and single pictures into tasks.

    Each task is sent as an event as soon as its pictures are read. All pictures are decoded once, in guarded processes,
    so that what is damaged is found here and not in training. ``role.txt`` in a folder says what its tasks are for.

    Args:
        paths: folders, archives or pictures.
        ctx: progress counts images; ``check`` is heard within a tenth of a second.

    Raises:
        WorkbenchError: a path does not exist.
        JobCancelledError: the person asked to stop.
    """
    given = _existing(paths)
    walk = Walk(ctx.check, lambda n: ctx.progress(n, None, _UNIT))
    ctx.status("Looking through folders")
    plans = list(_plans(given, walk))
    ctx.status("Reading pictures")
    tasks = _read(plans, walk, ctx)
    for path in given:
        here = [p for p in plans if p.root == path]
        if here and not any(g.images for p in here for g in p.groups):
            inside = shown(path).rstrip("/") + "/"
            archives = sum(p.reason == IS_ARCHIVE and p.path.startswith(inside) for p in walk.problems)
            words = "holds no picture that can be read"
            if archives:
                each = "open it by itself" if archives == 1 else "open each by itself"
                words += f", but {counted(archives, 'zip archive')}: {each}"
            walk.note(shown(path), words, "error")
    return ScanResult(tuple(tasks), tuple(walk.problems))


def _existing(paths: Sequence[str]) -> list[str]:
    out = []
    for given in paths:
        if not given:
            raise WorkbenchError("Nothing was opened", "the path is empty", "Name a folder, an archive or a picture")
        path = os.path.abspath(given)  # noqa: PTH100 - resolving would follow links and lose the person's own path
        try:
            Path(path).stat()
        except (OSError, ValueError) as error:
            why = "there is nothing of that name" if isinstance(error, FileNotFoundError | ValueError) else str(error)
            raise WorkbenchError(f"{display(given)} was not opened", why, "Check the path") from error
        if path not in out:
            out.append(path)
    return out


def _plans(paths: Sequence[str], walk: Walk) -> Iterator[_Plan]:
    loose: dict[str, list[File]] = {}
    for path in paths:
        walk.check()
        if Path(path).is_dir():
            folder = walk.folder(path)
        elif path.lower().endswith(".zip") or _starts_as_zip(path):
            folder = walk.archive(path)
        else:
            loose.setdefault(str(Path(path).parent), []).append(File(path, "", likely=True))
            continue
        if folder is not None:
            yield from _interpret(folder, readable(folder.name), path, "", Role.TRAIN, walk)
    for parent, files in loose.items():
        name = readable(Path(parent).name) or "pictures"
        group = _Group(None, shown(parent), sorted(files, key=lambda f: natural(f.path)))
        yield _Plan(name, parent, files[0].path, "\0pictures", Role.TRAIN, [group])


def _starts_as_zip(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _interpret(folder: Folder, name: str, root: str, key: str, role: Role, walk: Walk) -> Iterator[_Plan]:
    """The tasks of a folder: its class folders make one, each folder of class folders one or more of its own."""
    role = folder.role or role
    deep = [f for f in folder.folders if _holds_tasks(f)]
    flat = [f for f in folder.folders if not _holds_tasks(f)]
    classes = flat
    filled = sum(f.total > 0 for f in flat)
    if deep and filled and filled < len(deep):
        walk.note(
            folder.where,
            f"holds {counted(len(deep), 'folder')} of class folders and {filled} of pictures: each of the latter is"
            " taken as an unlabelled task of its own",
            "warning",
        )
        classes = [f for f in flat if not f.total]
    elif deep and filled:
        walk.note(
            folder.where,
            f"holds {counted(filled, 'class folder')} and {counted(len(deep), 'folder')} of class folders: the former"
            f" make the task {name}, each of the latter is taken as a task of its own",
            "warning",
        )
    if folder.own and any(f.total for f in folder.folders):
        beside = "class folders" if filled and classes is flat else "folders"
        count = counted(folder.own, "picture")
        walk.note(folder.where, f"has {count} beside its {beside}, taken as unlabelled", "warning")
    groups = [_class_group(f, walk) for f in classes]
    groups.append(_Group(None, folder.where, folder.files))
    if not key or any(g.files or g.name is not None for g in groups):
        yield _Plan(name, folder.path, root, key, role, groups)
    for inner in folder.folders:
        if inner in deep or inner not in classes:
            text = readable(inner.name)
            below = f"{key}/{inner.name}" if key else inner.name
            yield from _interpret(inner, f"{name}/{text}" if key else text, root, below, role, walk)


def _holds_tasks(folder: Folder) -> bool:
    """Whether it is no class but a folder of them: the folders in it hold more pictures than it does itself."""
    return folder.total - folder.own > folder.own


def _class_group(folder: Folder, walk: Walk) -> _Group:
    files = list(folder.files)
    inner = list(folder.folders)
    if folder.total > folder.own:
        count = counted(folder.total - folder.own, "picture")
        walk.note(folder.where, f"has {count} in folders below it, counted to this class", "warning")
    while inner:
        below = inner.pop(0)
        files += below.files
        inner = below.folders + inner
    return _Group(readable(folder.name), folder.where, files)


def _read(plans: Sequence[_Plan], walk: Walk, ctx: Context) -> list[Task]:
    items = [(f.path, f.member) for p in plans for g in p.groups for f in g.files]
    done, begun = 0, time.monotonic()
    tasks = []
    with Decoder(min(2, os.cpu_count() or 1), check=ctx.check) as decoder:
        answers = decoder.inspect(items)
        for plan in plans:
            for group in plan.groups:
                for file in group.files:
                    found = next(answers)
                    if found.error:
                        walk.note(file.where, found.error, "error" if file.likely else "ignored")
                    else:
                        group.images.append(
                            ImageRef(file.path, file.member, found.sha256, found.size, found.width, found.height)
                        )
                    done += 1
                    if done % _EVERY == 0:
                        ctx.check()
                        left = (time.monotonic() - begun) / done * (len(items) - done)
                        ctx.progress(done, len(items), _UNIT, left)
            task = _task(plan, walk)
            if task is not None:
                tasks.append(task)
                ctx.event(task)
    ctx.progress(len(items), len(items), _UNIT, 0.0)
    return tasks


def _task(plan: _Plan, walk: Walk) -> Task | None:
    id_ = TaskId(_short(os.fsencode(plan.root) + b"\0" + os.fsencode(plan.key)))
    classes = []
    names: set[str] = set()
    for group in plan.groups:
        if group.name is None:
            continue
        if not group.images:
            what = "no picture that can be read" if group.files else "nothing"
            walk.note(group.where, f"holds {what}, so it is no class", "warning")
            continue
        name, number = group.name, 2
        while name in names:
            name, number = f"{group.name} ({number})", number + 1
        names.add(name)
        classes.append(TaskClass(name, tuple(group.images), ClassId(_short(f"{id_}/{name}".encode()))))
    unlabelled = tuple(i for g in plan.groups if g.name is None for i in g.images)
    if not classes and not unlabelled:
        return None
    return Task(id_, plan.name, plan.path, tuple(classes), unlabelled, plan.role)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
