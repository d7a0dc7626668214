"""Runs of other machines that ship with the package: context for a reader whose own machine lacks their device."""

from collections.abc import Sequence
from pathlib import Path

from labkit.core.paths import data_path
from labkit.core.run import Run
from labkit.ui.language import tr
from labkit.ui.sweeping import runs_of


def recorded(device: str, folder: Path | None = None) -> tuple[Run, ...]:
    """Runs on a device that another machine recorded, in the order of their files; () where none ships.

    A file is what `labkit bench --json` or `labkit export --format jsonl` wrote; `folder` is where they lie, by default
    `data/runs`.

    Raises:
        UsageError: a file holds no Runs.
    """
    paths = sorted((folder or data_path("runs")).glob("*.json*"))
    return tuple(run for path in paths for run in runs_of(path) if run.device == device)


def context(runs: Sequence[Run], device: str) -> str:
    """Whose Runs they are and of when, or that there are none."""
    if not runs:
        return tr("No Run on {device} has been recorded yet, so nothing here was measured on one.", device=device)
    machines = dict.fromkeys(
        tr("{name} on {day}", name=one.machine["gpu"] or one.machine["cpu"], day=one.created_utc[:10]) for one in runs
    )
    return tr("Recorded on another machine, not on this one: {machines}.", machines=tr("; ").join(machines))
