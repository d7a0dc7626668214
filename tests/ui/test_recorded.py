"""Runs of other machines are found by their device and named by their machine; without any it is said that none are."""

from dataclasses import replace
from pathlib import Path

from labkit.core.paths import data_path
from labkit.core.run import Run
from labkit.ui.document import payload, write_json
from labkit.ui.recorded import context, recorded


def test_runs_are_found_by_their_device_in_both_formats(runs: tuple[Run, ...], tmp_path: Path) -> None:
    there = replace(runs[0], id="there", group="far", device="cuda", machine={**runs[0].machine, "gpu": "NVIDIA H100"})
    write_json(payload([runs[0]], ()), str(tmp_path / "a.json"))
    (tmp_path / "b.jsonl").write_text(f"{there.to_json()}\n")
    assert [run.id for run in recorded("cuda", tmp_path)] == ["there"]
    assert [run.id for run in recorded("cpu", tmp_path)] == [runs[0].id]
    beside = replace(runs[0], id="beside", group="far", machine=there.machine)
    (tmp_path / "b.jsonl").write_text(f"{beside.to_json()}\n{there.to_json()}\n")
    assert [run.id for run in recorded("cuda", tmp_path)] == ["beside", "there"]


def test_what_ships_names_its_gpu_and_is_valid() -> None:
    runs = recorded("cuda")
    assert {run.device for run in runs} == {"cpu", "cuda"}
    assert all(run.is_valid and run.machine["gpu"] for run in runs)
    assert data_path("runs").joinpath("README.md").is_file()


def test_runs_of_another_machine_are_named_by_it_and_their_date(runs: tuple[Run, ...]) -> None:
    there = replace(runs[0], machine={**runs[0].machine, "gpu": "NVIDIA H100"}, created_utc="2026-11-27T01:02:03Z")
    assert context([there, there], "a GPU") == (
        "Recorded on another machine, not on this one: NVIDIA H100 on 2026-11-27."
    )


def test_without_any_it_is_said_that_there_are_none(tmp_path: Path) -> None:
    assert recorded("cuda", tmp_path) == ()
    assert context((), "a GPU").startswith("No Run on a GPU has been recorded yet")
