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
from labkit.ui.language import lesson, tr

_EFFORTS = {
    "glance": "glance (a single block: it runs, nothing is compared)",
    "quick": "quick (a quick look: short warm-up, few blocks)",
}

_MARK = "Reference: "
"""How the paragraph of a lesson begins that names its sources."""

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
        tr("model"): _model(run.model),
        tr("workload"): workload(run.workload),
        tr("device"): ", ".join(dict.fromkeys(run.device for run in runs)),
        tr("effort"): tr(
            "{effort}, {num} blocks",
            effort=tr(_EFFORTS.get(run.effort, run.effort)),
            num=max(len(run.passes) for run in runs),
        ),
        tr("measured"): tr("{when}, session {group}", when=run.created_utc, group=run.group),
    }


def workload(spec: Mapping[str, Any]) -> str:
    """A WorkloadSpec's fields as one sentence."""
    num_requests = spec.get("num_requests", 1)
    text = tr(
        "{name}: {scenario}, {requests} of {prompt} prompt and {new} new tokens",
        name=spec.get("name", ""),
        scenario=tr(str(spec.get("scenario", "")).replace("_", " ")),
        requests=tr("1 request") if num_requests == 1 else tr("{num} requests", num=units.count(num_requests)),
        prompt=_length(spec, "prompt_tokens"),
        new=_length(spec, "new_tokens"),
    )
    text += tr(", as recorded") if spec.get("replay") else ""
    turns = spec.get("turns", 1)
    text += tr(", in conversations of {num} turns", num=units.count(turns)) if turns > 1 else ""
    concurrency = spec.get("concurrency")
    text += tr(", {num} outstanding", num=units.count(concurrency)) if concurrency is not None else ""
    shared = spec.get("shared_prefix_tokens", 0)
    text += tr(", the first {num} of them the same in all", num=units.count(shared)) if shared else ""
    rate = spec.get("rate_per_s")
    text += tr(", {rate}", rate=units.rate(rate, "requests/s")) if rate is not None else ""
    cv = spec.get("arrival_cv", 1.0)
    text += tr(" in gaps of coefficient of variation {cv}", cv=units.number(cv)) if cv != 1 else ""
    state = tr(str(spec.get("cache_state", "warm")))
    return tr("{text}, {state} cache, seed {seed}", text=text, state=state, seed=spec.get("seed", 0))


def _length(spec: Mapping[str, Any], name: str) -> str:
    """A number of tokens, or the ends of its range."""
    most = units.count(spec.get(name))
    if spec.get("replay"):
        return tr("up to {num}", num=most)
    low = spec.get(f"min_{name}")
    return tr("{low} to {high}", low=units.count(low), high=most) if low is not None else most


def lessons(names: Collection[str]) -> tuple[Lesson, ...]:
    """The lessons of these techniques, in catalog order."""
    return tuple(lesson_of(technique) for technique in CATALOG if technique.name in names)


def lesson_of(technique: type[Optimization]) -> Lesson:
    """What a technique teaches: the docstring of its module, split at blank lines and at lines like `Price: …`.

    In another language than English it is shorter, with the same references.
    """
    text = inspect.cleandoc(sys.modules[technique.__module__].__doc__ or "")
    blocks = re.split(r"\n\s*\n|\n(?=[A-Z][a-z]+(?: [a-z]+)?: )", text)
    paragraphs = tuple(" ".join(block.split()) for block in blocks if block.strip())
    if (told := lesson(technique.name)) is not None:
        title, *shorter = told
        works = (tr("Reference: {works}", works=one[len(_MARK) :]) for one in paragraphs if one.startswith(_MARK))
        return Lesson(technique.name, title, (*shorter, *works))
    return Lesson(technique.name, technique.title, paragraphs)


def flat(fields: Mapping[str, Any], *, prefix: str = "", form: units.Formatter | None = None) -> dict[str, str]:
    """Every field that says something, its unit moved from name to value; nested names are joined by a space."""
    rows: dict[str, str] = {}
    for key, value in fields.items():
        suffix = next((suffix for suffix in _UNITS if key.endswith(suffix)), "")
        name, own_form = prefix + tr(key.removesuffix(suffix).replace("_", " ")), _UNITS.get(suffix, form)
        if isinstance(value, Mapping):
            rows |= flat(value, prefix=f"{name} ", form=own_form)
        elif value not in (None, "", [], ()):
            rows[name] = own_form(value) if own_form and _is_number(value) else _text(value)
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _model(model: Mapping[str, Any]) -> str:
    text = str(model.get("name", ""))
    parameters = model.get("num_parameters")
    text += tr(", {num} M parameters", num=units.number(parameters / 1e6)) if parameters else ""
    text += tr(", random weights: speed only") if model.get("has_random_weights") else ""
    return text + (tr(", weights {hash}", hash=str(model["hash"])[:12]) if model.get("hash") else "")
