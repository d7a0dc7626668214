"""The commands: options in, the floors below do the work, exit codes out.

Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 a Run was INVALID or failed, 2 wrong use,
130 cancelled with Ctrl-C. Modules are imported by the command that needs them, so that `--help` is quick.
"""

import sys
from collections.abc import Sequence
from errno import EDQUOT, ENOSPC, EPIPE
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from labkit.cli.interview import interview
from labkit.cli.measure import bench, peers, scaling
from labkit.cli.options import (
    EffortName,
    IsJson,
    IsLast,
    JsonTarget,
    ModelName,
    NotebookFolder,
    OutPath,
    RunIds,
    Seed,
)
from labkit.cli.sweep import merge, sweep
from labkit.cli.texts import classify, similar
from labkit.core.errors import LabkitError, UsageError
from labkit.core.language import language
from labkit.optimizations import rank

app = typer.Typer(
    help="Measure LLM inference recipes against each other and against the machine's limit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEMO_RECIPES = (
    "",
    "kv_cache",
    "kv_cache + precision(dtype='bf16')",
    "kv_cache + quantize(bits=8)",
    "kv_cache + quantize(bits=4)",
)
DEMO_SEARCHES = ("", "truncated_svd + vector_precision(dtype='int8')")

DEMO_RNNS = ("rnn_runtime(kind='torch_layer')", "rnn_runtime + fold_embedding")  # what needs no TensorFlow


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. An error that labkit raises on purpose is one line on stderr.

    Where torchrun started this process on another host than the first, it serves the command that runs there.
    """
    _take_any_text()
    try:
        code = _run(args)
        if sys.stdout is not None:  # a shell may have closed it
            sys.stdout.flush()
    except LabkitError as error:
        return _say(str(error), error.exit_code)
    except TyperException as error:  # an option or a command that does not exist, or a value that is none
        message = error.format_message().rstrip(".")
        return _say(f"{message}; `labkit --help` and `labkit COMMAND --help` say what is allowed", 2) if message else 2
    except Abort:
        return 130
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT, EPIPE):
            raise
        sys.stdout = StringIO()  # what is left in it would fail once more at the end
        if error.errno == EPIPE:  # as with `| head`
            return 1
        return _say(f"{error.strerror} for what was to be written; free space", 1)
    return code if isinstance(code, int) else 0


def _run(args: Sequence[str] | None) -> object:
    if rank.is_elsewhere():
        rank.serve()
        return 0
    with rank.served():
        return app(args=args, prog_name="labkit", standalone_mode=False)


def _take_any_text() -> None:
    """Let no byte on stdin and no character on stdout end a command, whatever the locale."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


def _say(error: str, code: int) -> int:
    typer.echo(f"labkit: {' '.join(error.split())}", err=True)
    return code


@app.callback(invoke_without_command=True)
def _labkit(
    context: typer.Context,
    is_version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and end.")] = False,
) -> None:
    if is_version:
        from labkit import __version__

        typer.echo(f"labkit {__version__}")
        raise typer.Exit
    if context.invoked_subcommand != interview.__name__:  # its --lang goes before the variable
        language()  # a wrong one is refused now, not when the results of hours are told


@app.command()
def demo(out: OutPath = Path("report.html"), effort: EffortName = "quick", json: JsonTarget = None) -> None:
    """Measure what the techniques bring to two models, a search and an RNN; print the tables, write a report."""
    from labkit.core.workload import workload
    from labkit.runner.plan import Plan
    from labkit.ui import measuring

    spec = workload("chat")
    code = measuring.measure(
        [
            Plan(model="pylm", spec=spec, recipes=DEMO_RECIPES, effort=effort),
            Plan(model="llama-125m", spec=spec, recipes=DEMO_RECIPES[1:], effort=effort),  # too slow without a cache
            Plan(
                model="stdlib",
                spec=workload("queries"),
                recipes=DEMO_SEARCHES,
                effort=effort,
                system="similarity",
            ),
            Plan(system="classifier", model="stdlib", spec=workload("queries"), recipes=DEMO_RNNS, effort=effort),
        ],
        json=json,
        report=out,
    )
    raise typer.Exit(code)


