"""Train, where a run goes on from an entry of the Knowledge room."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QAbstractButton

from workbench.cli.parser import build as build_parser
from workbench.learn.recoloured import SUFFIX
from workbench.ui.rooms.train import setup as forms
from workbench.ui.rooms.train.setup import Setup, going_on

from .known import entry
from .test_train_room import FIELDS, TASKS, begin, finish, room, settle, training  # noqa: F401 - fixtures

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


def test_it_can_begin_from_nothing_after_all(room, qtbot) -> None:  # noqa: F811
    settle(room, qtbot)
    room.hide()
    room.state.train_from(FROM)
    room.show()
    qtbot.mouseClick(room.continued.leave, Qt.MouseButton.LeftButton)
    assert not room.continued.isVisible()
    assert room.setup.start is None
    assert room.setup.keep == ""
