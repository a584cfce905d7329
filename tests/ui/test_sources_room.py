"""The Sources room: its arithmetic and its findings as values, then the room itself with real events."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PySide6.QtCore import QMimeData, QPoint, QPointF, QRect, Qt, QUrl
from PySide6.QtGui import QColor, QDragEnterEvent, QDropEvent, QPixmap
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QPushButton

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import ImageRef, Problem, Role, ScanResult, Task, TaskClass, TaskId
from workbench.services import jobs
from workbench.ui import theme
from workbench.ui.rooms.sources import findings as check
from workbench.ui.rooms.sources.content import Section, count_marked, narrow, sections_of
from workbench.ui.rooms.sources.files_dialog import FilesDialog
from workbench.ui.rooms.sources.grid import ThumbnailGrid
from workbench.ui.rooms.sources.layout import GAP, HEADER, MARGIN, GridLayout
from workbench.ui.rooms.sources.room import SourcesRoom
from workbench.ui.rooms.sources.selection import Selection
from workbench.ui.rooms.sources.where import assign, by_task, locate, root_of
from workbench.ui.rooms.sources.words import count, listed
from workbench.ui.state import AppState
from workbench.ui.widgets.thumbs import Thumbs

EPISODE = check.Episode()


def ref(name: str, sha: str = "", folder: str = "/data", size: int = 1000) -> ImageRef:
    return ImageRef(f"{folder}/{name}", "", sha or name, size, 64, 48)


def make_task(name: str, classes: dict[str, list[str]], role: Role = Role.TRAIN, folder: str = "/data") -> Task:
    made = tuple(
        TaskClass(c, tuple(ref(f"{name}/{c}/{i}.png", sha, folder) for i, sha in enumerate(hashes)))
        for c, hashes in classes.items()
    )
    return Task(TaskId(name), name, f"{folder}/{name}", made, (), role)


def plain_task(name: str, classes: int = 6, images: int = 20, role: Role = Role.TRAIN) -> Task:
    return make_task(name, {f"c{c}": [f"{name}{c}-{i}" for i in range(images)] for c in range(classes)}, role)


def find(tasks: tuple[Task, ...], problems: tuple[Problem, ...] = (), number: int = 0, episode=EPISODE):
    return {f.kind: f for f in check.examine(tasks, problems, episode)[number]}


# ---- layout ----------------------------------------------------------------------------------------
def test_the_layout_has_eight_columns_at_the_designs_width() -> None:
    layout = GridLayout([40, 40, 3], frozenset(), 686, 76)
    assert layout.columns == 8
    assert layout.position(0) == (MARGIN, HEADER)
    assert layout.position(8) == (MARGIN, HEADER + 84)
    assert layout.tops[1] == HEADER + 5 * 84
    assert layout.position(40) == (MARGIN, layout.tops[1] + HEADER)
    assert layout.height == layout.tops[2] + HEADER + 84 + GAP


def test_every_cell_is_found_where_it_lies() -> None:
    layout = GridLayout([7, 0, 30, 1], frozenset({1}), 400, 60)
    for flat in range(layout.cells):
        x, y = layout.position(flat)
        hit = layout.at(x + 5, y + 5)
        assert hit is not None
        assert (hit.section, hit.cell) == (layout.section_of(flat), flat)
        assert layout.inside(x, y, x + 1, y + 1) == [flat]
    assert layout.at(MARGIN + layout.columns * layout.pitch + 3, HEADER + 4) is None
    assert layout.at(20, layout.height + 50) is None


def test_rows_give_only_what_a_strip_touches() -> None:
    layout = GridLayout([50_000, 50_000], frozenset(), 686, 76)
    rows = list(layout.rows(100_000, 100_700))
    assert 8 <= len(rows) <= 10
    assert all(r.top < 100_700 and r.top + 84 > 100_000 for r in rows)
    assert [r.last - r.first for r in rows] == [8] * len(rows)


def test_a_collapsed_section_takes_only_its_header() -> None:
    layout = GridLayout([40, 8], frozenset({0}), 686, 76)
    assert layout.tops[1] == HEADER
    assert [r.section for r in layout.rows(0, 500)] == [1]
    assert layout.end(first=True) == 40


def test_the_sticky_header_is_pushed_by_the_next() -> None:
    layout = GridLayout([8, 8], frozenset(), 686, 76)
    assert layout.sticky(0) == (0, 0)
    assert layout.sticky(50) == (0, 50)
    assert layout.sticky(layout.tops[1] - 10) == (0, layout.tops[1] - HEADER)
    assert layout.sticky(layout.tops[1]) == (1, layout.tops[1])
    hit = layout.at(20, 52, 50)
    assert hit is not None
    assert hit.cell is None, "the pinned header covers the cells under it"


def test_arrow_keys_cross_sections_and_skip_collapsed_ones() -> None:
    layout = GridLayout([9, 4, 8], frozenset({1}), 686, 76)  # eight columns; the first section ends with a row of one
    assert layout.step(3, 0, 1) == 8, "the short last row is reached at its end"
    assert layout.step(8, 0, 1) == 13, "over the collapsed section"
    assert layout.step(14, 0, -1) == 8
    assert layout.step(8, 1, 0) == 13
    assert layout.step(13, -1, 0) == 8
    assert layout.step(0, -1, 0) == 0
    assert layout.step(20, 0, 1) == 20


# ---- selection, filter -----------------------------------------------------------------------------
def test_selection_by_click_ctrl_shift_and_band() -> None:
    s = Selection()
    s.choose(5)
    s.choose(9, extend=True)
    assert s.chosen == {5, 6, 7, 8, 9}
    s.choose(2, extend=True)
    assert s.chosen == {2, 3, 4, 5}, "shift always counts from the last plain click"
    s.choose(3, toggle=True)
    assert s.chosen == {2, 4, 5}
    s.begin_band(keep=True)
    s.band([8, 9])
    s.band([8])
    assert s.chosen == {2, 4, 5, 8}, "what the band leaves is let go"
    s.clear()
    assert (s.chosen, s.current) == (set(), None)


def test_the_filter_looks_in_class_and_file_names() -> None:
    task = make_task("t", {"red shoe": ["a", "b"], "hat": ["c", "d", "e"]})
    sections = sections_of(task)
    assert [s.name for s in last(narrow(sections, "SHOE red"))] == ["red shoe"]
    found = last(narrow(sections, "hat/2"))
    assert found == ()
    found = last(narrow(sections, "2.png"))
    assert [(s.name, s.shown) for s in found] == [("hat", (2,))]
    assert last(narrow(sections, "hat 1"))[0].shown == (1,), "a word in the class name, the other in the file's"


def last(steps: Iterator[tuple[Section, ...] | None]) -> tuple[Section, ...]:
    *_, result = steps
    assert result is not None
    return result


def test_filtering_much_is_done_in_slices() -> None:
    task = plain_task("big", classes=2, images=20_000)
    steps = list(narrow(sections_of(task), "19999", slice_s=0.0))
    assert len(steps) > 50, "the window gets a turn in between"
    assert sum(s.count for s in steps[-1]) == 2


def test_marks_are_counted_by_class() -> None:
    sections = sections_of(make_task("t", {"a": ["1", "2"], "b": ["3"]}))
    assert count_marked(sections, frozenset({"1", "3"})) == (1, 1)
    assert count_marked(sections, frozenset()) == (0, 0)


# ---- findings --------------------------------------------------------------------------------------
def test_a_clean_task_has_no_findings_and_is_ready() -> None:
    task = plain_task("clean")
    assert find((task,)) == {}
    assert check.ready(task, EPISODE) == (
        True,
        "Ready for 5 ways, 1 shot, 15 queries",
        "6 classes, at least 20 images in each",
    )


def test_what_is_missing_is_said() -> None:
    two = make_task("t", {"a": ["1", "2"], "b": ["3"]})
    assert check.ready(two, EPISODE)[::2] == (False, "It has 1 class of 2 with at least 2 images")
    assert check.ready(plain_task("three", classes=3), EPISODE)[2] == "It has 3 classes"
    assert check.ready(Task(TaskId("u"), "u", "/u", (), (ref("a"),)), EPISODE)[0] is False


def test_fewer_pictures_than_queries_are_asked_less() -> None:
    ok, title, text = check.ready(plain_task("few", images=14), EPISODE)
    assert (ok, title) == (True, "Ready for 5 ways, 1 shot, 13 queries")
    assert text == "6 classes, at least 14 images in each, so 13 of 15 queries"


def test_the_same_picture_in_two_classes_is_found_and_kept_in_one() -> None:
    task = make_task("t", {"a": ["x", "1", "2"], "b": ["x", "3", "4"]})
    found = find((task,), episode=check.Episode(2, 1, 1))["duplicate-classes"]
    assert found.hashes == {"x"}
    assert found.classes == {"a", "b"}
    keep = found.fixes[1]
    assert keep.text == "Keep in b"
    after = check.apply_fix(task, keep)
    assert [[i.sha256 for i in c.images] for c in after.classes] == [["1", "2"], ["x", "3", "4"]]
    assert find((after,), episode=check.Episode(2, 1, 1)) == {}


def test_the_same_picture_in_two_roles_is_a_leak_and_can_be_dropped() -> None:
    train = plain_task("train")
    held = make_task("held", {"c0": ["train0-3", "h1"], "c1": ["train0-4", "h2"]}, Role.HELD_OUT)
    found = find((train, held), number=1, episode=check.Episode(2, 1, 1))["duplicate-roles"]
    assert found.title == "2 pictures also in train"
    after = check.apply_fix(held, found.fixes[0])
    assert after.images == 2
    same_role = held.with_role(Role.TRAIN)
    assert "duplicate-roles" not in find((train, same_role), number=1), "two tasks that are both trained on may share"


def test_a_picture_twice_in_a_class_is_reduced_to_one() -> None:
    task = make_task("t", {"a": ["x", "x", "1"], "b": ["2", "3", "4"]})
    found = find((task,), episode=check.Episode(2, 1, 1))["duplicate-copies"]
    assert [i.sha256 for i in check.apply_fix(task, found.fixes[0]).classes[0].images] == ["x", "1"]


def test_empty_and_too_small_classes_can_be_left_out() -> None:
    task = make_task("t", {"a": ["1", "2", "3"], "b": ["4"], "c": []})
    found = find((task,), episode=check.Episode(2, 2, 1))
    assert found["empty"].title == "1 class without pictures"
    small = found["too-small"]
    assert small.text == "b: 2 examples and a query need 3 pictures each."
    after = check.apply_fix(check.apply_fix(task, small.fixes[0]), found["empty"].fixes[0])
    assert [c.name for c in after.classes] == ["a"]
    assert "few-classes" in find((after,), episode=check.Episode(2, 2, 1))


def test_imbalance_is_said_without_alarm() -> None:
    task = make_task("t", {"a": [f"a{i}" for i in range(40)], "b": ["1", "2", "3", "4"]})
    found = find((task,), episode=check.Episode(2, 1, 1))["imbalance"]
    assert found.level == "info"
    assert found.text.startswith("a has 40 images, b 4.")


def test_skipped_files_are_grouped_by_reason() -> None:
    task = plain_task("t")
    problems = (
        *(Problem(f"/data/t/c0/{i}.png", "is empty", "error") for i in range(3)),
        Problem("/data/t/c1/x.jpg", "ends early: 11 of 84 KB", "error"),
        Problem("/data/t/notes.txt", "is not a picture", "ignored"),
        Problem("/elsewhere/z.zip", "is damaged", "error"),
    )
    found = find((task,), problems)
    assert found["skipped"].title == "4 files were skipped"
    assert found["skipped"].text.startswith("Is empty (3 files); ends early: 11 of 84 KB (1 file).")
    assert found["ignored"].text == "notes.txt is not a picture. Left alone."
    assert found["ignored"].fixes[0].action == "file"
    own, rest = assign((task,), problems)
    assert len(own[0]) == 5
    assert [p.path for p in rest] == ["/elsewhere/z.zip"]


def test_problems_go_to_the_innermost_task() -> None:
    outer, inner = plain_task("a"), make_task("a/sub", {"x": ["1"]})
    problems = [Problem("/data/a/sub/x/9.png", "is empty", "error"), Problem("/data/a/9.png", "is empty", "error")]
    own, rest = assign((outer, inner), problems)
    assert [p.path for p in own[1]] == ["/data/a/sub/x/9.png"]
    assert [p.path for p in own[0]] == ["/data/a/9.png"]
    assert rest == []


def test_the_part_of_an_archive_that_a_task_is() -> None:
    classes = tuple(
        TaskClass(c, tuple(ImageRef("/d/z.zip", f"greek/{c}/{i}.png", f"{c}{i}", 9, 8, 8) for i in range(2)))
        for c in ("alpha", "beta")
    )
    task = Task(TaskId("g"), "greek", "/d/z.zip", classes)
    assert root_of(task) == "/d/z.zip/greek"


def test_only_pictures_in_several_places_are_located() -> None:
    tasks = (make_task("a", {"x": ["1", "2"]}), make_task("b", {"y": ["2", "3"]}))
    places = locate(tasks)
    assert places == {"2": ((0, 0), (1, 0))}
    assert by_task(places) == {0: places, 1: places}


def test_words() -> None:
    assert count(1, "class", "classes") == "1 class"
    assert count(1040, "image") == "1,040 images"
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


# ---- the grid --------------------------------------------------------------------------------------
class CountingThumbs(Thumbs):
    """Never decodes; counts what is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def pixmap(self, image: ImageRef, side: int, *, crop: bool = True):
        self.asked.append(image.sha256)


