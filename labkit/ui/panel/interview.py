"""Interview: questions with the reader's own figures, answered and graded in a notebook. One question at a time."""

import random
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from labkit.core.errors import LabkitError, UsageError
from labkit.interview.bank import Open, Question, bank
from labkit.interview.grading import grade_points
from labkit.interview.progress import ALLOWED_S, Progress, mock, order
from labkit.ui import interviewing, page, show, units
from labkit.ui.interviewing import Presented
from labkit.ui.language import retold, tr
from labkit.ui.markup import Html, join, tag
from labkit.ui.panel.languages import switch
from labkit.ui.panel.parts import button, said

_ROW = {"flex_flow": "row wrap", "align_items": "center"}
_WIDE = {"description_width": "initial"}


class Interview:
    """Widgets over the bank of questions; `seed` fixes their order. Progress is kept under LABKIT_HOME."""

    def __init__(self, *, topic: str = "", seed: int | None = None) -> None:
        self._topic, self._seed = topic, random.SystemRandom().randrange(2**32) if seed is None else seed
        self._queue: list[Question] = []
        self._shown: Presented | None = None
        self._outcome = Html("")
        self._results: list[tuple[str, float, float]] = []  # of a mock interview: question, score, seconds
        self._is_mock = False
        self._start_s = 0.0
        self.box = widgets.VBox()
        self.box.add_class("labkit-interview")
        self._build()

    @property
    def question(self) -> str:
        """The question that is asked, "" before the first."""
        return "" if self._shown is None else self._shown.text

    def ask(self, id: str = "") -> None:
        """Ask the question of this id, or the next one of the topic.

        Raises:
            UsageError: no question has that id. Unavailable: it needs a figure that is missing here.
        """
        self._is_mock, self._queue = False, [bank().get(id)] if id else list(self._ordered())
        self._next()

    def mock(self) -> None:
        """Begin a timed interview of five questions."""
        self._results, self._is_mock = [], True
        progress = Progress.load(interviewing.progress_path())
        self._queue = list(mock(self._askable(), progress, seed=self._seed))
        self._seed += 1
        self._next()

    def answer(self, text: str) -> float:
        """Grade a number with its unit, or the points of a rubric (`1 3 4`) that an answer named; the score, 1 at best.

        Raises:
            UsageError: nothing is asked, or the text is no such answer.
        """
        from labkit.ui.interview_dialog import ticked

        if self._shown is None:
            raise UsageError("an answer was given; no question is asked: call ask() first")
        if isinstance(self._shown.question, Open):
            grade = grade_points(self._shown.question, ticked(text, len(self._shown.points)))
            told = units.percent(grade.score)
        else:
            grade = self._shown.graded(text)
            told = interviewing.verdict(grade)
        self._keep(grade.score, told)
        return grade.score

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.box)  # type: ignore[no-untyped-call]
        if self.question:
            print(self.question)

    # ---- what it is made of ----

    def _build(self) -> None:
        """Make every widget in the language in use; a question that is asked stays."""
        titles = [(tr("all topics"), ""), *((title, name) for name, title in interviewing.topics().items())]
        self._topics = widgets.Dropdown(
            description=tr("topic"), options=titles, value=self._topic, tooltip=tr("what is asked about"), style=_WIDE
        )
        self._topics.observe(lambda change: setattr(self, "_topic", change["new"]), "value")
        next_one = button(
            tr("Next question"), tr("ask one, the worst answered first"), self._click(self.ask), "primary"
        )
        five = button(tr("Mock interview"), tr("five questions, timed, with a summary"), self._click(self.mock))
        self._asked, self._graded, self._summary = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._answers = widgets.VBox()
        self.box.children = [
            widgets.HTML(tag("style", Html(show.CSS))),
            widgets.HBox([switch(self._build), self._topics, next_one, five], layout=widgets.Layout(**_ROW)),
            self._asked,
            self._answers,
            self._graded,
            self._summary,
        ]
        if self._shown is not None:
            self._shown = interviewing.present(self._shown.question, interviewing.reader_here())
        self._draw()

    def _draw(self) -> None:
        """Show the question with what it is answered by, and the progress."""
        shown = self._shown
        self._asked.value = "" if shown is None else _block(self._heading(shown), tag("p", tag("strong", shown.text)))
        self._answers.children = () if shown is None else self._inputs(shown)
        self._graded.value = self._outcome
        self._summary.value = _block(*self._told())

    def _heading(self, shown: Presented) -> Html:
        where = f"{interviewing.topics()[shown.question.topic]} · {tr(shown.kind)} · {shown.question.id}"
        allowed = f" · {ALLOWED_S[shown.kind] / 60:.0f} min" if self._is_mock else ""
        return tag("p", where + allowed, css="key")

    def _inputs(self, shown: Presented) -> tuple[widgets.Widget, ...]:
        if shown.asked is not None:
            text = widgets.Text(
                description=tr("answer"), placeholder=shown.hint, tooltip=tr("a number with its unit"), style=_WIDE
            )
            text.continuous_update = False
            submit = button(tr("Submit"), tr("grade this answer"), self._click(lambda: self.answer(text.value)))
            return (widgets.HBox([text, submit], layout=widgets.Layout(**_ROW)),)
        words = widgets.Textarea(
            description=tr("answer"),
            placeholder=tr("in your own words, or aloud"),
            tooltip=tr("nobody reads it but you"),
            layout=widgets.Layout(width="min(100%, 720px)", height="90px"),
            style=_WIDE,
        )
        reveal = button(tr("Show the rubric"), tr("the points that an answer must name"), lambda: self._reveal(shown))
        return words, reveal

    def _reveal(self, shown: Presented) -> None:
        """Checkboxes for the points of the rubric; the time that the answer took ends here."""
        took_s = time.perf_counter() - self._start_s
        layout = widgets.Layout(width="min(100%, 900px)")
        checks = [
            widgets.Checkbox(description=point, tooltip=tr("named in my answer"), indent=False, layout=layout)
            for point in shown.points
        ]

        def grade() -> None:
            self._start_s = time.perf_counter() - took_s
            self.answer(" ".join(str(number) for number, check in enumerate(checks, 1) if check.value))

        submit = button(tr("Submit"), tr("grade by the points that are ticked"), self._click(grade))
        note = widgets.HTML(said(tr("Tick what your answer named."), css="key"))
        self._answers.children = (self._answers.children[0], note, *checks, submit)

    # ---- what changes it ----

    def _click(self, action: Any) -> Any:
        """The action as a button does it: an error is told, not raised."""

        def act() -> None:
            try:
                action()
            except LabkitError as error:
                self._graded.value = said(retold(str(error)), css="invalid")

        return act

    def _next(self) -> None:
        if not self._queue:
            self._shown = None
        else:
            self._shown = interviewing.present(self._queue.pop(0), interviewing.reader_here())
            self._outcome = Html("")
        self._start_s = time.perf_counter()
        self._draw()

    def _keep(self, score: float, told: str) -> None:
        assert self._shown is not None
        shown, took_s, path = self._shown, time.perf_counter() - self._start_s, interviewing.progress_path()
        Progress.load(path).adding(shown.question, score=score, took_s=took_s).save(path)
        self._outcome = _block(
            tag("p", tag("strong", told), css="key" if score == 1 else "invalid"), tag("p", shown.solution)
        )
        if self._is_mock:
            self._results.append((shown.question.id, score, took_s))
            outcome = self._outcome
            self._next()
            self._graded.value = self._outcome = outcome
        else:
            self._answers.children = ()
            self._graded.value = self._outcome
            self._summary.value = _block(*self._told())

    def _ordered(self) -> Sequence[Question]:
        self._seed += 1
        return order(self._askable(), Progress.load(interviewing.progress_path()), seed=self._seed)

    def _askable(self) -> tuple[Question, ...]:
        return interviewing.askable(bank().of(self._topic), interviewing.reader_here())

    def _told(self) -> list[Html]:
        """A mock interview's result so far, and what was answered of each topic."""
        parts = []
        if self._results:
            rows = [(tr("question"), tr("score"), tr("time"))]
            rows += [(id, units.percent(score), units.seconds(took_s)) for id, score, took_s in self._results]
            parts += [tag("h3", tr("Mock interview")), page.plain_table(rows)]
        _, head, body = interviewing.topic_rows()
        table = page.plain_table([head[1:], *(row[1:] for row in body)])
        return [*parts, tag("details", tag("summary", tr("Progress")), table)]


def _block(*parts: object) -> Html:
    return tag("div", join(parts), css="labkit")
