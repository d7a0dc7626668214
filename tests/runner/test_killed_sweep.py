"""A sweep of the tiny model, killed in the middle and started again; shards of it, merged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from labkit.runner.store import FILE_NAME, Store
from labkit.runner.sweep import cells, key_of

ROOT = Path(__file__).parents[2]
SIZES = ["--requests", "6", "--prompt-tokens", "4-8", "--new-tokens", "2-4", "--rate", "40,60,80"]


def command(model: str, *options: str) -> list[str]:
    recipes = ["--recipe", "kv_cache"]
    return [sys.executable, "-m", "labkit", "sweep", "--model", model, *recipes, *SIZES, "--json", "-", *options]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "LABKIT_HOME": str(home), "PYTHONPATH": str(ROOT)}


def swept(model: str, home: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        command(model, *options), env=environment(home), capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine makes figures invalid, not the cells unequal
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def stored(home: Path) -> set[tuple[str, ...]]:
    if not (home / FILE_NAME).exists():
        return set()
    with Store(home / FILE_NAME) as store:
        return {key_of(run) for run in cells(store.runs(sweep="sweep"))}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_sweep_goes_on_and_shards_merge_to_the_whole(tiny_model: str, tmp_path: Path) -> None:
    home = tmp_path / "killed"
    with subprocess.Popen(command(tiny_model), env=environment(home), stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        while not stored(home):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    before = stored(home)
    assert 0 < len(before) < 3
    resumed = swept(tiny_model, home)
    assert len(stored(home)) == len(resumed["sweeps"]["sweep"]["cells"]) == 3
    assert before < stored(home)
    again = swept(tiny_model, home)
    assert [run["id"] for run in again["runs"]] == [run["id"] for run in resumed["runs"]]

    parts = [tmp_path / f"part{index}" for index in (1, 2)]
    for index, part in enumerate(parts, 1):
        swept(tiny_model, part, "--shard", f"{index}/2")
    assert all(stored(part) < stored(home) for part in parts)
    document = tmp_path / "part2.json"
    document.write_text(json.dumps(swept(tiny_model, parts[1], "--shard", "2/2")))
    merged = tmp_path / "merged"
    merging = [sys.executable, "-m", "labkit", "merge", str(parts[0] / FILE_NAME), str(document)]
    done = subprocess.run(merging, env=environment(merged), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert stored(merged) == stored(home)
