"""Knowledge aligned with a folder of another domain, whose labels are not used: ``--target FOLDER --align METHOD``.

AdaBN and CORAL are closed forms: a new entry, in seconds, with the same algorithm. The others, and CORAL with a budget,
are penalties of a training run that starts from the entry, and get the target's statistics in the end.

Where the target has class folders, half of each class's pictures is held out, and the labels of that half say how
accurate the knowledge is before and after; the other half is aligned with as if it had none. Where there are no labels,
no accuracy is claimed.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.training import ALIGNMENTS, TrainRequest, TrainResult
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Preprocess, RunId, Task
from workbench.data.cache import decoded
from workbench.data.episodes import normalise
from workbench.data.source import Pixels
from workbench.learn import aligning, domain, forms, functional, norm, recoloured
from workbench.learn.features import batch_size, trunk_digest
from workbench.learn.protocol import Algorithm, Setting, State, Tensors, generator
from workbench.learn.registry import backbone, create
from workbench.project.library import Library, new_id
from workbench.services import aligning_report as report
from workbench.services import knowledge as known
from workbench.services import probe
from workbench.services.continuing import sources_before
from workbench.services.preparing import Prepared
from workbench.transfer import mixing

MOST_PICTURES = 1000
"""Of a domain, for statistics and covariances."""
_OF_THE_OLD = frozenset({"kept", "validation_kind", "ancestor", "ancestor_entry", "aligned", "earlier"})
"""What the card of an entry tells that is not so of what is made from it without training."""
_FEWEST = 2
_HELD_FROM = 4
"""A class of fewer pictures is not divided: all of it is aligned with."""


@dataclass(frozen=True, slots=True)
class Target:
    """The pictures of the target.

    Attributes:
        names: of its tasks.
        images: aligned with; nothing is known of their classes.
        held: labelled pictures held out for the report, () where there are too few.
    """

    names: tuple[str, ...]
    images: tuple[ImageRef, ...]
    held: tuple[Task, ...]


def check(request: TrainRequest, project: Path) -> None:
    """Refuse at once what can be refused without reading a picture; nothing where no alignment is asked for.

    Raises:
        WorkbenchError: no entry to start from, no target, or an entry that cannot be aligned in this way.
    """
    if not request.align:
        return
    library = Library(project)
    if not request.start or Path(request.start).is_file():
        raise _refused("there is no knowledge to align", "Name an entry with --from")
    entry, _ = library.find(request.start)
    divided(request.target, 0)
    setting = Setting(entry.backbone, entry.preprocess.depth, entry.preprocess.size, entry.ways[1])
    algorithm = create(entry.algorithm, entry.params, setting)
    if not isinstance(getattr(algorithm, "network", None), torch.nn.Module):
        raise _refused(f"{algorithm.info.title} has no single network", "Choose other knowledge")
    if request.align == "adabn":
        _check_statistics(algorithm)
    if request.closed_form and request.align == "coral" and "cacheable" not in algorithm.info.tags:
        raise _refused(
            f"with {algorithm.info.title} every task changes the network, so its features have no one covariance",
            "Choose adabn, or give --episodes or --minutes to train with CORAL's penalty",
        )


def divided(tasks: tuple[Task, ...], seed: int) -> Target:
    """Which pictures of the target are aligned with, and which are held out with their labels.

    Raises:
        WorkbenchError: there are fewer than two pictures to align with.
    """
    gen = generator(seed)
    images: list[ImageRef] = []
    held: list[Task] = []
    for task in tasks:
        images += task.unlabelled
        classes = []
        for c in task.classes:
            mine = tuple({i.sha256: i for i in c.images}.values())
            order = torch.randperm(len(mine), generator=gen).tolist()
            kept = len(mine) // 2 if len(mine) >= _HELD_FROM else 0
            classes.append(replace(c, images=tuple(mine[i] for i in sorted(order[:kept]))))
            images += [mine[i] for i in sorted(order[kept:])]
        filled = tuple(c for c in classes if c.images)
        if len(filled) > 1:
            held.append(replace(task, classes=filled, unlabelled=()))
        else:
            images += [i for c in filled for i in c.images]
    known_labels = {i.sha256 for t in held for c in t.classes for i in c.images}
    unlike = tuple({i.sha256: i for i in images if i.sha256 not in known_labels}.values())
    if len(unlike) < _FEWEST:
        raise _refused(
            "the target has fewer than two pictures to align with" if tasks else "no target was given",
            "Give a folder of pictures of the new domain with --target",
        )
    return Target(tuple(t.name for t in tasks), unlike, tuple(held))


# ---- the closed forms ------------------------------------------------------------------------------------------------


def align(request: TrainRequest, run: RunId, project: Path, ctx: Context) -> TrainResult:
    """AdaBN or CORAL: the entry that ``request.start`` names, aligned with the target, as a new entry.

    Raises:
        WorkbenchError: see :func:`check`; the entry does not keep running statistics; too few pictures can be read.
    """
    begun = time.monotonic()
    library = Library(project)
    entry, path = library.find(request.start)
    knowledge = known.load(entry, path, library)
    target = divided(request.target, ctx.seed_for("target"))
    ctx.status("Aligning with the pictures of the target")
    if request.align == "adabn":
        pixels = _pixels(_some(target.images), entry.preprocess, ctx)
        state = with_statistics(knowledge.algorithm, knowledge.state, pixels, entry.preprocess, ctx)
        algorithm, key, used = knowledge.algorithm, entry.backbone, len(pixels)
    else:
        algorithm, state, used = _recoloured(knowledge, request, target, ctx)
        key = algorithm.setting.backbone
    before, after = report.both(
        (knowledge.algorithm, knowledge.state), (algorithm, state), target.held, entry.preprocess, entry.ways[1], ctx
    )
    aligned = report.record(request.align, target.names, used, before, after)
    arrays = {n: a for n, a in library.load_tensors(path).items() if not n.startswith(("learned.", "memory."))}
    arrays |= {n: t.detach().cpu().contiguous().numpy() for n, t in known.join_state(state).items()}
    mark, place = probe.digest(), len(entry.sources)
    stale: tuple[str, ...] = (f"probe.{place}.", f"metafeatures.{place}")  # what it was aligned with before
    if mark and mark != entry.provenance.get("probe"):
        stale = "probe.", "metafeatures."  # places under two probes cannot be compared
    arrays = {n: a for n, a in arrays.items() if not n.startswith(stale)}
    arrays |= {n: t.numpy() for n, t in described(target, place, ctx).items()}
    seconds = time.monotonic() - begun
    new = replace(
        entry,
        id=EntryId(new_id()),
        name=request.name or _name(entry, request.align, target),
        backbone=key,
        validation=None,  # its pictures are those of the old domain
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance={
            **{n: v for n, v in entry.provenance.items() if n not in _OF_THE_OLD},
            **_ancestor(entry, knowledge),
            **({"probe": mark, "metafeatures": list(probe.NAMES)} if mark else {}),
            "run": run,
            "seed": request.seed,
            "episodes": 0,
            "seconds": seconds,
            "stopped": False,
            "start": request.start,
            "command": request.command,
            "trunk": trunk_digest(state),
            "aligned": aligned,
        },
    )
    folder = library.save(new, arrays)
    return TrainResult(library.find(new.id)[0], str(folder), run, 0, seconds, False)


def _ancestor(entry: KnowledgeEntry, knowledge: known.Knowledge) -> dict[str, Any]:
    """What an aligned entry was made from, and what that was trained on before, by which EWC and replay go on."""
    found: dict[str, Any] = {"ancestor_entry": entry.id}
    setting = knowledge.algorithm.setting
    network = backbone(setting.backbone).skeleton(setting.channels, setting.size)
    with contextlib.suppress(WorkbenchError):  # a network of another form is not mixed with others
        found["ancestor"] = mixing.trunk_of(network, knowledge.state, entry.id).digest
    earlier = sources_before(entry)
    return found | ({"earlier": earlier} if earlier else {})


def described(target: Target, place: int, ctx: Context) -> Tensors:
    """What an entry's file holds of the target as the probe sees it, behind ``place`` sources; labels are not used."""
    try:
        return probe.represent_unlabelled(place, target.images, ctx)
    except WorkbenchError:  # the probe is damaged: the entry has no place under it
        return {}


