"""The parts of the HTML report, each a pure function from Runs to markup."""

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.bench.comparison import Comparison
from labkit.core.recipe import PEER_PREFIX, Recipe
from labkit.core.run import Run
from labkit.ui import classification, facts, prose
from labkit.ui.chart_tables import charted
from labkit.ui.explain import explanation
from labkit.ui.figure import DARK, LIGHT, Picture
from labkit.ui.language import tr
from labkit.ui.markup import Html, join, tag, unbroken
from labkit.ui.plots import pictures
from labkit.ui.readings import labels
from labkit.ui.tables import Cell, Line, Table, results

_IS_DARK = "(prefers-color-scheme: dark)"


def chapter(runs: Sequence[Run], comparison: Comparison | None) -> Html:
    """One session: its verdicts, table, pictures, explanation and proofs."""
    return tag(
        "section",
        tag("h2", prose.title(runs)),
        fact_list(facts.session(runs)),
        tag("h3", tr("Verdict")),
        verdicts(runs, comparison),
        results_table(results(runs, comparison)),
        *figures(runs, comparison),
        *why(explanation(runs, comparison)),
        tag("h3", tr("Output")),
        tag("ul", *(tag("li", line) for line in prose.proofs(runs))),
        *classified(runs),
    )


def why(paragraphs: Sequence[str]) -> list[Html]:
    """The explanation under its heading; nothing where no Run has a prediction."""
    return [tag("h3", tr("Why")), *(tag("p", unbroken(one)) for one in paragraphs)] if paragraphs else []


def classified(runs: Sequence[Run]) -> list[Html]:
    """Scores and confusion of classifiers, beside simpler ones; Runs that answer alike are told once."""
    names, told = labels(runs), dict[str, Html]()
    for run in runs:
        if scores := classification.scores_of(run):
            own, *_ = scores.values()
            told.setdefault(
                str(own.confusion),
                join(
                    (
                        tag("h3", tr("Right and wrong answers: {name}", name=names[run.id])),
                        plain_table(classification.score_rows(scores)),
                        tag(
                            "details",
                            tag("summary", tr("What each topic is taken for")),
                            plain_table(classification.confusion_rows(own)),
                        ),
                    )
                ),
            )
    return list(told.values())


def verdicts(runs: Sequence[Run], comparison: Comparison | None) -> Html:
    """What was found, in words, one recipe an item."""
    found = prose.verdicts(runs, comparison)
    items = (tag("li", tag("code", said.name), unbroken(said.rest), css=said.kind) for said in found)
    return tag("ul", *items, css="verdicts")


def results_table(table: Table) -> Html:
    """The table of results in two parts that a narrow page holds: verdict and speed, then what the speed costs.

    The figures of an invalid Run are struck out, its reason stands below them.
    """
    key = tag(
        "p",
        tr(
            "In brackets the 95 % interval, under a verdict the 99 % interval of the rate over the baseline's. "
            "A percentile that needs more samples is not stated."
        ),
        css="key",
    )
    costs = table.only(lambda column: not column.is_speed)
    parts = [_results_part(table.only(lambda column: column.is_speed), has_verdicts=True)]
    if costs.columns:
        parts.append(_results_part(costs, has_verdicts=False))
    return join((*parts, key))


def _results_part(table: Table, *, has_verdicts: bool) -> Html:
    titles = [tag("th", tr(title), attributes={"scope": "col"}) for title in ("recipe", "verdict")[: 1 + has_verdicts]]
    titles += [tag("th", column.title, attributes={"scope": "col", "title": column.help}) for column in table.columns]
    rows = join(_result_rows(line, len(titles), has_verdict=has_verdicts) for line in table.lines)
    css = "results judged" if has_verdicts else "results"
    return tag("div", tag("table", tag("thead", tag("tr", *titles)), tag("tbody", rows), css=css), css="scroll")


