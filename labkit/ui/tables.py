"""The table of results as plain text cells: HTML, Markdown and the terminal all show this one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from labkit.bench.comparison import Comparison, Row
from labkit.core.run import Run
from labkit.ui import units
from labkit.ui.language import retold, retold_fault, tr
from labkit.ui.readings import (
    QUALITY,
    Measure,
    is_answering,
    labels,
    quality_measure,
    reading,
    share_of_limit,
    text_measures,
    value,
)


@dataclass(frozen=True)
class Cell:
    """A value, and in smaller type its interval or what is missing for it."""

    text: str = units.MISSING
    note: str = ""

    @property
    def line(self) -> str:
        """Both on one line."""
        return f"{self.text} {self.note}".rstrip()


@dataclass(frozen=True)
class Column:
    """Title of a column, what it holds, in a sentence, and whether that is speed or the price of it."""

    title: str
    help: str
    is_speed: bool = True

    @property
    def told(self) -> "Column":
        """The same in the language in use."""
        return replace(self, title=tr(self.title), help=tr(self.help))


@dataclass(frozen=True)
class Verdict:
    """What was decided. `kind` is the decision's word, or `baseline`, `refused`, `invalid`, `alone`."""

    kind: str
    cell: Cell


@dataclass(frozen=True)
class Line:
    """One Run: name, a cell for each column, verdict, and why its figures may not be used (if so).

    `note` says where the Run did less work than the others.
    """

    name: str
    run_id: str
    cells: tuple[Cell, ...]
    verdict: Verdict
    faults: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_valid(self) -> bool:
        """Whether the figures stand; struck out otherwise."""
        return not self.faults


@dataclass(frozen=True)
class Table:
    """Columns between the recipe's name and the verdict; a column that no Run has anything for is left out."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def only(self, is_wanted: Callable[[Column], bool]) -> "Table":
        """The same lines with some of the columns."""
        kept = [i for i, column in enumerate(self.columns) if is_wanted(column)]
        return Table(
            columns=tuple(self.columns[i] for i in kept),
            lines=tuple(replace(line, cells=tuple(line.cells[i] for i in kept)) for line in self.lines),
        )


def results(runs: Sequence[Run], comparison: Comparison | None) -> Table:
    """Latency, throughput, memory, quality, share of the limit and verdict of every Run, valid or not."""
    names = labels(runs)
    rows = {row.run_id: row for row in comparison.rows} if comparison else {}
    baseline_id = comparison.baseline.id if comparison else None
    columns = _columns(runs)
    lines = tuple(
        Line(
            name=names[run.id],
            run_id=run.id,
            cells=tuple(read(run) for _, read in columns),
            verdict=_verdict(run, rows.get(run.id), is_baseline=run.id == baseline_id),
            faults=faults(run),
            note="" if run.token_share == 1 else tr("{share} of the new tokens", share=units.percent(run.token_share)),
        )
        for run in runs
    )
    used = {column for i, (column, _) in enumerate(columns) if any(line.cells[i] != Cell() for line in lines)}
    return Table(tuple(column.told for column, _ in columns), lines).only({one.told for one in used}.__contains__)


def faults(run: Run) -> tuple[str, ...]:
    """Why the Run's figures may not be used, a line each; () for a valid Run."""
    if run.status != "done":
        why = retold(run.error) if run.error else tr("the Run did not end")
        ended = tr("{name}: {told}", name=tr(run.status).upper(), told=why)
        return (ended, *map(retold_fault, run.faults))
    return tuple(map(retold_fault, run.faults))


def _columns(runs: Sequence[Run]) -> list[tuple[Column, Callable[[Run], Cell]]]:
    columns: list[tuple[Column, Callable[[Run], Cell]]] = [
        (
            Column("TTFT", "time to first token: intended arrival to first output token, median of a pass"),
            lambda run: _metric(run, "ttft_s", units.seconds),
        ),
        (
            Column("ITL p50", "inter-token latency: gap between consecutive output tokens, median"),
            lambda run: percentile_cell(run, "itl_s", 50),
        ),
        (
            Column("ITL p90", "inter-token latency that 90 % of gaps do not exceed"),
            lambda run: percentile_cell(run, "itl_s", 90),
        ),
        (
            Column("ITL p99", "inter-token latency that 99 % of gaps do not exceed"),
            lambda run: percentile_cell(run, "itl_s", 99),
        ),
        (
            Column("output tok/s", "output tokens per second of the whole pass, prefill and decode"),
            lambda run: _metric(run, "output_tok_per_s", units.number),
        ),
        (
            Column("decode tok/s", "output tokens per second after the first token"),
            lambda run: _metric(run, "decode_tok_per_s", units.number),
        ),
        (
            Column("queries/s", "requests answered per second of the whole pass"),
            lambda run: _metric(run, "requests_per_s", units.number) if is_answering(run) else Cell(),
        ),
        *(
            (
                Column(f"query p{q}", f"time from a request's arrival to its answer that {q} % do not exceed"),
                partial(_query_percentile, q=q),
            )
            for q in (50, 99)
        ),
        (
            Column("vectorizing", "share of the time spent on making vectors of the texts", is_speed=False),
            lambda run: Cell(units.percent(found)) if (found := value(run, "vectorize_share")) is not None else Cell(),
        ),
        (
            Column("fit", "time to learn terms and factors, or weights, from the corpus", is_speed=False),
            lambda run: Cell(units.seconds(found)) if (found := run.build.get("fit_s")) is not None else Cell(),
        ),
        (
            Column("guesses kept", "drafted tokens that the model would have chosen; below it tokens a step"),
            _acceptance,
        ),
        (
            Column(
                "prefix hit rate",
                "prompt tokens that were copied from a stored prefix; below it the bytes that all of these take",
                is_speed=False,
            ),
            _prefixes,
        ),
        (
            Column(
                "communication",
                "share of the time that a process spent on messages to others; below it bytes that it sent for a token",
                is_speed=False,
            ),
            _communication,
        ),
        (
            Column("bubble", "share of the time that a process of a pipeline waited for others", is_speed=False),
            _bubble,
        ),
        (
            Column(
                "batch",
                "sequences in a decoding step, mean; below it the share of padding in what was computed for prompts, "
                "and requests that gave their memory back and were computed again",
                is_speed=False,
            ),
            _batching,
        ),
        (
            Column("index", "bytes of the vectors; below it those that a query reads, all of them", is_speed=False),
            _index,
        ),
        (
            Column("memory", "peak memory of the measuring process; below it the bytes of the weights", is_speed=False),
            _memory,
        ),
    ]
    measures = text_measures(runs) or [measure for measure in [quality_measure(runs)] if measure is not None]
    for measure in measures:
        facts = QUALITY[measure]
        quality = _quality_column(facts)
        columns.append((quality, partial(_quality, measure=measure)))
    limit = Column("of limit", "decode rate as a share of the machine's limit for this recipe", is_speed=False)
    columns.append((limit, lambda run: Cell(units.percent(share_of_limit(run)))))
    return columns


