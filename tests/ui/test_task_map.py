"""The map of tasks: where names stand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PySide6.QtCore import QRectF
from PySide6.QtWidgets import QApplication

from workbench.services.teach import MapPoint
from workbench.ui.rooms.teach.task_map import TaskMap


@pytest.fixture
def shown(themed: QApplication, qtbot) -> TaskMap:
    made = TaskMap()
    qtbot.addWidget(made)
    made.resize(271, made.height())
    made.show()
    return made


def points(seed: int) -> tuple[MapPoint, ...]:
    draw = np.random.default_rng(seed)
    this = MapPoint("this task", "this", draw.random(), float(draw.choice([0.0, 0.5, 1.0])), 1.0)
    names = ("Gulmeri", "Luzomi", "a name of a source that is far too long for the map", *map(str, range(10)))
    return (this, *(MapPoint(n, "source", draw.random(), draw.random(), draw.random()) for n in names))


def test_this_task_is_always_named_and_no_name_covers_another(shown: TaskMap) -> None:
    others = 0
    for seed in range(60):
        shown.show_points(points(seed))
        names = shown.names()
        assert [text for _box, text, accent in names if accent] == ["this task"]
        assert all(QRectF(shown.rect()).contains(box) for box, _text, _accent in names)
        others += len(names) - 1
        for (one, _, _), (two, _, accent) in itertools.combinations(names, 2):
            assert not one.intersects(two)
            assert not accent, "this task comes first"
    assert others > 60, "and most maps name sources too"


def test_a_task_alone_or_no_task(shown: TaskMap) -> None:
    assert shown.names() == []
    shown.show_points((MapPoint("this task", "this", 0.5, 0.5, 1.0),))
    ((box, text, accent),) = shown.names()
    assert (text, accent) == ("this task", True)
    assert box.center().x() == pytest.approx(shown.width() / 2, abs=1)
    assert shown.grab().toImage().pixelColor(shown.rect().center()).isValid()
