"""``knowledge list | show | similar | import | export | retire | restore``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from workbench.cli.continuing import kept_lines
from workbench.cli.output import emit, say_problems
from workbench.core.context import Context
from workbench.core.values import KnowledgeEntry
from workbench.project import lineage, past_tasks, retiring
from workbench.project.library import Library
from workbench.project.searching import search
from workbench.services import jobs

if TYPE_CHECKING:
    from workbench.services.resembling import Resembled

_SHOWN = 12
"""Names of classes that are listed of a source."""


def knowledge(arguments: argparse.Namespace, ctx: Context) -> int:
    """What is known."""
    parts = {"show": _show, "import": _import, "export": _export, "retire": _retire, "restore": _restore}
    return parts.get(arguments.part, _list)(arguments, ctx)


def _list(arguments: argparse.Namespace, ctx: Context) -> int:
    library = Library(arguments.project)
    near: dict[str, Resembled] = {}
    if arguments.part == "similar":
        jobs.load_runtime(ctx)
        from workbench.services.adapt import similar

        near = {r.entry: r for r in similar(arguments.folder, arguments.project, ctx)}
    put_away = getattr(arguments, "retired", False)
    entries = library.retired() if put_away else library.entries()
    words = getattr(arguments, "search", "")
    rows = [row(e, retired=put_away) | _resembled(near.get(e.id)) for e in search(words, entries)]
    if near:
        order = {entry: n for n, entry in enumerate(near)}
        rows.sort(key=lambda r: order.get(r["entry"], len(order)))
    say_problems(library.problems, "'--json' lists them")
    problems = [{"path": p.path, "reason": p.reason, "severity": p.severity} for p in library.problems]
    emit({"entries": rows, "problems": problems, "looked_for": words, "retired": put_away}, arguments.json, listed)
    return 0


def _resembled(found: Resembled | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {"similarity": found.similarity, "resembles": found.source, "by_probe": found.by_probe}


def _show(arguments: argparse.Namespace, _ctx: Context) -> int:
    library = Library(arguments.project)
    entry, path = library.find(arguments.entry)
    put_away = retiring.reason(library.folders, entry.id)
    tasks, problems = past_tasks.read(arguments.project)
    say_problems(problems, "they are left out")
    ancestors = lineage.lineage(entry, (*library.entries(), *library.retired()))
    used = lineage.went(entry.id, tasks)
    emit(
        row(entry, retired=put_away is not None)
        | {
            "path": str(path),
            "provenance": entry.provenance,
            "params": entry.params,
            "retired_why": "" if put_away is None else put_away[1],
            "lineage": [{"entry": a.entry, "name": a.name} for a in ancestors],
            "realised": {"tasks": used.tasks, "right": used.right, "of": used.of, "gain": used.gain},
            "recipes": [
                {"layer": u.layer, "adapter": u.adapter, "head": u.head, "right": right, "of": of}
                for u, (right, of) in lineage.recipes(entry.id, tasks).items()
            ],
        },
        arguments.json,
        card,
    )
    return 0


def _import(arguments: argparse.Namespace, ctx: Context) -> int:
    jobs.load_runtime(ctx)
    from workbench.services.exchanging import import_entry

    entry, path, new = import_entry(arguments.file, arguments.project, ctx)
    emit({"entry": entry.id, "path": str(path), "name": entry.name, "new": new}, arguments.json, _imported)
    return 0


def _export(arguments: argparse.Namespace, ctx: Context) -> int:
    jobs.load_runtime(ctx)
    from workbench.services.exchanging import export_entry

    entry, path = export_entry(arguments.entry, arguments.out, arguments.project, ctx)
    emit({"entry": entry.id, "path": str(path), "name": entry.name}, arguments.json, _exported)
    return 0


def _retire(arguments: argparse.Namespace, _ctx: Context) -> int:
    library = Library(arguments.project)
    entry, path = library.find(arguments.entry)
    library.retire(entry, path, arguments.why)
    emit({"entry": entry.id, "path": str(path), "name": entry.name, "retired": True}, arguments.json, _put_away)
    return 0


def _restore(arguments: argparse.Namespace, _ctx: Context) -> int:
    library = Library(arguments.project)
    entry, path = library.find(arguments.entry)
    was = retiring.restore(library.folders, entry.id)
    said = {"entry": entry.id, "path": str(path), "name": entry.name, "retired": False, "was_retired": was}
    emit(said, arguments.json, _put_away)
    return 0


def row(entry: KnowledgeEntry, *, retired: bool = False) -> dict[str, Any]:
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
        "retired": retired,
        "similarity": None,
        "resembles": "",
        "by_probe": False,
    }


def validation_line(v: dict[str, Any]) -> str:
    """A validation figure in words."""
    return f"validation on held-out {v['kind']}: {v['accuracy']:.3f} \u00b1 {v['ci95']:.3f}, {v['episodes']} episodes"


def listed(v: dict[str, Any]) -> Iterable[str]:
    """The list for a person."""
    if not v["entries"] and v.get("looked_for"):
        yield f"Nothing is found for {v['looked_for']!r}"
    elif not v["entries"] and v.get("retired"):
        yield "Nothing was put away"
    elif not v["entries"]:
        yield "Nothing is known yet: 'workbench demo' or 'workbench train' leave an entry"
    for e in v["entries"]:
        check = e["metrics"].get("validation")
        accuracy = f", validation {check['accuracy']:.3f} \u00b1 {check['ci95']:.3f}" if check else ""
        yield f"{e['entry']}  {e['name']} ({e['backbone']}){accuracy}{_likeness(e)}"


def _likeness(e: dict[str, Any]) -> str:
    if e["similarity"] is None:
        return ""
    own = "" if e["by_probe"] else ", on the scale of its own network"
    return f", similarity {e['similarity']:.2f} to {e['resembles']}{own}"


def card(v: dict[str, Any]) -> Iterable[str]:
    """One entry for a person."""
    yield f"{v['name']} ({v['entry']})"
    yield f"{v['algorithm']} on {v['backbone']}, saved in {v['path']}"
    if v["retired"]:
        yield "  put away" + (f": {v['retired_why']}" if v["retired_why"] else "")
    for s in v["sources"]:
        yield f"  learnt from {s['name']}: {s['classes']} classes, {s['images']} images"
        if s["class_names"]:
            shown = ", ".join(s["class_names"][:_SHOWN])
            more = len(s["class_names"]) - _SHOWN
            yield f"    {shown}" + (f" and {more} more" if more > 0 else "")
    for a in v["lineage"]:
        yield f"  trained on from {a['name'] or 'an entry that is not here'} ({a['entry']})"
    check = v["metrics"].get("validation")
    if check:
        yield f"  {validation_line(check)}"
    used = v["realised"]
    if used["tasks"]:
        yield f"  used for {used['tasks']} task{'s' if used['tasks'] > 1 else ''}" + (
            f": recognises {used['right']} of {used['of']} pictures labelled afterwards" if used["of"] else ""
        )
    if used["gain"] is not None:
        yield f"  {100 * used['gain']:+.0f} points beside what else was used for the same tasks"
    if v["provenance"].get("kept"):
        yield from (f"  {line}" for line in kept_lines(v["provenance"]["kept"]))
    for name, value in v["provenance"].items():
        if name == "kept":
            continue
        yield f"  {name}: {value}"


def _imported(v: dict[str, Any]) -> Iterable[str]:
    yield f"{v['name']} ({v['entry']}) is {'now' if v['new'] else 'already'} in {v['path']}"


def _exported(v: dict[str, Any]) -> Iterable[str]:
    yield f"{v['name']} ({v['entry']}) was written to {v['path']}"


def _put_away(v: dict[str, Any]) -> Iterable[str]:
    if v["retired"]:
        yield f"{v['name']} ({v['entry']}) was put away; 'workbench knowledge restore {v['entry']}' brings it back"
    else:
        yield f"{v['name']} ({v['entry']}) is in use" + ("" if v["was_retired"] else "; it was not put away")
