"""Corpus: labelled texts. The embedded one is what every Python carries, the docstrings of its standard library."""

import hashlib
import json
import platform
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import parse_qsl

from labkit.core import paths
from labkit.core.errors import UsageError
from labkit.text.docstrings import docstrings
from labkit.text.duplicates import distinct
from labkit.text.rows import read_rows

TEST_SHARE = 0.2
"""Part of every topic that a split keeps to test with."""

_VERSION = 2  # of the reading and cleaning below: a cached corpus of another version is read anew


class Document(NamedTuple):
    """One text: what holds it (`pathlib.Path.read_text`, a row), its module or file, its topic."""

    text: str
    label: str
    module: str
    name: str


@dataclass(frozen=True)
class Corpus:
    """Texts with their topics and the modules they come from, all in one order."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    modules: tuple[str, ...]
    names: tuple[str, ...]

    COLUMNS: ClassVar[tuple[str, ...]] = ("texts", "labels", "modules", "names")

    @classmethod
    def of(cls, documents: Sequence[Document]) -> "Corpus":
        """The corpus of these documents; near-duplicates are kept."""
        columns = zip(*documents, strict=True) if documents else ((),) * 4
        return cls(*map(tuple, columns))

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def hash(self) -> str:
        """Hexadecimal SHA-256 of all columns: what is cached of a corpus is cached under it."""
        rows = [getattr(self, column) for column in self.COLUMNS]
        return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """The labels that occur, sorted: class i is topic i."""
        return tuple(sorted(set(self.labels)))

    def joined(self, more: "Corpus") -> "Corpus":
        """These texts, then more."""
        return Corpus(*(getattr(self, column) + getattr(more, column) for column in self.COLUMNS))

    def take(self, positions: Sequence[int]) -> "Corpus":
        """The texts at these positions."""
        rows = list(zip(self.texts, self.labels, self.modules, self.names, strict=True))
        return Corpus.of([Document(*rows[position]) for position in positions])

    def split(self, seed: int = 0, *, unseen_modules: bool = False) -> "tuple[Corpus, Corpus]":
        """What to learn from and what to be tested on: about `TEST_SHARE` of every topic, drawn by the seed.

        Args:
            seed: another seed draws others.
            unseen_modules: harder: whole modules are drawn, so that no test text has a sibling to be recognised by.

        Raises:
            UsageError: there is one topic only, or one with a single text (or module): nothing could be told apart.
        """
        if len(self.topics) < 2:
            raise UsageError(
                f"a split of {len(self)} texts was asked for, all are of one class {''.join(self.topics)!r}; "
                "allowed: two classes or more; remedy: name the column that holds them (--label)"
            )
        draw = self._drawn_modules if unseen_modules else self._drawn_texts
        rng = random.Random(f"{seed}/split")
        test = {position for topic in self.topics for position in draw(topic, rng)}
        return self.take([at for at in range(len(self)) if at not in test]), self.take(sorted(test))

    def _drawn_texts(self, topic: str, rng: random.Random) -> list[int]:
        positions = [at for at, label in enumerate(self.labels) if label == topic]
        _check_divisible(topic, len(positions), "text")
        return rng.sample(positions, max(1, round(TEST_SHARE * len(positions))))

    def _drawn_modules(self, topic: str, rng: random.Random) -> list[int]:
        """Texts of modules drawn until the share is reached; one that would take twice the share is passed over."""
        by_module: dict[str, list[int]] = defaultdict(list)
        for at, label in enumerate(self.labels):
            if label == topic:
                by_module[self.modules[at]].append(at)
        _check_divisible(topic, len(by_module), "module")
        wanted = TEST_SHARE * sum(map(len, by_module.values()))
        drawn: list[int] = []
        order = sorted(by_module)
        rng.shuffle(order)
        for module in order:
            if len(drawn) < wanted and len(drawn) + len(by_module[module]) <= 2 * wanted:
                drawn += by_module[module]
        return drawn or min(by_module.values(), key=len)


def load_corpus() -> Corpus:
    """Docstrings of the running interpreter's standard library, without near-duplicates, in ten topics at most.

    A topic is left out where this interpreter has fewer than two modules of it: no text could be tested on a module
    that others were not learnt from. Some systems package the graphical ones apart. Read from the sources, no module is
    imported; cached under LABKIT_HOME by the interpreter's version.

    Raises:
        Unavailable: the interpreter was installed without its sources.
    """
    topics = paths.data_path("topics", "stdlib.json").read_bytes()
    digest = hashlib.sha256(topics).hexdigest()[:8]
    name = f"stdlib-{sys.implementation.name}-{platform.python_version()}-{digest}-{_VERSION}.json"
    cached = paths.cache_folder() / "corpus" / name
    try:
        return Corpus(**{column: tuple(rows) for column, rows in json.loads(cached.read_bytes()).items()})
    except (OSError, ValueError, TypeError, AttributeError):
        corpus = _read_stdlib(json.loads(topics))
    columns = json.dumps({name: getattr(corpus, name) for name in Corpus.COLUMNS})
    paths.write_whole(cached, lambda path: path.write_text(columns, encoding="utf-8"))
    return corpus


def open_corpus(name: str) -> Corpus:
    """The corpus of a name: `stdlib`, or a file, with its columns where they are not `text` and none.

    `reviews.csv?text=body&label=stars` names columns.

    Raises:
        UsageError: the file cannot be read, or something else than a column's name follows it.
    """
    if name == "stdlib":
        return load_corpus()
    path, _, query = name.partition("?")
    columns = dict(parse_qsl(query, keep_blank_values=True))
    for key in columns:
        if key not in ("text", "label"):
            raise UsageError.unknown(f"column setting of corpus {path!r}", key, ("text", "label"))
    return read_corpus(Path(path), text=columns.get("text", "text"), label=columns.get("label"))


def read_corpus(path: Path, *, text: str = "text", label: str | None = None) -> Corpus:
    """Texts of a CSV, JSON-lines or plain-text file in UTF-8, without near-duplicates; the module is the file.

    Args:
        path: ends in .csv, .jsonl or .txt (one text a line).
        text: the column that holds the texts.
        label: the column that holds their classes; without it all are of the class "".

    Raises:
        UsageError: the file cannot be read, lacks a column, or holds no text.
    """
    documents = []
    for number, row in enumerate(read_rows(path), 1):
        for column in filter(None, (text, label)):
            if column not in row:
                raise UsageError.unknown(f"column in row {number} of {path.name}", column, sorted(row)[:50])
        if cleaned := " ".join(row[text].split()):
            documents.append(Document(cleaned, row[label] if label else "", path.stem, f"row {number}"))
    if not documents:
        raise UsageError(f"corpus {path.name} holds no text; allowed: one text or more")
    return without_duplicates(documents)


def without_duplicates(documents: Sequence[Document]) -> Corpus:
    """The corpus of these documents; of near-duplicates the first stays, so that no split can tear them apart."""
    return Corpus.of([documents[at] for at in distinct([document.text for document in documents])])


def _read_stdlib(topics: dict[str, list[str]]) -> Corpus:
    corpus = without_duplicates(
        [
            Document(text, topic, module, name)
            for topic, modules in topics.items()
            for module in modules
            for name, text in docstrings(module)
        ]
    )
    num_modules = Counter(topic for topic, _ in set(zip(corpus.labels, corpus.modules, strict=True)))
    return corpus.take([at for at, topic in enumerate(corpus.labels) if num_modules[topic] > 1])


def _check_divisible(topic: str, count: int, kind: str) -> None:
    if count < 2:
        raise UsageError(
            f"a split by {kind}s was asked for, class {topic!r} has {count} {kind}; "
            f"allowed: two {kind}s or more of every class; remedy: leave the class out, or bring more of it"
        )
