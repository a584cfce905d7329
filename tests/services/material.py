"""Small coloured pictures in class folders: something to learn in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from workbench.core.context import Context
from workbench.core.training import TrainRequest
from workbench.core.values import Role, Task
from workbench.data.scan import scan

SIZE = 16


def picture(kind: int, number: int, size: int = SIZE) -> Image.Image:
    """A picture of class ``kind``: two blocks of colour that belong to it, and noise that differs by ``number``."""
    pattern = np.random.default_rng(kind)
    noise = np.random.default_rng([kind, number])
    small = pattern.integers(30, 226, (2, 2, 3)).repeat(size // 2, 0).repeat(size // 2, 1)
    return Image.fromarray(np.clip(small + noise.normal(0, 30, small.shape), 0, 255).astype(np.uint8))


def folder(where: Path, kinds: range, images: int, first: int = 0) -> Path:
    """Class folders ``c<kind>`` with pictures ``0.png``, ``1.png`` ...; every picture is another one."""
    for kind in kinds:
        (where / f"c{kind}").mkdir(parents=True, exist_ok=True)
        for number in range(images):
            picture(kind, first + number).save(where / f"c{kind}" / f"{number}.png")
    return where


def task(where: Path, role: Role = Role.TRAIN) -> Task:
    """The one task of a folder."""
    (found,) = scan((str(where),), Context()).tasks
    return found.with_role(role)


def request(*tasks: Task, **changes: object) -> TrainRequest:
    """A run of two episodes on a small Conv-4."""
    options: dict[str, object] = {
        "algorithm": "protonet",
        "backbone": "conv4-32",
        "ways": (3, 3),
        "shots": (1, 2),
        "queries": 3,
        "episodes": 2,
        "size": SIZE,
    }
    return TrainRequest(tasks, **(options | changes))  # type: ignore[arg-type]
