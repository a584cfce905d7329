"""Export: a file is called done only after it gave the same answers in a clean process."""

from __future__ import annotations

import hashlib
import re
import shlex
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QStackedWidget, QVBoxLayout, QWidget

from workbench.core.context import Context
from workbench.core.errors import WorkbenchError
from workbench.core.storage import len_text
from workbench.services import exported, jobs
from workbench.services.exported import Written
from workbench.services.requests import Exported, ExportRequest
from workbench.services.teach import TeachRequest
from workbench.ui.icons import set_icon
from workbench.ui.lanes import Job
from workbench.ui.rooms.export.agreement import Agreement, Usage
from workbench.ui.rooms.export.cards import FormatCards, Inside, formats
from workbench.ui.rooms.export.verification import Verification
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.panel import scroll
from workbench.ui.widgets.room import Room
from workbench.ui.widgets.strip import EmptyHint

_ROOMY = 1344


def export_taught(request: TeachRequest, project: Path, model: Path, format_: str, out: Path, ctx: Context) -> Exported:
    """Adapt to the taught task, write the model, export it and verify the file."""
    folder = jobs.save_taught(request, project, model, ctx)
    ctx.check()
    return jobs.export(ExportRequest(str(folder), format_, str(out)), project, ctx)


def when(at: str, now: datetime) -> str:
    """The time of an export where it was today, else its day: "14:02", "17 Nov"."""
    made = datetime.fromisoformat(at).astimezone(now.tzinfo)
    return f"{made:%H:%M}" if made.date() == now.date() else f"{made.day} {made:%b}"


