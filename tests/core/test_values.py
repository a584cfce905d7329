from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from workbench.core.training import TrainRequest
from workbench.core.values import ClassId, ImageRef, Prediction, Preprocess, Role, Task, TaskClass, TaskId


def image(n: int, path: str = "/d/x.png") -> ImageRef:
    return ImageRef(path, "", f"{n:064x}", 10, 8, 8)


def task(*classes: TaskClass, **more: object) -> Task:
    return Task(TaskId("t"), "t", "/d", classes, **more)  # type: ignore[arg-type]


def test_an_image_is_named_by_its_file_or_its_member() -> None:
    assert ImageRef("/a/b.png", "", "", 0, 1, 1).name == "b.png"
    assert ImageRef("/a/set.zip", "x/y.png", "", 0, 1, 1).name == "y.png"
    assert ImageRef("C:\\a\\b.png", "", "", 0, 1, 1).name == "b.png"


def test_a_task_refuses_two_classes_of_one_name() -> None:
    with pytest.raises(ValueError, match="twice"):
        task(TaskClass("a", ()), TaskClass("a", ()))


def test_a_task_counts_and_cannot_be_changed() -> None:
    t = task(TaskClass("a", (image(1), image(2))), TaskClass("b", (image(3),)))
    assert t.images == 3
    with pytest.raises(FrozenInstanceError):
        t.name = "x"  # type: ignore[misc]
    held_out = t.with_role(Role.HELD_OUT)
    assert (held_out.role, t.role) == (Role.HELD_OUT, Role.TRAIN)


def test_the_fingerprint_is_that_of_the_content() -> None:
    base = task(TaskClass("a", (image(1),)), TaskClass("b", (image(2),)))
    moved = task(TaskClass("a", (image(1, "/elsewhere/y.png"),)), TaskClass("b", (image(2),)))
    assert base.fingerprint == moved.fingerprint
    assert base.fingerprint == replace(base, role=Role.HELD_OUT, name="other", id=TaskId("o")).fingerprint
    different = [
        task(TaskClass("a", (image(1), image(2))), TaskClass("b", ())),
        task(TaskClass("a", (image(2),)), TaskClass("b", (image(1),))),
        task(TaskClass("a", (image(1),)), TaskClass("c", (image(2),))),
        task(TaskClass("b", (image(2),)), TaskClass("a", (image(1),))),
        task(TaskClass("a", (image(1),)), unlabelled=(image(2),)),
        task(TaskClass("\udcff", (image(1),)), TaskClass("b", (image(2),))),
    ]
    assert len({base.fingerprint, *(t.fingerprint for t in different)}) == len(different) + 1


def test_preprocess_is_checked() -> None:
    for bad in ({"size": 7}, {"size": 1025}, {"channels": "grey"}, {"std": (0.5, 0.0, 0.5)}, {"mean": (0.5,)}):
        with pytest.raises(ValueError):
            Preprocess(**bad)  # type: ignore[arg-type]
    assert Preprocess(28, "grey", mean=(0.1,), std=(0.2,)).depth == 1


def test_digests_depend_on_what_they_should() -> None:
    a, b = Preprocess(), Preprocess(mean=(0.1, 0.2, 0.3))
    assert a.pixel_digest == b.pixel_digest
    assert a.digest != b.digest
    others = [Preprocess(size=32), Preprocess(fit="pad"), Preprocess(resample="box")]
    assert len({a.pixel_digest, *(p.pixel_digest for p in others)}) == 4
    assert Preprocess().digest == a.digest


@pytest.mark.parametrize(
    "bad",
    [
        {"episodes": None},
        {"episodes": 1, "minutes": 1.0},
        {"ways": (1, 5)},
        {"ways": (5, 4)},
        {"shots": (0, 1)},
        {"shots": (2, 1)},
        {"queries": 0},
    ],
)
def test_a_request_that_cannot_be_met_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        TrainRequest((), **({"episodes": 10} | bad))  # type: ignore[arg-type]


def test_the_best_class_of_a_prediction() -> None:
    assert Prediction(image(1), (0.1, 0.6, 0.2), 0.1, rejected=False, nearest=()).best == 1
    assert TaskClass("a", ()).id == ClassId("")
