"""Plan: what one session measures, checked before any process starts."""

from dataclasses import dataclass

from labkit.core.effort import EFFORTS
from labkit.core.errors import UsageError
from labkit.core.machine import DEVICES
from labkit.core.workload import WorkloadSpec
from labkit.runner.systems import ENGINE, check_system
from labkit.runner.target import canonical_text


@dataclass(frozen=True)
class Entry:
    """One thing to measure: a recipe in canonical text, or `peer:name(knob=value)`, on a device."""

    recipe: str
    device: str

    @property
    def label(self) -> str:
        """What progress and errors call it."""
        return f"{self.recipe or 'baseline'} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Recipes of one model on one workload, each on each device; the first of them is the baseline.

    `recipes` are given in any spelling and kept in the canonical one, peers among them as `peer:name(knob=value)`;
    the same one may stand there twice. `sweep` names the sweep that the Runs are cells of. `system` says what is
    measured: the engine, or a System of texts (see `runner.systems`), whose model is a corpus and whose requests have
    one output each.

    Raises:
        UsageError: an unknown system, effort, device, technique, knob or value, or nothing to measure.
    """

    model: str
    spec: WorkloadSpec
    recipes: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu",)
    effort: str = "quick"
    seed: int = 0
    sweep: str = ""
    system: str = ENGINE

    def __post_init__(self) -> None:
        check_system(self.system)
        if self.effort not in EFFORTS:
            raise UsageError.unknown("effort", self.effort, EFFORTS)
        for device in self.devices:
            if device not in DEVICES:
                raise UsageError.unknown("device", device, DEVICES)
        for kind, values in (("recipe", self.recipes), ("device", self.devices)):
            if not values:
                raise UsageError(f"no {kind} was given; name at least one")
        if self.spec.is_vectorized and self.system != "similarity":
            raise UsageError(f"workload {self.spec.name!r} sends vectors; allowed: with the system 'similarity'")
        if self.system != ENGINE:
            object.__setattr__(self, "spec", self.spec.answered())
        recipes = tuple(canonical_text(recipe, system=self.system) for recipe in self.recipes)
        object.__setattr__(self, "recipes", recipes)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every recipe on every device, the baseline first."""
        return tuple(Entry(recipe, device) for device in self.devices for recipe in self.recipes)


@dataclass(frozen=True)
class Progress:
    """How far a session is: the fraction done (0 … 1) and what it is doing."""

    fraction: float
    text: str
