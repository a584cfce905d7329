"""``adapt``, ``predict``, ``export``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.cli.output import emit
from workbench.core.context import Context
from workbench.core.storage import len_text
from workbench.core.values import ImageRef
from workbench.services import jobs
from workbench.services.requests import AdaptRequest, Applied, ApplyRequest, Exported, ExportRequest


def adapt(arguments: argparse.Namespace, ctx: Context) -> int:
    """Adapt to a folder."""
    value = jobs.adapt(
        AdaptRequest(
            arguments.entry,
            arguments.support,
            str(arguments.out),
            arguments.seed,
            unlabelled=tuple(arguments.unlabelled),
            by=arguments.by,
        ),
        arguments.project,
        ctx,
    )

    def lines(v: dict[str, Any]) -> Iterable[str]:
        yield f"{v['model']}: chooses between {', '.join(v['classes'])}, or none of these"
        yield v["chosen"]["reason"]
        for w in v["chosen"]["weights"]:
            likeness = "" if w["similarity"] is None else f", similarity {w['similarity']:.2f}"
            loss = "" if w["loss"] is None else f", leave-one-out loss {w['loss']:.2f}"
            yield f"  {w['weight']:.2f}  {w['name']}{likeness}{loss}"
        e = v["estimate"]
        if e:
            yield f"estimated accuracy {e['accuracy']:.2f} ({e['low']:.2f}-{e['high']:.2f}), {e['how']}"
        else:
            yield "accuracy cannot be estimated yet: give each class a second example"
        if v["note"]:
            yield v["note"]
        for p in v["problems"]:
            yield f"{p['severity']}: {p['path']}: {p['reason']}"

    emit(dict(value), arguments.json, lines)
    return 0


def predict(arguments: argparse.Namespace, ctx: Context) -> int:
    """Predict pictures or folders."""
    request = ApplyRequest(arguments.model, tuple(arguments.images), arguments.csv, arguments.copy_to)
    value = predict_json(arguments.model, jobs.apply(request, arguments.project, ctx))

    def lines(v: dict[str, Any]) -> Iterable[str]:
        for p in v["predictions"]:
            best = p["ranked"][0]
            says = "none of these" if p["rejected"] else best["class"]
            yield f"{p['image']}: {says} ({p['none_of_these'] if p['rejected'] else best['probability']:.2f})"
        for p in v["problems"]:
            yield f"not read: {p['path']}: {p['reason']}"

    emit(value, arguments.json, lines)
    return 0


def where(image: ImageRef) -> str:
    """A picture's path, inside its archive where it lies in one."""
    return f"{image.path}/{image.member}" if image.path and image.member else image.path or image.member


def predict_json(model: str, applied: Applied) -> dict[str, Any]:
    """The JSON of ``predict``."""
    rows = []
    for p in applied.predictions:
        ranked = sorted(zip(applied.classes, p.probabilities, strict=True), key=lambda r: -r[1])
        rows.append(
            {
                "image": where(p.image),
                "ranked": [{"class": c, "probability": v} for c, v in ranked],
                "none_of_these": p.none,
                "rejected": p.rejected,
                "nearest": [
                    {"image": where(n.image), "class": applied.classes[n.class_index], "distance": n.distance}
                    for n in p.nearest
                ],
            }
        )
    problems = [{"path": p.path, "reason": p.reason, "severity": p.severity} for p in applied.problems]
    return {"model": str(Path(model)), "predictions": rows, "problems": problems}


def export(arguments: argparse.Namespace, ctx: Context) -> int:
    """Export and verify."""
    done = jobs.export(ExportRequest(arguments.model, arguments.format, str(arguments.out)), arguments.project, ctx)

    def lines(v: dict[str, Any]) -> Iterable[str]:
        yield f"{v['format']} verified on {v['images_checked']} pictures in a clean process, {len_text(done.size)}"
        for c in done.checks:
            yield f"  {'ok  ' if c.ok else 'FAIL'} {c.name}: {c.detail} {c.figure}".rstrip()
        yield from v["files"]

    emit(export_json(done), arguments.json, lines)
    return 0


def export_json(done: Exported) -> dict[str, Any]:
    """The JSON of ``export``."""
    return {
        "format": done.format,
        "files": list(done.files),
        "verified": done.verified,
        "images_checked": done.images_checked,
        "top1_agreement": done.top1_agreement,
        "max_relative_logit_difference": done.max_relative_logit_difference,
        "max_probability_difference": done.max_probability_difference,
        "near_ties": len(done.near_ties),
        "seconds": done.seconds,
    }
