"""What is remembered of a taught task, and of pictures that a person labelled after they had been predicted."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec.structs import replace as changed

from tests.services.material import folder, task
from tests.services.test_probe import make_probe
from workbench.core.context import Context
from workbench.core.errors import StorageError
from workbench.core.values import Candidate, ClassId, EntryId, ImageRef, Prediction, TaskClass
from workbench.learn.features import FeatureCache
from workbench.project import past_tasks
from workbench.project.past_tasks import PastTask, Used
from workbench.services import jobs, probe, remembering
from workbench.services.teach import TeachRequest
from workbench.transfer.prior import TRUSTED, learnt_gains
from workbench.transfer.recipes import Recipe

A, B = Used(EntryId("a")), Used(EntryId("b"))
CANDIDATES = (
    Candidate(EntryId("a"), "A", "s", 0.8, 0.5, 0.7, chosen=True),
    Candidate(EntryId("b"), "B", "s", 0.4, None, 0.2, chosen=False),
    Candidate(None, "No transfer", "", None, 1.5, 0.1, chosen=False),
)


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TaskClass, ...]:
    """Two classes of six pictures with ids, and a probe that is installed."""
    jobs.load_runtime(Context())
    path = make_probe(tmp_path / "shipped")
    monkeypatch.setattr(probe, "probe_folder", lambda: path)
    remembering._forget()
    found = task(folder(tmp_path / "teach", range(60, 62), 6)).classes
    names = ("Kirschen", "Zwetschgen")  # no part of a digest can look like one of these
    return tuple(
        replace(c, id=ClassId(f"class-{k}"), name=n) for k, (c, n) in enumerate(zip(found, names, strict=True))
    )


class Room:
    """What the Teach room does: some examples, the others are queries, each labelled in its turn."""

    def __init__(self, classes: tuple[TaskClass, ...], where: Path) -> None:
        self.classes, self.project = classes, where / "project"
        self.cache = FeatureCache(where / "cache")

    def few(self, *shots: int) -> tuple[TaskClass, ...]:
        """The first examples of each class."""
        return tuple(replace(c, images=c.images[:n]) for c, n in zip(self.classes, shots, strict=True))

    def said(self, image: ImageRef, best: int, *, rejected: bool = False) -> Prediction:
        """An answer."""
        given = (0.7, 0.2) if best == 0 else (0.2, 0.7)
        return Prediction(image, given, 0.1, rejected, ())

    def taught(
        self,
        support: tuple[TaskClass, ...],
        answers: list[Prediction],
        used: Used = A,
        a: tuple[int, ...] = (),
        b: tuple[int, ...] = (),
        asked: tuple[int, ...] | None = None,
    ) -> PastTask | None:
        """One round; what entries ``a`` and ``b`` say of each example (in rows ``asked``) when it is left out."""
        y = torch.tensor([k for k, c in enumerate(support) for _ in c.images])
        rows = torch.arange(len(y)) if asked is None else torch.tensor(asked)
        seen: list[Any] = []
        for entry, said in ((A.entry, a), (B.entry, b)):
            if not said:
                continue
            logits = torch.nn.functional.one_hot(torch.tensor(said), 2).float()[rows]
            for recipe in (Recipe(entry), Recipe(entry, head="ridge")):
                left_out = SimpleNamespace(rows=rows, logits=logits if recipe.own else -logits)
                knowledge, support_ = SimpleNamespace(id=entry), SimpleNamespace(y=y)
                seen.append(SimpleNamespace(knowledge=knowledge, left_out=left_out, support=support_, recipe=recipe))
        return remembering.remember(support, CANDIDATES, used, seen, answers, self.project, self.cache, Context())

    def record(self) -> PastTask:
        """What is on disk."""
        (found,) = past_tasks.read(self.project)[0]
        return found


@pytest.fixture
def room(classes: tuple[TaskClass, ...], tmp_path: Path) -> Room:
    """Two classes."""
    return Room(classes, tmp_path)


def realised(task: PastTask) -> dict[Used, tuple[int, int]]:
    """Right and of."""
    return {r.used: (r.right, r.of) for r in task.realised}


def test_every_taught_task_leaves_one_record_without_pictures_or_names(room: Room) -> None:
    room.taught(room.few(1, 2), [])
    found = room.record()
    network = probe.probe()
    assert network is not None
    assert (found.shots, found.chosen, found.probe) == ((1, 2), A, network.digest)
    assert [(t.used.entry, t.prior, t.loss) for t in found.tried] == [
        ("a", 0.8, 0.5),
        ("b", 0.4, None),
        (None, 0.0, 1.5),
    ]
    assert len(found.metafeatures) == 2 * len(probe.NAMES)
    (file,) = (room.project / past_tasks.FOLDER).iterdir()
    text = file.read_text()
    assert not any(word in text for c in room.classes for word in (c.name, c.id, *(i.sha256 for i in c.images)))
    assert room.taught(room.few(1, 2), []) is None, "nothing changed, so nothing is written"
    assert room.taught(room.few(2, 2), []) is not None
    assert room.record().shots == (2, 2)


def test_a_label_given_to_a_predicted_query_is_counted_once(room: Room) -> None:
    first, second = room.classes[0].images[1], room.classes[1].images[1]
    room.taught(room.few(1, 1), [room.said(first, 0), room.said(second, 0)])
    room.taught(room.few(2, 1), [room.said(second, 0)], a=(0, 0, 1))
    assert realised(room.record()) == {}, "one of two has no label yet"
    room.taught(room.few(2, 2), [], a=(0, 0, 1, 0))
    assert realised(room.record()) == {A: (1, 2)}
    room.taught(room.few(1, 2), [room.said(first, 0)], a=(0, 1, 1))  # taken back, and labelled again
    assert realised(room.record()) == {A: (0, 1)}
    room.taught(room.few(2, 2), [], a=(0, 0, 1, 1))
    assert realised(room.record()) == {A: (1, 2)}


def test_a_label_that_was_a_slip_is_not_remembered(room: Room) -> None:
    image = room.classes[0].images[1]
    room.taught(room.few(1, 1), [room.said(image, 0)])
    right, wrong = room.few(2, 1), room.few(1, 1)
    wrong = (wrong[0], replace(wrong[1], images=(*wrong[1].images, image)))
    room.taught(wrong, [], a=(0, 1, 0), b=(0, 1, 1))
    assert realised(room.record()) == {A: (0, 1), B: (1, 1)}
    room.taught(right, [], a=(0, 0, 1), b=(0, 1, 1))  # moved to its class
    assert realised(room.record()) == {A: (1, 1), B: (0, 1)}
    marks = {r.pictures for r in room.record().realised}
    room.taught(room.few(1, 1), [room.said(image, 0)])
    assert realised(room.record()) == {}
    room.taught(right, [], a=(0, 0, 1), b=(0, 0, 1))
    assert {r.pictures for r in room.record().realised} == marks, "the same picture has the same mark"


def test_what_another_process_counted_meanwhile_stays(room: Room) -> None:
    image = room.classes[0].images[1]
    room.taught(room.few(1, 1), [room.said(image, 0)])
    room.taught(room.few(2, 1), [], a=(0, 0, 1))
    past_tasks.save(room.project, room.record().seen_right(A, 3, 4, "0" * 15 + "7"))
    room.taught(room.few(1, 1), [room.said(image, 0)])
    assert realised(room.record()) == {A: (3, 4)}


def test_only_what_was_judged_by_the_same_pictures_is_compared(room: Room) -> None:
    room.taught(room.few(2, 2), [])
    one, (left, right) = room.record(), (past_tasks.mark_of("t", [n]) for n in "xy")
    past_tasks.save(room.project, changed(one, id="f" * 16).seen_right(A, 1, 1, left).seen_right(B, 0, 1, right))
    past_tasks.save(room.project, changed(one, id="e" * 16).seen_right(A, 1, 1, left).seen_right(B, 0, 1, left))
    (found,) = remembering.records(remembering.past(room.project), EntryId("a"))
    assert found.gains == {"b": -1.0}


def test_a_new_project_knows_what_others_learnt(room: Room, tmp_path: Path) -> None:
    image, other = room.classes[0].images[1], tmp_path / "other"
    room.taught(room.few(1, 1), [room.said(image, 0)])
    assert remembering.past(other) == (), "nothing was learnt yet"
    room.taught(room.few(2, 1), [], a=(0, 0, 1), b=(0, 1, 1))
    (found,) = remembering.past(other)
    assert found.right == {A.entry: (1, 1), B.entry: (0, 1)}
    assert [p.id for p in remembering.past(room.project)] == [found.id], "one task is one record"
    room.taught(room.few(1, 1), [room.said(image, 0)])
    assert [p.right for p in remembering.past(other)] == [{}], "taken back there, too"


def test_an_example_that_was_never_asked_about_is_not_counted(room: Room) -> None:
    room.taught(room.few(1, 1), [room.said(room.classes[0].images[2], 0)])
    room.taught(room.few(2, 1), [room.said(room.classes[0].images[2], 0)], a=(0, 0, 1))
    assert realised(room.record()) == {}
    room.taught(room.few(3, 1), [], a=(0, 0, 1, 1))
    assert realised(room.record()) == {A: (0, 1)}


def test_all_are_judged_on_the_same_pictures_by_the_same_rule(room: Room) -> None:
    """Also what is in use: neither by the answer that it gave before, nor with another number of examples."""
    image = room.classes[0].images[1]
    room.taught(room.few(1, 1), [room.said(image, 1, rejected=True)])
    room.taught(room.few(2, 1), [], a=(1, 0, 0), b=(1, 0, 0))  # of the labelled one, the second, both are right
    assert realised(room.record()) == {A: (1, 1), B: (1, 1)}
    image, ridge = room.classes[0].images[2], changed(A, head="ridge")
    room.taught(room.few(2, 1), [room.said(image, 1)], used=ridge)
    # under a ridge both say the opposite of what their own heads do
    room.taught(room.few(3, 1), [], a=(1, 0, 1, 0), b=(1, 0, 0, 0))
    found = realised(room.record())
    assert found == {A: (1, 1), B: (1, 1), ridge: (1, 1), changed(B, head="ridge"): (0, 1)}


def test_equal_entries_get_equal_figures_from_accepted_answers_and_corrections(room: Room) -> None:
    """Four answers are right and accepted with one click, one is corrected before."""
    wrong, rest = room.classes[1].images[1], room.classes[0].images[1:5]
    room.taught(room.few(1, 1), [room.said(wrong, 0), *(room.said(i, 0) for i in rest)])
    room.taught(room.few(1, 2), [room.said(i, 0) for i in rest], a=(0, 1, 0), b=(0, 1, 1))
    assert realised(room.record()) == {}, "only the mistakes of what is in use have a label"
    room.taught(room.few(5, 2), [], a=(0, 0, 0, 0, 0, 1, 0), b=(0, 1, 0, 0, 0, 1, 1))
    assert realised(room.record()) == {A: (4, 5), B: (4, 5)}


def test_a_picture_that_cannot_be_left_out_waits_until_it_can(room: Room) -> None:
    image = room.classes[0].images[1]
    room.taught(room.few(1, 1), [room.said(image, 0)])
    room.taught(room.few(2, 1), [], a=(0, 0, 1), asked=(0,))
    assert realised(room.record()) == {}
    room.taught(room.few(2, 2), [], a=(0, 0, 1, 1))
    assert realised(room.record()) == {A: (1, 1)}


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_answer(
    room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StorageError("it was not written", "No space left", "Free some space")

    monkeypatch.setattr(past_tasks, "save", full)
    with caplog.at_level(logging.WARNING):
        assert room.taught(room.few(1, 1), []) is None
    assert "No space left" in caplog.text
    caplog.clear()


def test_twenty_tasks_teach_the_gain_of_an_entry(room: Room) -> None:
    """Entry b is right where the default is wrong."""
    room.taught(room.few(2, 2), [])
    one = room.record()
    for n in range(TRUSTED):
        past_tasks.save(room.project, changed(one, id=f"{n:016d}").seen_right(A, n % 2, 2).seen_right(B, 2, 2))
    past_tasks.save(room.project, changed(one, id="f" * 16, probe="another").seen_right(A, 2, 2).seen_right(B, 0, 2))
    past_tasks.save(room.project, changed(one, id="e" * 16).seen_right(A, 2, 2).seen_right(B, 0, 1))  # other pictures
    past = remembering.past(room.project)
    known = remembering.records(past, EntryId("a"))
    assert len(known) == TRUSTED
    images = tuple(i for c in room.few(2, 2) for i in c.images)
    seen = probe.represent_task(images, torch.tensor([0, 0, 1, 1]), room.cache, Context())
    assert seen is not None
    assert torch.allclose(remembering.vector(seen), known[0].vector, rtol=1e-4, atol=1e-5), "as it was stored"
    gains = learnt_gains(remembering.vector(seen), known)
    assert gains == {"b": pytest.approx(0.5)}, "held at half the scale; 0.75 on average"
    found = remembering.realised(past)
    assert len(found[EntryId("a")]) == TRUSTED + 2
    assert {pair for pair in found[EntryId("b")] if pair[0] == "e" * 16} == set(), "not by the same pictures"
    assert remembering.records(past, EntryId("nobody")) == ()


def test_the_record_of_the_task_at_hand_is_no_past_task(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.taught(room.few(2, 2), [])
    past_tasks.save(room.project, changed(room.record(), id="f" * 16).seen_right(A, 1, 2))
    assert {p.id for p in remembering.past(room.project)} == {"f" * 16, remembering.identity(room.classes)}
    monkeypatch.setattr(past_tasks, "_read", None)  # nothing is read twice
    assert [p.id for p in remembering.past(room.project, room.few(1, 2))] == ["f" * 16]


def test_teaching_leaves_the_record_and_counts_what_is_labelled(room: Room) -> None:
    room.project.mkdir()
    image = room.classes[0].images[3]
    jobs.teach(TeachRequest(1, room.few(2, 2), (image,)), room.project, Context())
    assert room.record().shots == (2, 2)
    labelled = (replace(room.few(2, 2)[0], images=(*room.classes[0].images[:2], image)), room.few(2, 2)[1])
    jobs.teach(TeachRequest(2, labelled, ()), room.project, Context())
    found = room.record()
    assert found.shots == (2, 3)
    assert [(r.used.entry, r.of) for r in found.realised] == [(None, 1)], "nothing is known, so nothing was transferred"
