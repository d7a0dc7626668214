"""Comparison: Runs beside a baseline: verdict, ratios, quality, and share of the machine's limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from labkit.bench.compare import Decision, decide_pairs
from labkit.bench.limit import share
from labkit.core.inference import sign_flip_interval
from labkit.core.metrics import geometric_mean, pass_values
from labkit.core.run import Run

if TYPE_CHECKING:
    import pandas as pd

PROCESS_LUCK = math.log(1.05)
"""Log ratio of two lone processes of one recipe that is rarely exceeded; seen: 1 to 2 % of standard deviation each."""

_LOWER_IS_BETTER = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One Run beside the baseline.

    Attributes:
        decision: the verdict on `Comparison.metric`, None where the Run is refused; `refusal` then says why.
        ratios: metric → Estimate fields of candidate over baseline at 99 %, over the blocks; they decide nothing.
        quality: metric → {"baseline", "candidate"}, each None where it was not measured.
        limit_share: part of the machine's limit that the Run reached, None where there is none.
    """

    run_id: str
    recipe: str
    device: str
    decision: Decision | None
    refusal: str
    ratios: Mapping[str, Mapping[str, float | int]]
    quality: Mapping[str, Mapping[str, float | None]]
    limit_share: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs of one session beside their baseline.

    `metric` is what the verdicts are on: `output_tok_per_s`; `decode_tok_per_s` where some Run did fewer tokens a pass,
    since prefill would then weigh more in it; `requests_per_s` where requests are answered whole;
    `ttft_s` where requests share a prefix, which changes that alone;
    `e2e_s` under `server` load, which fixes the rate. A decision's ratio above 1 is always faster.
    """

    baseline: Run
    metric: str
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the baseline by its id."""
        return {"baseline_id": self.baseline.id, "metric": self.metric, "rows": [asdict(row) for row in self.rows]}

    def frame(self) -> pd.DataFrame:
        """One row a Run, the baseline first: verdict, ratio with its interval, share of the limit, quality, reason."""
        import pandas as pd

        first = {
            "recipe": self.baseline.label,
            "device": self.baseline.device,
            "verdict": "baseline",
            "limit_share": _limit_share(self.baseline),
            **self.baseline.quality,
        }
        return pd.DataFrame([first, *map(_frame_row, self.rows)], columns=self._columns())

    def _columns(self) -> list[str]:
        measured = ["recipe", "device", "verdict", "ratio", "low", "high", "p_adjusted", "num_blocks", "limit_share"]
        quality = dict.fromkeys(name for row in self.rows for name in row.quality) or dict.fromkeys(
            self.baseline.quality
        )
        return [*measured, *quality, "reason"]


def compare(runs: Sequence[Run]) -> Comparison:
    """Set Runs beside the first of them, the baseline.

    A Run that cannot be compared is refused, and the row says why: it is invalid or incomplete, it stems from another
    session, machine, model or workload, or the baseline has not all its blocks. If the baseline itself is invalid, all
    are. Verdicts are Holm-adjusted over those that remain. Raises ValueError without any Run.
    """
    if not runs:
        raise ValueError("runs: expected at least the baseline, got none")
    baseline, *candidates = runs
    refusals = [_refusal(baseline, run) for run in candidates]
    accepted = [run for run, refusal in zip(candidates, refusals, strict=True) if not refusal]
    metric = _metric([baseline, *accepted])
    decisions = decide_pairs(
        {run.id: (_speeds(_beside(baseline, run), metric), _speeds(run, metric)) for run in accepted},
        luck=PROCESS_LUCK if any(_is_of_one_process(run) for run in accepted) else 0.0,
    )
    rows = tuple(
        _row(baseline, run, decisions.get(run.id) if not refusal else None, refusal)
        for run, refusal in zip(candidates, refusals, strict=True)
    )
    return Comparison(baseline=baseline, metric=metric, rows=rows)


def _refusal(baseline: Run, run: Run) -> str:
    """Why the pair cannot be compared, or ''."""
    for name, one in (("baseline", baseline), ("run", run)):
        if one.faults:
            return f"the {name} is invalid ({', '.join(fault.code for fault in one.faults)})"
        if emulated := one.build.get("emulated"):
            return f"the {name} computes in {', '.join(emulated)}, which this processor only emulates: not ranked"
        if one.status != "done":
            return f"the {name} was {one.status}" + (f": {one.error}" if one.error else "")
    differences = (
        ("on another machine", run.machine.get("fingerprint"), baseline.machine.get("fingerprint")),
        ("with another model", run.model.get("hash"), baseline.model.get("hash")),
        ("on another workload", run.workload_hash, baseline.workload_hash),
        ("in another session, not interleaved with the baseline", run.group, baseline.group),
        ("in other blocks than the baseline", _blocks(run) or None, _blocks(_beside(baseline, run))),
    )
    for text, seen, expected in differences:
        if seen != expected:
            return f"measured {text}"
    metric = _metric([baseline, run])
    if not _speeds(run, metric) or not _speeds(baseline, metric):
        return f"a pass without {metric}"
    return ""


