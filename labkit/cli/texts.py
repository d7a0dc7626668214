"""The commands that answer a text from a corpus: `similar`."""

from textwrap import shorten
from typing import Annotated

import typer

from labkit.cli.options import CorpusFile, IsJson, TextColumn, corpus_name


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

    index = cached_index(open_corpus(corpus_name(corpus, column, None) or "stdlib"), Settings(rank=rank))
    found = index.similar(text, count)
    if json:
        document.write_json({"schema": 1, "matches": [asdict(match) for match in found]}, document.STDOUT)
    else:
        rows = [(f"{match.score:.2f}", match.name, shorten(match.text, 90, placeholder=" …")) for match in found]
        console.show_rows(f"Most like {text!r}, of {len(index):,} texts", ("cosine", "name", "text"), rows)
