"""Why a Run is as fast as it is: the terms of its prediction, what they leave unexplained, which of them changed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labkit.bench.comparison import Comparison, compare
from labkit.bench.limit import residual
from labkit.core.paths import cache_folder
from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.crossover import crossovers
from labkit.ui.language import tr
from labkit.ui.prose import title, verdicts
from labkit.ui.readings import labels

_TERMS = {
    "weights": "reading weights",
    "kv_cache": "reading the KV cache",
    "kv_copy": "copying stored keys and values",
    "activations": "moving activations",
    "flops": "arithmetic that outlasts memory",
    "kernels": "kernels slower than memory and arithmetic allow",
    "dequantization": "dequantization: kernels that write the weights out as floats before they multiply",
    "between": "what lies between the products: attention, norms, gates",
    "emulation": "emulation: arithmetic in a dtype that this processor converts to another and back",
    "communication": "messages between the processes that share the model",
    "transfer": "waiting for what crosses the link between CPU and GPU",
    "drafts": "drafting tokens, the rejected ones too",
    "dispatch": "starting operations",
}
_PROBED = ("kernels", "between")  # timed anew for each Run, and never twice the same
_LEAST_SHARE = 0.02  # of a pass; smaller terms would be noise in the sentence


def told(runs: Sequence[Run]) -> dict[str, Any]:
    """What `labkit explain` says of the last of these Runs beside the first, its baseline: plain data."""
    run, comparison = runs[-1], compare(runs)
    return {
        "run": run.id,
        "title": f"{title(runs)} · {labels(runs)[run.id]} · Run {run.id}",
        "why": [verdicts(runs, comparison)[len(runs) - 1].text, *explanation(runs, comparison)],
        "crossovers": [crossover.text for crossover in crossovers(run, cache_folder())],
    }


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
                parts += _changes(baseline, run, verdicts[run.id])
            paragraphs.append(tr("{name}: {told}", name=names[run.id], told=tr(" ").join(parts)))
    return tuple(paragraphs)


def _bounds(limit: Mapping[str, object]) -> Iterator[str]:
    phases = {name: phase for name, phase in limit.items() if isinstance(phase, Mapping) and "bound" in phase}
    if phases:
        told = (
            tr(
                "{phase} by {bound} ({time})",
                phase=tr(name),
                bound=tr(str(phase["bound"])),
                time=units.seconds(phase["seconds"]),
            )
            for name, phase in phases.items()
        )
        yield tr("The machine bounds {told}.", told=tr(", ").join(told))


def _terms(prediction: Mapping[str, object]) -> Iterator[str]:
    terms = _seconds(prediction)
    total_s = sum(terms.values())
    told = [
        tr(
            "{term} {time} ({share})",
            term=_named(name),
            time=units.seconds(seconds),
            share=units.percent(seconds / total_s),
        )
        for name, seconds in sorted(terms.items(), key=lambda term: -term[1])
        if seconds >= _LEAST_SHARE * total_s > 0
    ]
    if told:
        yield tr("A pass should take {time}: {told}.", time=units.seconds(total_s), told=tr(", ").join(told))


def _residual(run: Run) -> Iterator[str]:
    unexplained = residual(run.prediction or {}, run.metrics)
    if unexplained is not None:
        yield tr("Measured: {ratio} that.", ratio=units.ratio(1 + unexplained))


def _changes(baseline: Run, run: Run, verdict: str) -> Iterator[str]:
    """The term that explains the verdict, or what there was to gain where it brought nothing."""
    old, new = _seconds(baseline.prediction or {}), _seconds(run.prediction or {})
    changes = {name: new.get(name, 0.0) - old.get(name, 0.0) for name in {**old, **new}}
    if not changes or not sum(new.values()):
        return
    grown, shrunk = max(changes, key=changes.__getitem__), min(changes, key=changes.__getitem__)

    def told(name: str) -> str:
        old_s, new_s = units.seconds(old.get(name, 0.0)), units.seconds(new.get(name, 0.0))
        return tr("from {old} to {new}", old=old_s, new=new_s)

    least_s = _LEAST_SHARE * sum(old.values())
    change_s = max((abs(change) for name, change in changes.items() if name not in _PROBED), default=0.0)
    if verdict == "faster" and changes[shrunk] < 0:
        yield tr("Against the baseline, {term} shrank most, {span}.", term=_named(shrunk), span=told(shrunk))
    elif verdict == "slower" and changes[grown] > 0:
        yield tr("Against the baseline, {term} grew most, {span}.", term=_named(grown), span=told(grown))
    elif verdict != "faster" and change_s < least_s:
        yield tr("No speed-up was to be expected: what is read, computed and started is the same as in the baseline.")
    elif verdict != "faster" and changes[shrunk] < 0:
        yield from _little_to_gain(old, new, shrunk, told(shrunk))
    if verdict != "faster" and (held := _held_by_cache(baseline)):
        yield held


def _little_to_gain(old: Mapping[str, float], new: Mapping[str, float], saved: str, span: str) -> Iterator[str]:
    """Where a term shrank and the pass did not: how small it was beside the largest one left."""
    largest = max(new, key=new.__getitem__)
    was = units.percent(old.get(saved, 0.0) / sum(old.values()))
    yield tr(
        "Against the baseline, {term} shrank, {span}; it was {was} of its pass, and what is left is {rest}, {share}.",
        term=_named(saved),
        span=span,
        was=was,
        rest=_named(largest),
        share=units.percent(new[largest] / sum(new.values())),
    )


def _held_by_cache(baseline: Run) -> str:
    """Said of weights that already fit in the last-level cache, so that fewer bytes save little."""
    caches = baseline.machine.get("caches_bytes") or {}
    weights = baseline.build.get("weights_bytes")
    largest = max(caches.values(), default=0)
    if baseline.device != "cpu" or not weights or weights > largest:
        return ""
    return tr(
        "The baseline's weights, {weights}, already fit in this machine's last-level cache of {cache}: "
        "smaller ones are read at its rate, too, and save no trip to memory.",
        weights=units.size(weights),
        cache=units.size(largest),
    )


def _named(term: str) -> str:
    return tr(_TERMS.get(term, term))


def _seconds(prediction: Mapping[str, object]) -> dict[str, float]:
    terms = prediction.get("terms")
    return dict(terms) if isinstance(terms, Mapping) else {}
