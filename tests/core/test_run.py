"""A stored Run is read if all of it is what it should be; else what is wrong is named, in one line."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from labkit.core.errors import StoreError
from labkit.core.paths import data_path
from labkit.core.run import SCHEMA, Run
from labkit.core.shape import RUN

RECORDED = [line for path in sorted(data_path("runs").glob("*.jsonl")) for line in path.read_text().splitlines()]

OLDEST = """{"id": "a1", "group": "g", "created_utc": "2026-01-01T00:00:00+00:00", "recipe": "", "workload_hash": "w",
"workload": {"name": "chat", "scenario": "single_stream", "prompt_tokens": 4, "new_tokens": 2}, "model": {"name": "m"},
"device": "cpu", "machine": {}, "effort": "quick", "passes": [], "faults": [], "schema": 1}"""


def damaged(change: Callable[[dict[str, Any]], object]) -> str:
    fields = json.loads(RECORDED[-1])
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize("text", [*RECORDED, OLDEST])
def test_what_was_stored_is_read_and_written_the_same(text: str) -> None:
    run = Run.from_json(text)
    assert Run.from_json(run.to_json()) == run
    assert json.loads(run.to_json()).items() >= json.loads(text).items()


def test_every_field_is_checked() -> None:
    assert RUN.keys() == json.loads(RECORDED[0]).keys() - {"schema"}


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("value", [["x"], [[]] * 3, float("inf"), "\ud800"])
def test_no_field_may_be_anything(name: str, value: object) -> None:
    with pytest.raises(StoreError, match="cannot be read: ") as refused:
        Run.from_json(damaged(lambda fields: fields.update({name: value})))
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run.update(id=""), "id is ''; allowed: 1 to 64 letters, digits, _ and -"),
        (lambda run: run.update(created_utc=5), "created_utc is 5; allowed: a text"),
        (lambda run: run.update(status="over"), "status is 'over'; allowed: done, interrupted, failed"),
        (lambda run: run.update(recipe="<img src=x>"), "recipe is '<img src=x>'; allowed: the text of a recipe"),
        (lambda run: run.update(model={}), "model.name is None; allowed: a text"),
        (lambda run: run["workload"].update(rate_per_s="a"), "; allowed: the fields of a workload"),
        (lambda run: run["metrics"]["e2e_s"].update(value="abc"), "metrics.e2e_s is {"),
        (lambda run: run["metrics"].update(e2e_s={}), "metrics.e2e_s is {}; allowed: finite numbers: a value with"),
        (lambda run: run["metrics"]["e2e_s"].update(low=float("nan")), "it holds NaN; allowed: finite numbers"),
        (lambda run: run["passes"][1]["trace"]["requests"][0].update(output_s=["a"]), "passes[1] is {"),
        (lambda run: run["passes"][0]["trace"]["requests"][0]["output_ids"].pop(), "passes[0] is {"),
        (lambda run: run["passes"][0]["trace"]["requests"][0]["output_s"].reverse(), "passes[0] is {"),
        (lambda run: run["build"].update(load_s="long"), "build.load_s is 'long'; allowed: a finite number"),
        (lambda run: run["limit"]["decode"].update(seconds=[]), "limit.decode is {"),
        (lambda run: run["faults"].append({"code": "x"}), "faults[0].observed is None; allowed: a text"),
        (lambda run: run.update(schema=SCHEMA + 1), "this labkit reads up to"),
        (lambda run: run.pop("effort"), "effort"),
        (lambda run: run.update(more=1), "more"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(change: Callable[[dict[str, Any]], object], told: str) -> None:
    with pytest.raises(StoreError) as refused:
        Run.from_json(damaged(change))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "5", "null", "{}", "[" * 100_000])
def test_what_is_no_run_at_all_is_one_line(text: str) -> None:
    with pytest.raises(StoreError, match="a stored Run cannot be read: "):
        Run.from_json(text)