class ExportRoom(Room):
    """The room."""

    def __init__(self, state: AppState, parent: QWidget | None = None) -> None:
        super().__init__(state, "", "", parent)
        self._title.setText(self.tr("Export"))
        self.setAccessibleName(self.tr("Export"))
        self.set_subtitle(self.tr("A file is called done only after it gave the same answers in a clean process."))
        self._job: Job | None = None
        self._done: dict[str, Written] = {}
        self.command = self.add_action(button(self.tr("Copy as command"), icon="copy"))
        self.primary = self.add_action(button(self.tr("Export"), "primary", "export"))
        self.cards = FormatCards()
        self.inside = Inside()
        self.verification = Verification(state.thumbs)
        self.agreement, self.usage = Agreement(), Usage()
        self._places = QStackedWidget()
        self._places.addWidget(self._empty())
        self._places.addWidget(self._content())
        self.body.addWidget(self._places)
        self.command.clicked.connect(self.copy_command)
        self.primary.clicked.connect(self.export_or_stop)
        self.cards.chosen.connect(self._chosen)
        self.verification.again.clicked.connect(self.export)
        self.verification.open_folder.clicked.connect(self._open_folder)
        for signal in (state.teach_changed, state.result_changed, state.project_changed, state.theme_changed):
            signal.connect(self.refresh)
        state.project_changed.connect(self._forget)
        state.lanes.progress.connect(self._progress)
        self._forget()

    def _empty(self) -> QWidget:
        go = button(self.tr("Go to Teach"), "primary", "teach")
        go.clicked.connect(lambda: self.state.go("teach"))
        hint = self.tr("Give at least two classes an example each; what they teach can then be written to a file.")
        return EmptyHint("export", self.tr("Teach a class first"), hint, go)

    def _content(self) -> QWidget:
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(12)
        head = label(self.tr("Format"), "section")
        head.setFixedHeight(24)
        column.addWidget(head)
        column.addWidget(self.cards)
        column.addStretch(1)
        column.addWidget(self.inside)
        self._left = scroll(left)
        right = QVBoxLayout()
        right.setSpacing(16)
        right.addWidget(self.agreement, 3)
        right.addWidget(self.usage, 2)
        beside = QWidget()
        beside.setLayout(right)
        right.setContentsMargins(0, 0, 0, 0)
        self._right = scroll(beside)
        content = QWidget()
        row = QHBoxLayout(content)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(16)
        row.addWidget(self._left)
        row.addWidget(self.verification, 1)
        row.addWidget(self._right)
        self._fit()
        return content

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Other columns, between wide and narrow too."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """320 / rest / 416 where there is room for them, narrower columns with fewer words where there is not."""
        tight = self.compact or self.width() < _ROOMY
        self._left.setFixedWidth(248 if self.compact else 280 if tight else 320)
        self._right.setFixedWidth(272 if self.compact else 300 if tight else 416)
        for part in (self.cards, self.agreement, self.usage):
            part.set_compact(compact=tight)
        self.verification.set_compact(compact=self.compact, tight=tight)

    def focus_start(self) -> None:
        """The chosen format."""
        self.cards.cards[self.cards.value()].setFocus()

    def selection(self) -> str:
        """The chosen format."""
        return self.cards.value()

    def select(self, key: str) -> None:
        """Choose a format."""
        if key in self.cards.cards:
            self.cards.set_value(key)
            self._chosen(key)

    # ---- what is shown ---------------------------------------------------------------------------
    def ready(self) -> bool:
        """Whether there is something to export."""
        return len(self.state.teach.support()) >= 2

    def refresh(self) -> None:
        """Show the task, the chosen format, and what became of it."""
        ready = self.ready()
        self._places.setCurrentIndex(1 if ready or self._job is not None else 0)
        self.command.setVisible(ready)
        self.primary.setVisible(ready or self._job is not None)
        if not ready:
            return
        key = self.cards.value()
        done = self._done.get(key)
        running = self._job is not None
        set_icon(self.primary, "stop" if running else "export", 16, "accent_text")
        self.primary.setText(self.tr("Stop") if running else self.tr("Export again") if done else self.tr("Export"))
        indices = self._indices()
        chosen = next((c for c in self.state.result.candidates if c.chosen), None) if self.state.result else None
        made = ""
        if self.state.result is not None and chosen is not None:
            made = f"{chosen.name}, {self.state.result.step_names[-1].lower()}"
        self.inside.show_model(list(indices.items()), made, key)
        self._show_cards()
        file = self._slug() + next(f.suffix for f in formats() if f.key == key)
        if done is not None and done.result.files:
            file = Path(done.result.files[0]).name
        entry = next((e for e in self.state.entries if chosen is not None and e.id == chosen.entry), None)
        self.usage.show_format(key, file, len(indices), entry.preprocess if entry is not None else None)
        points = [] if done is None else self._points(done)
        self.agreement.scatter.set_points(points)

    def _points(self, done: Written) -> list[tuple[int, float, float]]:
        order = list(done.indices.values())
        return [(order[i] if i < len(order) else -1, here, there) for i, here, there in done.result.agreement]

    def _indices(self) -> dict[str, int]:
        places = {c.id: i for i, c in enumerate(self.state.teach.classes)}
        return {c.name: places[c.id] for c in self.state.teach.support()}

    def _show_cards(self) -> None:
        for key, card in self.cards.cards.items():
            done = self._done.get(key)
            if done is None:
                card.set_state("", "", "")
            elif done.task != hash_of(self.state):
                card.set_state("warn", self.tr("taught since"), len_text(done.result.size))
            else:
                at = when(done.at, datetime.now().astimezone())
                card.set_state("good", self.tr("verified {at}").format(at=at), len_text(done.result.size))

    def _chosen(self, key: str) -> None:
        if self._job is None:
            done = self._done.get(key)
            if done is None:
                self.verification.reset()
            else:
                self.verification.show_result(done.result, self._shown_folder(), done.indices)
        self.refresh()

    def _forget(self) -> None:
        """Another project: what was exported from it is read from the disk."""
        self._done = {}
        if self._job is None:
            self.verification.reset()
        self.refresh()
        project = self.state.project_path
        if self.state.project is not None:
            title = self.tr("Looking for exported files")
            done = partial(self._remembered, project)
            self.state.lanes.submit("files", exported.remembered, project, title=title, on_done=done)

    def _remembered(self, project: Path, found: dict[str, Written]) -> None:
        if project == self.state.project_path:
            self._done = {**found, **self._done}
            if self._job is None:
                self._chosen(self.cards.value())

    # ---- work ------------------------------------------------------------------------------------
    def export_or_stop(self) -> None:
        """The primary button."""
        if self._job is not None:
            self._job.cancel()
        else:
            self.export()

    def export(self) -> None:
        """Write the chosen format and verify it, in the background."""
        if self._job is not None or not self.ready():
            return
        state, key = self.state, self.cards.value()
        request = TeachRequest(
            state.edits, state.teach.support(), state.teach.queries, state.teach.choice, device=state.device
        )
        self.strip.clear()
        self.verification.begin(self._shown_folder())
        self._started = (key, hash_of(state), self._indices())
        title = self.tr("Exporting {format}").format(format=self.cards.cards[key].format.title)
        self._job = state.lanes.submit(
            "files",
            export_taught,
            request,
            state.project_path,
            self._model(),
            key,
            self._folder(),
            title=title,
            on_done=self._finished,
            on_failed=self._failed,
            on_cancelled=self._stopped,
            on_event=self._checked,
        )
        self.refresh()

    def _progress(self, job: Job) -> None:
        if job is self._job:
            stopping = self.tr("finishing this step") if job.state == "stopping" else job.ctx.status_text
            self.verification.say(stopping)

    def _checked(self, value: object) -> None:
        name = getattr(value, "name", "")
        if name and hasattr(value, "figure"):
            self.verification.add_check(
                name, str(getattr(value, "detail", "")), str(value.figure), ok=bool(getattr(value, "ok", False))
            )

    def _finished(self, result: Exported) -> None:
        key, task, indices = self._started
        self._job = None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._done[key] = Written(result, now, task, indices)
        project = self.state.project_path
        title = self.tr("Noting the export")
        self.state.lanes.submit("files", exported.remember, project, key, result, task, indices, title=title)
        if self.cards.value() == key:
            self.verification.show_result(result, self._shown_folder(), indices)
        self.refresh()

    def _failed(self, error: Exception) -> None:
        self._job = None
        if isinstance(error, WorkbenchError):
            self.verification.refuse(error.why)
            self.show_message("bad", f"{error.what_happened}.", f"{error.why}. {error.what_to_do}.")
        else:
            self.verification.refuse(self.tr("something went wrong inside the workbench"))
        self.refresh()

    def _stopped(self) -> None:
        self._job = None
        self.verification.stop()
        self.refresh()

    # ---- places ----------------------------------------------------------------------------------
    def _slug(self) -> str:
        project = self.state.project
        name = project.name if project is not None else ""
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
        return plain if plain and plain != "scratch" else "taught"

    def _model(self) -> Path:
        return self.state.project_path / "models" / self._slug()

    def _folder(self) -> Path:
        return self.state.project_path / "exports" / self._slug()

    def _shown_folder(self) -> str:
        return f"exports / {self._slug()}"

    def command_line(self) -> str:
        """The command that does the same with the model that was written."""
        words = [
            "workbench", "export", str(self._model()), "--format", self.cards.value(), "--out", str(self._folder()),
            "--project", str(self.state.project_path),
        ]  # fmt: skip
        return shlex.join(words)

    def copy_command(self) -> None:
        """Put the command on the clipboard."""
        QGuiApplication.clipboard().setText(self.command_line())
        self.show_message("info", self.tr("The command is on the clipboard."), self.command_line())

    def _open_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._folder())))


def hash_of(state: AppState) -> str:
    """What an export depends on: classes, examples, labels, choice of knowledge; queries where they helped to adapt."""
    classes = tuple((c.id, c.name, tuple(i.sha256 for i in c.images)) for c in state.teach.support())
    together = state.result is not None and state.result.together
    queries = tuple(sorted({i.sha256 for i in state.teach.queries})) if together else ()
    what = (classes, state.teach.choice, queries) if together else (classes, state.teach.choice)
    return hashlib.sha256(repr(what).encode("utf-8", "surrogatepass")).hexdigest()
