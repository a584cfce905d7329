"""What can be trained here: algorithms with their form fields, backbones, and what to recommend for some tasks."""

from __future__ import annotations

from functools import cache

from workbench.core.params import fields_of
from workbench.core.values import Role, Task
from workbench.learn.registry import algorithms, backbone, backbones
from workbench.services.download import weights_path
from workbench.services.requests import AlgorithmRow, BackboneRow, Catalogue, Recommendation
from workbench.services.weights import host_of

_SMALL_PICTURE = 64


@cache
def _parameters(key: str) -> int:
    info = backbone(key)
    return info.parameters(3, info.recommended_size)


def catalogue() -> Catalogue:
    """Everything the Train form and the lists of the command line are generated from."""
    forms = tuple(AlgorithmRow(a.info, fields_of(a.Params)) for a in algorithms().values())
    return Catalogue(forms, tuple(backbone_row(key) for key in backbones()))


def backbone_row(key: str) -> BackboneRow:
    """One backbone; only what it needs itself is loaded.

    Raises:
        WorkbenchError: there is none of that name.
    """
    info = backbone(key)
    p = info.pretrained
    return BackboneRow(
        key,
        info.title,
        _parameters(key),
        info.input,
        info.recommended_size,
        p.size_bytes if p else 0,
        p.licence if p else "",
        host_of(p) if p else "",
        bool(p) and weights_path(key).exists(),
    )


def recommend(tasks: tuple[Task, ...]) -> tuple[Recommendation, ...]:
    """Up to three choices for these tasks, the first one selected, each with its reason.

    Small pictures (64 pixels or less on the short side) are learnt from scratch by Conv-4; photographs need pretrained
    features, so there the ridge head on ResNet-18 comes first where its weights are at hand.
    """
    used = [t for t in tasks if t.role is not Role.HELD_OUT and t.classes]
    images = [i for t in used for c in t.classes for i in c.images]
    if not images:
        return ()
    sides = sorted(min(i.width, i.height) for i in images)
    side = sides[len(sides) // 2]
    classes = sum(len(t.classes) for t in used)
    size = 28 if side <= _SMALL_PICTURE else 84
    ready = weights_path("resnet18").exists()
    plain = Recommendation(
        "protonet", "conv4", size, "Mean of the examples; no step on a new class", 5.0 if size == 28 else 15.0, False
    )
    steps = Recommendation("maml", "conv4", size, "Gradient steps, for a new task that differs", 15.0, False)
    frozen = Recommendation(
        "ridge",
        "resnet18",
        224,
        "Pretrained features, closed-form head" if ready else "Needs pretrained weights first",
        1.0,
        True,
    )
    if size == 84 or classes < 10:
        return (frozen, plain, steps) if ready else (plain, frozen, steps)
    return (plain, steps, frozen)
