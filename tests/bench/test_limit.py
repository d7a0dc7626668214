import json

import pytest

from labkit.bench.ceilings import DATASHEETS, Ceilings
from labkit.bench.limit import limit, predict, residual, share
from labkit.bench.link import Link
from labkit.core.cost import Cost, Phase

HERE = Ceilings("here", "measured", ((1.0, 10e9), (1e12, 10e9)), {"fp32": 100e9, "bf16": 200e9}, dispatch_s=1e-6)

# prefill: 1 step of 0.1 s memory, 2 s compute. decode: 10 steps of 0.15 s memory, 0.01 s compute.
COST = Cost(
    {
        "prefill": Phase(1, 1, {"weights": 1e9}, {"bf16": 400e9}, kernel_launches=1000),
        "decode": Phase(10, 10, {"weights": 1e9, "kv_cache": 0.5e9}, {"bf16": 2e9}, kernel_launches=1000),
    }
)


def estimate(value):
    return {"value": value, "low": value, "high": value, "level": 0.95, "num_samples": 8}


def test_limit_takes_the_larger_of_memory_and_compute_in_each_phase():
    found = limit(COST, HERE)
    assert found["prefill"] == pytest.approx({"seconds": 2.0, "step_s": 2.0, "bound": "compute"})
    assert found["decode"] == pytest.approx({"seconds": 1.5, "step_s": 0.15, "bound": "memory"})
    assert found["pass_s"] == pytest.approx(3.5)
    assert found["decode_tok_per_s"] == pytest.approx(10 / 1.5)
    assert found["output_tok_per_s"] == pytest.approx(11 / 3.5)
    assert found["origin"] == "measured"
    assert "prefill_tok_per_s" not in found


def test_limit_states_a_prefill_rate_where_the_prompt_is_known():
    assert limit(COST, HERE, prompt_tokens=512)["prefill_tok_per_s"] == pytest.approx(256)


def test_arithmetic_in_several_dtypes_adds_up():
    cost = Cost({"decode": Phase(1, 1, {}, {"fp32": 100e9, "bf16": 200e9})})
    assert limit(cost, HERE)["pass_s"] == pytest.approx(2.0)


def test_the_working_set_picks_the_bandwidth():
    curve = Ceilings("curve", "measured", ((1e6, 100e9), (1e8, 10e9)), {"fp32": 1e15})
    small, large = (Cost({"decode": Phase(1, 1, {"weights": size})}) for size in (1e6, 1e8))
    assert limit(small, curve)["pass_s"] == pytest.approx(1e-5)
    assert limit(large, curve)["pass_s"] == pytest.approx(1e-2)


def test_a_datasheet_limit_of_seven_billion_bf16_weights_on_an_a100():
    cost = Cost({"decode": Phase(100, 100, {"weights": 2 * 6.6e9}, {"bf16": 2 * 6.6e9})})
    found = limit(cost, DATASHEETS["A100"])
    assert found["decode_tok_per_s"] == pytest.approx(2.039e12 / 13.2e9)  # 154; gpt-fast reaches 104.9
    assert found["origin"] == "datasheet"


def test_phases_of_a_draft_model_stand_in_the_time_of_decoding():
    draft = Phase(20, 0, {"weights": 0.5e9}, {"bf16": 1e9})
    cost = Cost({"prefill": COST.phases["prefill"], "draft": draft, "decode": COST.phases["decode"]})
    for told in (limit(cost, HERE), predict(cost, HERE)):
        decode_s = told["draft"]["seconds"] + told["decode"]["seconds"]
        assert told["draft"]["seconds"] >= 1.0
        assert told["decode_tok_per_s"] == pytest.approx(10 / decode_s)


def test_prediction_adds_dispatch_to_the_limit():
    found = predict(COST, HERE)
    assert found["decode"]["terms"] == pytest.approx({"weights": 1.0, "kv_cache": 0.5, "flops": 0.0, "dispatch": 0.01})
    assert found["prefill"]["terms"] == pytest.approx({"weights": 0.1, "flops": 1.9, "dispatch": 0.001})
    assert found["pass_s"] == pytest.approx(limit(COST, HERE)["pass_s"] + 0.011)
    assert sum(found["terms"].values()) == pytest.approx(found["pass_s"])


