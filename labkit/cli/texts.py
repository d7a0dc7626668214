"""The commands that answer a text from a corpus: `similar` and `classify`."""

from textwrap import shorten
from typing import Annotated

import typer

from labkit.cli.options import CorpusFile, IsJson, LabelColumn, TextColumn, corpus_name
from labkit.core.errors import UsageError


def similar(
    text: Annotated[str, typer.Argument(help="What the texts should be like.")],
    count: Annotated[int, typer.Option("--count", "-k", help="How many are shown.")] = 5,
    rank: Annotated[int, typer.Option(help="Numbers that a text becomes by SVD; 0: plain TF-IDF.")] = 128,
    corpus: CorpusFile = None,
    column: TextColumn = "text",
    json: IsJson = False,
) -> None:
    """Find the texts of a corpus that are most like this one: docstrings of this Python, unless a file is given."""
    from dataclasses import asdict

    from labkit.text.corpus import open_corpus
    from labkit.text.saved_index import cached_index
    from labkit.text.similarity import Settings
    from labkit.ui import console, document
    from labkit.ui.language import tr

    index = cached_index(open_corpus(corpus_name(corpus, column, None) or "stdlib"), Settings(rank=rank))
    found = index.similar(text, count)
    if json:
        document.write_json({"schema": 1, "matches": [asdict(match) for match in found]}, document.STDOUT)
    else:
        rows = [(f"{match.score:.2f}", match.name, shorten(match.text, 90, placeholder=" …")) for match in found]
        title = tr("Most like {text}, of {num} texts", text=repr(text), num=f"{len(index):,}")
        console.show_rows(title, tuple(map(tr, ("cosine", "name", "text"))), rows)


def classify(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT…", help="What to sort into a topic.")] = None,
    cell: Annotated[str, typer.Option(help="simple, gru or lstm.")] = "gru",
    corpus: CorpusFile = None,
    column: TextColumn = "text",
    label: LabelColumn = None,
    is_scored: Annotated[bool, typer.Option("--scores", help="Test it, beside two simpler classifiers.")] = False,
    has_unseen: Annotated[
        bool, typer.Option("--unseen-modules", help="Keep whole modules to test on: harder.")
    ] = False,
    json: IsJson = False,
) -> None:
    """Say what a text is about with an RNN, which is trained on the corpus when it is first asked."""
    from labkit.text.classifier import ClassifierSettings, TextClassifier
    from labkit.text.corpus import open_corpus
    from labkit.text.rnn_trained import Training, trained
    from labkit.ui import classification, console, document
    from labkit.ui.language import tr

    if not text and not is_scored:
        raise UsageError("a text was to be classified, none was given; write one, or ask for --scores")
    settings = ClassifierSettings(runtime="torch", is_folded=True, training=Training.of(cell))
    learnt, test = open_corpus(corpus_name(corpus, column, label) or "stdlib").split(unseen_modules=has_unseen)
    classifier = TextClassifier(trained(learnt, settings.training), settings, test=test, learnt=learnt)
    answers = {asked: classifier.classify(asked) for asked in text or ()}
    scores = classifier.beside() if is_scored else {}
    if json:
        document.write_json(classification.fields(answers, scores), document.STDOUT)
        return
    for asked, answer in answers.items():
        console.show_rows(asked, (tr("probability"), tr("topic")), classification.answer_rows(answer))
    if scores:
        own = next(iter(scores))
        tables = {
            tr("Texts that none was trained on"): classification.score_rows(scores),
            tr("Confusion"): classification.confusion_rows(scores[own]),
        }
        for title, (head, *rows) in tables.items():
            console.show_rows(title, head, rows)
        console.show_paragraphs("", [classification.verdict(scores)])
