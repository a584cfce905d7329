"""The menu of a run, and its card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QGridLayout, QHBoxLayout, QMenu, QVBoxLayout, QWidget

from workbench.core.params import FieldSpec
from workbench.core.training import TrainRequest
from workbench.core.values import KnowledgeEntry, Role
from workbench.ui import icons
from workbench.ui.rooms.train.rows import RunRow, time_words
from workbench.ui.rooms.train.setup import count, range_words, used
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.methods import choice_words
from workbench.ui.widgets.panel import scroll

if TYPE_CHECKING:
    from workbench.ui.rooms.train.earlier import EarlierRuns
    from workbench.ui.rooms.train.room import TrainRoom


def of_run(runs: EarlierRuns, room: TrainRoom, row: RunRow) -> QMenu:
    """What can be done with a run."""
    menu = QMenu(room)
    menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    resume = menu.addAction(icons.icon("play"), room.tr("Resume"), partial(runs.resume, row.id))
    resume.setEnabled(row.resumable and not room.state.lanes.busy("train"))
    shown = row.id in room.monitor.overlays
    text = room.tr("Hide its curves") if shown else room.tr("Show its curves")
    menu.addAction(icons.icon("eye-off" if shown else "eye"), text, partial(runs.toggle, row.id))
    menu.addAction(icons.icon("copy"), room.tr("Copy as command"), partial(runs.copy_command, row.id))
    menu.addAction(icons.icon("info"), room.tr("Show card"), partial(runs.show_card, row.id))
    return menu


def facts(
    row: RunRow, request: TrainRequest, entry: KnowledgeEntry | None, fields: Sequence[FieldSpec] = ()
) -> list[tuple[str, str]]:
    """The card of a run as names and values; ``fields`` are the hyperparameters of its algorithm."""
    specs = {f.name: f for f in fields}
    found = [
        ("State", row.state + (f": {row.message}" if row.message else "")),
        ("Algorithm", row.algorithm),
        ("Hyperparameters", ", ".join(_param(k, v, specs.get(k)) for k, v in request.params.items()) or "as designed"),
        ("Backbone", f"{row.backbone}, {request.size} px, {request.channels}"),
        ("Sources", ", ".join(t.name for t in used(request.sources, Role.TRAIN))),
        (
            "Validation sources",
            ", ".join(t.name for t in used(request.sources, Role.VALIDATION)) or "held out of these",
        ),
        ("Episode", _episode(request)),
        ("Seed", str(request.seed)),
        ("Device", request.device),
        ("Precision", request.precision),
        ("Time", time_words(row.seconds)),
    ]
    if row.accuracy is not None:
        figure = f"{row.accuracy:.3f} {row.interval}".rstrip() + f", {count(row.episodes, 'episode')}"
        found.append(("Validation accuracy", figure))
    if entry is not None:
        found.append(("Knowledge", f"{entry.name} ({entry.id})"))
        found += [
            (str(k).replace("_", " ").capitalize(), _words(v)) for k, v in entry.provenance.items() if k in _SHOWN
        ]
        found += [("Data fingerprint", s.fingerprint[:16] + f"  {s.name}") for s in entry.sources]
    return found


def _param(name: str, value: object, spec: FieldSpec | None) -> str:
    if spec is None:
        return f"{name} {value}"
    if spec.kind == "bool":
        return f"{spec.title}: {'yes' if value else 'no'}"
    return f"{spec.title}: {choice_words(str(value)) if spec.kind == 'choice' else value}"


def _episode(request: TrainRequest) -> str:
    parts = [range_words(request.ways, "way"), range_words(request.shots, "shot")]
    parts.append(count(request.queries, "query", "queries"))
    parts.append("across tasks" if request.across_tasks else "within one task")
    return ", ".join(parts)


_SHOWN = ("episodes", "validation_kind", "versions")


def _words(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


class CardDialog(QDialog):
    """A run's card, and its command to copy."""

    def __init__(
        self,
        row: RunRow,
        request: TrainRequest,
        entry: KnowledgeEntry | None,
        fields: Sequence[FieldSpec],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(row.name)
        self.resize(560, 480)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        column.addWidget(label(row.name, "section"))
        content = QWidget()
        grid = QGridLayout(content)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(1, 1)
        for at, (name, value) in enumerate(facts(row, request, entry, fields)):
            grid.addWidget(label(name, "secondary"), at, 0, Qt.AlignmentFlag.AlignTop)
            shown = label(value, "body", wrap=True)
            shown.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            grid.addWidget(shown, at, 1)
        grid.setRowStretch(grid.rowCount(), 1)
        column.addWidget(scroll(content), 1)
        row_ = QHBoxLayout()
        copy = button(self.tr("Copy as command"), "secondary", "copy")
        copy.setEnabled(bool(request.command))
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(request.command))
        close = button(self.tr("Close"), "primary")
        close.clicked.connect(self.accept)
        row_.addWidget(copy)
        row_.addStretch(1)
        row_.addWidget(close)
        column.addLayout(row_)
