"""The editors of the setup strip: sources, episode, backbone, budget, seed, device. Each edit takes effect at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from workbench.core.values import Role, Task
from workbench.services.requests import BackboneRow, DeviceRow
from workbench.ui.rooms.train.fields import Entry, number, plain, whole
from workbench.ui.rooms.train.setup import Setup, Unit, count, parse_range, range_text
from workbench.ui.widgets.controls import Segmented, button, label
from workbench.ui.widgets.panel import scroll

Set = Callable[[Setup], object]
Get = Callable[[], Setup]


class Editor(QWidget):
    """A column of rows: a label, an input, and what is wrong with it.

    Args:
        get: the setup as it is.
        put: takes the changed setup.
        reasons: gives why values are not possible, by field.
    """

    def __init__(self, get: Get, put: Set, reasons: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self.get, self.put, self.reasons = get, put, reasons
        self.entries: dict[str, Entry] = {}
        self.grid = QGridLayout(self)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setHorizontalSpacing(16)
        self.grid.setVerticalSpacing(8)

    def row(self, text: str, widget: QWidget) -> None:
        """Append a labelled input."""
        at = self.grid.rowCount()
        name = label(text, "secondary")
        name.setFixedHeight(32)
        name.setBuddy(widget)
        self.grid.addWidget(name, at, 0, Qt.AlignmentFlag.AlignTop)
        self.grid.addWidget(widget, at, 1, Qt.AlignmentFlag.AlignTop)

    def wide(self, widget: QWidget) -> None:
        """Append something over both columns."""
        self.grid.addWidget(widget, self.grid.rowCount(), 0, 1, 2)

    def entry(
        self, field: str, text: str, entry: Entry, change: Callable[[Setup, Any], Setup], reason: str = ""
    ) -> Entry:
        """Append an input of text; ``reason`` is the field of ``reasons`` that speaks of it."""
        entry.changed.connect(lambda: self.change(change(self.get(), entry.value())))
        self.entries[reason or field] = entry
        self.row(text, entry)
        return entry

    def check(self, text: str, on: bool, change: Callable[[Setup, bool], Setup], tip: str) -> QCheckBox:
        """Append a box to tick."""
        box = QCheckBox(text)
        box.setChecked(on)
        box.setToolTip(tip)
        box.toggled.connect(lambda ticked: self.change(change(self.get(), ticked)))
        self.wide(box)
        return box

    def change(self, setup: Setup) -> None:
        """Take a changed setup and say what is not possible."""
        self.put(setup)
        self.show_reasons()

    def show_reasons(self) -> None:
        """Mark the inputs whose value is not possible."""
        reasons = self.reasons()
        for field, entry in self.entries.items():
            entry.set_wrong(reasons.get(field, ""))
        self.window().adjustSize()


def step_by(size: float, least: float) -> Callable[[Any, int], Any]:
    """A step of the arrow keys, not below ``least``."""
    return lambda value, by: type(value)(max(least, value + size * by))


def sources_editor(tasks: Sequence[Task], set_role: Callable[[Task, Role], object]) -> QWidget:
    """Each task with its role."""
    content = QWidget()
    grid = QGridLayout(content)
    grid.setContentsMargins(0, 0, 8, 0)
    grid.setVerticalSpacing(4)
    grid.setHorizontalSpacing(16)
    words = (("Meta-train", Role.TRAIN), ("Validation", Role.VALIDATION), ("Held out", Role.HELD_OUT))
    for at, task in enumerate(t for t in tasks if t.classes):
        grid.addWidget(label(task.name, "name"), at, 0)
        grid.addWidget(label(count(len(task.classes), "class", "classes"), "secondary"), at, 1)
        combo = QComboBox()
        combo.setProperty("small", "true")
        combo.setAccessibleName(f"{task.name}: role")
        for text, role in words:
            combo.addItem(text, role)
        combo.setCurrentIndex([r for _t, r in words].index(task.role))
        combo.activated.connect(lambda i, task=task: set_role(task, words[i][1]))
        grid.addWidget(combo, at, 2)
    if not grid.count():
        grid.addWidget(label("No tasks yet. Add folders in Sources.", "secondary"), 0, 0)
    area = scroll(content)
    area.setMinimumWidth(content.sizeHint().width() + 24)
    area.setFixedHeight(min(320, content.sizeHint().height() + 4))
    return area


def episode_editor(get: Get, put: Set, reasons: Callable[[], Mapping[str, str]]) -> Editor:
    """Ways, shots, queries and where classes come from."""
    made = Editor(get, put, reasons)
    now = get()

    def ranged(
        field: str, text: str, value: tuple[int, int], least: int, change: Callable[[Setup, Any], Setup]
    ) -> None:
        step = lambda v, by: (max(least, v[0] + by), max(least, v[1] + by))  # noqa: E731
        entry = Entry(lambda s: parse_range(s, least), range_text, text, step)
        entry.set_value(value)
        entry.line.setToolTip("A number, or a range such as 5-20")
        made.entry(field, text, entry, change)

    ranged("ways", "Ways (classes)", now.ways, 2, lambda s, v: replace(s, ways=v))
    ranged("shots", "Shots (examples per class)", now.shots, 1, lambda s, v: replace(s, shots=v))
    queries = Entry(whole(1, 1000), plain, "Queries per class", step_by(1, 1))
    queries.set_value(now.queries)
    made.entry("queries", "Queries per class", queries, lambda s, v: replace(s, queries=v))
    made.check(
        "Draw classes across all tasks",
        now.across_tasks,
        lambda s, on: replace(s, across_tasks=on),
        "An episode mixes classes of different tasks. Otherwise its classes come from one task.",
    )
    made.check(
        "Turned classes are classes too",
        now.rotations,
        lambda s, on: replace(s, rotations=on),
        "Each class turned by 90, 180 and 270 degrees is a class of its own, as for drawings of signs.",
    )
    made.show_reasons()
    return made


def backbone_editor(
    get: Get,
    put: Set,
    reasons: Callable[[], Mapping[str, str]],
    rows: Sequence[BackboneRow],
    weights: Callable[[BackboneRow], object],
) -> Editor:
    """Network, input size, channels, pretrained weights."""
    made = Editor(get, put, reasons)
    now = get()
    combo = QComboBox()
    combo.setAccessibleName("Backbone")
    for row in rows:
        combo.addItem(f"{row.title}, {row.parameters / 1e6:.2g} M weights", row.key)
        combo.setItemData(combo.count() - 1, row.input, Qt.ItemDataRole.ToolTipRole)
    combo.setCurrentIndex(
        max(0, [r.key for r in rows].index(now.backbone) if now.backbone in [r.key for r in rows] else 0)
    )
    made.row("Network", combo)
    size = Entry(whole(8, 1024), plain, "Image size in pixels", step_by(4, 8))
    size.set_value(now.size)
    made.entry("size", "Image size, px", size, lambda s, v: replace(s, size=v))
    channels = Segmented([("rgb", "Colour"), ("grey", "Grey")], now.channels, "Channels")
    channels.changed.connect(lambda key: made.change(replace(get(), channels=key)))
    made.row("Pictures", channels)
    ticked = QCheckBox("Start from pretrained weights")
    fetch = button("", "link", "download")
    made.wide(ticked)
    made.wide(fetch)

    def show(row: BackboneRow) -> None:
        ticked.setVisible(row.pretrained_size > 0)
        ticked.setEnabled(row.pretrained_present)
        ticked.setChecked(get().pretrained and row.pretrained_present)
        fetch.setVisible(row.pretrained_size > 0 and not row.pretrained_present)
        fetch.setText(f"Get {row.title} weights")

    def chosen(at: int) -> None:
        row = rows[at]
        ready = row.pretrained_present
        made.change(replace(get(), backbone=row.key, size=row.recommended_size, pretrained=ready))
        size.set_value(row.recommended_size)
        show(row)

    if rows:
        show(rows[combo.currentIndex()])
        combo.activated.connect(chosen)
        fetch.clicked.connect(lambda: weights(rows[combo.currentIndex()]))
    ticked.toggled.connect(lambda on: made.change(replace(get(), pretrained=on)))
    made.show_reasons()
    return made


def budget_editor(get: Get, put: Set, reasons: Callable[[], Mapping[str, str]]) -> Editor:
    """Minutes or episodes."""
    made = Editor(get, put, reasons)
    now = get()
    unit = Segmented([("minutes", "Minutes"), ("episodes", "Episodes")], now.unit, "Budget")
    made.row("Stop after", unit)
    minutes = Entry(number(0.05, 100_000), plain, "Minutes", step_by(1.0, 1.0))
    minutes.set_value(now.minutes)
    episodes = Entry(whole(1, 100_000_000), plain, "Episodes", step_by(100, 1))
    episodes.set_value(now.episodes)
    minutes.changed.connect(lambda: made.change(replace(get(), minutes=float(minutes.value()))))
    episodes.changed.connect(lambda: made.change(replace(get(), episodes=episodes.value())))
    at = made.grid.rowCount()
    for entry in (minutes, episodes):
        made.grid.addWidget(entry, at, 1, Qt.AlignmentFlag.AlignTop)

    def show(key: Unit) -> None:
        minutes.setVisible(key == "minutes")
        episodes.setVisible(key == "episodes")
        made.change(replace(get(), unit=key))

    unit.changed.connect(show)
    show(now.unit)
    made.wide(label("The best state on validation is kept, so a run can be stopped at any time.", "caption", wrap=True))
    return made


def seed_editor(get: Get, put: Set, reasons: Callable[[], Mapping[str, str]], draw: Callable[[], int]) -> Editor:
    """The seed, and another one at random."""
    made = Editor(get, put, reasons)
    entry = Entry(whole(0, 2**31 - 1), plain, "Seed", step_by(1, 0))
    entry.set_value(get().seed)
    entry.changed.connect(lambda: made.change(replace(get(), seed=entry.value())))
    dice = button("", "iconbox", "dice", name="Draw another seed")

    def another() -> None:
        entry.set_value(draw())
        made.change(replace(get(), seed=entry.value()))

    dice.clicked.connect(another)
    pair = QWidget()
    row = QHBoxLayout(pair)
    row.setContentsMargins(0, 0, 0, 0)
    row.addWidget(entry)
    row.addWidget(dice, 0, Qt.AlignmentFlag.AlignTop)
    made.row("Seed", pair)
    made.wide(label("The same seed, data and settings give the same run.", "caption"))
    return made


def device_editor(
    get: Get, put: Set, devices: Sequence[DeviceRow] | None, set_device: Callable[[DeviceRow], object]
) -> QWidget:
    """Each device with its self-test; one that cannot be used says why."""
    made = QWidget()
    column = QVBoxLayout(made)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(2)
    made.setMinimumWidth(280)
    if devices is None:
        column.addWidget(label("Testing the devices, one second each", "secondary"))
        return made
    group = QButtonGroup(made)
    for row in devices:
        choice = QRadioButton(row.name)
        choice.setChecked(row.key == get().device)
        choice.setEnabled(row.usable)
        choice.setAccessibleDescription(device_words(row))
        group.addButton(choice)
        column.addWidget(choice)
        note = label(device_words(row), "caption", wrap=True)
        note.setContentsMargins(24, 0, 0, 6)
        column.addWidget(note)
        choice.toggled.connect(
            lambda on, row=row: (put(replace(get(), device=row.key)), set_device(row)) if on else None
        )
    if not devices:
        column.addWidget(label("No device was found", "secondary"))
    faster = QCheckBox("Train in lower precision (bf16)")
    faster.setChecked(get().precision == "bf16")
    faster.setToolTip(
        "Convolutions of a Conv-4 between 16-bit numbers, on a CPU made for it: faster, and about as accurate. "
        "Validation and use stay in full precision."
    )
    faster.toggled.connect(lambda on: put(replace(get(), precision="bf16" if on else "full")))
    column.addWidget(faster)
    return made


def device_words(row: DeviceRow) -> str:
    """What the self-test says."""
    if not row.usable:
        return row.note or "It cannot be used"
    parts = [f"{row.images_per_second:,.0f} images per second"]
    if row.key != "cpu":
        parts.append("agrees with the CPU" if row.agrees_with_cpu else "does not agree with the CPU")
    return ", ".join(parts + ([row.note] if row.note else []))
