"""A knowledge entry brought to life: its algorithm, its state, its calibration and what it was trained on."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.paths import cache_home
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess, SourceInfo
from workbench.data.read import pixels
from workbench.learn.features import FeatureCache, features, trunk_digest
from workbench.learn.protocol import Algorithm, Setting, State, Support, generator
from workbench.learn.registry import create
from workbench.project.library import Library
from workbench.transfer.represent import Representation, represent

UNTRAINED = "No transfer"
_KEPT = 12


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
    """

    entry: KnowledgeEntry | None
    name: str
    algorithm: Algorithm
    state: State
    preprocess: Preprocess
    digest: str
    sources: tuple[tuple[str, Representation], ...]

    @property
    def id(self) -> EntryId | None:
        """The entry's id."""
        return None if self.entry is None else self.entry.id

    @property
    def cacheable(self) -> bool:
        """Whether features do not depend on the support set."""
        return "cacheable" in self.algorithm.info.tags

    def calibration(self, name: str, default: float) -> float:
        """A figure fitted on validation episodes."""
        return default if self.entry is None else float(self.entry.calibration.get(name, default))


def split_state(tensors: dict[str, Tensor]) -> State:
    """``learned.*`` and ``memory.*`` of an entry's or a model's file."""
    return State(
        {k.removeprefix("learned."): v for k, v in tensors.items() if k.startswith("learned.")},
        {k.removeprefix("memory."): v for k, v in tensors.items() if k.startswith("memory.")},
    )


def join_state(state: State) -> dict[str, Tensor]:
    """The inverse of ``split_state``."""
    return {f"learned.{k}": v for k, v in state.learned.items()} | {f"memory.{k}": v for k, v in state.memory.items()}


_cache: OrderedDict[str, Knowledge] = OrderedDict()
_lock = threading.Lock()


def load(entry: KnowledgeEntry, path: Path, library: Library) -> Knowledge:
    """Bring an entry to life; the last dozen are kept, keyed by the hash of their weights."""
    with _lock:
        if entry.weights_sha256 in _cache:
            _cache.move_to_end(entry.weights_sha256)
            return _cache[entry.weights_sha256]
    arrays = library.load_tensors(path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    setting = Setting(entry.backbone, entry.preprocess.depth, entry.preprocess.size, entry.ways[1])
    algorithm = create(entry.algorithm, entry.params, setting)
    state = split_state(tensors)
    sources = tuple(
        (
            source.name,
            Representation(tensors[f"source.{i}.mean"], tensors[f"source.{i}.covariance"], max(source.images, 1)),
        )
        for i, source in enumerate(entry.sources)
        if f"source.{i}.mean" in tensors
    )
    knowledge = Knowledge(entry, entry.name, algorithm, state, entry.preprocess, trunk_digest(state), sources)
    with _lock:
        _cache[entry.weights_sha256] = knowledge
        while len(_cache) > _KEPT:
            _cache.popitem(last=False)
    return knowledge


@functools.lru_cache(maxsize=4)
def untrained(preprocess: Preprocess, backbone: str = "conv4") -> Knowledge:
    """What "no transfer" means: prototypes on a network with random weights (seed 0), which knows nothing."""
    setting = Setting(backbone, preprocess.depth, preprocess.size)
    algorithm = create("protonet", {}, setting)
    state = algorithm.init(generator(0))
    return Knowledge(None, UNTRAINED, algorithm, state, preprocess, trunk_digest(state), ())


def to_tensor(images: tuple[ImageRef, ...], p: Preprocess) -> Tensor:
    """Pictures as normalised inputs ``[n, C, H, W]``."""
    x = torch.stack([torch.from_numpy(pixels(image, p).copy()) for image in images]).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(p.mean).view(1, -1, 1, 1)
    std = torch.tensor(p.std).view(1, -1, 1, 1)
    return ((x - mean) / std).contiguous()


def support_of(
    knowledge: Knowledge, classes: tuple[tuple[ImageRef, ...], ...], cache: FeatureCache, ctx: Context
) -> tuple[Support, Tensor]:
    """The support set as this knowledge sees it, and its embedding before adapting ``[S, D]``."""
    images = tuple(image for members in classes for image in members)
    y = torch.tensor([i for i, members in enumerate(classes) for _ in members])
    if knowledge.cacheable:
        f = embed(knowledge, images, cache, ctx)
        return Support(f, y, len(classes), f), f
    support = Support(to_tensor(images, knowledge.preprocess), y, len(classes))
    return support, before_adapting(knowledge, support, ctx)


def embed(knowledge: Knowledge, images: tuple[ImageRef, ...], cache: FeatureCache, ctx: Context) -> Tensor:
    """Features of pictures under a cacheable trunk, ``[n, D]``, from the cache where they are known."""
    trunk = knowledge.algorithm.trunk(knowledge.state)
    assert trunk is not None, "a cacheable algorithm has a trunk"
    return features(images, trunk, knowledge.digest, knowledge.preprocess, cache, ctx)


def before_adapting(knowledge: Knowledge, support: Support, ctx: Context) -> Tensor:
    """Embedding of the support set at the initialisation of a gradient-based method, ``[S, D]``."""
    first: list[Tensor] = []

    def keep(j: int, adapted: object) -> None:
        if j == 0:
            e = knowledge.algorithm.embed(knowledge.state, adapted, support.x)  # type: ignore[arg-type]
            assert e is not None, "every algorithm of this catalogue embeds"
            first.append(e.detach())
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        knowledge.algorithm.adapt(knowledge.state, support, ctx, on_step=keep)
    return first[0]


class _EnoughError(Exception):
    """Only the initialisation was wanted."""


def describe_source(knowledge: Knowledge, x: Tensor, y: Tensor, ctx: Context) -> Representation:
    """A source as the entry sees it: mean and covariance of the features of some of its pictures."""
    if knowledge.cacheable:
        trunk = knowledge.algorithm.trunk(knowledge.state)
        assert trunk is not None, "a cacheable algorithm has a trunk"
        with torch.no_grad():
            e = torch.cat([trunk(x[i : i + 64]) for i in range(0, len(x), 64)])
    else:
        e = before_adapting(knowledge, Support(x, y, int(y.max()) + 1), ctx)
    return represent(e)


def request_key(*parts: object) -> str:
    """Digest of what a result depends on."""
    h = hashlib.sha256()
    for part in parts:
        h.update(repr(part).encode("utf-8", "surrogateescape") + b"\0")
    return h.hexdigest()[:24]


def source_info(name: str, path: str, classes: int, images: int, fingerprint: str) -> SourceInfo:
    """A source as an entry's card names it."""
    return SourceInfo(name, path, classes, images, fingerprint)
