import math
from itertools import accumulate

import pytest

from labkit.core.metrics import geometric_mean, pass_values, summarize
from labkit.core.stats import Estimate, pooled_percentile
from labkit.core.trace import RequestTrace, Trace


def request(arrival_s, scheduled_s, output_s, prompt_tokens=10):
    return RequestTrace(arrival_s, arrival_s, scheduled_s, tuple(output_s), (7,) * len(output_s), prompt_tokens)


def one_request_pass(ttft_s=0.2, itl_s=0.1, num_outputs=5):
    output_s = [ttft_s + itl_s * index for index in range(num_outputs)]
    return Trace((request(0.0, 0.05, output_s),), output_s[-1])


def test_single_stream_pass_has_every_metric_as_defined():
    values = pass_values(one_request_pass())
    assert values == pytest.approx(
        {
            "output_tok_per_s": 5 / 0.6,
            "requests_per_s": 1 / 0.6,
            "prefill_tok_per_s": 10 / 0.15,
            "decode_tok_per_s": 4 / 0.4,
            "ttft_s": 0.2,
            "tpot_s": 0.1,
            "e2e_s": 0.6,
        }
    )


def test_rates_of_requests_one_after_another_sum_their_phases():
    first, second = request(0.0, 0.0, [0.1, 0.3]), request(0.3, 0.3, [0.5, 0.6])
    values = pass_values(Trace((first, second), 0.6))
    assert values["prefill_tok_per_s"] == pytest.approx(20 / (0.1 + 0.2))
    assert values["decode_tok_per_s"] == pytest.approx(2 / (0.2 + 0.1))


def test_rates_of_a_batch_count_shared_time_once():
    batch = tuple(request(0.0, 0.0, [0.1, 0.2, 0.3]) for _ in range(4))
    values = pass_values(Trace(batch, 0.3))
    assert values["prefill_tok_per_s"] == pytest.approx(40 / 0.1)
    assert values["decode_tok_per_s"] == pytest.approx(8 / 0.2)


def test_server_rates_hold_for_the_steady_window_only():
    requests = [request(float(index), index + 0.5, [index + 1.0, index + 1.5]) for index in range(10)]
    trace = Trace(tuple(requests), 100.0)  # a long drain, which must not dilute the rate
    values = pass_values(trace, scenario="server")
    # after the first output at 1 s and until the last arrival at 9 s: 1.5, 2.0, … 9.0
    assert values["output_tok_per_s"] == pytest.approx(16 / 8)
    assert values["requests_per_s"] == pytest.approx(8 / 8)
    assert pass_values(trace)["output_tok_per_s"] == pytest.approx(20 / 100)


def test_metrics_without_data_are_absent():
    one_output = Trace((request(0.0, 0.0, [0.1]),), 0.1)
    assert {"tpot_s", "decode_tok_per_s"}.isdisjoint(pass_values(one_output))
    assert pass_values(Trace((request(0.0, 0.0, []),), 0.0)) == {}
    assert pass_values(Trace((), 1.0)) == {}
    assert summarize([]) == {}
    assert not any(name.startswith(("itl_s", "tpot_s")) for name in summarize([one_output] * 20))


def test_a_rate_that_one_pass_lacks_is_not_estimated_from_the_others():
    silent = Trace((request(0.0, 0.0, []),), 1.0)
    assert "output_tok_per_s" not in summarize([one_request_pass(), silent])


def test_pass_estimates_state_the_level_that_their_number_allows():
    metrics = summarize([one_request_pass(ttft_s=0.2 + 0.001 * index) for index in range(4)])
    assert metrics["ttft_s"]["level"] == pytest.approx(1 - 2 / 2**4)
    assert metrics["ttft_s"]["low"] <= metrics["ttft_s"]["value"] <= metrics["ttft_s"]["high"]
    assert Estimate(**metrics["ttft_s"]).num_samples == 4


def test_percentiles_below_the_gate_are_withheld_and_say_what_is_missing():
    metrics = summarize([one_request_pass() for _ in range(20)])
    assert metrics["ttft_s.p50"]["value"] == pytest.approx(0.2)
    assert metrics["ttft_s.p90"] is None
    assert metrics["ttft_s.p99"] is None
    assert metrics["ttft_s.missing"] == {"p90": 44, "p95": 110, "p99": 642}


def test_percentiles_are_stated_once_there_are_enough_samples():
    passes = [one_request_pass(ttft_s=0.001 * (1 + index)) for index in range(700)]
    metrics = summarize(passes)
    assert metrics["ttft_s.p50"]["value"] == pytest.approx(0.3505)
    assert metrics["ttft_s.p90"]["value"] == pytest.approx(0.63)
    assert metrics["ttft_s.p99"]["value"] == pytest.approx(0.693)
    assert "ttft_s.missing" not in metrics


def test_gaps_are_pooled_over_requests_and_withheld_for_few_of_them():
    metrics = summarize([one_request_pass(itl_s=0.1 + 0.001 * (index % 7), num_outputs=40) for index in range(40)])
    assert metrics["itl_s.p50"]["num_samples"] == 40 * 39
    assert metrics["itl_s.p50"]["value"] == pytest.approx(0.103)
    few = summarize([one_request_pass(num_outputs=200)] * 7)
    assert few["itl_s.p50"] is None
    assert few["itl_s.missing"]["p50"] == 199  # one more request of the same length


