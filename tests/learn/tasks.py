"""A tiny backbone, and tasks that an untrained network is poor at and a trained one is good at."""

import functools

import torch
from torch import nn

from workbench.data.episodes import Episode, Episodes, Labelled
from workbench.learn import registry
from workbench.learn.norm import Norm2d
from workbench.learn.protocol import generator

SIZE = 8
FILTERS = 8


class Tiny(nn.Module):
    """One block of eight filters: ``[B, C, 8, 8] -> [B, 128]``.

    ``smooth``: softplus and mean instead of ReLU and maximum, whose kinks make adapted weights jump and finite
    differences meaningless. ``plain``: nothing is normalised, so examples and queries meet in nothing but the weights.
    """

    def __init__(self, channels, smooth=False, plain=False):
        super().__init__()
        self.smooth = smooth
        self.conv = nn.Conv2d(channels, FILTERS, 3, padding=1, bias=plain)
        self.norm = nn.Identity() if plain else Norm2d(FILTERS)

    def forward(self, x):
        x = self.norm(self.conv(x))
        if self.smooth:
            return nn.functional.avg_pool2d(nn.functional.softplus(x), 2).flatten(1)
        return nn.functional.max_pool2d(nn.functional.relu(x), 2).flatten(1)


def tiny_backbone():
    """Make ``tiny``, ``tiny-smooth`` and ``tiny-plain`` (which is smooth too) known, once per process."""
    for key, smooth, plain in (("tiny", False, False), ("tiny-smooth", True, False), ("tiny-plain", True, True)):
        if key not in registry.backbones():
            registry.register_backbone(
                key,
                title=key,
                input="for tests",
                min_size=SIZE,
                recommended_size=SIZE,
                embedding_size=lambda _channels, size: FILTERS * (size // 2) ** 2,
            )(lambda channels, size, smooth=smooth, plain=plain: Tiny(channels, smooth, plain))


@functools.cache
def _patterns():
    """60 classes: a sign for each of 64 positions, shown at two pixels' scale through a 2x2 chequer."""
    signs = torch.randn(60, 1, 4, 4, generator=generator(11)).sign()
    chequer = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return torch.kron(signs, chequer)


def pictures(classes, count, gen):
    """``[len(classes) * count, 1, 8, 8]``: the class's pattern under a strong random wash and noise.

    The wash is smooth and stronger than the pattern: a random filter sees it first, and a trained one learns to look
    past it. An untrained network reaches about 0.4 of 5 classes, a trained one 0.9.
    """
    pattern = _patterns()[classes].repeat_interleave(count, 0)
    n = len(pattern)
    wash = nn.functional.interpolate(torch.randn(n, 1, 4, 4, generator=gen), size=8, mode="nearest")
    noise = torch.randn(n, 1, 8, 8, generator=gen)
    return 0.6 * pattern + wash + 0.3 * noise


def episode(gen, ways=5, shots=2, queries=5, unseen=False, dtype=torch.float32):
    """Random classes in random order; ``shots`` may be one number per class; ``unseen``: of the last 20 classes."""
    low, high = (40, 60) if unseen else (0, 40)
    classes = low + torch.randperm(high - low, generator=gen)[:ways]
    per_class = [shots] * ways if isinstance(shots, int) else list(shots)
    support_x = torch.cat([pictures(classes[i : i + 1], k, gen) for i, k in enumerate(per_class)])
    support_y = torch.arange(ways).repeat_interleave(torch.tensor(per_class))
    query_x, query_y = pictures(classes, queries, gen), torch.arange(ways).repeat_interleave(queries)
    names = tuple(str(int(c)) for c in classes)
    ids = torch.arange(len(support_y) + len(query_y))
    return Episode(
        support_x.to(dtype),
        support_y,
        query_x.to(dtype),
        query_y,
        ways,
        names,
        "toy",
        ids[: len(support_y)],
        ids[len(support_y) :],
        None if unseen else classes,
    )


def batch(gen, tasks, **kwargs):
    """The episodes of one step."""
    return Episodes(tuple(episode(gen, **kwargs) for _ in range(tasks)))


def labelled(gen, size):
    """A supervised batch of the classes that episodes are drawn from, all of one source."""
    y = torch.randint(0, 40, (size,), generator=gen)
    return Labelled(pictures(y, 1, gen), y, torch.zeros_like(y))