@pytest.fixture
def thumbs(themed: QApplication) -> Iterator[CountingThumbs]:
    made = CountingThumbs()
    yield made
    made.close()


@pytest.fixture
def grid(thumbs: CountingThumbs, qtbot) -> ThumbnailGrid:
    made = ThumbnailGrid(thumbs)
    qtbot.addWidget(made)
    made.resize(698, 500)
    made.set_sections(sections_of(plain_task("t", classes=3, images=20)))
    made.show()
    qtbot.waitExposed(made)
    return made


def cell(grid: ThumbnailGrid, flat: int) -> QPoint:
    x, y = grid.map.position(flat)
    return QPoint(x + 10, y + 10 - grid.verticalScrollBar().value())


def test_a_hundred_thousand_pictures_cost_no_more_than_what_is_seen(
    grid: ThumbnailGrid, thumbs: CountingThumbs
) -> None:
    grid.set_sections(sections_of(plain_task("big", classes=20, images=5000)))
    thumbs.asked.clear()
    grid.repaint()
    assert 0 < len(thumbs.asked) <= 8 * 8, "only the cells on the screen are looked at"
    grid.verticalScrollBar().setValue(grid.verticalScrollBar().maximum())
    thumbs.asked.clear()
    grid.repaint()
    assert 0 < len(thumbs.asked) <= 8 * 8
    assert "big19-4999" in thumbs.asked
    QTest.keyClick(grid, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    assert len(grid.choice.chosen) == 100_000
    assert "100,000 selected" in grid.accessibleDescription()


def test_click_ctrl_shift(grid: ThumbnailGrid, qtbot) -> None:
    view = grid.viewport()
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, pos=cell(grid, 2))
    assert grid.selection() == [("c0", grid.sections[0].image(2))]
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, cell(grid, 5))
    assert grid.choice.chosen == {2, 3, 4, 5}
    qtbot.mouseClick(view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ControlModifier, cell(grid, 3))
    assert grid.choice.chosen == {2, 4, 5}


