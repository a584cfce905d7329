"""``knowledge list | show | similar``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import msgspec

from workbench.cli.output import emit, say_problems
from workbench.core.context import Context
from workbench.core.values import KnowledgeEntry
from workbench.project.library import Library
from workbench.services import jobs


def knowledge(arguments: argparse.Namespace, ctx: Context) -> int:
    """What is known."""
    library = Library(arguments.project)
    if arguments.part == "show":
        entry, path = library.find(arguments.entry)
        emit(
            row(entry) | {"path": str(path), "provenance": entry.provenance, "params": entry.params},
            arguments.json,
            card,
        )
        return 0
    similarities: dict[str, float] = {}
    if arguments.part == "similar":
        jobs.load_runtime(ctx)
        from workbench.services.adapt import similar

        similarities = similar(arguments.folder, arguments.project, ctx)
    rows = [row(e) | {"similarity": similarities.get(e.id)} for e in library.entries()]
    rows.sort(key=lambda r: -(r["similarity"] or 0.0))
    say_problems(library.problems, "'--json' lists them")
    problems = [{"path": p.path, "reason": p.reason, "severity": p.severity} for p in library.problems]
    emit({"entries": rows, "problems": problems}, arguments.json, listed)
    return 0


def row(entry: KnowledgeEntry) -> dict[str, Any]:
    """One entry as every knowledge command prints it."""
    v = entry.validation
    return {
        "entry": entry.id,
        "name": entry.name,
        "algorithm": entry.algorithm,
        "backbone": entry.backbone,
        "sources": [msgspec.to_builtins(s) for s in entry.sources],
        "metrics": {} if v is None else {"validation": msgspec.to_builtins(v)},
        "created": entry.created,
        "similarity": None,
    }


def validation_line(v: dict[str, Any]) -> str:
    """A validation figure in words."""
    return f"validation on held-out {v['kind']}: {v['accuracy']:.3f} \u00b1 {v['ci95']:.3f}, {v['episodes']} episodes"


def listed(v: dict[str, Any]) -> Iterable[str]:
    """The list for a person."""
    if not v["entries"]:
        yield "Nothing is known yet: 'workbench demo' or 'workbench train' leave an entry"
    for e in v["entries"]:
        check = e["metrics"].get("validation")
        accuracy = f", validation {check['accuracy']:.3f} \u00b1 {check['ci95']:.3f}" if check else ""
        likeness = "" if e["similarity"] is None else f", similarity {e['similarity']:.2f}"
        yield f"{e['entry']}  {e['name']} ({e['backbone']}){accuracy}{likeness}"


def card(v: dict[str, Any]) -> Iterable[str]:
    """One entry for a person."""
    yield f"{v['name']} ({v['entry']})"
    yield f"{v['algorithm']} on {v['backbone']}, saved in {v['path']}"
    for s in v["sources"]:
        yield f"  learnt from {s['name']}: {s['classes']} classes, {s['images']} images"
    check = v["metrics"].get("validation")
    if check:
        yield f"  {validation_line(check)}"
    for name, value in v["provenance"].items():
        yield f"  {name}: {value}"
