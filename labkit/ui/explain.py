"""Why a Run is as fast as it is: the terms of its prediction, what they leave unexplained, which of them changed."""

from collections.abc import Iterator, Mapping, Sequence

from labkit.bench.comparison import Comparison
from labkit.bench.limit import residual
from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.readings import labels

_TERMS = {
    "weights": "reading weights",
    "kv_cache": "reading the KV cache",
    "kv_copy": "copying stored keys and values",
    "activations": "moving activations",
    "flops": "arithmetic that outlasts memory",
    "kernels": "kernels slower than memory and arithmetic allow",
    "dispatch": "starting operations",
}
_LEAST_SHARE = 0.02  # of a pass; smaller terms would be noise in the sentence


def explanation(runs: Sequence[Run], comparison: Comparison | None) -> tuple[str, ...]:
    """A paragraph for each valid Run with a prediction: bound, terms, residual, the change against the baseline."""
    names = labels(runs)
    baseline = comparison.baseline if comparison else None
    verdicts = {row.run_id: row.decision.verdict for row in comparison.rows if row.decision} if comparison else {}
    paragraphs = []
    for run in runs:
        if run.is_valid and run.prediction:
            parts = [*_bounds(run.limit or {}), *_terms(run.prediction), *_residual(run)]
            if baseline is not None and baseline.prediction and run.id in verdicts:
                parts += _changes(baseline.prediction, run.prediction, is_slower=verdicts[run.id] == "slower")
            paragraphs.append(f"{names[run.id]}: {' '.join(parts)}")
    return tuple(paragraphs)


def _bounds(limit: Mapping[str, object]) -> Iterator[str]:
    phases = {name: phase for name, phase in limit.items() if isinstance(phase, Mapping) and "bound" in phase}
    if phases:
        told = (f"{name} by {phase['bound']} ({units.seconds(phase['seconds'])})" for name, phase in phases.items())
        yield f"The machine bounds {', '.join(told)}."


def _terms(prediction: Mapping[str, object]) -> Iterator[str]:
    terms = _seconds(prediction)
    total_s = sum(terms.values())
    told = [
        f"{_TERMS.get(name, name)} {units.seconds(seconds)} ({units.percent(seconds / total_s)})"
        for name, seconds in sorted(terms.items(), key=lambda term: -term[1])
        if seconds >= _LEAST_SHARE * total_s > 0
    ]
    if told:
        yield f"A pass should take {units.seconds(total_s)}: {', '.join(told)}."


def _residual(run: Run) -> Iterator[str]:
    unexplained = residual(run.prediction or {}, run.metrics)
    if unexplained is not None:
        yield f"Measured: {units.ratio(1 + unexplained)} that."


def _changes(before: Mapping[str, object], after: Mapping[str, object], *, is_slower: bool) -> Iterator[str]:
    """The term that explains the verdict: for a slower Run the one that grew most, else the one that shrank most."""
    old, new = _seconds(before), _seconds(after)
    changes = {name: new.get(name, 0.0) - old.get(name, 0.0) for name in {**old, **new}}
    if not changes:
        return
    name = (max if is_slower else min)(changes, key=lambda name: changes[name])
    if (changes[name] > 0) != is_slower or changes[name] == 0:
        return
    verb = "grew" if is_slower else "shrank"
    spans = f"from {units.seconds(old.get(name, 0.0))} to {units.seconds(new.get(name, 0.0))}"
    yield f"Against the baseline, {_TERMS.get(name, name)} {verb} most, {spans}."


def _seconds(prediction: Mapping[str, object]) -> dict[str, float]:
    terms = prediction.get("terms")
    return dict(terms) if isinstance(terms, Mapping) else {}
