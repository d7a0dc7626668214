"""The commands: options in, the floors below do the work, exit codes out.

Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 a Run was INVALID or failed, 2 wrong use,
130 cancelled with Ctrl-C. Modules are imported by the command that needs them, so that `--help` is quick.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.core.errors import LabkitError, StoreError, UsageError

if TYPE_CHECKING:
    from labkit.core.run import Run
    from labkit.core.workload import WorkloadSpec
    from labkit.runner.plan import Plan
    from labkit.runner.store import Store

CANCELLED = 130

app = typer.Typer(
    help="Measure LLM inference recipes against each other and against the machine's limit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelName = Annotated[
    str, typer.Option("--model", help="pylm, a named shape such as llama-125m, a checkpoint folder, or org/name.")
]
Devices = Annotated[list[str] | None, typer.Option("--device", help="cpu (default) or cuda; repeat to compare them.")]
WorkloadName = Annotated[str, typer.Option("--workload", help="chat, long, batch or server.")]
EffortName = Annotated[str, typer.Option("--effort", help="quick, standard or rigorous.")]
PromptTokens = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Prompt tokens of each request.")]
NewTokens = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="New tokens of each request.")]
Batch = Annotated[int | None, typer.Option(min=1, max=4096, help="Requests sent at once.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the prompts and of the order in each block.")]
JsonTarget = Annotated[str | None, typer.Option("--json", help="Write Runs and Comparisons as JSON; - for stdout.")]
ReportPath = Annotated[Path | None, typer.Option("--report", help="Write a report: .html, .md or .csv.")]
IsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
RunIds = Annotated[list[str] | None, typer.Option("--run", help="A Run's id or the beginning of it; repeatable.")]
IsLast = Annotated[bool, typer.Option("--last", help="The Runs of the last session.")]
OutPath = Annotated[Path, typer.Option("--out", help="The file to write.")]

DEMO_RECIPES = (
    "",
    "kv_cache",
    "kv_cache + precision(dtype='bf16')",
    "kv_cache + quantize(bits=8)",
    "kv_cache + quantize(bits=4)",
)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. An error that labkit raises on purpose is one line on stderr."""
    from labkit.ui import console

    try:
        app(args=args, prog_name="labkit")
    except LabkitError as error:
        console.note(f"labkit: {error}")
        return error.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


@app.callback(invoke_without_command=True)
def _labkit(
    is_version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and end.")] = False,
) -> None:
    if is_version:
        from labkit import __version__

        typer.echo(f"labkit {__version__}")
        raise typer.Exit


@app.command()
def demo(out: OutPath = Path("report.html"), effort: EffortName = "quick", json: JsonTarget = None) -> None:
    """Measure what the techniques bring to a trained model and to a larger shape; print the table, write a report."""
    from labkit.core.workload import workload
    from labkit.runner.plan import Plan

    spec = workload("chat")
    _measure(
        [
            Plan(model="pylm", spec=spec, recipes=DEMO_RECIPES, effort=effort),
            Plan(model="llama-125m", spec=spec, recipes=DEMO_RECIPES[1:], effort=effort),  # too slow without a cache
        ],
        json=json,
        report=out,
    )


@app.command()
def bench(
    model: ModelName = "pylm",
    device: Devices = None,
    workload: WorkloadName = "chat",
    recipe: Annotated[
        list[str] | None, typer.Option(help="kv_cache + quantize(bits=8) …; repeatable, the first is the baseline.")
    ] = None,
    effort: EffortName = "quick",
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: JsonTarget = None,
    report: ReportPath = None,
) -> None:
    """Measure recipes of one model on one workload, interleaved, each in its own process."""
    from labkit.runner.plan import Plan

    spec = _spec(workload, prompt_tokens, new_tokens, batch, seed)
    recipes, devices = tuple(recipe or ("", "kv_cache")), tuple(device or ("cpu",))
    _measure(
        [Plan(model=model, spec=spec, recipes=recipes, devices=devices, effort=effort, seed=seed)],
        json=json,
        report=report,
    )


@app.command()
def peers(
    model: ModelName = "llama-125m",
    device: Devices = None,
    workload: WorkloadName = "chat",
    recipe: Annotated[list[str] | None, typer.Option(help="Recipes of labkit's engine; repeatable.")] = None,
    effort: EffortName = "quick",
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: JsonTarget = None,
    report: ReportPath = None,
) -> None:
    """Measure recipes beside other engines on the same weights and prompts, in one interleaved session."""
    from labkit.peers import default_recipes
    from labkit.runner.plan import Plan

    spec = _spec(workload, prompt_tokens, new_tokens, batch, seed)
    entries = (*_installed_peers(), *(recipe or default_recipes(spec.num_requests)))
    _measure(
        [Plan(model=model, spec=spec, recipes=entries, devices=tuple(device or ("cpu",)), effort=effort, seed=seed)],
        json=json,
        report=report,
    )


@app.command()
def catalog(json: IsJson = False) -> None:
    """List the techniques: knobs, slot, exactness, and why one is not available here."""
    from labkit.ui import console, document, inventory

    techniques = inventory.catalog()
    if json:
        document.write_json({"schema": 1, "optimizations": techniques}, document.STDOUT)
    else:
        console.show_rows("Techniques", *inventory.catalog_rows(techniques))


