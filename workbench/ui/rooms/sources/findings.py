"""What is wrong with a task before anybody trains on it, in plain words and with a fix. Pure: values in, values out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from workbench.core.paths import display
from workbench.core.values import ImageRef, Problem, Role, Task, TaskClass, TaskId
from workbench.services.pictures import hold_photographs, rarer_kind
from workbench.ui.rooms.sources.where import Places, assign, by_task, groups, locate
from workbench.ui.rooms.sources.words import count, listed

Level = Literal["warn", "info"]
ROLE_WORDS = {Role.TRAIN: "meta-train", Role.VALIDATION: "validation", Role.HELD_OUT: "held out"}
_MANY = 10.0
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Episode:
    """What an episode asks of a task: classes, examples per class, queries per class."""

    ways: int = 5
    shots: int = 1
    queries: int = 15

    @property
    def needed(self) -> int:
        """Pictures that a class must have: its examples and one query; with fewer than all queries it is asked less."""
        return self.shots + 1

    def words(self, queries: int) -> str:
        """For example "5 ways, 1 shot, 15 queries"."""
        return f"{count(self.ways, 'way')}, {count(self.shots, 'shot')}, {count(queries, 'query', 'queries')}"


@dataclass(frozen=True, slots=True)
class Fix:
    """One thing a button does about a finding.

    Attributes:
        text: the button.
        action: ``keep`` leaves the pictures in the class ``target`` only, ``single`` leaves one copy of each, ``drop``
            takes the pictures out of the task, ``leave_out`` takes the classes ``names`` out, ``show`` selects the
            pictures, ``scroll`` goes to the class ``target``, ``files`` lists the skipped files, ``file`` opens the
            folder of ``path``, ``hold_out`` keeps the task away from training.
    """

    text: str
    action: Literal["keep", "single", "drop", "leave_out", "show", "scroll", "files", "file", "hold_out"]
    hashes: frozenset[str] = frozenset()
    target: str = ""
    names: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: what, why it matters, the pictures and the fixes.

    Attributes:
        kind: stable name.
        level: ``warn`` has the amber triangle, ``info`` the quiet circle.
        title: a short clause.
        text: why it matters, one or two sentences.
        fixes: what can be done, the most likely first.
        pair: up to two pictures to look at.
        beside: words beside the pictures.
        hashes: the pictures that carry a mark in the grid.
        classes: the classes it is about.
        problems: the files it is about.
    """

    kind: str
    level: Level
    title: str
    text: str
    fixes: tuple[Fix, ...] = ()
    pair: tuple[ImageRef, ...] = ()
    beside: str = ""
    hashes: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


def examine(
    tasks: tuple[Task, ...], problems: tuple[Problem, ...], episode: Episode, tick: Callable[[], None] = lambda: None
) -> tuple[tuple[Finding, ...], ...]:
    """All findings of all tasks."""
    places = by_task(locate(tasks, tick))
    own, _rest = assign(tasks, problems)
    odd = frozenset(t.id for t in rarer_kind(tasks))
    found = []
    for number in range(len(tasks)):
        tick()
        found.append(find(number, tasks, places.get(number, {}), own.get(number, ()), episode, odd))
    return tuple(found)


def find(
    number: int,
    tasks: Sequence[Task],
    places: Places,
    problems: Sequence[Problem],
    episode: Episode,
    odd: frozenset[TaskId] = frozenset(),
) -> tuple[Finding, ...]:
    """All findings of one task, the gravest first.

    Args:
        number: index of the task.
        tasks: all tasks of the project.
        places: what :func:`by_task` gave for this task.
        problems: what :func:`assign` gave for this task.
        episode: what the chosen episode asks for.
        odd: tasks whose pictures are of another kind than most.
    """
    task = tasks[number]
    found = [*_across_classes(number, task, places), *_across_roles(number, tasks, places)]
    found += [*_other_kind(task, odd), *_copies(number, task, places)]
    found += [*_too_small(task, episode), *_imbalance(task)]
    return (*found, *_skipped(tuple(problems)))


def ready(task: Task, episode: Episode) -> tuple[bool, str, str]:
    """Whether an episode can be drawn, the sentence that says so, and the line below it."""
    if not task.classes:
        return False, "Not ready to train", "No classes: these pictures are unlabelled"
    sizes = [len(c.images) for c in task.classes if len(c.images) >= episode.needed]
    if len(sizes) < episode.ways:
        have = count(len(sizes), "class", "classes")
        if len(sizes) < len(task.classes):
            have += f" of {len(task.classes):,} with at least {count(episode.needed, 'image')}"
        return False, f"Not ready for {episode.words(episode.queries)}", f"It has {have}"
    least = min(sizes)
    detail = f"{count(len(sizes), 'class', 'classes')}, at least {count(least, 'image')} in each"
    possible = min(episode.queries, least - episode.shots)
    if possible < episode.queries:
        detail += f", so {possible} of {episode.queries} queries"
    return True, f"Ready for {episode.words(possible)}", detail


