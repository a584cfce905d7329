"""Going on from an entry without losing what it knew: what that was learnt from, what is kept of it, what was lost.

The old sources are looked up where the entry says they were. Replay needs their pictures; EWC needs its Fisher
information, which an entry that was itself made with EWC carries (of all sources so far) and which is otherwise
measured from the pictures; L2 needs neither. Most entries are never gone on from, and the information is half as large
as the network, so only a chain that has begun keeps it.

What was lost is measured on fixed episodes of every old and new source, on pictures that this run is not trained on:
of a new source those of its validation split, of an old one the classes that its entry held out. Where it held none
out, half of each old class is neither replayed nor asked for information and measured on; the entry was trained on that
half, so that ``before`` may be too high, which the record says. ``before`` is the entry gone on from, ``after`` the new
one, each with its own method, and a network that was never trained says where forward transfer begins::

    average accuracy   mean over all sources of ``after``
    backward transfer  mean over the old sources of ``after - before``; negative = forgotten
    forward transfer   mean over the new sources of ``before - untrained``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import torch
from torch import Tensor

from workbench.core.context import Context
from workbench.core.errors import JobCancelledError, WorkbenchError
from workbench.core.paths import display
from workbench.core.training import TrainRequest
from workbench.core.values import KnowledgeEntry, Preprocess, Role, SourceInfo, Task
from workbench.data.episodes import Sampler, Source
from workbench.data.scan import scan
from workbench.learn import continual, functional
from workbench.learn.evaluate import evaluate, freeze
from workbench.learn.protocol import Algorithm, State, Tensors, generator
from workbench.learn.registry import backbone, create
from workbench.project.library import CARD, Library
from workbench.services import knowledge as known
from workbench.services.forgetting import compared, parted
from workbench.services.preparing import Prepared, load_sources, split_of, used_tasks, validation_ways

FISHER = "fisher."
"""Prefix in an entry's file: square roots of the running Fisher information in half precision, by learned name."""
_EPISODES, _EPISODES_BY_STEPS = 60, 20
_EPISODES_WHEN_STOPPED = 4
"""Behind the Fisher information of a run that was stopped: a person waits."""
_MOST_SOURCES, _QUERIES = 20, 5


