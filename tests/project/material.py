"""Small tasks, pictures and entries for the tests of the project."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workbench.core.training import TrainRequest
from workbench.core.values import (
    EntryId,
    ImageRef,
    KnowledgeEntry,
    Preprocess,
    Role,
    SourceInfo,
    Task,
    TaskClass,
    TaskId,
    Validation,
)


def image(n: int, folder: str = "/data/set") -> ImageRef:
    return ImageRef(f"{folder}/{n}.png", "", f"{n:064x}", 10 + n, 8, 9)


def images(*numbers: int) -> tuple[ImageRef, ...]:
    return tuple(image(n) for n in numbers)


def hashes(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{n:064x}" for n in numbers)


def written(folder: Path, name: str, data: bytes) -> ImageRef:
    """A file with some bytes, and its reference."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return ImageRef(str(path), "", hashlib.sha256(data).hexdigest(), len(data), 1, 1)


def task(name: str = "alphabets", role: Role = Role.TRAIN, n: int = 2) -> Task:
    folder = f"/data/{name}"
    classes = tuple(
        TaskClass(f"class {c}", tuple(image(100 * c + i, f"{folder}/class {c}") for i in range(n))) for c in range(3)
    )
    return Task(TaskId(f"id of {name}"), name, folder, classes, (image(7, folder),), role)


def request(**more: object) -> TrainRequest:
    given = {
        "sources": (task(), task("held", Role.HELD_OUT)),
        "episodes": 10,
        "params": {"distance": "cosine", "t": 2.5},
    }
    return TrainRequest(**(given | more))  # type: ignore[arg-type]


def entry(id_: str = "0123abcd", name: str = "ProtoNet on alphabets", **more: object) -> KnowledgeEntry:
    given = {
        "id": EntryId(id_),
        "name": name,
        "algorithm": "protonet",
        "params": {"distance": "euclidean"},
        "backbone": "conv4",
        "preprocess": Preprocess(28, "grey", mean=(0.1,), std=(0.3,)),
        "ways": (5, 10),
        "shots": (1, 5),
        "sources": (SourceInfo("greek\udcff", "/data/greek\udcff", 10, 140, "f" * 64),),
        "validation": Validation("classes", 0.9, 0.01, 400),
        "weights_sha256": "",
        "created": "2026-01-02T03:04:05+00:00",
        "calibration": {"temperature": 1.5},
        "provenance": {"seed": 3, "command": "workbench train /data/greek\udcff", "versions": {"torch": "2.15"}},
    }
    return KnowledgeEntry(**(given | more))  # type: ignore[arg-type]