@app.command()
def lab(
    folder: NotebookFolder = Path("notebooks"),
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Listen on this port or not at all.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab on the notebooks: the lessons and the panel. It listens on this machine only."""
    import os

    from labkit.ui.jupyter import lab_command, lab_environment
    from labkit.ui.notebooks import lessons

    lessons(folder)
    command = lab_command(folder, port=port, is_browser=browser)
    os.execve(command[0], command, lab_environment())  # noqa: S606 - becomes JupyterLab, which then hears Ctrl-C itself


for command in (bench, peers, sweep, merge, scaling, similar, classify, interview):
    app.command()(command)


@app.command()
def prefix(
    name: Annotated[str, typer.Argument(help="What preload(prefix='NAME') calls it: a to z, 0 to 9, _ and -.")],
    model: ModelName = "pylm",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    recipe: Annotated[str, typer.Option(help="The recipe that will load it.")] = "kv_cache + prefix_cache",
    text: Annotated[Path | None, typer.Option(help="A file with the text that prompts will begin with.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Or: what a workload shares of that length.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Compute the keys and values of a text once and save them, for `preload` to read before the first request."""
    from labkit.lab import Lab
    from labkit.ui.console import note

    lab = Lab(model=model, devices=[device])
    content = _text(text) if text else ""
    if text and not content:
        raise UsageError(f"a prefix of text file {str(text)!r} was asked for; it is empty; name one with a text")
    path = lab.save_prefix(name, recipe=recipe, text=content, tokens=tokens or 0, seed=seed)
    note(f"wrote {path}")


@app.command()
def catalog(
    json: IsJson = False,
    is_markdown: Annotated[
        bool, typer.Option("--markdown", help="Which techniques stand together, in Markdown.")
    ] = False,
    is_glossary: Annotated[
        bool, typer.Option("--glossary", help="Every metric with its formula, in Markdown, English and Chinese.")
    ] = False,
) -> None:
    """List the techniques: knobs, slot, exactness, and why one is not available here."""
    from labkit.ui import combinations, console, document, glossary, inventory

    if is_glossary:
        typer.echo(glossary.markdown(), nl=False)
        return

    if is_markdown:
        typer.echo(combinations.markdown(), nl=False)
        return
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
    format: Annotated[
        str | None, typer.Option(help="html, md, csv or ipynb; by default the file name's suffix.")
    ] = None,
) -> None:
    """Write a report of stored Runs; without options, list them."""
    from labkit.ui import console, document, history, inventory
    from labkit.ui.language import tr

    if not (run or last or out or format):
        console.show_rows(tr("stored Runs, newest first"), *inventory.run_rows(history.stored(None, is_last=False)))
        return
    if out is None:
        raise UsageError("a report was asked for, no file was named; add --out report.html")
    kind = document.report_kind(out, format)
    document.check_target(str(out))
    runs = history.stored(run, is_last=not run)
    document.write_report(runs, document.comparisons_of(runs), out, kind)
    console.note(f"wrote {out}")


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A Run's id or the beginning of it, or `last`.")],
    json: IsJson = False,
) -> None:
    """Say why a Run is as fast as it is: its terms, what changed against its baseline, where its techniques pay."""
    from labkit.ui import console, document, explain, history

    told = explain.told(history.with_its_baseline(run))
    if json:
        document.write_json({"schema": 1, **told}, document.STDOUT)
    else:
        console.show_paragraphs(told["title"], [*told["why"], *told["crossovers"]])


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
    from labkit.ui import console, document, history

    if format not in document.EXPORT_FORMATS:
        raise UsageError.unknown("export format", format, document.EXPORT_FORMATS)
    document.check_target(str(out))
    runs = history.stored(run, is_last=last)
    document.export(runs, out, format)
    console.note(f"wrote {len(runs)} Runs to {out}")


@app.command()
def notebooks(
    names: Annotated[list[str] | None, typer.Argument(help="Beginnings of names, such as 00; all if none.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing, only say what changed.")] = False,
    links: Annotated[
        bool, typer.Option("--links", help="Execute nothing, write the links below each lesson's introduction again.")
    ] = False,
    gallery: Annotated[
        Path | None, typer.Option("--gallery", help="Execute nothing, write what each lesson shows to this page.")
    ] = None,
    folder: NotebookFolder = Path("notebooks"),
) -> None:
    """Execute the lessons again, in place; what they claim anew is told, and with --check it is exit code 1."""
    from labkit.ui import gallery as page
    from labkit.ui import lesson_links
    from labkit.ui.console import note
    from labkit.ui.notebooks import lessons, refresh

    paths = lessons(folder, names or ())
    if links or gallery:
        changed = lesson_links.renew(paths, is_check=check) if links else ()
        changed += page.renew(paths, gallery, is_check=check) if gallery else ()
        for path in changed:
            note(f"{'out of date:' if check else 'wrote'} {path}")
        raise typer.Exit(1 if check and changed else 0)
    is_unchanged = refresh(paths, is_check=check)
    raise typer.Exit(1 if check and not is_unchanged else 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise UsageError(f"text file {str(path)!r} cannot be read: {reason}") from None
