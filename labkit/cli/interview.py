"""`labkit interview`: questions with the reader's own figures, one by one or as a timed mock interview."""

import random
import sys
from typing import Annotated

import typer

from labkit.cli.options import IsJson
from labkit.core.errors import UsageError


def interview(
    what: Annotated[
        str, typer.Argument(metavar="[TOPIC|QUESTION]", help="A topic, or a question's id; all if none.")
    ] = "",
    is_list: Annotated[bool, typer.Option("--list", help="List the questions and topics, ask nothing.")] = False,
    is_mock: Annotated[bool, typer.Option("--mock", help="Five questions, timed, and a summary.")] = False,
    num: Annotated[int | None, typer.Option(min=1, max=1000, help="End after so many questions.")] = None,
    lang: Annotated[str | None, typer.Option(help="en or zh; by default LABKIT_LANG.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Seed of the choice; by default another.")
    ] = None,
    json: IsJson = False,
) -> None:
    """Practise for interviews: numeric questions on your own latest Run and machine, open ones with a rubric.

    Answers are read from stdin, a line each; progress is kept under LABKIT_HOME. What was answered worst comes first.
    """
    from labkit.core.language import use
    from labkit.interview.bank import bank
    from labkit.interview.progress import Progress, mock, order
    from labkit.ui import document, interviewing
    from labkit.ui.interview_dialog import Dialog

    if lang is not None:
        use(lang)
    reader = interviewing.reader_here()
    path = interviewing.progress_path()
    is_topic = what in ("", *bank().topics)
    questions = bank().of(what) if is_topic else (bank().get(what),)
    if is_list:
        _list(interviewing.listed(questions, reader), is_json=json)
        return
    if is_topic:  # one that was named is asked, or refused with the reason
        draw = mock if is_mock else order
        seed = random.SystemRandom().randrange(2**32) if seed is None else seed
        questions = draw(interviewing.askable(questions, reader), Progress.load(path), seed=seed)[:num]
    elif is_mock:
        raise UsageError(f"a mock interview on the question {what!r} was asked for; name a topic, or nothing")
    dialog = Dialog(
        reader,
        path,
        read=_line,
        say=lambda text: typer.echo(text, err=json),
        is_timed=is_mock,
        is_patient=sys.stdin.isatty(),
    )
    dialog.run(questions)
    if json:
        summary = dialog.summary()
        document.write_json({"schema": 1, "answers": dialog.results, "summary": summary}, document.STDOUT)
    else:
        typer.echo(f"\n{dialog.told()}")


def _list(entries: list[dict[str, object]], *, is_json: bool) -> None:
    from labkit.ui import console, document, interviewing

    if is_json:
        document.write_json({"schema": 1, "topics": interviewing.topics(), "questions": entries}, document.STDOUT)
        return
    console.show_rows(*interviewing.topic_rows())
    console.show_rows(*interviewing.question_rows(entries))


def _line() -> str | None:
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None
