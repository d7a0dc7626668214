"""Forecast: what can be said of a Recipe before it is measured: its bytes, the machine's limit, the predicted rate."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.bench.ceilings import known_ceilings
from labkit.bench.limit import limit, predict
from labkit.bench.link import known_link
from labkit.core.effort import EFFORTS
from labkit.core.errors import LabkitError
from labkit.core.machine import c_compiler, machine, usable_cores
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import REPLAYED_LAUNCHES_PER_LAYER, DecoderCost
from labkit.model.config import ModelConfig
from labkit.model.source import sizes_of
from labkit.optimizations import Bound, bind
from labkit.ui import units
from labkit.ui.language import tr
from labkit.ui.readings import value


@dataclass(frozen=True)
class Forecast:
    """A Recipe that is switched on, and what it should do; rates are of decoding, in tokens per second."""

    recipe: str
    device: str
    model: str
    workload_hash: str
    weights_bytes: float
    bound: str
    limit_per_s: float
    predicted_per_s: float

    def told(self, runs: Iterable[Run]) -> str:
        """The forecast as a sentence, with what the newest of these Runs measured of it."""
        measured = [run for run in runs if self._is_of(run) and value(run, "decode_tok_per_s") is not None]
        rate = units.rate(value(measured[-1], "decode_tok_per_s")) if measured else ""
        return tr(
            "{head}: weights {weights}; decoding is bound by {bound}, at most {limit} on this machine; "
            "{expected} are expected before what kernels add.",
            head=tr("Measured {rate}", rate=rate) if measured else tr("Not measured yet"),
            weights=units.size(self.weights_bytes),
            bound=tr(self.bound),
            limit=units.rate(self.limit_per_s),
            expected=units.rate(self.predicted_per_s),
        )

    def _is_of(self, run: Run) -> bool:
        seen = (run.recipe, run.device, run.model.get("name"), run.workload_hash, run.machine.get("fingerprint"))
        asked = (self.recipe, self.device, self.model, self.workload_hash, machine().fingerprint)
        can_compare = run.effort not in EFFORTS or EFFORTS[run.effort].can_compare  # a glance has measured nothing
        return run.is_valid and can_compare and seen == asked


def forecast(recipe: str, *, model: str, device: str, spec: WorkloadSpec, cache_folder: Path) -> Forecast | None:
    """What the cost model says of a Recipe; None without known sizes or ceilings, or without any decoding.

    Raises:
        UsageError: the Recipe is none, or none for this model.
    """
    bound = bind(recipe)
    try:
        sizes, ceilings = sizes_of(model), known_ceilings(device, cache_folder)
    except LabkitError:  # a device or a folder that is gone: measuring will say so, a forecast is only left out
        return None
    if sizes is None or ceilings is None or spec.new_tokens < 2:
        return None
    cost = cost_of(bound, sizes, spec, device)
    link = None
    if cost.num_ranks > 1:  # which share the cores
        ceilings = known_ceilings(device, cache_folder, max(1, usable_cores() // cost.num_ranks)) or ceilings
        link = known_link(f"{device}-{cost.num_ranks}", cache_folder)
    phases = cost.phases()
    most: Mapping[str, Any] = limit(phases, ceilings)
    return Forecast(
        recipe=bound.recipe.text,
        device=device,
        model=model,
        workload_hash=spec.hash,
        weights_bytes=cost.weights_bytes,
        bound=most["decode"]["bound"],
        limit_per_s=most["decode_tok_per_s"],
        predicted_per_s=predict(phases, ceilings, link=link)["decode_tok_per_s"],
    )


def cost_of(bound: Bound, sizes: ModelConfig, spec: WorkloadSpec, device: str) -> DecoderCost:
    """What a Recipe should need on a device, its decoding steps replayed where that can be had for them."""
    cost = bound.cost(DecoderCost.baseline(sizes, spec))
    has_replays = bool(c_compiler()) and not cost.is_compiled if device == "cpu" else cost.is_graphed
    is_here = cost.num_ranks == 1 and not cost.num_fetched_layers
    if has_replays and is_here and cost.is_cached and not cost.num_drafted:
        return replace(cost, decode_launches=REPLAYED_LAUNCHES_PER_LAYER)
    return cost
