"""The Train room: its values and words, then the room with real events and jobs that stand in for training."""

from __future__ import annotations

import io
import shlex
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from PIL import Image
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QCheckBox, QFileDialog, QPushButton, QRadioButton

from workbench.cli.parser import build as build_parser
from workbench.core.context import Context, Metric, Progress
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.params import FieldSpec
from workbench.core.training import EpisodeView, TrainRequest, TrainResult
from workbench.core.values import (
    AlgorithmInfo,
    EntryId,
    ImageRef,
    KnowledgeEntry,
    Preprocess,
    Role,
    RunId,
    Task,
    TaskClass,
    TaskId,
    Validation,
)
from workbench.project import runs as store
from workbench.services import jobs
from workbench.services.requests import AlgorithmRow, BackboneRow, Catalogue, DeviceRow, Recommendation
from workbench.ui import state as state_module
from workbench.ui import theme
from workbench.ui.rooms.train import setup as forms
from workbench.ui.rooms.train.fields import Entry, Form
from workbench.ui.rooms.train.history import Curves, done_words, rows_of, setup_of
from workbench.ui.rooms.train.menus import CardDialog, facts
from workbench.ui.rooms.train.pace import Pace, end_words, left_words, phase_of, speed_words
from workbench.ui.rooms.train.room import TrainRoom
from workbench.ui.rooms.train.rows import RunRow, time_words
from workbench.ui.rooms.train.runs_table import Column, RunsTable
from workbench.ui.rooms.train.setup import Setup
from workbench.ui.rooms.train.weights import WeightsDialog
from workbench.ui.state import AppState, Message

FIELDS = (
    FieldSpec("inner_lr", "Inner learning rate", "float", 0.01, 1e-4, 1.0, 0.01, (), "Step on the support set."),
    FieldSpec("steps", "Inner steps", "int", 5, 1, 50, 1, (), "Gradient steps."),
    FieldSpec("first_order", "First order", "bool", False, None, None, None, (), "Leave out second derivatives."),
    FieldSpec("head", "Head", "choice", "prototype", None, None, None, ("prototype", "textbook"), "The last layer."),
)


def info(key: str, title: str, family: str) -> AlgorithmInfo:
    return AlgorithmInfo(key, title, family, "A. Author 2020", f"What {title} does.", frozenset({"trains"}))


CATALOGUE = Catalogue(
    (
        AlgorithmRow(info("protonet", "ProtoNet", "metric"), ()),
        AlgorithmRow(info("maml", "MAML", "optimisation"), FIELDS),
        AlgorithmRow(info("reptile", "Reptile", "optimisation"), FIELDS[:2]),
    ),
    (
        BackboneRow("conv4", "Conv-4-64", 112_000, "any size", 84, 0, "", "", False),
        BackboneRow(
            "resnet18", "ResNet-18", 11_000_000, "colour", 224, 46_830_571, "BSD-3-Clause", "example.org", False
        ),
    ),
)
RECOMMENDED = (
    Recommendation("protonet", "conv4", 28, "Mean of the examples", 5.0, False),
    Recommendation("maml", "conv4", 28, "Takes steps", 15.0, False),
)


def make_task(
    name: str, classes: int = 10, images: int = 20, role: Role = Role.TRAIN, suffix: str = "png", side: int = 28
) -> Task:
    made = tuple(
        TaskClass(
            f"c{c}",
            tuple(
                ImageRef(f"/data/{name}/c{c}/{i}.{suffix}", "", f"{name}{c}-{i}", 9, side, side) for i in range(images)
            ),
        )
        for c in range(classes)
    )
    return Task(TaskId(name), name, f"/data/{name}", made, (), role)


TASKS = (make_task("greek"), make_task("latin", classes=24), make_task("runic", role=Role.VALIDATION))


# ---- the form as values ----------------------------------------------------------------------------
def test_a_range_is_read_and_written() -> None:
    assert forms.parse_range("5", 2) == (5, 5)
    assert forms.parse_range(" 5 - 20 ", 2) == (5, 20)
    assert forms.range_text((5, 20)) == "5-20"
    for text, reason in (
        ("", "A number"),
        ("x", "A number"),
        ("1", "At least 2"),
        ("9-5", "larger"),
        ("1-2-3", "A number"),
    ):
        with pytest.raises(ValueError, match=reason):
            forms.parse_range(text, 2)


def test_what_is_not_possible_is_said_by_field() -> None:
    assert forms.reasons(Setup(), TASKS, ()) == {}
    assert forms.reasons(Setup(ways=(40, 40)), TASKS, ()) == {"ways": "Largest task: 24 classes"}
    assert forms.reasons(Setup(ways=(30, 30), across_tasks=True), TASKS, ()) == {}
    assert forms.reasons(Setup(ways=(40, 40), rotations=True), TASKS, ()) == {}, "turned classes count"
    assert forms.reasons(Setup(shots=(20, 20)), TASKS, ()) == {"shots": "Largest class: 20 images"}
    assert forms.reasons(Setup(queries=100), TASKS, ()) == {}, "a class with fewer pictures is asked less"
    assert "sources" in forms.reasons(Setup(), (TASKS[2],), ()), "validation alone cannot be learnt from"
    assert forms.reasons(Setup(size=4), TASKS, ()) == {"size": "Between 8 and 1024 pixels"}
    assert forms.reasons(Setup(params={"steps": 99}), TASKS, FIELDS) == {"steps": "At most 50"}


def test_the_request_holds_what_the_form_holds() -> None:
    setup = Setup(
        "maml",
        {"steps": 3},
        "conv4",
        28,
        "grey",
        False,
        (5, 20),
        (1, 5),
        7,
        True,
        True,
        "episodes",
        1.0,
        900,
        11,
        "cpu",
    )
    request = forms.request(setup, TASKS, "")
    assert (request.episodes, request.minutes) == (900, None)
    assert (request.ways, request.shots, request.queries) == ((5, 20), (1, 5), 7)
    assert request.sources == TASKS
    assert request.params == {"steps": 3}
    assert forms.request(Setup(precision="bf16"), TASKS, "").precision == "bf16"
    assert setup_of(replace(request, precision="bf16")).precision == "bf16"
    assert setup_of(request) == setup if setup.minutes == 5.0 else True
    assert forms.request(Setup(), TASKS, "").minutes == 5.0


