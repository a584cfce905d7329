"""How many steps a mixture is tuned by: what is gained must be sure, and whoever waits is told how far it is."""

from __future__ import annotations

import pytest
import torch

from workbench.core.context import Context
from workbench.learn.registry import backbone
from workbench.project.library import Library
from workbench.services import knowledge, tuning
from workbench.transfer import fine_tuning, mixing


def test_steps_are_taken_for_what_is_surely_worth_it() -> None:
    none = [0.5, 0.4, 0.6, 0.5, 0.7, 0.3, 0.5, 0.6]
    sure = [x - 0.1 - 0.01 * i for i, x in enumerate(none)]
    assert tuning.helping({0: none, 5: sure, 10: none}) == 5
    assert tuning.helping({0: none, 5: sure, 10: [x - 0.05 for x in sure]}) == 10
    assert tuning.helping({0: none, 5: [x + 0.1 for x in none]}) == 0
    assert tuning.helping({0: none, 5: [x - 0.005 for x in none]}) == 0, "next to nothing, however sure"
    assert tuning.helping({0: none, 5: [none[0] - 0.4, *none[1:]]}) == 0, "one example alone"


@pytest.mark.parametrize("count", [0, 2])
def test_whoever_waits_is_told_how_many_trainings_are_done_of_how_many_and_how_long_they_will_take(
    trained, classes, monkeypatch, count
) -> None:
    library = Library(trained)
    k = knowledge.load(*library.find("proto"), library)
    setting = k.algorithm.setting
    network = backbone(setting.backbone).skeleton(setting.channels, setting.size)
    images = [i for c in classes for i in c.images]
    x, y = knowledge.to_tensor(tuple(images), k.preprocess), torch.arange(3).repeat_interleave(4)
    how = fine_tuning.Recipe(steps=(0, 2))
    start = tuning.Start(network, mixing.trunk_of(network, k.state, "start"), x, x[:0], y, 3, how)
    monkeypatch.setattr(tuning, "helping", lambda _: count)
    said = []

    def note(ctx):
        if ctx.progress_now is not None and ctx.progress_now not in said:
            said.append(ctx.progress_now)

    steps, found = tuning.search(start, None, 1, k, [i.sha256 for i in images], Context(on_change=note))
    assert (steps, len(found)) == (count, 4)
    assert {(p.total, p.unit) for p in said} == {(5, "trainings")}, "one without each part, and that of all examples"
    assert [p.done for p in said] == [0, 1, 2, 3, 4 if count else 5]
    assert [p.seconds_left is None for p in said] == [True] + [False] * 4
    assert all(p.seconds_left > 0 for p in said[1:4])
    assert (said[-1].seconds_left > 0) == bool(count)
