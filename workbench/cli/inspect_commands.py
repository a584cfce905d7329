"""``tasks``, ``algorithms``, ``backbones``, ``devices``, ``doctor``: what is there, changing nothing."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from workbench.cli.output import emit, table
from workbench.core.context import Context
from workbench.core.storage import len_text
from workbench.services import jobs


def tasks(arguments: argparse.Namespace, ctx: Context) -> int:
    """What would be loaded."""
    found = jobs.scan(tuple(arguments.folders), ctx)
    value = {
        "tasks": [
            {
                "name": t.name,
                "path": t.path,
                "role": t.role.value,
                "classes": [{"name": c.name, "images": len(c.images)} for c in t.classes],
                "unlabelled": len(t.unlabelled),
            }
            for t in found.tasks
        ],
        "problems": [{"path": p.path, "reason": p.reason, "severity": p.severity} for p in found.problems],
    }

    def lines(v: dict[str, Any]) -> Iterable[str]:
        rows = [
            (t["name"], len(t["classes"]), sum(c["images"] for c in t["classes"]), t["unlabelled"], t["role"])
            for t in v["tasks"]
        ]
        yield from table(rows, ("task", "classes", "images", "unlabelled", "role"))
        for p in v["problems"]:
            yield f"{p['severity']}: {p['path']}: {p['reason']}"

    emit(value, arguments.json, lines)
    return 0


def algorithms(arguments: argparse.Namespace, ctx: Context) -> int:
    """All algorithms."""
    rows = [
        {
            "key": a.info.key,
            "title": a.info.title,
            "family": a.info.family,
            "paper": a.info.paper,
            "tags": sorted(a.info.tags),
        }
        | {
            "summary": a.info.summary,
            "parameters": [{"name": f.name, "default": f.default, "help": f.help} for f in a.fields],
        }
        for a in jobs.catalogue(ctx).algorithms
    ]
    emit(
        {"algorithms": rows},
        arguments.json,
        lambda v: table(
            [(a["key"], a["title"], a["family"], a["paper"]) for a in v["algorithms"]],
            ("key", "title", "family", "paper"),
        ),
    )
    return 0


def backbones(arguments: argparse.Namespace, ctx: Context) -> int:
    """All backbones."""
    rows = [
        {
            "key": b.key,
            "title": b.title,
            "parameters": b.parameters,
            "input": b.input,
            "pretrained": {
                "available": b.pretrained_present,
                "size": b.pretrained_size,
                "licence": b.pretrained_licence,
                "host": b.pretrained_host,
            }
            if b.pretrained_size
            else None,
        }
        for b in jobs.catalogue(ctx).backbones
    ]

    def lines(v: dict[str, Any]) -> Iterable[str]:
        for b in v["backbones"]:
            p = b["pretrained"]
            words = (
                f"pretrained: {len_text(p['size'])}, {p['licence']}, {'here' if p['available'] else 'not fetched'}"
                if p
                else "from scratch"
            )
            yield f"{b['key']:12} {b['title']}, {b['parameters']:,} parameters, {b['input']}; {words}"

    emit({"backbones": rows}, arguments.json, lines)
    return 0


def devices(arguments: argparse.Namespace, ctx: Context) -> int:
    """All devices."""
    rows = [
        {
            "key": d.key,
            "name": d.name,
            "usable": d.usable,
            "images_per_second": d.images_per_second,
            "agrees_with_cpu": d.agrees_with_cpu,
            "note": d.note,
        }
        for d in jobs.devices(ctx)
    ]
    emit(
        {"devices": rows},
        arguments.json,
        lambda v: [
            f"{d['key']:8} {d['name']}: {d['images_per_second']:.0f} images/s (Conv-4, 84 px)"
            + ("" if d["usable"] else " - not usable")
            + (f"; {d['note']}" if d["note"] else "")
            for d in v["devices"]
        ],
    )
    return 0


def doctor(arguments: argparse.Namespace, ctx: Context) -> int:  # noqa: ARG001 - one shape for all commands
    """Check what the workbench needs; exit 1 when something necessary is missing."""
    from workbench.services.doctor import checks

    rows = checks(arguments.project)
    value = {"checks": [{"name": c.name, "ok": c.ok, "found": c.found, "advice": c.advice} for c in rows]}
    emit(
        value,
        arguments.json,
        lambda v: [
            f"{'ok  ' if c['ok'] else 'FAIL'} {c['name']}: {c['found']}" + (f" - {c['advice']}" if c["advice"] else "")
            for c in v["checks"]
        ],
    )
    return 0 if all(c.ok for c in rows) else 1
