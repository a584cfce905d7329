from __future__ import annotations

import os

import pytest

from tests.project.material import hashes, image, images
from workbench.core.errors import StorageError, WorkbenchError
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
    Together,
)
from workbench.core.values import ClassId, ImageRef, TaskClass
from workbench.project.edits import describe, read_edit, read_task, write_edit, write_task
from workbench.project.records import Places

PLACES = Places("/home/me/project")
A, B = ClassId("a"), ClassId("b")
ODD = (
    ImageRef(os.fsdecode(b"/home/me/project/blobs/\xff.png"), "", "1" * 64, 1, 2, 3),
    ImageRef("/sets/\u202e.zip", os.fsdecode(b"x/\xfe\\y.png"), "2" * 64, 4, 5, 6),
)
BEFORE = TeachTask((TaskClass("shorts", images(1), A), TaskClass("shirts", (), B)))

EVERY = [
    (AddClass(A, "caf\u00e9 \U0001f600"), "add the class caf\u00e9 \U0001f600"),
    (AddClass(ClassId("c"), "shoes", ODD), "add the class shoes with 2 pictures"),
    (RenameClass(A, "trousers"), "rename shorts to trousers"),
    (DeleteClass(B), "delete the class shirts"),
    (AddExamples(A, images(1, 2, 3)), "add 3 pictures to shorts"),
    (RemoveExamples(A, hashes(1)), "remove 1 picture from shorts"),
    (MoveExamples(A, B, hashes(1, 2)), "move 2 pictures from shorts to shirts"),
    (AddQueries(ODD), "add 2 pictures to predict"),
    (RemoveQueries(hashes(4)), "remove 1 picture from those to predict"),
    (Label(hashes(4, 5), B), "label 2 pictures shirts"),
    (Label(hashes(4), NONE), "label 1 picture none of these"),
    (Label(hashes(4), ClassId("")), "take back the label of 1 picture"),
    (Choose("auto"), "choose the knowledge for me"),
    (Choose("none"), "transfer nothing"),
    (Choose("0123abcd"), "use 0123abcd"),
    (Together((AddClass(A, "shoes"), AddClass(B, "hats", ODD))), "add 2 classes"),
    (Together((Label(hashes(4), A), Label(hashes(5, 6), B))), "label 3 pictures"),
    (Together((Label(hashes(4), A),)), "label 1 picture"),
    (Together((AddExamples(A, images(1)), RemoveQueries(hashes(1)))), "add 1 picture to shorts and 1 more"),
]


@pytest.mark.parametrize(("edit", "words"), EVERY)
def test_every_edit_survives_and_has_words(edit: Edit, words: str) -> None:
    assert read_edit(write_edit(edit, PLACES), PLACES) == edit
    assert describe(edit, BEFORE) == words


def test_every_kind_of_edit_is_tried() -> None:
    assert {type(edit) for edit, _ in EVERY} == set(Edit.__args__)


def test_pictures_of_the_project_move_with_it() -> None:
    edit = AddQueries((image(1, "/home/me/project/blobs"), image(2, "/data"), image(3, "/home/me/project2")))
    moved = read_edit(write_edit(edit, PLACES), Places("/elsewhere"))
    assert isinstance(moved, AddQueries)
    assert [i.path for i in moved.images] == ["/elsewhere/blobs/1.png", "/data/2.png", "/home/me/project2/3.png"]


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"edit": "Explode"}',
        b'{"edit": "RenameClass", "id": "a"}',
        b'{"edit": "RenameClass", "id": "a", "name": "x", "more": 1}',
        b'{"edit": "AddQueries", "images": [["/a"]]}',
        b'{"edit": "RemoveQueries", "hashes": [1]}',
        b"[1]",
        b"{",
    ],
)
def test_what_is_not_an_edit_is_refused(data: bytes) -> None:
    with pytest.raises(StorageError):
        read_edit(data, PLACES)


def test_half_a_character_is_refused_in_words() -> None:
    with pytest.raises(WorkbenchError, match="half of a character"):
        write_edit(AddClass(A, "\ud83d"), PLACES)


def test_a_whole_task_survives() -> None:
    task = TeachTask(
        (TaskClass("shorts", ODD, A), TaskClass("shirts", (), B)),
        images(5, 6),
        {hashes(5)[0]: A, hashes(6)[0]: NONE},
        "none",
    )
    import msgspec

    built = msgspec.json.decode(msgspec.json.encode(write_task(task, PLACES)))
    assert read_task(built, PLACES) == task
    with pytest.raises(StorageError):
        read_task(built | {"more": 1}, PLACES)
