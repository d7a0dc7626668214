"""The façade, over mock workers."""

import subprocess
import sys
from pathlib import Path

import pytest

from labkit.core.errors import UsageError
from labkit.core.workload import WORKLOADS, WorkloadSpec
from labkit.lab import Lab
from tests.runner.conftest import MOCK_WORKER, SPEC


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    command = (sys.executable, str(MOCK_WORKER), str(tmp_path / "log.jsonl"))
    return Lab(model="mock", workload=SPEC, home=tmp_path, worker_command=command)


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
    with pytest.raises(UsageError, match="unknown workload 'nonsense'"):
        Lab(workload="nonsense")


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
