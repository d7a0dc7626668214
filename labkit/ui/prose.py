"""What Runs say, in sentences: verdicts first, then why, then what was proven of the output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labkit.bench.comparison import Comparison, Row
from labkit.core.run import Run
from labkit.ui import classification, units
from labkit.ui.language import retold, retold_fault, tr
from labkit.ui.readings import QUALITY, labels, quality_measure, rate_of, share_of_limit
from labkit.ui.tradeoff import tradeoff

_VERDICTS = {
    "faster": "is faster than the baseline",
    "slower": "is slower than the baseline",
    "same": "is as fast as the baseline",
    "cannot tell": "may or may not be faster than the baseline, these blocks cannot tell",
}
_METRICS = {
    "output_tok_per_s": "its output rate",
    "decode_tok_per_s": "its decode rate",
    "requests_per_s": "its queries per second",
    "ttft_s": "its speed to the first token",
    "e2e_s": "its speed by end-to-end latency",
}


@dataclass(frozen=True)
class Sentence:
    """What is said of a Run: its name, the rest of the sentence, and the verdict, which a page may colour it by."""

    name: str
    rest: str
    kind: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.name}{self.rest}"


def title(runs: Sequence[Run]) -> str:
    """What a session measured: model, workload, devices."""
    devices = tr(" and ").join(dict.fromkeys(run.device for run in runs))
    return f"{runs[0].model.get('name', '')} · {runs[0].workload.get('name', '')} · {devices}"


def verdicts(runs: Sequence[Run], comparison: Comparison | None) -> tuple[Sentence, ...]:
    """The verdict on every Run beside the baseline; what cannot be used says so. Last, what speed costs a search."""
    names = labels(runs)
    rows = {row.run_id: row for row in comparison.rows} if comparison else {}
    baseline_id = comparison.baseline.id if comparison else None
    metric = comparison.metric if comparison else ""
    measure = quality_measure(runs)
    found = tuple(
        _verdict(names[run.id], run, rows.get(run.id), measure, metric=metric, is_baseline=run.id == baseline_id)
        for run in runs
    )
    cost = tradeoff(runs)
    return (*found, Sentence("recall@10", tr(": {told}", told=cost), "tradeoff")) if cost else found


def _verdict(name: str, run: Run, row: Row | None, measure: str | None, *, metric: str, is_baseline: bool) -> Sentence:
    if run.status != "done":
        why = retold(run.error) if run.error else tr("no reason known")
        rest = tr(" was not measured to the end ({status}): {why}.", status=tr(run.status), why=why)
        return Sentence(name, rest, "invalid")
    if run.faults:
        faults = tr(" ").join(tr("{fault}.", fault=retold_fault(fault)) for fault in run.faults)
        return Sentence(name, tr(" is not compared. {faults}", faults=faults), "invalid")
    if row is not None and row.decision is None:
        return Sentence(name, tr(" is not compared: {why}.", why=retold(row.refusal)), "refused")
    facts = [*_quality(run, measure), *_limit(run)]
    if row is None or row.decision is None:
        role = tr(" (the baseline)") if is_baseline and run.recipe else ""
        told = tr("; ").join([rate_of([run]).text(run), *facts])
        return Sentence(name, tr("{role}: {told}.", role=role, told=told), "baseline")
    ratio, verdict = row.decision.ratio, row.decision.verdict
    shown = tr(
        "{ratio} {metric} {interval}",
        ratio=units.ratio(ratio.value),
        metric=tr(_METRICS.get(metric, metric)),
        interval=units.interval(ratio.low, ratio.high),
    )
    if verdict == "cannot tell":
        facts.append(retold(row.decision.reason))
    told = tr("; ").join([shown, *facts])
    return Sentence(
        name, tr(" {verdict}: {told}.", verdict=tr(_VERDICTS[verdict]), told=told), verdict.replace(" ", "-")
    )


def _quality(run: Run, measure: str | None) -> Iterator[str]:
    if measure is not None and measure in run.quality:
        yield f"{tr(QUALITY[measure].title)} {QUALITY[measure].form(run.quality[measure])}"
    if len(scores := classification.scores_of(run)) > 1:
        yield classification.verdict(scores)


def _limit(run: Run) -> Iterator[str]:
    share = share_of_limit(run)
    if share is not None:
        yield tr("{share} of the machine's limit", share=units.percent(share))


def proofs(runs: Sequence[Run]) -> tuple[str, ...]:
    """For every Run, what is known of its output: the equality proof, and each quality figure."""
    names = labels(runs)
    return tuple(
        tr("{name}: {told}.", name=names[run.id], told=_proof(run.proof) + _qualities(run))
        for run in runs
        if run.status == "done"
    )


def _proof(proof: Mapping[str, object] | None) -> str:
    if proof is None:
        return tr("no exact technique, so nothing to prove")
    sample = tr("{prompts} prompts, {tokens} tokens in fp32", prompts=proof["num_prompts"], tokens=proof["num_tokens"])
    if not proof["is_equal"]:
        num = proof["num_diverged"]
        return tr("exact techniques change the output ({sample}, {num} diverged)", sample=sample, num=num)
    accepted = proof["num_diverged"]
    tail = tr(", {num} diverged at a tie within rounding", num=accepted) if accepted else tr(", none diverged")
    return tr("exact techniques leave the greedy output unchanged ({sample}{tail})", sample=sample, tail=tail)


def _qualities(run: Run) -> str:
    shown = [
        f"{tr(facts.title)} {facts.form(run.quality[name])}" for name, facts in QUALITY.items() if name in run.quality
    ]
    return tr("; ") + tr(", ").join(shown) if shown else ""
