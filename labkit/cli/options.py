"""Options that several commands share, and the workload they ask for."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from labkit.core.errors import UsageError

if TYPE_CHECKING:
    from labkit.core.workload import WorkloadSpec

ModelName = Annotated[
    str, typer.Option("--model", help="pylm, a named shape such as llama-125m, a checkpoint folder, or org/name.")
]
SystemName = Annotated[str, typer.Option("--system", help="engine, or a system of texts: similarity, classifier.")]
SystemModel = Annotated[
    str | None,
    typer.Option("--model", help="pylm, a named shape such as llama-125m, a checkpoint folder, or org/name."),
]
SystemWorkload = Annotated[
    str | None,
    typer.Option(
        "--workload", help="chat, long, batch, server, shared_prefix; of texts: queries, vectors, query_batch."
    ),
]
CorpusFile = Annotated[Path | None, typer.Option("--corpus", help="Texts of your own: .csv, .jsonl or .txt, in UTF-8.")]
TextColumn = Annotated[str, typer.Option("--text", help="The column of the corpus that holds the texts.")]
LabelColumn = Annotated[str | None, typer.Option("--label", help="The column that holds their classes.")]
Devices = Annotated[list[str] | None, typer.Option("--device", help="cpu (default) or cuda; repeat to compare them.")]
WorkloadName = Annotated[
    str,
    typer.Option(
        "--workload", help="chat, long, batch, server, shared_prefix; of texts: queries, vectors, query_batch."
    ),
]
EffortName = Annotated[str, typer.Option("--effort", help="glance, quick, standard or rigorous.")]
PromptTokens = Annotated[str | None, typer.Option(help="Prompt tokens of each request: 64, or a range such as 16-256.")]
NewTokens = Annotated[str | None, typer.Option(help="New tokens of each request: 64, or a range such as 16-256.")]
NumRequests = Annotated[int | None, typer.Option("--requests", min=1, max=100_000, help="Requests of each pass.")]
Rate = Annotated[float | None, typer.Option(help="Requests a second, sent whether or not the system keeps up.")]
ArrivalCv = Annotated[
    float | None,
    typer.Option("--burstiness", help="Coefficient of variation of the gaps at a rate: 1 Poisson, above 1 bursts."),
]
Concurrency = Annotated[
    int | None, typer.Option(help="Requests outstanding at any time: the next is sent when one is done.")
]
Turns = Annotated[int | None, typer.Option(help="Turns of a conversation: each prompt begins with the one before it.")]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="JSON lines of recorded requests: arrival_s, prompt or prompt_tokens, new_tokens."),
]
Batch = Annotated[int | None, typer.Option(min=1, max=4096, help="Requests sent at once.")]
SharedPrefix = Annotated[
    int | None, typer.Option("--shared-prefix", min=0, max=1_000_000, help="Prompt tokens that all requests share.")
]
CacheState = Annotated[
    str | None, typer.Option("--cache-state", help="warm, or cold: nothing of earlier requests is kept for a pass.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the prompts and of the order in each block.")]
JsonTarget = Annotated[str | None, typer.Option("--json", help="Write Runs and Comparisons as JSON; - for stdout.")]
ReportPath = Annotated[Path | None, typer.Option("--report", help="Write a report: .html, .md, .csv or .ipynb.")]
IsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
RunIds = Annotated[list[str] | None, typer.Option("--run", help="A Run's id or the beginning of it; repeatable.")]
IsLast = Annotated[bool, typer.Option("--last", help="The Runs of the last session.")]
NotebookFolder = Annotated[Path, typer.Option("--folder", help="Where the notebooks are.")]
OutPath = Annotated[Path, typer.Option("--out", help="The file to write.")]


def corpus_name(file: Path | None, text: str, label: str | None) -> str | None:
    """The corpus that the options ask for, as `text.corpus.open_corpus` takes it; None where they ask for none."""
    if file is None:
        return None
    return f"{file}?{urlencode({'text': text} | ({'label': label} if label else {}))}"


def spec_of(
    name: str,
    *,
    seed: int,
    trace: Path | None = None,
    prompt_tokens: str | None = None,
    new_tokens: str | None = None,
    num_requests: int | None = None,
    batch: int | None = None,
    rate_per_s: float | None = None,
    arrival_cv: float | None = None,
    concurrency: int | None = None,
    turns: int | None = None,
    shared_prefix_tokens: int | None = None,
    cache_state: str | None = None,
) -> "WorkloadSpec":
    """The workload that the options ask for.

    Raises:
        UsageError: no workload has that name, the trace cannot be read, or a value is out of range.
    """
    from labkit.core.replay import read_replay
    from labkit.core.workload import workload

    return workload(
        name,
        seed=seed,
        replay=read_replay(trace) if trace is not None else None,
        prompt_tokens=_range("--prompt-tokens", prompt_tokens),
        new_tokens=_range("--new-tokens", new_tokens),
        num_requests=num_requests,
        batch=batch,
        rate_per_s=rate_per_s,
        arrival_cv=arrival_cv,
        concurrency=concurrency,
        turns=turns,
        shared_prefix_tokens=shared_prefix_tokens,
        cache_state=cache_state,
    )


def _range(option: str, text: str | None) -> int | tuple[int, int] | None:
    """`64` or `16-256`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text.strip(), re.ASCII)
    if found is None:
        raise UsageError(
            f"{option} {text!r} was asked for; allowed: a whole number such as 64, or a range such as 16-256"
        )
    low, high = found.groups()
    return int(low) if high is None else (int(low), int(high))
