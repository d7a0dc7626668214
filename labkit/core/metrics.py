"""Metrics: what the event logs of a Run's passes say, as one number per pass or as estimates over all of them.

    ttft_s             intended arrival → first output
    queue_s            intended arrival → work on it began; the part of ttft_s that was waiting
    prefill_s          work on it began → first output; the rest of ttft_s
    itl_s              every gap between consecutive outputs of a request, pooled
    tpot_s             (done − first output) / (outputs − 1), one value per request
    e2e_s              intended arrival → last output
    output_tok_per_s   outputs over the pass, or over its steady window under open-loop load
    requests_per_s     requests done over the same time
    prefill_tok_per_s  prompt tokens over the time in which some request was in prefill
    decode_tok_per_s   outputs after each request's first over the time in which some request was in decode
    acceptance_rate    guessed outputs that were kept, over all guessed ones (speculative decoding only)
    tokens_per_step    outputs after the first over the steps that a request took for them (likewise)
    prefix_hit_rate    prompt tokens that were copied and not computed, over all of them (prefix cache only)
    prefix_bytes       most that stored prefixes took at the end of a pass (likewise)
    communication_share  time that a process spent on messages to others, over the pass (split models only)
    communication_bytes  bytes that a process sent for an output (likewise)
    bubble_share       time that a process of a pipeline waited for others, over the pass (pipelines only)
    batch_mean         sequences in a decoding step (only where several ran together, as the next three)
    padding_rate       rows computed for prompts that were padding, over all of them
    vectorize_share    time spent on making vectors of texts, over the pass (text similarity only)
    scheduling_share   time spent on deciding what a step computes, over the pass
    preemptions        requests of a pass that gave their memory back and were computed again (continuous batching)

The rates of prefill and decode count time once however many requests share it: for a batch it is the time from the
earliest first output to the last one, for requests one after another the sum of theirs. What is undefined is absent,
never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

from labkit.core.inference import sign_flip_interval
from labkit.core.stats import (
    MIN_GROUPS,
    Estimate,
    bootstrap,
    missing_pooled_samples,
    missing_samples,
    percentile,
    pooled_percentile,
)
from labkit.core.trace import RequestTrace, Trace
from labkit.core.workload import Scenario

PERCENTILES = (50, 90, 95, 99)

RATES = ("output_tok_per_s", "requests_per_s", "prefill_tok_per_s", "decode_tok_per_s")
"""Metrics of a whole pass, of which more is better."""

LATENCIES: dict[str, Callable[[RequestTrace], list[float]]] = {
    "ttft_s": lambda request: [request.output_s[0] - request.arrival_s],
    "queue_s": lambda request: [request.scheduled_s - request.arrival_s],
    "prefill_s": lambda request: [request.output_s[0] - request.scheduled_s],
    "itl_s": lambda request: [later - earlier for earlier, later in pairwise(request.output_s)],
    "tpot_s": lambda request: _time_per_output(request.output_s),
    "e2e_s": lambda request: [request.output_s[-1] - request.arrival_s],
}
"""Metrics of a request, of which less is better: the values that one request with outputs contributes."""

_PASS_LATENCIES = ("ttft_s", "tpot_s", "e2e_s")


def pass_values(trace: Trace, *, scenario: Scenario = "offline") -> dict[str, float]:
    """One number per metric for one pass: its rates, and the median of `ttft_s`, `tpot_s` and `e2e_s` over requests.

    Under `server` load `output_tok_per_s` and `requests_per_s` hold for the steady window: from the first output to
    the last arrival, while there was both load and work done. Absent: a metric without data, or over no time at all.
    """
    served = [request for request in trace.requests if request.output_s]
    start_s, end_s = 0.0, trace.duration_s
    if served and scenario == "server":
        start_s = min(request.output_s[0] for request in served)
        end_s = max(request.arrival_s for request in trace.requests)
    num_outputs = sum(start_s < at <= end_s for request in served for at in request.output_s)
    is_answered = "answered" in trace.counters  # whole requests: one output each, and no tokens
    num_done = sum(start_s < request.output_s[-1] <= end_s for request in served)
    rates = {
        "output_tok_per_s": (num_outputs, end_s - start_s),
        "requests_per_s": (num_done, end_s - start_s),
        "prefill_tok_per_s": (
            sum(request.prompt_tokens for request in served),
            _covered((request.scheduled_s, request.output_s[0]) for request in served),
        ),
        "decode_tok_per_s": (
            sum(len(request.output_s) - 1 for request in served),
            _covered((request.output_s[0], request.output_s[-1]) for request in served),
        ),
    }
    values = {name: count / time_s for name, (count, time_s) in rates.items() if count > 0 and time_s > 0}
    if is_answered:
        values.pop("output_tok_per_s", None)
    for name in ("e2e_s",) if is_answered else _PASS_LATENCIES:
        samples = [value for request in served for value in LATENCIES[name](request)]
        if samples:
            values[name] = median(samples)
    return values


def summarize(traces: Sequence[Trace], *, scenario: Scenario = "offline") -> dict[str, Any]:
    """Estimates over all passes, as plain data.

    - `NAME`: for each metric of `pass_values`, the geometric mean over passes with its sign-flip interval, as
      `Estimate.to_dict()`. Absent unless every pass has it. Few passes lower the stated level, not the width.
    - `NAME.p50`, `.p90`, `.p95`, `.p99`: for each latency, the percentile over requests (`itl_s`: over gaps), or None
      where it, or one below it, is withheld for want of samples. Absent where there is no sample at all.
    - `NAME.missing`: `{"p90": 12}`, about how many more samples each withheld percentile needs, more where those of
      a request or pass are alike. Absent where none is withheld.
    - `vectorize_share`: `{"value": x}`, counted over all passes. Absent where queries come as vectors, or are none.
    - `acceptance_rate`, `tokens_per_step`: `{"value": x}`, counted over all passes. Absent where nothing was guessed.
    - `prefix_hit_rate`, `prefix_bytes`: `{"value": x}`, counted over all passes. Absent where no prefixes are kept.
    - `communication_share`, `communication_bytes`, `bubble_share`: likewise. Absent where one process does it all.
    - `batch_mean`, `padding_rate`, `preemptions`, `scheduling_share`: `{"value": x}`, counted over all passes:
      sequences in a decoding step; the share of rows computed for prompts that are padding; preemptions in a pass; the
      share of the time spent on scheduling. Absent where no two sequences ever ran together.

    Requests of one pass are alike (they share a batch or a queue), and so are the gaps of one request. From 8 passes
    (requests) on, intervals account for that; a median of single values is bootstrapped. See `core.stats`.
    """
    per_pass = [pass_values(trace, scenario=scenario) for trace in traces]
    metrics: dict[str, Any] = {}
    for name in (*RATES, *_PASS_LATENCIES):
        values = [passed[name] for passed in per_pass if name in passed]
        if values and len(values) == len(traces):
            metrics[name] = geometric_mean(values).to_dict()
    is_answered = any("answered" in trace.counters for trace in traces)
    for name, samples_of in {"e2e_s": LATENCIES["e2e_s"]}.items() if is_answered else LATENCIES.items():
        by_request = [[samples_of(request) for request in trace.requests if request.output_s] for trace in traces]
        if name == "itl_s":
            groups = [gaps for requests in by_request for gaps in requests if gaps]
        else:
            groups = [group for requests in by_request if (group := [value for one in requests for value in one])]
        if groups:
            metrics |= _percentiles(name, groups)
    return (
        metrics
        | _vectorizing(traces)
        | _speculation(traces)
        | _prefixes(traces)
        | _batching(traces)
        | _communication(traces)
    )


def geometric_mean(values: Sequence[float], *, level: float = 0.95) -> Estimate:
    """Geometric mean of positive values `[n]`, one per pass, with the interval of `sign_flip_interval`.

    Raises ValueError for an empty sequence and values that are not positive.
    """
    estimate = sign_flip_interval([math.log(value) for value in values], level=level)
    return replace(estimate, value=math.exp(estimate.value), low=math.exp(estimate.low), high=math.exp(estimate.high))


def _percentiles(name: str, groups: list[list[float]]) -> dict[str, Any]:
    samples = [value for group in groups for value in group]
    is_grouped = name == "itl_s" or (len(groups) >= MIN_GROUPS and len(samples) > len(groups))
    metrics: dict[str, Any] = {}
    missing: dict[str, int] = {}
    for q in PERCENTILES:
        if is_grouped:
            estimate = pooled_percentile(groups, q)
        else:
            estimate = bootstrap(samples, "median") if q == 50 else percentile(samples, q)
        if missing:  # a sample that cannot tell a percentile does not get to tell a rarer one
            estimate = None
        metrics[f"{name}.p{q}"] = None if estimate is None else estimate.to_dict()
        if estimate is None:
            lacking = missing_pooled_samples(groups, q) if is_grouped else missing_samples(len(samples), q)
            missing[f"p{q}"] = max(1, lacking, *missing.values())
    return metrics | ({f"{name}.missing": missing} if missing else {})


def _vectorizing(traces: Sequence[Trace]) -> dict[str, Any]:
    counted = [trace for trace in traces if "vectorize_s" in trace.counters]
    if not counted:
        return {}
    seconds = sum(trace.counters["vectorize_s"] for trace in counted)
    return {"vectorize_share": {"value": seconds / sum(trace.duration_s for trace in counted)}}


def _speculation(traces: Sequence[Trace]) -> dict[str, Any]:
    drafted, accepted = (sum(trace.counters.get(name, 0.0) for trace in traces) for name in ("drafted", "accepted"))
    if not drafted:
        return {}
    num_outputs = sum(max(0, len(request.output_s) - 1) for trace in traces for request in trace.requests)
    num_steps = num_outputs - accepted  # each gives one token of the model's own beside those that were accepted
    return {"acceptance_rate": {"value": accepted / drafted}, "tokens_per_step": {"value": num_outputs / num_steps}}


def _prefixes(traces: Sequence[Trace]) -> dict[str, Any]:
    counted = [trace.counters for trace in traces if trace.counters.get("prompt_tokens")]
    if not counted:
        return {}
    hits, tokens = (sum(counters[name] for counters in counted) for name in ("prefix_hit_tokens", "prompt_tokens"))
    most = max(counters["prefix_bytes"] for counters in counted)
    return {"prefix_hit_rate": {"value": hits / tokens}, "prefix_bytes": {"value": most}}


def _communication(traces: Sequence[Trace]) -> dict[str, Any]:
    counted = [trace for trace in traces if "communication_s" in trace.counters]
    num_outputs = sum(trace.num_outputs for trace in counted)
    if not num_outputs:
        return {}
    totals = {name: sum(trace.counters.get(name, 0.0) for trace in counted) for name in counted[0].counters}
    duration_s = sum(trace.duration_s for trace in counted)
    shares = {"communication_share": "communication_s", "bubble_share": "bubble_s"}
    metrics = {share: {"value": totals[name] / duration_s} for share, name in shares.items() if name in totals}
    return metrics | {"communication_bytes": {"value": totals["communication_bytes"] / num_outputs}}


def _batching(traces: Sequence[Trace]) -> dict[str, Any]:
    counts: dict[str, float] = {}
    for trace in traces:
        for name, count in trace.counters.items():
            counts[name] = counts.get(name, 0.0) + count
    if counts.get("decoded", 0.0) <= counts.get("decoding_steps", 0.0):
        return {}
    values = {
        "batch_mean": counts["decoded"] / counts["decoding_steps"],
        "scheduling_share": counts["scheduling_s"] / sum(trace.duration_s for trace in traces),
    }
    if counts["prompt_rows"]:
        values["padding_rate"] = counts["padding_rows"] / counts["prompt_rows"]
    if "preemptions" in counts:
        values["preemptions"] = counts["preemptions"] / len(traces)
    return {name: {"value": value} for name, value in values.items()}


def _time_per_output(output_s: Sequence[float]) -> list[float]:
    return [(output_s[-1] - output_s[0]) / (len(output_s) - 1)] if len(output_s) > 1 else []


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans (start, end) on the time axis."""
    covered, reach = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return covered
