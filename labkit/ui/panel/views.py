"""Views: what a panel shows of its Runs, one function a tab, each from Runs to markup."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.bench.comparison import Comparison
from labkit.core.run import Run
from labkit.ui import page, plots, prose
from labkit.ui.chart_tables import charted
from labkit.ui.document import comparisons_of
from labkit.ui.explain import explanation
from labkit.ui.figure import DARK, LIGHT, Picture, Theme
from labkit.ui.forecast import Forecast
from labkit.ui.language import tr
from labkit.ui.markup import Html, join, tag, unbroken
from labkit.ui.show import themed
from labkit.ui.tables import results

_NOTHING = "Nothing to draw yet: switch techniques on and press Run."


@dataclass(frozen=True)
class Content:
    """What the views draw: all Runs on the panel, in the order they were measured."""

    runs: tuple[Run, ...] = ()

    @property
    def charted(self) -> tuple[Run, ...]:
        """The newest Run of each recipe and device, of the model, workload and machine that were measured last."""
        if not self.runs:
            return ()
        last = self.runs[-1]
        newest = {(run.recipe, run.device): run for run in self.runs if _measured(run) == _measured(last)}
        return tuple(newest.values())

    @property
    def sessions(self) -> tuple[tuple[Run, ...], ...]:
        """Runs by the session they were measured in, the newest first."""
        groups = list(dict.fromkeys(run.group for run in self.runs))
        return tuple(tuple(run for run in self.runs if run.group == group) for group in reversed(groups))

    @property
    def comparison(self) -> Comparison | None:
        """The newest session's, None where it has a single Run."""
        return _comparison(self.sessions[0]) if self.runs else None


def _measured(run: Run) -> tuple[object, ...]:
    """What two Runs have to share to stand beside each other."""
    return run.model.get("hash"), run.workload_hash, run.machine.get("fingerprint")


def verdict(content: Content) -> Html:
    """Each session's verdicts in words and its table of results."""
    parts = []
    for runs in content.sessions:
        comparison = _comparison(runs)
        title = tag("h3", f"{prose.title(runs)} · {runs[0].created_utc[11:19]} UTC")
        parts += [title, page.verdicts(runs, comparison), page.results_table(results(runs, comparison))]
    return join(parts) if parts else _nothing()


def ahead(content: Content, forecast: Forecast) -> Html:
    """What is switched on and what it should reach, beside what was measured; redrawn by itself as toggles move."""
    day, night = (plots.ahead(content.charted, forecast, theme=theme) for theme in (LIGHT, DARK))
    return themed(day, night, []).html


def throughput(content: Content) -> Html:
    """Rates with their intervals and the machine's limit."""
    return _picture(
        "throughput", content, lambda theme: plots.throughput(content.charted, content.comparison, theme=theme)
    )


def latency(content: Content) -> Html:
    """Distributions of inter-token latency and time to first token."""
    return _picture("latency", content, lambda theme: plots.latency(content.charted, theme=theme))


def phases(content: Content) -> Html:
    """Prefill and decode apart."""
    return _picture("phases", content, lambda theme: plots.phases(content.charted, theme=theme))


def devices(content: Content) -> Html:
    """Recipes that were measured on several devices, these side by side."""
    recipes = [run.recipe for run in content.charted if run.is_valid]
    pairs = sorted(
        (run for run in content.charted if recipes.count(run.recipe) > 1), key=lambda run: recipes.index(run.recipe)
    )
    if not pairs:
        seen = ", ".join(dict.fromkeys(run.device for run in content.charted)) or tr("no device yet")
        return tag("p", tr("Measured on: {seen}. Tick two devices and press Run to see them side by side.", seen=seen))
    return _picture("phases", Content(tuple(pairs)), lambda theme: plots.phases(pairs, theme=theme))


def memory(content: Content) -> Html:
    """Peak memory and the part that weights take."""
    return _picture("memory", content, lambda theme: plots.memory(content.charted, theme=theme))


def quality(content: Content) -> Html:
    """Quality against speed, and what was proven of each output."""
    picture = _picture("quality", content, lambda theme: plots.quality_speed(content.charted, theme=theme))
    return join((picture, tag("ul", *(tag("li", line) for line in prose.proofs(content.charted)))))


def why(content: Content) -> Html:
    """The terms of each prediction and what they leave unexplained."""
    paragraphs = explanation(content.charted, content.comparison)
    return join(tag("p", unbroken(one)) for one in paragraphs) if paragraphs else _nothing()


VIEWS: dict[str, Callable[[Content], Html]] = {
    "Verdict": verdict,
    "Speed": throughput,
    "Latency": latency,
    "Phases": phases,
    "Devices": devices,
    "Memory": memory,
    "Quality": quality,
    "Why": why,
}
"""Tabs of a panel, in order; the history stands behind them."""


def _picture(name: str, content: Content, draw: Callable[[Theme], Picture | None]) -> Html:
    day, night = draw(LIGHT), draw(DARK)
    if day is None:
        return _nothing()
    return themed(day, night, charted(name, content.charted, content.comparison)).html


def _comparison(runs: Sequence[Run]) -> Comparison | None:
    return comparisons_of(runs)[0] if len(runs) > 1 else None


def _nothing() -> Html:
    return tag("p", tr(_NOTHING), css="key")
