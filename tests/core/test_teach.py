from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.core.errors import WorkbenchError
from workbench.core.teach import (
    NONE,
    AddClass,
    AddExamples,
    AddQueries,
    Choose,
    DeleteClass,
    Edit,
    Label,
    MoveExamples,
    RemoveExamples,
    RemoveQueries,
    RenameClass,
    TeachTask,
    apply,
    check_name,
)
from workbench.core.values import ClassId, ImageRef

A, B = ClassId("a"), ClassId("b")


def image(n: int) -> ImageRef:
    return ImageRef(f"/data/{n}.png", "", f"{n:064x}", 10, 8, 8)


def images(*numbers: int) -> tuple[ImageRef, ...]:
    return tuple(image(n) for n in numbers)


def hashes(*numbers: int) -> tuple[str, ...]:
    return tuple(f"{n:064x}" for n in numbers)


def after(*edits: Edit) -> TeachTask:
    task = TeachTask()
    for edit in edits:
        task = apply(task, edit)
    return task


def numbers(pictures: Sequence[ImageRef]) -> list[int]:
    return [int(i.sha256, 16) for i in pictures]


TWO = (AddClass(A, "shorts", images(1, 2)), AddClass(B, "shirts", images(3)))


def test_classes_keep_their_order_and_their_examples() -> None:
    task = after(*TWO)
    assert [(c.id, c.name, numbers(c.images)) for c in task.classes] == [("a", "shorts", [1, 2]), ("b", "shirts", [3])]


def test_an_example_belongs_to_one_class() -> None:
    task = after(*TWO, AddExamples(B, images(2, 4, 4, 3)))
    assert [numbers(c.images) for c in task.classes] == [[1], [3, 2, 4]]
    task = apply(task, AddClass(ClassId("c"), "shoes", images(1, 4)))
    assert [numbers(c.images) for c in task.classes] == [[], [3, 2], [1, 4]]


def test_move_and_remove() -> None:
    task = after(*TWO, MoveExamples(A, B, hashes(1, 99)))
    assert [numbers(c.images) for c in task.classes] == [[2], [3, 1]]
    task = apply(task, RemoveExamples(B, hashes(3)))
    assert [numbers(c.images) for c in task.classes] == [[2], [1]]
    # a picture of another class is not removed by an edit that names this one
    assert apply(task, RemoveExamples(B, hashes(2))) == task


def test_rename_and_delete() -> None:
    task = after(*TWO, AddQueries(images(7, 8)), Label(hashes(7), A), Label(hashes(8), B))
    task = apply(task, RenameClass(A, "trousers"))
    assert [c.name for c in task.classes] == ["trousers", "shirts"]
    assert apply(task, RenameClass(A, "Trousers")).classes[0].name == "Trousers"
    task = apply(task, DeleteClass(A))
    assert [c.name for c in task.classes] == ["shirts"]
    assert task.labels == {hashes(8)[0]: B}, "a label goes with its class, and only that"


def test_labels_are_set_overwritten_and_taken_back_by_a_person() -> None:
    task = after(*TWO, AddQueries(images(7, 8, 9)), Label(hashes(7, 8), A), Label(hashes(8), NONE))
    assert task.labels == dict(zip(hashes(7, 8), (A, NONE), strict=True))
    assert apply(task, Label(hashes(7), ClassId(""))).labels == {hashes(8)[0]: NONE}
    with pytest.raises(WorkbenchError):
        apply(task, Label(hashes(7), ClassId("gone")))


def test_labelled_queries_support_their_class() -> None:
    task = after(*TWO, AddQueries(images(7, 8, 1)), Label(hashes(7), B), Label(hashes(8), NONE), Label(hashes(1), A))
    assert [(c.name, numbers(c.images)) for c in task.support()] == [("shorts", [1, 2]), ("shirts", [3, 7])]
    empty = after(AddClass(A, "shorts"), AddClass(B, "shirts", images(3)))
    assert [c.name for c in empty.support()] == ["shirts"]


