"""A knowledge entry brought to life: its algorithm, its state, its calibration and what it was trained on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workbench.core.context import Context
from workbench.core.errors import StorageError, WorkbenchError
from workbench.core.paths import cache_home, display
from workbench.core.threads import at_thread_end
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess
from workbench.data.episodes import normalise
from workbench.data.read import pixels
from workbench.learn import quick
from workbench.learn.calibrate import UNCALIBRATED
from workbench.learn.features import FeatureCache, batch_size, features, trunk_digest
from workbench.learn.protocol import Algorithm, Setting, State, Support, generator
from workbench.learn.registry import backbone, create
from workbench.project.library import Library
from workbench.transfer.represent import Representation, represent

UNTRAINED = "No transfer"
_KEPT = 500_000_000
"""Bytes of tensors that each thread keeps ready to use."""
_PIXELS_KEPT = 128_000_000
_LARGEST_UNTRAINED = 84


@functools.lru_cache(maxsize=2)
def _features_under(root: Path) -> FeatureCache:
    return FeatureCache(root)


def feature_cache() -> FeatureCache:
    """The features that were computed before, in memory and on disk; one per cache folder."""
    return _features_under(cache_home() / "features")


@dataclass(frozen=True, slots=True)
class Knowledge:
    """One entry, ready to adapt.

    Attributes:
        entry: its card, or ``None`` for the untrained network that "no transfer" stands for.
        name: for people.
        algorithm: bound to its hyperparameters.
        state: its tensors.
        preprocess: how pictures become inputs.
        digest: of the trunk's tensors; part of every feature's key.
        sources: what it was trained on, as it sees it.
        trunk: what no support set changes, in eval mode, for cacheable algorithms.
    """

    entry: KnowledgeEntry | None
    name: str
    algorithm: Algorithm
    state: State
    preprocess: Preprocess
    digest: str
    sources: tuple[tuple[str, Representation], ...]
    trunk: nn.Module | None

    @property
    def id(self) -> EntryId | None:
        """The entry's id."""
        return None if self.entry is None else self.entry.id

    @property
    def cacheable(self) -> bool:
        """Whether features do not depend on the support set."""
        return "cacheable" in self.algorithm.info.tags

    @property
    def transductive(self) -> bool:
        """Whether pictures without labels, which are to be predicted together, help it to adapt."""
        return "transductive" in self.algorithm.info.tags

    @property
    def figures(self) -> Mapping[str, float]:
        """What was fitted on validation episodes, and what stands for it where nothing was."""
        return UNCALIBRATED if self.entry is None else {**UNCALIBRATED, **self.entry.calibration}

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds; those of its trunk may be others than those of its state."""
        for part in self.state:
            yield from part.values()
        if self.trunk is not None:
            yield from self.trunk.parameters()
            yield from self.trunk.buffers()

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(t.nbytes for part in self.state for t in part.values()) * (2 if self.trunk is not None else 1)


def split_state(tensors: dict[str, Tensor]) -> State:
    """``learned.*`` and ``memory.*`` of an entry's or a model's file."""
    return State(
        {k.removeprefix("learned."): v for k, v in tensors.items() if k.startswith("learned.")},
        {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")},
    )


def join_state(state: State) -> dict[str, Tensor]:
    """The inverse of ``split_state``."""
    return {f"learned.{k}": v for k, v in state.learned.items()} | {f"memory.{k}": v for k, v in state.memory.items()}


class _Kept(threading.local):
    """What each thread has at hand; a network's structure is filled in while it is called, so none is shared."""

    def __init__(self) -> None:
        self.entries: OrderedDict[tuple[str, Path], Knowledge] = OrderedDict()
        self.sizes: dict[tuple[str, Path], int] = {}
        self.untrained: OrderedDict[tuple[Preprocess, str], Knowledge] = OrderedDict()


_kept = _Kept()


@at_thread_end
def _forget() -> None:
    _kept.entries.clear()
    _kept.sizes.clear()
    _kept.untrained.clear()


