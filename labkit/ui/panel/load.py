"""Load: the tab of a panel that sends requests at rising rates, and draws latency against throughput."""

from collections.abc import Callable
from dataclasses import dataclass

import ipywidgets as widgets

from labkit.core.goodput import MIN_REQUESTS, Limits
from labkit.runner.sweep import parse_rates
from labkit.ui import page
from labkit.ui.figure import DARK
from labkit.ui.frontier import Frontier
from labkit.ui.language import tr
from labkit.ui.markup import Html, join, tag
from labkit.ui.show import themed

_MAX_REQUESTS = 4096
_MAX_LIMIT_S = 3600.0
_WIDE = {"description_width": "initial"}


@dataclass(frozen=True)
class Asked:
    """What the fields say: requests per second or "auto", requests of a pass, limits, and the sweep's name."""

    rates: tuple[float | str, ...]
    num_requests: int
    limits: Limits
    name: str


class Load:
    """The fields, a button and what the last sweep found."""

    def __init__(self, on_sweep: Callable[[], None]) -> None:
        self._rates = widgets.Text(
            value="auto",
            description=tr("rates (requests/s)"),
            tooltip=tr("such as 1, 2, 4; auto finds the rate that each recipe keeps up with"),
            style=_WIDE,
            layout=widgets.Layout(width="260px"),
        )
        self._requests = widgets.BoundedIntText(
            value=64,
            min=MIN_REQUESTS,
            max=_MAX_REQUESTS,
            description=tr("requests a pass"),
            tooltip=tr(
                "{low} to {high}; the more, the rarer the percentile that can be told",
                low=MIN_REQUESTS,
                high=f"{_MAX_REQUESTS:,}",
            ),
            style=_WIDE,
            layout=widgets.Layout(width="190px"),
        )
        self._ttft_s = _limit(tr("first token within (s)"), 0.5, tr("longest time to first token of a good request"))
        self._tpot_s = _limit(tr("later tokens within (s)"), 0.05, tr("longest time per later token of a good request"))
        self._name = widgets.Text(
            value="panel",
            description=tr("name"),
            tooltip=tr("cells that the history knows under this name are not measured again"),
            style=_WIDE,
            layout=widgets.Layout(width="180px"),
        )
        self._start = widgets.Button(
            description=tr("Sweep"),
            tooltip=tr("send the workload's requests at each rate to every recipe of the comparison"),
            layout=widgets.Layout(width="auto"),
        )
        self._start.on_click(lambda _: on_sweep())
        self._found = widgets.HTML()
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        fields = [self._rates, self._requests, self._ttft_s, self._tpot_s, self._name, self._start]
        self.box = widgets.VBox([widgets.HBox(fields, layout=row), self._found])

    @property
    def asked(self) -> Asked:
        """What the fields say.

        Raises:
            UsageError: a rate is none.
        """
        limits = Limits(ttft_s=self._ttft_s.value, tpot_s=self._tpot_s.value)
        return Asked(parse_rates([self._rates.value]), self._requests.value, limits, self._name.value)

    def take(self, other: "Load") -> None:
        """What the fields of another one say."""
        for field in ("_rates", "_requests", "_ttft_s", "_tpot_s", "_name"):
            getattr(self, field).value = getattr(other, field).value

    def enable(self, is_enabled: bool) -> None:
        """Whether a sweep can be started."""
        self._start.disabled = not is_enabled

    def show(self, frontier: Frontier) -> None:
        """Draw what a sweep found so far; what an earlier one found goes."""
        self._found.value = tag("div", _drawn(frontier), css="labkit") if frontier.points else ""


def _drawn(frontier: Frontier) -> Html:
    findings = tag("ul", *(tag("li", sentence) for sentence in frontier.findings))
    day = frontier.plot()
    if day is None:  # no cell that is valid and was sent at a rate
        return join((findings, page.plain_table(frontier.table())))
    return join((findings, themed(day, frontier.plot(theme=DARK), frontier.table()).html))


def _limit(name: str, value: float, help: str) -> widgets.BoundedFloatText:
    layout = widgets.Layout(width="230px")
    return widgets.BoundedFloatText(
        description=name, value=value, min=1e-4, max=_MAX_LIMIT_S, tooltip=help, style=_WIDE, layout=layout
    )