def test_a_rubber_band_selects_what_it_touches(grid: ThumbnailGrid, qtbot) -> None:
    view = grid.viewport()
    start, end = cell(grid, 1), cell(grid, 11)
    QTest.mousePress(view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, start)
    QTest.mouseMove(view, (start + end) / 2)
    QTest.mouseMove(view, end)
    QTest.mouseRelease(view, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, end)
    assert grid.choice.chosen == {1, 2, 3, 9, 10, 11}


def test_the_keyboard_goes_everywhere(grid: ThumbnailGrid, qtbot) -> None:
    QTest.keyClick(grid, Qt.Key.Key_Right)
    assert grid.choice.current == 0
    QTest.keyClick(grid, Qt.Key.Key_Down)
    QTest.keyClick(grid, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    assert grid.choice.chosen == {8, 9}
    QTest.keyClick(grid, Qt.Key.Key_End)
    assert grid.choice.current == 59
    top = grid.verticalScrollBar().value()
    assert top > 0, "it scrolls to the cursor"
    QTest.keyClick(grid, Qt.Key.Key_PageUp)
    assert grid.choice.current < 59
    QTest.keyClick(grid, Qt.Key.Key_Escape)
    assert grid.choice.chosen == set()
    with qtbot.waitSignal(grid.opened):
        QTest.keyClick(grid, Qt.Key.Key_Space)
    with qtbot.waitSignal(grid.zoomed) as zoomed:
        QTest.keyClick(grid, Qt.Key.Key_Plus)
    assert zoomed.args == [88]


def test_a_header_collapses_its_class_and_the_pinned_one_too(grid: ThumbnailGrid, qtbot) -> None:
    qtbot.mouseClick(grid.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(60, 15))
    assert grid.map.collapsed == {0}
    qtbot.mouseClick(grid.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(60, 15))
    assert grid.map.collapsed == frozenset()
    grid.verticalScrollBar().setValue(grid.map.tops[1] + 40)
    qtbot.mouseClick(grid.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(60, 15))
    assert grid.map.collapsed == {1}


def test_zooming_keeps_the_place(grid: ThumbnailGrid) -> None:
    grid.set_sections(sections_of(plain_task("big", classes=1, images=2000)))
    grid.verticalScrollBar().setValue(5000)
    rows = grid.map.rows(5000 + HEADER, 5000 + HEADER + 1)
    before = next(r.first for r in rows)
    grid.set_cell(150)
    top = grid.verticalScrollBar().value()
    after = next(r for r in grid.map.rows(top + HEADER, top + HEADER + 1))
    assert after.first <= before < after.last


def test_a_marked_picture_does_not_paint_over_its_neighbour(themed: QApplication, qtbot) -> None:
    class Red(CountingThumbs):
        def pixmap(self, image: ImageRef, side: int, *, crop: bool = True):
            made = QPixmap(side, side)
            made.fill(QColor("#CC2200"))
            return made

    thumbs = Red()
    grid = ThumbnailGrid(thumbs)
    qtbot.addWidget(grid)
    grid.resize(698, 300)
    grid.set_sections(sections_of(plain_task("t", classes=1, images=8)))
    grid.set_marks(frozenset({"t0-2"}))
    image = grid.grab().toImage()
    for flat in range(8):
        x, y = grid.map.position(flat)
        assert image.pixelColor(x + 30, y + 30).name() == "#cc2200", f"cell {flat} shows its picture"
    thumbs.close()


def test_a_picture_that_comes_repaints_only_its_place(grid: ThumbnailGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid.repaint()
    updated: list[QRect] = []
    monkeypatch.setattr(grid.viewport(), "update", lambda *a: updated.append(a[0] if a else None))
    grid.thumbs.ready.emit("t0-3")
    assert len(updated) == 1
    assert updated[0].width() <= 84
    grid.thumbs.ready.emit("somewhere else")
    assert len(updated) == 1


# ---- the room --------------------------------------------------------------------------------------
def png(shade: int, side: int = 12) -> bytes:
    rows = b"".join(b"\0" + bytes([(shade + x) % 256 for x in range(side)]) for _y in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "shapes"
    for c, name in enumerate(("disc", "star", "cross")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.png").write_bytes(png(c * 40 + i * 3))
    (root / "star" / "broken.png").write_bytes(b"")
    return root


@pytest.fixture
def room(state: AppState, qtbot) -> SourcesRoom:
    made = SourcesRoom(state)
    qtbot.addWidget(made)
    made.resize(1364, 816)
    made.show()
    qtbot.waitExposed(made)
    return made


def load(room: SourcesRoom, tasks: tuple[Task, ...], qtbot) -> None:
    room.state.set_tasks(tasks)
    qtbot.waitUntil(lambda: room.list.tasks.tasks == tasks)
    settle(room, qtbot)


def settle(room: SourcesRoom, qtbot) -> None:
    """Until nothing is being read, checked or about to be."""
    timers = room.findChildren(type(room._rebuild))
    qtbot.waitUntil(lambda: not room.state.lanes.busy("files") and not any(t.isActive() for t in timers))


def drop(widget, paths: list[Path]) -> QDropEvent:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(p)) for p in paths])
    actions = Qt.DropAction.CopyAction | Qt.DropAction.MoveAction
    buttons, modifiers = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter = QDragEnterEvent(QPoint(9, 9), actions, mime, buttons, modifiers)
    QApplication.sendEvent(widget, enter)
    assert enter.isAccepted()
    event = QDropEvent(QPointF(9, 9), actions, mime, buttons, modifiers)
    QApplication.sendEvent(widget, event)
    assert event.dropAction() is Qt.DropAction.CopyAction, "never moved, never linked"
    return event


def test_a_dropped_folder_becomes_a_task(room: SourcesRoom, folder: Path, qtbot) -> None:
    assert room.pages.currentWidget() is room.empty
    drop(room, [folder])
    qtbot.waitUntil(lambda: bool(room.state.tasks), timeout=20_000)
    settle(room, qtbot)
    task = room.state.tasks[0]
    assert (task.name, [c.name for c in task.classes]) == ("shapes", ["cross", "disc", "star"])
    assert room.pages.currentWidget() is room.work
    assert room.grid.map.counts == (4, 4, 4)
    assert room.task is task
    skipped = [f for f in room.checker.found[task.id] if f.kind == "skipped"]
    assert skipped
    assert skipped[0].text.startswith("broken.png is empty")
    assert room.list.tasks.amber[task.id] >= 1

    room.state.set_role(task.id, Role.VALIDATION)
    drop(room, [folder])
    settle(room, qtbot)
    assert len(room.state.tasks) == 1, "the same folder again is refreshed, not doubled"
    assert room.state.tasks[0].role is Role.VALIDATION, "and keeps its role"


def test_pasting_a_folder_loads_it(room: SourcesRoom, folder: Path, monkeypatch: pytest.MonkeyPatch, qtbot) -> None:
    seen: list[tuple[str, ...]] = []

    def scan(paths: tuple[str, ...], _ctx: Context) -> ScanResult:
        seen.append(paths)
        return ScanResult((plain_task("pasted"),), ())

    monkeypatch.setattr(jobs, "scan", scan)
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(folder)), QUrl("https://example.org/a.zip")])
    QApplication.clipboard().setMimeData(mime)
    room.setFocus()
    QTest.keyClick(room, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: bool(room.state.tasks))
    assert seen == [(str(folder),)], "an address is never fetched"
    settle(room, qtbot)


