import pytest

from labkit.bench.validity import block_is_disturbed, contention, drift, faults, max_drift
from labkit.core.run import Pass
from labkit.core.trace import RequestTrace, Trace

CALM = (0.010, 0.010)


def one_pass(*, lag_s=0.0, e2e_s=1.0, alien=0.0, num_outputs=2, duration_s=1.0):
    output_s = tuple(0.5 + e2e_s for _ in range(num_outputs))
    request = RequestTrace(0.5, 0.5 + lag_s, 0.6, output_s, (3,) * num_outputs, 8)
    return Pass(0, Trace((request,), duration_s), alien)


def codes(passes=None, **given):
    return [fault.code for fault in faults([one_pass()] if passes is None else passes, **given)]


def test_a_sound_run_has_no_faults():
    sound = {
        "calibrations": [CALM, (0.010, 0.0102)],
        "limit_share": 1.04,
        "proof": {"is_equal": True, "num_prompts": 4, "num_diverged": 0},
        "quality": {"perplexity_ratio": 1.001},
        "num_expected_outputs": [2],
    }
    assert codes(**sound) == []


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("drift", {"calibrations": [CALM, (0.010, 0.0104)]}),
        ("contended", {"passes": [one_pass(alien=0.15)]}),
        ("limit", {"limit_share": 1.06}),
        ("unsteady", {"is_steady": False}),
        ("proof", {"proof": {"is_equal": False, "num_prompts": 4, "num_diverged": 1}}),
        ("nan", {"nan_tensors": ["model.layers.0.mlp.up_proj.weight"]}),
        ("nan", {"quality": {"perplexity_ratio": float("nan")}}),
        ("overload", {"passes": [one_pass(lag_s=0.051)]}),
        ("tokens", {"num_expected_outputs": [3]}),
        ("empty", {"passes": []}),
        ("empty", {"passes": [one_pass(num_outputs=0)]}),
    ],
)
def test_each_rule_has_its_code_with_what_was_seen_what_is_allowed_and_what_helps(code, given):
    assert codes(**given) == [code]
    passes = given.pop("passes", [one_pass()])
    (fault,) = faults(passes, **given)
    assert fault.observed
    assert fault.limit
    assert fault.remedy
    assert fault.text.startswith(f"INVALID({code}): ")
    assert "\n" not in fault.text


def test_every_broken_rule_is_listed():
    assert codes(is_steady=False, limit_share=2.0, calibrations=[(1.0, 2.0)]) == ["unsteady", "drift", "limit"]


def test_bad_tensors_are_named():
    (fault,) = faults([one_pass()], nan_tensors=[f"layer.{k}" for k in range(7)])
    assert "layer.0" in fault.observed
    assert "and 2 more" in fault.observed


def test_drift_is_allowed_up_to_three_percent_or_three_times_the_noise():
    assert max_drift(0.0) == max_drift(0.01) == 0.03
    assert max_drift(0.02) == pytest.approx(0.06)
    assert [drift((0.010, 0.009)), drift((0.010, 0.011))] == pytest.approx([0.1, 0.1])
    assert codes(calibrations=[(0.010, 0.0105)], machine_noise=0.02) == []
    assert codes(calibrations=[(0.010, 0.0126)], machine_noise=0.5) == ["drift"]


def test_generator_lag_is_allowed_up_to_five_milliseconds_or_a_twentieth_of_the_latency():
    assert codes([one_pass(lag_s=0.049, e2e_s=1.0)]) == []
    assert codes([one_pass(lag_s=0.004, e2e_s=0.01)]) == []
    assert codes([one_pass(lag_s=0.006, e2e_s=0.01)]) == ["overload"]


def test_contention_counts_long_passes_more():
    passes = [one_pass(alien=0.2, duration_s=100.0), one_pass(alien=0.0, duration_s=300.0)]
    assert contention(passes) == pytest.approx(0.05, abs=1e-3)
    assert contention([]) == 0


def test_contention_that_may_be_a_tick_of_the_clock_is_none():
    assert contention([one_pass(alien=0.5, duration_s=0.003)] * 8) == 0  # 12 ms for two cores: about a tick
    assert contention([one_pass(alien=0.2, duration_s=0.5)] * 8) > 0.18
    ticks = [one_pass(alien=alien, duration_s=0.003) for alien in (1.0, -1.0, 0.8, -0.8)] * 90
    assert contention(ticks) == 0
    assert contention([one_pass(alien=-0.1)]) == 0


def test_a_block_is_disturbed_by_a_changed_speed_or_by_others():
    assert not block_is_disturbed(CALM, [one_pass()], machine_noise=0.0)
    assert block_is_disturbed((0.010, 0.011), [one_pass()], machine_noise=0.0)
    assert not block_is_disturbed((0.010, 0.011), [one_pass()], machine_noise=0.04)
    assert block_is_disturbed(CALM, [one_pass(alien=0.5)], machine_noise=0.0)


def test_mixed_lengths_are_expected_as_they_were_asked_for():
    def trace(*counts):
        return Trace(tuple(RequestTrace(0.0, 0.0, 0.0, (0.1,) * num, tuple(range(num)), 1) for num in counts), 1.0)

    def codes(*counts):
        found = faults([Pass(0, trace(*counts))], num_expected_outputs=[4, 2, 4])
        return [fault.code for fault in found if fault.code == "tokens"]

    assert codes(4, 4, 2) == []
    assert codes(4, 4, 2, 2, 4, 4) == []
    assert codes(4, 4) == codes(4, 2, 2) == codes(4, 2, 4, 4) == codes(3, 2, 4) == ["tokens"]
