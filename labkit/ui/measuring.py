"""From plans to results on a screen and in files: what every command that measures has in common."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from labkit.core.errors import LabkitError, StoreError
from labkit.core.paths import cache_folder
from labkit.core.recipe import PEER_PREFIX, Recipe
from labkit.core.run import Run
from labkit.peers import DEFAULT_PEERS, PACKAGES
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.runner.systems import ENGINE, TEXT_SYSTEMS
from labkit.ui import console, document
from labkit.ui.console import note
from labkit.ui.history import open_store
from labkit.ui.report import chapters

DONE, INVALID, CANCELLED = 0, 1, 130
"""Exit codes of a command that measures."""


def measure(
    plans: Sequence[Plan],
    *,
    json: str | None,
    report: Path | None,
    conclude: Callable[[Sequence[Run]], Mapping[str, Any]] = lambda runs: {},
) -> int:
    """Measure plan after plan, show the tables, write what was asked for; returns the exit code.

    `conclude` says what the Runs mean together; what it returns stands in the JSON beside them. A plan that cannot be
    measured is told and left out where others were.

    Raises:
        UsageError: no plan can be measured, or an output cannot be written; the latter before anything is measured.
    """
    kind = document.report_kind(report) if report else ""
    for target in filter(None, (json, str(report) if report else None)):
        document.check_target(target)
    with cancel_by_ctrl_c() as cancel:
        runs, problems = _runs_of_all(plans, cancel)
    comparisons = document.comparisons_of(runs)
    for group, comparison in chapters(runs, comparisons):
        console.show_results(group, comparison, is_stdout=json != document.STDOUT)
    concluded = conclude(runs)
    if json is not None:
        document.write_json({**document.payload(runs, comparisons), **concluded}, json)
    if report is not None:
        document.write_report(runs, comparisons, report, kind)
        note(f"wrote {report}")
    if cancel.is_set():
        return CANCELLED
    return DONE if all(run.is_valid for run in runs) and not problems else INVALID


def installed_peers(system: str = ENGINE) -> tuple[str, ...]:
    """Entries for a System's default peers whose packages are here; the others are named in a note."""
    peers = DEFAULT_PEERS if system == ENGINE else TEXT_SYSTEMS[system].peers
    missing = {name: [package for package in packages if not find_spec(package)] for name, packages in PACKAGES.items()}
    names = {text: Recipe.parse(text).names[0] for text in peers}
    for name in dict.fromkeys(names.values()):
        if missing[name]:
            note(f"labkit: peer {name} is not measured; not installed: {', '.join(missing[name])}")
    return tuple(PEER_PREFIX + text for text, name in names.items() if not missing[name])


def _runs_of_all(plans: Sequence[Plan], cancel: threading.Event) -> tuple[list[Run], list[LabkitError]]:
    """The Runs of all plans, and why some could not be measured; raises the first reason where there is no Run."""
    runs: list[Run] = []
    problems: list[LabkitError] = []
    for plan in plans:
        if cancel.is_set():
            break
        try:
            runs += _runs_of(plan, cancel)
        except LabkitError as error:
            problems.append(error)
            if len(plans) > 1:
                note(f"labkit: {plan.model} under {plan.spec.name} was not measured: {error}")
    if problems and not runs:
        raise problems[0]
    return runs, problems


def _runs_of(plan: Plan, cancel: threading.Event) -> tuple[Run, ...]:
    with ExitStack() as stack:
        store, warnings = None, []
        try:
            store = stack.enter_context(open_store())
        except StoreError as error:  # a measurement is worth more than its history
            warnings.append(str(error))
        session = Session(store=store, cache_folder=cache_folder())
        with console.progress(f"{plan.model} · {plan.spec.name}") as show:
            runs = session.measure(plan, on_progress=lambda at: show(at.fraction, at.text), cancel=cancel)
    for warning in (*warnings, *session.warnings):
        note(f"labkit: {warning}")
    return runs


@contextmanager
def cancel_by_ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that what was measured is kept; the second one ends the program."""
    cancel = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(*_: object) -> None:
        cancel.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)
