"""The forecast: what the cost model says before anything is measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.bench.ceilings import Ceilings
from labkit.core.errors import UsageError
from labkit.core.machine import machine
from labkit.core.workload import WORKLOADS
from labkit.engine.cost import LAUNCHES_OUTSIDE, LAUNCHES_PER_LAYER, REPLAYED_LAUNCHES_OUTSIDE
from labkit.ui.forecast import Forecast, forecast
from tests.ui.conftest import make_run

KNOWN = Ceilings("made up", "measured", ((2.0**18, 50e9), (2.0**31, 50e9)), {"fp32": 1e11, "bf16": 2e11}, 2e-6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache folder that holds ceilings of this machine."""
    path = tmp_path / f"ceilings-{machine().fingerprint}-cpu-2.json"
    path.write_text(json.dumps(KNOWN.to_dict()))
    return tmp_path


def made(recipe: str, folder: Path, model: str = "llama-125m") -> Forecast | None:
    return forecast(recipe, model=model, device="cpu", spec=WORKLOADS["chat"], cache_folder=folder)


def test_fewer_bits_raise_the_limit_where_memory_binds(folder: Path) -> None:
    fp32, int8, int4 = (made(f"kv_cache{more}", folder) for more in ("", " + quantize", " + quantize(bits=4)"))
    assert fp32 is not None
    assert int8 is not None
    assert int4 is not None
    assert fp32.bound == int8.bound == "memory"
    assert fp32.limit_per_s < int8.limit_per_s < int4.limit_per_s
    assert fp32.weights_bytes == pytest.approx(4 * 100.1e6, rel=0.01)
    assert all(one.predicted_per_s < one.limit_per_s for one in (fp32, int8, int4))
    assert int8.told(()).startswith("Not measured yet: weights ")
    assert "at most" in int8.told(())


def test_cheap_guesses_are_expected_to_pay_and_those_of_a_large_draft_are_not(folder: Path) -> None:
    plain, ngram, half = (
        made(f"precision + kv_cache{more}", folder) for more in ("", " + speculative", " + speculative(draft='half')")
    )
    assert plain is not None
    assert ngram is not None
    assert half is not None
    assert ngram.limit_per_s > plain.limit_per_s > half.limit_per_s
    assert ngram.predicted_per_s > plain.predicted_per_s > half.predicted_per_s


def test_a_step_that_is_replayed_is_expected_to_start_fewer_operations(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    for compiler in (None, "/usr/bin/cc"):
        monkeypatch.setattr("labkit.ui.forecast.c_compiler", lambda compiler=compiler: compiler)
        found = made("kv_cache + quantize", folder)
        assert found is not None
        rates.append(found.predicted_per_s)
    launches = LAUNCHES_PER_LAYER * 12 + LAUNCHES_OUTSIDE - REPLAYED_LAUNCHES_OUTSIDE
    assert 1 / rates[0] - 1 / rates[1] == pytest.approx(launches * KNOWN.dispatch_s)  # type: ignore[operator]


def test_what_was_measured_is_told_beside_what_is_expected(folder: Path) -> None:
    expected = made("kv_cache", folder)
    assert expected is not None
    here, chat = machine().to_dict(), WORKLOADS["chat"].hash
    run = make_run("kv_cache", itl_s=0.01, machine=here, model={"name": "llama-125m"}, workload_hash=chat)
    assert expected.told([run]).startswith("Measured ")
    for other in (
        replace(run, recipe="kv_cache(block_size=16)"),
        replace(run, device="cuda"),
        replace(run, machine={"fingerprint": "other"}),
        replace(run, model={"name": "pylm"}),
        replace(run, workload_hash="another"),
        replace(run, status="interrupted"),
    ):
        assert expected.told([other]).startswith("Not measured yet")


def test_a_model_without_known_sizes_or_ceilings_has_none(folder: Path, tmp_path: Path) -> None:
    assert made("kv_cache", folder, model="someone/something") is None
    assert made("kv_cache", tmp_path / "empty") is None


def test_a_recipe_that_is_none_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="unknown optimization"):
        made("nonsense", folder)