def with_statistics(algorithm: Algorithm, state: State, pixels: Pixels, p: Preprocess, ctx: Context) -> State:
    """The state with the running statistics of these pictures in place of its own.

    Raises:
        WorkbenchError: it keeps none.
    """
    _check_statistics(algorithm)
    buffers = functional.under(state.memory)
    network: torch.nn.Module = cast("Any", algorithm).network
    device = next(iter(state.learned.values())).device
    moved = domain.target_statistics(
        network,
        functional.under(state.learned),
        buffers,
        lambda i, j: normalise(pixels[i:j], p.mean, p.std).to(device),
        len(pixels),
        batch_size(p.size, p.size, str(device)),
        ctx,
    )
    return State(state.learned, {**state.memory, **functional.named(moved)})


def _uses_statistics(algorithm: Algorithm) -> bool:
    """Whether it normalises by running statistics when it is used, not by those of each task's own examples."""
    if isinstance(algorithm, forms.WholeNetwork):
        return False
    network = getattr(algorithm, "network", None)
    return isinstance(network, torch.nn.Module) and any(isinstance(m, norm.Norm2d) for m in network.modules())


def _check_statistics(algorithm: Algorithm) -> None:
    if not _uses_statistics(algorithm):
        raise _refused(
            f"{algorithm.info.title} normalises by each task's own examples, so there are no statistics to replace",
            "Choose another method with --align",
        )