def test_tasks_appear_while_the_scan_still_runs(room: SourcesRoom, monkeypatch: pytest.MonkeyPatch, qtbot) -> None:
    go_on: list[bool] = []

    def scan(_paths: tuple[str, ...], ctx: Context) -> ScanResult:
        ctx.progress(1, None, "images")
        ctx.event(plain_task("first"))
        while not go_on:
            ctx.check()
        return ScanResult((plain_task("first"), plain_task("second")), ())

    monkeypatch.setattr(jobs, "scan", scan)
    room.state.add_folders(["/data"])
    qtbot.waitUntil(lambda: room.list.tasks.rowCount() == 1)
    go_on.append(True)
    qtbot.waitUntil(lambda: room.list.tasks.rowCount() == 2)
    settle(room, qtbot)


def test_a_refused_scan_is_a_message(room: SourcesRoom, monkeypatch: pytest.MonkeyPatch, qtbot) -> None:
    said = []
    room.state.message.connect(said.append)

    def scan(_paths: tuple[str, ...], _ctx: Context) -> ScanResult:
        raise WorkbenchError("z.zip was not opened", "there is nothing of that name", "Check the path")

    monkeypatch.setattr(jobs, "scan", scan)
    room.empty.dropped.emit(["/z.zip"])
    qtbot.waitUntil(lambda: bool(said))
    assert said[0].headline == "z.zip was not opened."
    settle(room, qtbot)


