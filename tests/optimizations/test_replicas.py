"""Replicas: who serves what, on which cores, and who is left when one of them dies."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from labkit.core.errors import Unavailable, UsageError, WorkerDied
from labkit.core.machine import usable_cores
from labkit.core.recipe import Recipe
from labkit.core.trace import Trace
from labkit.core.workload import WorkloadSpec
from labkit.engine.cost import DecoderCost
from labkit.model.source import sizes_of
from labkit.optimizations import bind
from labkit.optimizations.build import build_system, prepare_reference
from labkit.optimizations.replicas import partition
from labkit.runner.memory import peak_memory_bytes, recipe_need
from labkit.runner.plan import Plan, Progress
from labkit.runner.session import Session
from tests.conftest import timeless

if TYPE_CHECKING:
    from labkit.engine.quality import Provable

TWO = "replicas(oversubscribe=True)"  # so that one core is enough for these tests
ALONE = WorkloadSpec("alone", "single_stream", prompt_tokens=12, new_tokens=4, num_requests=4)
AT_ONCE = replace(ALONE, scenario="offline", num_requests=7)
POURING = replace(ALONE, scenario="server", num_requests=6, rate_per_s=200.0)


@contextmanager
def opened(recipe: str, model: str, folder: Path) -> Iterator["Provable"]:
    bound = bind(recipe)
    with bound.process(), closing(build_system(bound, model=model, device="cpu", cache_folder=folder)) as system:
        yield system


def served(recipe: str, model: str, folder: Path, *specs: WorkloadSpec) -> list[Trace]:
    with opened(recipe, model, folder) as system:
        return [system.serve(system.prepare(spec.draw(0))) for spec in specs]


def replicas_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            found += [child] if "labkit.optimizations.replica" in child.cmdline() else []
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("cores", "num", "shares"),
    [
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3, 4]]),
        ([3, 5, 8], 3, [[3], [5], [8]]),
        ([3, 5], 4, [[3], [5], [3], [5]]),
    ],
)
def test_cores_are_divided_evenly_and_shared_only_where_they_are_too_few(
    cores: list[int], num: int, shares: list[list[int]]
) -> None:
    assert partition(cores, num) == shares


def test_more_replicas_than_cores_are_refused_unless_asked_for() -> None:
    with (
        pytest.raises(UsageError, match=r"replicas\(num=256\) was asked for; this process may use \d+ cores; allowed"),
        bind("replicas(num=256)").process() if usable_cores() > 1 else pytest.raises(Unavailable),
    ):
        pass
    with bind("replicas(num=256, oversubscribe=True)").process() as facts:
        assert facts == {}


def test_a_device_without_cores_to_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"oversubscribe=True\) was asked for on device 'cuda'; allowed: cpu"):
        build_system(bind(TWO), model="pylm", device="cuda", cache_folder=tmp_path)


def test_they_say_what_one_engine_says_however_requests_come(tiny_model: str, tmp_path: Path) -> None:
    specs = (ALONE, AT_ONCE, POURING)
    plain, divided = (served(recipe, tiny_model, tmp_path, *specs) for recipe in ("kv_cache", f"kv_cache + {TWO}"))
    for alone, together, spec in zip(plain, divided, specs, strict=True):
        assert together.checksum == alone.checksum
        assert timeless(together.counters) == timeless(alone.counters)
        assert len(together.requests) == spec.num_requests


def test_a_closed_loop_has_so_many_outstanding_in_all_of_them(tiny_model: str, tmp_path: Path) -> None:
    loop = replace(ALONE, scenario="closed_loop", num_requests=6, concurrency=3, turns=2, min_new_tokens=2)
    (trace,) = served(TWO, tiny_model, tmp_path, loop)
    assert [len(request.output_ids) for request in trace.requests] == [length.new_tokens for length in loop.lengths]
    for number in (0, 2, 4):
        first, second = trace.requests[number : number + 2]
        assert first.arrival_s < 0.5
        assert second.arrival_s >= first.output_s[-1]


def test_their_stamps_lie_on_one_clock_and_count_from_the_intended_arrival(tiny_model: str, tmp_path: Path) -> None:
    alone, pouring = served(f"kv_cache + {TWO}", tiny_model, tmp_path, ALONE, POURING)
    arrivals = [request.arrival_s for request in POURING.draw(0).requests]
    assert [request.arrival_s for request in pouring.requests] == arrivals
    for request in (*alone.requests, *pouring.requests):
        stamps = (request.arrival_s, request.sent_s, request.scheduled_s, *request.output_s)
        assert all(earlier <= later for earlier, later in pairwise(stamps))
    for trace in (alone, pouring):
        assert max(request.output_s[-1] for request in trace.requests) <= trace.duration_s
    assert all(one.output_s[-1] <= next_one.arrival_s for one, next_one in pairwise(alone.requests))


def test_requests_sent_at_once_are_computed_at_the_same_time_on_pinned_cores(tiny_model: str, tmp_path: Path) -> None:
    with opened(f"kv_cache + {TWO}", tiny_model, tmp_path) as system:
        facts = system.facts()
        processes = replicas_of(psutil.Process())
        assert [process.cpu_affinity() for process in processes] == [one["cores"] for one in facts["replicas"]]
        trace = system.serve(system.prepare(AT_ONCE.draw(0)))
        spans = [(request.scheduled_s, request.output_s[-1]) for request in trace.requests]
        assert any(later[0] < earlier[1] for earlier, later in pairwise(sorted(spans)))
    with opened("kv_cache", tiny_model, tmp_path) as system:
        assert facts["weights_bytes"] == 2 * system.facts()["weights_bytes"]
    assert not replicas_of(psutil.Process())


def test_what_a_prompt_leaves_stays_with_the_replica_that_read_it(tiny_model: str, tmp_path: Path) -> None:
    spec = replace(ALONE, prompt_tokens=40, shared_prefix_tokens=32)
    recipe = f"kv_cache(block_size=16) + prefix_cache + {TWO}"
    with opened(recipe, tiny_model, tmp_path) as system:
        assert system.reusable_tokens == 16
        first, second = (system.serve(system.prepare(spec.draw(index))) for index in (0, 1))
        assert first.counters["prefix_hit_tokens"] == 2 * 32  # each of the two has read it once, of four requests
        assert second.counters["prefix_hit_tokens"] == 4 * 32
        system.drop_caches()
        assert system.serve(system.prepare(spec.draw(2))).counters["prefix_hit_tokens"] == 2 * 32


def test_what_cannot_be_served_is_one_line_and_a_usage_error(tiny_model: str, tmp_path: Path) -> None:
    with (
        opened(f"kv_cache + {TWO}", tiny_model, tmp_path) as system,
        pytest.raises(UsageError, match="4096 new tokens were asked for"),
    ):
        system.prepare(replace(ALONE, new_tokens=4096).draw(0))


def test_a_load_that_they_do_not_know_is_refused(tiny_model: str, tmp_path: Path) -> None:
    with (
        opened("kv_cache + replicas(num=1)", tiny_model, tmp_path) as system,
        pytest.raises(UsageError, match=r"scenario for replicas 'tidal'; allowed: single_stream, .*closed_loop"),
    ):
        system.prepare(replace(AT_ONCE.draw(0), scenario="tidal"))  # type: ignore[arg-type]


def test_output_is_proven_with_the_replicas_themselves(tiny_model: str, tmp_path: Path) -> None:
    bound = bind(f"kv_cache + {TWO}")
    (proof,) = prepare_reference(
        [bound], model=tiny_model, device="cpu", effort="quick", cache_folder=tmp_path
    ).values()
    assert proof["is_equal"]
    assert proof["num_tokens"] > 0


def test_memory_is_foretold_and_counted_for_all_of_them(tiny_model: str, tmp_path: Path) -> None:
    sizes = sizes_of("llama-125m")
    assert sizes is not None
    one, three = (
        recipe_need(Recipe.parse(f"kv_cache + replicas(num={num}, oversubscribe=True)"), sizes, ALONE, device="cpu")
        for num in (1, 3)
    )
    assert three.held_bytes > 3 * one.held_bytes
    alone = peak_memory_bytes("cpu")
    with opened(f"kv_cache + {TWO}", tiny_model, tmp_path):
        assert peak_memory_bytes("cpu") > alone + 2 * 50 * 2**20  # an interpreter with torch is more than that


def test_all_bytes_are_read_in_fewer_steps() -> None:
    sizes = sizes_of("llama-125m")
    assert sizes is not None
    for spec, num_steps in ((AT_ONCE, 4), (ALONE, 4), (replace(AT_ONCE, num_requests=1), 1)):
        one, two = (
            bind(recipe).cost(DecoderCost.baseline(sizes, spec)).phases().phases["prefill"]
            for recipe in ("kv_cache", f"kv_cache + {TWO}")
        )
        assert two.num_steps == num_steps
        assert two.num_steps * two.step_bytes == pytest.approx(one.num_steps * one.step_bytes)
        assert two.num_outputs == one.num_outputs
        assert two.kernel_launches == one.kernel_launches


def test_a_replica_that_dies_is_named_and_closing_is_still_possible(tiny_model: str, tmp_path: Path) -> None:
    with opened(f"kv_cache + {TWO}", tiny_model, tmp_path) as system:
        prepared = system.prepare(AT_ONCE.draw(0))
        replicas_of(psutil.Process())[1].kill()
        with pytest.raises(WorkerDied, match=r"replica 2 of 2: worker \d+ was killed by SIGKILL"):
            system.serve(prepared)
    assert not replicas_of(psutil.Process())


def test_a_replica_that_dies_interrupts_its_run_and_no_other(
    tiny_model: str, tmp_path: Path, every_progress: None
) -> None:
    killed = threading.Event()

    def kill_one(progress: Progress) -> None:
        if progress.text.startswith("block") and not killed.is_set():
            killed.set()
            replicas_of(psutil.Process())[0].kill()

    recipes = ("kv_cache", f"kv_cache + {TWO}")
    plan = Plan(model=tiny_model, spec=replace(AT_ONCE, new_tokens=64), recipes=recipes, effort="glance")
    plain, divided = Session(cache_folder=tmp_path).measure(plan, on_progress=kill_one)
    assert killed.is_set()
    assert (plain.status, plain.error) == ("done", "")
    assert divided.status == "interrupted"
    assert "replica 1 of 2" in divided.error


def test_no_replica_outlives_a_parent_that_is_killed(tiny_model: str, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from labkit.optimizations import bind\n"
        "from labkit.optimizations.build import build_system\n"
        f"model, folder = {tiny_model!r}, Path({str(tmp_path)!r})\n"
        f"system = build_system(bind({TWO!r}), model=model, device='cpu', cache_folder=folder)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        replicas = replicas_of(psutil.Process(parent.pid))
        assert len(replicas) == 2
        parent.kill()  # just the parent, not its group
        _, alive = psutil.wait_procs(replicas, timeout=5)
        assert not alive
