"""One session through the real engine: processes, hooks, reference, limit, Run."""

import math
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from labkit.bench.comparison import compare
from labkit.bench.measure import shortened
from labkit.core.errors import UsageError
from labkit.core.recipe import Recipe
from labkit.core.run import Run
from labkit.core.workload import WorkloadSpec
from labkit.model.source import sizes_of
from labkit.runner.memory import recipe_need
from labkit.runner.plan import Plan, Progress
from labkit.runner.session import Session
from labkit.runner.store import Store
from labkit.runner.target import Order, TargetOpener
from tests.conftest import NURSERY, LeftBehind, command_of

WORKER = "labkit.runner.worker"
RANK = "labkit.optimizations.rank"
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


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize(("effort", "is_forked"), [("glance", True), ("quick", False)])
def test_only_a_glance_forks_its_workers(
    tiny_model: str, tmp_path: Path, every_progress: None, effort: str, *, is_forked: bool
) -> None:
    cancel, seen = threading.Event(), []

    def note_workers(progress: Progress) -> None:
        if "opening" not in progress.text:
            lab = psutil.Process()
            own = [child for child in lab.children() if WORKER in command_of(child)]
            forked = [worker for child in lab.children() if NURSERY in command_of(child) for worker in child.children()]
            seen.append((len(own), len(forked)))
            cancel.set()

    plan = Plan(model=tiny_model, spec=SPEC, recipes=("", "kv_cache"), effort=effort)
    Session(cache_folder=tmp_path).measure(plan, on_progress=note_workers, cancel=cancel)
    ((own, forked),) = seen
    assert (own > 0, forked > 0) == (not is_forked, is_forked)


def test_requests_without_positions_are_refused_before_a_prompt_is_drawn(tiny_model: str, tmp_path: Path) -> None:
    spec = WorkloadSpec("huge", "server", prompt_tokens=1_000_000, new_tokens=8, num_requests=100_000, rate_per_s=1.0)
    refused = "1000000 prompt and 8 new tokens were asked for; .* holds 256 positions; lower --prompt-tokens"
    with pytest.raises(UsageError, match=refused):
        TargetOpener().forecast([Order(tiny_model, "cpu", "kv_cache", str(tmp_path))], spec)


def test_a_budget_that_is_too_small_for_the_proof_says_whose_request_that_was(tiny_model: str, tmp_path: Path) -> None:
    order = Order(tiny_model, "cpu", "kv_cache(budget_bytes=1)", str(tmp_path))
    refused = r"the proof that kv_cache\(.*\) gives equal outputs cannot be made: a request of 80 tokens was asked for"
    with pytest.raises(UsageError, match=refused):
        TargetOpener().reference([order], effort="quick")


def test_a_shared_prefix_is_found_in_every_measured_pass_and_decides_by_the_first_token(
    tiny_model: str, tmp_path: Path
) -> None:
    spec = replace(SPEC, prompt_tokens=40, shared_prefix_tokens=32)
    recipes = ("kv_cache(block_size=16)", "kv_cache(block_size=16) + prefix_cache")
    plain, keeping = Session(cache_folder=tmp_path).measure(
        Plan(model=tiny_model, spec=spec, recipes=recipes, effort="glance")
    )
    assert keeping.metrics["prefix_hit_rate"] == {"value": 32 / 40}
    assert keeping.metrics["prefix_bytes"]["value"] > 0
    assert "prefix_hit_rate" not in plain.metrics
    assert keeping.proof is not None
    assert keeping.proof["is_equal"]
    assert compare((plain, keeping)).metric == "ttft_s"


def test_a_cold_pass_of_one_request_finds_nothing(tiny_model: str, tmp_path: Path) -> None:
    spec = replace(SPEC, prompt_tokens=40, shared_prefix_tokens=32, cache_state="cold")
    recipes = ("kv_cache(block_size=16) + prefix_cache",)
    plan = Plan(model=tiny_model, spec=spec, recipes=recipes, effort="glance")
    (run,) = Session(cache_folder=tmp_path).measure(plan)
    assert run.metrics["prefix_hit_rate"] == {"value": 0.0}
    assert run.repeats == 1


def test_memory_is_foretold_with_what_prefixes_may_take() -> None:
    config = sizes_of("llama-125m")
    assert config is not None
    plain, keeping = (
        recipe_need(Recipe.parse(text), config, SPEC, device="cpu").held_bytes
        for text in ("kv_cache", "kv_cache + prefix_cache(budget_bytes=1073741824)")
    )
    assert keeping - plain == 2**30


def test_what_the_model_cannot_serve_is_one_line(tiny_model: str, tmp_path: Path) -> None:
    too_long = WorkloadSpec("tiny", "single_stream", prompt_tokens=8, new_tokens=4096)
    with pytest.raises(UsageError, match="4096 new tokens") as caught:
        Session(cache_folder=tmp_path).measure(Plan(model=tiny_model, spec=too_long, recipes=("kv_cache",)))
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'nonsense'"):
        Session(cache_folder=tmp_path).measure(Plan(model="nonsense", spec=SPEC, recipes=("",)))


@pytest.mark.slow
def test_a_split_model_is_measured_with_its_messages_and_its_bubble(tiny_model: str, tmp_path: Path) -> None:
    recipes = ("kv_cache + tensor_parallel", "kv_cache + pipeline_parallel")
    runs = Session(cache_folder=tmp_path).measure(Plan(model=tiny_model, spec=SPEC, recipes=recipes))
    for run in runs:
        assert (run.status, run.error) == ("done", "")
        assert run.proof is not None
        assert run.proof["is_equal"]
        assert 0 < run.metrics["communication_share"]["value"] < 1
        assert run.prediction is not None
        assert run.prediction["terms"]["communication"] > 0
        assert len(run.build["rank_threads"]) == 2
    assert "bubble_share" not in runs[0].metrics
    assert 0 < runs[1].metrics["bubble_share"]["value"] < 1
    assert {fault.code for run in runs for fault in run.faults} <= {"contended", "drift", "unsteady"}


def test_a_rank_that_dies_interrupts_its_run_and_leaves_no_process(
    tiny_model: str, tmp_path: Path, every_progress: None, left_behind: LeftBehind
) -> None:
    def of_ranks() -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if RANK in command_of(process)]

    def kill_one_while_measuring(progress: Progress) -> None:
        if "block" in progress.text:
            for process in of_ranks()[:1]:
                process.kill()

    plan = Plan(model=tiny_model, spec=SPEC, recipes=("kv_cache", "kv_cache + tensor_parallel"), effort="glance")
    alone, split = Session(cache_folder=tmp_path).measure(plan, on_progress=kill_one_while_measuring)
    assert (alone.status, split.status) == ("done", "interrupted")
    assert "rank 1 of 2 was killed by SIGKILL" in split.error
    assert left_behind() == []
