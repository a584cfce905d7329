"""Where a network's first weights come from: nothing, another entry, a local file, or a download after one click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.learn import recoloured
from workbench.learn.registry import Pretrained, backbones
from workbench.project.library import CARD, Library
from workbench.services.download import download, load_weights_file, weights_path

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a trunk by the backbone's own names, and the mean and std they were trained with (if they were)."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def normalisation_for(self, depth: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std for pictures of ``depth`` channels: grey ones get the mean of those for colours.

        Raises:
            WorkbenchError: weights that only know grey pictures, asked for colours.
        """
        if self.normalisation is None or len(self.normalisation[0]) == depth:
            return self.normalisation
        if depth == 1:
            mean, std = self.normalisation
            return (sum(mean) / len(mean),), (sum(std) / len(std),)
        raise WorkbenchError(
            "The run did not start", "the weights it starts from only know grey pictures", "Add --channels grey"
        )


def weights_for(backbone: str, start: str, pretrained: bool, project: Path) -> Weights:
    """The weights a run starts from.

    Args:
        backbone: key.
        start: path of a weights file, or an entry (id, name or path), or "".
        pretrained: use the weights that were downloaded or taken from a file for this backbone.
        project: whose knowledge is looked through first.

    Raises:
        WorkbenchError: no such backbone, the weights are not on this machine, or they do not fit.
    """
    pretrained_of(backbone, need=False)
    if start and (not Path(start).is_file() or Path(start).name == CARD):
        return _of_entry(backbone, start, project)
    if start:
        return Weights(
            fit(backbone, load_weights_file(Path(start), Context())),
            IMAGENET if backbones()[backbone].pretrained else None,
        )
    if not pretrained:
        return Weights()
    found = weights_path(backbone)
    if not found.exists():
        p = pretrained_of(backbone)
        raise WorkbenchError(
            f"The pretrained weights of {backbone} are not on this machine",
            f"they are {storage.len_text(p.size_bytes)} and nothing is downloaded unasked",
            "Fetch them with --download, with the button in Train, or give a file with --from",
        )
    return Weights(fit(backbone, load_weights_file(found, Context())), IMAGENET)


def _of_entry(backbone: str, start: str, project: Path) -> Weights:
    library = Library(project)
    entry, path = library.find(start)
    if backbone not in (entry.backbone, entry.backbone.removesuffix(recoloured.SUFFIX)):
        why = f"{entry.name} has the backbone {entry.backbone}, not {backbone}"
        raise WorkbenchError("The run did not start", why, f"Add --backbone {entry.backbone}")
    tensors = {}
    for name, array in library.load_tensors(path).items():
        for prefix in ("learned.trunk.", "memory.trunk."):
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = torch.from_numpy(np.array(array))
    if backbone != entry.backbone:  # aligned knowledge, without the layer that aligned it
        tensors = recoloured.without_layer(tensors)
    return Weights(tensors, (entry.preprocess.mean, entry.preprocess.std))


def pretrained_of(backbone: str, need: bool = True) -> Pretrained:
    """What can be had for a backbone.

    Raises:
        WorkbenchError: no such backbone, or nothing pretrained for it.
    """
    info = backbones().get(backbone.removesuffix(recoloured.SUFFIX))
    if info is None:
        raise WorkbenchError(
            "The network was not built",
            f"there is no backbone called {backbone}",
            f"Choose one of {', '.join(backbones())}",
        )
    if info.pretrained is None:
        if need:
            raise WorkbenchError(
                f"{info.title} has no pretrained weights", "none were published with it", "Choose resnet18"
            )
        return Pretrained(0, "", "", "", str)
    return info.pretrained


def host_of(p: Pretrained) -> str:
    """The host the weights come from, to be named before the click."""
    return urlsplit(p.url()).hostname or ""


def fetch(backbone: str, ctx: Context) -> Path:
    """Download, check and keep a backbone's weights; only ever called after a click or ``--download``.

    Raises:
        WorkbenchError: no such weights, no connection, or another file than was asked for; a cut download is kept.
        JobCancelledError: cancelled; what came is kept for next time.
    """
    p = pretrained_of(backbone)
    url = p.url()
    cached = weights_path(backbone).with_name(urlsplit(url).path.rsplit("/", 1)[-1])
    download(url, cached, sha256=p.sha256_prefix, size=p.size_bytes or None, ctx=ctx)
    return take_file(backbone, cached, ctx)


def take_file(backbone: str, path: Path, ctx: Context) -> Path:
    """Take a local ``.safetensors``, ``.pt`` or ``.pth`` file as a backbone's pretrained weights.

    Raises:
        WorkbenchError: the file is none of these, holds anything but tensors, or does not fit the backbone.
    """
    import safetensors.torch

    ctx.status("Checking the weights")
    tensors = fit(backbone, load_weights_file(path, ctx))
    target = weights_path(backbone)
    storage.save(target, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}), keep_previous=False)
    return target


def fit(backbone: str, given: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
    """The tensors of a file that belong to the backbone, all of them present and of the right shape.

    A classifier head in the file (``fc.*``) is left out; so are ``num_batches_tracked`` counters.

    Raises:
        WorkbenchError: a tensor is missing or has another shape.
    """
    info = backbones()[backbone]
    channels = 3
    expected = info.skeleton(channels, info.recommended_size).state_dict()
    out = {}
    for name, like in expected.items():
        if name not in given:
            raise WorkbenchError(
                "The weights were not taken",
                f"the file lacks {name}, which {info.title} needs",
                "Choose a file of that network",
            )
        value = given[name]
        tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        if tensor.shape != like.shape:
            raise WorkbenchError(
                "The weights were not taken",
                f"{name} is {tuple(tensor.shape)}, {info.title} needs {tuple(like.shape)}",
                "Choose a file of that network",
            )
        out[name] = tensor.to(like.dtype)
    return out
