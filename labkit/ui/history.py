"""Stored Runs as the commands name them: by id, those of the last session, or all."""

from collections.abc import Sequence
from pathlib import Path

from labkit.core.errors import StoreError, UsageError
from labkit.core.paths import home
from labkit.core.run import Run
from labkit.runner.store import FILE_NAME, Store
from labkit.ui.console import note


def open_store(path: Path | None = None, *, is_read_only: bool = False) -> Store:
    """A history, by default that under `home()`; a Run in it that cannot be read is told on stderr.

    Raises:
        StoreError: it cannot be opened or made.
    """
    try:
        return Store(path or home() / FILE_NAME, is_read_only=is_read_only, warn=_note)
    except OSError as error:
        raise StoreError(f"the folder {error.filename!r} cannot be made: {error.strerror}; set LABKIT_HOME") from None


def with_its_baseline(run_id: str) -> tuple[Run, ...]:
    """The baseline of a Run's session and the Run, which may be one; `last` is the last of the last session.

    Raises:
        StoreError: an id answers to no Run or to several. UsageError: nothing has been stored yet.
    """
    if run_id == "last":
        (*_, found) = stored(None, is_last=True)
    else:
        (found,) = stored([run_id], is_last=False)
    with open_store() as store:
        baseline = store.runs(group=found.group)[-1]
    return (found,) if baseline.id == found.id else (baseline, found)


def stored(ids: Sequence[str] | None, *, is_last: bool) -> tuple[Run, ...]:
    """Runs by their ids, those of the last session in the order they were measured in, or all, newest first.

    Raises:
        StoreError: an id answers to no Run or to several. UsageError: nothing has been stored yet.
    """
    with open_store() as store:
        if ids:
            return tuple({run.id: run for run in map(store.get, ids)}.values())
        newest = store.runs(limit=1)
        if not newest:
            raise UsageError(f"stored Runs were asked for, {store.path} holds none; measure first: labkit bench")
        return store.runs(group=newest[0].group)[::-1] if is_last else store.runs()


def _note(warning: str) -> None:
    note(f"labkit: {warning}")
