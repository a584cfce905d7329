"""What the Teach room says of the method and of pictures it is not made for."""

from __future__ import annotations

from dataclasses import replace

from tests.ui import test_teach_room as base
from tests.ui.test_teach_room import fill, settle

fake, room, taught = base.fake, base.room, base.taught

WORDS = ("It accepts up to 20 classes.", "The order of the examples matters.")
WHY = "These are photographs, and Runes was trained on grey pictures of 28 pixels."


def test_what_must_be_known_of_the_method_stands_below_the_reason(room, fake, qtbot, monkeypatch) -> None:
    fill(room.state)
    settle(room, qtbot)
    assert room.why.method.isHidden()
    shown = room.predictor.shown
    room.predictor.shown = replace(shown, result=replace(shown.result, method=WORDS))
    room._show()
    assert not room.why.method.isHidden()
    assert room.why.method.text() == " ".join(WORDS)


def test_photographs_with_knowledge_of_drawings_get_a_notice_once(room, fake, qtbot) -> None:
    fill(room.state)
    settle(room, qtbot)
    assert room.caution.isHidden()
    plain = room.predictor.shown
    room.predictor.shown = replace(plain, result=replace(plain.result, caution=WHY))
    room._show()
    assert not room.caution.isHidden()
    assert WHY in room.caution.text()
    room.caution.dismiss.click()
    room._show()
    assert room.caution.isHidden(), "taken away is taken away"
    room.predictor.shown = plain
    room._show()
    room.predictor.shown = replace(plain, result=replace(plain.result, caution=WHY))
    room._show()
    assert not room.caution.isHidden()
    room.caution.action.click()
    assert room.state.room == "train"
