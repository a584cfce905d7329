"""The Train room: choose, start, watch, pause, stop, resume, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from PySide6.QtCore import QTimer
from PySide6.QtGui import QGuiApplication, QShowEvent
from PySide6.QtWidgets import QStackedWidget, QWidget

from workbench.core.errors import WorkbenchError
from workbench.core.training import EpisodeView, TrainRequest, TrainResult
from workbench.core.values import Role, ScanResult, Task
from workbench.services import jobs
from workbench.services.requests import AlgorithmRow, BackboneRow, Catalogue, DeviceRow, Recommendation
from workbench.ui.icons import set_icon
from workbench.ui.lanes import Job
from workbench.ui.rooms.train import setup as forms
from workbench.ui.rooms.train.algorithms import AlgorithmsPage
from workbench.ui.rooms.train.continued import ContinuedStrip
from workbench.ui.rooms.train.earlier import EarlierRuns
from workbench.ui.rooms.train.history import Curves, done_words, setup_of
from workbench.ui.rooms.train.monitor import Monitor, import_plots
from workbench.ui.rooms.train.pace import phase_of
from workbench.ui.rooms.train.photos import SourcesNotice
from workbench.ui.rooms.train.recommended import Recommended
from workbench.ui.rooms.train.rows import time_words
from workbench.ui.rooms.train.setup import Setup
from workbench.ui.rooms.train.strip import Asks, SetupStrip
from workbench.ui.rooms.train.weights import WeightsDialog, with_weights
from workbench.ui.state import AppState
from workbench.ui.widgets.controls import button
from workbench.ui.widgets.panel import scroll
from workbench.ui.widgets.room import Room


class TrainRoom(Room):
    """Meta-train on the sources."""

    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Left / Right", "Move the cross-hair of a plot (with Shift by ten)"),
        ("Home / End", "Cross-hair to the first or the last episode"),
        ("Space", "Show or hide the curves of the run in the table"),
        ("Up / Down", "Change a number in the form by one step"),
    )

    def __init__(self, state: AppState, parent: QWidget | None = None) -> None:
        super().__init__(state, "Train", "", parent)
        self.setup = Setup()
        self.catalogue: Catalogue | None = None
        self.recommendations: tuple[Recommendation, ...] = ()
        self.job: Job | None = None
        self._asked: Sequence[Task] | None = None
        self._touched = False
        self._seen_first, self._phase = False, ""
        self._begun_loading = False
        self._build()
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(60)
        self._later.timeout.connect(self._sources_changed)
        lanes = state.lanes
        lanes.metrics.connect(self._metrics)
        lanes.job_event.connect(self._event)
        lanes.progress.connect(self._progress)
        state.tasks_changed.connect(self._later.start)
        state.busy_changed.connect(self._busy_changed)
        self._refresh()
        self.earlier.show()

    # ---- building --------------------------------------------------------------------------------
    def _build(self) -> None:
        self.pause = self.add_action(button(self.tr("Pause"), "secondary", "pause"))
        self.pause.clicked.connect(self.toggle_pause)
        self.start = self.add_action(button(self.tr("Start"), "primary", "play"))
        self.start.clicked.connect(self.start_or_stop)
        self.notice = SourcesNotice(self.get_weights, self.state.hold_out)
        self.body.addWidget(self.notice)
        self.recommended = Recommended()
        self.recommended.chosen.connect(self.take)
        self.recommended.all_asked.connect(self.toggle_algorithms)
        self.body.addWidget(self.recommended)
        self.continued = ContinuedStrip()
        self.continued.keep_chosen.connect(lambda keep: self.put(replace(self.setup, keep=keep)))
        self.continued.left.connect(lambda: self.put(forms.from_nothing(self.setup)))
        self.body.addWidget(self.continued)
        self.strip_ = SetupStrip(
            Asks(
                tasks=lambda: self.state.tasks,
                setup=lambda: self.setup,
                put=self.put,
                reasons=self.reasons,
                backbones=lambda: self.catalogue.backbones if self.catalogue else (),
                devices=self._devices,
                set_role=lambda task, role: self.state.set_role(task.id, role),
                set_device=lambda row: self.state.set_device(row.key, row.name),
                weights=self.get_weights,
            )
        )
        self.strip_.copy_asked.connect(self.copy_command)
        self.body.addWidget(self.strip_)
        self.pages = QStackedWidget()
        self.monitor = Monitor()
        self.algorithms = AlgorithmsPage()
        self.algorithms.chosen.connect(self._choose_algorithm)
        self.algorithms.params_changed.connect(self._params_changed)
        self.algorithms.closed.connect(self.toggle_algorithms)
        self.pages.addWidget(scroll(self.monitor))
        self.pages.addWidget(self.algorithms)
        self.body.addWidget(self.pages, 1)
        self.earlier = EarlierRuns(self)

    # ---- what can be chosen ----------------------------------------------------------------------
    def showEvent(self, event: QShowEvent) -> None:
        """The first time: load the plots and what can be trained."""
        super().showEvent(event)
        if not self._begun_loading:
            self._begun_loading = True
            lanes = self.state.lanes
            loaded = self.monitor.plots_loaded
            lanes.submit("loading", import_plots, title=self.tr("Loading the plots"), on_done=loaded)
            lanes.submit("loading", jobs.catalogue, title=self.tr("Looking for algorithms"), on_done=self._catalogued)
            self._refresh()
        self._take_start()

    def _take_start(self) -> None:
        if self.state.start is None:
            return
        if self.running:  # it stays, and is taken when the run is over
            text = self.tr("When this run is over, the next one goes on from {name}.")
            self.show_message("info", text.format(name=self.state.start[0].name))
        else:
            start, self.state.start = self.state.start, None
            self.put(forms.going_on(self.setup, *start))

    def _catalogued(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.algorithms.set_catalogue(catalogue)
        self._sources_changed()
        self.earlier.show()

    def _sources_changed(self) -> None:
        self._refresh()
        tasks = self.state.tasks
        if self.catalogue is None or self.running or tasks is self._asked:
            return
        self._asked = tasks
        self.state.lanes.submit(
            "loading",
            jobs.recommend,
            ScanResult(tasks, ()),
            title=self.tr("Looking for a recommendation"),
            on_done=self._recommend,
        )

    def _recommend(self, rows: tuple[Recommendation, ...]) -> None:
        self.recommendations = rows
        if rows and not self._touched and not self.running:
            self.setup = forms.recommended(self.setup, rows[0])
        self._refresh()

    def take(self, row: Recommendation) -> None:
        """Choose a recommendation."""
        self._touched = True
        self.setup = forms.recommended(self.setup, row)
        self._refresh()

    def put(self, setup: Setup) -> None:
        """Take a changed setup."""
        self._touched = True
        self.setup = setup
        self._refresh()

    def _choose_algorithm(self, key: str) -> None:
        if key != self.setup.algorithm:
            self.put(replace(self.setup, algorithm=key, params={}))

    def _params_changed(self) -> None:
        self.put(replace(self.setup, params=self.algorithms.form.overrides()))

    def toggle_algorithms(self) -> None:
        """All algorithms instead of the plots, or the plots again."""
        show = self.pages.currentIndex() == 0
        self.pages.setCurrentIndex(int(show))
        self._refresh()
        if show:
            self.algorithms.focus_chosen()

    @property
    def algorithm(self) -> AlgorithmRow | None:
        """The chosen algorithm, once the catalogue is there."""
        return forms.algorithm(self.setup, self.catalogue)

    def reasons(self) -> dict[str, str]:
        """Why it cannot start."""
        row = self.algorithm
        found = forms.reasons(self.setup, self.state.tasks, row.fields if row else ())
        if forms.lacks_weights(self.setup, self.catalogue):
            found["backbone"] = self.tr("Its pretrained weights are not here yet")
        return found | self.algorithms.form.wrong()

    def _devices(self) -> tuple[DeviceRow, ...] | None:
        if not self.state.devices:
            self.state.test_devices()
        return self.state.devices or None

    # ---- what is shown ---------------------------------------------------------------------------
    @property
    def running(self) -> bool:
        """Whether a run of this room goes on."""
        return self.job is not None and not self.job.over

    def _refresh(self) -> None:
        if not self.running:
            self.setup = replace(self.setup, device=self.state.device)
            s = self.setup
            self.state.setProperty("episode", (s.ways[1], s.shots[1], s.queries))
        self.recommended.refresh(
            self.state.tasks,
            self.recommendations,
            self.catalogue,
            self.setup,
            device=self.state.device_name or "CPU",
            locked=self.running,
            open_=self.pages.currentIndex() == 1,
        )
        self.strip_.refresh()
        self.strip_.set_locked(locked=self.running)
        self.continued.show_setup(self.setup, locked=self.running)
        self.algorithms.show_algorithm(self.setup.algorithm, self.setup.params, locked=self.running)
        self.monitor.set_chance(1 / self.setup.ways[0] if self.setup.ways[0] == self.setup.ways[1] else None)
        self.monitor.set_about(f"{self.setup.size} px, {self.strip_.chips['device'].value}")
        rows = self.catalogue.backbones if self.catalogue else ()
        self.notice.show_for(rows, () if self.running else forms.used(self.state.tasks, Role.TRAIN))
        self._show_buttons()

    def _show_buttons(self) -> None:
        job, running = self.job, self.running
        stopping = job is not None and job.state == "stopping"
        tasks = len(forms.used(self.state.tasks, Role.TRAIN))
        self.pause.setVisible(running)
        self.pause.setEnabled(running and not stopping)
        paused = job is not None and job.paused
        self.pause.setText(self.tr("Resume") if paused else self.tr("Pause"))
        set_icon(self.pause, "play" if paused else "pause")
        if running:
            self.start.setText(self.tr("Finishing this step") if stopping else self.tr("Stop and keep the best"))
            set_icon(self.start, "stop", 16, "accent_text")
            self.start.setEnabled(not stopping)
            self.start.setToolTip(self.tr("What was learnt best so far becomes knowledge"))
            text = self.tr("Learning how to learn from {n}; the best so far is kept.")
            if self._phase:
                text = self.tr("Learning how to learn from {n}, now: {phase}; the best so far is kept.")
        else:
            reasons = self.reasons()
            self.start.setText(self.tr("Start"))
            set_icon(self.start, "play", 16, "accent_text")
            busy = self.state.lanes.busy("train")
            self.start.setEnabled(self.catalogue is not None and not reasons and not busy)
            self.start.setToolTip("; ".join(reasons.values()))
            text = self.tr("Learn how to learn from {n}, then teach a new class from a few examples.")
        self.set_subtitle(text.format(n=forms.count(tasks, "task"), phase=self._phase))
        self.earlier.show_buttons()

    def _busy_changed(self) -> None:
        self.strip_.set_devices(self.state.devices)
        if not self.running and self.setup.device != self.state.device:
            self._refresh()
        self._show_buttons()

    # ---- a run -----------------------------------------------------------------------------------
    def start_or_stop(self) -> None:
        """The primary button."""
        if self.running and self.job is not None:
            self.job.cancel()
            self._show_buttons()
            return
        asked = forms.run_of(self.setup, self.state.tasks, self.state.project_path)
        self.monitor.clear()
        self._run(*asked)

    def _run(self, fn: object, args: tuple[object, ...]) -> None:
        assert callable(fn)
        self.pages.setCurrentIndex(0)
        self._seen_first, self._phase = False, ""
        self.strip.clear()  # what it says is of the run before
        self.monitor.set_running(running=True)
        row = self.algorithm
        title = self.tr("Meta-training {name}").format(name=row.info.title if row else "").strip()
        self.job = self.state.lanes.submit(
            "train", fn, *args, title=title, on_done=self._done, on_failed=self._failed, on_cancelled=self._cancelled
        )
        self._refresh()

    def toggle_pause(self) -> None:
        """Hold the run, or let it go on."""
        if self.job is not None and self.running:
            (self.job.resume if self.job.paused else self.job.pause)()
            self._show_buttons()

    def _metrics(self, job: Job, metrics: list) -> None:  # type: ignore[type-arg]
        if job is not self.job:
            return
        self.monitor.take(metrics)
        if not self._seen_first:
            self._seen_first = True
            self.state.read_runs()
        if any(m.name == "validation/accuracy" for m in metrics):
            self.earlier.show()

    def _event(self, job: Job, value: object) -> None:
        if job is self.job and isinstance(value, EpisodeView) and self.isVisible():
            self.monitor.show_episode(value, self.setup.queries)

    def _progress(self, job: Job) -> None:
        if job is self.job:
            self.monitor.show_progress(job.ctx.progress_now, paused=job.paused)
            self._phase = phase_of(job.ctx.status_text, self._phase)
            self._show_buttons()
            if self.earlier.says_paused != job.paused:
                self.earlier.show()

    def _over(self) -> None:
        self.monitor.set_running(running=False)
        self._asked = None
        self._take_start()
        self._sources_changed()
        self.state.read_runs()

    def _done(self, result: TrainResult) -> None:
        self._over()
        self.monitor.show_end(time_words(result.seconds))
        self.state.read_knowledge()
        if result.entry.validation is not None:
            self.monitor.show_validation(result.entry.validation)
        headline = self.tr("Stopped; the best of {name} is kept.") if result.stopped else self.tr("{name} is ready.")
        said, teach = headline.format(name=result.entry.name), self.tr("Teach a class")
        self.state.say("good", said, done_words(result), teach, lambda: self.state.go("teach"))

    def _failed(self, error: Exception) -> None:
        self._over()
        if isinstance(error, WorkbenchError):
            self.state.refuse(error)

    def _cancelled(self) -> None:
        self._over()
        self.state.say("info", self.tr("Stopped."), self.tr("Nothing was learnt yet, so nothing is kept."))

    def copy_command(self) -> None:
        """Put the command line that does the same on the clipboard."""
        self.copied(forms.command(self.setup, self.state.tasks))

    def copied(self, command: str) -> None:
        """Put a command line on the clipboard and say so."""
        QGuiApplication.clipboard().setText(command)
        self.show_message("info", self.tr("The command is on the clipboard."), command[:160])

    def begin_resume(self, run: str, request: TrainRequest, curves: Curves) -> None:
        """Go on with a run: what it was asked and its curves so far are known."""
        if self.state.lanes.busy("train"):
            return
        self.setup = setup_of(request)
        self.monitor.clear()
        self.monitor.remove_overlay(run)
        self.monitor.take(curves.metrics)
        self.monitor.pace.clear()
        self._run(jobs.resume, (run, self.state.project_path))

    # ---- weights ---------------------------------------------------------------------------------
    def get_weights(self, row: BackboneRow) -> None:
        """Open the dialog that names size, licence and host."""
        WeightsDialog.ask(self.state, row, self, self._got_weights, self._refresh)

    def _got_weights(self, key: str) -> None:
        self.catalogue = self.catalogue and with_weights(self.catalogue, key)
        self._asked = None
        self._sources_changed()
        self.show_message("good", self.tr("The weights are here."), self.tr("Photographs can be learnt with them now."))

    # ---- room ------------------------------------------------------------------------------------
    def reveal(self, kind: str, key: str) -> None:
        """Mark a run in the table."""
        if kind == "run" and self.monitor.runs.reveal(key):
            self.pages.setCurrentIndex(0)

    def focus_start(self) -> None:
        """The primary button."""
        self.start.setFocus()

    def compact_changed(self, compact: bool) -> None:
        """Another layout in a narrow window."""
        self.recommended.set_compact(compact)
        self.strip_.set_narrow(compact)
        self.continued.set_narrow(compact)
        self.monitor.set_compact(compact)
