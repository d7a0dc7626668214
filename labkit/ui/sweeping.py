"""A sweep from its cells to tables, pages and files; what `sweep` and `merge` have in common."""

import json as json_format
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from labkit.core.errors import StoreError, UsageError
from labkit.core.goodput import KEPT_SHARE, Limits
from labkit.core.language import language
from labkit.core.paths import cache_folder
from labkit.core.run import Run
from labkit.runner.plan import Plan
from labkit.runner.session import Session
from labkit.runner.store import Store
from labkit.runner.sweep import Shard, Sweep, sweep_cells
from labkit.ui import console, document, facts, page, units
from labkit.ui.console import note
from labkit.ui.figure import DARK
from labkit.ui.frontier import Frontier
from labkit.ui.history import open_store
from labkit.ui.language import tr
from labkit.ui.markup import Html, join, tag
from labkit.ui.measuring import CANCELLED, DONE, INVALID, cancel_by_ctrl_c
from labkit.ui.stylesheet import CSS

_SQLITE = b"SQLite format 3\0"


def sweep(plan: Sweep, limits: Limits, *, shard: Shard, json: str | None, html: Path | None) -> int:
    """Measure what the history does not know of the sweep, show and write it; returns the exit code.

    Raises:
        UsageError: a cell cannot be measured, or an output cannot be written; the latter before anything is measured.
        StoreError: there is no history, without which a sweep could not be gone on with.
    """
    check_targets(json, html)
    with open_store() as store, cancel_by_ctrl_c() as cancel:
        known = store.runs(sweep=plan.name)
        runs, num_new = [], 0
        for run in sweep_cells(plan, measure=_measuring(store, cancel), known=known, shard=shard):
            runs.append(run)
            num_new += run.id not in {each.id for each in known}
            if cancel.is_set():
                break
    failed = [run for run in runs if run.status != "done"]
    note(f"{num_new} of {len({run.id for run in runs})} cells are new in sweep {plan.name!r}, the others were known")
    for run in failed:
        note(f"labkit: {run.label} on {run.device} was {run.status}: {run.error}")
    deliver(runs, limits, json=json, html=html)
    if cancel.is_set():
        return CANCELLED
    return DONE if runs and all(run.is_valid for run in runs) else INVALID


def merge(files: Sequence[Path], limits: Limits, *, into: Path | None, json: str | None, html: Path | None) -> None:
    """Put the Runs of histories and JSON files into one history, and show the sweeps among them.

    Of several states of one Run that which is further stays, be it in a file or in the history.

    Raises:
        UsageError: a file cannot be read or holds no Runs. StoreError: the history cannot be written.
    """
    check_targets(json, html)
    found = [run for path in files for run in runs_of(path)]
    with open_store(into) as store:
        num_merged = store.merge(found)
        held = {run.id: run for run in store.runs()}
        ids = dict.fromkeys(run.id for run in found)
        note(
            f"merged {num_merged} Runs of {len(files)} files into {store.path}; "
            f"{len(ids) - num_merged} were there already, as far or further"
        )
    deliver([held[id] for id in ids if id in held], limits, json=json, html=html)