def test_requests_of_a_batch_do_not_count_as_independent():
    def batch(ttft_s):
        return Trace(tuple(request(0.0, 0.0, [ttft_s, ttft_s + 0.1]) for _ in range(8)), ttft_s + 0.1)

    passes = [batch(0.1 + 0.01 * index) for index in range(8)]
    metrics = summarize(passes)
    assert metrics["ttft_s.p50"] is None  # 64 values, but worth 8
    assert metrics["ttft_s.missing"]["p50"] >= 8 * 3  # eleven batches or more, not eleven requests


def test_queue_and_prefill_add_up_to_the_first_token():
    trace = Trace((request(0.1, 0.4, [1.0, 1.1]),), 1.1)
    metrics = summarize([trace] * 12)
    queue_s, prefill_s, ttft_s = (metrics[f"{name}.p50"]["value"] for name in ("queue_s", "prefill_s", "ttft_s"))
    assert (queue_s, prefill_s) == pytest.approx((0.3, 0.6))
    assert ttft_s == pytest.approx(queue_s + prefill_s)


def test_geometric_mean_of_rates_is_the_inverse_of_that_of_times():
    rates = [2.0, 3.0, 5.0, 4.0]
    assert geometric_mean(rates).value == pytest.approx(math.prod(rates) ** 0.25)
    assert geometric_mean(rates).value == pytest.approx(1 / geometric_mean([1 / rate for rate in rates]).value)


def test_a_percentile_is_not_stated_where_one_below_it_is_withheld():
    def gaps(number):
        """Every eighth request is slow throughout, and one gap in fifty is long in all of them."""
        usual_s = 0.002 if number % 8 == 0 else 0.001
        return [usual_s + 1e-6 * index + (0.01 if index % 50 == 0 else 0.0) for index in range(100)]

    groups = [gaps(number) for number in range(16)]
    assert pooled_percentile(groups, 90) is None
    assert pooled_percentile(groups, 99) is not None
    passes = [Trace((request(0.0, 0.0, [0.01, *(0.01 + at for at in accumulate(one))]),), 1.0) for one in groups]
    metrics = summarize(passes)
    assert [metrics[f"itl_s.p{q}"] is None for q in (50, 90, 95, 99)] == [False, True, True, True]
    assert set(metrics["itl_s.missing"]) == {"p90", "p95", "p99"}


def test_guessed_outputs_are_counted_over_all_passes():
    passes = [
        Trace(one_request_pass(num_outputs=9).requests, 1.0, {"steps": 5.0, "drafted": 16.0, "accepted": 4.0}),
        Trace(one_request_pass(num_outputs=9).requests, 1.0, {"steps": 3.0, "drafted": 8.0, "accepted": 6.0}),
    ]
    metrics = summarize(passes)
    assert metrics["acceptance_rate"] == {"value": 10 / 24}
    assert metrics["tokens_per_step"] == {"value": 16 / 6}


def test_without_guesses_there_is_no_rate_of_acceptance():
    nothing = Trace(one_request_pass().requests, 1.0, {"steps": 5.0, "drafted": 0.0, "accepted": 0.0})
    assert {"acceptance_rate", "tokens_per_step"}.isdisjoint(summarize([nothing, one_request_pass()]))


def test_prompt_tokens_that_a_stored_prefix_spared_are_counted_over_all_passes():
    def counted(hits, tokens, held):
        counters = {"steps": 5.0, "prefix_hit_tokens": hits, "prompt_tokens": tokens, "prefix_bytes": held}
        return Trace(one_request_pass().requests, 1.0, counters)

    metrics = summarize([counted(0.0, 100.0, 512.0), counted(64.0, 100.0, 2048.0), counted(64.0, 200.0, 1024.0)])
    assert metrics["prefix_hit_rate"] == {"value": 128 / 400}
    assert metrics["prefix_bytes"] == {"value": 2048.0}
    assert summarize([counted(0.0, 100.0, 0.0)])["prefix_hit_rate"] == {"value": 0.0}


def test_where_no_prefixes_are_kept_there_is_no_hit_rate():
    assert {"prefix_hit_rate", "prefix_bytes"}.isdisjoint(summarize([one_request_pass()]))


def test_messages_and_waiting_are_shares_of_all_passes():
    def counted(communication_s, num_bytes, **more):
        counters = {"communication_s": communication_s, "communication_bytes": num_bytes, **more}
        return Trace(one_request_pass().requests, 2.0, counters)

    num_outputs = 2 * one_request_pass().num_outputs
    metrics = summarize([counted(0.5, 1000.0, bubble_s=1.0), counted(0.1, 3000.0, bubble_s=0.0)])
    assert metrics["communication_share"]["value"] == pytest.approx(0.6 / 4)
    assert metrics["communication_bytes"] == {"value": 4000 / num_outputs}
    assert metrics["bubble_share"] == {"value": 1 / 4}
    assert "bubble_share" not in summarize([counted(0.5, 1000.0)])
    assert {"communication_share", "communication_bytes"}.isdisjoint(summarize([one_request_pass()]))
