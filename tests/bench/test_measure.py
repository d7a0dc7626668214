import gc
from dataclasses import replace

import numpy as np
import pytest

from labkit.bench import measure
from labkit.bench.measure import calibrate, change_noise, is_steady, machine_noise, measure_pass, shortened, warm_up
from labkit.bench.validity import contention
from labkit.core.contention import MAX_CONTENTION
from labkit.core.errors import UsageError
from labkit.core.metrics import summarize
from labkit.core.run import Pass
from labkit.core.workload import WorkloadSpec

CHAT = WorkloadSpec("chat", "single_stream", prompt_tokens=8, new_tokens=4)


# 70 requests: first outputs evenly spread from 5 to 12 ms, then gaps of 1, 2 and 3 ms in turn
FIRST_S = [0.005 + 0.0001 * k for k in range(70)]
DELAYS = (lambda k: FIRST_S[k], lambda k: 0.001 * (1 + k % 3))


def check_known_delays(traces, *, abs):
    metrics = summarize(traces)
    expected_s = {
        "ttft_s.p50": np.median(FIRST_S),
        "ttft_s.p90": np.percentile(FIRST_S, 90),
        "itl_s.p50": 0.002,
        "itl_s.p90": 0.003,
        "tpot_s.p50": 0.002,
    }
    for name, value_s in expected_s.items():
        assert metrics[name]["value"] == pytest.approx(value_s, rel=0.01, abs=abs), name


@pytest.fixture
def unprimed(monkeypatch):
    """Only what is measured reaches the System."""
    monkeypatch.setattr(measure, "prime", lambda system, spec: None)


@pytest.mark.usefixtures("unprimed")
def test_known_delays_come_back_within_one_percent(known_system, clock):
    system = known_system(*DELAYS, clock=clock)
    check_known_delays([measure_pass(system, CHAT, index).trace for index in range(70)], abs=0)


@pytest.mark.usefixtures("unprimed")
def test_known_delays_come_back_within_a_millisecond_by_the_wall_clock(known_system):
    system = known_system(*DELAYS)
    measured = [measure_pass(system, CHAT, index) for index in range(70)]
    alien = contention([Pass(0, one.trace, one.contention) for one in measured])
    if alien > MAX_CONTENTION:
        pytest.skip(f"other work took {alien:.0%} of core time: INVALID(contended)")
    check_known_delays([one.trace for one in measured], abs=1e-3)


