"""The prior: what is known of an entry before a new task's examples are looked at."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workbench.core.values import EntryId
from workbench.learn.protocol import generator
from workbench.transfer.prior import (
    LARGEST,
    STRENGTH,
    TRUSTED,
    Experience,
    Record,
    Standing,
    default_of,
    is_proven,
    learnt_gains,
)

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


def went(*pairs: tuple[int, int], first: int = 0) -> tuple[tuple[str, int, int], ...]:
    return tuple((f"task {first + n}", right, of) for n, (right, of) in enumerate(pairs))


def test_the_default_has_the_best_record_and_else_knows_most() -> None:
    narrow = Standing(A, (), 0.99, 1, 20)
    broad = Standing(B, (), 0.6, 3, 90)
    assert default_of([]) is None
    assert not is_proven([])
    assert default_of([narrow, broad]) == B
    assert not is_proven([narrow, broad])
    better = Standing(A, went((9, 10), (8, 10), (9, 10)), 0.99, 1, 20)
    worse = Standing(B, went((7, 10), (8, 10), (8, 10)), 0.6, 3, 90)
    assert default_of([better, worse]) == A
    assert is_proven([better, worse])
    few = Standing(A, better.realised[:2], 0.99, 1, 20)
    assert default_of([few, worse]) == B, "two tasks in common are no record"
    assert not is_proven([few, worse])
    turned = [Standing(A, worse.realised, 0.99, 1, 20), Standing(B, better.realised, 0.6, 3, 90)]
    assert (default_of(turned), is_proven(turned)) == (B, True)
    assert default_of([Standing(A, (), 0.7, 1, 20), Standing(B, (), 0.8, 1, 20)]) == B


def test_a_record_on_easy_tasks_drives_nobody_out() -> None:
    easy = Standing(A, went((10, 10), (10, 10), (10, 10)), 0.99, 1, 20)
    hard = Standing(B, went((5, 10), (6, 10), (5, 10), first=3), 0.6, 3, 90)
    assert default_of([easy, hard]) == B, "they have no task in common"
    assert default_of([easy, Standing(B, (), 0.6, 3, 90)]) == B, "what was never judged is not worse"
    others = Standing(B, went((3, 3), (3, 3), (3, 3)), 0.6, 3, 90)
    assert not is_proven([easy, others]), "other pictures of the same tasks"


def test_few_pictures_count_less_than_many() -> None:
    broad = Standing(B, went(*[(0, 1)] * 3, *[(60, 100)] * 3), 0.6, 3, 90)
    few = Standing(A, went((1, 1), (1, 1), (1, 1)), 0.9, 1, 20)
    many = Standing(EntryId("c"), went(*[(80, 100)] * 3, first=3), 0.5, 1, 10)
    assert default_of([broad, few, many]) == "c", "60 more of 300 before 3 more of 3"


def test_a_similarity_under_another_network_counts_no_more_than_those_under_the_probe() -> None:
    assert Experience().most == 1.0
    known = Experience(A, {A: (("x", 0.3), ("y", 0.1)), B: (("z", 0.2),)})
    assert 0.299 < known.most < 0.3