def test_the_role_switch_changes_the_task(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("a"), plain_task("b")), qtbot)
    press(room.details.roles, "Held out", qtbot)
    assert [t.role for t in room.state.tasks] == [Role.HELD_OUT, Role.TRAIN]
    settle(room, qtbot)


def press(parent, text: str, qtbot) -> None:
    found = [b for b in parent.findChildren(QPushButton) if b.text() == text and not b.isHidden()]
    assert found, f"no button {text!r} among {[b.text() for b in parent.findChildren(QPushButton)]}"
    qtbot.mouseClick(found[0], Qt.MouseButton.LeftButton)


def test_a_duplicate_is_fixed_by_its_button_and_the_fix_can_be_undone(room: SourcesRoom, qtbot) -> None:
    shared = make_task("t", {"a": ["x", *"123456"], "b": ["x", *"abcdef"], "c": [*"ghijkl"]})
    load(room, (shared,), qtbot)
    assert room.grid._marks == {"x"}
    press(room.details, "Keep in a", qtbot)
    assert "x" not in {i.sha256 for i in room.state.tasks[0].classes[1].images}
    assert "1 picture taken out" in room.strip.text()
    settle(room, qtbot)
    assert room.grid._marks == frozenset()
    qtbot.mouseClick(room.strip.action, Qt.MouseButton.LeftButton)
    assert room.state.tasks[0].classes == shared.classes
    settle(room, qtbot)


