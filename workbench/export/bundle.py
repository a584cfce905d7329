"""The bundle: one zip that describes itself, predicts anywhere, and opens again to be given another class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.export import archive, weights
from workbench.export.card import model_card
from workbench.export.compare import PROBABILITY_TOLERANCE, self_check
from workbench.export.model import MODEL_FILE, Manifest, encode_manifest, with_files
from workbench.export.onnx import NONE_OF_THESE
from workbench.export.weights import Array

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE = "weights.safetensors"
ONNX_FILE = "model.onnx"


def runner_files() -> dict[str, bytes]:
    """``run.py`` and ``pixels.py`` as they travel with an export."""
    from workbench.data import pixels

    return {
        "run.py": Path(__file__).with_name("runner.py").read_bytes(),
        "pixels.py": Path(pixels.__file__).read_bytes(),
    }


def label_files(manifest: Manifest, file: str) -> dict[str, bytes]:
    """``labels.txt`` and ``preprocess.json`` as they travel with an export.

    Args:
        manifest: classes, preprocessing and thresholds.
        file: name of the file they belong to.
    """
    about = {
        **asdict(manifest.preprocess),
        "model": file,
        "input": "image, [batch, channels, size, size], float32 in 0..1; mean and std are applied inside the model",
        "calibration": manifest.calibration,
    }
    return {
        "labels.txt": "".join(f"{name}\n" for name in (*manifest.classes, NONE_OF_THESE)).encode(),
        "preprocess.json": json.dumps(about, indent=1, sort_keys=True).encode() + b"\n",
    }


def build_bundle(
    network: nn.Module,
    manifest: Manifest,
    tensors: Mapping[str, Array],
    thumbnails: Sequence[bytes],
    onnx_model: bytes,
) -> bytes:
    """Everything in one zip; the same bytes for the same input.

    Args:
        network: on the CPU; asked for the answers of the self-check.
        manifest: of the model.
        tensors: from which the model can be opened again.
        thumbnails: PNG bytes, one per support image.
        onnx_model: what ``to_onnx`` gave for the network.
    """
    names = [f"thumbnails/{i:04d}.png" for i in range(len(thumbnails))]
    checks = self_check(network, manifest, thumbnails)
    manifest = replace(manifest, self_check=checks)
    pictures = [
        {"image": names[c.support], "pixels_sha256": c.pixels_sha256, "probabilities": list(c.probabilities)}
        for c in checks
    ]
    about = {"name": manifest.name, "algorithm": manifest.algorithm, "backbone": manifest.backbone}
    files = {
        "README.md": model_card(manifest, ONNX_FILE).encode(),
        ONNX_FILE: onnx_model,
        WEIGHTS_FILE: weights.encode(tensors, about),
        **label_files(manifest, ONNX_FILE),
        "check.json": json.dumps({"tolerance": PROBABILITY_TOLERANCE, "pictures": pictures}, indent=1).encode() + b"\n",
        **runner_files(),
        **dict(zip(names, thumbnails, strict=True)),
    }
    sealed = encode_manifest(with_files(manifest, WEIGHTS_FILE, names, files))
    return archive.pack({MODEL_FILE: sealed, **files})
