import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from labkit.core.stats import (
    Estimate,
    bootstrap,
    min_samples,
    missing_pooled_samples,
    missing_samples,
    percentile,
    pooled_percentile,
    t_quantile,
)

LOADGEN_MINIMUM = {50: 11, 90: 64, 95: 130, 99: 662, 99.9: 6636}


def lognormal(u):
    """Latency of rank `u` in (0, 1): skewed to the right."""
    return np.exp(0.5 * scipy_stats.norm.ppf(u))


def bimodal(u):
    """Latency of rank `u` in (0, 1): 7 of 10 requests are fast, the others slow, none in between."""
    return np.where(u < 0.7, 1 + 0.1 * u, 3 + u)


@pytest.mark.parametrize(("q", "minimum"), LOADGEN_MINIMUM.items())
def test_minimum_counts_equal_loadgens_table(q, minimum):
    assert min_samples(q) == minimum


@pytest.mark.parametrize("q", [1, 25, 50, 75, 97.5, 99, 99.99])
def test_minimum_count_is_the_first_with_99_percent_confidence_of_two_samples_beyond(q):
    beyond = min(q, 100 - q) / 100
    at_most_one = scipy_stats.binom.cdf(1, [min_samples(q) - 1, min_samples(q)], beyond)
    assert at_most_one[1] < 0.01 <= at_most_one[0]


@pytest.mark.parametrize("q", [50, 90, 95, 99])
def test_percentile_is_withheld_one_sample_below_the_minimum(q):
    samples = np.arange(min_samples(q), dtype=float)
    assert percentile(samples, q) is not None
    assert percentile(samples[1:], q) is None


def test_missing_samples_says_how_many_a_percentile_still_needs():
    assert missing_samples(600, 99) == 62
    assert missing_samples(662, 99) == missing_samples(5000, 99) == 0


@pytest.mark.parametrize("q", [25, 50, 90, 99])
@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("num_samples", [700, 1234, 20_000])
def test_each_end_of_a_percentile_interval_is_the_tightest_rank_within_its_half_of_the_error(q, level, num_samples):
    ranks = percentile(np.arange(num_samples), q, level=level)
    tail = (1 - level) / 2
    below = scipy_stats.binom(num_samples, q / 100)  # how many samples lie below the true percentile
    assert below.cdf(ranks.low) <= tail < below.cdf(ranks.low + 1)
    assert below.sf(ranks.high) <= tail < below.sf(ranks.high - 1)


@pytest.mark.parametrize(("latency", "seed"), [(lognormal, 1), (bimodal, 2)])
@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("q", [50, 90, 95, 99])
def test_percentile_intervals_cover_94_to_99_percent(latency, seed, scale, q):
    num_samples = scale * min_samples(q)
    num_trials = max(2000, 100_000 // num_samples)
    truth = latency(np.array(q / 100))
    samples = latency(np.random.default_rng([seed, scale, q]).random((num_trials, num_samples)))
    estimates = [percentile(row, q) for row in samples]
    assert 0.94 <= np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]) <= 0.99


def test_percentile_is_none_where_the_extremes_cannot_bound_it_at_the_level():
    assert percentile(np.arange(11), 50, level=0.999) is not None
    assert percentile(np.arange(11), 50, level=0.9999) is None


def requests(rng, *, num_requests, between, within):
    """Inter-token gaps of requests of unequal length; `between` makes whole requests slow."""
    lengths = rng.integers(32, 97, num_requests)
    return [np.exp(rng.normal(0, between) + rng.normal(0, within, length)) for length in lengths]


@pytest.mark.parametrize("q", [50, 95])
@pytest.mark.parametrize(("between", "within"), [(0.02, 0.1), (0.1, 0.1), (0.2, 0.05)])
@pytest.mark.parametrize("num_requests", [8, 30])
def test_pooled_percentile_is_stated_and_wrong_in_at_most_one_session_in_twenty(q, between, within, num_requests):
    rng = np.random.default_rng(7)
    truth = np.exp(np.hypot(between, within) * scipy_stats.norm.ppf(q / 100))
    num_wrong, num_trials = 0, 600
    for _ in range(num_trials):
        gaps = requests(rng, num_requests=num_requests, between=between, within=within)
        estimate = pooled_percentile(gaps, q)
        num_wrong += estimate is not None and not estimate.low <= truth <= estimate.high
    assert num_wrong / num_trials <= 0.06


