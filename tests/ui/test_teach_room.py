"""The Teach room by real events: drags, keys, clicks; the job functions are fakes, the project is a real one."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDropEvent, QGuiApplication, QImage
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.teach import AddClass, AddExamples, AddQueries, Choose, Label, RenameClass
from workbench.core.values import Candidate, ClassId, EntryId, Estimate, ImageRef, Neighbour, Prediction
from workbench.data import read
from workbench.project.project import Project
from workbench.services import jobs
from workbench.services.teach import MapPoint, TeachRequest, TeachResult
from workbench.ui.rooms.teach.carrying import pack
from workbench.ui.rooms.teach.room import TeachRoom
from workbench.ui.state import AppState


def picture(folder: Path, name: str, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    shade = int(hashlib.sha256(str(path).encode()).hexdigest()[:6], 16)
    image = Image.new("RGB", (20, 16), colour)
    image.putpixel((0, 0), (shade & 255, shade >> 8 & 255, shade >> 16))
    image.save(path)
    return path


def ref(n: int, kind: str = "q") -> ImageRef:
    """A picture that is never read."""
    return ImageRef(f"/nowhere/{kind}{n:04}.png", "", hashlib.sha256(f"{kind}{n}".encode()).hexdigest(), 1, 8, 8)


def answer_to(request: TeachRequest, steps: int = 2) -> TeachResult:
    """Every query belongs to the class of its place, less and less surely (without transfer, more and more).

    The first position knows nothing.
    """
    n = len(request.classes)
    support = [(i, image) for i, c in enumerate(request.classes) for image in c.images]
    near = tuple(Neighbour(i, image, 0.25 * k) for k, (i, image) in enumerate(support[:3]))
    made = []
    for step in range(steps):
        rows = []
        for k, query in enumerate(request.queries):
            z = [0.0] * n
            place = k if request.choice == "none" else len(request.queries) - k
            z[k % n] += step * (1.0 + place / len(request.queries))
            e = [math.exp(v) for v in z]
            rows.append(Prediction(query, tuple(0.9 * v / sum(e) for v in e), 0.1, False, near))
        made.append(tuple(rows))
    shots = min(len(c.images) for c in request.classes)
    found = Estimate(0.8, 0.6, 0.9, "each example left out in turn") if shots > 1 else None
    influence = tuple(tuple(9.0 if "odd" in i.path else 0.3 for i in c.images) for c in request.classes)
    return TeachResult(
        number=request.number,
        key=str(request.number),
        candidates=(
            Candidate(EntryId("e1"), "ProtoNet on alphabets", "runes", 0.7, 0.4, 0.7, request.choice != "none"),
            Candidate(None, "no transfer", "", None, 0.9, 0.3, request.choice == "none"),
        ),
        reason="It resembles your pictures most.",
        estimate=found,
        step_names=("Before", *(f"After {j} steps" if j > 1 else "After 1 step" for j in range(1, steps))),
        steps=tuple(made),
        step_estimates=(None,) * (steps - 1) + (found,),
        gradient_based=True,
        influence=influence,
        points=(MapPoint("", "this", 0.5, 0.5, 1.0), MapPoint("runes", "source", 0.1, 0.2, 0.7)),
        seconds=0.038,
    )


class Fake:
    """Stands for ``jobs.teach``; may be told to wait, to refuse, or to be slow to hear its cancel."""

    def __init__(self) -> None:
        self.requests: list[TeachRequest] = []
        self.go = threading.Event()
        self.go.set()
        self.refuse = ""
        self.deaf = False
        self.steps = 2
        self.cancelled = 0

    def __call__(self, request: TeachRequest, project: Path, ctx) -> TeachResult:
        self.requests.append(request)
        while not self.go.wait(0.005):
            if ctx.cancelled and not self.deaf:
                self.cancelled += 1
                ctx.check()
        if self.refuse:
            raise WorkbenchError("Nothing was predicted", self.refuse, "Try another way")
        return answer_to(request, self.steps)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr(jobs, "teach", made)
    return made


@pytest.fixture
def taught(state: AppState, tmp_path: Path) -> Iterator[AppState]:
    """The state on a real project."""
    path = tmp_path / "project"
    project = Project.open(path)
    state.set_project(project, path)
    state.library_loaded = True
    yield state
    project.close()
    read.release()


@pytest.fixture
def room(taught: AppState, fake: Fake, qtbot) -> Iterator[TeachRoom]:
    made = TeachRoom(taught)  # not qtbot's: that would be gone before the dialogs it owns are closed
    made.resize(1364, 816)
    made.show()
    yield made
    made.predictor._settle()
    made.close()
    made.deleteLater()


def fill(state: AppState, classes: int = 2, shots: int = 2, queries: int = 6) -> None:
    for c in range(classes):
        images = tuple(ref(k, f"c{c}-") for k in range(shots))
        assert state.edit(AddClass(ClassId(f"id{c}"), f"class {c}", images))
    if queries:
        assert state.edit(AddQueries(tuple(ref(k) for k in range(queries))))


def settle(room: TeachRoom, qtbot) -> None:
    qtbot.waitUntil(lambda: room.predictor.shown is not None and not room.predictor.stale, timeout=3000)


def files(*paths: Path) -> QMimeData:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(p)) for p in paths])
    return data


def enter(widget: QWidget, data: QMimeData) -> QDragEnterEvent:
    event = QDragEnterEvent(
        QPoint(9, 9), Qt.DropAction.CopyAction | Qt.DropAction.LinkAction, data, Qt.MouseButton.LeftButton, _NO
    )
    QApplication.sendEvent(widget, event)
    return event


def drop(widget: QWidget, data: QMimeData) -> QDropEvent:
    enter(widget, data)
    event = QDropEvent(
        QPointF(9, 9), Qt.DropAction.CopyAction | Qt.DropAction.LinkAction, data, Qt.MouseButton.LeftButton, _NO
    )
    QApplication.sendEvent(widget, event)
    return event


_NO = Qt.KeyboardModifier.NoModifier


# ---- bringing pictures in --------------------------------------------------------------------------------------------
def test_pictures_dropped_on_new_class_become_a_class_that_is_being_named(room, qtbot, tmp_path) -> None:
    one, two = picture(tmp_path, "a.png"), picture(tmp_path, "b.png")
    event = drop(room.column.target, files(one, two))
    assert event.isAccepted()
    assert event.dropAction() == Qt.DropAction.CopyAction
    qtbot.waitUntil(lambda: len(room.state.teach.classes) == 1)
    made = room.state.teach.classes[0]
    assert [Path(i.path) for i in made.images] == [one, two]
    qtbot.waitUntil(lambda: not room.column.cards()[0].name.isReadOnly())
    QTest.keyClicks(room.column.cards()[0].name, "hat")
    QTest.keyClick(room.column.cards()[0].name, Qt.Key.Key_Return)
    assert room.state.teach.classes[0].name == "hat"


def test_each_dropped_folder_becomes_a_class_and_what_cannot_be_read_is_named(room, qtbot, tmp_path) -> None:
    for name in ("hat", "shoe"):
        picture(tmp_path / "set" / name, "1.png")
        picture(tmp_path / "set" / name, "2.png")
    (tmp_path / "set" / "hat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    drop(room.column.target, files(tmp_path / "set"))
    qtbot.waitUntil(lambda: len(room.state.teach.classes) == 2)
    assert [(c.name, len(c.images)) for c in room.state.teach.classes] == [("hat", 2), ("shoe", 2)]
    assert "broken.png" in room.strip.text()
    assert not room.strip.isHidden()
    assert room.state.undo()
    assert room.state.teach.classes == (), "one drop is one step back"
    picture(tmp_path / "bag", "1.png")
    drop(room.column.target, files(tmp_path / "bag"))
    qtbot.waitUntil(lambda: [c.name for c in room.state.teach.classes] == ["bag"])


def test_a_folder_whose_class_is_there_joins_it(room, qtbot, tmp_path) -> None:
    room.state.edit(AddClass(ClassId("h"), "Hat"))
    picture(tmp_path / "hat", "1.png")
    drop(room.column.target, files(tmp_path / "hat"))
    qtbot.waitUntil(lambda: len(room.state.teach.find(ClassId("h")).images) == 1)
    assert len(room.state.teach.classes) == 1


def test_a_drag_over_a_card_says_what_it_would_do_and_leaving_takes_it_back(room, tmp_path) -> None:
    fill(room.state, queries=0)
    card = room.column.cards()[1]
    data = files(*(tmp_path / f"{k}.png" for k in range(3)))
    enter(card, data)
    assert card.property("over") == "true"
    assert card.drop_words.text() == "Add 3 pictures"
    assert not card.drop_words.isHidden()
    QApplication.sendEvent(card, QDragLeaveEvent())
    assert card.property("over") == "false"
    assert card.drop_words.isHidden()


def test_a_drag_of_text_or_of_an_address_is_refused(room) -> None:
    fill(room.state, queries=0)
    text, web = QMimeData(), QMimeData()
    text.setText("hello")
    web.setUrls([QUrl("https://example.org/cat.png")])
    for data in (text, web):
        for widget in (room.column.cards()[0], room.column.target, room.queries):
            assert not drop(widget, data).isAccepted()
    assert not room.state.lanes.busy("files")


def test_pictures_dropped_on_a_card_join_it_and_the_same_again_is_said(room, qtbot, tmp_path) -> None:
    fill(room.state, queries=0)
    one = picture(tmp_path, "a.png")
    drop(room.column.cards()[0], files(one))
    qtbot.waitUntil(lambda: len(room.state.teach.classes[0].images) == 3)
    drop(room.column.cards()[0], files(one))
    qtbot.waitUntil(lambda: "already in class 0" in room.strip.text())
    assert len(room.state.teach.classes[0].images) == 3
    two, three = picture(tmp_path, "b.png"), picture(tmp_path, "c.png")
    drop(room.column.cards()[0], files(two, one, three))
    qtbot.waitUntil(lambda: "1 of 3 pictures is already in class 0." in room.strip.text())
    assert len(room.state.teach.classes[0].images) == 5
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    drop(room.column.cards()[0], files(one, broken))
    qtbot.waitUntil(lambda: "1 file was not read." in room.strip.text())
    assert "The same pictures are already in class 0." in room.strip.text(), "both are said"


def test_queries_that_are_there_already_are_said(room, qtbot, tmp_path) -> None:
    fill(room.state, queries=0)
    one, two, three = (picture(tmp_path, f"{n}.png") for n in "abc")
    drop(room.queries, files(one, two))
    qtbot.waitUntil(lambda: len(room.state.teach.queries) == 2)
    drop(room.queries, files(one, two, three))
    qtbot.waitUntil(lambda: "2 of 3 pictures are already in the queries." in room.strip.text())
    assert len(room.state.teach.queries) == 3
    assert room.state.undo()
    assert len(room.state.teach.queries) == 2


def test_examples_dragged_between_cards_move(room) -> None:
    fill(room.state, queries=0)
    first, second = room.column.cards()
    moving = room.state.teach.classes[0].images[0]
    enter(second, pack(first.id, [moving.sha256]))
    assert second.drop_words.text() == "Move 1 picture"
    drop(second, pack(first.id, [moving.sha256]))
    assert moving in room.state.teach.classes[1].images
    assert moving not in room.state.teach.classes[0].images
    assert not drop(first, pack(first.id, [moving.sha256])).isAccepted(), "a card does not take its own pictures"


def test_queries_dragged_onto_cards_are_labelled_and_examples_dragged_to_the_queries_become_queries(room) -> None:
    fill(room.state)
    query = room.state.teach.queries[3].sha256
    drop(room.column.cards()[1], room.queries.list.rows.mimeData([room.queries.list.rows.index(3)]))
    shown = room.queries.list.rows.image(3).sha256
    assert room.state.teach.labels == {shown: "id1"}
    drop(room.column.target, pack(ClassId("queries"), [query]))
    assert len(room.state.teach.classes) == 3
    assert room.state.teach.labels[query] == room.state.teach.classes[2].id
    example = room.state.teach.classes[0].images[0]
    drop(room.queries, pack(ClassId("id0"), [example.sha256]))
    assert example in room.state.teach.queries
    assert example not in room.state.teach.classes[0].images


def test_pixels_pasted_on_a_card_are_kept_in_the_project(room, qtbot) -> None:
    fill(room.state, queries=0)
    image = QImage(30, 20, QImage.Format.Format_RGB32)
    image.fill(Qt.GlobalColor.darkGreen)
    QGuiApplication.clipboard().setImage(image)
    card = room.column.cards()[1]
    card.grid.setFocus()
    QTest.keyClick(card.grid, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: len(room.state.teach.classes[1].images) == 3)
    new = room.state.teach.classes[1].images[-1]
    assert (new.width, new.height) == (30, 20)
    assert Path(new.path).parent == room.state.project_path / "blobs"
    assert Image.open(new.path).getpixel((3, 3)) == (0, 128, 0)


def test_files_pasted_in_the_room_become_queries_and_an_empty_clipboard_is_said(room, qtbot, tmp_path) -> None:
    fill(room.state, queries=0)
    QGuiApplication.clipboard().setMimeData(files(picture(tmp_path, "a.png")))
    room.setFocus()
    QTest.keyClick(room, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: len(room.state.teach.queries) == 1)
    QGuiApplication.clipboard().clear()
    QTest.keyClick(room, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    assert "nothing to paste" in room.strip.text()


def test_reading_never_happens_in_the_windows_thread(room, qtbot, tmp_path, monkeypatch) -> None:
    threads: list[threading.Thread] = []
    scan = jobs.scan
    monkeypatch.setattr(jobs, "scan", lambda *a: (threads.append(threading.current_thread()), scan(*a))[1])
    drop(room.queries, files(picture(tmp_path, "a.png")))
    qtbot.waitUntil(lambda: len(room.state.teach.queries) == 1)
    assert threads
    assert threading.main_thread() not in threads


def test_a_class_deleted_while_its_pictures_are_read_is_refused_in_words(room, qtbot, tmp_path) -> None:
    fill(room.state, queries=0)
    said: list[str] = []
    room.state.message.connect(lambda m: said.append(m.headline))
    drop(room.column.cards()[0], files(picture(tmp_path, "a.png")))
    room.deeds.delete(ClassId("id0"))
    qtbot.waitUntil(lambda: bool(said))
    assert said == ["The class was not changed."]


def test_the_samples_are_three_actions_from_a_first_prediction(room, fake, qtbot) -> None:
    assert room.queries.stack.currentWidget() is room.queries.welcome
    QTest.mouseClick(room.queries.samples, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: room.predictor.shown is not None, timeout=20000)
    task = room.state.teach
    assert (len(task.classes), len(task.queries)) == (5, 50)
    assert len({q.path.rsplit("/", 2)[1] for q in task.queries[:5]}) == 5, "the first screen shows every class"
    assert room.queries.list.isVisible()
    assert room.state.undo()
    assert room.state.teach.classes == () == room.state.teach.queries
    assert room.queries.stack.currentWidget() is room.queries.welcome


# ---- cards -----------------------------------------------------------------------------------------------------------
def test_renaming_in_place_escape_gives_up_and_a_taken_name_is_refused(room, qtbot) -> None:
    fill(room.state, queries=0)
    refused: list[str] = []
    room.state.message.connect(lambda m: refused.append(m.detail))
    name = room.column.cards()[0].name
    QTest.mouseClick(name, Qt.MouseButton.LeftButton)
    QTest.keyClicks(name, "nonsense")
    QTest.keyClick(name, Qt.Key.Key_Escape)
    assert room.state.teach.classes[0].name == "class 0"
    assert name.text() == "class 0"
    name.setFocus()
    QTest.keyClick(name, Qt.Key.Key_F2)
    QTest.keyClicks(name, "CLASS 1")
    QTest.keyClick(name, Qt.Key.Key_Return)
    assert room.state.teach.classes[0].name == "class 0"
    assert name.text() == "class 0"
    assert "already a class" in refused[0]


def test_the_name_of_a_class_is_never_read_as_markup(room) -> None:
    fill(room.state, queries=0)
    room.state.edit(RenameClass(ClassId("id0"), "<b>&bold"))
    card = room.column.cards()[0]
    assert card.name.text() == "<b>&bold"
    assert "<b>" not in card.name.toolTip()
    assert any(a.text() == "Move to <b>&&bold" for a in room.column.cards()[1].examples_menu([]).actions())


def test_keys_in_the_examples_select_move_and_remove(room) -> None:
    fill(room.state, shots=3, queries=0)
    grid = room.column.cards()[0].grid
    grid.setFocus()
    QTest.keyClick(grid, Qt.Key.Key_Space)
    QTest.keyClick(grid, Qt.Key.Key_Right)
    QTest.keyClick(grid, Qt.Key.Key_Space)
    assert len(grid.selected()) == 2
    QTest.keyClick(grid, Qt.Key.Key_9)
    assert len(room.state.teach.classes[0].images) == 3, "there is no ninth class"
    QTest.keyClick(grid, Qt.Key.Key_2)
    assert [len(c.images) for c in room.state.teach.classes] == [1, 5]
    QTest.keyClick(grid, Qt.Key.Key_Home)
    QTest.keyClick(grid, Qt.Key.Key_Delete)
    assert [len(c.images) for c in room.state.teach.classes] == [0, 5]


def test_clicks_in_the_examples(room, monkeypatch) -> None:
    fill(room.state, shots=3, queries=0)
    card = room.column.cards()[0]
    grid = card.grid
    asked: list[bool] = []
    monkeypatch.setattr("workbench.ui.rooms.teach.cards.choose_pictures", lambda _: asked.append(True) or [])
    QTest.mouseClick(grid, Qt.MouseButton.LeftButton, pos=grid._rect(0).center())
    QTest.mouseClick(grid, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, grid._rect(2).center())
    assert len(grid.selected()) == 3
    QTest.mouseClick(grid, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ControlModifier, grid._rect(1).center())
    assert len(grid.selected()) == 2
    QTest.mouseClick(grid, Qt.MouseButton.LeftButton, pos=grid._rect(3).center())
    assert asked == [True], "the last tile asks for pictures"
    QTest.mouseClick(grid, Qt.MouseButton.RightButton, pos=grid._rect(3).center())
    assert asked == [True]


def test_many_examples_fold_and_unfold(room) -> None:
    fill(room.state, classes=1, shots=60, queries=0)
    grid = room.column.cards()[0].grid
    low = grid.height()
    assert grid._visible() < 60
    QTest.mouseClick(grid, Qt.MouseButton.LeftButton, pos=grid._rect(grid._visible()).center())
    assert grid._visible() == 60
    assert grid.height() > low


def test_an_example_the_others_do_not_expect_has_a_dot(room, qtbot) -> None:
    fill(room.state, shots=3, queries=2)
    odd = ImageRef("/nowhere/odd.png", "", "f" * 64, 1, 8, 8)
    room.state.edit(AddExamples(ClassId("id1"), (odd,)))
    settle(room, qtbot)
    first, second = room.column.cards()
    assert first.check_words.isHidden()
    assert not second.check_words.isHidden()
    assert second.check_words.text() == "1 to check"
    assert list(second.grid._checks) == [odd.sha256]


def test_deleting_a_class_asks_nothing_and_undo_brings_it_back(room, qtbot) -> None:
    fill(room.state, classes=3)
    settle(room, qtbot)
    room.state.edit(Label((room.state.teach.queries[0].sha256,), ClassId("id0")))
    delete = next(a for a in room.column.cards()[0].menu().actions() if a.text() == "Delete the class")
    delete.trigger()
    assert [c.name for c in room.state.teach.classes] == ["class 1", "class 2"]
    assert len(room.column.cards()) == 2
    room.state.undo()
    assert [c.name.name() for c in room.column.cards()] == ["class 0", "class 1", "class 2"]
    assert room.state.teach.labels


# ---- predicting ------------------------------------------------------------------------------------------------------
def test_nothing_is_predicted_below_two_classes_and_the_room_says_what_is_missing(room, fake, qtbot) -> None:
    fill(room.state, classes=1)
    qtbot.wait(120)
    assert fake.requests == []
    assert not room.apply_button.isEnabled()
    assert "Two with an example each" in room.subtitle()
    assert "second class" in room.queries.footer.state.text()
    assert room.why.because.text() == "Give at least two classes an example each."


def test_one_example_per_class_predicts_and_accuracy_is_not_claimed(room, fake, qtbot) -> None:
    fill(room.state, shots=1)
    settle(room, qtbot)
    assert len(room.answers()) == 6
    assert room.why.figure.isHidden()
    assert not room.why.cannot.isHidden()
    assert room.why.because.text() == "Each class has 1 example; add a second."
    assert room.subtitle() == "Choosing between two classes: class 0, class 1, or none of these."


def test_edits_that_follow_one_another_quickly_are_answered_once(room, fake, qtbot) -> None:
    fill(room.state, classes=4)
    settle(room, qtbot)
    assert len(fake.requests) == 1
    assert room.state.result is not None
    assert room.state.result.number == fake.requests[-1].number


def test_what_does_not_change_the_answer_asks_for_none(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    before = len(fake.requests)
    room.state.edit(RenameClass(ClassId("id0"), "another name"))
    room.deeds.label([room.state.teach.queries[0].sha256], ClassId("none"))
    room.deeds.remove_queries([room.state.teach.queries[1].sha256])
    assert not room.predictor.stale
    qtbot.wait(100)
    assert len(fake.requests) == before
    assert room.queries.list.rows.sheet.name(0) == "another name"


def test_a_newer_edit_cancels_and_an_old_answer_is_never_shown(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    old = room.predictor.shown
    fake.go.clear()
    fake.deaf = True
    room.state.edit(Choose("none"))
    qtbot.waitUntil(lambda: len(fake.requests) == 2)
    room.state.edit(Choose("e1"))
    assert room.predictor.shown is old
    qtbot.wait(90)
    fake.deaf = False
    fake.go.set()
    settle(room, qtbot)
    assert room.predictor.shown.request.choice == "e1"
    assert [r.choice for r in fake.requests] == ["auto", "none", "e1"]


def test_an_answer_that_comes_between_an_edit_and_its_question_is_not_shown(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    shown: list[str] = []
    room.predictor.changed.connect(lambda: shown.append(room.predictor.shown.request.choice))
    fake.go.clear()
    room.state.edit(Choose("none"))
    qtbot.waitUntil(lambda: len(fake.requests) == 2)
    room.predictor._debounce.setInterval(400)
    room.state.edit(Choose("e1"))
    fake.go.set()
    qtbot.waitUntil(lambda: not room.state.lanes.busy("adapt"))
    settle(room, qtbot)
    assert "none" not in shown
    assert shown[-1] == "e1"


def test_late_answers_dim_the_rows_and_move_the_line(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    fake.go.clear()
    room.state.edit(Choose("none"))
    assert room.predictor.stale
    assert not room.queries.list.rows.sheet.dimmed, "a quick answer is not announced"
    qtbot.waitUntil(lambda: room.queries.list.rows.sheet.dimmed, timeout=1000)
    assert room.queries._progress.running()
    assert room.queries.footer.state.text() == "Predicting"
    fake.go.set()
    settle(room, qtbot)
    assert not room.queries.list.rows.sheet.dimmed
    assert not room.queries._progress.running()
    assert room.queries.footer.state.text() == "Predicted in 38 ms"


def test_whoever_waits_for_deep_networks_reads_which_one_is_looked_with(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    fake.go.clear()
    room.state.edit(Choose("none"))
    said = room.queries.footer.state
    qtbot.waitUntil(lambda: said.text() == "Predicting", timeout=1000)
    room.predictor.job.ctx.status("Looking with birds (3 of 8)")
    qtbot.waitUntil(lambda: said.text() == "Looking with birds (3 of 8)", timeout=1000)
    room.predictor.job.ctx.status(f"Looking with {'birds of the woods ' * 9} (4 of 8)")
    qtbot.waitUntil(lambda: said.text().endswith("(4 of 8)"), timeout=1000)
    assert said.text().startswith("Looking with birds")
    assert said.sizeHint().width() < 300
    fake.go.set()
    settle(room, qtbot)
    assert said.text() == "Predicted in 38 ms"


def test_the_footer_says_quietly_that_the_library_is_loading(room, fake, qtbot) -> None:
    room.state.library_loaded = False
    fake.go.clear()
    fill(room.state)
    assert room.queries.footer.state.text() == "Loading the learning library"
    fake.go.set()
    settle(room, qtbot)
    assert room.queries.footer.state.text() == "Predicted in 38 ms"


def test_a_refusal_is_shown_and_the_old_answers_stay_dimmed_until_it_works_again(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    old = dict(room.answers())
    fake.refuse = "the picture c0-0 cannot be read"
    room.state.edit(Choose("none"))
    qtbot.waitUntil(lambda: room.predictor.refused)
    assert "cannot be read" in room.strip.text()
    assert room.answers() == old
    assert room.queries.list.rows.sheet.dimmed
    assert not room.queries._progress.running()
    assert room.queries.footer.state.text() == "Not predicted"
    fake.refuse = ""
    QTest.mouseClick(room.strip.action, Qt.MouseButton.LeftButton)
    settle(room, qtbot)
    assert not room.queries.list.rows.sheet.dimmed


def test_undo_and_redo_two_hundred_deep_end_where_they_should(room, fake, qtbot) -> None:
    fill(room.state, queries=30)
    settle(room, qtbot)
    shas = [q.sha256 for q in room.state.teach.queries]
    states = [room.state.teach]
    for k in range(200):
        assert room.deeds.label([shas[k % 30]], room.state.teach.classes[(k // 30) % 2].id)
        states.append(room.state.teach)
    for expected in reversed(states[:-1]):
        assert room.state.undo()
        assert room.state.teach == expected
    settle(room, qtbot)
    assert room.predictor.shown.request.classes == states[0].support()
    for expected in states[1:]:
        assert room.state.redo()
        assert room.state.teach == expected
    settle(room, qtbot)
    assert room.predictor.shown.request.classes == states[-1].support()


def test_it_works_the_same_after_the_project_was_opened_again(room, qtbot) -> None:
    fill(room.state, queries=4)
    room.queries.accept_shown()
    settle(room, qtbot)
    room.queries.accept_shown()
    before = room.state.teach
    assert len(before.labels) == 4
    path = room.state.project_path
    room.state.project.close()
    again = Project.open(path)
    try:
        assert again.teach() == before
        assert again.undo().labels == {}, "accepting all is one step back, in another session too"
        assert again.redo() == before
    finally:
        again.close()


def test_another_project_forgets_what_was_shown(room, fake, qtbot, tmp_path) -> None:
    fill(room.state)
    settle(room, qtbot)
    other = Project.open(tmp_path / "other")
    room.state.set_project(other, tmp_path / "other")
    assert room.predictor.shown is None
    assert room.state.result is None
    assert room.column.cards() == []
    assert room.queries.stack.currentWidget() is room.queries.welcome
    other.close()


# ---- why, adaptation -------------------------------------------------------------------------------------------------
def test_why_ranks_what_could_be_transferred_and_a_choice_predicts_anew(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    shown = [row for row in room.why.candidates if not row.isHidden()]
    assert [row.name() for row in shown] == ["ProtoNet on alphabets", "No transfer"]
    assert shown[0].caption() == "similarity 0.70 · leave-one-out loss 0.40"
    assert room.why.figure.value() == "0.80"
    assert room.why.figure.beside() == "(0.60–0.90)"
    menu = room.why.choices()
    assert [a.text() for a in menu.actions() if a.text()] == ["Choose for me", "ProtoNet on alphabets", "No transfer"]
    menu.actions()[-1].trigger()
    assert room.state.teach.choice == "none"
    settle(room, qtbot)
    assert fake.requests[-1].choice == "none"
    assert room.state.undo()
    assert room.state.teach.choice == "auto"


def test_the_slider_shows_the_same_queries_at_each_step_at_once(room, fake, qtbot) -> None:
    fake.steps = 4
    fill(room.state)
    settle(room, qtbot)
    track = room.column.adaptation.slider.track
    assert room.column.adaptation.step() == 3
    sha = room.state.teach.queries[0].sha256
    after = room.queries.list.rows.sheet.answers[sha]
    track.setFocus()
    QTest.keyClick(track, Qt.Key.Key_Home)
    before = room.queries.list.rows.sheet.answers[sha]
    assert before.margin == pytest.approx(0.0)
    assert after.margin > 0.3
    order = [q.sha256 for q in room.queries.list.rows.rows()]
    QTest.keyClick(track, Qt.Key.Key_Right)
    assert [q.sha256 for q in room.queries.list.rows.rows()] == order
    assert len(fake.requests) == 1


def test_the_narrow_form_and_back(room, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    room.resize(968, 616)
    qtbot.waitUntil(lambda: room.compact)
    assert room.width() == 968
    assert not room.column.new_button.isHidden()
    assert room.column.target.isHidden()
    assert room.queries.footer.hint.text() == "Press 1–2 or 0 to correct"
    room.resize(1364, 816)
    qtbot.waitUntil(lambda: not room.compact)
    assert room.column.new_button.isHidden()


def test_closing_the_room_in_the_middle_leaves_nothing_running(room, fake, qtbot) -> None:
    fake.go.clear()
    fill(room.state)
    qtbot.waitUntil(lambda: bool(fake.requests))
    qtbot.wait(150)
    room.hide()
    assert not room.queries._progress.running()
    room.state.lanes.drop("adapt")
    fake.go.set()
    qtbot.waitUntil(lambda: not room.state.lanes.busy("adapt"))


def test_events_of_a_drag_that_was_given_up(room, tmp_path) -> None:
    data = files(tmp_path / "a.png")
    enter(room.queries, data)
    assert room.queries.footer.drop._words == "Add 1 picture"
    QApplication.sendEvent(room.queries, QDragLeaveEvent())
    assert room.queries.footer.drop._words == "Drop pictures here to predict them"
