"""Shape: what a stored Run must look like, field by field, before anything is made of it.

A check says which part of a value is wrong, what was seen there and what is allowed; "" of a value that is right.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import isfinite
from reprlib import repr as shortened
from typing import Any, TypeAlias

from labkit.core.errors import UsageError
from labkit.core.recipe import PEER_PREFIX, Recipe
from labkit.core.workload import WorkloadSpec

Check: TypeAlias = Callable[[Any], str]

_REFUSALS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UsageError)
_ESTIMATED, _COUNTED, _MISSING = {"value", "low", "high"}, {"value"}, {"p50", "p90", "p95", "p99"}


def _kind(allowed: str, is_one: Callable[[Any], object]) -> Check:
    """Of a single value, by a test; one that the test raises on is wrong, too."""

    def check(value: Any) -> str:
        try:
            if is_one(value):
                return ""
        except _REFUSALS:
            pass
        return f" is {shortened(value):.60}; allowed: {allowed}"

    return check


def _maybe(check: Check) -> Check:
    """Of a value that may be None, or absent."""
    return lambda value: "" if value is None else check(value)


def _listed(check: Check) -> Check:
    """Of a list of values that are alike."""

    def check_all(values: Any) -> str:
        return _list(values) or next((f"[{i}]{wrong}" for i, one in enumerate(values) if (wrong := check(one))), "")

    return check_all


def _named(checks: Mapping[str, Check], others: Check = lambda value: "") -> Check:
    """Of values by name, each by its own check, and those that have none by that of the others."""

    def check_all(values: Any) -> str:
        if wrong := _mapping(values):
            return wrong
        for name, check in checks.items():
            if wrong := check(values.get(name)):
                return f".{name}{wrong}"
        return next(
            (f".{name}{wrong}" for name in values if name not in checks and (wrong := others(values[name]))), ""
        )

    return check_all


@lru_cache(maxsize=256)
def _is_recipe(text: str) -> bool:
    return Recipe.parse(text.removeprefix(PEER_PREFIX)) is not None


def _is_figure(metric: Mapping[str, Any]) -> bool:
    names = metric.keys()
    is_known = names >= _ESTIMATED or names == _COUNTED or set() < names <= _MISSING
    return is_known and isfinite(sum(metric.values()))


def _is_pass(fields: Mapping[str, Any]) -> bool:
    trace = fields["trace"]
    numbers = (fields["block"], fields["contention"], fields.get("process", 0), trace["duration_s"])
    are_finite = isfinite(sum(trace.get("counters", {}).values(), sum(numbers)))
    return are_finite and all(map(_is_request, trace["requests"]))


def _is_request(fields: Mapping[str, Any]) -> bool:
    """Of thousands of samples one sum says whether all are finite, another whether all ids are whole."""
    arrival_s, output_s, output_ids = fields["arrival_s"], fields["output_s"], fields["output_ids"]
    return (
        len(output_s) == len(output_ids)
        and isfinite(sum(output_s, arrival_s + fields["sent_s"] + fields["scheduled_s"]))
        and isinstance(sum(output_ids, fields["prompt_tokens"]), int)
        and (not output_s or arrival_s <= output_s[0] <= output_s[-1])
    )


def _is_part(value: Any) -> bool:
    return isfinite(value["seconds"] if isinstance(value, dict) else value)


_mapping = _kind("values by name", lambda value: isinstance(value, dict))
_list = _kind("a list", lambda value: isinstance(value, list))
_text = _kind("a text", lambda value: isinstance(value, str))
_flag = _kind("true or false", lambda value: isinstance(value, bool))
_number = _kind("a finite number", isfinite)
_numbers = _kind("finite numbers by name", lambda value: isfinite(sum(value.values())))
_rows = _kind("rows of finite numbers", lambda value: isfinite(sum(map(sum, value))))
_figure = _kind("finite numbers: a value with its low and high, or alone, or by percentile", _is_figure)
_pass = _kind("finite numbers, and requests with an id for each of their times, in order", _is_pass)
_part = _kind("a finite number, or the seconds of a phase", _is_part)
_work = _named(
    {"device": _maybe(_text), "told_as": _maybe(_text), "bytes_by_kind": _numbers, "flops_by_dtype": _numbers}, _number
)

RUN: Mapping[str, Check] = {
    "id": _kind("1 to 64 letters, digits, _ and -", re.compile(r"[0-9A-Za-z_-]{1,64}").fullmatch),
    **dict.fromkeys(("group", "created_utc", "workload_hash", "device", "effort", "error", "sweep"), _text),
    "recipe": _kind("the text of a recipe", _is_recipe),
    "workload": _kind("the fields of a workload", lambda value: WorkloadSpec(**value)),
    "model": _named({"name": _text, "num_parameters": _maybe(_number)}),
    "machine": _named({"caches_bytes": _maybe(_numbers)}),
    "status": _kind("done, interrupted, failed", ("done", "interrupted", "failed").__contains__),
    "passes": _listed(_pass),
    **dict.fromkeys(("token_share", "repeats"), _number),
    "metrics": _named({}, _maybe(_figure)),
    "build": _named(
        {
            **dict.fromkeys(("weights_bytes", "peak_memory_bytes", "index_bytes", "read_bytes"), _maybe(_number)),
            **dict.fromkeys(("load_s", "warmup_s", "fit_s", "threads"), _maybe(_number)),
            "emulated": _maybe(_listed(_text)),
            "scores": _maybe(_named({}, _named({"topics": _listed(_text), "confusion": _rows}))),
        }
    ),
    "quality": _numbers,
    "proof": _maybe(
        _named({"is_equal": _flag, **dict.fromkeys(("num_prompts", "num_tokens", "num_diverged"), _number)})
    ),
    "cost": _maybe(_named({"phases": _named({}, _work)})),
    "limit": _maybe(_named({"origin": _maybe(_text)}, _maybe(_part))),
    "prediction": _maybe(_named({"terms": _maybe(_numbers)}, _maybe(_part))),
    "faults": _listed(_named(dict.fromkeys(("code", "observed", "limit", "remedy"), _text))),
}
"""The check of each field."""