def test_the_command_is_understood_by_the_command_line() -> None:
    setup = Setup(
        "maml",
        {"steps": 3},
        ways=(5, 20),
        rotations=True,
        across_tasks=True,
        unit="episodes",
        episodes=900,
        seed=4,
        precision="bf16",
    )
    tasks = (make_task("with space"), *TASKS)
    words = shlex.split(forms.command(setup, tasks))
    assert words[0] == "workbench"
    parsed = build_parser().parse_args(words[1:])
    assert parsed.folders == ["/data/with space", "/data/greek", "/data/latin"]
    assert parsed.validation == ["/data/runic"]
    assert (parsed.ways, parsed.episodes, parsed.seed) == ((5, 20), 900, 4)
    assert parsed.rotations
    assert parsed.across_tasks
    assert parsed.precision == "bf16"
    assert [tuple(s) for s in parsed.settings] == [("steps", "3")]


def test_speed_and_time_in_words() -> None:
    pace = Pace()
    assert pace.per_second is None
    pace.take([Metric("train/loss", n * 3, 1.0, n * 0.5) for n in range(1, 101)])
    assert pace.per_second == pytest.approx(6.0)
    assert [speed_words(v) for v in (None, 3.14, 0.256, 1234.5)] == ["–", "3.1", "0.26", "1,234"]
    assert [left_words(v) for v in (None, 0.2, 40, 2100, 6000)] == ["–", "1 s", "40 s", "35 min", "1 h 40 min"]
    now = datetime(2026, 11, 17, 15, 7, tzinfo=UTC)
    assert end_words(2100, now) == "ends about 15:42"
    assert end_words(36_000, now) == "ends about 18 Nov, 01:07"
    assert [time_words(s) for s in (12, 1500, 3600, 8400)] == ["12 s", "25 min", "60 min", "2 h 20 min"]


# ---- inputs ----------------------------------------------------------------------------------------
@pytest.fixture
def form(themed: QApplication, qtbot) -> Form:
    made = Form()
    qtbot.addWidget(made)
    made.resize(600, 300)
    made.set_fields(FIELDS, {"steps": 7})
    made.show()
    qtbot.waitExposed(made)
    return made


def line_of(form: Form, name: str) -> Entry:
    entry = form.inputs[name]
    assert isinstance(entry, Entry)
    return entry


def test_a_form_is_made_from_the_fields(form: Form) -> None:
    assert list(form.inputs) == ["inner_lr", "steps", "first_order", "head"]
    assert line_of(form, "steps").line.text() == "7"
    assert form.overrides() == {"steps": 7}
    assert form.inputs["inner_lr"].toolTip() == "Step on the support set."
    form.inputs["first_order"].setChecked(True)  # type: ignore[attr-defined]
    form.inputs["head"].setCurrentText("Textbook")  # type: ignore[attr-defined]
    assert form.overrides() == {"steps": 7, "first_order": True, "head": "textbook"}


def test_an_impossible_value_is_marked_with_its_reason(form: Form, qtbot) -> None:
    entry = line_of(form, "steps")
    entry.line.selectAll()
    with qtbot.waitSignal(form.changed):
        QTest.keyClicks(entry.line, "99")
    assert form.wrong() == {"steps": "At most 50"}
    assert entry.caption.isVisible()
    assert entry.line.property("wrong") == "true"
    assert entry.line.accessibleDescription() == "At most 50"
    entry.line.selectAll()
    QTest.keyClicks(entry.line, "1.5")
    assert form.wrong() == {"steps": "A whole number is needed"}
    entry.line.selectAll()
    QTest.keyClicks(entry.line, "9")
    assert form.wrong() == {}
    assert form.overrides() == {"steps": 9}
    assert entry.line.property("wrong") == "false"


def test_arrow_keys_step_within_the_range(form: Form) -> None:
    entry = line_of(form, "inner_lr")
    QTest.keyClick(entry.line, Qt.Key.Key_Up)
    assert entry.value() == pytest.approx(0.02)
    QTest.keyClick(entry.line, Qt.Key.Key_PageDown)
    assert entry.value() == pytest.approx(1e-4), "not below the smallest"
    steps = line_of(form, "steps")
    QTest.keyClick(steps.line, Qt.Key.Key_PageUp)
    assert steps.value() == 17


# ---- runs ------------------------------------------------------------------------------------------
def run_of(
    number: int, state: str = "done", accuracy: float | None = 0.75, folder: Path = Path("/nowhere")
) -> store.TrainRun:
    return store.TrainRun(
        RunId(f"{number:04d}-abc123"),
        folder,
        "",
        "maml",
        "conv4",
        state,  # type: ignore[arg-type]
        "the disk is full" if state == "failed" else "",
        EntryId("e1"),
        "2026-11-17T10:00:00+00:00",
        1500.0,
        900,
        Validation("classes", accuracy, 0.01, 600) if accuracy is not None else None,
    )


def test_rows_of_runs_use_titles_and_clip_the_interval() -> None:
    (row,) = rows_of([run_of(14, accuracy=0.995)], CATALOGUE)
    assert (row.name, row.algorithm, row.backbone) == ("Run 14", "MAML", "Conv-4-64")
    assert (row.low, row.high) == (pytest.approx(0.985), 1.0)
    assert row.day == "17 Nov"
    assert [
        r.resumable for r in rows_of([run_of(1, s) for s in ("done", "stopped", "interrupted", "failed")], None)
    ] == [
        False,
        True,
        True,
        True,
    ]


@pytest.fixture
def table(themed: QApplication, qtbot) -> RunsTable:
    made = RunsTable()
    qtbot.addWidget(made)
    made.resize(824, 240)
    made.runs.set_rows(rows_of([run_of(3), run_of(2, "failed", None), run_of(1, "interrupted")], CATALOGUE))
    made.show()
    qtbot.waitExposed(made)
    return made


