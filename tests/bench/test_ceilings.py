import json

import pytest

from labkit.bench import roofline
from labkit.bench.ceilings import DATASHEETS, Ceilings, ceilings
from labkit.core import contention
from labkit.core.errors import StoreError

MIB = 2**20


@pytest.fixture(scope="module")
def measured():
    return roofline.measure_ceilings("cpu", threads=1)


def made(**changes):
    fields = {
        "name": "made",
        "origin": "measured",
        "read_bytes_per_s": ((1 * MIB, 100e9), (4 * MIB, 50e9)),
        "flops_per_s": {"fp32": 100e9, "bf16": 200e9, "fp16": 10e9, "int8": 400e9},
        "dispatch_s": 2e-6,
    }
    return Ceilings(**{**fields, **changes})


def test_measured_ceilings_are_sane(measured):
    sizes = [size for size, _ in measured.read_bytes_per_s]
    rates = [rate for _, rate in measured.read_bytes_per_s]
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 2**18
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 1e9
    assert measured.flops_per_s["fp32"] > 1e8
    assert 1e-8 < measured.dispatch_s < 1e-2
    assert {"fp32", "bf16", "fp16"} <= measured.flops_per_s.keys()


def test_measuring_leaves_torchs_threads_as_they_were(measured):
    assert roofline.thread_count() >= 1
    before = roofline.thread_count()
    with roofline._threads(1):
        assert roofline.thread_count() == 1
    assert roofline.thread_count() == before


def test_ceilings_round_trip_through_json(measured):
    assert Ceilings.of(json.loads(json.dumps(measured.to_dict()))) == measured


def test_a_calm_measurement_is_made_once_and_kept(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, threads: calls.append(threads) or made())
    first = ceilings("cpu", tmp_path / "cache", 1)
    assert ceilings("cpu", tmp_path / "cache", 1) == first == made()
    assert calls == [1]
    ceilings("cpu", tmp_path / "cache", 2)
    assert calls == [1, 2], "other thread counts have other ceilings"


def test_a_disturbed_measurement_is_repeated_when_others_are_gone_and_the_best_kept(monkeypatch, tmp_path):
    results = [
        made(contention=0.5, flops_per_s={"fp32": 300e9}, dispatch_s=9e-6),
        made(contention=0.01),
    ]
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, threads: results.pop(0))
    others = iter((0.4, 0.1))
    monkeypatch.setattr(contention, "_others_now", lambda period: next(others))
    first = ceilings("cpu", tmp_path, 1)
    assert first.contention == 0.5
    assert ceilings("cpu", tmp_path, 1) == first, "what is as busy as before would say no better"
    second = ceilings("cpu", tmp_path, 1)
    assert second.flops_per_s["fp32"] == 300e9
    assert second.dispatch_s == 2e-6
    assert second.contention == 0.01
    assert ceilings("cpu", tmp_path, 1) == second


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"read_bytes_per_s": [[1]]}'])
def test_a_cache_that_cannot_be_read_is_measured_again(monkeypatch, tmp_path, text):
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, threads: made())
    ceilings("cpu", tmp_path, 1)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert ceilings("cpu", tmp_path, 1) == made()
    assert json.loads(path.read_text())["name"] == "made"


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, threads: made())
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="ceilings could not be kept"):
        ceilings("cpu", tmp_path / "file", 1)


def test_bandwidth_is_interpolated_on_the_logarithm_of_the_working_set():
    assert made().bandwidth(2 * MIB) == pytest.approx(75e9)
    assert made().bandwidth(1 * MIB) == 100e9
    assert made().bandwidth(4 * MIB) == 50e9
    assert made().bandwidth(1) == 100e9
    assert made().bandwidth(1e15) == 50e9


def test_a_dtype_reaches_at_least_the_rate_of_wider_ones():
    assert made().flops("fp32") == 100e9
    assert made().flops("fp16") == 100e9
    assert made().flops("bf16") == 200e9
    assert made(flops_per_s={"fp32": 1.0}).flops("int8") == 1.0
    assert made(flops_per_s={"bf16": 1.0}).flops("fp32") == 1.0


def test_an_unknown_dtype_gets_the_best_rate_since_a_limit_may_not_be_too_low():
    assert made().flops("fp4") == 400e9


def test_datasheets_are_labelled_and_give_limits_only():
    assert set(DATASHEETS) == {"A100", "H100", "H200", "RTX 4090"}
    for preset in DATASHEETS.values():
        assert preset.origin == "datasheet"
        assert preset.dispatch_s is None
        assert preset.flops("bf16") > preset.flops("fp32") > 1e13
        assert preset.bandwidth(2**34) > 1e12
    assert DATASHEETS["A100"].bandwidth(14e9) == 2.039e12
    assert DATASHEETS["H200"].bandwidth(1e9) == 4.8e12


def test_small_floats_are_as_fast_as_known_and_else_as_wider_ones():
    assert DATASHEETS["H200"].flops("fp8") == 1979e12
    assert DATASHEETS["A100"].flops("fp8") == DATASHEETS["A100"].flops("bf16")  # not as int8, to which none converts


def test_the_product_of_small_floats_can_be_timed():
    import torch

    rate = roofline._product_rate(torch.float8_e4m3fn, "cpu", roofline._scaled_mm, deadline_s=0.0)
    assert rate > 1e6
