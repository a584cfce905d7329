"""What is seen of a run: four figures, two live plots, the episode of the moment, and the table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QHBoxLayout, QMenu, QSizePolicy, QVBoxLayout, QWidget

from workbench.core.context import Context, Metric, Progress
from workbench.core.training import EpisodeView
from workbench.core.values import Validation
from workbench.ui.rooms.train.gallery import Gallery
from workbench.ui.rooms.train.history import Curves
from workbench.ui.rooms.train.pace import Pace, end_words, left_words, speed_words
from workbench.ui.rooms.train.phases import EPISODES, RunPhase, phase_in
from workbench.ui.rooms.train.rows import RunRow, interval_words
from workbench.ui.rooms.train.runs_table import RunsTable
from workbench.ui.widgets.controls import Segmented, button, label
from workbench.ui.widgets.figures import Figure
from workbench.ui.widgets.panel import Panel
from workbench.ui.widgets.strip import EmptyHint, IconLabel
from workbench.ui.widgets.terms import TermLabel, term

if TYPE_CHECKING:
    from workbench.ui.plots.curves import CurvePlot

SMOOTHINGS = (0.0, 0.5, 0.9, 0.97)
_LIVE = {"train": ("meta-train", 0), "validation": ("validation", 1)}
_BESIDE = {
    "examples_learned": ("examples, learned", 5),
    "examples_adam": ("examples, Adam", 6),
    "examples_sgd": ("examples, SGD", 7),
}
"""What a learned optimiser logs besides: the examples' loss after its steps, and after tuned ones of others."""
_FIRST_HUE = 2
MOST_OVERLAYS = 6


def import_plots(ctx: Context) -> None:
    """Job: import numpy and pyqtgraph away from the window's thread."""
    ctx.check()
    import workbench.ui.plots.curves  # noqa: F401