def test_measured_kernels_count_for_what_they_take_beyond_the_limit():
    slow = predict(COST, HERE, {"decode": {"step_s": 0.3, "excess": "kernels", "between_s": 0.0}})
    assert slow["decode"]["terms"]["kernels"] == pytest.approx(10 * (0.3 - 0.1))
    assert slow["decode"]["seconds"] == pytest.approx(10 * (0.3 + 0.05 + 0.001))
    assert "kernels" not in slow["prefill"]["terms"]
    fast = predict(COST, HERE, {"decode": {"step_s": 0.01, "excess": "kernels", "between_s": 0.0}})
    assert fast["decode"]["terms"]["kernels"] == 0


def test_what_lies_between_the_layers_counts_for_what_outlasts_the_cache_and_dispatch():
    slow = predict(COST, HERE, {"decode": {"step_s": 0.1, "excess": "kernels", "between_s": 0.2}})
    assert slow["decode"]["terms"]["between"] == pytest.approx(10 * (0.2 - 0.05 - 0.001))
    fast = predict(COST, HERE, {"decode": {"step_s": 0.1, "excess": "kernels", "between_s": 0.01}})
    assert fast["decode"]["terms"]["between"] == 0


def test_the_term_that_grew_names_why_a_recipe_lost():
    """int8 weights are half as many bytes, but a kernel that dequantizes first takes longer than both."""
    int8 = Cost({"decode": Phase(10, 10, {"weights": 0.5e9}, {"bf16": 2e9}, 1000)})
    bf16 = Cost({"decode": Phase(10, 10, {"weights": 1e9}, {"bf16": 2e9}, 1000)})
    kernels = {"decode": {"step_s": 0.4, "excess": "dequantization", "between_s": 0.0}}
    before, after = predict(bf16, HERE), predict(int8, HERE, kernels)
    grown = {term: seconds - before["terms"].get(term, 0.0) for term, seconds in after["terms"].items()}
    assert after["pass_s"] > before["pass_s"]
    assert max(grown, key=grown.get) == "dequantization"


def test_a_datasheet_predicts_nothing():
    with pytest.raises(ValueError, match=r"H100 \(datasheet\) have no dispatch cost"):
        predict(COST, DATASHEETS["H100"])


def test_a_system_without_a_cost_has_neither_limit_nor_prediction():
    assert limit(Cost({}), HERE) == {}
    assert predict(Cost({}), HERE) == {}
    assert share({}, {"output_tok_per_s": estimate(5.0)}) is None


def test_limit_and_prediction_are_json():
    found = {"limit": limit(COST, HERE), "prediction": predict(COST, HERE)}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_share_is_of_the_decoding_rate_or_else_the_output_rate():
    rates = {"decode_tok_per_s": 100.0, "output_tok_per_s": 80.0}
    metrics = {"decode_tok_per_s": estimate(50.0), "output_tok_per_s": estimate(20.0)}
    assert share(rates, metrics) == 0.5
    assert share(rates, {"output_tok_per_s": estimate(20.0)}) == 0.25
    assert share(rates, {"decode_tok_per_s": None}) is None
    assert share(rates, {}) is None


def test_residual_is_the_time_that_the_prediction_does_not_explain():
    assert residual({"decode_tok_per_s": 100.0}, {"decode_tok_per_s": estimate(80.0)}) == pytest.approx(0.25)
    assert residual({}, {"decode_tok_per_s": estimate(80.0)}) is None


def test_what_a_draft_model_takes_is_one_term():
    cost = Cost({"draft": Phase(20, 0, {"weights": 0.5e9}, {"bf16": 2e9}, 100, told_as="drafts"), **COST.phases})
    found = predict(cost, HERE)
    assert list(found["draft"]["terms"]) == ["drafts"]
    assert found["terms"]["drafts"] == pytest.approx(found["draft"]["seconds"])
    assert found["decode_tok_per_s"] < predict(COST, HERE)["decode_tok_per_s"]


def test_messages_take_their_latency_and_their_bytes_of_the_link():
    phase = Phase(10, 10, {"weights": 1e9}, communication_bytes=2e6, num_messages=5)
    link = Link(latency_s=1e-4, bytes_per_s=1e9)
    terms = predict(Cost({"decode": phase}), HERE, link=link)["terms"]
    assert terms["communication"] == pytest.approx(10 * (5e-4 + 2e-3))
    assert "communication" not in predict(Cost({"decode": phase}), HERE)["terms"]
    assert "communication" not in predict(COST, HERE, link=link)["terms"]
