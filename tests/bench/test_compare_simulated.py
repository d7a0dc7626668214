from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.bench.compare import decide
from labkit.core.inference import aa_noise

DECISIVE = ("faster", "slower")


def independent(rng, white, time):
    return white


def heavy_tail(rng, white, time):
    return 0.03 * rng.standard_t(1.5, white.shape)


def slow_drift(rng, white, time):
    return 0.3 * white + rng.normal(0, 0.4, (len(white), 1)) * time


def clock_step(rng, white, time):
    return 0.3 * white - 0.25 * (time > rng.random((len(white), 1)))


def correlated(rng, white, time):
    noise = 2 * white
    for slot in range(1, len(time)):
        noise[:, slot] = 0.95 * noise[:, slot - 1] + np.sqrt(1 - 0.95**2) * noise[:, slot]
    return noise


def bimodal(rng, white, time):
    return 0.2 * white + 0.15 * rng.integers(2, size=white.shape)


NOISE_MODELS = (independent, heavy_tail, slow_drift, clock_step, correlated, bimodal)


def aa_sessions(noise_model, *, num_slots, num_sessions, seed=0):
    """Rates `[session, slot]` of one recipe measured again and again; the noise runs on through the slots."""
    rng = np.random.default_rng(seed)
    white = rng.normal(0, 0.05, (num_sessions, num_slots))
    return 100 * np.exp(noise_model(rng, white, np.linspace(0, 1, num_slots)))


def interleave(slots, *, num_recipes, seed=0):
    """Deal successive slots out to blocks `[session, block, recipe]`, the order in each block at random."""
    blocks = slots.reshape(len(slots), -1, num_recipes)
    return np.random.default_rng(seed).permuted(blocks, axis=2)


def verdicts(sessions):
    """Verdict of the second recipe against the first in each session `[block, recipe]`."""
    return Counter(decide(blocks[:, 0], {"b": blocks[:, 1]})["b"].verdict for blocks in sessions)


def decisive_rate(sessions):
    counts = verdicts(sessions)
    return sum(counts[verdict] for verdict in DECISIVE) / counts.total()


def noisy_passes(rng, *, ratio, noise, num_blocks):
    """Rates `[block, recipe]` of a baseline and of a candidate that is `ratio` times as fast."""
    return np.array([1, ratio]) * np.exp(rng.normal(0, noise, (num_blocks, 2)))


@pytest.mark.parametrize("noise_model", NOISE_MODELS)
def test_interleaved_false_alarms_stay_below_1_5_percent(noise_model):
    slots = aa_sessions(noise_model, num_slots=20, num_sessions=4000)
    assert decisive_rate(interleave(slots, num_recipes=2)) <= 0.015


@pytest.mark.parametrize("noise_model", [independent, bimodal])
def test_false_alarms_stay_as_rare_beyond_the_blocks_whose_sign_patterns_can_all_be_tried(noise_model):
    slots = aa_sessions(noise_model, num_slots=40, num_sessions=1000)
    assert decisive_rate(interleave(slots, num_recipes=2)) <= 0.015


@pytest.mark.parametrize("noise_model", [independent, correlated, bimodal])
def test_a_table_of_three_candidates_raises_a_false_alarm_in_at_most_1_5_percent(noise_model):
    sessions = interleave(aa_sessions(noise_model, num_slots=48, num_sessions=1500), num_recipes=4)
    num_alarms = 0
    for blocks in sessions:
        table = decide(blocks[:, 0], {name: blocks[:, column] for column, name in enumerate("bcd", 1)})
        num_alarms += any(decision.verdict in DECISIVE for decision in table.values())
    assert num_alarms / len(sessions) <= 0.015


@pytest.mark.parametrize(("noise_model", "false_alarms"), [(slow_drift, 0.5), (clock_step, 0.3), (correlated, 0.3)])
def test_measuring_a_first_and_then_b_raises_false_alarms_that_interleaving_does_not(noise_model, false_alarms):
    slots = aa_sessions(noise_model, num_slots=20, num_sessions=1000)
    a_then_b = slots.reshape(len(slots), 2, 10).swapaxes(1, 2)
    assert decisive_rate(a_then_b) > false_alarms
    assert decisive_rate(interleave(slots, num_recipes=2)) <= 0.015


@pytest.mark.parametrize("noise_model", NOISE_MODELS)
def test_a_recipe_stays_within_its_aa_noise_in_nine_of_ten_interleaved_sessions(noise_model):
    sessions = interleave(aa_sessions(noise_model, num_slots=20, num_sessions=2000), num_recipes=2)
    log_ratios = np.log(sessions[:, :, 1] / sessions[:, :, 0]).mean(axis=1)
    limits = np.array([max(map(aa_noise, blocks.T)) for blocks in sessions])
    assert np.mean(np.abs(log_ratios) <= limits) >= 0.9


def test_3_percent_at_2_percent_noise_is_found_in_95_percent_of_sessions_with_30_blocks():
    rng = np.random.default_rng(12)
    num_sessions, num_found = 1000, 0
    for session in range(num_sessions):
        ratio, verdict = ((1.03, "faster"), (1 / 1.03, "slower"))[session % 2]
        rates = noisy_passes(rng, ratio=ratio, noise=0.02, num_blocks=30)
        num_found += decide(rates[:, 0], {"b": rates[:, 1]})["b"].verdict == verdict
    assert num_found / num_sessions >= 0.95


def test_equal_recipes_on_a_quiet_machine_are_the_same():
    rng = np.random.default_rng(13)
    counts = verdicts(noisy_passes(rng, ratio=1, noise=0.005, num_blocks=10) for _ in range(1000))
    assert counts["same"] >= 950


def test_a_difference_of_2_percent_is_called_the_same_in_at_most_1_percent():
    rng = np.random.default_rng(14)
    counts = verdicts(noisy_passes(rng, ratio=1.02, noise=0.005, num_blocks=10) for _ in range(2000))
    assert counts["same"] <= 20


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), num_blocks=st.integers(1, 18), ratio=st.sampled_from([0.5, 1, 1.01, 1.05]))
def test_swapping_baseline_and_candidate_inverts_the_ratio_and_the_verdict(seed, num_blocks, ratio):
    rng = np.random.default_rng(seed)
    a, b = noisy_passes(rng, ratio=ratio, noise=rng.choice([0.001, 0.01, 0.05]), num_blocks=num_blocks).T
    forth, back = decide(a, {"b": b})["b"], decide(b, {"a": a})["a"]
    assert forth.ratio.value * back.ratio.value == pytest.approx(1)
    assert forth.ratio.low * back.ratio.high == pytest.approx(1)
    assert forth.p_value == back.p_value
    assert back.verdict == {"faster": "slower", "slower": "faster"}.get(forth.verdict, forth.verdict)


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), num_blocks=st.integers(8, 14), scale=st.floats(1e-6, 1e6))
def test_the_unit_of_the_rates_does_not_matter(seed, num_blocks, scale):
    a, b = noisy_passes(np.random.default_rng(seed), ratio=1.02, noise=0.01, num_blocks=num_blocks).T
    plain, scaled = decide(a, {"b": b})["b"], decide(scale * a, {"b": scale * b})["b"]
    assert scaled.ratio.value == pytest.approx(plain.ratio.value)
    assert (scaled.verdict, scaled.p_value) == (plain.verdict, plain.p_value)