def runs_of(path: Path) -> tuple[Run, ...]:
    """The Runs of a history, of what `--json` wrote, or of `export --format jsonl`; the file is left as it is.

    Raises:
        UsageError: the file cannot be read, is none of these, or holds JSON of which a part is no Run.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_SQLITE):
            with open_store(path, is_read_only=True) as store:
                return store.runs()
        return _parsed(content.decode())
    except OSError as error:
        raise UsageError(f"{str(path)!r} was to be merged; it cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError, StoreError) as error:
        raise UsageError(
            f"{str(path)!r} was to be merged; it holds no Runs ({' '.join(str(error).split())[:240]}); "
            "allowed: a runs.sqlite3, a file that --json wrote, or one of export --format jsonl"
        ) from None


def _parsed(text: str) -> tuple[Run, ...]:
    try:
        fields = json_format.loads(text)
    except ValueError:  # several lines, or none
        fields = {"runs": [json_format.loads(line) for line in text.splitlines()]}
    if not isinstance(fields, dict) or not fields.get("runs", [fields]):
        raise ValueError("it is empty")
    return tuple(_run(item, number) for number, item in enumerate(fields.get("runs", [fields]), 1))


def _run(fields: object, number: int) -> Run:
    try:
        return Run.from_json(json_format.dumps(fields))
    except StoreError as error:
        raise StoreError(f"Run {number}: {error}") from None


def deliver(runs: Sequence[Run], limits: Limits, *, json: str | None, html: Path | None) -> None:
    """Show the table of every sweep among these Runs, and write what was asked for."""
    names = list(dict.fromkeys(run.sweep for run in runs if run.sweep))
    frontiers = {name: Frontier.of([run for run in runs if run.sweep == name], limits) for name in names}
    for name, frontier in frontiers.items():
        if json != document.STDOUT and frontier.points:
            head, *rows = frontier.table()
            console.show_rows(_title(name, frontier), head, rows)
            console.show_paragraphs(_limits(limits), frontier.findings)
    if json is not None:
        sweeps = {name: frontier.to_dict() for name, frontier in frontiers.items()}
        document.write_json({**document.payload(runs, ()), "sweeps": sweeps}, json)
    if html is not None:
        document.write_text(html_page(frontiers, limits), str(html))
        note(f"wrote {html}")


def html_page(frontiers: Mapping[str, Frontier], limits: Limits) -> str:
    """One page with the picture, findings and table of each sweep, which asks for nothing outside itself."""
    sections = [_section(name, frontier) for name, frontier in frontiers.items() if frontier.points]
    head = tag(
        "head",
        tag("meta", attributes={"charset": "utf-8"}),
        tag("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", tr("labkit sweep")),
        tag("style", Html(CSS)),
    )
    lede = tag("header", tag("h1", tr("labkit sweep")), tag("p", _limits(limits), css="lede"))
    body = tag("body", tag("main", lede, *sections))
    return join((Html("<!doctype html>\n"), tag("html", head, body, attributes={"lang": language()}), "\n"))


def check_targets(json: str | None, html: Path | None) -> None:
    """Find out before anything is measured that a file cannot be written.

    Raises:
        UsageError: see `document.check_target`.
    """
    for target in filter(None, (json, str(html) if html else None)):
        document.check_target(target)


def _measuring(store: Store, cancel: threading.Event) -> Callable[[Plan], Sequence[Run]]:
    def measure(plan: Plan) -> Sequence[Run]:
        session = Session(store=store, cache_folder=cache_folder())
        with console.progress(f"{plan.model} · {plan.recipes[0] or 'baseline'} · {_rate(plan)}") as show:
            runs = session.measure(plan, on_progress=lambda at: show(at.fraction, at.text), cancel=cancel)
        for warning in session.warnings:
            note(f"labkit: {warning}")
        return runs

    return measure


def _rate(plan: Plan) -> str:
    return tr("all at once") if plan.spec.rate_per_s is None else units.rate(plan.spec.rate_per_s, "requests/s")


def _section(name: str, frontier: Frontier) -> Html:
    day, night = frontier.plot(), frontier.plot(theme=DARK)
    pictures = [page.picture(day, night)] if day and night else []
    return tag(
        "section",
        tag("h2", _title(name, frontier)),
        page.fact_list(facts.session(frontier.runs)),
        tag("ul", *(tag("li", sentence) for sentence in frontier.findings)),
        *pictures,
        page.plain_table(frontier.table()),
    )


def _title(name: str, frontier: Frontier) -> str:
    run = frontier.runs[0]
    model, num = run.model["name"], units.count(run.workload["num_requests"])
    return tr("{name}: {model} under load, {num} requests a pass", name=name, model=model, num=num)


def _limits(limits: Limits) -> str:
    return tr(
        "Within the limits: first token within {ttft}, later ones within {tpot} each. A recipe keeps up with a rate "
        "where at least {share} of it are done and the time in the queue does not grow; a percentile is the rarest "
        "that the samples tell",
        ttft=units.seconds(limits.ttft_s),
        tpot=units.seconds(limits.tpot_s),
        share=units.percent(KEPT_SHARE),
    )
