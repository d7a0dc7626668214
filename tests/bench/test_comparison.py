import json
from dataclasses import replace

import numpy as np
import pytest

from labkit.bench.comparison import compare
from labkit.core.run import Fault, Pass, Run
from labkit.core.trace import RequestTrace, Trace

NUM_BLOCKS = 12


def trace(speed, *, num_outputs=11, arrival_s=0.0):
    output_s = tuple(arrival_s + (1 + index) / speed for index in range(num_outputs))
    request = RequestTrace(arrival_s, arrival_s, arrival_s, output_s, (1,) * num_outputs, 8)
    return Trace((request,), output_s[-1])


def run(id, speed, *, seed=0, noise=0.002, **changes):
    rng = np.random.default_rng([seed, *id.encode()])
    drift = np.linspace(1, 1.3, NUM_BLOCKS)  # shared by all, as in one session
    speeds = speed * drift * np.exp(noise * rng.standard_normal(NUM_BLOCKS))
    fields = {
        "id": id,
        "group": "g",
        "created_utc": "2026-01-01T00:00:00Z",
        "recipe": id,
        "workload": {"name": "chat", "scenario": "single_stream"},
        "workload_hash": "w",
        "model": {"name": "pylm", "hash": "m"},
        "device": "cpu",
        "machine": {"fingerprint": "f"},
        "effort": "quick",
        "passes": tuple(Pass(block, trace(value), process=block) for block, value in enumerate(speeds)),
    }
    return Run(**{**fields, **changes})


def test_verdicts_stand_beside_the_first_run():
    comparison = compare([run("base", 100), run("fast", 200), run("same", 100), run("slow", 80)])
    assert comparison.baseline.id == "base"
    assert comparison.metric == "output_tok_per_s"
    assert [(row.run_id, row.decision.verdict) for row in comparison.rows] == [
        ("fast", "faster"),
        ("same", "same"),
        ("slow", "slower"),
    ]
    assert comparison.rows[0].decision.ratio.value == pytest.approx(2, rel=0.01)
    assert comparison.rows[0].ratios["ttft_s"]["value"] == pytest.approx(0.5, rel=0.01)
    assert comparison.rows[0].ratios["decode_tok_per_s"]["value"] == pytest.approx(2, rel=0.01)


