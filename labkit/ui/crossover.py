"""Crossovers: from which batch or length on a technique should pay, and where it should stop to.

The cost model is asked, not the clock: at each size the predicted pass with the technique stands against the pass
without it, on the ceilings that were measured here. What kernels take beyond those limits is known only where they ran.
"""

from collections.abc import Callable, Sequence
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
from labkit.ui.forecast import cost_of

LEAST_GAIN = 1.02
"""Predicted ratio above which a technique counts as paying; less could not be told from noise."""

_BASIS = "By bytes, arithmetic and dispatch alone"  # what slow kernels add is in the Run's own terms

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
        span = f"{self.axis} {self.sizes[0]:,} to {self.sizes[-1]:,}"
        if not any(pays):
            return f"{_BASIS}, {self.technique} should not pay at any {span}."
        if all(pays):
            return f"{_BASIS}, {self.technique} should pay at every {span}: {self._factors()}."
        changes = [
            f"{'starts' if now else 'stops'} to pay at {self.axis} {size:,}"
            for before, now, size in zip(pays, pays[1:], self.sizes[1:], strict=False)
            if before != now
        ]
        return f"{_BASIS}, {self.technique} {' and '.join(changes)}: {self._factors()}."

    def _factors(self) -> str:
        return f"{self.gains[0]:.2f}× at {self.sizes[0]:,}, {self.gains[-1]:.2f}× at {self.sizes[-1]:,}"


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
