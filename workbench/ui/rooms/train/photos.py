"""The notice above the recommendations: what is wrong with the sources as a whole, and the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from workbench.core.values import Task
from workbench.services.pictures import hold_photographs, rarer_kind
from workbench.services.requests import BackboneRow
from workbench.ui.rooms.train.setup import count
from workbench.ui.widgets.strip import MessageStrip

_BACKBONE = "resnet18"


class SourcesNotice(MessageStrip):
    """Photographs beside drawings, or photographs without pretrained weights: results will be poor.

    Args:
        get: opens the dialog that names size, licence and host.
        hold_out: takes tasks out of training.
    """

    def __init__(self, get: Callable[[BackboneRow], object], hold_out: Callable[[tuple[Task, ...]], object]) -> None:
        super().__init__()
        self._get, self._hold_out = get, hold_out
        self.dismiss.hide()

    def show_for(self, backbones: Sequence[BackboneRow], tasks: Sequence[Task]) -> None:
        """Show it or take it away.

        Args:
            backbones: of the catalogue.
            tasks: that would be trained on.
        """
        odd = rarer_kind(tasks)
        row = next((b for b in backbones if b.key == _BACKBONE and b.pretrained_size), None)
        if odd:
            self._show_mixed(odd, len(tasks))
        elif row is not None and not row.pretrained_present and hold_photographs(tasks):
            self.show_message(
                "warn",
                self.tr("These are photographs, and there are no pretrained weights."),
                self.tr("A network that learns photographs from nothing gives poor results."),
                self.tr("Get {name} weights").format(name=row.title),
                lambda: self._get(row),
            )
        else:
            self.clear()

    def _show_mixed(self, odd: tuple[Task, ...], tasks: int) -> None:
        photographs = hold_photographs(odd)
        one, others = (
            (self.tr("photographs"), self.tr("drawings"))
            if photographs
            else (self.tr("drawings"), self.tr("photographs"))
        )
        name = odd[0].name if len(odd) == 1 else count(len(odd), "task")
        headline = self.tr("{name} holds {one}, the others {others}.")
        if len(odd) > 1:
            headline = self.tr("{name} of {all} hold {one}, the others {others}.")
        self.show_message(
            "warn",
            headline.format(name=name, one=one, others=others, all=tasks),
            self.tr("One network that learns both at once is good at neither."),
            self.tr("Hold out {name}").format(name=name),
            lambda: self._hold_out(odd),
        )