def test_gaps_taken_as_independent_would_be_wrong_where_whole_requests_are_slow():
    rng = np.random.default_rng(8)
    pools = [requests(rng, num_requests=30, between=0.1, within=0.1) for _ in range(500)]
    naive = [percentile(np.concatenate(gaps), 50) for gaps in pools]
    grouped = [pooled_percentile(gaps, 50) for gaps in pools]
    assert np.mean([estimate.low <= 1 <= estimate.high for estimate in naive]) < 0.5
    assert np.mean([estimate.low <= 1 <= estimate.high for estimate in grouped]) >= 0.94


def test_pooled_percentile_needs_independent_samples_not_just_many():
    rng = np.random.default_rng(9)
    assert pooled_percentile(requests(rng, num_requests=30, between=0, within=0.1), 99) is not None
    assert pooled_percentile(requests(rng, num_requests=30, between=0.2, within=0.05), 99) is None
    assert pooled_percentile(requests(rng, num_requests=7, between=0, within=0.1), 50) is None


@pytest.mark.parametrize(("between", "within"), [(0.2, 0.1), (0.3, 0.05)])
@pytest.mark.parametrize("q", [50, 90])
def test_what_is_said_to_be_missing_is_about_what_it_takes(q, between, within):
    rng = np.random.default_rng(10)
    num_withheld = num_stated = 0
    for _ in range(200):
        gaps = requests(rng, num_requests=10, between=between, within=within)
        missing = missing_pooled_samples(gaps, q)
        assert (missing > 0) == (pooled_percentile(gaps, q) is None)
        if missing:
            more = math.ceil(missing / np.mean([len(one) for one in gaps]))
            gaps += requests(rng, num_requests=more, between=between, within=within)
            num_withheld, num_stated = num_withheld + 1, num_stated + (pooled_percentile(gaps, q) is not None)
    assert num_withheld > 20
    assert num_stated / num_withheld > 0.4


def test_pooled_percentile_of_groups_alike_equals_the_percentile_of_the_pool():
    groups = [np.arange(100.0)] * 30
    assert pooled_percentile([*groups, []], 90) == percentile(np.concatenate(groups), 90)


@pytest.mark.parametrize("num_samples", [30, 100])
@pytest.mark.parametrize(("statistic", "truth"), [("median", 1.0), ("mean", np.exp(0.125))])
def test_bootstrap_intervals_cover_92_to_98_percent_of_skewed_latencies(num_samples, statistic, truth):
    samples = np.random.default_rng(3).lognormal(0, 0.5, (1000, num_samples))
    estimates = [bootstrap(row, statistic, num_resamples=500) for row in samples]
    assert 0.92 <= np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]) <= 0.98


def test_below_30_samples_a_median_rests_on_order_statistics_and_a_mean_is_withheld():
    samples = np.random.default_rng(4).random(29)
    assert bootstrap(samples, "median") == percentile(samples, 50)
    assert bootstrap(samples, "mean") is None
    assert bootstrap(samples[:10], "median") is None


def test_bootstrap_repeats_itself_and_narrows_with_the_level():
    samples = np.random.default_rng(5).random(50)
    wide, narrow = bootstrap(samples, "mean", level=0.99), bootstrap(samples, "mean", level=0.9)
    assert wide == bootstrap(samples, "mean", level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize("num_dof", [7, 10, 29, 200])
@pytest.mark.parametrize("p", [0.9, 0.975, 0.995, 0.9995])
def test_t_quantile_is_within_1_percent_of_students_t(num_dof, p):
    assert t_quantile(p, num_dof) == pytest.approx(scipy_stats.t.ppf(p, num_dof), rel=0.01)


def test_estimate_survives_json():
    estimate = percentile(np.arange(11), 50)
    assert Estimate(**json.loads(json.dumps(estimate.to_dict()))) == estimate


@pytest.mark.parametrize("samples", [[1.0, float("nan")], [float("inf")], [[1.0], [2.0]], 3.0])
def test_samples_must_be_finite_numbers_in_one_dimension(samples):
    with pytest.raises(ValueError, match="finite numbers in one dimension"):
        percentile(samples, 50)


@pytest.mark.parametrize("q", [0, 100, -1, 101])
def test_a_percentile_must_lie_between_0_and_100(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile(np.arange(100), q)


@pytest.mark.parametrize(
    "estimate",
    [lambda x, level: percentile(x, 50, level=level), lambda x, level: bootstrap(x, "mean", level=level)],
)
@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_must_lie_between_0_and_1(estimate, level):
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        estimate(np.arange(100.0), level)
