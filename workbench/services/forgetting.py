"""What is measured of forgetting: on which pictures of an old source, and how accuracies before and after compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workbench.core.values import SourceInfo, Task
from workbench.learn import continual
from workbench.learn.evaluate import mean_ci95

_DIVIDED_FROM = 4
"""A class of fewer pictures is not divided: all of it may be used, and it is not measured on."""


def parted(info: SourceInfo, task: Task) -> tuple[Task, Task, bool]:
    """An old source as (what the run may use of it, what is measured on, whether its entry was trained on the latter).

    Where the entry held classes out (they are there and it does not name them), these are measured on. Otherwise half
    of each class with four or more pictures, whichever have the smaller content hashes: the same in every run.
    """
    own = tuple(c for c in task.classes if c.name in info.class_names)
    others = tuple(c for c in task.classes if c.name not in info.class_names)
    if len(own) > 1 and len(others) > 1:
        return replace(task, classes=own), replace(task, classes=others), False
    used, held = [], []
    for c in task.classes:
        order = tuple(sorted({i.sha256: i for i in c.images}.values(), key=lambda i: i.sha256))
        count = min(continual.MOST_PICTURES, len(order) // 2) if len(order) >= _DIVIDED_FROM else 0
        used.append(replace(c, images=order[count:]))
        held += [replace(c, images=order[:count])] if count else []
    return replace(task, classes=tuple(used)), replace(task, classes=tuple(held)), True


def compared(
    old: Sequence[str],
    new: Sequence[str],
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    untrained: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """Accuracies by source, average accuracy, backward and forward transfer with half a 95 % interval over episodes.

    Args:
        old: names of the old sources.
        new: names of the new ones.
        before: accuracy of each episode, for the old and then the new sources; () where it could not be measured.
        after: likewise.
        untrained: likewise, for the new sources.
    """
    names = [*old, *new]
    out: dict[str, Any] = {
        "old": list(old),
        "new": list(new),
        "before": {n: _mean(v) for n, v in zip(names, before, strict=True) if v},
        "after": {n: _mean(v) for n, v in zip(names, after, strict=True) if v},
    }
    whole = [x for v in after for x in v]
    if whole:
        out["average"] = _mean(whole)
    pairs = {
        "backward": list(zip(after[: len(old)], before[: len(old)], strict=True)),
        "forward": list(zip(before[len(old) :], untrained, strict=True)),
    }
    for name, some in pairs.items():
        each = [x - y for a, b in some for x, y in zip(a, b, strict=False)]
        if len(each) > 1:
            found, ci95 = mean_ci95(each)
            out[name] = {"mean": found, "ci95": ci95, "episodes": len(each)}
    return out


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
