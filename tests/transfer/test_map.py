from __future__ import annotations

import math

import torch

from tests.transfer.test_represent import domain
from workbench.transfer.map import Place, place
from workbench.transfer.represent import represent, similarity


def _far(a: Place, b: Place) -> float:
    return math.hypot(a.x - b.x, a.y - b.y)


def test_near_tasks_lie_near() -> None:
    x = domain(0, classes=20).reshape(20, 20, 32)
    task = represent(x[:5, :5].reshape(-1, 32))
    sources = [
        ("own", represent(x[5:].reshape(-1, 32))),
        ("far", represent(domain(1, shift=2.0))),
        ("farther", represent(domain(2, shift=4.0))),
    ]
    this, own, far, farther = place(task, sources)
    assert (this.name, own.name, farther.name) == ("", "own", "farther")
    assert _far(this, own) < min(_far(this, far), _far(this, farther)) / 2
    assert [p.similarity for p in (own, far)] == [similarity(task, r) for _, r in sources[:2]]
    assert this.similarity == 1.0
    for p in (this, own, far, farther):
        assert 0 <= p.x <= 1
        assert 0 <= p.y <= 1
    assert max(p.x for p in (this, own, far, farther)) - min(p.x for p in (this, own, far, farther)) > 0.99


def test_equal_input_gives_an_equal_map() -> None:
    task, sources = represent(domain(0)), [(str(n), represent(domain(n, shift=1.0))) for n in range(1, 6)]
    again, others = represent(domain(0)), [(str(n), represent(domain(n, shift=1.0))) for n in range(1, 6)]
    assert place(task, sources) == place(again, others)


def test_few_tasks() -> None:
    task = represent(domain(0))
    assert place(task, []) == [Place("", 0.5, 0.5, 1.0)]
    same = place(task, [("copy", represent(domain(0)))])
    assert [(p.x, p.y) for p in same] == [(0.5, 0.5), (0.5, 0.5)]
    two = place(task, [("other", represent(domain(1, shift=2.0)))])
    assert math.isclose(_far(*two), 1.0)
    assert two[0].y == two[1].y == 0.5


def test_a_task_without_any_spread_and_a_far_one_stay_on_the_map() -> None:
    flat = represent(torch.ones(3, 32))
    points = place(
        flat, [("a", represent(domain(0))), ("b", represent(domain(1) + 1e4)), ("c", represent(torch.zeros(2, 32)))]
    )
    assert all(math.isfinite(v) and 0 <= v <= 1 for p in points for v in (p.x, p.y, p.similarity))
