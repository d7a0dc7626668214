"""The catalog of techniques: one file each, in the order of the book; and `bind`, which gives a Recipe its meaning."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

from labkit.core.errors import Unavailable, UsageError
from labkit.core.recipe import Recipe, Step
from labkit.optimizations.base import Blueprint, Context, Need, Optimization, Slot, knob
from labkit.optimizations.compile import Compile
from labkit.optimizations.continuous_batching import ContinuousBatching
from labkit.optimizations.dynamic_batching import DynamicBatching
from labkit.optimizations.fold_embedding import FoldEmbedding
from labkit.optimizations.kv_cache import KvCache
from labkit.optimizations.low_rank import LowRank
from labkit.optimizations.offload import Offload
from labkit.optimizations.pipeline_parallel import PipelineParallel
from labkit.optimizations.precision import Precision
from labkit.optimizations.prefill_on_gpu import PrefillOnGpu
from labkit.optimizations.prefix_cache import PrefixCache
from labkit.optimizations.preload import Preload
from labkit.optimizations.prune import Prune
from labkit.optimizations.quantize import Quantize
from labkit.optimizations.query_batching import QueryBatching
from labkit.optimizations.replicas import Replicas
from labkit.optimizations.rnn_batching import RnnBatching
from labkit.optimizations.rnn_cell import RnnCell
from labkit.optimizations.rnn_precision import RnnPrecision
from labkit.optimizations.rnn_prune import RnnPrune
from labkit.optimizations.rnn_runtime import RnnRuntime
from labkit.optimizations.speculative import Speculative
from labkit.optimizations.static_batching import StaticBatching
from labkit.optimizations.tensor_parallel import TensorParallel
from labkit.optimizations.threads import Threads
from labkit.optimizations.truncated_svd import TruncatedSvd
from labkit.optimizations.vector_precision import VectorPrecision

if TYPE_CHECKING:
    from labkit.engine.cost import DecoderCost

Settings = TypeVar("Settings")

__all__ = ["CATALOG", "Blueprint", "Bound", "Context", "Need", "Optimization", "Slot", "bind", "knob", "techniques"]

CATALOG: tuple[type[Optimization], ...] = (
    Prune,
    LowRank,
    Quantize,
    Precision,
    KvCache,
    PrefixCache,
    Preload,
    StaticBatching,
    DynamicBatching,
    ContinuousBatching,
    Speculative,
    TensorParallel,
    PipelineParallel,
    Offload,
    PrefillOnGpu,
    Threads,
    Compile,
    Replicas,
    TruncatedSvd,
    VectorPrecision,
    QueryBatching,
    RnnCell,
    RnnPrune,
    RnnRuntime,
    FoldEmbedding,
    RnnPrecision,
    RnnBatching,
)
"""Every technique, in the order its hooks run and tables list it."""


def techniques(system: str = "engine") -> tuple[type[Optimization], ...]:
    """Techniques that serve a System, in catalog order."""
    return tuple(kind for kind in CATALOG if system in kind.systems)


@dataclass(frozen=True)
class Bound:
    """A validated Recipe: its optimizations in catalog order."""

    optimizations: tuple[Optimization, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The canonical Recipe: catalog order, knobs at their default left out."""
        return Recipe(tuple(optimization.step for optimization in self.optimizations))

    @property
    def exact(self) -> "Bound":
        """Just the techniques whose output must be identical, as a proof runs them."""
        return Bound(tuple(optimization.provable for optimization in self.optimizations if optimization.is_exact))

    def cost(self, cost: "DecoderCost") -> "DecoderCost":
        """What all techniques together make of the baseline's cost."""
        return reduce(lambda cost, optimization: optimization.cost(cost), self.optimizations, cost)

    def settings(self, settings: Settings) -> Settings:
        """What all techniques together make of a text System's settings."""
        return reduce(lambda settings, optimization: optimization.settle(settings), self.optimizations, settings)

    @contextmanager
    def process(self) -> Iterator[dict[str, Any]]:
        """Process-wide state of all techniques; yields the values read back."""
        with ExitStack() as stack:
            facts: dict[str, Any] = {}
            for optimization in self.optimizations:
                facts |= stack.enter_context(optimization.process())
            yield facts


def bind(recipe: Recipe | str, *, system: str = "engine") -> Bound:
    """Validate a Recipe for a System and give its optimizations, in catalog order.

    Raises:
        UsageError: an unknown technique or knob, a value out of range, two in a one-of slot, a conflict, a missing
        partner. Unavailable: the machine lacks what a technique needs.
    """
    if isinstance(recipe, str):
        recipe = Recipe.parse(recipe)
    known = {optimization.name: optimization for optimization in techniques(system)}
    for name in recipe.names:
        if name not in known:
            raise UsageError.unknown("optimization", name, known)
    steps = {step.name: step for step in recipe.steps}
    chosen = tuple(_make(kind, steps[kind.name]) for kind in known.values() if kind.name in steps)
    for optimization in chosen:
        _check(optimization, chosen)
    return Bound(chosen)


def _make(kind: type[Optimization], step: Step) -> Optimization:
    knobs = [field.name for field in fields(kind)]
    for key, _ in step.knobs:
        if key not in knobs:
            raise UsageError.unknown(f"knob of {kind.name}", key, knobs)
    values = dict(step.knobs)
    if len(values) < len(step.knobs):
        raise UsageError(f"{kind.name} sets a knob twice; set each once")
    return kind(**values)


def _check(optimization: Optimization, chosen: tuple[Optimization, ...]) -> None:
    """Raise unless `optimization` can stand beside the others on this machine."""
    for other in chosen:
        if other is optimization:
            continue
        if other.slot is optimization.slot and not optimization.slot.is_stacking:
            raise UsageError(
                f"{optimization.name} and {other.name} both fill the slot {optimization.slot.value!r}, "
                "which holds one; keep one of them"
            )
        if other.name in optimization.conflicts:
            raise UsageError(
                f"{optimization.name} cannot stand with {other.name}: {optimization.conflicts[other.name]}"
            )
    for name in optimization.partners:
        if name not in {other.name for other in chosen}:
            raise UsageError(f"{optimization.name} needs {name} in the same recipe; add it")
    for need in optimization.required:
        if reason := need.missing():
            raise Unavailable(f"{optimization.name} needs {need.name}: {reason}")