def test_queries_are_kept_once_and_their_labels_leave_with_them() -> None:
    task = after(*TWO, AddQueries(images(7, 7, 8)), AddQueries(images(8, 9)), Label(hashes(7, 8), A))
    assert numbers(task.queries) == [7, 8, 9]
    task = apply(task, RemoveQueries(hashes(8)))
    assert numbers(task.queries) == [7, 9]
    assert task.labels == {hashes(7)[0]: A}


def test_the_choice_is_overridden() -> None:
    assert TeachTask().choice == "auto"
    assert after(Choose("none")).choice == "none"


@pytest.mark.parametrize(
    "edit",
    [
        RenameClass(ClassId("x"), "new"),
        DeleteClass(ClassId("x")),
        AddExamples(ClassId("x"), images(5)),
        RemoveExamples(ClassId("x"), hashes(1)),
        MoveExamples(ClassId("x"), A, hashes(1)),
        MoveExamples(A, ClassId("x"), hashes(1)),
        Label(hashes(1), ClassId("x")),
        AddClass(ClassId("c"), "SHORTS"),
        AddClass(A, "another"),
        AddClass(NONE, "another"),
        AddClass(ClassId(""), "another"),
        RenameClass(A, "shirts"),
        RenameClass(A, ""),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit: Edit) -> None:
    task = after(*TWO)
    with pytest.raises(WorkbenchError) as raised:
        apply(task, edit)
    assert raised.value.what_to_do


@pytest.mark.parametrize(
    "name", ["", "  ", ".", "..", "a/b", "a\\b", "a\nb", "a\0", "\u202eabc", "\u2066x", "x\x7f", "n" * 101]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(WorkbenchError, match="was not named"):
        check_name(name)


@pytest.mark.parametrize("name", ["rust", "n" * 100, "caf\u00e9", "\u5b57", "\U0001f600", "=1+1", "<b>bold", "{0}"])
def test_names_that_are_fine(name: str) -> None:
    assert check_name(f"  {name} ") == name


_ids = st.sampled_from(["a", "b", "c"]).map(ClassId)
_some = st.lists(st.integers(0, 9), max_size=4)
_images = _some.map(lambda n: images(*n))
_hashes = _some.map(lambda n: hashes(*n))
_edits: st.SearchStrategy[Edit] = st.one_of(
    st.builds(AddClass, _ids, st.sampled_from(["x", "y", "z"]), _images),
    st.builds(RenameClass, _ids, st.sampled_from(["x", "y", "z"])),
    st.builds(DeleteClass, _ids),
    st.builds(AddExamples, _ids, _images),
    st.builds(RemoveExamples, _ids, _hashes),
    st.builds(MoveExamples, _ids, _ids, _hashes),
    st.builds(AddQueries, _images),
    st.builds(RemoveQueries, _hashes),
    st.builds(Label, _hashes, st.one_of(_ids, st.just(NONE), st.just(ClassId("")))),
    st.builds(Choose, st.sampled_from(["auto", "none", "abcd"])),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(_edits, max_size=25))
def test_whatever_a_person_does_the_task_stays_sound(edits: list[Edit]) -> None:
    task = TeachTask()
    for edit in edits:
        before = copy.deepcopy(task)
        try:
            new = apply(task, edit)
        except WorkbenchError:
            new = task
        assert task == before, "an edit makes a new value and leaves the old one alone"
        task = new
        names = [c.name.casefold() for c in task.classes]
        ids = [c.id for c in task.classes]
        assert len(set(names)) == len(names)
        assert len(set(ids)) == len(ids)
        examples = [i.sha256 for c in task.classes for i in c.images]
        assert len(set(examples)) == len(examples)
        assert len({q.sha256 for q in task.queries}) == len(task.queries)
        assert set(task.labels.values()) <= {*ids, NONE}
