"""Words, places, map, matrix and table of the Knowledge room, each for itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor
from PySide6.QtTest import QTest

from workbench.core.values import EntryId, ImageRef
from workbench.services.overview import Atlas, Names, Shelf
from workbench.ui import theme
from workbench.ui.rooms.knowledge import rows
from workbench.ui.rooms.knowledge.entries_table import Column, EntriesTable
from workbench.ui.rooms.knowledge.matrix import CELL_HIGH, CELL_WIDE, SimilarityMatrix
from workbench.ui.rooms.knowledge.spread import evened, spread, tied, towards
from workbench.ui.rooms.knowledge.task_map import TaskMap
from workbench.ui.widgets.thumbs import Thumbs

from .known import ATLAS, ENTRIES, NAMES, SHELF, SIMILAR, entry, task

NOW = datetime(2026, 11, 21, tzinfo=UTC)


# ---- words -----------------------------------------------------------------------------------------------------------
def test_a_row_says_titles_and_not_keys():
    row = rows.row_of(ENTRIES[0], NAMES, shipped=False, retired=False, now=NOW)
    assert (row.algorithm, row.backbone, row.sources, row.made) == ("ProtoNet", "Conv-4", "2 tasks", "18 Nov")
    assert row.interval == "(0.796–0.816)"
    shipped = rows.row_of(ENTRIES[2], NAMES, shipped=True, retired=False, now=NOW)
    assert shipped.made == "Shipped"
    old = rows.row_of(
        replace(ENTRIES[0], created="2025-03-01T00:00:00+00:00"), Names(), shipped=False, retired=True, now=NOW
    )
    assert (old.made, old.algorithm) == ("1 Mar 2025", "protonet")


def test_words_find_entries_by_titles_and_sources():
    found = rows.rows_of(SHELF, NAMES, "anil", NOW)
    assert [r.name for r in found] == ["Head adapter"]
    assert len(rows.rows_of(SHELF, NAMES, "greek", NOW)) == len(ENTRIES)
    assert not rows.rows_of(SHELF, NAMES, "greek anil nowhere", NOW)
    away = Shelf(ENTRIES[:1], ENTRIES[1:2], SHELF.folders)
    assert [(r.name, r.retired) for r in rows.rows_of(away, NAMES, "", NOW)] == [
        ("Clothing and glyphs", False),
        ("Head adapter", True),
    ]


@pytest.mark.parametrize(
    ("accuracies", "ends", "ticks"),
    [
        ((0.71, 0.964), (0.7, 1.0), [0.7, 0.8, 0.9, 1.0]),
        ((0.33,), (0.3, 0.6), [0.3, 0.4, 0.5, 0.6]),
        ((0.2, 0.97), (0.1, 1.0), [0.1, 0.4, 0.7, 1.0]),
        ((0.995,), (0.7, 1.0), [0.7, 0.8, 0.9, 1.0]),
        ((), (0.0, 1.0), [0.0, 0.3, 0.6, 0.9]),
    ],
)
def test_the_axis_holds_every_interval(accuracies, ends, ticks):
    made = [rows.row_of(entry("a", "A", a), NAMES, shipped=False, retired=False, now=NOW) for a in accuracies]
    assert rows.scale_of(made) == ends
    assert rows.ticks_of(*ends) == ticks
    assert all(ends[0] <= r.low and r.high <= ends[1] for r in made)


def facts(**provenance) -> dict[str, tuple[str, str]]:
    found = rows.facts(
        entry("a", "A", provenance=provenance), NAMES, lambda id_: ENTRIES[0] if id_ == "aaaa1111" else None
    )
    return {name: (value, more) for name, value, more in found}


def test_the_card_says_where_it_came_from():
    found = facts(ancestor_entry="aaaa1111", licence="CC0 1.0", data="the samples", episodes=1500, seconds=98.0)
    assert found["Learned from"] == ("2 tasks, 18 classes, 252 images", "greek, bengali")
    assert found["Data"][0] == "fingerprint 0e41c9a0 and 1 more"
    assert found["Went on from"][0] == "Clothing and glyphs"
    assert found["Licence"] == ("CC0 1.0", "the samples")
    assert found["Trained for"][0] == "1,500 episodes in 2 min"
    assert facts(ancestor_entry="gone")["Went on from"][0] == "knowledge that is not here"
    assert "Forgetting" not in found
    assert "Adapted to" not in found
    assert rows.episode_words(ENTRIES[0]) == "5 ways, 1 shot, 600 episodes, seed 7"


def test_the_card_says_what_was_forgotten_with_its_interval():
    kept = {"how": "ewc", "backward": {"mean": -0.006, "ci95": 0.01}, "forward": {"mean": 0.2, "ci95": 0.05}}
    found = facts(kept=kept)
    assert found["Against forgetting"][0] == "EWC"
    assert found["Forgetting"][0] == "0.006 (−0.004 to 0.016)"
    assert found["Head start"][0] == "0.200 (0.150 to 0.250)"
    assert facts(kept={"how": "l2", "unmeasured": "the run was stopped"})["Forgetting"] == (
        "not measured",
        "the run was stopped",
    )
    assert "Forgetting" not in facts(kept={"how": "none"})


def test_no_accuracy_is_claimed_where_there_were_no_labels():
    aligned = {"method": "adabn", "target": ["night"], "pictures": 120, "held_out": None}
    found = facts(aligned=aligned)
    assert found["Adapted to"][0] == "night, 120 pictures (AdaBN)"
    assert found["On that domain"][0] == "no accuracy claimed"
    held = {"before": 0.52, "after": 0.61, "difference": 0.09, "ci95": 0.02, "episodes": 200}
    assert facts(aligned=aligned | {"held_out": held})["On that domain"] == (
        "0.520 before, 0.610 after",
        "Difference 0.090 (0.070 to 0.110)",
    )
    alike = held | {"difference": 0.0, "ci95": 0.0}
    assert facts(aligned=aligned | {"held_out": alike})["On that domain"][1] == "Difference 0.000"


# ---- places ----------------------------------------------------------------------------------------------------------
def test_tasks_lie_near_their_places_and_not_over_one_another():
    places = [(0.5, 0.5)] * 6 + [(0.0, 0.0), (1.0, 1.0)]
    found = spread(places, 600, 300, (70, 60))
    assert found == spread(places, 600, 300, (70, 60))
    for i, (x, y) in enumerate(found):
        assert 0 <= x <= 600
        assert 0 <= y <= 300
        for u, v in found[:i]:
            assert ((x - u) / 70) ** 2 + ((y - v) / 60) ** 2 > 0.98
    assert found[6] == pytest.approx((0, 0), abs=3)
    assert found[7] == pytest.approx((600, 300), abs=3)
    assert spread([], 10, 10, (1, 1)) == []


def test_one_task_far_off_leaves_room_for_the_others():
    places = [(1.0, 0.5), (0.0, 0.5), (0.02, 0.4), (0.01, 0.6), (0.01, 0.5)]
    found = evened(places, 0.5)
    assert found[0] == (1.0, pytest.approx(0.5))
    assert found[2][0] > 0.3
    assert found[3][0] == found[4][0], "equal ones stay equal"
    for axis in (0, 1):
        order = sorted(range(5), key=lambda i: (places[i][axis], i))
        assert order == sorted(range(5), key=lambda i: (found[i][axis], i))
    assert evened(places, 0.0) == places
    assert evened([(0.3, 0.7)]) == [(pytest.approx(0.42), pytest.approx(0.58))]
    assert evened([]) == []


def test_those_at_the_edge_find_room_too():
    found = spread([(0.0, 0.5)] * 12, 600, 220, (78, 68))
    for i, (x, y) in enumerate(found):
        for u, v in found[:i]:
            assert ((x - u) / 78) ** 2 + ((y - v) / 68) ** 2 > 0.9


def test_like_tasks_are_held_together_by_the_fewest_lines():
    found = tied(SIMILAR, 0.1)
    assert [(i, j) for i, j, _ in found] == [(1, 0), (3, 2), (3, 0)]
    assert tied(SIMILAR, 0.3) == [(1, 0, 0.63), (3, 2, 0.31)]


def test_an_arrow_key_leads_to_the_next_in_its_direction():
    points = [(0.0, 0.0), (100.0, 10.0), (200.0, 0.0), (0.0, 100.0)]
    assert towards(points, 0, (1, 0)) == 1
    assert towards(points, 1, (1, 0)) == 2
    assert towards(points, 0, (0, 1)) == 3
    assert towards(points, 0, (-1, 0)) == 0
    assert towards(points, 3, (0, -1)) == 0


# ---- map -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def thumbs(themed):
    made = Thumbs()
    yield made
    made.close()


def shown(qtbot, widget, width, height):
    qtbot.addWidget(widget)
    widget.resize(width, height)
    widget.show()
    return widget


@pytest.fixture
def task_map(thumbs, qtbot):
    made = shown(qtbot, TaskMap(thumbs, lambda id_: f"Entry {id_}"), 740, 340)
    made.show_atlas(ATLAS)
    return made


def test_a_click_marks_a_task_and_says_what_it_resembles(task_map, qtbot):
    with qtbot.waitSignal(task_map.chosen) as got:
        qtbot.mouseClick(task_map, Qt.MouseButton.LeftButton, pos=task_map.point_of("clothing"))
    assert got.args == ["clothing"]
    said = task_map.accessibleName()
    assert "clothing: 9 classes, 126 images; most similar: sign digits 0.31, greek 0.05" in said
    assert "clothing" not in said.split("most similar")[1]
    assert task_map.current().name == "clothing"
    tip = task_map.tip(0)
    assert "Learnt by: Entry aaaa1111, Entry cccc3333" in tip
    assert "Similarity to the task in Teach: 0.04" in tip


def test_the_map_is_walked_by_keys(task_map, qtbot):
    task_map.setFocus()
    QTest.keyClick(task_map, Qt.Key.Key_Home)
    assert task_map.current().name == "greek"
    QTest.keyClick(task_map, Qt.Key.Key_Right)
    assert task_map.current().name == "bengali"
    QTest.keyClick(task_map, Qt.Key.Key_End)
    assert task_map.current().name == "sign digits"
    QTest.keyClick(task_map, Qt.Key.Key_Up)
    assert task_map.current().name != "sign digits"


def test_the_taught_task_is_summed_up_until_another_is_marked(task_map):
    assert "The task in Teach; most similar: clothing 0.71, sign digits 0.33" in task_map.accessibleName()
    task_map.show_atlas(replace(ATLAS, taught=None))
    assert "4 tasks; choose one" in task_map.accessibleName()
    task_map.show_atlas(Atlas())
    QTest.keyClick(task_map, Qt.Key.Key_Home)
    assert task_map.current() is None


def test_names_cover_neither_pictures_nor_one_another(task_map):
    crowd = tuple(replace(task(f"a task with a long name {i}"), key=str(i), x=0.5, y=0.5) for i in range(20))
    similar = tuple(tuple(1.0 if i == j else 0.1 for j in range(20)) for i in range(20))
    for atlas in (ATLAS, replace(ATLAS, tasks=crowd, similar=similar, taught=None)):
        task_map.show_atlas(atlas)
        found = [box for box, _, _ in task_map.names()]
        assert found
        for i, box in enumerate(found):
            assert task_map.rect().contains(box.toAlignedRect())
            assert not any(box.intersects(other) for other in found[:i])
            assert not any(box.intersects(task_map._box(k)) for k in range(len(atlas.tasks)))
    assert [text for _, text, i in task_map.names() if i < 0] == []


def test_the_map_keeps_what_is_marked_when_it_is_compared_again(task_map):
    task_map.choose("clothing")
    task_map.show_atlas(replace(ATLAS, taught=None))
    assert task_map.current().name == "clothing"
    task_map.show_atlas(replace(ATLAS, tasks=ATLAS.tasks[:2], similar=((1.0, 0.6), (0.6, 1.0)), taught=None))
    assert task_map.current() is None


@pytest.mark.parametrize("name", ["light", "dark"])
def test_a_task_without_a_picture_has_a_marker(qapp, thumbs, qtbot, name):
    theme.apply(qapp, name)
    made = shown(qtbot, TaskMap(thumbs, str), 740, 340)
    made.show_atlas(ATLAS)
    at = made.point_of("clothing")
    image = made.grab().toImage()
    scale = image.devicePixelRatio()
    middle = image.pixelColor(round(at.x() * scale), round(at.y() * scale))
    assert middle == theme.class_colour(2)
    gone = replace(ATLAS.tasks[2], picture=ImageRef("/gone.png", "", "f" * 64, 1, 9, 9))
    made.show_atlas(replace(ATLAS, tasks=(*ATLAS.tasks[:2], gone, ATLAS.tasks[3])))
    made.grab()
    qtbot.waitUntil(lambda: thumbs.failed(gone.picture))
    again = made.grab().toImage().pixelColor(round(at.x() * scale), round(at.y() * scale))
    assert again == theme.class_colour(2)


# ---- matrix ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def matrix(thumbs, qtbot):
    made = shown(qtbot, SimilarityMatrix(thumbs), 520, 340)
    made.show_atlas(ATLAS)
    return made


def blended(value: float) -> QColor:
    t = theme.tokens()
    over, under, share = QColor(t.accent), QColor(t.surface), 0.05 + 0.55 * value
    return QColor(
        *(round(share * a + (1 - share) * b) for a, b in zip(over.getRgb()[:3], under.getRgb()[:3], strict=True))
    )


def test_a_cell_is_the_stronger_the_more_two_tasks_resemble_each_other(matrix, qtbot):
    matrix.setStyleSheet(f"background: {theme.tokens().surface}")
    image = matrix.grab().toImage()
    for row, column in ((0, 1), (2, 3), (0, 2)):
        box = matrix.cell(row, column)
        assert (box.width(), box.height()) == (CELL_WIDE, CELL_HIGH)
        found, wanted = image.pixelColor(box.left() + 6, box.top() + 5), blended(SIMILAR[row][column])
        parts = zip(found.getRgb()[:3], wanted.getRgb()[:3], strict=True)
        assert all(abs(a - b) <= 2 for a, b in parts), (found.name(), wanted.name())


def test_a_click_and_the_arrow_keys_mark_the_task_of_the_row(matrix, qtbot):
    with qtbot.waitSignal(matrix.chosen) as got:
        qtbot.mouseClick(matrix.viewport(), Qt.MouseButton.LeftButton, pos=matrix.cell(2, 1).center())
    assert got.args == ["clothing"]
    assert "clothing and bengali: 0.03" in matrix.accessibleName()
    with qtbot.waitSignal(matrix.chosen) as got:
        QTest.keyClick(matrix, Qt.Key.Key_Down)
    assert got.args == ["sign digits"]
    QTest.keyClick(matrix, Qt.Key.Key_End)
    assert "sign digits with itself" in matrix.accessibleName()
    for _ in range(9):
        QTest.keyClick(matrix, Qt.Key.Key_Up)
        QTest.keyClick(matrix, Qt.Key.Key_Left)
    assert matrix.cursor_cell == (0, 0)


def test_many_tasks_scroll_under_their_heads(matrix):
    n = 40
    many = tuple(replace(task(f"t{i}"), key=str(i)) for i in range(n))
    matrix.show_atlas(Atlas("x", True, many, tuple(tuple(1.0 if i == j else 0.2 for j in range(n)) for i in range(n))))
    assert matrix.verticalScrollBar().maximum() > 0
    assert matrix.horizontalScrollBar().maximum() > 0
    matrix.choose("39")
    assert matrix.cell(39, 0).bottom() <= matrix.viewport().height()
    assert matrix.cell(39, 0).top() > 28
    matrix.cursor_cell = (39, 0)
    QTest.keyClick(matrix, Qt.Key.Key_End)
    assert matrix.cell(39, 39).right() <= matrix.viewport().width()


# ---- table -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def table(themed, qtbot):
    made = shown(qtbot, EntriesTable(), 900, 260)
    made.set_rows(rows.rows_of(SHELF, NAMES, "", NOW))
    return made


def names_of(table) -> list[str]:
    return [r.name for r in table.entries.rows]


def test_titles_sort_and_the_current_entry_stays(table, qtbot):
    assert names_of(table) == ["Clothing and glyphs", "Head adapter", "Aligned", "Starter glyphs"]
    table.choose(EntryId("bbbb2222"))
    header = table.horizontalHeader()

    def click(column):
        x = header.sectionViewportPosition(column) + 20
        QTest.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, QPoint(x, 16))

    click(Column.FIGURE)
    assert names_of(table) == ["Starter glyphs", "Clothing and glyphs", "Head adapter", "Aligned"]
    click(Column.NAME)
    assert names_of(table) == ["Aligned", "Clothing and glyphs", "Head adapter", "Starter glyphs"]
    click(Column.NAME)
    assert names_of(table)[0] == "Starter glyphs"
    assert table.current().id == "bbbb2222"
    assert table.currentIndex().row() == names_of(table).index("Head adapter")


def test_arrow_keys_choose_and_delete_asks_to_put_away(table, qtbot):
    table.setFocus()
    table.choose(EntryId("aaaa1111"))
    with qtbot.waitSignal(table.chosen) as got:
        QTest.keyClick(table, Qt.Key.Key_Down)
    assert got.args == ["bbbb2222"]
    with qtbot.waitSignal(table.retire_asked):
        QTest.keyClick(table, Qt.Key.Key_Delete)


def test_what_is_put_away_stays_last_in_every_order(table):
    shelf = Shelf(ENTRIES[1:], ENTRIES[:1], SHELF.folders)
    table.set_rows(rows.rows_of(shelf, NAMES, "", NOW))
    for key in rows.SORTS:
        table.sort_by(key)
        assert names_of(table)[-1] == "Clothing and glyphs"
    at = table.entries.index(3, Column.NAME)
    assert table.entries.data(at, Qt.ItemDataRole.AccessibleTextRole) == "Clothing and glyphs, put away"


def test_what_was_not_measured_has_no_figure(table):
    at = names_of(table).index("Aligned")
    for column in (Column.WHISKER, Column.FIGURE):
        assert table.entries.data(table.entries.index(at, column)) == "not measured"


@pytest.mark.parametrize(
    ("width", "hidden"), [(920, set()), (700, {Column.BACKBONE}), (606, {Column.BACKBONE, Column.SOURCES})]
)
def test_columns_leave_a_narrow_table(table, width, hidden):
    table.resize(width, 260)
    assert {c for c in Column if table.isColumnHidden(c)} == hidden
    used = sum(table.columnWidth(c) for c in Column if c not in hidden)
    assert used <= table.viewport().width()
    assert table.columnWidth(Column.NAME) >= 120


def test_a_name_is_shown_and_never_obeyed(table):
    bad = entry("eeee5555", "<img src='file:///x'>\u202egnp")
    table.set_rows([rows.row_of(bad, NAMES, shipped=False, retired=False, now=NOW)])
    tip = table.entries.data(table.entries.index(0, Column.NAME), Qt.ItemDataRole.ToolTipRole)
    assert "<img" not in tip
