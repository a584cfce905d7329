"""What a person does in the Teach room, as edits of the task: one place, whatever the hand or the key that asks."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from PySide6.QtCore import QObject, Signal

from workbench.core.errors import WorkbenchError
from workbench.core.paths import display
from workbench.core.teach import (
    NONE,
    AddClass,
    AddExamples,
    AddQueries,
    Choose,
    DeleteClass,
    Edit,
    Label,
    MoveExamples,
    RemoveExamples,
    RemoveQueries,
    RenameClass,
    SingleEdit,
    TeachTask,
    Together,
    check_name,
)
from workbench.core.values import ClassId, ImageRef, Problem
from workbench.ui.rooms.teach import intake
from workbench.ui.rooms.teach.carrying import OUTSIDE, QUERIES, Carried, from_clipboard
from workbench.ui.rooms.teach.view import Answer
from workbench.ui.state import AppState

NEW = ClassId("new")
"""The target that makes a new class."""
_NAMED = 2


class Deeds(QObject):
    """Edits of the taught task.

    Signals:
        created(str): id of a class that was just made and has no name of its own yet.
        said(str, str, str): kind, headline and detail for the room's message strip.
    """

    created = Signal(str)
    said = Signal(str, str, str)

    def __init__(self, state: AppState, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._state = state

    @property
    def _task(self) -> TeachTask:
        return self._state.teach

    # ---- bringing pictures in --------------------------------------------------------------------
    def take(self, carried: Carried, target: ClassId) -> None:
        """Take what was dropped or pasted on a class, on ``NEW`` or on ``QUERIES``."""
        if carried.source != OUTSIDE:
            self._take_inside(carried, target)
            return
        project = self._state.project
        if project is None:
            return
        known = {QUERIES: self.tr("the queries"), NEW: self.tr("a new class")}
        known |= {c.id: c.name for c in self._task.classes}

        def done(found: intake.Found) -> None:
            self._found(found, target)

        self._state.lanes.submit(
            "files",
            intake.read,
            carried.files,
            carried.pasted,
            project,
            title=self.tr("Reading pictures for {name}").format(name=known.get(target, self.tr("a class"))),
            on_done=done,
            on_failed=self._refused,
        )

    def paste(self, target: ClassId) -> None:
        """Take what the clipboard holds."""
        carried = from_clipboard()
        if carried is None or carried.source != OUTSIDE:
            self.said.emit(
                "info",
                self.tr("There is nothing to paste."),
                self.tr("Copy pictures or a folder, then paste them here."),
            )
            return
        self.take(carried, target)

    def _found(self, found: intake.Found, target: ClassId) -> None:
        task, images = self._task, found.images
        done, again, fresh = False, "", images
        if not images:
            pass
        elif target == NEW:
            done = self._new_classes(found.groups)
        else:
            own = next((c for c in task.classes if c.id == target), None)
            name = self.tr("the queries") if target == QUERIES else own.name if own is not None else ""
            fresh = _fresh(images, task.queries if target == QUERIES else own.images if own is not None else ())
            again = self._again(len(images) - len(fresh), len(images), name)
            edit: Edit = AddQueries(fresh) if target == QUERIES else AddExamples(target, fresh)
            done = bool(fresh) and self._state.edit(edit)
        if found.problems:
            self._name_problems(found.problems, again)
        elif not images:
            self.said.emit(
                "warn", self.tr("No pictures were found."), self.tr("Choose pictures or a folder of pictures.")
            )
        elif again and (done or not fresh):
            headline = self.tr("Not all were added.") if done else self.tr("Nothing was added.")
            self.said.emit("info", headline, again)
        elif done:
            self.said.emit("", "", "")

    def _again(self, doubles: int, of: int, name: str) -> str:
        """That pictures were there already, or came twice; "" where none did."""
        if not doubles:
            return ""
        if doubles == of:
            return self.tr("The same pictures are already in {name}.").format(name=name)
        if doubles == 1:
            return self.tr("1 of {n} pictures is already in {name}.").format(n=of, name=name)
        return self.tr("{m} of {n} pictures are already in {name}.").format(m=doubles, n=of, name=name)

    def _new_classes(self, groups: Sequence[intake.Group]) -> bool:
        """Each folder becomes a class (or joins the one of its name), loose pictures become one."""
        names = {c.name.casefold(): c.id for c in self._task.classes}
        edits: list[SingleEdit] = []
        nameless = OUTSIDE
        for group in groups:
            name = self._usable(group.name)
            if name and name.casefold() in names:
                edits.append(AddExamples(names[name.casefold()], group.images))
                continue
            made = new_id()
            if not name:
                name = self._free_name(names)
                nameless = nameless or made
            names[name.casefold()] = made
            edits.append(AddClass(made, name, group.images))
        done = self._together(edits)
        if done and nameless:
            self.created.emit(nameless)
        return done

    def _usable(self, name: str) -> str:
        try:
            return check_name(name) if name else ""
        except WorkbenchError:
            return ""

    def _free_name(self, taken: Mapping[str, ClassId] | None = None) -> str:
        names = set(taken) if taken is not None else {c.name.casefold() for c in self._task.classes}
        number = len(self._task.classes) + 1
        while (name := self.tr("Class {n}").format(n=number)).casefold() in names:
            number += 1
        return name

    def _take_inside(self, carried: Carried, target: ClassId) -> None:
        source, hashes = carried.source, carried.hashes
        if source == target or not hashes:
            return
        if target == QUERIES:
            self.to_queries(source, hashes)
            return
        edits: list[SingleEdit] = []
        to = target
        if target == NEW:
            to = new_id()
            edits.append(AddClass(to, self._free_name()))
        edits.append(Label(hashes, to) if source == QUERIES else MoveExamples(source, to, hashes))
        if self._together(edits) and target == NEW:
            self.created.emit(to)

    def _name_problems(self, problems: Sequence[Problem], more_to_say: str = "") -> None:
        shown = [f"{display(p.path).rsplit('/', 1)[-1]}: {p.reason}" for p in problems[:_NAMED]]
        more = len(problems) - len(shown)
        if more:
            shown.append(self.tr("and {n} more").format(n=more))
        headline = (
            self.tr("1 file was not read.")
            if len(problems) == 1
            else self.tr("{n} files were not read.").format(n=len(problems))
        )
        self.said.emit("warn", headline, " ".join(filter(None, ("; ".join(shown) + ".", more_to_say))))

    def _refused(self, error: Exception) -> None:
        if isinstance(error, WorkbenchError):
            self._state.refuse(error)

    def load_samples(self) -> None:
        """The sample characters, as one edit."""
        self._state.lanes.submit(
            "files",
            intake.read_samples,
            title=self.tr("Opening the sample characters"),
            on_done=self._loaded,
            on_failed=self._refused,
        )

    def _loaded(self, samples: intake.Samples) -> None:
        names = {c.name.casefold() for c in self._task.classes}
        edits: list[SingleEdit] = [
            AddClass(new_id(), g.name, g.images) for g in samples.classes if g.name.casefold() not in names
        ]
        self._together([*edits, AddQueries(samples.queries)])

    # ---- classes and examples --------------------------------------------------------------------
    def new_class(self) -> None:
        """A class without examples, to be named."""
        made = new_id()
        if self._state.edit(AddClass(made, self._free_name())):
            self.created.emit(made)

    def rename(self, id_: ClassId, name: str) -> bool:
        """Give a class another name."""
        return self._state.edit(RenameClass(id_, name))

    def delete(self, id_: ClassId) -> None:
        """Delete a class; undo brings it back, so nothing is asked."""
        self._state.edit(DeleteClass(id_))

    def remove(self, id_: ClassId, hashes: Sequence[str]) -> None:
        """Take examples out of a class."""
        if hashes:
            self._state.edit(RemoveExamples(id_, tuple(hashes)))

    def move(self, source: ClassId, target: ClassId, hashes: Sequence[str]) -> None:
        """Move examples to another class."""
        if hashes and source != target:
            self._state.edit(MoveExamples(source, target, tuple(hashes)))

    def to_queries(self, source: ClassId, hashes: Sequence[str]) -> None:
        """Turn examples into queries."""
        wanted = set(hashes)
        images = tuple(i for i in self._task.find(source).images if i.sha256 in wanted)
        self._together([RemoveExamples(source, tuple(hashes)), AddQueries(images)])

    # ---- queries ---------------------------------------------------------------------------------
    def label(self, hashes: Sequence[str], id_: ClassId) -> bool:
        """A person says what queries are."""
        return bool(hashes) and self._state.edit(Label(tuple(hashes), id_))

    def take_back(self, hashes: Sequence[str]) -> bool:
        """Take labels back."""
        labelled = tuple(h for h in hashes if h in self._task.labels)
        return bool(labelled) and self._state.edit(Label(labelled, OUTSIDE))

    def accept(self, hashes: Iterable[str], answers: Mapping[str, Answer]) -> int:
        """Accept the predictions of queries that have no label yet, as one edit; says how many there were."""
        by_class: dict[ClassId, list[str]] = {}
        there = {c.id for c in self._task.classes} | {NONE}
        for sha in hashes:
            if sha in answers and sha not in self._task.labels and answers[sha].answer in there:
                by_class.setdefault(answers[sha].answer, []).append(sha)
        if not self._together([Label(tuple(found), id_) for id_, found in by_class.items()]):
            return 0
        return sum(map(len, by_class.values()))

    def remove_queries(self, hashes: Sequence[str]) -> None:
        """Take queries off the list."""
        if hashes:
            self._state.edit(RemoveQueries(tuple(hashes)))

    def choose(self, choice: Literal["auto", "none"] | str) -> None:
        """Override which knowledge is transferred."""
        if choice != self._task.choice:
            self._state.edit(Choose(choice))

    def _together(self, edits: Sequence[SingleEdit]) -> bool:
        if not edits:
            return False
        return self._state.edit(edits[0] if len(edits) == 1 else Together(tuple(edits)))


def new_id() -> ClassId:
    """An id that no class has."""
    return ClassId(uuid.uuid4().hex[:12])


def _fresh(images: Sequence[ImageRef], held: Sequence[ImageRef]) -> tuple[ImageRef, ...]:
    """Those that are not held yet, each once."""
    have = {i.sha256 for i in held}
    return tuple({i.sha256: i for i in images if i.sha256 not in have}.values())
