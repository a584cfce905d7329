"""The list of devices, each with its one-second self-test."""

from __future__ import annotations

from PySide6.QtCore import QPoint
from PySide6.QtWidgets import QMenu, QWidget

from workbench.services.requests import DeviceRow
from workbench.ui import icons
from workbench.ui.state import AppState


class DeviceMenu(QMenu):
    """Devices of this machine; testing begins when the menu opens."""

    def __init__(self, state: AppState, parent: QWidget) -> None:
        super().__init__(parent)
        self._state = state
        self.aboutToHide.connect(self.deleteLater)
        self.addAction(self.tr("Testing each device for a second...")).setEnabled(False)
        if state.devices:
            self.fill()
        else:
            state.busy_changed.connect(self.fill)
            state.test_devices()

    def open_under(self, widget: QWidget) -> None:
        """Show it below a widget."""
        self.popup(widget.mapToGlobal(QPoint(0, widget.height() + 4)))

    def fill(self) -> None:
        """List the devices, once they are tested."""
        if self._state.devices:
            self.clear()
            for row in self._state.devices:
                self._add(row)
            self.adjustSize()

    def _add(self, row: DeviceRow) -> None:
        speed = self.tr("{n} images/s").format(n=f"{row.images_per_second:,.0f}")
        said = f"{row.name}    {speed}" if row.usable else f"{row.name}    {row.note or self.tr('not usable')}"
        if row.usable and not row.agrees_with_cpu:
            said += f"    {self.tr('differs from the CPU')}"
        action = self.addAction(icons.icon("chip"), said)
        action.setEnabled(row.usable)
        action.setCheckable(True)
        action.setChecked(row.key == self._state.device)
        action.triggered.connect(lambda _=False, r=row: self._state.set_device(r.key, r.name))
