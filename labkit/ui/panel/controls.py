"""Controls: a widget for each slot of the catalog, with the knobs of what is switched on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, Protocol

import ipywidgets as widgets

from labkit.core.recipe import KnobValue
from labkit.optimizations import Optimization, Slot
from labkit.ui import units
from labkit.ui.facts import lesson_of
from labkit.ui.language import knob_name, tr
from labkit.ui.markup import tag
from labkit.ui.panel.switchboard import Steps, missing

_SLIDER_SPAN = 64  # a range up to here is a slider; beyond it one would be too coarse to aim at
_OFF = ""
_WIDE = {"description_width": "initial"}

OnChange = Callable[[], None]


class Control(Protocol):
    """One or several techniques as widgets."""

    box: widgets.Widget

    def read(self) -> dict[str, dict[str, KnobValue]]:
        """Techniques that are on, with their knobs."""

    def write(self, steps: Steps) -> None:
        """Show these steps, as far as they are about techniques of this control."""


class Knobs:
    """The knobs of one technique; hidden while it is off."""

    def __init__(self, kind: type[Optimization], on_change: OnChange) -> None:
        self._widgets: dict[str, Any] = {spec.name: _knob(kind.name, spec) for spec in fields(kind)}
        for widget in self._widgets.values():
            widget.observe(lambda _: on_change(), "value")
        shown = [_readable(widget) if name.endswith("_bytes") else widget for name, widget in self._widgets.items()]
        self.box = widgets.HBox(shown, layout=widgets.Layout(flex_flow="row wrap"))

    def read(self) -> dict[str, KnobValue]:
        """Value of every knob."""
        return {name: widget.value for name, widget in self._widgets.items()}

    def write(self, values: Mapping[str, KnobValue]) -> None:
        """Show these values."""
        for name, value in values.items():
            self._widgets[name].value = value

    def show(self, *, is_on: bool) -> None:
        """Show or hide them."""
        self.box.layout.display = "flex" if is_on else "none"


class Toggle:
    """A technique that stacks with others: a checkbox."""

    def __init__(self, kind: type[Optimization], on_change: OnChange) -> None:
        reason = missing(kind)
        self._name = kind.name
        self._knobs = Knobs(kind, on_change)
        self._check = widgets.Checkbox(
            description=lesson_of(kind).title,
            tooltip=reason or lesson_of(kind).paragraphs[0],
            disabled=bool(reason),
            indent=False,
            layout=widgets.Layout(width="180px"),
        )
        self._check.observe(lambda change: self._knobs.show(is_on=change["new"]), "value")
        self._check.observe(lambda _: on_change(), "value")
        self._knobs.show(is_on=False)
        parts = [self._check, self._knobs.box]
        if reason:
            parts.append(widgets.HTML(tag("small", reason)))
        self.box = widgets.HBox(parts, layout=widgets.Layout(align_items="center", flex_flow="row wrap"))

    def read(self) -> dict[str, dict[str, KnobValue]]:
        """See Control."""
        return {self._name: self._knobs.read()} if self._check.value else {}

    def write(self, steps: Steps) -> None:
        """See Control."""
        self._knobs.write(steps.get(self._name, {}))
        self._check.value = self._name in steps


class Pick:
    """A slot that holds one technique: a dropdown."""

    def __init__(self, slot: Slot, kinds: Sequence[type[Optimization]], on_change: OnChange) -> None:
        reasons = {kind: missing(kind) for kind in kinds}
        self._knobs = {kind.name: Knobs(kind, on_change) for kind in kinds if not reasons[kind]}
        self._pick = widgets.Dropdown(
            description=tr(slot.value.replace("_", " ")),
            options=[(tr("none"), _OFF), *((lesson_of(kind).title, kind.name) for kind in kinds if not reasons[kind])],
            tooltip="\n".join(
                tr("{name}: {told}", name=one.title, told=one.paragraphs[0]) for one in map(lesson_of, kinds)
            ),
            style=_WIDE,
            layout=widgets.Layout(width="260px"),
        )
        self._pick.observe(lambda _: self._show_knobs(), "value")
        self._pick.observe(lambda _: on_change(), "value")
        self._show_knobs()
        absent = [
            tr("{name}: {told}", name=lesson_of(kind).title, told=reason) for kind, reason in reasons.items() if reason
        ]
        notes = [widgets.HTML(tag("small", tr("; ").join(absent)))] if absent else []
        parts = [self._pick, *(knobs.box for knobs in self._knobs.values()), *notes]
        self.box = widgets.HBox(parts, layout=widgets.Layout(align_items="center", flex_flow="row wrap"))

    def read(self) -> dict[str, dict[str, KnobValue]]:
        """See Control."""
        name = self._pick.value
        return {name: self._knobs[name].read()} if name != _OFF else {}

    def write(self, steps: Steps) -> None:
        """See Control."""
        for name, knobs in self._knobs.items():
            knobs.write(steps.get(name, {}))
        self._pick.value = next((name for name in self._knobs if name in steps), _OFF)

    def _show_knobs(self) -> None:
        for name, knobs in self._knobs.items():
            knobs.show(is_on=name == self._pick.value)


def controls(slots: Mapping[Slot, Sequence[type[Optimization]]], on_change: OnChange) -> list[Control]:
    """A checkbox for each technique that stacks, a dropdown for each slot that holds one; in catalog order."""
    made: list[Control] = []
    for slot, kinds in slots.items():
        if slot.is_stacking:
            made += [Toggle(kind, on_change) for kind in kinds]
        else:
            made.append(Pick(slot, kinds, on_change))
    return made


def _readable(num_bytes: widgets.BoundedIntText) -> widgets.HBox:
    """A number of bytes and, beside it, the same in the unit that one would say."""
    said = widgets.Label(units.size(num_bytes.value))
    num_bytes.observe(lambda change: setattr(said, "value", units.size(change["new"])), "value")
    return widgets.HBox([num_bytes, said])


def _knob(technique: str, spec: "Field[Any]") -> widgets.Widget:
    rule = spec.metadata
    about = {"description": knob_name(technique, spec.name), "tooltip": tr(rule["help"]), "style": _WIDE}
    if rule["is_open"]:
        layout = widgets.Layout(width="170px")
        return widgets.Combobox(  # a text counts once it is whole
            options=[*rule["choices"]], value=spec.default, continuous_update=False, layout=layout, **about
        )
    if rule["choices"]:
        layout = widgets.Layout(width="170px")
        return widgets.Dropdown(options=[*rule["choices"]], value=spec.default, layout=layout, **about)
    low, high = rule["low"], rule["high"]
    layout = widgets.Layout(width="230px", flex="0 0 auto")  # a row wraps before it squeezes a number
    if isinstance(spec.default, float):
        return widgets.BoundedFloatText(value=spec.default, min=low, max=high, layout=layout, **about)
    if high - low < _SLIDER_SPAN:
        return widgets.IntSlider(value=spec.default, min=low, max=high, continuous_update=False, layout=layout, **about)
    return widgets.BoundedIntText(value=spec.default, min=low, max=high, layout=layout, **about)
