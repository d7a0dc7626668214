"""The four ways to put more than one core, process or device to work, in one picture: what each brings and takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.core.cost import Cost
from labkit.core.recipe import Recipe
from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.figure import LIGHT, Picture, Theme, canvas, caption, style, wrapped
from labkit.ui.language import tr
from labkit.ui.marks import BAR_HEIGHT, annotate, recipe_ticks
from labkit.ui.readings import reading, value

WAYS = ("pipeline_parallel", "tensor_parallel", "replicas", "threads")
"""Techniques by how far they divide the work: a recipe of several is of the first of them."""

_TITLE_WIDTH = 12
_ROOM = 2.1  # an axis ends at so many times its longest bar, so that there is room for the value


@dataclass(frozen=True)
class Figure:
    """One quantity of the picture. `read` gives it for a Run, None where it was not measured."""

    title: str
    form: units.Formatter
    read: Callable[[Run], float | None]
    has_more_as_better: bool = False
    metric: str = ""

    def ends(self, run: Run) -> tuple[float, float] | None:
        """The interval that the value lies in; the value itself where it was counted."""
        found = reading(run, self.metric) if self.metric else None
        if found is not None and "low" in found:
            return found["low"], found["high"]
        at = self.read(run)
        return None if at is None else (at, at)


def sent_bytes(run: Run) -> float | None:
    """Bytes that one rank sends to others in a pass, as counted or else by the cost model; None without either."""
    counted = [measured.trace.counters.get("communication_bytes") for measured in run.passes]
    if counted and None not in counted:
        return sum(filter(None, counted)) / len(counted)
    if run.cost is None:
        return None
    return sum(phase.num_steps * phase.communication_bytes for phase in Cost.of(run.cost).phases.values())


def _measured(metric: str) -> Callable[[Run], float | None]:
    return lambda run: value(run, metric)


FIGURES = (
    Figure("throughput", units.rate, _measured("output_tok_per_s"), True, "output_tok_per_s"),
    Figure("time to first token", units.seconds, _measured("ttft_s"), metric="ttft_s"),
    Figure("time per output token", units.seconds, _measured("tpot_s"), metric="tpot_s"),
    Figure("memory", units.size, lambda run: run.build.get("peak_memory_bytes")),
    Figure("bytes sent", units.size, sent_bytes),
)


def way_of(run: Run) -> str | None:
    """The way of a Run, None for a recipe without any and for other projects' engines."""
    if run.recipe.startswith("peer:"):
        return None
    names = Recipe.parse(run.recipe).names
    return next((way for way in WAYS if way in names), None)


def drawn_ways(runs: Sequence[Run]) -> list[tuple[str, str, Run]]:
    """Way, name and Run of every valid Run of some way, in the order of the Runs; [] unless there are two ways.

    All are of one recipe but for the ways: of several the one that was measured in most of them.
    """
    by_base: dict[str, list[tuple[str, str, Run]]] = {}
    for run in runs:
        way = way_of(run)
        if way is not None and run.is_valid:
            recipe = Recipe.parse(run.recipe)
            (step,) = recipe.only([way]).steps
            base = recipe.only(name for name in recipe.names if name not in WAYS).text
            by_base.setdefault(base, []).append((way, step.text, run))
    drawn = max(by_base.values(), key=_num_ways, default=[])
    return drawn if _num_ways(drawn) > 1 else []


def _num_ways(drawn: Sequence[tuple[str, str, Run]]) -> int:
    return len({way for way, _, _ in drawn})


def ways(runs: Sequence[Run], *, theme: Theme = LIGHT) -> Picture | None:
    """Throughput, latencies, memory and bytes sent of each way beside each other; None unless two were measured."""
    drawn = drawn_ways(runs)
    if not drawn:
        return None
    figure, axes = canvas(theme, columns=len(FIGURES), height_in=1.05 + 0.42 * len(drawn))
    for ax, shown in zip(axes, FIGURES, strict=True):
        values = [shown.read(run) for _, _, run in drawn]
        end = _ROOM * max((at for at in values if at is not None), default=0.0) or 1.0
        for index, ((way, _, run), at) in enumerate(zip(drawn, values, strict=True)):
            ends = shown.ends(run)
            if at is None or ends is None:
                annotate(ax, units.MISSING, 0.0, index, theme)
                continue
            ax.barh(index, at, height=BAR_HEIGHT, color=style(len(WAYS) - WAYS.index(way), theme).color)
            if ends != (at, at):
                ax.plot(ends, [index, index], color=theme.ink, linewidth=1.1)
            annotate(ax, shown.form(at), ends[1], index, theme)
        recipe_ticks(ax, [name for _, name, _ in drawn], theme, has_names=ax is axes[0])
        ax.set_xlim(0, end)
        ax.set_xticks([])
        caption(ax, theme, title=wrapped(shown.title, _TITLE_WIDTH))
    finding = tr(" ").join(sentences(runs))
    return Picture("ways", tr("Ways to use more cores"), finding, figure, redraw=lambda other: ways(runs, theme=other))


def sentences(runs: Sequence[Run]) -> list[str]:
    """For each way, where its best Run beats every other way by more than both intervals, and by how much."""
    drawn = drawn_ways(runs)
    return [_sentence(way, drawn) for way in dict.fromkeys(way for way, _, _ in drawn)]


def _sentence(way: str, drawn: Sequence[tuple[str, str, Run]]) -> str:
    won = []
    for shown in FIGURES:
        stated = [item for item in drawn if shown.read(item[2]) is not None]
        ordered = sorted(stated, key=lambda item: shown.read(item[2]) or 0.0, reverse=shown.has_more_as_better)
        others = [item for item in ordered if item[0] != way]
        if not others or not ordered or ordered[0][0] != way:
            continue
        (_, name, best), (_, next_name, second) = ordered[0], others[0]
        if _is_apart(shown, best, second):
            ours, theirs = (shown.form(shown.read(run)) for run in (best, second))
            won.append(
                tr(
                    "{what} ({name}: {ours} against {theirs} of {other})",
                    what=tr(shown.title),
                    name=name,
                    ours=ours,
                    theirs=theirs,
                    other=next_name,
                )
            )
    title = tr(way.replace("_", " "))
    if not won:
        return tr("{way} wins nothing here that its intervals can tell.", way=title)
    told = tr(", ").join(won[:-1]) + (tr(" and ") if won[1:] else "") + won[-1]
    return tr("{way} wins {told}.", way=title, told=told)


def _is_apart(shown: Figure, best: Run, second: Run) -> bool:
    ours, theirs = shown.ends(best), shown.ends(second)
    if ours is None or theirs is None:
        return False
    return ours[0] > theirs[1] if shown.has_more_as_better else ours[1] < theirs[0]
