"""The prior: what is known of an entry before a new task's examples are looked at."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workbench.core.values import EntryId
from workbench.learn.protocol import generator
from workbench.transfer.prior import LARGEST, STRENGTH, TRUSTED, Record, Standing, default_of, learnt_gains

A, B = EntryId("a"), EntryId("b")


def records(n: int, gain: Callable[[Tensor], float], width: int = 6, seed: int = 0) -> list[Record]:
    vectors = torch.randn(n, width, generator=generator(seed))
    return [Record(v, {A: gain(v)}) for v in vectors]


def test_nothing_is_learnt_from_fewer_than_twenty() -> None:
    few = records(TRUSTED - 1, lambda _: 0.2)
    assert learnt_gains(torch.zeros(6), few) == {}
    more = records(TRUSTED, lambda _: 0.2)
    assert learnt_gains(torch.zeros(6), more) == {A: pytest.approx(0.2)}
    spread = [*few[:15], *(Record(r.vector, {B: 0.1}) for r in few)]
    assert learnt_gains(torch.zeros(6), spread) == {}, "twenty of each entry, not of all together"


def test_the_gain_is_the_ridge_from_the_task_vector() -> None:
    """Against the normal equations on standardised vectors."""
    known = records(30, lambda v: 0.1 + 0.05 * float(v[0]) - 0.03 * float(v[1]))
    query = torch.randn(6, generator=generator(5))
    x = torch.stack([r.vector for r in known]).double()
    t = torch.tensor([r.gains[A] for r in known], dtype=torch.float64)
    z, q = ((v - x.mean(0)) / x.std(0, correction=0) / 6**0.5 for v in (x, query.double()))
    w = torch.linalg.inv(z.T @ z + STRENGTH * torch.eye(6, dtype=torch.float64)) @ z.T @ (t - t.mean())
    assert learnt_gains(query, known)[A] == pytest.approx(float(t.mean() + q @ w), abs=1e-12)


def test_it_tells_tasks_apart_and_stays_within_bounds() -> None:
    known = records(200, lambda v: 0.3 * float(v[0].sign()))
    one = torch.zeros(6)
    one[0] = 1.5
    assert learnt_gains(one, known)[A] > 0.15
    assert learnt_gains(-one, known)[A] < -0.15
    assert learnt_gains(1000 * one, known)[A] == LARGEST


def test_order_and_vectors_of_another_probe_do_not_matter() -> None:
    known = records(25, lambda v: 0.1 * float(v[2]))
    query = torch.randn(6, generator=generator(5))
    first = learnt_gains(query, known)[A]
    turned = [*known[7:], Record(torch.ones(9), {A: 5.0}), *known[:7]]
    assert learnt_gains(query, turned)[A] == pytest.approx(first, abs=1e-12)


def test_a_number_that_never_changes_says_nothing() -> None:
    known = [Record(torch.cat([r.vector, torch.ones(1)]), r.gains) for r in records(25, lambda v: 0.1 * float(v[2]))]
    a, b = (learnt_gains(torch.cat([torch.zeros(6), torch.tensor([v])]), known)[A] for v in (1.0, 99.0))
    assert a == pytest.approx(b, abs=1e-12)


def test_the_default_has_the_best_record_and_else_knows_most() -> None:
    narrow = Standing(A, (), 0.99, 1, 20)
    broad = Standing(B, (), 0.6, 3, 90)
    assert default_of([]) is None
    assert default_of([narrow, broad]) == B
    assert default_of([narrow, Standing(B, (0.9, 0.9), 0.6, 1, 5)]) == A, "two tasks are no record"
    proven = Standing(A, (0.8, 0.7, 0.9), 0.99, 1, 20)
    assert default_of([proven, broad]) == A
    assert default_of([proven, Standing(B, (0.9, 0.9, 0.8), 0.1, 1, 5)]) == B
    assert default_of([Standing(A, (), 0.7, 1, 20), Standing(B, (), 0.8, 1, 20)]) == B
