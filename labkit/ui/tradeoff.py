"""What speed costs a search in recall: the recipes that no other beats in both, and where plain TF-IDF wins."""

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.language import tr
from labkit.ui.readings import labels, value

_RECALL, _PRECISION = "recall_at_10", "precision_at_10"


@dataclass(frozen=True)
class _Point:
    """A valid Run of text similarity: its name, recall, precision (None: not known) and median latency."""

    name: str
    recall: float
    precision: float | None
    p50_s: float
    is_plain: bool

    def beats(self, other: "_Point") -> bool:
        """Whether it is as good in both and better in one."""
        ours, theirs = (self.recall, -self.p50_s), (other.recall, -other.p50_s)
        return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def tradeoff(runs: Sequence[Run]) -> str:
    """The frontier of recall and latency, and what plain TF-IDF is better at; '' with less than two points."""
    points = sorted(_points(runs), key=lambda point: point.p50_s)
    if len(points) < 2:
        return ""
    frontier = [point for point in points if not any(other.beats(point) for other in points)]
    told = tr(", ").join(
        tr(
            "{name} ({recall} in {time})",
            name=one.name,
            recall=units.percent(one.recall),
            time=units.seconds(one.p50_s),
        )
        for one in frontier
    )
    plain = next((point for point in points if point.is_plain), None)
    others = [point for point in points if not point.is_plain]
    best = tr("no other has both more of it and a lower query p50 than {told}.", told=told)
    return best + (_plain(plain, others) if plain else "")


def _plain(plain: _Point, others: Sequence[_Point]) -> str:
    """Where the plain index wins; in recall it does by definition."""
    slower = [other.name for other in others if other.p50_s > plain.p50_s]
    worse = [other.name for other in others if (other.precision or 0.0) < (plain.precision or 0.0)]
    wins = [tr("in recall, which is counted against it")]
    wins += [tr("in latency over {names}", names=tr(", ").join(slower))] if slower else []
    wins += [tr("in precision@10 over {names}", names=tr(", ").join(worse))] if worse else []
    return tr(" Plain TF-IDF wins {told}.", told=tr("; ").join(wins))


def _points(runs: Sequence[Run]) -> list[_Point]:
    names = labels(runs)
    return [
        _Point(names[run.id], run.quality[_RECALL], run.quality.get(_PRECISION), p50_s, is_plain=not run.recipe)
        for run in runs
        if run.is_valid and _RECALL in run.quality and (p50_s := value(run, "e2e_s.p50")) is not None
    ]
