"""The commands that measure recipes beside each other: `bench`, `peers` and `scaling`."""

from typing import Annotated

import typer

from labkit.cli.options import (
    ArrivalCv,
    Batch,
    CacheState,
    Concurrency,
    CorpusFile,
    Devices,
    EffortName,
    JsonTarget,
    LabelColumn,
    ModelName,
    NewTokens,
    NumRequests,
    PromptTokens,
    Rate,
    ReportPath,
    Seed,
    SharedPrefix,
    SystemModel,
    SystemName,
    SystemWorkload,
    TextColumn,
    TraceFile,
    Turns,
    WorkloadName,
    corpus_name,
    spec_of,
)


def bench(
    system: SystemName = "engine",
    model: SystemModel = None,
    corpus: CorpusFile = None,
    text: TextColumn = "text",
    label: LabelColumn = None,
    device: Devices = None,
    workload: SystemWorkload = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="kv_cache + quantize(bits=8) …; repeatable, the first is the baseline.")
    ] = None,
    effort: EffortName = "quick",
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    requests: NumRequests = None,
    batch: Batch = None,
    rate: Rate = None,
    burstiness: ArrivalCv = None,
    concurrency: Concurrency = None,
    turns: Turns = None,
    trace: TraceFile = None,
    shared_prefix: SharedPrefix = None,
    cache_state: CacheState = None,
    seed: Seed = 0,
    json: JsonTarget = None,
    report: ReportPath = None,
) -> None:
    """Measure recipes of one model, or of one corpus, on one workload, interleaved, each in its own process."""
    from labkit.runner.plan import Plan
    from labkit.runner.systems import DEFAULT_MODEL, DEFAULT_RECIPES, DEFAULT_WORKLOAD, check_system
    from labkit.ui import measuring

    spec = spec_of(
        DEFAULT_WORKLOAD[check_system(system)] if workload is None else workload,
        seed=seed,
        trace=trace,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        num_requests=requests,
        batch=batch,
        rate_per_s=rate,
        arrival_cv=burstiness,
        concurrency=concurrency,
        turns=turns,
        shared_prefix_tokens=shared_prefix,
        cache_state=cache_state,
    )
    recipes, devices = tuple(recipe or DEFAULT_RECIPES[system]), tuple(device or ("cpu",))
    if model is None:
        model = corpus_name(corpus, text, label) or DEFAULT_MODEL[system]
    plan = Plan(model=model, spec=spec, recipes=recipes, devices=devices, effort=effort, seed=seed, system=system)
    raise typer.Exit(measuring.measure([plan], json=json, report=report))


def peers(
    task: Annotated[str, typer.Option(help="engine, or a system of texts: similarity, classifier.")] = "engine",
    model: Annotated[str | None, typer.Option(help="As of bench; of the engine llama-125m by default.")] = None,
    device: Devices = None,
    workload: SystemWorkload = None,
    recipe: Annotated[list[str] | None, typer.Option(help="Recipes of labkit's own; repeatable.")] = None,
    effort: EffortName = "quick",
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    requests: NumRequests = None,
    batch: Batch = None,
    rate: Rate = None,
    burstiness: ArrivalCv = None,
    concurrency: Concurrency = None,
    turns: Turns = None,
    trace: TraceFile = None,
    shared_prefix: SharedPrefix = None,
    cache_state: CacheState = None,
    seed: Seed = 0,
    json: JsonTarget = None,
    report: ReportPath = None,
) -> None:
    """Measure recipes beside other projects on the same weights or texts, in one interleaved session."""
    from labkit.peers import default_recipes
    from labkit.runner.plan import Plan
    from labkit.runner.systems import DEFAULT_MODEL, DEFAULT_WORKLOAD, ENGINE, TEXT_SYSTEMS, check_system
    from labkit.ui import measuring

    spec = spec_of(
        DEFAULT_WORKLOAD[check_system(task)] if workload is None else workload,
        seed=seed,
        trace=trace,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        num_requests=requests,
        batch=batch,
        rate_per_s=rate,
        arrival_cv=burstiness,
        concurrency=concurrency,
        turns=turns,
        shared_prefix_tokens=shared_prefix,
        cache_state=cache_state,
    )
    ours = default_recipes(spec.num_requests) if task == ENGINE else TEXT_SYSTEMS[task].beside
    if model is None:
        model = "llama-125m" if task == ENGINE else DEFAULT_MODEL[task]
    plan = Plan(
        model=model,
        spec=spec,
        recipes=(*measuring.installed_peers(task), *(recipe or ours)),
        devices=tuple(device or ("cpu",)),
        effort=effort,
        seed=seed,
        system=task,
    )
    raise typer.Exit(measuring.measure([plan], json=json, report=report))


def scaling(
    model: ModelName = "pylm",
    workload: WorkloadName = "batch",
    recipe: Annotated[str, typer.Option(help="What is scaled, without threads and replicas.")] = "kv_cache",
    effort: EffortName = "quick",
    prompt_tokens: PromptTokens = None,
    new_tokens: NewTokens = None,
    batch: Batch = None,
    seed: Seed = 0,
    json: JsonTarget = None,
    report: ReportPath = None,
    gil: Annotated[bool, typer.Option(help="Measure the part of the interpreter's lock first.")] = True,
) -> None:
    """Measure throughput over threads and replicas up to all cores, fit laws of scaling, name the knee."""
    from functools import partial

    from labkit.core.machine import usable_cores
    from labkit.lab import Lab
    from labkit.runner.plan import Plan
    from labkit.ui import curves, document, measuring

    spec = spec_of(workload, seed=seed, prompt_tokens=prompt_tokens, new_tokens=new_tokens, batch=batch)
    recipes = curves.recipes(recipe, spec, usable_cores())
    plan = Plan(model=model, spec=spec, recipes=recipes, effort=effort, seed=seed)
    found = Lab(model=model, workload=spec).gil(recipe) if gil and usable_cores() > 1 else None
    conclude = partial(curves.conclude, gil=found, is_stdout=json != document.STDOUT)
    raise typer.Exit(measuring.measure([plan], json=json, report=report, conclude=conclude))
