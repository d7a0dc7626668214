"""The corpus: real docstrings in ten topics, splits that leak nothing, and files of users with their faults named."""

import json
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from labkit.core.errors import UsageError
from labkit.core.paths import data_path
from labkit.text.corpus import Corpus, Document, _read_stdlib, load_corpus, read_corpus, without_duplicates
from labkit.text.docstrings import MIN_CHARACTERS, clean, docstrings
from labkit.text.duplicates import NEAR_DUPLICATE, distinct, jaccard, runs


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def small(*, classes: int = 2, modules: int = 3, texts: int = 5) -> Corpus:
    return Corpus.of(
        [
            Document(f"text {number} of module {module} of class {topic}", f"class {topic}", f"{topic}.{module}", "")
            for topic in range(classes)
            for module in range(modules)
            for number in range(texts)
        ]
    )


def test_the_embedded_corpus_has_thousands_of_texts_in_ten_topics(corpus: Corpus) -> None:
    assert len(corpus) > 3_000
    named = json.loads(data_path("topics", "stdlib.json").read_text())
    assert len(named) == 10
    assert named.keys() - set(corpus.topics) <= {"graphical interfaces"}  # which some systems package apart
    assert min(Counter(corpus.labels).values()) > 100
    assert all(len(text) >= MIN_CHARACTERS and "\n" not in text for text in corpus.texts)


def test_a_topic_of_a_single_module_is_left_out() -> None:
    found = _read_stdlib({"texts": ["textwrap", "shlex"], "tables": ["csv"], "absent": ["no_such_module", "json"]})
    assert found.topics == ("texts",)
    assert set(found.modules) == {"textwrap", "shlex"}


def test_a_module_belongs_to_one_topic(corpus: Corpus) -> None:
    assert len(set(zip(corpus.modules, corpus.labels, strict=True))) == len(set(corpus.modules))


def test_a_text_is_named_after_what_it_documents(corpus: Corpus) -> None:
    at = corpus.names.index("textwrap.dedent")
    assert corpus.texts[at].startswith("Remove any common leading whitespace")
    assert corpus.modules[at] == "textwrap"


def test_the_cached_corpus_is_the_one_that_was_read(corpus: Corpus) -> None:
    assert load_corpus().hash == corpus.hash


