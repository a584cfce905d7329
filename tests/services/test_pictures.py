"""Photographs and drawings: told apart, told of where they are mixed or taught with the wrong knowledge."""

from __future__ import annotations

import pytest

from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess, Role, Task, TaskClass, TaskId
from workbench.services.pictures import are_photographs, caution, hold_photographs, rarer_kind
from workbench.services.teach import method_words


def images(suffix: str = "png", side: int = 28, n: int = 4) -> tuple[ImageRef, ...]:
    return tuple(ImageRef(f"/d/{i}.{suffix}", "", f"{suffix}{side}{i}", 9, side, side) for i in range(n))


def task(name: str, classes: int = 3, suffix: str = "png", side: int = 28, role: Role = Role.TRAIN) -> Task:
    made = tuple(TaskClass(f"c{c}", images(suffix, side)) for c in range(classes))
    return Task(TaskId(name), name, name, made, (), role)


def entry(channels: str = "rgb", **provenance: object) -> KnowledgeEntry:
    grey = Preprocess(28, "grey", mean=(0.5,), std=(0.5,))
    return KnowledgeEntry(
        EntryId("e"), "Runes", "protonet", {}, "conv4", grey if channels == "grey" else Preprocess(84), (5, 20), (1, 5),
        (), None, "", "", {}, provenance,
    )  # fmt: skip


def test_photographs_are_told_from_drawings() -> None:
    assert not hold_photographs((task("drawn"),))
    assert hold_photographs((task("camera", suffix="JPG", side=90),))
    assert hold_photographs((task("large", side=300),))
    assert not hold_photographs(())
    assert not are_photographs(images() + images("jpg")), "half is not more than half"


def test_tasks_of_two_kinds_are_told_by_the_kind_with_fewer_classes() -> None:
    drawn, more, photos = task("drawn"), task("more"), task("photos", 5, "jpg")
    assert rarer_kind((drawn, photos, more)) == (photos,)
    assert rarer_kind((drawn, more)) == ()
    assert rarer_kind((drawn, photos.with_role(Role.HELD_OUT))) == ()
    assert rarer_kind((drawn, task("photos", 9, "jpg"))) == (drawn,)


@pytest.mark.parametrize(
    ("known", "word"),
    [
        (None, "trained on nothing"),
        (entry("grey"), "grey pictures of 28 pixels"),
        (entry(), "without pretrained weights"),
        (entry(pretrained=True), ""),
    ],
)
def test_photographs_taught_with_knowledge_that_is_not_for_them(known: KnowledgeEntry | None, word: str) -> None:
    said = caution(images("jpg"), known)
    assert word in said
    assert bool(said) == bool(word)
    assert caution(images(), known) == "", "drawings need no caution"


def test_what_a_person_must_know_of_a_method() -> None:
    assert method_words(frozenset({"trains", "any-way", "cacheable"}), 20) == ()
    mann = method_words(frozenset({"trains", "order-dependent", "stochastic"}), 20)
    assert mann == (
        "It accepts up to 20 classes.",
        "The order of the examples matters.",
        "It draws at random, in the same way each time.",
    )
    assert "all queries together" in method_words(frozenset({"any-way", "transductive"}), 5)[0]
    (alone,) = method_words(frozenset({"any-way", "transductive"}), 5, together=False)
    assert "examples alone" in alone
    assert method_words(frozenset({"any-way"}), 5, together=False) == ()
    assert method_words(frozenset({"any-way"}), 5, exactly=True) == ("It accepts exactly 5 classes.",)
    assert method_words(frozenset(), None) == ()
