"""The façade, over mock workers."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.core.errors import UsageError
from labkit.core.machine import usable_cores
from labkit.core.workload import WORKLOADS, WorkloadSpec
from labkit.core.workload import workload as named_workload
from labkit.lab import Lab
from tests.runner.conftest import MOCK_WORKER, SPEC


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    command = (sys.executable, str(MOCK_WORKER), str(tmp_path / "log.jsonl"))
    return Lab(model="mock", workload=SPEC, home=tmp_path, worker_command=command)


def test_one_device_and_a_home_may_be_given_as_they_are_written(tmp_path: Path) -> None:
    lab = Lab(devices="cpu", home=str(tmp_path))
    assert (lab.devices, lab.home) == (("cpu",), tmp_path)
    assert lab.replace(devices="cuda").devices == ("cuda",)
    assert lab.stored() == ()


def test_an_empty_name_is_not_the_default_one() -> None:
    assert Lab(model="").model == ""  # which the session refuses
    with pytest.raises(UsageError, match="unknown workload ''"):
        Lab(workload="")


def test_run_gives_one_run_of_raw_samples(lab: Lab) -> None:
    run = lab.run("kv_cache")
    assert run.recipe == "kv_cache"
    assert len(run.frame()) == 8 * SPEC.new_tokens


def test_compare_sets_every_recipe_beside_the_first(lab: Lab) -> None:
    comparison = lab.compare(["", "kv_cache"])
    assert comparison.baseline.recipe == ""
    (row,) = comparison.rows
    assert row.decision is not None
    assert row.decision.num_blocks == 8


def test_history_lists_what_was_measured_newest_first(lab: Lab) -> None:
    assert lab.history().empty
    lab.run("")
    lab.run("kv_cache")
    history = lab.history()
    assert list(history["recipe"]) == ["kv_cache", ""]
    assert list(history["state"]) == ["valid", "valid"]
    assert (history["output_tok_per_s"] > 0).all()
    assert len(lab.history(limit=1)) == 1


def test_report_writes_a_page_about_the_last_measurement(lab: Lab, tmp_path: Path) -> None:
    lab.compare(["", "kv_cache"])
    page = lab.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "kv_cache" in page


def test_report_needs_a_measurement(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this Lab has measured nothing"):
        lab.report(tmp_path / "report.html")


def test_a_history_that_cannot_be_written_warns_and_the_runs_are_returned(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lab.home = tmp_path / "file"
    with pytest.warns(UserWarning, match="the history .* cannot be opened"):
        assert lab.run().status == "done"


def test_a_workload_is_a_name_or_a_spec() -> None:
    assert Lab(workload="long").spec == WORKLOADS["long"]
    spec = WorkloadSpec("mine", "offline", prompt_tokens=1, new_tokens=1)
    assert Lab(workload=spec).spec is spec
    assert Lab(rate_per_s=2.0, prompt_tokens=(4, 8)).spec == named_workload(
        "chat", rate_per_s=2.0, prompt_tokens=(4, 8)
    )
    with pytest.raises(UsageError, match="unknown workload 'nonsense'"):
        Lab(workload="nonsense")


def test_the_environment_overrules_the_effort_of_a_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_EFFORT", "glance")
    assert Lab(effort="quick").effort == "glance"
    assert Lab().replace(effort="standard").effort == "glance"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"effort": "heroic"}, "unknown effort 'heroic'"),
        ({"devices": ("abacus",)}, "unknown device 'abacus'"),
        ({"devices": ()}, "no device was given"),
    ],
)
def test_a_wrong_setting_is_one_line(lab: Lab, changes: dict[str, object], error: str) -> None:
    for name, value in changes.items():
        setattr(lab, name, value)
    with pytest.raises(UsageError, match=error):
        lab.measure([""])


def test_importing_the_lab_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'pandas', 'matplotlib', 'transformers', 'tensorflow'}"
    check = f"import sys, labkit.lab; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_saved_prefix_is_what_a_workload_of_that_seed_begins_with(tiny_model: str, tmp_path: Path) -> None:
    from labkit.optimizations import bind
    from labkit.optimizations.build import build_engine

    recipe, spec = "kv_cache(block_size=16) + prefix_cache", WorkloadSpec("shared", "offline", 60, 1, 2, seed=3)
    spec = replace(spec, shared_prefix_tokens=50)
    Lab(model=tiny_model, home=tmp_path).save_prefix("mine", recipe=recipe, tokens=50, seed=3)
    bound = bind(f"{recipe} + preload(prefix='mine')")
    engine = build_engine(bound, model=tiny_model, device="cpu", cache_folder=tmp_path / "cache")
    trace = engine.serve(engine.prepare(spec.draw(7)))
    assert trace.counters["prefix_hit_tokens"] == 2 * 48


@pytest.mark.parametrize("given", [{}, {"text": "a text", "tokens": 8}])
def test_a_prefix_is_saved_of_one_thing(lab: Lab, given: dict[str, str | int]) -> None:
    with pytest.raises(UsageError, match="give either a text or a number of tokens"):
        lab.save_prefix("mine", **given)  # type: ignore[arg-type]


@pytest.mark.skipif(usable_cores() < 2, reason="two engines need two cores")
def test_the_part_of_the_interpreters_lock_is_measured_between_threads_and_processes(
    tiny_model: str, tmp_path: Path
) -> None:
    spec = WorkloadSpec("tiny", "single_stream", prompt_tokens=8, new_tokens=8)
    found = Lab(model=tiny_model, workload=spec, home=tmp_path).gil("kv_cache", num_rounds=2)
    assert min(found.alone_per_s, found.threads_per_s, found.processes_per_s) > 0
    assert 0 <= found.share <= 1
    with pytest.raises(UsageError, match="names 'threads' twice"):
        Lab(model=tiny_model, home=tmp_path).gil("kv_cache + threads")