def _result_rows(line: Line, num_columns: int, *, has_verdict: bool) -> Html:
    kind = line.verdict.kind
    cells = [tag("td", *_cell(cell, is_struck=not line.is_valid)) for cell in line.cells]
    if not has_verdict:
        name = tag("th", tag("span", line.name, css="recipe"), attributes={"scope": "row"})
        return tag("tr", name, *cells, css=kind)
    verdict = tag("td", tag("strong", line.verdict.cell.text), _note(line.verdict.cell, css="wrap"), css=kind)
    name = tag("th", tag("span", line.name, css="recipe"), _note(Cell(note=line.note)), attributes={"scope": "row"})
    row = tag("tr", name, verdict, *cells, css=kind)
    reasons = (
        tag("tr", tag("td", tag("span", reason), attributes={"colspan": num_columns}), css="reason")
        for reason in line.faults
    )
    return join((row, *reasons))


def _cell(cell: Cell, *, is_struck: bool) -> tuple[Html, Html]:
    return tag("s", cell.text) if is_struck else join([cell.text]), _note(cell)


def _note(cell: Cell, css: str = "") -> Html:
    return tag("small", cell.note, css=css) if cell.note else Html("")


def figures(runs: Sequence[Run], comparison: Comparison | None) -> list[Html]:
    """Every picture in the reader's colour scheme, with its finding in words and its figures as a table."""
    light, dark = (pictures(runs, comparison, theme=theme) for theme in (LIGHT, DARK))
    return [
        join(
            (
                tag("h3", day.title),
                tag(
                    "figure",
                    picture(day, night),
                    tag("figcaption", unbroken(day.alt)),
                    tag(
                        "details",
                        tag("summary", tr("The same as a table")),
                        plain_table(charted(day.name, runs, comparison)),
                    ),
                ),
            )
        )
        for day, night in zip(light, dark, strict=True)
    ]


def picture(day: Picture, night: Picture) -> Html:
    """A picture in the reader's colour scheme."""
    source = tag("source", attributes={"srcset": night.data_uri(), "media": _IS_DARK})
    image = tag("img", attributes={"src": day.data_uri(), "alt": day.alt})
    return tag("div", tag("picture", source, image), css="scroll")


def plain_table(rows: Sequence[Sequence[str]], css: str = "") -> Html:
    """Rows of text, the first one the head; of the class `words` where no column holds numbers."""
    head, *body = rows
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", *(tag("th", cell, attributes={"scope": "col"}) for cell in head))),
            tag(
                "tbody",
                *(
                    tag("tr", tag("th", row[0], attributes={"scope": "row"}), *(tag("td", c) for c in row[1:]))
                    for row in body
                ),
            ),
            css=css,
        ),
        css="scroll",
    )


def fact_list(entries: Mapping[str, str]) -> Html:
    """Names and values, aligned."""
    pairs = (join((tag("dt", name), tag("dd", value))) for name, value in entries.items())
    return tag("dl", *pairs, css="facts")


def lessons(runs: Sequence[Run]) -> Html:
    """The docstring of every technique that was used: the idea, what it costs, when it does not help."""
    used = {name for run in runs if not run.recipe.startswith(PEER_PREFIX) for name in Recipe.parse(run.recipe).names}
    return join(
        tag(
            "details",
            tag("summary", tag("strong", lesson.title), f" · {lesson.name}"),
            *(tag("p", paragraph) for paragraph in lesson.paragraphs),
            css="lesson",
        )
        for lesson in facts.lessons(used)
    )


def run_list(runs: Sequence[Run]) -> Html:
    """Ids under which the raw samples can be exported."""
    rows: list[Sequence[str]] = [tuple(map(tr, ("run", "recipe", "model", "passes", "made (UTC)")))]
    rows += [(run.id, run.label, str(_name(run.model)), str(len(run.passes)), run.created_utc) for run in runs]
    return plain_table(rows)


def _name(model: Mapping[str, Any]) -> object:
    return model.get("name", "")
