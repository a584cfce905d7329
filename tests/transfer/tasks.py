"""Tiny tasks for the representations: a set of labelled pictures, and the same set told in another order."""

import torch

from workbench.core.values import ImageRef, Preprocess
from workbench.learn.protocol import generator
from workbench.transfer.kinds import TaskData

GREY = Preprocess(size=8, channels="grey", mean=(0.5,), std=(0.5,))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def pictures(ways=3, each=4, seed=0, domain=0, channels=1):
    """``[n, C, 8, 8]`` float64 and labels: strokes whose direction is the domain's and whose place the class's."""
    gen = generator(1000 * seed + 17 * domain)
    rows = torch.arange(8.0, dtype=torch.float64)
    angle = 0.9 * domain
    along = torch.cos(torch.tensor(angle)) * rows[:, None] + torch.sin(torch.tensor(angle)) * rows[None]
    places = 6 * torch.rand(ways, generator=gen, dtype=torch.float64)
    y = torch.arange(ways).repeat_interleave(each)
    shift = places[y] + 0.3 * torch.randn(ways * each, generator=gen, dtype=torch.float64)
    x = torch.sin(1.5 * along - shift[:, None, None]).expand(channels, -1, -1, -1).movedim(0, 1)
    return x + 0.2 * torch.randn(x.shape, generator=gen, dtype=torch.float64), y


def task(ways=3, each=4, seed=0, domain=0, d=6):
    """Pictures and features ``[n, d]`` that are a fixed linear map of them."""
    x, y = pictures(ways, each, seed, domain)
    return TaskData(y, ways, x, x.flatten(1) @ normal(64, d, seed=5) / 8, GREY)


def retold(t, seed=0):
    """The same task: its pictures in another order, its classes numbered otherwise."""
    gen = generator(seed)
    order, names = torch.randperm(len(t.y), generator=gen), torch.randperm(t.ways, generator=gen)
    pick = lambda part: None if part is None else part[order]  # noqa: E731
    images = tuple(t.images[i] for i in order.tolist()) if t.images else ()
    return TaskData(names[t.y][order], t.ways, pick(t.x), pick(t.features), t.preprocess, images)


def files(n, width=40, height=20, suffix="png"):
    return tuple(ImageRef(f"p{i}.{suffix}", "", f"{i:064d}", 100, width, height) for i in range(n))