def _recoloured(
    knowledge: known.Knowledge, request: TrainRequest, target: Target, ctx: Context
) -> tuple[Algorithm, State, int]:
    """The same knowledge with a linear layer behind its trunk: features of the target get the sources' covariance."""
    cache = known.feature_cache()
    images = {i.sha256: i for t in request.sources for c in t.classes for i in c.images}
    source = known.unlabelled_of(knowledge, _some(tuple(images.values())), cache, ctx)
    other = known.unlabelled_of(knowledge, _some(target.images), cache, ctx)
    try:
        if source is None or other is None:
            raise ValueError("none of the pictures can be read")
        weight, bias = domain.recolour(domain.spread(other), domain.spread(source))
    except ValueError as error:
        raise _refused(f"CORAL cannot compare the domains: {error}", "Give more pictures") from error
    algorithm, state = knowledge.algorithm, knowledge.state
    running = functional.under(state.memory)
    trunk = recoloured.with_layer({**functional.under(state.learned), **running}, weight.float(), bias.float())
    kept = set(running) | {recoloured.NETWORK + n for n in running}
    learned, memory = _rest(state.learned), _rest(state.memory)
    learned |= functional.named({n: t for n, t in trunk.items() if n not in kept})
    memory |= functional.named({n: t for n, t in trunk.items() if n in kept})
    key = algorithm.setting.backbone.removesuffix(recoloured.SUFFIX) + recoloured.SUFFIX
    found = create(algorithm.info.key, request_params(knowledge), replace(algorithm.setting, backbone=key))
    aligned = State(learned, memory)
    for part, wanted in zip(aligned, found.init(generator(0)), strict=True):
        if any(n not in part or part[n].shape != t.shape for n, t in wanted.items()):
            raise _refused(
                f"{algorithm.info.title} has something to learn for each layer of its network, and none for a new one",
                "Choose adabn",
            )
    return found, aligned, len(other)


def request_params(knowledge: known.Knowledge) -> dict[str, Any]:
    """Hyperparameters of an entry, as ``create`` takes them."""
    return {} if knowledge.entry is None else dict(knowledge.entry.params)


