"""Every job of the window and the command line, importable without torch.

Each function is ``fn(request, ..., ctx) -> result``. Those that need torch load it through
:mod:`workbench.services.runtime` (once, on one thread) before they import the service that does the work, so that the
window and ``--help`` appear without it.
"""

from __future__ import annotations

from pathlib import Path

from workbench.core.context import Context
from workbench.core.training import TrainRequest, TrainResult
from workbench.core.values import ScanResult
from workbench.services.requests import (
    AdaptRequest,
    Applied,
    ApplyRequest,
    BackboneRow,
    Catalogue,
    Compared,
    DeviceRow,
    Evaluated,
    EvaluateRequest,
    Exported,
    ExportRequest,
    Grouped,
    GroupRequest,
    Recommendation,
)
from workbench.services.teach import TeachRequest, TeachResult


def scan(paths: tuple[str, ...], ctx: Context) -> ScanResult:
    """Read folders and archives into tasks. Needs no torch; sends each finished ``Task`` as an event."""
    from workbench.data.scan import scan as run

    return run(paths, ctx)


def load_runtime(ctx: Context) -> None:
    """Load torch (and nothing else) on the runtime's thread; returns when it is there."""
    from workbench.services import runtime

    runtime.ready(ctx)


def catalogue(ctx: Context) -> Catalogue:
    """Algorithms with their form fields, and backbones."""
    load_runtime(ctx)
    from workbench.services.catalogue import catalogue as run

    return run()


def backbone(key: str, ctx: Context) -> BackboneRow:
    """One backbone of the catalogue; the others' libraries are not loaded for it."""
    load_runtime(ctx)
    from workbench.services.catalogue import backbone_row as run

    return run(key)


def recommend(tasks: ScanResult, ctx: Context) -> tuple[Recommendation, ...]:
    """Up to three choices for these data, each with its reason."""
    load_runtime(ctx)
    from workbench.services.catalogue import recommend as run

    return run(tasks.tasks)


def devices(ctx: Context) -> tuple[DeviceRow, ...]:
    """All devices with their one-second self-test."""
    load_runtime(ctx)
    from workbench.services.devices import devices as run

    return run(ctx)


def train(request: TrainRequest, project: Path, ctx: Context) -> TrainResult:
    """Meta-train; sends the metrics ``train|validation/loss|accuracy`` and ``EpisodeView`` events."""
    load_runtime(ctx)
    from workbench.services.train import train as run

    return run(request, project, ctx)


def resume(run_id: str, project: Path, ctx: Context) -> TrainResult:
    """Go on with a run that was killed."""
    load_runtime(ctx)
    from workbench.services.train import resume as run

    return run(run_id, project, ctx)


def teach(request: TeachRequest, project: Path, ctx: Context) -> TeachResult:
    """Represent, rank, adapt, predict."""
    load_runtime(ctx)
    from workbench.services.teaching import teach as run

    return run(request, project, ctx)


def save_taught(request: TeachRequest, project: Path, out: Path, ctx: Context) -> Path:
    """Adapt as ``teach`` does and write the model folder to ``out``; what Export and Apply start from."""
    load_runtime(ctx)
    from workbench.services.adapt import save_taught as run

    return run(request, project, out, ctx)


def adapt(request: AdaptRequest, project: Path, ctx: Context) -> dict[str, object]:
    """Adapt to a folder and write the model; the JSON of ``workbench adapt``."""
    load_runtime(ctx)
    from workbench.services.adapt import adapt as run

    return run(request, project, ctx)


def apply(request: ApplyRequest, project: Path, ctx: Context) -> Applied:
    """Predict a whole folder."""
    load_runtime(ctx)
    from workbench.services.predict import apply as run

    return run(request, project, ctx)


def group(request: GroupRequest, project: Path, ctx: Context) -> Grouped:
    """Clusters of pictures without labels."""
    load_runtime(ctx)
    from workbench.services.grouping import group as run

    return run(request, project, ctx)


def export(request: ExportRequest, project: Path, ctx: Context) -> Exported:
    """Export a model and verify the file in a clean process."""
    load_runtime(ctx)
    from workbench.services.exporting import export as run

    return run(request, project, ctx)


def evaluate(request: EvaluateRequest, project: Path, ctx: Context) -> Evaluated:
    """Episodic evaluation."""
    load_runtime(ctx)
    from workbench.services.evaluating import evaluate as run

    return run(request, project, ctx)


def compare(entries: tuple[str, ...], request: EvaluateRequest, project: Path, ctx: Context) -> Compared:
    """Several entries on the same frozen episodes; the request's own entry is not read."""
    load_runtime(ctx)
    from workbench.services.evaluating import compare as run

    return run(entries, request, project, ctx)


def fetch_weights(backbone: str, ctx: Context) -> Path:
    """Download a backbone's pretrained weights; only after a click (or ``--download``) that named what and whence."""
    load_runtime(ctx)
    from workbench.services.weights import fetch as run

    return run(backbone, ctx)


def take_weights_file(backbone: str, path: Path, ctx: Context) -> Path:
    """Take a local ``.safetensors`` or ``.pth`` file as a backbone's pretrained weights."""
    load_runtime(ctx)
    from workbench.services.weights import take_file as run

    return run(backbone, path, ctx)
