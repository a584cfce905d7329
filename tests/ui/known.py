"""Entries and an atlas for the tests of the Knowledge room; nothing of it is read from a disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workbench.core.values import EntryId, KnowledgeEntry, Preprocess, SourceInfo, Validation
from workbench.services.overview import Atlas, KnownTask, Names, Shelf, TaughtTask

NAMES = Names({"protonet": "ProtoNet", "anil": "ANIL"}, {"conv4": "Conv-4", "resnet18": "ResNet-18, 11 M"})


def entry(id_: str, name: str, accuracy: float | None = 0.8, **more) -> KnowledgeEntry:
    sources = tuple(SourceInfo(s, f"/data/{s}", 9, 126, f"{i}e41c9a07{s}") for i, s in enumerate(("greek", "bengali")))
    made = KnowledgeEntry(
        id=EntryId(id_),
        name=name,
        algorithm="protonet",
        params={},
        backbone="conv4",
        preprocess=Preprocess(28, "grey", mean=(0.5,), std=(0.5,)),
        ways=(5, 5),
        shots=(1, 1),
        sources=sources,
        validation=None if accuracy is None else Validation("classes", accuracy, 0.01, 600),
        weights_sha256=f"hash of {id_}",
        created="2026-11-18T10:00:00+00:00",
        provenance={"seed": 7, "episodes": 1500, "seconds": 98.0, "command": f"workbench train {name}"},
    )
    return replace(made, **more)


ENTRIES = (
    entry("aaaa1111", "Clothing and glyphs", 0.806),
    entry("bbbb2222", "Head adapter", 0.752, algorithm="anil", created="2026-11-17T10:00:00+00:00"),
    entry("cccc3333", "Starter glyphs", 0.964, created="2026-10-01T10:00:00+00:00"),
    entry("dddd4444", "Aligned", None, created="2026-11-16T10:00:00+00:00"),
)
PLACES = {"greek": (0.6, 0.4), "bengali": (0.9, 0.2), "clothing": (0.1, 0.5), "sign digits": (0.35, 0.9)}
SIMILAR = (
    (1.0, 0.63, 0.05, 0.19),
    (0.63, 1.0, 0.03, 0.07),
    (0.05, 0.03, 1.0, 0.31),
    (0.19, 0.07, 0.31, 1.0),
)


def task(name: str, *entries: str) -> KnownTask:
    return KnownTask(name, name, 9, 126, None, tuple(map(EntryId, entries)), *PLACES.get(name, (0.5, 0.5)))


ATLAS = Atlas(
    "Clothing and glyphs",
    False,
    (task("greek", "aaaa1111", "cccc3333"), task("bengali", "aaaa1111"), task("clothing"), task("sign digits")),
    SIMILAR,
    (task("lost"),),
    TaughtTask(("hat", "shoe"), 0.3, 0.35, (0.04, 0.02, 0.71, 0.33)),
)
SHELF = Shelf(ENTRIES, (), {e.id: Path("/known") / e.id for e in ENTRIES}, frozenset({EntryId("cccc3333")}))
