"""The answering network of an adaptation: what it is told of its examples."""

from __future__ import annotations

import pytest
import torch

from workbench.core.context import Context
from workbench.core.values import Preprocess
from workbench.learn import calibrate
from workbench.learn.leaving_out import HeldOut
from workbench.learn.protocol import Setting, Support, generator
from workbench.learn.registry import create
from workbench.services import answers
from workbench.services.knowledge import Knowledge
from workbench.services.looks import Seen

NOTHING = HeldOut(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3), None)


def drawn(y: list[int], seed: int = 1) -> torch.Tensor:
    """Features of classes that cannot be told apart ``[S, 16]``."""
    return torch.randn(len(y), 16, generator=generator(seed))


def reject(features: torch.Tensor, y: list[int], pictures: list[str]) -> tuple[float, float]:
    """Threshold and width of "none of these" of a prototypical network with these features."""
    algorithm = create("protonet", {}, Setting("conv4", 1, 28, 3))
    k = Knowledge(None, "", algorithm, algorithm.init(generator(0)), Preprocess(), "", (), torch.nn.Identity())
    support = Support(features, torch.tensor(y), 3, features)
    seen = Seen(k, support, features, None, (("a", 0.5),), NOTHING, 1.0, torch.zeros(0))
    net, embedding = answers.network(seen, algorithm.adapt(k.state, support, Context()), pictures)
    assert torch.equal(embedding, features)
    return float(net.threshold), float(net.width)


def test_copies_within_a_class_say_no_more_of_none_of_these_than_the_picture() -> None:
    """Left out alone, a copy lies at the distance 0 from the other, as no new picture would."""
    y, names = [0, 0, 1, 1, 2, 2], list("abcdef")
    x = drawn(y)
    alone = reject(x, y, names)
    assert alone == pytest.approx(calibrate.reject_threshold(x, torch.tensor(y), 3, likeness=0.5))
    assert reject(x.repeat(2, 1), y * 2, names * 2) == pytest.approx(alone)
    fooled = calibrate.reject_threshold(x.repeat(2, 1), torch.tensor(y * 2), 3, likeness=0.5)
    assert fooled[0] < 0.9 * alone[0], "too near"
    assert fooled[1] < 0.9 * alone[1], "and too sure of it"


def test_a_picture_in_two_classes_is_an_example_of_each() -> None:
    y = [0, 0, 1, 1, 2, 2]
    assert reject(drawn(y), y, list("abacde")) == reject(drawn(y), y, list("abcdef"))
