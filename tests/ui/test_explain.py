"""Explanations name the term that decides, also where a technique brings nothing."""

import pytest

from labkit.bench import ceilings
from labkit.bench.ceilings import Ceilings
from labkit.bench.comparison import compare
from labkit.core.run import Run
from labkit.ui import crossover
from labkit.ui.crossover import Crossover, crossovers
from labkit.ui.explain import explanation, told

MIB = 2**20
HERE = Ceilings("here", "measured", ((2.0**18, 2e11), (2.0**30, 4e10)), {"fp32": 1e11, "bf16": 4e11}, 5e-6)


def prediction(**terms: float) -> dict[str, object]:
    return {"terms": terms, "decode_tok_per_s": 50.0}


def explained(baseline: Run, run: Run) -> str:
    return explanation((baseline, run), compare((baseline, run)))[1]


def test_a_kernel_that_dequantizes_is_named_where_it_loses(make):
    text = explained(
        make("kv_cache", itl_s=0.004, prediction=prediction(weights=0.2, dispatch=0.05)),
        make("quantize(kernel='torchao')", itl_s=0.02, prediction=prediction(weights=0.1, dequantization=0.9)),
    )
    assert "dequantization: kernels that write the weights out as floats before they multiply grew most" in text


def test_a_technique_that_changes_no_cost_was_not_expected_to_help(make):
    text = explained(
        make("kv_cache", itl_s=0.01, prediction=prediction(weights=0.2, dispatch=0.05, kernels=0.30)),
        make("prune", itl_s=0.01, prediction=prediction(weights=0.2, dispatch=0.05, kernels=0.31)),
    )
    assert "No speed-up was to be expected" in text
    assert "shrank" not in text


def test_what_was_saved_is_weighed_against_what_is_left(make):
    text = explained(
        make("kv_cache", itl_s=0.01, prediction=prediction(weights=0.03, dispatch=0.2)),
        make("quantize", itl_s=0.01, prediction=prediction(weights=0.01, dispatch=0.2)),
    )
    assert "reading weights shrank, from 30.0 ms to 10.0 ms; it was 13.0 % of its pass" in text
    assert "what is left is starting operations, 95.2 %" in text


@pytest.mark.parametrize(("weights_bytes", "is_held"), [(16 * MIB, True), (60 * MIB, False)])
def test_weights_that_fit_in_the_cache_are_said_to(make, weights_bytes, is_held):
    machine = {"fingerprint": "f00d", "caches_bytes": {"L2": MIB, "L3": 32 * MIB}}
    pair = [
        make(
            recipe,
            itl_s=0.01,
            weights_bytes=weights_bytes,
            machine=machine,
            prediction=prediction(weights=0.1, dispatch=1.0),
        )
        for recipe in ("kv_cache", "quantize")
    ]
    assert ("already fit in this machine's last-level cache of 32.0 MiB" in explained(*pair)) is is_held


def test_a_faster_run_is_told_by_what_shrank_only(make):
    machine = {"fingerprint": "f00d", "caches_bytes": {"L3": 512 * MIB}}
    text = explained(
        make("", itl_s=0.02, machine=machine, prediction=prediction(weights=0.4, dispatch=0.1)),
        make("kv_cache", itl_s=0.004, machine=machine, prediction=prediction(weights=0.1, dispatch=0.1)),
    )
    assert "reading weights shrank most, from 400 ms to 100 ms" in text
    assert "last-level" not in text


def crossing(*gains: float) -> str:
    text = Crossover("quantize", "batch", (1, 2, 4)[: len(gains)], gains).text
    return text.removeprefix("By bytes, arithmetic and dispatch alone, ")


def test_a_crossover_says_where_a_technique_starts_and_stops_to_pay():
    assert crossing(2.0, 1.5, 1.0) == "quantize stops to pay at batch 4: 2.00× at 1, 1.00× at 4."
    assert crossing(1.0, 1.5, 1.5) == "quantize starts to pay at batch 2: 1.00× at 1, 1.50× at 4."
    assert crossing(1.0, 1.01, 0.9) == "quantize should not pay at any batch 1 to 4."
    assert crossing(2.0, 2.0, 1.8) == "quantize should pay at every batch 1 to 4: 2.00× at 1, 1.80× at 4."


def test_fewer_weight_bytes_stop_to_pay_where_arithmetic_is_the_bound(make, monkeypatch, tmp_path):
    monkeypatch.setattr(crossover, "known_ceilings", lambda device, folder: HERE)
    run = make("precision + quantize(bits=4) + kv_cache", model={"name": "llama-7b"})
    found = {(item.technique, item.axis): item for item in crossovers(run, tmp_path)}
    quantized = found["quantize", "batch"]
    assert quantized.gains[0] > 2
    assert quantized.gains[-1] < crossover.LEAST_GAIN
    assert "quantize stops to pay at batch" in quantized.text
    assert found["kv_cache", "prompt length"].gains[-1] > found["kv_cache", "prompt length"].gains[0]


@pytest.mark.parametrize("changes", [{"model": {"name": "/gone"}}, {"recipe": "peer:transformers"}])
def test_what_has_no_known_cost_has_no_crossover(make, monkeypatch, tmp_path, changes):
    monkeypatch.setattr(crossover, "known_ceilings", lambda device, folder: HERE)
    assert crossovers(make(**{"recipe": "kv_cache", **changes}), tmp_path) == ()


def test_before_ceilings_were_measured_there_is_no_crossover(make, tmp_path):
    assert ceilings.known_ceilings("cpu", tmp_path) is None
    assert crossovers(make("kv_cache"), tmp_path) == ()


def test_a_run_is_told_beside_its_baseline(make):
    pair = (make("", itl_s=0.02), make("kv_cache", itl_s=0.004))
    found = told(pair)
    assert found["run"] == pair[1].id
    assert found["why"][0].startswith("kv_cache is faster than the baseline")
    assert found["title"].endswith(pair[1].id)