def _in_task(number: int, places: Places) -> Iterable[tuple[str, list[int]]]:
    for sha, where in places.items():
        own = [c for t, c in where if t == number]
        if own:
            yield sha, own


def _refs(task: Task, hashes: frozenset[str]) -> dict[str, ImageRef]:
    return {image.sha256: image for _i, _n, images in groups(task) for image in images if image.sha256 in hashes}


def _across_classes(number: int, task: Task, places: Places) -> Iterable[Finding]:
    by_classes: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for sha, own in _in_task(number, places):
        classes = tuple(sorted({c for c in own if c >= 0}))
        if len(classes) > 1:
            by_classes[classes].add(sha)
    for classes, found in sorted(by_classes.items(), key=lambda item: (-len(item[1]), item[0])):
        hashes = frozenset(found)
        names = [task.classes[c].name for c in classes]
        what = "The same picture is" if len(hashes) == 1 else f"The same {len(hashes):,} pictures are"
        one = next(iter(_refs(task, hashes).values()))
        yield Finding(
            "duplicate-classes",
            "warn",
            "Exact duplicate across classes" if len(hashes) == 1 else "Exact duplicates across classes",
            f"{what} in {count(len(names), 'class', 'classes')}. Keep one, or training learns both answers.",
            (
                *(Fix(f"Keep in {name}", "keep", hashes, target=name) for name in names[:2]),
                Fix("Show", "show", hashes),
            ),
            (one, one),
            listed(names),
            hashes,
            frozenset(names),
        )


def _across_roles(number: int, tasks: Sequence[Task], places: Places) -> Iterable[Finding]:
    task = tasks[number]
    by_task: dict[int, set[str]] = defaultdict(set)
    for sha, _own in _in_task(number, places):
        for other in {t for t, _c in places[sha] if tasks[t].role != task.role}:
            by_task[other].add(sha)
    for other, found in sorted(by_task.items()):
        hashes = frozenset(found)
        one = next(iter(_refs(task, hashes).values()))
        role = ROLE_WORDS[tasks[other].role]
        yield Finding(
            "duplicate-roles",
            "warn",
            f"{count(len(hashes), 'picture')} also in {tasks[other].name}",
            f"That task is {role}, this one {ROLE_WORDS[task.role]}: "
            "accuracy measured on a picture that was trained on is too good.",
            (Fix("Remove here", "drop", hashes), Fix("Show", "show", hashes)),
            (one,),
            f"{task.name} and {tasks[other].name}",
            hashes,
        )


def _other_kind(task: Task, odd: frozenset[TaskId]) -> Iterable[Finding]:
    if task.id not in odd:
        return
    one, others = ("Photographs", "drawings") if hold_photographs((task,)) else ("Drawings", "photographs")
    yield Finding(
        "other-kind",
        "warn",
        f"{one}, while most tasks hold {others}",
        "One network that learns both at once is good at neither. Train on one kind at a time.",
        (Fix("Hold out", "hold_out"),),
    )


def _copies(number: int, task: Task, places: Places) -> Iterable[Finding]:
    found: set[str] = set()
    names: set[str] = set()
    for sha, own in _in_task(number, places):
        twice = [c for c, n in Counter(own).items() if n > 1 and c >= 0]
        if twice:
            found.add(sha)
            names |= {task.classes[c].name for c in twice}
    if found:
        hashes = frozenset(found)
        one = next(iter(_refs(task, hashes).values()))
        yield Finding(
            "duplicate-copies",
            "warn",
            f"{count(len(hashes), 'picture')} twice in one class",
            "A query could be the very example it is compared with, so accuracy would look too good.",
            (Fix("Keep one of each", "single", hashes), Fix("Show", "show", hashes)),
            (one, one),
            listed(sorted(names)),
            hashes,
            frozenset(names),
        )


def _too_small(task: Task, episode: Episode) -> Iterable[Finding]:
    empty = [c.name for c in task.classes if not c.images]
    small = [c.name for c in task.classes if 0 < len(c.images) < episode.needed]
    if empty:
        verb = "has" if len(empty) == 1 else "have"
        yield Finding(
            "empty",
            "warn",
            f"{count(len(empty), 'class', 'classes')} without pictures",
            f"{listed(empty)} {verb} no readable picture, so no episode can use {'it' if len(empty) == 1 else 'them'}.",
            (Fix("Leave out", "leave_out", names=tuple(empty)),),
            classes=frozenset(empty),
        )
    if small:
        yield Finding(
            "too-small",
            "warn",
            f"{count(len(small), 'class', 'classes')} with too few pictures",
            f"{listed(small)}: {count(episode.shots, 'example')} and a query need {episode.needed} pictures each.",
            (Fix("Leave out", "leave_out", names=tuple(small)), Fix("Show", "scroll", target=small[0])),
            classes=frozenset(small),
        )
    if task.classes and len(task.classes) < episode.ways:
        yield Finding(
            "few-classes",
            "warn",
            f"{count(len(task.classes), 'class', 'classes')}, but {episode.ways} ways",
            "An episode draws its classes within one task. Choose fewer ways, or draw across all tasks, in Train.",
        )


