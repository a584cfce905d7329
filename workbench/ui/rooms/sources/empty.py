"""The room without tasks: one large target for folders, the samples, a chooser."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from workbench.core import paths
from workbench.ui.widgets.controls import Bar, button, label
from workbench.ui.widgets.drop import DropTarget
from workbench.ui.widgets.strip import IconLabel


def sample_folders() -> list[str]:
    """The shipped sample folders that are there."""
    return [str(f) for f in (paths.samples() / "alphabets", paths.samples() / "surfaces") if f.is_dir()]


class EmptySources(QWidget):
    """What Sources shows while there is no task.

    Signals:
        dropped(list[str]): folders or archives, dropped or chosen.
        samples_asked: open the samples.
    """

    dropped = Signal(list)
    samples_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        self.target = DropTarget(takes="folder", filled=True)
        self.target.setAccessibleName(self.tr("Drop folders here, or press Enter to choose one"))
        self.target.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.target.dropped.connect(self.dropped)
        outer.addWidget(self.target)
        body = self.target.body
        body.setSpacing(0)
        body.addStretch(2)
        body.addWidget(IconLabel("folder-plus", 40, "secondary"), 0, Qt.AlignmentFlag.AlignHCenter)
        body.addSpacing(16)
        self._title = label("", "title")
        self._text = label("", "secondary", wrap=True)
        for made in (self._title, self._text):
            made.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            body.addWidget(made)
            body.addSpacing(4)
        self.bar = Bar(6)
        self.bar.setFixedWidth(240)
        body.addSpacing(8)
        body.addWidget(self.bar, 0, Qt.AlignmentFlag.AlignHCenter)
        body.addSpacing(8)
        buttons = QHBoxLayout()
        buttons.setSpacing(8)
        buttons.addStretch(1)
        self.open_samples = button(self.tr("Open the samples"), "primary", "image")
        self.open_samples.clicked.connect(self.samples_asked)
        self.choose = button(self.tr("Choose folder"), "secondary", "folder")
        self.choose.clicked.connect(self.target.open_chooser)
        for press in (self.open_samples, self.choose):
            buttons.addWidget(press)
        buttons.addStretch(1)
        body.addLayout(buttons)
        body.addSpacing(16)
        promise = QHBoxLayout()
        promise.setSpacing(6)
        promise.addStretch(1)
        promise.addWidget(IconLabel("lock", 14, "secondary"))
        promise.addWidget(label(self.tr("Nothing leaves this machine"), "caption"))
        promise.addStretch(1)
        body.addLayout(promise)
        body.addStretch(3)
        self.show_scan(scanning=False, text="", share=None)

    def show_scan(self, *, scanning: bool, text: str, share: float | None) -> None:
        """While the first folder is read: how far it is, instead of the invitation.

        Args:
            scanning: whether a folder is being read.
            text: how far, in words.
            share: 0..1, or ``None`` while the whole is unknown.
        """
        self._title.setText(self.tr("Reading the pictures") if scanning else self.tr("Drop folders here"))
        hint = self.tr("One folder per class, a folder of such folders, or a zip. Originals are never changed.")
        self._text.setText(text if scanning else hint)
        self.bar.setVisible(scanning)
        if scanning:
            self.bar.set_value(share)
        self.open_samples.setVisible(not scanning)
        self.open_samples.setEnabled(bool(sample_folders()))
        self.choose.setVisible(not scanning)