def test_what_was_found_since_a_fix_does_not_go_when_it_is_undone(room: SourcesRoom, qtbot) -> None:
    shared = make_task("t", {"a": ["x", *"123456"], "b": ["x", *"abcdef"]})
    load(room, (shared,), qtbot)
    press(room.details, "Keep in a", qtbot)
    again = make_task("t", {"a": ["x", *"1234567"], "b": ["x", *"abcdef"]})
    room.state.set_tasks((again,))
    qtbot.mouseClick(room.strip.action, Qt.MouseButton.LeftButton)
    assert room.state.tasks == (again,)
    assert "changed meanwhile" in room.strip.text()
    settle(room, qtbot)


def test_show_selects_the_pictures_of_a_finding_even_through_a_filter(room: SourcesRoom, qtbot) -> None:
    load(room, (make_task("t", {"a": ["x", *"123456"], "b": [*"abcdef", "x"]}),), qtbot)
    room.filter.setText("nothing has this name")
    qtbot.waitUntil(lambda: room.grid.map.cells == 0)
    assert room.pictures.nothing.isVisible()
    press(room.details, "Show", qtbot)
    assert [image.sha256 for _n, image in room.grid.selection()] == ["x", "x"]
    settle(room, qtbot)


def test_the_filter_narrows_and_escape_clears(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("t"),), qtbot)
    QTest.keyClick(room, Qt.Key.Key_F, Qt.KeyboardModifier.ControlModifier)
    room.filter.setFocus()
    QTest.keyClicks(room.filter, "c3 1.png")
    qtbot.waitUntil(lambda: room.grid.map.cells == 2)
    assert [i.name for _n, i in room.grid.items(range(2))] == ["1.png", "11.png"]
    QTest.keyClick(room.filter, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: room.grid.map.cells == 120)
    settle(room, qtbot)


