"""The commands `sweep`, recipes under rising load, and `merge`, which puts together what several machines measured."""

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.options import (
    ArrivalCv,
    CacheState,
    Devices,
    EffortName,
    JsonTarget,
    ModelName,
    NewTokens,
    PromptTokens,
    Seed,
    SharedPrefix,
    TraceFile,
    Turns,
    WorkloadName,
    spec_of,
)

TtftLimit = Annotated[float, typer.Option("--ttft-limit-s", help="Longest time to first token of a good request.")]
TpotLimit = Annotated[float, typer.Option("--tpot-limit-s", help="Longest time per later token of a good request.")]
HtmlPath = Annotated[Path | None, typer.Option("--html", help="Write a page with the picture and the table.")]


def sweep(
    rate: Annotated[list[str], typer.Option(help="Requests a second such as 1,2,4, or auto; repeatable.")],
    model: ModelName = "pylm",
    device: Devices = None,
    workload: WorkloadName = "server",
    recipe: Annotated[list[str] | None, typer.Option(help="Recipes to set beside each other; repeatable.")] = None,
    effort: EffortName = "quick",
    requests: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Requests of each pass: 64, or all of a trace.")
    ] = None,
    ttft_limit_s: TtftLimit = 0.5,
    tpot_limit_s: TpotLimit = 0.05,
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    burstiness: ArrivalCv = None,
    turns: Turns = None,
    trace: TraceFile = None,
    shared_prefix: SharedPrefix = None,
    cache_state: CacheState = None,
    seed: Seed = 0,
    name: Annotated[str, typer.Option(help="Known cells of this name are not measured again.")] = "sweep",
    shard: Annotated[str, typer.Option(help="i/n: only every n-th cell, from the i-th on.")] = "1/1",
    json: JsonTarget = None,
    html: HtmlPath = None,
) -> None:
    """Measure recipes at rising rates: latency against throughput, goodput, and with auto the rate they keep up with.

    Each cell is stored at once. The same command goes on where it was stopped; another --name begins anew.
    """
    from labkit.core.goodput import Limits
    from labkit.runner.sweep import NUM_REQUESTS, Shard, Sweep, parse_rates
    from labkit.ui import sweeping

    limits, part = Limits(ttft_s=ttft_limit_s, tpot_s=tpot_limit_s), Shard.parse(shard)
    spec = spec_of(
        workload,
        seed=seed,
        trace=trace,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        num_requests=requests or (None if trace else NUM_REQUESTS),
        rate_per_s=1.0,  # each cell has its own
        arrival_cv=burstiness,
        turns=turns,
        shared_prefix_tokens=shared_prefix,
        cache_state=cache_state,
    )
    plan = Sweep(
        model=model,
        spec=spec,
        recipes=tuple(recipe or ("kv_cache",)),
        rates=parse_rates(rate),
        devices=tuple(device or ("cpu",)),
        effort=effort,
        name=name,
    )
    raise typer.Exit(sweeping.sweep(plan, limits, shard=part, json=json, html=html))


def merge(
    files: Annotated[list[Path], typer.Argument(help="Histories (runs.sqlite3) and files that --json wrote.")],
    into: Annotated[Path | None, typer.Option(help="The history to write; by default this machine's.")] = None,
    ttft_limit_s: TtftLimit = 0.5,
    tpot_limit_s: TpotLimit = 0.05,
    json: JsonTarget = None,
    html: HtmlPath = None,
) -> None:
    """Put the Runs of several machines or shards into one history, and show the sweeps among them."""
    from labkit.core.goodput import Limits
    from labkit.ui import sweeping

    sweeping.merge(files, Limits(ttft_s=ttft_limit_s, tpot_s=tpot_limit_s), into=into, json=json, html=html)
