"""Make an entry into shipped starter knowledge: described under the probe, without this machine's paths.

::

    uv run python -m tests.benchmarks.starter ENTRY --root DIR --data TEXT --licence TEXT --out resources/knowledge

An entry of before the probe, or of before classes had names, is described and calibrated again (any entry with
``--again``): its sources are loaded from below ``--root`` as its own command says and split as they were then, so the
classes are those that it was trained on. Nothing that was learnt changes, and its id stays.
"""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from workbench.cli.parser import parse
from workbench.core.context import Context
from workbench.core.training import TrainRequest
from workbench.core.values import KnowledgeEntry
from workbench.data.scan import scan
from workbench.project.library import Library
from workbench.services import jobs, keeping, probe
from workbench.services import knowledge as known
from workbench.services.exchanging import without_places
from workbench.services.preparing import prepare


def described_again(
    entry: KnowledgeEntry, path: Path, root: Path, ctx: Context
) -> tuple[KnowledgeEntry, dict[str, np.ndarray]]:
    """The entry with its sources' classes, mean features and places under the probe, calibrated as a run would be.

    Raises:
        ValueError: what lies below ``root`` is not what it was trained on.
    """
    knowledge = known.load(entry, path, Library(None))
    words = shlex.split(entry.provenance["command"])
    asked = parse(words[words.index("train") :])
    folders = tuple(str(root / folder) for folder in asked.folders)
    p = entry.preprocess
    request = TrainRequest(
        sources=scan(folders, ctx).tasks,
        algorithm=entry.algorithm,
        params=entry.params,
        backbone=entry.backbone,
        ways=entry.ways,
        shots=entry.shots,
        queries=asked.queries,
        episodes=1,
        across_tasks=asked.across_tasks,
        rotations=asked.rotations,
        size=p.size,
        channels=p.channels,
        seed=asked.seed,
    )
    # a job of its own seed, so that the classes are split as they were in the run
    job = Context(seed=asked.seed)
    prepared = prepare(request, root, job)
    found = tuple((prepared.tasks[s.name].fingerprint, len(s.class_names), s.images) for s in prepared.sources)
    if found != tuple((s.fingerprint, s.classes, s.images) for s in entry.sources):
        raise ValueError(f"the pictures below {root} are not those that {entry.name} was trained on")
    tensors = known.join_state(knowledge.state)
    tensors |= keeping._described(prepared, knowledge.state, job.seed_for("sources"), job)
    places, under = keeping._probed(prepared, job.seed_for("probe"), job)
    arrays = {n: np.asarray(t.detach().numpy(), order="C") for n, t in (tensors | places).items()}
    sources = tuple(replace(s, class_names=t.class_names) for s, t in zip(entry.sources, prepared.sources, strict=True))
    figures = keeping.calibration(prepared, request, knowledge.state, job.seed_for("calibration"), job)
    return replace(entry, sources=sources, calibration=figures, provenance=entry.provenance | under), arrays


def without_machine(entry: KnowledgeEntry, root: Path) -> KnowledgeEntry:
    """Paths relative to ``root``, and the command as anybody would type it."""
    inside = re.compile(re.escape(f"{root.resolve()}/"))
    sources = tuple(replace(s, path=inside.sub("", s.path)) for s in entry.sources)
    command = inside.sub("", entry.provenance["command"])
    command = re.sub(
        r" --project \S+| --json", "", re.sub(r"^(\S*python -m )?workbench ", "uv run workbench ", command)
    )
    kept = replace(entry, sources=sources, provenance=entry.provenance | {"command": command, "run": ""})
    return without_places(kept)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--data", default="")
    parser.add_argument("--licence", default="")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--project", type=Path)
    parser.add_argument("--again", action="store_true", help="describe and calibrate it again in any case")
    arguments = parser.parse_args()
    ctx = Context()
    jobs.load_runtime(ctx)
    library = Library(arguments.project)
    entry, path = library.find(arguments.entry)
    network = probe.probe()
    if (
        arguments.again
        or network is None
        or entry.provenance.get("probe") != network.digest
        or not entry.sources[0].class_names
    ):
        entry, arrays = described_again(entry, path, arguments.root, ctx)
    else:
        arrays = library.load_tensors(path)
    told = {k: v for k, v in (("data", arguments.data), ("licence", arguments.licence)) if v}
    entry = without_machine(replace(entry, provenance=entry.provenance | told), arguments.root)
    print(Library(None).save(entry, arrays, arguments.out))


if __name__ == "__main__":
    main()