class Monitor(QWidget):
    """The lower part of the room.

    Attributes:
        loss: the plot of losses, once the plots are loaded.
        accuracy: the plot of accuracies, once the plots are loaded.
        runs: the table.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.loss: CurvePlot | None = None
        self.accuracy: CurvePlot | None = None
        self.pace = Pace()
        self.validated: Metric | None = None
        self._kept: list[Metric] = []
        self._overlays: dict[str, tuple[RunRow, Curves]] = {}
        self._slots: dict[str, int] = {}
        self._chance: float | None = None
        self._running = False
        self._about = ""
        self._second = QTimer(
            self
        )  # the two plots are drawn in two turns of the event loop, so that neither gap is long
        self._second.setSingleShot(True)
        self._second.setInterval(25)
        self._second.timeout.connect(self._draw_accuracy)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(12)
        column.addLayout(self._build_figures())
        self._plots = QHBoxLayout()
        self._plots.setSpacing(12)
        self._plots.addWidget(self._build_loss())
        self._plots.addWidget(self._build_accuracy())
        column.addLayout(self._plots, 0)
        below = QHBoxLayout()
        below.setSpacing(12)
        below.addWidget(self._build_now())
        below.addWidget(self._build_runs(), 1)
        column.addLayout(below, 1)
        self.clear()

    # ---- building --------------------------------------------------------------------------------
    def _build_figures(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setContentsMargins(16, 0, 16, 0)
        row.setSpacing(12)
        self.figure_accuracy = Figure(self.tr("Validation accuracy"))
        self.figure_episodes = Figure(term(self.tr("Episodes"), "episode"))
        self.figure_speed = Figure(self.tr("Episodes per second"))
        self.figure_left = Figure(self.tr("Time left"))
        self.figures = (self.figure_accuracy, self.figure_episodes, self.figure_speed, self.figure_left)
        for figure in self.figures:
            figure.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            row.addWidget(figure, 1)
        return row

    def _build_loss(self) -> Panel:
        self.loss_panel = Panel(self.tr("Loss"), header_height=44, padding=0)
        self.scale = Segmented([("log", self.tr("Log")), ("linear", self.tr("Linear"))], "log", self.tr("Scale"))
        self.scale.changed.connect(self._set_scale)
        self.smoothing = button("", "quiet", "chevron-down", size="small")
        self.smoothing.setLayoutDirection(self.smoothing.layoutDirection().RightToLeft)
        menu = QMenu(self.smoothing)
        for weight in SMOOTHINGS:
            text = f"{weight:g}" if weight else self.tr("None")
            menu.addAction(text, partial(self.set_smoothing, weight))
        self.smoothing.setMenu(menu)
        self.smoothing.setToolTip(self.tr("Weight of the past in the line; the measured values stay faint behind it"))
        self.loss_panel.add_to_header(self.scale)
        self.loss_panel.add_to_header(self.smoothing)
        return self._plot_panel(self.loss_panel)

    def _build_accuracy(self) -> Panel:
        self.accuracy_panel = Panel(self.tr("Accuracy"), header_height=44, padding=0)
        self.shaded = label(self.tr("95 % interval shaded"), "secondary")
        self.accuracy_panel.add_to_header(self.shaded)
        self.compare = button(self.tr("Compare with"), "quiet", "chevron-down", size="small")
        self.compare.setLayoutDirection(self.compare.layoutDirection().RightToLeft)
        self.compare.setMenu(QMenu(self.compare))
        self.accuracy_panel.add_to_header(self.compare)
        return self._plot_panel(self.accuracy_panel)

    def _plot_panel(self, panel: Panel) -> Panel:
        panel.setMinimumHeight(196)
        panel.setFixedHeight(236)
        panel.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        panel.body.setContentsMargins(0, 0, 0, 0)
        waiting = label(self.tr("Loading the plots"), "secondary")
        waiting.setAlignment(waiting.alignment().AlignCenter)
        panel.body.addWidget(waiting)
        return panel

    def _build_now(self) -> Panel:
        self.now_panel = Panel(self.tr("Now"), header_height=44, padding=0)
        self.now_panel.setFixedWidth(480)
        self.now_panel.body.setContentsMargins(16, 0, 16, 8)
        self._episode = TermLabel("")
        self.now_panel.header.insertWidget(1, self._episode)
        self._right = label("", "body", tone="good")
        self._wrong = label("", "body", tone="bad")
        self._signs = (IconLabel("check", 14, "good"), IconLabel("cross", 14, "bad"))
        for sign, words in zip(self._signs, (self._right, self._wrong), strict=True):
            self.now_panel.add_to_header(sign)
            self.now_panel.add_to_header(words)
        self.gallery = Gallery()
        self.now_panel.body.addWidget(self.gallery, 1)
        return self.now_panel

    def _build_runs(self) -> Panel:
        self.runs_panel = Panel(self.tr("Runs"), header_height=44, padding=0)
        self.resume = button(self.tr("Resume"), "quiet", size="small")
        self.resume.setToolTip(self.tr("Go on with the run that is marked in the table"))
        self.overlay = button(self.tr("Compare"), "quiet", size="small")
        self.overlay.setToolTip(self.tr("Show or hide the curves of the run that is marked in the table"))
        self.runs_panel.add_to_header(self.resume)
        self.runs_panel.add_to_header(self.overlay)
        self.runs = RunsTable()
        self.runs_panel.body.setContentsMargins(0, 0, 0, 0)
        self.runs_panel.body.addWidget(self.runs, 1)
        self.no_runs = EmptyHint("train", self.tr("No runs yet"), self.tr("Each run is kept here with its curves."))
        self.runs_panel.body.addWidget(self.no_runs, 1)
        return self.runs_panel

    def plots_loaded(self, _: object = None) -> None:
        """The libraries are there: make the plots and draw what came meanwhile."""
        if self.loss is not None:
            return
        from workbench.ui.plots.curves import CurvePlot

        self.loss, self.accuracy = CurvePlot(self.tr("Loss")), CurvePlot(self.tr("Accuracy"), accuracy=True)
        for panel, plot in ((self.loss_panel, self.loss), (self.accuracy_panel, self.accuracy)):
            item = panel.body.takeAt(0)
            waiting = item.widget() if item is not None else None
            if waiting is not None:
                waiting.deleteLater()
            panel.body.addWidget(plot)
            for key, (name, hue) in _LIVE.items():
                plot.add_live(key, name, hue, smoothed=key == "train", faint=key == "train" and plot is self.loss)
        self.loss.set_log(self.scale.value() == "log")
        self.set_smoothing(0.9)
        self.set_chance(self._chance)
        self.set_running(running=self._running)
        kept, self._kept = self._kept, []
        self.take(kept)
        for run, (row, curves) in list(self._overlays.items()):
            self._draw_overlay(run, row, curves)

    # ---- a run -----------------------------------------------------------------------------------
    def clear(self) -> None:
        """Before a run: no figures, no curves, no episode."""
        self.pace = Pace()
        self.validated = None
        self._kept = []
        for plot in (self.loss, self.accuracy):
            if plot is not None:
                for key in _BESIDE:
                    plot.remove(key)
                plot.clear_live()
                plot.set_expected(None)
        for figure in self.figures:
            figure.reset_width()
            figure.set("–", "", "disabled")
        self.figure_accuracy.set("–", self.tr("not measured yet"), "disabled")
        self.show_episode(None)
        self.gallery.set_waiting(EPISODES)
        self._say_shaded()

    def set_chance(self, chance: float | None) -> None:
        """The accuracy of guessing in an episode, 1 over the ways; ``None`` where they differ from one to the next."""
        self._chance = chance
        if self.accuracy is not None:
            self.accuracy.set_reference(chance, self.tr("chance"))

    def set_running(self, *, running: bool) -> None:
        """Thin lines while it runs."""
        self._running = running
        for plot in (self.loss, self.accuracy):
            if plot is not None:
                plot.set_running(running)

    def set_about(self, text: str) -> None:
        """What stands beside the speed, e.g. "84 px, CPU"."""
        self._about = text

    def take(self, metrics: Sequence[Metric]) -> None:
        """A batch of numbers: figures and plots, one ``setData`` per curve."""
        if not metrics:
            return
        self.pace.take(list(metrics))
        for metric in metrics:
            if metric.name == "validation/accuracy":
                low, high = metric.low, metric.high
                ends = None if low is None or high is None else (low, high)
                self.figure_accuracy.set(f"{metric.value:.3f}", interval_words(ends))
                self.validated = metric
        if self.loss is None or self.accuracy is None:
            self._kept.extend(metrics)
            return
        plots = {"loss": self.loss, "accuracy": self.accuracy}
        for metric in metrics:
            phase = phase_in(metric)
            if phase is not None:
                self._begin(phase, tuple(plots.values()))
            part, _, name = metric.name.partition("/")
            if part == "train" and name in _BESIDE:
                self._append_beside(self.loss, name, metric)
            plot = plots.get(name)
            if plot is not None and part in _LIVE:
                plot.append(part, metric.step, metric.value, metric.low, metric.high)
        self.loss.refresh()
        self._second.start()

    def _append_beside(self, plot: CurvePlot, name: str, metric: Metric) -> None:
        """A curve that few methods have: it is made with its first number."""
        if name not in plot.curves:
            title, hue = _BESIDE[name]
            plot.add_live(name, title, hue, smoothed=True)
        plot.append(name, metric.step, metric.value)

    def _begin(self, phase: RunPhase, plots: Sequence[CurvePlot]) -> None:
        """Training goes on with something else; validation asks the same episodes throughout."""
        for plot in plots:
            plot.begin_phase(phase.begins, ("train",), referenced=phase.by_chance)
        if phase.words != EPISODES:
            self.show_episode(None)
        self.gallery.set_waiting(phase.words)

    def _draw_accuracy(self) -> None:
        if self.accuracy is not None:
            self.accuracy.refresh()
            self._say_shaded()

    def _say_shaded(self) -> None:
        curves = [] if self.accuracy is None else self.accuracy.curves.values()
        self.shaded.setVisible(any(curve.series.banded for curve in curves))

    def show_progress(self, progress: Progress | None, *, paused: bool) -> None:
        """Episodes, speed, time left."""
        if progress is None or progress.unit != "episodes":
            return
        total = progress.total
        self.figure_episodes.set(
            f"{progress.done:,}", "" if total is None else self.tr("of about {n}").format(n=f"{total:,}")
        )
        if paused:
            self.pace.clear()
        self.figure_speed.set(speed_words(self.pace.per_second), self.tr("paused") if paused else self._about)
        left = progress.seconds_left
        self.figure_left.set(left_words(left), "" if paused else end_words(left, datetime.now().astimezone()))
        for plot in (self.loss, self.accuracy):
            if plot is not None:
                plot.set_expected(float(total) if total else None)

    def show_validation(self, v: Validation) -> None:
        """The accuracy of what was kept, measured at the end."""
        self.figure_accuracy.set(f"{v.accuracy:.3f}", interval_words(v.interval))

    def show_end(self, seconds: str) -> None:
        """The run is over: the time it took instead of the time left."""
        self.figure_left.set("0 s", self.tr("took {time}").format(time=seconds))
        self.figure_left.reset_width()
        self.figure_speed.set(self.figure_speed.value(), self._about)

    def show_episode(self, view: EpisodeView | None, asked: int = 0) -> None:
        """The episode of the moment; ``asked`` is the number of queries per class."""
        self.gallery.show_episode(view, asked)
        for widget in (*self._signs, self._right, self._wrong):
            widget.setVisible(view is not None)
        if view is None:
            self._episode.set_text("")
            return
        self._episode.set_text(f"{term(self.tr('Episode'), 'episode')} {view.episode:,}, {view.task}")
        self._right.setText(self.tr("{n} right").format(n=self.gallery.right))
        self._wrong.setText(self.tr("{n} wrong").format(n=self.gallery.wrong))

    # ---- earlier runs ----------------------------------------------------------------------------
    @property
    def overlays(self) -> frozenset[str]:
        """Runs whose curves are drawn."""
        return frozenset(self._overlays)

    def add_overlay(self, row: RunRow, curves: Curves) -> None:
        """Draw an earlier run, dashed."""
        if row.id not in self._overlays and len(self._overlays) >= MOST_OVERLAYS:
            return
        self._overlays[row.id] = (row, curves)
        self._draw_overlay(row.id, row, curves)
        self.runs.runs.set_shown(self.overlays)

    def remove_overlay(self, run: str) -> None:
        """Take an earlier run off."""
        if self._overlays.pop(run, None) is None:
            return
        self._slots.pop(run, None)
        for plot in (self.loss, self.accuracy):
            if plot is not None:
                plot.remove(run)
        self.runs.runs.set_shown(self.overlays)

    def _draw_overlay(self, run: str, row: RunRow, curves: Curves) -> None:
        if self.loss is None or self.accuracy is None:
            return
        slot = self._slots.setdefault(run, min(set(range(MOST_OVERLAYS)) - set(self._slots.values()), default=0))
        name = ", ".join(part for part in (row.algorithm.split(" ")[0], row.day) if part)
        for plot, kind in ((self.loss, "loss"), (self.accuracy, "accuracy")):
            x, y = curves.points(f"validation/{kind}")
            begins: list[float] = []
            if len(x) < 2:
                x, y = curves.points(f"train/{kind}")
                begins = curves.begins()
            if x:
                plot.add_overlay(run, name, _FIRST_HUE + slot, slot, x, y, begins)

    # ---- view ------------------------------------------------------------------------------------
    def _set_scale(self, key: str) -> None:
        if self.loss is not None:
            self.loss.set_log(key == "log")

    def set_smoothing(self, weight: float) -> None:
        """Weight of the past in the noisy lines."""
        self.smoothing.setText(self.tr("Smoothing {n}").format(n=f"{weight:g}") if weight else self.tr("No smoothing"))
        for plot in (self.loss, self.accuracy):
            if plot is not None:
                plot.set_smoothing(weight)

    def show_rows(self, rows: Sequence[RunRow], live: str) -> None:
        """The table's rows; ``live`` is the run that goes on."""
        self.runs.runs.live = live
        self.runs.runs.set_rows(rows)
        self.runs_panel.set_beside(f"{len(rows):,}" if rows else "")
        self.runs.setVisible(bool(rows))
        self.no_runs.setVisible(not rows)

    def set_compact(self, compact: bool) -> None:
        """Lower plots, a narrower gallery."""
        for panel in (self.loss_panel, self.accuracy_panel):
            panel.setFixedHeight(196 if compact else 236)
        self.now_panel.setFixedWidth(340 if compact else 480)
