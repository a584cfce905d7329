"""Altered views of few examples, which say more of a network than one or two pictures of a class do.

With two examples of each class, one is left to learn from when the other is left out, and its one answer is mostly
chance. So each is shown in four altered views besides, a little aside and in another light: they are examples like it,
are left out together with it, and are asked about, too. What is used in the end learns from the pictures alone.

What it brings is little: with the losses of 18 to 24 options (three heads on six to eight networks, few of them trained
well), the option of the least loss is right of 0.2 points more of new pictures than without views, give or take 0.4,
and the losses' rank correlation with that accuracy rises from 0.33 to 0.35 (5-way, 2 examples, 40 tasks in each of six
alphabets and three kinds of sample pictures, that the networks of the same kind were left out for). Views that are only
asked about gave -0.2, give or take 0.5; views that are only learnt from -0.1, give or take 0.3. No command
measures this again.

At one example a class nothing can be left out, whatever its views are: a view that stayed would give the answer away.
With three and more the examples say enough, and views of all of them would cost five times the time.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.values import ImageRef, Preprocess, TaskClass
from workbench.data.episodes import normalise
from workbench.learn import augment
from workbench.learn.features import FeatureCache, features
from workbench.learn.protocol import generator
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.transfer.rank import shots_of

VIEWS = 4
"""Of each picture, beside itself."""
_SHOTS = 2


def wanted(classes: Sequence[TaskClass]) -> bool:
    """Whether there are so few examples of each class that views help, and not only one."""
    counts = [len(c.images) for c in classes]
    return min(counts) >= 2 and shots_of(counts) <= _SHOTS


def embed(knowledge: Knowledge, images: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context) -> Tensor:
    """Features ``[4 S, D]`` of the views of pictures: the first view of all, then the second.

    Which views a picture has depends on the picture alone, so they are computed once.
    """
    assert knowledge.trunk is not None, "a cacheable algorithm has a trunk"
    how = _how()
    shown = {_named(image, n, how).sha256: (image, n) for n in range(VIEWS) for image in images}

    def read(image: ImageRef, p: Preprocess) -> np.ndarray:
        return altered(*shown[image.sha256], p)

    every = [_named(image, n, how) for n in range(VIEWS) for image in images]
    return features(every, knowledge.trunk, knowledge.digest, knowledge.preprocess, cache, ctx, read=read)


def inputs(p: Preprocess, classes: Sequence[TaskClass]) -> Tensor:
    """The views themselves, normalised ``[4 S, C, H, W]`` in the same order, none where they are not wanted."""
    images = [i for c in classes for i in c.images]
    if not wanted(classes):
        return torch.zeros(0, p.depth, p.size, p.size)
    return normalise(np.stack([altered(image, n, p) for n in range(VIEWS) for image in images]), p.mean, p.std)


def altered(image: ImageRef, number: int, p: Preprocess) -> np.ndarray:
    """One view of a picture ``[H, W, C]``, 8 bits, as the same file always gives it.

    Raises:
        WorkbenchError: it cannot be read.
    """
    gen = generator(int(image.sha256[:12], 16) + number)
    x = augment.augmented(known.to_tensor((image,), p), gen)[0].permute(1, 2, 0).numpy()
    pixels = 255 * (x * np.asarray(p.std, np.float32) + np.asarray(p.mean, np.float32))
    return np.asarray(pixels.round().clip(0, 255), np.uint8)


def _named(image: ImageRef, number: int, how: str) -> ImageRef:
    """Under the name that a view's features are kept by."""
    return replace(image, sha256=f"{image.sha256}-view-{how}-{number}")


@functools.cache
def _how() -> str:
    """How pictures are altered, told by its constants and by what becomes of a pattern.

    What an earlier program kept of views that were altered otherwise has another name. Machines may differ in it, too,
    which costs no more than computing such features again.
    """
    x = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
    shown = torch.cat([augment.augmented(x, generator(n)) for n in range(32)])
    constants = (augment.LIKELY, augment.LIGHT, augment.CONTRAST, augment.ASIDE)
    return hashlib.sha256(repr(constants).encode() + (100 * shown).round().numpy().tobytes()).hexdigest()[:8]