def load(entry: KnowledgeEntry, path: Path, library: Library) -> Knowledge:
    """Bring an entry to life; what was used last is kept, for each thread apart.

    Args:
        entry: its card.
        path: its folder.
        library: reads its tensors.

    Raises:
        WorkbenchError: it is damaged, its tensors do not fit its network, or this version lacks its algorithm.
    """
    key = (entry.id, path)
    if not at_hand(entry, path):
        _kept.entries[key] = _load(entry, path, library)
        _kept.sizes[key] = _kept.entries[key].size
    found = _kept.entries[key]
    _kept.entries.move_to_end(key)
    while len(_kept.entries) > 1 and sum(_kept.sizes[k] for k in _kept.entries) > _KEPT:
        del _kept.sizes[_kept.entries.popitem(last=False)[0]]
    return found


def at_hand(entry: KnowledgeEntry, path: Path) -> bool:
    """Whether :func:`load` would give this thread at once what it kept."""
    found = _kept.entries.get((entry.id, path))
    return found is not None and found.entry == entry


def _load(entry: KnowledgeEntry, path: Path, library: Library) -> Knowledge:
    return assembled(entry, library.load_tensors(path), path)


def assembled(entry: KnowledgeEntry, arrays: Mapping[str, np.ndarray], path: Path) -> Knowledge:
    """An entry brought to life from tensors that were read; ``path`` is named where they do not fit.

    Raises:
        WorkbenchError: they do not, or this version lacks its algorithm.
    """
    setting = Setting(entry.backbone, entry.preprocess.depth, entry.preprocess.size, entry.ways[1])
    algorithm = create(entry.algorithm, entry.params, setting)
    try:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        state = split_state(tensors)
        expected = algorithm.init(generator(0))
        for part, wanted in zip(state, expected, strict=True):
            wrong = [n for n, t in wanted.items() if n not in part or part[n].shape != t.shape]
            if wrong:
                raise ValueError(f"{wrong[0]} is missing or has another shape")
        sources = tuple(
            (
                source.name,
                Representation(tensors[f"source.{i}.mean"], tensors[f"source.{i}.covariance"], max(source.images, 1)),
            )
            for i, source in enumerate(entry.sources)
            if f"source.{i}.mean" in tensors
        )
        digest, trunk = trunk_digest(state), algorithm.trunk(state)
    except (KeyError, ValueError, TypeError) as error:
        raise StorageError(
            f"{display(path)} was not loaded", f"its tensors do not fit its network ({error})", "Import the entry again"
        ) from error
    return Knowledge(entry, entry.name, algorithm, state, entry.preprocess, digest, sources, trunk)


def untrained(preprocess: Preprocess, backbone: str = "conv4") -> Knowledge:
    """What "no transfer" means: prototypes on a network with random weights (seed 0), which knows nothing."""
    key = (preprocess, backbone)
    if key not in _kept.untrained:
        setting = Setting(backbone, preprocess.depth, preprocess.size)
        algorithm = create("protonet", {}, setting)
        state = algorithm.init(generator(0))
        digest, trunk = trunk_digest(state), algorithm.trunk(state)
        _kept.untrained[key] = Knowledge(None, UNTRAINED, algorithm, state, preprocess, digest, (), trunk)
        if len(_kept.untrained) > 4:
            _kept.untrained.popitem(last=False)
    return _kept.untrained[key]


def plain_preprocess(like: Preprocess | None) -> Preprocess:
    """How the untrained network sees pictures: as the newest entry does, within what Conv-4 is for."""
    if like is None:
        return Preprocess()
    least = backbone("conv4").min_size
    return replace(like, size=min(max(like.size, least), max(least, _LARGEST_UNTRAINED)))


def to_tensor(images: tuple[ImageRef, ...], p: Preprocess) -> Tensor:
    """Pictures as normalised inputs ``[n, C, H, W]``.

    Raises:
        WorkbenchError: one cannot be read.
    """
    return normalise(np.stack([_pixels(image, p) for image in images]), p.mean, p.std)


_decoded: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()
_lock = threading.Lock()


def _pixels(image: ImageRef, p: Preprocess) -> np.ndarray:
    """8-bit pixels; those used last are kept, since every network and every edit asks for the same pictures."""
    key = (image.sha256, p.pixel_digest)
    with _lock:
        found = _decoded.get(key)
        if found is not None:
            _decoded.move_to_end(key)
            return found
    found = pixels(image, p)
    with _lock:
        _decoded[key] = found
        while len(_decoded) * found.nbytes > _PIXELS_KEPT:
            _decoded.popitem(last=False)
    return found


