"""Batches of several sources."""

import torch

from tests.learn.tasks import pictures
from workbench.data.episodes import Labelled


def several(gen, size, classes, dtype=torch.float32):
    """A supervised batch of several sources with so many classes each; every source is in it."""
    source = torch.arange(size) % len(classes)
    numbers = torch.tensor(classes)
    y = torch.randint(0, 1 << 30, (size,), generator=gen) % numbers[source]
    first = numbers.cumsum(0) - numbers
    return Labelled(pictures(first[source] + y, 1, gen).to(dtype), y, source)