def test_the_table_says_everything_in_words(table: RunsTable) -> None:
    words = [table.runs.data(table.runs.index(0, c)) for c in Column]
    assert words == ["Run 3", "MAML", "Conv-4-64", "0.750 (0.740–0.760)", "25 min", "Done"]
    assert table.runs.data(table.runs.index(1, Column.STATE), Qt.ItemDataRole.ToolTipRole) == "the disk is full"
    assert table.runs.data(table.runs.index(1, Column.ALGORITHM), Qt.ItemDataRole.ToolTipRole) == "MAML"
    assert "Run 3" in table.runs.data(table.runs.index(0, Column.RUN), Qt.ItemDataRole.ToolTipRole)
    assert table.runs.headerData(Column.ACCURACY, Qt.Orientation.Horizontal) == "Validation accuracy, 600 episodes"


def test_the_eye_toggles_by_pointer_and_by_space(table: RunsTable, qtbot) -> None:
    seen: list[str] = []
    table.eye_clicked.connect(seen.append)
    box = table.visualRect(table.runs.index(1, Column.RUN))
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(box.left() + 22, box.center().y()))
    assert seen == ["0002-abc123"]
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(box.left() + 60, box.center().y()))
    assert table.current().id == "0002-abc123"
    QTest.keyClick(table, Qt.Key.Key_Down)
    QTest.keyClick(table, Qt.Key.Key_Space)
    assert seen == ["0002-abc123", "0001-abc123"]


def test_narrow_tables_drop_columns(table: RunsTable, qtbot) -> None:
    table.resize(500, 240)
    qtbot.waitUntil(lambda: table.isColumnHidden(Column.BACKBONE) and table.isColumnHidden(Column.TIME))
    assert not table.isColumnHidden(Column.ACCURACY)


def test_rows_that_only_change_keep_the_cursor(table: RunsTable) -> None:
    table.setCurrentIndex(table.runs.index(2, 0))
    rows = list(table.runs.rows)
    table.runs.set_rows([RunRow(**{f: getattr(rows[0], f) for f in RunRow.__slots__} | {"accuracy": 0.9}), *rows[1:]])
    assert table.currentIndex().row() == 2
    assert table.runs.rows[0].accuracy == 0.9


# ---- the room --------------------------------------------------------------------------------------
class Training:
    """Stands in for ``jobs.train``: runs until it is told what to do."""

    def __init__(self) -> None:
        self.requests: list[TrainRequest] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None
        self.learnt = True

    def __call__(self, request: TrainRequest, project: Path, ctx: Context) -> TrainResult:
        self.requests.append(request)
        self.say(ctx)
        self.began.set()
        stopped = False
        try:
            while not self.go_on.is_set():
                ctx.check()
                time.sleep(0.005)
        except JobCancelledError:
            stopped = True
            if not self.learnt:
                raise
        if self.error is not None:
            raise self.error
        return TrainResult(entry_of(), "/somewhere", RunId("0001-abc123"), 120, 61.0, stopped)

    def say(self, ctx: Context) -> None:
        for n in range(1, 13):
            ctx.metric("train/loss", n * 10, 2.0 / n)
            ctx.metric("train/accuracy", n * 10, n / 13)
        ctx.metric("validation/loss", 100, 0.4)
        ctx.metric("validation/accuracy", 100, 0.782, 0.771, 0.793)
        ctx.progress(120, 1200, "episodes", 540.0)
        ctx.event(episode())


def entry_of() -> KnowledgeEntry:
    return KnowledgeEntry(
        EntryId("e1"), "ProtoNet on greek", "protonet", {}, "conv4", Preprocess(), (5, 5), (1, 1), (),
        Validation("classes", 0.81, 0.02, 600), "", "2026-01-01", {}, {"episodes": 120, "versions": {"torch": "2.15"}},
    )  # fmt: skip


def episode() -> EpisodeView:
    data = io.BytesIO()
    Image.new("L", (28, 28), 120).save(data, "PNG")
    png = data.getvalue()
    queries = tuple(tuple((png, c != 1 or q != 2) for q in range(8)) for c in range(5))
    return EpisodeView(120, "greek", tuple("abcde"), tuple((png,) for _ in range(5)), queries)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    made = Training()
    monkeypatch.setattr(jobs, "train", made)
    return made


@pytest.fixture
def room(state: AppState, qtbot, monkeypatch: pytest.MonkeyPatch) -> TrainRoom:
    monkeypatch.setattr(jobs, "catalogue", lambda ctx: CATALOGUE)
    monkeypatch.setattr(jobs, "recommend", lambda tasks, ctx: RECOMMENDED if tasks.tasks else ())
    monkeypatch.setattr(jobs, "devices", lambda ctx: (DeviceRow("cpu", "CPU", True, 900.0, True, ""),))
    monkeypatch.setattr(state_module, "_runs", lambda *_: tuple(state.runs))
    monkeypatch.setattr(state_module, "_entries", lambda *_: tuple(state.entries))
    state.set_tasks(TASKS)
    made = TrainRoom(state)
    qtbot.addWidget(made)
    made.resize(1364, 816)
    made.show()
    qtbot.waitExposed(made)
    qtbot.waitUntil(lambda: made.monitor.loss is not None and len(made.recommendations) == 2, timeout=20_000)
    settle(made, qtbot)
    return made


def settle(room: TrainRoom, qtbot) -> None:
    timers = [room._later, room.monitor._second]
    lanes = room.state.lanes
    qtbot.waitUntil(
        lambda: (
            not any(lanes.busy(n) for n in ("train", "files", "loading", "adapt"))
            and not any(t.isActive() for t in timers)
        )
    )


def begin(room: TrainRoom, training: Training, qtbot) -> None:
    qtbot.mouseClick(room.start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: training.began.is_set() and room.monitor.gallery.view is not None)
    qtbot.waitUntil(lambda: not room.monitor._second.isActive() and room.monitor.figure_episodes.value() == "120")


def finish(room: TrainRoom, training: Training, qtbot) -> None:
    training.go_on.set()
    qtbot.waitUntil(lambda: not room.running)
    settle(room, qtbot)


def test_the_first_recommendation_is_taken(room: TrainRoom) -> None:
    assert [c.title for c in room.recommended.cards] == ["ProtoNet", "MAML"]
    assert room.recommended.cards[0].isChecked()
    assert room.strip_.chips["sources"].value == "2 tasks, 1 for validation"
    assert room.strip_.chips["backbone"].value == "Conv-4-64, 28 px"
    assert room.strip_.chips["budget"].value == "5 min"
    assert room.start.isEnabled()
    assert room.pause.isHidden()
    assert tuple(room.state.property("episode")) == (5, 1, 15)