@dataclass(slots=True)
class Continued:
    """One run that goes on from an entry; what is dear to find out is found out once, and only if it is needed.

    Attributes:
        request: of the run, with ``keep``.
        project: whose knowledge is looked through first.
        ctx: of the job.
        entry: what it goes on from.
        path: its folder.
        old: all sources that it and what it came from were trained on.
    """

    request: TrainRequest
    project: Path
    ctx: Context
    entry: KnowledgeEntry
    path: Path
    old: tuple[SourceInfo, ...]
    _found: tuple[tuple[SourceInfo, Task], ...] | None = field(default=None, repr=False)
    _information: Tensors | None = field(default=None, repr=False)

    @property
    def how(self) -> continual.How:
        """``none``, ``l2``, ``ewc`` or ``replay``."""
        return cast("continual.How", self.request.keep)

    @property
    def strength(self) -> float:
        """``lam``, 0 where there is none."""
        asked = self.request.keep_strength
        return continual.STRENGTHS.get(self.how, 0.0) if asked is None else asked

    def found(self) -> tuple[tuple[SourceInfo, Task], ...]:
        """The old sources that are still there, as tasks."""
        if self._found is None:
            self.ctx.status("Looking for the old sources")
            self._found = tuple(found_again(self.old, self.ctx))
        return self._found

    def mixed(self, drawn: Sampler, p: Preprocess) -> Sampler:
        """What the run draws from: for replay, half of it from some pictures of the old sources.

        Raises:
            WorkbenchError: none of them is there any more, or none has enough classes.
        """
        if self.how != "replay":
            return drawn
        tasks = tuple(parted(info, task)[0] for info, task in self.found())
        if not tasks:
            raise _refused(self, "replay needs pictures of the old sources", "Choose --keep l2")
        gen = generator(self.ctx.seed_for("kept pictures"))
        few = continual.exemplars(load_sources(tasks, p, self.ctx), gen)
        return continual.Replayed(drawn, _sampler(few, drawn, self.request))

    def keeping(self, prepared: Prepared) -> continual.Keeping | None:
        """What holds the network while it is trained."""
        if self.how not in ("l2", "ewc"):
            return None
        return continual.Keeping(self.how, self.strength, lambda state: self.information(prepared, state))

    def information(self, prepared: Prepared, state: State) -> Tensors:
        """The Fisher information of all old sources under the network ``state`` that the run begins with.

        Raises:
            WorkbenchError: the entry carries none of this network (one that it was aligned with, by a layer behind it,
                is another), and none of its sources is there any more.
        """
        if self._information is None:
            stored = stored_information(known_tensors(self.project, self.path))
            if not speaks_of(stored, state):
                tasks = tuple(parted(info, task)[0] for info, task in self.found())
                if not tasks:
                    raise _refused(
                        self, "EWC measures what mattered on pictures of the old sources", "Choose --keep l2"
                    )
                self.ctx.status("Measuring what mattered to the old sources")
                sources = load_sources(tasks, prepared.preprocess, self.ctx)
                stored = self._measured(prepared, state, sources, "old information")
            self._information = stored
        return self._information

    def kept(self, prepared: Prepared, state: State) -> tuple[Tensors, dict[str, Any]]:
        """What the new entry keeps besides its own: tensors, and the record ``provenance["kept"]``.

        All of it is a report of what was learnt, which is not lost for the sake of a report: a stop makes it short,
        and what cannot be measured (an old entry or its pictures are gone meanwhile) is left out and said.

        Args:
            prepared: what the run ran on.
            state: what it gave.
        """
        tensors: Tensors = {}
        record: dict[str, Any] = {
            "how": self.how,
            "entry": self.entry.id,
            "name": self.entry.name,
            "sources": [msgspec.to_builtins(s) for s in self.old],
        }
        if self.strength:
            record["strength"] = self.strength
        try:
            if self.how == "ewc":
                tensors = to_store(self._running(prepared, state))
        except (JobCancelledError, WorkbenchError) as error:
            record["uninformed"] = _why(error)
        try:
            there = {id(info) for info, _ in self.found()}
            record["gone"] = [s.name for s in self.old if id(s) not in there]
            record |= self._forgetting(prepared, state)
        except (JobCancelledError, WorkbenchError) as error:
            record["unmeasured"] = _why(error)
        return tensors, record

    def _running(self, prepared: Prepared, state: State) -> Tensors:
        """The information of old and new sources together; after a stop the new ones are measured on few episodes.

        Raises:
            JobCancelledError: stopped, and that of the old sources would have to be measured again.
            WorkbenchError: it cannot be measured.
        """
        start = prepared.algorithm.init(generator(self.ctx.seed_for("init")))
        old = self.information(prepared, start)
        self.ctx.status("Measuring what matters to the new sources")
        try:
            new = self._measured(prepared, state, prepared.sources, "new information")
        except JobCancelledError:
            new = self._measured(prepared, state, prepared.sources, "new information", stopped=True)
        found = continual.running(old, new)
        if not all(bool(torch.isfinite(t).all()) for t in found.values()):
            raise WorkbenchError("Nothing was measured", "the answers have no finite gradient", "Choose --keep l2")
        return found

    def _measured(
        self, prepared: Prepared, state: State, sources: Sequence[Source], name: str, *, stopped: bool = False
    ) -> Tensors:
        a = prepared.algorithm.setting
        network = backbone(a.backbone).skeleton(a.channels, a.size)
        drawn = _sampler(sources, prepared.sampler, self.request, queries=1)
        ctx, episodes = (Context(seed=self.ctx.seed), _EPISODES_WHEN_STOPPED) if stopped else (self.ctx, None)
        return continual.fisher(network, state, drawn, generator(self.ctx.seed_for(name)), ctx, episodes)

    def _forgetting(self, prepared: Prepared, state: State) -> dict[str, Any]:
        ctx, library = self.ctx, Library(self.project)
        ctx.status("Measuring what was lost of the old sources")
        every = [(info, *parted(info, task)[1:]) for info, task in self.found()]
        every = [(info, task, seen) for info, task, seen in every if len(task.classes) > 1]
        old = every[:: max(1, -(-len(every) // _MOST_SOURCES))]
        entry = known.load(self.entry, self.path, library)
        algorithm = prepared.algorithm
        untrained = create(algorithm.info.key, self.request.params, replace(algorithm.setting, weights=None))
        blank = untrained.init(generator(ctx.seed_for("untrained")))
        state = State(*({k: v.cpu() for k, v in part.items()} for part in state))
        then, now = entry.preprocess, prepared.preprocess
        seen_then, _ = self._new(then)
        new, held_out = self._new(now)
        before = [_accuracies(entry.algorithm, entry.state, _of(t, then, ctx), then, self) for _, t, _ in old]
        before += [_accuracies(entry.algorithm, entry.state, s, then, self) for s in seen_then]
        after = [_accuracies(algorithm, state, _of(t, now, ctx), now, self) for _, t, _ in old]
        after += [_accuracies(algorithm, state, s, now, self) if held_out else () for s in new]
        none = [_accuracies(untrained, blank, s, now, self) for s in new]
        found = compared([info.name for info, _, _ in old], [s.name for s in new], before, after, none)
        return found | {"seen": [info.name for info, _, seen in old if seen]}

    def _new(self, p: Preprocess) -> tuple[tuple[Source, ...], bool]:
        """The pictures of the new sources that are held out, and whether any are: otherwise all of them."""
        split = split_of(load_sources(used_tasks(self.request.sources), p, self.ctx), self.request, self.ctx)
        return (split.validation or split.train)[:_MOST_SOURCES], bool(split.validation)


def continued(request: TrainRequest, project: Path, ctx: Context) -> Continued | None:
    """The run's view of what it goes on from, or ``None`` where nothing is to be kept or measured.

    Refuses at once what can be refused without reading a picture.

    Raises:
        WorkbenchError: it does not go on from an entry, or nothing is left of what the choice needs.
    """
    if not request.keep:
        return None
    if not request.start or (Path(request.start).is_file() and Path(request.start).name != CARD):
        raise WorkbenchError(
            "The run did not start", "--keep is about knowledge that the run goes on from", "Add --from ENTRY"
        )
    if request.keep_strength is not None and request.keep not in continual.STRENGTHS:
        raise WorkbenchError(
            "The run did not start", f"--keep {request.keep} has no strength", "Leave out --keep-strength"
        )
    entry, path = Library(project).find(request.start)
    earlier = [msgspec.convert(s, SourceInfo) for s in sources_before(entry)]
    mine = {s.fingerprint for s in entry.sources}
    old = (*entry.sources, *(s for s in earlier if s.fingerprint not in mine))
    found = Continued(request, project, ctx, entry, path, old)
    if request.keep in ("ewc", "replay") and not any(Path(s.path).exists() for s in old):
        if request.keep == "replay":
            raise _refused(found, "replay needs pictures of the old sources", "Choose --keep l2")
        if not stored_information(known_tensors(project, path)):
            raise _refused(found, "EWC measures what mattered on pictures of the old sources", "Choose --keep l2")
    return found


def _why(error: Exception) -> str:
    return error.why if isinstance(error, WorkbenchError) else "the run was stopped"


def _refused(c: Continued, needs: str, choose: str) -> WorkbenchError:
    where = ", ".join(display(s.path) for s in c.old[:2]) + (" and others" if len(c.old) > 2 else "")
    return WorkbenchError(
        "The run did not start",
        f"{needs}, and none of those of {c.entry.name} is where it was ({where})",
        f"Put them back, or: {choose}",
    )


def found_again(sources: Sequence[SourceInfo], ctx: Context) -> list[tuple[SourceInfo, Task]]:
    """Those of an entry's sources that are still there: the same pictures, or as many as are left under their name."""
    tasks: dict[str, tuple[Task, ...]] = {}
    for place in dict.fromkeys(s.path for s in sources):
        if Path(place).exists():
            try:
                tasks[place] = tuple(t.with_role(Role.TRAIN) for t in scan((place,), ctx).tasks if t.classes)
            except WorkbenchError:
                continue  # nothing of it can be read any more
    out = []
    for s in sources:
        here = tasks.get(s.path, ())
        same = [t for t in here if t.fingerprint == s.fingerprint] or [t for t in here if t.name == s.name]
        out += [(s, same[0])] if same else []
    return out


def sources_before(entry: KnowledgeEntry) -> list[Any]:
    """Rows of what the knowledge was trained on that an entry came from, as its card has them."""
    found: list[Any] = [*entry.provenance.get("kept", {}).get("sources", ()), *entry.provenance.get("earlier", ())]
    return found


def _of(task: Task, p: Preprocess, ctx: Context) -> Source:
    return load_sources((task,), p, ctx)[0]


class _HowDrawn(Protocol):
    """What episodes of other sources take over from a sampler."""

    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


def _sampler(sources: Sequence[Source], like: _HowDrawn, request: TrainRequest, queries: int | None = None) -> Sampler:
    """Episodes of other sources as the run's are, with fewer classes or examples where there are not as many."""
    most = max(len(a) for s in sources for a in s.arrays)
    shots = tuple(max(1, min(k, most - 1)) for k in request.shots)
    return Sampler(
        sources,
        ways=validation_ways(tuple(sources), request),
        shots=(shots[0], shots[1]),
        queries=request.queries if queries is None else queries,
        rotations=request.rotations,
        across_tasks=request.across_tasks,
        mean=like.mean,
        std=like.std,
    )


def _accuracies(algorithm: Algorithm, state: State, source: Source, p: Preprocess, c: Continued) -> tuple[float, ...]:
    """Accuracy on fixed episodes of one source; () where it has too few classes or pictures for this method."""
    request = replace(c.request, across_tasks=False, rotations=False, queries=min(c.request.queries, _QUERIES))
    by_steps = "gradient-based" in algorithm.info.tags
    try:
        drawn = _sampler((source,), p, request)
        frozen = freeze(drawn, _EPISODES_BY_STEPS if by_steps else _EPISODES, c.ctx.seed_for("forgetting"))
        return evaluate(algorithm, state, frozen, c.ctx, by_step=False).per_episode
    except WorkbenchError:
        return ()


def speaks_of(information: Mapping[str, Tensor], state: State) -> bool:
    """Whether there is information on every number of a state's trunk."""
    trunk = {n: t for n, t in state.learned.items() if n.startswith(functional.TRUNK)}
    return bool(trunk) and all(n in information and information[n].shape == t.shape for n, t in trunk.items())


# ---- in the entry's file ---------------------------------------------------------------------------------------------


def known_tensors(project: Path, path: Path) -> dict[str, Tensor]:
    """All tensors of an entry."""
    return {n: torch.from_numpy(a.copy()) for n, a in Library(project).load_tensors(path).items()}


def to_store(information: Mapping[str, Tensor]) -> Tensors:
    """Information for an entry's file: its square root spans half as many powers of ten, which half precision holds."""
    return {FISHER + n: t.sqrt().clamp_max(6e4).to(torch.float16).cpu() for n, t in information.items()}


def stored_information(tensors: Mapping[str, Tensor]) -> Tensors:
    """The inverse of ``to_store``, up to a rounding of a thousandth; empty where the file has none."""
    return {n.removeprefix(FISHER): t.float().square() for n, t in tensors.items() if n.startswith(FISHER)}
