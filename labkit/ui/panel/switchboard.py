"""Switchboard: which techniques are on and with which knobs, between a panel's widgets and a Recipe's text.

Pure functions over plain data, so that the same Recipe means the same on every surface.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from labkit.core.errors import UsageError
from labkit.core.recipe import KnobValue, Recipe
from labkit.optimizations import Optimization, Slot, bind, techniques
from labkit.ui.language import retold, tr

Steps = Mapping[str, Mapping[str, KnobValue]]
"""Techniques that are on, each with all its knobs."""


@dataclass(frozen=True)
class Reading:
    """What a text means: its canonical form and steps, or in one line why it means nothing."""

    text: str
    steps: Steps
    problem: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether it can be measured."""
        return not self.problem


def read(text: str, system: str = "engine") -> Reading:
    """Read a Recipe's text as the System would; a text that cannot be bound is told, not raised."""
    try:
        bound = bind(text, system=system)
    except UsageError as error:
        return Reading(text, {}, retold(str(error)))
    steps = {one.name: {key: getattr(one, key) for key in knobs_of(type(one))} for one in bound.optimizations}
    return Reading(bound.recipe.text, steps)


def write(steps: Steps, system: str = "engine") -> Reading:
    """The text of what is switched on: canonical where it is valid, else as it was switched, with the problem."""
    return read(Recipe.of(steps).text, system)


def slots(system: str = "engine") -> dict[Slot, tuple[type[Optimization], ...]]:
    """Techniques of a System by the slot they sit in, both in catalog order."""
    kinds = techniques(system)
    return {slot: tuple(kind for kind in kinds if kind.slot is slot) for slot in dict.fromkeys(k.slot for k in kinds)}


def missing(kind: type[Optimization]) -> str:
    """Why this machine cannot have a technique; '' where it can."""
    return tr("; ").join(
        tr("{name}: {told}", name=retold(need.name), told=retold(reason))
        for need in kind.needs
        if (reason := need.missing())
    )


def knobs_of(kind: type[Optimization]) -> tuple[str, ...]:
    """Names of a technique's knobs, in the order they are declared."""
    return tuple(spec.name for spec in fields(kind))


def same(first: str, second: str, system: str = "engine") -> bool:
    """Whether two texts are the same valid Recipe."""
    ours, theirs = read(first, system), read(second, system)
    return ours.is_valid and theirs.is_valid and ours.text == theirs.text
