"""Cells of a sweep, over simulated queues instead of sessions."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from labkit.core.errors import UsageError
from labkit.core.machine import machine as machine_here
from labkit.core.metrics import summarize
from labkit.core.run import Pass, Run
from labkit.core.workload import WORKLOADS, workload
from labkit.runner.plan import Plan
from labkit.runner.sweep import Shard, Sweep, cells, key_of, sweep_cells
from tests.runner.queues import serve

SERVICE_S = {"": 0.2, "kv_cache": 0.05}
SWEEP = Sweep(
    model="queue",
    spec=workload("server", prompt_tokens=8, new_tokens=5, num_requests=90),
    recipes=("", "kv_cache"),
    rates=(1.0, 8.0, "auto"),
)


class Queues:
    """Measures by simulation; dies after `num` cells."""

    def __init__(self, num: int | None = None, **machine: str) -> None:
        self.plans: list[Plan] = []
        self.machine = {"fingerprint": machine_here().fingerprint, **machine}
        self._num, self._ids = num, itertools.count()

    def __call__(self, plan: Plan) -> Sequence[Run]:
        if len(self.plans) == self._num:
            raise KeyboardInterrupt
        self.plans.append(plan)
        (recipe,) = plan.recipes
        traces = [serve(plan.spec, SERVICE_S[recipe])] * 8
        return (
            Run(
                id=f"run{next(self._ids)}-{id(self)}",
                group="g",
                created_utc=f"2030-01-01T00:00:{len(self.plans):02d}",
                recipe=recipe,
                workload=plan.spec.to_dict(),
                workload_hash=plan.spec.hash,
                model={"name": plan.model},
                device="cpu",
                machine=self.machine,
                effort=plan.effort,
                passes=tuple(Pass(block, trace) for block, trace in enumerate(traces)),
                metrics=summarize(traces, scenario=plan.spec.scenario),
                sweep=plan.sweep,
            ),
        )


def test_more_conversations_than_may_be_under_way_at_once_are_swept() -> None:
    spec = workload("server", prompt_tokens=8, new_tokens=5, num_requests=10_000, turns=2)
    sweep = replace(SWEEP, spec=spec, rates=(1.0,))
    assert (sweep.all_at_once.num_requests, sweep.all_at_once.concurrency) == (10_000, 4096)


def keys(runs: Sequence[Run]) -> set[tuple[str, ...]]:
    return {key_of(run) for run in runs}


def test_each_cell_is_measured_once_and_the_search_starts_at_what_all_at_once_took() -> None:
    queues = Queues()
    runs = list(sweep_cells(SWEEP, measure=queues))
    measured = [(plan.recipes[0], plan.spec.rate_per_s) for plan in queues.plans]
    assert len(set(measured)) == len(measured)
    assert measured[:4] == [("", 1.0), ("kv_cache", 1.0), ("", 8.0), ("kv_cache", 8.0)]
    assert measured[4:6] == [("", None), ("", 5.0)]
    assert ("kv_cache", 20.0) in measured
    assert len(cells(runs)) == len(measured)


def test_cells_that_another_machine_measured_are_measured_here_and_stand_beside_them() -> None:
    elsewhere = list(sweep_cells(SWEEP, measure=Queues(fingerprint="elsewhere")))
    queues = Queues()
    here = list(sweep_cells(SWEEP, measure=queues, known=elsewhere))
    assert len(queues.plans) == len(elsewhere)
    assert len(cells([*elsewhere, *here])) == len(elsewhere) + len(here)


@pytest.mark.parametrize("num", [0, 1, 5, 7])
def test_a_sweep_that_was_stopped_ends_with_the_same_cells(num: int) -> None:
    whole = list(sweep_cells(SWEEP, measure=Queues()))
    kept: list[Run] = []
    stopped = Queues(num)

    def measure(plan: Plan) -> Sequence[Run]:
        runs = stopped(plan)
        kept.extend(runs)
        return runs

    with pytest.raises(KeyboardInterrupt):
        list(sweep_cells(SWEEP, measure=measure))
    again = Queues()
    resumed = list(sweep_cells(SWEEP, measure=again, known=kept))
    assert len(kept) == num
    assert keys(resumed) == keys(whole)
    assert len(again.plans) == len(cells(whole)) - num


def test_shards_together_measure_what_the_whole_does() -> None:
    whole = list(sweep_cells(SWEEP, measure=Queues()))
    parts = [list(sweep_cells(SWEEP, measure=Queues(), shard=Shard(index, 3))) for index in (1, 2, 3)]
    assert set.union(*map(keys, parts)) == keys(whole)
    assert all(keys(part) != keys(whole) for part in parts)
    together = cells([run for part in parts for run in part])
    assert [(run.recipe, run.workload["rate_per_s"]) for run in together] == [
        (run.recipe, run.workload["rate_per_s"]) for run in cells(whole)
    ]


def test_another_name_effort_or_amount_of_work_is_another_cell() -> None:
    known = list(sweep_cells(SWEEP, measure=Queues()))
    for other in (
        replace(SWEEP, name="again"),
        replace(SWEEP, effort="standard"),
        replace(SWEEP, spec=replace(SWEEP.spec, num_requests=91)),
    ):
        queues = Queues()
        list(sweep_cells(other, measure=queues, known=known))
        assert len(queues.plans) == len(cells(known))


def test_an_interrupted_cell_is_no_cell_and_ends_the_search_that_needs_it() -> None:
    def measure(plan: Plan) -> Sequence[Run]:
        return [replace(run, status="interrupted") for run in Queues()(plan)]

    runs = list(sweep_cells(SWEEP, measure=measure))
    assert len(runs) == 4 + 2  # one of each search
    assert cells(runs) == ()


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/2/3", "a/b"])
def test_a_shard_is_one_part_of_several(text: str) -> None:
    with pytest.raises(UsageError, match="allowed: i/n"):
        Shard.parse(text)
    assert Shard.parse("2/3") == Shard(2, 3)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"rates": ()}, "no rate was given"),
        ({"rates": (0.0,)}, "rate_per_s is 0.0; allowed"),
        ({"rates": ("fast",)}, "rate 'fast' was asked for"),
        ({"name": ""}, "no name was given"),
        ({"recipes": ("nonsense",)}, "unknown optimization 'nonsense'"),
        ({"spec": replace(WORKLOADS["server"], num_requests=5)}, "allowed: 6 or more"),
    ],
)
def test_a_sweep_is_checked_before_anything_starts(changes: dict[str, object], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        replace(SWEEP, **changes)  # type: ignore[arg-type]


def test_the_search_starts_where_all_tokens_would_take_it_though_a_share_was_run() -> None:
    queues = Queues()

    def measure(plan: Plan) -> Sequence[Run]:
        (run,) = queues(plan)
        if plan.spec.rate_per_s is not None:
            return (run,)
        short = [serve(replace(plan.spec, new_tokens=2), 0.08)] * 8  # prefill of 16 ms, then 64 ms a token
        return (replace(run, token_share=0.4, metrics=summarize(short)),)

    list(sweep_cells(replace(SWEEP, recipes=("kv_cache",), rates=("auto",)), measure=measure))
    assert queues.plans[1].spec.rate_per_s == float(f"{1 / (0.016 + 5 * 0.064):.3g}")


def test_conversations_are_searched_from_a_closed_loop() -> None:
    spec = replace(SWEEP, spec=replace(SWEEP.spec, turns=3)).all_at_once
    assert (spec.scenario, spec.concurrency, spec.rate_per_s) == ("closed_loop", 30, None)