@pytest.mark.usefixtures("unprimed")
def test_garbage_collection_is_off_inside_and_restored_outside(known_system):
    seen = []

    class Watching(known_system):
        def serve(self, prepared):
            seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
            return super().serve(prepared)

    measure_pass(Watching(lambda k: 0.0), CHAT, 0)
    assert seen == [(False, True)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_garbage_collection_is_restored_when_a_pass_breaks_off(known_system):
    class Broken(known_system):
        def serve(self, prepared):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure_pass(Broken(lambda k: 0.0), CHAT, 0)
    assert gc.isenabled()


def test_contention_is_a_share(known_system):
    assert 0 <= measure_pass(known_system(lambda k: 0.02), CHAT, 0).contention <= 1


@pytest.mark.usefixtures("unprimed")
def test_measured_prompts_differ_from_those_of_the_warm_up(known_system, clock):
    system = known_system(lambda k: 0.001, clock=clock)
    warm_up(system, CHAT, effort="quick")
    warm = {workload.requests[0].prompt for workload in system.served}
    for index in range(8):
        measure_pass(system, CHAT, index)
    measured = {workload.requests[0].prompt for workload in system.served[-8:]}
    assert len(measured) == 8
    assert warm.isdisjoint(measured)


def test_a_pass_is_primed_with_short_requests_of_the_warm_up_after_the_system_has_moved(known_system, clock):
    done = []

    class Moving(known_system):
        def relocate(self):
            done.append("relocate")

        def serve(self, prepared):
            done.append((prepared.scenario, [(one.prompt, one.max_new_tokens) for one in prepared.requests]))
            return super().serve(prepared)

    spec = WorkloadSpec("load", "server", prompt_tokens=8, new_tokens=4, num_requests=2, rate_per_s=9.0)
    measure_pass(Moving(lambda k: 0.02, lambda k: 0.01, clock=clock), spec, 0)
    moved, *primed, measured = done
    assert moved == "relocate"
    assert primed == [("single_stream", [(spec.draw(-1).requests[0].prompt, 2)])] * 2  # of 30 ms each, for 50 ms
    assert measured == ("server", [(one.prompt, 4) for one in spec.draw(0).requests])


def test_a_cold_pass_begins_when_all_that_went_before_has_been_dropped(known_system, clock):
    done = []

    class Dropping(known_system):
        def drop_caches(self):
            done.append("drop")

        def serve(self, prepared):
            done.append("serve")
            return super().serve(prepared)

    system, cold = Dropping(lambda k: 0.03, clock=clock), replace(CHAT, cache_state="cold")
    measure_pass(system, cold, 0)
    assert done == ["serve", "serve", "drop", "serve"]  # primed twice for 50 ms, then measured
    done.clear()
    warmup = warm_up(system, cold, effort="quick")
    assert done == ["drop", "serve"] * (len(done) // 2)
    assert warmup.repeats == 1  # the next request of a pass would find what the first one left
    done.clear()
    assert warm_up(system, CHAT, effort="quick").repeats > 1
    measure_pass(system, CHAT, 0)
    assert "drop" not in done


def test_what_the_first_pass_compiles_leaves_the_time_to_settle(known_system, clock):
    settled = warm_up(known_system(lambda k: 0.05 * (1 + 2 * 0.9**k), clock=clock), CHAT, effort="quick")
    compiling = known_system(lambda k: 30.0 if k == 0 else 0.05 * (1 + 2 * 0.9**k), clock=clock)
    warmup = warm_up(compiling, CHAT, effort="quick")
    assert warmup.num_passes == settled.num_passes
    assert warmup.warmup_s == pytest.approx(settled.warmup_s + 30.0, rel=0.05)


def test_negative_passes_are_kept_for_the_warm_up(known_system):
    with pytest.raises(ValueError, match="expected 0 or more"):
        measure_pass(known_system(lambda k: 0.0), CHAT, -1)


def test_a_constant_system_is_steady_after_three_windows_and_its_pass_known(known_system, clock):
    warmup = warm_up(known_system(lambda k: 0.02, lambda k: 0.01, clock=clock), CHAT, effort="quick")
    assert warmup.is_steady
    assert warmup.num_passes == 9
    assert warmup.token_share == 1
    assert warmup.pass_s == pytest.approx(0.05)
    assert warmup.warmup_s == pytest.approx(9 * 0.05 + 2 * 0.03)


def test_a_system_known_from_an_earlier_process_warms_up_in_three_passes(known_system, clock):
    system = known_system(lambda k: 0.05 * 1.15**k, clock=clock)
    assert warm_up(system, CHAT, effort="standard", is_known=True).num_passes == 3


def test_a_system_that_keeps_slowing_down_is_never_steady(known_system, clock):
    warmup = warm_up(known_system(lambda k: 0.05 * 1.15**k, clock=clock), CHAT, effort="quick")
    assert not warmup.is_steady
    assert warmup.warmup_s >= 2


def test_a_glance_warms_up_in_one_pass_and_asks_no_more_of_it(known_system, clock):
    warmup = warm_up(known_system(lambda k: 0.05 * 1.15**k, clock=clock), CHAT, effort="glance")
    assert warmup.is_steady
    assert warmup.num_passes == 1


def test_a_system_slow_at_first_is_warmed_up_until_it_is_not(known_system, clock):
    system = known_system(lambda k: 0.01 + (0.1 if k < 8 else 0.0), clock=clock)
    warmup = warm_up(system, CHAT, effort="standard")
    assert warmup.is_steady
    assert warmup.pass_s == pytest.approx(0.01)


def test_a_slow_system_warms_up_with_fewer_tokens_and_foretells_its_whole_pass(known_system, clock):
    spec = WorkloadSpec("slow", "single_stream", prompt_tokens=8, new_tokens=400)
    warmup = warm_up(known_system(lambda k: 0.1, lambda k: 0.1, clock=clock), spec, effort="quick")
    assert warmup.pass_s == pytest.approx(40.0)
    assert warmup.token_share == pytest.approx(0.5 / 40.0)
    assert warmup.num_passes == 3
    assert warmup.warmup_s < 5


def test_a_fast_stream_goes_through_its_requests_more_than_once(known_system, clock):
    system = known_system(lambda k: 0.002, lambda k: 0.0011, clock=clock)
    warmup = warm_up(system, CHAT, effort="standard")
    assert warmup.repeats == 19  # of 5.3 ms, to last the 0.1 s that a pass should
    trace = measure_pass(system, CHAT, 0, repeats=3).trace
    assert trace.num_outputs == 3 * CHAT.new_tokens
    assert len({request.prompt for request in system.served[-1].requests}) == 3
    assert system.served[-1].requests[0] == CHAT.draw(0).requests[0]  # what a slower recipe runs in the same block


def test_server_load_is_never_shortened(known_system, clock):
    spec = WorkloadSpec("server", "server", prompt_tokens=8, new_tokens=4, num_requests=20, rate_per_s=2.0)
    warmup = warm_up(known_system(lambda k: 0.01, clock=clock), spec, effort="quick")
    assert warmup.token_share == 1
    assert warmup.repeats == 1
    assert warmup.pass_s > 1


def test_unknown_effort_is_refused(known_system):
    with pytest.raises(UsageError, match="unknown effort 'heroic'; allowed: glance, quick, standard, rigorous"):
        warm_up(known_system(lambda k: 0.0), CHAT, effort="heroic")


@pytest.mark.parametrize(
    ("passes_s", "expected"),
    [
        ([1.0, 1.01, 1.0], True),
        ([1.2, 1.1, 1.0], False),  # a trend is no noise
        ([1.0, 1.04, 1.0], True),  # noise is
        ([9.0, 5.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0], False),
    ],
)
def test_three_windows_agree_within_two_percent_or_the_noise(passes_s, expected):
    assert is_steady(passes_s, window=1) is expected


def test_windows_of_three_use_their_medians():
    assert is_steady([1.0, 1.0, 5.0, 1.0, 5.0, 1.0, 5.0, 1.0, 1.0], window=3)


def test_nothing_is_steadier_than_the_machine_under_it():
    passes_s = [1.1, 1.05, 1.0]
    assert not is_steady(passes_s, window=1, machine_noise=0.03)
    assert is_steady(passes_s, window=1, machine_noise=0.04)


def test_machine_noise_is_the_relative_spread_within_stretches():
    rng = np.random.default_rng(0)
    noisy = [list(0.01 * scale * np.exp(0.05 * rng.standard_normal(40))) for scale in (1.0, 1.5, 2.0)]
    assert machine_noise(noisy) == pytest.approx(0.05, rel=0.2)
    assert machine_noise([[0.01, 0.01, 0.05], [0.02, 0.02, 0.02]]) == 0  # one interruption, one machine that warmed up
    assert machine_noise([]) == machine_noise([[]]) == 0


def test_change_noise_is_that_of_one_reading_and_blind_to_a_step():
    rng = np.random.default_rng(0)
    readings = 0.01 * np.exp(0.05 * rng.standard_normal(400))
    assert change_noise(readings) == pytest.approx(0.05, rel=0.2)
    assert change_noise([0.01] * 5 + [0.02] * 5) == 0
    assert change_noise([0.01, 0.02, 0.01, 0.02, 0.01]) == 0  # too few to tell noise from a change


def test_the_warm_up_watches_the_machine_between_passes(known_system, clock):
    warmup = warm_up(known_system(lambda k: 0.02, clock=clock), CHAT, effort="quick")
    assert warmup.calibrations_s == (0.01,) * warmup.num_passes


@pytest.mark.parametrize(
    ("new_tokens", "share", "expected"), [(64, 1.0, 64), (64, 0.25, 16), (64, 0.0, 2), (1, 0.5, 1)]
)
def test_shortened_keeps_at_least_two_tokens_and_adds_none(new_tokens, share, expected):
    spec = WorkloadSpec("chat", "single_stream", prompt_tokens=8, new_tokens=new_tokens)
    assert shortened(spec, share).new_tokens == expected


def test_shortened_passes_run_that_many_tokens(known_system):
    system = known_system(lambda k: 0.0)
    spec = WorkloadSpec("chat", "single_stream", prompt_tokens=8, new_tokens=64)
    assert measure_pass(system, spec, 0, token_share=0.25).trace.num_outputs == 16


def test_calibration_takes_about_ten_milliseconds():
    assert 1e-3 < min(calibrate() for _ in range(3)) < 1.0