def support_of(
    knowledge: Knowledge, classes: tuple[tuple[ImageRef, ...], ...], cache: FeatureCache, ctx: Context
) -> Support:
    """The support set as this knowledge sees it.

    Raises:
        WorkbenchError: an example cannot be read.
    """
    images = tuple(image for members in classes for image in members)
    y = torch.tensor([i for i, members in enumerate(classes) for _ in members])
    if knowledge.cacheable:
        f = embed(knowledge, images, cache, ctx)
        return Support(f, y, len(classes), f)
    return Support(to_tensor(images, knowledge.preprocess), y, len(classes))


def unlabelled_of(
    knowledge: Knowledge, images: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context
) -> Tensor | None:
    """Pictures without labels as ``Algorithm.adapt`` takes them, those that cannot be read left out; ``None``: none."""

    def seen(some: tuple[ImageRef, ...]) -> Tensor:
        if knowledge.cacheable:
            return embed(knowledge, some, cache, ctx)
        return to_tensor(some, knowledge.preprocess)

    if not images:
        return None
    try:
        return seen(images)
    except WorkbenchError:
        parts = []
        for image in images:
            ctx.check()
            with contextlib.suppress(WorkbenchError):  # whoever asks about it is told why
                parts.append(seen((image,)))
        return torch.cat(parts) if parts else None


def embedding_of(knowledge: Knowledge, support: Support, ctx: Context) -> Tensor:
    """The support set's embedding before adapting ``[S, D]``.

    Raises:
        WorkbenchError: this knowledge cannot adapt to such a task.
    """
    return before_adapting(knowledge, support, ctx) if support.features is None else support.features


def embed(knowledge: Knowledge, images: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context) -> Tensor:
    """Features of pictures under a cacheable trunk, ``[n, D]``, from the cache where they are known."""
    assert knowledge.trunk is not None, "a cacheable algorithm has a trunk"
    return features(images, knowledge.trunk, knowledge.digest, knowledge.preprocess, cache, ctx, read=_pixels)


def before_adapting(knowledge: Knowledge, support: Support, ctx: Context) -> Tensor:
    """Embedding of the support set ``[S, D]``: at the initialisation of a gradient-based method, else once adapted."""
    first: list[Tensor] = []

    def keep(j: int, adapted: object) -> None:
        if j == 0:
            e = knowledge.algorithm.embed(knowledge.state, adapted, support.x)  # type: ignore[arg-type]
            assert e is not None, "every algorithm of this catalogue embeds"
            first.append(e.detach())
            raise _EnoughError

    with contextlib.suppress(_EnoughError), quick.passes():
        adapted = knowledge.algorithm.adapt(knowledge.state, support, ctx, on_step=keep)
        if not first:  # no inner steps to show: the network depends on the examples at once
            keep(0, adapted)
    return first[0]


class _EnoughError(Exception):
    """Only the initialisation was wanted."""


def described(knowledge: Knowledge, x: Tensor, ctx: Context) -> Representation:
    """Pictures ``[n, C, H, W]`` as the entry sees them before adapting: mean and covariance of their features."""
    return represent(plain_embedding(knowledge, x, ctx))


def plain_embedding(knowledge: Knowledge, x: Tensor, ctx: Context) -> Tensor:
    """Features of pictures ``[n, C, H, W]`` without any labels, ``[n, D]``."""
    if knowledge.trunk is not None:
        at_once = batch_size(x.shape[2], x.shape[3])
        parts = []
        for some in torch.split(x, at_once):
            ctx.check()
            with torch.no_grad():
                parts.append(knowledge.trunk(some))
        return torch.cat(parts)
    # Before the first step the features depend on the pictures alone, so any labels do, for as many classes as a fixed
    # head may want. Repeating all pictures alike changes no statistics.
    n, ways = len(x), knowledge.algorithm.setting.ways
    x = x.repeat(-(-ways // n), 1, 1, 1)
    return before_adapting(knowledge, Support(x, torch.arange(len(x)) % ways, ways), ctx)[:n]


def request_key(*parts: object) -> str:
    """Digest of what a result depends on."""
    h = hashlib.sha256()
    for part in parts:
        h.update(repr(part).encode("utf-8", "surrogateescape") + b"\0")
    return h.hexdigest()[:24]
