"""Panel: switch techniques on, press Run, and see what they did. The face of a Lab in a notebook.

The thread that answers clicks only reads widgets, starts and cancels: measuring is done by worker processes, which a
thread of its own waits for, and which report between passes, at most twice a second.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import ipywidgets as widgets

from labkit.core.errors import LabkitError
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.runner.plan import Progress
from labkit.runner.session import OnProgress
from labkit.runner.systems import ENGINE
from labkit.ui import prose, show
from labkit.ui.document import comparisons_of
from labkit.ui.forecast import Forecast, forecast
from labkit.ui.frontier import Frontier
from labkit.ui.language import retold, tr
from labkit.ui.markup import Html, tag
from labkit.ui.panel import switchboard
from labkit.ui.panel.controls import controls
from labkit.ui.panel.job import Job, OnEnd, Work
from labkit.ui.panel.languages import switch
from labkit.ui.panel.load import Load
from labkit.ui.panel.parts import button, said, titled
from labkit.ui.panel.settings import Settings
from labkit.ui.panel.views import VIEWS, Content, ahead
from labkit.ui.report import chapters

_HISTORY = "History"
_LOAD = "Under load"
_AHEAD = "Speed"  # the tab that shows what is switched on, too
_NUM_STORED = 200  # of the newest Runs that the history offers
_ROW = {"flex_flow": "row wrap", "align_items": "center"}


class Lab(Protocol):
    """What a panel needs of its Lab."""

    system: str
    model: str
    devices: tuple[str, ...]
    spec: WorkloadSpec
    effort: str
    home: Path
    problems: tuple[str, ...]

    def replace(self, *, model: str, devices: Sequence[str], workload: WorkloadSpec, effort: str) -> Self:
        """The same Lab with other settings."""

    def measure(
        self, recipes: Sequence[str], *, on_progress: OnProgress | None, cancel: Any, warn: bool
    ) -> tuple[Run, ...]:
        """Measure recipes against each other."""

    def sweep(
        self,
        recipes: Sequence[str],
        *,
        rates: Sequence[float | str],
        num_requests: int | None,
        ttft_limit_s: float,
        tpot_limit_s: float,
        name: str,
        on_progress: OnProgress | None,
        cancel: Any,
        warn: bool,
    ) -> Frontier:
        """Measure recipes at rising rates."""

    def stored(self, *, limit: int) -> tuple[Run, ...]:
        """The newest Runs of the history."""


class Panel:
    """Widgets over a Lab. `beside` are the recipes that every Run is measured with; the first is the baseline."""

    def __init__(self, lab: Lab, *, recipe: str = "kv_cache", beside: Sequence[str] = ("",)) -> None:
        self._lab = lab
        self._measuring = lab  # with the settings of the measurement that runs
        self._content = Content()
        self._forecast: Forecast | None = None
        self._job: Job | None = None
        self._is_running = False
        self._is_syncing = False
        self._beside = list(beside)
        self._stored: tuple[Run, ...] = ()
        self._frontier: Frontier | None = None
        self.box = widgets.VBox()
        self.box.add_class("labkit-panel")
        self._build(lab)
        self._draw(())
        self.recipe = recipe

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every Run on the panel, in the order they were measured."""
        return self._content.runs

    @property
    def is_running(self) -> bool:
        """Whether a measurement is under way."""
        return self._is_running

    @property
    def recipe(self) -> str:
        """The Recipe that is switched on, as text; setting it moves the toggles."""
        return str(self._text.value)

    @recipe.setter
    def recipe(self, text: str) -> None:
        self._text.value = text
        self._take_text()

    def run(self) -> None:
        """Measure what is switched on beside the recipes of the comparison; returns at once. One at a time."""
        if not self._can_run:
            return
        recipes = self._recipes
        self._begin(
            lambda lab: (
                lambda on_progress, cancel: lab.measure(recipes, on_progress=on_progress, cancel=cancel, warn=False)
            ),
            self._end,
        )

    def sweep(self) -> None:
        """Measure the same recipes at the rates of the tab "Under load"; returns at once. One at a time."""
        if not self._can_run:
            return
        recipes = self._recipes
        try:
            asked = self._load.asked
        except LabkitError as error:
            self._say(retold(str(error)), css="invalid")
            return

        def sweeping(lab: Lab) -> Work:
            return lambda on_progress, cancel: (
                lab.sweep(
                    recipes,
                    rates=asked.rates,
                    num_requests=None if lab.spec.replay else asked.num_requests,
                    ttft_limit_s=asked.limits.ttft_s,
                    tpot_limit_s=asked.limits.tpot_s,
                    name=asked.name,
                    on_progress=on_progress,
                    cancel=cancel,
                    warn=False,
                ).runs
            )

        self._begin(sweeping, lambda runs, error: self._end_sweep(Frontier.of(runs, asked.limits), error))

    def cancel(self) -> None:
        """Stop the measurement; returns at once, the workers end within seconds."""
        if self._job is not None and self._is_running:
            self._cancel.disabled = True
            self._progress_text.value = tr("cancelling")
            self._job.cancel()

    def clear(self) -> None:
        """Take every Run off the panel; the history keeps them."""
        self._draw(())
        self._foresee()
        self._say("")

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until the measurement has ended, and raise what ended it early; see `Job.wait`."""
        if self._job is not None:
            self._job.wait(timeout_s)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)  # type: ignore[no-untyped-call]
        if self.runs:
            print(self._plain())

    @property
    def _can_run(self) -> bool:
        """Whether something can be measured now."""
        return not self._is_running and self._read(self.recipe).is_valid and not self._settings.problem

    @property
    def _recipes(self) -> list[str]:
        """Those of the comparison, and what is switched on."""
        text = self._read(self.recipe).text
        return [*self._beside, *(() if self._is_beside(text) else (text,))]

    def _begin(self, work: Callable[[Lab], Work], on_end: OnEnd) -> None:
        """Start what a Lab with the panel's settings does."""
        self._is_running = True
        self._refresh()
        self._say("")
        try:
            settings = self._settings
            self._measuring = self._lab.replace(
                model=settings.model, devices=settings.devices, workload=settings.spec, effort=settings.effort
            )
        except LabkitError as error:
            on_end((), error)
            return
        self._job = Job(work(self._measuring), on_progress=self._show_progress, on_end=on_end)
        self._job.start()

    # ---- what it is made of ----

    def _build(self, settings: Lab | Settings) -> None:
        """Make the widgets, with these settings to begin with."""
        lab = self._lab
        self._settings = Settings(
            system=lab.system,
            model=settings.model,
            devices=settings.devices,
            spec=settings.spec,
            effort=settings.effort,
            on_change=self._take_settings,
        )
        self._controls = controls(switchboard.slots(lab.system), self._take_toggles)
        self._text = widgets.Text(
            description=tr("recipe"),
            placeholder=tr("the naive baseline; or: kv_cache + quantize(bits=8)"),
            tooltip=tr("the recipe as text, as every command takes it"),
            style={"description_width": "initial"},
            layout=widgets.Layout(width="min(100%, 640px)"),
        )
        self._text.observe(lambda _: self._take_text(), "value")
        self._message, self._outcome, self._told, self._ahead = (widgets.HTML() for _ in range(4))
        self._run = button(tr("Run"), tr("measure this recipe beside the others"), self.run, style="primary")
        self._cancel = button(tr("Cancel"), tr("stop measuring; nothing that was stored is lost"), self.cancel)
        self._clear = button(tr("Clear"), tr("take all runs off the panel; the history keeps them"), self.clear)
        self._add = button(
            tr("Compare with this"), tr("measure this recipe in every run from now on"), self._add_beside
        )
        self._rows = widgets.VBox()
        self._progress = widgets.FloatProgress(min=0.0, max=1.0, layout=widgets.Layout(width="260px"))
        self._progress_text = widgets.Label()
        self._views = {name: widgets.HTML() for name in VIEWS}
        pages = {**self._views, _AHEAD: widgets.VBox([self._ahead, self._views[_AHEAD]])}
        self._sessions = widgets.Dropdown(
            description=tr("session"),
            options=[(tr("choose a session to draw it"), "")],
            tooltip=tr("stored Runs, newest first"),
            style={"description_width": "initial"},
            layout=widgets.Layout(width="min(100%, 640px)"),
        )
        self._sessions.observe(lambda _: self._load_session(), "value")
        self._history = widgets.HTML()
        self._load = Load(self.sweep)
        pages |= {_LOAD: self._load.box} if lab.system == ENGINE else {}
        pages[_HISTORY] = widgets.VBox([self._sessions, self._history])
        self._tabs = widgets.Tab([*pages.values()], titles=[tr(title) for title in pages])
        self._pages = tuple(pages)
        self._tabs.selected_index = 0
        self._tabs.observe(lambda _: self._turn(), "selected_index")
        row = widgets.Layout(**_ROW)
        self.box.children = [
            widgets.HTML(tag("style", Html(show.CSS))),
            switch(self._retell),
            titled(tr("What is measured"), self._settings.box),
            titled(tr("Techniques"), *(control.box for control in self._controls)),
            titled(tr("Recipe"), widgets.HBox([self._text, self._add], layout=row), self._message, self._told),
            titled(tr("Measured together, the first is the baseline"), self._rows),
            widgets.HBox([self._run, self._cancel, self._clear, self._progress, self._progress_text], layout=row),
            self._outcome,
            self._tabs,
        ]
        self._show_beside()

    def _retell(self) -> None:
        """Make every widget anew in the language in use; settings, recipe, Runs and the open tab stay."""
        recipe, tab, load = self.recipe, self._tabs.selected_index, self._load
        self._build(self._settings)
        self._load.take(load)
        if self._frontier is not None:
            self._load.show(self._frontier)
        self._tabs.selected_index = tab
        self._draw(self.runs)
        self.recipe = recipe

    # ---- what changes it ----

    def _take_toggles(self) -> None:
        """A toggle or a knob moved: write the text."""
        if self._is_syncing:
            return
        steps = {name: knobs for control in self._controls for name, knobs in control.read().items()}
        reading = switchboard.write(steps, self._lab.system)
        self._sync(lambda: setattr(self._text, "value", reading.text))
        self._switched(reading)

    def _take_text(self) -> None:
        """The text was edited: move the toggles, unless it means nothing."""
        if self._is_syncing:
            return
        reading = self._read(self._text.value)
        if reading.is_valid:
            self._sync(lambda: self._write_controls(reading.steps))
        self._switched(reading)

    def _read(self, text: str) -> switchboard.Reading:
        return switchboard.read(text, self._lab.system)

    def _write_controls(self, steps: switchboard.Steps) -> None:
        for control in self._controls:
            control.write(steps)

    def _sync(self, change: Callable[[], object]) -> None:
        """Move one side without hearing of it from the other."""
        self._is_syncing = True
        try:
            change()
        finally:
            self._is_syncing = False

    def _take_settings(self) -> None:
        self._switched(self._read(self._text.value))

    def _switched(self, reading: switchboard.Reading) -> None:
        """Say what is wrong with what is switched on, or what it should reach."""
        problem = reading.problem or self._settings.problem
        self._message.value = said(problem, css="invalid")
        expected = None
        if not problem and self._lab.system == ENGINE:
            try:
                expected = forecast(
                    reading.text,
                    model=self._settings.model,
                    device=self._settings.devices[0],
                    spec=self._settings.spec,
                    cache_folder=self._lab.home / "cache",
                )
            except LabkitError as error:
                self._message.value = said(retold(str(error)), css="invalid")
        self._refresh()
        self._forecast = expected
        self._foresee()

    def _add_beside(self) -> None:
        reading = self._read(self.recipe)
        if reading.is_valid and not self._is_beside(reading.text):
            self._beside.append(reading.text)
            self._show_beside()

    def _is_beside(self, text: str) -> bool:
        return any(switchboard.same(text, other, self._lab.system) for other in self._beside)

    def _show_beside(self) -> None:
        """A row for each recipe of the comparison, with a button that takes it out."""

        def row(text: str) -> widgets.Widget:
            help = tr("measure without {recipe}", recipe=text or tr("the naive baseline"))
            drop = button(tr("remove"), help, lambda: self._drop_beside(text))
            drop.layout.width = "80px"
            return widgets.HBox([drop, widgets.HTML(tag("code", text or tr("naive baseline (empty recipe)")))])

        nothing = widgets.HTML(said(tr("nothing: a single point, without a verdict"), css="key"))
        self._rows.children = [row(text) for text in self._beside] or [nothing]

    def _drop_beside(self, text: str) -> None:
        self._beside.remove(text)
        self._show_beside()

    # ---- what a measurement tells, from its own thread ----

    def _show_progress(self, progress: Progress) -> None:
        self._progress.value = progress.fraction
        self._progress_text.value = retold(progress.text)

    def _end(self, runs: Sequence[Run], error: Exception | None) -> None:
        self._stopped(error, is_cancelled=any(run.error == "cancelled" for run in runs))
        self._switched_after(tuple(run for run in runs if run.passes or run.status == "failed"))

    def _end_sweep(self, frontier: Frontier, error: Exception | None) -> None:
        """Show the finished cells, of a cancelled sweep too: they are kept, and it can be gone on with."""
        self._stopped(error, is_cancelled=self._job is not None and self._job.is_cancelled)
        self._refresh()
        self._frontier = frontier
        self._load.show(frontier)

    def _stopped(self, error: Exception | None, *, is_cancelled: bool) -> None:
        self._is_running = False
        self._progress.value = 1.0 if error is None else 0.0
        self._progress_text.value = tr("cancelled" if is_cancelled else "stopped" if error is not None else "done")
        if error is not None:
            text = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}"
            self._say(retold(" ".join(text.split())), css="invalid")
        elif problems := self._measuring.problems:
            self._say(tr("; ").join(map(retold, problems)), css="invalid")

    def _switched_after(self, kept: Sequence[Run]) -> None:
        self._refresh()  # buttons first, pictures take longer
        self._draw((*self.runs, *kept))
        self._take_settings()  # ceilings are known now, so there is a forecast

    # ---- what it shows ----

    def _refresh(self) -> None:
        """Which buttons can be pressed."""
        is_valid = self._read(self.recipe).is_valid and not self._settings.problem
        self._run.disabled = self._is_running or not is_valid
        self._load.enable(not self._run.disabled)
        self._cancel.disabled = not self._is_running
        self._add.disabled = not is_valid

    def _say(self, text: str, css: str = "key") -> None:
        self._outcome.value = said(text, css=css)

    def _draw(self, runs: Sequence[Run]) -> None:
        """Show these Runs; a toggle changes none of it, so it does not come here."""
        self._content = Content(tuple(runs))
        for view in self._views.values():
            view.value = ""  # of other Runs
        self._render()

    def _foresee(self) -> None:
        """Say, and where it is looked at draw, what the recipe that is switched on should reach."""
        expected = self._forecast
        self._told.value = "" if expected is None else said(expected.told(self.runs), css="key")
        if expected is None:
            self._ahead.value = ""
        elif self._open_tab == _AHEAD:
            self._ahead.value = tag("div", ahead(self._content, expected), css="labkit")

    @property
    def _open_tab(self) -> str:
        return self._pages[self._tabs.selected_index or 0]

    def _render(self) -> None:
        """Draw the tab that is open; the others wait until they are."""
        title = self._open_tab
        if title == _HISTORY:
            self._show_history()
        elif title in self._views and not self._views[title].value:
            self._views[title].value = tag("div", VIEWS[title](self._content), css="labkit")

    def _turn(self) -> None:
        """Another tab was opened."""
        self._render()
        self._foresee()

    def _show_history(self) -> None:
        from labkit.ui import inventory, page

        try:
            self._stored = self._lab.stored(limit=_NUM_STORED)
        except LabkitError as error:
            self._history.value = said(retold(str(error)), css="invalid")
            return
        groups = dict.fromkeys(run.group for run in self._stored)
        named = [(_session_name([run for run in self._stored if run.group == group]), group) for group in groups]
        self._sync(lambda: setattr(self._sessions, "options", [(tr("choose a session to draw it"), ""), *named]))
        head, rows = inventory.run_rows(self._stored)
        self._history.value = tag("div", page.plain_table([head, *rows], css="words"), css="labkit")

    def _load_session(self) -> None:
        """Put the Runs of a stored session on the panel."""
        group = self._sessions.value
        if group and not self._is_syncing:
            runs = [run for run in self._stored if run.group == group and run not in self.runs][::-1]
            self._draw((*self.runs, *runs))
            self._foresee()
            self._tabs.selected_index = 0

    def _plain(self) -> str:
        """The newest session's verdicts, for viewers without widgets."""
        newest = [run for run in self.runs if run.group == self.runs[-1].group]
        told = chapters(newest, comparisons_of(newest) if len(newest) > 1 else ())
        return "\n".join(sentence.text for runs, comparison in told for sentence in prose.verdicts(runs, comparison))


def _session_name(runs: Sequence[Run]) -> str:
    name = f"{runs[0].created_utc[:19]} · {prose.title(runs)}"
    return tr("{name} · {num} recipes", name=name, num=len(runs))
