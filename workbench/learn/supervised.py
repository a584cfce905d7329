"""Plain classification: one linear classifier over the classes of all sources, as supervised phases train it.

Source ``s`` with ``n_s`` classes has the rows ``n_0 + ... + n_{s-1}`` and on, so a picture of its class ``y`` is to be
told apart from every class of every source. The classifier is a means to an end: it is dropped when its phase is over,
and knowledge that is loaded to be used is built without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from workbench.learn import functional, norm
from workbench.learn.protocol import State, StepResult, Tensors

if TYPE_CHECKING:
    from workbench.data.episodes import Labelled

CLASSIFIER = "classifier."
"""Prefix of its tensors: ``classifier.weight [M, D]`` and ``classifier.bias [M]`` for ``M`` classes in all."""


def classifier(classes_per_source: Sequence[int], features: int, gen: Generator) -> Tensors:
    """A fresh one for features ``[B, features]``; nothing where no classes are known, as when knowledge is loaded."""
    classes = sum(classes_per_source)
    if not classes:
        return {}
    rows = torch.rand(classes, features, generator=gen, device=gen.device)
    bound = 1 / math.sqrt(features)
    return {CLASSIFIER + "weight": (2 * rows - 1) * bound, CLASSIFIER + "bias": rows.new_zeros(classes)}


def rows_of(batch: Labelled, classes_per_source: Sequence[int]) -> Tensor:
    """``[B]`` the classifier's row of each picture."""
    first = torch.tensor([0, *classes_per_source[:-1]], device=batch.y.device).cumsum(0)
    return first[batch.source] + batch.y


def classified(
    learned: Mapping[str, Tensor], features: Tensor, batch: Labelled, classes_per_source: Sequence[int]
) -> tuple[Tensor, float]:
    """Mean cross entropy with its graph, and the accuracy, of pictures with ``features [B, D]``.

    Raises:
        ValueError: the state has no classifier: it was made without knowing the sources' classes.
    """
    if CLASSIFIER + "weight" not in learned:
        raise ValueError("a supervised phase needs the number of classes of each source")
    logits = F.linear(features, learned[CLASSIFIER + "weight"], learned[CLASSIFIER + "bias"])
    y = rows_of(batch, classes_per_source)
    return F.cross_entropy(logits, y), float((logits.detach().argmax(1) == y).float().mean())


def step(network: nn.Module, s: State, batch: Labelled, classes_per_source: Sequence[int]) -> StepResult:
    """One step of plain training: the loss of the classifier on a trunk's features; the running averages move on.

    Args:
        network: the trunk's skeleton.
        s: holds ``trunk.*`` and a classifier.
        batch: pictures of any sources.
        classes_per_source: as the classifier was made for.

    Raises:
        ValueError: the state has no classifier.
    """
    with norm.batch_statistics() as seen:
        features = functional.call(network, functional.under(s.learned), {}, batch.x)
    loss, accuracy = classified(s.learned, features, batch, classes_per_source)
    buffers = norm.running_average(functional.under(s.memory), seen)
    metrics = {"loss": float(loss.detach()), "accuracy": accuracy}
    return StepResult(loss=loss, memory={**s.memory, **functional.named(buffers)}, metrics=metrics)


def dropped(s: State) -> State:
    """The state without its classifier."""
    return State({n: t for n, t in s.learned.items() if not n.startswith(CLASSIFIER)}, s.memory)
