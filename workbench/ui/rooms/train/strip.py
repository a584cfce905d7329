"""The setup strip: what a run will be asked, one chip each, changed by clicking; locked while a run goes on."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QWidget

from workbench.core.values import Role, Task
from workbench.services.requests import BackboneRow, DeviceRow
from workbench.ui.rooms.train import editors
from workbench.ui.rooms.train.chips import Separator, SetupChip
from workbench.ui.rooms.train.setup import Setup, count, range_words, used
from workbench.ui.widgets.controls import button, label
from workbench.ui.widgets.strip import IconLabel


@dataclass(frozen=True, slots=True)
class Asks:
    """What the strip asks its room for; ``devices`` begins to test them where they are not known yet."""

    tasks: Callable[[], Sequence[Task]]
    setup: Callable[[], Setup]
    put: Callable[[Setup], object]
    reasons: Callable[[], Mapping[str, str]]
    backbones: Callable[[], Sequence[BackboneRow]]
    devices: Callable[[], Sequence[DeviceRow] | None]
    set_role: Callable[[Task, Role], object]
    set_device: Callable[[DeviceRow], object]
    weights: Callable[[BackboneRow], object]


class SetupStrip(QFrame):
    """A panel of 44 px, 52 with the labels above.

    Signals:
        copy_asked: the command line that does the same is wanted.
    """

    copy_asked = Signal()

    def __init__(self, asks: Asks, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._asks = asks
        self._devices: Sequence[DeviceRow] = ()
        self.setProperty("role", "panel")
        self.setFixedHeight(44)
        self.setAccessibleName(self.tr("Setup of the run"))
        edits: dict[str, tuple[str, Callable[[], QWidget]]] = {
            "sources": (self.tr("Sources"), lambda: editors.sources_editor(asks.tasks(), asks.set_role)),
            "episode": (self.tr("Episode"), lambda: editors.episode_editor(asks.setup, asks.put, asks.reasons)),
            "backbone": (
                self.tr("Backbone"),
                lambda: editors.backbone_editor(asks.setup, asks.put, asks.reasons, asks.backbones(), asks.weights),
            ),
            "budget": (self.tr("Budget"), lambda: editors.budget_editor(asks.setup, asks.put, asks.reasons)),
            "seed": (
                self.tr("Seed"),
                lambda: editors.seed_editor(asks.setup, asks.put, asks.reasons, lambda: secrets.randbelow(100_000)),
            ),
            "device": (
                self.tr("Device"),
                lambda: editors.device_editor(asks.setup, asks.put, asks.devices(), asks.set_device),
            ),
        }
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 0, 8, 0)
        row.setSpacing(4)
        self.chips: dict[str, SetupChip] = {}
        for at, (key, (name, edit)) in enumerate(edits.items()):
            if at:
                row.addWidget(Separator())
            self.chips[key] = SetupChip(name, edit)
            row.addWidget(self.chips[key])
        row.addStretch(1)
        self._lock = IconLabel("lock", 14)
        self._locked = label(self.tr("locked while running"), "secondary")
        self.copy = button("", "icon", "copy", size="small", name=self.tr("Copy as command"))
        self.copy.clicked.connect(self.copy_asked)
        for widget in (self._lock, self._locked, self.copy):
            row.addWidget(widget)
        self._narrow = False
        self.set_locked(locked=False)

    def refresh(self) -> None:
        """Say what the setup is, and what of it is not possible."""
        asks = self._asks
        s, reasons, tasks = asks.setup(), asks.reasons(), asks.tasks()
        train, validation = len(used(tasks, Role.TRAIN)), len(used(tasks, Role.VALIDATION))
        sources = count(train, "task")
        if validation:
            sources += f", {validation} for validation"
        self.chips["sources"].show_value(sources, reasons.get("sources", ""))
        episode = (
            f"{range_words(s.ways, 'way')}, {range_words(s.shots, 'shot')}, {count(s.queries, 'query', 'queries')}"
        )
        if s.across_tasks:
            episode += ", across tasks"
        if s.rotations:
            episode += ", turned"
        self.chips["episode"].show_value(episode, reasons.get("ways", "") or reasons.get("shots", ""))
        rows = asks.backbones()  # none while the library loads: then no name is shown, not the key
        title = next((f"{b.title}, " for b in rows if b.key == s.backbone), f"{s.backbone}, " if rows else "")
        backbone = f"{title}{s.size} px" + (", grey" if s.channels == "grey" else "")
        if s.pretrained:
            backbone += ", pretrained"
        self.chips["backbone"].show_value(backbone, reasons.get("size", "") or reasons.get("backbone", ""))
        budget = f"{s.minutes:g} min" if s.unit == "minutes" else count(s.episodes, "episode")
        self.chips["budget"].show_value(budget, reasons.get("budget", ""))
        self.chips["seed"].show_value(str(s.seed))
        precision = "" if s.precision == "full" else f", {s.precision}"
        self.chips["device"].show_value(self._device_words(s.device) + precision)

    def set_devices(self, rows: Sequence[DeviceRow]) -> None:
        """The devices are tested: name them, and show them in an editor that waits for them."""
        if rows == self._devices:
            return
        self._devices = rows
        self.refresh()
        chip = self.chips["device"]
        if chip.is_open() and chip.popover is not None:
            chip.popover.close()
            chip.open()

    def _device_words(self, key: str) -> str:
        name = next((d.name for d in self._devices if d.key == key), "")
        return name or ("CPU" if key == "cpu" else key)

    def set_locked(self, *, locked: bool) -> None:
        """A run goes on, or not."""
        for chip in self.chips.values():
            chip.set_locked(locked)
        self._lock.setVisible(locked)
        self._locked.setVisible(locked and not self._narrow)

    def set_narrow(self, narrow: bool) -> None:
        """Labels above the values."""
        self._narrow = narrow
        self.setFixedHeight(52 if narrow else 44)
        for chip in self.chips.values():
            chip.set_narrow(narrow)
        self._locked.setVisible(not self._lock.isHidden() and not narrow)
