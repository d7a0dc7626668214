"""Sessions of other machines that ship with the package: context for a reader whose own machine lacks their device."""

from collections.abc import Sequence
from pathlib import Path

from labkit.core.paths import data_path
from labkit.core.run import Run
from labkit.ui.language import tr
from labkit.ui.sweeping import runs_of


def recorded(device: str, folder: Path | None = None) -> tuple[Run, ...]:
    """Sessions of another machine with Runs on a device, in the order of their files; () where none ships.

    What was measured beside those Runs comes with them: a CPU, for one, that a GPU is compared with. A file is what
    `labkit bench --json` or `labkit export --format jsonl` wrote; `folder` is where they lie, by default `data/runs`.

    Raises:
        UsageError: a file holds no Runs.
    """
    paths = sorted((folder or data_path("runs")).glob("*.json*"))
    runs = [run for path in paths for run in runs_of(path)]
    groups = {run.group for run in runs if run.device == device}
    return tuple(run for run in runs if run.group in groups)


def context(runs: Sequence[Run], device: str) -> str:
    """Whose Runs they are and of when, or that there are none."""
    if not runs:
        return tr("No Run on {device} has been recorded yet, so nothing here was measured on one.", device=device)
    machines = dict.fromkeys(
        tr("{name} on {day}", name=one.machine["gpu"] or one.machine["cpu"], day=one.created_utc[:10]) for one in runs
    )
    return tr("Recorded on another machine, not on this one: {machines}.", machines=tr("; ").join(machines))
