"""Tiny sources on which there is something to learn: a pattern per class, drowned in noise outside a few pixels."""

import numpy as np

from workbench.data.episodes import Sampler, Source


def source(name, classes=8, images=12, seed=0, size=8, channels=1):
    gen = np.random.default_rng(seed)
    arrays = []
    for _ in range(classes):
        a = gen.integers(0, 256, (images, size, size, channels), dtype=np.uint8)
        a[:, :2] = np.clip(
            gen.integers(20, 236, (1, 2, size, channels)) + gen.normal(0, 25, (images, 2, size, channels)), 0, 255
        )
        arrays.append(a)
    return Source(name, tuple(f"{name}{c}" for c in range(classes)), tuple(arrays))


def sampler(*sources, **changes):
    channels = sources[0].arrays[0].shape[-1]
    options = {"ways": (4, 4), "shots": (2, 2), "queries": 5, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return Sampler(sources, **(options | changes))
