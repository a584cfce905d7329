"""Which pieces of knowledge are looked at for a few examples, and what they make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.values import EntryId, ImageRef, KnowledgeEntry, Problem, TaskClass
from workbench.learn.features import FeatureCache
from workbench.project.library import Library
from workbench.services import knowledge as known
from workbench.services.knowledge import Knowledge
from workbench.services.looks import Seen, UnfitError, key_of, look, recall, remember, try_on
from workbench.transfer.prior import Experience
from workbench.transfer.rank import Option

_SLOW_TRIED = 2
"""How many of such methods are tried at all: the most similar ones."""
_SHORT_LIST = 8
"""Entries whose networks are tried on the examples: those with the largest priors."""


class Survey(NamedTuple):
    """What was looked at.

    Attributes:
        seen: entries as they are, what else can be made of them, and "no transfer" last.
        problems: the entries that could not be used, with the reason.
        default: index of what is used where nothing speaks against it, ``None`` where nothing is known.
        unseen: the entries that were not tried, since others are more likely to help.
        proven: whether past tasks speak for the default.
    """

    seen: list[Seen]
    problems: tuple[Problem, ...]
    default: int | None = None
    unseen: tuple[Option, ...] = ()
    proven: bool = False


def check_classes(classes: tuple[TaskClass, ...]) -> None:
    """Refuse what cannot be taught.

    Raises:
        WorkbenchError: fewer than two classes, or a class without examples.
    """
    if len(classes) < 2:
        why = "a choice needs at least two classes with an example"
        raise WorkbenchError("Nothing was adapted", why, "Add another class")
    for c in classes:
        if not c.images:
            why = f"{c.name} has no readable example"
            raise WorkbenchError("Nothing was adapted", why, "Add a picture to it or delete it")


def survey(
    classes: tuple[TaskClass, ...],
    project: Path,
    choice: str,
    cache: FeatureCache,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None = None,
    unlabelled: tuple[ImageRef, ...] = (),
    past: Experience | None = None,
) -> Survey:
    """What the eight likeliest entries, and the branch that transfers nothing (last), make of the examples.

    Methods that adapt by gradient steps are tried on left-out examples only where they are among the most similar, the
    default or chosen: each adaptation costs a second. An entry that cannot be used is left out and listed, unless it
    was chosen.

    Args:
        classes: with their examples.
        project: whose knowledge is looked through first.
        choice: ``auto``, ``none`` or an entry's id.
        cache: of features.
        ctx: of the job.
        named: a chosen entry and its folder, which need not lie in the library.
        unlabelled: pictures that a transductive method adapts with, if it is the chosen entry or nothing was chosen.
        past: what is known beforehand.

    Raises:
        WorkbenchError: the chosen entry cannot be used, or an example cannot be read.
    """
    past = past or Experience()
    wanted, unseen = _short_list(project, classes, choice, past, cache, ctx, named)
    library = Library(project)
    entries = [(e, path) for e, path in _placed(library, named) if wanted is None or e.id in wanted]
    problems = list(library.problems)
    looked = []
    for place, knowledge in _ready(entries, library, choice, problems, ctx):
        try:
            used = unlabelled if knowledge.transductive and choice in {"auto", knowledge.id} else ()
            seen = look(knowledge, classes, used, cache, ctx, place)
        except UnfitError as unfit:
            if choice == knowledge.id:
                raise unfit.error from None
            problems.append(Problem(knowledge.name, unfit.error.why, "ignored"))
            continue
        looked.append(seen)
    ctx.progress(len(entries) + 1, len(entries) + 1, "networks")
    # the default is always tried: others can replace it only for what they do better on the same examples
    slow = sorted((s for s in looked if s.gradient_based), key=lambda s: (s.knowledge.id != past.default, -s.likeness))
    tried = {id(s) for s in slow[:_SLOW_TRIED]}
    found = [
        s
        if s.gradient_based and id(s) not in tried and choice != s.knowledge.id
        else try_on(s, classes, unlabelled, ctx)
        for s in looked
    ]
    found = [_expected(s, classes, past) for s in found]
    ids = [s.knowledge.id for s in found]
    default = ids.index(past.default) if past.default is not None and past.default in ids else None
    return Survey(found, tuple(problems), default, unseen, past.proven)


def _expected(seen: Seen, classes: tuple[TaskClass, ...], past: Experience) -> Seen:
    """With the similarities under the probe where it knows the entry, and what past tasks make one expect."""
    k = seen.knowledge
    if k.id is None:
        return seen
    under, gain = past.similarities.get(k.id, ()), past.gains.get(k.id, 0.0)
    most = 1.0 if under else past.most
    if not under and not gain and most == 1.0:
        return seen
    key = key_of(k, classes, (), ("expected", under, gain, most))
    before = recall(key, k)
    if before is not None and before.left_out is seen.left_out:
        return before
    return remember(key, replace(seen, similarities=under or seen.similarities, gain=gain, most=most))


def _short_list(
    project: Path,
    classes: tuple[TaskClass, ...],
    choice: str,
    past: Experience,
    cache: FeatureCache,
    ctx: Context,
    named: tuple[KnowledgeEntry, Path] | None,
) -> tuple[frozenset[EntryId] | None, tuple[Option, ...]]:
    """The entries with the largest priors, the default and the chosen one among them; ``None``: all, and the others.

    Where the probe does not know an entry, its own network is asked about one picture of each class. Those that it
    does know need not even be read.
    """
    library = Library(project)
    entries = _placed(library, named)
    if len(entries) <= _SHORT_LIST:
        return None, ()
    options: dict[EntryId, Option] = {}
    few = tuple(replace(c, images=c.images[:1]) for c in classes)
    for entry, path in entries:
        found, most = past.similarities.get(entry.id), 1.0
        if not found:
            most = past.most
            ctx.check()
            try:
                found = look(known.load(entry, path, library), few, (), cache, ctx).similarities
            except (WorkbenchError, UnfitError):
                found = ()  # whether it can be used is found out if it is wanted
        options[entry.id] = Option(entry.id, entry.name, found, None, gain=past.gains.get(entry.id, 0.0), most=most)
    first = {choice, past.default}
    kept = frozenset(sorted(options, key=lambda e: (e not in first, -options[e].prior))[:_SHORT_LIST])
    return kept, tuple(o for e, o in options.items() if e not in kept)


def _placed(library: Library, named: tuple[KnowledgeEntry, Path] | None) -> list[tuple[KnowledgeEntry, Path]]:
    entries = list(library.placed())
    if named is not None and all(entry.id != named[0].id for entry, _ in entries):
        entries.insert(0, named)
    return entries


def _ready(
    entries: Sequence[tuple[KnowledgeEntry, Path]],
    library: Library,
    choice: str,
    problems: list[Problem],
    ctx: Context,
) -> Iterator[tuple[str, Knowledge]]:
    """Entries, each brought to life when it is its turn, and "no transfer", with the place of each in words.

    ``problems`` takes those that cannot be, with the reason.

    Raises:
        WorkbenchError: the chosen entry cannot be used.
    """
    like, total = None, len(entries) + 1
    for n, (entry, path) in enumerate(entries):
        ctx.check()
        ctx.progress(n, total, "networks")
        place = f" ({n + 1} of {total})"
        if not known.at_hand(entry, path):  # a deep network takes longer to read than a plain one to look with
            ctx.status(f"Looking with {entry.name}{place}")
        try:
            knowledge = known.load(entry, path, library)
        except WorkbenchError as error:
            if choice == entry.id:
                raise
            problems.append(Problem(str(path), error.why, "error"))
            continue
        like = like or knowledge.preprocess
        yield place, knowledge
    ctx.check()
    ctx.progress(total - 1, total, "networks")
    yield f" ({total} of {total})", known.untrained(known.plain_preprocess(like))


def common_examples(seen: Sequence[Seen]) -> tuple[int, ...]:
    """The examples that were left out for everything that was tried, so that losses can be compared in pairs."""
    sets = [set(s.left_out.rows.tolist()) for s in seen if len(s.left_out.rows)]
    return tuple(sorted(set.intersection(*sets))) if sets else ()