def _rest(tensors: Tensors) -> Tensors:
    return {n: t for n, t in tensors.items() if not n.startswith(functional.TRUNK)}


# ---- as a penalty of training ----------------------------------------------------------------------------------------


def penalty(request: TrainRequest, prepared: Prepared, ctx: Context) -> aligning.Aligning | None:
    """What the run is drawn towards, or ``None`` where no such thing is asked for.

    Raises:
        WorkbenchError: fewer than two pictures of the target can be read, or the algorithm has no single network.
    """
    if not request.align or request.closed_form:
        return None
    network = getattr(prepared.algorithm, "network", None)
    if not isinstance(network, torch.nn.Module) or request.align == "adabn":
        raise _refused(f"{prepared.algorithm.info.title} has no single network", "Choose another algorithm")
    target = divided(request.target, ctx.seed_for("target"))
    p = prepared.preprocess
    images = _some(target.images)
    pixels = _pixels(images, p, ctx)
    mark = Task(request.target[0].id, "", "", (), images).fingerprint
    return aligning.Aligning(request.align, network, pixels, p.mean, p.std, ctx.seed_for("domains"), mark)


def finished(
    request: TrainRequest, prepared: Prepared, drawn: aligning.Aligning, state: State, project: Path, ctx: Context
) -> tuple[State, dict[str, Any]]:
    """What the run gave with the target's statistics, and the record of how it fared before and after.

    The record is no reason to lose what was learnt: after a stop, or where the entry that the run began with is gone or
    damaged meanwhile, nothing is measured, and that is said.

    Calibration and the sources' descriptions belong to the state as it was trained: with the target's statistics
    target pictures look to the trunk as the sources' did with their own.
    """
    target = divided(request.target, ctx.seed_for("target"))
    new = state
    if _uses_statistics(prepared.algorithm):
        unstoppable = Context(seed=ctx.seed)
        new = with_statistics(prepared.algorithm, state, drawn.pixels, prepared.preprocess, unstoppable)
    record = report.record(request.align, target.names, len(drawn.pixels), None, None)
    try:
        library = Library(project)
        entry, path = library.find(request.start)
        knowledge = known.load(entry, path, library)
        record["separation"] = {
            "before": report.separation(knowledge.algorithm, knowledge.state, prepared, ctx),
            "after": report.separation(prepared.algorithm, state, prepared, ctx),
        }
        before, after = report.both(
            (knowledge.algorithm, knowledge.state),
            (prepared.algorithm, new),
            target.held,
            prepared.preprocess,
            min(entry.ways[1], request.ways[1]),
            ctx,
            seen=entry.preprocess,
        )
        record |= report.record(request.align, target.names, len(drawn.pixels), before, after)
    except JobCancelledError:
        record["unmeasured"] = "the run was stopped"
    except WorkbenchError as error:
        record["unmeasured"] = error.why
    return new, record


# ---- what both have in common ----------------------------------------------------------------------------------------


def _some(images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...]:
    """Evenly spaced ones where there are very many."""
    return images[:: -(-len(images) // MOST_PICTURES)] if images else ()


def _pixels(images: tuple[ImageRef, ...], p: Preprocess, ctx: Context) -> Pixels:
    pixels, failed = decoded(images, p, ctx)
    there = [row for row in range(len(images)) if row not in set(failed)]
    if len(there) < _FEWEST:
        raise _refused("fewer than two pictures of the target can be read", "Give other pictures with --target")
    found: Pixels = np.array(pixels[there])
    return found


def _name(entry: KnowledgeEntry, method: str, target: Target) -> str:
    more = f" and {len(target.names) - 1} more" if len(target.names) > 1 else ""
    return f"{entry.name}, aligned with {target.names[0]}{more} ({ALIGNMENTS[method]})"


def _refused(why: str, what_to_do: str) -> WorkbenchError:
    return WorkbenchError("The knowledge was not aligned", why, what_to_do)
