"""A network that reads a whole task, a set of labelled examples, and gives a vector.

On features under a frozen trunk, for ``N`` classes of unlike size::

    m_c = mean of h(f_i) over class c        v_c = their variance within it        z = rho(mean_c [m_c, v_c])

Means over examples and over classes: neither order nor numbering can matter (deep sets, Zaheer et al. 2017, arXiv
1703.06114). Tasks are compared by the cosine of ``z`` minus the mean over the known sources; without that, outputs of
such a network point all in nearly one direction.

How it is trained: :mod:`workbench.transfer.encoder_training`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from workbench.core import storage
from workbench.core.context import Context
from workbench.core.errors import StorageError
from workbench.learn import mlp
from workbench.learn.functional import Tensors
from workbench.transfer.kinds import TaskData, cosine
from workbench.transfer.represent import fold

KIND, VERSION, CARD = "task encoder", 1, "encoder.json"


@dataclass(frozen=True, slots=True)
class Encoder:
    """The trained network behind the interface of all representations.

    Attributes:
        tensors: ``h.*`` and ``rho.*`` (see ``learn.mlp``), the features' ``mean [D]`` and ``scale``, the sources'
            ``centroids [S, code]``, and of a regression ``gain.scale`` and ``gain.offset``.
        sources: their names.
        trunk: digest of the trunk that the features come from; under another one it says nothing.
        width: of the features, before they are folded.
    """

    key: ClassVar[str] = "encoder"
    title: ClassVar[str] = "Task encoder"
    tensors: Tensors
    sources: tuple[str, ...]
    trunk: str
    width: int

    def embed(self, task: TaskData, ctx: Context) -> Tensor:
        """``[code]`` float64: ``z`` minus the mean over the sources."""
        ctx.check()
        features = task.needed_features()
        if features.shape[1] != self.width:
            raise ValueError(f"the encoder reads {self.width} features, not {features.shape[1]}")
        if not torch.isfinite(features).all():
            raise ValueError("a task with numbers that are not finite cannot be described")
        tensors = {name: t.double() for name, t in self.tensors.items()}
        with torch.no_grad():
            z = encoded(tensors, features.detach().double().cpu(), task.y.cpu(), task.ways)
        return z - tensors["centroids"].mean(0)

    def similarity(self, a: Tensor, b: Tensor) -> float:
        """-1..1, the cosine; 0 says that two tasks are as alike as any two of the sources.

        It was learnt from the sources: trained on alphabets alone, it tells alphabets apart, and a photograph can come
        out nearer to one of them than they are to one another. How far a task is from all of them, ask ``Gaussian``.
        """
        return cosine(a, b)

    def nearest(self, vector: Tensor) -> list[tuple[str, float]]:
        """The sources by similarity of their centroids to a task's vector, the most similar first."""
        centroids = self.tensors["centroids"].double()
        found = [cosine(vector, c) for c in centroids - centroids.mean(0)]
        return sorted(zip(self.sources, found, strict=True), key=lambda pair: -pair[1])

    def expected_gain(self, a: Tensor, b: Tensor) -> float | None:
        """What ``b``'s knowledge should gain on task ``a``, share of pictures; ``None`` unless gains were regressed."""
        if "gain.scale" not in self.tensors:
            return None
        return float(self.tensors["gain.scale"]) * self.similarity(a, b) + float(self.tensors["gain.offset"])


def encoded(tensors: Tensors, features: Tensor, y: Tensor, ways: int) -> Tensor:
    """``z [code]`` of a task's features ``[n, D]``; differentiable."""
    return encoded_together(tensors, [(features, y, ways)])[0]


def encoded_together(tensors: Tensors, tasks: Sequence[tuple[Tensor, Tensor, int]]) -> Tensor:
    """``z [T, code]`` of several tasks ``(features, y, ways)``, whose examples go through the network together.

    Variances are averaged over the classes that have one, those of two examples or more.
    """
    ways = [n for _, _, n in tasks]
    first = [sum(ways[:i]) for i in range(len(ways))]  # the classes of all tasks, numbered through
    y = torch.cat([labels + start for (_, labels, _), start in zip(tasks, first, strict=True)])
    task_of = torch.arange(len(ways)).repeat_interleave(torch.tensor(ways))
    h = mlp.call(tensors, "h", (fold(torch.cat([f for f, _, _ in tasks])) - tensors["mean"]) / tensors["scale"])
    counts = torch.bincount(y, minlength=sum(ways)).to(h)[:, None]
    means = h.new_zeros(sum(ways), h.shape[1]).index_add(0, y, h) / counts
    squares = torch.zeros_like(means).index_add(0, y, (h - means[y]).square())
    several = (counts > 1).to(h)
    variances = several * squares / (counts - 1).clamp_min(1)

    def over_tasks(rows: Tensor) -> Tensor:
        return rows.new_zeros(len(ways), rows.shape[1]).index_add(0, task_of, rows)

    middle = over_tasks(means) / torch.tensor(ways).to(h)[:, None]
    spread = over_tasks(variances) / over_tasks(several).clamp_min(1)
    return mlp.call(tensors, "rho", torch.cat([middle, spread], 1))


# ---- on disk: the tensors first, then the card that names them -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Card:
    sha256: str
    sources: tuple[str, ...]
    trunk: str
    width: int


def save(encoder: Encoder, folder: Path) -> None:
    """Write ``encoder-HASH.safetensors``, then ``encoder.json`` that names the hash; what was there before is dropped.

    Raises:
        StorageError: it was not written; what was there before still is.
    """
    # a clone each: safetensors refuses tensors that share memory
    data = safetensors.torch.save({n: t.detach().cpu().contiguous().clone() for n, t in encoder.tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    storage.save(_tensors(folder, digest), data, keep_previous=False)
    card = _Card(digest, encoder.sources, encoder.trunk, encoder.width)
    storage.save(folder / CARD, storage.encode_json(KIND, VERSION, card), keep_previous=False)
    for old in folder.glob("encoder-*.safetensors"):
        if old != _tensors(folder, digest):
            with contextlib.suppress(OSError):
                old.unlink()


def load(folder: Path) -> Encoder | None:
    """The encoder that was saved there, or ``None`` if none was.

    Raises:
        StorageError: it is damaged, or of a newer version.
    """
    path = folder / CARD
    if not path.exists():
        return None
    card = storage.decode_json(storage.load(path), KIND, VERSION, _Card, str(path))
    file = _tensors(folder, card.sha256)
    data = storage.load(file, card.sha256)
    try:
        encoder = Encoder(safetensors.torch.load(data), card.sources, card.trunk, card.width)
        # whether the parts fit is asked here, not in the middle of a choice
        probe = TaskData(torch.tensor([0, 1]), 2, features=torch.zeros(2, card.width))
        if len(encoder.embed(probe, Context())) != encoder.tensors["centroids"].shape[1]:
            raise ValueError("its parts do not fit one another")
        if len(encoder.tensors["centroids"]) != len(card.sources):
            raise ValueError("its sources are not those of its card")
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise StorageError(f"{file} is damaged", str(error), "Train the task encoder again") from error
    return encoder


def _tensors(folder: Path, digest: str) -> Path:
    return folder / f"encoder-{digest[:12]}.safetensors"