@app.command()
def doctor(json: IsJson = False) -> None:
    """Show the machine as labkit sees it: versions, memory, tools, ceilings, the harness's own overhead, the store."""
    from labkit.ui import console, document, inventory

    found = inventory.doctor()
    if json:
        document.write_json({"schema": 1, **found}, document.STDOUT)
    else:
        for title, facts in inventory.doctor_facts(found).items():
            console.show_facts(title, facts)


@app.command()
def report(
    run: RunIds = None,
    last: IsLast = False,
    out: Annotated[Path | None, typer.Option(help="The file to write.")] = None,
    format: Annotated[str | None, typer.Option(help="html, md or csv; by default the file name's suffix.")] = None,
) -> None:
    """Write a report of stored Runs; without options, list them."""
    from labkit.ui import console, document, inventory

    if not (run or last or out or format):
        console.show_rows("Stored Runs, newest first", *inventory.run_rows(_stored(None, is_last=False)))
        return
    if out is None:
        raise UsageError("a report was asked for, no file was named; add --out report.html")
    kind = document.report_kind(out, format)
    document.check_target(str(out))
    runs = _stored(run, is_last=not run)
    document.write_report(runs, document.comparisons_of(runs), out, kind)
    console.note(f"wrote {out}")


@app.command()
def export(
    out: OutPath,
    format: Annotated[
        str, typer.Option(help="csv or parquet: a row for each output; jsonl: a Run on each line.")
    ] = "csv",
    run: RunIds = None,
    last: IsLast = False,
) -> None:
    """Write the raw samples of stored Runs, all of them unless some are named."""
    from labkit.ui import console, document

    if format not in document.EXPORT_FORMATS:
        raise UsageError.unknown("export format", format, document.EXPORT_FORMATS)
    document.check_target(str(out))
    runs = _stored(run, is_last=last)
    document.export(runs, out, format)
    console.note(f"wrote {len(runs)} Runs to {out}")


def _spec(name: str, prompt_tokens: int | None, new_tokens: int | None, batch: int | None, seed: int) -> "WorkloadSpec":
    from labkit.core.workload import workload

    return workload(name, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch, seed=seed)


def _measure(plans: Sequence["Plan"], *, json: str | None, report: Path | None) -> None:
    """Measure plan after plan, then write what was asked for. Ends the command with its exit code."""
    from labkit.ui import console, document
    from labkit.ui.report import chapters

    kind = document.report_kind(report) if report else ""
    for target in (json, str(report) if report else None):
        if target is not None:
            document.check_target(target)
    with _cancel_by_ctrl_c() as cancel:
        runs = [run for plan in plans if not cancel.is_set() for run in _runs_of(plan, cancel)]
    comparisons = document.comparisons_of(runs)
    for group, comparison in chapters(runs, comparisons):
        console.show_results(group, comparison, is_stdout=json != document.STDOUT)
    if json is not None:
        document.write_json(document.payload(runs, comparisons), json)
    if report is not None:
        document.write_report(runs, comparisons, report, kind)
        console.note(f"wrote {report}")
    if cancel.is_set():
        raise typer.Exit(CANCELLED)
    raise typer.Exit(0 if all(run.is_valid for run in runs) else 1)


def _runs_of(plan: "Plan", cancel: threading.Event) -> "tuple[Run, ...]":
    from labkit.core.paths import cache_folder
    from labkit.runner.session import Session
    from labkit.ui import console

    with ExitStack() as stack:
        warnings, store = [], None
        try:
            store = stack.enter_context(_store())
        except StoreError as error:  # a measurement is worth more than its history
            warnings.append(str(error))
        session = Session(store=store, cache_folder=cache_folder())
        with console.progress(f"{plan.model} · {plan.spec.name}") as show:
            runs = session.measure(plan, on_progress=lambda at: show(at.fraction, at.text), cancel=cancel)
    for warning in (*warnings, *session.warnings):
        console.note(f"labkit: {warning}")
    return runs


def _installed_peers() -> tuple[str, ...]:
    """The default peers whose package is here; the others are named in a note."""
    from importlib.util import find_spec

    from labkit.core.recipe import Recipe
    from labkit.peers import DEFAULT_PEERS
    from labkit.runner.target import PEER_PREFIX
    from labkit.ui import console

    is_here = {name: find_spec(name) is not None for text in DEFAULT_PEERS for name in Recipe.parse(text).names}
    for name in (name for name, is_installed in is_here.items() if not is_installed):
        console.note(f"labkit: {name} is not installed, so it is not measured; pip install {name.replace('_', '-')}")
    return tuple(PEER_PREFIX + text for text in DEFAULT_PEERS if is_here[Recipe.parse(text).names[0]])


def _stored(ids: Sequence[str] | None, *, is_last: bool) -> "tuple[Run, ...]":
    """Runs of the store: those named, those of the last session in the order they were measured in, or all."""
    with _store() as store:
        if ids:
            return tuple(dict.fromkeys(store.get(id) for id in ids))
        newest = store.runs(limit=1)
        if not newest:
            raise UsageError(f"stored Runs were asked for, {store.path} holds none; measure first: labkit bench")
        return store.runs(group=newest[0].group)[::-1] if is_last else store.runs()


def _store() -> "Store":
    from labkit.core.paths import home
    from labkit.runner.store import FILE_NAME, Store

    try:
        return Store(home() / FILE_NAME)
    except OSError as error:
        raise StoreError(f"the folder {error.filename!r} cannot be made: {error.strerror}; set LABKIT_HOME") from None


@contextmanager
def _cancel_by_ctrl_c() -> Iterator[threading.Event]:
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