def _quality_column(measure: Measure) -> Column:
    better = tr("{better} is better", better=tr(measure.better))
    help = tr("against {reference}; {better}", reference=tr(measure.reference), better=better)
    return Column(measure.title, help, is_speed=False)


def percentile_cell(run: Run, metric: str, q: int) -> Cell:
    """A percentile of a latency with its interval; where it is withheld, how many samples are missing."""
    missing = (run.metrics.get(f"{metric}.missing") or {}).get(f"p{q}")
    return Cell(note=units.withheld(missing)) if missing else _metric(run, f"{metric}.p{q}", units.seconds)


def _query_percentile(run: Run, *, q: int) -> Cell:
    return percentile_cell(run, "e2e_s", q) if is_answering(run) else Cell()


def _metric(run: Run, name: str, form: units.Formatter) -> Cell:
    found = reading(run, name)
    return Cell() if found is None else Cell(form(found["value"]), units.interval(found["low"], found["high"], form))


def _acceptance(run: Run) -> Cell:
    rate, tokens = value(run, "acceptance_rate"), value(run, "tokens_per_step")
    return Cell() if rate is None else Cell(units.percent(rate), tr("{num} tokens a step", num=units.number(tokens)))


def _prefixes(run: Run) -> Cell:
    hit_rate, num_bytes = value(run, "prefix_hit_rate"), value(run, "prefix_bytes")
    return Cell() if hit_rate is None else Cell(units.percent(hit_rate), tr("{size} kept", size=units.size(num_bytes)))


def _communication(run: Run) -> Cell:
    share, num_bytes = value(run, "communication_share"), value(run, "communication_bytes")
    return Cell() if share is None else Cell(units.percent(share), tr("{size} a token", size=units.size(num_bytes)))


def _bubble(run: Run) -> Cell:
    share = value(run, "bubble_share")
    return Cell() if share is None else Cell(units.percent(share))


def _batching(run: Run) -> Cell:
    batch, padding, preemptions = (value(run, name) for name in ("batch_mean", "padding_rate", "preemptions"))
    if batch is None:
        return Cell()
    notes = [tr("{share} padding", share=units.percent(padding))] if padding else []
    notes += [tr("{num} preemptions a pass", num=units.number(preemptions))] if preemptions else []
    return Cell(units.number(batch), ", ".join(notes))


def _index(run: Run) -> Cell:
    held, read = run.build.get("index_bytes"), run.build.get("read_bytes")
    note = "" if read is None else tr("{size} read", size=units.size(read))
    return Cell() if held is None else Cell(units.size(held), note)


def _memory(run: Run) -> Cell:
    weights = run.build.get("weights_bytes")
    note = "" if weights is None else tr("weights {size}", size=units.size(weights))
    return Cell(units.size(run.build.get("peak_memory_bytes")), note)


def _quality(run: Run, *, measure: str) -> Cell:
    return Cell(QUALITY[measure].form(run.quality.get(measure)))


def _verdict(run: Run, row: Row | None, *, is_baseline: bool) -> Verdict:
    if run.status != "done":
        return Verdict("invalid", Cell(tr(run.status).upper()))
    if run.faults:
        return Verdict("invalid", Cell("INVALID", ", ".join(fault.code for fault in run.faults)))
    if is_baseline:
        return Verdict("baseline", Cell(tr("baseline")))
    if row is None:
        return Verdict("alone", Cell())
    if row.decision is None:
        return Verdict("refused", Cell(tr("not compared"), retold(row.refusal)))
    found = row.decision.ratio
    text = f"{units.ratio(found.value)} {tr(row.decision.verdict)}"
    return Verdict(row.decision.verdict.replace(" ", "-"), Cell(text, units.interval(found.low, found.high)))
