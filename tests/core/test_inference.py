import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from labkit.core.inference import (
    MIN_BLOCKS,
    aa_noise,
    holm,
    sign_flip_interval,
    sign_flip_test,
    smallest_resolving_blocks,
)

NOISE = {
    "normal": lambda rng, shape: rng.normal(0, 0.02, shape),
    "heavy tail": lambda rng, shape: 0.02 * rng.standard_t(1.5, shape),
    "bimodal": lambda rng, shape: rng.choice([-0.05, 0.05], shape) + rng.normal(0, 0.005, shape),
}


def exact_p(log_ratios):
    return scipy_stats.permutation_test((log_ratios,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue


@pytest.mark.parametrize("num_blocks", [2, 5, 8, 11])
def test_sign_flip_p_value_is_exact_up_to_16_blocks(num_blocks):
    log_ratios = np.random.default_rng(num_blocks).normal(0.01, 0.02, num_blocks)
    assert sign_flip_test(log_ratios) == pytest.approx(exact_p(log_ratios), abs=1e-12)


def test_sign_flip_p_value_is_within_monte_carlo_error_beyond_16_blocks():
    log_ratios = np.random.default_rng(1).normal(0.01, 0.02, 17)
    p_value = exact_p(log_ratios)
    error = math.sqrt(p_value * (1 - p_value) / 16_384)
    assert sign_flip_test(log_ratios) == pytest.approx(p_value, abs=3 * error)
    assert sign_flip_test(log_ratios, seed=1) == pytest.approx(p_value, abs=3 * error)


@pytest.mark.parametrize("num_blocks", [16, 20, 30])
def test_sign_flip_test_resolves_a_clear_difference_among_20_candidates(num_blocks):
    log_ratios = np.random.default_rng(2).normal(0.05, 0.01, num_blocks)
    assert sign_flip_test(log_ratios) < 0.01 / 20 / 4


def test_no_difference_at_all_has_p_value_1():
    assert sign_flip_test([0.0] * 8) == 1


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize("num_blocks", [8, 10, 14])
def test_sign_flip_false_alarms_are_no_more_frequent_than_alpha(noise, num_blocks):
    log_ratios = noise(np.random.default_rng(4), (3000, num_blocks))
    p_values = np.array([sign_flip_test(row) for row in log_ratios])
    for alpha in (0.01, 0.05):
        assert np.mean(p_values <= alpha) <= alpha + 3 * math.sqrt(alpha / len(p_values))


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
@pytest.mark.parametrize(("num_blocks", "num_trials"), [(8, 3000), (12, 1000), (24, 250)])
def test_99_percent_sign_flip_intervals_cover_the_true_ratio(noise, num_blocks, num_trials):
    log_ratios = 0.03 + noise(np.random.default_rng(6), (num_trials, num_blocks))
    estimates = [sign_flip_interval(row) for row in log_ratios]
    covered = np.mean([estimate.low <= 0.03 <= estimate.high for estimate in estimates])
    assert covered >= 0.99 - 3 * math.sqrt(0.01 / num_trials)


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), num_blocks=st.integers(8, 14))
def test_interval_holds_exactly_the_ratios_that_the_test_does_not_reject(seed, num_blocks):
    log_ratios = np.random.default_rng(seed).normal(0.01, 0.02, num_blocks)
    estimate = sign_flip_interval(log_ratios, level=0.99)
    step = 1e-11
    for end, inward in ((estimate.low, step), (estimate.high, -step)):
        assert sign_flip_test(log_ratios - end - inward) > 0.01
        assert sign_flip_test(log_ratios - end + inward) <= 0.01


@pytest.mark.parametrize(("num_blocks", "level"), [(1, 0.0), (4, 0.875), (7, 0.984375), (8, 0.99)])
def test_interval_of_few_blocks_states_the_level_it_reaches(num_blocks, level):
    log_ratios = np.random.default_rng(7).normal(0, 0.02, num_blocks)
    estimate = sign_flip_interval(log_ratios, level=0.99)
    assert estimate.level == level
    assert (estimate.low, estimate.high) == pytest.approx((log_ratios.min(), log_ratios.max()))


def test_holm_multiplies_the_smallest_p_value_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_p_value_and_bonferroni(p_values):
    for adjusted, p_value in zip(holm(p_values), p_values, strict=True):
        assert p_value <= adjusted <= min(1, len(p_values) * p_value)


def test_aa_noise_is_twice_the_standard_error_of_successive_passes():
    assert aa_noise(np.exp([0, 0.01] * 8)) == pytest.approx(2 * 0.01 / math.sqrt(16))
    assert aa_noise([5.0] * 8) == 0
    assert aa_noise([5.0]) == math.inf


def test_aa_noise_sees_little_of_a_slow_drift():
    drift = np.exp(np.linspace(0, 0.3, 20))
    assert aa_noise(drift) < 0.01 < np.std(np.log(drift)) / math.sqrt(20)


@pytest.mark.parametrize(("num_candidates", "num_blocks"), [(1, 8), (2, 9), (5, 10), (10, 11), (20, 12)])
def test_more_candidates_need_more_blocks_for_holm_to_resolve(num_candidates, num_blocks):
    assert smallest_resolving_blocks(num_candidates) == num_blocks
    assert num_blocks == MIN_BLOCKS or 2 / 2 ** (num_blocks - 1) > 0.01 / num_candidates


@pytest.mark.parametrize("log_ratios", [[], [float("nan")], [[0.1], [0.2]]])
def test_log_ratios_must_be_finite_numbers(log_ratios):
    for function in (sign_flip_test, sign_flip_interval):
        with pytest.raises(ValueError, match="at least one finite number"):
            function(log_ratios)
