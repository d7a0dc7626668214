"""One session through the real engine: processes, hooks, reference, limit, Run."""

import math
from pathlib import Path

import pytest

from labkit.bench.measure import shortened
from labkit.core.errors import UsageError
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.runner.store import Store

SPEC = WorkloadSpec("tiny", "single_stream", prompt_tokens=8, new_tokens=8)


def test_recipes_of_a_tiny_model_are_measured_and_stored(tiny_model: str, tmp_path: Path) -> None:
    recipes = ("", "kv_cache + precision(dtype='bf16')")
    with Store(tmp_path / "runs.sqlite3") as store:
        session = Session(store=store, cache_folder=tmp_path)
        runs = session.measure(Plan(model=tiny_model, spec=SPEC, recipes=recipes))
        assert store.runs()[::-1] == tuple(Run.from_json(run.to_json()) for run in runs)
    assert session.warnings == []
    for run in runs:
        assert (run.status, run.error) == ("done", "")
        assert len(run.passes) == 8
        num_outputs = run.repeats * shortened(SPEC, run.token_share).new_tokens
        assert all(measured.trace.num_outputs == num_outputs for measured in run.passes)
        assert run.model["num_parameters"] > 0
        assert run.build["weights_bytes"] > 0
        assert run.limit is not None
        assert math.isfinite(run.limit["share"])
    assert runs[1].proof is not None
    assert runs[1].proof["is_equal"]
    assert {fault.code for run in runs for fault in run.faults} <= {"contended", "drift", "unsteady"}


def test_what_the_model_cannot_serve_is_one_line(tiny_model: str, tmp_path: Path) -> None:
    too_long = WorkloadSpec("tiny", "single_stream", prompt_tokens=8, new_tokens=4096)
    with pytest.raises(UsageError, match="4096 new tokens") as caught:
        Session(cache_folder=tmp_path).measure(Plan(model=tiny_model, spec=too_long, recipes=("kv_cache",)))
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'nonsense'"):
        Session(cache_folder=tmp_path).measure(Plan(model="nonsense", spec=SPEC, recipes=("",)))
