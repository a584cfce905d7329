"""What algorithms and backbones there are: one file each, found because it is there.

A file of ``learn/algorithms`` decorates its class with :func:`register`, a file of ``learn/backbones`` its building
function with :func:`register_backbone`. The window's menus and forms, the command line's choices and the conformance
tests follow from that; deleting the file removes the algorithm.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from torch import Generator, nn

from workbench.core.errors import WorkbenchError
from workbench.core.params import build_params
from workbench.learn import algorithms as _algorithm_files
from workbench.learn import backbones as _backbone_files
from workbench.learn import functional, recoloured
from workbench.learn.protocol import Algorithm, Setting

A = TypeVar("A", bound=type)
Structure = Callable[[int, int], nn.Module]

TAGS = frozenset(
    {
        "trains",
        "gradient-based",
        "any-way",
        "transductive",
        "cacheable",
        "stochastic",
        "order-dependent",
        "needs-pretrained",
    }
)

_algorithms: dict[str, type[Algorithm]] = {}
_backbones: dict[str, BackboneInfo] = {}


@dataclass(frozen=True, slots=True)
class Pretrained:
    """Weights that can be fetched for a backbone.

    Attributes:
        size_bytes: of the file.
        licence: in words.
        title: what they were trained on.
        sha256_prefix: first hex digits of the file's hash.
        url: asks the library that publishes them for the address; loads that library.
    """

    size_bytes: int
    licence: str
    title: str
    sha256_prefix: str
    url: Callable[[], str]


@dataclass(frozen=True, slots=True)
class BackboneInfo:
    """A backbone ``[B, C, H, W] -> [B, D]``.

    Attributes:
        key: the command line's name.
        title: the window's name.
        input: what pictures it is for, in words.
        min_size: smallest side of the input, pixels.
        recommended_size: side it works best with, pixels.
        structure: builds the network for (channels, size).
        embedding_size: ``D`` for (channels, size).
        pretrained: weights that can be fetched, or ``None``.
        part_of: key of the backbone that this one is the beginning of: its tensors are some of that one's, by the same
            names; "" for a whole one.
    """

    key: str
    title: str
    input: str
    min_size: int
    recommended_size: int
    structure: Structure
    embedding_size: Callable[[int, int], int]
    pretrained: Pretrained | None = None
    part_of: str = ""

    def skeleton(self, channels: int, size: int) -> nn.Module:
        """The network without values (see ``functional``)."""
        return functional.skeleton(lambda: self.structure(channels, size))

    def build(self, channels: int, size: int, gen: Generator) -> nn.Module:
        """A network of its own with fresh values from ``gen``, in eval mode."""
        module = self.skeleton(channels, size)
        params, buffers = functional.initial(module, gen)
        return functional.frozen(module, {**params, **buffers})

    def parameters(self, channels: int, size: int) -> int:
        """How many numbers are learnt."""
        return sum(p.numel() for p in self.skeleton(channels, size).parameters())


def register(cls: A) -> A:
    """Class decorator: make an algorithm known under ``cls.info.key``.

    Raises:
        ValueError: the key is taken by another class, or a tag is unknown.
    """
    algorithm = cast("type[Algorithm]", cls)
    info = algorithm.info
    known = _algorithms.get(info.key)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"two algorithms are called {info.key}")
    if not info.tags <= TAGS:
        raise ValueError(f"{info.key} has unknown tags: {sorted(info.tags - TAGS)}")
    _algorithms[info.key] = algorithm
    return cls


def register_backbone(
    key: str,
    *,
    title: str,
    input: str,  # noqa: A002 - the key of the JSON
    min_size: int,
    recommended_size: int,
    embedding_size: Callable[[int, int], int],
    pretrained: Pretrained | None = None,
    part_of: str = "",
) -> Callable[[Structure], Structure]:
    """Function decorator: make the network that the function builds for (channels, size) known under ``key``.

    ``part_of`` names the backbone that this one is the beginning of, where it is one.

    Raises:
        ValueError: the key is taken.
    """

    def taken(structure: Structure) -> Structure:
        if key in _backbones:
            raise ValueError(f"two backbones are called {key}")
        info = BackboneInfo(
            key, title, input, min_size, recommended_size, structure, embedding_size, pretrained, part_of
        )
        _backbones[key] = info
        return structure

    return taken


def algorithms() -> dict[str, type[Algorithm]]:
    """All algorithms by key, in the order of their keys."""
    _import_all(_algorithm_files)
    return dict(sorted(_algorithms.items()))


def backbones() -> dict[str, BackboneInfo]:
    """All backbones by key, in the order of their keys."""
    _import_all(_backbone_files)
    return dict(sorted(_backbones.items()))


def backbone(key: str) -> BackboneInfo:
    """One backbone.

    Raises:
        WorkbenchError: there is none of that name.
    """
    known = backbones()
    plain = key.removesuffix(recoloured.SUFFIX)
    if plain not in known:
        raise _unknown("backbone", key, known)
    return known[plain] if plain == key else _with_layer(known[plain])


def _with_layer(info: BackboneInfo) -> BackboneInfo:
    """The backbone with a linear layer behind it, as alignment leaves it; it is in no list."""

    def structure(channels: int, size: int) -> nn.Module:
        return recoloured.Recoloured(info.structure(channels, size), info.embedding_size(channels, size))

    title = f"{info.title}, and a linear layer"
    key = info.key + recoloured.SUFFIX
    return replace(info, key=key, title=title, structure=structure, pretrained=None, part_of="")


def beginning_of(key: str) -> str:
    """Key of the backbone that ends a block earlier than this one, or "" where there is none."""
    return next((b.key for b in backbones().values() if b.part_of == key), "")


def create(key: str, params: Mapping[str, Any], setting: Setting) -> Algorithm:
    """An algorithm bound to its hyperparameters (``params`` overrides the defaults) and to its setting.

    Raises:
        WorkbenchError: an unknown algorithm, backbone or hyperparameter, or an image too small for the backbone.
    """
    known = algorithms()
    if key not in known:
        raise _unknown("algorithm", key, known)
    info = backbone(setting.backbone)
    if setting.size < info.min_size:
        why = f"{info.title} needs pictures of at least {info.min_size} pixels, not {setting.size}"
        raise WorkbenchError("The network was not built", why, "Choose a larger image size or another backbone")
    return known[key](build_params(known[key].Params, params), setting)


def _unknown(kind: str, key: str, known: Mapping[str, Any]) -> WorkbenchError:
    why = f"there is none called {key!r}"
    return WorkbenchError(f"The {kind} was not found", why, f"Choose among: {', '.join(known)}")


def _import_all(package: Any) -> None:
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{found.name}")