def test_space_opens_the_large_view_and_arrows_go_on(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("t"),), qtbot)
    room.grid.setFocus()
    QTest.keyClick(room.grid, Qt.Key.Key_Right)
    QTest.keyClick(room.grid, Qt.Key.Key_Space)
    assert room.viewer.isVisible()
    assert room.viewer.accessibleName() == "0.png, c0"
    QTest.keyClick(room.viewer, Qt.Key.Key_Right)
    assert room.viewer.accessibleName() == "1.png, c0"
    QTest.keyClick(room.viewer, Qt.Key.Key_Space)
    assert room.viewer.isHidden()
    settle(room, qtbot)


def test_deleting_pictures_takes_them_out_of_their_class_only(room: SourcesRoom, qtbot) -> None:
    task = make_task("t", {"a": ["x", *"123456"], "b": ["x", *"abcdef"]})
    load(room, (task,), qtbot)
    qtbot.mouseClick(room.grid.viewport(), Qt.MouseButton.LeftButton, pos=cell(room.grid, 0))
    QTest.keyClick(room.grid, Qt.Key.Key_Delete)
    assert [[i.sha256 for i in c.images][:1] for c in room.state.tasks[0].classes] == [["1"], ["x"]]
    settle(room, qtbot)


def test_removing_a_task_can_be_undone(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("a"), plain_task("b"), plain_task("c")), qtbot)
    room.list.choose(1)
    assert room.task is not None
    QTest.keyClick(room.list, Qt.Key.Key_Delete)
    assert [t.name for t in room.state.tasks] == ["a", "c"]
    settle(room, qtbot)
    assert room.task.name == "c"
    qtbot.mouseClick(room.strip.action, Qt.MouseButton.LeftButton)
    assert [t.name for t in room.state.tasks] == ["a", "b", "c"]
    settle(room, qtbot)
    assert room.task.name == "b"


def test_the_episode_that_train_keeps_decides_what_is_ready(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("t"),), qtbot)
    assert room.episode == check.Episode(5, 1, 15)
    room.state.setProperty("episode", (7, 5, 10))
    room.hide()
    room.show()
    settle(room, qtbot)
    kinds = {f.kind for f in room.checker.found[room.task.id]}
    assert "few-classes" in kinds, "six classes are too few for seven ways"


def test_many_pictures_are_checked_on_a_lane(room: SourcesRoom, qtbot) -> None:
    big = make_task("big", {f"c{c}": [f"{c}-{i}" for i in range(800)] for c in range(5)})
    twin = make_task("twin", {"z": ["0-7", *"abcdefghijklmnopqr"]}, Role.HELD_OUT)
    titles = []
    room.state.lanes.job_started.connect(lambda job: titles.append(job.title))
    load(room, (big, twin), qtbot)
    assert "Checking the sources" in titles
    assert "duplicate-roles" in {f.kind for f in room.checker.found[big.id]}


