"""The steps of the tour: what a newcomer does with the samples, from the first page to a verified file.

Reads the rooms to know where to put the hand and whether a state is reached; changes them by hand alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtWidgets import QAbstractButton, QApplication, QMenu, QWidget

from workbench.core import paths
from workbench.core.values import Role
from workbench.ui.actions import ROOMS
from workbench.ui.hands import Hands, StepError
from workbench.ui.rooms.export.room import ExportRoom
from workbench.ui.rooms.knowledge.room import KnowledgeRoom
from workbench.ui.rooms.sources.room import SourcesRoom
from workbench.ui.rooms.teach.room import TeachRoom
from workbench.ui.rooms.train.editors import Editor
from workbench.ui.rooms.train.room import TrainRoom
from workbench.ui.widgets.controls import Segmented
from workbench.ui.widgets.room import Room

_MINUTES = "0.5"
_WATCHED = 0.8
_EXAMPLES = (5, 4, 3, 2)
_QUERIES = 6
_STRANGERS = 3
_SHOW_DRAG = 2
_SMALL = (1024, 700)
_R = TypeVar("_R", bound=Room)


class Walk:
    """All steps in order."""

    def __init__(self, hands: Hands, picture: Callable[[str], object], material: Path) -> None:
        """Prepare it.

        Args:
            hands: on the window.
            picture: saves the window as it is now under a name.
            material: an empty or missing folder for pictures that the walk drops.
        """
        self.hands, self.picture = hands, picture
        self.window = hands.window
        self.state = hands.window.state
        self.material = material

    def go(self) -> None:
        """Walk.

        Raises:
            StepError: a step did not reach its state.
        """
        self.first_page()
        self.sources()
        self.train_setup()
        self.train()
        self.teach_classes()
        self.teach_queries()
        self.correct()
        self.compare_knowledge()
        self.small_window()
        self.knowledge()
        self.export()

    def _room(self, kind: type[_R]) -> _R:
        found = next((r for r in self.window.rooms.values() if isinstance(r, kind)), None)
        if found is None:
            raise StepError(f"the window has no {kind.__name__}")
        return found

    def _enter(self, name: str) -> None:
        self.hands.click(self.window.rail.items[name])
        room = self.window.rooms[name]
        self.hands.until(room.isVisible, f"the room {name}")

    def _idle(self) -> bool:
        return not any(self.state.lanes.busy(lane) for lane in ("files", "adapt"))

    # ---- first page, Sources ---------------------------------------------------------------------
    def first_page(self) -> None:
        """What a newcomer sees."""
        window = self.window
        self.hands.until(lambda: len(window.rooms) == len(ROOMS) and self._idle(), "all rooms built")
        self.hands.until(window.first.isVisible, "the first page")
        self.picture("first-run")

    def sources(self) -> None:
        """The samples, a folder of one's own with its faults, and what tasks are used for."""
        hands, room = self.hands, self._room(SourcesRoom)
        hands.click(self.window.first.open_samples)
        hands.until(lambda: len(self.state.tasks) >= 2 and not self.state.scanning, "the samples scanned")
        hands.until(lambda: room.isVisible() and self._idle() and not room.checker.checking, "the samples checked")
        self.picture("sources")
        self._click_cell(room, 2)
        hands.until(lambda: len(room.grid.selection()) == 1 and self._idle(), "a selected picture")
        hands.rest(0.4)  # how a picture is stored is looked up a moment later
        self.picture("sources-picture")
        before = len(self.state.tasks)
        folder = self._folder_with_faults()
        hands.carry([str(folder)], room)
        self.picture("sources-drag")
        hands.let_go()
        hands.until(lambda: len(self.state.tasks) > before and not self.state.scanning, "the dropped folder scanned")
        self._click_task(room, folder.name)
        hands.until(
            lambda: self._idle() and room.task is not None and bool(room.checker.found.get(room.task.id)),
            "its findings",
        )
        self.picture("sources-findings")
        for name in (folder.name, "surfaces"):
            self._click_task(room, name)
            self._click_text(room.details.roles, "Held out")
            hands.until(lambda: room.task is not None and room.task.role is Role.HELD_OUT, f"{name} held out")
        hands.until(lambda: self._idle() and not room.checker.checking, "the change written")
        self.picture("sources-role")

    def _folder_with_faults(self) -> Path:
        """Two classes of the samples, with a picture in both and one that ends early."""
        made = self.material / "parts from the line"
        shown = sorted((paths.samples() / "teach" / "surfaces" / "support").iterdir())[:2]
        for source in shown:
            shutil.copytree(source, made / source.name)
        first = sorted((made / shown[0].name).iterdir())
        (made / shown[1].name / f"again{first[0].suffix}").write_bytes(first[0].read_bytes())
        whole = first[1].read_bytes()
        (made / shown[0].name / f"cut-short{first[1].suffix}").write_bytes(whole[: len(whole) // 3])
        return made

    def _click_cell(self, room: SourcesRoom, flat: int) -> None:
        grid = room.grid
        left, top = grid.map.position(flat)
        middle = QPoint(left + grid.cell // 2, top - grid.verticalScrollBar().value() + grid.cell // 2)
        self.hands.click(grid.viewport(), middle)

    def _click_task(self, room: SourcesRoom, name: str) -> None:
        rows = [t.name for t in self.state.tasks]
        if name not in rows:
            raise StepError(f"there is no task {name} among {', '.join(rows)}")
        place, bar = room.list.viewport(), room.list.verticalScrollBar()

        def row() -> QRect:
            return room.list.visualRect(room.list.model().index(rows.index(name), 0))

        self.hands.until(lambda: not row().isEmpty(), f"a row for {name}")
        while not place.rect().contains(row()):
            before = bar.value()
            self.hands.wheel(place, -1 if row().top() > 0 else 1)
            if bar.value() == before:
                raise StepError(f"the row of {name} cannot be scrolled into sight")
        self.hands.click(place, row().center())
        self.hands.until(lambda: room.task is not None and room.task.name == name, f"the task {name} shown")

    def _click_text(self, within: QWidget, text: str) -> None:
        found = [b for b in within.findChildren(QAbstractButton) if b.text() == text and b.isVisible()]
        if not found:
            raise StepError(f"there is no button {text}")
        self.hands.click(found[0])

    # ---- Train -----------------------------------------------------------------------------------
    def train_setup(self) -> None:
        """Choose ProtoNet, small grey pictures and a short budget."""
        hands, room = self.hands, self._room(TrainRoom)
        self._enter("train")
        hands.until(lambda: bool(room.recommended.cards) and room.monitor.loss is not None, "the recommendations")
        hands.until(self._idle, "nothing running")
        self.picture("train")
        hands.click(room.recommended.all)
        hands.until(room.algorithms.isVisible, "all algorithms")
        hands.click(room.algorithms.buttons["protonet"])
        hands.until(lambda: room.setup.algorithm == "protonet", "ProtoNet chosen")
        self.picture("train-algorithms")
        hands.click(room.algorithms.done)
        hands.until(room.monitor.isVisible, "the plots again")
        editor = self._open_chip(room, "backbone")
        hands.click(editor.entries["size"].line)
        hands.write("28")
        self._click_text(cast("QWidget", editor.findChild(Segmented)), "Grey")
        hands.until(lambda: (room.setup.size, room.setup.channels) == (28, "grey"), "grey pictures of 28 pixels")
        self.picture("train-backbone")
        self._close_chip()
        editor = self._open_chip(room, "budget")
        hands.until(lambda: QApplication.focusWidget() is not None, "the keyboard in the editor")
        line = next(w for w in editor.findChildren(QWidget) if w.accessibleName() == "Minutes" and w.isVisible())
        hands.click(line)
        hands.write(_MINUTES)
        hands.until(lambda: room.setup.minutes == float(_MINUTES), f"a budget of {_MINUTES} minutes")
        self.picture("train-budget")
        self._close_chip()

    def _open_chip(self, room: TrainRoom, key: str) -> Editor:
        chip = room.strip_.chips[key]
        self.hands.click(chip)
        self.hands.until(chip.is_open, f"the editor of the {key}")
        assert chip.popover is not None
        return cast("Editor", chip.popover.editor)

    def _close_chip(self) -> None:
        self.hands.press(Qt.Key.Key_Escape)
        self.hands.until(lambda: QApplication.activePopupWidget() is None, "the editor closed")

    def train(self) -> None:
        """Start, watch the curves, stop, and keep the best."""
        hands, room = self.hands, self._room(TrainRoom)
        bottom, known = self.window.bottom, len(self.state.entries)
        hands.click(room.start)
        hands.until(lambda: bottom.stop.isVisible() and room.running, "the run in the bottom bar")
        loss, accuracy = room.monitor.loss, room.monitor.accuracy
        assert loss is not None
        assert accuracy is not None
        hands.until(lambda: loss.curves["train"].series.n > 1, "points in the loss curve")
        hands.until(lambda: accuracy.curves["validation"].series.n > 1, "two validations")
        hands.until(lambda: self._share(room) > _WATCHED, f"{_WATCHED:.0%} of the budget")
        hands.point(accuracy, QPoint(accuracy.plot_rect.left() + accuracy.plot_rect.width() // 4, 60))
        self.picture("train-live")
        hands.click(bottom.stop)
        hands.until(lambda: not room.running and len(self.state.entries) > known and self._idle(), "the best kept")
        hands.until(room.strip.isVisible, "the message that it is kept")
        self.picture("train-stopped")

    def _share(self, room: TrainRoom) -> float:
        progress = room.job.ctx.progress_now if room.job is not None else None
        return progress.done / progress.total if progress is not None and progress.total else 0.0

    # ---- Teach -----------------------------------------------------------------------------------
    def teach_classes(self) -> None:
        """Examples onto class cards, one by one."""
        hands, room = self.hands, self._room(TeachRoom)
        train = self._room(TrainRoom)
        hands.click(train.strip.action)
        hands.until(room.isVisible, "the Teach room")
        self.picture("teach-empty")
        support = paths.samples() / "teach" / "characters" / "support"
        for folder, many in zip(sorted(support.iterdir()), _EXAMPLES, strict=False):
            self._new_class(room, folder.name, [str(f) for f in sorted(folder.iterdir())[:many]])
        hands.until(lambda: room.predictor.shown is not None and not room.predictor.stale, "the first adaptation")
        self.picture("teach-classes")

    def _new_class(self, room: TeachRoom, name: str, files: list[str]) -> None:
        """The first example makes the class, the others are dropped onto its card."""
        hands, n = self.hands, len(self.state.teach.classes)
        hands.drop(files[:1], room.column.target)
        hands.until(lambda: len(self.state.teach.classes) > n and self._idle(), f"the class {name}")
        field = room.column.cards()[n].name
        hands.until(lambda: field.hasFocus() and not field.isReadOnly(), f"the name of {name} to be typed")
        hands.write(name)
        hands.press(Qt.Key.Key_Return)
        hands.until(lambda: self.state.teach.classes[n].name == name, f"the name {name}")
        for file in files[1:]:
            have = len(self.state.teach.classes[n].images)
            hands.carry([file], room.column.cards()[n])
            if n == _SHOW_DRAG and have == len(files) - 1:
                self.picture("teach-drag")
            hands.let_go()
            self._more(n, have)

    def _more(self, n: int, have: int) -> None:
        self.hands.until(lambda: len(self.state.teach.classes[n].images) > have, "one more example on its card")

    def teach_queries(self) -> None:
        """Queries, some of a class that was never taught."""
        hands, room = self.hands, self._room(TeachRoom)
        folders = sorted((paths.samples() / "teach" / "characters" / "query").iterdir())
        files = [str(f) for folder in folders[: len(_EXAMPLES)] for f in sorted(folder.iterdir())[:_QUERIES]]
        files += [str(f) for f in sorted(folders[len(_EXAMPLES)].iterdir())[:_STRANGERS]]
        hands.drop(files, room.queries)
        hands.until(lambda: len(self.state.teach.queries) == len(files), "all queries")
        self._predicted(room)
        self._click_text(room.queries.sort, "By doubt")
        self.picture("teach")

    def _predicted(self, room: TeachRoom) -> None:
        self.hands.until(
            lambda: (
                not room.predictor.stale
                and room.predictor.shown is not None
                and len(room.answers()) == len(self.state.teach.queries)
            ),
            "all queries predicted",
        )

    def correct(self) -> None:
        """Correct one prediction with one key, take that back, and do it again."""
        hands, room = self.hands, self._room(TeachRoom)
        rows, answers = room.queries.list.rows.rows(), room.answers()
        names = {c.name: n for n, c in enumerate(self.state.teach.classes)}
        ids = {c.id: c.name for c in self.state.teach.classes}
        truth = {q.sha256: Path(q.path).parent.name for q in rows}
        wrong = [q.sha256 for q in rows if ids.get(answers[q.sha256].answer, "") != truth[q.sha256]]
        wrong = [sha for sha in wrong if truth[sha] in names or ids.get(answers[sha].answer)]
        chosen = (wrong or [room.queries.list.rows.sheet.next])[0]
        list_ = room.queries.list
        hands.click(list_.viewport(), QPoint(30, 30))
        while list_.current() != chosen:
            before = list_.current()
            hands.press(Qt.Key.Key_Down)
            if list_.current() == before:
                raise StepError("the row to correct was not reached")
        self.picture("teach-row")
        key = names.get(truth[chosen], -1)
        hands.press(Qt.Key.Key_0 if key < 0 else Qt.Key(int(Qt.Key.Key_1) + key))
        hands.until(lambda: chosen in self.state.teach.labels, "the correction")
        self._predicted(room)
        self.picture("teach-corrected")
        hands.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        hands.until(lambda: chosen not in self.state.teach.labels, "the correction taken back")
        self._predicted(room)
        self.picture("teach-undone")
        hands.click(self.window.top.redo)
        hands.until(lambda: chosen in self.state.teach.labels, "the correction done again")
        self._predicted(room)
        self.picture("teach-redone")

    def compare_knowledge(self) -> None:
        """What adapting did, and the same without transfer."""
        hands, room = self.hands, self._room(TeachRoom)
        slider = room.column.adaptation.slider
        if slider.track.isEnabled():
            hands.click(slider.track, QPoint(9, slider.track.height() // 2))
            hands.until(lambda: slider.value() == 0, "the slider at the start")
            self.picture("teach-before")
            hands.press(Qt.Key.Key_End)
            hands.until(lambda: slider.value() > 0, "the slider at the end")
        hands.click(room.why.change)
        hands.until(lambda: isinstance(QApplication.activePopupWidget(), QMenu), "the menu of what is transferred")
        menu = cast("QMenu", QApplication.activePopupWidget())
        self.picture("teach-override-menu")
        hands.choose(menu, next(a for a in menu.actions() if a.text() == "No transfer"))
        hands.until(lambda: self.state.teach.choice == "none", "no transfer")
        self._predicted(room)
        self.picture("teach-no-transfer")
        hands.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        hands.until(lambda: self.state.teach.choice == "auto", "the choice by itself again")
        self._predicted(room)

    def small_window(self) -> None:
        """The same in a small window."""
        room = self._room(TeachRoom)
        before = self.window.size()
        self.window.resize(*_SMALL)
        self.hands.until(lambda: room.compact, "the narrow form")
        self.picture("teach-small")
        self.window.resize(before)
        self.hands.until(lambda: not room.compact, "the wide form")

    # ---- Knowledge -------------------------------------------------------------------------------
    def knowledge(self) -> None:
        """What is known, and where the task of Teach lies among it; as the entry that was just trained sees it."""
        hands, room = self.hands, self._room(KnowledgeRoom)
        self._enter("knowledge")
        hands.until(lambda: room.atlas.taught is not None and room.card.chip.text() == "verified", "the map of tasks")
        hands.until(self._settled, "everything compared")
        self.picture("knowledge")
        self._click_text(room.map_panel.by, "This entry")
        hands.until(lambda: not room.atlas.common and bool(room.atlas.tasks) and self._settled(), "the other map")
        key = room.atlas.tasks[room.atlas.nearest(0, len(room.atlas.tasks))[0][0]].key
        hands.click(room.map, room.map.point_of(key))
        hands.until(lambda: room.map.current() is not None, "a task marked")
        self.picture("knowledge-task")

    def _settled(self) -> bool:
        return self._idle() and not self.state.lanes.busy("loading")

    # ---- Export ----------------------------------------------------------------------------------
    def export(self) -> None:
        """Write a bundle, verified in a clean process."""
        hands, room = self.hands, self._room(ExportRoom)
        self._enter("export")
        self.picture("export")
        hands.click(room.cards.cards["bundle"])
        hands.until(lambda: room.cards.value() == "bundle", "the bundle chosen")
        hands.click(room.primary)
        hands.until(lambda: self.state.lanes.busy("files"), "the export running", 10)
        hands.until(self._idle, "the export over", 120)
        verified = room.cards.cards["bundle"].state()
        if not verified.startswith("verified"):
            raise StepError(f"the bundle is not verified: {room.strip.text() or verified}")
        self.picture("export-verified")
