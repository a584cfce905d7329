"""Train, where a run goes on from an entry of the Knowledge room."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton

from workbench.cli.parser import build as build_parser
from workbench.core.training import TrainResult
from workbench.core.values import Role, RunId, ScanResult
from workbench.learn.recoloured import SUFFIX
from workbench.services import jobs
from workbench.ui.rooms.train import setup as forms
from workbench.ui.rooms.train.history import done_words
from workbench.ui.rooms.train.setup import Setup, going_on
from workbench.ui.values import Towards

from .known import entry
from .test_train_room import FIELDS, TASKS, begin, finish, make_task, room, settle, training  # noqa: F401 - fixtures

FROM = entry("aaaa1111", "Clothing and glyphs", algorithm="protonet", params={})


def pressed(of, text: str, qtbot) -> None:
    made = next(b for b in of.findChildren(QAbstractButton) if b.text() == text)
    qtbot.mouseClick(made, Qt.MouseButton.LeftButton)


def test_the_request_and_the_command_go_on_from_the_entry() -> None:
    setup = going_on(Setup(backbone="resnet18", size=224, pretrained=True, ways=(3, 3)), FROM)
    request = forms.request(setup, TASKS, "")
    assert (request.start, request.keep) == ("aaaa1111", "l2")
    assert (request.backbone, request.size, request.channels, request.pretrained) == ("conv4", 28, "grey", False)
    assert request.ways == (3, 3), "the episode stays the person's choice"
    arguments = build_parser().parse_args(shlex.split(request.command)[1:])
    assert (arguments.start, arguments.keep) == ("aaaa1111", "l2")
    alone = forms.request(replace(setup, start=None), TASKS, "")
    assert (alone.start, alone.keep) == ("", "")
    assert "--from" not in alone.command


def test_another_backbone_cannot_go_on_from_it() -> None:
    setup = replace(going_on(Setup(), FROM), backbone="resnet18")
    assert "Clothing and glyphs" in forms.reasons(setup, TASKS, FIELDS)["backbone"]
    assert "backbone" not in forms.reasons(replace(setup, start=None), TASKS, FIELDS)


def test_knowledge_that_was_aligned_goes_on_without_its_last_layer() -> None:
    setup = going_on(Setup(), replace(FROM, backbone=f"conv4{SUFFIX}"))
    assert setup.backbone == "conv4"
    assert "backbone" not in forms.reasons(setup, TASKS, FIELDS)


@pytest.mark.parametrize(("button", "keep"), [("EWC", "ewc"), ("Replay", "replay"), ("Nothing", "none")])
def test_what_is_done_against_forgetting_is_chosen_in_the_room(room, training, qtbot, button, keep) -> None:  # noqa: F811
    settle(room, qtbot)
    assert not room.continued.isVisible()
    room.hide()
    room.state.train_from(FROM)
    room.show()
    assert room.continued.isVisible()
    assert room.continued.name.text() == "Clothing and glyphs"
    assert room.state.start is None, "taken once"
    pressed(room.continued, button, qtbot)
    begin(room, training, qtbot)
    assert (training.requests[-1].start, training.requests[-1].keep) == ("aaaa1111", keep)
    assert not room.continued.keep.isEnabled()
    assert not room.continued.leave.isVisible()
    finish(room, training, qtbot)


def test_what_is_asked_for_during_a_run_waits_for_its_end(room, training, qtbot) -> None:  # noqa: F811
    settle(room, qtbot)
    begin(room, training, qtbot)
    before = room.setup
    room.hide()
    room.state.train_from(FROM, Towards("/pictures/night", "mmd", 12))
    room.show()
    assert room.setup == before
    assert "goes on from Clothing and glyphs" in room.strip.text()
    finish(room, training, qtbot)
    assert room.setup.start == FROM
    assert (room.setup.towards, room.setup.minutes) == (Towards("/pictures/night", "mmd", 12), 12)
    assert room.continued.isVisible()
    assert room.state.start is None, "taken once"


def test_it_can_begin_from_nothing_after_all(room, qtbot) -> None:  # noqa: F811
    settle(room, qtbot)
    room.hide()
    room.state.train_from(FROM)
    room.show()
    qtbot.mouseClick(room.continued.leave, Qt.MouseButton.LeftButton)
    assert not room.continued.isVisible()
    assert room.setup.start is None
    assert room.setup.keep == ""


def test_a_run_that_is_drawn_towards_a_domain_asks_for_what_the_command_asks_for() -> None:
    setup = going_on(Setup(unit="episodes"), FROM, Towards("/pictures/night", "mmd", 12))
    request = forms.request(setup, TASKS, "")
    assert (request.start, request.align, request.keep, request.minutes) == ("aaaa1111", "mmd", "", 12)
    arguments = build_parser().parse_args(shlex.split(request.command)[1:])
    arguments.check(arguments)
    assert (arguments.target, arguments.align, arguments.minutes) == (["/pictures/night"], "mmd", 12)
    alone = forms.from_nothing(setup)
    assert forms.request(alone, TASKS, "").align == ""
    assert "--align" not in forms.command(alone, TASKS)


@pytest.mark.parametrize("how", ["mmd", "dann"])
def test_it_runs_in_the_room_as_any_run(room, training, qtbot, monkeypatch, how) -> None:  # noqa: F811
    settle(room, qtbot)
    night = make_task("night", classes=2)
    asked = []
    monkeypatch.setattr(jobs, "scan", lambda paths, ctx: asked.append(paths) or ScanResult((night,), ()))
    room.hide()
    room.state.train_from(FROM, Towards("/pictures/night", how, 12))
    room.show()
    assert room.continued.domain.text() == f"night by {how.upper()}"
    assert not room.continued.keep.isVisible()
    assert room.strip_.chips["budget"].value == "12 min"
    begin(room, training, qtbot)
    (request,) = training.requests
    assert asked == [("/pictures/night",)]
    assert [(t.name, t.role) for t in request.target] == [("night", Role.VALIDATION)]
    assert (request.align, request.minutes, request.start) == (how, 12, "aaaa1111")
    assert {t.name for t in request.sources} == {t.name for t in TASKS}
    finish(room, training, qtbot)
    qtbot.mouseClick(room.continued.leave, Qt.MouseButton.LeftButton)
    assert room.setup.towards is None


@pytest.mark.parametrize(
    ("aligned", "said"),
    [
        (
            {"held_out": {"before": 0.5, "after": 0.625, "difference": 0.125, "ci95": 0.02}},
            "0.500 before, 0.625 after",
        ),
        ({"held_out": None}, "no accuracy claimed"),
        ({"unmeasured": "the run was stopped"}, "not measured. the run was stopped"),
    ],
)
def test_what_it_gained_on_the_domain_is_said(aligned, said) -> None:
    made = replace(FROM, provenance={"aligned": aligned})
    words = done_words(TrainResult(made, "/somewhere", RunId("1"), 120, 61.0, stopped=False))
    assert said in words
    assert words.endswith(".")
    assert "domain" not in done_words(TrainResult(FROM, "/somewhere", RunId("1"), 120, 61.0, stopped=False))
