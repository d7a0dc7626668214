"""Settings: what is measured and how carefully. Model, devices, workload and effort as widgets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from labkit.core.effort import EFFORTS, forced_effort
from labkit.core.machine import DEVICES
from labkit.core.replay import MAX_TOKENS
from labkit.core.workload import WORKLOADS, WorkloadSpec, resized
from labkit.model.source import MODELS
from labkit.optimizations.base import CUDA
from labkit.runner.systems import DEFAULT_MODEL, ENGINE, workloads
from labkit.ui import units
from labkit.ui.language import retold, tr
from labkit.ui.markup import tag

_MAX_REQUESTS = 4096
_WIDE = {"description_width": "initial"}
_EFFORTS = {
    "glance": "does it run at all",
    "quick": "a point in seconds",
    "standard": "a table in minutes",
    "rigorous": "for publication",
}

OnChange = Callable[[], None]


class Settings:
    """The widgets, with values to begin with; a model or workload of one's own is offered beside the named ones."""

    def __init__(
        self,
        *,
        system: str = ENGINE,
        model: str,
        devices: Sequence[str],
        spec: WorkloadSpec,
        effort: str,
        on_change: OnChange,
    ) -> None:
        self._spec = spec
        models = MODELS if system == ENGINE else (DEFAULT_MODEL[system],)
        self._model = _dropdown("model", dict.fromkeys([*models, model]), model, "what is measured")
        self._workload = _dropdown(
            "workload",
            dict.fromkeys([*workloads(system), spec.name]),
            spec.name,
            "how requests arrive and how long they are",
        )
        self._effort = _dropdown(
            "effort",
            {tr("{name}: {told}", name=name, told=tr(_EFFORTS[name])): name for name in EFFORTS},
            effort,
            "how long it may take",
        )
        forced = forced_effort()
        self._effort.disabled = bool(forced)
        self._prompt_tokens = _number("prompt tokens", spec.prompt_tokens, MAX_TOKENS)
        self._new_tokens = _number("new tokens", spec.new_tokens, MAX_TOKENS)
        self._requests = _number("requests", spec.num_requests, max(_MAX_REQUESTS, spec.num_requests))
        missing = {device: _missing(device) for device in DEVICES}
        self._devices = {
            device: widgets.Checkbox(
                description=device,
                value=device in devices and not missing[device],
                disabled=bool(missing[device]),
                tooltip=missing[device] or tr("measure on {device}", device=device),
                indent=False,
                layout=widgets.Layout(width="80px"),
            )
            for device in DEVICES
        }
        self._show_sizes()
        self._workload.observe(lambda _: self._show_sizes(), "value")
        for widget in (*self._all(), *self._devices.values()):
            widget.observe(lambda _: on_change(), "value")
        reasons = [
            *missing.values(),
            tr("effort: LABKIT_EFFORT sets {name} for every run", name=forced) if forced else "",
        ]
        notes = [widgets.HTML(tag("small", reason)) for reason in reasons if reason]
        row = widgets.Layout(flex_flow="row wrap", align_items="center")
        self.box = widgets.VBox(
            [
                widgets.HBox([self._model, self._workload, self._effort], layout=row),
                widgets.HBox([self._prompt_tokens, self._new_tokens, self._requests], layout=row),
                widgets.HBox([*self._devices.values(), *notes], layout=row),
            ]
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self._model.value)

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices that are ticked."""
        return tuple(device for device, check in self._devices.items() if check.value)

    @property
    def effort(self) -> str:
        """Name of the effort."""
        return str(self._effort.value)

    @property
    def spec(self) -> WorkloadSpec:
        """The workload with its sizes.

        Raises:
            UsageError: sizes that no workload can have.
        """
        return resized(
            self._base,
            prompt_tokens=self._prompt_tokens.value,
            new_tokens=self._new_tokens.value,
            batch=self._requests.value,
        )

    @property
    def problem(self) -> str:
        """Why nothing can be measured so, or ''."""
        return "" if self.devices else tr("no device is ticked; allowed: {names}; tick one", names=", ".join(DEVICES))

    @property
    def _base(self) -> WorkloadSpec:
        name = self._workload.value
        return self._spec if name == self._spec.name else replace(WORKLOADS[name], seed=self._spec.seed)

    @property
    def _sizes(self) -> tuple[widgets.BoundedIntText, ...]:
        return (self._prompt_tokens, self._new_tokens, self._requests)

    def _all(self) -> tuple[Any, ...]:
        return (self._model, self._workload, self._effort, *self._sizes)

    def _show_sizes(self) -> None:
        """The sizes that the workload comes with; those of recorded requests cannot be changed."""
        spec = self._base
        for field, size in zip(self._sizes, (spec.prompt_tokens, spec.new_tokens, spec.num_requests), strict=True):
            field.value, field.disabled = size, bool(spec.replay)


def _missing(device: str) -> str:
    """Why this machine cannot measure on a device, or ''."""
    reason = CUDA.missing() if device == "cuda" else ""
    return f"{device}: {retold(reason)}" if reason else ""


def _dropdown(name: str, options: Any, value: str, help: str) -> widgets.Dropdown:
    listed = list(options.items()) if any(options.values()) else list(options)
    layout = widgets.Layout(width="260px")
    return widgets.Dropdown(
        description=tr(name), options=listed, value=value, tooltip=tr(help), style=_WIDE, layout=layout
    )


def _number(name: str, value: int, most: int) -> widgets.BoundedIntText:
    layout = widgets.Layout(width="190px")
    return widgets.BoundedIntText(
        description=tr(name),
        value=value,
        min=1,
        max=most,
        tooltip=tr("{name} (1 to {most})", name=tr(name), most=units.count(most)),
        style=_WIDE,
        layout=layout,
    )
