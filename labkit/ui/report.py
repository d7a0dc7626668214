"""Reports: Runs and their Comparisons in, one self-contained page, Markdown or CSV out.

Runs are told in chapters, one for each session they were measured in; nothing is compared across chapters.
"""

import csv as csv_format
import io
from collections.abc import Sequence

from labkit.bench.comparison import Comparison
from labkit.core.language import language
from labkit.core.run import Run
from labkit.ui import facts, page, prose
from labkit.ui.explain import explanation
from labkit.ui.language import tr
from labkit.ui.markdown import escaped
from labkit.ui.markdown import table as markdown_table
from labkit.ui.markup import Html, join, tag
from labkit.ui.readings import reading
from labkit.ui.stylesheet import CSS
from labkit.ui.tables import Table, results

_LEDE = (
    "Each recipe ran in a process of its own, in randomized blocks beside the others. "
    "Figures that broke a rule of measurement are struck out, kept off charts and never compared."
)


def html(runs: Sequence[Run], *comparisons: Comparison) -> str:
    """The report as one HTML page that asks for nothing outside itself."""
    sessions = chapters(runs, comparisons)
    machines = {str(sorted(fields.items())): fields for run in runs if (fields := facts.flat(run.machine))}
    body = tag(
        "main",
        tag("header", tag("h1", tr("labkit report")), tag("p", tr(_LEDE), css="lede")),
        *(page.chapter(group, comparison) for group, comparison in sessions),
        tag(
            "section",
            tag("h2", tr("Methods")),
            tag("p", tr("What each technique used here is, costs and cannot do.")),
            page.lessons(runs),
        ),
        tag("section", tag("h2", tr("Machine")), *(page.fact_list(fields) for fields in machines.values())),
        tag(
            "section",
            tag("h2", tr("Runs")),
            tag("p", tr("Raw samples: "), tag("code", "labkit export --format csv --out FILE")),
            page.run_list(runs),
        ),
    )
    head = tag(
        "head",
        tag("meta", attributes={"charset": "utf-8"}),
        tag("meta", attributes={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", f"labkit: {', '.join(prose.title(group) for group, _ in sessions)}"),
        tag("style", Html(CSS)),
    )
    return join(
        (Html("<!doctype html>\n"), tag("html", head, tag("body", body), attributes={"lang": language()}), "\n")
    )


def markdown(runs: Sequence[Run], *comparisons: Comparison) -> str:
    """The verdicts and tables of the report, for a README or an issue."""
    parts = []
    for group, comparison in chapters(runs, comparisons):
        parts.append(f"## {escaped(prose.title(group))}")
        parts.append(
            "\n".join(
                f"- {tr('{name}: {told}', name=name, told=escaped(text))}"
                for name, text in facts.session(group).items()
            )
        )
        parts.append("\n".join(f"- {escaped(sentence.text)}" for sentence in prose.verdicts(group, comparison)))
        parts.append(_markdown_table(results(group, comparison)))
        parts.append("\n\n".join(escaped(line) for line in explanation(group, comparison)))
        parts.append("\n".join(f"- {escaped(line)}" for line in prose.proofs(group)))
    return "\n\n".join(part for part in parts if part) + "\n"


def csv(runs: Sequence[Run]) -> str:
    """One row a metric of a Run, in SI units: what a spreadsheet needs. Invalid Runs are marked, not dropped."""
    buffer = io.StringIO()
    writer = csv_format.writer(buffer, lineterminator="\n")
    writer.writerow(
        (
            "run",
            "session",
            "model",
            "workload",
            "device",
            "recipe",
            "is_valid",
            "metric",
            "value",
            "low",
            "high",
            "level",
            "num_samples",
        )
    )
    for run in runs:
        about = (
            run.id,
            run.group,
            run.model.get("name"),
            run.workload.get("name"),
            run.device,
            run.recipe,
            run.is_valid,
        )
        for metric in run.metrics:
            found = reading(run, metric)
            if found is not None and "value" in found:
                writer.writerow(
                    (*about, metric, *(found.get(key) for key in ("value", "low", "high", "level", "num_samples")))
                )
        for metric, figure in run.quality.items():
            writer.writerow((*about, metric, figure, None, None, None, None))
    return buffer.getvalue()


def chapters(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[tuple[tuple[Run, ...], Comparison | None]]:
    """Runs by the session they were measured in, each with the Comparison of that session."""
    found = {comparison.baseline.group: comparison for comparison in comparisons}
    groups = dict.fromkeys(run.group for run in runs)
    return [(tuple(run for run in runs if run.group == group), found.get(group)) for group in groups]


def _markdown_table(table: Table) -> str:
    rows = [(tr("recipe"), tr("verdict"), *(column.title for column in table.columns))]
    for line in table.lines:
        figures = (escaped(cell.line) for cell in line.cells)
        struck = (f"~~{text}~~" for text in figures) if line.faults else figures
        rows.append((escaped(line.name), escaped(line.verdict.cell.line), *struck))
    return markdown_table(rows, num_left=2)