def _imbalance(task: Task) -> Iterable[Finding]:
    filled = [c for c in task.classes if c.images]
    if len(filled) < 2:
        return
    least = min(filled, key=lambda c: len(c.images))
    most = max(filled, key=lambda c: len(c.images))
    if len(most.images) >= _MANY * len(least.images):
        yield Finding(
            "imbalance",
            "info",
            "Classes differ much in size",
            f"{most.name} has {count(len(most.images), 'image')}, {least.name} {len(least.images):,}. "
            "Episodes draw every class equally often, so this is no fault in itself.",
            (Fix("Show", "scroll", target=least.name),),
        )


def _skipped(problems: tuple[Problem, ...]) -> Iterable[Finding]:
    taken = tuple(p for p in problems if p.severity == "warning")
    skipped = tuple(p for p in problems if p.severity == "error")
    ignored = tuple(p for p in problems if p.severity == "ignored")
    if skipped:
        verb = "was" if len(skipped) == 1 else "were"
        tail = "It is listed, not counted." if len(skipped) == 1 else "They are listed, not counted."
        yield _files("skipped", "warn", f"{count(len(skipped), 'file')} {verb} skipped", skipped, tail)
    if taken:
        yield _files("remark", "info", f"{count(len(taken), 'remark')}", taken, "")
    if ignored:
        verb = "is" if len(ignored) == 1 else "are"
        title = (
            f"{count(len(ignored), 'file')} {verb} not a picture"
            if len(ignored) == 1
            else f"{len(ignored):,} other files"
        )
        yield _files("ignored", "info", title, ignored, "Left alone.")


def _files(kind: str, level: Level, title: str, problems: tuple[Problem, ...], tail: str) -> Finding:
    if len(problems) == 1:
        text = f"{file_name(problems[0].path)} {problems[0].reason}. {tail}"
        fixes: tuple[Fix, ...] = (Fix("Show file", "file", path=problems[0].path),)
    else:
        reasons = Counter(p.reason for p in problems).most_common()
        parts = [f"{reason} ({count(n, 'file')})" for reason, n in reasons[:_NAMED]]
        if len(reasons) > _NAMED:
            parts.append(count(len(reasons) - _NAMED, "other reason"))
        text = f"{'; '.join(parts)}. {tail}"
        fixes = (Fix("List files", "files"),)
    return Finding(
        kind,
        level,
        title,
        text[:1].upper() + text[1:].strip() if len(problems) > 1 else text.strip(),
        fixes,
        problems=problems,
    )


def file_name(path: str) -> str:
    """The last part of a path, for eyes."""
    return display(path.replace("\\", "/").rstrip("/").rpartition("/")[2] or path)


def apply_fix(task: Task, fix: Fix) -> Task:
    """The task after a fix that changes it; the files on disk are never touched."""
    if fix.action == "keep":
        return replace(task, classes=tuple(c if c.name == fix.target else _less(c, fix.hashes) for c in task.classes))
    if fix.action == "drop":
        return replace(
            task,
            classes=tuple(_less(c, fix.hashes) for c in task.classes),
            unlabelled=tuple(i for i in task.unlabelled if i.sha256 not in fix.hashes),
        )
    if fix.action == "single":
        return replace(task, classes=tuple(_single(c) for c in task.classes))
    if fix.action == "leave_out":
        return replace(task, classes=tuple(c for c in task.classes if c.name not in fix.names))
    return task


def without(task: Task, items: Iterable[tuple[str, ImageRef]]) -> Task:
    """The task without some pictures, each taken out of the class that is named with it only."""
    gone = {(name, image.sha256) for name, image in items}
    classes = tuple(
        replace(c, images=tuple(i for i in c.images if (c.name, i.sha256) not in gone)) for c in task.classes
    )
    unlabelled = tuple(i for i in task.unlabelled if ("Unlabelled", i.sha256) not in gone)
    return replace(task, classes=classes, unlabelled=unlabelled)


def _less(item: TaskClass, hashes: frozenset[str]) -> TaskClass:
    kept = tuple(i for i in item.images if i.sha256 not in hashes)
    return item if len(kept) == len(item.images) else replace(item, images=kept)


def _single(item: TaskClass) -> TaskClass:
    kept = tuple({i.sha256: i for i in item.images}.values())
    return item if len(kept) == len(item.images) else replace(item, images=kept)
