"""What is kept up to a number of bytes: what is shared counts once, and one value costs what it costs alone."""

from __future__ import annotations

import numpy as np
import torch

from workbench.services import shelf
from workbench.services.shelf import Shelf


def counted(kept: Shelf) -> int:
    """The bytes, found by a walk through all that lies there."""
    return sum(shelf.storages(t for value in kept.values() for t in value).values())


def test_what_is_shared_counts_once_and_as_long_as_somebody_holds_it() -> None:
    kept: Shelf[list[torch.Tensor]] = Shelf(lambda value: value)
    x, own = torch.zeros(100), torch.zeros(10)
    kept.put("a", [x, x[:3], own], 10_000)
    kept.put("b", [x.view(10, 10)], 10_000)
    assert kept.nbytes == 440
    kept.put("a", [own], 10_000)
    assert kept.nbytes == 440
    kept.put("b", [own], 10_000)
    assert kept.nbytes == 40
    kept.clear()
    assert (kept.nbytes, len(kept), kept.get("a")) == (0, 0, None)


def test_those_longest_unused_go_first_and_the_last_one_stays() -> None:
    kept: Shelf[list[torch.Tensor]] = Shelf(lambda value: value)
    for key in "abc":
        kept.put(key, [torch.zeros(10)], 120)
    assert kept.get("a") is not None
    kept.put("d", [torch.zeros(10)], 120)
    assert [kept.get(key) is not None for key in "abcd"] == [True, False, True, True]
    kept.put("e", [torch.zeros(1000)], 120)
    assert len(kept) == 1
    assert kept.get("e") is not None


def test_the_running_total_is_what_a_walk_would_find() -> None:
    kept: Shelf[list[torch.Tensor]] = Shelf(lambda value: value)
    draw = np.random.default_rng(0)
    pool = [torch.zeros(int(draw.integers(1, 50))) for _ in range(20)]
    most = 0
    for n in range(500):
        key = int(draw.integers(40))
        if draw.random() < 0.3 and (grown := kept.get(key)) is not None:
            grown.append(pool[draw.integers(20)])
            kept.count((key, "not there"), 1200)
        else:
            kept.put(key, [pool[draw.integers(20)] if n % 3 else torch.zeros(9) for _ in range(4)], 1200)
        assert kept.nbytes == counted(kept) <= 1200
        most = max(most, len(kept))
    assert most > 5


def test_no_value_is_walked_through_for_another() -> None:
    """Neither while there is room nor while the oldest go."""
    walked = []
    kept: Shelf[list[torch.Tensor]] = Shelf(lambda value: walked.append(1) or value)
    for n in range(300):
        kept.put(n, [torch.zeros(10)], 40 * 100)
    assert len(kept) == 100
    assert len(walked) == 300
