"""The queries of the Teach room: keys, clicks, order, filter, a thousand rows."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest

from tests.ui import test_teach_room as base
from tests.ui.test_teach_room import fill, ref, settle
from workbench.core.teach import NONE, AddQueries, Choose, RemoveQueries, TeachTask
from workbench.core.values import ClassId, ImageRef, Neighbour, Prediction, TaskClass
from workbench.services import jobs
from workbench.services.teach import TeachRequest
from workbench.ui.rooms.teach.query_rows import ROW
from workbench.ui.rooms.teach.view import Answer, Shown, answers_of, natural, ordered, to_check

fake, room, taught = base.fake, base.room, base.taught


def order(room) -> list[str]:
    return [q.sha256 for q in room.queries.list.rows.rows()]


def start(room, qtbot, **filling: int):
    fill(room.state, **filling)
    settle(room, qtbot)
    rows = room.queries.list
    rows.setFocus()
    rows.go(0)
    return rows


# ---- keys ------------------------------------------------------------------------------------------------------------
def test_digits_correct_the_current_row_and_go_on_to_the_next(room, qtbot) -> None:
    rows = start(room, qtbot)
    first, second = order(room)[:2]
    QTest.keyClick(rows, Qt.Key.Key_2)
    assert room.state.teach.labels == {first: "id1"}
    assert rows.current() == second
    QTest.keyClick(rows, Qt.Key.Key_0)
    assert room.state.teach.labels[second] == NONE
    assert rows.currentIndex().row() == 2


def test_a_key_without_a_class_does_nothing(room, qtbot) -> None:
    rows = start(room, qtbot)
    for key in (Qt.Key.Key_3, Qt.Key.Key_9, Qt.Key.Key_A, Qt.Key.Key_F5):
        QTest.keyClick(rows, key)
    QTest.keyClick(rows, Qt.Key.Key_1, Qt.KeyboardModifier.AltModifier)
    assert room.state.teach.labels == {}
    assert rows.currentIndex().row() == 0


def test_enter_accepts_and_backspace_takes_back(room, qtbot) -> None:
    rows = start(room, qtbot)
    first = order(room)[0]
    said = room.answers()[first].answer
    QTest.keyClick(rows, Qt.Key.Key_Return)
    assert room.state.teach.labels == {first: said}
    assert rows.currentIndex().row() == 1
    QTest.keyClick(rows, Qt.Key.Key_Up)
    QTest.keyClick(rows, Qt.Key.Key_Backspace)
    assert room.state.teach.labels == {}
    assert rows.currentIndex().row() == 0
    QTest.keyClick(rows, Qt.Key.Key_Backspace)
    assert room.state.project.undo_text.startswith("take back"), "nothing to take back is no edit"


def test_several_rows_are_labelled_at_once_and_undone_at_once(room, qtbot) -> None:
    rows = start(room, qtbot)
    QTest.keyClick(rows, Qt.Key.Key_Down, Qt.KeyboardModifier.ShiftModifier)
    QTest.keyClick(rows, Qt.Key.Key_Down, Qt.KeyboardModifier.ShiftModifier)
    assert "3 selected" in room.queries.footer.hint.text()
    QTest.keyClick(rows, Qt.Key.Key_1)
    assert set(room.state.teach.labels.values()) == {"id0"}
    assert len(room.state.teach.labels) == 3
    assert rows.currentIndex().row() == 3
    room.state.undo()
    assert room.state.teach.labels == {}


def test_accepting_many_never_overwrites_what_a_person_said(room, qtbot) -> None:
    rows = start(room, qtbot)
    first = order(room)[0]
    wrong = next(c.id for c in room.state.teach.classes if c.id != room.answers()[first].answer)
    room.deeds.label([first], wrong)
    settle(room, qtbot)
    rows.setFocus()
    QTest.keyClick(rows, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    QTest.mouseClick(room.queries.footer.accept_all, Qt.MouseButton.LeftButton)
    assert len(room.state.teach.labels) == 6
    assert room.state.teach.labels[first] == wrong
    assert {*room.state.teach.labels.values()} == {"id0", "id1"}
    room.state.undo()
    assert room.state.teach.labels == {first: wrong}


def test_stale_predictions_cannot_be_accepted(room, fake, qtbot) -> None:
    rows = start(room, qtbot)
    fake.go.clear()
    room.state.edit(Choose("none"))
    qtbot.waitUntil(lambda: rows.rows.sheet.dimmed, timeout=1000)
    QTest.keyClick(rows, Qt.Key.Key_Return)
    room.queries.accept_shown()
    assert room.state.teach.labels == {}
    QTest.keyClick(rows, Qt.Key.Key_1)
    assert len(room.state.teach.labels) == 1, "but a person may say what it is"
    fake.go.set()
    settle(room, qtbot)


def test_delete_takes_rows_off_and_undo_puts_them_back_with_their_labels(room, qtbot) -> None:
    rows = start(room, qtbot)
    first = order(room)[0]
    QTest.keyClick(rows, Qt.Key.Key_1)
    rows.go(0)
    QTest.keyClick(rows, Qt.Key.Key_Delete)
    assert first not in order(room)
    assert room.state.teach.labels == {}
    room.state.undo()
    assert first in order(room)
    assert room.state.teach.labels == {first: "id0"}


def test_n_goes_to_the_most_doubtful_row_without_a_label(room, qtbot) -> None:
    rows = start(room, qtbot)
    most = min(room.answers(), key=lambda sha: room.answers()[sha].margin)
    assert rows.rows.sheet.next == most == order(room)[0]
    QTest.keyClick(rows, Qt.Key.Key_1)
    settle(room, qtbot)
    rows.go(5)
    QTest.keyClick(rows, Qt.Key.Key_N)
    assert rows.current() == rows.rows.sheet.next != most


# ---- hand ------------------------------------------------------------------------------------------------------------
def test_clicks_on_the_keys_and_on_accept(room, qtbot) -> None:
    rows = start(room, qtbot)
    g = rows.geometry_()
    assert [n for n, _ in g.buttons()] == [0, 1, -1]
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=g.buttons()[1][1].center())
    first, second = order(room)[:2]
    assert room.state.teach.labels == {first: "id1"}
    place = g.said(current=False).center() + QPoint(0, 2 * ROW)
    third = order(room)[2]
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert room.state.teach.labels[third] == room.answers()[third].answer
    assert second not in room.state.teach.labels


def test_a_click_between_the_keys_or_with_the_right_button_labels_nothing(room, qtbot) -> None:
    rows = start(room, qtbot)
    (_, left), (_, right), *_ = rows.geometry_().buttons()
    between = QPoint((left.right() + right.left()) // 2 + 1, left.center().y())
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=between)
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.RightButton, pos=left.center())
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=left.center() + QPoint(0, ROW))
    assert room.state.teach.labels == {}
    assert rows.currentIndex().row() == 1, "a row that is not current has no keys: the click makes it current"


def test_ten_classes_have_nine_keys_and_a_menu_for_the_rest(room, qtbot) -> None:
    rows = start(room, qtbot, classes=10)
    buttons = rows.geometry_().buttons()
    assert [n for n, _ in buttons] == [*range(9), -1]
    assert all(r.top() >= 0 and r.bottom() < ROW and r.right() < rows.width() for _, r in buttons)
    menu = room.queries.rows_menu()
    next(a for a in menu.actions() if a.text() == "It is class 9").trigger()
    assert set(room.state.teach.labels.values()) == {"id9"}


def test_tooltips_say_what_is_there_and_never_markup(room, qtbot) -> None:
    rows = start(room, qtbot)
    g = rows.geometry_()
    assert rows.tip(g.buttons()[0][1].center()) == "It is class 0 (1)"
    assert "an example of class 0" in rows.tip(g.near(0).center())
    assert rows.tip(g.picture.center()).endswith(".png")
    assert rows.tip(QPoint(5, 5000)) == ""


# ---- order, filter ---------------------------------------------------------------------------------------------------
def test_rows_are_ordered_by_doubt_once_answered_and_stay_when_predicted_again(room, qtbot) -> None:
    rows = start(room, qtbot)
    margins = [room.answers()[sha].margin for sha in order(room)]
    assert margins == sorted(margins)
    assert margins[0] < margins[-1]
    before = order(room)
    room.state.edit(Choose("none"))
    settle(room, qtbot)
    QTest.keyClick(rows, Qt.Key.Key_1)
    settle(room, qtbot)
    assert order(room) == before
    assert [room.answers()[sha].margin for sha in before] != sorted(room.answers()[sha].margin for sha in before)


def test_the_current_row_stays_in_place_when_rows_are_added(room, qtbot) -> None:
    rows = start(room, qtbot, queries=40)
    rows.verticalScrollBar().setValue(ROW * 10 + 13)
    QTest.mouseClick(rows.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(30, 200))
    sha = rows.current()
    where = rows.visualRect(rows.currentIndex()).top()
    before = order(room)
    room.state.edit(AddQueries(tuple(ref(k, "more") for k in range(3))))
    assert order(room)[:40] == before, "new rows come last until they are answered"
    settle(room, qtbot)
    assert len(order(room)) == 43
    assert rows.current() == sha
    assert rows.visualRect(rows.currentIndex()).top() == where


def test_sorting_by_name_counts_and_a_click_sorts_by_doubt_again(room, qtbot) -> None:
    start(room, qtbot, queries=12)
    by_doubt = order(room)
    names = room.queries.sort._group.button(1)
    QTest.mouseClick(names, Qt.MouseButton.LeftButton)
    assert [q.name for q in room.queries.list.rows.rows()] == [f"q{k:04}.png" for k in range(12)]
    QTest.mouseClick(room.queries.sort._group.button(0), Qt.MouseButton.LeftButton)
    assert order(room) == by_doubt
    assert natural("img10") > natural("img2") > natural("img")


def test_the_filter_shows_one_class_by_label_or_answer_and_an_empty_one_says_so(room, qtbot) -> None:
    rows = start(room, qtbot)
    room.deeds.label([order(room)[0]], ClassId("id1"))
    settle(room, qtbot)
    want = {sha for sha in order(room) if room.state.teach.labels.get(sha, room.answers()[sha].answer) == "id1"}
    menu = room.queries.filter_menu()
    assert [a.text() for a in menu.actions()] == ["All classes", "class 0", "class 1", "None of these"]
    menu.actions()[2].trigger()
    assert set(order(room)) == want
    assert room.queries.filter.words() == "class 1"
    assert room.queries._count.text() == f"{len(want)} of 6"
    QTest.keyClick(rows, Qt.Key.Key_1)
    assert set(order(room)) == want, "a corrected row does not vanish under the eye"
    room.queries.filter_menu().actions()[3].trigger()
    assert room.queries.stack.currentWidget() is room.queries.nothing
    room.deeds.delete(ClassId("id1"))
    room.queries._filter_by(None)
    assert len(order(room)) == 6


def test_answers_of_a_deleted_class_are_left_out_at_once(room, fake, qtbot) -> None:
    start(room, qtbot, classes=3)
    fake.go.clear()
    room.deeds.delete(ClassId("id0"))
    for found in room.answers().values():
        assert {line.at for line in found.lines} <= {-1, 0, 1}
        assert all(near.at is None or near.at < 2 for near in found.near)
    fake.go.set()
    settle(room, qtbot)


def test_a_thousand_queries_scroll_and_jump(room, qtbot) -> None:
    rows = start(room, qtbot, queries=1000)
    assert rows.rows.rowCount() == 1000
    assert rows.findChildren(type(room.queries.footer)) == [], "no widget per row"
    painted: list[int] = []
    paint = rows.painter_.paint

    def counted(painter, option, index) -> None:
        painted.append(index.row())
        paint(painter, option, index)

    rows.painter_.paint = counted
    bar = rows.verticalScrollBar()
    assert bar.maximum() > 990 * ROW - rows.height()
    for k in range(0, bar.maximum(), bar.maximum() // 40):
        bar.setValue(k)
        rows.viewport().repaint()
    assert len(painted) < 41 * (rows.viewport().height() // ROW + 3), "only what is seen is painted"
    QTest.keyClick(rows, Qt.Key.Key_End)
    assert rows.currentIndex().row() == 999
    QTest.keyClick(rows, Qt.Key.Key_1)
    assert len(room.state.teach.labels) == 1
    assert rows.currentIndex().row() == 999


# ---- values ----------------------------------------------------------------------------------------------------------
def image(name: str) -> ImageRef:
    return ImageRef(f"/x/{name}", "", hashlib.sha256(name.encode()).hexdigest(), 1, 8, 8)


def answer(p: Prediction, ids, where) -> Answer | None:
    return answers_of([p], ids, where).get(p.image.sha256)


def test_an_answer_is_told_in_terms_of_the_classes_there_are_now() -> None:
    ids = (ClassId("a"), ClassId("b"), ClassId("c"))
    p = Prediction(image("q"), (0.2, 0.5, 0.1), 0.2, False, (Neighbour(2, image("s"), 0.3),))
    found = answer(p, ids, {ClassId("b"): 0, ClassId("a"): 1})
    assert [(n.at, n.share, n.wins) for n in found.lines] == [(0, 0.5, True), (1, 0.2, False), (-1, 0.2, False)]
    assert found.margin == pytest.approx(0.3)
    assert found.near[0].at is None
    rejected = answer(replace(p, rejected=True, none=0.6), ids, {ClassId("a"): 0, ClassId("b"): 1, ClassId("c"): 2})
    assert rejected.answer == NONE
    assert [n.wins for n in rejected.lines] == [False, False, True]
    assert rejected.margin == pytest.approx(0.1)
    assert answer(p, ids, {}) is None
    alone = answer(p, ids, {ClassId("c"): 4})
    assert [(n.at, n.share) for n in alone.lines] == [(4, 0.1), (-1, 0.2)]
    assert alone.near[0].at == 4


def test_queries_without_an_answer_come_last_by_doubt() -> None:
    q = [image(f"{k}") for k in range(3)]
    ids = (ClassId("a"), ClassId("b"))
    sure = answer(Prediction(q[0], (0.9, 0.05), 0.05, False, ()), ids, {ids[0]: 0, ids[1]: 1})
    torn = answer(Prediction(q[2], (0.5, 0.45), 0.05, False, ()), ids, {ids[0]: 0, ids[1]: 1})
    task = TeachTask((), tuple(q))
    answers = {q[0].sha256: sure, q[2].sha256: torn}
    assert ordered(task, answers, "doubt") == [q[2], q[0], q[1]]


@pytest.mark.parametrize(
    ("losses", "odd"),
    [
        (((0.2, 0.3, 0.25), (0.3, 5.0, 0.2)), {4}),
        (((0.2, 0.3, 0.25), (0.3, 1.2, 0.2)), set()),
        (((3.0, 3.3, 2.8), (3.1, 3.2, 2.9)), set()),
        (((0.2, 0.3, 0.25), (None, None, None)), set()),
        (((0.0, 0.0, 0.0), (0.0, 5.0, 0.0)), {4}),
        (((0.2, 0.3, 0.25), (0.3, 5.0)), set()),
    ],
    ids=["odd", "above the others, but as guessing", "all are hard", "not measured", "of those at 0", "one of two"],
)
def test_only_an_example_that_stands_out_is_to_be_checked(losses, odd) -> None:
    classes = tuple(
        TaskClass(f"c{c}", tuple(image(f"{c}-{k}") for k in range(len(row))), ClassId(f"c{c}"))
        for c, row in enumerate(losses)
    )
    result = type("R", (), {"influence": losses})()
    flat = [i.sha256 for c in classes for i in c.images]
    assert set(to_check(Shown(TeachRequest(1, classes, ()), result))) == {flat[k] for k in odd}


def test_where_the_queries_are_used_together_one_less_is_asked_anew(room, qtbot, fake, monkeypatch) -> None:
    """Otherwise the answers that stay would be those that the removed picture had a part in."""
    start(room, qtbot)
    first, second = order(room)[:2]
    asked = len(fake.requests)
    room.state.edit(RemoveQueries((first,)))
    assert not room.predictor.stale, "answers of a method that treats each alone stay right"
    monkeypatch.setattr(jobs, "teach", lambda *a: replace(fake(*a), together=True))
    room.state.edit(AddQueries((ref(77),)))
    settle(room, qtbot)
    room.state.edit(RemoveQueries((second,)))
    assert room.predictor.stale
    settle(room, qtbot)
    assert len(fake.requests) == asked + 2
    assert second not in {q.sha256 for q in fake.requests[-1].queries}