def test_p_values_are_adjusted_over_the_whole_table():
    alone = compare([run("base", 100), run("fast", 200)]).rows[0].decision
    amid = compare([run("base", 100), run("fast", 200), run("b", 101), run("c", 102)]).rows[0].decision
    assert amid.p_value == alone.p_value
    assert amid.p_adjusted > alone.p_adjusted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"faults": (Fault("drift", "a", "b", "c"),)}, "the run is invalid (drift)"),
        ({"status": "failed", "error": "out of memory"}, "the run was failed: out of memory"),
        ({"status": "interrupted"}, "the run was interrupted"),
        ({"group": "h"}, "measured in another session, not interleaved with the baseline"),
        ({"machine": {"fingerprint": "x"}}, "measured on another machine"),
        ({"model": {"name": "pylm", "hash": "x"}}, "measured with another model"),
        ({"workload_hash": "x"}, "measured on another workload"),
        ({"passes": ()}, "measured in other blocks than the baseline"),
        ({"build": {"emulated": ["fp16"]}}, "the run computes in fp16, which this processor only emulates: not ranked"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_reason(changes, reason):
    comparison = compare([run("base", 100), run("odd", 200, **changes), run("fast", 200)])
    odd, fast = comparison.rows
    assert odd.decision is None
    assert odd.refusal == reason
    assert odd.ratios == {}
    assert fast.decision.verdict == "faster"
    assert fast.refusal == ""


def test_a_refused_run_does_not_cost_the_others_significance():
    alone = compare([run("base", 100), run("fast", 200)]).rows[0].decision
    beside = compare([run("base", 100), run("fast", 200), run("odd", 1, group="h")]).rows[0].decision
    assert beside == alone


def test_an_invalid_baseline_refuses_every_run():
    baseline = run("base", 100, faults=(Fault("contended", "a", "b", "c"),))
    comparison = compare([baseline, run("fast", 200)])
    assert comparison.rows[0].refusal == "the baseline is invalid (contended)"


def test_cpu_and_cuda_of_one_host_compare():
    assert compare([run("base", 100), run("gpu", 900, device="cuda")]).rows[0].decision.verdict == "faster"


def test_recipes_that_ran_fewer_tokens_are_compared_by_their_decoding():
    slow = run("base", 2, token_share=0.1)
    slow = replace(
        slow, passes=tuple(Pass(block, trace(2, num_outputs=3), process=block) for block in range(NUM_BLOCKS))
    )
    fast = replace(run("fast", 4), passes=tuple(Pass(block, trace(4), process=block) for block in range(NUM_BLOCKS)))
    comparison = compare([slow, fast])
    assert comparison.metric == "decode_tok_per_s"
    assert comparison.rows[0].decision.ratio.value == pytest.approx(2)


def test_server_load_is_compared_by_latency_and_a_ratio_above_one_is_faster():
    server = {"workload": {"name": "server", "scenario": "server"}}
    comparison = compare([run("base", 100, **server), run("fast", 200, **server)])
    assert comparison.metric == "e2e_s"
    assert comparison.rows[0].decision.verdict == "faster"
    assert comparison.rows[0].decision.ratio.value == pytest.approx(2, rel=0.01)


def test_requests_that_share_a_prefix_are_compared_by_their_first_token():
    shared = {"workload": {"name": "shared", "scenario": "offline", "shared_prefix_tokens": 8}}
    comparison = compare([run("base", 100, token_share=0.5, **shared), run("fast", 200, **shared)])
    assert comparison.metric == "ttft_s"
    assert comparison.rows[0].decision.verdict == "faster"
    assert comparison.rows[0].decision.ratio.value == pytest.approx(2, rel=0.01)


def test_quality_and_limit_stand_beside_every_speed():
    metrics = {"decode_tok_per_s": {"value": 50.0}}
    fast = run("fast", 200, quality={"kl_mean": 0.1}, metrics=metrics, limit={"decode_tok_per_s": 100.0})
    row = compare([run("base", 100, quality={"kl_mean": 0.0, "top1": 1.0}), fast]).rows[0]
    assert row.quality == {
        "kl_mean": {"baseline": 0.0, "candidate": 0.1},
        "top1": {"baseline": 1.0, "candidate": None},
    }
    assert row.limit_share == 0.5
    assert compare([run("base", 100), run("fast", 200)]).rows[0].limit_share is None


def test_frame_has_a_row_for_every_run_the_baseline_first():
    runs = [
        run("", 100, quality={"kl_mean": 0.0}),
        run("fast", 200, quality={"kl_mean": 0.1}),
        run("odd", 1, group="h"),
    ]
    frame = compare(runs).frame()
    assert list(frame["recipe"]) == ["baseline", "fast", "odd"]
    assert list(frame["verdict"]) == ["baseline", "faster", "refused"]
    assert list(frame["kl_mean"])[:2] == [0.0, 0.1]
    assert frame["ratio"].isna().tolist() == [True, False, True]
    assert "another session" in frame["reason"][2]


def test_a_baseline_alone_is_a_comparison_without_rows():
    comparison = compare([run("base", 100)])
    assert comparison.rows == ()
    assert len(comparison.frame()) == 1


def test_comparison_is_json():
    fields = compare([run("base", 100), run("fast", 200), run("odd", 1, group="h")]).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert fields["baseline_id"] == "base"
    assert fields["rows"][0]["decision"]["verdict"] == "faster"


def test_nothing_cannot_be_compared():
    with pytest.raises(ValueError, match="expected at least the baseline"):
        compare([])


def test_pairs_that_were_measured_apart_are_each_held_against_the_baseline_of_their_own_blocks():
    base, fast, slow = run("base", 100), run("fast", 200), run("slow", 50)
    early, late = fast.passes[:4] + fast.passes[8:], slow.passes[:8]
    rows = compare([base, replace(fast, passes=early), replace(slow, passes=late)]).rows
    assert [row.decision.num_blocks for row in rows] == [8, 8]
    assert rows[0].decision.ratio.value == pytest.approx(2, rel=0.01)
    assert rows[1].decision.ratio.value == pytest.approx(0.5, rel=0.01)


def test_a_block_that_the_baseline_lacks_is_refused():
    base, fast = run("base", 100), run("fast", 200)
    row = compare([replace(base, passes=base.passes[1:]), fast]).rows[0]
    assert row.refusal == "measured in other blocks than the baseline"


def test_one_process_each_may_owe_a_small_difference_to_luck():
    def lone(id, speed):
        made = run(id, speed)
        return replace(made, passes=tuple(replace(one, process=0) for one in made.passes))

    rows = compare([lone("base", 100), lone("near", 104), lone("same", 100), lone("far", 120)]).rows
    assert [row.decision.verdict for row in rows] == ["cannot tell", "cannot tell", "faster"]
    assert "two processes of one recipe can differ" in rows[0].decision.reason


def test_a_pair_of_lone_processes_owes_it_to_luck_too_where_the_baseline_had_another_for_each_pair():
    def alone(id, speed, process):
        made, first = run(id, speed), process * NUM_BLOCKS
        moved = [replace(one, block=first + one.block, process=process) for one in made.passes]
        return replace(made, passes=tuple(moved))

    parts = [alone("base", 100, process) for process in (0, 1)]
    base = replace(parts[0], passes=(*parts[0].passes, *parts[1].passes))
    rows = compare([base, alone("near", 104, 0), alone("far", 120, 1)]).rows
    assert [row.decision.verdict for row in rows] == ["cannot tell", "faster"]


def test_blocks_of_one_process_are_one_observation():
    def spread(id, speed, *, luck):
        made = run(id, speed, noise=0.001)
        rng = np.random.default_rng([1, *id.encode()])
        lucks = np.exp(luck * rng.standard_normal(8))
        passes = [
            Pass(block, trace(speed * lucks[block // 3] * np.exp(0.001 * rng.standard_normal())), process=block // 3)
            for block in range(24)
        ]
        return replace(made, passes=tuple(passes))

    row = compare([spread("base", 100, luck=0.01), spread("other", 100, luck=0.01)]).rows[0]
    assert row.decision.num_blocks == 8
    assert row.decision.ratio.low < 1 < row.decision.ratio.high
