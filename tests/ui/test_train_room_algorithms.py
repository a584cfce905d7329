"""The list of all algorithms: families, words for tags, the filter, the keyboard, long lists; no keys on the screen."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QFontMetrics, QWheelEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QComboBox, QLabel, QRadioButton, QWidget

from tests.ui.test_train_room import CATALOGUE, FIELDS, RECOMMENDED, TASKS, make_task, run_of, settle
from workbench.core.params import fields_of
from workbench.core.values import AlgorithmInfo, Role
from workbench.learn.registry import algorithms
from workbench.services import jobs
from workbench.services.requests import AlgorithmRow, Catalogue
from workbench.ui import state as state_module
from workbench.ui import theme
from workbench.ui.rooms.train.algorithms import AlgorithmsPage
from workbench.ui.rooms.train.cards import reason_lines
from workbench.ui.rooms.train.chips import SetupChip
from workbench.ui.rooms.train.fields import Entry
from workbench.ui.rooms.train.room import TrainRoom
from workbench.ui.state import AppState
from workbench.ui.widgets.methods import FAMILIES, by_family, choice_words, matches, tag_words


def method(key: str, family: str, tags: frozenset[str] = frozenset({"trains", "any-way"})) -> AlgorithmInfo:
    return AlgorithmInfo(key, key.upper(), family, f"Author {key} 2020, arXiv 1", f"How {key} learns.", tags)


MANY = tuple(
    AlgorithmRow(method(f"{family}{n}", family), FIELDS * 5 if n == 3 else FIELDS)
    for family in FAMILIES
    for n in range(4)
)


@pytest.fixture
def page(themed: QApplication, qtbot) -> AlgorithmsPage:
    made = AlgorithmsPage()
    qtbot.addWidget(made)
    made.resize(936, 466)  # what a window of 1024 x 768 leaves
    made.set_catalogue(Catalogue(MANY, ()))
    made.show_algorithm("metric1", {}, locked=False)
    made.show()
    qtbot.waitExposed(made)
    made.activateWindow()
    return made


def test_families_come_in_the_order_of_the_catalogue_and_new_ones_last() -> None:
    infos = [method("z", "something new"), method("b", "metric"), method("a", "metric"), method("m", "optimisation")]
    grouped = by_family(infos)
    assert list(grouped) == ["optimisation", "metric", "something new"]
    assert [i.key for i in grouped["metric"]] == ["a", "b"]


def test_choices_are_said_in_words() -> None:
    for choice, said in (("prototype", "Prototype"), ("CL2N", "CL2N"), ("pcgrad", "PCGrad"), ("two-step", "Two step")):
        assert choice_words(choice) == said


def test_every_algorithm_of_the_catalogue_can_be_read(page: AlgorithmsPage, qtbot) -> None:
    rows = tuple(AlgorithmRow(a.info, fields_of(a.Params)) for a in algorithms().values())
    page.set_catalogue(Catalogue(rows, ()))
    assert len({r.info.title for r in rows}) == len(rows)
    for row in rows:
        info = row.info
        assert info.family in FAMILIES, info.key
        assert info.summary.endswith("."), info.key
        assert info.paper, info.key
        page.show_algorithm(info.key, {}, locked=False)
        titles = [f.title for f in row.fields]
        assert len(set(titles)) == len(titles), info.key
        for f in row.fields:
            assert f.title[:1].isupper(), (info.key, f.name)
            assert "_" not in f.title, (info.key, f.name)
            assert len(f.help) > 5, (info.key, f.name)
            assert f.help.endswith("."), (info.key, f.name)
            made = page.form.inputs[f.name]
            spoken = made.line.accessibleName() if isinstance(made, Entry) else made.accessibleName() or made.text()
            assert spoken == f.title, (info.key, f.name)
            if isinstance(made, QComboBox):
                shown = [made.itemText(n) for n in range(made.count())]
                assert len(set(shown)) == len(f.choices), (info.key, f.name)
                assert not any("_" in text or text[:1].islower() for text in shown), (info.key, shown)
        assert page.form.overrides() == {}, "what is shown at first are the defaults"


def test_tags_are_said_in_words() -> None:
    assert tag_words(frozenset({"trains", "any-way", "gradient-based"})) == (
        "Any number of classes",
        "Takes gradient steps on a new task",
    )
    assert tag_words(frozenset({"trains", "order-dependent"})) == (
        "A limited number of classes",
        "Order of the examples matters",
    )
    assert "Nothing to train" in tag_words(frozenset({"any-way", "transductive"}))
    assert "Uses the queries together" in tag_words(frozenset({"any-way", "transductive"}))
    assert tag_words(frozenset({"trains", "any-way", "odd-one"}))[-1] == "Odd one", "a new tag is not lost"


def test_the_filter_looks_at_everything_that_is_shown() -> None:
    info = AlgorithmInfo("tim", "TIM", "transductive", "Boudiaf 2020", "Fits.", frozenset({"any-way", "transductive"}))
    for words in ("tim", "BOUDIAF", "queries together", "transductive 2020", "fits", ""):
        assert matches(info, words), words
    assert not matches(info, "tim metric")


def test_a_filter_narrows_the_list_and_its_families(page: AlgorithmsPage) -> None:
    assert page.list._beside.text() == str(len(MANY))
    page.list.filter.setText("memory")
    assert page.list.shown() == ("memory0", "memory1", "memory2", "memory3")
    assert [name for name, head in page.list._heads.items() if not head.isHidden()] == ["memory"]
    assert page.list._beside.text() == f"4 of {len(MANY)}"
    page.list.filter.setText("nothing of the kind")
    assert page.list.nothing.isVisible()
    assert not page.list.area.isVisible()
    QTest.keyClick(page.list.filter, Qt.Key.Key_Escape)
    assert len(page.list.shown()) == len(MANY)
    assert page.list.area.isVisible()


def test_what_was_found_is_chosen_by_keyboard(page: AlgorithmsPage, qtbot) -> None:
    chosen: list[str] = []
    page.chosen.connect(chosen.append)
    page.list.filter.setFocus()
    page.list.filter.setText("probabilistic")
    QTest.keyClick(page.list.filter, Qt.Key.Key_Return)
    assert chosen == ["probabilistic0"]
    QTest.keyClick(page.list.filter, Qt.Key.Key_Down)
    assert page.buttons["probabilistic0"].hasFocus()
    for _ in range(3):
        QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_Down)
    assert chosen == ["probabilistic0", "probabilistic1", "probabilistic2", "probabilistic3"]
    QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_Down)
    assert chosen[-1] in ("probabilistic0", "probabilistic3"), "the arrows stay among what the filter shows"


def test_a_row_is_chosen_by_a_click_on_its_words(page: AlgorithmsPage, qtbot) -> None:
    chosen: list[str] = []
    page.chosen.connect(chosen.append)
    row = page.buttons["optimisation2"].parentWidget()
    qtbot.mouseClick(row, Qt.MouseButton.LeftButton, pos=QPoint(60, row.height() - 10))
    assert chosen == ["optimisation2"]
    page.show_algorithm("optimisation2", {}, locked=True)
    qtbot.mouseClick(row, Qt.MouseButton.LeftButton, pos=QPoint(60, row.height() - 10))
    assert chosen == ["optimisation2"], "nothing is chosen while a run goes on"


def test_each_row_has_its_line_and_its_paper(page: AlgorithmsPage) -> None:
    row = page.buttons["metric1"].parentWidget()
    assert [t.text() for t in row.findChildren(QLabel)] == ["How metric1 learns.", "Author metric1 2020, arXiv 1"]
    assert "Any number of classes" in page.buttons["metric1"].accessibleDescription()
    chips = [page.tags.itemAt(n).widget().text() for n in range(page.tags.count())]
    assert chips == ["Any number of classes"]


def test_the_chosen_one_is_scrolled_into_sight_in_a_long_list(page: AlgorithmsPage, qtbot) -> None:
    page.show_algorithm("transfer baseline3", {}, locked=False)
    row = page.buttons["transfer baseline3"].parentWidget()
    assert row.visibleRegion().isEmpty()
    page.focus_chosen()
    qtbot.waitUntil(lambda: row.visibleRegion().boundingRect().height() == row.height())
    assert page.buttons["transfer baseline3"].hasFocus()


def test_a_long_form_scrolls_and_the_wheel_changes_no_value(page: AlgorithmsPage, qtbot) -> None:
    page.show_algorithm("metric3", {}, locked=False)
    bar = page._detail.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 0)
    combo = page.form.findChildren(QComboBox)[0]
    before = combo.currentIndex()
    at = QPointF(combo.rect().center())
    event = QWheelEvent(
        at, combo.mapToGlobal(at), QPoint(), QPoint(0, -120), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(combo, event)
    assert combo.currentIndex() == before
    page.show_algorithm("metric1", {}, locked=False)
    assert bar.value() == 0


def test_a_long_reason_takes_two_lines(themed: QApplication) -> None:
    metrics = QFontMetrics(theme.font("caption"))
    text = "Takes gradient steps; better when a new task differs"
    assert reason_lines(text, metrics, 1000) == (text,)
    first, second = reason_lines(text, metrics, metrics.horizontalAdvance(text) * 2 // 3)
    assert f"{first} {second}" == text
    assert reason_lines(text, metrics, 60)[1].endswith("…")


def test_a_chip_in_a_narrow_window_keeps_its_label_above_the_value(themed: QApplication, qtbot) -> None:
    chip = SetupChip("Backbone", QWidget)
    qtbot.addWidget(chip)
    chip.show_value("Conv-4")
    chip.set_narrow(True)
    chip.resize(chip.sizeHint())
    label_width = QFontMetrics(theme.font("caption")).horizontalAdvance("Backbone")
    assert chip.minimumSizeHint().width() >= label_width
    picture = chip.grab().toImage()
    ground = picture.pixelColor(1, 1)
    bands = [range(3, 18), range(20, 38)]
    for band in bands:
        assert any(picture.pixelColor(x, y) != ground for y in band for x in range(8, 40)), "label above, value below"


@pytest.fixture
def waiting(state: AppState, qtbot, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TrainRoom, threading.Event]]:
    """A room whose learning library has not loaded yet."""
    loaded = threading.Event()
    monkeypatch.setattr(jobs, "catalogue", lambda ctx: (loaded.wait(30), CATALOGUE)[1])
    monkeypatch.setattr(jobs, "recommend", lambda tasks, ctx: RECOMMENDED)
    monkeypatch.setattr(state_module, "_runs", lambda *_: tuple(state.runs))
    state.set_tasks(TASKS)
    state.set_runs((run_of(2), run_of(1)))
    made = TrainRoom(state)
    qtbot.addWidget(made)
    made.resize(948, 616)
    made.show()
    qtbot.waitExposed(made)
    yield made, loaded
    loaded.set()
    qtbot.waitUntil(lambda: made.catalogue is not None and bool(made.recommendations))
    settle(made, qtbot)


def said(room: TrainRoom) -> str:
    """All words of the room."""
    words = [w.text() for kind in (QLabel, QRadioButton) for w in room.findChildren(kind)]
    words += [f"{c.text()} {c.toolTip()}" for c in room.strip_.chips.values()]
    words += [room.recommended.all.text(), *(a.text() for a in room.monitor.compare.menu().actions())]
    model = room.monitor.runs.runs
    words += [str(model.data(model.index(r, c))) for r in range(model.rowCount()) for c in range(model.columnCount())]
    return " ".join(words)


def test_no_key_is_shown_before_the_library_has_loaded(waiting, qtbot) -> None:
    room, loaded = waiting
    room._recommend(RECOMMENDED)  # even if recommendations came first
    text = said(room)
    assert "Run 2" in text
    for key in ("protonet", "conv4", "maml", "resnet18"):
        assert key not in text, key
    assert room.strip_.chips["backbone"].value == "28 px"
    loaded.set()
    qtbot.waitUntil(lambda: room.catalogue is not None and "ProtoNet" in said(room))
    assert "Conv-4-64, 28 px" in said(room)
    assert "conv4" not in said(room)


def test_tasks_of_two_kinds_get_a_notice_and_a_way_out(state: AppState, qtbot, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "catalogue", lambda ctx: CATALOGUE)
    monkeypatch.setattr(jobs, "recommend", lambda tasks, ctx: RECOMMENDED)
    room = TrainRoom(state)
    qtbot.addWidget(room)
    photos = make_task("garden", classes=4, suffix="jpg", side=400)
    state.set_tasks((*TASKS, photos))
    qtbot.waitUntil(lambda: not room.notice.isHidden())
    assert room.notice.text().startswith("garden holds photographs, the others drawings.")
    room.notice.action.click()
    assert state.tasks[-1].role is Role.HELD_OUT
    assert [t.role for t in state.tasks[:-1]] == [t.role for t in TASKS]
    qtbot.waitUntil(lambda: room.notice.isHidden())
    settle(room, qtbot)
