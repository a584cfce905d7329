"""Whether the sources are photographs, which need a pretrained network, and the notice that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.core.values import ImageRef, Task
from workbench.services.requests import BackboneRow
from workbench.ui.widgets.strip import MessageStrip

_CAMERA = (".jpg", ".jpeg", ".heic", ".heif", ".avif", ".webp", ".jpe", ".jfif")
_SIDE = 128
_LOOKED_AT = 40
_BACKBONE = "resnet18"


def looks_like_photographs(tasks: Sequence[Task]) -> bool:
    """More than half of the pictures come as a camera writes them, or are at least 128 pixels wide and high."""
    seen: list[ImageRef] = []
    for task in tasks:
        per_class = max(1, _LOOKED_AT // max(1, len(task.classes)))
        for item in task.classes:
            seen.extend(item.images[:per_class])
    if not seen:
        return False
    photos = sum(i.name.lower().endswith(_CAMERA) or min(i.width, i.height) >= _SIDE for i in seen)
    return 2 * photos > len(seen)


class PhotoNotice(MessageStrip):
    """Photographs without pretrained weights: says that results will be poor, with the way out.

    Args:
        get: opens the dialog that names size, licence and host.
    """

    def __init__(self, get: Callable[[BackboneRow], object]) -> None:
        super().__init__()
        self._get = get
        self.dismiss.hide()

    def show_for(self, backbones: Sequence[BackboneRow], tasks: Sequence[Task]) -> None:
        """Show it or take it away.

        Args:
            backbones: of the catalogue.
            tasks: that would be trained on.
        """
        row = next((b for b in backbones if b.key == _BACKBONE and b.pretrained_size), None)
        if row is None or row.pretrained_present or not looks_like_photographs(tasks):
            self.clear()
            return
        self.show_message(
            "warn",
            self.tr("These are photographs, and there are no pretrained weights."),
            self.tr("A network that learns photographs from nothing gives poor results."),
            self.tr("Get {name} weights").format(name=row.title),
            lambda: self._get(row),
        )