def test_a_broken_cache_is_read_anew(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setattr("labkit.text.corpus._read_stdlib", lambda _: small())
    assert load_corpus().hash == small().hash
    (cached,) = tmp_path.rglob("stdlib-*.json")
    cached.write_text("[1]")
    assert load_corpus().hash == small().hash
    assert json.loads(cached.read_text())["texts"]


def test_no_two_texts_are_near_duplicates(corpus: Corpus) -> None:
    sample = [runs(text) for text in corpus.texts[::10]]
    assert all(jaccard(a, b) < NEAR_DUPLICATE for a, b in combinations(sample, 2))


@pytest.mark.parametrize("unseen_modules", [False, True])
def test_nothing_leaks_between_the_parts_of_a_split(corpus: Corpus, unseen_modules: bool) -> None:
    train, test = corpus.split(seed=3, unseen_modules=unseen_modules)
    assert len(train) + len(test) == len(corpus)
    assert set(train.texts).isdisjoint(test.texts)
    known = [runs(text) for text in train.texts]
    for text in test.texts[::40]:
        assert max(jaccard(runs(text), other) for other in known) < NEAR_DUPLICATE
    if unseen_modules:
        assert set(train.modules).isdisjoint(test.modules)


@pytest.mark.parametrize("unseen_modules", [False, True])
def test_every_topic_keeps_its_share(corpus: Corpus, unseen_modules: bool) -> None:
    train, test = corpus.split(unseen_modules=unseen_modules)
    assert train.topics == test.topics == corpus.topics
    whole, part = Counter(corpus.labels), Counter(test.labels)
    assert all(0.02 < part[topic] / whole[topic] < 0.45 for topic in corpus.topics)
    if not unseen_modules:
        assert all(part[topic] == round(0.2 * whole[topic]) for topic in corpus.topics)


def test_a_split_is_drawn_by_its_seed() -> None:
    corpus = small()
    assert corpus.split(seed=1)[1].hash == corpus.split(seed=1)[1].hash
    assert len({corpus.split(seed=seed)[1].hash for seed in range(5)}) > 1


def test_one_class_cannot_be_split() -> None:
    with pytest.raises(UsageError, match=r"all are of one class 'class 0'; allowed: two classes or more"):
        small(classes=1).split()


def test_a_class_of_one_module_cannot_be_split_by_modules() -> None:
    with pytest.raises(UsageError, match="class 'class 0' has 1 module"):
        small(modules=1).split(unseen_modules=True)


def test_near_duplicates_are_dropped_and_their_first_stays() -> None:
    text = "opens the file in binary mode and returns a buffered reader that the caller has to close"
    near, far = text.replace("caller", "user"), "opens a socket and listens for connections on a port of this host"
    assert distinct([text, far, near, text]) == [0, 1]
    assert len(without_duplicates([Document(one, "", "", "") for one in (text, near, far)])) == 2


def test_the_short_cut_to_duplicates_finds_what_all_pairs_find(corpus: Corpus) -> None:
    texts = [*corpus.texts[:150], *(f"{text} indeed" for text in corpus.texts[:150])]
    sets, kept = [runs(text) for text in texts], list[int]()
    for position, one in enumerate(sets):
        if all(jaccard(one, sets[rival]) < NEAR_DUPLICATE for rival in kept):
            kept.append(position)
    assert distinct(texts) == kept


def test_doctests_and_rulers_are_no_prose() -> None:
    assert clean("Adds.\n-----\n>>> add(1)\n... # more\n...\nReturns\n   the sum.") == "Adds. Returns the sum."


def test_a_module_of_another_python_has_no_docstrings() -> None:
    assert list(docstrings("module_of_no_python")) == []


def test_csv_json_lines_and_plain_text_hold_the_same_texts(tmp_path: Path) -> None:
    texts = ["first text, quoted\nover two lines", "second text", "第三篇文章"]
    (tmp_path / "a.csv").write_text(
        "\ufeffbody,topic\n" + "".join(f'"{text}",t{at}\n' for at, text in enumerate(texts)), encoding="utf-8"
    )
    lines = [json.dumps({"body": text, "topic": f"t{at}"}) for at, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "a.txt").write_text("\n\n".join(" ".join(text.split()) for text in texts), encoding="utf-8")
    table = read_corpus(tmp_path / "a.csv", text="body", label="topic")
    objects = read_corpus(tmp_path / "a.jsonl", text="body", label="topic")
    assert table.texts == objects.texts == read_corpus(tmp_path / "a.txt").texts
    assert table.labels == objects.labels == ("t0", "t1", "t2")


BAD_FILES = [
    ("a.csv", b"text\n", "holds no text"),
    ("a.txt", b"", "holds no text"),
    ("a.txt", b" \n\n", "holds no text"),
    ("a.csv", b"one,two\nx,y\n", "unknown column in row 1 of a.csv 'text'; allowed: one, two"),
    ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "unknown column in row 2 of a.jsonl 'text'; allowed: body"),
    ("a.csv", b"text\nfine\ncaf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    ("a.txt", b"fine\n\xff\xfe\n", "line 2: byte 0xff is not UTF-8"),
    ("a.csv", b"text,label\nx\n", "line 2: 1 cells for 2 columns"),
    ("a.csv", b'text\n"open\n', "unexpected end of data"),
    ("a.jsonl", b'{"text": "x"}\n{"text"\n', "line 2: not JSON"),
    ("a.jsonl", b"[1]\n", "line 1: not an object"),
    ("a.xlsx", b"", "unknown kind of corpus 'a.xlsx'; allowed: .csv, .jsonl, .txt"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_refused_with_the_place_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_corpus(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["absent.csv", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        read_corpus(tmp_path / path if path != "." else tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"," * 1_000_000 + b"\n", "has 1,000,001 columns"),
        (b",".join(b"c%d" % number for number in range(1_000_000)) + b"\n", "line 1: longer than"),
        (b"text\n" + b"x" * 100_000_000 + b"\n", "line 2: longer than"),
        (b'text\n"' + b"x" * 999 + b"\n" * 100_000_000 + b'"\n', "field larger than field limit"),
    ],
    ids=["a million empty columns", "a million columns", "a cell of 100 MB", "a cell of 100 MB in many lines"],
)
def test_a_monstrous_csv_is_refused_within_a_second(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    start_s = time.process_time()
    with pytest.raises(UsageError, match=message):
        read_corpus(tmp_path / "a.csv")
    assert time.process_time() - start_s < 1