def _metric(runs: Sequence[Run]) -> str:
    if any(run.workload["scenario"] == "server" for run in runs):
        return "e2e_s"
    if any(run.workload.get("shared_prefix_tokens") for run in runs):
        return "ttft_s"
    if all("answered" in measured.trace.counters for run in runs for measured in run.passes):
        return "requests_per_s"
    return "output_tok_per_s" if len({run.token_share for run in runs}) == 1 else "decode_tok_per_s"


def _beside(baseline: Run, run: Run) -> Run:
    """The baseline in the blocks of `run` only: where memory holds just a pair, each pair has blocks of its own."""
    blocks = set(_blocks(run))
    return replace(baseline, passes=tuple(measured for measured in baseline.passes if measured.block in blocks))


def _is_of_one_process(run: Run) -> bool:
    return len({measured.process for measured in run.passes}) == 1


def _blocks(run: Run) -> tuple[int, ...]:
    return tuple(sorted(measured.block for measured in run.passes))


def _values(run: Run) -> list[dict[str, float]]:
    """Metrics of each pass, in block order."""
    passes = sorted(run.passes, key=lambda measured: measured.block)
    return [pass_values(measured.trace, scenario=run.workload["scenario"]) for measured in passes]


def _speeds(run: Run, metric: str) -> list[float]:
    """What the verdict is on, higher is faster; empty unless every pass has it.

    One value a block; where the blocks are spread over several processes, the geometric mean of each process, since
    blocks of one process are no independent observations of the recipe (Kalibera and Jones, Rigorous Benchmarking in
    Reasonable Time, 2013).
    """
    values = _values(run)
    if not all(metric in value for value in values):
        return []
    speeds = [1 / value[metric] if metric in _LOWER_IS_BETTER else value[metric] for value in values]
    processes = [measured.process for measured in sorted(run.passes, key=lambda measured: measured.block)]
    if len(set(processes)) == 1:
        return speeds
    return [
        geometric_mean([speed for speed, process in zip(speeds, processes, strict=True) if process == one]).value
        for one in dict.fromkeys(processes)
    ]


def _row(baseline: Run, run: Run, decision: Decision | None, refusal: str) -> Row:
    return Row(
        run_id=run.id,
        recipe=run.recipe,
        device=run.device,
        decision=decision,
        refusal=refusal,
        ratios={} if decision is None else _ratios(_values(_beside(baseline, run)), _values(run)),
        quality={
            name: {"baseline": baseline.quality.get(name), "candidate": run.quality.get(name)}
            for name in {**baseline.quality, **run.quality}
        },
        limit_share=_limit_share(run),
    )


def _ratios(baseline: Sequence[Mapping[str, float]], run: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Candidate over baseline for each metric that every pass of both has and that is above 0 in all."""
    ratios = {}
    for name in baseline[0]:
        pairs = [
            (ours.get(name, 0.0), theirs[name]) for ours, theirs in zip(run, baseline, strict=True) if name in theirs
        ]
        if len(pairs) == len(run) and all(min(pair) > 0 for pair in pairs):
            estimate = sign_flip_interval([math.log(ours / theirs) for ours, theirs in pairs])
            ends = {end: math.exp(getattr(estimate, end)) for end in ("value", "low", "high")}
            ratios[name] = estimate.to_dict() | ends
    return ratios


def _limit_share(run: Run) -> float | None:
    return share(run.limit, run.metrics) if run.limit else None


def _frame_row(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "recipe": row.recipe or "baseline",
        "device": row.device,
        "limit_share": row.limit_share,
        **{name: pair["candidate"] for name, pair in row.quality.items()},
    }
    if row.decision is None:
        return fields | {"verdict": "refused", "reason": row.refusal}
    decision, ratio = row.decision, row.decision.ratio
    return fields | {
        "verdict": decision.verdict,
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "p_adjusted": decision.p_adjusted,
        "num_blocks": decision.num_blocks,
        "reason": decision.reason,
    }
