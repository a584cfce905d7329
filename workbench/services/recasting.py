"""One entry's knowledge in another form: its trunk, up to some layer, under another head.

What comes out is knowledge like any other: it adapts, is written, opened and exported as an entry of that algorithm
would be. Its digest is that of its trunk's tensors, so all heads on one trunk share the features in the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.params import values_of
from workbench.learn import functional
from workbench.learn.features import trunk_digest
from workbench.learn.protocol import Setting, State, generator
from workbench.learn.registry import backbone, beginning_of, create
from workbench.services.knowledge import Knowledge
from workbench.transfer import mixing
from workbench.transfer.recipes import Recipe

_CENTRE, _COUNT = "base.mean", "base.batches"
"""SimpleShot's mean feature of the source pictures, and how many batches it is the mean of."""


def recast(knowledge: Knowledge, recipe: Recipe, x: Tensor | None = None) -> Knowledge:
    """The knowledge that a recipe makes of an entry.

    The probabilities' temperature belongs to the entry's own head and is left behind; the figures of "none of these"
    belong to the features, and stay where these are the same.

    Args:
        knowledge: an entry's, or the untrained network.
        recipe: what to make of it; the entry as it is comes back unchanged.
        x: the examples ``[S, C, H, W]``, which the adapter ``norm`` measures.

    Raises:
        WorkbenchError: its trunk is none that another head can stand on, or it has no layer before the last.
        ValueError: the adapter ``norm`` without examples.
    """
    if recipe.own:
        return knowledge
    before = knowledge.algorithm.setting
    key = before.backbone
    if recipe.layer == "previous":
        key = beginning_of(before.backbone)
        if not key:
            raise _refused(knowledge.name, f"{backbone(before.backbone).title} cannot be ended a block earlier")
    tensors = functional.under({**knowledge.state.learned, **knowledge.state.memory})
    if recipe.adapter == "norm":
        if x is None:
            raise ValueError("statistics are measured on examples")
        network = backbone(before.backbone).skeleton(before.channels, before.size)
        trunk = mixing.trunk_of(network, knowledge.state, knowledge.name)
        tensors = {**tensors, **mixing.restated(network, trunk, x).tensors}
    centre = _centre_of(knowledge, recipe)
    params: dict[str, Any] = {"transform": "CL2N" if centre is not None else "L2N"}
    algorithm = create(
        recipe.head,
        params if recipe.head == "simpleshot" else {},
        Setting(key, before.channels, before.size, before.ways, weights=tensors),
    )
    state = algorithm.init(generator(0))
    if recipe.head == "simpleshot" and centre is not None:
        state = State(state.learned, {**state.memory, _CENTRE: centre, _COUNT: torch.ones(())})
    entry = knowledge.entry
    if entry is not None:
        same = recipe.layer == "last" and recipe.adapter == "none" and knowledge.cacheable
        figures = {n: v for n, v in entry.calibration.items() if same and n != "temperature"}
        entry = replace(entry, algorithm=recipe.head, params=values_of(algorithm.p), backbone=key, calibration=figures)
    return Knowledge(
        entry,
        f"{knowledge.name}, {recipe.words}",
        algorithm,
        state,
        knowledge.preprocess,
        trunk_digest(state),
        knowledge.sources,
        algorithm.trunk(state),
    )


def measuring(knowledge: Knowledge, recipe: Recipe, x: Tensor, more: Tensor) -> Callable[[Tensor, Context], Tensor]:
    """What gives the features of all examples under norms that were measured on those kept ``[S]`` bool.

    They are those of :func:`recast` with these examples, in one pass and without a copy of the network.

    Args:
        knowledge: as in :func:`recast`.
        recipe: whose adapter is ``norm``.
        x: the examples ``[S, C, H, W]``.
        more: other pictures ``[n, C, H, W]``, whose features follow those of the examples, ``[S + n, D]``.
    """
    setting = knowledge.algorithm.setting
    key = setting.backbone if recipe.layer == "last" else beginning_of(setting.backbone)
    network = backbone(key).skeleton(setting.channels, setting.size)
    trunk = mixing.trunk_of(network, knowledge.state, knowledge.name)
    return mixing.measuring(network, trunk, x, more)


def can(knowledge: Knowledge, recipe: Recipe) -> bool:
    """Whether a recipe can be made: the entry holds one trunk of its backbone, and that one has a layer before."""
    setting = knowledge.algorithm.setting
    if recipe.layer == "previous" and not beginning_of(setting.backbone):
        return False
    held = functional.under({**knowledge.state.learned, **knowledge.state.memory})
    wanted = _shapes(setting.backbone, setting.channels, setting.size)
    return all(n in held and held[n].shape == shape for n, shape in wanted)


@functools.lru_cache(maxsize=32)
def _shapes(key: str, channels: int, size: int) -> tuple[tuple[str, torch.Size], ...]:
    """Names and shapes of a backbone's tensors."""
    network = backbone(key).skeleton(channels, size)
    return tuple((n, t.shape) for n, t in (*network.named_parameters(), *network.named_buffers()))


def centre_of(knowledge: Knowledge, recipe: Recipe) -> Tensor | None:
    """What the head ``simpleshot`` takes off the features ``[D]``; ``None``: nothing, or another head."""
    return _centre_of(knowledge, recipe) if recipe.head == "simpleshot" else None


def _centre_of(knowledge: Knowledge, recipe: Recipe) -> Tensor | None:
    """The mean feature of the sources, where the entry knows it and the features are still those."""
    if recipe.layer != "last" or recipe.adapter != "none":
        return None
    return knowledge.state.memory.get(_CENTRE)


def _refused(name: str, why: str) -> WorkbenchError:
    return WorkbenchError(f"{name} was not recast", why, "Use it as it is")
