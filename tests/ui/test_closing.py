"""The window closes at any moment of training, with exit code 0; ``tests.ui.closing_many`` counts and times it."""

from __future__ import annotations

import pytest

from tests.ui.closing import close_once
from tests.ui.driven import prepare
from workbench.project.project import Project


@pytest.mark.parametrize("moment", ["loading", "first step", "validation", "checkpoint", "saving"])
def test_closing_at_any_moment_of_training_ends_with_zero(moment, home):
    prepare(home)
    closed = close_once(moment, seed=20, home=home)
    assert closed.code == 0, closed.said
    assert "Traceback" not in closed.said
    assert "Destroyed while thread" not in closed.said
    assert closed.visible, "nothing said that the window closes"
    assert len(closed.states) == (moment != "loading")
    assert "failed" not in closed.states
    with Project.open(home / "data" / "scratch", create=False) as project:
        assert project.read_only == "", "the closed window still holds the project"
        assert project.tasks()