def test_skipped_files_are_listed_with_their_reasons(room: SourcesRoom, qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
    room.state.set_problems(Problem(f"/data/t/c0/{i}.png", "is empty", "error") for i in range(2))
    load(room, (plain_task("t"),), qtbot)
    press(room.details, "List files", qtbot)
    dialog = room.findChild(FilesDialog)
    assert dialog is not None
    assert dialog.table.rowCount() == 2
    press(dialog, "Copy list", qtbot)
    assert QApplication.clipboard().text() == "/data/t/c0/0.png\tis empty\n/data/t/c0/1.png\tis empty"
    shown: list[str] = []
    monkeypatch.setattr(dialog, "_show", shown.append)
    dialog.table.selectRow(1)
    press(dialog, "Show file", qtbot)
    assert shown == ["/data/t/c0/1.png"]
    dialog.reject()
    settle(room, qtbot)


def test_copying_puts_files_on_the_clipboard(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("t"),), qtbot)
    room.grid.setFocus()
    QTest.keyClick(room.grid, Qt.Key.Key_Right)
    QTest.keyClick(room.grid, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    QTest.keyClick(room.grid, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    urls = QApplication.clipboard().mimeData().urls()
    assert [u.toLocalFile() for u in urls] == ["/data/t/c0/0.png", "/data/t/c0/1.png"]
    settle(room, qtbot)


def test_the_search_reveals_a_class(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("a"), plain_task("b", images=200)), qtbot)
    room.reveal("class", "b\nc4")
    assert room.task.name == "b"
    assert room.grid.verticalScrollBar().value() == room.grid.map.tops[4]
    settle(room, qtbot)


def test_every_control_has_an_accessible_name(room: SourcesRoom, qtbot) -> None:
    load(room, (plain_task("t"),), qtbot)
    for made in room.findChildren(QPushButton):
        assert made.accessibleName() or made.text(), made
    for widget in (room.grid, room.list, room.filter, room.zoom, room.details.roles):
        assert widget.accessibleName()
    settle(room, qtbot)


def test_it_paints_in_both_themes_and_sizes(room: SourcesRoom, themed: QApplication, qtbot) -> None:
    load(room, (make_task("t", {"a": ["x", *"123456"], "b": ["x", *"abcdef"]}), plain_task("u")), qtbot)
    for name in ("light", "dark"):
        theme.apply(themed, name)
        for size in ((1364, 816), (948, 616)):
            room.resize(*size)
            qtbot.wait(1)
            image = room.grab().toImage()
            assert (image.width(), image.height()) == size, "nothing forces the window wider"
            assert image.pixelColor(4, 4).name().upper() == theme.tokens().window
            marker = room.grid.viewport().mapTo(room, QPoint(46, 18))
            assert image.pixelColor(marker) == theme.class_colour(0), "the class keeps its colour"
            row = room.list.viewport().mapTo(room, QPoint(1, 20))
            assert image.pixelColor(row).name().upper() == theme.tokens().accent, "the current task has its edge"
    theme.apply(themed, "light")
    settle(room, qtbot)


def test_a_task_of_another_kind_is_found_and_can_be_held_out(room: SourcesRoom, qtbot) -> None:
    photos = replace(
        plain_task("photos", classes=3),
        classes=tuple(TaskClass(f"c{c}", tuple(ref(f"p{c}{i}.jpg") for i in range(20))) for c in range(3)),
    )
    tasks = (plain_task("a"), photos, plain_task("b"))
    found = find(tasks, number=1)["other-kind"]
    assert found.title == "Photographs, while most tasks hold drawings"
    assert "other-kind" not in find(tasks, number=0)
    room.state.set_tasks(tasks)
    qtbot.waitUntil(lambda: len(room.checker.found) == 3)
    room.list.setCurrentIndex(room.list.tasks.index(1, 0))
    room.fix(found.fixes[0], found)
    assert [t.role for t in room.state.tasks] == [Role.TRAIN, Role.HELD_OUT, Role.TRAIN]
    qtbot.waitUntil(lambda: not any(f.kind == "other-kind" for f in room.checker.found[photos.id]))
