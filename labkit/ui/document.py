"""What leaves the program as a file or on stdout: JSON of Runs and Comparisons, reports, raw samples."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

from labkit.bench.comparison import Comparison, compare
from labkit.core.errors import LabkitError, Unavailable, UsageError
from labkit.core.run import SCHEMA, Run
from labkit.ui import report
from labkit.ui.executed import executed_report
from labkit.ui.jupyter import require_jupyter

if TYPE_CHECKING:
    import pandas as pd

STDOUT = "-"
REPORT_FORMATS = ("html", "md", "csv", "ipynb")
EXPORT_FORMATS = ("csv", "jsonl", "parquet")


def comparisons_of(runs: Sequence[Run]) -> tuple[Comparison, ...]:
    """One Comparison for each session that the Runs are of; its first Run is the baseline."""
    return tuple(compare([run for run in runs if run.group == group]) for group in dict.fromkeys(r.group for r in runs))


def payload(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The JSON shape of every command that measures."""
    return {
        "schema": SCHEMA,
        "runs": [json.loads(run.to_json()) for run in runs],
        "comparisons": [comparison.to_dict() for comparison in comparisons],
    }


def write_json(fields: Any, target: str) -> None:
    """Write plain data as JSON to a file, or to stdout for `-`."""
    text = json.dumps(fields, allow_nan=False, indent=None if target != STDOUT else 1)
    write_text(text + "\n", target)


def write_report(runs: Sequence[Run], comparisons: Sequence[Comparison], path: Path, kind: str) -> None:
    """Write a report of this kind, one of `REPORT_FORMATS`; a notebook (`ipynb`) is executed before it is written.

    Raises:
        LabkitError: the file cannot be written, or the notebook not be executed.
    """
    if kind == "ipynb":
        executed_report(runs, path)
        return
    texts = {
        "html": lambda: report.html(runs, *comparisons),
        "md": lambda: report.markdown(runs, *comparisons),
        "csv": lambda: report.csv(runs),
    }
    write_text(texts[kind](), str(path))


def export(runs: Sequence[Run], path: Path, kind: str) -> None:
    """Write raw samples: every output of every Run as a row (csv, parquet), or whole Runs, one a line (jsonl).

    Raises:
        Unavailable: parquet without a package that writes it. LabkitError: the file cannot be written.
    """
    if kind == "jsonl":
        write_text("".join(f"{run.to_json()}\n" for run in runs), str(path))
    elif kind == "csv":
        write_text(samples(runs).to_csv(index=False), str(path))
    else:
        try:
            content = samples(runs).to_parquet(index=False)
        except ImportError:
            raise Unavailable(
                "export as parquet was asked for; the package pyarrow is not installed; "
                "choose csv or jsonl, or: pip install 'labkit[parquet]'"
            ) from None
        write_bytes(content, path)


def samples(runs: Sequence[Run]) -> "pd.DataFrame":
    """Raw samples of all Runs, one row an output, with what identifies the Run in front."""
    import pandas as pd

    frames = []
    for run in runs:
        frame = run.frame()
        about = {"run": run.id, "model": run.model["name"], "device": run.device, "recipe": run.recipe}
        for position, (column, text) in enumerate({**about, "is_valid": run.is_valid}.items()):
            frame.insert(position, column, text)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def report_kind(path: Path, asked: str | None = None) -> str:
    """The format that was asked for, or that a report's file name asks for.

    Raises:
        UsageError: none of `REPORT_FORMATS`. Unavailable: a notebook, without the packages that execute it.
    """
    kind = (asked or path.suffix.removeprefix(".")).lower()
    if kind not in REPORT_FORMATS:
        raise UsageError.unknown("report format", kind, REPORT_FORMATS, remedy="name the file so or give --format")
    if kind == "ipynb":
        require_jupyter()
    return kind


def check_target(target: str) -> None:
    """Find out before anything is measured that a file cannot be written there.

    Raises:
        UsageError: its folder does not exist, it is a folder itself, or it is no path.
    """
    if target == STDOUT:
        return
    seen = ""
    try:
        if S_ISDIR(os.stat(target).st_mode):
            seen = "that is a folder"
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.realpath(target))):
            seen = "its folder does not exist"
    except (OSError, ValueError) as error:  # too long, a link to itself, a byte of 0
        seen = (isinstance(error, OSError) and error.strerror) or str(error)
    if seen:
        raise UsageError(f"output to {target!r} was asked for; {seen}; name a file in an existing folder")


def write_text(text: str, target: str) -> None:
    """Write text to a file, or to stdout for `-`.

    Raises:
        LabkitError: the disk is full or the file may not be written.
    """
    if target == STDOUT:
        sys.stdout.write(text)
        return
    write_bytes(text.encode(), Path(target))


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file.

    Raises:
        LabkitError: the disk is full or the file may not be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise LabkitError(f"{str(path)!r} cannot be written: {error.strerror}; name another file") from None
