"""What Runs say, in sentences: verdicts first, then why, then what was proven of the output."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labkit.bench.comparison import Comparison, Row
from labkit.core.run import Run
from labkit.ui import classification, units
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
    devices = " and ".join(dict.fromkeys(run.device for run in runs))
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
    return (*found, Sentence("recall@10", f": {cost}", "tradeoff")) if cost else found


def _verdict(name: str, run: Run, row: Row | None, measure: str | None, *, metric: str, is_baseline: bool) -> Sentence:
    if run.status != "done":
        return Sentence(
            name, f" was not measured to the end ({run.status}): {run.error or 'no reason known'}.", "invalid"
        )
    if run.faults:
        return Sentence(name, f" is not compared. {' '.join(f'{fault.text}.' for fault in run.faults)}", "invalid")
    if row is not None and row.decision is None:
        return Sentence(name, f" is not compared: {row.refusal}.", "refused")
    facts = [*_quality(run, measure), *_limit(run)]
    if row is None or row.decision is None:
        role = " (the baseline)" if is_baseline and run.recipe else ""
        return Sentence(name, f"{role}: {'; '.join([rate_of([run]).text(run), *facts])}.", "baseline")
    ratio, verdict = row.decision.ratio, row.decision.verdict
    shown = f"{units.ratio(ratio.value)} {_METRICS.get(metric, metric)} {units.interval(ratio.low, ratio.high)}"
    if verdict == "cannot tell":
        facts.append(row.decision.reason)
    return Sentence(name, f" {'; '.join([f'{_VERDICTS[verdict]}: {shown}', *facts])}.", verdict.replace(" ", "-"))


def _quality(run: Run, measure: str | None) -> Iterator[str]:
    if measure is not None and measure in run.quality:
        yield f"{QUALITY[measure].title} {QUALITY[measure].form(run.quality[measure])}"
    if len(scores := classification.scores_of(run)) > 1:
        yield classification.verdict(scores)


def _limit(run: Run) -> Iterator[str]:
    share = share_of_limit(run)
    if share is not None:
        yield f"{units.percent(share)} of the machine's limit"


def proofs(runs: Sequence[Run]) -> tuple[str, ...]:
    """For every Run, what is known of its output: the equality proof, and each quality figure."""
    names = labels(runs)
    return tuple(f"{names[run.id]}: {_proof(run.proof)}{_qualities(run)}." for run in runs if run.status == "done")


def _proof(proof: Mapping[str, object] | None) -> str:
    if proof is None:
        return "no exact technique, so nothing to prove"
    sample = f"{proof['num_prompts']} prompts, {proof['num_tokens']} tokens in fp32"
    if not proof["is_equal"]:
        return f"exact techniques change the output ({sample}, {proof['num_diverged']} diverged)"
    accepted = proof["num_diverged"]
    tail = f", {accepted} diverged at a tie within rounding" if accepted else ", none diverged"
    return f"exact techniques leave the greedy output unchanged ({sample}{tail})"


def _qualities(run: Run) -> str:
    shown = [f"{facts.title} {facts.form(run.quality[name])}" for name, facts in QUALITY.items() if name in run.quality]
    return f"; {', '.join(shown)}" if shown else ""
