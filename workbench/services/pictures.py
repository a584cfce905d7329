"""What kind of pictures these are, photographs or drawings, as far as names and sizes tell. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from workbench.core.values import ImageRef, KnowledgeEntry, Role, Task

_CAMERA = (".jpg", ".jpeg", ".heic", ".heif", ".avif", ".webp", ".jpe", ".jfif")
_SIDE = 128
_LOOKED_AT = 40


def are_photographs(images: Iterable[ImageRef]) -> bool:
    """More than half of the pictures come as a camera writes them, or are at least 128 pixels wide and high."""
    seen = list(images)
    photos = sum(i.name.lower().endswith(_CAMERA) or min(i.width, i.height) >= _SIDE for i in seen)
    return 2 * photos > len(seen)


def hold_photographs(tasks: Sequence[Task]) -> bool:
    """The same of the pictures of some tasks, of which a few of each class are looked at."""
    return are_photographs(image for task in tasks for image in _some(task))


def rarer_kind(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Where tasks to train on are of both kinds, those of the kind with fewer classes; else none.

    A network that learns photographs and small drawings together sees both in one size, and is good at neither.
    """
    used = [t for t in tasks if t.role is Role.TRAIN and t.classes]
    kinds: dict[bool, list[Task]] = {True: [], False: []}
    for task in used:
        kinds[hold_photographs((task,))].append(task)
    if not kinds[True] or not kinds[False]:
        return ()
    return tuple(min(kinds.values(), key=lambda group: sum(len(t.classes) for t in group)))


def caution(images: Iterable[ImageRef], entry: KnowledgeEntry | None) -> str:
    """Why answers may be poor for pictures although nothing is wrong, or "".

    Args:
        images: the examples.
        entry: the knowledge that is used, or ``None`` for an untrained network.
    """
    if not are_photographs(images):
        return ""
    if entry is None:
        return "These are photographs, and the network that answers was trained on nothing."
    if entry.provenance.get("pretrained"):
        return ""
    p = entry.preprocess
    if p.channels == "grey":
        return f"These are photographs, and {entry.name} was trained on grey pictures of {p.size} pixels."
    return f"These are photographs, and {entry.name} was trained without pretrained weights."


def _some(task: Task) -> Iterable[ImageRef]:
    each = max(1, _LOOKED_AT // max(1, len(task.classes)))
    return (image for item in task.classes for image in item.images[:each])