def test_another_card_is_chosen_by_pointer_and_by_arrow(room: TrainRoom, qtbot) -> None:
    qtbot.mouseClick(room.recommended.cards[1], Qt.MouseButton.LeftButton, pos=QPoint(200, 40))
    assert room.setup.algorithm == "maml"
    assert room.setup.minutes == 15.0
    room.recommended.cards[1].setFocus()
    QTest.keyClick(room.recommended.cards[1], Qt.Key.Key_Left)
    assert room.setup.algorithm == "protonet"
    settle(room, qtbot)


def test_start_trains_what_the_form_says(room: TrainRoom, training: Training, qtbot) -> None:
    begin(room, training, qtbot)
    request = training.requests[0]
    assert (request.algorithm, request.size, request.minutes) == ("protonet", 28, 5.0)
    assert request.sources == TASKS
    assert request.command.startswith("workbench train /data/greek /data/latin")
    finish(room, training, qtbot)


def test_a_run_is_seen_while_it_goes(room: TrainRoom, training: Training, qtbot) -> None:
    begin(room, training, qtbot)
    monitor = room.monitor
    assert monitor.figure_accuracy.value() == "0.782"
    assert monitor.figure_accuracy.beside() == "(0.771–0.793)"
    assert monitor.figure_episodes.beside() == "of about 1,200"
    assert monitor.figure_left.value() == "9 min"
    assert "train" in monitor.loss.curves
    assert monitor.loss.curves["train"].series.n == 12
    assert monitor.accuracy.curves["validation"].series.banded
    assert monitor.shaded.isVisible()
    assert monitor.loss.expected == 1200
    assert "meta-train" in monitor.loss.accessibleDescription()
    assert (monitor.gallery.right, monitor.gallery.wrong) == (39, 1)
    assert "39 of 40 queries right" in monitor.gallery.accessibleDescription()
    assert room.start.text() == "Stop and keep the best"
    assert room.pause.isVisible()
    assert all(chip.locked for chip in room.strip_.chips.values())
    qtbot.mouseClick(room.strip_.chips["budget"], Qt.MouseButton.LeftButton)
    assert room.strip_.chips["budget"].popover is None, "nothing can be changed while it runs"
    finish(room, training, qtbot)
    assert not any(chip.locked for chip in room.strip_.chips.values())


