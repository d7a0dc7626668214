"""Crossovers: from which batch or length on a technique should pay, and where it should stop to.

The cost model is asked, not the clock: at each size the predicted pass with the technique stands against the pass
without it, on the ceilings that were measured here. What kernels take beyond those limits is known only where they ran.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labkit.bench.ceilings import Ceilings, known_ceilings
from labkit.bench.limit import predict
from labkit.core.errors import LabkitError
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.model.config import ModelConfig
from labkit.model.source import sizes_of
from labkit.optimizations import Bound, Optimization, Slot, bind
from labkit.ui import units
from labkit.ui.forecast import cost_of
from labkit.ui.language import tr

LEAST_GAIN = 1.02
"""Predicted ratio above which a technique counts as paying; less could not be told from noise."""

SIZES = tuple(2**power for power in range(11))


@dataclass(frozen=True)
class Crossover:
    """Where a technique's predicted gain along one axis starts and ends.

    `gains` holds the predicted ratio of pass times, without over with, at each of `sizes`.
    """

    technique: str
    axis: str
    sizes: tuple[int, ...]
    gains: tuple[float, ...]

    @property
    def text(self) -> str:
        """The finding in one sentence."""
        pays = [gain >= LEAST_GAIN for gain in self.gains]
        return tr(
            "By bytes, arithmetic and dispatch alone, {technique} {told}{factors}.",  # not by what slow kernels add
            technique=self.technique,
            told=tr(", ").join(self._changes(pays)) or self._throughout(is_paying=pays[0]),
            factors=self._factors() if any(pays) else "",
        )

    def _changes(self, pays: Sequence[bool]) -> Iterator[str]:
        for before, now, size in zip(pays, pays[1:], self.sizes[1:], strict=False):
            if before != now:
                told = "starts to pay at {axis} {size}" if now else "stops to pay at {axis} {size}"
                yield tr(told, axis=tr(self.axis), size=units.count(size))

    def _throughout(self, *, is_paying: bool) -> str:
        always, never = "should pay at every {axis} {low} to {high}", "should not pay at any {axis} {low} to {high}"
        low, high = (units.count(self.sizes[at]) for at in (0, -1))
        return tr(always if is_paying else never, axis=tr(self.axis), low=low, high=high)

    def _factors(self) -> str:
        first, last = (f"{self.gains[at]:.2f}" for at in (0, -1))
        low, high = (units.count(self.sizes[at]) for at in (0, -1))
        return tr(": {first}× at {low}, {last}× at {high}", first=first, last=last, low=low, high=high)


def crossovers(run: Run, cache_folder: Path) -> tuple[Crossover, ...]:
    """For each technique of the Run, its predicted gain by batch and by prompt length; () where sizes are not known."""
    try:
        bound, sizes = bind(run.recipe), sizes_of(str(run.model.get("name", "")))
        ceilings = known_ceilings(run.device, cache_folder)
    except LabkitError:  # a peer, or a model, device or folder that is gone
        return ()
    if sizes is None or ceilings is None or ceilings.dispatch_s is None:
        return ()
    spec = WorkloadSpec(**run.workload)
    if spec.scenario == "server":
        return ()  # an open load fixes the rate, whatever a pass takes
    most = sizes.max_positions - spec.new_tokens
    axes: dict[str, tuple[Sequence[int], Callable[[int], WorkloadSpec]]] = {
        "batch": (SIZES, lambda size: spec.uniform("offline", num_requests=size)),
        "prompt length": (
            [size for size in SIZES[4:] if size <= most],
            lambda size: replace(spec, prompt_tokens=size, min_prompt_tokens=None, turns=1, replay=()),
        ),
    }
    found = []
    for optimization in bound.optimizations:
        without = _without(bound, optimization)
        for axis, (points, at) in axes.items():
            gains = [
                _pass_s(without, sizes, at(size), run.device, ceilings)
                / _pass_s(bound, sizes, at(size), run.device, ceilings)
                for size in points
            ]
            if gains:
                found.append(Crossover(optimization.name, axis, tuple(points), tuple(gains)))
    return tuple(found)


def _without(bound: Bound, left_out: Optimization) -> Bound:
    """The others, less those that cannot do without it."""
    return Bound(
        tuple(
            optimization
            for optimization in bound.optimizations
            if optimization is not left_out and left_out.name not in optimization.partners
        )
    )


def _pass_s(bound: Bound, sizes: ModelConfig, spec: WorkloadSpec, device: str, ceilings: Ceilings) -> float:
    """Predicted seconds of a pass; requests sent at once run as one batch."""
    cost = cost_of(bound, sizes, spec, device)
    if spec.scenario == "offline" and not any(one.slot is Slot.SCHEDULER for one in bound.optimizations):
        cost = replace(cost, batch=spec.num_requests)
    return float(predict(cost.phases(), ceilings)["pass_s"])
