"""A tiny taught network and a model to write; nothing here knows the learning code."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from workbench.core.values import Candidate, EntryId, Estimate, Preprocess
from workbench.export.model import Manifest, SelfCheck, SupportImage

CLASSES = ("hat", "shoe", "skirt")


class Tiny(nn.Module):
    """Convolution, squared distances to three prototypes, and a "none of these" column."""

    def __init__(self, channels: int = 3, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        gen = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(channels, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        for p in self.conv.parameters():
            p.data = torch.randn(p.shape, generator=gen) * 0.2
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 0.25), persistent=False)
        self.prototypes = nn.Parameter(torch.zeros(classes, 16))
        self.eval()
        with torch.no_grad():  # one flat colour per class
            self.prototypes.copy_(self(torch.rand(classes, channels, 1, 1, generator=gen).expand(-1, -1, 16, 16))[3])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = torch.relu(self.norm(self.conv((image - self.mean) / self.std)))
        f = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        d = (f * f).sum(1, keepdim=True) - 2 * f @ self.prototypes.T + (self.prototypes**2).sum(1)
        distance = d.min(1).values.clamp_min(0).sqrt()
        none = torch.sigmoid((distance - 1.5) * 2)[:, None]
        return -d, torch.cat([(-d).softmax(1) * (1 - none), none], 1), distance, f


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def preprocess() -> Preprocess:
    return Preprocess(size=16)


@pytest.fixture
def network() -> Tiny:
    return Tiny()


@pytest.fixture
def pixels() -> np.ndarray:
    """Twelve pictures, ``uint8 [12, 16, 16, 3]``, of different brightness and colour."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (12, 1, 1, 3))
    return np.clip(base + rng.integers(-40, 41, (12, 16, 16, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def thumbnails(pixels: np.ndarray) -> list[bytes]:
    return [png(p) for p in pixels[:6]]


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "learned.conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "memory.count": np.asarray(7, np.int64),
        "support.embedding": rng.normal(size=(6, 16)).astype(np.float32),
        "support.label": np.asarray([0, 0, 1, 1, 2, 2], np.int64),
    }


@pytest.fixture
def manifest(preprocess: Preprocess) -> Manifest:
    return Manifest(
        name="Garments & more",
        classes=CLASSES,
        algorithm="protonet",
        params={"temperature": 1.5, "metric": "euclid"},
        backbone="conv4",
        preprocess=preprocess,
        ways=(5, 5),
        calibration={"temperature": 1.25, "reject_threshold": 3.5, "reject_width": 0.25},
        entry="ab12",
        strategy="auto",
        reason="it was closest",
        candidates=(Candidate(EntryId("ab12"), "alphabets", "greek", 0.5, 0.25, 1.0, True),),
        estimate=Estimate(0.9, 0.7, 0.97, "leave-one-out"),
        created="2025-01-01T00:00:00Z",
        provenance={"seed": 3, "licence": "CC0"},
        support=tuple(SupportImage(i // 2, f"{i}.png", f"{i:064x}") for i in range(6)),
        self_check=(SelfCheck(0, "0" * 64, (0.25, 0.25, 0.25, 0.25)),),
    )
