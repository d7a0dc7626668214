import json

import numpy as np
import pytest

from labkit.bench.compare import decide


def blocks_of(*log_ratios):
    """Make a baseline and a candidate with exactly these log ratios."""
    return np.ones(len(log_ratios)), np.exp(log_ratios)


@pytest.mark.parametrize("num_blocks", [1, 2, 7])
def test_below_8_blocks_even_a_factor_of_80_gets_no_verdict_and_the_missing_blocks_are_said(num_blocks):
    decision = decide([1.0] * num_blocks, {"b": [80.0] * num_blocks})["b"]
    assert (decision.verdict, decision.num_blocks) == ("cannot tell", num_blocks)
    assert decision.reason == f"any verdict needs 8 blocks, {8 - num_blocks} are missing"
    assert decision.ratio.value == pytest.approx(80)
    assert decision.ratio.level < 0.99


def test_a_clear_difference_says_its_interval_and_p_value():
    baseline, candidate = blocks_of(*np.linspace(0.04, 0.06, 8))
    decision = decide(baseline, {"b": candidate})["b"]
    assert decision.verdict == "faster"
    assert decision.reason == "the 99 % interval, 1.041 to 1.062, excludes 1, with adjusted p = 0.0078 over 8 blocks"


def test_two_equal_series_are_the_same():
    decision = decide([5.0] * 8, {"b": [5.0] * 8})["b"]
    assert (decision.verdict, decision.p_value) == ("same", 1)
    assert decision.reason == "the 99 % interval, 1 to 1, lies inside ±2 %"


def test_a_significant_difference_that_does_not_count_is_the_same():
    baseline, candidate = blocks_of(*np.linspace(0.009, 0.011, 10))
    decision = decide(baseline, {"b": candidate})["b"]
    assert decision.p_value < 0.01
    assert decision.verdict == "same"


def test_a_table_too_large_for_its_blocks_says_how_many_are_missing():
    baseline, candidate = blocks_of(*np.linspace(0.04, 0.06, 8))
    table = decide(baseline, dict.fromkeys("bcd", candidate))
    assert {decision.verdict for decision in table.values()} == {"cannot tell"}
    assert table["b"].reason == "p <= 0.01 across 3 candidates needs 10 blocks, 2 are missing"


def test_a_difference_within_the_sessions_own_noise_is_not_believed():
    swing = 0.1 * (-1.0) ** np.arange(10)  # both recipes swing together from block to block
    decision = decide(np.exp(swing), {"b": np.exp(swing + 0.03)})["b"]
    assert decision.p_adjusted < 0.01
    assert decision.verdict == "cannot tell"
    assert decision.reason == "the ratio, 1.03, is within the session's A/A noise of ±13 %"


def test_a_wide_interval_says_how_many_blocks_would_settle_it():
    baseline, candidate = blocks_of(*np.tile([0.06, -0.01], 5))
    reason = decide(baseline, {"b": candidate})["b"].reason
    assert reason == "the 99 % interval, 0.99 to 1.062, is too wide: about 20 blocks would settle it"


def test_hopeless_noise_asks_for_a_quieter_machine():
    baseline, candidate = blocks_of(*np.tile([0.3, -0.3], 5))
    reason = decide(baseline, {"b": candidate})["b"].reason
    assert reason.endswith("is too wide: it takes more than 30 blocks, a quieter machine or longer passes")


def test_decisions_keep_the_order_of_the_candidates_and_survive_json():
    rates = np.random.default_rng(15).random((4, 8)) + 1
    table = decide(rates[0], {"c": rates[1], "a": rates[2], "b": rates[3]})
    assert list(table) == ["c", "a", "b"]
    assert json.loads(json.dumps(table["a"].to_dict()))["ratio"] == table["a"].ratio.to_dict()
    assert decide(rates[0], {}) == {}


@pytest.mark.parametrize("rates", [[], [1.0, 0.0], [1.0, -2.0], [1.0, float("inf")], [1.0, float("nan")]])
def test_rates_must_be_positive_and_finite(rates):
    with pytest.raises(ValueError, match="baseline: expected a positive finite rate for each block"):
        decide(rates, {"b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="b: expected a positive finite rate for each block"):
        decide([1.0, 2.0], {"b": rates})


def test_every_candidate_needs_one_rate_for_each_block():
    with pytest.raises(ValueError, match="b: 2 blocks, the baseline has 3"):
        decide([1.0] * 3, {"b": [1.0] * 2})
