"""Target: what a worker opens. An engine built under a recipe, or another project's engine, as one kind of thing."""

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from labkit.core.errors import Unavailable, UsageError
from labkit.core.machine import free_memory_bytes
from labkit.core.recipe import PEER_PREFIX, Recipe
from labkit.core.workload import WorkloadSpec
from labkit.runner.memory import PROCESS_BYTES, Need, peer_need, recipe_need
from labkit.runner.systems import ENGINE, TEXT_SYSTEMS, corpus_facts, framework

if TYPE_CHECKING:
    from labkit.bench.system import System
    from labkit.optimizations import Bound


@dataclass(frozen=True)
class Order:
    """What to open: a model on a device, under a canonical recipe or, where that begins with `peer:`, by a peer.

    `system` says whose recipe it is (see `runner.systems`); of a System of texts `model` names the corpus.
    """

    model: str
    device: str
    recipe: str
    cache_folder: str
    system: str = ENGINE

    @property
    def is_peer(self) -> bool:
        """Whether another project's engine is ordered."""
        return self.recipe.startswith(PEER_PREFIX)

    @property
    def steps(self) -> Recipe:
        """The recipe without the prefix; for a peer its one step is the peer's name and knobs."""
        return Recipe.parse(self.recipe.removeprefix(PEER_PREFIX))

    @property
    def framework(self) -> str:
        """The module that it is computed with."""
        return framework(self.system, self.steps, is_peer=self.is_peer)

    def to_dict(self) -> dict[str, str]:
        """Plain fields; `Order(**order.to_dict())` gives it back."""
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """An opened System, the seconds its build took, and the process-wide values that were read back."""

    system: "System"
    load_s: float
    process: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """Known before anything is loaded: the model's facts, what each order needs, and the free bytes of each device."""

    model: Mapping[str, Any]
    needs: tuple[Need, ...]
    free_bytes: Mapping[str, int]


class Opener(Protocol):
    """How a worker comes by what it measures; sessions of the lab use `TargetOpener`."""

    def prepare(self, order: Order) -> None:
        """Import what opening needs, before any clock runs."""

    def forecast(self, orders: Sequence[Order], spec: WorkloadSpec) -> Forecast:
        """Say what the orders will need."""

    def reference(self, orders: Sequence[Order], *, effort: str) -> Mapping[str, Mapping[str, Any]]:
        """Cache what quality is judged against; returns the output-equality proof by recipe text."""

    def open(self, order: Order) -> AbstractContextManager[Target]:
        """Build what was ordered; closed and given back at the end."""


class TargetOpener:
    """Opens our engine and the peers."""

    def prepare(self, order: Order) -> None:
        """Import the framework, which takes seconds."""
        importlib.import_module(order.framework)

    def forecast(self, orders: Sequence[Order], spec: WorkloadSpec) -> Forecast:
        """Read the model's sizes and checksums, none of its weights; or the corpus.

        Raises:
            UsageError: the model or the corpus cannot be had, or a request needs more positions than the model has.
        """
        free = {order.device: free_memory_bytes(order.device) for order in orders}
        if orders[0].system != ENGINE:
            needs = tuple(text_need(order) for order in orders)
            return Forecast(corpus_facts(orders[0].model, orders[0].system), needs, free)
        from labkit.model.source import open_model

        source = open_model(orders[0].model)
        model = {
            "name": source.name,
            "hash": source.hash,
            "num_parameters": source.config.num_parameters,
            "has_random_weights": source.has_random_weights,
            "source": source.origin,
        }
        spec = spec.sized(lambda text: len(source.tokenizer.encode(text)))
        source.check_positions(*max(spec.lengths, key=sum))  # before prompts are drawn that no memory holds
        needs = tuple(
            peer_need(order.steps, source.config, device=order.device)
            if order.is_peer
            else recipe_need(order.steps, source.config, spec, device=order.device)
            for order in orders
        )
        return Forecast(model, needs, free)

    def reference(self, orders: Sequence[Order], *, effort: str) -> Mapping[str, Mapping[str, Any]]:
        """Have the engine's fp32 reference computed; peers and Systems of texts have none."""
        if orders[0].system != ENGINE:
            return {}
        from labkit.optimizations import bind
        from labkit.optimizations.build import prepare_reference

        proofs: dict[str, Mapping[str, Any]] = {}
        bounds = [bind(order.steps) for order in orders if not order.is_peer]
        if bounds:
            first = orders[0]
            folder = Path(first.cache_folder)
            by_exact = prepare_reference(
                bounds, model=first.model, device=first.device, effort=effort, cache_folder=folder
            )
            for bound in bounds:
                if (exact := bound.exact.recipe.text) in by_exact:
                    proofs[bound.recipe.text] = by_exact[exact]
        return proofs

    def open(self, order: Order) -> AbstractContextManager[Target]:
        """Build an engine, a System of texts or a peer of either."""
        return _open_peer(order) if order.is_peer else _open_ours(order)


@contextmanager
def _open_ours(order: Order) -> Iterator[Target]:
    from labkit.optimizations import bind

    bound = bind(order.steps, system=order.system)
    with bound.process() as process:
        start_s = time.perf_counter()
        system = _build(bound, order)
        try:
            yield Target(system, time.perf_counter() - start_s, process)
        finally:
            system.close()


def _build(bound: "Bound", order: Order) -> "System":
    if order.system == ENGINE:
        from labkit.optimizations.build import build_system

        return build_system(bound, model=order.model, device=order.device, cache_folder=Path(order.cache_folder))
    from labkit.text.corpus import open_corpus

    return TEXT_SYSTEMS[order.system].build(bound, open_corpus(order.model), order.device)


@contextmanager
def _open_peer(order: Order) -> Iterator[Target]:
    start_s = time.perf_counter()
    system = _peer(order)
    try:
        yield Target(system, time.perf_counter() - start_s)
    finally:
        system.close()


def _peer(order: Order) -> "System":
    (step,) = order.steps.steps
    if order.system == ENGINE:
        from labkit.peers import open_peer

        return open_peer(
            step.name,
            model=order.model,
            device=order.device,
            options=dict(step.knobs),
            cache_folder=Path(order.cache_folder),
        )
    from labkit.text.corpus import open_corpus

    if order.device != "cpu":
        raise Unavailable(f"peer {step.name!r} was asked to run on {order.device!r}; it runs on: cpu")
    return TEXT_SYSTEMS[order.system].peer(step, open_corpus(order.model))


def text_need(order: Order) -> Need:
    """Memory that a System of texts will hold, its process included; that of a peer is taken to be the baseline's."""
    from labkit.optimizations import bind
    from labkit.text.corpus import open_corpus

    bound = bind("" if order.is_peer else order.steps, system=order.system)
    held = TEXT_SYSTEMS[order.system].held_bytes(bound, open_corpus(order.model))
    return Need(order.recipe or "baseline", order.device, held + PROCESS_BYTES)


def canonical_text(recipe: str, *, system: str = ENGINE) -> str:
    """The one spelling of a recipe or of `peer:name(knob=value)`.

    Raises:
        UsageError: it cannot be read, or names a technique or knob that does not exist.
    """
    from labkit.optimizations import bind

    if not recipe.strip().startswith(PEER_PREFIX):
        return bind(Recipe.parse(recipe), system=system).recipe.text
    peer = Recipe.parse(recipe.strip().removeprefix(PEER_PREFIX))
    if len(peer.steps) != 1:
        raise UsageError(f"{recipe!r} was asked for; a peer is written like: {PEER_PREFIX}transformers(dtype='bf16')")
    return PEER_PREFIX + peer.text
