"""Limit and prediction: the least time that physics allows a pass, and the time it should take with known overheads.

Limit: each step takes at least its bytes over the bandwidth of its working set, and at least its FLOPs over their rate.
Prediction: the limit's terms, what measured kernels take beyond them, and dispatch; it has a residual. Source of the
limit: Williams, Waterman and Patterson, Roofline: An Insightful Visual Performance Model (2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from labkit.bench.ceilings import Ceilings
from labkit.bench.link import Link
from labkit.core.cost import Cost, Phase

_SHARED_RATES = ("decode_tok_per_s", "output_tok_per_s")  # rates that a limit and a Run both state, the purer first


class Kernels(TypedDict):
    """What was timed of one step, in seconds: all linear layers together, and all that lies between them.

    `excess` is what the layers' time beyond the limit is called: `kernels`, `dequantization` where they write weights
    out as floats first, `emulation` of a dtype.
    """

    step_s: float
    excess: str
    between_s: float


def limit(cost: Cost, ceilings: Ceilings, *, prompt_tokens: int | None = None) -> dict[str, Any]:
    """The least time of a pass and the highest rates, as plain data; {} for a System that states no cost.

    Each phase by name: `{"seconds", "step_s", "bound"}` with bound "memory", "compute" or "link"; then `pass_s`,
    `output_tok_per_s`, `decode_tok_per_s` where there is decoding, `prefill_tok_per_s` where `prompt_tokens` of the
    whole pass are given, the `origin` of the ceilings and `is_calm`, whether nothing disturbed their measurement.
    """
    if not cost.phases:
        return {}
    phases: dict[str, Any] = {}
    for name, phase in cost.phases.items():
        roof = ceilings.others.get(phase.device, ceilings)
        seconds = {"memory": _memory_s(phase, roof), "compute": _compute_s(phase, roof), "link": _link_s(phase, roof)}
        bound = max(seconds, key=seconds.__getitem__)
        step_s = seconds[bound]
        phases[name] = {"seconds": phase.num_steps * step_s, "step_s": step_s, "bound": bound}
    rates = _rates(cost, {name: phase["seconds"] for name, phase in phases.items()}, prompt_tokens)
    return {**phases, **rates, "origin": ceilings.origin, "is_calm": ceilings.is_calm}


def predict(
    cost: Cost, ceilings: Ceilings, kernels: Mapping[str, Kernels] | None = None, link: Link | None = None
) -> dict[str, Any]:
    """The time a pass should take, as plain data, split into terms; {} for a System that states no cost.

    `kernels` holds by phase what the parts of a step were measured to take, where they were, and `link` what messages
    between ranks take.
    Each phase by name: `{"seconds", "terms"}`; then `terms` of the whole pass, `pass_s` and the rates of `limit`.
    Terms, in seconds: each kind of bytes over bandwidth (`weights`, `kv_cache`, …), `flops` by which arithmetic
    outlasts memory, `dispatch` of every operation, the time by which measured layers outlast weights and arithmetic,
    under the name that `Kernels` gives it, `between`, by which what lies between them outlasts the KV cache and
    dispatch, `communication` between ranks, and `transfer`, by which what crosses the link to a GPU outlasts the rest.
    A phase that is `told_as` one term has just that.
    Raises ValueError for ceilings without a dispatch cost: a datasheet gives limits only.
    """
    if ceilings.dispatch_s is None:
        raise ValueError(f"ceilings: {ceilings.name} ({ceilings.origin}) have no dispatch cost; expected measured ones")
    if not cost.phases:
        return {}
    phases: dict[str, Any] = {}
    for name, phase in cost.phases.items():
        roof = ceilings.others.get(phase.device, ceilings)
        terms = _step_terms(phase, roof, roof.dispatch_s or ceilings.dispatch_s, (kernels or {}).get(name))
        if link is not None and phase.num_messages:
            terms["communication"] = link.seconds(phase.num_messages, phase.communication_bytes)
        terms = {term: phase.num_steps * step_s for term, step_s in terms.items()}
        if phase.told_as:
            terms = {phase.told_as: sum(terms.values())}
        phases[name] = {"seconds": sum(terms.values()), "terms": terms}
    totals: dict[str, float] = {}
    for phase in phases.values():
        for term, seconds in phase["terms"].items():
            totals[term] = totals.get(term, 0.0) + seconds
    return {**phases, "terms": totals, **_rates(cost, {name: phase["seconds"] for name, phase in phases.items()}, None)}


def share(limit: Mapping[str, Any], metrics: Mapping[str, Any]) -> float | None:
    """Part of the limit that a Run's metrics reached (1 = all), on the decoding rate or else the output rate.

    None where the two have no rate in common.
    """
    return _ratio(metrics, limit)


def residual(prediction: Mapping[str, Any], metrics: Mapping[str, Any]) -> float | None:
    """Measured time over predicted time, minus 1: above 0 a Run took longer than the prediction explains."""
    ratio = _ratio(metrics, prediction)
    return None if ratio is None else 1 / ratio - 1


def _ratio(metrics: Mapping[str, Any], rates: Mapping[str, Any]) -> float | None:
    for name in _SHARED_RATES:
        if metrics.get(name) and rates.get(name):
            return float(metrics[name]["value"]) / float(rates[name])
    return None


def _step_terms(phase: Phase, ceilings: Ceilings, dispatch_s: float, kernels: Kernels | None) -> dict[str, float]:
    bandwidth = ceilings.bandwidth(phase.step_bytes)
    terms = {kind: num_bytes / bandwidth for kind, num_bytes in phase.bytes_by_kind.items()}
    terms["flops"] = max(0.0, _compute_s(phase, ceilings) - sum(terms.values()))
    terms["dispatch"] = phase.kernel_launches * dispatch_s
    if kernels is not None:
        layers_s = terms.get("weights", 0.0) + terms["flops"]
        between_s = terms.get("kv_cache", 0.0) + terms["dispatch"]
        terms[kernels["excess"]] = max(0.0, kernels["step_s"] - layers_s)
        terms["between"] = max(0.0, kernels["between_s"] - between_s)
    if phase.transfer_bytes:
        meanwhile_s = sum(terms.values()) if phase.is_overlapped else 0.0
        terms["transfer"] = max(0.0, _link_s(phase, ceilings) - meanwhile_s)
    return terms


def _memory_s(phase: Phase, ceilings: Ceilings) -> float:
    return phase.step_bytes / ceilings.bandwidth(phase.step_bytes)


def _link_s(phase: Phase, ceilings: Ceilings) -> float:
    """Of what crosses the link; nothing where its rate is not known."""
    return phase.transfer_bytes / ceilings.link_bytes_per_s if ceilings.link_bytes_per_s else 0.0


def _compute_s(phase: Phase, ceilings: Ceilings) -> float:
    return sum(flops / ceilings.flops(dtype) for dtype, flops in phase.flops_by_dtype.items())


def _rates(cost: Cost, seconds: Mapping[str, float], prompt_tokens: int | None) -> dict[str, float]:
    """`pass_s`, and tokens over the time of the phases that yield them; rates over no time are absent."""
    pass_s = sum(seconds.values())
    parts = {"output_tok_per_s": (sum(phase.num_outputs for phase in cost.phases.values()), pass_s)}
    if "decode" in cost.phases:  # phases of a draft model stand in its time
        decode_s = sum(time_s for name, time_s in seconds.items() if name != "prefill")
        parts["decode_tok_per_s"] = (cost.phases["decode"].num_outputs, decode_s)
    if "prefill" in cost.phases and prompt_tokens is not None:
        parts["prefill_tok_per_s"] = (prompt_tokens, seconds["prefill"])
    return {"pass_s": pass_s} | {name: num / time_s for name, (num, time_s) in parts.items() if time_s > 0}
