"""What a reader needs to know about the measurement itself: session, machine, and the lessons of the techniques."""

import inspect
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.core.run import Run
from labkit.optimizations import CATALOG, Optimization
from labkit.ui import units

_EFFORTS = {"quick": "quick (a quick look: short warm-up, few blocks)"}

_UNITS: Mapping[str, units.Formatter] = {
    "_bytes": units.size,
    "_s": units.seconds,
}
"""How a quantity is shown, by the end of its name."""


@dataclass(frozen=True)
class Lesson:
    """What a technique is and what it teaches, from its module's docstring."""

    name: str
    title: str
    paragraphs: tuple[str, ...]


def session(runs: Sequence[Run]) -> dict[str, str]:
    """Model, workload, device, effort and date of Runs of one session."""
    run = runs[0]
    return {
        "model": _model(run.model),
        "workload": workload(run.workload),
        "device": ", ".join(dict.fromkeys(run.device for run in runs)),
        "effort": f"{_EFFORTS.get(run.effort, run.effort)}, {max(len(run.passes) for run in runs)} blocks",
        "measured": f"{run.created_utc}, session {run.group}",
    }


def workload(spec: Mapping[str, Any]) -> str:
    """A WorkloadSpec's fields as one sentence."""
    num_requests = spec.get("num_requests", 1)
    requests = "1 request" if num_requests == 1 else f"{units.count(num_requests)} requests"
    prompt, new = (_length(spec, name) for name in ("prompt_tokens", "new_tokens"))
    text = f"{spec.get('name', '')}: {str(spec.get('scenario', '')).replace('_', ' ')}, {requests} of "
    text += f"{prompt} prompt and {new} new tokens"
    text += ", as recorded" if spec.get("replay") else ""
    turns = spec.get("turns", 1)
    text += f", in conversations of {units.count(turns)} turns" if turns > 1 else ""
    concurrency = spec.get("concurrency")
    text += f", {units.count(concurrency)} outstanding" if concurrency is not None else ""
    shared = spec.get("shared_prefix_tokens", 0)
    text += f", the first {units.count(shared)} of them the same in all" if shared else ""
    rate = spec.get("rate_per_s")
    text += f", {units.rate(rate, 'requests/s')}" if rate is not None else ""
    cv = spec.get("arrival_cv", 1.0)
    text += f" in gaps of coefficient of variation {units.number(cv)}" if cv != 1 else ""
    return f"{text}, {spec.get('cache_state', 'warm')} cache, seed {spec.get('seed', 0)}"


def _length(spec: Mapping[str, Any], name: str) -> str:
    """A number of tokens, or the ends of its range."""
    if spec.get("replay"):
        return f"up to {units.count(spec.get(name))}"
    low = spec.get(f"min_{name}")
    return f"{units.count(low)} to {units.count(spec.get(name))}" if low is not None else units.count(spec.get(name))


def lessons(names: Collection[str]) -> tuple[Lesson, ...]:
    """The lessons of these techniques, in catalog order."""
    return tuple(lesson_of(technique) for technique in CATALOG if technique.name in names)


def lesson_of(technique: type[Optimization]) -> Lesson:
    """What a technique teaches: the docstring of its module, split at blank lines and at lines like `Price: …`."""
    text = inspect.cleandoc(sys.modules[technique.__module__].__doc__ or "")
    blocks = re.split(r"\n\s*\n|\n(?=[A-Z][a-z]+(?: [a-z]+)?: )", text)
    return Lesson(technique.name, technique.title, tuple(" ".join(block.split()) for block in blocks if block.strip()))


def flat(fields: Mapping[str, Any], *, prefix: str = "", form: units.Formatter | None = None) -> dict[str, str]:
    """Every field that says something, its unit moved from name to value; nested names are joined by a space."""
    rows: dict[str, str] = {}
    for key, value in fields.items():
        suffix = next((suffix for suffix in _UNITS if key.endswith(suffix)), "")
        name, own_form = f"{prefix}{key.removesuffix(suffix)}", _UNITS.get(suffix, form)
        if isinstance(value, Mapping):
            rows |= flat(value, prefix=f"{name} ", form=own_form)
        elif value not in (None, "", [], ()):
            rows[name.replace("_", " ")] = own_form(value) if own_form and _is_number(value) else _text(value)
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _model(model: Mapping[str, Any]) -> str:
    text = str(model.get("name", ""))
    parameters = model.get("num_parameters")
    text += f", {units.number(parameters / 1e6)} M parameters" if parameters else ""
    text += ", random weights: speed only" if model.get("has_random_weights") else ""
    return text + (f", weights {str(model['hash'])[:12]}" if model.get("hash") else "")