def test_metrics_come_in_batches_with_one_set_data_per_curve(
    room: TrainRoom, training: Training, qtbot, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    batches: list[int] = []
    room.state.lanes.metrics.connect(lambda _job, metrics: batches.append(len(metrics)))
    for key, curve in room.monitor.loss.curves.items():
        monkeypatch.setattr(curve.line, "setData", lambda *a, key=key: drawn.append(key))
    qtbot.mouseClick(room.start, Qt.MouseButton.LeftButton)
    drawn.clear()  # the curves of the run before were emptied
    qtbot.waitUntil(lambda: sum(batches) == 26)
    assert drawn == ["train", "validation"] * len(batches), "not once per number"
    finish(room, training, qtbot)


def test_the_gallery_counts_what_it_does_not_show_too(room: TrainRoom) -> None:
    monitor = room.monitor
    monitor.show_episode(replace(episode(), ways=20, right=251, wrong=49), 15)
    assert (monitor.gallery.right, monitor.gallery.wrong) == (251, 49)
    assert "251 of 300 queries right" in monitor.gallery.accessibleDescription()
    assert [monitor._right.text(), monitor._wrong.text()] == ["251 right", "49 wrong"]
    assert "of 20 classes" in monitor.gallery.hidden_words()
    monitor.show_episode(replace(episode(), ways=5, right=51, wrong=14), 15)
    assert monitor.gallery.hidden_words().startswith("8 of 13 shown"), "13 were asked, as each class has 14 pictures"


def test_what_was_said_of_a_run_goes_when_the_next_one_begins(room: TrainRoom, training: Training, qtbot) -> None:
    room.show_message("good", "The run before is ready.")
    assert room.strip.isVisible()
    begin(room, training, qtbot)
    assert not room.strip.isVisible()
    finish(room, training, qtbot)


def test_the_phase_of_a_run_is_named(room: TrainRoom, training: Training, qtbot) -> None:
    begin(room, training, qtbot)
    assert "now:" not in room.subtitle()
    room.job.ctx.status("training: pretraining")
    qtbot.waitUntil(lambda: "from 2 tasks, now: pretraining; the best" in room.subtitle())
    assert [phase_of(s, "pretraining") for s in ("validating", "training: episodes")] == ["pretraining", "episodes"]
    assert phase_of("training", "x") == phase_of("validating", "") == ""
    finish(room, training, qtbot)


def test_each_phase_is_seen_for_what_it_is(room: TrainRoom) -> None:
    monitor = room.monitor
    monitor.clear()
    monitor.set_chance(0.2)
    assert monitor.gallery.waiting == "The episode in training appears here"
    monitor.take([Metric("phase/batches/pretraining", 0, 1.0, 0.0)])
    assert monitor.gallery.waiting.startswith("This phase is fed pictures of all classes at once; episodes appear")
    assert monitor.gallery.waiting in monitor.gallery.accessibleDescription()
    monitor.take([Metric(f"train/{kind}", n, 0.01, n) for n in range(1, 40) for kind in ("loss", "accuracy")])
    assert monitor.accuracy.reference_spans == [], "among all classes guessing is right less often"
    later = [Metric("phase/episodes/episodes", 39, 0.0, 40.0)]
    later += [Metric(f"train/{kind}", n, 0.9, n) for n in range(40, 60) for kind in ("loss", "accuracy")]
    monitor.take(later)
    assert monitor.gallery.waiting == "The episode in training appears here"
    assert [at for at, _end in monitor.accuracy.reference_spans] == [39]
    for plot in (monitor.loss, monitor.accuracy):
        assert plot.curves["train"].series.begins == [0, 39]
        assert plot.curves["train"].series.smooth[39] == pytest.approx(0.9), "nothing of the phase before"
    monitor.show_episode(episode())
    monitor.take([Metric("phase/per_source/sources", 60, 0.0, 61.0)])
    assert monitor.gallery.view is None
    assert monitor.gallery.waiting.endswith("one source at a time; there is no episode to show")
    monitor.take([Metric("phase/sequences/sequences", 70, 0.0, 71.0)])
    assert [at for at, _end in monitor.accuracy.reference_spans] == [39, 70]
    monitor.set_chance(None)
    assert monitor.accuracy.reference is None, "the ways differ from one episode to the next"
    monitor._second.stop()


def test_a_learned_optimiser_is_drawn_beside_tuned_ones(room: TrainRoom) -> None:
    monitor = room.monitor
    monitor.clear()
    plain = set(monitor.loss.curves)
    monitor.take([Metric("train/loss", 1, 1.5, 1.0), Metric("train/accuracy", 1, 0.4, 1.0)])
    assert set(monitor.loss.curves) == plain, "other methods have no such curves"
    for n in range(10, 60, 10):
        names = ("loss", "examples_learned", "examples_adam", "examples_sgd")
        monitor.take([Metric(f"train/{name}", n, 1.0 / n + at, n) for at, name in enumerate(names)])
    assert [list(monitor.loss.curves[f"examples_{o}"].series.y) for o in ("learned", "adam", "sgd")] == [
        [1.0 / n + at for n in range(10, 60, 10)] for at in (1, 2, 3)
    ]
    assert "examples, Adam 2." in monitor.loss.summary()
    assert not set(monitor.accuracy.curves) - plain
    monitor.clear()
    assert set(monitor.loss.curves) == plain
    monitor._second.stop()


def test_an_earlier_run_of_two_phases_is_cut_between_them(room: TrainRoom) -> None:
    metrics = [Metric("phase/batches/pretraining", 0, 1.0, 0.0)]
    metrics += [Metric("train/loss", n, 6.0, n) for n in range(1, 11)]
    metrics += [Metric("phase/episodes/episodes", 10, 0.0, 10.0)]
    metrics += [Metric("train/loss", n, 0.5, n) for n in range(11, 21)]
    (row,) = rows_of([run_of(3)], CATALOGUE)
    room.monitor.add_overlay(row, Curves(row.id, tuple(metrics)))
    assert room.monitor.loss.curves[row.id].series.begins == [0, 10]


def state_words(room: TrainRoom, number: int = 0) -> str:
    runs = room.monitor.runs.runs
    return str(runs.data(runs.index(number, Column.STATE)))


def test_pause_and_go_on(room: TrainRoom, training: Training, qtbot) -> None:
    begin(room, training, qtbot)
    qtbot.mouseClick(room.pause, Qt.MouseButton.LeftButton)
    assert room.job.paused
    assert room.pause.text() == "Resume"
    qtbot.waitUntil(lambda: room.monitor.figure_speed.beside() == "paused")
    room.state.set_runs((run_of(3, "running"),))
    assert state_words(room) == "Paused"
    qtbot.mouseClick(room.pause, Qt.MouseButton.LeftButton)
    assert not room.job.paused
    assert room.pause.text() == "Pause"
    qtbot.waitUntil(lambda: state_words(room) == "Running")
    room.job.pause()
    qtbot.waitUntil(lambda: state_words(room) == "Paused")
    room.job.resume()
    finish(room, training, qtbot)


def test_stopping_says_that_it_finishes_the_step_and_keeps_the_best(room: TrainRoom, training: Training, qtbot) -> None:
    said: list[Message] = []
    room.state.message.connect(said.append)
    begin(room, training, qtbot)
    qtbot.mouseClick(room.start, Qt.MouseButton.LeftButton)
    assert room.start.text() == "Finishing this step"
    assert not room.start.isEnabled()
    qtbot.waitUntil(lambda: bool(said))
    assert said[0].kind == "good"
    assert said[0].headline == "Stopped; the best of ProtoNet on greek is kept."
    settle(room, qtbot)


def test_stopping_before_anything_was_learnt_keeps_nothing(room: TrainRoom, training: Training, qtbot) -> None:
    said: list[Message] = []
    room.state.message.connect(said.append)
    training.learnt = False
    begin(room, training, qtbot)
    qtbot.mouseClick(room.start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(said))
    assert said[0].headline == "Stopped."
    assert room.start.text() == "Start"
    settle(room, qtbot)


def test_a_finished_run_offers_to_teach(room: TrainRoom, training: Training, qtbot) -> None:
    said: list[Message] = []
    room.state.message.connect(said.append)
    rooms: list[str] = []
    room.state.room_changed.connect(rooms.append)
    begin(room, training, qtbot)
    finish(room, training, qtbot)
    assert said[0].headline == "ProtoNet on greek is ready."
    assert said[0].detail == "Validation accuracy 0.810 (0.790–0.830), 120 episodes, 61 s." or "min" in said[0].detail
    assert said[0].action_text == "Teach a class"
    said[0].callback()
    assert rooms == ["teach"]
    assert room.monitor.figure_accuracy.value() == "0.810", "the accuracy of what was kept"
    assert room.monitor.loss.curves["train"].line.opts["pen"].widthF() == 2.0


def test_a_refusal_is_a_message(room: TrainRoom, training: Training, qtbot) -> None:
    said: list[Message] = []
    room.state.message.connect(said.append)
    training.error = WorkbenchError(
        "The run stopped at episode 7", "train/loss became nan", "Use a smaller learning rate"
    )
    begin(room, training, qtbot)
    finish(room, training, qtbot)
    assert (said[0].kind, said[0].headline) == ("bad", "The run stopped at episode 7.")
    assert room.start.isEnabled()


def test_numbers_before_the_plots_are_loaded_are_drawn_later(
    state: AppState, qtbot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "catalogue", lambda ctx: CATALOGUE)
    monkeypatch.setattr(jobs, "recommend", lambda tasks, ctx: ())
    room = TrainRoom(state)
    qtbot.addWidget(room)
    assert room.monitor.loss is None
    room.monitor.take([Metric("train/loss", n, 1.0, n) for n in range(5)])
    room.monitor.plots_loaded()
    assert room.monitor.loss.curves["train"].series.n == 5
    qtbot.waitUntil(lambda: not room.monitor._second.isActive())


# ---- choosing --------------------------------------------------------------------------------------
def test_all_algorithms_are_listed_by_family_with_their_form(room: TrainRoom, qtbot) -> None:
    qtbot.mouseClick(room.recommended.all, Qt.MouseButton.LeftButton)
    page = room.algorithms
    assert room.pages.currentWidget() is page
    assert [b.text() for b in page.findChildren(QRadioButton)] == ["MAML", "Reptile", "ProtoNet"]
    qtbot.mouseClick(page.buttons["maml"], Qt.MouseButton.LeftButton, pos=QPoint(10, 14))
    assert room.setup.algorithm == "maml"
    entry = page.form.inputs["steps"]
    entry.line.selectAll()
    QTest.keyClicks(entry.line, "3")
    assert room.setup.params == {"steps": 3}
    entry.line.selectAll()
    QTest.keyClicks(entry.line, "400")
    assert not room.start.isEnabled()
    assert room.start.toolTip() == "At most 50"
    qtbot.mouseClick(page.reset, Qt.MouseButton.LeftButton)
    assert room.setup.params == {}
    assert room.start.isEnabled()
    qtbot.mouseClick(page.done, Qt.MouseButton.LeftButton)
    assert room.pages.currentIndex() == 0
    settle(room, qtbot)


def test_an_algorithm_that_is_not_recommended_is_named_on_the_button(room: TrainRoom, qtbot) -> None:
    room.toggle_algorithms()
    qtbot.mouseClick(room.algorithms.buttons["reptile"], Qt.MouseButton.LeftButton, pos=QPoint(10, 14))
    assert room.recommended.all.text() == "Reptile"
    assert not any(c.isChecked() for c in room.recommended.cards)
    settle(room, qtbot)


def test_the_episode_is_edited_by_keyboard(room: TrainRoom, qtbot) -> None:
    chip = room.strip_.chips["episode"]
    chip.setFocus()
    QTest.keyClick(chip, Qt.Key.Key_Return)
    editor = chip.popover.editor
    ways = editor.entries["ways"]
    ways.line.selectAll()
    QTest.keyClicks(ways.line, "40")
    assert chip.reason == "Largest task: 24 classes"
    assert ways.caption.text() == "Largest task: 24 classes"
    assert not room.start.isEnabled()
    ways.line.selectAll()
    QTest.keyClicks(ways.line, "5-20")
    assert room.setup.ways == (5, 20)
    assert chip.value == "5–20 ways, 1 shot, 15 queries"
    assert room.start.isEnabled()
    assert tuple(room.state.property("episode")) == (20, 1, 15), "Sources checks against it"
    chip.popover.close()
    settle(room, qtbot)


def test_the_other_editors_change_the_setup(room: TrainRoom, qtbot) -> None:
    chips = room.strip_.chips
    chips["budget"].open()
    press(chips["budget"].popover, "Episodes", qtbot)
    assert room.setup.unit == "episodes"
    assert chips["budget"].value == "1,000 episodes"
    chips["budget"].popover.close()
    chips["seed"].open()
    before = room.setup.seed
    dice = [b for b in chips["seed"].popover.findChildren(QPushButton) if b.accessibleName() == "Draw another seed"]
    for _ in range(3):
        qtbot.mouseClick(dice[0], Qt.MouseButton.LeftButton)
    assert room.setup.seed != before
    chips["seed"].popover.close()
    chips["backbone"].open()
    press(chips["backbone"].popover, "Grey", qtbot)
    assert room.setup.channels == "grey"
    assert chips["backbone"].value == "Conv-4-64, 28 px, grey"
    chips["backbone"].popover.close()
    settle(room, qtbot)


def test_the_sources_editor_changes_roles(room: TrainRoom, qtbot) -> None:
    from PySide6.QtWidgets import QComboBox

    room.strip_.chips["sources"].open()
    combos = room.strip_.chips["sources"].popover.findChildren(QComboBox)
    assert len(combos) == 3
    combos[0].setFocus()
    QTest.keyClick(combos[0], Qt.Key.Key_Down)
    assert room.state.tasks[0].role is Role.VALIDATION
    room.strip_.chips["sources"].popover.close()
    settle(room, qtbot)
    assert room.strip_.chips["sources"].value == "1 task, 2 for validation"


def press(parent, text: str, qtbot) -> None:
    found = [b for b in parent.findChildren(QPushButton) if b.text() == text and not b.isHidden()]
    assert found, [b.text() for b in parent.findChildren(QPushButton)]
    qtbot.mouseClick(found[0], Qt.MouseButton.LeftButton)


def test_devices_are_tested_only_when_their_editor_opens(
    room: TrainRoom, qtbot, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def devices(_ctx: Context) -> tuple[DeviceRow, ...]:
        asked.append("devices")
        go_on.wait(5)
        return (
            DeviceRow("cpu", "CPU, 2 cores", True, 2100.0, True, ""),
            DeviceRow("cuda:0", "A card", False, 0.0, False, "The driver is too old"),
        )

    monkeypatch.setattr(jobs, "devices", devices)
    settle(room, qtbot)
    assert asked == []
    chip = room.strip_.chips["device"]
    chip.open()
    qtbot.waitUntil(lambda: asked == ["devices"])
    assert not chip.popover.findChildren(QRadioButton)
    go_on.set()
    qtbot.waitUntil(lambda: bool(room.state.devices))
    choices = chip.popover.findChildren(QRadioButton)
    assert [(c.text(), c.isEnabled()) for c in choices] == [("CPU, 2 cores", True), ("A card", False)]
    assert choices[1].accessibleDescription() == "The driver is too old"
    assert chip.value == "CPU, 2 cores"
    (faster,) = chip.popover.findChildren(QCheckBox)
    faster.click()
    assert room.setup.precision == "bf16"
    assert chip.value == "CPU, 2 cores, bf16"
    faster.click()
    assert room.setup.precision == "full"
    chip.popover.close()
    settle(room, qtbot)


def test_the_device_of_the_window_is_the_runs_device(room: TrainRoom, training: Training, qtbot) -> None:
    room.state.set_device("cuda:0", "NVIDIA")
    assert room.setup.device == "cuda:0"
    room.state.set_device("cpu", "CPU")
    assert room.setup.device == "cpu"


def test_the_command_is_copied(room: TrainRoom, qtbot) -> None:
    qtbot.mouseClick(room.strip_.copy, Qt.MouseButton.LeftButton)
    assert QApplication.clipboard().text() == forms.command(room.setup, room.state.tasks)
    assert "clipboard" in room.strip.text()


def test_without_sources_it_says_where_to_go(room: TrainRoom, qtbot) -> None:
    room.state.set_tasks(())
    settle(room, qtbot)
    assert not room.start.isEnabled()
    assert room.strip_.chips["sources"].reason == "No task is there to learn from"


# ---- photographs and weights -----------------------------------------------------------------------
PHOTOS = (make_task("clothes", suffix="jpg", side=400),)


def test_photographs_without_weights_get_a_notice_and_a_button(room: TrainRoom, qtbot) -> None:
    assert room.notice.isHidden()
    room.state.set_tasks(PHOTOS)
    settle(room, qtbot)
    assert "no pretrained weights" in room.notice.text()
    qtbot.mouseClick(room.notice.action, Qt.MouseButton.LeftButton)
    dialog = room.findChild(WeightsDialog)
    words = " ".join(w.text() for w in dialog.findChildren(type(dialog.words)))
    assert "46.8 MB" in words
    assert "BSD-3-Clause" in words
    assert "example.org" in words
    dialog.reject()
    assert room.notice.isVisible(), "it is still true"
    settle(room, qtbot)


def test_weights_are_fetched_only_after_the_click(room: TrainRoom, qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def fetch(backbone: str, ctx: Context) -> Path:
        asked.append(backbone)
        ctx.progress(20_000_000, 46_830_571, "bytes", 12.0)
        while not go_on.wait(0.005):
            ctx.check()
        return Path("/cache/resnet18.safetensors")

    monkeypatch.setattr(jobs, "fetch_weights", fetch)
    room.state.set_tasks(PHOTOS)
    settle(room, qtbot)
    room.get_weights(CATALOGUE.backbones[1])
    dialog = room.findChild(WeightsDialog)
    assert asked == []
    qtbot.mouseClick(dialog.download, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: "20.0 MB of 46.8 MB" in dialog.words.text())
    assert "12 s left" in dialog.words.text()
    assert dialog.bar.value() == pytest.approx(0.427, abs=0.01)
    qtbot.mouseClick(dialog.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dialog.download.isEnabled())
    assert dialog.isVisible(), "stopped, not closed"
    go_on.set()
    qtbot.mouseClick(dialog.download, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: room.findChild(WeightsDialog) is None)
    assert asked == ["resnet18", "resnet18"]
    settle(room, qtbot)
    assert room.notice.isHidden()
    assert next(b for b in room.catalogue.backbones if b.key == "resnet18").pretrained_present


def test_a_failed_download_says_why_in_the_dialog(room: TrainRoom, qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_backbone: str, _ctx: Context) -> Path:
        raise WorkbenchError("The weights were not fetched", "the host did not answer", "Try again later")

    monkeypatch.setattr(jobs, "fetch_weights", fetch)
    room.get_weights(CATALOGUE.backbones[1])
    dialog = room.findChild(WeightsDialog)
    dialog.fetch()
    qtbot.waitUntil(lambda: "the host did not answer" in dialog.strip.text())
    assert dialog.download.isEnabled()
    dialog.reject()
    settle(room, qtbot)


def test_a_file_is_taken_instead(room: TrainRoom, qtbot, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Path] = []
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: ("/here/resnet.pth", ""))
    monkeypatch.setattr(jobs, "take_weights_file", lambda key, path, ctx: taken.append(path) or path)
    room.get_weights(CATALOGUE.backbones[1])
    dialog = room.findChild(WeightsDialog)
    qtbot.mouseClick(dialog.file, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: room.findChild(WeightsDialog) is None)
    assert taken == [Path("/here/resnet.pth")]
    settle(room, qtbot)


def test_pretrained_weights_that_are_missing_stop_the_start(room: TrainRoom, qtbot) -> None:
    room.take(Recommendation("protonet", "resnet18", 224, "", 1.0, True))
    assert not room.start.isEnabled()
    assert "weights are not here" in room.start.toolTip()
    settle(room, qtbot)


# ---- earlier runs ----------------------------------------------------------------------------------
@pytest.fixture
def kept(tmp_path: Path) -> tuple[store.TrainRun, TrainRequest]:
    """A real run on disk, stopped, with curves."""
    request = forms.request(Setup("maml", {"steps": 3}, unit="episodes", episodes=900, seed=9), TASKS, "")
    _run, folder = store.create_run(tmp_path, request)
    metrics = [Metric("train/loss", n, 1.0 / n, n) for n in range(1, 40)]
    metrics += [Metric("validation/accuracy", n, n / 100, n, n / 110, n / 90) for n in range(10, 40, 10)]
    (folder / store.METRICS).write_bytes(b"".join(msgspec.json.encode(m) + b"\n" for m in metrics))
    return store.update_run(folder, state="stopped", seconds=12.0, episodes=39), request


def test_an_earlier_run_is_drawn_dashed_and_taken_off(room: TrainRoom, kept, qtbot) -> None:
    run, _request = kept
    room.state.set_runs((run,))
    box = room.monitor.runs.visualRect(room.monitor.runs.runs.index(0, Column.RUN))
    eye = QPoint(box.left() + 22, box.center().y())
    qtbot.mouseClick(room.monitor.runs.viewport(), Qt.MouseButton.LeftButton, pos=eye)
    qtbot.waitUntil(lambda: run.id in room.monitor.overlays)
    curve = room.monitor.accuracy.curves[run.id]
    assert curve.series.n == 3
    assert curve.line.opts["pen"].dashPattern()
    assert room.monitor.compare.text() == "Compare with 1 run"
    qtbot.mouseClick(room.monitor.runs.viewport(), Qt.MouseButton.LeftButton, pos=eye)
    assert run.id not in room.monitor.accuracy.curves
    settle(room, qtbot)


def test_resuming_shows_what_was_learnt_before_it_goes_on(
    room: TrainRoom, kept, qtbot, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, request = kept
    resumed: list[str] = []
    go_on = threading.Event()

    def resume(run_id: str, _project: Path, ctx: Context) -> TrainResult:
        resumed.append(run_id)
        while not go_on.wait(0.005):
            ctx.check()
        ctx.metric("train/loss", 40, 0.02)
        return TrainResult(entry_of(), "", run.id, 900, 20.0, False)

    monkeypatch.setattr(jobs, "resume", resume)
    room.state.set_runs((run,))
    room.monitor.runs.setCurrentIndex(room.monitor.runs.runs.index(0, 0))
    assert room.monitor.resume.isEnabled()
    qtbot.mouseClick(room.monitor.resume, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: resumed == [run.id])
    assert room.setup.seed == 9
    assert room.setup.params == {"steps": 3}
    assert room.monitor.loss.curves["train"].series.n == 39
    go_on.set()
    qtbot.waitUntil(lambda: not room.running)
    settle(room, qtbot)
    assert room.monitor.loss.curves["train"].series.n == 40
    assert setup_of(request).episodes == 900


def test_the_card_and_the_command_of_a_run(room: TrainRoom, kept, qtbot) -> None:
    run, request = kept
    room.state.set_runs((run,))
    room.earlier.copy_command(run.id)
    qtbot.waitUntil(lambda: QApplication.clipboard().text() == request.command)
    room.earlier.show_card(run.id)
    qtbot.waitUntil(lambda: room.findChild(CardDialog) is not None)
    room.findChild(CardDialog).accept()
    row = room.earlier.row(run.id)
    card = dict(facts(row, request, entry_of()))
    assert card["Hyperparameters"] == "steps 3"
    chosen = {"steps": 3, "first_order": True, "head": "textbook", "gone": 1}
    card = dict(facts(row, replace(request, params=chosen), entry_of(), FIELDS))
    assert card["Hyperparameters"] == "Inner steps: 3, First order: yes, Head: Textbook, gone 1"
    assert card["Sources"] == "greek, latin"
    assert card["Versions"] == "torch 2.15"
    settle(room, qtbot)


def test_curves_are_thinned_for_the_overlay() -> None:
    curves = Curves("r", tuple(Metric("train/loss", n, 1.0, n) for n in range(50_000)))
    x, y = curves.points("train/loss")
    assert 500 <= len(x) == len(y) <= 1200


def test_the_search_reveals_a_run(room: TrainRoom, kept, qtbot) -> None:
    room.state.set_runs((run_of(7), kept[0]))
    room.toggle_algorithms()
    room.reveal("run", kept[0].id)
    assert room.pages.currentIndex() == 0
    assert room.monitor.runs.current().id == kept[0].id
    settle(room, qtbot)


def test_done_words() -> None:
    result = TrainResult(entry_of(), "", RunId("r"), 1200, 300.0, False)
    assert done_words(result) == "Validation accuracy 0.810 (0.790–0.830), 1,200 episodes, 5 min."


@pytest.mark.parametrize(("ci95", "episodes"), [(0.05, 2), (0.0, 600)])
def test_no_interval_of_too_few_or_of_equal_episodes(room: TrainRoom, ci95: float, episodes: int) -> None:
    found = Validation("classes", 0.2, ci95, episodes)
    room.monitor.show_validation(found)
    assert (room.monitor.figure_accuracy.value(), room.monitor.figure_accuracy.beside()) == ("0.200", "")
    room.monitor.take([Metric("validation/accuracy", 10, 0.2, 1.0)])
    assert room.monitor.figure_accuracy.beside() == ""
    (row,) = rows_of([replace(run_of(1), validation=found)], CATALOGUE)
    assert room.monitor.runs.runs.words(row, Column.ACCURACY) == "0.200"
    result = TrainResult(replace(entry_of(), validation=found), "", RunId("r"), 1200, 300.0, False)
    assert done_words(result) == "Validation accuracy 0.200, 1,200 episodes, 5 min."


def test_shading_is_spoken_of_only_where_an_interval_is_drawn(room: TrainRoom) -> None:
    monitor = room.monitor
    monitor.clear()
    assert monitor.shaded.isHidden()
    monitor.take([Metric("validation/accuracy", n, 0.5, 1.0) for n in (10, 20)])
    monitor._second.stop()
    monitor._draw_accuracy()
    assert monitor.shaded.isHidden()
    monitor.take([Metric("validation/accuracy", 30, 0.5, 1.0, 0.4, 0.6)])
    monitor._second.stop()
    monitor._draw_accuracy()
    assert not monitor.shaded.isHidden()


def test_progress_before_the_first_episode_keeps_the_dashes(room: TrainRoom) -> None:
    room.monitor.clear()
    room.monitor.show_progress(Progress(100, 400, "images"), paused=False)
    assert room.monitor.figure_episodes.value() == "–"
    assert room.monitor.figure_accuracy.beside() == "not measured yet"


def test_every_control_has_an_accessible_name(room: TrainRoom) -> None:
    for made in room.findChildren(QPushButton):
        assert made.accessibleName() or made.text(), made
    for widget in (room.monitor.gallery, room.monitor.runs, *room.strip_.chips.values(), room.monitor.loss):
        assert widget.accessibleName()


def test_it_paints_in_both_themes_and_sizes(room: TrainRoom, training: Training, themed: QApplication, qtbot) -> None:
    room.state.set_runs((run_of(3), run_of(2, "failed", None), run_of(1, "interrupted")))
    begin(room, training, qtbot)
    for name in ("light", "dark"):
        room.state.set_theme(name)
        for size in ((1364, 816), (948, 616)):
            room.resize(*size)
            qtbot.wait(1)
            image = room.grab().toImage()
            assert (image.width(), image.height()) == size, "nothing forces the window wider"
            assert image.pixelColor(4, 4).name().upper() == theme.tokens().window
            card = room.recommended.cards[0].mapTo(room, QPoint(60, 5))
            assert image.pixelColor(card).name().upper() == theme.tokens().accent_soft
            marker = room.monitor.gallery.mapTo(room, QPoint(10, 24 + 17))
            if marker.y() < size[1] - 20:
                assert image.pixelColor(marker) == theme.class_colour(0)
    theme.apply(themed, "light")
    finish(room, training, qtbot)
